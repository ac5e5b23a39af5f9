"""What is known of a FHIR delivery while it is read: `Work`, which the steps of `fhir.py` fill one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.ingest.account import Account
from pipeline.ingest.fhir.columns import TYPES, ResourceType
from pipeline.ingest.fhir.pieces import Deletion, FilePart, Pieces, Seen
from pipeline.ingest.fhir.tables import Source
from pipeline.ingest.lines import Survey
from pipeline.ingest.quarantine import Rejected


@dataclass
class LineFile:
    """An NDJSON file of the delivery.

    Attributes:
        number: Place in the delivery's order.
        file: Path relative to the delivery.
        survey: What the first pass over its bytes found.
        kind: The one resource type of its first records; None where they differ or cannot be read.
    """

    number: int
    file: str
    survey: Survey
    kind: str | None


@dataclass
class Work:
    """Everything known so far about one delivery.

    Attributes:
        folder: For what is written on the way.
        processes: At most so many at a time.
        names: File number to path relative to the delivery, of every file.
        others: Numbers of the files that are no FHIR.
        lines: Line files.
        documents: JSON files.
        versions: What the first records of each file say of its FHIR version.
        sources: The files that DuckDB reads, by resource type.
        seen: What was found in each file, except where it is read as it came.
        deletions: Resources said to be deleted.
        rejects: Records set aside.
        aside: Lines of line files that are to be set aside, each with its reason.
        account: The delivery's account.
        splits: How often something was split.
        kinds: The resource types that are taken: those of the built-in tables, and of the source's own views.
    """

    folder: Path
    processes: int
    names: dict[int, str] = field(default_factory=dict)
    others: list[int] = field(default_factory=list)
    lines: list[LineFile] = field(default_factory=list)
    documents: list[FilePart] = field(default_factory=list)
    versions: dict[int, Counter[str]] = field(default_factory=dict)
    sources: dict[str, list[Source]] = field(default_factory=dict)
    seen: dict[int, Seen] = field(default_factory=dict)
    deletions: list[Deletion] = field(default_factory=list)
    rejects: list[Rejected] = field(default_factory=list)
    aside: dict[int, dict[int, str]] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    splits: int = 0
    kinds: Mapping[str, ResourceType] = field(default_factory=lambda: TYPES)

    def enter(self, pieces: list[Pieces]) -> None:
        """Take in what splitting found."""
        before = _lines_before(pieces)
        for piece in pieces:
            self.deletions += piece.deletions
            for number, part, reject in piece.rejects:
                self.rejects.append(_moved(reject, before.get((number, part), 0)))
            for number, seen in piece.seen.items():
                self.seen.setdefault(number, Seen()).add(seen)
                self.versions.setdefault(number, Counter()).update(seen.versions)
            for clean in piece.files:
                self.sources.setdefault(clean.kind, []).append(
                    Source(
                        clean.order,
                        clean.path,
                        clean.records,
                        raw=None,
                        lines_before=before,
                        names=self.names,
                        longest=clean.longest,
                    )
                )

    def set_aside(self, kind: str, rejects: list[Rejected]) -> None:
        """Note records that were taken out of clean files after all."""
        numbers = {file: number for number, file in self.names.items()}
        for reject in rejects:
            self.seen[numbers[reject.file]].taken[kind] -= 1
        self.rejects += rejects


def _lines_before(pieces: list[Pieces]) -> dict[tuple[int, int], int]:
    """How many lines of its file stand before each part."""
    counts = dict(pair for piece in pieces for pair in piece.lines)
    before: dict[tuple[int, int], int] = {}
    for number, part in sorted(counts):
        before[number, part] = before[number, part - 1] + counts[number, part - 1] if part else 0
    return before


def _moved(reject: Rejected, lines: int) -> Rejected:
    return replace(reject, line=reject.line + lines) if lines else reject
