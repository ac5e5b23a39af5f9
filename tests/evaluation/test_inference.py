"""Regressions, survival curves and comparisons of effects against other implementations, by hand, and by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.intervals import subject_weights
from pipeline.evaluation.utility.effects import (
    Effects,
    claims,
    distances,
    interval_misses,
    interval_overlap,
    overlaps,
    rejected,
    same_conclusion,
    same_sign,
    same_sign_of_clear,
)
from pipeline.evaluation.utility.regression import fit_cox, fit_glm, independent
from pipeline.evaluation.utility.survival import Curve, FollowUp, area_between, drawn_curves, kaplan_meier

ROWS = np.arange(60)
X = np.column_stack([np.round(np.sin(1.7 * ROWS), 2), np.round(np.cos(2.9 * ROWS + 1), 2)])
WHOLE = np.column_stack([np.ones(60), X])
PAIRS = ROWS // 2
BINARY = (X[:, 0] - 0.5 * X[:, 1] + 1.5 * np.sin(5.3 * ROWS) > 0).astype(float)
COUNTS = np.floor(np.exp(0.6 * X[:, 0]) + 1.5 * np.abs(np.sin(3.1 * ROWS)))
TIME = np.round(10 * np.exp(-0.5 * X[:, 0]) * (1.2 + np.sin(7.7 * ROWS)), 3)
TIED = np.ceil(TIME)
DIED = ROWS % 3 > 0
FEW = np.sqrt(29 / 30)
"""Ours has the factor G / (G - 1) for G subjects; the frozen errors are without it."""


@pytest.mark.parametrize(
    ("family", "outcome", "coef", "se"),
    [
        ("logistic", BINARY, [-0.149446, 1.01996, -0.438465], [0.324396, 0.378296, 0.275116]),
        ("poisson", COUNTS, [0.501443, 0.350131, 0.005359], [0.062842, 0.073136, 0.023095]),
        ("linear", TIME, [13.104793, -6.862026, 0.05166], [1.049374, 1.548742, 1.356054]),
    ],
)
def test_generalised_linear_models_against_statsmodels(family, outcome, coef, se) -> None:
    """Frozen from statsmodels 0.15.0 in an environment of its own, with x, y and g the arrays above:

    sm.GLM(y, sm.add_constant(x), family=Binomial() or Poisson()).fit(tol=1e-14, cov_type="cluster",
    cov_kwds={"groups": g, "use_correction": False}), and sm.OLS(...) likewise: params and bse.
    """
    found = fit_glm(family, WHOLE, outcome, PAIRS)
    assert found.coef == pytest.approx(coef, abs=2e-6)
    assert found.se * FEW == pytest.approx(se, abs=2e-6)


def test_cox_against_lifelines_and_statsmodels() -> None:
    """Frozen from lifelines 0.30.3, CoxPHFitter().fit(df, "t", "e", cluster_col="g", robust=True), without ties; and from
    statsmodels 0.15.0, PHReg(ceil(t), x, status=e, ties="efron").fit(), with ties (its errors are not robust).
    """
    single = fit_cox(X, TIME, DIED, PAIRS)
    assert single.coef == pytest.approx([1.21151, -0.10318], abs=2e-5)
    assert single.se * FEW == pytest.approx([0.32162, 0.23726], abs=2e-5)
    assert fit_cox(X, TIED, DIED, PAIRS).coef == pytest.approx([1.197263, -0.061992], abs=2e-6)


def test_robust_errors_of_tied_times_against_the_jackknife() -> None:
    """No peer has robust errors for Efron's ties; leaving out every person in turn needs no formula."""
    rng = np.random.default_rng(5)
    x = rng.uniform(-1, 1, size=(300, 2))
    time = np.ceil(rng.exponential(np.exp(-0.7 * x[:, 0]) * 6)).clip(1, 12)
    died, people = rng.random(300) < 0.7, np.arange(300)
    whole = fit_cox(x, time, died, people)
    left = [fit_cox(np.delete(x, i, 0), np.delete(time, i), np.delete(died, i), people[1:]).coef for i in people]
    jackknife = np.sqrt(((np.array(left) - whole.coef) ** 2).sum(axis=0))
    assert whole.se == pytest.approx(jackknife, rel=0.05)


def test_robust_errors_grow_where_rows_repeat_people() -> None:
    once = fit_glm("logistic", WHOLE, BINARY, ROWS)
    thrice = [np.tile(a, (3, 1)) if a.ndim == 2 else np.tile(a, 3) for a in (WHOLE, BINARY, ROWS)]
    again = fit_glm("logistic", *thrice)
    assert again.coef == pytest.approx(once.coef, abs=1e-8)
    assert again.se == pytest.approx(once.se, rel=1e-6)
    naive = fit_glm("logistic", thrice[0], thrice[1], np.arange(180))
    assert naive.se == pytest.approx(once.se / np.sqrt(3), rel=0.02)


def test_what_cannot_be_estimated_is_said_not_invented() -> None:
    doubled = np.column_stack([WHOLE, X[:, 0] * 2, np.zeros(60)])
    assert independent(doubled).tolist() == [0, 1, 2]
    found = fit_glm("logistic", doubled, BINARY, ROWS)
    assert found.estimable.tolist() == [True, True, True, False, False]
    assert found.coef[:3] == pytest.approx(fit_glm("logistic", WHOLE, BINARY, ROWS).coef)
    separated = np.column_stack([WHOLE, BINARY * (ROWS % 2)])
    found = fit_glm("logistic", separated, BINARY, ROWS)
    assert found.estimable.tolist() == [True, True, True, False]
    assert "not vary" in fit_glm("logistic", WHOLE, np.ones(60), ROWS).reason
    assert "nobody" in fit_cox(X, TIME, np.zeros(60, dtype=bool), ROWS).reason
    assert fit_cox(np.zeros((60, 2)), TIME, DIED, ROWS).reason


def test_kaplan_meier_against_lifelines() -> None:
    """Frozen from lifelines 0.30.3, KaplanMeierFitter().fit(ceil(t), e).predict(time)."""
    order = np.argsort(TIED, kind="stable")
    people = FollowUp(TIED[order], DIED[order], ROWS[order])
    curve = kaplan_meier(people)
    times = np.array([2.0, 5, 10, 20, 30])
    frozen = [0.966667, 0.822967, 0.650718, 0.37824, 0.190443]
    assert curve.at(times) == pytest.approx(frozen, abs=1e-6)
    weights = subject_weights(ROWS, 3, np.random.default_rng(0))
    drawn = drawn_curves(people, np.vstack([np.ones((1, 60), dtype=np.float32), weights]), times)
    assert drawn[0] == pytest.approx(frozen, abs=1e-6)
    repeated = np.repeat(np.arange(60), weights[1].astype(int))
    again = kaplan_meier(FollowUp(people.time[repeated], people.event[repeated], ROWS[repeated]))
    assert drawn[2] == pytest.approx(again.at(times))


def test_area_between_curves_by_hand() -> None:
    nobody = np.zeros(2, dtype=np.int64)
    a = Curve(np.array([2.0, 6.0]), np.array([0.5, 0.25]), nobody, nobody)
    b = Curve(np.array([4.0, 9.0]), np.array([0.75, 0.0]), nobody, nobody)
    by_hand = (2 * 0 + 2 * 0.5 + 2 * 0.25 + 2 * 0.5) / 8
    assert area_between(a, b, 8.0) == pytest.approx(by_hand)
    assert area_between(a, a, 8.0) == 0


def effects(real, real_se, made, made_se) -> Effects:
    arrays = [np.array(a, dtype=float) for a in (real, real_se, made, made_se)]
    return Effects([f"e{i}" for i in range(len(real))], *arrays)


def test_overlap_of_intervals_by_hand() -> None:
    """Intervals of half-width 1.96 around 0 and 1.96: half of each; of widths 4 and 2 about the same place: (2/4 + 2/2) / 2."""
    one, z = np.array([1.0]), 1.959963984540054
    assert interval_overlap(0 * one, one, one * z, one) == pytest.approx(0.5)
    assert interval_overlap(0 * one, 2 * one, 0 * one, one) == pytest.approx(0.75)
    assert interval_overlap(0 * one, one, 5 * one, one) == 0
    lost = effects([1.0], [0.2], [np.nan], [np.nan])
    assert overlaps(lost)[0] == 0
    assert same_sign(lost)[0] == 0
    assert np.isnan(distances(lost)[0])


@pytest.mark.parametrize("ratio", [1.0, 2.0])
@pytest.mark.parametrize("compare", [overlaps, distances, same_sign, same_conclusion, rejected(1), interval_misses])
def test_expectations_are_what_other_real_people_give(compare, ratio: float) -> None:
    """Simulated: S is a fresh sample with errors of its own; the mean comparison is the mean expectation.

    An expectation that is conditional on what the real side found (`same_sign`, `same_conclusion`) is right on average
    over effects about which nothing is known beforehand, i.e. that are spread widely.
    """
    rng = np.random.default_rng(3)
    truth = rng.normal(size=20_000) * 8
    e = effects(
        truth + rng.normal(size=20_000),
        np.ones(20_000),
        truth + ratio * rng.normal(size=20_000),
        np.full(20_000, ratio),
    )
    value, expected = compare(e)
    assert value.mean() == pytest.approx(expected.mean(), abs=0.01)


def test_a_naive_test_of_copies_is_wrong_more_often() -> None:
    """S repeats its training people: its effects have twice the variance that it claims, against the truth."""
    rng = np.random.default_rng(4)
    n = 20_000
    training = rng.normal(size=n)
    e = effects(rng.normal(size=n), np.ones(n), training + rng.normal(size=n), np.ones(n))
    share = rejected(1)(e)[0].mean()
    assert share == pytest.approx(0.1096, abs=0.01)
    assert rejected(5)(e)[0].mean() > rejected(2)(e)[0].mean() > share
    assert rejected(1)(e)[1].mean() == pytest.approx(0.05)


def test_claims_count_only_what_real_rows_show_to_be_nothing() -> None:
    e = effects([0.0, 0.0, 0.5, 0.05], [0.02, 0.5, 0.02, 0.02], [0.2, 1.0, 0.5, 0.12], [0.02, 0.1, 0.02, 0.02])
    value, expected = claims(e)
    assert value[0] == 1
    assert np.isnan(value[1:3]).all()
    assert value[3] == 0
    assert np.isfinite(expected[[0, 3]]).all()
    clear, _ = same_sign_of_clear(e)
    assert np.isnan(clear[:2]).all()
    assert clear[2] == 1
