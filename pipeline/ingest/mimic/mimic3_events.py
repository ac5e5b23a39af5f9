"""Which rows of the raw tables of MIMIC-III are which events. How events are numbered, sorted and written: `events.py`.

Left out: `callout` and `noteevents` (requests; free text), rows that the chart itself marks as wrong or rewritten, and
the tables without patients.
"""

from __future__ import annotations

from typing import Final

from pipeline.ingest.mimic.events import (
    ADMISSION,
    admissions,
    at_discharge,
    charted,
    deaths_and_genders,
    described,
    event,
    icd,
    medication,
    persons_of,
)

_OF_ADMISSION: Final = ("ethnicity", "insurance", "language", "marital_status", "religion")
_CLASS: Final = "CASE admission_type WHEN 'EMERGENCY' THEN 'EMER' ELSE 'IMP' END"

TABLES: Final = (
    "patients",
    "admissions",
    "icustays",
    "transfers",
    "services",
    "diagnoses_icd",
    "procedures_icd",
    "drgcodes",
    "cptevents",
    "labevents",
    "microbiologyevents",
    "prescriptions",
    "chartevents",
    "datetimeevents",
    "inputevents_cv",
    "inputevents_mv",
    "outputevents",
    "procedureevents_mv",
    "d_icd_diagnoses",
    "d_icd_procedures",
    "d_labitems",
    "d_items",
)
"""The raw tables that events are made of, and those that say what their codes mean."""
_WITHOUT_PEOPLE: Final = frozenset(name for name in TABLES if name.startswith("d_"))
_DRG: Final = "'DRG//' || coalesce(drg_type, 'UNKNOWN') || '//' || drg_code"


def persons(there: set[str]) -> list[str]:
    """SELECTs of the ids of all patients that are there or are pointed to."""
    return persons_of(there - _WITHOUT_PEOPLE)


def selects(there: set[str]) -> list[str]:
    """One SELECT a kind of event, over the tables that are there."""
    timed = "admissions" in there
    made = {
        "patients": _patients(timed),
        "admissions": admissions(_CLASS, _OF_ADMISSION),
        "icustays": [
            event("icustays", "intime", "'ENCOUNTER_START//ACUTE'", text="first_careunit", encounter="icustay_id"),
            event(
                "icustays",
                "outtime",
                "'ENCOUNTER_END//ACUTE'",
                text="last_careunit",
                encounter="icustay_id",
                where="outtime IS NOT NULL",
            ),
        ],
        "transfers": [
            event(
                "transfers",
                "intime",
                "'TRANSFER//' || coalesce(eventtype, 'UNKNOWN')",
                text="curr_careunit",
                encounter=ADMISSION,
            )
        ],
        "services": [
            event(
                "services",
                "transfertime",
                "'SERVICE//' || coalesce(curr_service, 'UNKNOWN')",
                text="prev_service",
                encounter=ADMISSION,
            )
        ],
        "diagnoses_icd": [at_discharge("diagnoses_icd", _icd("ICD9CM", "DIAGNOSIS"), timed)],
        "procedures_icd": [at_discharge("procedures_icd", _icd("ICD9PROC", "PROCEDURE"), timed)],
        "drgcodes": [at_discharge("drgcodes", _DRG, timed, text="description")],
        "cptevents": [at_discharge("cptevents", "'CPT//' || cpt_cd", timed, day="chartdate")],
        "labevents": [_labs("d_labitems" in there)],
        "microbiologyevents": _microbiology(),
        "prescriptions": [
            event(
                "prescriptions",
                "startdate",
                medication(),
                number="dose_val_rx",
                text="dose_val_rx",
                unit="dose_unit_rx",
                encounter=ADMISSION,
            )
        ],
        "chartevents": [
            charted(
                "chartevents",
                "charttime",
                number="valuenum",
                text="value",
                unit="valueuom",
                where='"error" IS DISTINCT FROM 1',
            )
        ],
        "datetimeevents": [charted("datetimeevents", "charttime", text="value", where='"error" IS DISTINCT FROM 1')],
        "inputevents_cv": [charted("inputevents_cv", "charttime", number="amount", unit="amountuom")],
        "inputevents_mv": [
            charted(
                "inputevents_mv",
                "starttime",
                number="amount",
                unit="amountuom",
                where="statusdescription IS DISTINCT FROM 'Rewritten'",
            )
        ],
        "outputevents": [
            charted("outputevents", "charttime", number="value", unit="valueuom", where="iserror IS DISTINCT FROM 1")
        ],
        "procedureevents_mv": [
            charted(
                "procedureevents_mv",
                "starttime",
                number="value",
                unit="valueuom",
                where="statusdescription IS DISTINCT FROM 'Rewritten'",
            )
        ],
    }
    return [select for name, found in made.items() if name in there for select in found]


def descriptions(there: set[str]) -> list[str]:
    """SELECTs of what codes mean, over the tables that are there."""
    made = {
        "d_icd_diagnoses": described("d_icd_diagnoses", f"'ICD9CM//' || {icd('icd9_code')}", "long_title"),
        "d_icd_procedures": described("d_icd_procedures", f"'ICD9PROC//' || {icd('icd9_code')}", "long_title"),
        "d_labitems": described("d_labitems", "coalesce('LOINC//' || loinc_code, 'LAB//' || itemid)", "label"),
        "d_items": described("d_items", "'ITEM//' || itemid", "label"),
    }
    return [select for name, select in made.items() if name in there]


def _icd(system: str, otherwise: str) -> str:
    return f"coalesce('{system}//' || {icd('icd9_code')}, '{otherwise}//UNKNOWN')"


def _patients(with_admissions: bool) -> list[str]:
    """Birth (300 years early for those over 89), death, gender."""
    return [event("patients", "dob", "'MEDS_BIRTH'"), *deaths_and_genders(with_admissions)]


def _labs(with_items: bool) -> str:
    """Laboratory values under their LOINC code where the dictionary has one."""
    source, code = "labevents", "'LAB//' || itemid"
    if with_items:
        source = "(SELECT l.*, d.loinc_code FROM labevents l LEFT JOIN d_labitems d USING (itemid))"
        code = "coalesce('LOINC//' || loinc_code, 'LAB//' || itemid)"
    return event(source, "charttime", code, number="valuenum", text="value", unit="valueuom", encounter=ADMISSION)


def _microbiology() -> list[str]:
    """Specimens, organisms and antibiotics once each: a row repeats the first two for every antibiotic."""
    who = "subject_id, hadm_id, coalesce(charttime, chartdate) AS taken_at, spec_itemid"
    specimen = f"(SELECT DISTINCT {who} FROM microbiologyevents WHERE spec_itemid IS NOT NULL)"
    organism = f"(SELECT DISTINCT {who}, isolate_num, org_itemid FROM microbiologyevents WHERE org_itemid IS NOT NULL)"
    return [
        event(specimen, "taken_at", "'MICRO_SPECIMEN//' || spec_itemid", encounter=ADMISSION),
        event(organism, "taken_at", "'MICRO_ORG//' || org_itemid", encounter=ADMISSION),
        event(
            "microbiologyevents",
            "coalesce(charttime, chartdate)",
            "'MICRO_AB//' || ab_itemid",
            text="interpretation",
            encounter=ADMISSION,
            where="ab_itemid IS NOT NULL",
        ),
    ]
