"""What a rule is by its form and the schema, before any row is looked at: on levels, on numbers, or only to be redrawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError
from pipeline.features.constraint_spec import (
    Combinations,
    Comparison,
    ConstraintSpec,
    Derivation,
    OnlyWith,
    Order,
    Predicate,
    Sum,
)
from pipeline.generators.constraints.rules import columns_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.schema import TableSchema


def redrawn_by_nature(rule: ConstraintSpec, schema: TableSchema, *, private: bool) -> str:
    """Why no step can keep a rule, whatever the rows; empty if one may."""
    if isinstance(rule, Comparison):
        if not isinstance(rule.right, str):
            return "a limit on one column: learned rows hardly break it"
        kinds = {schema.column(name).discrete for name in (rule.left, rule.right)}
        if kinds == {True, False}:
            return "it compares levels with numbers"
        if kinds == {False} and rule.op in ("==", "!="):
            return "equality of numbers: write `derive` to have one computed from the other"
    if isinstance(rule, Comparison | Order) and rule.by == "redraw":
        return "its `by` says so"
    if isinstance(rule, Order) and any(schema.column(name).discrete for name in rule.columns):
        return "an order of levels"
    if isinstance(rule, Predicate) and not on_levels(rule, schema):
        return "a predicate over numbers"
    if private and isinstance(rule, OnlyWith):
        _named_levels_are_public(rule, schema)
    if private and isinstance(rule, Combinations) and rule.allowed is None:
        raise ConfigError(
            "Which combinations occur would be asked of the patients without being paid for.",
            where=f"constraint '{rule}'",
            todo="List them under `allowed`, or train without privacy.",
        )
    return ""


def _named_levels_are_public(rule: OnlyWith, schema: TableSchema) -> None:
    """Refuse a rule on levels that a private training may or may not find."""
    for name in columns_of(rule, schema):
        if "levels" in schema.column(name).inferred:
            raise ConfigError(
                f"The levels of '{name}' are not declared, and a private training may not find the one that is named.",
                where=f"constraint '{rule}'",
                todo="Declare them under the cohort's `columns`.",
            )


def on_levels(rule: ConstraintSpec, schema: TableSchema) -> bool:
    """Is it a rule on discrete columns alone?"""
    if isinstance(rule, Derivation | Sum | Order) or on_a_block(rule):
        return False
    names = columns_of(rule, schema)
    return len(names) > 1 and all(schema.column(name).discrete for name in names)


def on_a_block(rule: ConstraintSpec) -> bool:
    """Is it about codes of a block?"""
    return isinstance(rule, OnlyWith) and rule.codes.block is not None


def grouped(rules: list[ConstraintSpec], schema: TableSchema) -> list[tuple[list[str], list[ConstraintSpec]]]:
    """Rules that share columns, together with all their columns in table order."""
    groups: list[tuple[set[str], list[ConstraintSpec]]] = []
    for rule in rules:
        names = set(columns_of(rule, schema))
        mine = [rule]
        for other in [g for g in groups if g[0] & names]:
            groups.remove(other)
            names, mine = names | other[0], [*other[1], *mine]
        groups.append((names, mine))
    return [([c for c in schema.names if c in names], mine) for names, mine in groups]


def chain_of(rule: Comparison | Order) -> tuple[list[str], list[bool]]:
    """The columns of an order, smallest first, and for each but the first: must it be above the one before?"""
    if isinstance(rule, Order):
        return rule.columns, rule.strict
    names = [rule.left, str(rule.right)]
    return (names if "<" in rule.op else names[::-1]), ["=" not in rule.op]


def would_break(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """The share of rows with low > high if the two columns were independent."""
    low, high = low[~np.isnan(low)], np.sort(high[~np.isnan(high)])
    return float(np.searchsorted(high, low, side="left").mean() / len(high)) if len(low) and len(high) else 0.0
