"""CSV below the level of tables: the header, and reading row by row where the fast reader gives up."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import InputError
from pipeline.ingest.lines import CHUNK, LINE_LIMIT, Line, lines, read_span
from pipeline.ingest.quarantine import Rejected, rejected

BATCH = 50_000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Header:
    """The first line of a CSV file.

    Attributes:
        names: Column names, as they are (an empty one becomes `unnamed_<position>`).
        delimiter: The character between fields.
        quotes: False if the file holds no quotation mark at all, so that every line is a row.
    """

    names: list[str]
    delimiter: str
    quotes: bool


def read_header(path: Path, file: str) -> Header:
    """Read the header of a plain CSV file.

    Raises:
        InputError: Empty, no UTF-8, no header (only numbers), or repeated names.
    """
    first = next((line for line in lines(read_span(path, 0, LINE_LIMIT)) if line.data and line.data.strip()), None)
    if first is None or first.data is None:
        raise InputError("The file is empty: not even a header.", where=file)
    try:
        text = first.data.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError:
        raise InputError("The header is not UTF-8.", where=f"{file}:1", todo="Convert the file to UTF-8.") from None
    bare = re.sub(r'"[^"]*"', "", text)
    delimiter = max(",;\t|", key=lambda character: (bare.count(character), character == ","))
    names = [name.strip() for name in next(csv.reader([text], delimiter=delimiter))]
    names = [name or f"unnamed_{position}" for position, name in enumerate(names, start=1)]
    if all(_NUMBER.fullmatch(name) for name in names):
        raise InputError(
            f"The first line holds {len(names)} numbers and no column names.", where=f"{file}:1", todo="Add a header."
        )
    lowered = [name.lower() for name in names]
    twice = sorted({name for name in names if lowered.count(name.lower()) > 1})
    if twice:
        raise InputError(f"{len(twice)} column names repeat: {', '.join(twice[:5])}.", where=f"{file}:1")
    if "_line" in lowered:
        raise InputError("A column must not be called '_line'.", where=f"{file}:1")
    return Header(names, delimiter, _has_quotes(path))


def _has_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b'"' in piece for piece in iter(lambda: file.read(CHUNK), b""))


@dataclass
class Rows:
    """What `tolerant_rows` found: records that are not blank, and those set aside."""

    records: int = 0
    rejects: list[Rejected] = field(default_factory=list)


def tolerant_rows(path: Path, header: Header, target: Path, *, file: str, table: str, cut: bool) -> Rows:
    """Read a plain CSV row by row; rows with the right number of UTF-8 fields go to `target` as text.

    Args:
        path: The CSV.
        header: Its header.
        target: Parquet file to write: `_line`, `_sha256`, `_bytes` and the columns as text, empty ones missing.
        file: Path in the delivery, for the quarantine.
        table: Table name, for the quarantine.
        cut: The gzip ended early: a last row without a line break is the one that was cut.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    extra = [("_line", pa.int64()), ("_sha256", pa.string()), ("_bytes", pa.int64())]
    schema = pa.schema([*extra, *((name, pa.string()) for name in header.names)])
    found = Rows()
    batch: list[list[object]] = []
    first = True
    cut_noted = False
    with pq.ParquetWriter(target, schema) as writer:

        def flush() -> None:
            arrays = [pa.array([row[i] for row in batch], field.type) for i, field in enumerate(schema)]
            writer.write_table(pa.table(arrays, schema=schema))
            batch.clear()

        for number, raw, ended in records(lines(read_span(path, 0, path.stat().st_size))):
            if not raw.strip():
                continue
            if first:
                first = False
                continue
            found.records += 1
            fields, reason = fields_of(raw, header)
            if cut and not ended:
                fields, reason, cut_noted = None, "gzip_truncated", True
            if fields is None:
                found.rejects.append(rejected(file, number, table, reason, raw))
                continue
            digest = hashlib.sha256(raw).hexdigest()
            batch.append([number, digest, len(raw), *(value or None for value in fields)])
            if len(batch) >= BATCH:
                flush()
        flush()
        if cut and not cut_noted:
            found.records += 1
            found.rejects.append(rejected(file, 0, table, "gzip_truncated", b""))
    return found


def fields_of(raw: bytes, header: Header) -> tuple[list[str] | None, str]:
    """The fields of one row, or None and the reason."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None, "invalid_utf8"
    try:
        parsed = list(csv.reader([text.rstrip("\r")], delimiter=header.delimiter, strict=True))
    except csv.Error:
        return None, "wrong_field_count"
    if len(parsed) != 1 or len(parsed[0]) != len(header.names):
        return None, "wrong_field_count"
    return parsed[0], ""


def records(source: Iterator[Line]) -> Iterator[tuple[int, bytes, bool]]:
    """Rows as (line of their start, bytes, ended by a line break); a quoted field may span lines.

    A quotation mark that is never closed would swallow the rest of the file: after 1,000 lines or 1 MiB the row is
    given up as its first line only, and reading goes on with the next.
    """
    pending: list[tuple[int, bytes, bool]] = []
    queue: list[tuple[int, bytes, bool]] = []

    def following() -> tuple[int, bytes, bool] | None:
        if queue:
            return queue.pop(0)
        line = next(source, None)
        return None if line is None else (line.number, line.data if line.data is not None else b'"', line.ended)

    size, open_quote = 0, False
    while (line := following()) is not None or pending:
        if line is not None:
            pending.append(line)
            size += len(line[1])
            open_quote ^= line[1].count(b'"') % 2 == 1
            if open_quote and len(pending) <= 1000 and size <= 1 << 20:
                continue
        if open_quote:
            queue[:0] = pending[1:]
            yield pending[0]
        else:
            yield pending[0][0], b"\n".join(part[1] for part in pending), pending[-1][2]
        pending, size, open_quote = [], 0, False
