"""Events of a MEDS delivery: they are what was delivered, under the subject numbers of the dataset itself."""

from __future__ import annotations

from typing import Final

TABLES: Final = ("meds",)
"""The raw tables that events are made of."""


def persons(there: set[str]) -> list[str]:
    """SELECTs of the ids of all subjects."""
    return [f"SELECT DISTINCT CAST(subject_id AS VARCHAR) AS person FROM {name}" for name in sorted(there)]


def number_of(person: str) -> int:
    """The subject_id of a subject: the dataset's own, however long."""
    return int(person)


def selects(there: set[str]) -> list[str]:
    """One SELECT: every row is an event."""
    return [
        "SELECT CAST(subject_id AS VARCHAR) AS person, time, code, numeric_value, text_value, unit, encounter_id "
        f"FROM {name}"
        for name in sorted(there)
    ]


def descriptions(there: set[str]) -> list[str]:
    """SELECTs of `code, description, parent_codes`: what the dataset says of its codes."""
    return ["SELECT code, description, parent_codes FROM codes"] if "codes" in there else []
