"""Events of MIMIC: what becomes of single rows, and MIMIC-IV as CSV and as FHIR telling the same story."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest

from pipeline.features.source import SourceSpec
from pipeline.features.stored import FolderTarget
from pipeline.ingest.delivery import hand_over
from pipeline.ingest.events import build_events
from pipeline.ingest.mimic import mimic3_events, mimic4_events
from pipeline.ingest.readers import read_delivery
from pipeline.store.connection import connect
from pipeline.store.home import Home
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.source import Format

Event = dict[str, Any]
BOSTON = ZoneInfo("America/New_York")


def at(time: str) -> datetime:
    return datetime.fromisoformat(time)


def events_of(taken: Any, folder: Path, format: Format) -> list[Event]:
    tables = {n: taken.lake.tables.path(taken.version, n) for n in taken.version.files}
    build_events(tables, FolderTarget(folder), format=format, source="test")
    return pq.read_table(folder / "data.parquet").to_pylist()


def told(events: list[Event], system: str) -> list[tuple[Any, ...]]:
    return [
        (e["code"].removeprefix(f"{system}//"), e["time"], e["numeric_value"], e["text_value"], e["unit"], e["encounter_id"])
        for e in events
        if e["code"].split("//")[0] == system
    ]  # fmt: skip


def table(header: str, *rows: str) -> bytes:
    return "\n".join([header, *rows, ""]).encode()


MIMIC3 = {
    "PATIENTS.csv": table("subject_id,gender,dob,dod", "10,F,2094-03-05 00:00:00,2164-11-01 00:00:00"),
    "ADMISSIONS.csv": table(
        "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,ethnicity,insurance,hospital_expire_flag",
        "10,100,2164-10-23 21:09:00,2164-11-01 17:15:00,2164-11-01 17:00:00,ELECTIVE,WHITE,Medicare,1",
    ),
    "DIAGNOSES_ICD.csv": table("row_id,subject_id,hadm_id,seq_num,icd9_code", "1,10,100,1,v12.5", "2,10,100,,"),
    "D_LABITEMS.csv": table("itemid,label,loinc_code", "50820,pH,11558-4", "50800,Specimen,"),
    "LABEVENTS.csv": table(
        "row_id,subject_id,hadm_id,itemid,charttime,value,valuenum,valueuom",
        "1,10,100,50820,2164-10-24 01:00:00,7.35,7.35,units",
        "2,10,,50800,2164-10-24 02:00:00,ART,,",
    ),
    "CHARTEVENTS.csv": table(
        "row_id,subject_id,hadm_id,icustay_id,itemid,charttime,value,valuenum,valueuom,error",
        "1,10,100,7,211,2164-10-24 01:00:00,80,80,BPM,0",
        "2,10,100,7,211,2164-10-24 02:00:00,800,800,BPM,1",
        "3,10,100,7,211,2164-10-24 03:00:00,high,,,",
    ),
    "INPUTEVENTS_MV.csv": table(
        "row_id,subject_id,hadm_id,itemid,starttime,amount,amountuom,statusdescription",
        "1,10,100,225158,2164-10-24 01:00:00,500,ml,FinishedRunning",
        "2,10,100,225158,2164-10-24 01:00:00,900,ml,Rewritten",
    ),
    "PROCEDUREEVENTS_MV.csv": table(
        "row_id,subject_id,hadm_id,itemid,starttime,value,valueuom,statusdescription",
        "1,10,100,225792,2164-10-24 03:30:00,60,min,FinishedRunning",
        "2,10,100,225792,2164-10-24 03:30:00,90,min,Rewritten",
    ),
    "PRESCRIPTIONS.csv": table(
        "row_id,subject_id,hadm_id,startdate,drug,formulary_drug_cd,ndc,dose_val_rx,dose_unit_rx",
        "1,10,100,2164-10-24 00:00:00,Aspirin,ASA81,00904404073,81,mg",
        "2,10,100,2164-10-24 00:00:00,Saline,NS100,0,50-100,ml",
        "3,10,100,2164-10-24 00:00:00,Trial drug,,,1,VIAL",
    ),
    "MICROBIOLOGYEVENTS.csv": table(
        "row_id,subject_id,hadm_id,chartdate,charttime,spec_itemid,org_itemid,isolate_num,ab_itemid,interpretation",
        "1,10,100,2164-10-24 00:00:00,,70012,80155,1,90015,S",
        "2,10,100,2164-10-24 00:00:00,,70012,80155,1,90004,R",
    ),
}


def test_events_of_mimic3(take, tmp_path: Path) -> None:
    events = events_of(take(MIMIC3, format="mimic3"), tmp_path / "made", "mimic3")
    assert {e["subject_id"] for e in events} == {10}
    out = at("2164-11-01 17:15")
    assert told(events, "MEDS_BIRTH")[0][1] == at("2094-03-05")
    assert told(events, "MEDS_DEATH")[0][1] == at("2164-11-01 17:00")  # to the minute, as it was in the hospital
    assert told(events, "GENDER") == [("female", None, None, None, None, None)]
    assert told(events, "ENCOUNTER_START") == [("IMP", at("2164-10-23 21:09"), None, "ELECTIVE", None, "100")]
    assert told(events, "ICD9CM") == [("V125", out, None, None, None, "100")]
    assert told(events, "DIAGNOSIS") == [("UNKNOWN", out, None, None, None, "100")]
    assert [t[:1] + t[2:] for t in told(events, "LOINC")] == [("11558-4", pytest.approx(7.35), None, "units", "100")]
    assert told(events, "LAB") == [("50800", at("2164-10-24 02:00"), None, "ART", None, None)]
    # Neither what the chart marks as an error nor what was rewritten.
    assert [t[0:1] + t[2:4] for t in told(events, "ITEM")] == [
        ("211", 80.0, None),
        ("225158", 500.0, None),
        ("211", None, "high"),
        ("225792", 60.0, None),
    ]
    assert [t[0:1] + t[2:5] for t in told(events, "NDC")] == [("00904404073", 81.0, None, "mg")]
    assert [t[0:1] + t[2:5] for t in told(events, "FORMULARY")] == [("NS100", None, "50-100", "ml")]
    assert [t[0] for t in told(events, "DRUG")] == ["Trial drug"]
    assert len(told(events, "MICRO_SPECIMEN")) == len(told(events, "MICRO_ORG")) == 1
    assert [(t[0], t[3]) for t in told(events, "MICRO_AB")] == [("90004", "R"), ("90015", "S")]


def test_what_the_codes_mean(take) -> None:
    items = table("itemid,label", "211,Heart Rate", "9,")
    codes = table("icd9_code,long_title", "v12.5,History of stroke")
    files = MIMIC3 | {"D_ITEMS.csv": items, "D_ICD_DIAGNOSES.csv": codes}
    taken = take(files, format="mimic3")
    there = {n: [taken.lake.tables.path(taken.version, n)] for n in taken.account.taken}
    with connect(there) as connection:
        selects = mimic3_events.descriptions(set(there))
        said = {row[:2] for select in selects for row in connection.execute(select).fetchall()}
    assert said == {
        ("ITEM//211", "Heart Rate"),
        ("ICD9CM//V125", "History of stroke"),
        ("LOINC//11558-4", "pH"),
        ("LAB//50800", "Specimen"),
    }


def test_events_without_the_tables_beside(take, tmp_path: Path) -> None:
    only = {name: MIMIC3[name] for name in ("PATIENTS.csv", "ADMISSIONS.csv", "LABEVENTS.csv")}
    taken = take(only, format="mimic3")
    tables = {n: taken.lake.tables.path(taken.version, n) for n in ("labevents", "patients")}
    assert build_events(tables, FolderTarget(tmp_path / "made"), format="mimic3", source="t")["events"] == 5
    made = pq.read_table(tmp_path / "made" / "data.parquet").to_pylist()
    assert [t[0] for t in told(made, "LAB")] == ["50820", "50800"]  # no dictionary, no LOINC
    assert told(made, "MEDS_DEATH")[0][1] == at("2164-11-01")


def test_events_of_mimic4(take, tmp_path: Path) -> None:
    files = {
        "patients.csv": table(
            "subject_id,gender,anchor_age,anchor_year,dod", "10,M,50,2150,2150-02-03", "11,F,20,2150,"
        ),
        "admissions.csv": table(
            "subject_id,hadm_id,admittime,dischtime,admission_type,edregtime",
            "10,100,2150-01-01 10:00:00,2150-01-05 12:00:00,EW EMER.,2150-01-01 08:00:00",
            "11,101,2150-01-01 10:00:00,,SOMETHING NEW,",
        ),
        "icustays.csv": table("subject_id,hadm_id,stay_id,intime,outtime", "10,100,300,2150-01-02 10:00:00,"),
        "diagnoses_icd.csv": table(
            "subject_id,hadm_id,seq_num,icd_code,icd_version",
            "10,100,1,e11.9,10",
            "10,100,2,4139   ,9",
            "10,999,1,X,11",
        ),
        "omr.csv": table(
            "subject_id,chartdate,seq_num,result_name,result_value",
            "10,2150-01-01,1,Blood Pressure,120/80",
            "10,2150-01-01,1,BMI (kg/m2),25.5",
        ),
    }
    files |= {"d_icd_diagnoses.csv": table("icd_code,icd_version,long_title", "E119,10,Diabetes", "4139,9,Angina")}
    taken = take(files, format="mimic4")
    with connect({"d_icd_diagnoses": [taken.lake.tables.path(taken.version, "d_icd_diagnoses")]}) as connection:
        (select,) = mimic4_events.descriptions({"d_icd_diagnoses", "omr"})
        said = {row[:2] for row in connection.execute(select).fetchall()}
    assert said == {("ICD10CM//E119", "Diabetes"), ("ICD9CM//4139", "Angina")}
    events = events_of(taken, tmp_path / "made", "mimic4")
    assert [t[1] for t in told(events, "MEDS_BIRTH")] == [at("2100-01-01"), at("2130-01-01")]
    assert [t[1] for t in told(events, "MEDS_DEATH")] == [at("2150-02-03")]
    starts = [(t[0], t[5]) for t in told(events, "ENCOUNTER_START")]
    assert starts == [("EMER", "100"), ("ACUTE", "300"), ("UNKNOWN", "101")]
    assert [t[0] for t in told(events, "ENCOUNTER_END")] == ["EMER"]
    assert told(events, "ICD10CM") == [("E119", at("2150-01-05 12:00"), None, None, None, "100")]
    assert [t[0] for t in told(events, "ICD9CM")] == ["4139"]
    assert told(events, "ICD11") == [("X", None, None, None, None, "999")]
    assert [(t[0], t[2], t[3]) for t in told(events, "OMR")] == [
        ("BMI (kg/m2)", 25.5, None),
        ("Blood Pressure", None, "120/80"),
    ]


def test_icd_codes_are_written_in_one_way(take, tmp_path: Path) -> None:
    def condition(number: int, system: str, code: str) -> Event:
        coding = [{"system": system, "code": code}]
        return {"resourceType": "Condition", "id": f"c{number}", "code": {"coding": coding}, "subject": {"reference": "Patient/p"}}  # fmt: skip

    records = [
        {"resourceType": "Patient", "id": "p"},
        condition(1, "http://hl7.org/fhir/sid/icd-10-cm", "e11.9"),
        condition(2, "http://hl7.org/fhir/sid/icd-9-cm", "413.9"),
        condition(3, "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-diagnosis-icd10", "E119"),
        condition(4, "http://loinc.org", "8480-6.a"),
    ]
    events = events_of(take({"x.ndjson": records}), tmp_path / "made", "fhir")
    assert sorted(e["code"] for e in events) == ["ICD10CM//E119", "ICD10CM//E119", "ICD9CM//4139", "LOINC//8480-6.a"]


@dataclass
class Told:
    """The events of the two deliveries of one MIMIC-IV, the FHIR ones with MIMIC's own numbers and local times."""

    csv: list[Event]
    fhir: list[Event]

    def both(self, systems: set[str], *what: str) -> tuple[Counter[Any], Counter[Any]]:
        """How often each combination of fields stands in the one and in the other."""
        return tuple(  # type: ignore[return-value]
            Counter(tuple(e[w] for w in what) for e in events if e["code"].split("//")[0] in systems)
            for events in (self.csv, self.fhir)
        )


@pytest.fixture(scope="module")
def told_twice(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("twice")
    home = Home(folder / "home").ensure()
    lake = Lake(home)
    raw = real_data / "mimic-iv-demo-fhir-2.1.0"
    made: dict[Format, list[Event]] = {}
    for format, path in (("mimic4", real_data / "mimic-iv-demo-2.2"), ("fhir", raw)):
        came = hand_over(home, format, path, as_of=date(2026, 10, 31))
        source = SourceSpec(name=format, format=format, dates="shifted", validation={"mode": "off"})
        with lake.tables.draft(f"raw/{format}", {"delivery": came.key}) as draft:
            read_delivery(came, draft, source)
            version = draft.commit()
        tables = {n: lake.tables.path(version, n) for n in version.files}
        build_events(tables, FolderTarget(folder / format), format=format, source=format)
        made[format] = pq.read_table(folder / format / "data.parquet").to_pylist()
    # From FHIR's ids to MIMIC's numbers by the identifiers in the NDJSON itself, which the raw tables do not keep.
    persons = {r["id"]: int(r["identifier"][0]["value"]) for r in ndjson(raw / "fhir" / "MimicPatient.ndjson.gz")}
    stays = {}
    for kind, prefix in (("Encounter", ""), ("EncounterICU", ""), ("EncounterED", "ED/")):
        for r in ndjson(raw / "fhir" / f"Mimic{kind}.ndjson.gz"):
            stays[f"Encounter/{r['id']}"] = prefix + r["identifier"][0]["value"]
    numbers = {
        row["subject_id"]: persons[row["source_id"]]
        for row in pq.read_table(folder / "fhir" / "subjects.parquet").to_pylist()
    }
    for event in made["fhir"]:
        event["subject_id"] = numbers[event["subject_id"]]
        event["encounter_id"] = stays.get(event["encounter_id"])
        if event["time"] is not None and event["code"] not in ("MEDS_BIRTH", "MEDS_DEATH"):  # dates have no offset
            event["time"] = event["time"].replace(tzinfo=UTC).astimezone(BOSTON).replace(tzinfo=None)
    return Told(made["mimic4"], made["fhir"])


def ndjson(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.mark.realdata
def test_same_patients(told_twice: Told) -> None:
    csv, fhir = told_twice.both({"GENDER"}, "subject_id", "code")
    assert csv == fhir
    assert len(csv) == 100
    died = [{(e["subject_id"], e["time"].date()) for e in events if e["code"] == "MEDS_DEATH"} for events in (told_twice.csv, told_twice.fhir)]  # fmt: skip
    assert died[0] == died[1]
    assert len(died[0]) == 31
    born = [{e["subject_id"]: e["time"] for e in events if e["code"] == "MEDS_BIRTH"} for events in (told_twice.csv, told_twice.fhir)]  # fmt: skip
    assert {s: t.year for s, t in born[0].items()} == {s: t.year for s, t in born[1].items()}
    # Difference of the sources: CSV gives an age in a year, FHIR a day that its makers put into that year; CSV gives
    # the hour of a death in the hospital (15 of 31), FHIR only the day.
    assert all((t.month, t.day) == (1, 1) for t in born[0].values())
    hours = [sum(e["time"].hour > 0 for e in events if e["code"] == "MEDS_DEATH") for events in (told_twice.csv, told_twice.fhir)]  # fmt: skip
    assert hours == [15, 0]


@pytest.mark.realdata
@pytest.mark.parametrize("edge", ["ENCOUNTER_START", "ENCOUNTER_END"])
def test_same_admissions(told_twice: Told, edge: str) -> None:
    csv, fhir = told_twice.both({edge}, "subject_id", "code", "time", "encounter_id")
    assert csv - fhir == Counter()
    assert csv.total() == 275 + 140  # admissions and ICU stays, to the second, with FHIR's offset taken away
    # Difference of the sources: FHIR has the visits of MIMIC-IV-ED, which are in none of the CSV files of hosp and icu.
    assert Counter((code, stay[:3]) for _, code, _, stay in (fhir - csv).elements()) == {(f"{edge}//EMER", "ED/"): 222}


@pytest.mark.realdata
def test_same_diagnoses(told_twice: Told) -> None:
    systems = {"ICD9CM", "ICD10CM"}
    csv, fhir = told_twice.both(systems, "subject_id", "code", "encounter_id")
    assert csv - fhir == Counter()
    assert csv.total() == 4506
    assert Counter(code.split("//")[0] for _, code, _ in csv.elements()) == {"ICD9CM": 2193, "ICD10CM": 2313}
    # Difference of the sources: the diagnoses of the visits of MIMIC-IV-ED; and FHIR's conditions have no date.
    assert Counter(stay[:3] for _, _, stay in (fhir - csv).elements()) == {"ED/": 545}
    assert {e["time"] for e in told_twice.fhir if e["code"].split("//")[0] in systems} == {None}
    assert None not in {e["time"] for e in told_twice.csv if e["code"].split("//")[0] in systems}


@pytest.mark.realdata
def test_same_procedures(told_twice: Told) -> None:
    csv, fhir = told_twice.both({"ICD9PROC", "ICD10PCS"}, "subject_id", "code", "time", "encounter_id")
    assert csv == fhir
    assert csv.total() == 722


@pytest.mark.realdata
def test_same_charts_and_microbiology(told_twice: Told) -> None:
    csv, fhir = told_twice.both({"ITEM"}, "subject_id", "code", "time")
    # Difference of the sources: what went in is a MedicationAdministration in FHIR, of which no event is made.
    assert fhir - csv == Counter()
    assert fhir.total() == 9362 + 15280 + 1468
    assert (csv - fhir).total() == 20404
    for system, number in (("MICRO_TEST", 1893), ("MICRO_AB", 1036)):
        csv, fhir = told_twice.both({system}, "subject_id", "code")
        assert csv == fhir
        assert csv.total() == number
    # Difference of the sources: FHIR has one organism a test, CSV one an isolate of it.
    csv, fhir = told_twice.both({"MICRO_ORG"}, "subject_id", "code")
    assert (fhir - csv, (csv - fhir).total(), fhir.total()) == (Counter(), 10, 338)
