"""From untidy files to clean NDJSON, one file a resource type: lines are judged one by one, bundles are taken apart.

Runs inside the ingest process or, for large work, as `python -m pipeline.ingest.fhir_split` in processes of its own.
Clean lines carry `"_at":"<file>:<part>:<line>"` in front, so that a record can be found again whatever reads it next.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeGuard

import orjson

from pipeline.ingest.fhir_columns import TYPES
from pipeline.ingest.fhir_judge import judge
from pipeline.ingest.fhir_version import PROBE, evidence
from pipeline.ingest.lines import ByteSource, Line, lines, read_span
from pipeline.ingest.quarantine import Rejected, rejected


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
    """

    path: Path
    file: str
    number: int
    part: int = 0
    span: tuple[int, int] | None = None
    cut: bool = False


@dataclass(frozen=True)
class CleanFile:
    """Clean NDJSON of one resource type.

    Attributes:
        kind: Resource type.
        order: Place among the sources of that type: line files come first, each in its place, then documents.
        path: The file.
        records: Its number of lines.
    """

    kind: str
    order: tuple[int, int, int]
    path: Path
    records: int


@dataclass
class Pieces:
    """What came out of one job.

    Attributes:
        files: The clean NDJSON files.
        records: Records seen, by FilePart (number, part).
        lines: Lines seen: FilePart (number, part) and count.
        not_modelled: Records of types without a table.
        rejects: Records set aside; lines count from the start of their span.
        versions: File number to what its first records say of the FHIR version.
        bytes: Unpacked bytes read.
    """

    files: list[CleanFile] = field(default_factory=list)
    records: int = 0
    lines: list[tuple[tuple[int, int], int]] = field(default_factory=list)
    not_modelled: Counter[str] = field(default_factory=Counter)
    rejects: list[tuple[int, int, Rejected]] = field(default_factory=list)
    versions: dict[int, Counter[str]] = field(default_factory=dict)
    bytes: int = 0


class _Writer:
    """Clean NDJSON files of one place in the order, opened when their type first appears."""

    def __init__(self, folder: Path, order: tuple[int, int, int], pieces: Pieces) -> None:
        self.folder, self.order, self.pieces = folder, order, pieces
        self.open: dict[str, IO[bytes]] = {}
        self.counts: Counter[str] = Counter()

    def write(self, kind: str, where: bytes, record: bytes) -> None:
        """Append one record (a JSON object's bytes)."""
        file = self.open.get(kind)
        if file is None:
            name = f"{kind}.{'-'.join(map(str, self.order))}.ndjson"
            file = self.open[kind] = (self.folder / name).open("wb", buffering=1 << 20)
        file.write(b'{"_at":"' + where + b'",' + record[1:] + b"\n")
        self.counts[kind] += 1

    def close(self) -> None:
        """Close all files and note them in the pieces."""
        for kind, file in self.open.items():
            file.close()
            self.pieces.files.append(CleanFile(kind, self.order, Path(file.name), self.counts[kind]))
        self.open = {}


def split(parts: list[FilePart], folder: Path, job: int) -> Pieces:
    """Judge every record of these parts and write the good ones to clean files in `folder`, in order.

    Args:
        parts: Files or spans, in delivery order.
        folder: Where the clean files go.
        job: Number of this job; jobs of documents are in delivery order.
    """
    pieces = Pieces()
    documents = _Writer(folder, (1, job, 0), pieces)
    try:
        for part in parts:
            if part.span is None:
                _split_document(part, pieces, documents)
                continue
            pieces.bytes += part.span[1] - part.span[0]
            spanned = _Writer(folder, (0, part.number, part.part), pieces)
            try:
                _split_lines(part, lines(read_span(part.path, *part.span)), pieces, spanned)
            finally:
                spanned.close()
    finally:
        documents.close()
    return pieces


def _take(
    part: FilePart, number: int, record: Any, raw: bytes | None, pieces: Pieces, writer: _Writer
) -> tuple[str, str | None]:
    """Judge one parsed record; write it or count it. Returns its type and, if it is bad, the reason."""
    kind, reason = judge(record)
    votes = pieces.versions.setdefault(part.number, Counter())
    if number <= PROBE and (version := evidence(record)):
        votes[version] += 1
    if reason is not None:
        return kind, reason
    if kind in TYPES:
        body = raw if raw is not None else orjson.dumps(record)
        writer.write(kind, b"%d:%d:%d" % (part.number, part.part, number), body)
    else:
        pieces.not_modelled[kind] += 1
    return kind, None


def _split_lines(part: FilePart, source: Iterator[Line], pieces: Pieces, writer: _Writer) -> None:
    """NDJSON, one line at a time."""
    last = 0
    cut_noted = False
    for line in source:
        last = line.number
        data = line.data
        if data is not None and not data.strip():
            continue
        pieces.records += 1
        kind = ""
        reason: str | None = "too_long"
        if data is not None:
            data = data.strip()
            try:
                record = orjson.loads(data)
            except orjson.JSONDecodeError:
                reason = "not_json" if _is_utf8(data) else "invalid_utf8"
            else:
                if _is_bundle(record):
                    pieces.records -= 1  # its entries are the records
                    _split_bundle(part, record, pieces, writer, at=line.number)
                    continue
                kind, reason = _take(part, line.number, record, data, pieces, writer)
        if reason is None:
            continue
        if part.cut and not line.ended:
            reason, cut_noted = "gzip_truncated", True
        _reject(part, line.number, kind, reason, data or b"", pieces)
    if part.cut and not cut_noted:
        pieces.records += 1
        _reject(part, last + 1, "", "gzip_truncated", b"", pieces)
    pieces.lines.append(((part.number, part.part), last))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _reject(part: FilePart, number: int, kind: str, reason: str, raw: bytes, pieces: Pieces) -> None:
    pieces.rejects.append((part.number, part.part, rejected(part.file, number, kind, reason, raw)))


def _split_document(part: FilePart, pieces: Pieces, writer: _Writer) -> None:
    """A JSON file: a bundle of any type, a single resource, or an array of resources; else JSON lines."""
    source = ByteSource(part.path)
    data = b"".join(source.chunks())
    pieces.bytes += len(data)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        if looks_like_lines(data):
            whole = FilePart(part.path, part.file, part.number, part.part, (0, len(data)), source.cut)
            _split_lines(whole, lines(iter([data])), pieces, writer)
            return
        entries, rest = _salvage(data)
        if entries:
            _split_bundle(part, {"entry": entries}, pieces, writer)
        pieces.records += 1
        unreadable = "gzip_truncated" if source.cut else "not_json" if _is_utf8(data) else "invalid_utf8"
        _reject(part, len(entries) + 1 if entries else 0, "", unreadable, rest, pieces)
        return
    if _is_bundle(document):
        _split_bundle(part, document, pieces, writer)
    else:
        for number, record in enumerate(document if isinstance(document, list) else [document], start=1):
            if _is_bundle(record):
                _split_bundle(part, record, pieces, writer, at=number)
                continue
            pieces.records += 1
            kind, reason = _take(part, number, record, None, pieces, writer)
            if reason:
                _reject(part, number, kind, reason, orjson.dumps(record), pieces)
    if source.cut:  # the JSON is complete, only the gzip's end is missing
        pieces.records += 1
        _reject(part, 0, "", "gzip_truncated", b"", pieces)


def _is_bundle(record: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(record, dict) and record.get("resourceType") == "Bundle"


def _salvage(data: bytes) -> tuple[list[Any], bytes]:
    """The whole entries of a bundle before the place where it breaks, and the bytes from there on."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:  # nothing is guessed at: only what stands before the bad byte is read
        text = data[: error.start].decode("utf-8")
    found = re.search(r'"entry"\s*:\s*\[', text)
    if found is None or '"Bundle"' not in text[: found.start()]:
        return [], data
    entries: list[Any] = []
    decoder, place = json.JSONDecoder(), found.end()
    while start := re.compile(r"[\s,]*(?=\{)").match(text, place):
        try:
            entry, place = decoder.raw_decode(text, start.end())
        except ValueError:
            break
        entries.append(entry)
    return entries, data[len(text[:place].encode()) :] if entries else data


def looks_like_lines(data: bytes) -> bool:
    """More than one line, and the first one is a JSON object of its own."""
    first, _, rest = data.lstrip().partition(b"\n")
    try:
        return bool(rest.strip()) and isinstance(orjson.loads(first), dict)
    except orjson.JSONDecodeError:
        return False


def _split_bundle(
    part: FilePart, bundle: dict[str, Any], pieces: Pieces, writer: _Writer, *, at: int | None = None
) -> None:
    """The entries of a bundle; references to a `fullUrl` of the same bundle become 'Type/id'.

    Args:
        part: The file.
        bundle: The bundle; bundles in it are taken apart too.
        pieces: Where what is found is noted.
        writer: Takes the good records.
        at: Line or entry that holds this bundle, where it is not the whole file; all its records stand there.
    """
    entries = bundle.get("entry")
    if entries is None:
        return
    if not isinstance(entries, list):
        pieces.records += 1
        _reject(part, at or 0, "Bundle", "wrong_type", orjson.dumps(entries), pieces)
        return
    keys: dict[str, str] = {}
    for entry in entries:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(resource, dict):
            note_key(entry, resource, keys)
    for place, entry in enumerate(entries, start=1):
        number = at or place
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if _is_bundle(resource):
            _split_bundle(part, resource, pieces, writer, at=number)
            continue
        pieces.records += 1
        if resource is None:
            _reject(part, number, "", "no_resource", orjson.dumps(entry), pieces)
            continue
        if isinstance(resource, dict):
            _resolve_links(resource, keys)
        kind, reason = _take(part, number, resource, None, pieces, writer)
        if reason:
            _reject(part, number, kind, reason, orjson.dumps(resource), pieces)


def note_key(entry: dict[str, Any], resource: dict[str, Any], keys: dict[str, str]) -> None:
    """Note which key a `fullUrl` stands for; a resource without id takes the one of its `urn:uuid:`."""
    url, kind = entry.get("fullUrl"), resource.get("resourceType")
    if not isinstance(url, str) or not isinstance(kind, str):
        return
    if resource.get("id") in (None, ""):
        if url.startswith(("urn:uuid:", "urn:oid:")):
            resource["id"] = url.rsplit(":", 1)[1]
        elif f"/{kind}/" in url:
            resource["id"] = url.rsplit(f"/{kind}/", 1)[1].split("/")[0]
        else:
            return
    keys[url] = f"{kind}/{resource['id']}"


def _resolve_links(resource: dict[str, Any], keys: dict[str, str]) -> None:
    """Rewrite the references that are read, where they name a `fullUrl` of the bundle."""
    kind = TYPES.get(str(resource.get("resourceType")))
    for name in kind.references if kind else ():
        link = resource.get(name)
        if isinstance(link, dict) and isinstance(target := link.get("reference"), str) and target in keys:
            link["reference"] = keys[target]


def main(answer: str) -> None:
    """Take a question as JSON from stdin, leave the `Pieces` as JSON in the file `answer` (see `fhir_work`)."""
    from pipeline.ingest.fhir_work import ANSWER, QUESTION

    parts, folder, job = QUESTION.validate_json(sys.stdin.buffer.read())
    Path(answer).write_bytes(ANSWER.dump_json(split(parts, folder, job)))


if __name__ == "__main__":
    # Under its own name, so that the answer's classes are those of the reading process.
    from pipeline.ingest import fhir_split

    fhir_split.main(sys.argv[1])
