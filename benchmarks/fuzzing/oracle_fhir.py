"""What the rows of a FHIR delivery have to be, told by plain Python apart from any reader of the pipeline.

The number of records; that undamaged records have the rows that they have without the damage; and that a damaged one
that was taken has in its columns what it says.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from fuzzing.cases import Case, undamaged

if TYPE_CHECKING:
    from fuzzing.checks import Ingested

_SEEN_ELSEWHERE = {"medication_request": {"code_system", "code", "display"}}
"""Columns that another record has a say in."""
_LINKS = {"patient", "encounter", "unresolved", "medication"}
_FIELDS: dict[str, tuple[tuple[str, str], ...]] = {
    "Patient": (("gender", "gender"), ("birthDate", "birth_date_text"), ("deceasedDateTime", "deceased_at_text")),
    "Observation": (
        ("status", "status"),
        ("valueQuantity.value", "value_number"),
        ("valueString", "value_text"),
        ("code.coding.0.code", "code"),
        ("code.coding.0.system", "code_system"),
        ("effectiveDateTime", "effective_text"),
    ),
    "Condition": (("code.coding.0.code", "code"), ("onsetDateTime", "onset_text")),
    "Encounter": (("status", "status"), ("class.code", "class"), ("period.start", "start_text")),
    "Procedure": (("status", "status"), ("code.coding.0.code", "code")),
    "Immunization": (("vaccineCode.coding.0.code", "code"), ("occurrenceDateTime", "occurrence_text")),
    "AllergyIntolerance": (("code.coding.0.display", "display"), ("recordedDate", "recorded_text")),
    "DiagnosticReport": (("code.coding.0.code", "code"), ("issued", "issued_text")),
    "MedicationRequest": (("status", "status"), ("authoredOn", "authored_text")),
}
_FOREIGN = {
    "context",
    "reason",
    "patient",
    "medication",
    "actualPeriod",
    "comment",
    "occurrenceDateTime",
    "meta",
    "date",
}
"""Keys by which another version might be told: what such a record becomes is not judged here."""


def check(case: Case, ingested: Ingested, baseline: Path | None) -> list[str]:
    """Findings about the rows."""
    return [*_counts(case, ingested), *_rows(case, ingested, baseline)]


def _counts(case: Case, ingested: Ingested) -> list[str]:
    found = []
    for row in ingested.rows("delivered_files"):
        if row["outcome"] == "no data":
            continue
        expected = _number(case, row["file"])
        if expected is not None and row["records"] != expected:
            found.append(f"{row['file']}: {row['records']} records in the account, {expected} in the file")
    return found


def _number(case: Case, name: str) -> int | None:
    """Records of a file, counted on its lines or its JSON; None where that is not defined."""
    data = case.plain(name)
    if data is None:
        return None
    data = data.removeprefix(b"\xef\xbb\xbf")
    lined = name.lower().removesuffix(".gz").endswith((".ndjson", ".jsonl"))
    if not lined:
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None
        return sum(map(_size, document)) if isinstance(document, list) else _size(document)
    return sum(_size_of_line(line) for line in data.split(b"\n") if line.strip())


def _size_of_line(line: bytes) -> int:
    try:
        return _size(orjson.loads(line)) if b"Bundle" in line or b"\\u" in line else 1
    except orjson.JSONDecodeError:
        return 1


def _size(record: Any) -> int:
    """Records in a record: a bundle counts for its entries."""
    if not isinstance(record, dict) or record.get("resourceType") != "Bundle":
        return 1
    inside = record.get("entry")
    if inside is None:
        return 0
    return sum(map(_size_of_entry, inside)) if isinstance(inside, list) else 1


def _size_of_entry(entry: Any) -> int:
    if not isinstance(entry, dict):
        return 1
    request = entry.get("request")
    deleted = isinstance(request, dict) and request.get("method") == "DELETE"
    return 1 if deleted or entry.get("resource") is None else _size(entry["resource"])


def _records(case: Case) -> dict[str, list[tuple[str, str, Any]]]:
    """Key to what has it: file, canonical text, record. Of what can be parsed, as far as that is easy."""
    found: dict[str, list[tuple[str, str, Any]]] = {}

    def enter(file: str, record: Any) -> None:
        if isinstance(record, dict) and record.get("resourceType") == "Bundle":
            entries = record.get("entry")
            for entry in entries if isinstance(entries, list) else ():
                enter(file, entry.get("resource") if isinstance(entry, dict) else None)
        elif isinstance(record, dict) and isinstance(record.get("id"), str):
            key = f"{record.get('resourceType')}/{record['id']}"
            found.setdefault(key, []).append((file, json.dumps(record, sort_keys=True), record))

    for name in case.files:
        data = case.plain(name)
        if data is None:
            continue
        data = data.removeprefix(b"\xef\xbb\xbf")
        try:
            document = orjson.loads(data)
            for record in document if isinstance(document, list) else [document]:
                enter(name, record)
        except orjson.JSONDecodeError:
            for line in data.split(b"\n"):
                try:
                    enter(name, orjson.loads(line))
                except orjson.JSONDecodeError:
                    continue
    return found


def _rows(case: Case, ingested: Ingested, baseline: Path | None) -> list[str]:
    import pyarrow.parquet as pq

    from pipeline.ingest.fhir.columns import TYPES

    records = _records(case)
    originals = _records(undamaged(case.format, case.seed))
    rejected = {(row["file"], row["resource_type"]) for row in ingested.rows("quarantine")}
    read = {row["file"] for row in ingested.rows("delivered_files") if row["outcome"] not in ("no data", "quarantined")}
    found = []
    for kind, known in TYPES.items():
        now = _by_key(ingested.rows(known.table))
        path = baseline / f"{known.table}.parquet" if baseline is not None else None
        then = _by_key(pq.read_table(path).to_pylist()) if path is not None and path.exists() else {}
        for key, there in records.items():
            if not key.startswith(f"{kind}/") or len(there) != 1:
                continue
            ((file, text, record),) = there
            if file not in read:
                continue
            same = key in originals and [t for _, t, _ in originals[key]] == [text]
            if key not in now:
                # A taken record has rows; a rejected one has a row in the quarantine.
                if same and key in then and (file, kind) not in rejected:
                    found.append(f"{key} of {file} is neither in the table nor in quarantine")
                continue
            if same and key in then:
                found += _compare(kind, known.table, key, then[key], now[key])
            elif not (_FOREIGN & record.keys()) and not _from_elsewhere(record):
                found += _says(kind, key, record, now[key][0])
    return found


def _by_key(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["key"], []).append(row)
    return found


def _compare(kind: str, table: str, key: str, then: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    if len(then) != len(now):
        return [f"{key}: {len(now)} rows, {len(then)} without the damage"]
    other = Counter(
        column
        for one, two in zip(then, now, strict=True)
        for column in one
        if _text(one[column]) != _text(two.get(column)) and column not in _SEEN_ELSEWHERE.get(table, set()) | _LINKS
    )
    return [f"{key}: undamaged, but {sorted(other)} differ"] if other else []


def _text(value: Any) -> str:
    return repr(value)


def _from_elsewhere(record: dict[str, Any]) -> bool:
    return any(name.startswith(("occurrence", "not", "was")) for name in record)


def _says(kind: str, key: str, record: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """A damaged record that was taken: what it says in the fields that are read stands in its columns."""
    found: list[str] = []
    for path, column in _FIELDS.get(kind, ()):
        value = record
        for part in path.split("."):
            if isinstance(value, list) and part.isdigit():
                value = value[int(part)] if len(value) > int(part) else None
            else:
                value = value.get(part) if isinstance(value, dict) else None
        there = row[column]
        if value is None or isinstance(value, dict | list):
            continue
        if there is None:
            found.append(f"{key}: {path} is there, and {column} is NULL in silence")
            continue
        same = value == there if isinstance(value, str) else True
        if column == "value_number" and isinstance(value, int | float):
            same = float(value) == there
        if not same:
            found.append(f"{key}: {path} is not what {column} says")
    return found
