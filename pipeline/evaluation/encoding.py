"""How metrics see rows: every representation is fitted on the training part only, frozen, and applied to all sides.

`MetricEncoder` holds what was learned from T (scales, bins, atoms, kept codes); `Side` is one cohort seen through
it, with lazily made representations: level codes and values, row hashes, bins, distances' points, tree features
(those for linear models are in `linear_design.py`).
Columns are taken in name order and rows in the order of their hash, so that no metric depends on either order.
The encoders of the generators are elsewhere (`pipeline.encoding`): metrics must not depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import InputError
from pipeline.evaluation.cells import MISSING, UNSEEN, aligned, discrete_codes, finite, numeric_rule, widest
from pipeline.evaluation.distances import CityPoints, Counts, Points, counts_of
from pipeline.evaluation.row_hashes import row_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.evaluation.distances import Distance, Rows
    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column, TableSchema

FEWEST_VALUES = 20
"""Values that a feature needs to be offered to boosting: its smallest leaf."""
GAP = 0.75**0.5
"""Length of the missing indicator: with a fill of 1/2, missing and present differ by 3/4 to 1 (squared)."""


class MetricEncoder:
    """Everything that is learned from the training part.

    Args:
        train: The training part; its schema is the one that all sides are read with.
    """

    def __init__(self, train: Cohort) -> None:
        self.schema: TableSchema = train.schema
        self.columns: list[Column] = sorted(train.schema.modelled(), key=lambda c: c.name)
        self.blocks = sorted(train.schema.blocks, key=lambda b: b.name)
        self.numeric = {c.name: numeric_rule(finite(train, c)) for c in self.columns if c.numeric}
        self.kept_codes = {b.name: widest(train.blocks[b.name]) for b in self.blocks}

    def side(self, cohort: Cohort) -> Side:
        """The cohort through this encoder; raises `InputError` where it lacks a column or block of T."""
        for kind, wanted, given in (
            ("column", [c.name for c in self.columns], cohort.table.column_names),
            ("code block", [b.name for b in self.blocks], list(cohort.blocks)),
        ):
            lacking = [name for name in wanted if name not in given]
            if lacking:
                raise InputError(
                    f"The rows lack the {kind} '{lacking[0]}' of the training rows"
                    + (f" (and {len(lacking) - 1} more)." if len(lacking) > 1 else "."),
                    todo="Evaluate rows in exactly the training schema.",
                )
        return Side(self, cohort)


class Side:
    """One cohort through a `MetricEncoder`, rows in canonical order (by hash, then subject)."""

    def __init__(self, encoder: MetricEncoder, cohort: Cohort) -> None:
        self.encoder = encoder
        codes = {c.name: discrete_codes(cohort, c) for c in encoder.columns if c.discrete}
        values = {c.name: encoder.numeric[c.name].cut(finite(cohort, c)) for c in encoder.columns if c.numeric}
        presence = {b.name: aligned(cohort, b.name, b.vocabulary) for b in encoder.blocks}
        hashes = row_hashes(encoder.columns, codes, values, presence, cohort.n_rows)
        self.order: NDArray[np.int64] = np.lexsort((cohort.subject, hashes))
        self.cohort = cohort
        self.codes = {name: array[self.order] for name, array in codes.items()}
        self.values = {name: array[self.order] for name, array in values.items()}
        self.counts: dict[str, csr_matrix] = {name: matrix[self.order] for name, matrix in presence.items()}
        self.hashes: NDArray[np.uint64] = hashes[self.order]
        self.clusters: NDArray[np.int64] = np.unique(cohort.subject[self.order], return_inverse=True)[1]

    def __len__(self) -> int:
        return len(self.hashes)

    @cached_property
    def presence(self) -> dict[str, csr_matrix]:
        """Zeros and ones of each code block, float32 CSR."""
        made = {}
        for name, matrix in self.counts.items():
            ones = matrix.astype(np.float32, copy=True)
            ones.data[:] = 1.0
            made[name] = ones
        return made

    @cached_property
    def points(self) -> Points:
        """The rows ready for distances: scaled numbers, one-hot levels, presence of codes."""
        parts: list[NDArray[np.float32]] = []
        for column in self.encoder.columns:
            if column.discrete:
                levels = len(column.levels or [])
                if column.kind == "ordinal" and levels > 1:
                    known = self.codes[column.name] >= 0
                    parts.append(_scaled(np.where(known, self.codes[column.name] / (levels - 1), 0.5), ~known))
                else:
                    parts.append(_one_hot(self.codes[column.name], levels) * np.float32(0.5**0.5))
            else:
                unit, missing = self._unit(column)
                parts.append(_scaled(np.where(missing, 0.5, unit), missing))
        dense = np.concatenate(parts, axis=1) if parts else np.zeros((len(self), 0), dtype=np.float32)
        return Points(np.ascontiguousarray(dense), len(self.encoder.columns), tuple(self.presence.values()))

    @cached_property
    def city_points(self) -> CityPoints:
        """The rows ready for Gower's own distance: one value a column, see `CityPoints`."""
        dense = np.empty((len(self), len(self.encoder.columns)), dtype=np.float32)
        nominal = [0] * len(self.encoder.columns)
        for j, column in enumerate(self.encoder.columns):
            if column.discrete:
                code, levels = self.codes[column.name], len(column.levels or [])
                as_number = column.kind == "ordinal" and levels > 1
                dense[:, j] = np.where(code >= 0, code / (levels - 1), 2.0) if as_number else code
                nominal[j] = 0 if as_number else levels
            else:
                unit, missing = self._unit(column)
                dense[:, j] = np.where(missing, 2.0, unit)
        return CityPoints(dense, len(self.encoder.columns), tuple(self.presence.values()), tuple(nominal))

    @cached_property
    def count_rows(self) -> Counts:
        """The rows' counts of all code blocks side by side, ready for the cosine distance."""
        from scipy.sparse import csr_matrix

        return counts_of(self.counts.values() if self.counts else [csr_matrix((len(self), 0))])

    def rows_for(self, distance: Distance) -> Rows:
        """The rows ready for a distance: "gower2" (the default everywhere), "gower1" or "cosine" (code blocks alone)."""
        return {"gower2": lambda: self.points, "gower1": lambda: self.city_points, "cosine": lambda: self.count_rows}[
            distance
        ]()

    def _unit(self, column: Column) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(n,) a numeric column on T's 0.5-99.5 % range as [0, 1], cut there, and where it is missing."""
        rule = self.encoder.numeric[column.name]
        value = self.values[column.name]
        missing = np.isnan(value)
        return np.clip((np.where(missing, rule.lo, value) - rule.lo) / (rule.hi - rule.lo), 0.0, 1.0), missing

    def bins(self, column: Column) -> tuple[NDArray[np.int64], int]:
        """(n,) bin numbers and how many bins there are.

        Numbers: 20 quantile bins of T with open ends, values holding more than 5 % of T in bins of their own, one
        for missing. Levels: one each, one for missing, one for what is no level.
        """
        if column.discrete:
            levels = len(column.levels or [])
            code = self.codes[column.name]
            return np.where(code >= 0, code, levels + (-1 - code)), levels + 2
        rule = self.encoder.numeric[column.name]
        value = self.values[column.name]
        missing = np.isnan(value)
        filled = np.where(missing, 0.0, value)
        number = len(rule.atoms) + np.searchsorted(rule.edges, filled, side="right")
        if len(rule.atoms):
            near = np.minimum(np.searchsorted(rule.atoms, filled), len(rule.atoms) - 1)
            number = np.where(rule.atoms[near] == filled, near, number)
        total = len(rule.atoms) + len(rule.edges) + 1
        return np.where(missing, total, number), total + 1

    def tree_features(self, drop: Sequence[str] = (), rows: NDArray[np.int64] | None = None) -> TreeFeatures:
        """Features for gradient boosting: numbers as they are, levels as numbers, the kept codes as 0/1.

        Args:
            drop: Columns or blocks that are left out (a task's label and leak list).
            rows: Positions of the rows wanted; all if None (of a wide table that is 80 MB at 50,000 rows).
        """
        picked = slice(None) if rows is None else rows
        names: list[str] = []
        groups: list[str] = []
        nominal: list[bool] = []
        columns = [c for c in self.encoder.columns if c.name not in drop]
        blocks = {name: self.encoder.kept_codes[name] for name in self.presence if name not in drop}
        n = len(self) if rows is None else len(rows)
        matrix = np.empty((n, len(columns) + sum(len(kept) for kept in blocks.values())))
        for column in columns:
            if column.discrete:
                levels = len(column.levels or [])
                code = self.codes[column.name].astype(np.float64)
                is_nominal = column.kind == "categorical" and levels < 255
                value = np.where(code == MISSING, np.nan, np.where(code == UNSEEN, levels, code))
            else:
                value, is_nominal = self.values[column.name], False
            matrix[:, len(names)] = value[picked]
            names.append(column.name)
            groups.append(column.name)
            nominal.append(is_nominal)
        for name, kept in blocks.items():
            cells = self.presence[name][picked][:, kept].tocoo()
            matrix[:, len(names) : len(names) + len(kept)] = 0.0
            matrix[cells.row, len(names) + cells.col] = cells.data
            names += [f"{name}/{i}" for i in kept]
            groups += [name] * len(kept)
            nominal += [False] * len(kept)
        return TreeFeatures(matrix, names, groups, nominal)


@dataclass(frozen=True)
class TreeFeatures:
    """(n, p) float64 features with NaN for missing; `groups` names the column or block behind each of them."""

    matrix: NDArray[np.float64]
    names: list[str]
    groups: list[str]
    nominal: list[bool]

    def usable(self, training: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """Features with values enough in the (n, p) training rows to be of use to boosting, and which are nominal.

        Boosting splits off no fewer than 20 rows, so nothing is lost where fewer have a value; with them it fails
        when all of them fall into the tenth that it sets aside for early stopping (a column without a value cannot
        be binned). The second is None where none is nominal, which is how scikit-learn wants it.
        """
        kept = np.flatnonzero((~np.isnan(training)).sum(axis=0) >= FEWEST_VALUES)
        nominal = np.array(self.nominal, dtype=bool)[kept]
        return kept, nominal if nominal.any() else None


def _one_hot(codes: NDArray[np.int64], levels: int) -> NDArray[np.float32]:
    """(n, levels + 2) float32: the level, missing, or no level at all."""
    hot = np.zeros((len(codes), levels + 2), dtype=np.float32)
    hot[np.arange(len(codes)), np.where(codes >= 0, codes, levels - 1 - codes)] = 1.0
    return hot


def _scaled(unit: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n, 2) float32: the value in [0, 1] (1/2 where missing) and the missing indicator."""
    return np.stack([unit, missing * GAP], axis=1).astype(np.float32)
