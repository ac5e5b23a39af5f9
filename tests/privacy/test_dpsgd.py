"""DP-SGD: gradients of single rows, clipping, noise, batches and the ledger."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import private_lab as lab
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from pipeline.errors import ConfigError, UnsupportedError
from pipeline.privacy import dpsgd
from pipeline.privacy.accounting import dpsgd_epsilon
from pipeline.privacy.clipping import STEPS, GhostStep, HookStep, Noise, prepare
from pipeline.privacy.dpsgd import PrivateSettings, planned_epsilon, train_private
from pipeline.privacy.spec import TrainingPrivacy

if TYPE_CHECKING:
    from pipeline.privacy.run import PrivateRun

MODES = ("ghost", "hooks")


pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def begin(n: int = 600, **asked: Any) -> PrivateRun:
    """A run by the quicker accountant: what is tested here does not depend on which."""
    return lab.begin(n, **{"accountant": "rdp", **asked})


def step_of(mode: str, network: nn.Module, *, clip: float, noise: float = 0.0, batch: float = 1.0) -> Any:
    trained = [p for p in network.parameters() if p.requires_grad]
    added = Noise(clip, noise, batch, torch.Generator().manual_seed(1))
    return STEPS[mode](network, torch.optim.SGD(trained, lr=1.0), added)  # type: ignore[index]


def moved(step: Any, network: nn.Module, loss: Any, rows: Tensor) -> Tensor:
    """What one step of gradient descent with rate 1 takes from the weights: the noised mean of clipped gradients."""
    before = [p.detach().clone() for p in network.parameters()]
    step.add(loss, rows, torch.Generator(), 0.0, last=True)
    return torch.cat([(b - p.detach()).flatten() for b, p in zip(before, network.parameters(), strict=True)])


# ---- gradients of single rows


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_rows_are_those_of_vmap(mode: str) -> None:
    network, _ = lab.mixed_problem()
    random = torch.Generator().manual_seed(5)
    numbers, target = torch.randn(9, 5, generator=random), torch.randn(9, 2, generator=random)
    levels = torch.randint(0, 4, (9,), generator=random)

    def one(parameters: dict[str, Tensor], x: Tensor, level: Tensor, y: Tensor) -> Tensor:
        centre, log_scale = functional_call(network, parameters, (x[None], level[None]))
        return (0.5 * ((y - centre[0]) / log_scale[0].exp()) ** 2 + log_scale[0]).sum()

    parameters = {name: p.detach() for name, p in network.named_parameters()}
    wanted = vmap(grad(one), in_dims=(None, 0, 0, 0))(parameters, numbers, levels, target)

    def loss(rows: Tensor, noise: torch.Generator, done: float) -> Tensor:
        centre, log_scale = network(numbers[rows], levels[rows])
        return (0.5 * ((target[rows] - centre) / log_scale.exp()) ** 2 + log_scale).sum(dim=1)

    step = step_of(mode, network, clip=1.0)
    _, norms = step.norms(loss, torch.arange(9), random, 0.0)
    whole = torch.stack([wanted[name].flatten(1).norm(dim=1) for name in wanted]).norm(dim=0)
    assert torch.allclose(norms, whole, rtol=1e-5, atol=1e-6)
    if mode == "hooks":
        for name, p in network.named_parameters():
            assert torch.allclose(p.grad_sample, wanted[name], atol=1e-5), name  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", MODES)
def test_a_step_is_the_sum_of_clipped_gradients(mode: str) -> None:
    network, loss = lab.mixed_problem()
    rows = torch.arange(30)
    each = lab.true_gradients(network, loss, rows)
    clip = float(each.norm(dim=1).median())
    expected = (each * (clip / each.norm(dim=1, keepdim=True)).clamp(max=1.0)).sum(dim=0) / 12.5
    found = moved(step_of(mode, network, clip=clip, batch=12.5), network, loss, rows)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_one_row_moves_the_sum_by_no_more_than_the_clip(mode: str) -> None:
    """Also one whose own gradient is a million times as large, or is none at all."""
    for scale in (1.0, 1e6, float("nan"), float("inf")):
        sums = []
        for rows in (torch.arange(20), torch.arange(21)):
            network, loss = lab.mixed_problem()

            def odd(batch: Tensor, noise: torch.Generator, done: float, inner: Any = loss, by: float = scale) -> Tensor:
                return inner(batch, noise, done) * torch.where(batch == 20, by, 1.0)

            sums.append(moved(step_of(mode, network, clip=0.3), network, odd, rows))
        gap = float((sums[1] - sums[0]).norm())
        assert gap <= 0.3 + 1e-5
        assert (gap == 0.0) == (not np.isfinite(scale))


def test_both_ways_of_clipping_train_the_same_network() -> None:
    ends = []
    for mode in MODES:
        network, loss = lab.mixed_problem()
        run = begin()
        settings = PrivateSettings(steps=8, expected_batch=300, mode=mode, physical_rows=100)  # type: ignore[arg-type]
        train_private(network, loss, rows=600, settings=settings, run=run, init_seed=0, device=lab.CPU)
        ends.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
        assert run.ledger[0].details["clipping"] == mode
    assert torch.allclose(ends[0], ends[1], atol=1e-4)


# ---- noise


@pytest.mark.parametrize("mode", MODES)
def test_noise_has_sigma_times_clip_over_the_batch(mode: str) -> None:
    network = nn.Linear(300, 100)

    def silent(rows: Tensor, noise: torch.Generator, done: float) -> Tensor:
        return 0.0 * network(torch.ones(len(rows), 300)).sum(dim=1)

    sigma, clip, batch = 1.7, 0.4, 8.0
    noise = moved(step_of(mode, network, clip=clip, noise=sigma, batch=batch), network, silent, torch.arange(5))
    assert float(noise.std()) == pytest.approx(sigma * clip / batch, rel=0.05)
    assert abs(float(noise.mean())) < 4 * sigma * clip / batch / len(noise) ** 0.5


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_is_noise_alone_and_parts_of_a_batch_get_it_once(mode: str) -> None:
    network, loss = lab.mixed_problem()
    step = step_of(mode, network, clip=1.0, noise=2.0, batch=1.0)
    noise = torch.stack([moved(step, network, loss, torch.arange(0)) for _ in range(60)])
    assert float(noise.std()) == pytest.approx(2.0, rel=0.1)
    whole_network, loss = lab.mixed_problem()
    whole = moved(step_of(mode, whole_network, clip=1.0, noise=2.0), whole_network, loss, torch.arange(30))
    network, loss = lab.mixed_problem()
    step, start = step_of(mode, network, clip=1.0, noise=2.0), torch.nn.utils.parameters_to_vector(network.parameters())
    for i, part in enumerate(torch.arange(30).split(11)):
        step.add(loss, part, torch.Generator(), 0.0, last=i == 2)
    parts = start - torch.nn.utils.parameters_to_vector(network.parameters())
    assert torch.allclose(parts, whole, atol=1e-4)


# ---- networks that would break the promise


class _Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.scale = nn.Parameter(torch.zeros(1))


def test_networks_that_void_the_promise_are_refused() -> None:
    data = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    bare, twice, tied = _Bare(), nn.Linear(3, 3), nn.Linear(3, 3)
    batch_norm = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    mixing = nn.Linear(3, 1)
    losses = {
        "a parameter past the hooks": (bare, lambda r: (bare.layer(data[r]) * bare.scale.exp()).squeeze(1) ** 2),
        "a weight used beside its layer": (tied, lambda r: (tied(data[r]) @ tied.weight).sum(1) ** 2),
        "statistics of the batch": (batch_norm, lambda r: batch_norm(data[r]).square().sum(1)),
        "a mean over the batch": (mixing, lambda r: (mixing(data[r]) - mixing(data[r]).mean()).squeeze(1) ** 2),
        "one number a batch": (mixing, lambda r: mixing(data[r]).square().mean()),
    }
    for network, loss in losses.values():
        network.train()
        with pytest.raises(UnsupportedError, match=r"cannot be trained by DP-SGD|not one number a row"):
            prepare(network, lambda r, noise, done, f=loss: f(r), torch.arange(40), ("ghost", "hooks"))
    # A layer that is called twice is beyond ghost clipping, and right with hooks.
    chosen = prepare(
        twice, lambda r, noise, done: twice(twice(data[r]).tanh()).square().sum(1), torch.arange(40), ("ghost", "hooks")
    )
    assert chosen == "hooks"


def test_what_the_loss_does_not_use_is_left_as_it_was() -> None:
    network, loss = lab.mixed_problem()
    network.unused = nn.Linear(2, 2)
    network.empty = lab.FreeParameter(torch.empty(0))
    before = network.unused.weight.detach().clone()
    settings = PrivateSettings(steps=3, expected_batch=60)
    train_private(network, loss, rows=600, settings=settings, run=begin(), init_seed=0, device=lab.CPU)
    assert torch.equal(network.unused.weight, before)
    assert not any(hasattr(p, "grad_sample") or hasattr(p, "_norm_sample") for p in network.parameters())


# ---- batches


def test_batches_are_poisson_samples_of_the_subjects() -> None:
    rate = 0.1
    sampler = dpsgd._Poisson(2_000, None, begin())
    batches = [sampler.batch(rate) for _ in range(400)]
    sizes = np.array([len(b) for b in batches])
    assert sizes.mean() == pytest.approx(200, rel=0.02)
    assert sizes.std() == pytest.approx(np.sqrt(2_000 * rate * (1 - rate)), rel=0.1)
    together = torch.cat(batches)
    assert all(len(torch.unique(b)) == len(b) for b in batches)
    assert int(torch.bincount(together, minlength=2_000).min()) > 10
    few = dpsgd._Poisson(600, None, begin())
    assert min(len(few.batch(1e-4)) for _ in range(50)) == 0
    assert len(few.batch(1.0)) == 600


def test_all_rows_of_a_subject_come_together() -> None:
    subject = np.repeat(np.arange(700), 3)[np.random.default_rng(0).permutation(2_100)]
    sampler = dpsgd._Poisson(2_100, subject, begin(rows_per_subject=3))
    batch = sampler.batch(0.2)
    _, counts = np.unique(subject[batch.numpy()], return_counts=True)
    assert set(counts) == {3}
    with pytest.raises(ConfigError, match="more rows than"):
        dpsgd._Poisson(2_100, subject, begin(rows_per_subject=2))
    with pytest.raises(ConfigError, match="whose each row is"):
        dpsgd._Poisson(2_100, None, begin(rows_per_subject=3))


def test_several_rows_of_a_subject_take_as_many_times_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Noise] = []

    class Watched(GhostStep):
        def __init__(self, network: nn.Module, optimiser: torch.optim.Optimizer, noise: Noise) -> None:
            seen.append(noise)
            super().__init__(network, optimiser, noise)

    monkeypatch.setitem(dpsgd.STEPS, "ghost", Watched)
    network, loss = lab.mixed_problem(1_800)
    run = begin(rows_per_subject=3)
    subject = np.repeat(np.arange(600), 3)
    settings = PrivateSettings(steps=2, expected_batch=60, clip=0.5)
    train_private(network, loss, rows=1_800, settings=settings, run=run, init_seed=0, device=lab.CPU, subject=subject)
    entry = run.ledger[0]
    used = next(n for n in seen if n.multiplier)
    assert used.multiplier == pytest.approx(3 * entry.details["noise_multiplier"])
    assert (used.clip, entry.sensitivity) == (0.5, 1.5)


# ---- the whole training


def trained(run: PrivateRun, **settings: Any) -> Tensor:
    network, loss = lab.mixed_problem()
    chosen = PrivateSettings(**{"steps": 5, "expected_batch": 100, **settings})
    train_private(network, loss, rows=600, settings=chosen, run=run, init_seed=0, device=lab.CPU)
    assert not network.training
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_ledger_holds_what_a_fresh_accountant_says() -> None:
    run = lab.begin(epsilon=2.0, delta=1e-6)
    trained(run)
    report = run.report()
    (entry,) = report["mechanisms"]
    fresh = dpsgd_epsilon(noise_multiplier=entry["noise_multiplier"], sample_rate=100 / 600, steps=5, delta=1e-6)
    assert report["epsilon"] == pytest.approx(fresh.epsilon) == entry["epsilon"]
    assert 1.95 < report["epsilon"] <= 2.0
    assert report["epsilon_by"] == {"prv": fresh.prv, "rdp": fresh.rdp}
    assert report["sampling"] == "Poisson over subjects"
    assert report["accountant"] == "prv"


def test_the_same_key_gives_the_same_weights_and_another_key_others() -> None:
    first = trained(begin())
    torch.manual_seed(99)  # the caller's randomness decides nothing
    assert torch.equal(trained(begin()), first)
    assert not torch.equal(trained(begin(key=b"another")), first)
    assert not torch.equal(trained(begin(key=None)), trained(begin(key=None)))


def test_no_figure_of_the_training_is_given_away() -> None:
    network, loss = lab.mixed_problem()
    told: list[tuple[int, int, dict[str, float]]] = []
    log = train_private(
        network, loss, rows=600, settings=PrivateSettings(steps=7, expected_batch=64), run=begin(), init_seed=0,
        device=lab.CPU, progress=lambda *step: told.append(step),  # type: ignore[arg-type,misc]
    )  # fmt: skip
    assert log.losses == []
    assert {len(step[2]) for step in told} == {0}
    assert told[-1][:2] == (7, 7)


def test_norms_are_found_in_full_precision() -> None:
    """TF32, which other trainings use, would let a clipped gradient be a thousandth longer than the clip."""
    network, loss = lab.mixed_problem()
    seen: set[str] = set()

    def watched(rows: Tensor, noise: torch.Generator, done: float) -> Tensor:
        seen.add(torch.get_float32_matmul_precision())
        return loss(rows, noise, done)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        train_private(
            network,
            watched,
            rows=600,
            settings=PrivateSettings(steps=2, expected_batch=60),
            run=begin(epsilon=3.0),
            init_seed=0,
            device=torch.device("cpu"),
        )
        assert seen == {"highest"}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_fewer_subjects_than_a_batch_and_than_is_sensible() -> None:
    trained(begin(), expected_batch=5_000)  # every step takes everybody
    network, loss = lab.mixed_problem(499)
    with pytest.raises(UnsupportedError, match="at least 500 subjects; there are 499"):
        train_private(
            network, loss, rows=499, settings=PrivateSettings(steps=1), run=begin(499), init_seed=0, device=lab.CPU
        )


def test_a_noise_multiplier_is_kept_and_what_it_costs_was_announced() -> None:
    settings = PrivateSettings(steps=5, expected_batch=100)
    asked = TrainingPrivacy(noise_multiplier=1.3, delta=1e-6)
    epsilon = planned_epsilon(settings, asked, 600)
    run = lab.PrivateRun.begin(asked, lab.plain_cohort(), seed=0, key=lab.KEY, epsilon=epsilon)
    learning = run.part(0.9, "learning")
    trained(learning)
    run.part(0.1, "encoding").laplace(np.zeros(2), l1=1.0, epsilon=0.1 * epsilon, what="counts")
    assert run.ledger[0].details["noise_multiplier"] == 1.3
    assert run.report()["epsilon"] == pytest.approx(epsilon)
    with pytest.raises(ConfigError, match="more than the"):
        trained(lab.PrivateRun.begin(asked, lab.plain_cohort(), seed=0, epsilon=0.5 * epsilon))


def test_it_learns_and_the_mean_of_the_weights_is_given() -> None:
    network, loss = lab.mixed_problem(3_000)
    rows, random = torch.arange(3_000), torch.Generator()
    start = float(loss(rows, random, 0.0).detach().mean())
    weights = list(itertools.islice(network.parameters(), 2))
    before = [w.detach().clone() for w in weights]
    settings = PrivateSettings(steps=120, expected_batch=300, learning_rate=2e-2, clip=1.0)
    run = begin(3_000, epsilon=8.0)
    train_private(
        network, loss, rows=3_000, settings=settings, run=run, init_seed=0, device=lab.CPU,
        fast_parameters=[network.scale.value],
    )  # fmt: skip
    assert float(loss(rows, random, 0.0).detach().mean()) < 0.7 * start
    assert not any(torch.equal(a, b) for a, b in zip(weights, before, strict=True))


def test_hook_steps_are_for_networks_ghost_clipping_cannot_take() -> None:
    network, loss = lab.mixed_problem()
    assert prepare(network, loss, torch.arange(9), ("ghost", "hooks")) == "ghost"
    assert prepare(network, loss, torch.arange(9), ("hooks",)) == "hooks"
    assert HookStep.mode == "hooks"
