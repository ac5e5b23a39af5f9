"""HealthGAN: interval coding there and back, batches of small tables, margins, and what its critic says of rows held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generator_tables import mixed_cohort

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, TableSchema
from pipeline.generators.adversarial.intervals import IntervalCodec, IntervalTable
from pipeline.generators.adversarial.numbers import fit_numbers
from pipeline.generators.healthgan import HealthGAN
from pipeline.privacy.spec import PrivacySpec

LEVELS = 300


def many_levels(n: int = 9_000) -> Cohort:
    """A column of 300 levels from common to rare, a missing one beside, a whole number in a small range with a hole."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, LEVELS + 1) ** 0.9
    level = rng.choice(LEVELS, n, p=share / share.sum())
    level[rng.random(n) < 0.05] = -1
    whole = rng.choice([1, 2, 3, 5, 9], n).astype(float)
    whole[rng.random(n) < 0.1] = np.nan
    columns = [
        Column(
            name="ward", kind="categorical", dtype="string", levels=[f"w{i:03d}" for i in range(LEVELS)], nullable=True
        ),
        Column(name="grade", kind="count", dtype="int64", nullable=True),
    ]
    return assemble(TableSchema(columns=columns), {"ward": level, "grade": whole})


def coded(cohort: Cohort, *, normal: bool, whole: bool = True) -> tuple[IntervalTable, TableEncoder]:
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    return IntervalTable(encoder, cohort.n_rows, normal=normal, whole=whole), encoder


@pytest.mark.parametrize("normal", [False, True], ids=["even", "normal"])
def test_every_level_comes_back_the_last_one_too(normal: bool) -> None:
    cohort = many_levels()
    table, encoder = coded(cohort, normal=normal)
    rows = encoder.encode(cohort, np.random.default_rng(1))
    again = table.encode(rows, np.random.default_rng(2))
    numbers = fit_numbers(table.coded, "range", 0)
    for name, number in numbers.items():
        state, place = number.encode(again.uniforms[name], np.random.default_rng(3))
        # Networks hold places in single precision.
        back = number.decode(state, place.astype(np.float32), np.full(len(place), 0.5))
        again.uniforms[name] = back
    found = table.decode(again, np.random.default_rng(4))
    assert len(np.unique(rows.states["ward"])) == encoder.levels["ward"].states
    np.testing.assert_array_equal(found.states["ward"], rows.states["ward"])
    values = [encoder.numbers["grade"].scaler.from_uniform(x.uniforms["grade"]) for x in (rows, found)]
    np.testing.assert_array_equal(*values)
    last = numbers["ward"].decode(np.zeros(2, dtype=int), np.array([1.0, 1.5]), np.zeros(2))
    codec = table.coded.numbers["ward"]
    assert isinstance(codec, IntervalCodec)
    assert set(codec.meant(last)) == {codec.order[-1]}
    assert codec.scaler.edges[-1] == 1.0


def test_a_cell_lies_in_its_interval_as_published() -> None:
    """A normal around the middle, a sixth of the interval wide, cut at its ends; the commonest level first."""
    rng = np.random.default_rng(0)
    level = rng.choice(3, 20_000, p=[0.2, 0.7, 0.1])
    column = Column(name="k", kind="categorical", dtype="string", levels=["a", "b", "c"])
    cohort = assemble(TableSchema(columns=[column]), {"k": level})
    table, encoder = coded(cohort, normal=True)
    rows = encoder.encode(cohort, rng)
    _, place = fit_numbers(table.coded, "range", 0)["k"].encode(table.encode(rows, rng).uniforms["k"], rng)
    share = np.bincount(level) / len(level)
    start = {1: 0.0, 0: share[1], 2: share[1] + share[0]}
    for k in range(3):
        found = (place[level == k] + 1) / 2
        assert start[k] <= found.min() <= found.max() <= start[k] + share[k]
        assert abs(found.mean() - (start[k] + share[k] / 2)) < 0.01 * share[k]
        # A normal that is cut at three standard deviations is .9866 as wide.
        assert abs(found.std() / (share[k] / 6) - 0.9866) < 0.03


def test_whole_numbers_of_a_small_range_have_one_row_more_each() -> None:
    cohort = many_levels(1_000)
    table, _ = coded(cohort, normal=True)
    codec = table.coded.numbers["grade"]
    assert isinstance(codec, IntervalCodec)
    assert list(codec.order) == list(range(1, 10))
    values = cohort.values("grade")
    count = np.bincount(values[~np.isnan(values)].astype(int), minlength=10)[1:]
    # The shares are those of the present cells.
    wanted = (count / count.sum() * 1_000 + 1) / (1_000 + 9)
    np.testing.assert_allclose(codec.scaler.mass, wanted, atol=2e-4)
    wide, _ = coded(mixed_cohort(400), normal=True)
    assert not isinstance(wide.coded.numbers["age"], IntervalCodec)


def test_no_batch_is_empty() -> None:
    config = HealthGAN().config
    assert [config.batch(n) for n in (1, 2, 200, 499, 500, 1_200, 3_000)] == [1, 1, 100, 249, 100, 200, 512]
    paper = HealthGAN({"preset": "paper"}).config
    assert paper.batch(36_000) == 7_200
    report = HealthGAN({"preset": "paper", "steps": 3}).fit(mixed_cohort(200), seed=0, device="cpu")
    assert report.losses[-1]["step"] == 3
    assert np.isfinite(report.losses[-1]["critic"])


def test_networks_are_as_wide_as_the_rows_say() -> None:
    model = HealthGAN({"preset": "paper", "steps": 1})
    model.fit(mixed_cohort(200), seed=0, device="cpu")
    width = model._blocks.width
    sizes = [layer.out_features for layer in model._network.layers if isinstance(layer, torch.nn.Linear)]
    assert sizes == [2 * width, round(1.5 * width)]
    # One number a column, and two for whether a number is missing; not a one-hot a level.
    assert width < 2 * len(mixed_cohort(50).schema.modelled())


def test_levels_are_drawn_as_often_as_rows_have_them() -> None:
    cohort = mixed_cohort(1_500)
    model = HealthGAN({"preset": "quick", "steps": 150, "batch_size": 200})
    report = model.fit(cohort, seed=0, device="cpu")
    drawn = model.sample(4_000, seed=1)
    for name in ("group", "stage", "died"):
        for level in range(len(cohort.schema.column(name).levels or [])):
            assert abs((drawn.codes(name) == level).mean() - (cohort.codes(name) == level).mean()) < 0.03
    assert 0.2 < report.health["critic_prefers_training"] < 0.9


def test_rare_levels_that_may_never_be_drawn_are_told() -> None:
    report = HealthGAN({"preset": "paper", "steps": 1}).fit(many_levels(), seed=0, device="cpu")
    assert any("ward" in w and "hardly ever drawn" in w for w in report.warnings)


def test_privacy_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedError, match="critic"):
        HealthGAN({"preset": "quick"}).fit(mixed_cohort(100), seed=0, privacy=PrivacySpec(epsilon=1.0, delta=1e-4))
