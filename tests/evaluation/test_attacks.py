"""Membership attacks and size-free comparisons against brute force, closed forms and other implementations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.stats import gaussian_kde
from toy_people import joined, people

from pipeline.errors import ConfigError
from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.intervals import clopper_pearson, delong, tpr_at_fpr
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.privacy.attacks import Attacks, attack, log_density, target_people, within_radius
from pipeline.evaluation.privacy.epsilon import epsilon_bound
from pipeline.evaluation.privacy.membership import rate_interval
from pipeline.evaluation.privacy.nearness import Listed, listed, nearer, standard_error
from pipeline.evaluation.privacy.outliers import flagged_share, outlierness
from pipeline.evaluation.privacy.shadow import shadow_attack
from pipeline.evaluation.protocol import compute, headline, pooled
from pipeline.generators.registry import generator_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort


def judge(context: EvaluationContext, metric: str, key1: str = "") -> MetricResult:
    row = headline(pooled(compute(context, [metric])), metric, key1=key1)
    assert row is not None
    return row


def on(sides: RealSides, cohort: Cohort) -> EvaluationContext:
    return EvaluationContext(sides, synthetic_side(sides, cohort))


def test_epsilon_by_hand() -> None:
    """The example of the specification: 109 of 1,000 members against 10 of 1,000 others."""
    assert epsilon_bound(109, 1000, 10, 1000) == pytest.approx(1.60, abs=0.01)
    low, high = clopper_pearson(109, 1000)[0], clopper_pearson(10, 1000)[1]
    assert epsilon_bound(109, 1000, 10, 1000, delta=0.01) == pytest.approx(np.log((low - 0.01) / high))
    assert epsilon_bound(0, 1000, 0, 1000) == -np.inf


def test_epsilon_is_seldom_proved_by_chance(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    """Scores without information: a 95 % bound above 0 must be rare although attack and threshold are picked."""
    rng = np.random.default_rng(3)
    members = np.repeat([True, False], 400)
    proved = 0
    for _ in range(40):
        context = on(sides, variant("fresh"))
        made = {name: rng.normal(size=800) for name in "abcd"}
        context.once("priv.mia", lambda made=made: Attacks(made, members, {}, ""))  # type: ignore[misc]
        context.sides._kept.pop("priv/halves", None)
        proved += judge(context, "priv.mia.epsilon_lower").value > 0
    context.sides._kept.pop("priv/halves", None)
    assert proved <= 5


def test_size_free_comparison_is_the_mean_over_subsamples() -> None:
    """With ties, pools of different sizes, and enough known neighbours."""
    rng = np.random.default_rng(0)
    query, a, b = (rng.integers(0, 40, size) / 40 for size in (50, 12, 6))

    def pool(x: np.ndarray, size: int) -> Listed:
        distance = np.abs(query[:, None] - x[None, :])
        order = np.argsort(distance, axis=1, kind="stable")
        return Listed(np.take_along_axis(distance, order, axis=1), order, len(x), size)

    found = nearer(pool(a, 6), pool(b, 6))
    drawn = np.zeros((4000, len(query)))
    for k in range(len(drawn)):
        chosen = a[rng.choice(len(a), 6, replace=False)]
        left, right = (np.abs(query[:, None] - x[None, :]).min(axis=1) for x in (chosen, b))
        drawn[k] = (left < right) + 0.5 * (left == right)
    np.testing.assert_allclose(found, drawn.mean(axis=0), atol=4.5 * 0.5 / len(drawn) ** 0.5)
    np.testing.assert_allclose(found + nearer(pool(b, 6), pool(a, 6)), 1.0)


def test_six_neighbours_are_enough(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    """Pools are at most twice as large as their subsamples: against all distances the error is negligible."""
    context = on(sides, variant("fresh"))
    train, holdout = listed(context, "S", "T", 1200), listed(context, "S", "H", 1200)
    assert (train.total, train.size) == (2400, 1200)
    points = {name: context.side(name).points.dense.astype(float) for name in "STH"}
    rows = context.rows("S")[:300]
    near = {n: np.sort(((points["S"][rows, None] - points[n][None]) ** 2).sum(axis=2), axis=1) for n in "TH"}
    closer = (near["T"] < near["H"][:, :1]).sum(axis=1)
    none = np.array([np.prod([1 - 1200 / (2400 - i) for i in range(c)]) for c in closer])
    np.testing.assert_allclose(nearer(train, holdout)[:300].mean(), (1 - none).mean(), atol=0.002)


def test_errors_count_pieces_of_evidence() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2, 400).astype(float)
    alone = standard_error(values, np.arange(400))
    assert alone == pytest.approx(0.5 / 20, rel=0.05)
    assert standard_error(np.repeat(values, 4), np.repeat(np.arange(400), 4)) == pytest.approx(alone)
    assert standard_error(np.ones(500), np.zeros(500, dtype=int)) == 0.5


def test_kernel_density_agrees_with_scipy_on_whitened_rows() -> None:
    """scipy scales its kernels by the covariance of the points; where that is 1 both are Scott's."""
    rng = np.random.default_rng(2)
    raw, at = rng.normal(size=(300, 4)), 2 * rng.normal(size=(60, 4))
    points = (raw - raw.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    expected = gaussian_kde(points.T, "scott").logpdf(at.T) + 2 * np.log(2 * np.pi)
    found = log_density(at.astype(np.float32), points.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_rows_within_a_radius(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    context = on(sides, variant("copy_10pct"))
    nearest = np.concatenate([context.near(name, "S", k=1).distance[:, 0] for name in ("T", "H")])
    found = within_radius(context, nearest)
    points = [context.side(name).points.dense[context.rows(name)].astype(float) for name in ("T", "H")]
    query, reference = np.concatenate(points), context.synthetic.points.dense.astype(float)
    radius = np.median(nearest) ** 2 * len(context.sides.encoder.columns)
    for i in range(0, len(query), 97):
        within = (((query[i] - reference) ** 2).sum(axis=1) <= radius * (1 + 1e-6)).sum()
        assert abs(found[i] - within) <= (1 if i % 2 == 0 or within else 0)


def test_error_of_a_rate_counts_that_of_its_threshold() -> None:
    """Scores without information: the spread over samples is that of both sides, not of the members alone."""
    rng = np.random.default_rng(4)
    members = np.repeat([True, False], 2000)
    rates, errors = [], []
    for _ in range(150):
        scores = rng.normal(size=4000)
        rates.append(tpr_at_fpr(scores, members, 0.01))
        errors.append(rate_interval(scores, members, 0.01)[0])
    assert np.mean(errors) == pytest.approx(np.std(rates), rel=0.2)
    copied = np.where(members, 1.0, 0.0)
    assert rate_interval(copied, members, 0.01) == (0.0, *clopper_pearson(2000, 2000))


def test_ties_at_the_top_are_flagged_by_lot() -> None:
    """Copies of coarse rows: 5 % of strangers look exactly like a copied person, so that nobody lies above them."""
    members = np.repeat([True, False], 1_000)
    scores = np.r_[np.ones(1_000), np.ones(50), np.linspace(0, 0.9, 950)]
    flagged = flagged_share(scores, members, 0.01)
    assert flagged[~members].mean() == pytest.approx(0.01)
    assert flagged[members].mean() == pytest.approx(0.2)
    apart = flagged_share(np.random.default_rng(0).normal(size=2_000), members, 0.01)
    assert apart[~members].mean() == pytest.approx(0.01)
    assert (np.unique(apart) <= 1).all()


def test_somebody_with_several_rows_counts_once() -> None:
    def stays(n: int, seed: int) -> Cohort:
        once = people(n, seed, prefix="p")
        more = people(n, seed + 50, prefix="p")
        return joined(once, replace(more, subject=once.subject))

    real = RealSides(Parts(stays(300, 1), stays(300, 2), stays(200, 3), stays(200, 4)), EvaluationPlan(profile="quick"))
    second = real.parts.train.take(np.arange(300, 600))
    context = on(real, joined(people(300, 9), second))
    found = attack(context)
    assert found.people == (300, 300)
    assert found.aucs["nn"].value > 0.99
    assert judge(context, "priv.mia.nn_auc").n == 300
    rows = -np.concatenate([context.near(name, "S", k=1).distance[:, 0] for name in ("T", "H")])
    by_row = delong(rows, np.repeat([True, False], 600))
    assert by_row.value < 0.8


def test_copies_of_the_most_unusual_people_only(sides: RealSides) -> None:
    """A tenth of people is copied, those who lie alone: they are given away, and the AUC over all hardly moves."""
    context = on(sides, people(2400, 60))
    unusual = outlierness(context)
    by_row = unusual[target_people(context)[: len(context.rows("T"))]]
    alone = np.argsort(-by_row)[:100]
    rows = sides.train.order[context.rows("T")[alone]]
    leaky = on(sides, joined(people(2300, 61), sides.parts.train.take(rows)))
    assert judge(leaky, "priv.mia.outlier_auc").ci_lo > 0.6
    assert judge(leaky, "priv.mia.outlier_tpr").ci_lo > 0.3
    assert judge(leaky, "priv.mia.max_auc").value < 0.6
    leaky.with_plots = True
    judge(leaky, "priv.mia.outlier_auc")
    deciles = {row["decile"]: row["auc"] for row in leaky.plots["outlierness"]["deciles"]}
    assert deciles[10] == max(deciles.values())


def test_boosted_classifier_is_an_attack_of_the_standard_profile(parts: Parts) -> None:
    real = RealSides(parts, EvaluationPlan(profile="standard"))
    copied, fresh = on(real, parts.train), on(real, people(2400, 55))
    assert judge(copied, "priv.mia.domias_clf_auc").ci_lo > 0.53
    clean = judge(fresh, "priv.mia.domias_clf_auc")
    assert abs(clean.value - 0.5) < 3 * clean.se
    quick = on(RealSides(parts, EvaluationPlan(profile="quick")), parts.train)
    assert "domias_clf" not in attack(quick).scores


def test_curves_show_no_fewer_than_eleven_people(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    context = on(sides, variant("copy_10pct"))
    context.with_plots = True
    compute(context, ["priv.mia.max_auc", "priv.dcr_share", "priv.exact_unique"])
    drawn = context.plots["membership"]
    assert set(drawn["curves"]) == set(attack(context).scores)
    for curve in drawn["curves"].values():
        assert min(curve["fpr"]) * drawn["others"] >= 11
        assert min(curve["tpr"]) * drawn["members"] >= 10.9
    for name, share in context.plots["distances"]["share"].items():
        steps = np.diff(np.unique(share)) * len(context.rows("R0" if name.startswith("fresh") else "S"))
        assert (steps > 10.5).all()
    listed_people = context.internal["copies"]
    assert len(listed_people) == 50
    assert all(row["recognisable"] and row["times"] == 1 for row in listed_people)
    subjects = set(context.side("T").cohort.subject)
    assert not subjects & {row["person"] for row in listed_people}


def _trained(name: str) -> Callable[[Cohort, int], Cohort]:
    def make(training: Cohort, seed: int) -> Cohort:
        model = generator_class(name)({})
        model.fit(training, seed=seed)
        return model.sample(training.n_rows, seed=seed)

    return make


@pytest.mark.parametrize(("name", "leaks"), [("bootstrap", True), ("independent", False)])
def test_shadow_models(name: str, leaks: bool) -> None:
    real = Parts.of_two(people(500, 1), people(300, 2))
    make = _trained(name)
    rows = shadow_attack(make, real, EvaluationPlan(profile="quick"), models=10, seed=1, released=make(real.train, 5))
    found = {(r.metric, r.key1): r for r in rows if not r.key2}
    procedure, released = found["priv.mia.shadow_auc", ""], found["priv.mia.shadow_auc", "released"]
    assert found["priv.mia.shadow", ""].status == "underpowered"
    assert found["priv.mia.shadow_tpr_at_1pct_fpr", "released"].n_needed == 1000
    rate = found["priv.mia.shadow_tpr_at_1pct_fpr", ""]
    if leaks:
        # A resample holds 63 % of the people: the attack finds exactly those who are in it.
        assert rate.value == pytest.approx(1 - np.exp(-1), abs=0.05)
        assert procedure.value == pytest.approx(1 - np.exp(-1) / 2, abs=0.03)
        assert released.ci_lo > 0.7
    else:
        assert procedure.ci_lo < 0.5 < procedure.ci_hi
        assert released.ci_lo < 0.5
        assert rate.ci_lo < 0.012


def test_shadow_models_need_a_few() -> None:
    with pytest.raises(ConfigError, match="Train 8 to 256"):
        shadow_attack(_trained("independent"), Parts.of_two(people(60, 1), people(60, 2)), models=2)
