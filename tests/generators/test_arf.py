"""Adversarial random forests: boxes, leaves, exact conditions, classes of code blocks, odd tables and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from generator_tables import code_cohort, mixed_cohort, stay_cohort
from scipy.sparse import csr_matrix

from pipeline.errors import ConfigError, InputError, UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.generators.arf.forest import Grid, Growth, grow_forest
from pipeline.generators.arf.generator import ARF
from pipeline.generators.arf.latent_classes import LatentClasses
from pipeline.generators.arf.leaves import Leaves
from pipeline.generators.base import PrivacySpec


def states_with_dependence(n: int, seed: int) -> tuple[Grid, np.ndarray]:
    """Three columns: an ordered one with a hole, a nominal one that follows it, and an ordered one that follows both."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal(n)
    first = np.clip(np.rint(4 + 2 * hidden), 0, 8).astype(int)
    first[rng.random(n) < 0.1] = 9
    second = np.where(rng.random(n) < 0.85, (first * 3) % 5, rng.integers(0, 5, n))
    third = np.clip(first // 2 + (second == 2) + rng.integers(0, 2, n), 0, 6)
    grid = Grid(np.array([10, 5, 7]), np.array([True, False, True]), np.array([True, False, False]))
    return grid, np.stack([first, second, third], axis=1)


def fitted_leaves(n: int = 2000, leaf: int = 20, pseudo: float = 1.0) -> tuple[Grid, np.ndarray, Leaves, list]:
    grid, real = states_with_dependence(n, 0)
    rng = np.random.default_rng(1)
    shuffled = np.stack([rng.permutation(c) for c in real.T], axis=1)
    forest, _ = grow_forest(grid, real, shuffled, np.arange(n), Growth(8, leaf), seed=3)
    return grid, real, Leaves.of(grid, real, forest, pseudo), forest


def test_rows_lie_in_the_boxes_of_their_leaves() -> None:
    grid, real, _, forest = fitted_leaves()
    for boxes in forest:
        rows = np.flatnonzero(boxes.leaf >= 0)
        leaf = boxes.leaf[rows]
        for j in range(len(grid)):
            state = real[rows, j]
            gone = grid.hole[j] & (state == grid.sizes[j] - 1)
            place = boxes.places[j][state]
            inside = (place >= boxes.low[leaf, j]) & (place <= boxes.high[leaf, j])
            assert np.where(gone, boxes.missing[leaf, j], inside).all()
        assert np.bincount(leaf).min() >= 20


def test_a_leaf_needs_subjects_not_rows() -> None:
    grid, real = states_with_dependence(600, 0)
    twice = np.repeat(real, 3, axis=0)
    rng = np.random.default_rng(1)
    shuffled = np.stack([rng.permutation(c) for c in twice.T], axis=1)
    forest, _ = grow_forest(grid, twice, shuffled, np.repeat(np.arange(600), 3), Growth(4, 20), seed=0)
    for boxes in forest:
        for leaf in range(len(boxes.low)):
            assert len(np.unique(np.flatnonzero(boxes.leaf == leaf) // 3)) >= 20


def test_the_density_is_one_and_rows_are_drawn_by_it() -> None:
    grid, real, leaves, _ = fitted_leaves()
    every = np.stack(np.meshgrid(*(np.arange(k) for k in grid.sizes), indexing="ij"), axis=-1).reshape(-1, 3)
    chance = np.exp(leaves.log_density(every))
    assert chance.sum() == pytest.approx(1.0, abs=1e-9)
    drawn = leaves.draw(200_000, np.random.default_rng(0))
    index = np.ravel_multi_index(tuple(drawn.T), tuple(grid.sizes))
    share = np.bincount(index, minlength=len(every)) / len(drawn)
    assert np.abs(share - chance).sum() / 2 < 0.02
    rng = np.random.default_rng(4)
    shuffled = np.stack([rng.permutation(c) for c in real.T], axis=1)
    assert leaves.log_density(real).mean() > leaves.log_density(shuffled).mean() + 0.3


def test_margins_survive_the_leaves_that_are_left_out() -> None:
    grid, real, leaves, forest = fitted_leaves()
    assert np.mean([(b.leaf < 0).mean() for b in forest]) > 0.02, "no leaf was left out: this test says nothing"
    drawn = leaves.draw(100_000, np.random.default_rng(0))
    for j, size in enumerate(grid.sizes):
        off = np.bincount(drawn[:, j], minlength=size) / 1e5 - np.bincount(real[:, j], minlength=size) / len(real)
        assert np.abs(off).max() < 0.015


def test_conditions_are_exact() -> None:
    grid, _, leaves, _ = fitted_leaves()
    every = np.stack(np.meshgrid(*(np.arange(k) for k in grid.sizes), indexing="ij"), axis=-1).reshape(-1, 3)
    chance = np.exp(leaves.log_density(every))
    known = every[:, 1] == 2
    truth = np.bincount(every[known, 0], weights=chance[known], minlength=10) / chance[known].sum()
    n = 60_000
    evidence = np.tile((np.arange(5) == 2).astype(float), (n, 1))
    drawn = leaves.draw(n, np.random.default_rng(0), {1: evidence})
    assert (drawn[:, 1] == 2).all()
    assert np.abs(np.bincount(drawn[:, 0], minlength=10) / n - truth).max() < 0.01


def test_no_row_can_be_put_together_from_the_model() -> None:
    _, _, leaves, _ = fitted_leaves()
    for a, b in zip(leaves.start[:-1], leaves.start[1:], strict=True):
        assert (np.diff(leaves.states[a:b].astype(int), axis=0) >= 0).all(), "columns are sorted inside a leaf"


def test_conditions_through_the_generator() -> None:
    model = ARF({"trees": 10, "rounds": 2})
    cohort = mixed_cohort(1500)
    model.fit(cohort, seed=0)
    young = model.sample(400, seed=1, conditions={"age": 40.0})
    old = model.sample(400, seed=1, conditions={"age": 85.0})
    assert (young.values("age") == 40).all()
    assert (old.codes("died") == 1).mean() > (young.codes("died") == 1).mean() + 0.15
    assert np.nanmean(old.values("glucose")) > np.nanmean(young.values("glucose")) + 0.5
    assert model.log_likelihood(cohort).mean() > -40


def test_dependence_is_learned() -> None:
    cohort = stay_cohort()
    model = ARF({"trees": 20, "rounds": 3})
    report = model.fit(cohort, seed=0)
    drawn = model.sample(4000, seed=1)
    for ward in range(3):
        real = np.nanmedian(cohort.values("bilirubin")[cohort.codes("ward") == ward])
        assert np.nanmedian(drawn.values("bilirubin")[drawn.codes("ward") == ward]) == pytest.approx(real, rel=0.25)
    assert report.health["rows_in_no_leaf"] < 0.05
    assert report.losses[0]["accuracy"] > report.losses[-1]["accuracy"]


def test_classes_find_the_rows_that_have_codes_together() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 1500)
    chance = np.where((np.arange(40) % 2)[None, :] == group[:, None], 0.4, 0.02)
    present = csr_matrix((rng.random((1500, 40)) < chance).astype(np.float32))
    classes = LatentClasses.fit(present, np.arange(1500), 32, np.random.default_rng(1))
    assert len(classes.share) in (2, 4)
    found = classes.assign(present, np.random.default_rng(2))
    pure = [np.bincount(group[found == k], minlength=2).max() for k in range(len(classes.share))]
    assert sum(pure) / 1500 > 0.95
    noise = csr_matrix((rng.random((500, 30)) < 0.1).astype(np.float32))
    alone = LatentClasses.fit(noise, np.arange(500), 32, rng)
    assert len(alone.share) == 1, "codes without any dependence need one class"


def test_codes_follow_the_columns() -> None:
    cohort = code_cohort(1200)
    model = ARF({"trees": 10, "rounds": 2, "forest_codes": 8})
    model.fit(cohort, seed=0)
    drawn = model.sample(3000, seed=1)
    counts = [np.asarray(c.blocks["diagnoses"].sum(axis=1)).ravel() for c in (cohort, drawn)]
    ages = [c.values("age") for c in (cohort, drawn)]
    real, synthetic = (np.corrcoef(a, c)[0, 1] for a, c in zip(ages, counts, strict=True))
    assert real > 0.4
    assert synthetic > 0.08, "a few classes of rows carry part of it"


def test_small_leaves_are_warned_of_and_privacy_is_refused() -> None:
    cohort = mixed_cohort(300)
    report = ARF({"preset": "paper", "trees": 3, "rounds": 1}).fit(cohort, seed=0)
    assert any("membership" in w for w in report.warnings)
    with pytest.raises(UnsupportedError, match="leaves filled"):
        ARF().fit(cohort, seed=0, privacy=PrivacySpec(epsilon=1.0, delta=1e-6))
    with pytest.raises(ConfigError, match="rounds"):
        ARF({"rounds": 0})


def numbers_only(n: int) -> Cohort:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(n)
    schema = TableSchema(columns=[Column(name=k, kind="continuous", dtype="float64") for k in ("x", "y")])
    return assemble(schema, {"x": x, "y": x + 0.3 * rng.standard_normal(n)})


def levels_only(n: int) -> Cohort:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 3, n)
    columns = [Column(name=k, kind="categorical", dtype="string", levels=["p", "q", "r"]) for k in ("a", "b")]
    return assemble(TableSchema(columns=columns), {"a": a, "b": np.where(rng.random(n) < 0.8, a, 0)})


def one_code(n: int) -> Cohort:
    rng = np.random.default_rng(0)
    schema = TableSchema(columns=[], blocks=[CodeBlock(name="codes", kind="binary", vocabulary=["only"])])
    present = csr_matrix((rng.random((n, 1)) < 0.3).astype(float))
    return assemble(schema, {}, blocks={"codes": present})


@pytest.mark.parametrize("make", [numbers_only, levels_only, one_code])
@pytest.mark.parametrize("n", [20, 400])
def test_tables_of_one_kind_and_tables_of_few_rows(make: object, n: int) -> None:
    cohort = make(n)  # type: ignore[operator]
    model = ARF({"trees": 5})
    model.fit(cohort, seed=0)
    drawn = model.sample(500, seed=1)
    assert drawn.n_rows == 500
    if make is one_code and n == 400:
        assert drawn.blocks["codes"].mean() == pytest.approx(cohort.blocks["codes"].mean(), abs=0.06)
    if make is numbers_only and n == 400:
        assert np.corrcoef(drawn.values("x"), drawn.values("y"))[0, 1] > 0.6


def test_six_thousand_codes() -> None:
    rng = np.random.default_rng(0)
    n, codes = 300, 6000
    present = csr_matrix((rng.random((n, codes)) < 0.05).astype(float))
    schema = TableSchema(
        columns=[Column(name="sex", kind="categorical", dtype="string", levels=["f", "m"])],
        blocks=[CodeBlock(name="codes", kind="binary", vocabulary=[f"C{i}" for i in range(codes)])],
    )
    cohort = assemble(schema, {"sex": rng.integers(0, 2, n)}, blocks={"codes": present})
    model = ARF({"trees": 3, "rounds": 1})
    model.fit(cohort, seed=0)
    assert model.sample(200, seed=1).blocks["codes"].mean() == pytest.approx(0.05, abs=0.01)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        ARF().fit(numbers_only(5), seed=0)
