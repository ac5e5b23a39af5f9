"""The adversarial foundation: vectors, one-hots, conditions, losses, verdicts, resuming; and what CTGAN promises."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import code_cohort, mixed_cohort
from torch.nn import functional

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import ConfigError, TrainingError, UnsupportedError
from pipeline.features.cohort import assemble
from pipeline.features.schema import Column, TableSchema
from pipeline.generators.adversarial.conditions import UNTOLD, ConditionVector, TellAll, TellOne, tell_one
from pipeline.generators.adversarial.health import GameWatch, collapsed
from pipeline.generators.adversarial.loop import Look, LoopSettings, Move, Player, Streams, Training
from pipeline.generators.adversarial.losses import Boundary, Judgement, Logistic, Wasserstein
from pipeline.generators.adversarial.networks import Critic, GeneratorNet, LeakyCritic, ResidualCritic, refreshed
from pipeline.generators.adversarial.numbers import fit_numbers
from pipeline.generators.adversarial.softmaxes import SoftmaxColumns
from pipeline.generators.adversarial.vector import RowBlocks
from pipeline.generators.checkpoint import Checkpoint
from pipeline.generators.conditions import Fixed
from pipeline.generators.ctgan import CTGAN

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.cohort import Cohort

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def levels_cohort(n: int = 1200) -> Cohort:
    """Three columns that depend on each other: 99/1, three levels, two levels."""
    rng = np.random.default_rng(0)
    b = rng.integers(0, 3, n)
    cells = {
        "rare": (rng.random(n) < 0.01).astype(int),
        "three": b,
        "two": (rng.random(n) < np.array([0.9, 0.5, 0.1])[b]).astype(int),
    }
    columns = [
        Column(name="rare", kind="binary", dtype="bool", levels=[False, True]),
        Column(name="three", kind="categorical", dtype="string", levels=["x", "y", "z"]),
        Column(name="two", kind="binary", dtype="bool", levels=[False, True]),
    ]
    return assemble(TableSchema(columns=columns), cells)


# ---- one-hots and vectors


@pytest.mark.parametrize("hard", [False, True])
def test_all_softmaxes_at_once_are_those_of_each_column(hard: bool) -> None:
    sizes = [2, 5, 1, 30, 3, 300]
    columns = SoftmaxColumns(sizes)
    logits = torch.randn(7, sum(sizes), generator=generator(), requires_grad=True)
    weight = torch.randn(7, sum(sizes), generator=generator(1))
    found = columns(logits, tau=0.4, hard=hard)
    (gradient,) = torch.autograd.grad((found * weight).sum(), logits)
    parts = []
    for part in logits.split(sizes, dim=1):
        soft = torch.softmax(part / 0.4, dim=1)
        whole = functional.one_hot(soft.argmax(1), part.shape[1]).float()
        parts.append(whole + soft - soft.detach() if hard else soft)
    wanted = torch.cat(parts, dim=1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, torch.autograd.grad((wanted * weight).sum(), logits)[0])
    for part in found.split(sizes, dim=1):
        torch.testing.assert_close(part.sum(dim=1), torch.ones(7))


def test_gumbel_noise_draws_states_as_often_as_their_logits_say() -> None:
    share = torch.tensor([0.7, 0.2, 0.1])
    drawn = SoftmaxColumns([3])(share.log().expand(20_000, 3), generator(), tau=0.2, hard=True)
    assert (drawn.mean(dim=0) - share).abs().max() < 0.015


@pytest.mark.parametrize("kind", ["even", "normal", "range", "modes", "score_modes"])
def test_rows_become_vectors_and_come_back(kind: str) -> None:
    cohort = mixed_cohort(600)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, np.random.default_rng(0))
    blocks = RowBlocks(encoder, fit_numbers(encoder, kind, 40, rows))  # type: ignore[arg-type]
    data = blocks.tensors(rows, CPU, np.random.default_rng(1))
    vectors = blocks.real(data)
    assert vectors.shape == (600, blocks.width)
    for name in blocks.columns:
        size = blocks.softmaxes.sizes[blocks.columns.index(name)]
        torch.testing.assert_close(vectors[:, blocks.start(name) :][:, :size].sum(1), torch.ones(600))
    back = blocks.read(vectors, np.random.default_rng(2))
    for name, states in rows.states.items():
        assert (back.states[name] == states).all()
    for name, uniform in rows.uniforms.items():
        found, scaler = back.uniforms[name], encoder.numbers[name].scaler
        assert (np.isnan(found) == np.isnan(uniform)).all()
        a, b = scaler.from_uniform(uniform), scaler.from_uniform(found)
        seen = ~np.isnan(a)
        width = max(1e-9, np.nanmax(a) - np.nanmin(a))
        # Scalars of modes are cut off at 0.99, as published.
        off = np.abs(a - b)[seen] / width
        assert np.quantile(off, 0.98) < 0.01, name


def test_codes_become_coordinates_and_come_back() -> None:
    cohort = code_cohort(400)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, np.random.default_rng(0))
    blocks = RowBlocks(encoder, fit_numbers(encoder, "even", 40))
    data = blocks.tensors(rows, CPU, np.random.default_rng(1))
    assert all(c.dtype == torch.uint8 for c in data.codes)
    back = blocks.read(blocks.real(data), np.random.default_rng(2))
    for name, at in blocks.common.items():
        assert (back.blocks[name][:, at] == rows.blocks[name][:, at]).all()
    # The bias alone draws codes as often as they are.
    drawn = blocks.activate(blocks.start_bias().expand(4000, -1), generator(), hard=True)
    first = len(blocks.placed) + blocks.softmaxes.width
    prevalence = encoder.blocks["diagnoses"].prevalence[blocks.common["diagnoses"]]
    found = drawn[:, first : first + len(prevalence)].mean(dim=0).numpy()
    assert np.abs(found - prevalence).max() < 0.04


def test_too_many_levels_are_refused_with_their_columns() -> None:
    n = 26_000
    levels = [f"l{i}" for i in range(2_100)]
    schema = TableSchema(columns=[Column(name="zip", kind="categorical", dtype="string", levels=levels)])
    cohort = assemble(schema, {"zip": np.arange(n) % 2_100})
    with pytest.raises(UnsupportedError, match=r"'zip' with 2,100 levels"):
        CTGAN({"preset": "quick", "steps": 1}).fit(cohort, seed=0, device="cpu")


# ---- conditions


@pytest.mark.parametrize("frequencies", ["true", "log"])
def test_levels_are_told_as_often_as_asked_and_of_rows_that_have_them(frequencies: str) -> None:
    cohort = levels_cohort()
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, np.random.default_rng(0))
    vector = ConditionVector.of(encoder)
    states = vector.states(rows)
    kept = np.arange(200, 1200)
    teller = TellOne(vector, states, kept, frequencies)  # type: ignore[arg-type]
    at, told = teller.batch(60_000, generator())
    known = told != UNTOLD
    assert (known.sum(dim=1) == 1).all()
    assert set(at.tolist()) <= set(kept.tolist())
    assert (torch.as_tensor(states)[at][known] == told[known]).all()
    ones = vector.vector(told)
    assert (ones.sum(dim=1) == 1).all()
    for i, size in enumerate(vector.sizes):
        share = np.bincount(told[known[:, i], i], minlength=size) / int(known[:, i].sum())
        count = np.bincount(states[kept, i], minlength=size)
        weight = np.log1p(count) if frequencies == "log" else count
        assert np.abs(share - weight / weight.sum()).max() < 0.015
        assert abs(float(known[:, i].float().mean()) - 1 / 3) < 0.01
        assert ones[:, vector.starts[i] : vector.starts[i] + size].sum() == known[:, i].sum()
    # Rows are drawn under true frequencies whatever training tells.
    drawn = tell_one(vector, 30_000, np.random.default_rng(1))
    rare = drawn[drawn[:, 0] != UNTOLD, 0].float().mean()
    assert abs(float(rare) - states[:, 0].mean()) < 0.005


def test_all_columns_are_told_together() -> None:
    cohort = levels_cohort()
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    vector = ConditionVector(encoder, ["two", "three"])
    states = vector.states(encoder.encode(cohort, np.random.default_rng(0)))
    teller = TellAll(vector, states, np.arange(1200))
    at, told = teller.batch(500, generator())
    assert (told.numpy() == states[at]).all()
    drawn = teller.drawn(30_000, np.random.default_rng(0)).numpy()
    pair = lambda s: np.bincount(s[:, 0] * 3 + s[:, 1], minlength=6) / len(s)  # noqa: E731
    assert np.abs(pair(drawn) - pair(states)).max() < 0.015


def test_the_penalty_is_the_cross_entropy_of_the_column_that_is_told() -> None:
    cohort = levels_cohort()
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    blocks, vector = RowBlocks(encoder, {}), ConditionVector.of(encoder)
    told = torch.tensor([[1, UNTOLD, UNTOLD], [UNTOLD, 2, UNTOLD], [UNTOLD, UNTOLD, 0]])
    outputs = torch.randn(3, blocks.head_width, generator=generator())
    parts = [
        functional.cross_entropy(outputs[i : i + 1, a:b], torch.tensor([s]))
        for i, (a, b, s) in enumerate([(0, 2, 1), (2, 5, 2), (5, 7, 0)])
    ]
    torch.testing.assert_close(vector.penalty(blocks, outputs, told), torch.stack(parts).mean())


# ---- critics and losses


def test_gradient_penalty_of_a_linear_critic_is_exact() -> None:
    critic = LeakyCritic(3, (), pac=2)
    real, drawn = torch.randn(2, 8, 3, generator=generator())
    judged = Wasserstein(10.0).critic(critic, real, drawn, generator())
    norm = critic.last.weight.norm()
    wanted = critic(drawn).mean() - critic(real).mean() + 10 * (norm - 1) ** 2
    torch.testing.assert_close(judged.loss, wanted)


@pytest.mark.parametrize("kind", ["leaky", "residual"])
def test_gradients_that_are_written_down_are_those_of_autograd(kind: str) -> None:
    torch.manual_seed(0)
    critic: Critic = LeakyCritic(4, (8, 6), pac=2) if kind == "leaky" else ResidualCritic(4, (8, 8), pac=2)
    rows = torch.randn(10, 4, generator=generator())
    scores, gradient = critic.with_gradient(rows)
    packs = critic.packs(rows).detach().requires_grad_(True)
    (wanted,) = torch.autograd.grad(critic.score(packs).sum(), packs, create_graph=True)
    torch.testing.assert_close(scores, critic(rows))
    torch.testing.assert_close(gradient, wanted)
    weights = list(critic.parameters())
    given = torch.autograd.grad(gradient.square().sum(), weights, allow_unused=True)
    truth = torch.autograd.grad(wanted.square().sum(), weights, allow_unused=True)
    for weight, a, b in zip(weights, given, truth, strict=True):
        zero = torch.zeros_like(weight)
        torch.testing.assert_close(zero if a is None else a, zero if b is None else b)


def test_scores_on_the_way_are_those_of_mixed_rows() -> None:
    torch.manual_seed(0)
    critic = LeakyCritic(4, (8, 6), pac=2)
    real, drawn = torch.randn(2, 10, 4, generator=generator())
    on_real, on_drawn, gradient = critic.apart(real, drawn, generator(3))
    torch.testing.assert_close(on_real, critic(real))
    torch.testing.assert_close(on_drawn, critic(drawn))
    share = torch.rand(5, 1, generator=generator(3))
    mixed = share * critic.packs(real) + (1 - share) * critic.packs(drawn)
    torch.testing.assert_close(gradient, critic.with_gradient(mixed.reshape(-1, 4))[1])


def test_losses_of_generators() -> None:
    scores = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(Boundary().generator(scores), 0.5 * (scores**2).mean())
    torch.testing.assert_close(Logistic().generator(scores), -torch.sigmoid(scores).log().mean())
    torch.testing.assert_close(Wasserstein().generator(scores), -scores.mean())


def test_statistics_of_normalised_layers_are_taken_anew() -> None:
    torch.manual_seed(0)
    network = GeneratorNet(3, (5,), 2)
    batches = [torch.randn(64, 3, generator=generator(i)) for i in range(3)]
    refreshed(network, batches)
    hidden = network.layers[0](torch.cat(batches))
    norm = network.norms[0]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, hidden.mean(dim=0))
    assert norm.momentum == 0.1


# ---- verdicts


def judged(real: float, drawn: float, loss: float) -> Judgement:
    noise = torch.linspace(-0.1, 0.1, 10)
    return Judgement(torch.tensor(loss), real + noise, drawn + noise)


def test_verdicts() -> None:
    watch = GameWatch(3)
    assert [watch.see(judged(5, -5, 0.01), decides=True) for _ in range(3)] == ["", "", "won"]
    assert [watch.see(judged(5, -5, 0.01), decides=False) for _ in range(3)] == ["", "", ""]
    assert [watch.see(judged(-5, 5, 9.0), decides=True) for _ in range(3)] == ["", "", "lost"]
    assert [watch.see(judged(0.2, 0.0, 0.0), decides=False) for _ in range(3)] == ["", "", "zero loss"]
    assert watch.see(judged(float("nan"), 0.0, 0.1), decides=True) == "not finite"
    assert "begun anew" in watch.words("zero loss", watch.remedy("zero loss"), 12)
    watch.verdicts["won"] = 9
    assert watch.remedy("won") == "stop"


def test_rows_that_are_all_alike_are_a_collapse() -> None:
    real = torch.randn(500, 6, generator=generator())
    assert not collapsed(real, torch.randn(500, 6, generator=generator(1)))
    assert collapsed(real, real[:1] + 0.01 * torch.randn(500, 6, generator=generator(2)))
    assert collapsed(real, real[:3].repeat(200, 1))


class _Toy:
    """A generator of one number and a critic of it, with a loss that can be told to go wrong."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.network, self.critic = GeneratorNet(2, (4,), 1), LeakyCritic(1, (4,))
        self.streams = Streams.of(seed, CPU)
        self.fault = ""
        self.seen: list[float] = []

    def drawn(self) -> torch.Tensor:
        return self.network(torch.randn(16, 2, generator=self.streams.noise))

    def critic_move(self, done: float) -> Move:
        if self.fault == "zero":
            flat = 0.0 * self.critic(torch.ones(4, 1))
            return Move(flat.sum(), Judgement(flat.sum(), flat.detach() + 1, flat.detach() - 1))
        real = 2 + torch.randn(16, 1, generator=self.streams.noise)
        found = Wasserstein().critic(self.critic, real, self.drawn().detach(), self.streams.noise)
        return Move(found.loss, found)

    def generator_move(self, done: float) -> Move:
        loss = Wasserstein().generator(self.critic(self.drawn()))
        return Move(loss * float("nan") if self.fault == "nan" else loss)

    def training(self, look: Look | None = None, **settings: object) -> Training:
        players = [
            Player("critic", self.critic, self.critic_move, 1e-3, decides=False),
            Player("generator", self.network, self.generator_move, 1e-3),
        ]
        chosen = LoopSettings(**{"steps": 40, "patience": 12, **settings})  # type: ignore[arg-type]
        return Training(players, self.streams, chosen, look=None if look is None else lambda network: look)


def test_a_critic_with_zero_loss_is_begun_anew_and_in_the_end_stopped() -> None:
    toy = _Toy()
    toy.fault = "zero"
    training = toy.training()
    log = training.run()
    assert training.at.stopped
    assert training.watch.verdicts["zero loss"] == 3
    assert "zero for 12 steps on end" in log.warnings[0]
    assert "stopped" in log.warnings[-1]
    told = _Toy()
    told.fault = "zero"
    assert len(told.training(recover=False).run().warnings) == 1


def test_losses_that_are_not_finite_end_in_words() -> None:
    toy = _Toy()
    toy.fault = "nan"
    with pytest.raises(TrainingError, match="not finite"):
        toy.training().run()


def test_a_collapse_goes_back_and_then_stops() -> None:
    toy = _Toy()
    log = toy.training(Look(1.0, collapsed=True), steps=60).run()
    assert ["half the rate" in w for w in log.warnings] == [True, True, False]
    assert "all alike" in log.warnings[-1]


def test_only_the_mover_moves() -> None:
    toy = _Toy()
    before = [p.detach().clone() for p in toy.network.parameters()]
    training = toy.training(ema=0.0)
    training._move(training.players[0])
    for a, b in zip(before, toy.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_that_was_killed_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = _Toy()
    whole.training(ema=0.9).run()
    part = _Toy()
    checkpoint = Checkpoint(tmp_path, "toy", seconds=0)
    with pytest.raises(KeyboardInterrupt):
        part.training(ema=0.9).run(lambda step, *_: _kill(step == 17), checkpoint)
    again = _Toy(seed=0)
    torch.manual_seed(99)
    training = again.training(ema=0.9)
    training.run(None, checkpoint)
    assert len(training.at.losses) == 40
    for a, b in zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def _kill(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


# ---- CTGAN


def test_ctgan_conditions_are_right_for_each_column_and_margins_true() -> None:
    cohort = levels_cohort()
    settings = {"hidden": (32, 32), "critic_hidden": (32, 32), "noise": 8, "batch_size": 200, "learning_rate": 2e-3}
    published = {"preset": "paper", **settings, "steps": 500}
    model = CTGAN(published)
    model.fit(cohort, seed=0, device="cpu")
    assert model.encoder is not None
    # Without its margins mended: what the network itself does when it is told.
    for i, (name, size) in enumerate(zip(model._told.columns, model._told.sizes, strict=True)):
        for state in range(size):
            told = torch.full((400, 3), UNTOLD)
            told[:, i] = state
            outputs = model._network(model._inputs(told, generator(), CPU))
            vectors = model._blocks.activate(outputs, generator(1), hard=True)
            drawn = model._blocks.read(vectors, np.random.default_rng(0))
            assert (drawn.states[name] == state).mean() >= 0.95, (name, state)
    drawn = model.sample(4000, seed=1)
    assert abs((drawn.codes("rare") == 1).mean() - (cohort.codes("rare") == 1).mean()) < 0.03
    default = CTGAN({**settings, "steps": 500})
    default.fit(cohort, seed=0, device="cpu")
    given = [
        (default.sample(600, seed=2, conditions={"three": level}).codes("two") == 1).mean() for level in ("x", "z")
    ]
    assert given[0] > 0.7
    assert given[1] < 0.3
    assert model.draws_given(["two"])
    assert not model.draws_given(["two", "three"])


def test_ctgan_of_a_pac_and_few_rows() -> None:
    """Batches are whole packs and never empty, also of a table with fewer rows than a pack."""
    cohort = levels_cohort(12)
    model = CTGAN({"preset": "paper", "steps": 3})
    model.fit(cohort, seed=0, device="cpu")
    assert model.config.batch(12) == 10
    assert model.config.batch(1007) == 500
    assert model.sample(7, seed=0).n_rows == 7


def test_ctgan_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = mixed_cohort(400)
    settings = {"preset": "quick", "steps": 30, "batch_size": 50, "dropout": 0.2}
    whole = CTGAN(settings)
    whole.fit(cohort, seed=3, device="cpu")
    part = CTGAN(settings)
    made = part._kept_in
    monkeypatch.setattr(part, "_kept_in", lambda *asked: replace(made(*asked), seconds=0))  # type: ignore[type-var]
    with pytest.raises(KeyboardInterrupt):
        part.fit(cohort, seed=3, device="cpu", checkpoint=tmp_path, progress=lambda step, *_: _kill(step == 11))
    part.fit(cohort, seed=3, device="cpu", checkpoint=tmp_path)
    assert part.sample(200, seed=1).table.equals(whole.sample(200, seed=1).table)


def test_a_level_that_training_never_had_is_left_to_the_model() -> None:
    cohort = levels_cohort()
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    vector = ConditionVector.of(encoder)
    fixed = Fixed(codes={"two": np.array([-1, 1])})
    assert vector.fixed(fixed, 2).tolist() == [[UNTOLD, UNTOLD, UNTOLD], [UNTOLD, UNTOLD, 1]]


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="pac"):
        CTGAN({"pac": 0})
