"""The papers' formulas of dependence by hand, and the behaviour that each of them is faulted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix
from toy_people import coded, edited

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.literal.correlations import noisy_correlations, plain_correlations
from pipeline.evaluation.literal.dependence import histogram_score, levels_score, overlap
from pipeline.evaluation.protocol import compute
from pipeline.features.cohort import assemble
from pipeline.features.schema import Column, TableSchema

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.features.cohort import Cohort

REAL = np.array([[0.0, 0, 1], [1, 1, 1], [2, 1, 0], [3, 2, 0]])
MADE = np.array([[0.0, 1, 7], [1, 0, 7], [2, 3, 7], [3, 2, 7]])
LITERAL = [
    "lit.scoehr.pcd", "lit.yan.cwc", "lit.nhsx.corr_rmse", "lit.sdv.cont_kl", "lit.sdv.disc_kl", "lit.sdv.quality",
    "lit.rlsyn.nmi", "lit.rlsyn.dwd",
]  # fmt: skip


def numbers(x: np.ndarray) -> Cohort:
    schema = TableSchema(columns=[Column(name=n, kind="continuous", dtype="float64") for n in "abc"])
    return assemble(schema, dict(zip("abc", x.T.astype(float), strict=True)))


def values(sides: RealSides, cohort: Cohort, names: list[str]) -> dict[tuple[str, str], float | None]:
    rows = compute(EvaluationContext(sides, synthetic_side(sides, cohort)), names)
    return {(r.metric, r.key1): r.value for r in rows}


@pytest.fixture(scope="module")
def tiny() -> RealSides:
    real = numbers(REAL)
    nobody = real.take(np.array([], dtype=int))
    return RealSides(Parts(real, real, nobody, nobody))


def test_correlation_distances_of_four_rows_by_hand(tiny: RealSides) -> None:
    found = values(tiny, numbers(MADE), ["lit.scoehr.pcd", "lit.nhsx.corr_rmse"])
    real, made = np.corrcoef(REAL.T), np.eye(3)
    made[0, 1] = made[1, 0] = np.corrcoef(MADE.T[:2])[0, 1]
    # The third column is constant in the synthetic rows: its undefined correlations, the diagonal included, become 0.
    made[2, 2] = 0.0
    assert found["lit.scoehr.pcd", ""] == pytest.approx(np.sqrt(((real - made) ** 2).sum()))
    defined = (real[:2, :2] - made[:2, :2]) ** 2
    assert found["lit.nhsx.corr_rmse", ""] == pytest.approx(np.sqrt(defined.mean()))


def test_plain_correlations_agree_with_numpy_also_where_rows_are_sparse() -> None:
    cohort = coded(200, 3)
    side = RealSides(Parts(*[cohort] * 4)).train
    counts = side.counts["diagnoses"].toarray()
    # Both columns first, in the order of their names, then the codes.
    dense = np.c_[side.values["age"], side.codes["ill"], counts]
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.corrcoef(dense.T)
    np.testing.assert_allclose(plain_correlations(side), expected, atol=1e-9)


def test_noise_gives_constant_columns_random_correlations(tiny: RealSides) -> None:
    """The fault of Yan's code: a constant column gets a correlation, another one with every draw of the noise."""
    side = tiny.encoder.side(numbers(MADE))
    one, other = (noisy_correlations(side, np.random.default_rng(seed)) for seed in (1, 2))
    assert np.isfinite(one).all()
    assert one[2, 2] == 1
    assert abs(one[0, 2] - other[0, 2]) > 0.05
    assert one[0, 1] == other[0, 1] == pytest.approx(np.corrcoef(MADE.T[:2])[0, 1])
    found = values(tiny, numbers(REAL[[0, 2, 1, 3]]), ["lit.yan.cwc"])
    assert found == {("lit.yan.cwc", ""): 0.0, ("lit.yan.cwc", "text"): 0.0}
    shifted = numbers(np.c_[REAL[:, :2], REAL[::-1, 2]])
    difference = np.abs(np.corrcoef(REAL.T) - np.corrcoef(np.c_[REAL[:, :2], REAL[::-1, 2]].T))
    found = values(tiny, shifted, ["lit.yan.cwc"])
    assert found["lit.yan.cwc", ""] == pytest.approx(np.linalg.norm(difference) / 9 * 1e6)
    assert found["lit.yan.cwc", "text"] == pytest.approx(difference[np.triu_indices(3, 1)].mean())


def test_an_empty_cohort_comes_close_to_real_rows_by_pcd(coded_sides: RealSides) -> None:
    """Few rows of many rare codes: nothing at all scores within twice of the fresh real rows, and RMSE tells them apart."""
    fresh = coded(200, 8)
    small = RealSides(Parts(coded(1600, 1), coded(200, 2), coded(200, 3), coded(200, 4)))
    empty = numbers_kept(fresh, csr_matrix(fresh.blocks["diagnoses"].shape))
    found = {
        k: values(small, c, ["lit.scoehr.pcd"])["lit.scoehr.pcd", ""] for k, c in (("fresh", fresh), ("empty", empty))
    }
    assert found["empty"] < 2 * found["fresh"]


def numbers_kept(cohort: Cohort, matrix: csr_matrix) -> Cohort:
    from dataclasses import replace

    return replace(cohort, blocks={"diagnoses": matrix})


def test_divergences_of_pairs_by_hand() -> None:
    real, made = np.array([[3.0, 1.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    p, q = np.array([0.5, 0.5]), np.array([3, 1e-6]) / (4 + 1e-6)
    assert levels_score(real, made) == pytest.approx(1 / (1 + (p * np.log(p / q)).sum()))
    points = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    moved = np.array([[0.0, 0.0], [0.0, 1.0]])
    share, other = np.full(100, 1e-5), np.full(100, 1e-5)
    share[[0, 9, 90, 99]] += 1
    other[[0, 9]] += 1
    p, q = other / other.sum(), share / share.sum()
    assert histogram_score(points, moved) == pytest.approx(1 / (1 + (p * np.log(p / q)).sum()))
    assert histogram_score(points, points) == pytest.approx(1.0)
    assert overlap(np.array([1.0, 1.0]), np.array([3.0, 1.0])) == pytest.approx(0.75)


def test_values_out_of_range_are_dropped_by_continuous_kl() -> None:
    """Half of the rows thrown far away leave the score as it is."""
    rng = np.random.default_rng(0)
    real = rng.normal(size=(2, 4000))
    thrown = np.hstack([real, np.full((2, 4000), 1e6)])
    assert histogram_score(real, thrown) == pytest.approx(1.0)


def test_the_quality_report_does_not_see_a_column_rescaled(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    """Bins of each side's own and correlations without a scale: times 10 and 500 more keeps every pair's score."""
    fresh = variant("fresh")
    moved = edited(fresh, lambda n, x: pa.array(x.to_numpy() * 10 + 500) if n == "age" else x)
    names = ["lit.sdv.quality", "fid.dep.contingency"]
    before, after = values(sides, fresh, names), values(sides, moved, names)
    trends = "lit.sdv.quality", "column pair trends"
    assert after[trends] == pytest.approx(before[trends], abs=1e-9)
    assert after["fid.dep.contingency", ""] < before["fid.dep.contingency", ""] - 0.05


def test_independent_columns_score_high_in_the_quality_report(
    sides: RealSides, variant: Callable[[str], Cohort]
) -> None:
    found = {n: values(sides, variant(n), ["lit.sdv.quality"])["lit.sdv.quality", ""] for n in ("fresh", "marginal")}
    assert found["marginal"] > found["fresh"] - 0.06


def test_every_literal_figure_of_real_rows_is_the_best_possible(sides: RealSides, coded_sides: RealSides) -> None:
    """The training rows themselves against T, or the holdout itself against H, at the end of each range."""
    best = {name: 1.0 if name.startswith("lit.sdv") else 0.0 for name in LITERAL}
    for real in (sides, coded_sides):
        found = values(real, real.parts.train, LITERAL)
        assert {k[0] for k in found} == set(LITERAL)
        for (name, key), value in found.items():
            if name == "lit.scoehr.pcd" or value is None:
                assert value is None or value > 0
            else:
                assert value == pytest.approx(best[name], abs=1e-9), (name, key)
        itself = values(real, real.parts.holdout, ["lit.scoehr.pcd"])
        assert itself["lit.scoehr.pcd", ""] == pytest.approx(0.0, abs=1e-9)
    assert values(coded_sides, coded_sides.parts.train, LITERAL)["lit.sdv.cont_kl", ""] is None
