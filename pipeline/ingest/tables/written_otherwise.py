"""Text columns of a plain table that would be numbers or dates if they were written another way.

`3,5` and `31.12.2026` stay text, since no rule tells a decimal comma from a thousands comma for every table; but
where every value of a column reads so, whoever writes the cohort's SQL is told, and what to write there. Only the forms
are kept, never a value. Which types are found is in `types.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pipeline.store.connection import identifier, literal

if TYPE_CHECKING:
    import duckdb

DECIMAL_COMMA: Final = "decimal comma"
THOUSANDS_COMMA: Final = "thousands comma"
_NUMBERS: Final[Mapping[str, str]] = {
    DECIMAL_COMMA: r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?",
    THOUSANDS_COMMA: r"[+-]?\d{1,3}(,\d{3})*(\.\d+)?",
}
_DAYS: Final[Mapping[str, tuple[str, str]]] = {
    "DD.MM.YYYY": ("%d.%m.%Y", r"\d{1,2}\.\d{1,2}\.\d{4}"),
    "DD.MM.YY": ("%d.%m.%y", r"\d{1,2}\.\d{1,2}\.\d{2}"),
    "MM/DD/YYYY": ("%m/%d/%Y", r"\d{1,2}/\d{1,2}/\d{4}"),
    "DD/MM/YYYY": ("%d/%m/%Y", r"\d{1,2}/\d{1,2}/\d{4}"),
    "DD-MM-YYYY": ("%d-%m-%Y", r"\d{1,2}-\d{1,2}-\d{4}"),
    "YYYY/MM/DD": ("%Y/%m/%d", r"\d{4}/\d{1,2}/\d{1,2}"),
}
_TIMES: Final[Mapping[str, tuple[str, str]]] = {
    "": ("", ""),
    " hh:mm": (" %H:%M", r" \d{1,2}:\d{2}"),
    " hh:mm:ss": (" %H:%M:%S", r" \d{1,2}:\d{2}:\d{2}"),
}
_DATES: Final[Mapping[str, tuple[str, str]]] = {
    day + time: (format + more, shape + rest)
    for day, (format, shape) in _DAYS.items()
    for time, (more, rest) in _TIMES.items()
}
FORMS: Final = (*_NUMBERS, *_DATES)
"""The forms that are known."""
_LOOKED_AT = 50
"""First values by which the forms are told that a column cannot have."""


def forms_of(connection: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[str]) -> dict[str, list[str]]:
    """Which of these text columns read as numbers or dates, and in which forms; more than one where it can't be told.

    Args:
        connection: Where the relation is.
        relation: A table, or what may stand after FROM.
        columns: Text columns of it.
    """
    found: dict[str, list[str]] = {}
    for name in columns:
        cells = f"SELECT trim({identifier(name)}) AS cell FROM {relation} WHERE trim({identifier(name)}) <> ''"
        likely = _fitting(connection, f"{cells} LIMIT {_LOOKED_AT}", FORMS)
        forms = _fitting(connection, f"SELECT DISTINCT cell FROM ({cells})", likely) if likely else []
        if forms:
            found[name] = forms
    return found


def _fitting(connection: duckdb.DuckDBPyConnection, cells: str, forms: Sequence[str]) -> list[str]:
    """The forms that every one of the cells has; none without a cell."""
    tests = [f"coalesce(bool_and({_test(form)}), FALSE)" for form in forms]
    # A number without any comma is text for another reason, such as a leading zero.
    ((comma, *answers),) = connection.execute(
        f"SELECT coalesce(bool_or(contains(cell, ',')), FALSE), {', '.join(tests)} FROM ({cells})"
    ).fetchall()
    return [form for form, fits in zip(forms, answers, strict=True) if fits and (comma or form in _DATES)]


def _test(form: str) -> str:
    if form in _NUMBERS:
        return f"regexp_full_match(cell, {literal(_NUMBERS[form])})"
    format, shape = _DATES[form]
    return f"(regexp_full_match(cell, {literal(shape)}) AND try_strptime(cell, {literal(format)}) IS NOT NULL)"


def hint(column: str, forms: Sequence[str]) -> str:
    """What the values of a column seem to be, and what to write in a cohort's SQL."""
    known = [form for form in forms if form in FORMS]
    if not known:
        return ""
    what = "a number with a " if known[0] in _NUMBERS else "a date "
    ways = [sql_of(column, form) for form in known]
    if len(known) == 1:
        return f"every value would be {what}{known[0]}; it stays text. In the cohort's SQL: {ways[0]}"
    return (
        f"every value would be {what}{' or '.join(known)} (ask the sender which); it stays text. "
        f"In the cohort's SQL: {', or '.join(ways)}"
    )


def sql_of(column: str, form: str) -> str:
    """The expression that reads a column of this form, for DuckDB."""
    name = f"nullif(trim({identifier(column)}), '')"
    if form == DECIMAL_COMMA:
        return f"CAST(replace(replace({name}, '.', ''), ',', '.') AS DOUBLE)"
    if form == THOUSANDS_COMMA:
        return f"CAST(replace({name}, ',', '') AS DOUBLE)"
    read = f"strptime({name}, {literal(_DATES[form][0])})"
    return read if form not in _DAYS else f"CAST({read} AS DATE)"
