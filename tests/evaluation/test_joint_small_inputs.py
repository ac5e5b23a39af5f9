"""Whole rows that are few, odd or degenerate: a finite figure or a reason in words, never a crash, never a warning."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix
from toy_people import coded, edited, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, pooled
from pipeline.evaluation.registry import find_metric, metric_ids
from pipeline.evaluation.results import MetricResult
from pipeline.features.cohort import Cohort
from pipeline.features.schema import TableSchema

QUICK = [i for i in metric_ids() if i.startswith("fid.joint.") and find_metric(i).spec.cost in "AB"]
ALL = [i for i in metric_ids() if i.startswith("fid.joint.")]


@pytest.fixture(scope="module")
def small() -> RealSides:
    return RealSides(Parts.of_two(people(300, 1), people(150, 2)), EvaluationPlan(profile="quick"))


def judged(sides: RealSides, cohort: Cohort, metrics: list[str] = QUICK, *, plots: bool = True) -> list[MetricResult]:
    ctx = EvaluationContext(sides, synthetic_side(sides, cohort), with_plots=plots)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = pooled(compute(ctx, metrics))
    for row in rows:
        assert row.value is None or np.isfinite(row.value), row.metric
        assert row.value is not None or row.note, row.metric
        for end in (row.ci_lo, row.ci_hi):
            assert end is None or not np.isnan(end), row.metric
    return rows


@pytest.mark.parametrize("n", [1, 2, 12, 45, 110])
def test_few_synthetic_rows(small: RealSides, n: int) -> None:
    rows = judged(small, people(n, 3), ALL if n < 50 else QUICK)
    if n <= 2:
        assert all(r.value is None for r in rows if not r.metric.startswith("fid.joint.pca_explained"))


def test_few_real_rows() -> None:
    tiny = RealSides(Parts.of_two(people(6, 1), people(3, 2)))
    judged(tiny, people(40, 3), ALL)


def test_missing_constant_and_enormous_columns(small: RealSides) -> None:
    def spoil(name: str, x: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        if name in ("lab_a", "ward"):
            return pa.nulls(len(x), x.type)
        if name == "lab_b":
            return pa.array(np.full(len(x), 1e300))
        if name == "lab_c":
            return pa.array(np.where(np.arange(len(x)) % 2, np.inf, -np.inf))
        return pa.array(np.full(len(x), 60.0)) if name == "age" else x

    rows = {
        (r.metric, r.key1, r.key2): r
        for r in judged(small, edited(people(300, 3), spoil), [*QUICK, "fid.joint.frechet_ae"])
    }
    assert rows["fid.joint.detect_auc", "", ""].value > 0.99
    assert rows["fid.joint.energy", "", ""].value > 0.05


def test_constant_training_columns() -> None:
    def flatten(name: str, x: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return (
            pa.array(np.full(len(x), 1.5)) if x.type == pa.float64() else x.take(pa.array(np.zeros(len(x), dtype=int)))
        )

    flat = edited(people(200, 1), flatten)
    rows = judged(RealSides(Parts.of_two(flat, flat)), people(200, 3))
    assert {r.metric for r in rows if r.value is None} >= {"fid.joint.frechet", "fid.joint.log_cluster"}


def test_the_holdout_itself_as_synthetic_rows(small: RealSides) -> None:
    rows = {(r.metric, r.key2): r for r in judged(small, small.parts.holdout)}
    assert rows["fid.joint.energy", ""].value <= 0
    assert rows["fid.joint.prdc.coverage", ""].value == 1
    assert rows["fid.joint.pca_eigen_rmse", ""].value == pytest.approx(0, abs=1e-9)
    assert rows["fid.joint.ip_alpha", ""].value > 0.98
    assert rows["fid.joint.ir_beta", ""].value > 0.98
    assert "exactly the expected share" in rows["fid.joint.log_cluster", ""].note


def test_several_rows_a_subject_widen_the_intervals(small: RealSides) -> None:
    rng = np.random.default_rng(0)
    single = people(150, 5)
    fourfold = replace(single, subject=np.repeat(single.subject[:38], 4)[:150])
    together = RealSides(Parts.of_two(small.parts.train, people(150, 2).take(np.repeat(rng.permutation(150)[:50], 3))))
    apart = {(r.metric, r.key2): r for r in judged(small, single, plots=False)}
    found = {(r.metric, r.key2): r for r in judged(together, fourfold, plots=False)}
    for metric in ("fid.joint.energy", "fid.joint.frechet", "fid.joint.prdc.density"):
        assert found[metric, ""].se > 1.2 * apart[metric, ""].se


def test_codes_alone_and_a_single_column() -> None:
    def codes_alone(cohort: Cohort) -> Cohort:
        schema = cohort.schema.model_copy(update={"columns": []})
        return replace(cohort, table=cohort.table.select([]), schema=schema)

    alone = RealSides(Parts.of_two(codes_alone(coded(300, 1, codes=60)), codes_alone(coded(200, 2, codes=60))))
    rows = {r.metric: r for r in judged(alone, codes_alone(coded(300, 3, codes=60)))}
    assert rows["fid.joint.prdc.coverage"].value > 0.9
    empty = replace(codes_alone(coded(300, 3, codes=60)), blocks={"diagnoses": csr_matrix((300, 60), dtype=np.float32)})
    judged(alone, empty)

    def one(cohort: Cohort) -> Cohort:
        schema = TableSchema(columns=[c for c in cohort.schema.columns if c.name == "smoker"])
        return replace(cohort, table=cohort.table.select(["smoker"]), schema=schema)

    judged(RealSides(Parts.of_two(one(people(300, 1)), one(people(150, 2)))), one(people(300, 3)))


def test_public_aggregates_carry_no_small_count_and_no_row(small: RealSides) -> None:
    """Dots of single records are for the internal report alone; shares of real rows stand for 11 rows or for none."""
    ctx = EvaluationContext(small, synthetic_side(small, people(300, 3)), with_plots=True)
    compute(ctx, [*QUICK, "fid.joint.tsne"])
    assert len(ctx.internal["tsne"]["synthetic"]) == 150
    assert len(ctx.internal["projection"]["real"]) == 150
    for line in ctx.plots["projection"]["real"]:
        assert all(v is None or v == 0 or round(v * 150) >= 11 for v in line)
    assert all(v is None or v == 0 or round(v * 150) >= 11 for v in ctx.plots["clusters"]["real"])
    assert sum(v is None for v in ctx.plots["clusters"]["real"]) != 1
    assert set(ctx.plots) == {"detection", "projection", "clusters", "typicality"}
