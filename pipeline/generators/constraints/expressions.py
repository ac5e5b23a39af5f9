"""SQL expressions over the columns of one row, as a cohort's file may write them, evaluated by DuckDB and confined.

An expression is read into DuckDB's own syntax tree first and refused unless it consists of columns, constants and
functions from a list: no query, no table function, no setting, nothing random and nothing of the machine.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, nearest
from pipeline.store.connection import confine, connect, engine_fault, identifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import duckdb
    import pyarrow as pa

_ROWS = "cohort_rows"
_CLASSES = {
    "COMPARISON",
    "CONJUNCTION",
    "COLUMN_REF",
    "CONSTANT",
    "FUNCTION",
    "CAST",
    "CASE",
    "OPERATOR",
    "BETWEEN",
    "TYPE",
}
_FUNCTIONS = frozenset(
    [
        "+",
        "-",
        "*",
        "/",
        "//",
        "%",
        "**",
        "^",
        "||",
        "~~",
        "!~~",
        "~~*",
        "!~~*",
        "abs",
        "ceil",
        "ceiling",
        "floor",
        "round",
        "trunc",
        "sign",
        "sqrt",
        "exp",
        "ln",
        "log",
        "log2",
        "log10",
        "pow",
        "power",
        "mod",
        "fmod",
        "divide",
        "add",
        "subtract",
        "multiply",
        "greatest",
        "least",
        "coalesce",
        "ifnull",
        "nullif",
        "if",
        "isnan",
        "isfinite",
        "lower",
        "upper",
        "length",
        "strlen",
        "trim",
        "ltrim",
        "rtrim",
        "substr",
        "substring",
        "left",
        "right",
        "starts_with",
        "prefix",
        "suffix",
        "contains",
        "like_escape",
        "ilike_escape",
        "regexp_matches",
        "regexp_full_match",
        "year",
        "month",
        "day",
        "hour",
        "minute",
        "second",
        "quarter",
        "week",
        "dayofweek",
        "dayofyear",
        "date_part",
        "datepart",
        "date_trunc",
        "datetrunc",
        "date_diff",
        "datediff",
        "date_sub",
        "datesub",
        "date_add",
        "last_day",
        "make_date",
        "epoch",
        "to_days",
        "to_hours",
        "to_minutes",
        "to_months",
        "to_seconds",
        "to_weeks",
        "to_years",
    ]
)
_PLACES = {"query_location", "query_location_length"}
_open = threading.local()


@dataclass(frozen=True)
class Expression:
    """An expression that was read and found harmless.

    Attributes:
        text: As it was written.
        columns: The columns that it looks at, in table order.
        where: How it is named in messages.
    """

    text: str
    columns: tuple[str, ...]
    where: str

    @classmethod
    def read(cls, text: str, names: Sequence[str], *, where: str) -> Expression:
        """Read an expression over columns `names`.

        Raises:
            ConfigError: it is not one expression, reaches beyond the row, or names a column that there is not.
        """
        return _read(text, tuple(names), where)

    def evaluate(self, table: pa.Table, kind: pa.DataType | None = None) -> pa.ChunkedArray:
        """The expression's value for each row of `table`, which holds at least its columns.

        Args:
            table: (n rows) the rows.
            kind: What to cast the value to; what does not fit becomes missing. None leaves it as it is.

        Raises:
            ConfigError: types do not fit, or it fails on a row (which one is not said).
            StoreError: DuckDB has no memory.
        """
        import duckdb

        told = _cast(self.text, kind)
        fault: Exception | None = None
        connection = _confined()
        try:
            connection.register(_ROWS, table.select(list(self.columns)))
            column = connection.sql(f"SELECT {told} AS value FROM {identifier(_ROWS)}").to_arrow_table().column(0)
            connection.unregister(_ROWS)
        except duckdb.Error as error:
            fault = engine_fault(error, self.where) or _said(error, self.where)
        if fault is not None:
            raise fault  # outside the handler: DuckDB's own text may quote a cell
        return column


@lru_cache(maxsize=256)
def _read(text: str, names: tuple[str, ...], where: str) -> Expression:
    """`Expression.read`, once an expression: drawing again asks for it again and again."""
    tree = _tree(text, where)
    known = {name.lower(): name for name in names}
    used: set[str] = set()
    for node in _nodes(tree):
        kind = node["class"]
        if kind not in _CLASSES:
            said = {"SUBQUERY": "a query", "WINDOW": "a window", "STAR": "*", "LAMBDA": "a lambda"}
            raise _refusal(f"it holds {said.get(kind, kind.lower())}", where)
        if kind == "FUNCTION" and (node["function_name"].lower() not in _FUNCTIONS or node.get("schema")):
            raise _refusal(f"it calls {node['function_name']}()", where)
        if kind == "COLUMN_REF":
            path = node["column_names"]
            name = known.get(path[-1].lower())
            if len(path) > 1 or name is None:
                raise ConfigError(
                    f"There is no column '{'.'.join(path)}'.", where=where, todo=nearest(path[-1], list(names))
                )
            used.add(name)
    if not used:
        raise ConfigError("The expression looks at no column.", where=where, todo="Text stands in single quotes.")
    return Expression(text, tuple(name for name in names if name in used), where)


def _confined() -> duckdb.DuckDBPyConnection:
    """A connection of this thread that reaches no file: opening one a draw would take longer than drawing."""
    if getattr(_open, "process", None) != os.getpid():  # a forked child must not share its parent's
        _open.connection = connect({})
        confine(_open.connection, [])
        _open.process = os.getpid()
    connection: duckdb.DuckDBPyConnection = _open.connection
    return connection


def _cast(text: str, kind: pa.DataType | None) -> str:
    """The expression as SQL, on lines of its own so that a comment in it ends."""
    import pyarrow as pa

    if kind is None:
        return f"(\n{text}\n)"
    sql = {pa.string(): "VARCHAR", pa.bool_(): "BOOLEAN", pa.int32(): "INTEGER", pa.int64(): "BIGINT"}
    return f"TRY_CAST((\n{text}\n) AS {sql.get(kind, 'DOUBLE')})"


def _tree(text: str, where: str) -> Any:
    """DuckDB's syntax tree of one expression; everything around it must be what stands around `true`."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    problem: ConfigError | None = None
    try:
        whole, plain = (_parsed(connection, expression) for expression in (text, "true"))
    except duckdb.Error as error:
        problem = _said(error, where)
    finally:
        connection.close()
    if problem is not None:
        raise problem
    if whole.get("error"):
        said = str(whole.get("error_message", "")).split("\n", maxsplit=1)[0]
        raise ConfigError(f"The expression cannot be read: {said.rstrip('.!')}.", where=where, todo="Mend the SQL.")
    trees = []
    for parsed in (whole, plain):
        if len(parsed["statements"]) != 1:
            raise _refusal("it is more than one expression", where)
        node = parsed["statements"][0]["node"]
        trees.append(node.pop("select_list", []))
    if len(trees[0]) != 1 or _bare(whole) != _bare(plain):
        raise _refusal("it is more than one expression", where)
    return trees[0][0]


def _parsed(connection: duckdb.DuckDBPyConnection, text: str) -> dict[str, Any]:
    row = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT (\n{text}\n) FROM {_ROWS}"]).fetchone()
    assert row is not None
    parsed: dict[str, Any] = json.loads(row[0])
    return parsed


def _bare(tree: Any) -> Any:
    """The tree without the places in the text."""
    if isinstance(tree, dict):
        return {k: _bare(v) for k, v in tree.items() if k not in _PLACES}
    return [_bare(v) for v in tree] if isinstance(tree, list) else tree


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All expressions of a tree; a query inside is given as the class that holds it."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _refusal(what: str, where: str) -> ConfigError:
    return ConfigError(
        f"The expression is refused: {what}.",
        where=where,
        todo="A rule sees the columns of its own row, through arithmetic, comparisons and plain functions of numbers, texts "
        "and dates.",
    )


def _said(error: duckdb.Error, where: str) -> ConfigError:
    """DuckDB's error in our words: what it says of the SQL; what it says of the data is left out."""
    import duckdb

    about_sql = isinstance(error, duckdb.ParserException | duckdb.BinderException | duckdb.CatalogException)
    rest = str(error).partition(": ")[2].split("\n\nLINE ")[0].replace("\n", " ").strip()
    said = rest if about_sql else "it fails on a row (a cast, or a number out of range)"
    return ConfigError(f"The expression cannot be evaluated: {said.rstrip('.!')}.", where=where, todo="Mend the SQL.")
