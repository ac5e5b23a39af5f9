"""Plain tables to cohorts and cohorts' rows to plain tables, for work without Dagster.

Formats are CSV and Parquet, plain or gzipped; messages name files, rows and columns, never a cell. How cohorts are kept
in the store is in `stored.py`, how one is built from raw tables in `build.py`.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError, InputError, NotFoundError, StoreError, nearest
from pipeline.features.cohort import Cohort
from pipeline.features.infer import NAMED_LIKE_AN_ID, conform, infer_schema, normalise
from pipeline.features.schema import TableSchema
from pipeline.features.split import row_subjects
from pipeline.features.stored import read_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pyarrow import csv


ALWAYS_MISSING = ("NA", "NaN")
"""Texts that are read as missing in a CSV beside the empty one, as R and pandas write them."""
_ROWS_TO_TELL, _FEW_CODES = 50, 64
_LEADING_ZERO = r"^\s*[+-]?0[0-9]"
"""A number written so ("007") is a code; as a number it would lose its zeros."""


def read_table(
    path: Path,
    schema_path: Path | None = None,
    *,
    like: TableSchema | None = None,
    missing: Sequence[str] = (),
    encoding: str | None = None,
) -> pa.Table:
    """A table from a CSV or Parquet file (`.csv .tsv .parquet`, also `.gz`), for the command line.

    Args:
        path: the file.
        schema_path: a TableSchema as JSON; the table is then in exactly its columns and types.
        like: without `schema_path`: what is text in this schema is read as text (a CSV's "0.0" stays what it is).
        missing: texts that mean "missing" in a CSV beside the empty one, NA and NaN.
        encoding: of a CSV that is not UTF-8.

    Raises:
        NotFoundError: there is no such file.
        InputError: the file is not of these formats, cannot be parsed, or does not fit the schema.
    """
    if schema_path is None:
        return normalise(_read_file(path, like, missing, encoding))
    schema = read_schema(schema_path)
    return conform(_read_file(path, schema, missing, encoding), schema)


def read_untidy(path: Path, *, like: TableSchema, encoding: str | None = None) -> pa.Table:
    """A table as its file has it, in no schema yet; of a CSV what is text in `like` is read as text.

    Raises:
        NotFoundError, InputError: as for `read_table`.
    """
    return _read_file(path, like, encoding=encoding)


def read_texts(path: Path, *, encoding: str | None = None) -> pa.Table:
    """The columns of a file as they are written: of a CSV all of them, of a Parquet file those that are text."""
    table = _read_file(path, None, encoding=encoding, texts=True)
    return table.select([field.name for field in table.schema if pa.types.is_string(field.type)])


def cohort_from_file(
    path: Path,
    *,
    schema_file: Path | None = None,
    schema: TableSchema | None = None,
    subject: str | None = None,
    drop: Sequence[str] = (),
    missing: Sequence[str] = (),
    encoding: str | None = None,
) -> Cohort:
    """A cohort without a split from a CSV or Parquet file, for the command line.

    Args:
        path: the file, as for `read_table`.
        schema_file: a TableSchema as JSON; inferred from all rows if left out.
        schema: the same as an object.
        subject: column that identifies the subject (taken out of the table); a row is a subject if left out.
        drop: columns to leave out.
        missing: texts that mean "missing", as for `read_table`.
        encoding: of a CSV that is not UTF-8.

    Raises:
        NotFoundError, InputError, ConfigError: as `read_table` and `infer_schema` raise them; no subject column, or
            rows without a subject; a column to leave out that is not there.
    """
    if schema_file is not None:
        schema = read_schema(schema_file)
    table = _read_file(path, schema, missing, encoding)
    if not table.num_rows:
        raise InputError("The table has no rows.", where=str(path))
    for name in drop:
        if name not in table.column_names:
            raise NotFoundError(
                f"There is no column '{name}' to leave out.", where=str(path), todo=nearest(name, table.column_names)
            )
    try:
        return as_cohort(table.drop_columns(list(drop)), schema, subject=subject)
    except (InputError, ConfigError) as error:
        # The hints of inference are for authors of a cohort's SQL; whoever has a file has the command's options.
        todo = "Leave the column out (--drop), or say what it is in a --schema." if "SQL" in error.todo else error.todo
        raise type(error)(error.what, where=f"{path}: {error.where}".rstrip(": "), todo=todo) from None


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as `.parquet`, `.csv` or `.csv.gz`, by the name's ending; the same bytes for the same rows.

    Raises:
        ConfigError: another ending.
        StoreError: the file cannot be written.
    """
    import gzip

    from pyarrow import csv

    from pipeline.store.parquet import write_parquet

    check_name(path)
    name = path.name.lower()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            write_parquet(path, table)
            return
        text = pa.BufferOutputStream()
        csv.write_csv(_whole_seconds(table), text)
        raw = text.getvalue().to_pybytes()
        path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    except OSError as error:
        raise StoreError(f"The file cannot be written ({error.strerror}).", where=str(path)) from None


def check_name(path: Path) -> None:
    """Raise `ConfigError` unless `write_table` knows the name's ending; for callers with long work before it."""
    if not path.name.lower().endswith((".parquet", ".csv", ".csv.gz")):
        raise ConfigError("The file's name must end in .parquet, .csv or .csv.gz.", where=str(path))


def _whole_seconds(table: pa.Table) -> pa.Table:
    """The table with times that are all whole seconds as such, so that a CSV does not show .000000."""
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            try:
                table = table.set_column(place, field.name, table.column(place).cast(pa.timestamp("s")))
            except pa.ArrowInvalid:
                continue  # some of its times are finer
    return table


def read_schema(path: Path) -> TableSchema:
    """A TableSchema from its JSON file; raises `NotFoundError` or `ConfigError` (what is wrong and where in it)."""
    from pydantic import ValidationError

    if not path.is_file():
        raise NotFoundError("There is no such schema file.", where=str(path))
    try:
        return TableSchema.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"This is not a valid schema: {where or 'file'}: {first['msg']}.", where=str(path)) from None


def as_cohort(table: pa.Table, schema: TableSchema | None = None, *, subject: str | None = None) -> Cohort:
    """A cohort without a split from a plain table; the schema is inferred from all rows if not given.

    For `cohortloom fit` and `evaluate`, where the caller has split the data already.

    Args:
        table: the rows.
        schema: their schema, without the subject column.
        subject: column that identifies the subject, taken out of the rows; a row is a subject if left out.
    """
    ids = None if subject is None else take_subject(table, subject)[0]
    features = table if subject is None else table.drop_columns([subject])
    schema = infer_schema(features) if schema is None else schema
    rows = conform(features, schema)
    return Cohort(table=rows, schema=schema, subject=row_subjects(normalise(rows)) if ids is None else ids)


def likely_identifiers(cohort: Cohort) -> list[str]:
    """Columns of whole numbers that look like identifiers but are modelled as numbers, so that a caller can be warned.

    That is what is named like one and has many values, and what differs in every row of 50 or more.
    """
    import pyarrow.compute as pc

    found = []
    for column in cohort.schema.columns:
        if column.kind in ("count", "continuous") and column.dtype in ("int64", "int32"):
            values = cohort.table.column(column.name)
            distinct = int(pc.count_distinct(values, mode="all").as_py())
            unique = distinct == cohort.n_rows >= _ROWS_TO_TELL
            if unique or (distinct > _FEW_CODES and NAMED_LIKE_AN_ID.search(column.name)):
                found.append(column.name)
    return found


def take_subject(table: pa.Table, name: str) -> tuple[NDArray[np.str_], pa.Table]:
    """The subject ids in column `name` as text, and the table without that column.

    Raises:
        ConfigError: there is no such column, or it is neither text nor a whole number.
        InputError: rows have no subject (empty text is none).
    """
    import pyarrow.compute as pc

    if name not in table.column_names:
        raise ConfigError(f"There is no subject column '{name}'.", todo=nearest(name, table.column_names))
    ids = normalise(table.select([name])).column(0)
    if not (pa.types.is_string(ids.type) or pa.types.is_integer(ids.type)):
        raise ConfigError(f"The subject column '{name}' is neither text nor a whole number.")
    ids = pc.cast(ids, pa.string())
    missing = ids.null_count + int(pc.sum(pc.equal(ids, "")).as_py() or 0)
    if missing:
        raise InputError(f"{missing} rows have no subject.", where=f"column {name}")
    return np.array(ids.to_pylist(), dtype=str), table.drop_columns([name])


def _read_file(
    path: Path,
    schema: TableSchema | None,
    missing: Sequence[str] = (),
    encoding: str | None = None,
    *,
    texts: bool = False,
) -> pa.Table:
    """All columns of a file; where the format has no types (CSV), in those of the schema, or all as text (`texts`)."""
    import gzip
    import io

    from pyarrow import csv

    from pipeline.ingest.tables.csv_rows import delimiter_of
    from pipeline.ingest.tables.encodings import utf8_of

    if not path.is_file():
        raise NotFoundError("This is a folder." if path.is_dir() else "There is no such file.", where=str(path))
    zipped = path.name.lower().endswith(".gz")
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith((".parquet", ".csv", ".tsv", ".txt")):
        raise InputError(
            "The file's name ends neither in .csv, .tsv nor .parquet (with or without .gz).", where=str(path)
        )
    problem = ""
    try:
        raw = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
        if name.endswith(".parquet"):
            table = read_parquet(io.BytesIO(raw))
        else:
            raw = utf8_of(raw, encoding, str(path))
            header = raw.partition(b"\n")[0].decode("utf-8", "replace")
            delimiter = "\t" if name.endswith(".tsv") else delimiter_of(header, name)
            options = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
            table = _csv_texts(raw, options) if texts else _read_csv(raw, schema, options, missing)
        twice = len(table.column_names) - len(set(table.column_names))
        if not twice:
            return table
        problem = f"{twice} of the {len(table.column_names)} column names stand there twice."
    except (OSError, EOFError, zlib.error) as error:
        problem = f"The file cannot be read ({type(error).__name__})."
    except pa.ArrowException as error:
        line = re.search(r"(?:[Rr]ow|line) #?(\d+)", str(error))
        problem = f"The file is not a valid table{f' (row {line[1]})' if line else ''}."
    raise InputError(problem, where=str(path))  # outside the handlers: Arrow's messages hold cells


def _csv_texts(raw: bytes, options: csv.ParseOptions) -> pa.Table:
    """A CSV with all cells as they are written."""
    import io

    from pyarrow import csv

    names = csv.open_csv(io.BytesIO(raw), parse_options=options).schema.names
    texts = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    return csv.read_csv(io.BytesIO(raw), parse_options=options, convert_options=texts)


def _read_csv(
    raw: bytes, schema: TableSchema | None, options: csv.ParseOptions, missing: Sequence[str] = ()
) -> pa.Table:
    """A CSV with the types that its cells have, as text where the schema says text or a number has a leading zero.

    Of a schema's types only text is forced on the reader: a whole number that another program wrote as `52.0` is
    still one, and what does not fit is then refused by `conform` with the name of its column.
    """
    import io

    import pyarrow.compute as pc
    from pyarrow import csv

    def read(texts: list[str], only: list[str] | None = None) -> pa.Table:
        return csv.read_csv(
            io.BytesIO(raw),
            parse_options=options,
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(texts, pa.string()),
                include_columns=only,
                strings_can_be_null=True,
                null_values=["", *ALWAYS_MISSING, *missing],
            ),
        )

    said = {} if schema is None else {c.name: c.dtype for c in schema.columns}
    texts = [name for name, dtype in said.items() if dtype == "string"]
    table = read(texts)
    if len(set(table.column_names)) < len(table.column_names):
        return table  # refused by `_read_file`
    numbers = [f.name for f in table.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    doubtful = [name for name in numbers if name not in said]
    if doubtful and re.search(rb'(?:^|[,\t"\n])[+-]?0[0-9]', raw):
        as_text = read(doubtful, doubtful)
        coded = [n for n in doubtful if pc.any(pc.match_substring_regex(as_text.column(n), _LEADING_ZERO)).as_py()]
        for name in coded:
            table = table.set_column(table.column_names.index(name), name, as_text.column(name))
    return table


__all__ = [
    "ALWAYS_MISSING",
    "as_cohort",
    "check_name",
    "cohort_from_file",
    "likely_identifiers",
    "read_schema",
    "read_table",
    "read_texts",
    "take_subject",
    "write_table",
]
