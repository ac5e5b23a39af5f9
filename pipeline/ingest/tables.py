"""Plain tables to raw tables: CSV and Parquet, plain or gzipped, one or several in a delivery.

A CSV is first read by DuckDB, strictly and as text; where that raises, `csv_rows` reads it row by row. Types are then
found over the whole file (or taken from `<stem>.schema.json` beside it) and cast; a row that does not fit a declared
schema goes to the quarantine. What is empty is missing. FHIR is not read here.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, InputError
from pipeline.ingest.account import Account
from pipeline.ingest.csv_rows import Header, read_header, tolerant_rows
from pipeline.ingest.lines import ByteSource, survey
from pipeline.ingest.quarantine import Rejected, check_limit, public_kind, quarantine_table
from pipeline.store.connection import connect, identifier, literal

if TYPE_CHECKING:
    import duckdb

    from pipeline.features.schema import TableSchema
    from pipeline.ingest.delivery import Delivery
    from pipeline.ingest.reading import Reading
    from pipeline.store.draft import Draft

CSV_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
SCHEMA_SUFFIX = ".schema.json"
_PARQUET = "(FORMAT parquet, COMPRESSION zstd)"

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


@dataclass
class _Work:
    """Everything known so far about one delivery."""

    connection: duckdb.DuckDBPyConnection
    draft: Draft
    scratch: Path
    account: Account = field(default_factory=Account)
    rejects: list[Rejected] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)


def read_tables(delivery: Delivery, draft: Draft, reading: Reading) -> Account:
    """Read the CSV and Parquet files of a delivery into `draft`, one table a file, and `quarantine`.

    A table is called by its file's stem in lower case, other characters than a-z, 0-9 as `_`.

    Args:
        delivery: The delivery.
        draft: Where the tables go; nothing is committed here.
        reading: The source's settings and what may be used.

    Raises:
        InputError: No table or no row, a header that is missing or repeats names, a Parquet file that cannot be
            read, two files with one table name, too many quarantined rows.
        ConfigError: A schema file that is not a TableSchema.
        StoreError: No space.
    """
    scratch = draft.folder("reading")
    files = dict(delivery.files())
    try:
        with connect({}, threads=reading.threads, memory_limit=reading.memory_limit, spill=reading.spill) as connection:
            work = _Work(connection, draft, scratch)
            others: Counter[str] = Counter()
            for file, path in files.items():
                bare = file.lower().removesuffix(".gz")
                if bare.endswith(CSV_SUFFIXES):
                    _read_csv(work, file, path, _schema(files, file))
                elif bare.endswith(PARQUET_SUFFIXES):
                    _read_parquet(work, file, path)
                elif not bare.endswith(SCHEMA_SUFFIX):
                    others[public_kind(file)] += 1
        account = work.account
        account.info["other_files"] = dict(sorted(others.items()))
        _close(work)
        draft.add_table("quarantine", quarantine_table(work.rejects))
        check_limit(account, work.rejects, reading.source.max_quarantine_rate)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return account


def table_name(file: str) -> str:
    """The table's name of a file: its stem, lower case, `[a-z0-9_]`, not starting with a digit."""
    stem = Path(re.sub(r"(?i)\.gz$", "", file)).stem.lower()
    name = re.sub(r"[^a-z0-9_]+", "_", stem).strip("_") or "table"
    return f"t_{name}" if name[0].isdigit() else name


def _new_table(work: _Work, file: str) -> str:
    """Register the table of a file; raises where its name is taken."""
    name = table_name(file)
    if name in work.tables or name == "quarantine":
        raise InputError(
            f"Two files of the delivery would be the table '{name}'."
            if name in work.tables
            else "'quarantine' is the name of a table of every delivery.",
            where=file,
            todo="Rename one of them.",
        )
    work.tables[name] = file
    work.account.files += 1
    return name


def _schema(files: dict[str, Path], file: str) -> TableSchema | None:
    """The TableSchema beside a file (`<stem>.schema.json`), if there is one."""
    stem = re.sub(r"(?i)\.(csv|tsv)(\.gz)?$", "", file)
    path = files.get(f"{stem}{SCHEMA_SUFFIX}")
    if path is None:
        return None
    from pydantic import ValidationError

    from pipeline.features.schema import TableSchema

    try:
        return TableSchema.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"This is not a TableSchema ({error.error_count()} faults; the first: {first['msg']}).",
            where=f"{stem}{SCHEMA_SUFFIX}, {'.'.join(map(str, first['loc'])) or 'whole file'}",
        ) from None


def _read_csv(work: _Work, file: str, path: Path, schema: TableSchema | None) -> None:
    """One CSV file: text columns first, then types."""
    import duckdb

    name = _new_table(work, file)
    found = survey(path, work.scratch / f"{name}.csv")
    work.account.bytes += found.bytes
    header = read_header(found.plain, file)
    if schema is not None:
        missing = [c.name for c in schema.columns if c.name not in header.names]
        if missing:
            raise InputError(
                f"{len(missing)} columns of the schema are not in the file: {', '.join(missing[:5])}.", where=file
            )
    run = work.connection.execute
    run("DROP TABLE IF EXISTS csv_rows").fetchall()
    rows: int | None = None
    if not found.cut:
        try:
            run(f"CREATE TABLE csv_rows AS SELECT * FROM {_strict_csv(found.plain, header)}").fetchall()
            rows = _count(work, "csv_rows")
        except duckdb.Error as error:  # its message quotes the row, so it goes no further
            if isinstance(error, duckdb.OutOfMemoryException | duckdb.IOException):
                raise
    if rows is not None and header.quotes is False and rows != found.records - 1:
        rows = None
    fits = _casts(work, header, schema) if rows is not None else None
    if rows is None or (fits is not None and fits.bad):
        rows = _tolerant(work, name, file, found.plain, header, cut=found.cut)
        fits = _casts(work, header, schema)
        if fits.bad:
            _set_aside(work, name, file, fits)
    assert fits is not None
    target = work.draft.file(f"{name}.parquet")
    order = "ORDER BY _line" if fits.lined else ""
    where = f"WHERE {fits.good}" if fits.bad else ""
    run(f"COPY (SELECT {fits.select} FROM csv_rows {where} {order}) TO {literal(target)} {_PARQUET}").fetchall()
    work.account.in_ += rows
    work.account.taken[name] = _count(work, f"read_parquet({literal(target)})")
    extra = [column for column in header.names if schema is not None and column not in schema.names]
    if extra:
        work.account.info.setdefault("columns_not_in_schema", {})[name] = sorted(extra)


def _strict_csv(path: Path, header: Header) -> str:
    """DuckDB's reader with every option given, all columns as text."""
    columns = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in header.names)
    return (
        f"read_csv({literal(path)}, auto_detect = false, header = true, delim = {literal(header.delimiter)}, "
        f"quote = '\"', escape = '\"', nullstr = '', strict_mode = true, null_padding = false, compression = 'none', "
        f"hive_partitioning = false, max_line_size = 16777216, columns = {{{columns}}})"
    )


@dataclass
class _Casts:
    """How the text columns of `csv_rows` become typed ones.

    Attributes:
        select: Expressions of the typed columns.
        good: Condition of the rows that fit.
        reason: Expression giving why a row does not fit.
        bad: Number of rows that do not.
        lined: Do the rows know their line?
    """

    select: str
    good: str
    reason: str
    bad: int
    lined: bool


def _casts(work: _Work, header: Header, schema: TableSchema | None) -> _Casts:
    """Casts from the schema, or found over all rows."""
    lined = any(row[0] == "_line" for row in work.connection.execute("DESCRIBE csv_rows").fetchall())
    if schema is None:
        types = _infer(work, header.names)
        select = ", ".join(
            f"{_cast(identifier(c), t)} AS {identifier(c)}" for c, t in zip(header.names, types, strict=True)
        )
        return _Casts(select, "TRUE", "''", 0, lined)
    parts, wrong, absent = [], [], []
    for column in schema.columns:
        text = identifier(column.name)
        sql, pattern = _DECLARED[column.dtype]
        cast = _cast(text, sql)
        parts.append(f"{cast} AS {text}")
        if pattern is not None:
            finite = f" OR NOT isfinite({cast})" if sql in ("DOUBLE", "FLOAT") else ""
            match = f"regexp_full_match(trim({text}), {literal(pattern)})"
            wrong.append(f"({text} IS NOT NULL AND (NOT {match} OR {cast} IS NULL{finite}))")
        if not column.nullable:
            absent.append(f"{text} IS NULL")
    bad_type, missing = " OR ".join(wrong) or "FALSE", " OR ".join(absent) or "FALSE"
    reason = f"CASE WHEN {bad_type} THEN 'wrong_type' WHEN {missing} THEN 'missing_value' END"
    good = f"NOT (({bad_type}) OR ({missing}))"
    return _Casts(", ".join(parts), good, reason, _count(work, f"csv_rows WHERE NOT {good}"), lined)


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
            f"WHEN {text} IS NOT NULL THEN FALSE END"
        )
    return f"TRY_CAST(trim({text}) AS {sql})"


def _infer(work: _Work, names: list[str]) -> list[str]:
    """The narrowest type that every value of a column fits, over the whole file; each distinct value is tried once."""
    types = []
    for name in names:
        text = identifier(name)
        tests = []
        for sql, pattern in _INFERRED:
            finite = f" AND isfinite(TRY_CAST(trim({text}) AS DOUBLE))" if sql == "DOUBLE" else ""
            fits = (
                f"regexp_full_match(trim({text}), {literal(str(pattern))}) AND {_cast(text, sql)} IS NOT NULL{finite}"
            )
            tests.append(f"coalesce(bool_and({fits}), FALSE)")
        ((*answers,),) = work.connection.execute(
            f"SELECT {', '.join(tests)} FROM (SELECT DISTINCT {text} FROM csv_rows WHERE {text} IS NOT NULL)"
        ).fetchall()
        types.append(next((sql for (sql, _), fits in zip(_INFERRED, answers, strict=True) if fits), "VARCHAR"))
    return types


def _tolerant(work: _Work, name: str, file: str, plain: Path, header: Header, *, cut: bool) -> int:
    """Read row by row into `csv_rows` with the line of each; gives the number of records found."""
    clean = work.scratch / f"{name}.rows.parquet"
    result = tolerant_rows(plain, header, clean, file=file, table=name, cut=cut)
    _reject(work, result.rejects)
    work.connection.execute("DROP TABLE IF EXISTS csv_rows").fetchall()
    work.connection.execute(f"CREATE TABLE csv_rows AS SELECT * FROM read_parquet({literal(clean)})").fetchall()
    work.account.info["tolerant_files"] = work.account.info.get("tolerant_files", 0) + 1
    return result.records


def _set_aside(work: _Work, name: str, file: str, fits: _Casts) -> None:
    """Quarantine the rows that do not fit the declared schema."""
    rows = work.connection.execute(
        f"SELECT _line, _sha256, _bytes, {fits.reason} FROM csv_rows WHERE NOT {fits.good} ORDER BY _line"
    ).fetchall()
    _reject(work, [Rejected(file, line, name, reason, sha, size) for line, sha, size, reason in rows])


def _reject(work: _Work, found: list[Rejected]) -> None:
    work.rejects.extend(found)
    for record in found:
        work.account.quarantined[record.reason] = work.account.quarantined.get(record.reason, 0) + 1


def _count(work: _Work, relation: str) -> int:
    ((number,),) = work.connection.execute(f"SELECT count(*) FROM {relation}").fetchall()
    return int(number)


def _read_parquet(work: _Work, file: str, path: Path) -> None:
    """One Parquet file, copied through DuckDB so that only whole, readable files come in."""
    import duckdb

    name = _new_table(work, file)
    source = ByteSource(path)
    if source.gzipped:
        plain = work.scratch / f"{name}.source.parquet"
        with plain.open("wb") as out:
            for chunk in source.chunks():
                out.write(chunk)
        if source.cut:
            raise InputError("The gzip ends before its end, and half a Parquet file cannot be read.", where=file)
    else:
        plain = path
    work.account.bytes += plain.stat().st_size
    reader = f"read_parquet({literal(plain)}, hive_partitioning = false, file_row_number = false)"
    target = work.draft.file(f"{name}.parquet")
    rows = -1
    try:
        rows = _count(work, reader)
        work.connection.execute(f"COPY (SELECT * FROM {reader}) TO {literal(target)} {_PARQUET}").fetchall()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error:
        rows = -1
    if rows < 0:
        raise InputError("This is not a Parquet file, or it is damaged.", where=file)
    work.account.in_ += rows
    work.account.taken[name] = _count(work, f"read_parquet({literal(target)})")


def _close(work: _Work) -> None:
    """Hold the account against what came in."""
    account = work.account
    if not work.tables:
        raise InputError(
            "The delivery is empty: it holds no table.", todo="Expected are .csv, .tsv or .parquet files, plain or .gz."
        )
    if account.in_ == 0:
        raise InputError(f"The delivery is empty: {len(work.tables)} tables, and not one row.")
    if not account.balanced:
        raise InputError(
            f"The account does not balance: {account.sentence()}.", todo="Nothing was taken. Please report this."
        )
