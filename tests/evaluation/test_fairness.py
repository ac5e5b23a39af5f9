"""Fairness against independent implementations, names of groups, and bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from toy_people import TASK, coded, edited, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.fairness import METRICS
from pipeline.evaluation.fairness.explanations import ExplanationError, linear_shapley, tree_shapley
from pipeline.evaluation.fairness.gaps import MEASURES
from pipeline.evaluation.fairness.groups import crossings
from pipeline.evaluation.fairness.leakage import best_guess, guessed, mutual_information
from pipeline.evaluation.fairness.predictions import at_prevalence, measure, predicted, splits, widest_parity
from pipeline.evaluation.fairness.representation import discoveries, log_disparity
from pipeline.evaluation.fairness.subgroups import divergence
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, run_evaluation
from pipeline.evaluation.utility.learners import Learner
from pipeline.features.evaluation_spec import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.fairness.predictions import Predicted, Split
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

LITERAL = [
    *(f"lit.btgan.{name}" for name in ("parity_gap", "auroc_gap", "data_leakage", "model_leakage", "ldss")),
    "lit.sdv.equalized_odds_improvement",
]
ALL = [*(name for name in METRICS if not name.endswith("_trees")), *LITERAL]
PLAN = EvaluationPlan((TASK,), protected=("sex", "ward", "age"), profile="quick")


@pytest.fixture(scope="module")
def fresh(parts: Parts, variant: Callable[[str], Cohort]) -> EvaluationContext:
    sides = RealSides(parts, PLAN)
    return EvaluationContext(sides, synthetic_side(sides, variant("fresh")), with_plots=True)


@pytest.fixture(scope="module")
def judged(fresh: EvaluationContext) -> tuple[Predicted, list[Split]]:
    found = predicted(fresh, TASK, "tstr", "lr")
    assert not isinstance(found, str)
    return found, [s.judgeable() for s in splits(fresh, TASK, found)]


@pytest.mark.parametrize("attribute", ["sex", "ward", "age"])
def test_gaps_agree_with_fairlearn(judged: tuple[Predicted, list[Split]], attribute: str) -> None:
    from fairlearn.metrics import (
        MetricFrame,
        demographic_parity_difference,
        equal_opportunity_difference,
        equalized_odds_difference,
        selection_rate,
        true_positive_rate,
    )
    from sklearn.metrics import roc_auc_score

    found, split = judged[0], next(s for s in judged[1] if s.name == attribute)
    among = split.number >= 0
    called = at_prevalence(found.scores, found.truth)
    assert set(np.unique(called)) == {0.0, 1.0}
    assert called.sum() == found.truth.sum()
    y, guess, group = found.truth[among], called[among], split.number[among]
    ours = measure(found, split)
    frame = MetricFrame(
        metrics={"rate": selection_rate, "tpr": true_positive_rate}, y_true=y, y_pred=guess, sensitive_features=group
    )
    assert ours.rate[0] == pytest.approx(frame.by_group["rate"].to_numpy(), abs=1e-6)
    assert ours.true_positive[0] == pytest.approx(frame.by_group["tpr"].to_numpy(), abs=1e-6)
    areas = [roc_auc_score(y[group == g], found.scores[among][group == g]) for g in range(len(split.groups))]
    assert ours.auroc[0] == pytest.approx(areas)
    theirs = {
        "parity": demographic_parity_difference,
        "equal_opportunity": equal_opportunity_difference,
        "equalised_odds": equalized_odds_difference,
    }
    for name, function in theirs.items():
        # Theirs have no sign; ours have one where there are two groups.
        assert abs(MEASURES[name](ours)[0]) == pytest.approx(function(y, guess, sensitive_features=group), abs=1e-6)


def test_the_widest_parity_gap_is_the_two_sample_distance(judged: tuple[Predicted, list[Split]]) -> None:
    from scipy.stats import ks_2samp

    found, split = judged[0], next(s for s in judged[1] if s.name == "sex")
    expected = ks_2samp(found.scores[split.number == 0], found.scores[split.number == 1]).statistic
    assert widest_parity(found, split)[0] == pytest.approx(expected, abs=1e-6)


def test_ties_at_the_threshold_are_called_in_part() -> None:
    truth = np.array([True, True, True, False, False, False])
    assert at_prevalence(np.full(6, 0.2), truth) == pytest.approx(np.full(6, 0.5))
    assert at_prevalence(np.array([0.9, 0.4, 0.4, 0.4, 0.4, 0.1]), truth) == pytest.approx([1, 0.5, 0.5, 0.5, 0.5, 0])
    assert not at_prevalence(np.full(6, 0.2), np.zeros(6, dtype=bool)).any()


def test_disparity_and_discoveries() -> None:
    from scipy.stats import false_discovery_control

    value, variance = log_disparity(10, 100, 20, 100)
    assert value == pytest.approx(math.log((10.5 / 90.5) / (20.5 / 80.5)))
    assert variance == pytest.approx(1 / 10.5 + 1 / 90.5 + 1 / 20.5 + 1 / 80.5)
    chances = np.random.default_rng(1).random(60) ** 3
    expected = false_discovery_control(chances) <= 0.05
    assert 0 < expected.sum() < 60
    assert (discoveries(chances, 0.05) == expected).all()
    assert not discoveries(np.full(5, 0.5), 0.05).any()


def test_leakage_is_what_a_classifier_reaches(judged: tuple[Predicted, list[Split]]) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, mutual_info_score

    rng = np.random.default_rng(2)
    group = np.repeat([0, 1, 2], 2000)
    yes = (rng.random(6000) < np.array([0.2, 0.5, 0.7])[group]).astype(float)
    rates = np.array([[yes[group == g].mean() for g in range(3)]])
    model = LogisticRegression(class_weight="balanced").fit(yes[:, None], group)
    accuracy = balanced_accuracy_score(group, model.predict(yes[:, None]))
    assert best_guess(rates)[0] == pytest.approx(accuracy, abs=1e-9)
    assert guessed(yes, group, np.arange(6000), 3, rng) == pytest.approx(accuracy, abs=0.005)
    counts = np.full(3, 2000.0)
    bits = mutual_info_score(group, yes) / np.log(2)
    # Theirs is the plug-in estimate; ours is less by what independence would give: two degrees of freedom.
    assert mutual_information(rates, counts)[0] == pytest.approx(bits - 2 / (2 * 6000 * np.log(2)), abs=1e-6)


def test_independent_labels_betray_nothing() -> None:
    rng = np.random.default_rng(5)
    group, people_of = np.repeat([0, 1], [300, 60]), np.arange(360)
    found = [guessed((rng.random(360) < 0.3).astype(float), group, people_of, 2, rng) for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.015)


def test_flipping_labels_at_the_models_error_rates_scales_the_difference() -> None:
    """What the adjusted leakage takes for granted, by simulation."""
    rng = np.random.default_rng(8)
    group = np.repeat([0, 1], 200_000)
    truth = rng.random(400_000) < np.where(group == 0, 0.2, 0.4)
    found_rate, false_rate = 0.6, 0.1
    flipped = np.where(truth, rng.random(400_000) < found_rate, rng.random(400_000) < false_rate)
    difference = flipped[group == 1].mean() - flipped[group == 0].mean()
    assert difference == pytest.approx((found_rate - false_rate) * 0.2, abs=0.005)


def test_divergence_agrees_with_scipy() -> None:
    from scipy.spatial.distance import jensenshannon

    p, q = np.array([0.2, 0.0, 0.5, 0.3]), np.array([0.1, 0.4, 0.5, 0.0])
    assert divergence(p, q).sum() == pytest.approx(jensenshannon(p, q, base=2) ** 2)


def test_shapley_values_of_a_linear_score_add_up() -> None:
    rng = np.random.default_rng(3)
    weights, features = rng.normal(size=5), rng.normal(size=(50, 5))
    values = linear_shapley(weights, features)
    score = features @ weights
    assert values.sum(axis=1) == pytest.approx(score - score.mean())
    # By enumeration of all 16 coalitions of the others, for one cell.
    from itertools import combinations

    mean, total = features.mean(axis=0), 0.0
    for size in range(5):
        for others in combinations([1, 2, 3, 4], size):
            chosen = np.isin(np.arange(5), others)
            without = np.where(chosen, features[7], mean) @ weights
            with_it = np.where(chosen | (np.arange(5) == 0), features[7], mean) @ weights
            total += math.factorial(size) * math.factorial(4 - size) / math.factorial(5) * (with_it - without)
    assert values[7, 0] == pytest.approx(total)


def test_shapley_values_of_trees_are_checked() -> None:
    """shap reads names of levels as numbers in boosting: its values do not add up, and are refused."""
    pytest.importorskip("shap")
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=600), rng.integers(0, 5, 600).astype(float)])
    y = x[:, 0] + 2 * np.isin(x[:, 1], [1, 3]) + rng.normal(size=600) > 1
    forest = RandomForestClassifier(20, random_state=0).fit(x, y)
    values = tree_shapley(Learner("rf", forest, (), 0.5), x[:50])
    assert values.shape == (50, 2)
    boosted = HistGradientBoostingClassifier(max_iter=20, categorical_features=[False, True]).fit(x, y)
    with pytest.raises(ExplanationError):
        tree_shapley(Learner("hgb", boosted, (), 0.5), x[:50])


def test_groups_are_named_for_people_and_rare_ones_never(parts: Parts, fresh: EvaluationContext) -> None:
    names = {g.name for c in crossings(fresh.sides) for g in c.groups}
    assert {"sex = female", "ward missing", "died = yes", "sex = female, ward = a", "sex = male, died = no"} <= names
    assert any(n.startswith("age = over ") for n in names)
    ward = np.array(parts.train.table.column("ward").to_pylist(), dtype=object)
    few = np.flatnonzero(ward == "d")[:6]
    train = parts.train.take(np.concatenate([np.flatnonzero(ward != "d"), few]))
    sides = RealSides(replace(parts, train=train), PLAN)
    context = EvaluationContext(sides, synthetic_side(sides, people(1500, 5)), with_plots=True)
    rows = compute(context, ALL)
    shown = json.dumps([[r.key1, r.key2, r.note] for r in rows]) + json.dumps(context.plots)
    assert "ward = d" not in shown
    assert "ward = c" in shown
    for crossing in crossings(sides):
        assert all(min(g.train, g.holdout) >= 11 for g in crossing.groups)
        if len(crossing.attributes) == 3:
            assert all(g.holdout >= 200 for g in crossing.groups)


def test_every_figure_is_drawn_and_holds_no_small_count(fresh: EvaluationContext) -> None:
    from pipeline.evaluation.report.figures import fairness, representation, what_matters

    modules = (representation, fairness, what_matters)
    found = run_evaluation(fresh.sides.parts, [fresh.synthetic.cohort], PLAN, metrics=ALL)
    figures = [f for m in modules for draw in m.FIGURES for f in draw(found.results, found.details)]
    tables = [t for m in modules for make in m.TABLES for t in make(found.results, found.details)]
    assert len(figures) == 7
    assert all(t["rows"] for t in tables)
    assert len({f["id"] for f in figures}) == 7
    json.dumps([figures, tables], allow_nan=False)
    lightest = min(g["real"] for g in found.details["representation"])
    assert lightest * len(fresh.sides.holdout) >= 10.9
    for module in modules:
        assert [f for draw in module.FIGURES for f in draw([], {})] == []


BAD = ("one_row", "few", "one_class", "unseen", "missing", "constant")


def _bad(name: str) -> Cohort:
    rows = people(1 if name == "one_row" else 400, 31)

    def change(column: str, x: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        n = len(x)
        if name == "few" and column == "ward":
            return pa.array((["a"] * (n - 3)) + ["b"] * 3)
        if name == "one_class" and column == "died":
            return pa.array([False] * n)
        if name == "unseen" and column in ("sex", "ward"):
            return pa.array(["elsewhere"] * n)
        if name == "missing" and column not in ("id", "visits"):
            return pa.nulls(n, x.type)
        if name == "constant" and column not in ("id",):
            return pa.concat_arrays([x.combine_chunks()[:1]] * n)
        return x

    return edited(rows, change)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_a_value_or_a_reason(fresh: EvaluationContext, name: str) -> None:
    _sound(compute(EvaluationContext(fresh.sides, synthetic_side(fresh.sides, _bad(name)), with_plots=True), ALL))


def test_several_rows_a_subject_tiny_groups_and_no_reference(parts: Parts) -> None:
    stays = parts.holdout.take(np.repeat(np.arange(300), 3))
    few = Parts.of_two(parts.train.take(np.arange(200)), stays)
    sides = RealSides(few, PLAN)
    _sound(compute(EvaluationContext(sides, synthetic_side(sides, people(200, 8))), ALL))
    tiny = RealSides(Parts.of_two(parts.train.take(np.arange(20)), parts.holdout.take(np.arange(9))), PLAN)
    rows = compute(EvaluationContext(tiny, synthetic_side(tiny, people(20, 8))), ALL)
    _sound(rows)
    assert next(r for r in rows if r.metric == "fair.ldss").status != "estimated"


@pytest.mark.parametrize("plan", [
    EvaluationPlan((TASK,), profile="quick"),
    EvaluationPlan(protected=("sex",), profile="quick"),
    EvaluationPlan((TaskSpec(name="sum", label="visits"), TASK), protected=("died", "visits"), profile="quick"),
])  # fmt: skip
def test_plans_without_task_or_attribute_or_with_odd_ones(parts: Parts, plan: EvaluationPlan) -> None:
    sides = RealSides(parts, plan)
    rows = compute(EvaluationContext(sides, synthetic_side(sides, people(500, 8))), ALL)
    _sound(rows)
    for name in ALL:
        top = next(r for r in rows if r.metric == name)
        if not plan.protected and name not in ("xai.shap_rank", "xai.shap_top"):
            assert top.status == "not_applicable", name


def test_codes_are_explained_and_compared(coded_sides: RealSides) -> None:
    task = TaskSpec(name="ill", label="ill", positive=True)
    plan = EvaluationPlan((task,), protected=("age",), profile="quick")
    sides = RealSides(coded_sides.parts, plan)
    context = EvaluationContext(sides, synthetic_side(sides, coded(1600, 9)), with_plots=True)
    rows = compute(context, ["fair.group.jsd", "xai.shap_rank", "xai.shap_subgroup", "fair.ldss"])
    _sound(rows)
    assert abs(rows[0].value) < 0.01
    ranks = context.plots["explanations"]["ill"]["ranks"]
    assert any(r["column"] == "age" and r["protected"] for r in ranks)
    assert any(r["column"].startswith("diagnoses C") for r in ranks)


def _sound(rows: list[MetricResult]) -> None:
    """A value and finite ends, or a reason."""
    assert {r.metric for r in rows} <= set(ALL)
    keys = [(r.metric, r.scope, r.key1, r.key2) for r in rows]
    assert len(keys) == len(set(keys))
    for row in rows:
        if row.value is None:
            assert row.note, row
            continue
        for end in (row.value, row.ci_lo, row.ci_hi, row.se, row.null_value):
            assert end is None or math.isfinite(end), row
        assert row.ci_lo is None or row.ci_lo <= row.value + 1e-9, row
        assert row.ci_hi is None or row.ci_hi >= row.value - 1e-9, row


def test_long_columns_are_pooled(parts: Parts) -> None:
    """A column with a level for every second person has no group but the pool; three of them are no burden."""

    def longer(cohort: Cohort) -> Cohort:
        column = next(c for c in cohort.schema.columns if c.name == "ward")
        levels = [f"w{i}" for i in range(1200)]
        columns = [c.model_copy(update={"levels": levels}) if c is column else c for c in cohort.schema.columns]
        schema = cohort.schema.model_copy(update={"columns": columns})
        ward = pa.array([levels[i % 1200] for i in range(cohort.n_rows)])
        return replace(edited(cohort, lambda n, x: ward if n == "ward" else x), schema=schema)

    sides = RealSides(
        Parts(*(longer(getattr(parts, n)) for n in ("train", "holdout", "reference0", "reference1"))), PLAN
    )
    groups = {c.name: [g.name for g in c.groups] for c in crossings(sides)}
    assert groups["ward"] == ["rare groups of ward"]
    assert groups["ward x age"] == ["rare groups of ward x age"]
    context = EvaluationContext(sides, synthetic_side(sides, longer(people(1200, 9))))
    rows = compute(context, ["fair.ldss", "fair.absent", "fair.group.jsd", "fair.gap.auroc"])
    _sound(rows)
    assert not [r for r in rows if "w1" in f"{r.key1} {r.key2}"]


def test_forests_are_explained_where_shap_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("shap")
    sides = RealSides(Parts(people(500, 1), people(300, 2), people(100, 3), people(100, 4)), PLAN)
    context = EvaluationContext(sides, synthetic_side(sides, people(500, 9)))
    top, row = compute(context, ["xai.shap_rank_trees"])
    assert top.note == row.key1 == "outcome"
    assert 0.3 < top.value <= 1
    assert row.note == "10 columns"
    monkeypatch.setattr("pipeline.evaluation.fairness.what_matters.find_spec", lambda name: None)
    assert "explain" in compute(context, ["xai.shap_rank_trees"])[0].note


def test_too_few_outcomes_are_underpowered_with_the_number_that_would_do(parts: Parts) -> None:
    few = replace(parts, holdout=parts.holdout.take(np.arange(120)))
    sides = RealSides(few, EvaluationPlan((TASK,), protected=("sex",), profile="quick"))
    rows = compute(EvaluationContext(sides, synthetic_side(sides, people(500, 8))), ["fair.delta_auroc_gap"])
    assert [(r.key1, r.key2) for r in rows] == [("", ""), ("outcome", ""), ("outcome", "sex")]
    for row in rows:
        assert row.status == "underpowered"
        assert row.n < 100 < row.n_needed
        assert "second largest group of sex" in row.note


def test_the_price_of_fairness_stands_beside_real_rows_that_were_drawn_fairly(fresh: EvaluationContext) -> None:
    from pipeline.evaluation.fairness.price import independent_rows

    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 4000)
    label = rng.random(4000) < 0.2 + 0.4 * group
    chosen = independent_rows(group, label, rng)
    rates = [label[chosen][group[chosen] == g].mean() for g in (0, 1)]
    assert rates[0] == pytest.approx(rates[1], abs=0.002)
    assert len(chosen) == pytest.approx(4000, abs=2)
    assert np.mean(group[chosen]) == pytest.approx(group.mean(), abs=0.001)
    loss, gap = (compute(fresh, [f"fair.price.{name}"]) for name in ("auroc", "parity"))
    assert loss[0].value is not None
    assert loss[0].null_value is not None
    assert abs(loss[0].value) < 0.1
    row = next(r for r in gap if r.key2 == "sex")
    plain = next(r for r in compute(fresh, ["fair.gap.parity"]) if r.key2 == "sex/tstr")
    assert row.value == pytest.approx(abs(plain.value or 0.0))
