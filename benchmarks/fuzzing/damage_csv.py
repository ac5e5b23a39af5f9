"""Damage to CSV that knows what CSV is: cells, quotes, fields, headers and columns."""

from __future__ import annotations

import csv
import io
import json
import random
import warnings
import zipfile

from fuzzing.damage import Damage, pick
from fuzzing.deliveries import Files
from fuzzing.values import anything, text

Rows = list[list[str]]


def _table(rng: random.Random, files: Files) -> tuple[str, Rows] | None:
    if not any(name.endswith((".csv", ".tsv")) for name in files):
        return None
    name = pick(rng, files, ".csv", ".tsv")
    delimiter = "\t" if name.endswith(".tsv") else ","
    try:
        rows = list(csv.reader(io.StringIO(files[name].decode("utf-8"), newline=""), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error):
        return None
    return (name, rows) if rows and rows[0] else None


def _write(files: Files, name: str, rows: Rows, end: str = "\n", quoting: int = csv.QUOTE_MINIMAL) -> None:
    out = io.StringIO(newline="")
    delimiter = "\t" if name.endswith(".tsv") else ","
    csv.writer(out, lineterminator=end, delimiter=delimiter, quoting=quoting).writerows(rows)
    files[name] = out.getvalue().encode("utf-8", "surrogatepass")


def cell(rng: random.Random, files: Files) -> str:
    """Another value in a cell, or in many of a column, properly quoted."""
    if (found := _table(rng, files)) is None:
        return "nothing"
    name, rows = found
    place = rng.randrange(len(rows[0]))
    some = range(1, len(rows)) if rng.random() < 0.15 else [rng.randrange(len(rows))]
    fresh = text(rng)
    fresh = fresh if len(fresh) < 1000 or len(some) == 1 else fresh[:300]
    for at in some:
        if place < len(rows[at]):
            rows[at][place] = fresh
    _write(files, name, rows)
    return f"{name}: column {place + 1} of {len(some)} rows (the first {some[0] if some else 0}) = {fresh[:30]!r}"


def field(rng: random.Random, files: Files) -> str:
    """Too many or too few fields, in a row or in the header."""
    if (found := _table(rng, files)) is None:
        return "nothing"
    name, rows = found
    at = 0 if rng.random() < 0.2 else rng.randrange(len(rows))
    if rng.random() < 0.5:
        rows[at].insert(rng.randrange(len(rows[at]) + 1), text(rng)[:1000])
    elif rows[at]:
        del rows[at][rng.randrange(len(rows[at]))]
    _write(files, name, rows)
    return f"{name}: row {at} has {len(rows[at])} fields"


def quotes(rng: random.Random, files: Files) -> str:
    """Quoting as nobody should do it."""
    name = pick(rng, files, ".csv", ".tsv") if any(n.endswith((".csv", ".tsv")) for n in files) else pick(rng, files)
    found = files[name].split(b"\n")
    at = rng.randrange(len(found))
    line = found[at]
    how = rng.choice(["open", "middle", "around", "single", "escaped", "closed late", "all", "after", "twice"])
    if how == "open":
        line = b'"' + line
    elif how == "middle":
        place = rng.randrange(len(line) + 1)
        line = line[:place] + b'"' + line[place:]
    elif how == "around":
        line = b'"' + line + b'"'
    elif how == "single":
        line = b",".join(b"'" + part + b"'" for part in line.split(b","))
    elif how == "escaped":
        line = line.replace(b",", b'\\",', 1)
    elif how == "closed late":
        line = b'"' + line
        found[min(len(found) - 1, at + rng.randrange(1, 30))] += b'"'
    elif how == "after":
        line = line.replace(b",", b'"x",', 1)
    elif how == "twice":
        line = line.replace(b",", b'"",""', 1)
    found[at] = line
    if how == "all" and (table := _table(rng, files)):
        name, rows = table
        _write(files, name, rows, quoting=csv.QUOTE_ALL)
        return f"{name}: all cells quoted"
    files[name] = b"\n".join(found)
    return f"{name}: line {at + 1} quoted: {how}"


def header(rng: random.Random, files: Files) -> str:
    """Column names that are repeated, missing, dangerous or a row."""
    if (found := _table(rng, files)) is None:
        return "nothing"
    name, rows = found
    head = rows[0]
    place = rng.randrange(len(head))
    how = rng.choice(
        ["text", "text", "twice", "case", "none", "only", "again", "gone", "swapped", "numbers", "blank", "row"]
    )
    if how == "text":
        head[place] = text(rng)
    elif how == "twice":
        head[place] = head[place - 1]
    elif how == "case":
        head[:] = [column.swapcase() for column in head]
    elif how == "none":
        del rows[0]
    elif how == "only":
        del rows[1:]
    elif how == "again":
        rows.insert(rng.randrange(len(rows)), list(head))
    elif how == "gone":
        for row in rows:
            del row[place : place + 1]
    elif how == "swapped":
        for row in rows:
            row.reverse()
    elif how == "numbers":
        head[:] = [str(n) for n in range(len(head))]
    elif how == "blank":
        head[:] = [""] * len(head)
    elif how == "row" and len(rows) > 2:
        rows[0] = list(rows[2])
    _write(files, name, rows)
    return f"{name}: header {how} (column {place + 1}: {''.join(head[place : place + 1])[:30]!r})"


def columns(rng: random.Random, files: Files) -> str:
    """Very many columns."""
    if (found := _table(rng, files)) is None:
        return "nothing"
    name, rows = found
    number = rng.choice([300, 1_000, 100_000])
    rows[0] += [f"x{n}" for n in range(number)]
    few = rows[: 4 if number > 10_000 else 30]
    for row in few[1:]:
        row += ["1"] * number if rng.random() < 0.9 else []
    _write(files, name, few)
    return f"{name}: {number} more columns"


def dialect(rng: random.Random, files: Files) -> str:
    """Another delimiter, line end or way to quote."""
    if (found := _table(rng, files)) is None:
        return "nothing"
    name, rows = found
    how = rng.choice([";", "|", "\t", ":", " ", "\x1f", "quoted", "crlf", "old", "none at the end", "spaces"])
    if how in ("quoted", "crlf", "old"):
        end = {"quoted": "\n", "crlf": "\r\n", "old": "\r"}[how]
        _write(files, name, rows, end, csv.QUOTE_ALL if how == "quoted" else csv.QUOTE_MINIMAL)
    elif how == "none at the end":
        files[name] = files[name].rstrip(b"\n")
    elif how == "spaces":
        files[name] = files[name].replace(b",", b" , ")
    else:
        files[name] = files[name].replace(b"\t" if name.endswith(".tsv") else b",", how.encode())
    return f"{name}: {how!r}"


def row_size(rng: random.Random, files: Files) -> str:
    """A row that is very long, or very many of them."""
    if (found := _table(rng, files)) is None:
        return "nothing"
    name, rows = found
    at = rng.randrange(len(rows))
    how = rng.choice(["long cell", "lines in a cell", "many lines in a cell", "many rows"])
    if how == "many rows":
        rows[at:at] = [rows[-1]] * 20_000
    else:
        rows[at][-1:] = [{"long cell": "y" * 10_000_000, "lines in a cell": "y\n" * 20}.get(how, "y\n" * 3000)]
    _write(files, name, rows)
    return f"{name}: row {at}: {how}"


def schema(rng: random.Random, files: Files) -> str:
    """A schema beside a table that says something else, or nothing that makes sense."""
    there = [name for name in files if name.endswith(".schema.json")]
    if not there:
        return cell(rng, files)
    told = json.loads(files[there[0]]) if rng.random() < 0.8 else {}
    column = rng.choice(told["columns"]) if told else {}
    what = rng.choice(["dtype", "dtype", "name", "nullable", "kind"])
    if what == "dtype":
        column["dtype"] = rng.choice(
            ["int64", "float64", "bool", "timestamp[us]", "date32[day]", "string", "int32", "x"]
        )
    else:
        column[what] = anything(rng)
    files[there[0]] = json.dumps(told).encode()
    return f"{there[0]}: {what} = {str(column.get(what))[:30]!r}"


def archive(rng: random.Random, files: Files) -> str:
    """An archive with members that have no business there, or of a kind that is not known."""
    name = pick(rng, files)
    how = rng.choice(["../../outside/pwned.csv", "/outside/pwned.csv", "a\\..\\b.csv", "C:/x.csv", "x.zip", ".hidden.csv",
                      "__MACOSX/a.csv", "a\nb.csv", "n" * 300 + ".csv", "", "twice", "bomb", "lzma"])  # fmt: skip
    out = io.BytesIO()
    kind = zipfile.ZIP_LZMA if how == "lzma" else zipfile.ZIP_DEFLATED
    members = ["a.csv", "a.csv"] if how == "twice" else ["good.csv", how if "." in how else "b.csv"]
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", kind) as packed:
        warnings.simplefilter("ignore")
        for member in members:
            data = b"0" * (300 << 20) if how == "bomb" and member == "b.csv" else files[name]
            packed.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), data, kind)
    files[f"{name}.zip"] = out.getvalue()
    return f"{name} in an archive with {how!r}"


CSV: list[Damage] = [cell, cell, cell, field, quotes, quotes, header, header, dialect, row_size]
"""What can be done to CSV, as often as it is drawn."""
TABLES: list[Damage] = [*CSV, columns, schema, archive]
