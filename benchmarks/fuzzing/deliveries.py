"""Seed deliveries, a few kilobytes each: made-up ones always, and cuts of the real data where they are there.

Every patient value that is told apart easily is a canary: it must stand in no message, account or report.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

CANARY = "Canary7q"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Seed:
    """A delivery as it should be.

    Attributes:
        name: For people.
        format: Of its source.
        files: Path in the delivery to plain content.
        canaries: Values of patients, as tokens.
        settings: Settings of its source beside name and format.
    """

    name: str
    format: str
    files: Files
    canaries: frozenset[str] = frozenset()
    settings: dict[str, Any] = field(default_factory=dict)


def seeds(format: str, data: Path | None = None) -> list[Seed]:
    """The seed deliveries of a format.

    Args:
        format: fhir, table, mimic3, mimic4 or meds.
        data: Folder of the real data; None for made-up ones only.
    """
    from fuzzing import made_up, real_data

    return made_up.seeds(format) + (real_data.seeds(format, data) if data is not None else [])


@cache
def _word() -> re.Pattern[str]:
    return re.compile(r"[A-Za-z0-9][A-Za-z0-9.:\-]{6,}")


def tokens(text: str) -> set[str]:
    """The words of a text that a canary could be."""
    return set(_word().findall(text))


def lines_of(records: list[dict[str, Any]]) -> bytes:
    """NDJSON."""
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def csv_of(rows: list[list[Any]]) -> bytes:
    """CSV with line feeds."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def head_of(path: Path, rows: int) -> bytes:
    """The first rows of a gzipped or plain CSV that has no line breaks in cells, header included."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return b"".join(line for _, line in zip(range(rows + 1), file, strict=False))


def canaries_of(files: Files) -> frozenset[str]:
    """Words of the data rows that are recognisable: long, with a digit and not digits alone, and in no first line."""
    found: set[str] = set()
    known: set[str] = set()
    for name, content in files.items():
        head, _, rest = content.decode("utf-8", "replace").partition("\n")
        is_csv = ".csv" in name
        known |= tokens(head if is_csv else "") | tokens(name)
        found |= tokens(rest if is_csv else content.decode("utf-8", "replace"))
    digits = re.compile(r"[0-9].*[A-Za-z\-:]|[A-Za-z\-:].*[0-9]")
    return frozenset(word for word in found - known if digits.search(word) and "hl7" not in word and "fhir" not in word)
