"""Faults of single columns: each is caught by the figure that is for it, fresh real rows are not accused; scipy agrees."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chi2_contingency, false_discovery_control, ks_2samp, wasserstein_distance
from toy_people import edited, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.fidelity.marginal import cramers_v, rejected, wasserstein
from pipeline.evaluation.fidelity.moments import Summary, interval_overlap, summary
from pipeline.evaluation.protocol import compute

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

    Judged = Callable[..., MetricResult]


@pytest.fixture(scope="module")
def judged(sides: RealSides, variant: Callable[[str], Cohort]) -> Judged:
    """A row of a metric on a variant, by its keys."""

    @cache
    def context(name: str) -> EvaluationContext:
        return EvaluationContext(sides, synthetic_side(sides, variant(name)), with_plots=True)

    @cache
    def rows(name: str, metric: str) -> dict[tuple[str, str], MetricResult]:
        return {(r.key1, r.key2): r for r in compute(context(name), [metric])}

    def get(name: str, metric: str, key1: str = "", key2: str = "") -> MetricResult:
        return rows(name, metric)[key1, key2]

    get.context = context  # type: ignore[attr-defined]
    return get


@pytest.mark.parametrize("metric", ["fid.marg.wd", "fid.marg.chi2"])
def test_fresh_rows_are_at_the_null(judged: Judged, metric: str) -> None:
    for name in ("fresh", "marginal"):
        row = judged(name, metric)
        assert abs(row.value - row.null_value) < 4 * row.se
        assert row.ci_lo <= row.value <= row.ci_hi


@pytest.mark.parametrize(("fault", "metric"), [("half_sd", "fid.marg.wd"), ("shifted", "fid.marg.wd"),
                                               ("mode", "fid.marg.wd"), ("mode", "fid.marg.chi2")])  # fmt: skip
def test_faults_are_far_from_the_null(judged: Judged, fault: str, metric: str) -> None:
    assert judged(fault, metric).ci_lo > 3 * judged("fresh", metric).value


def test_p_values_accuse_the_faulty_columns_only(judged: Judged) -> None:
    """p-values are for information: fresh rows have none that survives correction, shifted numbers have tiny ones."""
    assert judged("fresh", "fid.marg.chi2", "rejected").value == 0
    assert judged("mode", "fid.marg.chi2", "rejected").value == 1
    assert judged("shifted", "fid.marg.ks", "age", "p_value").value < 1e-30
    assert judged("shifted", "fid.marg.ks", "visits", "p_value").value > 1e-4


def test_coverage(judged: Judged, sides: RealSides) -> None:
    fresh = judged("fresh", "fid.coverage")
    assert fresh.value == pytest.approx(1, abs=0.02)
    assert fresh.null_value == pytest.approx(1, abs=1e-3)
    assert judged("half_sd", "fid.coverage", "age").value < 0.75
    assert judged("mode", "fid.coverage", "age").value == 0
    assert judged("mode", "fid.coverage", "ward").value == pytest.approx(1 / 5), "four levels and missing"
    assert judged("half_sd", "fid.coverage", "visits").value == judged("fresh", "fid.coverage", "visits").value

    def without_women(name: str, cells: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pa.array(["male"] * len(cells)) if name == "sex" else cells

    one = synthetic_side(sides, edited(people(500, 8), without_women))
    found = {r.key1: r for r in compute(EvaluationContext(sides, one), ["fid.coverage"])}
    assert found["sex"].value == 0.5
    assert "1 of 2" in found["sex"].note


def test_two_wild_values_cover_nothing(sides: RealSides) -> None:
    def wild(name: str, cells: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pa.array([-500.0, 900.0, *([60.0] * (len(cells) - 2))]) if name == "age" else cells

    side = synthetic_side(sides, edited(people(1500, 9), wild))
    found = {r.key1: r for r in compute(EvaluationContext(sides, side), ["fid.coverage"])}
    assert found["age"].value == 0


def test_moments_tell_halved_spread(judged: Judged) -> None:
    assert judged("half_sd", "fid.marg.moments", "age", "log_variance_ratio").value == pytest.approx(
        2 * np.log(0.45), abs=0.15
    )
    assert judged("half_sd", "fid.marg.moments", "age", "std_change_percent").value == pytest.approx(-55, abs=4)
    assert judged("shifted", "fid.marg.moments", "age", "interval_overlap").value == 0
    assert judged("mode", "fid.marg.moments", "age", "log_variance_ratio").value is None
    assert judged("fresh", "fid.marg.moments", "age", "interval_overlap").value > 0.2
    fresh = judged("fresh", "fid.marg.moments", "age", "q50_synthetic").value
    assert fresh == pytest.approx(judged("fresh", "fid.marg.moments", "age", "q50_real").value, abs=2)
    assert fresh < judged("fresh", "fid.marg.moments", "age", "q95_synthetic").value


def test_a_level_that_must_not_come_out_is_no_lost_spread() -> None:
    """`rare_levels` forbids what fewer than 11 training people have: a generator that obeys is not accused of it."""

    def smokers(n: int, seed: int, many: int) -> Cohort:
        return edited(people(n, seed), lambda k, x: pa.array(np.arange(n) < many) if k == "smoker" else x)

    for carriers, lost in ((5, 0.0), (30, 1 / 9)):
        real = RealSides(Parts(smokers(400, 1, carriers), *[smokers(400, seed, 20) for seed in (2, 3, 4)]))
        obeying = EvaluationContext(real, synthetic_side(real, smokers(400, 5, 0)))
        assert compute(obeying, ["fid.marg.variance_collapse"])[0].value == pytest.approx(lost)


def test_extremes_are_for_the_internal_report_alone(judged: Judged, sides: RealSides) -> None:
    judged("fresh", "fid.marg.moments", "age", "mean_real")
    context = judged.context("fresh")  # type: ignore[attr-defined]
    lowest, highest = context.internal["extremes"]["age"]["real"]
    assert (lowest, highest) == (sides.holdout.values["age"].min(), sides.holdout.values["age"].max())
    assert "extremes" not in context.plots


def test_keys_are_unique_or_not(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    def keys(cohort: Cohort) -> MetricResult:
        return compute(EvaluationContext(sides, synthetic_side(sides, cohort)), ["schema.keys"])[0]

    fresh = variant("fresh")
    assert keys(fresh).value == 1
    assert keys(variant("memorise_k")).value == 0
    first = fresh.table.column("id")[0].as_py()
    doubled = [first, *fresh.table.column("id").to_pylist()[:-2], None]
    row = keys(edited(fresh, lambda n, x: pa.array(doubled) if n == "id" else x))
    assert row.value == pytest.approx(1 - 3 / fresh.n_rows), "the first id stands twice, one cell is empty"


def test_scipy_agrees() -> None:
    """Wasserstein, chi-squared with its V, Benjamini and Hochberg; ks_2samp's p-value is that of `fid.marg.ks`."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 30, 200) / 3, rng.normal(4, 3, 310)
    assert wasserstein(np.r_[a, np.nan], b) == pytest.approx(wasserstein_distance(a, b), abs=1e-12)
    counts = np.array([[30, 50, 20, 0], [45, 25, 28, 2]])
    shares = counts / counts.sum(axis=1, keepdims=True)
    tested = chi2_contingency(counts, correction=False)
    assert 200 * cramers_v(*shares) ** 2 == pytest.approx(tested.statistic)
    p_values = rng.random(50) ** 3
    np.testing.assert_array_equal(rejected(p_values), false_discovery_control(p_values) <= 0.05)
    assert not rejected(np.ones(3)).any()


def test_p_values_are_scipys_where_rows_are_people(judged: Judged, sides: RealSides) -> None:
    context = judged.context("fresh")  # type: ignore[attr-defined]
    draw = context.matched[0]
    a, b = sides.holdout.values["age"][draw.real], context.synthetic.values["age"][draw.synthetic]
    expected = ks_2samp(a, b, method="asymp").pvalue
    assert judged("fresh", "fid.marg.ks", "age", "p_value").value == pytest.approx(expected, rel=1e-9)
    wards = [np.bincount(s.codes["ward"][rows] + 1, minlength=5)
             for s, rows in ((sides.holdout, draw.real), (context.synthetic, draw.synthetic))]  # fmt: skip
    expected = chi2_contingency(np.array(wards), correction=False).pvalue
    assert judged("fresh", "fid.marg.chi2", "ward", "p_value").value == pytest.approx(expected, rel=1e-9)


def test_several_rows_of_a_person_count_as_one_in_p_values(sides: RealSides) -> None:
    """Where scipy is wrong: it takes the four rows of a person for four people."""
    stays = [people(300, seed).take(np.repeat(np.arange(300), 4)) for seed in (11, 12, 13)]
    clustered = RealSides(Parts(stays[0], stays[1], stays[2], stays[2].take(np.array([], dtype=int))), sides.plan)
    context = EvaluationContext(
        clustered, synthetic_side(clustered, people(300, 14).take(np.repeat(np.arange(300), 4)))
    )
    rows = {(r.key1, r.key2): r for r in compute(context, ["fid.marg.ks", "fid.marg.chi2"])}
    draw = context.matched[0]
    a = clustered.holdout.values["age"][draw.real]
    b = context.synthetic.values["age"][draw.synthetic]
    assert rows["age", "p_value"].value > 5 * ks_2samp(a, b).pvalue
    assert rows["rejected", ""].value == 0


def test_interval_overlap_by_hand() -> None:
    one = Summary(0.0, 1.0, 1 / 1.959963984540054, 100)
    assert interval_overlap(one, one)[0] == pytest.approx(1)
    assert interval_overlap(one, one)[1] == pytest.approx(0.712, abs=0.01)
    moved = replace(one, mean=1.0)
    assert interval_overlap(one, moved)[0] == pytest.approx(0.5), "-1 to 1 and 0 to 2 share half of each"
    assert interval_overlap(one, replace(one, mean=3.0))[0] == 0
    assert np.isnan(interval_overlap(one, replace(one, error=0.0))[0])
    values = np.array([1.0, 3.0, np.nan, 5.0])
    alone, paired = summary(values, np.arange(4)), summary(values, np.array([0, 0, 1, 1]))
    assert (alone.mean, alone.std, alone.n) == (3, 2, 3)
    assert alone.error == pytest.approx(np.sqrt(8) / 3)
    assert paired.error == pytest.approx(np.sqrt(4 + 4) / 3), "rows of one subject are added up first"


def test_odd_columns_give_a_value_or_a_reason(sides: RealSides) -> None:
    """Constant, empty and infinite columns, a single row: nothing is NaN and nothing raises."""
    fresh = people(300, 21)
    kinds: dict[str, Callable[[int], list[float | None]]] = {
        "constant": lambda n: [4.0] * n,
        "missing": lambda n: [None] * n,
        "infinite": lambda n: [float("inf")] * n,
    }
    metrics = ["fid.marg.wd", "fid.marg.ks", "fid.marg.chi2", "fid.marg.moments", "fid.coverage", "schema.keys"]
    cohorts = [
        edited(fresh, lambda n, x, cells=cells: pa.array(cells(len(x)), pa.float64()) if n in ("lab_a", "age") else x)
        for cells in kinds.values()
    ]
    for cohort in [*cohorts, fresh.take(np.array([3]))]:
        for row in compute(EvaluationContext(sides, synthetic_side(sides, cohort)), metrics):
            assert row.value is not None or row.note
            assert row.value is None or np.isfinite(row.value)
            assert row.ci_lo is None or row.ci_lo <= row.ci_hi
