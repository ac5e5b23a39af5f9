"""Features for linear models and correlations: centred, scaled, dense, fitted on given rows of one side.

Features for boosting are `Side.tree_features`; what distances see is `Side.points`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.cells import MISSING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.encoding import Side

FEWEST_CARRIERS = 0.01
"""A 0/1 column of a level or a mask counts if its share of ones in the fitting rows lies this far from 0 and 1."""


class LinearDesign:
    """Features for linear models and correlations, fitted on given rows of one side.

    Numbers, binary and ordinal columns: centred and scaled, the mean where missing, and a 0/1 mask column where
    between 1 and 99 % of the fitting rows are missing. Nominal columns: one 0/1 column a level (and for missing)
    that at least 1 % of the fitting rows carry. Code blocks: presence of the kept codes. What is no level counts
    as none of them. Columns without spread in the fitting rows are left out.

    Args:
        side: Rows to fit on.
        rows: Which of them; all if None.
        drop: Columns or blocks that are left out.

    Attributes:
        names: (p) feature names: "column", "column = level", "column missing", "block/position of the code".
        groups: (p) the column or code that each feature comes from.
        mean: (p,) of the fitting rows.
        std: (p,) of the fitting rows.
    """

    def __init__(self, side: Side, rows: NDArray[np.int64] | None = None, *, drop: Sequence[str] = ()) -> None:
        self.drop = frozenset(drop)
        self.names: list[str] = []
        self.groups: list[str] = []
        means: list[float] = []
        spreads: list[float] = []
        self._kept: list[bool] = []
        for values, name, group, is_share in self._columns(side):
            present = values if rows is None else values[rows]
            present = present[~np.isnan(present)]
            mean = float(present.sum() / max(len(present), 1))
            spread = float(((present - mean) ** 2).sum() / max(len(present), 1))
            share = mean if is_share else 0.5
            kept = _varies(spread, mean) and FEWEST_CARRIERS <= share <= 1 - FEWEST_CARRIERS
            self._kept.append(kept)
            if kept:
                self.names.append(name)
                self.groups.append(group)
                means.append(mean)
                spreads.append(spread)
        self._codes: dict[str, NDArray[np.int64]] = {}
        for block, matrix in side.presence.items():
            if block in self.drop:
                continue
            codes = side.encoder.kept_codes[block]
            chosen = (matrix if rows is None else matrix[rows])[:, codes]
            shares = np.asarray(chosen.sum(axis=0, dtype=np.float64)).ravel() / max(chosen.shape[0], 1)
            varied = np.flatnonzero([_varies(p * (1 - p), p) for p in shares])
            self._codes[block] = codes[varied]
            self.names += [f"{block}/{i}" for i in codes[varied]]
            self.groups += [f"{block}/{i}" for i in codes[varied]]
            means += shares[varied].tolist()
            spreads += (shares[varied] * (1 - shares[varied])).tolist()
        self.mean: NDArray[np.float64] = np.array(means, dtype=np.float64)
        self.std: NDArray[np.float64] = np.sqrt(np.array(spreads, dtype=np.float64))

    def transform(self, side: Side, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """(n, p) float32 features of another side (or of some of its rows), missing cells at the fitted mean, i.e. 0."""
        n = len(side) if rows is None else len(rows)
        made = np.empty((n, len(self.names)), dtype=np.float32)
        at = 0
        for kept, (values, *_) in zip(self._kept, self._columns(side), strict=True):
            if kept:
                chosen = values if rows is None else values[rows]
                made[:, at] = np.nan_to_num((chosen - self.mean[at]) / self.std[at], nan=0.0)
                at += 1
        for block, codes in self._codes.items():
            matrix = side.presence[block]
            cells = (matrix if rows is None else matrix[rows])[:, codes].tocoo()
            mean, std = self.mean[at : at + len(codes)], self.std[at : at + len(codes)]
            made[:, at : at + len(codes)] = -mean / std
            made[cells.row, at + cells.col] = ((1.0 - mean) / std)[cells.col]
            at += len(codes)
        return made

    def _columns(self, side: Side) -> Iterator[tuple[NDArray[np.float64], str, str, bool]]:
        """(values with NaN where missing, feature, column, whether it is a 0/1 share) of every column's features."""
        for column in side.encoder.columns:
            if column.name in self.drop:
                continue
            if column.kind == "categorical":
                code = side.codes[column.name]
                for i, level in enumerate(column.levels or []):
                    yield (code == i).astype(np.float64), f"{column.name} = {level}", column.name, True
                yield (code == MISSING).astype(np.float64), f"{column.name} missing", column.name, True
                continue
            if column.discrete:
                code = side.codes[column.name]
                value = np.where(code >= 0, code, np.nan).astype(np.float64)
            else:
                value = side.values[column.name]
            yield value, column.name, column.name, False
            yield np.isnan(value).astype(np.float64), f"{column.name} missing", column.name, True


def _varies(spread: float, mean: float) -> bool:
    """Is a variance more than what rounding leaves of a constant?"""
    return spread > 1e-24 * max(1.0, mean**2)
