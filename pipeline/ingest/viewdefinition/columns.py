"""The columns of a view: the value of a path as one SQL value of the type that the column asks for.

Tags say what the standard has no word for: `ansi/type` the SQL type; `cohortloom/moment` a date or time as
`timestamp` (naive UTC, a partial one at the start of its period), as `date`, or its `precision`; `cohortloom/token`
that an object or a list in the place of a text is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from pipeline.ingest.viewdefinition.definition import Column, ViewError
from pipeline.ingest.viewdefinition.elements import NUMBERS, PRIMITIVES, TEXTS, UNKNOWN, WHOLE_NUMBERS, known
from pipeline.ingest.viewdefinition.shape import MOMENT, TEXT, TOKEN
from pipeline.ingest.viewdefinition.values import (
    Scope,
    Value,
    as_type,
    each,
    items,
    one,
    plain,
    settled,
    sql_type,
    whole,
)

TYPE: Final = "ansi/type"
MOMENT_TAG: Final = "cohortloom/moment"
TOKEN_TAG: Final = "cohortloom/token"

_MOMENTS: Final = {
    "timestamp": ("_moment({})", "TIMESTAMP"),
    "date": ("CAST(_moment({}) AS DATE)", "DATE"),
    "precision": ("_precision({})", "VARCHAR"),
}
_ANSI: Final = re.compile(
    r"(CHARACTER VARYING|VARCHAR|TEXT|CHAR|BOOLEAN|INTEGER|INT|SMALLINT|BIGINT|REAL|FLOAT|DOUBLE PRECISION|DOUBLE|"
    r"DECIMAL|NUMERIC|DATE|TIMESTAMP WITH TIME ZONE|TIMESTAMP|TIME)(\(\d+(, ?\d+)?\))?",
    re.I,
)


@dataclass(frozen=True)
class OutColumn:
    """A column as it comes out.

    Attributes:
        name: Its name.
        sql_type: Its DuckDB type.
        empty: Its path is `{}`: it has no type of its own.
    """

    name: str
    sql_type: str
    empty: bool = False


def finished(column: Column, value: Value, scope: Scope) -> tuple[str, OutColumn]:
    """SQL of a column, and what it is called.

    Raises:
        ViewError: The path's value cannot be of the column's type, or a tag is not known.
    """
    value = settled(value, scope)
    if moment := column.tagged(MOMENT_TAG):
        return _moment(column, moment, value, scope)
    if column.tagged(TOKEN_TAG):
        _mark(value, TOKEN)
        return f"_token({one(value).sql})", OutColumn(column.name, "VARCHAR")
    wanted = _type(column, value)
    if column.collection:
        made = each(value, scope, lambda item: replace(item, sql=_single(item, column, wanted, scope), form="plain"))
        listed = f"coalesce({items(made)}, CAST([] AS {wanted}[]))"
        return f"CAST({listed} AS {wanted}[])", OutColumn(column.name, f"{wanted}[]")
    return _single(one(value), column, wanted, scope), OutColumn(column.name, wanted, value.type == "empty")


def _moment(column: Column, moment: str, value: Value, scope: Scope) -> tuple[str, OutColumn]:
    if moment not in _MOMENTS:
        raise ViewError(f"The tag {MOMENT_TAG} is one of {', '.join(_MOMENTS)}, not '{moment}'.")
    if value.group not in ("moment", "empty", UNKNOWN):
        raise ViewError(f"The tag {MOMENT_TAG} needs a date or a time, and the path is of type {value.type}.")
    _mark(value, MOMENT)
    macro, kind = _MOMENTS[moment]
    return macro.format(as_type(one(value), "dateTime", scope).sql), OutColumn(column.name, kind)


def _mark(value: Value, leaf: str) -> None:
    for place in value.sources:
        if place.leaf == TEXT or (place.leaf == TOKEN and leaf == MOMENT):
            place.leaf = leaf


def _type(column: Column, value: Value) -> str:
    """The SQL type of the column's items."""
    ansi = column.tagged(TYPE)
    if ansi is not None:
        if not _ANSI.fullmatch(ansi.strip()):
            raise ViewError(f"The SQL type '{ansi}' of the tag {TYPE} is not known.")
        found = re.sub(r"^(CHARACTER VARYING|TEXT|CHAR)\b.*", "VARCHAR", ansi.strip().upper())
        return found.replace("DOUBLE PRECISION", "DOUBLE")
    if column.type is None:
        return sql_type(value)
    kind = column.type.rpartition("/")[2]
    if kind not in PRIMITIVES and not known(kind):
        raise ViewError(f"There is no FHIR type '{column.type}'.")
    return sql_type(Value("", kind))


def _single(value: Value, column: Column, wanted: str, scope: Scope) -> str:
    """One item as a column's value."""
    if value.type == "empty":
        return f"CAST(NULL AS {wanted})"
    declared = column.type.rpartition("/")[2] if column.type else value.type
    if value.type == UNKNOWN:
        if declared in PRIMITIVES:
            value = as_type(value, declared, scope)
        else:
            return f"CAST({value.sql} AS {wanted})"
    if value.type not in PRIMITIVES:
        return f"CAST({whole(value, scope).sql} AS VARCHAR)"
    value = plain(value, scope)
    if value.type in WHOLE_NUMBERS:
        if wanted == "DOUBLE" or value.literal:
            return f"CAST({value.sql} AS {wanted})"
        return f"CAST(_whole({value.sql}) AS {wanted})"
    if value.type in NUMBERS:
        if wanted in ("INTEGER", "BIGINT", "SMALLINT", "INT"):
            return f"CAST(_whole({value.sql}) AS {wanted})"
        return value.sql if wanted == "DOUBLE" else f"CAST({value.sql} AS {wanted})"
    if value.type in TEXTS and wanted == "TIMESTAMP":
        return f"make_timestamp(epoch_us(CAST({value.sql} AS TIMESTAMPTZ)))"
    return value.sql if sql_type(value) == wanted else f"CAST({value.sql} AS {wanted})"
