"""Adversarial generators under differential privacy: the critic is the only one that sees real rows, one pair at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import private_lab as lab
import pytest
import torch
from test_dp_audit import lower_bound
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import UnsupportedError
from pipeline.features.cohort import assemble
from pipeline.features.schema import Column, TableSchema
from pipeline.generators.adversarial import private
from pipeline.generators.adversarial.conditions import UNTOLD
from pipeline.generators.adversarial.loop import Streams
from pipeline.generators.adversarial.losses import game
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.numbers import fit_numbers
from pipeline.generators.adversarial.private import PairLoss, PrivateAdversarialGenerator, TellDrawn, own_level
from pipeline.generators.adversarial.vector import RowBlocks
from pipeline.generators.fairgan import private_groups
from pipeline.generators.registry import generator_class, generator_names
from pipeline.generators.seeds import stream
from pipeline.generators.training import TrainLog
from pipeline.privacy.accounting import dpsgd_epsilon
from pipeline.privacy.clipping import STEPS, Noise, prepare
from pipeline.privacy.spec import TrainingPrivacy

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import FitReport

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")
PRIVATE = ("copula_gan", "ctgan", "emr_wgan", "fairgan", "medbgan", "medgan")
OWN: dict[str, dict[str, Any]] = {"fairgan": {"protected": ["ward", "died"]}}
SMALL = {"private_hidden": (16,), "private_critic_hidden": (12, 12), "noise": 8}
FEW = {"private_epochs": 2.0, "private_batch_size": 200, "private_critic_steps": 2}


def model_of(name: str, **settings: Any) -> Any:
    kind = generator_class(name)
    return kind(kind.Config.build({"preset": "quick", **SMALL, **OWN.get(name, {}), **settings}))


def problem(name: str = "ctgan", draws: int = 2, n: int = 60) -> tuple[PairLoss, PrivateAdversarialGenerator]:
    """The loss of a private training of a small ward, with a critic and a generator that say something."""
    cohort = lab.ward_cohort(n)
    encoder = TableEncoder.fit(cohort, EncodingSettings(rare_rows=1))
    model = model_of(name)
    rows = encoder.encode(cohort, stream(0))
    with model._private_settings():
        config = model.config
        torch.manual_seed(3)
        model._blocks = blocks = RowBlocks(encoder, fit_numbers(encoder, config.numbers, config.pieces))
        model._told = model._conditions(encoder)
        if name == "fairgan":
            model._joint, model._share = np.zeros((1, 2), dtype=np.int64), np.ones(1)
        data = blocks.tensors(rows, "cpu", stream(0))
        match = model._private_match(
            Match(
                blocks=blocks,
                data=data.take(torch.zeros(0, dtype=torch.long)),
                generator=model._generator(blocks, model._told.width),
                critic=model._critic(blocks.width + model._told.width),
                game=game(config.loss, config.penalty),
                teller=TellDrawn(model._told, model._tell),
                streams=Streams.of(0, lab.CPU),
                config=config,
                size=20,
                device=lab.CPU,
            )
        )
    states = torch.as_tensor(model._told.states(rows))
    return PairLoss(match, data, states, model._own, draws), model


def fitted(name: str, cohort: Cohort | None = None, **asked: Any) -> tuple[Any, FitReport]:
    model = model_of(name, **FEW)
    privacy = TrainingPrivacy.model_validate({"epsilon": 4.0, "delta": 1e-6, "accountant": "rdp", **asked})
    report = model.fit(cohort or table(), seed=1, privacy=privacy, noise_key=lab.KEY)
    return model, report


def table(n: int = 700) -> Cohort:
    """Numbers and levels, all declared."""
    rng = np.random.default_rng(1)
    ill = rng.standard_normal(n)
    schema = TableSchema(
        columns=[
            Column(name="age", kind="count", dtype="int64", bounds=(18, 99)),
            Column(name="x", kind="continuous", dtype="float64", bounds=(-6, 6)),
            Column(name="ward", kind="categorical", dtype="string", levels=["a", "b", "c"]),
            Column(name="died", kind="binary", dtype="bool", levels=[False, True], role="label"),
        ]
    )
    columns = {
        "age": np.clip(np.rint(60 + 12 * ill), 18, 99),
        "x": (ill + 0.3 * rng.standard_normal(n)).clip(-6, 6),
        "ward": np.clip(np.rint(ill + 1), 0, 2).astype(int),
        "died": (ill + rng.standard_normal(n) > 1).astype(int),
    }
    return assemble(schema, columns)


def test_which_gans_train_privately_is_decided_one_by_one() -> None:
    """A new one that inherits from these has to be looked at before it promises anything."""
    found = {n for n in generator_names() if issubclass(generator_class(n), PrivateAdversarialGenerator)}
    assert {n for n in found if generator_class(n).supports(lab.PLAIN).dp} == set(PRIVATE)
    for name in ("medwgan", "triple_gan", "bt_gan", "bt_gan_minus"):
        with pytest.raises(UnsupportedError, match="does not train with differential privacy"):
            generator_class(name)().fit(table(200), seed=0, privacy=TrainingPrivacy(epsilon=1))


# ---- one gradient a pair


@pytest.mark.parametrize("name", ["ctgan", "emr_wgan", "medgan"])
def test_the_norm_of_a_pair_is_that_of_its_own_gradient(name: str) -> None:
    loss, _ = problem(name)
    critic, rows = loss.match.critic, torch.arange(12)
    pairs: list[Tensor] = []
    inner = critic.apiece
    critic.apiece = lambda x: (pairs.append(x.detach()), inner(x))[1]  # type: ignore[assignment,func-returns-value]
    trained = [p for p in critic.parameters() if p.requires_grad]
    step = STEPS["ghost"](critic, torch.optim.SGD(trained, lr=1.0), Noise(1.0, 0.0, 1.0, torch.Generator()))
    losses, norms = step.norms(loss, rows, torch.Generator().manual_seed(4), 0.0)
    step.wrapped.to_standard_module()
    del critic.apiece
    assert pairs[0].shape == (12, 3, critic.width)

    def one(parameters: dict[str, Tensor], pair: Tensor) -> Tensor:
        score = functional_call(critic, parameters, (pair,))
        return functional.softplus(-score[0]) + functional.softplus(score[1:]).mean()

    parameters = {k: p.detach() for k, p in critic.named_parameters()}
    each = vmap(grad(one), in_dims=(None, 0))(parameters, pairs[0])
    wanted = torch.stack([g.flatten(1).norm(dim=1) for g in each.values()]).norm(dim=0)
    assert torch.allclose(norms, wanted, rtol=1e-5, atol=1e-6)
    assert float(norms.std()) > 1e-3
    assert torch.allclose(losses.detach(), torch.stack([one(parameters, pair) for pair in pairs[0]]), atol=1e-6)


@pytest.mark.parametrize("name", PRIVATE)
def test_the_loss_of_a_row_hangs_on_no_other_row(name: str) -> None:
    """Other rows beside it, with other levels that are told, change nothing; with the generator in training they would."""
    loss, _ = problem(name, draws=1)
    network = loss.match.generator

    def of_row(others: list[int]) -> Tensor:
        return loss(torch.tensor([3, *others]), torch.Generator().manual_seed(1), 0.0).detach()

    for _ in range(3):  # statistics of normalised layers that say something
        network(torch.randn(30, loss.match.config.noise + loss.match.teller.vector.width))
    first, again = of_row([1, 2, 4]), of_row([20, 30, 40])
    assert torch.allclose(again[0], first[0], atol=1e-6)
    assert not torch.allclose(again[1:], first[1:], atol=1e-4)
    assert network.training
    if loss.match.teller.vector.width:
        network.eval = lambda: network  # type: ignore[method-assign]
        assert not torch.allclose(of_row([1, 2, 4])[0], of_row([20, 30, 40])[0], atol=1e-6)


@pytest.mark.parametrize("name", PRIVATE)
def test_a_critic_has_nothing_that_ties_rows_together(name: str) -> None:
    loss, model = problem(name)
    kinds = {type(m).__name__ for m in loss.match.critic.modules()}
    assert kinds <= {"LeakyCritic", "ResidualCritic", "MeanCritic", "ModuleList", "Linear", "LayerNorm"}
    assert getattr(loss.match.critic, "dropout", 0.0) == 0
    assert loss.match.critic.pac == 1
    assert prepare(loss.match.critic, loss, torch.arange(4), ("ghost", "hooks")) == "ghost"
    paper = model.Config.build({"preset": "paper", "pac": 1, **OWN.get(name, {})}).privately()
    assert (paper.pac, paper.dropout, paper.penalty, paper.select) == (1, 0.0, 0.0, "last")
    assert paper.numbers not in ("modes", "score_modes"), "mixtures are fitted to rows"


def test_a_critic_that_sees_the_mean_of_a_batch_is_refused() -> None:
    loss, model = problem("medgan")
    torch.manual_seed(0)
    tied = model._critic(loss.match.blocks.width)
    assert tied.of_mean is not None
    loss.match.critic = tied
    tied.apiece = (  # type: ignore[method-assign]
        lambda rows: tied.score(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
    )
    with pytest.raises(UnsupportedError, match="cannot be trained by DP-SGD"):
        prepare(tied, loss, torch.arange(4), ("ghost", "hooks"))


def test_a_row_is_told_a_level_of_its_own() -> None:
    states = torch.tensor([[0, 5, 2], [1, 6, 3]]).repeat(3_000, 1)
    told = own_level(states, torch.Generator().manual_seed(0))
    known = told != UNTOLD
    assert bool((known.sum(dim=1) == 1).all())
    assert torch.equal(told[known], states[known])
    share = known.float().mean(dim=0)
    assert torch.allclose(share, torch.full((3,), 1 / 3), atol=0.02)


# ---- what is seen, and of what noise


@pytest.mark.parametrize("name", PRIVATE)
def test_only_the_noisy_steps_look_at_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All free players have their turns, the critic learns nothing: of two tables under one encoder the same is learned."""
    one, other = lab.ward_cohort(600), lab.ward_cohort(600, seed=7)
    encoder = TableEncoder.fit(one, EncodingSettings())
    turns = []

    def blind(network: nn.Module, loss: PairLoss, *, after: Any, settings: Any, **_: Any) -> TrainLog:
        assert len(loss.match.data) == 0, "the game of the free players holds no row"
        assert len(loss.data) == 600
        for k in range(6):
            after(k + 1)
            turns.append(k)
        return TrainLog()

    monkeypatch.setattr(private, "train_private", blind)
    states = []
    for cohort in (one, other):
        # One protected column: the groups of several are paid for, which is tested by itself.
        model = model_of(name, **FEW, **({"protected": ["ward"]} if name == "fairgan" else {}))
        run = lab.begin(600, accountant="rdp")
        model._learn_private(
            encoder, encoder.encode(cohort, stream(0)), cohort, seed=3, device="cpu", run=run, progress=None
        )
        states.append(model._state()[0])
        assert not run.ledger
    assert len(turns) == 12
    assert all(np.array_equal(states[0][k], states[1][k]) for k in states[0] | states[1])


def test_a_real_row_moves_a_step_by_the_clip_at_most_and_the_noise_is_as_large_as_said() -> None:
    sums = []
    for rows in (torch.arange(30), torch.arange(31)):
        loss, _ = problem()
        # The pairs of the rows that both have are the same: what is drawn beside row 30 comes last.
        loss.own = lambda states, random: states.fill_(UNTOLD)
        loss.match.outputs = lambda condition, loss=loss: torch.zeros(len(condition), loss.match.blocks.head_width)  # type: ignore[method-assign,misc]
        loss.match.shown = lambda outputs, loss=loss: loss.match.blocks.activate(outputs, None)  # type: ignore[method-assign,misc]
        loss.data.places[30] = 1e6
        sums.append(moved(loss, rows, clip=0.3, noise=0.0))
    gap = float((sums[1] - sums[0]).norm())
    assert 0.29 < gap <= 0.3 + 1e-5
    loss, _ = problem()
    noise = moved(loss, torch.arange(0), clip=0.3, noise=2.0, times=20)
    assert float(noise.std()) == pytest.approx(0.6, rel=0.05)


def moved(loss: PairLoss, rows: Tensor, *, clip: float, noise: float, times: int = 1) -> Tensor:
    """(times, weights) what steps at rate 1 and a batch of 1 take from the critic's weights, which are put back each time."""
    critic = loss.match.critic
    before = nn.utils.parameters_to_vector(critic.parameters()).detach().clone()
    random = torch.Generator().manual_seed(len(rows))
    step = STEPS["ghost"](critic, torch.optim.SGD(critic.parameters(), lr=1.0), Noise(clip, noise, 1.0, random))
    found = []
    for _ in range(times):
        step.add(loss, rows, torch.Generator().manual_seed(0), 0.0, last=True)
        found.append(before - nn.utils.parameters_to_vector(critic.parameters()).detach())
        nn.utils.vector_to_parameters(before.clone(), critic.parameters())
    step.wrapped.to_standard_module()
    return torch.stack(found)


@pytest.mark.parametrize(("multiplier", "holds"), [(1.5, True), (0.0, False)])
def test_an_attack_on_the_critic_proves_no_more_than_is_claimed(multiplier: float, holds: bool) -> None:
    """Was the patient with the odd number there? Told along that patient's own clipped gradient (Jagielski et al. 2020)."""
    loss, _ = problem(draws=1, n=40)
    loss.data.places[7] = 40.0
    clip, rest = 1.0, torch.tensor([1, 2, 3])
    own = moved(loss, torch.tensor([7]), clip=clip, noise=0.0)[0]
    base = moved(loss, rest, clip=clip, noise=0.0) @ own
    scores = [
        (moved(loss, rows, clip=clip, noise=multiplier, times=150) @ own - base).numpy()
        for rows in (torch.cat([rest, torch.tensor([7])]), rest)
    ]
    half = float(own @ own) / 2
    proven = lower_bound(scores[0] >= half, scores[1] >= half)
    claim = dpsgd_epsilon(noise_multiplier=1.5, sample_rate=1.0, steps=1, delta=1e-5).epsilon
    assert (proven < claim) if holds else (proven > 3.0)
    assert not holds or proven > 0


# ---- the whole training


@pytest.mark.parametrize("name", ["ctgan", "emr_wgan", "fairgan"])
def test_the_ledger_holds_what_a_fresh_accountant_says(name: str) -> None:
    model, report = fitted(name)
    said = report.privacy
    assert said is not None
    (entry,) = [m for m in said["mechanisms"] if m["type"] == "dp_sgd"]
    rate, steps = 200 / 700, 7
    fresh = dpsgd_epsilon(
        noise_multiplier=entry["noise_multiplier"],
        sample_rate=rate,
        steps=steps,
        delta=entry["delta"],
        accountant="rdp",
    )
    assert (entry["sample_rate"], entry["steps"], entry["clipping"]) == (pytest.approx(rate), steps, "ghost")
    assert entry["epsilon"] == pytest.approx(fresh.epsilon)
    assert 3.9 < said["epsilon"] <= 4.0
    assert sum(part["epsilon"] for part in said["parts"].values()) == pytest.approx(said["epsilon"])
    assert ("learning/groups" in said["parts"]) == (name == "fairgan")
    assert report.losses == []
    assert model.config.private_critic_steps == 2, "settings are given back as they were"


def test_a_noise_multiplier_gives_the_epsilon_that_was_planned() -> None:
    model = model_of("ctgan", **FEW)
    asked = TrainingPrivacy(noise_multiplier=2.0, delta=1e-6, accountant="rdp")
    planned = model.planned_privacy(asked, 700).epsilon
    said = model.fit(table(), seed=1, privacy=asked, noise_key=lab.KEY).privacy
    assert said is not None
    assert said["epsilon"] == pytest.approx(planned)
    assert said["mechanisms"][-1]["noise_multiplier"] == 2.0


def test_several_rows_of_a_subject_are_paid_for() -> None:
    from dataclasses import replace

    doubled = replace(table(1_400), subject=np.array([f"p{i // 2}" for i in range(1_400)]))
    model, report = fitted("fairgan", doubled, rows_per_subject=2)
    said = report.privacy
    assert said is not None
    assert said["n"] == 700
    (sgd,) = [m for m in said["mechanisms"] if m["type"] == "dp_sgd"]
    (groups,) = [m for m in said["mechanisms"] if m["part"] == "learning/groups"]
    assert sgd["sensitivity"] == pytest.approx(2 * model.config.private_clip)
    assert groups["sensitivity"] == 2.0


def test_groups_of_several_protected_columns_are_counted_with_noise() -> None:
    cohort = lab.ward_cohort(5_000)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, stream(0))
    run = lab.begin(cohort=cohort, epsilon=20.0)
    joint, share = private_groups(encoder, rows, ["ward", "died"], run)
    (entry,) = run.ledger
    assert (entry.type, entry.part, entry.sensitivity) == ("laplace", "groups", 1.0)
    assert entry.epsilon == pytest.approx(1.0)
    assert share.sum() == pytest.approx(1.0)
    true = {tuple(g): c / 5_000 for g, c in zip(*np.unique(_states(rows), axis=0, return_counts=True), strict=True)}
    gap = [abs(true.get(tuple(g), 0.0) - s) for g, s in zip(joint, share, strict=True)]
    assert 0 < max(gap) < 0.01
    one, alone = private_groups(encoder, rows, ["ward"], run)
    assert len(run.ledger) == 1, "one column is in the encoder already"
    assert one.ravel().tolist() == [0, 1, 2]
    assert alone == pytest.approx(encoder.levels["ward"].frequency)


def _states(rows: Any) -> np.ndarray:
    return np.stack([rows.states["ward"], rows.states["died"]], axis=1)


def test_a_model_is_itself_after_saving_and_an_open_training_follows_a_private_one(tmp_path: Any) -> None:
    model, _ = fitted("ctgan")
    model.save(tmp_path)
    back = type(model).load(tmp_path)
    assert back._private
    assert back.config == model.config
    assert back.sample(50, seed=2).table.equals(model.sample(50, seed=2).table)
    model.config = model.Config.build({"preset": "quick", "steps": 4})
    model.fit(table(), seed=0)
    assert not model._private
    assert model._network.layers[0].out_features == model.config.hidden[0]


def test_counts_of_codes_are_learned_without_a_look_at_their_quantiles() -> None:
    model, _ = fitted("medgan", lab.ward_cohort(900))
    assert not model._margins.amounts
    drawn = model.sample(200, seed=0)
    assert drawn.blocks["dx"].max() <= 10
