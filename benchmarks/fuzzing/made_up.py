"""Seed deliveries made by code: small, of every type and table that the readers know well, with canaries in them."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

from fuzzing.deliveries import CANARY, Seed, csv_of, lines_of

_LOINC = {"system": "http://loinc.org", "code": "2339-0", "display": f"Glucose {CANARY}d"}
_SNOMED = {"system": "http://snomed.info/sct", "code": "44054006", "display": f"Diabetes {CANARY}d"}
_CONDITION = {"coding": [_SNOMED]}
_FINAL = {"status": "final"}
_ACTIVE = {"coding": [{"code": "active"}]}


def seeds(format: str) -> list[Seed]:
    """The made-up seeds of a format."""
    return {"fhir": _fhir, "table": _tables, "mimic3": _mimic3, "mimic4": _mimic4, "meds": _meds}[format]()


def _seed(name: str, format: str, files: dict[str, bytes], **settings: Any) -> Seed:
    import re

    words = {w for c in files.values() for w in re.findall(rf"{CANARY}\w*", c.decode("utf-8", "replace"))}
    return Seed(name, format, files, frozenset(words | {CANARY}), settings)


def _columns(names: str) -> list[str]:
    return names.split(",")


def records(people: int = 4) -> dict[str, list[dict[str, Any]]]:
    """Resources of every modelled type and one that is not, by type."""
    found: dict[str, list[dict[str, Any]]] = {}

    def add(kind: str, number: str, **fields: Any) -> None:
        record = {"resourceType": kind, "id": f"{kind[:3].lower()}-{number}", **fields}
        found.setdefault(kind, []).append(record)

    for n in range(people):
        me = {"reference": f"Patient/pat-{n}"}
        here = {"subject": me, "encounter": {"reference": f"Encounter/enc-{n}"}}
        add(
            "Patient",
            f"{n}",
            meta={"lastUpdated": "2026-10-01T00:00:00Z"},
            name=[{"family": f"{CANARY}n{n}", "given": ["Ann"]}],
            gender=("female", "male")[n % 2],
            birthDate=f"19{50 + n}-02-03",
            maritalStatus={"coding": [{"code": "M"}], "text": f"{CANARY}m"},
            deceasedDateTime="2020-02-03T04:05:06-05:00",
            address=[{"postalCode": f"{CANARY}z", "state": "MA", "country": "US"}],
            communication=[{"language": {"coding": [{"code": "en"}]}}],
        )
        kind = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
        period = {"start": "2019-01-01T10:00:00-05:00", "end": "2019-01-01T11:00:00-05:00"}
        add("Encounter", f"{n}", status="finished", **{"class": kind}, type=[_CONDITION], subject=me, period=period)
        add("Condition", f"{n}", clinicalStatus=_ACTIVE, code=_CONDITION, **here, onsetDateTime="2019-01-01")
        for m in range(3):
            quantity = {"value": 36.69531 + m, "unit": "mg/dL", "code": "mg/dL"}
            at = {"effectiveDateTime": f"2019-01-0{m + 1}T10:00:00-05:00", "issued": "2019-01-05T10:00:00.123-05:00"}
            add("Observation", f"{n}-{m}", **_FINAL, code={"coding": [_LOINC]}, **here, **at, valueQuantity=quantity)
        parts = [{"code": {"coding": [_LOINC]}, "valueQuantity": {"value": v, "unit": "mmHg"}} for v in (120, 80.5)]
        add("Observation", f"{n}-bp", **_FINAL, code={"text": f"{CANARY}bp"}, **here, component=parts)
        add("Observation", f"{n}-s", **_FINAL, code={"coding": [_LOINC]}, **here, valueString=f"{CANARY}s{n}")
        add("Procedure", f"{n}", status="completed", code=_CONDITION, **here, performedPeriod=period)
        drug = {"medicationReference": {"reference": f"Medication/med-{n}x"}}
        add("MedicationRequest", f"{n}", status="active", intent="order", **drug, **here, authoredOn="2019-01-01")
        add("Medication", f"{n}x", code={"coding": [{"code": f"{CANARY}rx{n}", "display": "Drug"}]})
        add(
            "Immunization", f"{n}", status="completed", vaccineCode=_CONDITION, patient=me, occurrenceDateTime="2019-01"
        )
        add("AllergyIntolerance", f"{n}", clinicalStatus=_ACTIVE, code=_CONDITION, patient=me, recordedDate="2019")
        add("DiagnosticReport", f"{n}", **_FINAL, code={"coding": [_LOINC]}, **here, issued="2019-01-05T10:00:00Z")
        add("Claim", f"{n}", status="active", patient=me)
    return found


def bundle(resources: list[dict[str, Any]], kind: str = "transaction") -> bytes:
    """A bundle with `urn:uuid:` references as Synthea writes them."""
    text = json.dumps(resources)
    for record in resources:
        text = text.replace(f'"{record["resourceType"]}/{record["id"]}"', f'"urn:uuid:{record["id"]}"')
    entries = [
        {"fullUrl": f"urn:uuid:{record['id']}", "resource": record, "request": {"method": "POST", "url": "x"}}
        for record in json.loads(text)
    ]
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}, indent=1).encode()


def _fhir() -> list[Seed]:
    by_type = records()
    every = [record for kind in by_type.values() for record in kind]
    lines = {f"{kind}.ndjson": lines_of(some) for kind, some in by_type.items()}
    ones = [[r for r in every if f"-{n}" in r["id"]] for n in range(4)]
    bundles = {f"{CANARY}_{n}.json": bundle(some) for n, some in enumerate(ones)}
    mixed = {
        "all.ndjson": lines_of([r for some in ones[:2] for r in some]),
        "bundles.ndjson": json.dumps(json.loads(bundle(ones[2]))).encode() + b"\n",
        "list.json": json.dumps(ones[3]).encode(),
        "one.json": json.dumps({**ones[0][0], "id": "pat-one"}).encode(),
        "README.md": b"words",
    }
    return [
        _seed("made-up lines", "fhir", lines),
        _seed("made-up bundles", "fhir", bundles),
        _seed("made-up mixture", "fhir", mixed),
    ]


def _tables() -> list[Seed]:
    head = ["id", "age", "lab", "flag", "day", "at", "word", "note"]
    rows = [
        [f"{CANARY}i{n}", n % 90, repr(n * 0.37 + 0.1), "true" if n % 2 else "false", f"2020-01-{n % 28 + 1:02}",
         f"2020-01-{n % 28 + 1:02} 10:00:00", ("x", "y", "")[n % 3], f"{CANARY} note {n}"]
        for n in range(60)
    ]  # fmt: skip
    quoted = [[row[0], row[1], f'say "{n}", {CANARY}w'] for n, row in enumerate(rows)]
    column = {"kind": "continuous", "nullable": True}
    schema = {
        "columns": [
            {**column, "name": "id", "kind": "identifier", "dtype": "string", "nullable": False},
            {**column, "name": "age", "dtype": "int64"},
            {**column, "name": "lab", "dtype": "float64"},
        ]
    }
    declared = csv_of([head[:3], *(row[:3] for row in rows)])
    plain = {"people.csv": csv_of([head, *rows]), "notes.csv": csv_of([["id", "age", "say"], *quoted])}
    other = {
        "people.csv": declared,
        "people.schema.json": json.dumps(schema).encode(),
        "second.tsv": csv_of([head, *rows]).replace(b",", b"\t"),
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in plain.items():
            packed.writestr(zipfile.ZipInfo(f"in/{name}", (2020, 1, 1, 0, 0, 0)), content)
    columns = {name: [row[place] for row in rows] for place, name in enumerate(head)}
    parts = {f"part{n}.csv": csv_of([head, *rows[n * 20 : n * 20 + 20]]) for n in range(3)}
    asked = {"tables": {"people": {"files": ["part*"], "missing": ["?"], "trim": True}}}
    return [
        _seed("made-up tables", "table", plain),
        _seed("made-up table with a schema", "table", other),
        _seed("made-up parts of a table", "table", parts, **asked),
        _seed(
            "made-up archive and Parquet",
            "table",
            {"all.zip": archive.getvalue(), "people2.parquet": _parquet(columns)},
        ),
    ]


def _parquet(columns: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def _mimic3() -> list[Seed]:
    people = [[n, 10000 + n, "FM"[n % 2], "2070-01-01 00:00:00", "", "", "", 0] for n in range(1, 9)]
    head = _columns("row_id,subject_id,gender,dob,dod,dod_hosp,dod_ssn,expire_flag")
    stays = [
        [n, 10000 + n, 20000 + n, "2100-01-01 10:00:00", "2100-01-05 10:00:00", "", "EMERGENCY", f"{CANARY}al", "HOME",
         "Medicare", "", "", "", "WHITE", "", "", f"{CANARY} SEPSIS, {n}", 0, 1]
        for n in range(1, 9)
    ]  # fmt: skip
    stay_head = _columns(
        "row_id,subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admission_location,discharge_location,"
        "insurance,language,religion,marital_status,ethnicity,edregtime,edouttime,diagnosis,hospital_expire_flag,"
        "has_chartevents_data"
    )
    codes = [[n, 10000 + (n % 8) + 1, 20000 + (n % 8) + 1, n % 5 + 1, f"25{n % 10}00"] for n in range(1, 40)]
    labs = [
        [n, 10000 + (n % 8) + 1, 20000 + (n % 8) + 1, 50800 + n % 3, "2100-01-02 03:04:05", f"{n / 7}", repr(n / 7), "mg/dL", ""]
        for n in range(1, 40)
    ]  # fmt: skip
    files = {
        "PATIENTS.csv": csv_of([head, *people]),
        "ADMISSIONS.csv": csv_of([stay_head, *stays]),
        "DIAGNOSES_ICD.csv": csv_of([["row_id", "subject_id", "hadm_id", "seq_num", "icd9_code"], *codes]),
        "LABEVENTS.csv": csv_of(
            [["row_id", "subject_id", "hadm_id", "itemid", "charttime", "value", "valuenum", "valueuom", "flag"], *labs]
        ),
        "NOTES.csv": csv_of([["row_id", "text"], *([n, f"{CANARY}t\nline two"] for n in range(5))]),
    }
    return [_seed("made-up MIMIC-III", "mimic3", files)]


def _mimic4() -> list[Seed]:
    people = [[10000 + n, "FM"[n % 2], 50 + n, 2150, "2011 - 2013", ""] for n in range(1, 9)]
    stays = [
        [10000 + n, 20000 + n, "2150-01-01 10:00:00", "2150-01-05 10:00:00", "", "EW EMER.", f"P{n}", f"{CANARY}al",
         "HOME", "Medicare", "ENGLISH", "", f"{CANARY}race", "", "", 0]
        for n in range(1, 9)
    ]  # fmt: skip
    head = _columns(
        "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,admission_location,"
        "discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag"
    )
    codes = [[10000 + (n % 8) + 1, 20000 + (n % 8) + 1, n // 8 + 1, f"E11{n % 10}", 10] for n in range(40)]
    weights = [[10000 + (n % 8) + 1, f"2150-01-0{n % 9 + 1}", n, "Weight (Lbs)", f"{n + 100}"] for n in range(30)]
    diagnoses = [["subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"], *codes]
    files = {
        "hosp/patients.csv": csv_of(
            [["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"], *people]
        ),
        "hosp/admissions.csv": csv_of([head, *stays]),
        "hosp/diagnoses_icd.csv": csv_of(diagnoses),
        "hosp/omr.csv": csv_of([["subject_id", "chartdate", "seq_num", "result_name", "result_value"], *weights]),
    }
    return [_seed("made-up MIMIC-IV", "mimic4", files)]


def _meds() -> list[Seed]:
    import datetime as dt

    import pyarrow as pa

    def shard(first: int) -> bytes:
        numbers = range(first, first + 8)
        start = dt.datetime(2020, 1, 1)  # noqa: DTZ001 - MEDS has no zones
        rows = [(n, None if m == 0 else start + dt.timedelta(days=n, hours=m), m) for n in numbers for m in range(6)]
        return _parquet(
            pa.table(
                {
                    "subject_id": pa.array([r[0] for r in rows], pa.int64()),
                    "time": pa.array([r[1] for r in rows], pa.timestamp("us")),
                    "code": pa.array([f"LAB//{CANARY}c{r[2]}" for r in rows], pa.string()),
                    "numeric_value": pa.array([None if r[2] == 0 else r[2] / 3 for r in rows], pa.float32()),
                    "text_value": pa.array([f"{CANARY}x{r[2]}" for r in rows], pa.large_string()),
                    "unit": pa.array(["mg/dL" for _ in rows], pa.string()),
                }
            )
        )

    codes = pa.table(
        {
            "code": [f"LAB//{CANARY}c{m}" for m in range(6)],
            "description": ["words"] * 6,
            "parent_codes": pa.array([["LOINC/1"]] * 6, pa.list_(pa.string())),
        }
    )
    splits = pa.table({"subject_id": pa.array(range(1, 17), pa.int64()), "split": ["train"] * 12 + ["held_out"] * 4})
    labels = pa.table(
        {
            "subject_id": pa.array([1, 2], pa.int64()),
            "prediction_time": pa.array([dt.datetime(2020, 2, 1)] * 2, pa.timestamp("us")),  # noqa: DTZ001
            "boolean_value": [True, False],
        }
    )
    files = {
        "data/train/0.parquet": shard(1),
        "data/held_out/0.parquet": shard(9),
        "metadata/codes.parquet": _parquet(codes),
        "metadata/subject_splits.parquet": _parquet(splits),
        "metadata/dataset.json": json.dumps({"dataset_name": "x", "meds_version": "0.4.1"}).encode(),
        "labels/death/0.parquet": _parquet(labels),
    }
    return [Seed("made-up MEDS", "meds", files, frozenset({CANARY, *(f"{CANARY}x{m}" for m in range(6))}))]
