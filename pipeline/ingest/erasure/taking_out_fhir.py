"""Taking one person out of FHIR files: which records are theirs, and the bytes of a file without them.

What stays keeps its bytes: lines as they are, bundle entries with the separators before them. A record whose subject
is somebody else but that names the person too stays, with the reference blotted out. Files are read as `fhir.py`
reads them; how a delivery is rewritten on disk is in `taking_out.py`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import orjson

from pipeline.ingest.erasure.person import Person, identifier_text
from pipeline.ingest.erasure.tally import Tally
from pipeline.ingest.fhir.bundle import looks_like_lines, note_key
from pipeline.ingest.lines import BOM, LINE_LIMIT

OWNERS: Final = ("subject", "patient", "beneficiary", "for", "individual")
"""Fields that say whose record it is; the first that is there counts."""
ERASED: Final = '{"display":"erased"}'
_SOMEBODY: Final = re.compile(r"(?:^|/)Patient/[A-Za-z0-9.\-]+(?:$|/|\?)")
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder()
_ROOM: Final = 8000

Spans = list[tuple[int, int, Any]]


@contextmanager
def _deep() -> Iterator[None]:
    """Room for the 1,024 levels of nesting that readers take: nothing deeper comes here, as `orjson` has read it first."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(max(usual, _ROOM))
    try:
        yield
    finally:
        sys.setrecursionlimit(usual)


def sift_lines(chunks: Iterator[bytes], person: Person, tally: Tally) -> Iterator[bytes]:
    """NDJSON without the person's lines, each line with its break."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield from _line(line, b"\n", person, tally)
    if rest:
        yield from _line(rest, b"", person, tally)


def _line(line: bytes, end: bytes, person: Person, tally: Tally) -> Iterator[bytes]:
    body = line.removeprefix(BOM)
    if not body.strip():
        yield line + end
        return
    tally.before += 1
    if not person.may_be_in(body):
        yield line + end
        return
    try:
        record = orjson.loads(body) if len(body) <= LINE_LIMIT else None
    except orjson.JSONDecodeError:
        record = None
    if record is None:  # nobody can say what it holds, so what carries the id goes
        if person.traced(body):
            tally.removed += 1
        else:
            tally.unread += 1
            yield line + end
        return
    one = Tally()
    text = body.decode("utf-8", "surrogateescape")
    with _deep():
        kept = _value(text, _skip(text, 0), record, person, one)
    tally.identifiers |= one.identifiers
    tally.removed += kept is None
    tally.blotted += kept is not None and one.held  # a line is one record, also where it is a bundle
    if kept is not None:
        head = line[: len(line) - len(body)]
        yield (line if not one.held else head + kept.encode("utf-8", "surrogateescape")) + end


@_deep()
def sift_document(data: bytes, person: Person, tally: Tally) -> bytes | None:
    """A JSON document (bundle, resource, list of either, or lines after all) without the person; None: nothing is left."""
    body = data.removeprefix(BOM)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        if looks_like_lines(body):
            kept = b"".join(sift_lines(iter([data]), person, tally))
            return kept if kept.strip() or not tally.removed else None
        return _sift_broken(data, person, tally)
    if not person.may_be_in(body):
        tally.before += _records(document)
        return data
    text = body.decode("utf-8", "surrogateescape")
    one = Tally()
    if isinstance(document, list):
        spans = _elements(text, _skip(text, 0))
        pieces = [_piece(text, span, span[2], person, one) for span in spans]
        changed = None if all(p is None for p in pieces) else _joined(text, spans, pieces)
    else:
        changed = _value(text, _skip(text, 0), document, person, one)
    _count_in(tally, one)
    if changed is None:
        return None
    head = data[: len(data) - len(body)]
    return data if not one.held else head + changed.encode("utf-8", "surrogateescape")


def _sift_broken(data: bytes, person: Person, tally: Tally) -> bytes | None:
    """A bundle that breaks: its whole entries are judged, and what cannot be read goes if it carries the id."""
    tally.before += 1
    text = data.decode("utf-8", "surrogateescape")
    found = re.search(r'"entry"\s*:\s*\[', text)
    spans: Spans = []
    place = found.end() if found and '"Bundle"' in text[: found.start()] else len(text)
    while start := re.compile(r"[\s,]*(?=\{)").match(text, place):
        try:
            value, end = _DECODER.raw_decode(text, start.end())
            orjson.loads(text[start.end() : end].encode("utf-8", "surrogateescape"))  # as deep as a reader takes it
        except (ValueError, RecursionError):
            break
        spans.append((start.end(), end, value))
        place = end
    if not spans:
        if person.traced(data):
            tally.removed += 1
            return None
        tally.unread += 1
        return data
    pieces, others = _entries(text, spans, person, tally)
    tail = text[spans[-1][1] :]
    if person.traced(tail.encode("utf-8", "surrogateescape")):
        tail = "]}"
        tally.removed += 1
    if tally.removed and not others:
        tally.removed = tally.before
        return None
    kept = _joined(text[: spans[-1][1]], spans, pieces) + tail
    return kept.encode("utf-8", "surrogateescape")


def _value(text: str, at: int, record: Any, person: Person, tally: Tally) -> str | None:
    """A record or bundle that starts at `at`, up to the end of the text, without the person; None if it goes whole."""
    _, end = _DECODER.raw_decode(text, at)
    if isinstance(record, dict) and record.get("resourceType") == "Bundle":
        kept = _bundle(text, at, person, tally)
        return None if kept is None else text[:at] + kept + text[end:]
    tally.before += 1
    judged = judge(record, person, frozenset(), tally)
    if judged == "theirs":
        tally.removed += 1
        return None
    if judged == "names them":
        tally.blotted += 1
        return text[:at] + _blotted(text, at, person, frozenset())[0] + text[end:]
    return text


def _piece(text: str, span: tuple[int, int, Any], record: Any, person: Person, tally: Tally) -> str | None:
    whole = text[span[0] : span[1]]
    return _value(whole, 0, record, person, tally)


def _bundle(text: str, at: int, person: Person, tally: Tally) -> str | None:
    """The bundle at `at` without the person's entries; None where nobody else has an entry in it."""
    members = {key: (begin, end) for key, begin, end in _members(text, at)}
    _, end = _DECODER.raw_decode(text, at)
    begin, stop = members.get("entry", (0, 0))
    if not stop or text[begin] != "[":
        return text[at:end]
    spans = _elements(text, begin)
    one = Tally()
    pieces, others = _entries(text, spans, person, one)
    whole = bool(one.removed) and not others
    if whole:
        one.removed, one.blotted = one.before, 0  # whose bundle it is, theirs are also the places and people in it
    _count_in(tally, one)
    if whole:
        return None
    if not one.held:
        return text[at:end]
    head, tail = text[at : spans[0][0]], text[spans[-1][1] : end]
    around = [person.without(part) if person.distinctive else part for part in (head, tail)]
    inner = _joined(text[: spans[-1][1]], spans, pieces)[spans[0][0] :]
    return around[0] + inner + around[1]


def _entries(text: str, spans: Spans, person: Person, tally: Tally) -> tuple[list[str | None], bool]:
    """Each entry as it stays (None: it goes), and whether another patient has one."""
    keys: dict[str, str] = {}
    for _, _, entry in spans:
        if isinstance(entry, dict) and isinstance(entry.get("resource"), dict):
            note_key(entry, entry["resource"], keys)
    aliases = frozenset(url for url, key in keys.items() if key == f"Patient/{person.id}")
    pieces: list[str | None] = []
    others = False
    for begin, end, entry in spans:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        whole = text[begin:end]
        if isinstance(resource, dict) and resource.get("resourceType") == "Bundle":
            where = next(b for key, b, _ in _members(whole, 0) if key == "resource")
            _, stop = _DECODER.raw_decode(whole, where)
            inner = _bundle(whole, where, person, tally)
            others = others or inner is not None
            pieces.append(None if inner is None else whole[:where] + inner + whole[stop:])
            continue
        tally.before += 1
        judged = "theirs" if _deletes(entry, person, aliases) else judge(resource, person, aliases, tally)
        if judged == "theirs":
            tally.removed += 1
            pieces.append(None)
            continue
        others = others or _of_somebody(resource)
        if judged == "names them" or any(person.refers(s) or s in aliases for s in _strings(entry)):
            tally.blotted += 1
            whole = _blotted(whole, 0, person, aliases)[0]
        pieces.append(whole)
    return pieces, others


def judge(record: Any, person: Person, aliases: frozenset[str], tally: Tally) -> str:
    """Whose record is it: "theirs", "names them" (another's, or nobody's, but it speaks of them), or "" for neither."""
    if not isinstance(record, dict):
        return "names them" if any(person.refers(s) or person.mentions(s) for s in _strings(record)) else ""
    kind = record.get("resourceType")
    if kind == "Patient" and str(record.get("id", "")) == person.id:
        found = record.get("identifier")
        texts = map(identifier_text, found if isinstance(found, list) else [])
        tally.identifiers |= {person.hash(text) for text in texts if text is not None}
        return "theirs"
    owner = next((record[name] for name in OWNERS if isinstance(record.get(name), dict)), None)
    if owner is not None and _points(owner, person, aliases):
        return "theirs"
    named = any(_points(node, person, aliases) for node in _objects(record)) or any(
        person.refers(s) or s in aliases for s in _strings(record)
    )
    if not named:
        return "names them" if any(map(person.mentions, _strings(record))) else ""
    if _of_somebody(record) or any(_SOMEBODY.search(s) and not person.refers(s) for s in _strings(record)):
        return "names them"
    return "theirs"


def _deletes(entry: Any, person: Person, aliases: frozenset[str]) -> bool:
    """Is this entry of a bundle the statement that the person's Patient was deleted?"""
    request = entry.get("request") if isinstance(entry, dict) else None
    if not isinstance(request, dict) or request.get("method") != "DELETE":
        return False
    named = [text for text in (request.get("url"), entry.get("fullUrl")) if isinstance(text, str)]
    return any(person.refers(text) or text in aliases for text in named)


def _of_somebody(record: Any) -> bool:
    """Is it a patient, or the record of one?"""
    if not isinstance(record, dict):
        return False
    owner: dict[str, Any] = next((record[name] for name in OWNERS if isinstance(record.get(name), dict)), {})
    link = owner.get("reference")
    patient = isinstance(link, str) and (_SOMEBODY.search(link) is not None or link.startswith(("urn:", "#")))
    return record.get("resourceType") == "Patient" or patient or owner.get("type") == "Patient"


def _points(node: dict[str, Any], person: Person, aliases: frozenset[str]) -> bool:
    """Is this FHIR Reference one to the person?"""
    link = node.get("reference")
    if isinstance(link, str) and (person.refers(link) or link in aliases):
        return True
    return "reference" not in node and person.holds(node.get("identifier"))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(part)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(part)


def _blotted(text: str, at: int, person: Person, aliases: frozenset[str]) -> tuple[str, int]:
    """The JSON value at `at` with every reference to the person blotted out, and where it ended."""
    if text[at] == '"':
        value, end = _DECODER.raw_decode(text, at)
        if person.refers(value) or value in aliases:
            return '"erased"', end
        return (json.dumps(person.without(value)) if person.mentions(value) else text[at:end]), end
    value, end = _DECODER.raw_decode(text, at)
    if text[at] not in "{[":
        return text[at:end], end
    if isinstance(value, dict) and _points(value, person, aliases):
        return ERASED, end
    parts, last = [], at
    starts = [b for _, b, _ in _members(text, at)] if text[at] == "{" else [b for b, _, _ in _elements(text, at)]
    for begin in starts:
        fresh, stop = _blotted(text, begin, person, aliases)
        parts += [text[last:begin], fresh]
        last = stop
    return "".join(parts) + text[last:end], end


def _joined(text: str, spans: Spans, pieces: list[str | None]) -> str:
    """The text with each span replaced by its piece; one that goes takes the separator before it along."""
    out, first = [text[: spans[0][0]]], True
    for i, piece in enumerate(pieces):
        if piece is not None:
            out += [piece] if first else [text[spans[i - 1][1] : spans[i][0]], piece]
            first = False
    return "".join([*out, text[spans[-1][1] :]])


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Key, begin and end of every value of the object at `at` (valid JSON)."""
    place = _skip(text, at + 1)
    while text[place] != "}":
        key, place = _DECODER.raw_decode(text, place)
        begin = _skip(text, _skip(text, place) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        yield key, begin, end
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)


def _elements(text: str, at: int) -> Spans:
    """Begin, end and value of every element of the array at `at` (valid JSON)."""
    spans: Spans = []
    place = _skip(text, at + 1)
    while text[place] != "]":
        value, end = _DECODER.raw_decode(text, place)
        spans.append((place, end, value))
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)
    return spans


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _records(document: Any) -> int:
    """How many records a document holds: the entries of bundles, also of those in bundles, and other resources."""
    if isinstance(document, list):
        return sum(map(_records, document))
    if not isinstance(document, dict) or document.get("resourceType") != "Bundle":
        return 1
    entries = document.get("entry")
    found = entries if isinstance(entries, list) else []
    return sum(_records(entry.get("resource") if isinstance(entry, dict) else None) for entry in found)


def _count_in(tally: Tally, one: Tally) -> None:
    """Add what a record or bundle gave."""
    tally.before += one.before
    tally.removed += one.removed
    tally.blotted += one.blotted
    tally.identifiers |= one.identifiers
