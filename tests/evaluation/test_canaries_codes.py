"""Faults of code blocks: prevalence, totals and abundance each catch theirs; the papers' formulas keep their flaws."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.sparse import csr_matrix, diags
from scipy.spatial.distance import jensenshannon
from scipy.stats import spearmanr
from toy_people import coded

from pipeline.evaluation.context import EvaluationContext, RealSides, synthetic_side
from pipeline.evaluation.fidelity.codes import abundance_edges
from pipeline.evaluation.literal.marginal import abundance_by_division, shares_p_value, synthcity_distance
from pipeline.evaluation.protocol import compute
from pipeline.evaluation.references import reference_cohort

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

    Judged = Callable[..., MetricResult]


def _with(cohort: Cohort, matrix: csr_matrix) -> Cohort:
    return replace(cohort, blocks={"diagnoses": csr_matrix(matrix)})


@pytest.fixture(scope="module")
def judged(coded_sides: RealSides) -> Judged:
    fresh = coded(1600, 77)
    matrix = fresh.blocks["diagnoses"]
    rng = np.random.default_rng(3)

    def make(name: str) -> Cohort:
        if name == "zeros":
            return _with(fresh, csr_matrix(matrix.shape, dtype=np.float32))
        if name == "half":
            thin = matrix.copy()
            thin.data *= rng.random(len(thin.data)) < 0.5
            thin.eliminate_zeros()
            return _with(fresh, thin)
        if name == "doubled":
            return _with(fresh, matrix * 2)
        if name == "one_code":
            return _with(fresh, csr_matrix(np.eye(1, 300, k=5, dtype=np.float32)[np.zeros(1600, dtype=int)]))
        if name == "crowded":
            # The same codes on half of the records: prevalences and totals are kept, abundance is not.
            joined = (matrix[:800] + matrix[800:]).tolil()
            return _with(fresh, csr_matrix(np.vstack([joined.toarray(), np.zeros((800, 300), dtype=np.float32)])))
        if name == "marginal":
            cohort = reference_cohort(coded_sides, "ref_marginal")
            assert cohort is not None
            return cohort
        if name == "lost":
            common = np.argsort(-np.asarray(matrix.sum(axis=0)).ravel())[:4]
            keep = np.ones(300)
            keep[common] = 0
            return _with(fresh, matrix @ diags(keep))
        return fresh

    @cache
    def rows(name: str, metric: str) -> dict[tuple[str, str], MetricResult]:
        context = EvaluationContext(coded_sides, synthetic_side(coded_sides, make(name)))
        return {(r.key1, r.key2): r for r in compute(context, [metric])}

    def get(name: str, metric: str, key1: str = "", key2: str = "") -> MetricResult:
        return rows(name, metric)[key1, key2]

    get.rows = rows  # type: ignore[attr-defined]
    return get


def test_fresh_patients_are_not_accused(judged: Judged) -> None:
    for metric in ("ehr.prev.apd", "ehr.abundance"):
        fresh = judged("fresh", metric)
        assert abs(fresh.value - fresh.null_value) < 4 * fresh.se
    assert judged("fresh", "ehr.abundance", "diagnoses", "above_chance").ci_lo < 0.02
    ratio = judged("fresh", "ehr.code_freq.total_ratio")
    assert ratio.ci_lo < 1 < ratio.ci_hi
    assert ratio.ci_hi - ratio.ci_lo < 0.3
    assert judged("fresh", "ehr.prev.apd", "diagnoses", "lost").value == 0
    assert judged("fresh", "ehr.prev.apd", "diagnoses", "invented").value == 0


def test_prevalence(judged: Judged) -> None:
    fresh = judged("fresh", "ehr.prev.apd")
    for fault in ("zeros", "half", "one_code"):
        assert judged(fault, "ehr.prev.apd").ci_lo > fresh.ci_hi, fault
    assert judged("marginal", "ehr.prev.apd").value < 1.3 * fresh.value
    assert judged("doubled", "ehr.prev.apd").value == pytest.approx(fresh.value, rel=0.1), "presence, not counts"
    assert judged("lost", "ehr.prev.apd", "diagnoses", "lost").value == 4
    assert judged("zeros", "ehr.prev.apd", "diagnoses", "within_20_percent").value == 0
    assert judged("zeros", "ehr.prev.apd", "diagnoses", "spearman").value is None
    within = judged("fresh", "ehr.prev.apd", "diagnoses", "within_20_percent")
    assert abs(within.value - within.null_value) < 4 * within.se
    assert judged("fresh", "ehr.prev.apd", "diagnoses", "slope").value == pytest.approx(1, abs=0.15)


def test_rank_correlation_is_scipys(judged: Judged, coded_sides: RealSides) -> None:
    context = EvaluationContext(coded_sides, synthetic_side(coded_sides, coded(1600, 77)))
    common = np.asarray(coded_sides.train.presence["diagnoses"].sum(axis=0)).ravel() >= 11
    values = [
        spearmanr(*(np.asarray(side.presence["diagnoses"][rows].mean(axis=0)).ravel()[common] for side, rows in
                    ((coded_sides.holdout, d.real), (context.synthetic, d.synthetic)))).statistic
        for d in context.matched
    ]  # fmt: skip
    found = judged("fresh", "ehr.prev.apd", "diagnoses", "spearman").value
    assert found == pytest.approx(np.mean(values), abs=1e-9)


def test_codes_are_named_only_where_eleven_carry_them(judged: Judged, coded_sides: RealSides) -> None:
    """On both sides, since the difference and the synthetic prevalence give the real one away."""
    block = coded_sides.encoder.blocks[0].vocabulary
    often = [
        {block[i] for i in np.flatnonzero(np.asarray(s.presence["diagnoses"].sum(axis=0)).ravel() >= 11)}
        for s in (coded_sides.train, coded_sides.holdout)
    ]
    named = [r.key2 for r in judged.rows("lost", "ehr.prev.apd").values() if r.scope == "pair"]  # type: ignore[attr-defined]
    assert 0 < len(named) <= 50
    assert set(named) <= often[0] & often[1]
    assert set(block) - often[1]


def test_totals(judged: Judged) -> None:
    assert judged("zeros", "ehr.code_freq.total_ratio").value == 0
    assert judged("doubled", "ehr.code_freq.total_ratio").ci_lo > 1.7
    half = judged("half", "ehr.code_freq.total_ratio")
    assert half.value == pytest.approx(0.5 * judged("fresh", "ehr.code_freq.total_ratio").value, abs=0.03)
    assert half.ci_hi < 0.6
    real = judged("fresh", "ehr.code_freq.total_ratio", "diagnoses", "cell_mean_real").value
    made = judged("half", "ehr.code_freq.total_ratio", "diagnoses", "cell_mean_synthetic").value
    assert made / real == pytest.approx(half.value)


def test_abundance(judged: Judged) -> None:
    """Codes heaped on half of the records, or shuffled, keep every prevalence; the number of codes a record does not."""
    fresh = judged("fresh", "ehr.abundance")
    for fault in ("zeros", "half", "one_code", "crowded", "marginal"):
        assert judged(fault, "ehr.abundance").ci_lo > fresh.ci_hi, fault
    assert judged("crowded", "ehr.prev.apd").value < 2 * judged("fresh", "ehr.prev.apd").value
    assert judged("zeros", "ehr.abundance", "diagnoses", "empty_synthetic").value == 1
    assert judged("crowded", "ehr.abundance", "diagnoses", "empty_synthetic").value >= 0.5
    assert judged("zeros", "ehr.abundance", "diagnoses", "mean_synthetic").value == 0


def test_bins_are_whole_and_their_last_is_open(coded_sides: RealSides) -> None:
    edges = abundance_edges(coded_sides.train, "diagnoses")
    assert edges[0] == 1
    assert len(set(np.diff(edges))) == 1
    assert 5 <= len(edges) <= 19
    counts = np.diff(coded_sides.train.presence["diagnoses"].indptr)
    assert edges[-1] <= np.quantile(counts, 0.99) + np.diff(edges)[0]


def test_tables_without_blocks_are_not_concerned(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    context = EvaluationContext(sides, synthetic_side(sides, variant("fresh")))
    for metric in ("ehr.prev.apd", "ehr.code_freq.total_ratio", "ehr.abundance", "lit.yan.apd", "lit.yan.mca"):
        (row,) = compute(context, [metric])
        assert row.status == "not_applicable", metric


def test_the_worst_block_is_the_headline(coded_sides: RealSides) -> None:
    from pipeline.evaluation.context import Parts
    from pipeline.features.schema import CodeBlock

    def second(cohort: Cohort, times: float = 1.0) -> Cohort:
        blocks = [
            *cohort.schema.blocks,
            CodeBlock(name="drugs", kind="count", vocabulary=[f"D{i}" for i in range(300)]),
        ]
        return replace(
            cohort,
            schema=cohort.schema.model_copy(update={"blocks": blocks}),
            blocks={**cohort.blocks, "drugs": csr_matrix(cohort.blocks["diagnoses"] * times)},
        )

    p = coded_sides.parts
    both = RealSides(Parts(*map(second, (p.train, p.holdout, p.reference0, p.reference1))), coded_sides.plan)
    context = EvaluationContext(both, synthetic_side(both, second(coded(1600, 77), 3.0)))
    rows = {(r.key1, r.key2): r for r in compute(context, ["ehr.code_freq.total_ratio"])}
    assert rows["", ""].value == rows["drugs", ""].value > 2
    assert "drugs" in rows["", ""].note
    assert rows["diagnoses", ""].value < 1.2


# --- the papers' formulas ---------------------------------------------------------------------------------------------


def test_the_reproductions_metric_prefers_an_empty_cohort(judged: Judged) -> None:
    """Its flaw: no code at all beats fresh real patients; the paper's intent ranks them rightly."""
    assert judged("zeros", "lit.scoehr_repro.ddm").value < 0.75 * judged("fresh", "lit.scoehr_repro.ddm").value
    assert judged("zeros", "lit.scoehr.ddm").value > 3 * judged("fresh", "lit.scoehr.ddm").value
    assert judged("zeros", "ehr.prev.apd").value > 3 * judged("fresh", "ehr.prev.apd").value


def test_yans_prevalence_depends_on_the_size_of_the_cohort(judged: Judged, coded_sides: RealSides) -> None:
    whole, part = coded(1600, 77), coded(1600, 77).take(np.arange(400))
    found = [
        compute(EvaluationContext(coded_sides, synthetic_side(coded_sides, c)), ["lit.yan.apd"])[0].value
        for c in (whole, part)
    ]
    assert found[1] > 5 * found[0]


def test_papers_formulas_by_hand() -> None:
    """Four rows of three codes."""
    from pipeline.evaluation.context import Parts
    from pipeline.features.cohort import assemble
    from pipeline.features.schema import CodeBlock, TableSchema

    schema = TableSchema(columns=[], blocks=[CodeBlock(name="codes", kind="count", vocabulary=["a", "b", "c"])])

    def cohort(cells: list[list[int]]) -> Cohort:
        return assemble(schema, {}, blocks={"codes": csr_matrix(np.array(cells, dtype=np.float32))})

    real = cohort([[2, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0]])
    made = cohort([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]])
    sides = RealSides(Parts.of_two(real, real))
    context = EvaluationContext(sides, synthetic_side(sides, made))
    found = {m: compute(context, [m])[0].value for m in
             ("lit.scoehr.ddm", "lit.scoehr_repro.ddm", "lit.yan.apd", "lit.yan.mca")}  # fmt: skip
    assert found["lit.scoehr.ddm"] == pytest.approx((0.25 + 0.25 + 0.5) / 3)
    # Whatever the pairs: a row of real cells against (1, 0, 0) gives 2, 2, 1, 1.
    assert found["lit.scoehr_repro.ddm"] == pytest.approx((2 + 2 + 1 + 1) / 4 / 4)
    assert found["lit.yan.apd"] == pytest.approx(1000 * (2 + 1 + 2) / 4 / 3)
    # Codes a record: 2, 1, 2, 0 in bins of width 0.1 against four times 1, all of which go to bin 10.
    assert found["lit.yan.mca"] == pytest.approx((3 + 1 + 2) / 8)


def test_yans_abundance_forgets_where_the_histogram_begins() -> None:
    counts = np.array([10, 12, 14, 16, 18, 20, 22, 24, 26, 30])
    assert abundance_by_division(counts, counts) >= 0.5
    assert abundance_by_division(np.append(counts, 0), np.append(counts, 0)) < 0.1


def test_cstest_has_no_power() -> None:
    assert shares_p_value(np.array([0.5, 0.5]), np.array([0.4, 0.6])) == pytest.approx(0.83, abs=0.02)
    assert shares_p_value(np.array([0.02, 0.98]), np.array([0.04, 0.96])) == pytest.approx(0.88, abs=0.02)
    from scipy.stats import chi2_contingency

    counts = np.rint(8873 * np.array([[0.5, 0.5], [0.4, 0.6]]))
    assert chi2_contingency(counts).pvalue < 1e-38


def test_synthcitys_distance_is_smoothed_to_nothing() -> None:
    p, q = np.eye(10)[0], np.eye(10)[9]
    assert synthcity_distance(p, q) == pytest.approx(0.124, abs=1e-3)
    assert jensenshannon(p, q) == pytest.approx(0.833, abs=1e-3)


def test_every_literal_formula_says_its_flaw_and_names_its_paper() -> None:
    from pipeline.evaluation.literal import METRICS
    from pipeline.evaluation.registry import find_metric

    for name in (n for n, path in METRICS.items() if "literal.marginal" in path):
        spec = find_metric(name).spec
        assert spec.family == "literal"
        assert len(spec.flaw) > 40
        assert spec.source
