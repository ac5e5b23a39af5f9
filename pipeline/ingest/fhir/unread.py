"""Fields beside those that are read, watched so that nothing is NULL in silence.

`UNREAD`: FHIR R4 allows the value in a form that has no column (an age in place of a date); how often is counted.
`FOREIGN`: another FHIR version says there what R4 says elsewhere; a line file with such a field is taken apart record by
record and rewritten (`upgrade`). DuckDB looks at both in the same pass that reads the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

UNREAD: Final[Mapping[str, tuple[str, ...]]] = {
    "Condition": (
        "onsetAge",
        "onsetRange",
        "onsetString",
        "abatementAge",
        "abatementRange",
        "abatementString",
        "abatementBoolean",
    ),
    "Observation": ("effectiveTiming", "valueAttachment", "valueReference"),
    "Procedure": ("performedAge", "performedRange", "performedString", "occurrenceTiming"),
    "Immunization": ("occurrenceString",),
}
"""Other forms of what the columns hold. (`valueRange`, `valueRatio` and the like are seen in `value_type`.)"""

FOREIGN: Final[Mapping[str, tuple[str, ...]]] = {
    "Encounter": ("actualPeriod", "admission", "reason", "patient"),
    "Condition": ("context", "assertedDate", "patient", "dateRecorded"),
    "Observation": ("context",),
    "Procedure": (
        "context",
        "notDone",
        "notPerformed",
        "occurrenceDateTime",
        "occurrencePeriod",
        "occurrenceString",
        "occurrenceAge",
        "occurrenceRange",
    ),
    "MedicationRequest": ("context", "medication"),
    "Immunization": ("date", "notGiven", "wasNotGiven"),
    "AllergyIntolerance": ("assertedDate", "substance"),
    "DiagnosticReport": ("context",),
}
"""Fields of DSTU2, STU3 or R5, by type, that a column would miss and that do not clash with the R4 shape themselves."""


def unread(kind: str, shape: Mapping[str, Any]) -> list[str]:
    """The unread fields of a type, without those that its shape reads after all."""
    return [field for field in UNREAD.get(kind, ()) if field not in shape]


def foreign(kind: str, shape: Mapping[str, Any]) -> list[str]:
    """The foreign fields of a type, without those that its shape reads after all."""
    return [field for field in FOREIGN.get(kind, ()) if field not in shape]


def sequence(kind: str, field: str) -> str:
    """Name of the DuckDB sequence that counts the values of an unread field."""
    return f"unread_{kind}_{field}"


def condition(kind: str, shape: Mapping[str, Any]) -> str:
    """A WHERE that is true for every row: it counts unread fields and raises on foreign ones."""
    counted, refused = unread(kind, shape), foreign(kind, shape)
    if not counted and not refused:
        return "TRUE"
    # CASE, since AND and OR may evaluate what they need not.
    tests = [f"CASE WHEN \"{f}\" IS NULL THEN TRUE ELSE nextval('{sequence(kind, f)}') > 0 END" for f in counted]
    if refused:
        names = ", ".join(f'"{field}"' for field in refused)
        tests.append(f"CASE WHEN coalesce({names}) IS NULL THEN TRUE ELSE error('other_version') END")
    every = ", ".join(f'"{field}"' for field in (*counted, *refused))
    return f"CASE WHEN coalesce({every}) IS NULL THEN TRUE ELSE {' AND '.join(tests)} END"
