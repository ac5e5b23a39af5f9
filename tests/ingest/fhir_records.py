"""FHIR records and files made by code, for the ingest tests."""

from __future__ import annotations

import json
from typing import Any


def ndjson(records: list[Any]) -> bytes:
    """Lines of JSON; bytes stand as they are."""
    return b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records)


def bundle(resources: list[Any], *, kind: str = "transaction") -> bytes:
    entries = [{"fullUrl": f"urn:uuid:{r.get('id')}", "resource": r} for r in resources]
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}).encode()


def patient(number: int | str, **fields: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": f"p{number}", "gender": "female", "birthDate": "1970-02-03", **fields}


def observation(number: int | str, of: int | str = 1, **fields: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "2339-0", "display": "Glucose"}]},
        "subject": {"reference": f"Patient/p{of}"},
        "effectiveDateTime": "2019-01-01T10:00:00-05:00",
        "valueQuantity": {"value": 36.69531, "unit": "mg/dL"},
        **fields,
    }
