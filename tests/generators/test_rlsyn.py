"""The record policy: its probabilities, updates and reward, verdicts on the discriminator, resuming, odd tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from generator_tables import code_cohort, mixed_cohort, stay_cohort

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import ConfigError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.generators.checkpoint import Checkpoint
from pipeline.generators.reinforcement import loop as loop_module
from pipeline.generators.reinforcement.critic import Discriminator, discriminator_loss, judged
from pipeline.generators.reinforcement.loop import PolicyTraining
from pipeline.generators.reinforcement.policy import Policy
from pipeline.generators.reinforcement.settings import RLSynConfig
from pipeline.generators.reinforcement.space import Action
from pipeline.generators.reinforcement.update import Episode, update_policy
from pipeline.generators.reinforcement.verdicts import DiscriminatorWatch
from pipeline.generators.rlsyn import RLSyn

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.encoding.encoder import Encoded

CPU = torch.device("cpu")
SMALL = {
    "preset": "quick",
    "iterations": 12,
    "warm": "margins",
    "batch_size": 64,
    "critic_warmup": 4,
    "evaluate_every": 6,
    "hidden": (32,),
    "critic_hidden": (32, 32),
}


def made(
    cohort: Cohort, **settings: object
) -> tuple[RLSynConfig, TableEncoder, Encoded, Policy, Action, torch.Generator]:
    """An untrained policy at the margins of a table, and the table's rows as actions."""
    config = RLSynConfig.build({"hidden": (32,), "noise": 4, **settings})
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, np.random.default_rng(0))
    torch.manual_seed(0)
    policy = Policy(config.space(encoder, 12), config.shape(0, ()))
    actions = policy.space.actions(rows, CPU)
    policy.start(actions, 0.3)
    return config, encoder, rows, policy, actions, torch.Generator().manual_seed(1)


def drawn(policy: Policy, n: int, generator: torch.Generator) -> Episode:
    noise = policy.noise(n, generator, CPU)
    action = policy.act(noise, None, generator)
    return Episode(noise, None, action, policy.space.view(action), noise.new_zeros(n, 0))


KINDS = (
    {},
    {"dependence": "ar2"},
    {"numbers": "scores", "dependence": "ar2", "scales": "state"},
    {"preset": "paper"},
)


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("table", [mixed_cohort, code_cohort])
def test_rows_become_actions_and_come_back(settings: dict[str, object], table: object) -> None:
    cohort = table(300)  # type: ignore[operator]
    _, encoder, rows, policy, actions, _ = made(cohort, **settings)
    back, invalid = policy.space.rows(actions, np.random.default_rng(0))
    assert invalid == 0
    for name, states in rows.states.items():
        np.testing.assert_array_equal(back.states[name], states)
    for name, uniform in rows.uniforms.items():
        np.testing.assert_array_equal(np.isnan(back.uniforms[name]), np.isnan(uniform))
        real, again = (encoder.numbers[name].scaler.from_uniform(u) for u in (uniform, back.uniforms[name]))
        span = np.nanmax(real) - np.nanmin(real)
        if span:
            assert np.nanmax(np.abs(real - again)) <= 0.02 * span, name
    for name, counts in rows.blocks.items():
        common = encoder.blocks[name].common
        np.testing.assert_array_equal(back.blocks[name][:, common] > 0, counts[:, common] > 0)
        assert (np.abs(back.blocks[name][:, common] - counts[:, common]) <= 8).all()
    assert policy.space.view(actions).shape == (300, policy.space.width)


@pytest.mark.parametrize("settings", KINDS)
def test_a_start_at_the_margins_draws_the_margins(settings: dict[str, object]) -> None:
    _, _, _, policy, actions, generator = made(code_cohort(1500), **settings)
    shares = policy.heads.shares(actions)
    found = policy.heads.shares(policy.act(policy.noise(20_000, generator, CPU), None, generator))
    assert (shares - found).abs().max() < 0.025


@pytest.mark.parametrize("settings", KINDS)
def test_log_likelihood_entropy_and_divergence_agree(settings: dict[str, object]) -> None:
    """Entropy is the mean of minus the log-likelihood of what is drawn, a divergence that of the difference."""
    _, _, _, policy, _, generator = made(mixed_cohort(300), **settings)
    width, n = policy.heads.width, 60_000
    old, new = (0.7 * torch.randn(1, width, generator=generator).expand(n, -1) for _ in range(2))
    states, bits, numbers = policy.heads.draw(old, generator)
    inside = torch.zeros(n, len(policy.space.numeric)) if policy.space.edges else numbers
    rows = Action(states, bits, inside)
    before, after = policy.heads.of(old), policy.heads.of(new)
    seen = torch.ones(n, policy.heads.columns)
    if policy.heads.gaussians:
        seen[:, -policy.heads.gaussians :] = policy.space.seen(rows)
    weight = seen.sum(dim=0)
    sampled = -(before.log_prob(rows) * seen).sum(dim=0) / weight
    torch.testing.assert_close(sampled, before.entropy()[0], atol=0.04, rtol=0.02)
    gap = ((before.log_prob(rows) - after.log_prob(rows)) * seen).sum(dim=0) / weight
    torch.testing.assert_close(gap, after.divergence_from(before)[0], atol=0.08, rtol=0.06)
    assert float(before.divergence_from(before).detach().abs().max()) < 1e-6


@pytest.mark.parametrize("settings", [{}, {"dependence": "ar2"}])
def test_no_column_looks_at_itself_or_at_later_ones(settings: dict[str, object]) -> None:
    """What a row's outputs are when it is judged is what they were when it was drawn."""
    _, _, _, policy, actions, _ = made(mixed_cohort(300), **settings)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    noise = torch.zeros(200, policy.shape.noise)
    rows = actions.take(torch.arange(200))
    one = policy.heads.of(policy.outputs(policy.hidden(noise, None), policy.space.view(rows))).log_prob(rows)
    order = (
        policy.links.order if policy.links is not None else [*range(len(policy.space.edges), policy.space.columns), 0]
    )
    last = order[-1]
    other = replace(rows, states=rows.states.clone(), numbers=rows.numbers.clone())
    other.states[:, last] = (other.states[:, last] + 1) % policy.space.sizes[last]
    two = policy.heads.of(policy.outputs(policy.hidden(noise, None), policy.space.view(other))).log_prob(other)
    kept = [i for i in order if i != last]
    torch.testing.assert_close(one[:, kept], two[:, kept])
    assert not torch.allclose(one[:, last], two[:, last])


def test_the_written_gradient_is_the_gradient() -> None:
    torch.manual_seed(0)
    network, rows = Discriminator(7, (16, 16)), torch.randn(20, 7, requires_grad=True)
    logit, gradient = network.with_gradient(rows)
    torch.testing.assert_close(logit, network(rows))
    torch.testing.assert_close(gradient, torch.autograd.grad(network(rows).sum(), rows, create_graph=True)[0])
    weights = list(network.parameters())
    known = torch.autograd.grad(
        torch.autograd.grad(network(rows).sum(), rows, create_graph=True)[0].square().sum(), weights, allow_unused=True
    )
    ours = torch.autograd.grad(gradient.square().sum(), weights, allow_unused=True)
    for a, b in zip(known, ours, strict=True):
        if a is not None and a.abs().max() > 0:
            torch.testing.assert_close(a, b)
    loss, _, _ = discriminator_loss(network, rows, rows, gamma=0.0, real_target=1.0)
    assert torch.isfinite(loss)


def test_rewards() -> None:
    logit = torch.tensor([-9.0, 0.0, 9.0])
    assert judged("logit", logit).tolist() == [-5, 0, 5]
    torch.testing.assert_close(judged("sigmoid", logit), torch.sigmoid(logit))
    assert (judged("softplus", logit) > 0).all()


class LikesState(Discriminator):
    """Finds rows the more real, the more often a column is in one state."""

    def __init__(self, place: int) -> None:
        super().__init__(1, (2,))
        self.place = place

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return 4 * rows[:, self.place] - 2


@pytest.mark.parametrize("objective", ["ppo", "reinforce", "gan"])
def test_a_policy_does_more_of_what_is_rewarded(objective: str) -> None:
    """Also with the clip by blocks, which is what wide tables get."""
    config, _, _, policy, _, generator = made(
        mixed_cohort(300), objective=objective, learning_rate=1e-2, ratio="block", kl_stop=1.0
    )
    column = policy.space.names.index("group")
    critic = LikesState(int(policy.space.place[column, 1]))
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)
    before = float((drawn(policy, 2000, generator).action.states[:, column] == 1).float().mean())
    facts = {}
    for _ in range(60):
        facts = update_policy(policy, critic, drawn(policy, 128, generator), optimiser, config, 1e-3)
    after = float((drawn(policy, 2000, generator).action.states[:, column] == 1).float().mean())
    assert before < 0.4
    assert after > 0.6
    wanted = {"reward", "entropy"} if objective == "gan" else {"reward", "entropy", "advantage", "kl", "value_error"}
    assert wanted <= set(facts)


def test_it_learns_dependence_by_reward_alone() -> None:
    """Two columns that always agree, from margins, without links: only the reward can say so."""
    n = 600
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, n)
    columns = [Column(name=k, kind="categorical", dtype="string", levels=["x", "y"]) for k in "ab"]
    cohort = assemble(TableSchema(columns=columns), {"a": a, "b": a})
    model = RLSyn(
        {
            "warm": "margins",
            "dependence": "noise",
            "noise": 4,
            "hidden": (32,),
            "critic_hidden": (32, 32),
            "iterations": 250,
            "batch_size": 128,
            "r1": 0.1,
            "critic_rate": 2e-3,
            "learning_rate": 5e-3,
            "kl_stop": 0.2,
            "select": "last",
            "critic_steps": 2,
            "critic_warmup": 20,
        }
    )
    report = model.fit(cohort, seed=0, device="cpu")
    rows = model.sample(2000, seed=1)
    assert (rows.codes("a") == rows.codes("b")).mean() > 0.8
    assert {"reward", "advantage", "entropy", "kl", "clip_share", "critic_loss"} <= set(report.losses[-1])


def test_a_watch_counts_steps_on_end() -> None:
    watch = DiscriminatorWatch(3)
    assert [watch.see(1.0, 2.0) for _ in range(2)] == ["", ""]
    assert watch.see(0.8, 2.0) == ""
    assert [watch.see(1.0, 2.0) for _ in range(3)] == ["", "", "won"]
    assert watch.remedy("won") == "slower"
    assert [watch.see(0.5, 1e-6) for _ in range(3)][-1] == "lost"
    assert watch.remedy("lost") == "restart"
    for remedy in ("restart", "stop", "stop"):
        assert [watch.see(1.0, 2.0) for _ in range(3)][-1] == "won"
        assert watch.remedy("won") == remedy
    assert watch.see(float("nan"), 1.0) == "not finite"


def trained(
    monkeypatch: pytest.MonkeyPatch, critic: type[Discriminator], **settings: object
) -> tuple[object, list[str]]:
    """A training against a planted discriminator."""
    monkeypatch.setattr(loop_module, "Discriminator", critic)
    report = RLSyn({**SMALL, "iterations": 60, "verdict_steps": 10, "select": "last", **settings}).fit(
        stay_cohort(300), seed=0, device="cpu"
    )
    return report, report.warnings


class AlwaysWins(Discriminator):
    """Knows real rows by a mark that nothing drawn can have: it sees the mean of the first layer's input bias."""

    calls = 0

    def with_gradient(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layers[-1].bias.expand(len(rows)) * 0 + 9, rows * 0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers[-1].bias.expand(len(rows)) * 0 - 9


class SaysNothing(Discriminator):
    """The same of every row."""

    def with_gradient(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.forward(rows), rows * 0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers[-1].bias.expand(len(rows)) * 0


class Breaks(Discriminator):
    """No number."""

    def with_gradient(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.forward(rows), rows * 0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers[-1].bias.expand(len(rows)) * float("nan")


@pytest.mark.parametrize(
    ("critic", "words", "count"),
    [
        (AlwaysWins, "told all drawn rows", 3),
        (SaysNothing, "could tell nothing", 2),
        (Breaks, "numbers that are not finite", 2),
    ],
)
def test_a_discriminator_that_wins_or_loses_completely_is_answered_and_at_last_stops_the_training(
    monkeypatch: pytest.MonkeyPatch, critic: type[Discriminator], words: str, count: int
) -> None:
    report, warnings = trained(monkeypatch, critic)
    said = [w for w in warnings if words in w]
    assert len(said) == count
    assert "stopped" in said[-1]
    assert report.health["iterations"] < 60  # type: ignore[attr-defined]
    _, warnings = trained(monkeypatch, critic, recovery="report")
    assert len([w for w in warnings if words in w]) == 1, "without recovery it is said once and nothing is done"


def test_an_interrupted_training_by_reward_ends_with_the_same_weights(tmp_path: Path) -> None:
    cohort = stay_cohort(300)

    def training() -> PolicyTraining:
        config, _, _, policy, actions, _ = made(cohort, **SMALL)
        rows = {"fit_rows": np.arange(240), "tune_rows": np.arange(240, 300)}
        return PolicyTraining(policy, actions, lambda *_: None, config, **rows, seed=5, device=CPU)

    class KilledError(Exception):
        pass

    def kill(done: int, *_: object) -> None:
        if done == 7:
            raise KilledError

    whole = training()
    whole.run()
    kept = Checkpoint(tmp_path, identity="a", seconds=0)
    with pytest.raises(KilledError):
        training().run(kill, kept)
    assert kept.path.exists()
    resumed = training()
    resumed.run(None, kept)
    assert resumed.at == whole.at
    for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_states_come_from_the_mixture_that_was_given() -> None:
    policy = made(mixed_cohort(300))[3]
    means = torch.tensor([[-3.0, 0, 0, 1], [3.0, 0, 2, 0]])
    factors = torch.stack([0.5 * torch.eye(4), torch.eye(4).tril() + 0.5 * torch.ones(4, 4).tril(-1)])
    policy.draw_states_from(torch.tensor([0.25, 1.0]), means, factors)
    states = policy.noise(40_000, torch.Generator().manual_seed(0), CPU)
    left = states[:, 0] < 0
    assert abs(left.float().mean().item() - 0.25) < 0.01
    for part, mean, factor in zip((states[left], states[~left]), means, factors, strict=True):
        np.testing.assert_allclose(part.mean(dim=0), mean, atol=0.05)
        np.testing.assert_allclose(part.T.cov(), factor @ factor.T, atol=0.08)


def test_a_warm_start_says_where_its_states_lie() -> None:
    settings = {**SMALL, "warm": "vae", "warm_epochs": 30, "noise": 4, "iterations": 2}
    model = RLSyn(settings)
    model.fit(mixed_cohort(600), seed=0, device="cpu")
    assert model._policy.state_edges is not None
    assert not torch.allclose(model._policy.state_means, torch.zeros(4), atol=0.05), (
        "latents that fill N(0, I) tell nothing"
    )
    plain = RLSyn({**settings, "states": "standard"})
    plain.fit(mixed_cohort(600), seed=0, device="cpu")
    assert plain._policy.state_edges is None


def test_few_rows_are_not_shown_to_the_discriminator_for_ever() -> None:
    config = RLSynConfig.build({"critic_passes": 10, "batch_size": 64, "critic_steps": 2, "iterations": 1000})
    assert config.updates(100) == 7, "10 passes of 100 rows, 128 a time"
    assert config.updates(10) == 1
    assert config.updates(1_000_000) == 1000
    assert RLSynConfig.build({"preset": "paper"}).updates(100) == 30_000
    report = RLSyn({**SMALL, "critic_passes": 1, "iterations": 1000}).fit(mixed_cohort(300), seed=0, device="cpu")
    assert report.health["iterations"] <= 3


def test_told_columns_need_no_rejection() -> None:
    cohort = mixed_cohort(600)
    model = RLSyn({**SMALL, "condition_columns": ("group", "age"), "warm": "vae", "warm_epochs": 40})
    model.fit(cohort, seed=0, device="cpu")
    wanted = pd.DataFrame({"group": ["a", "b", "c"] * 40, "age": np.linspace(40, 80, 120).round(1)})
    rows = model.sample(120, seed=1, conditions=wanted)
    assert rows.table.column("group").to_pylist() == wanted["group"].tolist()
    np.testing.assert_allclose(rows.values("age"), wanted["age"])
    rare = model.sample(4000, seed=2, conditions={"age": 88.0})
    old, young = rare.values("visits"), model.sample(4000, seed=2, conditions={"age": 45.0}).values("visits")
    assert old.mean() > young.mean() + 0.5, "what is told changes the other columns"
    with pytest.raises(ConfigError, match="no column"):
        RLSyn({**SMALL, "condition_columns": ("agee",)}).fit(cohort, seed=0)


@pytest.mark.parametrize("preset", sorted(set(RLSynConfig.presets) - {"default", "quick", "margins", "robust"}))
def test_every_preset_trains(preset: str) -> None:
    settings = {k: v for k, v in SMALL.items() if k not in ("preset", "warm")}
    model = RLSyn({"preset": preset, **settings, "warm_epochs": 2})
    report = model.fit(mixed_cohort(300), seed=0, device="cpu")
    assert model.sample(50, seed=0).n_rows == 50
    told = any("independent bits" in w for w in report.warnings)
    assert told == preset.startswith("paper")
    assert (report.health["invalid_rows"] > 0.05) == told


def test_settings_that_do_not_fit_together() -> None:
    with pytest.raises(ConfigError, match="pieces"):
        RLSyn({"numbers": "scores", "dependence": "linked"})
    with pytest.raises(ConfigError, match="categoricals"):
        RLSyn({"preset": "paper", "condition_columns": ("a",)})


def block_cohort(codes: int, rows: int, kind: str, columns: int = 0) -> Cohort:
    """Codes, and perhaps a discrete column."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(0.15, (rows, codes)).astype(float))
    if kind == "binary":
        counts.data[:] = 1
    block = CodeBlock(name="codes", kind=kind, vocabulary=[f"C{i:05d}" for i in range(codes)])
    fields = [Column(name="sex", kind="binary", dtype="int64", levels=[0, 1])][:columns]
    cells = {"sex": rng.integers(0, 2, rows)} if columns else {}
    return assemble(TableSchema(columns=fields, blocks=[block]), cells, blocks={"codes": counts})


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize(
    "table",
    [
        lambda: block_cohort(1, 200, "binary"),
        lambda: block_cohort(1, 200, "count"),
        lambda: block_cohort(300, 100, "count", columns=1),
        lambda: mixed_cohort(20),
        lambda: stay_cohort(40),
    ],
)
def test_odd_shapes(preset: str, table: object) -> None:
    """A single code, more codes than rows, 20 rows, fewer rows than a batch, a single iteration."""
    model = RLSyn({"preset": preset, "iterations": 1, "warm_epochs": 1, "critic_warmup": 1, "batch_size": 96})
    model.fit(table(), seed=0, device="cpu")  # type: ignore[operator]
    assert model.sample(30, seed=0).n_rows == 30


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "count"])
def test_six_thousand_codes(kind: str) -> None:
    model = RLSyn({"iterations": 2, "warm_epochs": 1, "critic_warmup": 1, "batch_size": 64})
    model.fit(block_cohort(6000, 200, kind, columns=1), seed=0, device="cpu")
    assert model.sample(100, seed=0).blocks["codes"].shape == (100, 6000)


@pytest.mark.parametrize(
    ("scores", "chosen"), [((0.6, 0.9, 0.9), 0.0), ((0.9, 0.8, 0.7), 12.0), ((0.9, 0.6, 0.7), 6.0)]
)
def test_the_weights_that_are_kept_are_those_told_apart_worst(
    monkeypatch: pytest.MonkeyPatch, scores: tuple[float, ...], chosen: float
) -> None:
    """The warm start is one of them; where it stays the best, the report says so."""
    left = iter(scores)
    monkeypatch.setattr(loop_module, "told_apart", lambda *_: next(left))
    report = RLSyn(SMALL).fit(stay_cohort(600), seed=0, device="cpu")
    assert report.health["chosen_iteration"] == chosen
    assert report.health["told_apart"] == min(scores)
    assert any("did not improve" in w for w in report.warnings) == (chosen == 0)
