"""The files of a FHIR delivery: which are read as lines, which as JSON documents, and what their first look tells."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from pipeline.ingest.fhir.pieces import FilePart, Seen
from pipeline.ingest.fhir.state import LineFile, Work
from pipeline.ingest.fhir.version import PROBE, spoken_for, votes
from pipeline.ingest.lines import ByteSource, Survey, lines, read_span, spans, survey
from pipeline.ingest.quarantine import Rejected
from pipeline.store.hashing import sha256_file

if TYPE_CHECKING:
    from pipeline.ingest.delivery import Delivery

LINE_SUFFIXES: Final = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
DOCUMENT_SUFFIXES: Final = (".json", ".json.gz")
_NOT_DATA: Final = (
    *(".txt", ".md", ".html", ".csv", ".tsv", ".xml", ".sha256", ".license"),
    *(".yaml", ".yml", ".pdf", ".log"),
)
_WINDOW: Final = 4 * 1024 * 1024
"""Bytes of a line file that the first look is at."""


def sort_files(delivery: Delivery, work: Work) -> None:
    """Tell line files, JSON documents and other files apart."""
    for number, (file, path) in enumerate(delivery.files()):
        work.names[number] = file
        form = form_of(file, path)
        if form == "lines":
            work.lines.append(LineFile(number, file, Survey(path, 0, 0, False, False), None))
        elif form == "document":
            work.documents.append(FilePart(path, file, number))
        else:
            work.others.append(number)


def form_of(file: str, path: Path) -> str | None:
    """How a file of a delivery is read: "lines", "document", or None where it is no FHIR."""
    name = file.lower()
    if name.endswith(LINE_SUFFIXES):
        return "lines"
    if name.endswith(DOCUMENT_SUFFIXES):
        return "document"
    return None if name.removesuffix(".gz").endswith(_NOT_DATA) else _sniff(path)


def _sniff(path: Path) -> str | None:
    """Is a file of unknown name JSON lines or a JSON document? None if it does not look like JSON."""
    head = next(ByteSource(path).chunks(), b"").lstrip()
    if head[:1] not in (b"{", b"["):
        return None
    try:
        orjson.loads(head.partition(b"\n")[0])
    except orjson.JSONDecodeError:
        return "document"
    return "lines" if head[:1] == b"{" and b"\n" in head.strip() else "document"


def survey_lines(work: Work) -> None:
    """Unpack and count the line files, and look at the first records of each."""
    unpacked = work.folder / "unpacked"
    unpacked.mkdir()

    def look(file: LineFile) -> Counter[str]:
        file.survey = survey(file.survey.plain, unpacked / f"{file.number}.ndjson")
        if file.survey.swollen:
            return Counter()
        kinds: set[Any] = set()
        found: Counter[str] = Counter()
        for line in lines(read_span(file.survey.plain, 0, _WINDOW)):
            if line.number > PROBE or (not line.ended and file.survey.bytes > _WINDOW):
                break
            try:
                record = orjson.loads(line.data or b"")
            except orjson.JSONDecodeError:
                continue
            kind = record.get("resourceType") if isinstance(record, dict) else None
            kinds.add(kind if isinstance(kind, str) else None)
            found.update(votes(record))
        file.kind = kinds.pop() if len(kinds) == 1 else None
        return found

    with ThreadPoolExecutor(max(1, work.processes)) as pool:  # zlib lets go of the interpreter
        for file, found in zip(work.lines, pool.map(look, work.lines), strict=True):
            work.versions[file.number] = found
            work.account.bytes += file.survey.bytes
            if file.survey.swollen:
                _set_aside(work, file)


def _set_aside(work: Work, file: LineFile) -> None:
    """A line file that was not unpacked for its size: one record of the quarantine."""
    packed = file.survey.plain
    size = packed.stat().st_size
    file.survey = Survey(packed, 0, 0, odd=False, cut=False)
    work.account.bytes += size
    work.seen[file.number] = Seen(records=1)
    work.rejects.append(Rejected(file.file, 0, "", "too_large", sha256_file(packed), size))


def line_parts(file: LineFile, size: int, version: Counter[str], aside: dict[int, str]) -> list[FilePart]:
    """The spans of a line file, each with the lines of it that are to be set aside.

    Args:
        file: The file.
        size: Bytes of a span.
        version: What its first records say of its FHIR version.
        aside: Lines of the whole file (1-based) and their reasons.
    """
    plain = file.survey.plain
    ranges = spans(plain, size)
    parts, before = [], 0
    for number, span in enumerate(ranges):
        count = sum(piece.count(b"\n") for piece in read_span(plain, *span)) if aside else 0
        own = {line - before: reason for line, reason in aside.items() if before < line <= before + count + 1}
        before += count
        cut = file.survey.cut and number == len(ranges) - 1
        parts.append(FilePart(plain, file.file, file.number, number, span, cut, spoken_for(version), own))
    return parts
