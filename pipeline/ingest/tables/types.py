"""Types of plain tables: how text cells become typed ones, by a declared schema or found over all rows.

A cell of blanks alone is missing in a column of numbers, dates or bools, and a text in a column of text.

Here are only expressions and counts over DuckDB relations of text; which files they come from is in `tables.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.store.connection import identifier, literal

if TYPE_CHECKING:
    import duckdb

    from pipeline.features.schema import TableSchema

# DuckDB type of a declared dtype, and what its text must look like (DuckDB's casts alone would take '1_000' or 'yes').
_DECLARED = {
    "float64": ("DOUBLE", r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "float32": ("FLOAT", r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "int64": ("BIGINT", r"[+-]?\d+(\.0+)?"),
    "int32": ("INTEGER", r"[+-]?\d+(\.0+)?"),
    "bool": ("BOOLEAN", r"(?i)true|false|0|1|t|f|yes|no|y|n"),
    "string": ("VARCHAR", None),
    "timestamp[us]": ("TIMESTAMP", r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?"),
    "date32[day]": ("DATE", r"\d{4}-\d\d-\d\d"),
}
# Inferred types, tried in this order; a leading zero keeps a code a text ("007").
_INFERRED = (
    ("BIGINT", r"-?(0|[1-9]\d*)"),
    ("DOUBLE", r"-?(0|[1-9]\d*|\d*\.\d+|[1-9]\d*\.|0\.)([eE][+-]?\d+)?"),
    ("BOOLEAN", r"(?i)true|false"),
    ("DATE", r"\d{4}-\d\d-\d\d"),
    ("TIMESTAMP", _DECLARED["timestamp[us]"][1]),
)
_LOOKED_AT = 50
"""First rows by which the types are told that a column cannot have."""
_TOGETHER = 100
"""Columns of a very wide table that are looked at together."""


@dataclass(frozen=True)
class Casts:
    """How text columns become typed ones.

    Attributes:
        select: Expressions of the typed columns, named as in the file.
        good: Condition of the rows that fit.
        reason: Expression giving why a row does not fit.
    """

    select: str
    good: str = "TRUE"
    reason: str = "''"


def declared_casts(schema: TableSchema, cells: Mapping[str, str]) -> Casts:
    """Casts as a schema says.

    Args:
        schema: The schema; all its columns are in `cells`.
        cells: Column name to the text column of the relation.
    """
    parts, wrong, absent = [], [], []
    for column in schema.columns:
        text = cells[column.name]
        sql, pattern = _DECLARED[column.dtype]
        cast = _cast(text, sql)
        parts.append(f"{cast} AS {identifier(column.name)}")
        if pattern is not None:
            finite = f" OR NOT isfinite({cast})" if sql in ("DOUBLE", "FLOAT") else ""
            match = f"regexp_full_match(trim({text}), {literal(pattern)})"
            wrong.append(f"(coalesce(trim({text}), '') <> '' AND (NOT {match} OR {cast} IS NULL{finite}))")
        if not column.nullable:
            absent.append(f"{text} IS NULL" if pattern is None else f"coalesce(trim({text}), '') = ''")
    bad_type, missing = " OR ".join(wrong) or "FALSE", " OR ".join(absent) or "FALSE"
    reason = f"CASE WHEN {bad_type} THEN 'wrong_type' WHEN {missing} THEN 'missing_value' END"
    return Casts(", ".join(parts), f"NOT (({bad_type}) OR ({missing}))", reason)


def found_casts(connection: duckdb.DuckDBPyConnection, relations: Sequence[str], names: Sequence[str]) -> Casts:
    """Casts to the narrowest type that every value of a column fits, over all rows.

    Args:
        connection: Where the relations are.
        relations: Tables with the rows; columns `c0`, `c1`, ... are those called `names`.
        names: Column names.
    """
    cells, wide = [f"c{place}" for place in range(len(names))], relations
    head = connection.execute(f"SELECT {', '.join(cells)} FROM {relations[0]} LIMIT {_LOOKED_AT}").fetchall()
    types = []
    for place, cell in enumerate(cells):
        if len(cells) > 2 * _TOGETHER and place % _TOGETHER == 0:
            # Every query binds all columns of its relations, which over thousands of columns is most of the work.
            few = ", ".join(cells[place : place + _TOGETHER])
            rows = " UNION ALL ".join(f"SELECT {few} FROM {relation}" for relation in wide)
            connection.execute(f"CREATE OR REPLACE TEMP TABLE few_columns AS {rows}").fetchall()
            relations = ["few_columns"]
        some = [text for row in head if row[place] is not None and (text := row[place].strip(" "))]
        likely = [sql for sql, pattern in _INFERRED if all(re.fullmatch(str(pattern), text, re.ASCII) for text in some)]
        rows = " UNION ALL ".join(f"SELECT {cell} FROM {relation}" for relation in relations)
        types.append(_found(connection, f"({rows})", cell, likely) if likely else "VARCHAR")
    connection.execute("DROP TABLE IF EXISTS few_columns").fetchall()
    every = zip(cells, types, names, strict=True)
    return Casts(", ".join(f"{_found_cast(cell, sql)} AS {identifier(name)}" for cell, sql, name in every))


def _found(connection: duckdb.DuckDBPyConnection, relation: str, text: str, likely: Sequence[str]) -> str:
    """The narrowest of the likely types of a column; each distinct value is tried once."""
    tests = []
    kinds = [(sql, pattern) for sql, pattern in _INFERRED if sql in likely]
    for sql, pattern in kinds:
        finite = ""
        if sql == "DOUBLE":  # a whole number that a double cannot hold stays text: its last digits would be others
            number = f"TRY_CAST(trim({text}) AS DOUBLE)"
            finite = (
                f" AND isfinite({number})"
                f" AND NOT (abs({number}) >= 9007199254740992 AND regexp_full_match(trim({text}), '-?\\d+'))"
            )
        fits = (
            f"regexp_full_match(trim({text}), {literal(str(pattern))}) AND {_found_cast(text, sql)} IS NOT NULL{finite}"
        )
        tests.append(f"coalesce(bool_and({fits}), FALSE)")
    ((*answers,),) = connection.execute(
        f"SELECT {', '.join(tests)} FROM (SELECT DISTINCT {text} FROM {relation} WHERE trim({text}) <> '')"
    ).fetchall()
    return next((sql for (sql, _), fits in zip(kinds, answers, strict=True) if fits), "VARCHAR")


def _found_cast(text: str, sql: str) -> str:
    """The cast to a type that was found. (No fraction comes here, and the longer way is slow over very many columns.)"""
    return f"TRY_CAST(trim({text}) AS {sql})" if sql == "BIGINT" else _cast(text, sql)


def _cast(text: str, sql: str) -> str:
    """Text to a type, NULL where it does not fit; times with an offset become UTC, as a plain cast would drop it."""
    if sql == "VARCHAR":
        return text
    if sql == "TIMESTAMP":
        return f"make_timestamp(epoch_us(TRY_CAST(trim({text}) AS TIMESTAMPTZ)))"
    if sql in ("BIGINT", "INTEGER"):  # "63.0" is 63, and no other fraction comes here
        return f"coalesce(TRY_CAST(trim({text}) AS {sql}), TRY_CAST(split_part(trim({text}), '.', 1) AS {sql}))"
    if sql == "BOOLEAN":
        return (
            f"CASE WHEN lower(trim({text})) IN ('true', 't', 'yes', 'y', '1') THEN TRUE "
            f"WHEN trim({text}) <> '' THEN FALSE END"
        )
    return f"TRY_CAST(trim({text}) AS {sql})"
