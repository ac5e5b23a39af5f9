"""ADS-GAN: identifiability, the distance that is kept, its weight, and records that are no real rows after training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from generator_tables import mixed_cohort
from torch import Tensor

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import ConfigError, UnsupportedError
from pipeline.generators.ads_gan import ADSGAN, ADSMatch, Keeper
from pipeline.generators.adversarial.identifiability import (
    LEAST_ENTROPY,
    column_weights,
    identifiability,
    nearest,
    spacing,
)
from pipeline.generators.adversarial.numbers import fit_numbers
from pipeline.generators.adversarial.vector import RowBlocks, RowTensors
from pipeline.generators.base import load_generator
from pipeline.privacy.spec import PrivacySpec

SHORT = {"preset": "quick", "steps": 40, "batch_size": 64, "hidden": (32,), "critic_hidden": (32,), "measure_every": 10}


def normal(n: int, width: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def rows_of(n: int = 400) -> tuple[RowBlocks, RowTensors]:
    cohort = mixed_cohort(n)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    blocks = RowBlocks(encoder, fit_numbers(encoder, "even", 64))
    encoded = encoder.encode(cohort, np.random.default_rng(0))
    return blocks, blocks.tensors(encoded, "cpu", np.random.default_rng(1))


# ---- identifiability


def test_copies_are_identifiable_noise_is_not_and_new_people_are_a_coin() -> None:
    real = normal(1_500)
    assert identifiability(real, real[torch.randperm(1_500)]) == 1.0
    assert identifiability(real, 50 * normal(1_500, seed=1)) < 0.01
    assert identifiability(real, normal(1_500, seed=2)) == pytest.approx(0.5, abs=0.05)
    mixed = torch.cat([real[:750], 50 * normal(750, seed=3)])
    # Half are copied; of the others half have a copied row for their nearest, which is a tie.
    assert identifiability(real, mixed) == pytest.approx(0.625, abs=0.03)


def test_identifiability_is_that_of_all_distances() -> None:
    real, drawn = normal(1_100), normal(300, seed=1)
    among = torch.cdist(real, real).fill_diagonal_(torch.inf).min(dim=1).values
    wanted = (torch.cdist(real, drawn).min(dim=1).values < among).float().mean()
    assert identifiability(real, drawn) == pytest.approx(float(wanted), abs=2e-3)
    torch.testing.assert_close(spacing(real), among)
    assert torch.equal(nearest(real[:50], drawn), torch.cdist(real[:50], drawn).argmin(dim=1))


def test_rare_things_weigh_more_up_to_a_bound() -> None:
    blocks, data = rows_of()
    weights = column_weights(blocks, data)
    assert weights.shape == (blocks.width,)
    for name in ("died", "group"):
        at = blocks.columns.index(name)
        start, size = blocks.start(name), blocks.softmaxes.sizes[at]
        share = np.bincount(data.states[:, at].numpy(), minlength=size) / len(data)
        entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
        wanted = torch.full((size,), 0.5**0.5 / max(entropy, LEAST_ENTROPY))
        torch.testing.assert_close(weights[start : start + size], wanted.to(weights))
    assert float(weights.max()) <= 1 / LEAST_ENTROPY
    data.states[:, blocks.columns.index("died")] = 0
    start = blocks.start("died")
    assert (column_weights(blocks, data)[start : start + 2] == 0).all(), "a column that is all alike says nothing"


# ---- the distance and its weight


@pytest.fixture
def match(monkeypatch: pytest.MonkeyPatch) -> ADSMatch:
    """The match of a short training."""
    kept: list[ADSMatch] = []
    move = ADSMatch.generator_move

    def watched(match: ADSMatch, done: float) -> object:
        kept[:] = [match]
        return move(match, done)

    monkeypatch.setattr(ADSMatch, "generator_move", watched)
    ADSGAN(SHORT).fit(mixed_cohort(300), seed=0, device="cpu")
    return kept[0]


def test_the_hinge_pushes_copies_away_and_leaves_far_rows_alone(match: ADSMatch) -> None:
    real = match.some(10_000)
    assert float(match.apart) > 0
    copies = match.too_near(real, real)
    torch.testing.assert_close(copies, match.apart, rtol=1e-3, atol=1e-4)
    far = (real + 100).requires_grad_(True)
    pushed = match.too_near(far, real)
    assert float(pushed.detach()) == 0
    close = (real + 1e-3).requires_grad_(True)
    match.too_near(close, real).backward()
    assert close.grad is not None
    assert bool(torch.isfinite(close.grad).all())
    assert float(close.grad.abs().max()) > 0


def test_the_weight_follows_the_measurement() -> None:
    keeper = Keeper(0.1)
    keeper.measured(1.0, 0.4)
    assert float(keeper.weight) == pytest.approx(0.1), "what is drawn before the first step says nothing"
    keeper.steps.add_(1)
    seen = []
    for share in (0.9, 0.3, 0.1):
        keeper.measured(share, 0.4)
        seen.append(float(keeper.weight))
    assert seen == pytest.approx([0.15, 0.15, 0.1])
    keeper.measured(1.0, None)
    assert float(keeper.weight) == pytest.approx(0.1)
    for _ in range(200):
        keeper.measured(1.0, 0.4)
    assert float(keeper.weight) == 100


def test_the_report_has_the_curve() -> None:
    model = ADSGAN({**SHORT, "target": 0.001, "select": "last"})
    report = model.fit(mixed_cohort(300), seed=0, device="cpu")
    curve = [entry["identifiability"] for entry in report.losses]
    assert all(0 <= share <= 1 for share in curve)
    assert report.health["identifiability"] == pytest.approx(curve[-1])
    assert report.health["distance_weight"] == pytest.approx(0.1 * 1.5**3), (
        "steps 10, 20 and 30 of 40 were above the target"
    )
    assert any("above its target" in w for w in report.warnings)


# ---- records


RECORD = {**SHORT, "conditioning": "record"}


def test_no_real_row_is_stored(tmp_path: Path) -> None:
    """What is kept to draw from was drawn itself; the numbers of real rows are nowhere in the model."""
    cohort = mixed_cohort(300)
    model = ADSGAN(RECORD)
    real: list[Tensor] = []
    forget = ADSGAN._forget

    def watched(model: ADSGAN, seed: int) -> None:
        real.append(model._vectors(torch.arange(len(model._records))))
        forget(model, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ADSGAN, "_forget", watched)
        model.fit(cohort, seed=0, device="cpu")
    kept = model._vectors(torch.arange(len(model._records)))
    assert kept.shape == real[0].shape
    assert float((torch.cdist(kept, real[0]).min(dim=1).values < 1e-4).float().mean()) < 0.01
    model.save(tmp_path)
    loaded = load_generator(tmp_path)
    assert loaded.sample(50, seed=3).table.equals(model.sample(50, seed=3).table)
    again = ADSGAN(RECORD)
    again.fit(cohort, seed=0, device="cpu")
    assert again.sample(50, seed=3).table.equals(model.sample(50, seed=3).table)


def test_rows_hang_on_their_record() -> None:
    model = ADSGAN(RECORD)
    model.fit(mixed_cohort(300), seed=0, device="cpu")
    told = torch.zeros(8, 0, dtype=torch.long)
    inputs = model._inputs(told, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert inputs.shape == (8, model.config.noise + model._blocks.width)
    changed = inputs.clone()
    changed[:, model.config.noise :] = 0
    with torch.no_grad():
        assert not torch.allclose(model._network(inputs), model._network(changed))


def test_the_published_configuration_trains() -> None:
    settings = {"preset": "paper", "steps": 20, "batch_size": 32, "measure_every": 10}
    report = ADSGAN(settings).fit(mixed_cohort(120), seed=0, device="cpu")
    assert report.health["distance_weight"] == pytest.approx(0.1), "without a target the weight stays"


# ---- what is refused


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="needs conditioning 'record'"):
        ADSGAN({"distance": "paired"})
    with pytest.raises(UnsupportedError, match="distance to real rows"):
        ADSGAN(SHORT).fit(mixed_cohort(100), seed=0, device="cpu", privacy=PrivacySpec(epsilon=1.0, delta=1e-6))
