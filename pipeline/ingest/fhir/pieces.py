"""What `split` is given and what it gives back: data only, so that it can go to other processes as JSON.

How records are judged is in `split`, how bundles are taken apart in `bundle`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import orjson

from pipeline.ingest.quarantine import Rejected

_NOTHING: Final = object()
DELETION = "(deletion)"
"""What a statement that a resource was deleted is counted as in the account."""


@dataclass(frozen=True)
class FilePart:
    """A file, or a span of a plain line file.

    Attributes:
        path: Where it is read.
        file: Path relative to the delivery (for the quarantine).
        number: Place of the file in the delivery's order.
        part: Place of this span in the file.
        span: Byte range for lines; None for a whole JSON file.
        cut: The gzip ended early and this span is its end.
        version: FHIR version that the file's first records speak for; None where they tell none, or for documents.
        aside: Lines of this span (1-based) that are set aside unread, each with its reason.
    """

    path: Path
    file: str
    number: int
    part: int = 0
    span: tuple[int, int] | None = None
    cut: bool = False
    version: str | None = None
    aside: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CleanFile:
    """Clean NDJSON of one resource type.

    Attributes:
        kind: Resource type.
        order: Place among the sources of that type: line files come first, each in its place, then documents.
        path: The file.
        records: Its number of lines.
        longest: Bytes of its longest line.
    """

    kind: str
    order: tuple[int, int, int]
    path: Path
    records: int
    longest: int


@dataclass(frozen=True)
class Deletion:
    """The statement that a resource was deleted.

    Attributes:
        key: 'Type/id'.
        at: When, as written; None where nothing usable is said.
        place: Line files (0) before documents (1), file, span, and the record's place in it.
        line: Line or entry, for people.
    """

    key: str
    at: str | None
    place: tuple[int, int, int, int]
    line: int


@dataclass
class Seen:
    """What was found in one file (or in one span of it).

    Attributes:
        form: How it was read: ndjson, bundle or json.
        records: Records of any fate.
        taken: Records handed to a raw table, by type, and deletions.
        not_modelled: Records of types without a table.
        versions: What the first records say of the FHIR version.
        unread: Values that another version has and that were left out, by path.
    """

    form: str = "ndjson"
    records: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    not_modelled: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, other: Seen) -> None:
        """Count in what another span of the same file held."""
        self.form = other.form
        self.records += other.records
        for name in ("taken", "not_modelled", "versions", "unread"):
            getattr(self, name).update(getattr(other, name))


@dataclass
class Pieces:
    """What came out of one job.

    Attributes:
        files: The clean NDJSON files.
        seen: What was found, by file number.
        lines: Lines seen: FilePart (number, part) and count.
        deletions: Resources said to be deleted.
        rejects: Records set aside; lines count from the start of their span.
        bytes: Unpacked bytes read.
    """

    files: list[CleanFile] = field(default_factory=list)
    seen: dict[int, Seen] = field(default_factory=dict)
    lines: list[tuple[tuple[int, int], int]] = field(default_factory=list)
    deletions: list[Deletion] = field(default_factory=list)
    rejects: list[tuple[int, int, Rejected]] = field(default_factory=list)
    bytes: int = 0


def as_json(record: Any) -> bytes:
    """A parsed record as JSON; orjson reads 1,024 levels of nesting and writes a quarter of them."""
    try:
        return orjson.dumps(record)
    except orjson.JSONEncodeError:
        pass
    return _deep(record)


def _deep(record: Any) -> bytes:
    """JSON without recursion."""
    out: list[bytes] = []
    todo: list[tuple[bytes, Any]] = [(b"", record)]  # bytes to write, then a value
    while todo:
        before, value = todo.pop()
        out.append(before)
        if isinstance(value, dict):
            inside = [((b"," if n else b"") + orjson.dumps(k) + b":", v) for n, (k, v) in enumerate(value.items())]
            out.append(b"{")
            todo += [(b"}", _NOTHING), *reversed(inside)]
        elif isinstance(value, list):
            out.append(b"[")
            todo += [(b"]", _NOTHING), *reversed([(b"," if n else b"", v) for n, v in enumerate(value)])]
        elif value is not _NOTHING:
            out.append(orjson.dumps(value))
    return b"".join(out)


class Writer:
    """Clean NDJSON files of one place in the order, opened when their type first appears."""

    def __init__(self, folder: Path, order: tuple[int, int, int], pieces: Pieces) -> None:
        self.folder, self.order, self.pieces = folder, order, pieces
        self.open: dict[str, IO[bytes]] = {}
        self.counts: Counter[str] = Counter()
        self.longest: dict[str, int] = {}

    def write(self, kind: str, head: bytes, record: bytes) -> None:
        """Append one record (a JSON object's bytes), with `head` (members and a comma) put in front of its own."""
        file = self.open.get(kind)
        if file is None:
            name = f"{kind}.{'-'.join(map(str, self.order))}.ndjson"
            file = self.open[kind] = (self.folder / name).open("wb", buffering=1 << 20)
            self.longest[kind] = 0
        written = file.write(b"{" + head + record[1:] + b"\n")
        self.counts[kind] += 1
        if written > self.longest[kind]:
            self.longest[kind] = written

    def close(self) -> None:
        """Close all files and note them in the pieces."""
        for kind, file in self.open.items():
            file.close()
            self.pieces.files.append(
                CleanFile(kind, self.order, Path(file.name), self.counts[kind], self.longest[kind])
            )
        self.open = {}
