"""Rules that make no sense: of columns that do not exist or cannot be compared, or that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, nearest
from pipeline.features.constraint_spec import (
    Combinations,
    Comparison,
    ConstraintSpec,
    Derivation,
    Exclusive,
    OneHot,
    OnlyWith,
    Order,
    Sum,
)
from pipeline.generators.constraints.rules import (
    code_places,
    columns_of,
    comparable,
    discrete,
    expression_of,
    position,
    rule_text,
    where,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.features.schema import TableSchema


def check_rules(schema: TableSchema, rules: Sequence[ConstraintSpec]) -> None:
    """Refuse rules on columns that do not exist or cannot be compared, and rules that contradict each other.

    Raises:
        ConfigError: names the rule, and the nearest column.
    """
    for rule in rules:
        names = [c.name for c in schema.modelled()]
        for name in columns_of(rule, schema):
            if name not in names:
                raise ConfigError(f"There is no column '{name}'.", where=where(rule), todo=nearest(name, names))
        if isinstance(rule, Comparison | Order):
            for name in columns_of(rule, schema):
                comparable(schema, name, rule)
        elif isinstance(rule, Combinations | OnlyWith | Exclusive | OneHot):
            for name in columns_of(rule, schema):
                discrete(schema, name, rule)
        if isinstance(rule, OnlyWith):
            if rule.codes.block is not None:
                code_places(schema, rule)
            for name in rule.codes.only:
                for level in rule.codes.levels(name):
                    position(schema.column(name), level, rule)
    _no_contradiction(schema, rules)


def _no_contradiction(schema: TableSchema, rules: Sequence[ConstraintSpec]) -> None:
    """Refuse what no row could keep: a column derived twice, a < b with b < a, x >= 5 with x <= 3."""
    formulas: dict[str, Derivation | Sum] = {}
    above: dict[str, list[tuple[str, bool, ConstraintSpec]]] = {}
    ends: dict[str, list[tuple[str, float, ConstraintSpec]]] = {}
    for rule in rules:
        if isinstance(rule, Derivation | Sum):
            if rule.target in formulas:
                raise _contradiction(f"'{rule.target}' is computed in two ways", formulas[rule.target], rule)
            formulas[rule.target] = rule
        elif isinstance(rule, Order):
            for low, high, strict in zip(rule.columns, rule.columns[1:], rule.strict, strict=False):
                above.setdefault(low, []).append((high, strict, rule))
        elif isinstance(rule, Comparison) and rule.op not in ("==", "!="):
            if isinstance(rule.right, str):
                low, high = (rule.left, rule.right) if "<" in rule.op else (rule.right, rule.left)
                above.setdefault(low, []).append((high, "=" not in rule.op, rule))
            else:
                ends.setdefault(rule.left, []).append((rule.op, float(rule.right), rule))
    for low in above:
        for high, strict, rule in above[low]:
            if strict and (back := _path(above, high, low)) is not None:
                raise _contradiction("together they ask that a column be above itself", rule, back)
    for name, limits in ends.items():
        for op, least, rule in limits:
            for other, most, second in limits:
                if ">" in op and "<" in other and (least > most or (least == most and len(op + other) < 4)):
                    raise _contradiction(f"they leave no value of '{name}'", rule, second)
    for target, formula in formulas.items():
        seen: set[str] = set()
        todo = list(expression_of(formula, schema).columns)
        while todo:
            name = todo.pop()
            if name == target:
                raise ConfigError(f"'{target}' is computed from itself.", where=where(formula))
            if name in formulas and name not in seen:
                seen.add(name)
                todo += expression_of(formulas[name], schema).columns


def _path(above: dict[str, list[tuple[str, bool, ConstraintSpec]]], start: str, end: str) -> ConstraintSpec | None:
    """The last rule of a way upwards from `start` to `end`; None if there is none."""
    todo, seen = [start], {start}
    while todo:
        for high, _, rule in above.get(todo.pop(), []):
            if high == end:
                return rule
            if high not in seen:
                seen.add(high)
                todo.append(high)
    return None


def _contradiction(what: str, first: ConstraintSpec, second: ConstraintSpec) -> ConfigError:
    return ConfigError(
        f"Two rules contradict each other: {what} ('{rule_text(first)}' and '{rule_text(second)}').",
        todo="Take one of them out.",
    )
