"""Cohorts with planted faults are caught by the utility metric that is for them; a fresh real cohort is not accused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from toy_people import TASK, coded, edited, joined, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, headline, pooled
from pipeline.evaluation.references import reference_cohort
from pipeline.evaluation.registry import find_metric, metric_ids
from pipeline.evaluation.report.figures.utility import FIGURES, TABLES
from pipeline.evaluation.results import Published
from pipeline.evaluation.utility.regimes import best_model, holdout_scores, real_scores
from pipeline.features.evaluation_spec import AnalysisSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

ANALYSES = (
    AnalysisSpec(
        name="death", kind="logistic", outcome="died", positive=True, contrast="sex",
        covariates=["age", "sex", "smoker", "lab_b", "stage", "ward"],
    ),
    AnalysisSpec(name="pressure", kind="linear", outcome="pressure", covariates=["age", "sex", "smoker"]),
    AnalysisSpec(name="visits", kind="poisson", outcome="visits", covariates=["age", "smoker", "lab_c"]),
    AnalysisSpec(
        name="survival", kind="cox", outcome="died", positive=True, time="visits", covariates=["smoker", "age"], contrast="sex"
    ),
)  # fmt: skip
INFERENCE = [f"util.inference.{n}" for n in ("ci_overlap", "sign_agreement", "std_difference", "contrast",
                                             "false_positive_rate", "variance_ratio")] + ["util.km"]  # fmt: skip
UTILITY = [name for name in metric_ids() if find_metric(name).spec.family == "utility"]


@pytest.fixture(scope="module")
def asked(parts: Parts) -> RealSides:
    return RealSides(parts, EvaluationPlan((TASK,), analyses=ANALYSES, profile="quick"))


@pytest.fixture(scope="module")
def judged(asked: RealSides, variant: Callable[[str], Cohort]) -> Callable[..., MetricResult]:
    """The pooled row of a metric on a variant, or on one of the faults below."""

    @cache
    def context(name: str) -> EvaluationContext:
        cohort = FAULTS[name](variant) if name in FAULTS else variant(name)
        return EvaluationContext(asked, synthetic_side(asked, cohort))

    @cache
    def rows(name: str, metric: str) -> list[MetricResult]:
        return pooled(compute(context(name), [metric]))

    def get(name: str, metric: str, key1: str = "", key2: str = "") -> MetricResult:
        row = headline(rows(name, metric), metric, key1=key1, key2=key2)
        assert row is not None
        return row

    return get


def swapped(cohort: Cohort, column: str, share: float, rng: np.random.Generator) -> Cohort:
    """The column of a share of the rows given to one another: its effects shrink by about that share."""
    chosen = np.flatnonzero(rng.random(cohort.n_rows) < share)
    order = np.arange(cohort.n_rows)
    order[chosen] = rng.permutation(chosen)
    return edited(cohort, lambda n, x: x.take(pa.array(order)) if n == column else x)


def turned(cohort: Cohort) -> Cohort:
    """Smokers are said not to smoke, and the other way round: every effect of smoking has the wrong sign."""
    return edited(cohort, lambda n, x: pc.invert(x) if n == "smoker" else x)


def without(cohort: Cohort, column: str, level: str) -> Cohort:
    return cohort.take(np.flatnonzero(np.array(cohort.table.column(column).to_pylist()) != level))


FAULTS: dict[str, Callable[[Callable[[str], Cohort]], Cohort]] = {
    "half_effect": lambda variant: swapped(variant("fresh"), "died", 0.5, np.random.default_rng(1)),
    "turned": lambda variant: turned(variant("fresh")),
    "no_women": lambda variant: without(variant("fresh"), "sex", "female"),
    "small_copies": lambda variant: replace(
        variant("fresh").take(np.tile(np.arange(100), 24)), subject=np.array([f"copy-{i:04d}" for i in range(2400)])
    ),
    "extreme": lambda variant: joined(
        *(
            edited(variant("fresh").take(np.flatnonzero(died_of(variant("fresh")) == value)), moved(value))
            for value in (False, True)
        )
    ),
}


def died_of(cohort: Cohort) -> np.ndarray:
    return np.array(cohort.table.column("died").to_pylist())


def moved(died: bool) -> Callable[[str, pa.ChunkedArray], pa.ChunkedArray]:
    """Ages drawn apart by outcome: a model trained on such people is too sure of itself."""
    return lambda n, x: pc.round(pc.add(x, 18.0 if died else -18.0), 4) if n == "age" else x


def test_shuffled_labels_leave_no_skill(judged: Callable[..., MetricResult]) -> None:
    fresh, shuffled = (judged(n, "util.ratio", "outcome") for n in ("fresh", "label_shuffled"))
    assert fresh.ci_lo > 0.9
    assert abs(shuffled.value) < 0.25
    assert shuffled.draws is not None
    for metric in ("util.auprc", "util.f1", "util.balanced_accuracy", "util.macro_f1"):
        good, bad = (judged(n, metric, "outcome") for n in ("fresh", "label_shuffled"))
        assert good.ci_lo > bad.ci_hi
        assert bad.value < bad.null_value + 0.1
    assert judged("label_shuffled", "util.brier", "outcome").value > judged("fresh", "util.brier", "outcome").ci_hi
    assert (
        judged("label_shuffled", "util.auprc", "outcome", "trtr").value
        == judged("fresh", "util.auprc", "outcome", "trtr").value
    )


def test_calibration_tells_a_model_that_is_too_sure(judged: Callable[..., MetricResult]) -> None:
    fresh, extreme = (judged(n, "util.calibration_slope", "outcome") for n in ("fresh", "extreme"))
    assert fresh.ci_lo < 1 < fresh.ci_hi
    assert extreme.ci_hi < 0.8
    assert judged("extreme", "util.ece", "outcome").value > 2 * judged("fresh", "util.ece", "outcome").value
    large, gone = (abs(judged(n, "util.calibration_intercept", "outcome").value) for n in ("fresh", "extreme"))
    assert large < 0.4 < gone
    assert judged("mode", "util.calibration_slope", "outcome").status == "not_estimable"


def test_half_the_effect_loses_intervals_but_not_signs(judged: Callable[..., MetricResult]) -> None:
    assert judged("half_effect", "util.inference.sign_agreement", "death").value == 1
    fresh, half = (judged(n, "util.inference.ci_overlap", "death") for n in ("fresh", "half_effect"))
    assert half.ci_hi < fresh.value
    assert abs(fresh.value - fresh.null_value) < 2 * fresh.se
    assert half.value < half.null_value - 2 * half.se
    far, near = (judged(n, "util.inference.std_difference", "death") for n in ("half_effect", "fresh"))
    assert far.ci_lo > far.null_value
    assert near.ci_lo < near.null_value < near.ci_hi
    assert judged("half_effect", "util.inference.false_positive_rate", "death").value > 0.3


def test_turned_effects_lose_their_sign(judged: Callable[..., MetricResult]) -> None:
    fresh, turned = (judged(n, "util.inference.sign_agreement") for n in ("fresh", "turned"))
    assert fresh.value == 1
    assert fresh.ci_lo > 0.9
    assert fresh.draws is not None
    assert turned.value < 0.85
    assert "smoker" in turned.note
    assert judged("marginal", "util.inference.sign_agreement").ci_hi < 0.95
    assert judged("marginal", "util.inference.ci_overlap").ci_hi < 0.3


def test_an_effect_that_cannot_be_estimated_is_lost(judged: Callable[..., MetricResult]) -> None:
    row = judged("no_women", "util.inference.sign_agreement", "death")
    assert row.value < 1
    assert "1 cannot be estimated" in row.note
    everything = judged("mode", "util.inference.sign_agreement")
    assert everything.value == 0
    assert judged("mode", "util.inference.false_positive_rate").status != "estimated"
    assert judged("no_women", "util.inference.contrast").value == 0


def test_too_few_synthetic_rows_are_no_fault(asked: RealSides) -> None:
    """Fifty fresh people cannot show what the analyses ask; the same rows missing out of 2,400 would be a fault."""
    context = EvaluationContext(asked, synthetic_side(asked, people(50, 91)))
    rows = pooled(compute(context, ["util.inference.sign_agreement", "util.inference.contrast"]))
    death = headline(rows, "util.inference.sign_agreement", key1="death")
    assert death is not None
    assert death.status == "underpowered"
    assert 50 < death.n_needed < 400
    total = headline(rows, "util.inference.sign_agreement")
    assert total is not None
    assert total.value > 0.5
    between = headline(rows, "util.inference.contrast", key1="death")
    assert between is not None
    assert between.status == "not_estimable"


def test_naive_inference_is_shown_to_be_wrong(judged: Callable[..., MetricResult]) -> None:
    """100 people 24 times each, taken for 2,400: naive tests reject far too often, and more with more rows."""
    fresh, copies = (judged(n, "util.inference.false_positive_rate") for n in ("fresh", "small_copies"))
    assert fresh.ci_lo <= 0.05
    assert fresh.null_value == pytest.approx(0.05)
    assert copies.ci_lo > 0.1
    more = [judged("small_copies", "util.inference.false_positive_rate", "", k).value for k in ("2x", "5x")]
    assert copies.value <= more[0] <= more[1]
    worth = judged("small_copies", "util.inference.variance_ratio")
    assert worth.value > 3
    assert "are worth about" in worth.note
    assert judged("fresh", "util.inference.variance_ratio").ci_lo < 1.5


def test_contrasts_survive_in_real_people(judged: Callable[..., MetricResult]) -> None:
    for name in ("train_copy", "fresh"):
        assert judged(name, "util.inference.contrast").n == 2
    assert judged("train_copy", "util.inference.contrast").value == 1


def test_survival_curves(judged: Callable[..., MetricResult]) -> None:
    fresh, half, shifted = (judged(n, "util.km") for n in ("fresh", "mode", "small_copies"))
    assert fresh.value < 3 * fresh.null_value
    assert half.ci_lo > fresh.ci_hi
    assert shifted.n == 1200
    assert judged("fresh", "util.km", "survival", "sex = male").value is not None


def test_every_regime_and_its_leaks(asked: RealSides, variant: Callable[[str], Cohort]) -> None:
    """Thresholds come of training rows, scores of the holdout, and no regime tests a row that it was trained on."""
    context = EvaluationContext(asked, synthetic_side(asked, variant("fresh")))
    model = best_model(asked, TASK)
    real = real_scores(asked, TASK, model)
    assert holdout_scores(context, TASK, model, "trtr") is real
    for regime in ("tstr", "tstr_plus"):
        fit = holdout_scores(context, TASK, model, regime)
        assert fit.rows.tolist() == real.rows.tolist()
        assert 0.05 < fit.threshold < 0.95
        assert not set(fit.learner.drop) ^ {"died", "discharge"}
    assert holdout_scores(context, TASK, model, "tstr_plus").size == 2 * real.size
    within = holdout_scores(context, TASK, model, "tsts")
    other = holdout_scores(context, TASK, model, "trts")
    assert len(within.rows) <= len(context.synthetic)
    assert other.size == real.size
    # Out of fold: a model that saw the rows would rank them far better than the holdout's.
    assert within.auc < holdout_scores(context, TASK, model, "tstr").auc + 0.05


def test_synthetic_rows_are_no_more_than_training_rows(asked: RealSides) -> None:
    context = EvaluationContext(asked, synthetic_side(asked, people(5000, 60, prefix="many")))
    fit = holdout_scores(context, TASK, "lr", "tstr")
    assert fit.size == real_scores(asked, TASK, "lr").size == 2400


@pytest.fixture(scope="module")
def small() -> RealSides:
    plan = EvaluationPlan((TASK,), analyses=ANALYSES, profile="quick")
    return RealSides(Parts(people(600, 11), people(600, 12), people(300, 13), people(300, 14)), plan)


def test_rankings_of_models(small: RealSides) -> None:
    found: dict[str, dict[str, MetricResult]] = {}
    fresh = people(600, 70, prefix="fresh")
    order = pa.array(np.random.default_rng(0).permutation(600))
    shuffled = edited(fresh, lambda n, x: x.take(order) if n in ("died", "discharge") else x)
    ids = ["util.sra", "util.kendall"]
    for name, cohort in {"fresh": fresh, "shuffled": shuffled}.items():
        context = EvaluationContext(small, synthetic_side(small, cohort), with_plots=True)
        rows = pooled(compute(context, ids))
        found[name] = {m: r for m in ids if (r := headline(rows, m, key1="outcome")) is not None}
        assert len(context.plots["ranking"][0]["models"]) == 9
    for metric in ids:
        assert found["fresh"][metric].ci_lo > found["fresh"][metric].null_value
        assert found["shuffled"][metric].value < found["fresh"][metric].value
    assert found["fresh"]["util.sra"].note.startswith("36 pairs")


def test_order_of_features(judged: Callable[..., MetricResult]) -> None:
    """In shuffled columns no feature matters, so that their order is by chance."""
    for metric in ("util.feature_spearman", "util.feature_overlap", "util.rbo"):
        fresh, shuffled = judged("fresh", metric, "outcome"), judged("marginal", metric, "outcome")
        assert fresh.value > shuffled.value
    assert judged("fresh", "util.feature_spearman", "outcome").value > 0.6
    assert judged("marginal", "util.feature_spearman", "outcome").value < 0.4
    assert judged("train_copy", "util.feature_overlap", "outcome", "lr").value == 1
    assert judged("mode", "util.feature_overlap", "outcome").status == "not_estimable"


def test_copies_of_training_rows_add_nothing(judged: Callable[..., MetricResult]) -> None:
    assert judged("train_copy", "util.augmentation", "outcome", "lr").value == pytest.approx(0, abs=0.002)
    assert judged("label_shuffled", "util.augmentation", "outcome", "lr").value < 0


def test_codes_without_a_label(coded_sides: RealSides) -> None:
    rows = {}
    cohorts = {"fresh": coded(1600, 77), "train": coded_sides.parts.train, "one": coded(1, 3)}
    for name in ("ref_marginal", "ref_mode"):
        cohorts[name] = reference_cohort(coded_sides, name)
    for name, cohort in cohorts.items():
        context = EvaluationContext(coded_sides, synthetic_side(coded_sides, cohort))
        rows[name] = headline(pooled(compute(context, ["util.dwpred"])), "util.dwpred")
    assert rows["train"].value == 0
    assert rows["fresh"].value < 2 * rows["fresh"].null_value
    assert rows["fresh"].n == 50
    assert rows["ref_marginal"].ci_lo > 5 * rows["fresh"].value
    assert rows["ref_mode"].ci_lo > rows["fresh"].ci_hi
    assert rows["one"].status == "underpowered"


def test_literal_variants_and_their_flaws(asked: RealSides, variant: Callable[[str], Cohort]) -> None:
    """What nobody's death predicts is highly accurate where few die; TRTS likes outcomes that are too neat."""
    rare = edited(variant("fresh"), lambda n, x: pa.chunked_array([[False] * len(x)]) if n == "died" else x)
    for metric in ("lit.btgan.accuracy", "lit.btgan.f1"):
        spec = find_metric(metric).spec
        assert spec.flaw
        assert len(spec.published) == 16
        assert isinstance(spec.published[0], Published)
    context = EvaluationContext(asked, synthetic_side(asked, rare))
    accuracy, f1 = (headline(pooled(compute(context, [m])), m) for m in ("lit.btgan.accuracy", "lit.btgan.f1"))
    alive = 100 * np.mean([not d for d in died_of(asked.parts.holdout)])
    assert accuracy.value == pytest.approx(alive)
    assert f1.value == 0
    neat = EvaluationContext(asked, synthetic_side(asked, FAULTS["extreme"](variant)))
    there = headline(pooled(compute(neat, ["lit.yan.trts"])), "lit.yan.trts", key1="outcome")
    assert there.ci_lo > real_scores(asked, TASK, "hgb").auc


ONE_CLASS = "only one class"


@pytest.mark.parametrize(
    "fault", ["one_row", "one_class", "no_label", "three_positives", "nothing_known", "strange_levels"]
)
def test_bad_input_gives_numbers_or_reasons(small: RealSides, fault: str) -> None:
    rng = np.random.default_rng(3)
    cohort = people(300, 80, prefix="bad")
    few = pa.chunked_array([rng.permutation(np.arange(300) < 3)])

    def change(name: str, x: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        if name == "died" and fault in ("one_class", "no_label", "three_positives"):
            return {"one_class": pa.array([True] * 300), "no_label": pa.nulls(300, x.type), "three_positives": few}[
                fault
            ]
        if name in ("age", "lab_a") and fault == "nothing_known":
            return pa.nulls(300, x.type)
        if name == "sex" and fault == "strange_levels":
            return pa.array(["other"] * 300)
        return x

    cohort = people(1, 81) if fault == "one_row" else edited(cohort, change)
    cheap = [m for m in UTILITY if find_metric(m).spec.cost in "AB"]
    rows = compute(EvaluationContext(small, synthetic_side(small, cohort), with_plots=True), cheap)
    assert {r.metric for r in rows} == set(cheap)
    for row in rows:
        assert row.value is None or np.isfinite(row.value)
        assert row.value is not None or row.note
        if row.value is not None and row.ci_lo is not None:
            assert row.ci_lo - 1e-9 <= row.value <= row.ci_hi + 1e-9
    by_key = {(r.metric, r.key1, r.key2): r for r in rows}
    if fault in ("one_row", "one_class"):
        assert ONE_CLASS in by_key["util.tstr_auroc", "outcome", ""].note
        assert by_key["util.tstr_auroc", "outcome", ""].value == 0.5


def test_several_rows_a_person_widen_the_interval(parts: Parts) -> None:
    """Every holdout row three times, of the same people: the intervals stay; as people of their own they shrink."""
    holdout = parts.holdout.take(np.repeat(np.arange(400), 3))
    strangers = replace(holdout, subject=np.array([f"s{i}" for i in range(1200)]))
    errors = []
    for part in (holdout, strangers):
        plan = EvaluationPlan((TASK,), analyses=ANALYSES[:1], profile="quick")
        sides = RealSides(Parts.of_two(parts.train, part), plan)
        rows = compute(
            EvaluationContext(sides, synthetic_side(sides, people(2400, 90))), ["util.trtr_auroc", "util.auprc"]
        )
        errors.append([r.se for r in rows])
    assert (np.array(errors[0]) > 1.4 * np.array(errors[1])).all()


def test_no_task_and_no_analysis(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    plain = RealSides(sides.parts, EvaluationPlan(profile="quick"))
    rows = compute(
        EvaluationContext(plain, synthetic_side(plain, variant("fresh"))), [*INFERENCE, "util.ratio", "util.f1"]
    )
    assert {r.metric for r in rows} == {*INFERENCE, "util.ratio", "util.f1"}
    assert {r.status for r in rows} == {"not_applicable"}


def test_neither_an_unsuitable_outcome_nor_few_people_give_numbers(parts: Parts) -> None:
    wrong = AnalysisSpec(name="wrong", kind="logistic", outcome="pressure", covariates=["age"])
    number = AnalysisSpec(name="number", kind="linear", outcome="ward", covariates=["age"])
    few = Parts.of_two(people(40, 1), people(30, 2))
    for given, analyses, status in (
        (parts, (wrong,), "not_estimable"), (parts, (number,), "not_estimable"), (few, ANALYSES[:1], "underpowered"),
    ):  # fmt: skip
        sides = RealSides(given, EvaluationPlan(analyses=analyses, profile="quick"))
        context = EvaluationContext(sides, synthetic_side(sides, people(100, 5)))
        for row in compute(context, ["util.inference.sign_agreement", "util.inference.false_positive_rate"]):
            assert row.status == status
            assert row.note


def test_figures_of_the_report(asked: RealSides, variant: Callable[[str], Cohort]) -> None:
    context = EvaluationContext(asked, synthetic_side(asked, variant("fresh")), with_plots=True)
    rows = pooled(compute(context, [m for m in UTILITY if find_metric(m).spec.cost in "AB"]))
    figures = [f for draw in FIGURES for f in draw(rows, context.plots)]
    ids = [f["id"] for f in figures]
    assert len(set(ids)) == len(ids)
    for start in ("utility-dumbbell", "precision-recall", "calibration", "forest", "survival"):
        assert any(i.startswith(f"figure-{start}") for i in ids)
    tables = [t for tabulate in TABLES for t in tabulate(rows, context.plots)]
    assert [t["id"] for t in tables] == ["table-tasks", "table-false-positives"]
    json.dumps([figures, tables, context.plots], allow_nan=False)
    assert not context.internal
    for draw in FIGURES:
        assert draw([], {}) == []
    curve = context.plots["survival"][0]
    deaths = np.diff(np.array(curve["real"])) * 1200
    assert (deaths <= -10).all()
