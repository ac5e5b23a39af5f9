"""Noisy tables: scale of the noise, what one row can change, merging of small states, choice of a tree."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from private_lab import begin

from pipeline.privacy.marginals import (
    Exact,
    choose_tree,
    gaussian_sd,
    measure_histograms,
    measure_tables,
    merge_ordered,
    merge_rare,
    most_groups,
    pair_score,
    pair_table,
    to_simplex,
    too_noisy,
    tree_size,
)
from pipeline.privacy.run import PrivateRun
from pipeline.privacy.second_moments import clipped, measure_products, products_reach

RHO = 0.2


def run(rows_per_subject: int = 1) -> PrivateRun:
    return begin(100, epsilon=50.0, rows_per_subject=rows_per_subject)


class Recorder(Exact):
    """Answers without noise and keeps what each pick may cost."""

    def __init__(self) -> None:
        self.epsilons: list[float] = []

    def exponential(self, scores: NDArray[Any], *, sensitivity: float, epsilon: float, what: str) -> int:
        assert sensitivity == 1.0
        self.epsilons.append(epsilon)
        return super().exponential(scores, sensitivity=sensitivity, epsilon=epsilon, what=what)


@pytest.mark.parametrize("rows_per_subject", [1, 3])
def test_noise_is_as_large_as_stated(rows_per_subject: int) -> None:
    rng = np.random.default_rng(0)
    d, size = 8, 500
    private = run(rows_per_subject)
    columns = [rng.integers(0, size, 2000) for _ in range(d)]
    found = measure_histograms(private, columns, [size] * d, rho=RHO, rows_per_subject=rows_per_subject)
    exact = [np.bincount(c, minlength=size) for c in columns]
    stated = rows_per_subject * np.sqrt(d / (2 * RHO))
    assert found.sd == pytest.approx(stated)
    assert np.std(np.concatenate(found.counts) - np.concatenate(exact)) == pytest.approx(stated, rel=0.05)
    tables = [np.zeros((60, 60)) for _ in range(4)]
    noisy = measure_tables(private, tables, rho=RHO, what="pair tables")
    assert [t.shape for t in noisy] == [(60, 60)] * 4
    assert np.std(np.stack(noisy)) == pytest.approx(rows_per_subject * np.sqrt(4 / (2 * RHO)), rel=0.05)
    norm, wide = 3.0, 120
    products, sd = measure_products(
        private, np.zeros((wide, wide)), norm=norm, rho=RHO, rows_per_subject=rows_per_subject
    )
    assert sd == pytest.approx(rows_per_subject * norm**2 * np.sqrt((1 - 1 / wide) / 2 / (2 * RHO)))
    assert np.std(products[np.triu_indices(wide, 1)]) == pytest.approx(sd, rel=0.05)
    assert np.array_equal(products, products.T)
    assert sum(m.rho or 0.0 for m in private.ledger) == pytest.approx(3 * RHO)


def test_one_row_changes_a_score_by_one_at_most() -> None:
    rng = np.random.default_rng(3)
    largest = 0.0
    for _ in range(200):
        table = rng.integers(0, 6, (rng.integers(2, 6), rng.integers(2, 6))).astype(float)
        # Published numbers need not be those of the table.
        a, b = rng.dirichlet(np.ones(table.shape[0])), rng.dirichlet(np.ones(table.shape[1]))
        total, noise = float(rng.uniform(1, 80)), float(rng.uniform(0, 5))
        before = pair_score(table, a, b, total, noise)
        for cell in np.ndindex(*table.shape):
            neighbour = table.copy()
            neighbour[cell] += 1.0
            largest = max(largest, abs(pair_score(neighbour, a, b, total, noise) - before))
    assert 0.99 < largest <= 1 + 1e-9


def test_one_row_moves_products_no_further_than_stated() -> None:
    rng = np.random.default_rng(4)
    d, norm = 6, 2.0
    above = np.triu_indices(d, 1)
    rows = clipped(rng.standard_normal((500, d)) * rng.uniform(0.1, 5, (500, 1)), norm)
    assert np.linalg.norm(rows, axis=1).max() <= norm + 1e-12
    moved = [np.linalg.norm(np.outer(r, r)[above]) for r in rows]
    assert max(moved) <= products_reach(norm, d) + 1e-12
    even = np.full(d, norm / np.sqrt(d))
    assert np.linalg.norm(np.outer(even, even)[above]) == pytest.approx(products_reach(norm, d))


def test_simplex_projection_is_the_nearest() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        wild = rng.normal(0.1, 0.4, (4, 3))
        found = to_simplex(wild)
        assert found.shape == wild.shape
        assert found.min() >= 0
        assert found.sum() == pytest.approx(1)
        others = rng.dirichlet(np.ones(12), 300).reshape(-1, 4, 3)
        assert ((found - wild) ** 2).sum() <= ((others - wild) ** 2).sum(axis=(1, 2)).min()


def test_neighbouring_states_are_merged() -> None:
    counts = np.array([400.0, 3.0, 5.0, 100.0, 90.0, -4.0, 120.0, 110.0, 2.0, 60.0])
    sd = 10.0
    groups = merge_ordered(counts, sd, 5, missing=True)
    assert (np.diff(groups.of) >= 0).all()
    assert groups.of[:2].tolist() == [0, 1], "a heavy state stands alone"
    assert (groups.of == groups.of[-1]).sum() == 1, "missing is nobody's neighbour"
    assert groups.totals(counts).min() >= 3 * sd
    assert np.bincount(groups.of, weights=groups.within) == pytest.approx(np.ones(groups.size))
    rare = merge_ordered(np.r_[counts[:-1], 5.0], sd, 5, missing=True)
    assert rare.of[-1] == rare.of[-2], "too few missing cells to be told"
    assert merge_ordered(np.zeros(4), sd, 5).size == 1


def test_rare_levels_become_one() -> None:
    groups = merge_rare(np.array([500.0, 12.0, -3.0, 80.0, 31.0]), 10.0, 100)
    assert groups.of.tolist() == [0, 3, 3, 1, 2]
    assert groups.within.tolist() == pytest.approx([1, 1, 0, 1, 1])
    capped = merge_rare(np.arange(1000.0, 1300.0), 1.0, 100)
    assert capped.size == 100
    assert (capped.of == 99).sum() == 201


def test_cut_and_switch_follow_the_noise() -> None:
    noise = gaussian_sd(1.0, 0.001)
    groups = most_groups(6000.0, noise)
    assert not too_noisy(np.array([groups**2]), 6000.0, noise)
    assert too_noisy(np.array([(groups + 1) ** 2]), 6000.0, noise)
    assert most_groups(6000.0, 0.0) == 100
    assert most_groups(50.0, noise) == 4
    assert too_noisy(np.array([16]), 50.0, noise)


def test_the_tree_is_the_best_one_without_noise() -> None:
    pairs = list(combinations(range(4), 2))
    scores = np.array([5.0, 4.0, 1.0, 4.5, 2.0, 3.0])  # 01 02 03 12 13 23
    recorder = Recorder()
    edges = choose_tree(recorder, pairs, scores, 4, rho=0.3)
    assert sorted(edges) == [(0, 1), (1, 2), (2, 3)]
    assert recorder.epsilons == pytest.approx([np.sqrt(8 * 0.1)] * 3)
    assert tree_size(pairs, 4) == 3
    assert tree_size([(0, 1), (2, 3), (1, 0)], 4) == 2


def test_picks_are_charged() -> None:
    private = run()
    pairs = list(combinations(range(5), 2))
    edges = choose_tree(private, pairs, np.zeros(len(pairs)), 5, rho=0.3)
    assert len(edges) == 4
    assert {i for e in edges for i in e} == set(range(5))
    assert sum(m.rho or 0.0 for m in private.ledger) == pytest.approx(0.3)


def test_scores_find_dependence_where_distance_alone_finds_size() -> None:
    """Two large independent columns are further from independence, in L1, than two small dependent ones."""
    rng = np.random.default_rng(7)
    n = 2000
    a, b = rng.integers(0, 40, n), rng.integers(0, 40, n)
    x = rng.integers(0, 2, n)
    y = np.where(rng.random(n) < 0.62, x, 1 - x)
    shares = [np.bincount(v) / n for v in (a, b, x, y)]
    wide, narrow = pair_table(a, b, 40, 40), pair_table(x, y, 2, 2)
    plain = [
        np.abs(t - n * np.outer(p, q)).sum()
        for t, p, q in ((wide, shares[0], shares[1]), (narrow, shares[2], shares[3]))
    ]
    assert plain[0] > plain[1]
    assert pair_score(wide, shares[0], shares[1], n, 0.0) < pair_score(narrow, shares[2], shares[3], n, 0.0)
