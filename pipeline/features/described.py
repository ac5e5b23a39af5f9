"""The inferred schema of a file, written out to be corrected: a description of every column, and suspected codes.

A code that seems to mean "missing" (`?`, `NA`, -9, 999 far from the rest) is suggested and never applied. What the rules
of inference are is written down in `infer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import CohortLoomError, InputError
from pipeline.features.infer import infer_schema
from pipeline.features.schema import DISCRETE, Column, TableSchema
from pipeline.features.tables import (
    ALWAYS_MISSING,
    as_cohort,
    likely_identifiers,
    read_table,
    read_texts,
    take_subject,
)

if TYPE_CHECKING:
    from pathlib import Path

TEXT_CODES = ("?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", ".", "-", "--")
"""Texts that mean "missing" wherever they stand alone. Words such as `unknown` may be an answer and are left alone."""
LOW_CODES = (-1.0, -7.0, -8.0, -9.0, -77.0, -88.0, -99.0, -777.0, -888.0, -999.0, -9999.0)
HIGH_CODES = (9.0, 88.0, 98.0, 99.0, 777.0, 888.0, 998.0, 999.0, 7777.0, 8888.0, 9999.0, 99999.0)
_MOST_LISTED = 40
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_FEWEST_NUMBERS = 3


@dataclass(frozen=True)
class Suspect:
    """A value that seems to stand for "missing".

    Attributes:
        column: Where it stands.
        code: The value, or nothing where it is a text that may be a person's.
        cells: How often.
        why: In words.
    """

    column: str
    code: str
    cells: int
    why: str

    def sentence(self) -> str:
        """For a description: `'?' in 38 cells (...)`."""
        code = f"'{self.code}'" if self.code else "a text"
        return f"{code} in {self.cells:,} cells ({self.why})"


@dataclass(frozen=True)
class Described:
    """What was found in a file.

    Attributes:
        schema: Of the columns that can be modelled, each with a description of what was inferred.
        rows: Number of rows.
        absent: Column to its missing cells.
        different: Column to the number of its different values.
        suspects: Values that seem to stand for "missing".
        refused: Columns that cannot be modelled, and why; they are not in the schema.
        named_like_ids: Columns of numbers that look like identifiers and would be learned as numbers.
        written_otherwise: Text columns that would be numbers or dates in another way of writing, and in which.
    """

    schema: TableSchema
    rows: int
    absent: dict[str, int]
    different: dict[str, int]
    suspects: list[Suspect]
    refused: dict[str, str]
    named_like_ids: list[str]
    written_otherwise: dict[str, list[str]] = field(default_factory=dict)


def describe_file(
    path: Path, *, subject: str | None = None, missing: Sequence[str] = (), encoding: str | None = None
) -> Described:
    """Infer the schema of a CSV or Parquet file from all its rows.

    Args:
        path: The file, as `read_table` takes it.
        subject: Column that identifies the subject; it is no part of the schema.
        missing: Codes that mean "missing" in this file.
        encoding: Of a CSV that is not UTF-8.

    Raises:
        NotFoundError, InputError, ConfigError: As `read_table` raises them; no rows; no column that can be modelled.
    """
    table = read_table(path, missing=missing, encoding=encoding)
    if not table.num_rows:
        raise InputError("The table has no rows.", where=str(path))
    if subject is not None:
        table = take_subject(table, subject)[1]
    suspects = [s for s in suspected(table, read_texts(path, encoding=encoding)) if s.code not in missing]
    columns: list[Column] = []
    absent: dict[str, int] = {}
    different: dict[str, int] = {}
    refused: dict[str, str] = {}
    for name in table.column_names:
        one = table.select([name])
        try:
            column = infer_schema(one).columns[0]
        except CohortLoomError as error:
            refused[name] = error.what
            continue
        absent[name] = one.column(0).null_count
        different[name] = int(pc.count_distinct(one.column(0)).as_py())
        said = [
            _said(column, table.num_rows, absent[name], different[name]),
            *(f"Missing? {s.sentence()}." for s in suspects if s.column == name),
        ]
        columns.append(column.model_copy(update={"description": " ".join(said)}))
    if not columns:
        raise InputError("None of the columns can be modelled.", where=str(path))
    schema = TableSchema(columns=columns)
    ids = likely_identifiers(as_cohort(table.select(schema.names), schema))
    return Described(schema, table.num_rows, absent, different, suspects, refused, ids, _written_otherwise(table))


def _written_otherwise(table: pa.Table) -> dict[str, list[str]]:
    """The text columns that would be numbers or dates in another way of writing."""
    from pipeline.ingest.tables.written_otherwise import forms_of
    from pipeline.store.connection import connect

    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    if not texts:
        return {}
    with connect({}) as connection:
        connection.register("delivered", table.select(texts))
        return forms_of(connection, "delivered", texts)


def _said(column: Column, rows: int, absent: int, different: int) -> str:
    """What was inferred, in words and without a cell."""
    parts = [f"Inferred: {column.kind}, {column.dtype}, {different:,} different values", grid_words(column)]
    parts.append(f"{absent:,} of {rows:,} cells missing ({absent / rows:.1%})" if absent else "none missing")
    return ", ".join(part for part in parts if part) + "."


def grid_words(column: Column) -> str:
    """The grid of a numeric column in words; nothing where there is none."""
    grid = column.resolution
    if grid is None:
        return ""
    if grid.kind == "decimals":
        return f"{grid.digits} decimals" if grid.digits else "whole numbers"
    return f"steps of {grid.step:g}" if grid.kind == "step" else "only the values seen"


def suspected(table: pa.Table, texts: pa.Table) -> list[Suspect]:
    """Values that seem to stand for "missing".

    Args:
        table: The rows in their types.
        texts: The same columns as they are written, where they are text.
    """
    found: list[Suspect] = []
    for name in table.column_names:
        if name in texts.column_names:
            found += _among_texts(name, texts.column(name))
        cells = table.column(name)
        if pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type):
            found += _at_the_edge(name, np.asarray(pc.cast(cells.drop_null(), pa.float64(), safe=False)))
    return found


def _among_texts(name: str, cells: pa.ChunkedArray) -> list[Suspect]:
    counts = pc.value_counts(pc.utf8_trim_whitespace(cells.drop_null()))
    tally = {str(v["values"]): int(v["counts"]) for v in counts.to_pylist() if v["values"]}
    numbers = sum(1 for value in tally if _NUMBER.fullmatch(value))
    others = [value for value in tally if not _NUMBER.fullmatch(value)]
    alone = len(others) == 1 and numbers >= _FEWEST_NUMBERS
    why = "the only text among numbers" if alone else "a common code"
    found = [
        Suspect(
            name, code, tally[code], "missing here and in fit, but not in a delivery" if code in ALWAYS_MISSING else why
        )
        for code in TEXT_CODES
        if code in tally
    ]
    if alone and not found:  # it may be anything, so it is not shown
        found.append(Suspect(name, "", tally[others[0]], why))
    return found


def _at_the_edge(name: str, values: np.ndarray) -> list[Suspect]:
    """Codes at an end of the numbers: negative ones before numbers that are not, some far above all others."""
    distinct, counts = np.unique(values, return_counts=True)
    cells = dict(zip(distinct.tolist(), counts.tolist(), strict=True))
    low = [v for v in distinct if v < 0]
    low = low if set(low) <= set(LOW_CODES) and len(low) < len(distinct) else []
    rest = [v for v in distinct if v not in low]
    high: list[float] = []
    for place in range(len(rest) - 1, 0, -1):
        if rest[place] not in HIGH_CODES:
            break
        if rest[place] - rest[place - 1] > (rest[place - 1] - rest[0]) / 2 > 0:
            high = rest[place:]
    return [
        *(Suspect(name, f"{v:g}", cells[v], "below numbers that are not negative") for v in low),
        *(Suspect(name, f"{v:g}", cells[v], "far above all others") for v in high),
    ]


def columns_yaml(described: Described, table: str) -> str:
    """The section `columns:` of a cohort file, to be pasted and corrected; what a cohort infers anew is left out.

    Args:
        described: What was found.
        table: Name of the raw table, for the lineage.
    """
    import yaml

    section: dict[str, Mapping[str, object]] = {}
    for column in described.schema.columns:
        entry: dict[str, object] = {"kind": column.kind}
        if column.kind in DISCRETE and column.dtype != "bool" and len(column.levels or []) <= _MOST_LISTED:
            entry["levels"] = list(column.levels or [])
        section[column.name] = {**entry, "description": column.description, "source": [f"{table}.{column.name}"]}
    return yaml.safe_dump({"columns": section}, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
