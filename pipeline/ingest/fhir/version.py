"""Which FHIR version a record was written for, told from what it says and how it is built.

R4 (4.0) and R4B (4.3) share the clinical resources read here; STU3 and R5 are rewritten to their shape
(`upgrade`). DSTU2 is not read: its files are set aside, and a delivery of them is refused with one message.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from pipeline.errors import InputError

PROBE: Final = 200
"""Records looked at in each file."""
REWRITTEN: Final = frozenset({"STU3", "R5"})
"""Versions whose records are rewritten to R4."""
REFUSED: Final = "DSTU2"

_PROFILE: Final = re.compile(
    r"^http://hl7\.org/fhir/(DSTU2|STU3|R4B|R4|R5|1\.0|3\.0|4\.0|4\.3|5\.0)/StructureDefinition/"
)
_PINNED: Final = re.compile(r"^http://hl7\.org/fhir/StructureDefinition/[^|]+\|(\d+\.\d+)")
_NUMBERS: Final = {"1.0": "DSTU2", "3.0": "STU3", "4.0": "R4", "4.1": "R4B", "4.3": "R4B", "5.0": "R5"}


_LIKELY: Final = ("R4B", "R4", "R5", "STU3", "DSTU2")


def named(version: str) -> str | None:
    """The release called by a version number such as '4.0.1'; None if it is unknown."""
    return _NUMBERS.get(".".join(version.split(".")[:2]))


def evidence(record: Any) -> str | None:
    """The version that one record speaks for, or None where it would be the same in several.

    An explicit statement (`fhirVersion`, a profile with a version) counts before the structure.
    """
    if not isinstance(record, dict):
        return None
    stated = record.get("fhirVersion")
    if isinstance(stated, str) and named(stated):
        return named(stated)
    meta = record.get("meta")
    profiles = meta.get("profile") if isinstance(meta, dict) else None
    for profile in profiles if isinstance(profiles, list) else []:
        if isinstance(profile, str):
            if found := _PROFILE.match(profile):
                return _NUMBERS.get(found[1], found[1])
            if (found := _PINNED.match(profile)) and (release := _NUMBERS.get(found[1])):
                return release
    return _structure(record)


def _structure(r: dict[str, Any]) -> str | None:
    """Version by structure: fields that exist, or have this type, in one version only."""
    kind = r.get("resourceType")
    if kind in ("MedicationOrder", "DiagnosticOrder", "BodySite", "ProcedureRequest", "ReferralRequest"):
        return "STU3" if kind in ("ProcedureRequest", "ReferralRequest") and "intent" in r else "DSTU2"
    if kind == "Encounter":
        return _encounter(r)
    if kind in ("Observation", "Procedure", "MedicationRequest", "DiagnosticReport", "Condition") and "context" in r:
        return "STU3"
    if kind == "Condition":
        if "dateRecorded" in r or "patient" in r:
            return "DSTU2"
        if "assertedDate" in r or isinstance(r.get("clinicalStatus") or r.get("verificationStatus"), str):
            return "STU3"
        if "participant" in r:
            return "R5"
        return "R4" if isinstance(r.get("clinicalStatus"), dict) or "recordedDate" in r else None
    if kind == "AllergyIntolerance":
        if "substance" in r or ("recordedDate" in r and isinstance(r.get("status"), str)):
            return "DSTU2"
        if "assertedDate" in r or isinstance(r.get("clinicalStatus") or r.get("verificationStatus"), str):
            return "STU3"
        if isinstance(r.get("type"), dict) or "participant" in r:
            return "R5"
        return "R4" if isinstance(r.get("clinicalStatus"), dict) else None
    if kind in ("MedicationRequest", "Procedure", "Immunization") and _is_codeable(r.get("reason")):
        return "R5"
    if kind == "MedicationRequest":
        if isinstance(r.get("medication"), dict):
            return "R5"
        requester = r.get("requester")
        if isinstance(requester, dict) and "agent" in requester:
            return "STU3"
        return "R4" if "encounter" in r else None
    if kind == "Observation":
        if isinstance(r.get("category"), dict) or isinstance(r.get("comments"), str):
            return "DSTU2"
        if "comment" in r or "related" in r or isinstance(r.get("interpretation"), dict):
            return "STU3"
        if {"triggeredBy", "bodyStructure", "instantiatesCanonical"} & r.keys():
            return "R5"
        return "R4" if "encounter" in r and isinstance(r.get("category"), list) else None
    if kind == "Procedure":
        if "notPerformed" in r:
            return "DSTU2"
        if any(name.startswith("occurrence") for name in r):
            return "R5"
        return "STU3" if "notDone" in r else None
    if kind == "Immunization":
        if "wasNotGiven" in r:
            return "DSTU2"
        if "notGiven" in r or "date" in r:
            return "STU3"
        if isinstance(r.get("informationSource"), dict) or _is_codeable([r.get("manufacturer")]):
            return "R5"
        return "R4" if "occurrenceDateTime" in r else None
    if kind == "DiagnosticReport":
        performers = r.get("performer")
        by = performers[0] if isinstance(performers, list) and performers else None
        if isinstance(performers, dict):
            return "DSTU2"
        return "STU3" if isinstance(r.get("category"), dict) or (isinstance(by, dict) and "actor" in by) else None
    if kind == "Medication":
        if "product" in r:
            return "DSTU2"
        return "STU3" if {"isBrand", "isOverTheCounter", "package"} & r.keys() else None
    return None


def _encounter(r: dict[str, Any]) -> str | None:
    """Encounter changed in every version: its class, period, patient and reason."""
    kind, reasons = r.get("class"), r.get("reason")
    because = reasons[0] if isinstance(reasons, list) and reasons else None
    if {"actualPeriod", "admission", "plannedStartDate"} & r.keys() or isinstance(kind, list):
        return "R5"
    if isinstance(because, dict) and {"use", "value"} & because.keys():
        return "R5"
    if isinstance(kind, str) or "patient" in r:
        return "DSTU2"
    if "reason" in r or "incomingReferral" in r:
        return "STU3"
    return "R4" if "reasonCode" in r or "reasonReference" in r or "serviceType" in r else None


def _is_codeable(value: Any) -> bool:
    """Is this a list that starts with a CodeableReference of R5 (and not with a concept or a reference)?"""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and ("concept" in first or isinstance(first.get("reference"), dict))


def votes(record: Any, most: int = PROBE) -> Counter[str]:
    """What a record speaks for; of a bundle, what it and its first `most` entries speak for."""
    found: Counter[str] = Counter()
    if (version := evidence(record)) is not None:
        found[version] += 1
    inside = record.get("entry") if isinstance(record, dict) and record.get("resourceType") == "Bundle" else None
    for entry in inside[:most] if isinstance(inside, list) else ():
        if isinstance(entry, dict):
            found.update(votes(entry.get("resource"), most))
    return found


def prevailing(found: Counter[str]) -> str | None:
    """The version that most records speak for; None where none does."""
    return min(found, key=lambda version: (-found[version], _LIKELY.index(version))) if found else None


def spoken_for(found: Counter[str]) -> str | None:
    """The version by which the records of a file are read that tell none themselves.

    One record alone does not speak for its neighbours: a single damaged one would change them all.
    """
    version = prevailing(found)
    return version if version is not None and found[version] > 1 else None


def is_mostly_refused(found: Iterable[Counter[str]]) -> bool:
    """Do the records of these files that tell a version mostly tell one that is not read?"""
    counts = list(found)
    refused = sum(sum(c.values()) for c in counts if prevailing(c) == REFUSED)
    return refused > sum(sum(c.values()) for c in counts if prevailing(c) != REFUSED)


def refusal(files: list[str]) -> InputError:
    """The message about a delivery of a version that is not read.

    Args:
        files: Public names of the files at fault.
    """
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return InputError(
        f"This is FHIR {REFUSED}, found in {sorted(files)[0]}{more}; supported are R4 (4.0.1) and R4B (4.3), and STU3 "
        "and R5 as far as docs/fhir.md says.",
        todo="Export the delivery as R4, or convert it, and hand it over under a new name.",
    )
