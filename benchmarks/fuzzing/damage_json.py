"""Damage to JSON that knows what JSON is: values, keys, types, nesting and the shape of FHIR."""

from __future__ import annotations

import json
import random
from typing import Any

from fuzzing.damage import Damage, pick
from fuzzing.deliveries import Files
from fuzzing.values import RAW, anything, text

_MARK = "@@raw@@"


def _records(files: Files, name: str) -> tuple[list[Any], bool] | None:
    """The records of a file (lines, or the document alone), and whether they are lines; None if they cannot be read."""
    data = files[name]
    try:
        return [json.loads(data)], False
    except (ValueError, RecursionError):
        pass
    try:
        return [json.loads(line) for line in data.split(b"\n") if line.strip()], True
    except (ValueError, RecursionError):
        return None


def _write(files: Files, name: str, records: list[Any], lined: bool, raw: bytes | None = None) -> None:
    # Surrogates are escaped, and text is left as it is else.
    def dumps(record: Any) -> bytes:
        try:
            return json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return json.dumps(record).encode()

    data = b"".join(dumps(r) + b"\n" for r in records) if lined else dumps(records[0])
    files[name] = data.replace(json.dumps(_MARK).encode(), raw) if raw is not None else data


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a value something stands."""
    found = [path] if path else []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        found += _paths(part, (*path, key))
    return found


def _parent(record: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        record = record[key]
    return record


def _somewhere(rng: random.Random, files: Files) -> tuple[str, list[Any], bool, Any, tuple[Any, ...]] | None:
    name = pick(rng, files, ".json", ".ndjson") if any(n.endswith("json") for n in files) else ""
    found = _records(files, name) if name else None
    if not found or not found[0]:
        return None
    records, lined = found
    record = rng.choice(records)
    paths = _paths(record)
    if not paths:
        return None
    # Half of the time near the root, where what is read stands.
    near = [path for path in paths if len(path) <= (6 if not lined else 2)]
    return name, records, lined, record, rng.choice(near if near and rng.random() < 0.5 else paths)


def value(rng: random.Random, files: Files) -> str:
    """Another value, often of another type."""
    if (found := _somewhere(rng, files)) is None:
        return "nothing"
    name, records, lined, record, path = found
    parent, fresh = _parent(record, path), anything(rng)
    parent[path[-1]] = fresh
    _write(files, name, records, lined)
    return f"{name}: {_said(path)} = {str(fresh)[:40]!r}"


def raw(rng: random.Random, files: Files) -> str:
    """Bytes in the place of a value: numbers that are too large, deep nesting, half surrogates, no JSON at all."""
    if (found := _somewhere(rng, files)) is None:
        return "nothing"
    name, records, lined, record, path = found
    bytes_ = rng.choice(RAW)
    _parent(record, path)[path[-1]] = _MARK
    _write(files, name, records, lined, bytes_)
    return f"{name}: {_said(path)} = {bytes_[:20]!r} ({len(bytes_)} bytes)"


def key(rng: random.Random, files: Files) -> str:
    """A key is missing, called otherwise, or there twice."""
    if (found := _somewhere(rng, files)) is None:
        return "nothing"
    name, records, lined, record, path = found
    parent = _parent(record, path)
    how = rng.choice(["gone", "renamed", "twice", "case", "added", "wrapped", "list"])
    old = path[-1]
    if isinstance(parent, list):
        parent.append(parent[old]) if how == "twice" else parent.pop(old)
        _write(files, name, records, lined)
    elif how == "twice":
        inside = json.dumps(parent[old], ensure_ascii=True).encode()
        parent[old] = _MARK
        other = json.dumps(anything(rng)).encode() if rng.random() < 0.5 else inside
        _write(files, name, records, lined, inside + b", " + json.dumps(old).encode() + b": " + other)
    else:
        moved = parent.pop(old)
        if how == "renamed":
            parent[text(rng)] = moved
        elif how == "case":
            parent[old.upper()] = moved
        elif how == "added":
            parent[old] = moved
            parent[text(rng)] = anything(rng)
        elif how == "wrapped":
            parent[old] = {old: moved}
        elif how == "list":
            parent[old] = [moved]
        _write(files, name, records, lined)
    return f"{name}: key {_said(path)} {how}"


def identity(rng: random.Random, files: Files) -> str:
    """An id, reference or type like no other, in one record or in many."""
    if (found := _somewhere(rng, files)) is None:
        return "nothing"
    name, records, lined, _, _ = found
    inside = [r for record in records for r in _resources(record)]
    field = rng.choice(["id", "id", "resourceType", "subject", "patient", "code"])
    fresh = anything(rng) if rng.random() < 0.3 else text(rng)
    chosen = inside if rng.random() < 0.2 else [rng.choice(inside)] if inside else []
    for record in chosen:
        if field in ("subject", "patient"):
            record[field] = {"reference": fresh}
        elif field == "code":
            record[field] = {"coding": [{"system": fresh, "code": text(rng), "display": fresh}]}
        else:
            record[field] = fresh
    _write(files, name, records, lined)
    return f"{name}: {field} of {len(chosen)} records = {str(fresh)[:40]!r}"


def _resources(record: Any) -> list[dict[str, Any]]:
    if not isinstance(record, dict):
        return []
    entries = record.get("entry")
    if not isinstance(entries, list):
        return [record]
    found = [e["resource"] for e in entries if isinstance(e, dict) and isinstance(e.get("resource"), dict)]
    return found or [record]


def shape(rng: random.Random, files: Files) -> str:
    """Another shape: bundles in lines, records in lists, versions of a record, other kinds of bundles."""
    if (found := _somewhere(rng, files)) is None:
        return "nothing"
    name, records, lined, record, _ = found
    how = rng.choice(["bundle line", "list", "kind", "version", "entry", "nested", "no entry", "foreign", "contained"])
    entries = record.get("entry") if isinstance(record, dict) else None
    if how == "bundle line":
        records.append(
            {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": r} for r in records[:3]]}
        )
        lined = True
    elif how == "list":
        records = [records]
        lined = rng.random() < 0.5
    elif how == "kind" and isinstance(record, dict):
        record["type"] = rng.choice(["history", "searchset", "batch", "transaction-response", "document", 7, None])
    elif how == "version":
        for some in _resources(record)[:2]:
            records.append({**some, "meta": {"lastUpdated": rng.choice(["2030-01-01T00:00:00Z", "x", None, 5])}})
        lined = True
    elif how == "entry" and isinstance(entries, list) and entries:
        entries[rng.randrange(len(entries))] = anything(rng)
    elif how == "no entry" and isinstance(record, dict):
        record["entry"] = anything(rng)
    elif how == "nested" and isinstance(record, dict):
        for _ in range(rng.choice([1, 5, 100])):
            record = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": record}]}
        records.append(record)
        lined = True
    elif how == "foreign":
        for some in _resources(record)[:1]:
            fields = ["context", "reason", "patient", "medication", "actualPeriod", "comment", "occurrenceDateTime"]
            some[rng.choice(fields)] = anything(rng)
    elif how == "contained":
        for some in _resources(record)[:1]:
            some["contained"] = [anything(rng), dict(some)]
    _write(files, name, records, lined)
    return f"{name}: {how}"


def _said(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))[:80]


JSON: list[Damage] = [value, value, value, value, raw, raw, key, key, identity, identity, shape]
"""What can be done to JSON, as often as it is drawn."""
