"""How metrics see rows: every representation is fitted on the training part only, frozen, and applied to all sides.

`MetricEncoder` holds what was learned from T (scales, bins, atoms, kept codes); `Side` is one cohort seen through
it, with lazily made representations: level codes and values, row hashes, bins, distances' points, tree features.
Columns are taken in name order and rows in the order of their hash, so that no metric depends on either order.
The encoders of the generators are elsewhere (`pipeline.encoding`): metrics must not depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import InputError
from pipeline.evaluation.neighbours import Points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column, TableSchema

FEWEST_VALUES = 20
"""Values that a feature needs to be offered to boosting: its smallest leaf."""
QUANTILE_BINS = 20
ATOM_SHARE = 0.05
WIDE = 200
"""Of each code block the codes of highest variance in T that enter classifiers and correlations."""
MISSING, UNSEEN = -1, -2
GAP = 0.75**0.5
"""Length of the missing indicator: with a fill of 1/2, missing and present differ by 3/4 to 1 (squared)."""


@dataclass(frozen=True)
class NumericRule:
    """What T says of a numeric column: scale for distances, bins for divergences, moments for linear features."""

    lo: float
    hi: float
    atoms: NDArray[np.float64]
    edges: NDArray[np.float64]
    mean: float
    std: float


class MetricEncoder:
    """Everything that is learned from the training part.

    Args:
        train: The training part; its schema is the one that all sides are read with.
    """

    def __init__(self, train: Cohort) -> None:
        self.schema: TableSchema = train.schema
        self.columns: list[Column] = sorted(train.schema.modelled(), key=lambda c: c.name)
        self.blocks = sorted(train.schema.blocks, key=lambda b: b.name)
        self.numeric = {c.name: _numeric_rule(finite(train, c)) for c in self.columns if c.numeric}
        self.kept_codes = {b.name: _wide(train.blocks[b.name]) for b in self.blocks}

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


def finite(cohort: Cohort, column: Column) -> NDArray[np.float64]:
    """(n,) float64 of a numeric column; missing and infinite cells as NaN. A column of another type is cast."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.features.cohort import numbers
    from pipeline.features.schema import arrow_type

    array = cohort.table.column(column.name).combine_chunks()
    if array.type != arrow_type(column.dtype):
        try:
            array = pc.cast(array, pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return np.full(len(array), np.nan)
        values = np.array(array.to_numpy(zero_copy_only=False), dtype=np.float64)
    else:
        values = np.array(numbers(array, column), dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def discrete_codes(cohort: Cohort, column: Column) -> NDArray[np.int64]:
    """(n,) positions in T's levels; -1 missing, -2 no level. A column of another type is cast, else all -2."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.features.cohort import level_codes
    from pipeline.features.schema import arrow_type

    array = cohort.table.column(column.name).combine_chunks()
    wanted = arrow_type(column.dtype)
    if array.type != wanted:
        try:
            array = pc.cast(array, wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return np.where(np.asarray(array.is_null()), MISSING, UNSEEN).astype(np.int64)
    return level_codes(array, column)


class Side:
    """One cohort through a `MetricEncoder`, rows in canonical order (by hash, then subject)."""

    def __init__(self, encoder: MetricEncoder, cohort: Cohort) -> None:
        self.encoder = encoder
        codes = {c.name: discrete_codes(cohort, c) for c in encoder.columns if c.discrete}
        values = {c.name: finite(cohort, c) for c in encoder.columns if c.numeric}
        presence = {b.name: _aligned(cohort, b.name, encoder) for b in encoder.blocks}
        hashes = _row_hashes(encoder.columns, codes, values, presence, cohort.n_rows)
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
                rule = self.encoder.numeric[column.name]
                value = self.values[column.name]
                missing = np.isnan(value)
                unit = np.clip((np.where(missing, rule.lo, value) - rule.lo) / (rule.hi - rule.lo), 0.0, 1.0)
                parts.append(_scaled(np.where(missing, 0.5, unit), missing))
        dense = np.concatenate(parts, axis=1) if parts else np.zeros((len(self), 0), dtype=np.float32)
        return Points(np.ascontiguousarray(dense), len(self.encoder.columns), tuple(self.presence.values()))

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

    def tree_features(self, drop: Sequence[str] = ()) -> TreeFeatures:
        """Features for gradient boosting: numbers as they are, levels as numbers, the kept codes as 0/1.

        Args:
            drop: Columns or blocks that are left out (a task's label and leak list).
        """
        names: list[str] = []
        groups: list[str] = []
        nominal: list[bool] = []
        parts: list[NDArray[np.float64]] = []
        for column in self.encoder.columns:
            if column.name in drop:
                continue
            if column.discrete:
                levels = len(column.levels or [])
                code = self.codes[column.name].astype(np.float64)
                is_nominal = column.kind == "categorical" and levels < 255
                value = np.where(code == MISSING, np.nan, np.where(code == UNSEEN, levels, code))
            else:
                value, is_nominal = self.values[column.name], False
            parts.append(value[:, None])
            names.append(column.name)
            groups.append(column.name)
            nominal.append(is_nominal)
        for name, matrix in self.presence.items():
            if name in drop:
                continue
            kept = self.encoder.kept_codes[name]
            parts.append(matrix[:, kept].toarray().astype(np.float64))
            names += [f"{name}/{i}" for i in kept]
            groups += [name] * len(kept)
            nominal += [False] * len(kept)
        matrix = np.concatenate(parts, axis=1) if parts else np.zeros((len(self), 0))
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
    """

    def __init__(self, side: Side, rows: NDArray[np.int64] | None = None, *, drop: Sequence[str] = ()) -> None:
        self.drop = frozenset(drop)
        raw, names, groups, masks = self._raw(side)
        raw = raw if rows is None else raw[rows]
        present = ~np.isnan(raw)
        count = np.maximum(present.sum(axis=0), 1)
        self.mean = np.where(present, raw, 0.0).sum(axis=0) / count
        spread = (np.where(present, raw - self.mean, 0.0) ** 2).sum(axis=0) / count
        share = np.where(masks, self.mean, 0.5)
        keep = (spread > 1e-24 * np.maximum(1.0, self.mean**2)) & (share >= 0.01) & (share <= 0.99)
        self.keep = np.flatnonzero(keep)
        self.std = np.sqrt(np.where(keep, spread, 1.0))
        self.names = [names[i] for i in self.keep]
        self.groups = [groups[i] for i in self.keep]

    def transform(self, side: Side) -> NDArray[np.float32]:
        """(n, p) float32 features of another side, missing cells at the fitted mean, i.e. 0."""
        raw = self._raw(side)[0][:, self.keep]
        scaled = (raw - self.mean[self.keep]) / self.std[self.keep]
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)

    def _raw(self, side: Side) -> tuple[NDArray[np.float64], list[str], list[str], NDArray[np.bool_]]:
        parts: list[NDArray[np.float64]] = []
        names: list[str] = []
        groups: list[str] = []
        indicator: list[bool] = []

        def add(values: NDArray[np.float64], name: str, group: str, *, shares: bool) -> None:
            parts.append(values.astype(np.float64))
            names.append(name)
            groups.append(group)
            indicator.append(shares)

        for column in side.encoder.columns:
            if column.name in self.drop:
                continue
            if column.kind == "categorical":
                code = side.codes[column.name]
                for i, level in enumerate(column.levels or []):
                    add(code == i, f"{column.name} = {level}", column.name, shares=True)
                add(code == MISSING, f"{column.name} missing", column.name, shares=True)
                continue
            if column.discrete:
                code = side.codes[column.name]
                value = np.where(code >= 0, code, np.nan).astype(np.float64)
            else:
                value = side.values[column.name]
            add(value, column.name, column.name, shares=False)
            add(np.isnan(value), f"{column.name} missing", column.name, shares=True)
        for name, matrix in side.presence.items():
            if name in self.drop:
                continue
            for i, values in zip(
                side.encoder.kept_codes[name], matrix[:, side.encoder.kept_codes[name]].toarray().T, strict=True
            ):
                add(values, f"{name}/{i}", f"{name}/{i}", shares=False)
        stacked = np.stack(parts, axis=1) if parts else np.zeros((len(side), 0))
        return stacked, names, groups, np.array(indicator, dtype=bool)


def _numeric_rule(values: NDArray[np.float64]) -> NumericRule:
    known = values[~np.isnan(values)]
    if not len(known):
        empty = np.array([], dtype=np.float64)
        return NumericRule(0.0, 1.0, empty, empty, 0.0, 1.0)
    lo, hi = np.quantile(known, [0.005, 0.995])
    if hi <= lo:
        lo, hi = known.min(), known.max()
    if hi <= lo:
        hi = lo + 1.0
    distinct, counts = np.unique(known, return_counts=True)
    atoms = distinct[counts > ATOM_SHARE * len(known)]
    rest = known[~np.isin(known, atoms)]
    edges = np.unique(np.quantile(rest, np.linspace(0, 1, QUANTILE_BINS + 1)[1:-1])) if len(rest) else rest
    return NumericRule(float(lo), float(hi), atoms, edges, float(known.mean()), float(known.std()))


def _wide(matrix: csr_matrix) -> NDArray[np.int64]:
    """The codes of highest variance of presence (at most WIDE), in vocabulary order; codes without spread left out."""
    share = np.asarray((matrix != 0).mean(axis=0)).ravel()
    variance = share * (1 - share)
    best = np.argsort(-variance, kind="stable")[:WIDE]
    return np.sort(best[variance[best] > 0]).astype(np.int64)


def _aligned(cohort: Cohort, name: str, encoder: MetricEncoder) -> csr_matrix:
    """The block's matrix with its codes in T's vocabulary order; codes that T lacks are left out."""
    from scipy.sparse import csc_matrix, csr_matrix, hstack

    wanted = next(b.vocabulary for b in encoder.blocks if b.name == name)
    given = next(b.vocabulary for b in cohort.schema.blocks if b.name == name)
    matrix = csr_matrix(cohort.blocks[name]).copy()
    matrix.eliminate_zeros()
    matrix.sort_indices()
    if given == wanted:
        return matrix
    place = {code: i for i, code in enumerate(given)}
    empty = csc_matrix((matrix.shape[0], 1), dtype=matrix.dtype)
    columns = csc_matrix(matrix)
    return csr_matrix(hstack([columns[:, place[c]] if c in place else empty for c in wanted], format="csr"))


def _one_hot(codes: NDArray[np.int64], levels: int) -> NDArray[np.float32]:
    """(n, levels + 2) float32: the level, missing, or no level at all."""
    hot = np.zeros((len(codes), levels + 2), dtype=np.float32)
    hot[np.arange(len(codes)), np.where(codes >= 0, codes, levels - 1 - codes)] = 1.0
    return hot


def _scaled(unit: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n, 2) float32: the value in [0, 1] (1/2 where missing) and the missing indicator."""
    return np.stack([unit, missing * GAP], axis=1).astype(np.float32)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: spreads the bits of each number."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _row_hashes(
    columns: Sequence[Column],
    codes: dict[str, NDArray[np.int64]],
    values: dict[str, NDArray[np.float64]],
    blocks: dict[str, csr_matrix],
    n: int,
) -> NDArray[np.uint64]:
    """(n,) 64-bit hashes of the rows' contents; equal rows have equal hashes, whatever the order of columns."""
    from hashlib import sha256

    def salt(name: str) -> np.uint64:
        return np.uint64(int.from_bytes(sha256(name.encode()).digest()[:8], "little"))

    total = np.zeros(n, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            if column.discrete:
                raw = codes[column.name].astype(np.int64).view(np.uint64)
            else:
                value = values[column.name] + 0.0
                value[np.isnan(value)] = np.nan
                raw = value.view(np.uint64)
            total += _mix(_mix(raw + np.uint64(0x9E3779B97F4A7C15)) ^ salt(column.name))
        for name, matrix in blocks.items():
            cell = _mix(matrix.indices.astype(np.uint64) + np.uint64(1)) ^ salt(name)
            cell = _mix(cell + _mix(np.asarray(matrix.data, dtype=np.float64).view(np.uint64)))
            row = np.repeat(np.arange(n), np.diff(matrix.indptr))
            np.add.at(total, row, cell)
    return total
