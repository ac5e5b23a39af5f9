"""From untidy files to clean NDJSON, one file a resource type: lines are judged one by one, bundles are taken apart.

Runs inside the ingest process or, for large work, as `python -m pipeline.ingest.fhir.split` in processes of its own.
Clean lines carry `"_at":"<file>:<part>:<line>:<place>"` in front, so that a record can be found again whatever reads it
next, and `"_from":"STU3"` or `"R5"` where they were rewritten.
"""

from __future__ import annotations

import gc
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from pipeline.ingest.fhir.bundle import (
    deleted_key,
    entries,
    full_urls,
    is_bundle,
    looks_like_lines,
    resolve_links,
    salvage,
)
from pipeline.ingest.fhir.columns import TYPES, ResourceType
from pipeline.ingest.fhir.judge import judge
from pipeline.ingest.fhir.pieces import DELETION, Deletion, FilePart, Pieces, Seen, Writer, as_json
from pipeline.ingest.fhir.unread import foreign
from pipeline.ingest.fhir.upgrade import upgrade
from pipeline.ingest.fhir.version import PROBE, REFUSED, REWRITTEN, evidence, spoken_for, votes
from pipeline.ingest.lines import DOCUMENT_LIMIT, ByteSource, Line, lines, read_span
from pipeline.ingest.quarantine import Rejected, rejected
from pipeline.ingest.tables.archives import most_unpacked

_FIRST = 50
"""Entries of a document that are asked for their version; where they tell none, every record is asked."""
_PLAIN = frozenset({"R4", "R4B"})
_FOREIGN = {kind: frozenset(foreign(kind, known.shape)) for kind, known in TYPES.items()}


def split(parts: list[FilePart], folder: Path, job: int, kinds: Mapping[str, ResourceType] = TYPES) -> Pieces:
    """Judge every record of these parts and write the good ones to clean files in `folder`, in order.

    Args:
        parts: Files or spans, in delivery order.
        folder: Where the clean files go.
        job: Number of this job; jobs of documents are in delivery order.
        kinds: The resource types that are taken.
    """
    pieces = Pieces()
    documents = Writer(folder, (1, job, 0), pieces)
    # Parsed JSON has no cycles: collecting among it costs a fifth of the time and finds nothing.
    collects = gc.isenabled()
    gc.disable()
    try:
        for part in parts:
            if part.span is None:
                _split_document(part, pieces, documents, kinds)
                continue
            pieces.bytes += part.span[1] - part.span[0]
            spanned = Writer(folder, (0, part.number, part.part), pieces)
            try:
                seen = pieces.seen.setdefault(part.number, Seen())
                _split_lines(
                    _Reader(part, part.version, seen, pieces, spanned, kinds), lines(read_span(part.path, *part.span))
                )
            finally:
                spanned.close()
    finally:
        documents.close()
        if collects:
            gc.enable()
    return pieces


class _Reader:
    """Judges the records of one part, writes the good ones and notes what became of each.

    Args:
        part: The file or span.
        version: FHIR version that the file speaks for; None where it tells none.
        seen: Counts of its file.
        pieces: Where the rest is noted.
        writer: Takes the good records.
        kinds: The resource types that are taken.
    """

    def __init__(
        self,
        part: FilePart,
        version: str | None,
        seen: Seen,
        pieces: Pieces,
        writer: Writer,
        kinds: Mapping[str, ResourceType],
    ) -> None:
        self.part, self.version, self.seen, self.pieces, self.writer = part, version, seen, pieces, writer
        self.kinds = kinds
        self.place = 0

    def reject(self, number: int, kind: str, reason: str, raw: bytes) -> None:
        """Set a record aside."""
        self.seen.records += 1
        part = self.part
        self.pieces.rejects.append((part.number, part.part, rejected(part.file, number, kind, reason, raw)))

    def take(self, number: int, record: Any, raw: bytes | None) -> tuple[str, str | None]:
        """Judge a record; it is written or counted, unless there is a reason against it, which is given with its type."""
        # Files of R4 are the rule: in them only what looks odd is asked for its version.
        own = evidence(record) if self.version not in _PLAIN else None
        kind, reason = judge(record, self.kinds)
        if own is None and (reason is not None or _strays(kind, record)):
            own = evidence(record)
        version = own or self.version
        if REFUSED in (version, self.version):
            return kind, "other_version"
        mark = b""
        if version in REWRITTEN and kind in self.kinds:
            fresh, left = upgrade(record, str(version))
            if fresh is not record:
                record, raw, mark = fresh, None, b'"_from":"%s",' % str(version).encode()
                self.seen.unread.update(left)
                kind, reason = judge(record, self.kinds)
        if reason is not None:
            return kind, reason
        self.place += 1
        self.seen.records += 1
        if kind not in self.kinds:
            self.seen.not_modelled[kind] += 1
            return kind, None
        if _strays(kind, record):
            strays = [name for name in record if name in _FOREIGN[kind]]
            record, raw = {name: value for name, value in record.items() if name not in strays}, None
            self.seen.unread.update(f"{kind}.{name}" for name in strays)
        at = b'"_at":"%d:%d:%d:%d",' % (self.part.number, self.part.part, number, self.place)
        self.writer.write(kind, at + mark, raw if raw is not None else as_json(record))
        self.seen.taken[kind] += 1
        return kind, None

    def deletion(self, number: int, entry: dict[str, Any], at: str | None) -> None:
        """Note that a resource was deleted."""
        key = deleted_key(entry)
        if self.version == REFUSED or key is None:
            reason = "other_version" if self.version == REFUSED else "deletes_nothing"
            self.reject(number, "", reason, as_json(entry))
            return
        self.place += 1
        self.seen.records += 1
        self.seen.taken[DELETION] += 1
        part = self.part
        form = 0 if part.span is not None else 1
        self.pieces.deletions.append(Deletion(key, at, (form, part.number, part.part, self.place), number))

    def bundle(self, bundle: dict[str, Any], *, at: int | None = None) -> None:
        """Take a bundle apart; references to a `fullUrl` of the same bundle become 'Type/id'.

        Args:
            bundle: The bundle; bundles in it are taken apart too.
            at: Line or entry that holds this bundle, where it is not the whole file; all its records stand there.
        """
        inside = bundle.get("entry")
        if inside is None:
            return
        if not isinstance(inside, list):
            self.reject(at or 0, "Bundle", "wrong_type", as_json(inside))
            return
        keys = full_urls(bundle)
        for entry in entries(bundle):
            number = at or entry.number
            if entry.role == "deletion":
                self.deletion(number, entry.content, entry.at)
            elif entry.role == "nothing":
                self.reject(number, "", "no_resource", as_json(entry.content))
            elif entry.role != "resource":
                self.seen.records += 1
                self.seen.not_modelled[f"({entry.role})"] += 1
            elif is_bundle(entry.content):
                self.bundle(entry.content, at=number)
            else:
                if isinstance(entry.content, dict):
                    resolve_links(entry.content, keys, self.kinds)
                kind, reason = self.take(number, entry.content, None)
                if reason:
                    self.reject(number, kind, reason, as_json(entry.content))


def _strays(kind: str, record: dict[str, Any]) -> bool:
    """Has this record of a modelled type a field that another version has there?"""
    return kind in _FOREIGN and not _FOREIGN[kind].isdisjoint(record)


def _split_lines(reader: _Reader, source: Iterator[Line]) -> None:
    """NDJSON, one line at a time."""
    part = reader.part
    last = 0
    cut_noted = False
    for line in source:
        last = line.number
        data = line.data
        if data is not None and not data.strip():
            continue
        kind = ""
        reason: str | None = "too_long"
        if data is not None:
            data = data.strip()
            try:
                record = orjson.loads(data)
            except orjson.JSONDecodeError:
                reason = "not_json" if _is_utf8(data) else "invalid_utf8"
            else:
                if is_bundle(record):
                    reader.bundle(record, at=line.number)  # its entries are the records
                    continue
                if line.number in part.aside:
                    kind, own = judge(
                        record, reader.kinds
                    )  # which says more, and the same whether it was looked at before or not
                    reason = own or part.aside[line.number]
                else:
                    kind, reason = reader.take(line.number, record, data)
        if reason is None:
            continue
        if part.cut and not line.ended:
            reason, cut_noted = "gzip_truncated", True
        reader.reject(line.number, kind, reason, data or b"")
    if part.cut and not cut_noted:
        reader.reject(last + 1, "", "gzip_truncated", b"")
    reader.pieces.lines.append(((part.number, part.part), last))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _split_document(part: FilePart, pieces: Pieces, writer: Writer, kinds: Mapping[str, ResourceType]) -> None:
    """A JSON file: a bundle of any type, a single resource, or an array of resources; else JSON lines."""
    seen = pieces.seen[part.number] = Seen(form="json")
    source = ByteSource(part.path, most_unpacked(part.path))
    reader = _Reader(part, None, seen, pieces, writer, kinds)
    data, size = _whole(source)
    pieces.bytes += size
    if size > DOCUMENT_LIMIT or source.swollen:
        with part.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        why = "too_large" if source.swollen else "too_long"
        pieces.rejects.append((part.number, part.part, Rejected(part.file, 0, "", why, digest, size)))
        seen.records += 1
        return
    if not data.strip() and not source.cut:
        return
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        if looks_like_lines(data):
            seen.form = "ndjson"
            seen.versions = _first_votes(data)
            version = spoken_for(seen.versions)
            whole = FilePart(part.path, part.file, part.number, part.part, (0, len(data)), source.cut, version)
            _split_lines(_Reader(whole, version, seen, pieces, writer, kinds), lines(iter([data])))
            return
        found, rest = salvage(data)
        if found:
            seen.form = "bundle"
            seen.versions = votes({"resourceType": "Bundle", "entry": found})
            reader.version = spoken_for(seen.versions)
            reader.bundle({"entry": found})
        unreadable = "gzip_truncated" if source.cut else "not_json" if _is_utf8(data) else "invalid_utf8"
        reader.reject(len(found) + 1 if found else 0, "", unreadable, rest)
        return
    del data
    records = document if isinstance(document, list) else [document]
    seen.versions = _sum(votes(record, _FIRST) for record in records[:_FIRST])
    reader.version = spoken_for(seen.versions)
    if any(map(is_bundle, records)):
        seen.form = "bundle"
    if is_bundle(document):
        reader.bundle(document)
        records = []
    for number, record in enumerate(records, start=1):
        if is_bundle(record):
            reader.bundle(record, at=number)
            continue
        kind, reason = reader.take(number, record, None)
        if reason:
            reader.reject(number, kind, reason, as_json(record))
    if source.cut:  # the JSON is complete, only the gzip's end is missing
        reader.reject(0, "", "gzip_truncated", b"")


def _whole(source: ByteSource) -> tuple[bytes, int]:
    """All bytes of a document and their number; the bytes are not whole where the number is above the limit."""
    chunks, size = [], 0
    for chunk in source.chunks():
        size += len(chunk)
        if size > DOCUMENT_LIMIT:
            break
        chunks.append(chunk)
    return b"".join(chunks), size


def _first_votes(data: bytes) -> Counter[str]:
    """What the first lines of JSON lines speak for."""
    found: Counter[str] = Counter()
    for line in lines(iter([data])):
        if line.number > PROBE:
            break
        try:
            found.update(votes(orjson.loads(line.data or b"")))
        except orjson.JSONDecodeError:
            continue
    return found


def _sum(counts: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def main(answer: str) -> None:
    """Take a question as JSON from stdin, leave the `Pieces` as JSON in the file `answer` (see `work`)."""
    from pipeline.ingest.fhir.work import ANSWER, QUESTION

    parts, folder, job, kinds = QUESTION.validate_json(sys.stdin.buffer.read())
    pieces = split(parts, folder, job, {kind.name: kind for kind in kinds})
    Path(answer).write_bytes(ANSWER.dump_json(pieces))


if __name__ == "__main__":
    # Under its own name, so that the answer's classes are those of the reading process.
    from pipeline.ingest.fhir import split as fhir_split

    fhir_split.main(sys.argv[1])
