"""Shipped cohorts of plain tables against pandas on the raw files: every column's cells, means or levels, every row.

Nothing of CohortLoom reads the files here: what is expected is written out a second time, in another way.
"""

from __future__ import annotations

import zipfile
from datetime import date
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from test_shipped_cohorts import BOOK, deliver_and_build

from pipeline.generators.constraints import violations

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.store.lake import Lake

pytestmark = pytest.mark.realdata


def support2(data: Path) -> pd.DataFrame:
    raw = pd.read_csv(data / "support2/support2.csv.gz").drop(columns="sno")
    raw.columns = raw.columns.str.replace(".", "_")
    flags = ["death", "hospdead", "diabetes", "dementia"]
    return raw.astype(dict.fromkeys(flags, bool))


@cache
def _chapter(code: str | float) -> str | None:
    """Table 2 of Strack et al. 2014, as ranges of whole numbers."""
    if not isinstance(code, str):
        return None
    whole = int(float(code)) if code[0].isdigit() else -1
    ranges = {
        "circulatory": [*range(390, 460), 785],
        "respiratory": [*range(460, 520), 786],
        "digestive": [*range(520, 580), 787],
        "diabetes": [250],
        "injury": range(800, 1000),
        "musculoskeletal": range(710, 740),
        "genitourinary": [*range(580, 630), 788],
        "neoplasms": range(140, 240),
    }
    return next((name for name, numbers in ranges.items() if whole in numbers), "other")


def diabetes130(data: Path) -> pd.DataFrame:
    with zipfile.ZipFile(data / "diabetes-130/dataset_diabetes.zip") as archive:
        member = next(n for n in archive.namelist() if n.endswith("diabetic_data.csv"))
        raw = pd.read_csv(archive.open(member), na_values=["?"], keep_default_na=False, low_memory=False)
    unmapped = {18: None, 25: None, 26: None}
    unknown = {9: None, 15: None, 17: None, 20: None, 21: None}
    types = {1: "emergency", 2: "urgent", 3: "elective", 4: "newborn", 7: "trauma center"}
    measured = {"None": "not measured", "Norm": "normal"}
    table = pd.DataFrame(
        {
            "gender": raw.gender.where(raw.gender.isin(["Male", "Female"])),
            "age_band": raw.age,
            "admission_type": raw.admission_type_id.map(types),
            "discharge_disposition": raw.discharge_disposition_id.map(lambda c: unmapped.get(c, str(c))),
            "admission_source": raw.admission_source_id.map(lambda c: unknown.get(c, str(c))),
            "max_glu_serum": raw.max_glu_serum.replace(measured),
            "hba1c": raw.A1Cresult.replace(measured),
            "glyburide_metformin": raw["glyburide-metformin"],
            "glipizide_metformin": raw["glipizide-metformin"],
            "medication_changed": raw.change == "Ch",
            "diabetes_medication": raw.diabetesMed == "Yes",
            "readmitted_30d": raw.readmitted == "<30",
            "readmitted": raw.readmitted != "NO",
            **{f"diag_{n}_chapter": raw[f"diag_{n}"].map(_chapter) for n in (1, 2, 3)},
        }
    )
    same = [name for name in BOOK.cohort("diabetes130").columns if name not in table]
    return table.join(raw[same])


def heart(data: Path) -> pd.DataFrame:
    names = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca"]
    file = data / "uci-heart/processed.cleveland.data"
    raw = pd.read_csv(file, names=[*names, "thal", "num"], na_values="?")
    pain = ["typical angina", "atypical angina", "non-anginal", "asymptomatic"]
    return pd.DataFrame(
        {
            "age": raw.age,
            "sex": np.where(raw.sex == 1, "male", "female"),
            "chest_pain": raw.cp.map(lambda c: pain[int(c) - 1]),
            "resting_bp": raw.trestbps,
            "cholesterol": raw.chol,
            "high_fasting_sugar": raw.fbs == 1,
            "resting_ecg": raw.restecg.map({0: "normal", 1: "ST-T abnormality", 2: "left ventricular hypertrophy"}),
            "max_heart_rate": raw.thalach,
            "exercise_angina": raw.exang == 1,
            "st_depression": raw.oldpeak,
            "st_slope": raw.slope.map({1: "upsloping", 2: "flat", 3: "downsloping"}),
            "vessels": raw.ca,
            "thallium": raw.thal.map({3: "normal", 6: "fixed defect", 7: "reversible defect"}),
            "disease": raw.num > 0,
        }
    )


def adult(data: Path) -> pd.DataFrame:
    names = ["age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation"]
    names += [
        "relationship",
        "race",
        "sex",
        "capital_gain",
        "capital_loss",
        "hours_per_week",
        "native_country",
        "label",
    ]
    parts = [
        pd.read_csv(data / "uci-adult" / name, names=names, skipinitialspace=True, na_values="?", skiprows=skipped)
        for name, skipped in (("adult.data.gz", 0), ("adult.test.gz", 1))
    ]
    raw = pd.concat(parts)
    return raw.assign(income_over_50k=raw.label.str.startswith(">")).drop(columns=["fnlwgt", "education_num", "label"])


def compas(data: Path) -> pd.DataFrame:
    raw = pd.read_csv(data / "compas/compas-scores-two-years.csv.gz", keep_default_na=False, na_values=[""])
    raw = raw.query("-30 <= days_b_screening_arrest <= 30 and is_recid != -1 and c_charge_degree != 'O'")
    raw = raw[raw.score_text != "N/A"]
    into, out = (pd.to_datetime(raw[c]).dt.normalize() for c in ("c_jail_in", "c_jail_out"))
    table = pd.DataFrame(
        {
            "charge_degree": raw.c_charge_degree.map({"F": "felony", "M": "misdemeanour"}),
            "days_in_jail": (out - into).dt.days,
            **{n: raw[n] == 1 for n in ("is_recid", "is_violent_recid", "two_year_recid")},
        }
    )
    return table.join(raw[[name for name in BOOK.cohort("compas").columns if name not in table]])


def aireadi(data: Path) -> pd.DataFrame:
    raw = pd.read_csv(data / "ai-readi-mock/participants.tsv", sep="\t").drop(columns="participant_id")
    raw = raw.rename(columns={"group": "study_group"})
    return raw.assign(diabetes=raw.study_group != "no_diabetes")


def _row_hashes(table: pd.DataFrame) -> np.ndarray:
    """One number a row, sorted: equal for the same rows in any order."""
    plain = {
        name: cells.astype(float) if pd.api.types.is_numeric_dtype(cells) else cells.astype(object).where(cells.notna())
        for name, cells in table.items()
    }
    return np.sort(pd.util.hash_pandas_object(pd.DataFrame(plain), index=False).to_numpy())


@pytest.mark.parametrize(
    ("expected", "delivery", "rows", "subjects"),
    [
        (support2, "support2/support2.csv.gz", 9105, 9105),
        (diabetes130, "diabetes-130/dataset_diabetes.zip", 101766, 71518),
        (heart, "uci-heart", 303, 303),
        (adult, "uci-adult", 48842, 48842),
        (compas, "compas", 6172, 6172),
        (aireadi, "ai-readi-mock", 4, 4),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_column_is_what_pandas_makes_of_the_raw_file(
    lake: Lake,
    real_data: Path,
    expected: Callable[[Path], pd.DataFrame],
    delivery: str,
    rows: int,
    subjects: int,
) -> None:
    spec = BOOK.cohort(expected.__name__)
    cohort = deliver_and_build(lake, spec.name, real_data / delivery, date(2026, 10, 5)).cohort
    theirs = expected(real_data)
    assert (cohort.n_rows, cohort.n_subjects) == (rows, subjects)
    assert len(theirs) == rows
    assert set(cohort.schema.names) == set(theirs.columns) == set(spec.columns)
    for name in cohort.schema.names:
        column, wanted = cohort.table.column(name), theirs[name].dropna()
        assert len(column) - column.null_count == len(wanted), name
        cells = column.drop_null().to_pandas()
        if cohort.schema.column(name).numeric:
            assert cells.mean() == pytest.approx(wanted.mean(), rel=1e-12), name
            assert cells.std() == pytest.approx(wanted.std(), rel=1e-9), name
        else:
            assert cells.value_counts().to_dict() == wanted.value_counts().to_dict(), name
    ours = cohort.table.to_pandas()
    assert (_row_hashes(ours) == _row_hashes(theirs[ours.columns])).all()
    for rule in spec.constraints:
        assert not violations(cohort, rule).any(), rule
    assert (cohort.split == "train").any()


def test_a_label_is_not_given_away_by_what_is_left(lake: Lake, real_data: Path) -> None:
    """With the leak lists taken out, no single column says the label almost surely."""
    from sklearn.metrics import roc_auc_score

    for name, path in (("support2", "support2/support2.csv.gz"), ("compas", "compas")):
        spec = BOOK.cohort(name)
        cohort = deliver_and_build(lake, name, real_data / path, date(2026, 10, 5)).cohort
        for task in spec.tasks:
            label = cohort.codes(task.label)
            for column in cohort.schema.modelled():
                if column.name in (task.label, *task.leak):
                    continue
                score = cohort.codes(column.name) if column.discrete else cohort.values(column.name)
                there = ~np.isnan(score.astype(float))
                area = roc_auc_score(label[there], score[there])
                assert max(area, 1 - area) < 0.85, f"{task.name}: {column.name}"
