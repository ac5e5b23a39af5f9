"""Copies and memorised rows are caught by the figure that is for them; fresh real rows are accused by none."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix
from toy_people import coded, edited, joined, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, headline, pooled
from pipeline.evaluation.registry import metric_paths
from pipeline.features.cohort import assemble
from pipeline.features.schema import CodeBlock, TableSchema

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

    Judged = Callable[..., MetricResult]


def judge(context: EvaluationContext, metric: str, key1: str = "") -> MetricResult:
    row = headline(pooled(compute(context, [metric])), metric, key1=key1)
    assert row is not None
    return row


@pytest.fixture(scope="module")
def judged(sides: RealSides, variant: Callable[[str], Cohort]) -> Judged:
    @cache
    def context(name: str) -> EvaluationContext:
        return EvaluationContext(sides, synthetic_side(sides, variant(name)))

    return cache(lambda name, metric, key1="": judge(context(name), metric, key1))


def apart(bad: MetricResult, good: MetricResult) -> float:
    """How many standard errors the first value lies above the second."""
    return float((bad.value - good.value) / np.hypot(bad.se, good.se))


def test_fresh_real_rows_are_accused_by_none(judged: Judged) -> None:
    for metric in ("dcr_share", "dcr_q05", "nndr", "nnaa_loss", "identifiability", "authenticity"):
        row = judged("fresh", f"priv.{metric}")
        assert abs(row.value - row.null_value) < 3 * row.se, metric
    for metric in ("nn", "mc", "domias_knn", "ganleaks_cal", "domias_kde", "logan", "max"):
        row = judged("fresh", f"priv.mia.{metric}_auc")
        assert abs(row.value - 0.5) < 3 * row.se, metric
    assert judged("fresh", "priv.mia.outlier_auc").ci_lo < 0.5
    assert judged("fresh", "priv.mia.advantage").ci_lo < 0
    assert judged("fresh", "priv.mia.epsilon_lower").value == 0


def test_a_fiftieth_of_copied_rows_shows_where_the_attacker_is_sure(judged: Judged) -> None:
    """And nowhere else: the share of near rows and the AUC do not notice it."""
    found = judged("copy_2pct", "priv.mia.tpr_at_1pct_fpr")
    assert found.ci_lo > 0.015
    assert found.value > judged("fresh", "priv.mia.tpr_at_1pct_fpr").value
    assert judged("copy_2pct", "priv.mia.epsilon_lower").value > 0.3
    assert judged("copy_2pct", "priv.dcr_share").ci_lo < 0.5
    assert judged("copy_2pct", "priv.mia.max_auc").ci_lo < 0.5


def test_a_tenth_of_copied_rows_shows_everywhere(judged: Judged) -> None:
    for metric in ("priv.mia.max_auc", "priv.mia.tpr_at_1pct_fpr", "priv.dcr_share"):
        assert apart(judged("copy_10pct", metric), judged("fresh", metric)) > 3, metric
    assert apart(judged("fresh", "priv.authenticity"), judged("copy_10pct", "priv.authenticity")) > 3
    assert judged("copy_10pct", "priv.nnaa_loss").ci_lo > 0
    assert judged("copy_10pct", "priv.dcr_q05").value == 0
    assert judged("copy_10pct", "priv.mia.epsilon_lower").value > 1.5
    assert judged("copy_10pct", "priv.mia.advantage").ci_lo > 0
    assert judged("copy_10pct", "priv.mia.outlier_tpr").ci_lo > judged("copy_10pct", "priv.mia.outlier_tpr").null_value


def test_memorised_rows_are_nearer_and_never_authentic(judged: Judged) -> None:
    for metric in ("priv.dcr_share", "priv.nnaa_loss"):
        assert apart(judged("memorise_k", metric), judged("fresh", metric)) > 3, metric
    assert judged("memorise_k", "priv.authenticity").value == 0
    assert judged("memorise_k", "priv.authenticity").ci_hi < 0.1
    assert judged("memorise_k", "priv.nndr").value == 0
    assert judged("memorise_k", "priv.mia.tpr_at_1pct_fpr").ci_lo > 0.015


def test_copies_of_all_training_rows(judged: Judged) -> None:
    """Thinned to the holdout's size half of T is left, so three of four copies lie nearer to it."""
    assert judged("train_copy", "priv.dcr_share").value == pytest.approx(0.75, abs=0.02)
    assert judged("train_copy", "priv.nnaa_loss").ci_lo > 0.2
    assert judged("train_copy", "priv.nnaa_loss", "AA holdout").value == pytest.approx(0.5, abs=0.03)
    assert judged("train_copy", "priv.authenticity").value == 0
    assert judged("train_copy", "priv.identifiability").ci_lo > 0.2
    for metric in ("nn", "mc", "ganleaks_cal", "domias_kde"):
        assert judged("train_copy", f"priv.mia.{metric}_auc").ci_lo > 0.6, metric
    assert judged("train_copy", "priv.mia.outlier_auc").ci_lo > 0.95
    jittered = judged("train_jitter", "priv.nnaa_loss")
    assert jittered.ci_lo > 0.1


def test_rows_off_the_population_are_too_authentic(judged: Judged) -> None:
    shuffled = judged("marginal", "priv.authenticity")
    assert shuffled.ci_lo > shuffled.null_value + 0.1
    assert abs(judged("marginal", "priv.nnaa_loss").value) < 3 * judged("marginal", "priv.nnaa_loss").se


def test_one_repeated_row_is_one_piece_of_evidence(judged: Judged) -> None:
    share = judged("mode", "priv.dcr_share")
    assert share.ci_hi - share.ci_lo > 0.9
    assert judged("mode", "priv.nndr").ci_lo is None


def sparse(n: int, seed: int) -> Cohort:
    """People with few of twenty codes: most rows are equal to others."""
    rng = np.random.default_rng(seed)
    matrix = csr_matrix((rng.random((n, 20)) < 0.06).astype(np.float32))
    schema = TableSchema(
        columns=[], blocks=[CodeBlock(name="codes", kind="binary", vocabulary=[f"C{i}" for i in range(20)])]
    )
    return assemble(schema, {}, blocks={"codes": matrix}, subject=np.array([f"{seed}-{i:06d}" for i in range(n)]))


def test_sparse_copies_do_not_pass_through_ties() -> None:
    """Half of the copies tie with holdout rows: the published formula calls all of them safe, one half a tie does not."""
    real = RealSides(
        Parts(sparse(2000, 1), sparse(1000, 2), sparse(500, 3), sparse(500, 4)), EvaluationPlan(profile="quick")
    )
    copies = EvaluationContext(real, synthetic_side(real, real.parts.train))
    fresh = EvaluationContext(real, synthetic_side(real, sparse(2000, 5)))
    assert judge(copies, "lit.sdv.dcr_overfitting").value == 1
    found, clean = judge(copies, "priv.dcr_share"), judge(fresh, "priv.dcr_share")
    assert found.ci_lo > 0.5
    assert clean.ci_lo < 0.5 < clean.ci_hi
    assert found.value > clean.value
    assert judge(copies, "priv.mia.nn_auc").ci_lo > 0.5


def test_codes_of_training_people(coded_sides: RealSides) -> None:
    train = coded_sides.parts.train
    leaky = joined(coded(1280, 78), train.take(np.arange(320)))
    copied, fresh = (
        EvaluationContext(coded_sides, synthetic_side(coded_sides, cohort)) for cohort in (leaky, coded(1600, 77))
    )
    assert judge(copied, "priv.cosine_nn").ci_lo > 0
    clean = judge(fresh, "priv.cosine_nn")
    assert abs(clean.value) < 3 * clean.se
    assert judge(copied, "priv.mia.outlier_auc", "rare_codes").ci_lo > 0.5
    rare = judge(fresh, "priv.mia.outlier_auc", "rare_codes")
    assert rare.ci_lo < 0.5
    assert judge(copied, "priv.nnaa_loss").ci_lo > 0


def emptied(cohort: Cohort) -> Cohort:
    """The same people without any code."""
    blocks = {name: csr_matrix(matrix.shape, dtype=matrix.dtype) for name, matrix in cohort.blocks.items()}
    return replace(cohort, blocks=blocks)


def hollow(cohort: Cohort) -> Cohort:
    """The same people with every cell missing."""
    return edited(cohort, lambda name, x: x if name == "id" else pa.nulls(len(x), x.type))


@pytest.mark.parametrize("case", ["one row", "hollow synthetic rows", "hollow real rows", "no code", "no real code"])
def test_odd_tables_give_a_value_or_a_reason(case: str) -> None:
    real, made = [people(n, i) for i, n in enumerate((150, 100, 60, 60))], people(120, 9)
    if "code" in case:
        real, made = [sparse(n, i) for i, n in enumerate((150, 100, 60, 60))], emptied(sparse(120, 9))
    if case == "no real code":
        real, made = [emptied(cohort) for cohort in real], sparse(120, 9)
    made = made.take(np.arange(1)) if case == "one row" else hollow(made) if case == "hollow synthetic rows" else made
    real = [hollow(cohort) for cohort in real] if case == "hollow real rows" else real
    sides = RealSides(Parts(*real), EvaluationPlan(profile="standard"))
    context = EvaluationContext(sides, synthetic_side(sides, made), with_plots=True)
    mine = ("distances", "adversarial", "cosine", "membership", "outliers", "epsilon", "copies")
    names = [name for name, path in metric_paths().items() if path.split(":")[0].split(".")[-1] in mine]
    assert len(names) >= 25
    for row in compute(context, names):
        assert row.value is not None or row.note, row.metric
        for number in (row.value, row.ci_lo, row.ci_hi, row.se, row.null_value):
            assert number is None or not np.isnan(number), row.metric
        if row.value is not None and row.ci_lo is not None and row.ci_hi is not None:
            assert row.ci_lo - 1e-9 <= row.value <= row.ci_hi + 1e-9, row.metric
    json.dumps([context.plots, context.internal])


def test_tables_without_codes_and_small_tables() -> None:
    tiny = RealSides(Parts.of_two(people(30, 1), people(20, 2)), EvaluationPlan(profile="quick"))
    context = EvaluationContext(tiny, synthetic_side(tiny, people(1, 3)))
    assert judge(context, "priv.cosine_nn").note.startswith("not applicable")
    for metric in (
        "priv.mia.tpr_at_1pct_fpr",
        "priv.mia.outlier_auc",
        "priv.mia.epsilon_lower",
        "priv.mia.outlier_tpr",
    ):
        row = judge(context, metric)
        assert (row.status, row.value) == ("underpowered", None)
        assert row.n_needed > 20
    for metric in ("priv.dcr_share", "priv.identifiability", "priv.authenticity"):
        assert judge(context, metric).ci_hi - judge(context, metric).ci_lo > 0.3
    assert "at least 2" in judge(context, "priv.nnaa_loss").note
    alone = RealSides(Parts.of_two(people(1, 1), people(1, 2)), EvaluationPlan(profile="quick"))
    context = EvaluationContext(alone, synthetic_side(alone, people(2, 3)))
    names = ["dcr_share", "dcr_q05", "nndr", "nnaa_loss", "identifiability", "authenticity"]
    mia = ["nn_auc", "mc_auc", "logan_auc", "max_auc", "advantage", "outlier_auc", "epsilon_lower"]
    for metric in (*names, *(f"mia.{m}" for m in mia)):
        row = judge(context, f"priv.{metric}")
        assert row.value is None or np.isfinite(row.value)
        assert row.value is not None or row.note
