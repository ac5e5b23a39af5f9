"""Records of STU3 and R5 rewritten to the shape of R4, for the types that have a raw table.

Only what means the same is moved; where the meaning differs the value is left out, and `upgrade` says which field that
was (docs/fhir.md has the table). A value of an unexpected form stays where it is: the judge has a word for it. Which
version a record is of is told in `version`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Record = dict[str, Any]

_TERMS: Final = "http://terminology.hl7.org/CodeSystem/"
_R5_ENCOUNTER: Final[Mapping[str, str | None]] = {
    "on-hold": "onleave",
    "completed": "finished",
    "discharged": None,
    "discontinued": None,
}
"""Encounter.status where R4 says it otherwise, or (None) has no word of the same meaning."""


def upgrade(record: Record, version: str) -> tuple[Record, list[str]]:
    """A record as R4 would have it.

    Args:
        record: A resource; it is not changed, its parts may be shared with the result.
        version: "STU3" or "R5".

    Returns:
        The record, and the fields left out ("Encounter.status") because R4 has nothing of the same meaning.
    """
    kind = record.get("resourceType")
    change = _CHANGES[version].get(kind) if isinstance(kind, str) else None
    if change is None:
        return record, []
    fresh: Record = dict(record)
    left: list[str] = []
    change(fresh, left)
    return fresh, [f"{kind}.{name}" for name in left]


# ---- small moves


def _rename(r: Record, old: str, new: str) -> None:
    if old in r:
        value = r.pop(old)
        r.setdefault(new, value)


def _drop(r: Record, left: list[str], name: str) -> None:
    if r.pop(name, None) is not None:
        left.append(name)


def _as_list(r: Record, name: str) -> None:
    if isinstance(r.get(name), dict):
        r[name] = [r[name]]


def _as_concept(r: Record, name: str, system: str) -> None:
    """A bare code becomes a CodeableConcept."""
    if isinstance(r.get(name), str):
        r[name] = {"coding": [{"system": _TERMS + system, "code": r[name]}]}


def _context(r: Record, left: list[str]) -> None:
    """STU3's `context` is an encounter or an episode of care; R4 has a field for the first."""
    link = r.get("context")
    if isinstance(link, dict) and "EpisodeOfCare/" in str(link.get("reference")):
        _drop(r, left, "context")
    _rename(r, "context", "encounter")


def _not_done(r: Record, name: str) -> None:
    """STU3 says with a flag that something was not done, R4 with the status."""
    if r.get(name) is True and r.get("status") != "entered-in-error":
        r["status"] = "not-done"
    if isinstance(r.get(name), bool):
        del r[name]


def _codeable(r: Record, name: str, concept: str, reference: str) -> None:
    """R5's CodeableReference becomes R4's two fields; lists become lists."""
    value = r.get(name)
    parts: list[Any] = value if isinstance(value, list) else [value]
    if not _objects(parts):
        return
    del r[name]
    for field, into in (("concept", concept), ("reference", reference)):
        found = [part[field] for part in parts if field in part]
        if found:
            r.setdefault(into, found if isinstance(value, list) else found[0])


# ---- STU3


def _stu3_encounter(r: Record, left: list[str]) -> None:
    _rename(r, "reason", "reasonCode")
    _rename(r, "incomingReferral", "basedOn")
    _as_list(r, "appointment")


def _stu3_condition(r: Record, left: list[str]) -> None:
    _context(r, left)
    _rename(r, "assertedDate", "recordedDate")
    if r.get("verificationStatus") == "unknown":
        _drop(r, left, "verificationStatus")
    _as_concept(r, "clinicalStatus", "condition-clinical")
    _as_concept(r, "verificationStatus", "condition-ver-status")
    _as_list(r, "stage")


def _stu3_observation(r: Record, left: list[str]) -> None:
    _context(r, left)
    if isinstance(r.get("comment"), str):
        r.setdefault("note", [{"text": r.pop("comment")}])
    related = r.pop("related", None)
    for said, field in (("has-member", "hasMember"), ("derived-from", "derivedFrom")):
        links = related if isinstance(related, list) else []
        if found := [_of(link, "target") for link in links if _of(link, "type") == said]:
            r.setdefault(field, found)
    _as_list(r, "interpretation")
    components = r.get("component")
    if isinstance(components, list) and all(isinstance(part, dict) for part in components):
        r["component"] = [dict(part) for part in components]
        for part in r["component"]:
            _as_list(part, "interpretation")


def _stu3_procedure(r: Record, left: list[str]) -> None:
    _context(r, left)
    _not_done(r, "notDone")
    _rename(r, "notDoneReason", "statusReason")
    r.pop("definition", None)


def _stu3_medication_request(r: Record, left: list[str]) -> None:
    _context(r, left)
    _as_list(r, "category")
    agent = _of(r.get("requester"), "agent")
    if agent is not None:
        r["requester"] = agent
    r.pop("definition", None)


def _stu3_immunization(r: Record, left: list[str]) -> None:
    _rename(r, "date", "occurrenceDateTime")
    _not_done(r, "notGiven")
    why = r.pop("explanation", None)
    if (reasons := _of(why, "reason")) is not None:
        r.setdefault("reasonCode", reasons)
    against = _of(why, "reasonNotGiven")
    if isinstance(against, list) and against:
        r.setdefault("statusReason", against[0])
    _rename(r, "practitioner", "performer")
    r.pop("vaccinationProtocol", None)


def _stu3_allergy(r: Record, left: list[str]) -> None:
    _rename(r, "assertedDate", "recordedDate")
    _as_concept(r, "clinicalStatus", "allergyintolerance-clinical")
    _as_concept(r, "verificationStatus", "allergyintolerance-verification")


def _stu3_report(r: Record, left: list[str]) -> None:
    _context(r, left)
    _as_list(r, "category")
    _rename(r, "image", "media")
    _rename(r, "codedDiagnosis", "conclusionCode")
    performers = r.get("performer")
    if isinstance(performers, list) and all(_of(part, "actor") is not None for part in performers):
        r["performer"] = [part["actor"] for part in performers]


def _stu3_medication(r: Record, left: list[str]) -> None:
    for name in ("isBrand", "isOverTheCounter", "image"):
        r.pop(name, None)
    batch = _of(r.pop("package", None), "batch")
    if isinstance(batch, list) and batch:
        r.setdefault("batch", batch[0])
    parts = r.get("ingredient")
    if isinstance(parts, list) and _objects(parts):
        r["ingredient"] = [dict(part) for part in parts]
        for part in r["ingredient"]:
            _rename(part, "amount", "strength")


# ---- R5


def _r5_encounter(r: Record, left: list[str]) -> None:
    _rename(r, "actualPeriod", "period")
    _rename(r, "admission", "hospitalization")
    kinds = r.get("class")
    if isinstance(kinds, list) or _of(kinds, "coding") is not None:
        concept = kinds[0] if isinstance(kinds, list) and kinds else kinds
        coding = _of(concept, "coding")
        first = coding[0] if isinstance(coding, list) and coding else None
        if isinstance(first, dict):
            r["class"] = first
        else:
            _drop(r, left, "class")
    if isinstance(r.get("status"), str):
        status = _R5_ENCOUNTER.get(r["status"], r["status"])
        if status is None:
            _drop(r, left, "status")
        else:
            r["status"] = status
    reasons = r.pop("reason", None)
    values = [_of(reason, "value") for reason in reasons] if isinstance(reasons, list) else [reasons]
    if all(map(_objects, values)):
        r["reason"] = [value for some in values for value in some]
        _codeable(r, "reason", "reasonCode", "reasonReference")
    elif reasons:
        left.append("reason")
    services = r.get("serviceType")
    if isinstance(services, list):
        found = [part["concept"] for part in services if _of(part, "concept") is not None]
        r["serviceType"] = found[0] if found else None
    for name in ("plannedStartDate", "plannedEndDate", "subjectStatus", "diagnosis"):
        r.pop(name, None)


def _r5_condition(r: Record, left: list[str]) -> None:
    for name in ("participant", "evidence"):  # who and why have other shapes, and no column
        r.pop(name, None)


def _r5_observation(r: Record, left: list[str]) -> None:
    for name in ("triggeredBy", "bodyStructure", "instantiatesCanonical", "instantiatesReference"):
        r.pop(name, None)


def _r5_procedure(r: Record, left: list[str]) -> None:
    for form in ("DateTime", "Period", "String", "Age", "Range"):
        _rename(r, f"occurrence{form}", f"performed{form}")
    if r.get("reason") is not None:
        _codeable(r, "reason", "reasonCode", "reasonReference")
    categories = r.get("category")
    if isinstance(categories, list) and categories:
        r["category"] = categories[0]
    for name in ("recorded", "reportedBoolean", "reportedReference", "focus"):
        r.pop(name, None)


def _r5_medication_request(r: Record, left: list[str]) -> None:
    if isinstance(r.get("medication"), dict):
        _codeable(r, "medication", "medicationCodeableConcept", "medicationReference")
    if r.get("reason") is not None:
        _codeable(r, "reason", "reasonCode", "reasonReference")
    if r.get("status") == "ended":
        _drop(r, left, "status")
    _rename(r, "reported", "reportedBoolean")


def _r5_immunization(r: Record, left: list[str]) -> None:
    if r.get("reason") is not None:
        _codeable(r, "reason", "reasonCode", "reasonReference")
    if isinstance(r.get("manufacturer"), dict):
        _codeable(r, "manufacturer", "_", "manufacturer")
    for name in ("informationSource", "supportingInformation", "administeredProduct", "basedOn", "_"):
        r.pop(name, None)


def _r5_allergy(r: Record, left: list[str]) -> None:
    if isinstance(r.get("type"), dict):
        coding = _of(r["type"], "coding")
        code = _of(coding[0], "code") if isinstance(coding, list) and coding else None
        if isinstance(code, str):
            r["type"] = code
        else:
            _drop(r, left, "type")
    r.pop("participant", None)


def _of(value: Any, name: str) -> Any:
    """A member of what should be an object."""
    return value.get(name) if isinstance(value, dict) else None


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, dict) for part in value)


_Change = Callable[[Record, list[str]], None]
_CHANGES: Final[Mapping[str, Mapping[str, _Change]]] = {
    "STU3": {
        "Encounter": _stu3_encounter,
        "Condition": _stu3_condition,
        "Observation": _stu3_observation,
        "Procedure": _stu3_procedure,
        "MedicationRequest": _stu3_medication_request,
        "Immunization": _stu3_immunization,
        "AllergyIntolerance": _stu3_allergy,
        "DiagnosticReport": _stu3_report,
        "Medication": _stu3_medication,
    },
    "R5": {
        "Encounter": _r5_encounter,
        "Condition": _r5_condition,
        "Observation": _r5_observation,
        "Procedure": _r5_procedure,
        "MedicationRequest": _r5_medication_request,
        "Immunization": _r5_immunization,
        "AllergyIntolerance": _r5_allergy,
    },
}
"""What to change, by version and type. The types that are not named are the same in what is read."""
