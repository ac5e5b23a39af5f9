"""Clinical rules: what is mined and what is not, how curated ones are read, and that broken ones are counted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pipeline.errors import ConfigError
from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.fidelity.mined_rules import mine, sex_columns
from pipeline.evaluation.fidelity.plausibility import share
from pipeline.evaluation.fidelity.rules import Rows, curated
from pipeline.evaluation.intervals import newcombe, wilson
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute
from pipeline.evaluation.references import reference_cohort
from pipeline.features.cohort import assemble
from pipeline.features.evaluation_spec import RuleSpec
from pipeline.features.schema import CodeBlock, Column, TableSchema

if TYPE_CHECKING:
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

CODES = ["O80", "O42", "C61", "I10", "E11", "N18"]
SCHEMA = TableSchema(
    columns=[
        Column(name="gender", kind="binary", dtype="string", levels=["F", "M"]),
        Column(name="age", kind="continuous", dtype="float64"),
        Column(name="systolic", kind="continuous", dtype="float64", unit="mm[Hg]", nullable=True),
        Column(name="diastolic", kind="continuous", dtype="float64", unit="mm[Hg]"),
        Column(name="potassium", kind="continuous", dtype="float64", unit="mmol/L"),
        Column(name="sodium", kind="continuous", dtype="float64", unit="mmol/L"),
        Column(name="admitted", kind="datetime", dtype="date32[day]"),
        Column(name="discharged", kind="datetime", dtype="date32[day]"),
        Column(name="icu", kind="binary", dtype="bool", levels=[False, True]),
        Column(name="died_in_icu", kind="binary", dtype="bool", levels=[False, True]),
        Column(name="stage", kind="ordinal", dtype="string", levels=["I", "II", "III"]),
        Column(name="clinic", kind="categorical", dtype="string", levels=["obstetrics", "urology", "other"]),
    ],
    blocks=[CodeBlock(name="diagnoses", kind="binary", vocabulary=CODES)],
)


def patients(n: int, seed: int, *, mistakes: int = 0) -> Cohort:
    """n patients who keep to all that is clinical; the first `mistakes` men have a delivery."""
    rng = np.random.default_rng(seed)
    man = (rng.random(n) < 0.5).astype(int)
    diastolic = np.round(rng.normal(75, 10, n))
    systolic = np.round(diastolic + np.abs(rng.normal(40, 15, n)))
    admitted = rng.integers(18000, 19500, n).astype(float)
    icu = (rng.random(n) < 0.3).astype(int)
    cells = rng.random((n, len(CODES))) < np.array([0.1, 0.15, 0.12, 0.4, 0.3, 0.2])
    cells[:, :2] &= (man == 0)[:, None]
    cells[:, 2] &= man == 1
    cells[np.flatnonzero(man == 1)[:mistakes], 0] = True
    return assemble(
        SCHEMA,
        {
            "gender": man,
            "age": np.round(rng.uniform(18, 90, n), 1),
            "systolic": np.where(rng.random(n) < 0.1, np.nan, systolic),
            "diastolic": diastolic,
            "potassium": np.round(rng.normal(4, 0.5, n), 1),
            "sodium": np.round(rng.normal(140, 4, n)),
            "admitted": admitted,
            "discharged": admitted + rng.integers(0, 400, n),
            "icu": icu,
            "died_in_icu": icu * (rng.random(n) < 0.2),
            "stage": rng.integers(0, 3, n),
            "clinic": np.where(rng.random(n) < 0.7, 2, man),
        },
        blocks={"diagnoses": csr_matrix(cells.astype(np.float32))},
        subject=np.array([f"p{seed}-{i}" for i in range(n)]),
    )


@pytest.fixture(scope="module")
def hospital() -> RealSides:
    parts = Parts(patients(3000, 1), patients(1500, 2), patients(800, 3), patients(800, 4))
    return RealSides(parts, EvaluationPlan(profile="quick"))


def ckv(sides: RealSides, cohort: Cohort, *, with_plots: bool = False) -> dict[tuple[str, str], MetricResult]:
    context = EvaluationContext(sides, synthetic_side(sides, cohort), with_plots=with_plots)
    rows = {(r.key1, r.key2): r for r in compute(context, ["ehr.ckv"])}
    rows["context", ""] = context  # type: ignore[assignment]
    return rows


def test_what_is_mined(hospital: RealSides) -> None:
    names = {rule.name for rule in mine(hospital.train)}
    assert {n for n in names if "only" in n} == {
        "diagnoses O80: only gender F",
        "diagnoses O42: only gender F",
        "diagnoses C61: only gender M",
        "clinic obstetrics: only gender F",
        "clinic urology: only gender M",
    }
    assert {n for n in names if "<=" in n} == {
        "diastolic <= systolic",
        "admitted <= discharged",
        "died_in_icu <= icu",
    }, "not potassium <= sodium: no shuffling would break it"
    assert any(n.startswith("sodium within") for n in names)


def test_windows_tell_no_extreme(hospital: RealSides) -> None:
    window = next(r for r in mine(hospital.train) if r.name.startswith("sodium within"))
    values = hospital.train.values["sodium"]
    assert window.lowest < values.min() - 3  # type: ignore[attr-defined]
    assert window.highest > values.max() + 3  # type: ignore[attr-defined]
    assert float(f"{window.lowest:.2g}") == window.lowest  # type: ignore[attr-defined]


def test_nothing_is_mined_of_few_rows_or_of_a_cohort_of_one_sex() -> None:
    few = patients(40, 1)
    assert mine(RealSides(Parts.of_two(few, few)).train) == []
    whole = patients(4000, 5)
    women = whole.take(whole.codes("gender") == 0)
    assert not [r for r in mine(RealSides(Parts.of_two(women, women)).train) if "only" in r.name]


def test_columns_called_like_sex() -> None:
    def called(name: str) -> list[Column]:
        return sex_columns([Column(name=name, kind="binary", dtype="string", levels=["a", "b"])])

    for name in ("sex", "Gender", "patient_sex", "gender_at_birth"):
        assert called(name)
    for name in ("sexual_history", "essex", "engender"):
        assert not called(name)


def test_fresh_patients_break_nothing_and_shuffled_ones_do(hospital: RealSides) -> None:
    fresh = ckv(hospital, patients(3000, 55))
    assert fresh["", ""].value == pytest.approx(0, abs=1e-3)
    assert fresh["", ""].ci_hi < 0.005
    shuffled = reference_cohort(hospital, "ref_marginal")
    assert shuffled is not None
    found = ckv(hospital, shuffled)
    assert found["", ""].ci_lo > 0.3
    assert found["diagnoses C61: only gender M", "synthetic"].value == pytest.approx(0.5, abs=0.1)
    assert found["died_in_icu <= icu", ""].ci_lo > 0.01
    assert found["worst", ""].value > 0.4
    assert "only gender" in found["worst", ""].note
    mode = reference_cohort(hospital, "ref_mode")
    assert mode is not None
    assert ckv(hospital, mode)["", ""].value == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("faulty", [30, 300])
def test_a_planted_fault_is_counted(hospital: RealSides, faulty: int) -> None:
    found = ckv(hospital, patients(3000, 56, mistakes=faulty), with_plots=True)
    rule = found["diagnoses O80: only gender F", "synthetic"]
    assert round(rule.value * rule.n) == faulty
    assert found["", ""].value == pytest.approx(faulty / 3000, abs=1e-3)
    assert found["", ""].ci_lo > 0.5 * faulty / 3000
    context = found["context", ""]
    assert context.plots["plausibility"]["rules"][0]["name"] == "diagnoses O80: only gender F"  # type: ignore[attr-defined]
    examples = context.internal["violations"]  # type: ignore[attr-defined]
    assert examples[0] == {"rule": "diagnoses O80: only gender F", "cells": "gender M, diagnoses O80"}
    assert len(examples) <= 3 * 20


def test_small_counts_of_real_rows_are_not_shown() -> None:
    """Three men with a delivery in the holdout: neither their share nor what would give it away."""
    sides = RealSides(Parts.of_two(patients(3000, 1), patients(1500, 2, mistakes=3)), EvaluationPlan(profile="quick"))
    found = ckv(sides, patients(3000, 57, mistakes=20), with_plots=True)
    assert found["diagnoses O80: only gender F", "real"].value is None
    assert found["diagnoses O80: only gender F", "real"].n is None
    assert found["diagnoses O80: only gender F", ""].value is None
    assert found["diagnoses O80: only gender F", "synthetic"].value > 0
    shown = {r["name"]: r for r in found["context", ""].plots["plausibility"]["rules"]}  # type: ignore[attr-defined]
    assert shown["diagnoses O80: only gender F"]["real"] is None
    assert found["diastolic <= systolic", "real"].value == 0


RULES = {
    "age": {"never": [{"column": "age", "op": ">=", "value": 89}]},
    "two conditions": {
        "when": [{"column": "gender", "op": "==", "value": "M"}],
        "never": [{"column": "age", "op": "<", "value": 30}, {"column": "stage", "op": ">=", "value": "II"}],
    },
    "codes": {
        "when": [{"column": "gender", "op": "!=", "value": "F"}],
        "never": [{"block": "diagnoses", "codes": ["O*", "I10"]}],
    },
    "no code": {"never": [{"block": "diagnoses", "codes": ["O*", "C61", "I10"], "op": "missing"}]},
    "columns": {"never": [{"column": "systolic", "op": ">", "other": "diastolic"}]},
    "missing": {"never": [{"column": "systolic", "op": "missing"}]},
    "levels": {"never": [{"column": "clinic", "op": "in", "value": ["obstetrics", "urology"]}]},
    "date": {"never": [{"column": "admitted", "op": "<", "value": "2020-01-01"}]},
    "flag": {"never": [{"column": "icu", "op": "==", "value": True}]},
}


@pytest.mark.parametrize("name", RULES)
def test_curated_rules_against_pandas(hospital: RealSides, name: str) -> None:
    side = hospital.holdout
    f = side.cohort.take(side.order).table.to_pandas()
    dense = side.presence["diagnoses"].toarray() > 0
    deliveries, cancer, pressure = dense[:, :2].any(axis=1), dense[:, 2], dense[:, 3]
    everywhere = np.ones(len(f), dtype=bool)
    expected = {
        "age": (everywhere, f.age >= 89),
        "two conditions": (f.gender == "M", (f.gender == "M") & (f.age < 30) & f.stage.isin(["II", "III"])),
        "codes": (f.gender == "M", (f.gender == "M") & (deliveries | pressure)),
        "no code": (everywhere, ~(deliveries | cancer | pressure)),
        "columns": (f.systolic.notna(), f.systolic > f.diastolic),
        "missing": (everywhere, f.systolic.isna()),
        "levels": (everywhere, f.clinic != "other"),
        "date": (everywhere, f.admitted.astype(str) < "2020-01-01"),
        "flag": (everywhere, f.icu),
    }[name]
    judged = curated(RuleSpec(name=name, **RULES[name]), hospital.encoder).judge(Rows(side))  # type: ignore[arg-type]
    np.testing.assert_array_equal(judged.can, np.asarray(expected[0]))
    np.testing.assert_array_equal(judged.broken, np.asarray(expected[1]))
    assert 0 < judged.broken.sum() < len(f)


@pytest.mark.parametrize(
    "never",
    [
        {"column": "gender", "op": "<", "value": "M"},
        {"column": "stage", "op": ">", "value": "IV"},
        {"column": "age", "op": ">", "value": "old"},
        {"column": "admitted", "op": "<", "value": "yesterday"},
        {"column": "age", "op": ">", "other": "gender"},
        {"column": "clinic", "op": "==", "other": "gender"},
        {"block": "diagnoses", "codes": ["Z*"]},
    ],
    ids=str,
)
def test_rules_that_make_no_sense_are_said_and_left_out(hospital: RealSides, never: dict[str, object]) -> None:
    spec = RuleSpec(name="odd", never=[never])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="odd"):
        curated(spec, hospital.encoder)
    sides = RealSides(hospital.parts, replace(hospital.plan, rules=(spec,)))
    found = ckv(sides, patients(300, 58))
    assert found["odd", ""].status == "not_applicable"
    assert found["", ""].value is not None


def test_a_rule_that_real_rows_break_is_counted_beyond_them(hospital: RealSides) -> None:
    spec = RuleSpec(name="III", never=[{"column": "stage", "op": "==", "value": "III"}])  # type: ignore[list-item]
    sides = RealSides(hospital.parts, replace(hospital.plan, rules=(spec,)))
    found = ckv(sides, patients(3000, 59))
    assert found["III", "real"].value == pytest.approx(1 / 3, abs=0.05)
    assert found["III", ""].ci_lo < 0 < found["III", ""].ci_hi


def test_rows_of_one_person_are_worth_less() -> None:
    people, rng = np.repeat(np.arange(200), 5), np.random.default_rng(0)
    broken = np.repeat(rng.random(200) < 0.2, 5)
    everywhere = np.ones(1000, dtype=bool)
    assert share(broken, everywhere, people).worth == pytest.approx(200, rel=0.01)
    assert share(broken, everywhere, np.arange(1000)).worth == pytest.approx(1000)
    assert share(np.zeros(1000), everywhere, people).worth == 200
    assert share(broken, ~everywhere, people).can == 0


def test_intervals_of_shares_at_their_ends() -> None:
    """Wilson's and Newcombe's published examples (1998): 81 of 263, 0 of 20; 56/70 - 48/80, 10/10 - 0/20."""
    assert wilson(81 / 263, 263) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson(0, 20) == (0, pytest.approx(0.1611, abs=1e-4))
    assert newcombe(56 / 70, 70, 48 / 80, 80) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    assert newcombe(1, 10, 0, 20) == (pytest.approx(0.6791, abs=1e-4), pytest.approx(1, abs=1e-9))
    assert wilson(0.5, 0) == (0, 1)


def test_odd_cohorts_give_a_value_or_a_reason(hospital: RealSides) -> None:
    one = patients(1, 60)
    empty = replace(patients(50, 61), blocks={"diagnoses": csr_matrix((50, len(CODES)), dtype=np.float32)})
    for cohort in (one, empty):
        for key, row in ckv(hospital, cohort).items():
            if key != ("context", ""):
                assert row.value is not None or row.note
                assert row.value is None or np.isfinite(row.value)
