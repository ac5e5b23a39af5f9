"""Figures against hand-computed cases, closed forms and other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import ks_2samp

from pipeline.evaluation.distances import Points, jaccard
from pipeline.evaluation.fidelity.correlation import correlations
from pipeline.evaluation.fidelity.detection import FOLDS, assign_folds
from pipeline.evaluation.fidelity.marginal import jensen_shannon, ks_distance
from pipeline.evaluation.intervals import (
    CHUNK,
    auc,
    clopper_pearson,
    delong,
    pool_seeds,
    roc_points,
    subject_weights,
    tpr_at_fpr,
    weighted_auc,
    weighted_sums,
)
from pipeline.evaluation.neighbours import knn
from pipeline.evaluation.privacy.distances import LOW, weighted_quantile


def test_jensen_shannon_by_hand() -> None:
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    assert jensen_shannon(np.array([0.3, 0.7]), np.array([0.3, 0.7])) == 0
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    m = (p + q) / 2
    by_hand = sum(a * math.log2(a / c) / 2 + b * math.log2(b / c) / 2 for a, b, c in zip(p, q, m, strict=True))
    assert jensen_shannon(p, q) == pytest.approx(by_hand, abs=1e-15)


def test_ks_against_scipy_with_ties_and_missing() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 300).astype(float), rng.integers(1, 11, 170).astype(float)
    expected = ks_2samp(a, b).statistic
    assert ks_distance(np.r_[a, np.nan], np.r_[np.nan, b]) == pytest.approx(expected, abs=1e-15)


def test_auc_by_hand() -> None:
    scores, labels = np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True])
    assert auc(scores, labels) == (1 + 1 + 1 + 0.5) / 4
    assert delong(scores, labels).value == auc(scores, labels)
    assert weighted_auc(scores, labels, np.ones((1, 4), dtype=np.float32))[0] == auc(scores, labels)
    assert math.isnan(auc(scores, np.zeros(4, dtype=bool)))


def test_delong_matches_bootstrap_for_single_and_clustered_rows() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random(600) < 0.4
    scores = rng.normal(size=600) + labels
    single = np.arange(600)
    draws = weighted_auc(scores, labels, subject_weights(single, 800, rng))
    assert delong(scores, labels).se == pytest.approx(draws.std(), rel=0.12)
    fourfold = np.repeat(single[:150], 4)
    shared = np.repeat(rng.normal(size=150), 4) + 0.3 * rng.normal(size=600)
    truth = np.repeat(rng.random(150) < 0.5, 4)
    clustered = delong(shared + truth, truth, fourfold)
    draws = weighted_auc(shared + truth, truth, subject_weights(fourfold, 800, rng))
    assert clustered.se == pytest.approx(draws.std(), rel=0.15)
    assert clustered.se > 1.5 * delong(shared + truth, truth).se


def test_weighted_auc_is_auc_of_repeated_rows() -> None:
    rng = np.random.default_rng(2)
    scores, labels = rng.integers(0, 20, 50).astype(float), rng.random(50) < 0.5
    weights = rng.integers(0, 3, (3, 50)).astype(np.float32)
    for w, value in zip(weights, weighted_auc(scores, labels, weights), strict=True):
        times = w.astype(int)
        assert value == pytest.approx(auc(np.repeat(scores, times), np.repeat(labels, times)), abs=1e-12)


def test_subjects_are_drawn_whole() -> None:
    weights = subject_weights(np.array([5, 5, 7, 9, 9, 9]), 50, np.random.default_rng(0))
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert weights.std() > 0


def test_weighted_figures_do_not_depend_on_how_many_draws_are_held_at_once() -> None:
    rng = np.random.default_rng(2)
    weights = subject_weights(np.arange(40), 2 * CHUNK + 7, rng)
    values = rng.normal(size=80).round(1)
    np.testing.assert_allclose(weighted_sums(weights, values[:40]), weights.astype(float) @ values[:40], atol=1e-12)
    order = np.argsort(values, kind="stable")
    found = weighted_quantile(values, weights)
    for draw in (0, CHUNK, 2 * CHUNK + 6):
        repeated = np.repeat(values[order], np.tile(weights[draw], 2)[order].astype(int))
        assert found[draw] == np.quantile(repeated, LOW, method="inverted_cdf")


def test_rates_at_one_percent() -> None:
    members = np.repeat([True, False], [1000, 1000])
    scores = np.concatenate([np.arange(1000), np.arange(1000)]).astype(float)
    assert tpr_at_fpr(scores, members, 0.01) == pytest.approx(0.01, abs=1e-12)
    copied = np.concatenate([np.full(100, 5000.0), np.arange(900), np.arange(1000)])
    assert tpr_at_fpr(copied, members, 0.01) >= 0.10
    assert tpr_at_fpr(np.zeros(2000), members, 0.01) == pytest.approx(0.01)
    false, true = roc_points(copied, members)
    assert (np.diff(false) > 0).all()
    assert true[0] == 0.1


def test_clopper_pearson_known_values() -> None:
    assert clopper_pearson(0, 100) == (0.0, pytest.approx(0.0362167, abs=1e-6))
    assert clopper_pearson(10, 100) == (pytest.approx(0.0490047, abs=1e-6), pytest.approx(0.1762226, abs=1e-6))
    assert clopper_pearson(100, 100)[1] == 1.0


def test_seeds_are_pooled() -> None:
    values = [0.60, 0.62, 0.64, 0.66, 0.68]
    only_between = pool_seeds(values, [0.0] * 5)
    half = 2.776445 * np.std(values, ddof=1) / math.sqrt(5)
    assert only_between.hi - only_between.value == pytest.approx(half, rel=1e-5)
    both = pool_seeds(values, [0.03] * 5)
    assert both.se == pytest.approx(math.sqrt(np.var(values, ddof=1) / 5 + 0.03**2))
    assert both.se > only_between.se
    one = pool_seeds([0.7], [0.01])
    assert one.hi == pytest.approx(0.7 + 1.959964 * 0.01)
    assert pool_seeds([0.7], [None]).lo is None


def test_correlations_by_hand_and_constant_columns() -> None:
    x = np.array([[1, 2, 5], [2, 4, 5], [3, 7, 5]], dtype=float)
    found, constant = correlations(x)
    assert found[0, 1] == pytest.approx(np.corrcoef(x[:, 0], x[:, 1])[0, 1])
    assert constant == 1
    assert (found[2] == 0).all()


def _points(n: int, seed: int) -> Points:
    rng = np.random.default_rng(seed)
    dense = rng.random((n, 9)).round(1).astype(np.float32)
    return Points(dense, 9, (csr_matrix((rng.random((n, 40)) < 0.1).astype(np.float32)),))


def test_neighbours_do_not_depend_on_the_block_size_and_match_brute_force() -> None:
    a, b = _points(230, 0), _points(170, 1)
    whole = knn(a, b, 5)
    for budget in (170 * 4, 170 * 4 * 7, 170 * 4 * 100):
        part = knn(a, b, 5, budget_bytes=budget)
        np.testing.assert_array_equal(part.distance, whole.distance)
        np.testing.assert_array_equal(part.index, whole.index)
    gower = ((a.dense[:, None].astype(float) - b.dense[None]) ** 2).sum(-1) / 9
    brute = np.sqrt((gower + jaccard(a.presence[0], b.presence[0])) / 2)
    np.testing.assert_allclose(whole.distance, np.sort(brute, axis=1)[:, :5], atol=1e-7)


def test_neighbours_of_equal_rows_are_at_zero_and_self_is_left_out_by_position() -> None:
    a = _points(50, 3)
    twice = Points(np.concatenate([a.dense, a.dense[:1]]), 9, (a.presence[0][[*range(50), 0]],))
    assert (knn(twice, twice, 1).distance == 0).all()
    left_out = knn(twice, twice, 1, own=np.arange(len(twice)))
    assert left_out.index[0, 0] == 50
    assert left_out.distance[0, 0] == 0
    assert (left_out.distance[1:50] > 0).all()


def test_neighbours_of_few_rows() -> None:
    a = _points(4, 4)
    assert knn(a, a.take(np.array([2])), 5).distance.shape == (4, 1)
    assert knn(a, a.take(np.array([2])), 5).kth(5).shape == (4,)
    assert knn(a, a.take(np.array([], dtype=int)), 5).distance.shape == (4, 0)


def test_jaccard_by_hand() -> None:
    left = csr_matrix(np.array([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=np.float32))
    right = csr_matrix(np.array([[0, 1, 1, 0], [0, 0, 0, 0]], dtype=np.float32))
    np.testing.assert_allclose(jaccard(left, right), [[2 / 3, 1], [1, 0]], atol=1e-7)


def test_folds_keep_identical_rows_together_and_spread_giants() -> None:
    labels = np.repeat([False, True], 100)
    hashes = np.arange(200).astype(np.uint64)
    hashes[[3, 110, 111]] = 3
    hashes[150:] = 150
    folds = assign_folds(labels, hashes, np.random.default_rng(0))
    assert len({folds[3], folds[110], folds[111]}) == 1
    assert set(folds[150:]) == set(range(FOLDS))
    for fold in range(FOLDS):
        assert 15 <= (folds[:100] == fold).sum() <= 25
