"""Kinds of distance between rows: mixed columns ("gower2" or "gower1"), presence of codes (Jaccard), counts (cosine).

Each kind measures a block of rows against another in float32 on a torch device (fast, for candidates) and given pairs
in float64 (exact, the same everywhere). The search that uses both is in `neighbours.py`, the encoding in `encoding.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.evaluation.row_hashes import content_hashes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

    Picked = NDArray[np.integer] | slice

Distance = Literal["gower2", "gower1", "cosine"]
ROUNDING = 2.0**-23
"""Relative error of a float32 operation, doubled."""
DENSE_SHARE = 0.1
"""Share of cells that are not zero beyond which products of code blocks are faster dense."""
PAIRS_AT_ONCE = 65_536
ROWS_IN_CACHE = 16
"""Rows that differences are added up for at once: with thousands of columns a row they stay near the processor."""


@dataclass(frozen=True)
class Loaded:
    """(m) rows on a device, as the reference that others are measured against.

    Attributes:
        columns: (features, m) of the columns; what they are is known to the kind of rows.
        codes: (codes, m) of each block.
        sizes: (m,) of each block, how many codes each row has.
    """

    columns: Tensor
    codes: tuple[Tensor, ...]
    sizes: tuple[Tensor, ...]


class Rows(ABC):
    """(n) rows ready for one kind of distance. All rows of a search are of one kind, columns and blocks."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def parts(self) -> int:
        """How many parts the distance is the mean of; 0 where there is nothing to measure."""

    @abstractmethod
    def take(self, rows: Picked) -> Self:
        """The given rows."""

    @abstractmethod
    def hashes(self) -> NDArray[np.uint64]:
        """(n,) equal for equal rows."""

    @abstractmethod
    def loaded(self, device: str) -> Loaded:
        """The rows on the device."""

    @abstractmethod
    def against(self, reference: Loaded, device: str) -> Tensor:
        """(n, m) float32 on the device: `exact` up to `slack`."""

    @abstractmethod
    def exact(self, reference: Self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
        """(pairs,) the sum of the parts for rows `left` of these and `right` of the reference, at least 0."""

    @abstractmethod
    def slack(self, reference: Self) -> float:
        """How far `against` may lie from `exact`, for any two rows."""

    @abstractmethod
    def length(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distances from what `exact` gives."""


@dataclass(frozen=True)
class Points(Rows):
    """Mixed rows: the root of the mean over columns ("gower2": squared differences) and code blocks (Jaccard).

    The columns together are one part, and each block is one.

    Attributes:
        dense: (n, p) float32; squared Euclidean distance / `columns` is the columns' part, in [0, 1].
        columns: Number of columns that `dense` stands for.
        presence: One (n, codes) CSR matrix of zeros and ones for each code block.
    """

    dense: NDArray[np.float32]
    columns: int
    presence: tuple[csr_matrix, ...] = ()

    def __len__(self) -> int:
        return int(self.dense.shape[0])

    @property
    def parts(self) -> int:
        """How many parts the distance is the mean of."""
        return (1 if self.columns else 0) + len(self.presence)

    def take(self, rows: Picked) -> Self:
        """The given rows."""
        return replace(self, dense=self.dense[rows], presence=tuple(p[rows] for p in self.presence))

    def hashes(self) -> NDArray[np.uint64]:
        """(n,) equal for equal rows."""
        return content_hashes(self.dense, self.presence)

    def loaded(self, device: str) -> Loaded:
        """The rows on the device."""
        return Loaded(self._loaded_columns(device), *_loaded_codes(self.presence, device))

    def against(self, reference: Loaded, device: str) -> Tensor:
        """(n, m) float32: |a|² + |b|² - 2ab over the columns, Jaccard from products of zeros and ones."""
        total = self._columns_against(reference.columns, device)
        for block, codes, sizes in zip(self.presence, reference.codes, reference.sizes, strict=True):
            shared = _products(block, codes, device)
            own = _tensor(_sizes(block), device)
            union = (own[:, None] + sizes).sub_(shared)
            _both_empty((shared, union), own, sizes)
            # 1 - shared / union; the 1 is in the columns' part already.
            total.addcdiv_(shared, union, value=-1.0)
        return total

    def _loaded_columns(self, device: str) -> Tensor:
        """(p + 2, m): with two more rows one product gives the squares and what is the same for every pair as well."""
        squares = np.einsum("ij,ij->i", self.dense, self.dense) / max(self.columns, 1) + len(self.presence)
        return _tensor(np.vstack([self.dense.T, np.ones_like(squares), squares]), device)

    def _columns_against(self, columns: Tensor, device: str) -> Tensor:
        scale = max(self.columns, 1)
        squares = np.einsum("ij,ij->i", self.dense, self.dense) / scale
        own = np.column_stack([self.dense * np.float32(-2.0 / scale), squares, np.ones_like(squares)])
        return _tensor(own, device) @ columns

    def exact(self, reference: Self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
        """(pairs,) the sum of the parts."""
        total = np.zeros(len(left))
        for lo in range(0, len(left), PAIRS_AT_ONCE):
            a, b = left[lo : lo + PAIRS_AT_ONCE], right[lo : lo + PAIRS_AT_ONCE]
            total[lo : lo + PAIRS_AT_ONCE] = self._columns_exact(reference, a, b) + sum(
                self._codes_exact(p[a], q[b]) for p, q in zip(self.presence, reference.presence, strict=True)
            )
        return total

    def _columns_exact(self, reference: Self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
        difference = self.dense[left].astype(np.float64) - reference.dense[right]
        return np.einsum("ij,ij->i", difference, difference) / max(self.columns, 1)

    def _codes_exact(self, left: csr_matrix, right: csr_matrix) -> NDArray[np.float64]:
        return _jaccard_pairs(left, right)

    def slack(self, reference: Self) -> float:
        """Rounding of the products, of the quotients that Jaccard distances are, and of their sum."""
        norm = max(float(np.einsum("ij,ij->i", x, x).max(initial=0.0)) for x in (self.dense, reference.dense))
        terms = self.dense.shape[1] + 8
        return ROUNDING * (2 * terms * norm / max(self.columns, 1) + 2 * len(self.presence) * self.parts)

    def length(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """The root of the mean of the parts."""
        return np.sqrt(total / self.parts)


@dataclass(frozen=True)
class CityPoints(Points):
    """Mixed rows under Gower's own distance ("gower1"): the mean over columns of plain differences, and code blocks.

    Attributes:
        dense: (n, columns) float32, one value a column: numbers and ordinal levels in [0, 1], nominal levels as whole
            numbers, and missing as a number at least 1 away from every value. A column's difference is cut at 1, so
            that other levels, and missing beside present, differ by 1.
        levels: Levels of nominal columns, which are whole numbers from -2, so that one product tells in how many of
            them two rows agree; 0 for the others (all if empty).

    Source: Gower 1971, with missing as a state of its own instead of left out.
    """

    levels: tuple[int, ...] = ()

    def _loaded_columns(self, device: str) -> Tensor:
        """(plain columns, then one line for each level of the others; m)."""
        return _tensor(np.vstack([self.dense[:, self._plain].T, self._hot().T]), device)

    @property
    def _plain(self) -> list[int]:
        return [j for j in range(self.dense.shape[1]) if not self.levels or not self.levels[j]]

    def _hot(self) -> NDArray[np.float32]:
        """(n, levels of all nominal columns, two more for each) a 1 for each column's level."""
        found = np.zeros((len(self), sum(many + 2 for many in self.levels if many)), dtype=np.float32)
        start = 0
        for j, many in enumerate(self.levels):
            if many:
                found[np.arange(len(self)), start + 2 + self.dense[:, j].astype(np.int64)] = 1.0
                start += many + 2
        return found

    def _columns_against(self, columns: Tensor, device: str) -> Tensor:
        import torch

        dense = _tensor(self.dense[:, self._plain], device)
        cut = (_outside(dense.T) | _outside(columns[: dense.shape[1]])).tolist()
        total = _tensor(self._hot(), device) @ columns[dense.shape[1] :]
        space = torch.empty((min(ROWS_IN_CACHE, len(dense)), columns.shape[1]), device=device)
        for lo in range(0, len(dense), ROWS_IN_CACHE):
            rows = total[lo : lo + ROWS_IN_CACHE]
            rows.neg_().add_(sum(many > 0 for many in self.levels))
            difference = space[: len(rows)]
            for j in range(dense.shape[1]):
                torch.sub(dense[lo : lo + ROWS_IN_CACHE, j, None], columns[None, j], out=difference).abs_()
                rows += difference.clamp_(max=1.0) if cut[j] else difference
            rows.div_(max(self.columns, 1)).add_(len(self.presence))
        return total

    def _columns_exact(self, reference: Self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
        difference = np.abs(self.dense[left].astype(np.float64) - reference.dense[right])
        return np.minimum(difference, 1.0).sum(axis=1) / max(self.columns, 1)

    def slack(self, reference: Self) -> float:
        """Rounding of a sum of as many terms as there are columns, and of what is added to it."""
        return ROUNDING * (self.columns + 2 * len(self.presence) * self.parts)

    def length(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of the parts."""
        return total / self.parts


@dataclass(frozen=True)
class EuclidPoints(Points):
    """Mixed rows under the plain Euclidean distance: squared differences of columns, and 1 for each code that differs."""

    parts = 1

    def against(self, reference: Loaded, device: str) -> Tensor:
        """(n, m) float32: squares, and |a| + |b| - 2ab of zeros and ones."""
        total = self._columns_against(reference.columns, device)
        for block, codes, sizes in zip(self.presence, reference.codes, reference.sizes, strict=True):
            own = _tensor(_sizes(block), device)[:, None] - 1.0  # what Jaccard distances start from
            total.add_(_products(block, codes, device), alpha=-2.0).add_(sizes).add_(own)
        return total

    def _codes_exact(self, left: csr_matrix, right: csr_matrix) -> NDArray[np.float64]:
        return _sizes(left).astype(np.float64) + _sizes(right) - 2 * _pair_products(left, right)

    def slack(self, reference: Self) -> float:
        """Rounding of the columns' products, and of sums with numbers of codes in them."""
        most = sum(float(_sizes(p).max(initial=0.0)) for p in (*self.presence, *reference.presence))
        return super().slack(reference) + 8 * ROUNDING * (most + len(self.presence))


@dataclass(frozen=True)
class Counts(Rows):
    """Rows of counts under the cosine distance; two empty rows are at distance 0, an empty and another one at 1.

    Attributes:
        unit: (n, codes) float64 CSR matrix, rows scaled to length 1; see `counts_of`.
    """

    unit: csr_matrix

    def __len__(self) -> int:
        return int(self.unit.shape[0])

    @property
    def parts(self) -> int:
        """1, or 0 where there is no code."""
        return 1 if self.unit.shape[1] else 0

    def take(self, rows: Picked) -> Self:
        """The given rows."""
        return type(self)(self.unit[rows])

    def hashes(self) -> NDArray[np.uint64]:
        """(n,) equal for equal rows."""
        return content_hashes(np.zeros((len(self), 0), dtype=np.float32), (self.unit,))

    def loaded(self, device: str) -> Loaded:
        """The rows on the device."""
        return Loaded(_tensor(np.zeros((0, len(self))), device), *_loaded_codes((self.unit,), device))

    def against(self, reference: Loaded, device: str) -> Tensor:
        """(n, m) float32: 1 - cosine."""
        cosine = _products(self.unit, reference.codes[0], device)
        _both_empty((cosine,), _tensor(_sizes(self.unit), device), reference.sizes[0])
        return cosine.neg_().add_(1.0)

    def exact(self, reference: Self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
        """(pairs,) 1 - cosine; 0 for rows that are equal up to a factor (what rounding leaves of it is cut off)."""
        cosine = np.concatenate(
            [
                _pair_products(self.unit[left[lo : lo + PAIRS_AT_ONCE]], reference.unit[right[lo : lo + PAIRS_AT_ONCE]])
                for lo in range(0, len(left), PAIRS_AT_ONCE)
            ]
            or [np.zeros(0)]
        )
        cosine[(_sizes(self.unit)[left] == 0) & (_sizes(reference.unit)[right] == 0)] = 1.0
        return np.where(cosine > 1.0 - 1e-14, 0.0, 1.0 - cosine)

    def slack(self, reference: Self) -> float:
        """Rounding of a product of as many terms as a row has codes."""
        return ROUNDING * (float(max(_sizes(x.unit).max(initial=0.0) for x in (self, reference))) + 8)

    def length(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distance itself."""
        return total


def counts_of(blocks: Iterable[csr_matrix]) -> Counts:
    """Rows of counts from code blocks of the same rows, side by side; a count that is no number counts as 0."""
    from scipy.sparse import csr_matrix, hstack

    unit = csr_matrix(hstack(list(blocks), format="csr"), dtype=np.float64)
    unit.data = np.nan_to_num(unit.data, nan=0.0, posinf=0.0, neginf=0.0)
    unit.eliminate_zeros()
    norms = np.sqrt(np.bincount(_row_of(unit), weights=unit.data**2, minlength=unit.shape[0]))
    unit.data = unit.data / norms[_row_of(unit)]
    return Counts(unit)


def jaccard(left: csr_matrix, right: csr_matrix) -> NDArray[np.float32]:
    """(n, m) Jaccard distances of rows of zeros and ones; two empty rows are at distance 0. For small matrices."""
    a = left.toarray().astype(np.float32, copy=False)
    b = right.toarray().astype(np.float32, copy=False)
    shared = a @ b.T
    union = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - shared
    return np.where(union > 0, 1.0 - shared / np.maximum(union, 1.0), 0.0).astype(np.float32)


def _outside(columns: Tensor) -> Tensor:
    """(p,) which of (p, m) columns have a value outside [0, 1]: only those can differ by more than 1."""
    return ((columns < 0) | (columns > 1)).any(dim=1)


def _tensor(array: NDArray[np.floating], device: str) -> Tensor:
    import torch

    return torch.as_tensor(np.ascontiguousarray(array, dtype=np.float32)).to(device)


def _loaded_codes(blocks: tuple[csr_matrix, ...], device: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Each block transposed and dense, (codes, m), and how many codes each row has."""
    codes = tuple(_tensor(b.T.toarray(order="C"), device) for b in blocks)
    return codes, tuple(_tensor(_sizes(b), device) for b in blocks)


def _products(rows: csr_matrix, codes: Tensor, device: str) -> Tensor:
    """(n, m) inner products of sparse rows with the columns of (codes, m)."""
    import torch

    if rows.nnz > DENSE_SHARE * rows.shape[0] * rows.shape[1]:
        return _tensor(rows.toarray(), device) @ codes
    place = torch.as_tensor(np.stack([_row_of(rows), rows.indices.astype(np.int64)]))
    values = torch.as_tensor(rows.data.astype(np.float32))
    left = torch.sparse_coo_tensor(place, values, rows.shape, is_coalesced=True, check_invariants=False).to(device)
    return torch.sparse.mm(left, codes)


def _both_empty(matrices: tuple[Tensor, ...], left: Tensor, right: Tensor) -> None:
    """Sets the matrices to 1 for pairs of empty rows, in place: they are alike."""
    a, b = (left == 0).nonzero().ravel(), (right == 0).nonzero().ravel()
    if len(a) and len(b):
        for matrix in matrices:
            matrix[a[:, None], b[None, :]] = 1.0


def _row_of(matrix: csr_matrix) -> NDArray[np.int64]:
    """(nnz,) row of each stored cell."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _sizes(matrix: csr_matrix) -> NDArray[np.float32]:
    """(n,) stored cells of each row."""
    return np.diff(matrix.indptr).astype(np.float32)


def _pair_products(left: csr_matrix, right: csr_matrix) -> NDArray[np.float64]:
    """(n,) inner products of the rows of two matrices, pair by pair."""
    return np.asarray(left.multiply(right).sum(axis=1, dtype=np.float64)).ravel()


def _jaccard_pairs(left: csr_matrix, right: csr_matrix) -> NDArray[np.float64]:
    """(n,) Jaccard distances of the rows of two matrices of zeros and ones, pair by pair."""
    shared = _pair_products(left, right)
    union = np.diff(left.indptr) + np.diff(right.indptr) - shared
    return np.where(union > 0, 1.0 - shared / np.maximum(union, 1.0), 0.0)
