"""Rules between columns that every synthetic row keeps, for any generator: draw again, and count.

A row with a missing cell in a rule keeps that rule. Generators that can keep a rule exactly do so themselves; here is
what works for all of them. How a rule is written is in `features/spec.py`.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError, UnsupportedError, nearest
from pipeline.generators.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema
    from pipeline.features.spec import ConstraintSpec
    from pipeline.generators.base import Conditions, Generator

ROUNDS = 50
"""Times a violating row is drawn again before giving up."""
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


def sample_constrained(
    generator: Generator,
    n: int,
    seed: int,
    constraints: Sequence[ConstraintSpec] = (),
    *,
    conditions: Conditions | None = None,
) -> tuple[Cohort, dict[str, int]]:
    """Draw `n` rows that keep every rule.

    The first draw is the generator's own `sample(n, seed=seed)`; rows that break a rule are replaced by rows of
    further draws with derived seeds, so rows that keep the rules are the same with and without them.

    Returns:
        The rows, and counts: "violating_rows" of the first draw, "redrawn_rows" over all rounds,
        "rare_levels_redrawn" of the generator, and "<left> <op> <right>" with the first draw's violations of each rule.

    Raises:
        ConfigError: a rule names a column that does not exist, or compares what has no order.
        UnsupportedError: after 50 rounds some rows still break a rule.
    """
    cohort = generator.sample(n, seed=seed, conditions=conditions)
    counts = {"violating_rows": 0, "redrawn_rows": 0, "rare_levels_redrawn": 0}
    counts["rare_levels_redrawn"] += _redrawn_levels(generator)
    broken = np.zeros(n, dtype=bool)
    for rule in constraints:
        violated = violations(cohort, rule)
        counts[rule_text(rule)] = int(violated.sum())
        broken |= violated
    counts["violating_rows"] = int(broken.sum())
    for attempt in range(ROUNDS):
        rows = np.flatnonzero(broken)
        if not len(rows):
            return cohort, counts
        fresh = generator.sample(
            len(rows), seed=derive_seed(seed, "redraw", attempt), conditions=_rows_of(conditions, rows)
        )
        counts["redrawn_rows"] += len(rows)
        counts["rare_levels_redrawn"] += _redrawn_levels(generator)
        cohort = _replace_rows(cohort, rows, fresh)
        broken[rows] = np.any([violations(fresh, rule) for rule in constraints], axis=0)
    if broken.any():
        worst = max(constraints, key=lambda rule: int(violations(cohort, rule).sum()))
        raise UnsupportedError(
            f"{int(broken.sum())} of {n} rows still break a rule after {ROUNDS} draws each, most often '{rule_text(worst)}'.",
            todo="The generator hardly ever draws such rows: mend the rule, or leave the columns out.",
        )
    return cohort, counts


def rule_text(rule: ConstraintSpec) -> str:
    """The rule as it was written, e.g. "admitted <= discharged"."""
    return f"{rule.left} {rule.op} {rule.right}"


def violations(cohort: Cohort, rule: ConstraintSpec) -> NDArray[np.bool_]:
    """(n,) True where a row breaks the rule; a row with a missing cell in it does not."""
    left = _operand(cohort, rule.left, rule)
    if isinstance(rule.right, str):
        right = _operand(cohort, rule.right, rule)
    else:
        right = np.full(cohort.n_rows, float(rule.right))
    known = ~np.isnan(left) & ~np.isnan(right)
    return known & ~_COMPARE[rule.op](left, right)


def check_rules(schema: TableSchema, constraints: Sequence[ConstraintSpec]) -> None:
    """Refuse rules on columns that do not exist or cannot be compared.

    Raises:
        ConfigError: names the rule, and the nearest column.
    """
    for rule in constraints:
        for name in [rule.left, *([rule.right] if isinstance(rule.right, str) else [])]:
            _comparable(schema, name, rule)


def _comparable(schema: TableSchema, name: str, rule: ConstraintSpec) -> None:
    names = [c.name for c in schema.modelled()]
    if name not in names:
        raise ConfigError(
            f"There is no column '{name}'.", where=f"constraint '{rule_text(rule)}'", todo=nearest(name, names)
        )
    column = schema.column(name)
    if column.discrete and any(isinstance(level, str) for level in column.levels or []) and column.kind != "ordinal":
        raise ConfigError(
            f"The levels of column '{name}' are text and have no order.",
            where=f"constraint '{rule_text(rule)}'",
            todo="Compare numbers, dates or ordinal columns.",
        )


def _operand(cohort: Cohort, name: str, rule: ConstraintSpec) -> NDArray[np.float64]:
    """(n,) float64 of a column, NaN where missing: numbers, days, numeric levels, or places of ordinal levels."""
    _comparable(cohort.schema, name, rule)
    column = cohort.schema.column(name)
    if not column.discrete:
        return cohort.values(name)
    codes = cohort.codes(name)
    levels = list(column.levels or [])
    numeric = not any(isinstance(level, str) for level in levels)
    worth = np.array([float(level) for level in levels] if numeric else range(len(levels)), dtype=np.float64)
    return np.where(codes < 0, np.nan, worth[np.maximum(codes, 0)]) if len(worth) else np.full(len(codes), np.nan)


def _redrawn_levels(generator: Generator) -> int:
    return int(getattr(generator, "sample_counts", {}).get("rare_levels_redrawn", 0))


def _rows_of(conditions: Conditions | None, rows: NDArray[np.integer]) -> Conditions | None:
    """Conditions of some of the rows; a mapping holds for every row."""
    from collections.abc import Mapping

    return conditions if conditions is None or isinstance(conditions, Mapping) else conditions.iloc[rows]


def _replace_rows(cohort: Cohort, rows: NDArray[np.integer], fresh: Cohort) -> Cohort:
    """The cohort with its i-th of `rows` replaced by the i-th row of `fresh`; ids stay numbered from 1."""
    from dataclasses import replace

    import pyarrow as pa
    from scipy.sparse import vstack

    order = np.arange(cohort.n_rows)
    order[rows] = cohort.n_rows + np.arange(len(rows))
    both = pa.concat_tables([cohort.table, fresh.table]).combine_chunks().take(pa.array(order))
    for i, column in enumerate(cohort.schema.columns):
        if column.kind == "identifier":
            both = both.set_column(i, cohort.table.schema.field(i), cohort.table.column(i))
    blocks = {k: vstack([m, fresh.blocks[k]], format="csr")[order] for k, m in cohort.blocks.items()}
    return replace(cohort, table=both, blocks=blocks)
