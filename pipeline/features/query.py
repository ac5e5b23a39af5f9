"""Running a cohort's SQL, and its errors in our words: file, line, and nothing of the data.

What the SQL sees is set up in `merge.py`; what becomes of its rows is in `build.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, nearest
from pipeline.store.connection import identifier

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb
    import pyarrow as pa

_RESULT = "__result"


def place(file: Path, line: int | None = None) -> str:
    """How a cohort's file is named in messages: with its folder, and the line if it is known."""
    return f"{file.parent.name}/{file.name}:{line}" if line else f"{file.parent.name}/{file.name}"


def sql_text(file: Path) -> str:
    """The text of one of a cohort's SQL files; raises `ConfigError` if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The SQL file cannot be read ({type(error).__name__}).", where=place(file), todo="Is it UTF-8?"
        ) from None


def run_sql(file: Path, text: str, connection: duckdb.DuckDBPyConnection, tables: list[str]) -> pa.Table:
    """The result of one of a cohort's SQL files; raises `ConfigError` naming file and line."""
    select_into(_RESULT, file, text, connection, tables)
    return connection.sql(f"SELECT * FROM {identifier(_RESULT)}").to_arrow_table()


def select_into(name: str, file: Path, text: str, connection: duckdb.DuckDBPyConnection, tables: list[str]) -> None:
    """Keep the result of one of a cohort's SQL files as a temporary table.

    Args:
        name: of the temporary table.
        file: the SQL file, for messages.
        text: what it says.
        connection: with the raw tables as views, confined to them.
        tables: what the SQL can see, for hints.

    Raises:
        ConfigError: it is not one SELECT, or it fails; names file and line.
    """
    import duckdb

    problem: ConfigError | None = None
    try:
        statements = connection.extract_statements(text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise ConfigError("A cohort's SQL is exactly one SELECT (WITH ... SELECT included).", where=place(file, 1))
        # The statement stays on its own lines, so that DuckDB's line numbers are those of the file.
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {identifier(name)} AS {text}").fetchall()
    except duckdb.Error as error:
        problem = _sql_error(error, file, text, tables)
    if problem is not None:
        raise problem  # outside the handler: DuckDB's message may quote a cell, and a chained one would be printed


def _sql_error(error: duckdb.Error, file: Path, text: str, tables: list[str]) -> ConfigError:
    """DuckDB's error in our words: class, what it says of the SQL, line; what it says of the data is left out."""
    import duckdb

    message = str(error)
    kind, _, rest = message.partition(": ")
    found = re.search(r"^LINE (\d+):", message, flags=re.MULTILINE)
    line = int(found[1]) if found else None
    about_sql = isinstance(error, duckdb.ParserException | duckdb.BinderException | duckdb.CatalogException)
    if about_sql:
        said = rest.split("\n\nLINE ")[0].replace("\n", " ").strip()
    else:
        column = re.search(r"source column ([A-Za-z_][A-Za-z0-9_]*)", message)
        said = f"it failed on the data{f', at column {column[1]}' if column else ''}"
    todo = "Mend the SQL."
    unknown = re.match(r"Table with name (\S+) does not exist", rest) if about_sql else None
    if unknown:
        said = f"there is no table '{unknown[1]}'"
        todo = nearest(unknown[1], tables)
        line = line or _line_of(text, unknown[1])
    if isinstance(error, duckdb.PermissionException):
        said, todo = "it reaches for a file", "A cohort's SQL sees the raw tables of its source and nothing else."
    if isinstance(error, duckdb.OutOfMemoryException):
        said, todo = "it needs more memory than it was given", "Raise the memory limit, or select less."
    return ConfigError(f"{kind}: {said.rstrip('.!')}.", where=place(file, line), todo=todo)


def _line_of(text: str, name: str) -> int | None:
    return next((i for i, line in enumerate(text.splitlines(), 1) if re.search(rf"\b{re.escape(name)}\b", line)), None)
