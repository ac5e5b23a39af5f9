"""What the events of MIMIC-III and MIMIC-IV have in common: how one SELECT of events is written, and codes of items.

Which rows are which events is in `mimic3_events.py` and `mimic4_events.py`; how events are numbered, sorted and written
in `events.py`. Times stay as written (local, shifted): without an offset there is nothing to turn them into UTC by.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

NEVER: Final = "CAST(NULL AS TIMESTAMP)"
"""The time of what has none."""
ADMISSION: Final = "hadm_id"
"""What stands as `encounter_id` of everything that is known to belong to an admission."""


def event(
    source: str,
    time: str,
    code: str,
    *,
    number: str = "NULL",
    text: str = "NULL",
    unit: str = "NULL",
    encounter: str = "NULL",
    where: str = "TRUE",
) -> str:
    """One SELECT in the shape that `events.EVENTS` asks for.

    Args:
        source: Table, or a subquery in brackets, with the column `subject_id`.
        time: SQL of the time.
        code: SQL of the code.
        number: SQL of the numeric value.
        text: SQL of the text value, which only stands where there is no number.
        unit: SQL of the unit.
        encounter: SQL of the number of the admission or stay.
        where: Which rows.
    """
    as_number = f"TRY_CAST({number} AS FLOAT)"
    as_text = f"CAST({text} AS VARCHAR)"
    if "NULL" not in (number, text):
        as_text = f"CASE WHEN {as_number} IS NULL THEN {as_text} END"
    return (
        f"SELECT CAST(subject_id AS VARCHAR) AS person, CAST({time} AS TIMESTAMP) AS time, {code} AS code, "
        f"{as_number} AS numeric_value, {as_text} AS text_value, CAST({unit} AS VARCHAR) AS unit, "
        f"CAST({encounter} AS VARCHAR) AS encounter_id FROM {source} WHERE {where}"
    )


def persons_of(tables: Iterable[str]) -> list[str]:
    """SELECTs of all subject_ids of these tables."""
    return [f"SELECT CAST(subject_id AS VARCHAR) AS person FROM {name}" for name in sorted(tables)]


def icd(code: str) -> str:
    """An ICD code as it stands in events: without dot and blanks, in capitals."""
    return f"upper(replace(trim({code}), '.', ''))"


def gender() -> str:
    """The code of `patients.gender`, in the words of FHIR."""
    return "'GENDER//' || CASE gender WHEN 'F' THEN 'female' WHEN 'M' THEN 'male' ELSE gender END"


def deaths_and_genders(with_admissions: bool) -> list[str]:
    """Death, to the minute where the patient died in hospital, and gender, of `patients`.

    Args:
        with_admissions: Is the table `admissions` there, which knows the hour?
    """
    hour = "CAST(NULL AS TIMESTAMP)"
    if with_admissions:
        hour = "(SELECT max(a.deathtime) FROM admissions a WHERE a.subject_id = p.subject_id)"
    died = f"(SELECT subject_id, coalesce({hour}, dod) AS died FROM patients p)"
    return [event(died, "died", "'MEDS_DEATH'", where="died IS NOT NULL"), event("patients", NEVER, gender())]


def admissions(kind: str, told: Iterable[str]) -> list[str]:
    """Start and end of every admission, its time in the emergency department, and what was told at its start.

    Args:
        kind: SQL of the class of the encounter.
        told: Columns of `admissions` that are events at its start.
    """
    return [
        event("admissions", "admittime", f"'ENCOUNTER_START//' || {kind}", text="admission_type", encounter=ADMISSION),
        event(
            "admissions",
            "dischtime",
            f"'ENCOUNTER_END//' || {kind}",
            text="discharge_location",
            encounter=ADMISSION,
            where="dischtime IS NOT NULL",
        ),
        event("admissions", "edregtime", "'ED_REGISTRATION'", encounter=ADMISSION, where="edregtime IS NOT NULL"),
        event("admissions", "edouttime", "'ED_OUT'", encounter=ADMISSION, where="edouttime IS NOT NULL"),
        *(
            event(
                "admissions",
                "admittime",
                f"'{name.upper()}//' || {name}",
                encounter=ADMISSION,
                where=f"{name} IS NOT NULL",
            )
            for name in told
        ),
    ]


def at_discharge(table: str, code: str, timed: bool, *, text: str = "NULL", day: str = NEVER) -> str:
    """Events of what is coded when the patient has left: the time is that of the discharge, where the admission is known.

    Args:
        table: Table with `hadm_id`.
        code: SQL of the code.
        timed: Is the table `admissions` there?
        text: SQL of the text value.
        day: SQL of a time of its own, where it has one.
    """
    if not timed:
        return event(table, day, code, text=text, encounter=ADMISSION)
    source = f"(SELECT t.*, a.dischtime FROM {table} t LEFT JOIN admissions a USING (hadm_id))"
    return event(source, f"coalesce({day}, dischtime)", code, text=text, encounter=ADMISSION)


def charted(
    source: str,
    time: str,
    *,
    number: str = "NULL",
    text: str = "NULL",
    unit: str = "NULL",
    where: str = "TRUE",
) -> str:
    """Events of something that is charted under an item of `d_items`."""
    return event(
        source,
        time,
        "'ITEM//' || itemid",
        number=number,
        text=text,
        unit=unit,
        encounter=ADMISSION,
        where=where,
    )


def medication(formulary: str = "formulary_drug_cd") -> str:
    """NDC where there is one ('0' is none), else the hospital's own code, else the name."""
    return (
        "CASE WHEN ndc IS NOT NULL AND ltrim(ndc, '0') <> '' THEN 'NDC//' || ndc "
        f"ELSE coalesce('FORMULARY//' || {formulary}, 'DRUG//' || drug, 'DRUG//UNKNOWN') END"
    )


def described(table: str, code: str, words: str) -> str:
    """A SELECT of what codes mean, in the shape that `events.EVENTS` asks for."""
    return (
        f"SELECT {code} AS code, {words} AS description, CAST([] AS VARCHAR[]) AS parent_codes "
        f"FROM {table} WHERE {words} IS NOT NULL"
    )
