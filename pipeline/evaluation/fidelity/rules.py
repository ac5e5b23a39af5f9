"""Clinical rules as things that can be asked of rows: where could the rule be broken, and where is it?

Curated rules are read from a cohort's file (`RuleSpec`); the kinds of rule that are mined from the training rows are
here too, how they are found in `mined_rules.py`, how broken rules are counted in `plausibility.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from pipeline.errors import ConfigError
from pipeline.evaluation.cells import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from scipy.sparse import csc_matrix

    from pipeline.evaluation.encoding import MetricEncoder, Side
    from pipeline.features.evaluation_spec import Condition, RuleSpec
    from pipeline.features.schema import Column, Level

    Mask = NDArray[np.bool_]

Origin = Literal["curated", "mined"]
_ORDERED: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64]], Mask]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


@dataclass
class Rows:
    """The rows of a side, with each block by columns, made once for all rules."""

    side: Side
    _by_code: dict[str, csc_matrix] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.side)

    def carriers(self, block: str, codes: Sequence[int]) -> Mask:
        """(n,) True where a row carries any of the codes (positions in the vocabulary)."""
        if block not in self._by_code:
            self._by_code[block] = self.side.presence[block].tocsc()
        matrix = self._by_code[block]
        found = np.zeros(len(self), dtype=bool)
        for j in codes:
            found[matrix.indices[matrix.indptr[j] : matrix.indptr[j + 1]]] = True
        return found


@dataclass(frozen=True)
class Judged:
    """Where a rule can be broken, and where it is: two (n,) masks, the second within the first."""

    can: Mask
    broken: Mask


class Rule(Protocol):
    """A rule that rows keep to or break."""

    @property
    def name(self) -> str:
        """Short and unique, for tables."""

    @property
    def origin(self) -> Origin:
        """Written by people, or found in the training rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it looks at."""

    @property
    def codes(self) -> tuple[tuple[str, int], ...]:
        """The codes that it looks at: (block, position in the vocabulary)."""

    def judge(self, rows: Rows) -> Judged:
        """Where the rule can be broken and where it is."""


@dataclass(frozen=True)
class OnlyWith:
    """A code, or a level, that only rows with one level of another column (the sex) carry."""

    name: str
    column: str
    level: int
    codes: tuple[tuple[str, int], ...] = ()
    other: tuple[str, int] | None = None
    origin: Origin = "mined"

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that decides, and the one whose level is looked at."""
        return (self.column,) if self.other is None else (self.column, self.other[0])

    def judge(self, rows: Rows) -> Judged:
        """Can be broken by those who carry it and whose sex is known."""
        decides = rows.side.codes[self.column]
        if self.other is not None:
            carried = rows.side.codes[self.other[0]] == self.other[1]
        else:
            carried = rows.carriers(self.codes[0][0], [self.codes[0][1]])
        can = carried & (decides >= 0)
        return Judged(can, can & (decides != self.level))


@dataclass(frozen=True)
class Ordered:
    """One number is never above another."""

    low: str
    high: str
    origin: Origin = "mined"
    codes: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """E.g. "diastolic_bp <= systolic_bp"."""
        return f"{self.low} <= {self.high}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Both."""
        return (self.low, self.high)

    def judge(self, rows: Rows) -> Judged:
        """Can be broken where both are known."""
        low, high = (as_ordered(rows.side, name) for name in (self.low, self.high))
        can = ~np.isnan(low) & ~np.isnan(high)
        return Judged(can, can & (low > high))


@dataclass(frozen=True)
class Within:
    """A number lies in a wide window around the training rows."""

    column: str
    lowest: float
    highest: float
    origin: Origin = "mined"
    codes: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """E.g. "heart_rate within 10 to 260"."""
        return f"{self.column} within {self.lowest:g} to {self.highest:g}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The one."""
        return (self.column,)

    def judge(self, rows: Rows) -> Judged:
        """Can be broken where the number is known."""
        value = rows.side.values[self.column]
        can = ~np.isnan(value)
        return Judged(can, can & ((value < self.lowest) | (value > self.highest)))


@dataclass(frozen=True)
class Curated:
    """A rule of the cohort's file.

    It can be broken where all of `when` hold and every cell that `never` compares is known; it is broken where all of
    `never` hold as well.
    """

    name: str
    when: tuple[Asked, ...]
    never: tuple[Asked, ...]
    origin: Origin = "curated"

    @property
    def columns(self) -> tuple[str, ...]:
        """All that it names, once."""
        return tuple(dict.fromkeys(c for asked in (*self.when, *self.never) for c in asked.columns))

    @property
    def codes(self) -> tuple[tuple[str, int], ...]:
        """All that its patterns stand for."""
        return tuple(dict.fromkeys(c for asked in (*self.when, *self.never) for c in asked.codes))

    def judge(self, rows: Rows) -> Judged:
        """Both masks."""
        can = np.ones(len(rows), dtype=bool)
        for asked in self.when:
            can &= asked.holds(rows)
        broken = can.copy()
        for asked in self.never:
            can &= asked.known(rows)
            broken &= asked.holds(rows)
        return Judged(can, can & broken)


@dataclass(frozen=True)
class Asked:
    """A condition with its names resolved.

    Attributes:
        columns: The columns that it reads.
        codes: The codes that it looks for: (block, position).
        known: (rows) to where the condition can be answered.
        holds: (rows) to where it holds.
    """

    columns: tuple[str, ...]
    codes: tuple[tuple[str, int], ...]
    known: Callable[[Rows], Mask]
    holds: Callable[[Rows], Mask]


def curated(spec: RuleSpec, encoder: MetricEncoder) -> Curated:
    """The rule with every name resolved against the training rows' schema.

    Raises:
        ConfigError: a comparison makes no sense for its column, or names a level or codes that the training rows lack
            (the rule could never be broken).
    """
    return Curated(
        spec.name,
        tuple(_asked(c, encoder, spec.name) for c in spec.when),
        tuple(_asked(c, encoder, spec.name) for c in spec.never),
    )


def as_ordered(side: Side, name: str) -> NDArray[np.float64]:
    """(n,) numbers of a numeric column (dates in days), places of levels of any other; NaN where unknown."""
    if name in side.values:
        return side.values[name]
    code = side.codes[name]
    return np.where(code >= 0, code, np.nan).astype(np.float64)


def _asked(condition: Condition, encoder: MetricEncoder, rule: str) -> Asked:
    if condition.block is not None:
        return _codes_asked(condition, condition.block, encoder, rule)
    assert condition.column is not None
    column = _column(encoder, condition.column, rule)
    name = column.name
    if condition.op in ("present", "missing"):
        gone = condition.op == "missing"
        return Asked((name,), (), _everywhere, lambda rows: _missing(rows, column) == gone)
    if condition.other is not None:
        return _two_columns(condition, column, _column(encoder, condition.other, rule), rule)
    if column.discrete:
        return _level_asked(condition, column, rule)
    number, compare = _number(condition.value, column, rule), _compare(condition.op, column, rule)
    return Asked(
        (name,),
        (),
        lambda rows: ~np.isnan(rows.side.values[name]),
        lambda rows: ~np.isnan(rows.side.values[name]) & compare(rows.side.values[name], np.float64(number)),  # type: ignore[arg-type]
    )


def _codes_asked(condition: Condition, block: str, encoder: MetricEncoder, rule: str) -> Asked:
    vocabulary = next((b.vocabulary for b in encoder.blocks if b.name == block), None)
    if vocabulary is None:
        raise ConfigError(f"Rule '{rule}' names the unknown block '{block}'.", todo="Correct the cohort's rules.")
    exact = {c for c in condition.codes if not c.endswith("*")}
    starts = tuple(c[:-1] for c in condition.codes if c.endswith("*"))
    places = [j for j, code in enumerate(vocabulary) if code in exact or (starts and code.startswith(starts))]
    if not places:
        raise ConfigError(f"Rule '{rule}' looks for codes that no training row has.")
    wanted = condition.op == "present"
    return Asked(
        (), tuple((block, j) for j in places), _everywhere, lambda rows: rows.carriers(block, places) == wanted
    )


def _level_asked(condition: Condition, column: Column, rule: str) -> Asked:
    name = column.name
    given: Sequence[Level] = condition.value if isinstance(condition.value, list) else [condition.value]  # type: ignore[list-item]
    found = [i for i, level in enumerate(column.levels or []) if any(_same(level, v) for v in given)]
    if not found:
        raise ConfigError(f"Rule '{rule}' names a level that column '{name}' does not have in the training rows.")
    if condition.op in ("==", "in"):
        return Asked((name,), (), _present(name), lambda rows: np.isin(rows.side.codes[name], found))
    if condition.op == "!=":
        return Asked(
            (name,), (), _present(name), lambda rows: _present(name)(rows) & ~np.isin(rows.side.codes[name], found)
        )
    compare = _compare(condition.op, column, rule)
    place = np.float64(found[0])
    return Asked(
        (name,),
        (),
        lambda rows: rows.side.codes[name] >= 0,
        lambda rows: (rows.side.codes[name] >= 0) & compare(rows.side.codes[name].astype(np.float64), place),  # type: ignore[arg-type]
    )


def _two_columns(condition: Condition, left: Column, right: Column, rule: str) -> Asked:
    nominal = _nominal(left) or _nominal(right)
    if left.numeric != right.numeric or (left.discrete and left.levels != right.levels):
        raise ConfigError(f"Rule '{rule}' compares '{left.name}' with '{right.name}', which are not of one kind.")
    compare = _ORDERED.get(condition.op)
    if compare is None or (nominal and condition.op not in ("==", "!=")):
        raise ConfigError(f"Rule '{rule}': '{condition.op}' does not compare two columns of this kind.")

    def known(rows: Rows) -> Mask:
        return ~np.isnan(as_ordered(rows.side, left.name)) & ~np.isnan(as_ordered(rows.side, right.name))

    return Asked(
        (left.name, right.name),
        (),
        known,
        lambda rows: known(rows) & compare(as_ordered(rows.side, left.name), as_ordered(rows.side, right.name)),
    )


def _column(encoder: MetricEncoder, name: str, rule: str) -> Column:
    for column in encoder.columns:
        if column.name == name:
            return column
    raise ConfigError(f"Rule '{rule}' names the unknown column '{name}'.", todo="Correct the cohort's rules.")


def _compare(op: str, column: Column, rule: str) -> Callable[[NDArray[np.float64], NDArray[np.float64]], Mask]:
    if op not in _ORDERED or _nominal(column):
        raise ConfigError(f"Rule '{rule}': column '{column.name}' cannot be compared by '{op}'.")
    return _ORDERED[op]


def _nominal(column: Column) -> bool:
    """True where levels have no order: of a binary column only no and yes have one."""
    return column.kind == "categorical" or (column.kind == "binary" and column.levels != [False, True])


def _number(value: object, column: Column, rule: str) -> float:
    """A number, or for a date column the days of a date written as 2026-10-31."""
    from datetime import date

    if column.kind == "datetime" and isinstance(value, str):
        try:
            return float((date.fromisoformat(value) - date(1970, 1, 1)).days)
        except ValueError as error:
            raise ConfigError(f"Rule '{rule}': '{value}' is no date (write 2026-10-31).") from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"Rule '{rule}' compares the numbers of '{column.name}' with something else.")
    return float(value)


def _same(level: Level, value: object) -> bool:
    """Equal and of one type: 1 is not True."""
    return isinstance(level, bool) == isinstance(value, bool) and level == value


def _missing(rows: Rows, column: Column) -> Mask:
    return rows.side.codes[column.name] == MISSING if column.discrete else np.isnan(rows.side.values[column.name])


def _present(name: str) -> Callable[[Rows], Mask]:
    return lambda rows: rows.side.codes[name] != MISSING


def _everywhere(rows: Rows) -> Mask:
    return np.ones(len(rows), dtype=bool)
