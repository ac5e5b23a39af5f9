"""FHIRPath's operators as SQL: empty operands give empty, and only what the standard can compare is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.ingest.viewdefinition.definition import ViewError
from pipeline.ingest.viewdefinition.elements import UNKNOWN, WHOLE_NUMBERS
from pipeline.ingest.viewdefinition.steps import step
from pipeline.ingest.viewdefinition.values import (
    EMPTY,
    Scope,
    Value,
    as_type,
    boolean,
    each,
    items,
    number,
    one,
    plain,
    settled,
    text,
    truth,
    whole,
)

_ORDERS = {"<": "< 0", ">": "> 0", "<=": "<= 0", ">=": ">= 0", "=": "= 0", "!=": "<> 0"}


def combine(operator: str, left: Value, right: Value, scope: Scope) -> Value:
    """The value of `left operator right`."""
    left, right = settled(left, scope), settled(right, scope)
    if operator in ("and", "or", "xor", "implies"):
        return _logic(operator, truth(left, scope), truth(right, scope))
    if operator in ("=", "!=", "~", "!~"):
        return _equality(operator, left, right, scope)
    if operator in ("<", ">", "<=", ">="):
        return _comparison(operator, left, right, scope)
    if operator == "|":
        return union(left, right, scope)
    if operator == "in":
        return membership(left, right, scope)
    if operator == "contains":
        return membership(right, left, scope)
    if operator == "&":
        return Value(f"(coalesce({text(left, scope)}, '') || coalesce({text(right, scope)}, ''))", "string")
    return _arithmetic(operator, left, right, scope)


def _logic(operator: str, left: str, right: str) -> Value:
    if operator == "xor":
        return boolean(f"(({left}) <> ({right}))")
    if operator == "implies":
        return boolean(f"((NOT ({left})) OR ({right}))")
    return boolean(f"(({left}) {operator.upper()} ({right}))")


def matched(left: Value, right: Value, scope: Scope) -> tuple[Value, Value]:
    """Both with items that SQL can compare: unknown ones take the type of the other side."""
    if left.type == UNKNOWN and right.type not in (UNKNOWN, "empty") and right.group != "complex":
        left = as_type(left, right.type, scope)
    if right.type == UNKNOWN and left.type not in (UNKNOWN, "empty") and left.group != "complex":
        right = as_type(right, left.type, scope)
    sides = []
    for side in (left, right):
        if side.group in ("complex", "quantity", UNKNOWN):
            side = whole(side, scope)
        sides.append(plain(side, scope))
    return sides[0], sides[1]


def _equality(operator: str, left: Value, right: Value, scope: Scope) -> Value:
    negated = operator.startswith("!")
    if "~" in operator:
        return _equivalence(left, right, scope, negated=negated)
    if EMPTY.type in (left.type, right.type):
        return boolean("CAST(NULL AS BOOLEAN)")
    if left.group == right.group == "quantity":
        return _quantities("!=" if negated else "=", left, right, scope)
    left, right = matched(left, right, scope)
    if not left.many and not right.many:
        return boolean(_order(left, right, "!=" if negated else "="))
    sql = _same_lists(left, right)
    return boolean(f"(NOT {sql})" if negated else sql)


def _same_lists(left: Value, right: Value) -> str:
    """Collections are equal item by item, in order; empty where one is empty."""
    if left.group != right.group:
        return f"CASE WHEN len({items(left)}) > 0 AND len({items(right)}) > 0 THEN FALSE END"
    if not left.many or not right.many:  # one side is a single item: the other must be one too
        many, single = (left, right) if left.many else (right, left)
        same = _order(replace(many, sql=f"({many.sql})[1]", many=False), single, "=")
        return f"CASE WHEN len({many.sql}) = 1 THEN {same} WHEN len({many.sql}) > 1 AND {single.sql} IS NOT NULL THEN FALSE END"
    return f"CASE WHEN len({left.sql}) > 0 AND len({right.sql}) > 0 THEN {left.sql} = {right.sql} END"


def _order(left: Value, right: Value, operator: str) -> str:
    """Two single items of one group."""
    groups = {left.group, right.group}
    test = _ORDERS[operator]
    if groups == {"moment"}:
        return f"(_order({left.sql}, {right.sql}) {test})"
    if groups == {"time"}:
        return f"(_time_order({left.sql}, {right.sql}) {test})"
    if len(groups) > 1:
        # A date may be written as a string; anything else differs in type and so in value.
        if groups <= {"text", "moment", "time"}:
            return f"({left.sql} {'<>' if operator == '!=' else operator} {right.sql})"
        if operator in ("=", "!="):
            unequal = "TRUE" if operator == "!=" else "FALSE"
            return f"CASE WHEN {left.sql} IS NOT NULL AND {right.sql} IS NOT NULL THEN {unequal} END"
        raise ViewError(f"'{operator}' cannot compare {left.group} with {right.group}.")
    return f"({left.sql} {'<>' if operator == '!=' else operator} {right.sql})"


def _comparison(operator: str, left: Value, right: Value, scope: Scope) -> Value:
    left, right = one(left), one(right)
    if EMPTY.type in (left.type, right.type):
        return boolean("CAST(NULL AS BOOLEAN)")
    if left.group == right.group == "quantity":
        return _quantities(operator, left, right, scope)
    left, right = matched(left, right, scope)
    if "complex" in (left.group, right.group) or "boolean" in (left.group, right.group):
        raise ViewError(f"'{operator}' cannot compare {left.group} with {right.group}.")
    return boolean(_order(left, right, operator))


def _quantities(operator: str, left: Value, right: Value, scope: Scope) -> Value:
    """Quantities compare where their units are written alike; nothing is converted."""
    left, right = one(left), one(right)
    sides = []
    for side in (left, right):
        if side.literal:
            sides.append((side.sql, side.unit))
            continue
        value = number(step(side, "value", scope), scope)
        unit = f"coalesce({text(step(side, 'code', scope), scope)}, {text(step(side, 'unit', scope), scope)}, '1')"
        sides.append((value, unit))
    (a, unit_a), (b, unit_b) = sides
    symbol = "<>" if operator == "!=" else operator
    return boolean(f"CASE WHEN {unit_a} = {unit_b} THEN {a} {symbol} {b} END")


def _equivalence(left: Value, right: Value, scope: Scope, *, negated: bool) -> Value:
    """`~`: two empties are alike; text regardless of case and of the width of spaces."""
    left, right = matched(left, right, scope)

    def folded(value: Value) -> Value:
        if value.group != "text":
            return value
        fold = "regexp_replace(lower(trim({})), '\\s+', ' ', 'g')"
        return each(value, scope, lambda item: replace(item, sql=fold.format(item.sql)))

    left, right = folded(left), folded(right)
    if left.many or right.many:
        sql = f"(list_sort(coalesce({items(left)}, [])) IS NOT DISTINCT FROM list_sort(coalesce({items(right)}, [])))"
    elif EMPTY.type in (left.type, right.type) or left.group == right.group:
        sql = f"({left.sql} IS NOT DISTINCT FROM {right.sql})"
    else:
        sql = f"({left.sql} IS NULL AND {right.sql} IS NULL)"
    return boolean(f"(NOT {sql})" if negated else sql)


def union(left: Value, right: Value, scope: Scope, *, distinct: bool = True) -> Value:
    """All items of both, without doubles if `distinct`, in the order in which they come."""
    sides = [part for side in (left, right) for part in (side.alternatives if side.many else ()) or (side,)]
    parts = alike(sides, scope)
    if not parts:
        return EMPTY
    kind, form, listed = parts[0].type, parts[0].form, ", ".join(items(part) for part in parts)
    sources = tuple(source for part in parts for source in part.sources)
    sql = f"list_concat({listed})"
    if distinct:
        sql = f"_distinct({sql})"
    first = tuple(parts) if all(not part.many for part in parts) else ()
    return Value(sql, kind, True, form, sources=sources, alternatives=first)


def alike(values: list[Value], scope: Scope) -> list[Value]:
    """The values that are not empty by their form, all of one SQL type, so that they can stand in one list."""
    parts = [settled(value, scope) for value in values if value.type != "empty" or value.choices]
    if len(parts) < 2:
        return parts
    groups = {part.group for part in parts}
    if groups <= {"text", "moment", "time"}:
        kinds = {part.type for part in parts}
        kind = kinds.pop() if len(kinds) == 1 else "dateTime" if groups == {"moment"} else "string"
        return [replace(plain(part, scope), type=kind) for part in parts]
    if groups == {"number"}:
        kind = "integer" if all(part.type in WHOLE_NUMBERS for part in parts) else "decimal"
        return [replace(plain(part, scope), type=kind) for part in parts]
    if groups == {"boolean"}:
        return [plain(part, scope) for part in parts]
    kinds = {part.type for part in parts}
    kind = kinds.pop() if len(kinds) == 1 else UNKNOWN
    return [replace(whole(part, scope), type=kind) for part in parts]


def membership(item: Value, collection: Value, scope: Scope) -> Value:
    """`item in collection`."""
    if item.type == "empty":
        return boolean("CAST(NULL AS BOOLEAN)")
    if collection.type == "empty":
        return boolean("FALSE")
    left, right = matched(one(item), collection, scope)
    sql = f"coalesce(list_contains({items(right)}, {left.sql}), FALSE)"
    return boolean(f"CASE WHEN {left.sql} IS NOT NULL THEN {sql} END")


_PLAIN: dict[str, Callable[[str, str], str]] = {
    "+": lambda a, b: f"({a} + {b})",
    "-": lambda a, b: f"({a} - {b})",
    "*": lambda a, b: f"({a} * {b})",
    "/": lambda a, b: f"({a} / nullif({b}, 0))",
    "div": lambda a, b: f"trunc({a} / nullif({b}, 0))",
    "mod": lambda a, b: f"({a} % nullif({b}, 0))",
}


def _arithmetic(operator: str, left: Value, right: Value, scope: Scope) -> Value:
    groups = {left.group, right.group}
    if operator == "+" and groups & {"text"} and not groups & {"number"}:
        return Value(f"({text(left, scope)} || {text(right, scope)})", "string")
    if groups & {"moment", "time", "quantity"}:
        raise ViewError(f"'{operator}' on dates, times and quantities is not supported.")
    entire = {left.type, right.type} <= WHOLE_NUMBERS | {"empty"} and operator != "/"
    return Value(
        _PLAIN[operator](number(left, scope), number(right, scope)),
        "integer" if entire or operator == "div" else "decimal",
    )
