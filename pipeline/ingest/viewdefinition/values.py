"""What a FHIRPath expression compiles to: SQL for a collection, with what is known of its items.

A collection of at most one item is a plain SQL value, NULL where it is empty; any other is a LIST without NULL items.
Items are plain SQL values, structs read by explicit columns, or JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, Literal

from pipeline.ingest.viewdefinition.definition import ViewError
from pipeline.ingest.viewdefinition.elements import MOMENTS, NUMBERS, PRIMITIVES, TEXTS, UNKNOWN, WHOLE_NUMBERS
from pipeline.ingest.viewdefinition.shape import Place
from pipeline.store.connection import literal

Form = Literal["plain", "struct", "json"]
QUANTITIES: Final = frozenset({"Quantity", "Age", "Count", "Distance", "Duration", "Money"})


@dataclass(frozen=True)
class Choice:
    """One type that an element may have.

    Attributes:
        type: The FHIR type.
        read: Gives the element as this type; only then are its fields read.
    """

    type: str
    read: Callable[[], Value]


@dataclass(frozen=True)
class Value:
    """A compiled expression.

    Attributes:
        sql: The SQL; a LIST if `many`.
        type: FHIR type of the items; UNKNOWN where R4 does not say.
        many: May it hold several items?
        form: How the items are represented.
        place: Where the items are read from, if they are read and not computed.
        beside: The element that holds a primitive's `_name` (its id and extensions), and that name.
        choices: For an element of several types: what it may be.
        sources: The places that the items come from.
        literal: It is a constant.
        unit: SQL of the unit, for a literal quantity.
        alternatives: For a union of values of one item at most: these, in order.
    """

    sql: str
    type: str
    many: bool = False
    form: Form = "plain"
    place: Place | None = None
    beside: tuple[Value, str, bool] | None = None
    choices: tuple[Choice, ...] = ()
    sources: tuple[Place, ...] = ()
    literal: bool = False
    unit: str = ""
    alternatives: tuple[Value, ...] = ()

    @property
    def group(self) -> str:
        """The kind of value for comparing and combining: text, number, boolean, moment, time, quantity, or complex."""
        if self.type in MOMENTS:
            return "moment"
        if self.type == "time":
            return "time"
        if self.type in TEXTS:
            return "text"
        if self.type in NUMBERS:
            return "number"
        if self.type in QUANTITIES:
            return "quantity"
        return self.type if self.type in ("boolean", UNKNOWN, "empty") else "complex"


@dataclass
class Scope:
    """Where an expression stands.

    Attributes:
        root: The resource.
        this: The element that paths start from.
        row: SQL of `%rowIndex`.
        index: SQL of `$index`, within a function that looks at one item after the other.
        constants: The values of `%name`.
        unknown: Elements that R4 does not have, as they are met.
        references: Names of the resource's references that are turned into keys, as they are met.
        names: Numbers for lambda variables.
        prefix: What their names start with.
    """

    root: Value
    this: Value
    row: str = "0"
    index: str | None = None
    constants: dict[str, Value] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)
    references: dict[str, None] = field(default_factory=dict)
    names: count[int] = field(default_factory=count)
    prefix: str = "e"

    def variable(self) -> str:
        """A name for a lambda's variable that no other has."""
        return f"{self.prefix}{next(self.names)}"

    def on(self, this: Value, *, index: str | None = None, row: str | None = None) -> Scope:
        """The same with another element in focus."""
        return replace(self, this=this, index=index, row=row or self.row)


EMPTY: Final = Value("NULL", "empty")


def text_literal(text: str) -> str:
    """Text as an SQL literal; the mark that stands for the source of a view's rows cannot occur in it."""
    return literal(text).replace("{source}", "{sour' || 'ce}")


def boolean(sql: str) -> Value:
    """A computed boolean."""
    return Value(sql, "boolean")


def items(value: Value) -> str:
    """The value as a LIST."""
    if value.many:
        return value.sql
    return f"CASE WHEN {value.sql} IS NOT NULL THEN [{value.sql}] END"


def exists(value: Value) -> str:
    """SQL: is there any item?"""
    if value.choices:
        return "(" + " OR ".join(exists(choice.read()) for choice in value.choices) + ")"
    return f"coalesce(len({value.sql}) > 0, FALSE)" if value.many else f"({value.sql} IS NOT NULL)"


def each(value: Value, scope: Scope, action: Callable[[Value], Value]) -> Value:
    """What `action` makes of every item, all in one collection."""
    if not value.many:
        return action(value)
    name = scope.variable()
    made = action(replace(value, sql=name, many=False, alternatives=()))
    parent = made.beside[0] if made.beside else None
    lifted = (value, made.beside[1], made.beside[2]) if made.beside and parent and parent.sql == name else None
    made = replace(made, beside=lifted)
    if made.choices:
        return _choices_of_each(value, made, scope, action)
    if made.many:
        return replace(made, sql=f"flatten(list_transform({value.sql}, lambda {name}: {made.sql}))")
    if made.sql == name:
        return replace(made, sql=value.sql, many=True)
    kept = scope.variable()
    listed = f"list_transform({value.sql}, lambda {name}: {made.sql})"
    return replace(made, sql=f"list_filter({listed}, lambda {kept}: {kept} IS NOT NULL)", many=True)


def _choices_of_each(value: Value, made: Value, scope: Scope, action: Callable[[Value], Value]) -> Value:
    def reader(number: int) -> Callable[[], Value]:
        return lambda: each(value, scope, lambda item: action(item).choices[number].read())

    choices = tuple(Choice(choice.type, reader(number)) for number, choice in enumerate(made.choices))
    name = made.beside[1] if made.beside else ""
    return Value("NULL", UNKNOWN, many=True, choices=choices, beside=(value, name, False))


def one(value: Value) -> Value:
    """The only item; raises where there are several."""
    return replace(value, sql=f"_one({value.sql})", many=False) if value.many else value


def plain(value: Value, scope: Scope) -> Value:
    """Items of a primitive type as SQL values of their own type; others as they are."""
    if value.form != "json" or value.type not in PRIMITIVES:
        return value
    macro = "_text" if value.type in TEXTS else "_flag" if value.type == "boolean" else "_number"
    if value.many:
        name = scope.variable()
        return replace(value, sql=f"list_transform({value.sql}, lambda {name}: {macro}({name}))", form="plain")
    return replace(value, sql=f"{macro}({value.sql})", form="plain")


def whole(value: Value, scope: Scope) -> Value:
    """Items as JSON, complete."""
    if value.form == "struct":
        if value.place is None or value.type == "":
            raise ViewError("The whole of this element cannot be read here.", todo="Name the fields that you need.")
        value.place.whole = True  # the view is compiled anew with this
        return replace(value, form="json")
    if value.form == "json":
        return value
    return each(value, scope, lambda item: replace(item, sql=f"to_json({item.sql})", form="json", type=value.type))


def as_type(value: Value, kind: str, scope: Scope) -> Value:
    """Items of unknown type taken for this one."""
    return plain(replace(value, type=kind), scope) if value.type == UNKNOWN else plain(value, scope)


def truth(value: Value, scope: Scope) -> str:
    """SQL of the value as a condition; one item that is no boolean counts as true."""
    single = one(settled(value, scope))
    if single.type in ("boolean", "empty"):
        return f"CAST({plain(single, scope).sql} AS BOOLEAN)" if single.type == "empty" else plain(single, scope).sql
    if single.type == UNKNOWN:
        return f"_flag({single.sql})"
    return f"CASE WHEN {single.sql} IS NOT NULL THEN TRUE END"


def text(value: Value, scope: Scope) -> str:
    """SQL of a single item as text."""
    single = plain(one(settled(value, scope)), scope)
    if single.type == UNKNOWN:
        return f"_text({single.sql})"
    if single.group == "number":
        return f"_spell({single.sql})"
    if single.type == "boolean":
        return f"CAST({single.sql} AS VARCHAR)"
    if single.group == "complex":
        raise ViewError("Text was expected here.")
    return single.sql if single.type != "empty" else "CAST(NULL AS VARCHAR)"


def number(value: Value, scope: Scope) -> str:
    """SQL of a single item as a number."""
    single = one(settled(value, scope))
    if single.type == UNKNOWN:
        return f"_number({single.sql})"
    if single.type == "empty":
        return "CAST(NULL AS DOUBLE)"
    if single.group != "number":
        raise ViewError("A number was expected here.")
    return plain(single, scope).sql


def settled(value: Value, scope: Scope) -> Value:
    """An element of several types as one value: JSON of the one that is there."""
    if not value.choices:
        return value
    if value.many and value.beside:
        from pipeline.ingest.viewdefinition.steps import step

        parent, name, _ = value.beside
        return each(parent, scope, lambda item: settled(step(item, name, scope), scope))
    parts = [whole(choice.read(), scope) for choice in value.choices]
    return Value(
        f"coalesce({', '.join(part.sql for part in parts)})",
        UNKNOWN,
        form="json",
        sources=tuple(source for part in parts for source in part.sources),
    )


def sql_type(value: Value) -> str:
    """The SQL type of an item as a column."""
    if value.type == "boolean":
        return "BOOLEAN"
    if value.type in WHOLE_NUMBERS:
        return "BIGINT" if value.type == "integer64" else "INTEGER"
    return "DOUBLE" if value.type == "decimal" else "VARCHAR"
