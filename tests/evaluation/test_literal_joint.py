"""The papers' formulas for whole rows on cases small enough to compute by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_people import people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.literal.detection import detection_score, self_scaled
from pipeline.evaluation.literal.joint import (
    RUNS,
    latent_clusters,
    mean_difference,
    mean_gower,
    recovered_u,
    reproduced_u,
)
from pipeline.evaluation.protocol import compute
from pipeline.evaluation.registry import find_metric, metric_paths
from pipeline.features.cohort import assemble
from pipeline.features.schema import Column, TableSchema

OURS = [i for i, path in metric_paths().items() if path.split(":")[0].endswith(("literal.joint", "literal.detection"))]


def test_every_variant_names_its_flaw_and_is_never_in_quick() -> None:
    assert len(OURS) == 12
    for name in OURS:
        spec = find_metric(name).spec
        assert spec.flaw
        assert spec.family == "literal"
        assert spec.cost == "C"
        assert find_metric(name).floor == ""


def test_reproduced_u_by_hand_and_upside_down() -> None:
    """Four and three rows in three clusters."""
    real, total = np.array([2, 1, 1]), np.array([3, 3, 1])
    c = 4 / 7
    by_hand = np.log(1 / 3) * ((2 / 3 - c) ** 2 + (1 / 3 - c) ** 2 + (1 - c) ** 2)
    assert reproduced_u(real, total, c) == pytest.approx(by_hand)
    apart, alike = (reproduced_u(np.array(r), np.array([4, 4]), 0.5) for r in ([4, 0], [2, 2]))
    assert apart < alike == 0


def test_published_table_of_the_reproduction_recovered() -> None:
    """What the runs' U would have been: the run that is called worst but one is best."""
    true = {run: recovered_u(value) for run, value in RUNS.items() if value > -100}
    assert true == pytest.approx(
        {
            "autoencoder 64": -2.85,
            "autoencoder 144": -2.48,
            "autoencoder 256": -2.79,
            "no autoencoder": -2.9,
            "12 epochs": -2.22,
            "25 epochs": -2.58,
            "30 epochs": -2.45,
            "50 epochs": -2.85,
            "75 epochs": -2.88,
            "100 epochs": -2.71,
            "learning rate 0.00025": -2.3,
            "learning rate 0.0005": -2.8,
            "learning rate 0.0025": -2.43,
        },
        abs=0.006,
    )
    assert min(true, key=lambda run: true[run]) == "no autoencoder"
    assert max(true, key=lambda run: true[run]) == "12 epochs"
    # 20 clusters cannot give less than this, whatever the rows are: the diverged run's figure is no U at all.
    assert RUNS["learning rate 0.005 (diverged)"] < 20 * np.log(1 / 20)


def test_mean_gower_by_hand() -> None:
    """Four real rows against three: one number (range 10), one category with a missing cell."""
    schema = TableSchema(
        columns=[
            Column(name="x", kind="continuous", dtype="float64"),
            Column(name="level", kind="categorical", dtype="string", levels=["a", "b"], nullable=True),
        ]
    )
    real = assemble(schema, {"x": np.array([0.0, 2, 4, 10]), "level": np.array([0, 0, 1, -1])})
    made = assemble(schema, {"x": np.array([1.0, 4, 4]), "level": np.array([0, 1, 1])})
    sides = RealSides(Parts.of_two(real, real))
    apart = sum(abs(a - b) for a in (0, 2, 4, 10) for b in (1, 4, 4)) / 12 / 10
    differ = (2 + 2 + 1) / 9
    assert mean_gower(sides.train, synthetic_side(sides, made)) == pytest.approx((apart + differ) / 2)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=30), rng.normal(size=20)
    assert mean_difference(x, y) == pytest.approx(np.abs(x[:, None] - y).mean())


def test_scores_by_hand() -> None:
    assert detection_score([0.5, 0.4, 0.5]) == 1
    assert detection_score([1.0, 0.75, 0.5]) == pytest.approx(1 - (1 + 0.5 + 0) / 3)
    assert self_scaled([3.0, 1.0, 2.0]) == pytest.approx((0 + 1 + 0.5) / 3)
    assert self_scaled([1.0, 1.0, 1.0]) is None


def test_latent_clusters_by_hand() -> None:
    """Two groups of three places: all real rows in one place, synthetic ones in two; then the same shifted and scaled."""
    real = np.repeat([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [6, 3, 3], axis=0)
    made = np.repeat([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [3, 3, 6], axis=0)
    uneven = ((6 / 9 - 0.5) ** 2 + (3 / 6 - 0.5) ** 2 + (3 / 9 - 0.5) ** 2) / 3
    assert latent_clusters(real, made, seed=0) == pytest.approx(np.log2(uneven))
    assert latent_clusters(real, 100 + 7 * made, seed=0) == pytest.approx(np.log2(uneven))
    assert latent_clusters(np.ones((5, 2)), np.ones((5, 2)), seed=0) is None


def test_few_rows_and_empty_columns_are_left_unjudged_in_words() -> None:
    parts = Parts.of_two(people(120, 1), people(60, 2))
    sides = RealSides(parts)
    for n in (1, 15):
        ctx = EvaluationContext(sides, synthetic_side(sides, people(n, 3)))
        for row in compute(ctx, OURS):
            assert row.value is not None or row.note, row.metric
            assert row.value is None or np.isfinite(row.value)
    blocks = replace(parts.train, table=parts.train.table.select([]), schema=TableSchema(columns=[]))
    bare = RealSides(Parts.of_two(blocks, blocks))
    assert all(r.value is None and r.note for r in compute(EvaluationContext(bare, bare.train), OURS))
