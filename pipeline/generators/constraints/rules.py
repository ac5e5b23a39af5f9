"""What a rule says of rows: which columns it looks at, and which rows break it.

A row with a missing cell in a rule keeps that rule. How a rule is written is in `features/constraint_spec.py`, how
drawn rows come to keep it in `reexpress.py` and `redraw.py`; rules that make no sense are refused in `checking.py`.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError, nearest
from pipeline.features.cohort import Cohort, column_from_codes, level_codes
from pipeline.features.constraint_spec import (
    Combinations,
    Comparison,
    ConstraintSpec,
    Exclusive,
    Formula,
    OneHot,
    OnlyWith,
    Order,
    Predicate,
)
from pipeline.features.resolution import on_grid
from pipeline.features.schema import arrow_type
from pipeline.generators.constraints.expressions import Expression

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.features.schema import Column, Level, TableSchema

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_CLOSE = {"float32": 1e-5}
"""Relative error that a column without a grid may have beside its formula; else a millionth of a millionth."""


def rule_text(rule: ConstraintSpec) -> str:
    """The rule as it was written, e.g. "admitted <= discharged"; no level that only the data have."""
    return str(rule)


def columns_of(rule: ConstraintSpec, schema: TableSchema) -> list[str]:
    """The columns that a rule looks at (a code block is none), each once."""
    if isinstance(rule, Comparison):
        names = [rule.left, *([rule.right] if isinstance(rule.right, str) else [])]
    elif isinstance(rule, Order):
        names = rule.columns
    elif isinstance(rule, Combinations):
        names = rule.combinations
    elif isinstance(rule, Exclusive | OneHot):
        names = rule.flags
    elif isinstance(rule, OnlyWith):
        names = [*([rule.codes.column] if rule.codes.column else []), *rule.codes.only]
    elif isinstance(rule, Predicate):
        names = list(expression_of(rule, schema).columns)
    else:
        names = [rule.target, *expression_of(rule, schema).columns]
    return list(dict.fromkeys(names))


def expression_of(rule: Predicate | Formula, schema: TableSchema) -> Expression:
    """The SQL of a predicate or formula; raises `ConfigError` if it is refused."""
    text = rule.where if isinstance(rule, Predicate) else rule.formula
    names = [c.name for c in schema.modelled()]
    if isinstance(rule, Formula):
        names = [name for name in names if name != rule.target]
    return Expression.read(text, names, where=where(rule))


# ---- which rows break a rule


def violations(cohort: Cohort, rule: ConstraintSpec) -> NDArray[np.bool_]:
    """(n,) True where a row breaks the rule; a row with a missing cell in it does not.

    Raises:
        ConfigError: the rule does not fit the cohort's schema, or asks for the combinations seen in training
            (`resolved` writes them in).
    """
    if isinstance(rule, Comparison):
        return _of_comparison(cohort, rule)
    if isinstance(rule, Order):
        return _of_order(cohort, rule)
    if isinstance(rule, Predicate):
        return _of_predicate(cohort, rule)
    if isinstance(rule, Combinations):
        return _of_combinations(cohort, rule)
    if isinstance(rule, OnlyWith):
        return _of_codes(cohort, rule)
    if isinstance(rule, Exclusive | OneHot):
        return _of_flags(cohort, rule)
    return _of_formula(cohort, rule)


def broken_by(cohort: Cohort, rules: Sequence[ConstraintSpec]) -> NDArray[np.bool_]:
    """(n,) True where a row breaks any of the rules."""
    broken = np.zeros(cohort.n_rows, dtype=bool)
    for rule in rules:
        broken |= violations(cohort, rule)
    return broken


def resolved(rules: Sequence[ConstraintSpec], train: Cohort) -> list[ConstraintSpec]:
    """The rules with the combinations that the training rows have written into those that ask for them."""
    return [_with_seen(rule, train) if isinstance(rule, Combinations) else rule for rule in rules]


def _with_seen(rule: Combinations, train: Cohort) -> Combinations:
    if rule.allowed is not None:
        return rule
    for name in rule.combinations:
        discrete(train.schema, name, rule)
    codes = np.stack([train.codes(name) for name in rule.combinations], axis=1)
    whole = np.unique(codes[(codes >= 0).all(axis=1)], axis=0)
    levels = [list(train.schema.column(name).levels or []) for name in rule.combinations]
    seen = [[levels[j][code] for j, code in enumerate(row)] for row in whole]
    return rule.model_copy(update={"allowed": seen})


def _of_predicate(cohort: Cohort, rule: Predicate) -> NDArray[np.bool_]:
    kept = expression_of(rule, cohort.schema).evaluate(cohort.table)
    if kept.type != arrow_type("bool"):
        raise ConfigError(
            f"The expression gives {kept.type}, not true or false.",
            where=where(rule),
            todo="Compare it with something.",
        )
    return ~np.asarray(kept.fill_null(True).to_numpy(), dtype=bool)


def _of_comparison(cohort: Cohort, rule: Comparison) -> NDArray[np.bool_]:
    left = _operand(cohort, rule.left, rule)
    if isinstance(rule.right, str):
        right = _operand(cohort, rule.right, rule)
    else:
        right = np.full(cohort.n_rows, float(rule.right))
    known = ~np.isnan(left) & ~np.isnan(right)
    return known & ~_COMPARE[rule.op](left, right)


def _of_order(cohort: Cohort, rule: Order) -> NDArray[np.bool_]:
    """Every two columns are looked at, so that a missing one in the middle hides nothing."""
    values = [_operand(cohort, name, rule) for name in rule.columns]
    broken = np.zeros(cohort.n_rows, dtype=bool)
    for i, low in enumerate(values):
        for j in range(i + 1, len(values)):
            with np.errstate(invalid="ignore"):
                broken |= low >= values[j] if any(rule.strict[i:j]) else low > values[j]
    return broken


def _of_combinations(cohort: Cohort, rule: Combinations) -> NDArray[np.bool_]:
    if rule.allowed is None:
        raise ConfigError(
            "Which combinations were seen is told from training rows only.",
            where=where(rule),
            todo="List them under `allowed`.",
        )
    columns = [discrete(cohort.schema, name, rule) for name in rule.combinations]
    codes = np.stack([cohort.codes(c.name) for c in columns], axis=1)
    allowed = np.array(
        [
            [
                -1 if level is None else position(c, level, rule, missing_ok=True)
                for c, level in zip(columns, row, strict=True)
            ]
            for row in rule.allowed
        ]
    )
    both = np.unique(np.concatenate([allowed, codes]), axis=0, return_inverse=True)[1].ravel()
    known = np.isin(both[len(allowed) :], both[: len(allowed)])
    return ~known & (codes >= 0).all(axis=1)


def _of_codes(cohort: Cohort, rule: OnlyWith) -> NDArray[np.bool_]:
    outside = outsiders(cohort, rule)
    it = rule.codes
    if it.block is not None:
        carried = np.asarray((cohort.blocks[it.block][:, code_places(cohort.schema, rule)] != 0).sum(axis=1)).ravel()
        return outside & (carried > 0)
    column = discrete(cohort.schema, str(it.column), rule)
    return outside & (cohort.codes(column.name) == level_of(column, rule))


def outsiders(cohort: Cohort, rule: OnlyWith) -> NDArray[np.bool_]:
    """(n,) True for people who surely are none of those who alone may have the codes."""
    outside = np.zeros(cohort.n_rows, dtype=bool)
    for name in rule.codes.only:
        column = discrete(cohort.schema, name, rule)
        may = [position(column, level, rule) for level in rule.codes.levels(name)]
        codes = cohort.codes(name)
        outside |= (codes >= 0) & ~np.isin(codes, may)
    return outside


def code_places(schema: TableSchema, rule: OnlyWith) -> NDArray[np.int64]:
    """The places of a rule's codes in the vocabulary of its block; raises `ConfigError` if there is no such block."""
    it = rule.codes
    names = [b.name for b in schema.blocks]
    if it.block not in names:
        raise ConfigError(
            f"There is no code block '{it.block}'.", where=where(rule), todo=nearest(str(it.block), names)
        )
    block = next(b for b in schema.blocks if b.name == it.block)
    wanted = set(it.codes)
    chosen = [code in wanted or code.startswith(tuple(it.prefix)) for code in block.vocabulary]
    return np.flatnonzero(chosen)


def level_of(column: Column, rule: OnlyWith) -> int:
    """The place of the level that a rule on a column is about."""
    level = rule.codes.level
    return len(column.levels or []) - 1 if level is None else position(column, level, rule)


def _of_flags(cohort: Cohort, rule: Exclusive | OneHot) -> NDArray[np.bool_]:
    codes = []
    for name in rule.flags:
        column = discrete(cohort.schema, name, rule)
        if column.kind != "binary":
            raise ConfigError(f"Column '{name}' is {column.kind}, not binary.", where=where(rule))
        codes.append((cohort.codes(name), len(column.levels or []) - 1))
    yes = np.sum([code == top for code, top in codes], axis=0)
    known = np.all([code >= 0 for code, _ in codes], axis=0)
    several = yes > 1
    return several | (known & (yes == 0)) if isinstance(rule, OneHot) else several


def _of_formula(cohort: Cohort, rule: Formula) -> NDArray[np.bool_]:
    column = cohort.schema.column(rule.target)
    computed = computed_values(cohort, rule)
    if column.discrete:
        codes = cohort.codes(column.name)
        return (codes >= 0) & (computed != -1) & (codes != computed)
    values = cohort.values(column.name)
    known = ~np.isnan(values) & ~np.isnan(computed)
    if column.resolution is not None and column.resolution.kind != "atoms":
        near = np.abs(values - computed) <= 1e-9 * np.maximum(1.0, np.abs(values))
        if column.dtype == "float32":
            near |= values.astype(np.float32) == computed.astype(np.float32)
        return known & ~near
    slack = _CLOSE.get(column.dtype, 1e-12)
    return known & ~np.isclose(values, computed, rtol=slack, atol=0.0)


def computed_values(cohort: Cohort, rule: Formula) -> NDArray[Any]:
    """(n,) what a formula gives: numbers on the target's grid (NaN missing), or positions of its levels.

    A level that there is not is -2, a missing one -1; numbers of dates are days since 1970-01-01.
    """
    column = cohort.schema.column(rule.target)
    expression = expression_of(rule, cohort.schema)
    given = operands_table(cohort, expression.columns)
    if column.discrete:
        value = expression.evaluate(given, arrow_type(column.dtype)).combine_chunks()
        return level_codes(value, column)
    raw = expression.evaluate(given, arrow_type("float64")).to_numpy().astype(np.float64)
    grid = column.resolution
    raw = np.where(np.isfinite(raw), raw, np.nan)
    if column.dtype in ("int64", "int32", "date32[day]") and grid is None:
        return np.round(raw)
    return raw if grid is None or grid.kind == "atoms" else on_grid(raw, grid)


def operands_table(cohort: Cohort, names: Sequence[str]) -> pa.Table:
    """Columns as a formula sees them: numbers as float64 (dates in days), discrete columns as they are."""
    import pyarrow as pa

    arrays = {}
    for name in names:
        column = cohort.schema.column(name)
        if column.discrete:
            arrays[name] = column_from_codes(np.maximum(cohort.codes(name), -1), column)
        else:
            arrays[name] = pa.array(cohort.values(name), from_pandas=True)
    return pa.table(arrays)


# ---- columns and levels that a rule names


def where(rule: object) -> str:
    """How a rule is named in messages."""
    return f"constraint '{rule}'"


def comparable(schema: TableSchema, name: str, rule: ConstraintSpec) -> None:
    """Refuse a column that there is not, or whose levels have no order (`ConfigError`)."""
    names = [c.name for c in schema.modelled()]
    if name not in names:
        raise ConfigError(f"There is no column '{name}'.", where=where(rule), todo=nearest(name, names))
    column = schema.column(name)
    if column.discrete and any(isinstance(level, str) for level in column.levels or []) and column.kind != "ordinal":
        raise ConfigError(
            f"The levels of column '{name}' are text and have no order.",
            where=where(rule),
            todo="Compare numbers, dates or ordinal columns.",
        )


def discrete(schema: TableSchema, name: str, rule: ConstraintSpec) -> Column:
    """A column with levels; raises `ConfigError` if there is none of that name, or it has none."""
    names = [c.name for c in schema.modelled()]
    if name not in names:
        raise ConfigError(f"There is no column '{name}'.", where=where(rule), todo=nearest(name, names))
    column = schema.column(name)
    if not column.discrete or column.levels is None:
        raise ConfigError(
            f"Column '{name}' is {column.kind}: this rule is about columns with levels.",
            where=where(rule),
            todo="Compare numbers with `left`, `order` or `where`.",
        )
    return column


def position(column: Column, level: Level, rule: ConstraintSpec, *, missing_ok: bool = False) -> int:
    """The place of a level, also where it is written as text or as a whole number."""
    levels = list(column.levels or [])
    for same in (lambda x: type(x) is type(level) and x == level, lambda x: str(x).lower() == str(level).lower()):
        found = [i for i, known in enumerate(levels) if same(known)]
        if found:
            return found[0]
    if missing_ok:
        return len(levels)  # a declared combination of a level that nobody has: allowed, and never met
    raise ConfigError(f"'{level}' is no level of column '{column.name}'.", where=where(rule))


def _operand(cohort: Cohort, name: str, rule: ConstraintSpec) -> NDArray[np.float64]:
    """(n,) float64 of a column, NaN where missing: numbers, days, numeric levels, or places of ordinal levels."""
    comparable(cohort.schema, name, rule)
    column = cohort.schema.column(name)
    if not column.discrete:
        return cohort.values(name)
    codes = cohort.codes(name)
    levels = list(column.levels or [])
    numeric = not any(isinstance(level, str) for level in levels)
    worth = np.array([float(level) for level in levels] if numeric else range(len(levels)), dtype=np.float64)
    return np.where(codes < 0, np.nan, worth[np.maximum(codes, 0)]) if len(worth) else np.full(len(codes), np.nan)
