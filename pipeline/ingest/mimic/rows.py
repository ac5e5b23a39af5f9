"""One CSV file of MIMIC to one typed Parquet table, held against its declaration.

DuckDB reads strictly, as text, and casts in the same pass: its own typed reading would take 1.5 for the integer 2 and
drop an offset. The first row that does not fit, or a key given twice, sends the file through `csv_rows`, row by row,
which knows the lines. Which files are which tables, and what the tables have to do with each other: `mimic.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.ingest.lines import Survey, survey
from pipeline.ingest.mimic.tables import SQL_TYPES, ColumnType, MimicTable
from pipeline.ingest.quarantine import Rejected, refuse_many
from pipeline.ingest.tables.csv_rows import Header, read_header, strict_csv, tolerant_rows
from pipeline.ingest.tables.unusable import UnusableFileError
from pipeline.store.connection import identifier, literal
from pipeline.store.hashing import sha256_file

if TYPE_CHECKING:
    import duckdb

_PARQUET: Final = "(FORMAT parquet, COMPRESSION zstd)"
_SHAPES: Final = {
    "int": r"[+-]?\d+(\.0+)?",
    "time": r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)?",
    "date": r"\d{4}-\d\d-\d\d([ T]00:00(:00(\.0+)?)?)?",
}
"""What a cell of a type may look like where it is not already written as DuckDB would write it."""
_LENGTHS: Final = {"time": len("2100-01-01 00:00:00"), "date": len("2100-01-01")}
_DIGITS: Final = "0123456789.eE+- "
_NO_FIT: Final = "error('a row does not fit its declaration')"


@dataclass
class ReadTable:
    """What became of one file.

    Attributes:
        bytes: Its unpacked size.
        records: Rows found; 1 for a file that is set aside as a whole.
        taken: Rows in the Parquet file; None if there is none.
        superseded: Rows that repeat an earlier one wholly.
        rejects: What is set aside.
        absent: Declared columns that the file does not have (they are null).
        extra: Columns that are not declared (kept as text).
        tolerant: Was it read row by row?
    """

    bytes: int
    records: int = 0
    taken: int | None = None
    superseded: int = 0
    rejects: list[Rejected] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    tolerant: bool = False


def read_table(
    connection: duckdb.DuckDBPyConnection, table: MimicTable, file: str, path: Path, target: Path, scratch: Path
) -> ReadTable:
    """Read one file into `target`, which is only written where the file is such a table.

    Args:
        connection: Where the work is done.
        table: Its declaration.
        file: Path in the delivery.
        path: Where it is; plain or gzipped.
        target: The Parquet file to write.
        scratch: Folder for what is unpacked; left empty.

    Raises:
        duckdb.OutOfMemoryException: The memory does not do.
        duckdb.IOException: The disk does not.
    """
    plain = scratch / f"{table.name}.csv"
    clean = scratch / f"{table.name}.rows.parquet"
    try:
        found = survey(path, plain)
        read = ReadTable(found.bytes)
        if found.swollen:
            _set_aside(read, table, file, "too_large", path)
            return read
        header, reason = _header(found.plain, file, table)
        if header is None:
            if found.bytes:
                _set_aside(read, table, file, reason, path)
            return read
        read.absent = [column for column in table.columns if column not in header.names]
        read.extra = [column for column in header.names if column not in table.columns]
        rows = None if found.cut else _strict(connection, table, found, header, target)
        if rows is not None:
            read.records = read.taken = rows
        else:
            _tolerant(connection, table, found, header, target, clean, read, file)
        return read
    finally:
        plain.unlink(missing_ok=True)
        clean.unlink(missing_ok=True)


def _set_aside(read: ReadTable, table: MimicTable, file: str, reason: str, path: Path) -> None:
    """Quarantine the file as a whole; one that was not unpacked counts with its size as it came."""
    read.records, read.bytes = 1, read.bytes or path.stat().st_size
    read.rejects.append(Rejected(file, 0, table.name, reason, sha256_file(path), read.bytes))


def _header(plain: Path, file: str, table: MimicTable) -> tuple[Header | None, str]:
    """The header with names in lower case, or None and the reason why the file cannot be used."""
    try:
        header = read_header(plain, file)
    except UnusableFileError as error:
        return None, error.reason
    header = dataclasses.replace(header, names=[name.lower() for name in header.names])
    return (header, "") if table.needed <= set(header.names) else (None, "other_columns")


def _strict(
    connection: duckdb.DuckDBPyConnection, table: MimicTable, found: Survey, header: Header, target: Path
) -> int | None:
    """Rows written, or None where any row does not fit or repeats a key."""
    import duckdb

    try:
        connection.execute(
            f"COPY (SELECT {_select(table, header)} FROM {strict_csv(found.plain, header)} "
            f"WHERE CASE WHEN {_fits(table, header)} THEN TRUE ELSE {_NO_FIT} END) TO {literal(target)} {_PARQUET}"
        ).fetchall()
        rows = _count(connection, f"read_parquet({literal(target)})")
        whole = header.quotes or rows == found.records - 1
        if whole and not _repeats(connection, table, header, target):
            return rows
    except duckdb.Error as error:  # its message quotes the row, so it goes no further
        if isinstance(error, duckdb.OutOfMemoryException | duckdb.IOException):
            raise
    target.unlink(missing_ok=True)
    return None


def _repeats(connection: duckdb.DuckDBPyConnection, table: MimicTable, header: Header, target: Path) -> bool:
    """Is a key of the table given twice? (A key of which a column is absent is not looked at.)"""
    if not table.key or not set(table.key) <= set(header.names):
        return False
    key = ", ".join(map(identifier, table.key))
    rows = f"read_parquet({literal(target)})"
    return _count(connection, f"(SELECT DISTINCT {key} FROM {rows})") != _count(connection, rows)


def _tolerant(
    connection: duckdb.DuckDBPyConnection,
    table: MimicTable,
    found: Survey,
    header: Header,
    target: Path,
    clean: Path,
    read: ReadTable,
    file: str,
) -> None:
    """Read row by row, set aside what does not fit or has a key that stands before with other content."""
    result = tolerant_rows(found.plain, header, clean, file=file, table=table.name, cut=found.cut)
    read.tolerant, read.records = True, result.records
    read.rejects += result.rejects
    rows = f"read_parquet({literal(clean)})"
    fits = _fits(table, header)
    cells = _cells(header)
    refuse_many(_count(connection, f"{rows} WHERE NOT ({fits})"), file)
    missing = " OR ".join(f"{cells[name]} IS NULL" for name in sorted(table.never_empty & cells.keys())) or "FALSE"
    for line, digest, size, empty in connection.execute(
        f"SELECT line, sha256, bytes, {missing} FROM {rows} WHERE NOT ({fits}) ORDER BY line"
    ).fetchall():
        reason = "missing_value" if empty else "wrong_type"
        read.rejects.append(Rejected(file, line, table.name, reason, digest, size))
    # The columns get their names last: whatever a file calls its own cannot meet `line` or `nth`.
    good = f"SELECT *, 1 AS nth FROM {rows} WHERE {fits}"
    if table.key and set(table.key) <= cells.keys():
        key = ", ".join(_typed(table, name, cells[name]) for name in table.key)
        good = (
            f"SELECT *, row_number() OVER same AS nth, first(sha256) OVER same AS first_sha256 FROM {rows} WHERE {fits} "
            f"WINDOW same AS (PARTITION BY {key} ORDER BY line)"
        )
        for line, digest, size, same in connection.execute(
            f"SELECT line, sha256, bytes, sha256 = first_sha256 FROM ({good}) WHERE nth > 1 ORDER BY line"
        ).fetchall():
            if same:
                read.superseded += 1
            else:
                read.rejects.append(Rejected(file, line, table.name, "repeated_key", digest, size))
    connection.execute(
        f"COPY (SELECT {_select(table, header)} FROM ({good}) WHERE nth = 1 ORDER BY line) TO {literal(target)} {_PARQUET}"
    ).fetchall()
    read.taken = _count(connection, f"read_parquet({literal(target)})")


def _cells(header: Header) -> dict[str, str]:
    """Column to the name of its text column, which goes by its place."""
    return {name: f"c{place}" for place, name in enumerate(header.names)}


def _typed(table: MimicTable, name: str, cell: str) -> str:
    return f"TRY_CAST({cell} AS {SQL_TYPES[table.columns[name]]})"


def _select(table: MimicTable, header: Header) -> str:
    """The typed columns: the declared ones in their order, absent ones null, then the others as text."""
    cells = _cells(header)
    parts = [f"{_typed(table, name, cells.get(name, 'NULL'))} AS {identifier(name)}" for name in table.columns]
    parts += [f"{cell} AS {identifier(name)}" for name, cell in cells.items() if name not in table.columns]
    return ", ".join(parts)


def _fits(table: MimicTable, header: Header) -> str:
    """Condition, never NULL, of the rows that are as declared."""
    cells = _cells(header)
    parts = [f"{cells[name]} IS NOT NULL" for name in sorted(table.never_empty & cells.keys())]
    parts += [_is(cells[name], kind) for name, kind in table.columns.items() if kind != "text" and name in cells]
    return " AND ".join(parts) or "TRUE"


def _is(cell: str, kind: ColumnType) -> str:
    """Condition, never NULL, that a cell is empty or of a type; the costly look is only for unusual spellings."""
    cast = f"TRY_CAST({cell} AS {SQL_TYPES[kind]})"
    if kind == "float":
        return f"({cell} IS NULL OR coalesce(translate({cell}, '{_DIGITS}', '') = '' AND isfinite({cast}), FALSE))"
    shape = f"regexp_full_match(trim({cell}), '{_SHAPES[kind]}') AND {cast} IS NOT NULL"
    usual = f"CAST({cast} AS VARCHAR) = {cell}"
    if kind in _LENGTHS:  # DuckDB writes 'infinity' and years of five digits too
        usual += f" AND length({cell}) = {_LENGTHS[kind]}"
    return f"CASE WHEN {usual} THEN TRUE ELSE {cell} IS NULL OR ({shape}) END"


def _count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    ((number,),) = connection.execute(f"SELECT count(*) FROM {relation}").fetchall()
    return int(number)
