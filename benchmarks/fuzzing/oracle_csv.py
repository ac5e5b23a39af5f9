"""What the rows of CSV files have to be, told by plain Python: every cell of every row that was taken, in order.

Only files of which it is clear what they say are looked at cell by cell: UTF-8, and quoted as it should be or not at
all. Of the others the account alone is held (`checks`).
"""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fuzzing.cases import Case

if TYPE_CHECKING:
    from fuzzing.checks import Ingested

Row = tuple[int, list[str], bytes]
"""Line of its start, fields, bytes."""


def check(case: Case, ingested: Ingested, baseline: Path | None) -> list[str]:
    """Findings about the rows."""
    del baseline  # every cell is told from the file itself
    found = []
    quarantine = ingested.rows("quarantine")
    for row in ingested.rows("delivered_files"):
        name = row["file"]
        plain = case.plain(name)
        if row["form"] == "parquet" and plain is not None:
            found += _parquet(case, ingested, name, plain)
        if row["form"] != "csv" or plain is None or row["outcome"] in ("no data", "empty"):
            continue
        rows = read(plain, "\t" if ".tsv" in name.lower() else ",")
        if rows is None or not rows:
            continue
        rejected = {r["line"] for r in quarantine if r["file"] == name}
        if 0 in rejected:
            continue
        head, body = rows[0][1], rows[1:]
        if row["records"] != len(body):
            found.append(f"{name}: {row['records']} rows in the account, {len(body)} in the file")
            continue
        kept = [r for r in body if r[0] not in rejected]
        if len(body) - len(kept) != len(rejected):
            found.append(f"{name}: quarantined lines {sorted(rejected - {r[0] for r in body})[:3]} are no rows")
        found += _cells(case, ingested, name, head, kept)
    return found


def _parquet(case: Case, ingested: Ingested, name: str, plain: bytes) -> list[str]:
    """A Parquet file that was taken: every value that Python can tell is as it was."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = ingested.tables.get(name.rpartition("/")[2].removesuffix(".gz").removesuffix(".parquet"))
    if path is None:
        return []
    then, now = pq.ParquetFile(io.BytesIO(plain)).read(), pq.read_table(path)
    if then.num_rows != now.num_rows:
        return [f"{name}: {now.num_rows} rows in the table, {then.num_rows} in the file"]
    found = []
    for column in set(then.column_names) & set(now.column_names):
        if then.column_names.count(column) > 1 or pa.types.is_nested(then.schema.field(column).type):
            continue
        one, two = then.column(column), now.column(column)
        simple = pa.types.is_integer(one.type) or pa.types.is_string(one.type) or pa.types.is_boolean(one.type)
        if one.null_count != two.null_count or (simple and one.to_pylist() != two.to_pylist()):
            found.append(f"{name}: column {column[:20]!r} is not what it was")
    return found


def read(plain: bytes, delimiter: str) -> list[Row] | None:
    """The rows of a file; None where it is not clear what they are."""
    plain = plain.removeprefix(b"\xef\xbb\xbf")
    try:
        text = plain.decode("utf-8")
    except UnicodeDecodeError:
        return None
    bare = text.replace("\r\n", "\n")
    if "\0" in text or "\r" in bare or delimiter not in text.partition("\n")[0]:
        return None
    if '"' not in text:
        return [
            (number, line.split(delimiter), line.encode())
            for number, line in enumerate(bare.split("\n"), start=1)
            if line.strip(" \t\r\n\x0b\x0c")
        ]
    if re.search(r"\n[ \t]*\n", bare) or len(text) > 5_000_000:
        return None
    rows: list[Row] = []
    lines = text.split("\n")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                raw = "\n".join(lines[line - 1 : reader.line_num]).removesuffix("\r")
                if _odd(raw, fields, delimiter):
                    return None
                rows.append((line, fields, raw.encode()))
            line = reader.line_num + 1
    except csv.Error:
        return None
    return rows


def _odd(raw: str, fields: list[str], delimiter: str) -> bool:
    """Is a row quoted in a way that readers understand differently? (A quotation mark within a bare cell.)"""
    at = 0
    for place, cell in enumerate(fields):
        # Put together again, quoted or bare, it has to be what stands there.
        quoted = '"' + cell.replace('"', '""') + '"'
        if raw.startswith(quoted, at):
            at += len(quoted)
        elif '"' not in cell and raw.startswith(cell, at):
            at += len(cell)
        else:
            return True
        if place < len(fields) - 1:
            if raw[at : at + 1] != delimiter:
                return True
            at += 1
    return at != len(raw)


def _cells(case: Case, ingested: Ingested, name: str, head: list[str], rows: list[Row]) -> list[str]:
    """The rows that were taken, cell by cell; only where a table was made of this file alone."""
    import pyarrow.parquet as pq

    stem = re.sub(r"(?i)\.(csv|tsv)(\.gz)?$", "", name.rpartition("/")[2]).lower()
    path = ingested.tables.get(stem)
    if path is None or case.seed.settings.get("tables"):
        return []
    table = pq.read_table(path)
    wrong = [r[0] for r in rows if len(r[1]) != len(head)]
    if wrong:
        return [f"{name}: line {wrong[0]} has another number of fields than the header, and was taken"]
    superseded = ingested.account["superseded"].get(stem, 0)
    if superseded:
        # A row that is wholly like an earlier one counts once.
        first: dict[bytes, Row] = {}
        for row in rows:
            first.setdefault(row[2].rstrip(b"\r"), row)
        rows = list(first.values())
    if len(rows) != table.num_rows:
        return [] if superseded else [f"{name}: {table.num_rows} rows in the table, {len(rows)} were taken"]
    found = []
    names = [column.lower() for column in table.column_names]
    for place, column in enumerate(head):
        written = column.strip()
        if [c.strip().lower() for c in head].count(written.lower()) > 1 or written.lower() not in names:
            continue  # a name that was given: not looked for
        values = table.column(names.index(written.lower())).to_pylist()
        for (line, fields, _), value in zip(rows, values, strict=True):
            if fault := differs(fields[place], value):
                found.append(f"{name}: column {place + 1}, line {line}: {fault}")
                break
    return found


def differs(cell: str, value: Any) -> str:
    """How a typed value is not what its cell says; empty if it is."""
    if value is None and not cell.strip(" "):
        return ""  # blanks are nothing, unless the column is text
    if cell == "" or value is None:
        return "" if (cell == "") == (value is None) else "NULL in silence" if value is None else "not empty"
    same: bool
    if isinstance(value, str):
        same = value == cell
    elif isinstance(value, bool):
        same = cell.strip().lower() in (("true", "t", "yes", "y", "1") if value else ("false", "f", "no", "n", "0"))
    elif isinstance(value, int):
        same = bool(re.fullmatch(r"\s*[+-]?\d+(\.0+)?\s*", cell)) and int(cell.strip().split(".")[0]) == value
    elif isinstance(value, float):
        same = float(cell) == value
    elif isinstance(value, datetime):
        moment = datetime.fromisoformat(cell.strip())
        same = (moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment) == value
    elif isinstance(value, date):
        same = cell.strip()[:10] == value.isoformat()
    else:
        return f"an unexpected {type(value).__name__}"
    return "" if same else f"another value ({type(value).__name__})"
