"""SMOTE: every row lies between a training row and one of its nearest neighbours (a control that must fail privacy).

The rows look new, since hardly any equals a training row, and fidelity is among the best that can be had; but each of
them stands beside the people it was made of, which distances and membership inference must see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from pipeline.features.cohort import Cohort, assemble
from pipeline.features.resolution import on_grid
from pipeline.generators.stored_rows import StoredRows
from pipeline.generators.tabular import Learned, TabularConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.schema import Column
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed


class SmoteConfig(TabularConfig):
    """Settings of SMOTE."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}, "paper": {}, "quick": {}}

    neighbours: int = Field(
        default=5, ge=1, le=100, description="Nearest rows among which the second parent is chosen (Chawla 2002: 5)."
    )


class Smote(StoredRows):
    """Interpolates between a training row and one of its k nearest (Chawla et al. 2002). Never to be published.

    Numbers: x + u (y - x) with u uniform, set on the column's grid. Levels, missing cells and codes that the two rows
    do not share come from the neighbour with probability u, so that margins are kept (SMOTE-NC takes the commonest
    level of the neighbours instead, which loses minorities). So does a number that one of the two shares with more
    than 5 % of all rows (a zero cost): half of it would be no cost that anybody has.
    """

    name = "smote"
    title = "SMOTE: interpolation between neighbouring training rows (planted privacy failure)"
    Config = SmoteConfig
    config: SmoteConfig
    kinds = ("numpy", "scikitlearn")
    code_version = "2"
    _near: NDArray[np.int32]

    def _learn(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        progress: Progress | None,
    ) -> Learned:
        numbers = self._keep(encoder, cohort)
        self._near = self._neighbours(encoder)
        if progress is not None:
            progress(1, 1, {})
        return Learned(
            parameters=numbers + int(self._near.size),
            warnings=["Interpolates between training rows that are alike: never publish what it draws."],
        )

    def _neighbours(self, encoder: TableEncoder) -> NDArray[np.int32]:
        """(n, k) positions of the nearest other rows by Euclidean distance; k is less where rows are few.

        Numbers and ordinal positions in standard deviations (missing at the mean, and told by an indicator), other
        levels as indicators so that a mismatch counts one standard deviation, codes so that two rows that share none
        of an average number of codes are one apart.
        """
        from sklearn.neighbors import NearestNeighbors

        found = NearestNeighbors(n_neighbors=min(self.config.neighbours + 1, self._rows), algorithm="brute")
        points = self._points(encoder)
        near = found.fit(points).kneighbors(points, return_distance=False)
        own = near == np.arange(self._rows)[:, None]
        # A row with many duplicates may not be among its own nearest: the last of them is dropped in its place.
        own[~own.any(axis=1), -1] = True
        return near[~own].reshape(self._rows, -1).astype(np.int32)

    def _points(self, encoder: TableEncoder) -> csr_matrix | NDArray[np.float32]:
        from scipy.sparse import csr_matrix, hstack

        parts: list[NDArray[np.float32]] = []
        sparse: list[csr_matrix] = []
        kinds = {c.name: c.kind for c in encoder.schema.columns}
        for name, values in self._cells.items():
            gone = np.isnan(values) if name in encoder.numbers else values < 0
            if kinds[name] == "categorical" and values.max(initial=0) >= MANY_LEVELS:
                there = np.flatnonzero(~gone)
                shape = (self._rows, int(values.max()) + 1)
                marks = (np.full(len(there), np.sqrt(0.5)), (there, values[there]))
                sparse.append(csr_matrix(marks, shape=shape, dtype=np.float32))
                parts.append((gone[:, None] * np.sqrt(0.5)).astype(np.float32))
                continue
            if kinds[name] == "categorical":
                hot = values[:, None] == np.arange(int(values.max(initial=0)) + 1)
                parts.append((np.column_stack([hot, gone]) * np.sqrt(0.5)).astype(np.float32))
                continue
            known = values[~gone].astype(np.float64)
            spread = float(known.std()) if len(known) else 0.0
            scaled = np.where(gone, 0.0, (values - (known.mean() if len(known) else 0.0)) / (spread or 1.0))
            parts.append(np.column_stack([scaled, gone]).astype(np.float32))
        dense = np.concatenate(parts, axis=1) if parts else np.zeros((self._rows, 0), dtype=np.float32)
        if not self._blocks and not sparse:
            return dense
        for matrix in self._blocks.values():
            present = csr_matrix(matrix, dtype=np.float32, copy=True)
            present.data[:] = np.sqrt(0.5 / max(present.nnz / self._rows, 1.0))
            sparse.append(present)
        return csr_matrix(hstack([csr_matrix(dense), *sparse], format="csr"))

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        first = self._choose(n, rng, fixed)
        width = self._near.shape[1]
        second = self._near[first, rng.integers(0, width, n)] if width else first
        share = rng.random(n)
        cells = {}
        for column in encoder.schema.modelled():
            a, b = self._cells[column.name][first], self._cells[column.name][second]
            other = rng.random(n) < share
            if column.discrete:
                cells[column.name] = np.where(other, b, a)
                continue
            whole = self._cells[column.name]
            apart = np.isnan(a) | np.isnan(b) | _spiked(whole, a) | _spiked(whole, b)
            cells[column.name] = np.where(apart, np.where(other, b, a), _between(a, b, share, column))
        blocks = {name: _mixed(m[first], m[second], share, rng) for name, m in self._blocks.items()}
        made = assemble(encoder.schema, {**cells, **fixed.codes, **fixed.values}, blocks=blocks)
        return encoder.encode(made, rng)

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors, extra = super()._state()
        return {**tensors, "near": self._near}, extra

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        super()._restore(encoder, tensors, extra)
        self._near = tensors["near"]


MANY_LEVELS = 256
"""Levels of a column from which on their indicators are kept sparse."""
SPIKE = 0.05
"""Share of the rows beyond which a number is a state rather than a quantity."""


def _spiked(values: NDArray[np.float64], chosen: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) Is the chosen number one that more than SPIKE of all values are?"""
    distinct, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    return np.isin(chosen, distinct[counts > SPIKE * len(values)])


def _between(
    a: NDArray[np.float64], b: NDArray[np.float64], share: NDArray[np.float64], column: Column
) -> NDArray[np.float64]:
    """(n,) a + share (b - a) on the column's grid."""
    value = on_grid(a + share * (b - a), column.resolution)
    if column.resolution is not None and column.resolution.kind == "atoms":
        # No formula for the grid: the nearer parent's own value is an atom.
        value = np.where(share < 0.5, a, b)
    if column.dtype.startswith("int"):
        value = np.round(value)
    return value


def _mixed(a: csr_matrix, b: csr_matrix, share: NDArray[np.float64], rng: np.random.Generator) -> csr_matrix:
    """(n, codes): each code of either row with the chance that its row contributes; shared codes of equal count stay."""
    from scipy.sparse import csr_matrix

    left, right = csr_matrix(a, dtype=np.float64), csr_matrix(b, dtype=np.float64)
    step = csr_matrix(right - left)
    step.eliminate_zeros()
    rows = np.repeat(np.arange(step.shape[0]), np.diff(step.indptr))
    # Moving the whole step or none of it keeps every count one that a parent has.
    step.data *= rng.random(step.nnz) < share[rows]
    made = csr_matrix(left + step)
    made.eliminate_zeros()
    return made.astype(a.dtype)
