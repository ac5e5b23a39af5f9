"""Steps from an element to its members: struct fields where the columns are explicit, JSON where they are not."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Final

from pipeline.ingest.viewdefinition.definition import ViewError
from pipeline.ingest.viewdefinition.elements import NUMBERS, PRIMITIVES, UNKNOWN, Element, elements, known
from pipeline.ingest.viewdefinition.shape import ANY, FLAG, NUMBER, OBJECT, TEXT, Place
from pipeline.ingest.viewdefinition.values import EMPTY, Choice, Form, Scope, Value, each, settled
from pipeline.store.connection import identifier, literal

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def step(value: Value, name: str, scope: Scope) -> Value:
    """The member `name` of every item of a value.

    An element that R4 does not have is read as it comes (any number of items of unknown type) and noted.
    """
    if value.type == "empty" or (value.type in PRIMITIVES and value.type != UNKNOWN):
        return _of_primitive(value, name, scope)
    if value.choices:
        return step(settled(value, scope), name, scope)
    return each(value, scope, lambda item: _member(item, name, scope))


def _of_primitive(value: Value, name: str, scope: Scope) -> Value:
    """`id` and `extension` of a primitive stand in a field beside it, `_name`."""
    if name not in ("id", "extension"):
        return EMPTY
    if value.beside is None:
        if value.sources:
            raise ViewError(f"The {name} of a value that was picked out cannot be read: ask for it before picking.")
        return EMPTY
    parent, field, many = value.beside
    beside = each(parent, scope, lambda item: read(item, f"_{field}", "Element", scope, many=many))
    return step(beside, name, scope)


def _member(item: Value, name: str, scope: Scope) -> Value:
    """The member of one item."""
    if not _NAME.fullmatch(name):
        raise ViewError(f"There is no element called '{name}'.")
    if item.form == "plain":
        raise ViewError(f"A value that is written out or computed has no element '{name}'.")
    there = elements(item.type) if item.type != UNKNOWN else None
    element = (there or {}).get(name)
    if element is None:
        if there is not None and item.type != "Resource":
            scope.unknown[f"{item.type}.{name}"] = None
        return _unknown(item, name, scope)
    if element.choice:
        choices = tuple(Choice(kind, partial(_typed, item, element, kind, scope)) for kind in element.types)
        return Value("NULL", UNKNOWN, choices=choices, beside=(item, name, False))
    return _typed(item, element, element.types[0], scope)


def _typed(item: Value, element: Element, kind: str, scope: Scope) -> Value:
    """An element as one of its types."""
    return read(item, element.field(kind), kind if known(kind) else UNKNOWN, scope, many=element.many)


def read(item: Value, field: str, kind: str, scope: Scope, *, many: bool = False) -> Value:
    """The field of this JSON name and type of one item."""
    beside = (item, field, many) if kind in PRIMITIVES else None
    if item.form == "json":
        path = literal(f'$."{field}"')
        sql = f"_list(json_extract({item.sql}, {path}))" if many else f"_get({item.sql}, {path})"
        return Value(sql, kind, many, "json", beside=beside)
    assert item.place is not None
    place = _place(item.place, field, kind, many)
    form: Form = "plain" if place.leaf not in (ANY, NUMBER, FLAG) else "json"
    if kind not in PRIMITIVES:
        form = "struct" if kind != UNKNOWN and not place.whole else "json"
    sql = _field(item.sql, field)
    if many and kind in PRIMITIVES:  # a null stands there for an item of which only extensions are given
        kept = scope.variable()
        sql = f"list_filter({sql}, lambda {kept}: {kept} IS NOT NULL)"
    return Value(sql, kind, many, form, place, beside, sources=(place,))


def _place(parent: Place, field: str, kind: str, many: bool) -> Place:
    if kind == "boolean":
        leaf = FLAG
    elif kind in NUMBERS:
        leaf = NUMBER
    else:
        leaf = TEXT if kind in PRIMITIVES else ANY if kind == UNKNOWN else OBJECT
    return parent.child(field, leaf=leaf, many=many)


def _unknown(item: Value, name: str, scope: Scope) -> Value:
    """A member of which nothing is known: JSON, and any number of items."""
    if item.form == "json":
        sql = f"json_extract({item.sql}, " + literal(f'$."{name}"') + ")"
        return Value(f"_items({sql})", UNKNOWN, True, "json")
    assert item.place is not None
    place = item.place.child(name, leaf=ANY, many=False)
    return Value(f"_items({_field(item.sql, name)})", UNKNOWN, True, "json", sources=(place,))


def _field(sql: str, name: str) -> str:
    simple = sql.replace("_", "").replace('"', "").replace(".", "").isalnum() or sql.endswith((")", "]"))
    return f"{sql if simple else f'({sql})'}.{identifier(name)}"


def pick(value: Value, kind: str, scope: Scope) -> Value:
    """The items that are of this type (`ofType`, `as`)."""
    if value.choices:
        fitting = [choice for choice in value.choices if _is(choice.type, kind)]
        fitting.sort(key=lambda choice: choice.type != kind)
        return fitting[0].read() if fitting else EMPTY
    if value.type == "Resource":
        mark = each(value, scope, lambda item: _of_resource(item, kind, scope))
        return replace(mark, type=kind)
    if value.type == UNKNOWN:
        return replace(value, type=kind) if known(kind) else value
    return value if _is(value.type, kind) else EMPTY


def _of_resource(item: Value, kind: str, scope: Scope) -> Value:
    named = read(item, "resourceType", "code", scope)
    sql = f"_text({named.sql})" if named.form == "json" else named.sql
    return replace(item, sql=f"CASE WHEN {sql} = {literal(kind)} THEN {item.sql} END")


_PARENTS = {
    "code": "string",
    "id": "string",
    "markdown": "string",
    "url": "uri",
    "canonical": "uri",
    "oid": "uri",
    "uuid": "uri",
    "positiveInt": "integer",
    "unsignedInt": "integer",
    "Age": "Quantity",
    "Count": "Quantity",
    "Distance": "Quantity",
    "Duration": "Quantity",
}


def _is(kind: str, wanted: str) -> bool:
    """Is a type this one, or one derived from it?"""
    return kind == wanted or _PARENTS.get(kind) == wanted
