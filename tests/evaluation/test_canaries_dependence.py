"""Broken dependence is caught and fresh people are not accused; agreement with scipy and scikit-learn; errors that hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import spearmanr
from scipy.stats.contingency import association
from sklearn.metrics import normalized_mutual_info_score
from toy_people import coded, edited, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.encoding import MetricEncoder
from pipeline.evaluation.fidelity import pairs as two_way
from pipeline.evaluation.fidelity.association import Associations, columns_of
from pipeline.evaluation.fidelity.correlation import (
    code_correlations,
    code_influence,
    correlations,
    pair_draws,
    row_influence,
    standardised,
)
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, headline, pooled
from pipeline.evaluation.references import reference_cohort

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

CORRELATIONS = [
    "fid.dep.corr_rmse",
    "fid.dep.corr_mad",
    "fid.dep.corr_spearman",
    "fid.dep.pcd_excess",
    "fid.dep.corr_sign",
]
TABLES = ["fid.dep.assoc", "fid.dep.nmi", "fid.dep.pair_kl", "fid.dep.contingency"]


def judged(sides: RealSides, cohort: Cohort) -> dict[str, MetricResult]:
    """The headlines of all metrics of dependence."""
    rows = pooled(compute(EvaluationContext(sides, synthetic_side(sides, cohort)), [*CORRELATIONS, *TABLES]))
    found = {name: headline(rows, name) for name in [*CORRELATIONS, *TABLES]}
    return {name: row for name, row in found.items() if row is not None}


def reversed_column(cohort: Cohort, name: str) -> Cohort:
    """Every value swapped for the one at the opposite end: the marginal stays, all its correlations change sign."""

    def turn(column: str, x: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        if column != name:
            return x
        values = x.to_numpy()
        turned = np.empty_like(values)
        turned[np.argsort(values, kind="stable")] = np.sort(values)[::-1]
        return pa.array(turned)

    return edited(cohort, turn)


@pytest.fixture(scope="module")
def found(sides: RealSides, variant: Callable[[str], Cohort]) -> dict[str, dict[str, MetricResult]]:
    made = {name: variant(name) for name in ("fresh", "marginal", "mode")}
    made["reversed"] = reversed_column(variant("fresh"), "age")
    return {name: judged(sides, cohort) for name, cohort in made.items()}


@pytest.mark.parametrize("name", [*CORRELATIONS, *TABLES])
def test_fresh_people_are_met_and_broken_dependence_is_not(
    name: str, found: dict[str, dict[str, MetricResult]]
) -> None:
    fresh, rows = found["fresh"][name], {k: v[name] for k, v in found.items()}
    sign = fresh.direction
    for fault in ("marginal", "mode", "reversed"):
        apart = sign * (fresh.value - rows[fault].value)
        if (name, fault) == ("fid.dep.nmi", "reversed"):
            # Mutual information has no sign: turning a column round leaves it as it is.
            assert abs(apart) < 5 * np.hypot(fresh.se, rows[fault].se)
            continue
        assert apart > 3 * np.hypot(fresh.se, rows[fault].se), fault
    if fresh.null_value is not None:
        assert abs(fresh.value - fresh.null_value) < max(4 * fresh.se, 0.15 * fresh.null_value)


def test_pcd_excess_of_fresh_people_holds_zero(found: dict[str, dict[str, MetricResult]]) -> None:
    assert found["fresh"]["fid.dep.pcd_excess"].ci_lo == 0
    assert found["marginal"]["fid.dep.pcd_excess"].ci_lo > 0.1


def test_a_copied_training_set_is_nearer_to_training_than_to_the_holdout(sides: RealSides) -> None:
    rows = pooled(compute(EvaluationContext(sides, sides.train), ["fid.dep.corr_rmse"]))
    known, held_out = headline(rows, "fid.dep.corr_rmse", key2="train"), headline(rows, "fid.dep.corr_rmse")
    assert known.value < held_out.value


def test_columns_that_lost_their_spread_are_counted(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    still = edited(variant("fresh"), lambda n, x: pa.array(np.full(len(x), 50.0)) if n in ("age", "lab_c") else x)
    row = headline(pooled(compute(EvaluationContext(sides, synthetic_side(sides, still)), ["fid.dep.corr_rmse"])),
                   "fid.dep.corr_rmse")  # fmt: skip
    assert row.note.startswith("2 of ")
    assert row.value > 0.05


@pytest.fixture(scope="module")
def coded_found(coded_sides: RealSides) -> dict[str, list[MetricResult]]:
    shuffled = reference_cohort(coded_sides, "ref_marginal")
    made = {"fresh": coded(1600, 77), "shuffled": shuffled}
    contexts = {k: EvaluationContext(coded_sides, synthetic_side(coded_sides, c)) for k, c in made.items()}
    return {k: compute(c, [*CORRELATIONS, *TABLES]) for k, c in contexts.items()}


@pytest.mark.parametrize("name", ["fid.dep.corr_rmse", "fid.dep.assoc", "fid.dep.nmi"])
def test_codes_that_no_longer_go_together_are_caught(name: str, coded_found: dict[str, list[MetricResult]]) -> None:
    fresh, shuffled = (next(r for r in rows if r.metric == name) for rows in coded_found.values())
    assert fresh.direction * (fresh.value - shuffled.value) > 3 * np.hypot(fresh.se, shuffled.se)


def test_all_codes_are_a_row_of_their_own_beside_the_most_variable(coded_found: dict[str, list[MetricResult]]) -> None:
    rows = {k: {r.key1: r for r in v if r.metric == "fid.dep.corr_rmse" and not r.key2} for k, v in coded_found.items()}
    assert set(rows["fresh"]) == {"", "all codes"}
    ratio = {key: rows["shuffled"][key].value / rows["fresh"][key].value for key in ("", "all codes")}
    assert 1.2 < ratio["all codes"] < ratio[""]


def test_standard_errors_are_those_of_new_people() -> None:
    """Figures of independent holdouts and cohorts vary as their standard errors say."""
    train, rest = people(1500, 1), people(10, 9)
    names = ["fid.dep.corr_rmse", "fid.dep.assoc", "fid.dep.nmi", "fid.dep.pair_kl", "fid.dep.contingency"]
    values: dict[str, list[float]] = {name: [] for name in names}
    errors: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(12):
        sides = RealSides(Parts(train, people(500, 100 + seed), rest, rest), EvaluationPlan(profile="quick"))
        made = people(500, 200 + seed)
        made = edited(made, lambda n, x: x.take(pa.array(np.r_[1 : len(x), 0])) if n in ("age", "ward", "sex") else x)
        whole = replace(EvaluationContext(sides, synthetic_side(sides, made)))
        whole.__dict__["matched_size"] = 500
        for row in compute(whole, names):
            if not row.key1 and not row.key2:
                values[row.metric].append(row.value)
                errors[row.metric].append(row.se)
    for name in names:
        assert 0.5 < np.mean(errors[name]) / np.std(values[name], ddof=1) < 2.2, name


def test_first_order_influence_is_the_derivative() -> None:
    """Against the figure computed again with one row counted a little more."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4))
    x[:, 3] = x[:, 3] > 0
    matrix, unit = correlations(x)[0], standardised(x)
    gradient = np.zeros((4, 4))
    gradient[0, 1] = gradient[1, 0] = 1.0
    gradient[2, 3] = gradient[3, 2] = -0.5

    def figure(weights: np.ndarray) -> float:
        found = np.cov(x.T, aweights=weights, ddof=0)
        scale = np.sqrt(np.diag(found))
        found = found / np.outer(scale, scale)
        return float(found[0, 1] - 0.5 * found[2, 3])

    influence = row_influence(unit, matrix, gradient)
    assert abs(influence.mean()) < 1e-6
    for row in (0, 17, 90):
        more = np.ones(200)
        more[row] += 1e-3
        assert influence[row] == pytest.approx((figure(more) - figure(np.ones(200))) * 200 / 1e-3, abs=0.02)
    weights = np.ones((1, 200), dtype=np.float32)
    np.testing.assert_allclose(
        pair_draws(unit, matrix, (np.array([0, 2]), np.array([1, 3])), weights)[0], matrix[[0, 2], [1, 3]], atol=1e-5
    )


def test_correlations_agree_with_numpy_and_scipy() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3))
    np.testing.assert_allclose(correlations(x)[0], np.corrcoef(x.T), atol=1e-12)
    presence = csr_matrix((rng.random((300, 12)) < 0.1).astype(np.float32))
    np.testing.assert_allclose(code_correlations(presence), np.corrcoef(presence.toarray().T), atol=1e-7)
    common = csr_matrix((rng.random((300, 12)) < 0.6).astype(np.float32))
    np.testing.assert_allclose(code_correlations(common), np.corrcoef(common.toarray().T), atol=1e-7)
    empty = csr_matrix(np.c_[presence.toarray(), np.zeros(300), np.ones(300)])
    assert (code_correlations(empty)[12:] == 0).all()
    gradient = rng.normal(size=(12, 12))
    gradient = np.triu(gradient, 1) + np.triu(gradient, 1).T
    dense = presence.toarray()
    np.testing.assert_allclose(
        code_influence(presence, code_correlations(presence), gradient),
        row_influence(standardised(dense), correlations(dense)[0], gradient),
        atol=1e-4,
    )


def test_rank_correlations_are_spearmans(sides: RealSides) -> None:
    from pipeline.evaluation.fidelity.correlation import correlated, design_of

    ctx = EvaluationContext(sides, sides.train)
    found, names = correlated(ctx, "H", ranks=True).matrices[0], design_of(sides).names
    i, j = names.index("age"), names.index("pressure")
    rows = ctx.matched[0].real
    expected = spearmanr(sides.holdout.values["age"][rows], sides.holdout.values["pressure"][rows]).statistic
    assert found[i, j] == pytest.approx(expected, abs=1e-5)


def test_associations_agree_with_scipy_and_by_hand(sides: RealSides) -> None:
    """scipy's Cramér's V has no correction for bias: ours is lower, by what Bergsma's formula takes off."""
    side = sides.holdout
    rows = np.flatnonzero((side.codes["ward"] >= 0) & ~np.isnan(side.values["lab_a"]))
    found = Associations(columns_of(sides, side, rows)).matrix
    names = [c.name for c in sides.encoder.columns if c.numeric or c.kind == "ordinal"]
    levels = [c.name for c in sides.encoder.columns if c.discrete and c.kind != "ordinal"]
    at = {name: i for i, name in enumerate(names + levels)}
    age, lab = side.values["age"][rows], side.values["lab_a"][rows]
    assert found[at["age"], at["lab_a"]] == pytest.approx(np.corrcoef(age, lab)[0, 1], abs=1e-5)
    ward, discharge = side.codes["ward"][rows], side.codes["discharge"][rows]
    means = np.array([age[ward == k].mean() for k in range(4)])
    ratio = np.sqrt(np.var(means[ward]) / np.var(age))
    assert found[at["ward"], at["age"]] == pytest.approx(ratio, abs=1e-5)
    table = np.array([[((ward == a) & (discharge == b)).sum() for b in range(3)] for a in range(4)])
    plain, n = association(table, method="cramer"), len(rows)
    lowered = max(0.0, plain**2 * 2 - 3 * 2 / (n - 1))
    expected = np.sqrt(lowered / min(4 - 9 / (n - 1) - 1, 3 - 4 / (n - 1) - 1))
    assert found[at["ward"], at["discharge"]] == pytest.approx(expected, abs=1e-6)
    assert found[at["ward"], at["discharge"]] < plain
    np.testing.assert_allclose(found, found.T)


def test_mutual_information_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    a = rng.integers(0, 4, 500)
    b = np.where(rng.random(500) < 0.4, a, rng.integers(0, 4, 500))
    shares = np.histogram2d(a, b, bins=(4, 4))[0][None] / 500
    value, _ = two_way.mutual_information(shares)
    assert value[0] == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-10)
    constant = np.zeros((1, 2, 3))
    constant[0, 0] = 1 / 3
    assert two_way.mutual_information(constant)[0][0] == 0


def test_figures_of_a_pair_by_hand() -> None:
    """A 2 x 2 table of four people against one of two; the prior adds half a person to each of the four cells."""
    left, right = np.array([[[2.0, 0.0], [1.0, 1.0]]]), np.array([[[1.0, 1.0], [0.0, 0.0]]])
    values, _, nulls = two_way._figures(left, right)
    assert values[0] == pytest.approx(1 - (0 + 0.5 + 0.25 + 0.25) / 2)
    p, q = np.array([2.5, 0.5, 1.5, 1.5]) / 6, np.array([1.5, 1.5, 0.5, 0.5]) / 4
    assert values[1] == pytest.approx(1 / (1 + np.sum(p * np.log(p / q))))
    assert values[2] == pytest.approx(1 / (1 + np.sum(q * np.log(q / p))))
    assert nulls[1] == pytest.approx(1 / (1 + 3 * (1 / 4 + 1 / 2) / 2))


def test_a_number_moved_out_of_range_is_not_dropped(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    """Bins of T with open ends: a column times ten and raised by 500 shares nothing with the real one."""
    moved = edited(variant("fresh"), lambda n, x: pa.array(x.to_numpy() * 10 + 500) if n == "age" else x)
    ctx = EvaluationContext(sides, synthetic_side(sides, moved), with_plots=True)
    compute(ctx, ["fid.dep.contingency"])
    worst = ctx.plots["two_way"][:11]
    assert all("age" in pair[:2] for pair in worst)
    assert worst[0][2] < 0.2


def test_rows_in_another_order_give_the_same_figures(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    fresh = variant("fresh")
    turned = fresh.take(np.random.default_rng(3).permutation(fresh.n_rows))
    one, other = judged(sides, fresh), judged(sides, turned)
    assert {k: v.value for k, v in one.items()} == {k: v.value for k, v in other.items()}


def test_wide_tables_take_pairs_of_columns_first(coded_sides: RealSides) -> None:
    binning = two_way.binning_of(coded_sides)
    assert len(binning.pairs[0]) == two_way.MOST_PAIRS
    plain = (binning.pairs[0] < 2) & (binning.pairs[1] < 2)
    assert plain.sum() == 1
    assert len(set(zip(*binning.pairs, strict=True))) == two_way.MOST_PAIRS


def test_small_and_strange_cohorts_get_a_value_or_a_reason(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    fresh = variant("fresh")
    nothing = edited(fresh, lambda n, x: pa.nulls(len(x), x.type) if n in ("lab_a", "ward", "age") else x)
    for cohort in (fresh.take(np.array([0])), fresh.take(np.arange(3)), nothing):
        for row in judged(sides, cohort).values():
            assert row.value is not None or row.note
            assert row.value is None or np.isfinite(row.value)
    one = people(30, 5)
    alone = one.schema.model_copy(update={"columns": [one.schema.columns[1]]})
    narrow = [
        replace(people(n, s), table=people(n, s).table.select(["age"]), schema=alone) for n, s in ((300, 1), (90, 2))
    ]
    small = RealSides(Parts(narrow[0], narrow[1], narrow[1].take(np.arange(0)), narrow[1].take(np.arange(0))))
    for row in judged(small, narrow[0].take(np.arange(80))).values():
        assert row.value is None
        assert row.note


def test_plots_name_no_rare_code_and_hold_no_row() -> None:
    parts = Parts(coded(150, 1), coded(300, 2), coded(200, 3), coded(200, 4))
    sides = RealSides(parts, EvaluationPlan(profile="quick"))
    carriers = np.asarray(sides.train.presence["diagnoses"].sum(axis=0)).ravel()
    block = sides.encoder.blocks[0]
    rare = {f"diagnoses/{block.vocabulary[i]}" for i in sides.encoder.kept_codes["diagnoses"] if carriers[i] < 11}
    assert rare
    ctx = EvaluationContext(sides, synthetic_side(sides, coded(400, 5)), with_plots=True)
    compute(ctx, ["fid.dep.corr_rmse", "fid.dep.contingency"])
    matrix = ctx.plots["correlation"]
    assert len(matrix["names"]) <= 80
    named = {*matrix["names"], *(n for pair in matrix["broken"] for n in pair[:2])}
    named |= {n for pair in ctx.plots["two_way"] for n in pair[:2]}
    assert any(n.startswith("diagnoses/C") for n in named)
    assert not named & rare
    assert len(matrix["broken"]) == 20


def test_the_report_shows_where_dependence_breaks(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    """Heatmaps of three matrices, errors by kinds of columns beside both references, and tables of the worst pairs."""
    from pipeline.evaluation.report.figures.dependence import FIGURES, TABLES
    from pipeline.evaluation.results import REFERENCE_ROWS

    ctx = EvaluationContext(
        sides, synthetic_side(sides, reversed_column(variant("fresh"), "age")), replicate=0, with_plots=True
    )
    rows = pooled(compute(ctx, ["fid.dep.corr_rmse", "fid.dep.assoc", "fid.dep.contingency"]))
    rows = [replace(r, **dict.fromkeys(REFERENCE_ROWS, 0.1)) for r in rows]
    figures = [f for draw in FIGURES for f in draw(rows, ctx.plots)]
    assert [f["id"] for f in figures] == [
        "figure-correlation-real", "figure-correlation-synthetic", "figure-correlation-difference", "figure-associations"
    ]  # fmt: skip
    assert figures[-1]["data"][0]["y"] == ["number and number", "number and category", "category and category"]
    broken, two_way_table = (t for draw in TABLES for t in draw(rows, ctx.plots))
    assert all("age" in pair[:2] for pair in broken["rows"][:5])
    assert broken["rows"][0][4] == pytest.approx(broken["rows"][0][3] - broken["rows"][0][2], abs=1e-3)
    assert "age" in two_way_table["rows"][0]
    for draw in (*FIGURES, *TABLES):
        assert draw([], {}) == []


def test_levels_are_read_by_name_not_by_place() -> None:
    """Categories relabelled in both the schema and the rows give the same figures."""
    parts = Parts(people(600, 1), people(400, 2), people(400, 3), people(10, 4))
    made = people(500, 5)

    def relabelled(cohort: Cohort) -> Cohort:
        column = cohort.schema.column("ward")
        names = {"a": "z", "b": "m", "c": "k", "d": "c"}
        schema = cohort.schema.model_copy(
            update={
                "columns": [
                    c.model_copy(update={"levels": sorted(names.values())}) if c.name == column.name else c
                    for c in cohort.schema.columns
                ]
            }
        )
        table = cohort.table.column("ward").to_pylist()
        values = pa.array([None if v is None else names[v] for v in table])
        at = cohort.table.column_names.index("ward")
        return replace(cohort, schema=schema, table=cohort.table.set_column(at, "ward", values))

    plain = judged(RealSides(parts, EvaluationPlan(profile="quick")), made)
    named = Parts(*map(relabelled, (parts.train, parts.holdout, parts.reference0, parts.reference1)))
    other = judged(RealSides(named, EvaluationPlan(profile="quick")), relabelled(made))
    for name in ("fid.dep.corr_mad", "fid.dep.nmi", "fid.dep.contingency"):
        assert other[name].value == pytest.approx(plain[name].value, rel=0.15), name
    assert MetricEncoder(named.train).schema.column("ward").levels == ["c", "k", "m", "z"]
