"""CTAB-GAN: modes that may be told, long tails, images, what the generator is paid for, and who moves whom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from generator_tables import mixed_cohort, stay_cohort

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import ConfigError, UnsupportedError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, TableSchema
from pipeline.generators.adversarial.conditions import UNTOLD, TellOne
from pipeline.generators.adversarial.features import LayerNormCritic, LeakyFeatureCritic, moments_apart
from pipeline.generators.adversarial.images import ImageCritic, ImageGenerator, side_of
from pipeline.generators.adversarial.long_tails import long_tailed
from pipeline.generators.adversarial.numbers import ModeNumber, fit_numbers
from pipeline.generators.conditions import Fixed
from pipeline.generators.ctab_gan import CTABGAN, CTABMatch, StateConditions
from pipeline.privacy.spec import PrivacySpec

SHORT: dict[str, Any] = {"preset": "quick", "steps": 60, "batch_size": 150}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def fitted() -> tuple[CTABGAN, CTABMatch, Cohort]:
    """A short training and the match that it played."""
    model, cohort = _Watched(SHORT), mixed_cohort(600)
    model.fit(cohort, seed=0, device="cpu")
    return model, model.match, cohort


class _Watched(CTABGAN):
    match: CTABMatch

    def _match(self, match: Any) -> CTABMatch:
        found = super()._match(match)
        assert isinstance(found, CTABMatch)
        self.match = found
        return found


# ---- numbers


def test_only_long_tails_are_shown_as_logarithms_and_all_come_back() -> None:
    rng = np.random.default_rng(0)
    cells = {
        "cost": np.where(rng.random(3_000) < 0.3, 0.0, np.round(np.exp(6 + 1.5 * rng.standard_normal(3_000)), 2)),
        "weight": np.round(70 + 12 * rng.standard_normal(3_000), 1),
        "few": rng.poisson(0.5, 3_000).astype(float) ** 2,
    }
    columns = [Column(name=k, kind="continuous", dtype="float64") for k in cells]
    cohort = assemble(TableSchema(columns=columns), cells)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, rng)
    assert [long_tailed(encoder.numbers[k].scaler) for k in cells] == [True, False, False]
    plain, tails = (fit_numbers(encoder, kind, 64, rows) for kind in ("modes", "tail_modes"))
    for name in cells:
        a, b = plain[name], tails[name]
        assert isinstance(a, ModeNumber)
        assert isinstance(b, ModeNumber)
        assert np.array_equal(a.codec.mean, b.codec.mean) == (name != "cost")
        state, place = b.encode(rows.uniforms[name], np.random.default_rng(1))
        back = b.decode(state, place, np.full(len(place), 0.5))
        values = encoder.numbers[name].scaler.from_uniform(back)
        # What lies beyond four standard deviations of its mode is cut.
        near = np.abs(values - cells[name]) <= 0.02 * np.maximum(1, np.abs(cells[name]))
        assert near.mean() > 0.97
    assert tails["cost"].codec.mean.max() < 15, "modes lie on the axis of logarithms"  # type: ignore[attr-defined]


def test_states_of_numbers_may_be_told(fitted: tuple[CTABGAN, CTABMatch, Cohort]) -> None:
    model, match, cohort = fitted
    told = model._told
    assert isinstance(told, StateConditions)
    assert {"glucose", "cost", "visits"} <= set(told.columns), "missing cells, a spike, repeated numbers"
    assert isinstance(match.teller, TellOne)
    rows, states = match.teller.batch(400, generator())
    own = match.data.states[rows].long()
    at = states != UNTOLD
    assert bool((at.sum(dim=1) == 1).all())
    assert bool((own[at] == states[at]).all()), "what is told is true of the row"
    assert set(torch.nonzero(at)[:, 1].tolist()) == set(range(len(told.columns)))
    # A number that a caller fixes is told by its state: 0 is a spike of the cost.
    fixed = told.fixed(Fixed(values={"cost": np.array([0.0, np.nan])}), 2)[:, told.columns.index("cost")]
    zero = match.data.states[torch.as_tensor(cohort.values("cost") == 0)][:, match.blocks.columns.index("cost")]
    assert fixed.tolist() == [int(zero[0]), UNTOLD]
    assert len(set(zero.tolist())) == 1


@pytest.mark.parametrize("column", ["group", "stage", "died"])
def test_a_told_level_of_each_column_comes_back(column: str, fitted: tuple[CTABGAN, CTABMatch, Cohort]) -> None:
    model, _, cohort = fitted
    assert model.draws_given([column])
    levels = [
        k for k in range(len(cohort.schema.column(column).levels or [])) if (cohort.codes(column) == k).sum() > 20
    ]
    assert len(levels) > 1
    for code in levels:
        level = (cohort.schema.column(column).levels or [])[code]
        drawn = model.sample(40, seed=code, conditions={column: level})
        assert (drawn.codes(column) == code).all()
    assert not model.draws_given(["cost"])
    drawn = model.sample(30, seed=0, conditions={"cost": 0.0})
    assert (drawn.values("cost") == 0).all()


# ---- networks


def test_a_row_is_an_image_line_by_line() -> None:
    assert [side_of(k) for k in (1, 16, 17, 64, 65, 257)] == [4, 4, 8, 8, 16, 32]
    torch.manual_seed(0)
    network = ImageGenerator(7, 3, 70).eval()
    z = torch.randn(5, 7, generator=generator())
    image = network.image(z[:, :, None, None])
    assert image.shape == (5, 1, 16, 16)
    torch.testing.assert_close(network(z), image.flatten(1)[:, :70])
    network.start(torch.arange(70.0), 0.0)
    torch.testing.assert_close(network(z), torch.arange(70.0).expand(5, -1))
    seen: list[torch.Tensor] = []
    critic = ImageCritic(70, 3, norm="none")
    critic.image.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    rows = torch.randn(5, 70, generator=generator(1))
    critic(rows)
    torch.testing.assert_close(seen[0].flatten(1)[:, :70], rows)
    assert seen[0].shape == (5, 1, 16, 16)
    assert not seen[0].flatten(1)[:, 70:].any()


@pytest.mark.parametrize("width", [3, 40, 300])
@pytest.mark.parametrize("pac", [1, 2])
def test_scores_are_made_of_features(width: int, pac: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(8, width, generator=generator())
    critics = [
        LeakyFeatureCritic(width, (9, 5), pac=pac),
        *(ImageCritic(width, 4, pac=pac, norm=k) for k in ("batch", "layer")),
    ]
    for critic in critics:
        assert critic(rows).shape == (8 // pac,)
        torch.testing.assert_close(critic.judged(critic.features(rows)), critic(rows))
    alone = LayerNormCritic(width, (9, 5))
    torch.testing.assert_close(alone.judged(alone.features(rows)), alone(rows))
    # Normalised over its own image a row's score does not hang on the others.
    torch.testing.assert_close(critics[2](rows)[:1], critics[2](torch.cat([rows[:pac], -rows[pac:]]))[:1])


def test_information_loss_is_the_distance_of_two_moments() -> None:
    real = torch.tensor([[0.0, 1.0], [4.0, 1.0]])
    drawn = torch.tensor([[5.0, 3.0], [5.0, 7.0]])
    # Means 2, 1 against 5, 5; spreads 2, 0 against 0, 2.
    torch.testing.assert_close(moments_apart(real, drawn), torch.tensor(5.0 + 8**0.5), atol=1e-4, rtol=0)
    assert float(moments_apart(real, real)) < 1e-5
    drawn = drawn.requires_grad_(True)
    (gradient,) = torch.autograd.grad(moments_apart(real, drawn), drawn)
    assert bool(torch.isfinite(gradient).all())


# ---- the match


def test_only_the_mover_moves(fitted: tuple[CTABGAN, CTABMatch, Cohort]) -> None:
    _, match, _ = fitted
    players = match.players()
    assert [p.name for p in players] == ["critic", "classifier", "generator"]
    for player in players:
        for other in players:
            other.network.requires_grad_(other is player)
            other.network.zero_grad(set_to_none=True)
        player.move(0.5).loss.backward()
        for other in players:
            moved = [p.grad is not None and bool(p.grad.any()) for p in other.network.parameters()]
            assert any(moved) == (other is player), f"{player.name} moves {other.name}"


def test_the_generator_pays_for_moments_and_labels(fitted: tuple[CTABGAN, CTABMatch, Cohort]) -> None:
    from dataclasses import replace

    _, match, _ = fitted
    found = []
    for part in ({}, {"information": 0.0}, {"information": 0.0, "classification": 0.0}):
        own = replace(match, config=match.config.model_copy(update=part))
        own.streams.order.manual_seed(3)
        own.streams.noise.manual_seed(3)
        found.append(float(own.generator_move(0.5).loss.detach()))
    assert found[0] > found[1] > found[2]


def test_the_classifier_says_nothing_of_rows_without_a_label(fitted: tuple[CTABGAN, CTABMatch, Cohort]) -> None:
    _, match, _ = fitted
    vectors = match.blocks.real(match.data.take(torch.arange(20)))
    assert match.classifier is not None
    kept = match.classifier.possible.clone()
    whole = float(match.disagreement(vectors).detach())
    try:
        match.classifier.possible[vectors[0, match.label].argmax()] = False
        assert np.isfinite(float(match.disagreement(vectors).detach()))
        assert float(match.disagreement(vectors).detach()) != whole
        match.classifier.possible[:] = False
        assert float(match.disagreement(vectors).detach()) == 0
    finally:
        match.classifier.possible.copy_(kept)


def test_without_a_label_there_is_no_classifier() -> None:
    model = _Watched({**SHORT, "steps": 2})
    report = model.fit(stay_cohort(200), seed=0, device="cpu")
    assert model.match.classifier is None
    assert [p.name for p in model.match.players()] == ["critic", "generator"]
    assert any("without a classifier" in w for w in report.warnings)
    named = _Watched({**SHORT, "steps": 2, "label": "readmitted"})
    assert not any("classifier" in w for w in named.fit(stay_cohort(200), seed=0, device="cpu").warnings)
    assert named.match.classifier is not None
    with pytest.raises(ConfigError, match="There is no column"):
        CTABGAN({**SHORT, "label": "readmited"}).fit(stay_cohort(200), seed=0, device="cpu")


@pytest.mark.parametrize("preset", ["paper", "plus"])
def test_published_games_run(preset: str) -> None:
    model = _Watched({"preset": preset, "steps": 2, "channels": 8, "batch_size": 40})
    report = model.fit(mixed_cohort(300), seed=0, device="cpu")
    assert isinstance(model.match.generator, ImageGenerator)
    assert isinstance(model.match.critic, ImageCritic)
    assert all(np.isfinite(v) for v in report.losses[-1].values())
    assert model.sample(20, seed=0).n_rows == 20


def test_privacy_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedError, match="moments"):
        CTABGAN(SHORT).fit(mixed_cohort(100), seed=0, privacy=PrivacySpec(epsilon=1.0, delta=1e-4))
