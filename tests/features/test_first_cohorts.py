"""The cohorts `support` and `synthea` on the real files, against pandas and plain Python on those files."""

from __future__ import annotations

import gzip
import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_shipped_cohorts import deliver_and_build

from pipeline.store.lake import Lake

pytestmark = pytest.mark.realdata

MONTH_END = date(2026, 10, 31)
CHECK_UP, DEATH_CERTIFICATE = {"185349003", "162673000", "410620009"}, "308646001"
LOINC = {
    "bmi": {"39156-5"},
    "systolic_bp": {"8480-6"},
    "diastolic_bp": {"8462-4"},
    "hba1c": {"4548-4"},
    "total_cholesterol": {"2093-3"},
    "hdl_cholesterol": {"2085-9"},
    "triglycerides": {"2571-8"},
    "creatinine": {"38483-4", "2160-0"},
}
SNOMED = {
    "obesity": {"162864005"},
    "prediabetes": {"15777000"},
    "diabetes": {"44054006"},
    "anemia": {"271737000"},
    "hypertension": {"59621000", "38341003"},
    "hyperlipidemia": {"55822004"},
    "chronic_sinusitis": {"40055000"},
    "coronary_heart_disease": {"53741008"},
    "heart_failure": {"88805009"},
    "atrial_fibrillation": {"49436004"},
    "stroke": {"230690007"},
}


def same(built: Any, expected: pd.DataFrame) -> None:
    """Every cell of a cohort is that of the expected rows, which are indexed by subject."""
    cohort = built.cohort
    rows = cohort.table.to_pandas().set_axis(cohort.subject, axis=0)
    assert sorted(rows.columns) == sorted(expected.columns)
    assert set(rows.index) == set(expected.index)
    expected = expected.loc[rows.index]
    for name in rows.columns:
        found, wanted = rows[name], expected[name]
        assert found.notna().sum() == wanted.notna().sum(), name
        both = found.notna() & wanted.notna()
        assert both.sum() == found.notna().sum(), name
        if pd.api.types.is_numeric_dtype(wanted) and wanted.dtype != bool:
            np.testing.assert_allclose(found[both].astype(float), wanted[both].astype(float), err_msg=name)
        else:
            assert found[both].tolist() == wanted[both].tolist(), name


def test_support_is_the_file(lake: Lake, real_data: Path) -> None:
    path = real_data / "support" / "support.csv.gz"
    table = deliver_and_build(lake, "support", path, MONTH_END).cohort.table.to_pandas()
    raw = pd.read_csv(path)
    words = {
        "sex": ["male", "female"],
        "race": ["other", "white", "black", "hispanic", "asian", "not recorded"],
        "cancer": ["metastatic", "no", "yes"],
    }
    for name, levels in words.items():
        raw[name] = raw[name].map(dict(enumerate(levels)))
    for name in ("diabetes", "dementia", "event"):
        raw[name] = raw[name] == 1
    columns = sorted(raw.columns)
    assert (len(table), sorted(table.columns)) == (8873, columns)
    # A row has no name: the same rows, whatever their order.
    found, wanted = (rows[columns].sort_values(columns, ignore_index=True) for rows in (table, raw))
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False)


def test_synthea_is_the_bundles(lake: Lake, real_data: Path, tmp_path: Path) -> None:
    bundles = sorted((real_data / "synthea-r4-smart" / "bundles").iterdir())[5::12]
    folder = tmp_path / "some"
    folder.mkdir()
    for bundle in bundles:
        shutil.copy(bundle, folder)
    expected = pd.DataFrame([patient_row(json.loads(gzip.decompress(b.read_bytes()))) for b in bundles])
    built = deliver_and_build(lake, "synthea", folder, MONTH_END)
    assert built.cohort.n_rows == len(bundles)
    same(built, expected.set_index("subject"))


def code(concept: dict[str, Any] | None) -> str:
    return (concept or {}).get("coding", [{}])[0].get("code", "")


def us_core(patient: dict[str, Any], name: str) -> str | None:
    for extension in patient.get("extension", []):
        if extension["url"].endswith(f"us-core-{name}"):
            return next(e["valueCoding"]["display"] for e in extension["extension"] if e["url"] == "ombCategory")
    return None


def patient_row(bundle: dict[str, Any]) -> dict[str, Any]:
    """The row of a bundle of one patient, from its JSON alone."""
    resources = [entry["resource"] for entry in bundle["entry"]]
    of = lambda kind: [r for r in resources if r["resourceType"] == kind]  # noqa: E731
    [patient] = of("Patient")
    born = date.fromisoformat(patient["birthDate"])
    died = patient.get("deceasedDateTime")
    last = pd.Timestamp(died).tz_convert("UTC").date() if died else MONTH_END
    encounters = [e for e in of("Encounter") if code(e["type"][0]) != DEATH_CERTIFICATE]
    kinds = [
        {"EMER": "emergency", "IMP": "inpatient"}.get(
            e["class"]["code"], "wellness" if code(e["type"][0]) in CHECK_UP else "ambulatory"
        )
        for e in encounters
    ]
    conditions = [code(c["code"]) for c in of("Condition")]
    row = {
        "subject": f"Patient/{patient['id']}",
        "age": last.year - born.year - ((last.month, last.day) < (born.month, born.day)),
        "gender": patient["gender"],
        "race": us_core(patient, "race"),
        "ethnicity": us_core(patient, "ethnicity"),
        "marital_status": code(patient.get("maritalStatus")) or None,
        **{f"encounters_{kind}": kinds.count(kind) for kind in ("wellness", "ambulatory", "emergency", "inpatient")},
        "conditions": len(conditions),
        "medications": len(of("MedicationRequest")),
        **{name: bool(codes & set(conditions)) for name, codes in SNOMED.items()},
        "died": died is not None,
    }
    values = [
        (pd.Timestamp(o["effectiveDateTime"]).tz_convert("UTC"), o["id"], place, code(part["code"]), part["valueQuantity"])
        for o in of("Observation")
        for place, part in enumerate([o, *o.get("component", [])])
        if "valueQuantity" in part
    ]  # fmt: skip
    for name, codes in LOINC.items():
        known: dict[str, list[tuple[Any, float]]] = {}
        for when, key, place, one, quantity in values:
            if one in codes and "value" in quantity:
                known.setdefault(one, []).append(((when, key, place), quantity["value"]))
        # The newest of each code; of several codes of one measurement the larger of their newest values.
        row[name] = max((max(found)[1] for found in known.values()), default=None)
    return row
