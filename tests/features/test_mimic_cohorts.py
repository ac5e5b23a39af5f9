"""The MIMIC cohorts on the open demos, held against pandas over the raw files: every column's count and mean or levels."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from pipeline.features.build import build_features, gather_inputs
from pipeline.features.spec import load_book
from pipeline.features.split import PUBLISHED_KEY
from pipeline.ingest.delivery import hand_over
from pipeline.ingest.readers import read_delivery
from pipeline.store.home import Home
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.cohort import Cohort

pytestmark = pytest.mark.realdata


def built(cohort: str, path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", PUBLISHED_KEY.decode())
    book = load_book()
    spec = book.cohort(cohort)
    source = book.source(spec.source)
    lake = Lake(Home(folder / "home").ensure())
    came = hand_over(lake.home, source.name, path, as_of=date(2026, 10, 31))
    with lake.tables.draft(f"raw/{source.format}", {"delivery": came.key}) as draft:
        read_delivery(came, draft, source)
        draft.commit(info={"source": source.name, "as_of": "2026-10-31"})
    inputs = gather_inputs(spec, source, "2026-10-01", lake, lake.home)
    cohort_ = build_features(spec, source, inputs, lake, PUBLISHED_KEY).cohort
    assert cohort_.schema.names == list(spec.columns)
    return cohort_


def held_against(cohort: Cohort, expected: pd.DataFrame, *, rounded: tuple[str, ...] = ()) -> None:
    """Every column: as many values; numbers with the same mean and extremes, all else with the same counts of levels."""
    frame = cohort.table.to_pandas()
    assert set(frame.columns) == set(expected.columns)
    assert len(frame) == len(expected)
    for name in frame.columns:
        have, want = frame[name], expected[name]
        assert have.notna().sum() == want.notna().sum(), name
        if pd.api.types.is_numeric_dtype(want) and not pd.api.types.is_bool_dtype(want):
            off = 0.01 if name.endswith(rounded) else 1e-9  # a tie may be rounded up or down
            assert have.mean() == pytest.approx(want.mean(), abs=off), name
            assert have.min() == pytest.approx(want.min(), abs=0.1 if off > 1e-3 else off), name
            assert have.max() == pytest.approx(want.max(), abs=0.1 if off > 1e-3 else off), name
        else:
            counts = {str(level): n for level, n in have.value_counts().items() if n}
            assert counts == {str(level): n for level, n in want.value_counts().items()}, name


VITALS = {
    "heart_rate": ([211, 220045], 10, 300),
    "systolic_bp": ([51, 442, 455, 6701, 220050, 220179], 20, 300),
    "diastolic_bp": ([8368, 8440, 8441, 8555, 220051, 220180], 10, 200),
    "mean_bp": ([52, 443, 456, 6702, 220052, 220181, 225312], 10, 250),
    "respiratory_rate": ([615, 618, 220210, 224690], 1, 70),
    "temperature": ([676, 223762, 678, 223761], 25, 45),
    "spo2": ([646, 220277], 20, 100),
}
LABS = {
    "albumin": (50862, 0.5, 10),
    "anion_gap": (50868, 0, 60),
    "bicarbonate": (50882, 1, 60),
    "bilirubin": (50885, 0, 80),
    "bun": (51006, 1, 300),
    "calcium": (50893, 2, 20),
    "chloride": (50902, 50, 175),
    "creatinine": (50912, 0.1, 30),
    "glucose": (50931, 10, 2000),
    "hematocrit": (51221, 5, 75),
    "hemoglobin": (51222, 1, 25),
    "inr": (51237, 0.5, 25),
    "lactate": (50813, 0.1, 40),
    "magnesium": (50960, 0.3, 12),
    "ph": (50820, 6.5, 8),
    "phosphate": (50970, 0.1, 25),
    "platelets": (51265, 1, 2500),
    "potassium": (50971, 1, 15),
    "ptt": (51275, 15, 200),
    "sodium": (50983, 90, 190),
    "wbc": (51301, 0.1, 500),
}
CHAPTERS = {
    "infectious": (1, 139, "AB"),
    "neoplasms": (140, 239, "C"),
    "endocrine": (240, 279, "E"),
    "blood": (280, 289, ""),
    "mental": (290, 319, "F"),
    "nervous": (320, 389, "GH"),
    "circulatory": (390, 459, "I"),
    "respiratory": (460, 519, "J"),
    "digestive": (520, 579, "K"),
    "genitourinary": (580, 629, "N"),
    "pregnancy": (630, 679, "O"),
    "skin": (680, 709, "L"),
    "musculoskeletal": (710, 739, "M"),
    "congenital": (740, 759, "Q"),
    "symptoms": (780, 799, "R"),
    "injury": (800, 999, "ST"),
}


def whole_years(born: pd.Timestamp, then: pd.Timestamp) -> int:
    return then.year - born.year - ((then.month, then.day) < (born.month, born.day))


def first_day(rows: pd.DataFrame, stays: pd.DataFrame, by: str) -> pd.DataFrame:
    both = rows.merge(stays[["icustay_id", "subject_id", "intime"]].drop_duplicates(), on=by)
    hours = (both.charttime - both.intime) / pd.Timedelta(hours=1)
    return both[(hours >= 0) & (hours < 24)]


def icu_by_pandas(folder: Path) -> pd.DataFrame:
    def read(name: str, *times: str, **options: Any) -> pd.DataFrame:
        frame = pd.read_csv(folder / f"{name}.csv.gz", low_memory=False, **options)
        for column in times:  # written in one format; years up to 2202 fit nanoseconds, dates of birth do not
            frame[column] = pd.to_datetime(frame[column], format="%Y-%m-%d %H:%M:%S")
        return frame

    stays = read("ICUSTAYS", "intime", "outtime").merge(read("PATIENTS")[["subject_id", "gender", "dob"]])
    stays = stays.merge(read("ADMISSIONS", "deathtime").drop(columns=["row_id", "subject_id"]), on="hadm_id")
    made = pd.DataFrame({"icustay_id": stays.icustay_id})
    born = [pd.Period(day[:10], freq="D") for day in stays.dob]
    years = [whole_years(b, t) for b, t in zip(born, stays.intime, strict=True)]
    made["age"] = [min(y, 90) for y in years]
    assert min(years) >= 16
    made["gender"], made["insurance"] = stays.gender, stays.insurance
    groups = {"WHITE": "white", "BLACK": "black", "HISPANIC": "hispanic", "ASIAN": "asian", "UNKNOWN": "unknown", "UNABLE": "unknown"}  # fmt: skip
    made["ethnicity"] = [groups.get(e.split("/")[0].split(" ")[0], "other") for e in stays.ethnicity]
    made["admission_type"], made["care_unit"] = stays.admission_type.str.lower(), stays.first_careunit
    made["icu_stays_before"] = stays.groupby("subject_id").intime.rank(method="first").astype(int) - 1
    made["died_in_icu"] = (stays.deathtime >= stays.intime) & (stays.deathtime <= stays.outtime)
    made["died_in_hospital"] = stays.hospital_expire_flag == 1
    made["los_over_3_days"], made["los_over_7_days"] = stays.los > 3, stays.los > 7

    wanted = ["icustay_id", "itemid", "charttime", "valuenum", "error"]
    coma_items = [198, 220739, 223900, 223901]
    charts = read("CHARTEVENTS", usecols=wanted)
    charts = charts[charts.itemid.isin([i for items, _, _ in VITALS.values() for i in items] + coma_items)]
    charts = charts[(charts.error != 1) & charts.valuenum.notna()].copy()
    charts["charttime"] = pd.to_datetime(charts.charttime, format="%Y-%m-%d %H:%M:%S")
    charts = first_day(charts, stays, "icustay_id")
    warm = charts.itemid.isin([678, 223761])
    charts.loc[warm, "valuenum"] = (charts.loc[warm, "valuenum"] - 32) * 5 / 9
    columns = {}
    for vital, (items, low, high) in VITALS.items():
        values = charts[charts.itemid.isin(items) & charts.valuenum.between(low, high)].groupby("icustay_id").valuenum
        for how in ("min", "max"):
            columns[f"{vital}_{how}"] = values.agg(how).round(1)
    parts = charts[charts.itemid.isin(coma_items)].pivot_table("valuenum", ["icustay_id", "charttime"], "itemid", "max")
    total = parts[198].fillna(parts[220739] + parts[223900] + parts[223901])
    columns["gcs_min"] = total[total.between(3, 15)].groupby("icustay_id").min()

    labs = read("LABEVENTS", "charttime", usecols=["row_id", "subject_id", "itemid", "charttime", "valuenum"])
    labs = first_day(labs, stays, "subject_id").sort_values(["charttime", "row_id"])
    for lab, (item, low, high) in LABS.items():
        fits = labs[(labs.itemid == item) & labs.valuenum.between(low, high)]
        columns[lab] = fits.groupby("icustay_id").valuenum.first()
    for name, values in columns.items():
        made[name] = made.icustay_id.map(values)

    codes = read("DIAGNOSES_ICD", dtype={"icd9_code": str})
    number = pd.to_numeric(codes.icd9_code.str[:3], errors="coerce")
    for chapter, (low, high, _) in CHAPTERS.items():
        made[f"dx_{chapter}"] = stays.hadm_id.isin(set(codes.hadm_id[number.between(low, high)]))
    return made.drop(columns="icustay_id")


def test_mimic3_icu(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = real_data / "mimic-iii-demo-1.4"
    cohort = built("mimic3_icu", source, tmp_path, monkeypatch)
    assert (cohort.n_rows, cohort.n_subjects) == (136, 100)
    held_against(cohort, icu_by_pandas(source), rounded=("temperature_min", "temperature_max"))
    for subject in np.unique(cohort.subject):  # several stays of one patient are never torn apart
        assert len(set(cohort.split[cohort.subject == subject])) == 1
    frame = cohort.table.to_pandas()
    assert (frame.died_in_icu.sum(), frame.died_in_hospital.sum()) == (29, 46)
    assert (frame.age == 90).sum() == 9


def test_mimic3_icu_keeps_what_is_known_later_out_of_its_tasks() -> None:
    spec = load_book().cohort("mimic3_icu")
    outcomes = {"died_in_icu", "died_in_hospital", "los_over_3_days", "los_over_7_days"}
    codes = {name for name in spec.columns if name.startswith("dx_")}
    assert {task.label for task in spec.tasks} == outcomes
    assert all(set(task.leak) == (outcomes - {task.label}) | codes for task in spec.tasks)
    assert spec.protected == ["ethnicity", "gender", "insurance"]


def fhir_by_pandas(folder: Path) -> pd.DataFrame:
    def read(name: str) -> list[dict[str, Any]]:
        with gzip.open(folder / f"Mimic{name}.ndjson.gz", "rt") as lines:
            return [json.loads(line) for line in lines]

    def who(record: dict[str, Any]) -> str:
        return record["subject"]["reference"].removeprefix("Patient/")

    rows: dict[str, dict[str, Any]] = {}
    for r in read("Patient"):
        omb = {
            e["url"].split("-")[-1]: inner["valueCoding"]["display"]
            for e in r.get("extension", [])
            for inner in e.get("extension", [])
            if inner["url"] == "ombCategory"
        }
        rows[r["id"]] = {
            "born": r["birthDate"],
            "gender": r["gender"],
            "race": omb.get("race"),
            "ethnicity": omb.get("ethnicity"),
            "marital_status": r["maritalStatus"]["coding"][0]["code"] if "maritalStatus" in r else None,
            "died": "deceasedDateTime" in r,
        }
    names = {"AMB": "ambulatory", "EMER": "emergency", "OBSENC": "observation", "SS": "same_day_surgery", "ACUTE": "intensive_care"}  # fmt: skip
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    seen: dict[str, list[str]] = defaultdict(list)
    for name in ("Encounter", "EncounterED", "EncounterICU"):
        for r in read(name):
            counts[who(r)][f"encounters_{names[r['class']['code']]}"] += 1
            seen[who(r)].append(r["period"]["start"])
    chapters: dict[str, set[str]] = defaultdict(set)
    for name in ("Condition", "ConditionED"):
        for r in read(name):
            counts[who(r)]["conditions"] += 1
            code, system = (r["code"]["coding"][0][key] for key in ("code", "system"))
            for chapter, (low, high, letters) in CHAPTERS.items():
                nine = system.endswith("9") and code[:3].isdigit() and low <= int(code[:3]) <= high
                blood = code[0] == "D" and ("blood" if code[1] >= "5" else "neoplasms") == chapter
                if nine or (system.endswith("10") and (code[0] in letters or blood)):
                    chapters[who(r)].add(chapter)
    for r in read("Procedure"):
        counts[who(r)]["procedures"] += 1
    for r in read("MedicationRequest"):
        counts[who(r)]["medications"] += 1
    vitals = {
        "8867-4": ("heart_rate", 10, 300), "8480-6": ("systolic_bp", 20, 300), "8462-4": ("diastolic_bp", 10, 200),
        "9279-1": ("respiratory_rate", 1, 70), "8310-5": ("temperature", 77, 113), "2708-6": ("spo2", 20, 100),
    }  # fmt: skip
    measured = []
    for r in read("ObservationVitalSignsED") + read("ObservationED"):
        for part in [r, *r.get("component", [])]:
            vital, low, high = vitals.get(part["code"]["coding"][0]["code"], ("", 0, 0))
            value = part.get("valueQuantity", {}).get("value")
            if vital and value is not None and low <= value <= high:
                measured.append((who(r), vital, pd.Timestamp(r["effectiveDateTime"]).tz_convert("UTC"), r["id"], value))
    first = pd.DataFrame(measured, columns=["who", "vital", "at", "id", "value"]).sort_values(["at", "id"])
    first = first.groupby(["who", "vital"]).value.first().unstack()
    first["temperature"] = ((first.temperature - 32) * 5 / 9).round(1)

    made = pd.DataFrame.from_dict(rows, orient="index")
    utc = {i: min(pd.Timestamp(t).tz_convert("UTC") for t in times) for i, times in seen.items()}
    made["age"] = [min(whole_years(pd.Timestamp(b), utc[i]), 90) for i, b in made.born.items()]
    for name in ("conditions", "procedures", "medications", *(f"encounters_{n}" for n in names.values())):
        made[name] = [counts[i][name] for i in made.index]
    for chapter in CHAPTERS.keys() - {"pregnancy", "congenital"}:
        made[f"dx_{chapter}"] = [chapter in chapters[i] for i in made.index]
    return made.drop(columns="born").join(first)


def test_mimic4_fhir(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = real_data / "mimic-iv-demo-fhir-2.1.0"
    cohort = built("mimic4_fhir", source, tmp_path, monkeypatch)
    assert (cohort.n_rows, cohort.n_subjects) == (100, 100)
    held_against(cohort, fhir_by_pandas(source / "fhir"), rounded=("temperature",))
    assert cohort.table.to_pandas().died.sum() == 31
