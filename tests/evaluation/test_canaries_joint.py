"""Whole rows: every planted fault is caught by the figures that are for it, and fresh real rows are not accused."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from toy_people import TASK, coded, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, headline, pooled
from pipeline.evaluation.references import reference_cohort

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

LOWER = (
    "detect_auc", "disc_score", "energy", "mmd2", "log_cluster", "frechet", "kid", "gmll_gap", "pca_eigen_rmse",
)  # fmt: skip
HIGHER = ("detect_score", "mmd2_p", "prdc.density", "prdc.coverage", "prdc.precision", "prdc.recall", "ip_alpha", "ir_beta",
          "pca_subspace")  # fmt: skip


def judge(sides: RealSides, make: Callable[[str], Cohort]) -> Callable[..., MetricResult]:
    @cache
    def context(name: str) -> EvaluationContext:
        return EvaluationContext(sides, synthetic_side(sides, make(name)))

    @cache
    def get(name: str, metric: str, key1: str = "", key2: str = "") -> MetricResult:
        metric = metric if metric.startswith("lit.") else f"fid.joint.{metric}"
        row = headline(pooled(compute(context(name), [metric])), metric, key1=key1, key2=key2)
        assert row is not None
        return row

    return get


@pytest.fixture(scope="module")
def judged(sides: RealSides, variant: Callable[[str], Cohort]) -> Callable[..., MetricResult]:
    def make(name: str) -> Cohort:
        if name == "ref_fresh":
            return sides.parts.reference0
        return variant(name)

    return judge(sides, make)


@pytest.mark.parametrize("metric", [*LOWER, *HIGHER])
def test_fresh_rows_are_better_than_shuffled_columns(judged: Callable[..., MetricResult], metric: str) -> None:
    fresh, shuffled = judged("fresh", metric), judged("marginal", metric)
    apart = (fresh.value - shuffled.value) * (-1 if metric in LOWER else 1)
    error = np.hypot(fresh.se or 0, shuffled.se or 0)
    # Recall hangs on the balls of the synthetic rows, which grow when columns are shuffled.
    assert apart > (0 if metric in ("prdc.recall", "pca_subspace") else 2 * error)


def test_fresh_rows_stand_at_the_null(judged: Callable[..., MetricResult]) -> None:
    for metric in ("detect_auc", "energy", "mmd2", "log_cluster", "frechet", "kid", "prdc.density", "prdc.coverage",
                   "ip_alpha", "gmll_gap", "pmse_ratio", "detect_score", "disc_score"):  # fmt: skip
        for name in ("ref_fresh", "fresh"):
            row = judged(name, metric)
            assert abs(row.value - row.null_value) < 3 * row.se, (metric, name)
    assert judged("ref_fresh", "mmd2_p").value > 0.01


def test_propensities_are_blind_to_interactions_and_see_shifts(judged: Callable[..., MetricResult]) -> None:
    shuffled, shifted = judged("marginal", "pmse_ratio"), judged("shifted", "pmse_ratio")
    assert abs(shuffled.value - 1) < 2 * shuffled.se
    assert shifted.value > 20
    assert judged("fresh", "pmse_ratio", "", "train").value == pytest.approx(2, abs=1.5)


@pytest.mark.parametrize("metric", ["frechet", "kid", "gmll_gap", "pca_eigen_rmse", "detect_auc"])
def test_halved_spread_is_seen(judged: Callable[..., MetricResult], metric: str) -> None:
    fresh, bad = judged("fresh", metric), judged("half_sd", metric)
    assert bad.value - fresh.value > 2 * np.hypot(bad.se, fresh.se)


def test_halved_spread_costs_recall_and_typicality_but_passes_for_density(judged: Callable[..., MetricResult]) -> None:
    for metric in ("prdc.recall", "ip_alpha"):
        fresh, bad = judged("fresh", metric), judged("half_sd", metric)
        assert bad.value < fresh.value - fresh.se - bad.se, metric
    assert judged("half_sd", "prdc.density").value > 1.1 + judged("half_sd", "prdc.density").se


def test_collapse_is_seen(judged: Callable[..., MetricResult]) -> None:
    for metric in LOWER:
        fresh, bad = judged("fresh", metric), judged("mode", metric)
        assert bad.value > fresh.value + 5 * np.hypot(fresh.se or 0, bad.se or 0), metric
    assert judged("mode", "log_cluster").value == pytest.approx(np.log(0.25), abs=0.02)
    assert judged("mode", "prdc.coverage").value < 0.1
    assert judged("mode", "prdc.recall").value < 0.1
    assert judged("mode", "ip_alpha").value < 0.3
    assert judged("mode", "mmd2_p").value < 0.01


def test_sixty_rows_repeated_do_not_cover(judged: Callable[..., MetricResult]) -> None:
    for metric in ("prdc.coverage", "prdc.recall", "ir_beta"):
        assert judged("memorise_k", metric).value < 0.6 * judged("fresh", metric).value
    assert judged("memorise_k", "log_cluster").value > judged("fresh", "log_cluster").value + 1


def test_codes(coded_sides: RealSides) -> None:
    def make(name: str) -> Cohort:
        cohort = coded(1600, 77) if name == "fresh" else reference_cohort(coded_sides, f"ref_{name}")
        assert cohort is not None
        return cohort

    judged = judge(coded_sides, make)
    for metric in ("energy", "log_cluster", "frechet", "kid", "gmll_gap", "prdc.density", "prdc.coverage", "ip_alpha",
                   "pca_eigen_rmse"):  # fmt: skip
        fresh, shuffled = judged("fresh", metric), judged("marginal", metric)
        apart = (fresh.value - shuffled.value) * (-1 if metric in LOWER else 1)
        assert apart > 2 * np.hypot(fresh.se, shuffled.se), metric
        if fresh.null_value is not None:
            assert abs(fresh.value - fresh.null_value) < 3 * fresh.se, metric


@pytest.fixture(scope="module")
def standard(sides: RealSides) -> Callable[..., MetricResult]:
    """The profile that computes cost C as well, on a third of the people."""
    given = sides.parts
    parts = Parts(
        *(p.take(np.arange(p.n_rows // 3)) for p in (given.train, given.holdout, given.reference0, given.reference1))
    )
    own = RealSides(parts, EvaluationPlan((TASK,), profile="standard"))

    def make(name: str) -> Cohort:
        if name == "fresh":
            return people(800, 55, prefix="fresh")
        cohort = reference_cohort(own, f"ref_{name}")
        assert cohort is not None
        return cohort

    return judge(own, make)


def test_four_classifiers(standard: Callable[..., MetricResult]) -> None:
    """Shuffled columns are plain to trees and invisible to a linear classifier; fresh rows are not told by any."""
    for model in ("hgb", "rf"):
        assert standard("marginal", "detect_auc_models", model).value > 0.7
    linear = standard("marginal", "detect_auc_models", "lr")
    assert abs(linear.value - 0.5) < 0.06
    best = standard("marginal", "detect_auc_models")
    assert best.value == max(standard("marginal", "detect_auc_models", m).value for m in ("hgb", "lr", "rf", "mlp"))
    fresh = standard("fresh", "detect_auc_models")
    assert fresh.ci_lo < 0.5 < fresh.ci_hi


def test_autoencoder_sees_what_the_components_see(standard: Callable[..., MetricResult]) -> None:
    fresh, shuffled = standard("fresh", "frechet_ae"), standard("marginal", "frechet_ae")
    assert abs(fresh.value) < 3 * fresh.se
    assert shuffled.value > fresh.value + 3 * np.hypot(fresh.se, shuffled.se)


def test_literal_flaws_are_as_described(
    sides: RealSides, judged: Callable[..., MetricResult], standard: Callable[..., MetricResult]
) -> None:
    # A linear detector is content with independent columns; a support vector machine is not.
    assert standard("marginal", "lit.sdv.logistic_detection").value > 0.95
    assert standard("marginal", "lit.sdv.svc_detection").value < 0.5
    # Everyone alike is nearer to all on average than a copy of the training rows.
    assert judged("mode", "lit.nhsx.gower").value < judged("train_copy", "lit.nhsx.gower").value - 0.01
    assert judged("mode", "energy").value > 0.1
    # The reproduction's U is lower, and so called better, for the rows of which none is right.
    assert judged("mode", "lit.scoehr_repro.u").value < judged("fresh", "lit.scoehr_repro.u").value
    assert judged("mode", "log_cluster").value > judged("fresh", "log_cluster").value
    # Halved spread is more likely than the truth.
    assert judged("half_sd", "lit.sdv.gmll").value > judged("fresh", "lit.sdv.gmll").value + 0.5
    # Each side is scaled by itself: a shift of every number is not seen.
    assert judged("shifted", "lit.yan.lca").value < -3.5
    assert judged("shifted", "log_cluster").value > judged("fresh", "log_cluster").value + 1
    # Whatever the rows are, the mixture's value lies between a third and two thirds.
    for name in ("fresh", "marginal", "train"):
        assert 1 / 3 <= standard(name, "lit.synthcity.detection_gmm").value <= 2 / 3
