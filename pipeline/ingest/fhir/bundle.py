"""Bundles taken apart: what each entry of one is, which key a `fullUrl` stands for, and what a broken one still gives.

Entries of a `history` stand newest first and are given oldest first. What becomes of the records is in `split`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeGuard

import orjson

from pipeline.ingest.fhir.columns import MOMENT, TYPES, ResourceType
from pipeline.ingest.fhir.judge import misfit

_ONE: Final = re.compile(r"(?:^|/)([A-Z][A-Za-z]*)/([A-Za-z0-9.\-]{1,64})(?:/_history/[^/?]*)?$")
_ENTRIES: Final = re.compile(r'"entry"\s*:\s*\[')
_NEXT: Final = re.compile(r"[\s,]*(?=\{)")


@dataclass(frozen=True)
class Entry:
    """One entry of a bundle.

    Attributes:
        number: 1-based place.
        role: What it is: a resource, the statement that one was deleted, an answer or a question without a resource
            (neither is a lost record), or none of these.
        content: The resource; for other roles the entry itself.
        at: For deletions: when, as written.
    """

    number: int
    role: Literal["resource", "deletion", "response", "request", "nothing"]
    content: Any
    at: str | None = None


def is_bundle(record: Any) -> TypeGuard[dict[str, Any]]:
    """Is this parsed JSON a Bundle?"""
    return isinstance(record, dict) and record.get("resourceType") == "Bundle"


def entries(bundle: dict[str, Any]) -> Iterator[Entry]:
    """What the entries of a bundle are, in the order in which they came about.

    Resources without an id take the one of their `fullUrl`; versions in a history without `meta.lastUpdated` take the
    time of the entry's response.
    """
    numbered = list(enumerate(bundle["entry"], start=1))
    history = bundle.get("type") == "history"
    for number, entry in reversed(numbered) if history else numbered:
        if not isinstance(entry, dict):
            yield Entry(number, "nothing", entry)
            continue
        resource, answer = entry.get("resource"), entry.get("response")
        method = entry["request"].get("method") if isinstance(entry.get("request"), dict) else None
        if method == "DELETE":
            yield Entry(number, "deletion", entry, _moment(answer))
        elif resource is not None:
            if history and isinstance(resource, dict) and (at := _moment(answer)):
                _stamp(resource, at)
            yield Entry(number, "resource", resource)
        elif isinstance(answer, dict):
            yield Entry(number, "response", entry)
        else:
            yield Entry(number, "request" if method in ("GET", "HEAD") else "nothing", entry)


def _moment(answer: Any) -> str | None:
    """When the answer says that something happened, if it says so properly."""
    at = answer.get("lastModified") if isinstance(answer, dict) else None
    return at if isinstance(at, str) and misfit(at, MOMENT) is None else None


def _stamp(resource: dict[str, Any], at: str) -> None:
    meta = resource.setdefault("meta", {})
    if isinstance(meta, dict):
        meta.setdefault("lastUpdated", at)


def deleted_key(entry: dict[str, Any]) -> str | None:
    """The key 'Type/id' of the resource that a DELETE entry names; None where it names no single one."""
    request = entry["request"]
    for url in (request.get("url"), entry.get("fullUrl")):
        if isinstance(url, str) and (found := _ONE.search(url)):
            return f"{found[1]}/{found[2]}"
    return None


def full_urls(bundle: dict[str, Any]) -> dict[str, str]:
    """Which key each `fullUrl` of a bundle stands for."""
    keys: dict[str, str] = {}
    for entry in bundle["entry"]:
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if isinstance(resource, dict):
            note_key(entry, resource, keys)
    return keys


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


def resolve_links(resource: dict[str, Any], keys: dict[str, str], kinds: Mapping[str, ResourceType] = TYPES) -> None:
    """Rewrite the references that are read, where they name a `fullUrl` of the bundle."""
    kind = kinds.get(str(resource.get("resourceType")))
    if kind is None:
        return
    for name in kind.references:
        _resolve(resource.get(name), keys)
    if "context" in resource:  # STU3
        _resolve(resource["context"], keys)
    medication = resource.get("medication")
    if isinstance(medication, dict):  # R5
        _resolve(medication.get("reference"), keys)


def _resolve(link: Any, keys: dict[str, str]) -> None:
    if isinstance(link, dict) and isinstance(target := link.get("reference"), str) and target in keys:
        link["reference"] = keys[target]


def salvage(data: bytes) -> tuple[list[Any], bytes]:
    """The whole entries of a bundle before the place where it breaks, and the bytes from there on."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:  # nothing is guessed at: only what stands before the bad byte is read
        text = data[: error.start].decode("utf-8")
    found = _ENTRIES.search(text)
    if found is None or '"Bundle"' not in text[: found.start()]:
        return [], data
    whole: list[Any] = []
    decoder, place = json.JSONDecoder(), found.end()
    while start := _NEXT.match(text, place):
        try:
            _, end = decoder.raw_decode(text, start.end())
            whole.append(orjson.loads(text[start.end() : end]))  # stricter: no NaN, no half surrogates
        except (ValueError, RecursionError):
            break
        place = end
    return whole, data[len(text[:place].encode()) :] if whole else data


def looks_like_lines(data: bytes) -> bool:
    """More than one line, and the first one is a JSON object of its own."""
    first, _, rest = data.lstrip().partition(b"\n")
    try:
        return bool(rest.strip()) and isinstance(orjson.loads(first), dict)
    except orjson.JSONDecodeError:
        return False
