"""Which rows of the raw tables of MIMIC-IV are which events. How events are numbered, sorted and written: `events.py`.

Codes are those that MIMIC-IV on FHIR gives (`SYSTEMS` in `events.py`), so that both ways lead to the same events.
Left out: `pharmacy`, `poe`, `poe_detail` (orders, whose prescriptions are events), `emar_detail` (details of `emar`),
`ingredientevents` (what is in `inputevents`), and the tables without patients.
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

_OF_ADMISSION: Final = ("race", "insurance", "language", "marital_status")
_CLASS: Final = """CASE admission_type WHEN 'EW EMER.' THEN 'EMER' WHEN 'DIRECT EMER.' THEN 'EMER'
    WHEN 'EU OBSERVATION' THEN 'OBSENC' WHEN 'DIRECT OBSERVATION' THEN 'OBSENC' WHEN 'OBSERVATION ADMIT' THEN 'OBSENC'
    WHEN 'SURGICAL SAME DAY ADMISSION' THEN 'SS' WHEN 'AMBULATORY OBSERVATION' THEN 'AMB' WHEN 'ELECTIVE' THEN 'AMB'
    WHEN 'URGENT' THEN 'AMB' ELSE 'UNKNOWN' END"""
"""Classes of encounters as MIMIC-IV on FHIR gives them to types of admission."""

TABLES: Final = (
    "patients",
    "admissions",
    "icustays",
    "transfers",
    "services",
    "diagnoses_icd",
    "procedures_icd",
    "drgcodes",
    "hcpcsevents",
    "labevents",
    "microbiologyevents",
    "omr",
    "prescriptions",
    "emar",
    "chartevents",
    "datetimeevents",
    "inputevents",
    "outputevents",
    "procedureevents",
    "d_icd_diagnoses",
    "d_icd_procedures",
    "d_labitems",
    "d_items",
    "d_hcpcs",
)
"""The raw tables that events are made of, and those that say what their codes mean."""
_WITHOUT_PEOPLE: Final = frozenset(name for name in TABLES if name.startswith("d_"))


def persons(there: set[str]) -> list[str]:
    """SELECTs of the ids of all patients that are there or are pointed to."""
    return persons_of(there - _WITHOUT_PEOPLE)


def selects(there: set[str]) -> list[str]:
    """One SELECT a kind of event, over the tables that are there."""
    made = {
        "patients": _patients("admissions" in there),
        "admissions": admissions(_CLASS, _OF_ADMISSION),
        "icustays": [
            event(
                "icustays",
                "intime",
                "'ENCOUNTER_START//ACUTE'",
                text="first_careunit",
                encounter="stay_id",
                where="intime IS NOT NULL",
            ),
            event(
                "icustays",
                "outtime",
                "'ENCOUNTER_END//ACUTE'",
                text="last_careunit",
                encounter="stay_id",
                where="outtime IS NOT NULL",
            ),
        ],
        "transfers": [
            event(
                "transfers",
                "intime",
                "'TRANSFER//' || coalesce(eventtype, 'UNKNOWN')",
                text="careunit",
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
        "diagnoses_icd": [at_discharge("diagnoses_icd", _icd("ICD9CM", "ICD10CM"), "admissions" in there)],
        "procedures_icd": [event("procedures_icd", "chartdate", _icd("ICD9PROC", "ICD10PCS"), encounter=ADMISSION)],
        "drgcodes": [at_discharge("drgcodes", _DRG, "admissions" in there, text="description")],
        "hcpcsevents": [event("hcpcsevents", "chartdate", "'HCPCS//' || trim(hcpcs_cd)", encounter=ADMISSION)],
        "labevents": [
            event(
                "labevents",
                "charttime",
                "'LAB//' || itemid",
                number="valuenum",
                text="value",
                unit="valueuom",
                encounter=ADMISSION,
            )
        ],
        "microbiologyevents": _microbiology(),
        "omr": [event("omr", "chartdate", "'OMR//' || result_name", number="result_value", text="result_value")],
        "prescriptions": [
            event(
                "prescriptions",
                "starttime",
                medication(),
                number="dose_val_rx",
                text="dose_val_rx",
                unit="dose_unit_rx",
                encounter=ADMISSION,
            )
        ],
        "emar": [
            event(
                "emar",
                "charttime",
                "'EMAR//' || coalesce(medication, 'UNKNOWN')",
                text="event_txt",
                encounter=ADMISSION,
            )
        ],
        "chartevents": [charted("chartevents", "charttime", number="valuenum", text="value", unit="valueuom")],
        "datetimeevents": [charted("datetimeevents", "charttime", text="value")],
        "inputevents": [
            charted(
                "inputevents",
                "starttime",
                number="amount",
                unit="amountuom",
                where="statusdescription IS DISTINCT FROM 'Rewritten'",
            )
        ],
        "outputevents": [charted("outputevents", "charttime", number="value", unit="valueuom")],
        "procedureevents": [
            charted(
                "procedureevents",
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
        "d_icd_diagnoses": described("d_icd_diagnoses", _icd("ICD9CM", "ICD10CM"), "long_title"),
        "d_icd_procedures": described("d_icd_procedures", _icd("ICD9PROC", "ICD10PCS"), "long_title"),
        "d_labitems": described("d_labitems", "'LAB//' || itemid", "label"),
        "d_items": described("d_items", "'ITEM//' || itemid", "label"),
        "d_hcpcs": described("d_hcpcs", "'HCPCS//' || trim(code)", "coalesce(short_description, long_description)"),
    }
    return [select for name, select in made.items() if name in there]


_DRG: Final = "'DRG//' || coalesce(drg_type, 'UNKNOWN') || '//' || drg_code"


def _icd(nine: str, ten: str) -> str:
    return (
        f"CASE icd_version WHEN 9 THEN '{nine}//' WHEN 10 THEN '{ten}//' ELSE 'ICD' || icd_version || '//' END "
        f"|| {icd('icd_code')}"
    )


def _patients(with_admissions: bool) -> list[str]:
    """Birth (1 January of the year in which the patient would be 0), death, gender."""
    born = "TRY(make_date(anchor_year - anchor_age, 1, 1))"
    return [
        event("patients", born, "'MEDS_BIRTH'", where="anchor_age IS NOT NULL"),
        *deaths_and_genders(with_admissions),
    ]


def _microbiology() -> list[str]:
    """Tests, organisms and antibiotics once each: a row repeats the test and the organism for every antibiotic."""
    who = "subject_id, hadm_id, micro_specimen_id, coalesce(charttime, chartdate) AS taken_at"
    test = f"(SELECT DISTINCT {who}, test_itemid FROM microbiologyevents WHERE test_itemid IS NOT NULL)"
    organism = (
        f"(SELECT DISTINCT {who}, test_itemid, isolate_num, org_itemid FROM microbiologyevents "
        "WHERE org_itemid IS NOT NULL)"
    )
    return [
        event(test, "taken_at", "'MICRO_TEST//' || test_itemid", encounter=ADMISSION),
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
