"""Rows of a view as SQL: columns that all of them have alike, and lists of structs that are unnested at the end.

So a file is read once, whatever the view unites. Where all rows come from lists one after the other, numbers are
unnested instead and the items looked up, which is faster.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.ingest.viewdefinition.columns import OutColumn
from pipeline.ingest.viewdefinition.values import Scope
from pipeline.store.connection import identifier

_COLUMN: Final = re.compile(r'r\."\w+"')

Build = Callable[[list[OutColumn], dict[str, str]], str]
"""Gives SQL of a list of structs with these columns; the second argument has the SQL of those that are not its own."""


@dataclass(frozen=True)
class Piece:
    """Rows that one list alone makes.

    Attributes:
        listed: SQL of the list; None for exactly one row.
        element: The variable that stands for the list's item in the columns.
        number: The variable that stands for its number, from 1.
        columns: Column name to SQL.
    """

    listed: str | None
    element: str
    number: str
    columns: dict[str, str]


@dataclass(frozen=True)
class Listed:
    """Rows as a list.

    Attributes:
        build: Gives the SQL.
        columns: The columns that differ in it.
        pieces: The same as pieces one after the other, where it is so simple.
    """

    build: Build
    columns: list[OutColumn]
    pieces: tuple[Piece, ...] | None = None


@dataclass
class Rows:
    """The rows of a select: the columns that are the same in all of them, and the lists of what differs.

    Attributes:
        order: All columns, in order.
        once: Column name to SQL.
        lists: Each list of what differs.
    """

    order: list[OutColumn] = field(default_factory=list)
    once: dict[str, str] = field(default_factory=dict)
    lists: list[Listed] = field(default_factory=list)


def struct(order: list[OutColumn], columns: dict[str, str]) -> str:
    """One row as a struct."""
    fields = ", ".join(f"{identifier(c.name)} := CAST({columns[c.name]} AS {c.sql_type})" for c in order)
    return f"struct_pack({fields or '_ := TRUE'})"


def listed(rows: Rows, scope: Scope, order: list[OutColumn], others: dict[str, str]) -> str:
    """Rows as a list of structs with these columns: every combination of their lists."""
    columns = rows.once | others
    if not rows.lists:
        return f"[{struct(order, columns)}]"
    if len(rows.lists) == 1:
        return rows.lists[0].build(order, columns)
    names = [scope.variable() for _ in rows.lists]
    for part, name in zip(rows.lists, names, strict=True):
        columns = columns | {column.name: f"{name}.{identifier(column.name)}" for column in part.columns}
    sql = struct(order, columns)
    for number, (part, name) in enumerate(reversed(list(zip(rows.lists, names, strict=True)))):
        sql = f"list_transform({part.build(part.columns, {})}, lambda {name}: {sql})"
        if number:
            sql = f"flatten({sql})"
    return sql


def final_select(rows: Rows, conditions: list[str], scope: Scope) -> str:
    """The SELECT."""
    only = f"\nWHERE {' AND '.join(f'({condition})' for condition in conditions)}" if conditions else ""
    if not rows.lists:
        columns = ",\n    ".join(f"{rows.once[c.name]} AS {identifier(c.name)}" for c in rows.order)
        return f"SELECT {columns}\nFROM {{source}} AS r{only}"
    if len(rows.lists) == 1 and rows.lists[0].pieces is not None:
        return _numbered_rows(rows, rows.lists[0].pieces, only)
    moving = [column for column in rows.order if column.name not in rows.once]
    once = [f"{rows.once[c.name]} AS {identifier(c.name)}" for c in rows.order if c.name in rows.once]
    lists = Rows(moving, {}, rows.lists)
    inner = ",\n    ".join([*once, f"unnest({listed(lists, scope, moving, {})}) AS _row"])
    outer = ", ".join(
        f"{identifier(c.name)}" if c.name in rows.once else f"_row.{identifier(c.name)} AS {identifier(c.name)}"
        for c in rows.order
    )
    return f"SELECT {outer}\nFROM (SELECT {inner}\nFROM {{source}} AS r{only})"


def pieces_of(rows: Rows) -> tuple[Piece, ...] | None:
    """The rows of a branch as pieces, if they are so simple."""
    if not rows.lists:
        return (Piece(None, "", "", rows.once),)
    if len(rows.lists) > 1 or rows.lists[0].pieces is None:
        return None
    return tuple(replace(piece, columns=rows.once | piece.columns) for piece in rows.lists[0].pieces)


def _numbered_rows(rows: Rows, pieces: tuple[Piece, ...], only: str) -> str:
    """The SELECT where all rows come from lists one after the other: numbers are unnested, and items looked up.

    The fast form: lists of structs with every column in them cost a copy of each value.
    """
    lists, names, ends, end = [], [], [], ""
    for place, piece in enumerate(pieces):
        name = piece.listed or ""
        if name and not _COLUMN.fullmatch(name):
            lists.append(f"{name} AS _list{place}")
            name = f"_list{place}"
        names.append(name)
        length = f"coalesce(len({name}), 0)" if name else "1"
        ends.append(end := f"{end} + {length}" if end else length)
    columns = []
    for column in rows.order:
        branches = []
        for place, piece in enumerate(pieces):
            number = f"(_n - ({ends[place - 1]}))" if place else "_n"
            sql = rows.once.get(column.name, piece.columns.get(column.name, ""))
            if names[place]:
                sql = re.sub(rf"\b{piece.element}\b", f"{names[place]}[{number}]", sql)
                sql = re.sub(rf"\b{piece.number}\b", number, sql)
            branches.append(f"CAST({sql} AS {column.sql_type})")
        if len(set(branches)) == 1:
            sql = branches[0]
        else:
            cases = [f"WHEN _n <= {end} THEN {sql}" for end, sql in zip(ends[:-1], branches[:-1], strict=True)]
            sql = f"CASE {' '.join(cases)} ELSE {branches[-1]} END"
        columns.append(f"{sql} AS {identifier(column.name)}")
    source = f"(SELECT {', '.join(['*', *lists])} FROM {{source}} AS r)" if lists else "{source}"
    numbered = f"SELECT *, unnest(range(1, 1 + {end})) AS _n\nFROM {source} AS r{only}"
    return "SELECT " + ",\n    ".join(columns) + f"\nFROM ({numbered}) AS r"
