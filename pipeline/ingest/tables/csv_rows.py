"""CSV below the level of tables: the header, and reading row by row where the fast reader gives up."""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.ingest.lines import CHUNK, LINE_LIMIT, Line, lines, read_span
from pipeline.ingest.quarantine import Rejected, refuse_many, rejected
from pipeline.ingest.tables.encodings import foreign
from pipeline.ingest.tables.unusable import UnusableFileError
from pipeline.store.connection import literal

if TYPE_CHECKING:
    from pipeline.features.source import TableReading

csv.field_size_limit(LINE_LIMIT)  # the default, 128 KiB, would set a row with a long text aside
BATCH = 50_000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_VALUE = re.compile(r"(?i)\d{4}-\d\d-\d\d([ T][\d:.+Z-]*)?|true|false|" + _NUMBER.pattern)
DELIMITERS = ",;\t|"
_OPENS_LINE = re.compile(rb'[ \t]*"')
_CLOSES = re.compile(rb'(?:[^"]|"")*"(?!")')
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d.*")
_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_TOLD = re.compile(r"[^\W\d][\w .()/%-]{0,60}")
_ROWS_TO_TELL = 1_000
"""Rows that are looked at to tell a header from a first row."""
MOST_LETTERS = 1_000
"""Longest name of a column."""
MOST_COLUMNS = 10_000
"""A table with more is no table; codes by the thousand belong in rows (patient, code)."""


@dataclass(frozen=True)
class Header:
    """The columns of a CSV file and how its fields are told apart.

    Attributes:
        names: Column names: as they are, an empty one `unnamed_<position>`, one that stands there again (in any case of
            its letters) `<name>.1`, `<name>.2` and so on, as pandas calls them.
        delimiter: The character between fields.
        quotes: False if the file holds no quotation mark at all, so that every line is a row.
        stands: Is the first row of the file the header?
        written: The names as they stand in the file, to know a row that repeats them.
        trim: Are blanks around a cell no part of it?
    """

    names: list[str]
    delimiter: str
    quotes: bool
    stands: bool = True
    written: tuple[str, ...] = ()
    trim: bool = False

    @property
    def renamed(self) -> list[str]:
        """Names that were given to columns whose name another one has."""
        return [n for n, w in zip(self.names, self.written, strict=False) if w and n != w]


def read_header(path: Path, file: str, settings: TableReading | None = None) -> Header:
    """Read the header of a plain CSV file, or take the declared one.

    Args:
        path: The file, unpacked and in UTF-8.
        file: Its path in the delivery, for messages.
        settings: How the source says that it is read.

    Raises:
        UnusableFileError: Empty, no UTF-8, or no header (only numbers, or what looks like a row).
    """
    rows = records(lines(read_span(path, 0, LINE_LIMIT)))
    first = next((raw for _, raw, _ in rows if raw.strip()), None)
    if first is None:
        raise UnusableFileError("no_header", "The file is empty: not even a header.", where=file)
    try:
        text = "" if b"\0" in first else first.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise other_encoding(path, file, "The header is not UTF-8.")
    trim = settings is not None and settings.trim
    delimiter = (settings.delimiter if settings else None) or delimiter_of(text, file)
    try:
        first_row = next(csv.reader([text], delimiter=delimiter, skipinitialspace=trim))
    except csv.Error:
        first_row = []
    if not first_row:
        raise _no_header("The first line cannot be told apart into column names.", file)
    if len(first_row) > MOST_COLUMNS:
        raise UnusableFileError(
            "too_many_columns",
            f"The first line has {len(first_row):,} fields, and {MOST_COLUMNS:,} are the most that are read.",
            where=file,
            todo="Is this the right delimiter, and are the line ends usual ones? Codes by the thousand belong in rows.",
        )
    written = tuple(name.strip() for name in first_row)
    quotes = _has_quotes(path)
    if settings is not None and settings.header is not None:
        stands = [name.lower() for name in written] == [name.lower() for name in settings.header]
        return Header(list(settings.header), delimiter, quotes, stands, written if stands else (), trim)
    header = Header(_unique(written), delimiter, quotes, True, written, trim)
    numbers = [name for name in written if _NUMBER.fullmatch(name)]
    if len(numbers) == len(written):
        raise _no_header(f"The first line holds {len(numbers)} numbers and no column names.", file)
    if any(len(name) > MOST_LETTERS for name in written):
        raise _no_header(f"A column name has more than {MOST_LETTERS:,} characters.", file)
    if _LINE_ENDS.search(text):
        raise _no_header("The first line holds control characters that other programs take for line ends.", file)
    values = [name for name in written if _VALUE.fullmatch(name)]  # whole numbers may be names: years
    moments = any(map(_MOMENT.fullmatch, written))
    if moments or (2 * len(values) > len(written) and not all(map(str.isdigit, values))):
        raise _no_header("The first line is numbers, times and truth values in the place of column names.", file)
    if _looks_like_a_row(path, header):
        raise _no_header("The first line looks like a row: its texts stand again in the rows below it.", file)
    if _fits_no_row(path, header):
        raise _no_header("The first line has another number of fields than all the rows.", file)
    return header


def _fits_no_row(path: Path, header: Header) -> bool:
    """Have the rows another number of fields than the first line, and all the same one?"""
    counts: Counter[int] = Counter()
    for _, raw, _ in islice(records(lines(read_span(path, 0, LINE_LIMIT))), 1, _ROWS_TO_TELL):
        if raw.strip():
            row = csv.reader([raw.decode("utf-8", "replace")], delimiter=header.delimiter, skipinitialspace=header.trim)
            with suppress(csv.Error):
                counts[len(next(row))] += 1
    return len(counts) == 1 and counts.total() > 2 and len(header.names) not in counts


def told(names: Iterable[str]) -> list[str]:
    """Column names for messages, sorted: what does not look like a name may be a value, where a row got into a header."""
    return sorted({name if _TOLD.fullmatch(name) else "(no usual name)" for name in names})


def other_encoding(path: Path, file: str, otherwise: str) -> UnusableFileError:
    """The error of a plain file that is not UTF-8, with the encoding that it seems to be in."""
    seems = foreign(path)
    said = f"The file is not UTF-8: it looks like {seems}." if seems else otherwise
    todo = "Convert it to UTF-8, or say `encoding:` for its table in sources.yaml."
    return UnusableFileError("not_utf8", said, where=f"{file}:1", todo=todo)


def _no_header(what: str, file: str) -> UnusableFileError:
    todo = "Add a header, or say `header: [names]` for its table in sources.yaml."
    return UnusableFileError("no_header", what, where=f"{file}:1", todo=todo)


def delimiter_of(text: str, file: str) -> str:
    """The most frequent of `,;\\t|` outside quotation marks; in a .tsv a tab, if there is one."""
    bare = re.sub(r'"[^"]*"', "", text)
    if "\t" in bare and re.search(r"(?i)\.tsv(\.gz)?$", file):
        return "\t"
    return max(DELIMITERS, key=lambda character: (bare.count(character), character == ","))


def _unique(written: tuple[str, ...]) -> list[str]:
    """Names that differ whatever the case of their letters, which DuckDB does not look at."""
    names: list[str] = []
    taken: set[str] = {name.lower() for name in written}
    seen: set[str] = set()
    for position, name in enumerate(written, start=1):
        fresh, number = name or f"unnamed_{position}", 0
        while fresh.lower() in seen or (fresh != name and fresh.lower() in taken):
            number += 1
            fresh = f"{name or f'unnamed_{position}'}.{number}"
        seen.add(fresh.lower())
        names.append(fresh)
    return names


def _looks_like_a_row(path: Path, header: Header) -> bool:
    """Do at least two of the names, and half of those that are text, stand again as cells of their own columns?"""
    texts = {i: name for i, name in enumerate(header.written) if name and not _NUMBER.fullmatch(name)}
    again: set[int] = set()
    for _, raw, _ in islice(records(lines(read_span(path, 0, LINE_LIMIT)), header.delimiter), 1, _ROWS_TO_TELL):
        cells = [cell.strip() for cell in fields_of(raw, header)[0] or []]
        if cells and tuple(cells) != header.written:
            again |= {i for i, name in texts.items() if cells[i] == name}
    return len(again) >= 2 and 2 * len(again) >= len(texts)


def _has_quotes(path: Path) -> bool:
    with path.open("rb") as file:
        return any(b'"' in piece for piece in iter(lambda: file.read(CHUNK), b""))


def count_rows(path: Path, lines_found: int) -> int:
    """Rows of a plain CSV, its header among them: its lines that are not blank, unless quoted cells may span lines.

    Args:
        path: The file.
        lines_found: Its lines that are not blank.
    """
    if not _has_quotes(path):
        return lines_found
    return sum(1 for _, raw, _ in records(lines(read_span(path, 0, path.stat().st_size))) if raw.strip())


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
        target: Parquet file to write: `line`, `sha256`, `bytes` and the columns `c0`, `c1`, ... as text, empty ones missing.
        file: Path in the delivery, for the quarantine.
        table: Table name, for the quarantine.
        cut: The gzip ended early: a last row without a line break is the one that was cut.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    extra = [("line", pa.int64()), ("sha256", pa.string()), ("bytes", pa.int64())]
    schema = pa.schema([*extra, *((f"c{place}", pa.string()) for place in range(len(header.names)))])
    found = Rows()
    batch: list[list[object]] = []
    first = header.stands
    cut_noted = False
    with pq.ParquetWriter(target, schema) as writer:

        def flush() -> None:
            arrays = [pa.array([row[i] for row in batch], field.type) for i, field in enumerate(schema)]
            writer.write_table(pa.table(arrays, schema=schema))
            batch.clear()

        for number, raw, ended in records(lines(read_span(path, 0, path.stat().st_size)), header.delimiter):
            if not raw.strip():
                continue
            if first:
                first = False
                continue
            found.records += 1
            fields, reason = fields_of(raw, header)
            if fields is not None and repeats(fields, header):
                fields, reason = None, "repeated_header"
            if cut and not ended:
                fields, reason, cut_noted = None, "gzip_truncated", True
            if fields is None:
                found.rejects.append(rejected(file, number, table, reason, raw))
                refuse_many(len(found.rejects), file)
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
        text = raw.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError:
        return None, "invalid_utf8"
    try:
        reader = csv.reader([text], delimiter=header.delimiter, strict=True, skipinitialspace=header.trim)
        parsed = list(reader)
    except csv.Error:
        return None, "wrong_field_count"
    if len(parsed) != 1 or len(parsed[0]) != len(header.names):
        return None, "wrong_field_count"
    return parsed[0], ""


def repeats(fields: list[str], header: Header) -> bool:
    """Does a row say the column names again?"""
    return header.stands and tuple(cell.strip() for cell in fields) == header.written


@lru_cache(maxsize=8)
def _opens(delimiters: str) -> re.Pattern[bytes]:
    """A quotation mark at the start of a field that is not the first of its line."""
    return re.compile(b"[" + re.escape(delimiters.encode()) + b']+[ ]*"')


def strict_csv(path: Path, header: Header) -> str:
    """DuckDB's reader with every option given, all columns as text and called by their place: `c0`, `c1`, ...

    Args:
        path: The plain file.
        header: Its header.
    """
    columns = ", ".join(f"c{place}: 'VARCHAR'" for place in range(len(header.names)))
    return (
        f"read_csv({literal(path)}, auto_detect = false, header = {str(header.stands).lower()}, "
        f"delim = {literal(header.delimiter)}, quote = '\"', escape = '\"', nullstr = '', strict_mode = true, "
        "null_padding = false, compression = 'none', hive_partitioning = false, max_line_size = 16777216, "
        f"columns = {{{columns}}})"
    )


def _stays_open(line: bytes, is_open: bool, opens: re.Pattern[bytes]) -> bool:
    """Is a quoted field open after this line, given whether one was before it?

    Only a quotation mark at the start of a field opens one: in `5" pipe` it is a character like any other.
    """
    place = 0
    while True:
        if is_open:
            end = _CLOSES.match(line, place)
            if end is None:
                return True
            is_open, place = False, end.end()
        start = opens.search(line, place) if place else _OPENS_LINE.match(line) or opens.search(line)
        if start is None:
            return False
        is_open, place = True, start.end()


def records(source: Iterator[Line], delimiters: str = DELIMITERS) -> Iterator[tuple[int, bytes, bool]]:
    """Rows as (line of their start, bytes, ended by a line break); a quoted field may span lines.

    A quotation mark that is never closed would swallow the rest of the file: after 10,000 lines (the longest notes of a
    patient have a few thousand) or 1 MiB the row is given up as its first line only, and reading goes on with the next.

    Args:
        source: The lines.
        delimiters: The characters that may stand between fields; all known ones where the header is still to be read.
    """
    opens = _opens(delimiters)
    pending: list[tuple[int, bytes, bool]] = []
    queue: deque[tuple[int, bytes, bool]] = deque()

    def following() -> tuple[int, bytes, bool] | None:
        if queue:
            return queue.popleft()
        line = next(source, None)
        return None if line is None else (line.number, line.data if line.data is not None else b'"', line.ended)

    size, open_quote = 0, False
    while (line := following()) is not None or pending:
        if line is not None:
            pending.append(line)
            size += len(line[1])
            if open_quote or b'"' in line[1]:
                open_quote = _stays_open(line[1], open_quote, opens)
            if open_quote and len(pending) <= 10_000 and size <= 1 << 20:
                continue
        if open_quote:
            queue.extendleft(reversed(pending[1:]))
            yield pending[0]
        else:
            yield pending[0][0], b"\n".join(part[1] for part in pending), pending[-1][2]
        pending, size, open_quote = [], 0, False
