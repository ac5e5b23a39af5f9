"""FHIR R4 deliveries to raw tables: `read_fhir` and the order of its work.

Line files that look right go through DuckDB's explicit columns straight to Parquet, all files of a type in one COPY.
A file on which that raises, and every bundle, goes through `fhir_split` first and then through the very same SELECT.
What is read of each type is in `fhir_columns`, duplicates and links between types in `fhir_tables`.

DuckDB's messages quote the record they choke on: they are never logged, chained or shown.
"""

from __future__ import annotations

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from pipeline.errors import InputError
from pipeline.ingest.account import Account
from pipeline.ingest.fhir_columns import TYPES
from pipeline.ingest.fhir_split import FilePart, Pieces
from pipeline.ingest.fhir_tables import RawTables, Source
from pipeline.ingest.fhir_version import PROBE, evidence, refuse_other_versions
from pipeline.ingest.fhir_work import split_all
from pipeline.ingest.lines import ByteSource, Survey, lines, read_span, spans, survey
from pipeline.ingest.quarantine import Rejected, check_limit, public_kind, public_name, quarantine_table
from pipeline.store.connection import connect

if TYPE_CHECKING:
    from pipeline.ingest.delivery import Delivery
    from pipeline.ingest.reading import Reading
    from pipeline.store.draft import Draft

SPAN = 32 * 1024 * 1024
"""Bytes of a line file that are judged in one piece."""
LINE_SUFFIXES = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
DOCUMENT_SUFFIXES = (".json", ".json.gz")
_NOT_DATA = ".txt .md .html .csv .tsv .xml .sha256 .license"


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
class _Work:
    """Everything known so far about one delivery."""

    folder: Path
    processes: int
    documents: list[FilePart] = field(default_factory=list)
    lines: list[LineFile] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    names: dict[int, str] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    rejects: list[Rejected] = field(default_factory=list)
    versions: dict[str, Counter[str]] = field(default_factory=dict)
    sources: dict[str, list[Source]] = field(default_factory=dict)
    splits: int = 0


def read_fhir(delivery: Delivery, draft: Draft, reading: Reading) -> Account:
    """Read a FHIR R4 delivery (Bulk NDJSON, bundles, single resources; plain or gzipped) into `draft`.

    Writes one table for every modelled type (empty ones too) and `quarantine`.

    Args:
        delivery: The delivery.
        draft: Where the tables go; nothing is committed here.
        reading: The source's settings and what may be used.

    Raises:
        InputError: Empty delivery, another FHIR version, too many quarantined records.
        StoreError: No space.
    """
    folder = draft.folder("reading")
    work = _Work(folder, reading.threads)
    try:
        _sort_files(delivery, work)
        _survey_lines(work)
        refuse_other_versions(work.versions)
        with connect({}, threads=reading.threads, memory_limit=reading.memory_limit, spill=reading.spill) as connection:
            tables = RawTables(connection, draft)
            _plan_lines(work, tables)
            _split(work, work.documents, [part.path.stat().st_size * 8 for part in work.documents])
            refuse_other_versions(work.versions)
            _write_types(work, tables)
            tables.link(work.account)
        account = _close_account(work)
        draft.add_table("quarantine", quarantine_table(work.rejects))
        check_limit(account, work.rejects, reading.source.max_quarantine_rate)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return account


def _sort_files(delivery: Delivery, work: _Work) -> None:
    """Tell line files, JSON documents and other files apart."""
    for number, (file, path) in enumerate(delivery.files()):
        work.names[number] = file
        form = form_of(file, path)
        if form == "lines":
            work.lines.append(LineFile(number, file, Survey(path, 0, 0, False, False), None))
        elif form == "document":
            work.documents.append(FilePart(path, file, number))
        else:
            work.others[public_kind(file)] += 1
    work.account.files = len(work.lines) + len(work.documents)


def form_of(file: str, path: Path) -> str | None:
    """How a file of a delivery is read: "lines", "document", or None where it is no FHIR."""
    name = file.lower()
    if name.endswith(LINE_SUFFIXES):
        return "lines"
    if name.endswith(DOCUMENT_SUFFIXES):
        return "document"
    return None if name.removesuffix(".gz").endswith(tuple(_NOT_DATA.split())) else _sniff(path)


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


def _survey_lines(work: _Work) -> None:
    """Unpack and count the line files, and look at the first records of each."""
    unpacked = work.folder / "unpacked"
    unpacked.mkdir()

    def look(file: LineFile) -> Counter[str]:
        file.survey = survey(file.survey.plain, unpacked / f"{file.number}.ndjson")
        kinds: set[Any] = set()
        votes: Counter[str] = Counter()
        span = read_span(file.survey.plain, 0, 4 * 1024 * 1024)
        for line in lines(span):
            if line.number > PROBE or (not line.ended and file.survey.bytes > 4 * 1024 * 1024):
                break
            try:
                record = orjson.loads(line.data or b"")
            except orjson.JSONDecodeError:
                continue
            kind = record.get("resourceType") if isinstance(record, dict) else None
            kinds.add(kind if isinstance(kind, str) else None)
            if version := evidence(record):
                votes[version] += 1
        file.kind = kinds.pop() if len(kinds) == 1 else None
        return votes

    with ThreadPoolExecutor(max(1, work.processes)) as pool:  # zlib lets go of the interpreter
        for file, votes in zip(work.lines, pool.map(look, work.lines), strict=True):
            work.versions[public_name(file.file)] = votes
            work.account.bytes += file.survey.bytes


def _plan_lines(work: _Work, tables: RawTables) -> None:
    """Give line files of the expected shape to DuckDB as they are, and split the others."""
    untidy = []
    for file in work.lines:
        plain = file.survey
        tidy = file.kind is not None and not plain.odd and not plain.cut
        if tidy and file.kind not in TYPES:
            tidy = file.kind != "Bundle" and tables.count_only(plain.plain, str(file.kind), plain.records)
            if tidy:
                work.account.in_ += plain.records
                _count(work.account.not_modelled, str(file.kind), plain.records)
        elif tidy:
            work.sources.setdefault(str(file.kind), []).append(
                Source((0, file.number, 0), plain.plain, plain.records, raw=file.number)
            )
        if not tidy and (plain.records or plain.cut):
            untidy.append(file)
    _split_lines(work, untidy)


def _split_lines(work: _Work, files: list[LineFile]) -> None:
    """Judge these line files one line at a time."""
    parts, sizes = [], []
    for file in files:
        ranges = spans(file.survey.plain, SPAN)
        for part, span in enumerate(ranges):
            cut = file.survey.cut and part == len(ranges) - 1
            parts.append(FilePart(file.survey.plain, file.file, file.number, part, span, cut))
            sizes.append(span[1] - span[0])
    _split(work, parts, sizes)
    work.account.info["tolerant_files"] = work.account.info.get("tolerant_files", 0) + len(files)


def _split(work: _Work, parts: list[FilePart], sizes: list[int]) -> None:
    """Run `fhir_split` and enter what it found."""
    if not parts:
        return
    folder = work.folder / f"clean-{work.splits}"
    folder.mkdir()
    work.splits += 1
    pieces = split_all(parts, sizes, folder, processes=work.processes)
    before = _lines_before(pieces)
    for piece in pieces:
        work.account.in_ += piece.records
        work.account.bytes += piece.bytes if parts[0].span is None else 0
        for kind, count in piece.not_modelled.items():
            _count(work.account.not_modelled, kind, count)
        for number, part, reject in piece.rejects:
            work.rejects.append(_moved(reject, before.get((number, part), 0)))
        for number, votes in piece.versions.items():
            work.versions.setdefault(public_name(work.names[number]), Counter()).update(votes)
        for clean in piece.files:
            source = Source(clean.order, clean.path, clean.records, raw=None, lines_before=before, names=work.names)
            work.sources.setdefault(clean.kind, []).append(source)


def _lines_before(pieces: list[Pieces]) -> dict[tuple[int, int], int]:
    """How many lines of its file stand before each part."""
    counts = dict(pair for piece in pieces for pair in piece.lines)
    before: dict[tuple[int, int], int] = {}
    for number, part in sorted(counts):
        before[number, part] = before[number, part - 1] + counts[number, part - 1] if part else 0
    return before


def _moved(reject: Rejected, lines: int) -> Rejected:
    return Rejected(reject.file, reject.line + lines, *_rest(reject)) if lines else reject


def _rest(reject: Rejected) -> tuple[str, str, str, int]:
    return reject.resource_type, reject.reason, reject.sha256, reject.bytes


def _write_types(work: _Work, tables: RawTables) -> None:
    """Write every type's table; splitting a refused file may bring new records of any type, until none is left over."""
    while stale := [kind for kind in TYPES if tables.written.get(kind) != _places(work.sources.get(kind, []))]:
        refused = {number for kind in stale for number in _write_type(kind, work, tables)}
        _split_lines(work, [file for file in work.lines if file.number in refused])
    for kind in TYPES:
        work.account.in_ += sum(source.records for source in work.sources.get(kind, []) if source.raw is not None)
        taken, superseded = tables.settle(kind)
        _count(work.account.taken, kind, taken)
        _count(work.account.superseded, kind, superseded)


def _write_type(kind: str, work: _Work, tables: RawTables) -> set[int]:
    """Try to write one type; where DuckDB refuses, drop the files at fault and give their numbers, to be split."""
    sources = sorted(work.sources.get(kind, []), key=lambda source: source.order)
    if tables.write(kind, sources):
        return set()
    raw = [source for source in sources if source.raw is not None]
    if raw:
        # Where each alone is fine and all together are not, a count does not add up: judge them all.
        refused = raw if len(raw) == 1 else [source for source in raw if not tables.reads(kind, source)] or raw
        numbers = {source.raw for source in refused if source.raw is not None}
        work.sources[kind] = [source for source in sources if source.raw not in numbers]
        return numbers
    found = tables.pick_out(kind, sources)
    if not found:
        raise InputError(
            f"{kind} records cannot be read, and no single one is at fault.",
            todo="Nothing was taken. Please report this with the version of DuckDB.",
        )
    work.rejects.extend(found)
    return set()


def _places(sources: list[Source]) -> list[tuple[int, int, int]]:
    """The order keys of these sources, sorted: what a table was made from."""
    return sorted(source.order for source in sources)


def _count(counts: dict[str, int], kind: str, number: int) -> None:
    if number:
        counts[kind] = counts.get(kind, 0) + number


def _close_account(work: _Work) -> Account:
    """Put the account together and hold it against what came in."""
    account = work.account
    account.quarantined = dict(sorted(Counter(reject.reason for reject in work.rejects).items()))
    account.info["other_files"] = dict(sorted(work.others.items()))
    account.info["documents"] = len(work.documents)
    account.info["line_files"] = len(work.lines)
    if account.in_ == 0:
        raise InputError(
            "The delivery is empty: it holds no FHIR resource.",
            where=f"{account.files} FHIR files, {sum(work.others.values())} others",
            todo="Expected are .ndjson, .jsonl or .json files, plain or gzipped.",
        )
    if not account.balanced:
        raise InputError(
            f"The account does not balance: {account.sentence()}.", todo="Nothing was taken. Please report this."
        )
    return account
