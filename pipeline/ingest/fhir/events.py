"""Which rows of the raw FHIR tables are which events. How events are numbered, sorted and written: `events.py`."""

from __future__ import annotations

from typing import Final

# (table, time, what stands for a missing code, value columns)
_CODED: Final = (
    ("condition", "coalesce(onset, recorded)", "CONDITION"),
    ("procedure", "performed_start", "PROCEDURE"),
    ("medication_request", "authored", "MEDICATION_REQUEST"),
    ("immunization", "occurrence", "IMMUNIZATION"),
    ("allergy_intolerance", "recorded", "ALLERGY"),
    ("diagnostic_report", "coalesce(effective, issued)", "DIAGNOSTIC_REPORT"),
)
_STATIC: Final = ("gender", "race", "ethnicity", "marital_status", "language")

TABLES: Final = ("patient", "encounter", "observation", *(name for name, _, _ in _CODED))
"""The raw tables that events are made of."""


def persons(there: set[str]) -> list[str]:
    """SELECTs of the ids of all patients that are there or are pointed to."""
    return [f"SELECT substr(patient, 9) AS person FROM {name} WHERE patient IS NOT NULL" for name in sorted(there)]


def _code(missing: str) -> str:
    """SYSTEM//CODE, else the text, else what says that there is none."""
    return (
        f"CASE WHEN code IS NOT NULL THEN _coded(code_system, code) "
        f"ELSE coalesce('TEXT//' || display, '{missing}//UNKNOWN') END"
    )


def _event(
    table: str,
    time: str,
    code: str,
    *,
    number: str = "NULL",
    text: str = "NULL",
    unit: str = "NULL",
    encounter: str = "encounter",
    where: str = "TRUE",
) -> str:
    return (
        f"SELECT substr(patient, 9) AS person, {time} AS time, {code} AS code, CAST({number} AS FLOAT) AS numeric_value, "
        f"CAST({text} AS VARCHAR) AS text_value, CAST({unit} AS VARCHAR) AS unit, {encounter} AS encounter_id "
        f"FROM {table} WHERE {where}"
    )


def selects(there: set[str]) -> list[str]:
    """One SELECT a kind of event, over the tables that are there."""
    found = []
    if "patient" in there:
        nobody = "CAST(NULL AS VARCHAR)"
        never = "CAST(NULL AS TIMESTAMP)"
        found += [
            _event("patient", "birth_date", "'MEDS_BIRTH'", encounter=nobody, where="birth_date IS NOT NULL"),
            _event("patient", "deceased_at", "'MEDS_DEATH'", encounter=nobody, where="deceased_at IS NOT NULL"),
            _event(
                "patient", never, "'DECEASED//TIME_UNKNOWN'", encounter=nobody, where="deceased AND deceased_at IS NULL"
            ),
            *(
                _event("patient", never, f"'{c.upper()}//' || {c}", encounter=nobody, where=f"{c} IS NOT NULL")
                for c in _STATIC
            ),
        ]
    if "encounter" in there:
        kind = "coalesce(class, 'UNKNOWN')"
        found += [
            _event("encounter", "start", f"'ENCOUNTER_START//' || {kind}", text="type_display", encounter="key"),
            _event("encounter", '"end"', f"'ENCOUNTER_END//' || {kind}", encounter="key", where='"end" IS NOT NULL'),
        ]
    if "observation" in there:
        # A panel has no value of its own: its components speak for it.
        found.append(
            _event(
                "observation",
                "coalesce(effective, issued)",
                _code("OBSERVATION"),
                number="TRY_CAST(value_number AS FLOAT)",
                text="coalesce(value_text, value_code, CAST(value_boolean AS VARCHAR), "
                "strftime(value_datetime, '%Y-%m-%dT%H:%M:%SZ'), "
                "CASE WHEN TRY_CAST(value_number AS FLOAT) IS NULL THEN CAST(value_number AS VARCHAR) END)",
                unit="value_unit",
                where="value_type IS NOT NULL OR component > 0 "
                "OR key NOT IN (SELECT key FROM observation WHERE component > 0)",
            )
        )
    for table, time, name in _CODED:
        if table in there:
            found.append(_event(table, time, _code(name)))
    if "condition" in there:
        found.append(
            _event(
                "condition",
                "abatement",
                f"'CONDITION_END//' || {_code('CONDITION')}",
                where="abatement IS NOT NULL",
            )
        )
    return found


def descriptions(there: set[str]) -> list[str]:
    """SELECTs of `code, description, parent_codes`: what the records call their codes."""
    named = [("observation", "OBSERVATION"), *((table, missing) for table, _, missing in _CODED)]
    return [
        f"SELECT {_code(missing)} AS code, display AS description, CAST(NULL AS VARCHAR[]) AS parent_codes "
        f"FROM {table} WHERE code IS NOT NULL AND display IS NOT NULL"
        for table, missing in named
        if table in there
    ]
