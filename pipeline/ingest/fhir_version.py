"""Which FHIR version a record was written for, told from what it says and how it is built.

R4 (4.0) and R4B (4.3) share the clinical resources read here and are accepted; DSTU2, STU3 and R5 are refused as a
whole, with one message, instead of filling the quarantine with every record of the delivery.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from pipeline.errors import InputError

PROBE: Final = 200
"""Records looked at in each file."""
ACCEPTED: Final = frozenset({"R4", "R4B"})

_PROFILE: Final = re.compile(
    r"^http://hl7\.org/fhir/(DSTU2|STU3|R4B|R4|R5|1\.0|3\.0|4\.0|4\.3|5\.0)/StructureDefinition/"
)
_PINNED: Final = re.compile(r"^http://hl7\.org/fhir/StructureDefinition/[^|]+\|(\d+\.\d+)")
_NUMBERS: Final = {"1.0": "DSTU2", "3.0": "STU3", "4.0": "R4", "4.1": "R4B", "4.3": "R4B", "5.0": "R5"}


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
        if isinstance(r.get("clinicalStatus"), str) or isinstance(r.get("verificationStatus"), str):
            return "STU3"
        if "participant" in r:
            return "R5"
        return "R4" if isinstance(r.get("clinicalStatus"), dict) or "recordedDate" in r else None
    if kind == "AllergyIntolerance":
        if "substance" in r or ("recordedDate" in r and isinstance(r.get("status"), str)):
            return "DSTU2"
        if isinstance(r.get("clinicalStatus"), str) or "assertedDate" in r:
            return "STU3"
        if isinstance(r.get("type"), dict) or "participant" in r:
            return "R5"
        return "R4" if isinstance(r.get("clinicalStatus"), dict) else None
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
        if "comment" in r or "related" in r:
            return "STU3"
        if {"triggeredBy", "bodyStructure", "instantiatesCanonical"} & r.keys():
            return "R5"
        return "R4" if "encounter" in r and isinstance(r.get("category"), list) else None
    if kind == "Procedure":
        if "occurrenceDateTime" in r or "occurrencePeriod" in r:
            return "R5"
        return "STU3" if "notDone" in r else None
    if kind == "Immunization":
        if "wasNotGiven" in r:
            return "DSTU2"
        if "notGiven" in r or "date" in r:
            return "STU3"
        if isinstance(r.get("informationSource"), dict):
            return "R5"
        return "R4" if "occurrenceDateTime" in r else None
    return None


def _encounter(r: dict[str, Any]) -> str | None:
    """Encounter changed in every version: its class, period, patient and reason."""
    kind = r.get("class")
    if isinstance(kind, list) or "actualPeriod" in r or "admission" in r or "plannedStartDate" in r:
        return "R5"
    if isinstance(kind, str) or "patient" in r:
        return "DSTU2"
    if "reason" in r or "incomingReferral" in r:
        return "STU3"
    return "R4" if "reasonCode" in r or "reasonReference" in r or "serviceType" in r else None


def refuse_other_versions(found: Mapping[str, Counter[str]]) -> None:
    """Refuse a delivery in which a file is mostly of another version than R4.

    Args:
        found: Public file name to the number of records that speak for each version.

    Raises:
        InputError: Names the version, the file and what is supported.
    """
    wrong: dict[str, list[str]] = {}
    for file, counts in found.items():
        if not counts:
            continue
        version, votes = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[0]
        good = sum(counts[name] for name in ACCEPTED)
        if version not in ACCEPTED and votes > good:
            wrong.setdefault(version, []).append(file)
    if not wrong:
        return
    version, files = max(sorted(wrong.items()), key=lambda item: len(item[1]))
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    raise InputError(
        f"This is FHIR {version}, found in {sorted(files)[0]}{more}; supported are R4 (4.0.1) and R4B (4.3).",
        todo="Export the delivery as R4, or convert it, and hand it over under a new name.",
    )
