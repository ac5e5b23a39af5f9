"""FHIRPath's functions, and those of SQL on FHIR, as SQL.

Each takes the focus, its arguments as trees and the scope. An argument that is looked at for every item (`where`) is
evaluated with the item in focus, any other with the focus of the whole expression.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from pipeline.ingest.viewdefinition.definition import ViewError
from pipeline.ingest.viewdefinition.fhirpath import Node, type_name
from pipeline.ingest.viewdefinition.operators import alike, matched, union
from pipeline.ingest.viewdefinition.shape import TOKEN
from pipeline.ingest.viewdefinition.steps import pick, read, step
from pipeline.ingest.viewdefinition.use import Evaluate, Function, Use
from pipeline.ingest.viewdefinition.value_functions import VALUES
from pipeline.ingest.viewdefinition.values import (
    EMPTY,
    Scope,
    Value,
    boolean,
    each,
    exists,
    items,
    number,
    one,
    plain,
    settled,
    text,
    truth,
)
from pipeline.store.connection import literal


def apply(name: str, focus: Value, arguments: Sequence[Node], scope: Scope, evaluate: Evaluate) -> Value:
    """The value of `focus.name(arguments)`.

    Raises:
        ViewError: Wrong number of arguments, or arguments that it cannot take.
    """
    function, fewest, most = FUNCTIONS[name]
    if not fewest <= len(arguments) <= most:
        raise ViewError(f"{name}() takes {fewest if fewest == most else f'{fewest} to {most}'} arguments.")
    return function(Use(name, focus, arguments, scope, evaluate))


# Existence and filters


def _exists(use: Use) -> Value:
    return boolean(exists(_where(use) if use.arguments else use.focus))


def _empty(use: Use) -> Value:
    return boolean(f"(NOT {exists(use.focus)})")


def _not(use: Use) -> Value:
    return boolean(f"(NOT ({truth(use.focus, use.scope)}))")


def _where(use: Use) -> Value:
    focus = settled(use.focus, use.scope)
    if focus.type == "empty":
        return EMPTY
    if not focus.many:
        condition = truth(use.within(focus, index="0"), use.scope)
        return replace(focus, sql=f"CASE WHEN {condition} THEN {focus.sql} END", beside=None)
    name, index = use.scope.variable(), use.scope.variable()
    condition = truth(use.within(replace(focus, sql=name, many=False), index=f"({index} - 1)"), use.scope)
    counted = f"lambda {name}, {index}" if f"({index} - 1)" in condition else f"lambda {name}"
    return replace(focus, sql=f"list_filter({focus.sql}, {counted}: {condition})", alternatives=(), beside=None)


def _select(use: Use) -> Value:
    focus = settled(use.focus, use.scope)
    return EMPTY if focus.type == "empty" else each(focus, use.scope, lambda item: settled(use.within(item), use.scope))


def _all(use: Use) -> Value:
    focus = settled(use.focus, use.scope)
    if focus.type == "empty":
        return boolean("TRUE")
    met = each(focus, use.scope, lambda item: boolean(f"coalesce({truth(use.within(item), use.scope)}, FALSE)"))
    if met.many:
        return boolean(f"coalesce(NOT list_contains({met.sql}, FALSE), TRUE)")
    return boolean(f"CASE WHEN {focus.sql} IS NULL THEN TRUE ELSE {met.sql} END")


def _of_truths(wanted: str, found: str) -> Callable[[Use], Value]:
    def function(use: Use) -> Value:
        flags = items(plain(settled(use.focus, use.scope), use.scope))
        return boolean(f"(coalesce(list_contains({flags}, {wanted}), FALSE) = {found})")

    return function


def _count(use: Use) -> Value:
    focus = settled(use.focus, use.scope)
    sql = f"coalesce(len({focus.sql}), 0)" if focus.many else f"CASE WHEN {focus.sql} IS NULL THEN 0 ELSE 1 END"
    return Value(sql, "integer")


def _distinct(use: Use) -> Value:
    focus = settled(use.focus, use.scope)
    if not focus.many:
        return focus
    focus = matched(focus, EMPTY, use.scope)[0]
    return replace(focus, sql=f"_distinct({focus.sql})")


def _is_distinct(use: Use) -> Value:
    focus = _distinct(use)
    if not focus.many:
        return boolean("TRUE")
    return boolean(f"(coalesce(len({focus.sql}), 0) = {_count(use).sql})")


# Parts of a collection


def _first(use: Use) -> Value:
    focus = use.focus
    if focus.many and focus.alternatives:
        sql = f"coalesce({', '.join(part.sql for part in focus.alternatives)})"
        return replace(focus, sql=sql, many=False, alternatives=())
    focus = focus if not focus.many else settled(focus, use.scope)
    return replace(focus, sql=f"{_closed(focus.sql)}[1]", many=False, beside=None) if focus.many else focus


def _last(use: Use) -> Value:
    focus = settled(use.focus, use.scope)
    return replace(focus, sql=f"{_closed(focus.sql)}[-1]", many=False, beside=None) if focus.many else focus


def _single(use: Use) -> Value:
    return one(settled(use.focus, use.scope))


def _part(use: Use) -> Value:
    """`tail`, `skip(n)` and `take(n)`."""
    focus = settled(use.focus, use.scope)
    listed = _closed(items(focus))
    amount = "1" if use.name == "tail" else f"greatest(CAST({number(use.argument(0), use.scope)} AS BIGINT), 0)"
    part = f"[1:{amount}]" if use.name == "take" else f"[{amount} + 1:]"
    return replace(focus, sql=f"{listed}{part}", many=True, alternatives=(), beside=None)


def _closed(sql: str) -> str:
    """SQL after which an index may stand."""
    return sql if sql.endswith((")", '"')) and not sql.startswith("CASE") else f"({sql})"


# Types


def _of_type(use: Use) -> Value:
    return pick(use.focus, type_name(use.arguments[0]), use.scope)


def _is(use: Use) -> Value:
    focus, kind = use.focus, type_name(use.arguments[0])
    found = exists(pick(focus, kind, use.scope))
    return boolean(f"CASE WHEN {exists(focus)} THEN {found} END")


def _extension(use: Use) -> Value:
    url = text(use.argument(0), use.scope)
    found = step(use.focus, "extension", use.scope)
    name = use.scope.variable()
    if found.type == "empty":
        return EMPTY
    address = text(step(replace(found, sql=name, many=False), "url", use.scope), use.scope)
    if not found.many:
        return replace(found, sql=f"CASE WHEN {address.replace(name, found.sql)} = {url} THEN {found.sql} END")
    return replace(found, sql=f"list_filter({found.sql}, lambda {name}: {address} = {url})")


def _resource_key(use: Use) -> Value:
    focus, scope = use.focus, use.scope
    if focus.many or focus.form not in ("struct", "json"):
        raise ViewError("getResourceKey() is for the resource.")
    kind, key = read(focus, "resourceType", "code", scope), read(focus, "id", "id", scope)
    for part in (kind, key):
        if part.place is not None:
            part.place.leaf = TOKEN
    if focus is scope.root:
        return Value(f"_key({literal(focus.type)}, {kind.sql}, {key.sql})", "string")
    return Value(f"({text(kind, scope)} || '/' || {text(key, scope)})", "string")


def _reference_key(use: Use) -> Value:
    _note_reference(use)
    wanted = type_name(use.arguments[0]) if use.arguments else None

    def key(item: Value) -> Value:
        reference = text(step(item, "reference", use.scope), use.scope)
        resolved = f"_resolve({reference}, {literal(wanted)})" if wanted else f"_resolve_any({reference})"
        return Value(resolved, "string")

    return each(use.focus, use.scope, key)


def _note_reference(use: Use) -> None:
    root = use.scope.root.place
    if root is not None:
        name = next((name for name, place in root.fields.items() if place is use.focus.place), None)
        if name is not None:
            use.scope.references[name] = None


# Choosing and combining


def _iif(use: Use) -> Value:
    scope = use.scope
    condition = truth(use.within(use.focus), scope)
    branches = [use.within(use.focus, place) for place in range(1, len(use.arguments))]
    parts = _of_one_kind(branches, use)
    if not parts:
        return EMPTY
    many = any(part.many for part in parts)
    left = iter(parts)
    made = [next(left) if branch.type != "empty" or branch.choices else None for branch in branches]
    sqls = ["NULL" if part is None else items(part) if many else part.sql for part in made]
    other = ""
    if len(sqls) > 1:
        # iif in iif is one CASE: nested ones cost a copy of the result at every level.
        other = f" {sqls[1][5:-4]}" if sqls[1].startswith("CASE WHEN ") else f" ELSE {sqls[1]}"
    sources = tuple(source for part in parts for source in part.sources)
    sql = f"CASE WHEN {condition} THEN {sqls[0]}{other} END"
    return Value(sql, parts[0].type, many, parts[0].form, sources=sources)


def _of_one_kind(values: list[Value], use: Use) -> list[Value]:
    """Values of which one is the result: a number here and a text there would come out as JSON, quotes and all."""
    groups = {value.group for value in values if value.type != "empty" and not value.choices}
    if len(groups) > 1 and groups <= {"text", "moment", "time", "number", "boolean"} and groups & {"number", "boolean"}:
        kinds = " and ".join(sorted(groups))
        raise ViewError(f"{use.name}() would give values of different kinds: {kinds}.", todo="Add toString().")
    return alike(values, use.scope)


def _union(use: Use) -> Value:
    other = settled(use.argument(0), use.scope)
    return union(settled(use.focus, use.scope), other, use.scope, distinct=use.name == "union")


def _coalesce(use: Use) -> Value:
    parts = _of_one_kind([use.argument(place) for place in range(len(use.arguments))], use)
    if not parts:
        return EMPTY
    many = any(part.many for part in parts)
    sources = tuple(source for part in parts for source in part.sources)
    if not many:
        return Value(
            f"coalesce({', '.join(part.sql for part in parts)})", parts[0].type, False, parts[0].form, sources=sources
        )
    sqls = [f"CASE WHEN len({items(part)}) > 0 THEN {items(part)} END" for part in parts]
    return Value(f"coalesce({', '.join(sqls)})", parts[0].type, True, parts[0].form, sources=sources)


def _join(use: Use) -> Value:
    between = text(use.argument(0), use.scope) if use.arguments else "''"
    focus = settled(use.focus, use.scope)
    words = each(focus, use.scope, lambda item: Value(text(item, use.scope), "string"))
    if words.type == "empty":
        return Value("''", "string")
    return Value(f"coalesce(array_to_string({items(words)}, {between}), '')", "string")


FUNCTIONS: Final[dict[str, tuple[Function, int, int]]] = {
    "exists": (_exists, 0, 1),
    "empty": (_empty, 0, 0),
    "not": (_not, 0, 0),
    "where": (_where, 1, 1),
    "select": (_select, 1, 1),
    "all": (_all, 1, 1),
    "allTrue": (_of_truths("FALSE", "FALSE"), 0, 0),
    "anyTrue": (_of_truths("TRUE", "TRUE"), 0, 0),
    "allFalse": (_of_truths("TRUE", "FALSE"), 0, 0),
    "anyFalse": (_of_truths("FALSE", "TRUE"), 0, 0),
    "count": (_count, 0, 0),
    "distinct": (_distinct, 0, 0),
    "isDistinct": (_is_distinct, 0, 0),
    "first": (_first, 0, 0),
    "last": (_last, 0, 0),
    "single": (_single, 0, 0),
    "tail": (_part, 0, 0),
    "skip": (_part, 1, 1),
    "take": (_part, 1, 1),
    "ofType": (_of_type, 1, 1),
    "as": (_of_type, 1, 1),
    "is": (_is, 1, 1),
    "extension": (_extension, 1, 1),
    "getResourceKey": (_resource_key, 0, 0),
    "getReferenceKey": (_reference_key, 0, 1),
    "iif": (_iif, 2, 3),
    "union": (_union, 1, 1),
    "combine": (_union, 1, 1),
    "coalesce": (_coalesce, 1, 20),
    "join": (_join, 0, 1),
    **VALUES,
}
"""Function, fewest and most arguments."""
