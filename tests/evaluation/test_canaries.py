"""Cohorts with known faults must stand in the known order on every scale."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from pipeline.evaluation.context import EvaluationContext, RealSides, synthetic_side
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, headline, pooled

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

MARGINAL = ("fid.marg.jsd", "fid.marg.ks", "fid.marg.tvd", "fid.marg.variance_collapse")
MIA = ("priv.mia.max_auc", "priv.mia.tpr_at_1pct_fpr", "priv.mia.nn_auc")


@pytest.fixture(scope="session")
def judged(sides: RealSides, variant: Callable[[str], Cohort]) -> Callable[..., MetricResult]:
    """The headline result of a metric on a variant."""

    @cache
    def context(name: str) -> EvaluationContext:
        return EvaluationContext(sides, synthetic_side(sides, variant(name)))

    @cache
    def get(name: str, metric: str, key1: str = "", key2: str = "") -> MetricResult:
        row = headline(pooled(compute(context(name), [metric])), metric, key1=key1, key2=key2)
        assert row is not None
        return row

    return get


@pytest.mark.parametrize("fault", ["half_sd", "shifted", "mode"])
def test_marginal_faults_are_seen(judged: Callable[..., MetricResult], fault: str) -> None:
    fresh, shuffled, bad = (judged(n, "fid.marg.jsd") for n in ("fresh", "marginal", fault))
    assert bad.value > 3 * max(fresh.value, shuffled.value)
    fresh, shuffled, bad = (judged(n, "fid.marg.ks") for n in ("fresh", "marginal", fault))
    assert bad.ci_hi < min(fresh.ci_lo, shuffled.ci_lo)


def test_marginal_metrics_cannot_tell_shuffled_columns(judged: Callable[..., MetricResult]) -> None:
    for metric in ("fid.marg.jsd", "fid.marg.ks", "fid.marg.tvd"):
        fresh, shuffled = judged("fresh", metric), judged("marginal", metric)
        assert abs(fresh.value - shuffled.value) < 3 * (fresh.se**2 + shuffled.se**2) ** 0.5


def test_nulls_are_what_a_fresh_sample_gives(judged: Callable[..., MetricResult]) -> None:
    for metric in ("fid.marg.jsd", "fid.marg.ks", "fid.marg.tvd", "fid.dep.corr_rmse"):
        fresh = judged("fresh", metric)
        assert abs(fresh.value - fresh.null_value) < 4 * fresh.se
    assert abs(judged("fresh", "fid.marg.jsd_debiased").value) < 4 * judged("fresh", "fid.marg.jsd_debiased").se


def test_variance_collapse_alarm(judged: Callable[..., MetricResult]) -> None:
    assert judged("fresh", "fid.marg.variance_collapse").value == 0
    assert judged("half_sd", "fid.marg.variance_collapse").value > 0.10
    assert judged("half_sd", "fid.marg.variance_collapse").note.startswith("alarm")
    assert judged("mode", "fid.marg.variance_collapse").value == 1


def test_dependence_tells_fresh_from_shuffled(judged: Callable[..., MetricResult]) -> None:
    fresh, shuffled, mode = (judged(n, "fid.dep.corr_rmse") for n in ("fresh", "marginal", "mode"))
    assert fresh.ci_hi < shuffled.ci_lo
    assert fresh.ci_hi < mode.ci_lo
    assert shuffled.value > 3 * fresh.value


def test_detection(judged: Callable[..., MetricResult]) -> None:
    fresh = judged("fresh", "fid.joint.detect_auc")
    assert abs(fresh.value - 0.5) < 3 * fresh.se
    assert judged("marginal", "fid.joint.detect_auc").value > 0.7
    assert judged("half_sd", "fid.joint.detect_auc").value > 0.8
    assert judged("mode", "fid.joint.detect_auc").value > 0.95


def test_copy_alarm(judged: Callable[..., MetricResult]) -> None:
    copied, fresh = (judged(n, "fid.joint.detect_copy_alarm") for n in ("train_copy", "fresh"))
    assert copied.value < 0.45
    assert copied.note.startswith("alarm")
    assert not fresh.note


def test_membership_inference_catches_copies(judged: Callable[..., MetricResult]) -> None:
    fresh = judged("fresh", "priv.mia.max_auc")
    assert abs(fresh.value - 0.5) < 3 * fresh.se
    assert judged("train_copy", "priv.mia.max_auc").value > 0.99
    for leaking in ("copy_10pct", "train_jitter"):
        bad = judged(leaking, "priv.mia.max_auc")
        assert bad.value - fresh.value > 3 * (bad.se**2 + fresh.se**2) ** 0.5
    found = judged("copy_2pct", "priv.mia.tpr_at_1pct_fpr")
    assert found.value > judged("fresh", "priv.mia.tpr_at_1pct_fpr").value
    assert found.ci_lo > 0.015
    assert judged("memorise_k", "priv.mia.tpr_at_1pct_fpr").ci_lo > 0.01
    assert judged("train_copy", "priv.mia.tpr_at_1pct_fpr").value == 1


def test_copies_are_counted(judged: Callable[..., MetricResult]) -> None:
    assert judged("fresh", "priv.exact").value == 0
    assert judged("fresh", "priv.exact_p").value == 1
    assert judged("train_copy", "priv.exact").value == 1
    assert judged("train_copy", "priv.exact_unique").value == 2400
    assert judged("copy_2pct", "priv.exact").value == pytest.approx(0.02)
    assert judged("copy_2pct", "priv.exact_unique").value == 48
    assert judged("copy_10pct", "priv.exact_p").value < 1e-6
    assert judged("memorise_k", "priv.exact_unique").value == 60
    assert judged("mode", "priv.exact_unique").value == 1


def test_utility(judged: Callable[..., MetricResult]) -> None:
    fresh, shuffled = (judged(n, "util.ratio", "outcome") for n in ("fresh", "label_shuffled"))
    assert fresh.value == pytest.approx(1, abs=0.06)
    assert abs(shuffled.value) < 0.25
    assert judged("train_copy", "util.gap", "outcome", "lr").value == pytest.approx(0, abs=1e-3)
    assert judged("mode", "util.tstr_auroc", "outcome").value == 0.5
    assert "one class" in judged("mode", "util.tstr_auroc", "outcome").note
    assert 0.75 < judged("fresh", "util.trtr_auroc", "outcome").value < 0.97


def test_leak_list_is_dropped(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    from toy_people import TASK

    leaky = RealSides(sides.parts, EvaluationPlan((TASK.model_copy(update={"leak": []}),), profile="quick"))
    row = headline(
        pooled(compute(EvaluationContext(leaky, synthetic_side(leaky, variant("fresh"))), ["util.trtr_auroc"])),
        "util.trtr_auroc",
        key1="outcome",
    )
    assert row is not None
    assert row.value > 0.999


def test_code_blocks(coded_sides: RealSides) -> None:
    """Sparse codes: shuffled codes keep the marginals, lose dependence, and copies are found by Jaccard neighbours."""
    from toy_people import coded

    from pipeline.evaluation.references import reference_cohort

    found: dict[str, dict[str, MetricResult]] = {}
    cohorts = {"fresh": coded(1600, 77), "train": coded_sides.parts.train}
    shuffled = reference_cohort(coded_sides, "ref_marginal")
    assert shuffled is not None
    for name, cohort in {**cohorts, "marginal": shuffled}.items():
        context = EvaluationContext(coded_sides, synthetic_side(coded_sides, cohort))
        wanted = ["fid.marg.jsd", "fid.dep.corr_rmse", "priv.mia.max_auc", "priv.exact", "schema.adherence"]
        rows = pooled(compute(context, wanted))
        found[name] = {m: r for m in wanted if (r := headline(rows, m)) is not None}
    assert found["marginal"]["fid.marg.jsd"].value < 3 * found["fresh"]["fid.marg.jsd"].value
    assert found["fresh"]["fid.dep.corr_rmse"].ci_hi < found["marginal"]["fid.dep.corr_rmse"].ci_lo
    assert abs(found["fresh"]["priv.mia.max_auc"].value - 0.5) < 3 * found["fresh"]["priv.mia.max_auc"].se
    assert found["train"]["priv.mia.max_auc"].value > 0.95
    assert found["train"]["priv.exact"].value > 0.9
    assert found["fresh"]["schema.adherence"].value == 1
