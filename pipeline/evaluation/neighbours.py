"""Exact k-nearest neighbours on mixed rows, in blocks of a fixed memory budget.

The distance of two rows is the root of the mean of its parts: the columns (squared "gower2" difference divided by
the number of columns) and one part a code block (Jaccard distance of the codes that are present). No full distance
matrix is ever held, and no index structure is built: at these widths neither trees nor graphs help.
How a cohort becomes `Points` is in `encoding.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

BUDGET_BYTES = 64 * 2**20
SPARE = 8
"""Candidates beyond k that are measured again in float64: float32 products lose near-duplicates by cancellation."""


@dataclass(frozen=True)
class Points:
    """Rows ready for distances.

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

    def take(self, rows: NDArray[np.integer]) -> Points:
        """The given rows."""
        return Points(self.dense[rows], self.columns, tuple(p[rows] for p in self.presence))


@dataclass(frozen=True)
class Neighbours:
    """(n, k) distances, ascending, and the positions of the neighbours. k is less than asked where rows are few."""

    distance: NDArray[np.float64]
    index: NDArray[np.int64]

    def kth(self, k: int) -> NDArray[np.float64]:
        """(n,) distance to the k-th neighbour (1-based), or to the last where there are fewer."""
        return self.distance[:, min(k, self.distance.shape[1]) - 1]


def knn(
    query: Points,
    reference: Points,
    k: int,
    *,
    own: NDArray[np.int64] | None = None,
    budget_bytes: int = BUDGET_BYTES,
    device: str = "cpu",
) -> Neighbours:
    """The k nearest rows of `reference` for each row of `query`.

    Args:
        query: (n) rows.
        reference: (m) rows of the same columns and blocks.
        k: How many neighbours; at most m (m - 1 with `own`) come back.
        own: (n,) where in `reference` each query row itself stands, -1 where it does not: it is no neighbour of
            itself (by position, so that a duplicate of it is one, at distance 0).
        budget_bytes: Memory for one block of distances; the result does not depend on it.
        device: torch device that does the products.

    Returns:
        Distances in float64 (0 for equal rows) and positions; ties are broken by position.
    """
    n, m = len(query), len(reference)
    wanted = min(k, m if own is None else m - 1)
    if wanted <= 0 or n == 0 or query.parts == 0:
        return Neighbours(np.zeros((n, max(wanted, 0))), np.zeros((n, max(wanted, 0)), dtype=np.int64))
    distance = np.empty((n, wanted))
    index = np.empty((n, wanted), dtype=np.int64)
    columns_at_once = max(1, min(m, 16_384))
    rows_at_once = max(1, int(budget_bytes // (4 * columns_at_once)))
    for lo in range(0, n, rows_at_once):
        rows = np.arange(lo, min(lo + rows_at_once, n))
        found: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []
        for start in range(0, m, columns_at_once):
            chunk = np.arange(start, min(start + columns_at_once, m))
            found.append(_block(query, reference, rows, chunk, wanted, None if own is None else own[rows]))
        merged = np.concatenate([d for d, _ in found], axis=1)
        where = np.concatenate([i for _, i in found], axis=1)
        order = np.lexsort((where, merged), axis=1)[:, :wanted]
        distance[rows] = np.sqrt(np.take_along_axis(merged, order, axis=1))
        index[rows] = np.take_along_axis(where, order, axis=1)
    return Neighbours(distance, index)


def _block(
    query: Points,
    reference: Points,
    rows: NDArray[np.int64],
    chunk: NDArray[np.int64],
    k: int,
    own: NDArray[np.int64] | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared mean distances (float64) and positions of up to k + SPARE candidates in one chunk of the reference."""
    total = np.zeros((len(rows), len(chunk)), dtype=np.float32)
    blocks = np.zeros_like(total)
    for left, right in zip(query.presence, reference.presence, strict=True):
        blocks += jaccard(left[rows], right[chunk])
    a, b = query.dense[rows], reference.dense[chunk]
    if query.columns:
        np.matmul(a, b.T, out=total)
        total *= -2.0
        total += np.einsum("ij,ij->i", a, a)[:, None]
        total += np.einsum("ij,ij->i", b, b)[None, :]
        total /= query.columns
    total += blocks
    if own is not None:
        total[own[:, None] == chunk[None, :]] = np.inf
    take = min(k + SPARE, len(chunk))
    near = (
        np.argpartition(total, take - 1, axis=1)[:, :take]
        if take < len(chunk)
        else np.broadcast_to(np.arange(len(chunk)), total.shape).copy()
    )
    exact = np.take_along_axis(blocks, near, axis=1).astype(np.float64)
    if query.columns:
        step = max(1, int(BUDGET_BYTES // (8 * take * max(a.shape[1], 1))))
        for lo in range(0, len(rows), step):
            part = slice(lo, lo + step)
            difference = a[part, None, :].astype(np.float64) - b[near[part]]
            exact[part] += np.einsum("ijk,ijk->ij", difference, difference) / query.columns
    exact /= query.parts
    if own is not None:
        exact[own[:, None] == chunk[near]] = np.inf
    return exact, chunk[near]


def jaccard(left: csr_matrix, right: csr_matrix) -> NDArray[np.float32]:
    """(n, m) Jaccard distances of rows of zeros and ones; two empty rows are at distance 0."""
    a = left.toarray().astype(np.float32, copy=False)
    b = right.toarray().astype(np.float32, copy=False)
    shared = a @ b.T
    union = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - shared
    return np.where(union > 0, 1.0 - shared / np.maximum(union, 1.0), 0.0).astype(np.float32)
