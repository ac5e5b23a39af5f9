"""The cohorts with code blocks against pandas on the raw files: every cell, the vocabulary, every column of the block.

Nothing of CohortLoom reads the files here: what is expected is written out a second time, in another way.
"""

from __future__ import annotations

import shutil
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from test_shipped_cohorts import BOOK, deliver_and_build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.features.build import Built
    from pipeline.store.lake import Lake

pytestmark = pytest.mark.realdata

Expected = tuple[pd.DataFrame, pd.DataFrame]
"""One row a subject, and one row a recorded diagnosis (subject, code rolled up)."""


def short(code: str) -> str:
    """ICD-9: three characters, E-codes four."""
    return code[:4] if code.startswith("E") else code[:3]


def group(label: str, names: dict[str, str], unknown: set[str]) -> str:
    if label in unknown:
        return "unknown"
    return next((to for start, to in names.items() if label.startswith(start)), "other")


def mimic3(data: Path) -> Expected:
    folder = data / "mimic-iii-demo-1.4"
    people = pd.read_csv(folder / "PATIENTS.csv.gz", parse_dates=["dob"]).set_index("subject_id")
    stays = pd.read_csv(folder / "ADMISSIONS.csv.gz", parse_dates=["admittime"]).sort_values(["admittime", "hadm_id"])
    last = stays.groupby("subject_id").last().join(people[["dob", "gender"]])
    had_birthday = [(a.month, a.day, a.time()) >= (b.month, b.day, b.time()) for a, b in zip(last.admittime, last.dob, strict=True)]  # fmt: skip
    years = [a.year - b.year - (not h) for a, b, h in zip(last.admittime, last.dob, had_birthday, strict=True)]
    names = {"WHITE": "white", "BLACK": "black", "HISPANIC": "hispanic", "ASIAN": "asian"}
    unknown = {"UNKNOWN/NOT SPECIFIED", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER"}
    rows = pd.DataFrame(
        {
            "age": np.minimum(years, 90),
            "gender": last.gender,
            "ethnicity": [group(e, names, unknown) for e in last.ethnicity],
            "died_in_hospital": stays.groupby("subject_id").hospital_expire_flag.max() == 1,
        }
    )
    codes = pd.read_csv(folder / "DIAGNOSES_ICD.csv.gz", dtype=str).dropna(subset="icd9_code")
    return rows, pd.DataFrame({"subject": codes.subject_id, "code": codes.icd9_code.map(short)})


def mimic4(data: Path) -> Expected:
    folder = data / "mimic-iv-demo-2.2" / "hosp"
    people = pd.read_csv(folder / "patients.csv.gz", parse_dates=["dod"]).set_index("subject_id")
    stays = pd.read_csv(folder / "admissions.csv.gz", parse_dates=["admittime", "dischtime"])
    stays = stays.sort_values(["admittime", "hadm_id"])
    last = stays.groupby("subject_id").last().join(people)
    left = stays.groupby("subject_id").dischtime.max().dt.normalize()
    omr = pd.read_csv(folder / "omr.csv.gz", dtype={"result_value": str}).sort_values(["chartdate", "seq_num"])
    omr = omr[pd.to_datetime(omr.chartdate) <= omr.subject_id.map(left)]
    bmi = omr[omr.result_name == "BMI (kg/m2)"].assign(bmi=lambda o: pd.to_numeric(o.result_value, errors="coerce"))
    bmi = bmi[bmi.bmi.between(10, 100)].groupby("subject_id").bmi.last()
    pressure = omr[omr.result_name == "Blood Pressure"]
    both = (
        pressure.result_value.str.split("/", expand=True)
        .astype(float)
        .set_axis(["systolic_bp", "diastolic_bp"], axis=1)
    )
    plausible = (
        both.systolic_bp.between(50, 300) & both.diastolic_bp.between(20, 200) & (both.diastolic_bp < both.systolic_bp)
    )
    latest = both.assign(subject_id=pressure.subject_id)[plausible].groupby("subject_id").last()
    names = {"WHITE": "white", "BLACK": "black", "HISPANIC": "hispanic", "ASIAN": "asian", "AMERICAN INDIAN": "american_indian", "NATIVE HAWAIIAN": "pacific"}  # fmt: skip
    rows = pd.DataFrame(
        {
            "age": last.anchor_age + last.admittime.dt.year - last.anchor_year,
            "bmi": bmi.reindex(last.index),
            **{name: latest[name].reindex(last.index) for name in latest.columns},
            "sex": last.gender,
            "race": [group(r, names, {"UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER"}) for r in last.race],
            "died_within_a_year": last.dod.notna() & ((last.dod - left).dt.days <= 365),
        }
    )
    codes = pd.read_csv(folder / "diagnoses_icd.csv.gz", dtype=str)
    nine = "ICD9CM//" + codes.icd_code.map(short)
    written = nine.where(codes.icd_version == "9", "ICD10CM//" + codes.icd_code.str[:3])
    return rows, pd.DataFrame({"subject": codes.subject_id, "code": written})


def synpuf(data: Path) -> Expected:
    folder = data / "cms-desynpuf"
    years = {y: pd.concat(pd.read_csv(f, dtype=str) for f in sorted(folder.glob(f"DE1_0_{y}_Bene*_[12].csv.gz"))) for y in (2008, 2009, 2010)}  # fmt: skip
    places = [f"ICD9_DGNS_CD_{i}" for i in range(1, 11)]
    wanted = ["DESYNPUF_ID", "CLM_ID", *places]
    claims = pd.concat(
        pd.read_csv(f, dtype=str, usecols=wanted) for f in sorted(folder.glob("*Inpatient*_[12].csv.gz"))
    )
    summary = pd.concat(years.values()).set_index("DESYNPUF_ID")
    by = summary.groupby(level=0)
    born = by.BENE_BIRTH_DT.first()
    flags = {
        "alzheimer": "SP_ALZHDMTA", "heart_failure": "SP_CHF", "kidney_disease": "SP_CHRNKIDN", "cancer": "SP_CNCR",
        "copd": "SP_COPD", "depression": "SP_DEPRESSN", "diabetes": "SP_DIABETES", "ischemic_heart_disease": "SP_ISCHMCHT",
        "osteoporosis": "SP_OSTEOPRS", "arthritis": "SP_RA_OA", "stroke": "SP_STRKETIA",
    }  # fmt: skip
    rows = pd.DataFrame(
        {
            "age": 2008 - born.str[:4].astype(int),  # everybody has had a birthday by the 31st of December
            "sex": by.BENE_SEX_IDENT_CD.last().map({"1": "male", "2": "female"}),
            "race": by.BENE_RACE_CD.last().map({"1": "white", "2": "black", "3": "other", "5": "hispanic"}),
            "kidney_failure": (summary.BENE_ESRD_IND == "Y").groupby(level=0).any(),
            **{name: (summary[column] == "1").groupby(level=0).any() for name, column in flags.items()},
            "claims": claims.groupby("DESYNPUF_ID").CLM_ID.nunique(),
            "died": by.BENE_DEATH_DT.count() > 0,
        }
    )
    rows = rows[rows.claims > 0]
    long = claims.melt(["DESYNPUF_ID", "CLM_ID"], places, value_name="code").dropna(subset="code")
    long = long.drop_duplicates(["DESYNPUF_ID", "CLM_ID", "code"])
    return rows, pd.DataFrame({"subject": long.DESYNPUF_ID, "code": long.code.map(short)})


def check(built: Built, expected: Expected, kind: str) -> None:
    rows, diagnoses = expected
    cohort = built.cohort
    rows.index = rows.index.astype(str)
    assert sorted(cohort.subject) == sorted(rows.index)
    wanted = rows.loc[cohort.subject.tolist()]
    assert cohort.schema.names == list(wanted.columns)
    for name in wanted.columns:
        have = pd.Series(cohort.table.column(name).to_pylist(), index=wanted.index)
        assert have.notna().sum() == wanted[name].notna().sum(), name
        known = wanted[name].notna()
        assert (have[known] == wanted[name][known]).all(), name
    counted = pd.crosstab(diagnoses.subject, diagnoses.code)
    train = cohort.subject[cohort.split == "train"]
    subjects = (counted[counted.index.isin(train)] > 0).sum()
    vocabulary = sorted(subjects[subjects >= 11].index)
    block = cohort.schema.blocks[0]
    assert (block.name, block.kind, block.vocabulary) == ("diagnoses", kind, vocabulary)
    matrix = counted[vocabulary].reindex(cohort.subject, fill_value=0).to_numpy()
    matrix = (matrix > 0).astype(int) if kind == "binary" else matrix
    assert (cohort.blocks["diagnoses"].toarray().sum(axis=0) == matrix.sum(axis=0)).all()
    assert (cohort.blocks["diagnoses"].toarray() == matrix).all()
    account = built.blocks["diagnoses"]
    assert account.records == len(diagnoses) == account.taken + sum(t.records for t in account.left_out.values())
    assert set(account.left_out) == {"rare in training", "not in training"}


@pytest.mark.parametrize(
    ("cohort", "folder", "files", "expected", "kind", "size"),
    [
        (
            "mimic3_codes",
            "mimic-iii-demo-1.4",
            ["PATIENTS*", "ADMISSIONS*", "DIAGNOSES_ICD*"],
            mimic3,
            "count",
            (100, 1761),
        ),
        (
            "mimic4_codes",
            "mimic-iv-demo-2.2",
            ["hosp/patients*", "hosp/admissions*", "hosp/diagnoses_icd*", "hosp/omr*"],
            mimic4,
            "binary",
            (100, 4506),
        ),
        ("synpuf_codes", "cms-desynpuf", ["*_Sample_[12].csv.gz"], synpuf, "count", (6523, 94084)),
    ],
)
def test_every_cell_and_code_is_what_pandas_finds(
    lake: Lake, real_data: Path, tmp_path: Path, cohort: str, folder: str, files: list[str],
    expected: Callable[[Path], Expected], kind: str, size: tuple[int, int],
) -> None:  # fmt: skip
    handed = tmp_path / "handed"
    for file in (file for pattern in files for file in (real_data / folder).glob(pattern)):
        target = handed / file.relative_to(real_data / folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    built = deliver_and_build(lake, cohort, handed, date(2026, 10, 31))
    assert (built.cohort.n_rows, built.blocks["diagnoses"].records) == size
    check(built, expected(real_data), kind)
    spec = BOOK.cohort(cohort)
    assert spec.tasks[0].label in built.cohort.schema.names
    assert all(built.lineage[name] for name in [*built.cohort.schema.names, "diagnoses"])
    roles = {c.name: c.role for c in built.cohort.schema.columns}
    assert all(roles[name] == "protected" for name in spec.protected)
