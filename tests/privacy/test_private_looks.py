"""Generators that look at a row at several times and noises: the looks are one gradient, and nothing else looks at rows."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import private_lab as lab
import pytest
import torch
from torch import Tensor, nn

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import UnsupportedError
from pipeline.features.cohort import assemble
from pipeline.features.schema import Column, TableSchema
from pipeline.generators.denoising.flow import Flow
from pipeline.generators.denoising.preconditioned import Denoiser
from pipeline.generators.denoising.real_vector import RealVector
from pipeline.generators.ehrdiff import EHRDiff, EHRDiffConfig
from pipeline.generators.mixed_flow import MixedFlow, MixedFlowConfig
from pipeline.generators.registry import generator_class, generator_names
from pipeline.generators.seeds import stream
from pipeline.generators.training import TrainLog
from pipeline.privacy.clipping import STEPS, Noise
from pipeline.privacy.spec import TrainingPrivacy

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.generators.denoising.real_vector import NumberScale

    Losses = Callable[[Tensor, slice], Tensor]
    """Losses of some rows, one a row, averaged over the looks of a slice."""

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")
ROWS, LOOKS = 6, 3
BY_NOISE = [
    n
    for n in generator_names()
    if generator_class(n).supports(lab.PLAIN).dp and generator_class(n)().noise_settings(5_000) is not None  # type: ignore[attr-defined]
]


def flow_problem() -> tuple[nn.Module, Losses]:
    """A flow over a mixed table with weights that say something, and fixed looks at its rows."""
    cohort = lab.ward_cohort(200)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    torch.manual_seed(0)
    flow = Flow(encoder, MixedFlowConfig(private_width=12).shape(private=True))
    torch.nn.init.normal_(flow.network.last.weight, std=0.3)
    data = flow.rows.tensors(encoder.encode(cohort, stream(0)), "cpu")
    random = torch.Generator().manual_seed(1)
    times = 0.9 * torch.rand(200, LOOKS, 1, generator=random)
    noise = torch.randn(200, LOOKS, flow.rows.width, generator=random)
    for scale in flow.rows.free_scales():
        scale.requires_grad_(False)
    return flow, lambda at, looks: flow.mean_loss(data.take(at), times[at, looks], noise[at, looks])


def denoiser_problem() -> tuple[nn.Module, Losses]:
    """The same of EHRDiff's network."""
    cohort = lab.ward_cohort(200)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    vector = RealVector(encoder, numbers="score", counts="log1p")
    torch.manual_seed(0)
    model = Denoiser(vector.width, EHRDiffConfig(private_width=12).shape(private=True))
    torch.nn.init.normal_(model.backbone.last.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    data = vector.rows(encoder.encode(cohort, stream(0)), "cpu")
    random = torch.Generator().manual_seed(1)
    levels = model.schedule.spread_out(200, LOOKS, random, "cpu")
    noise = torch.randn(200, LOOKS, vector.width, generator=random)

    def losses(at: Tensor, looks: slice) -> Tensor:
        return model.errors(vector.take(data, at).unsqueeze(1), levels[at, looks], noise[at, looks]).mean(dim=1)

    return model, losses


PROBLEMS = pytest.mark.parametrize("problem", [flow_problem, denoiser_problem])


def step_of(mode: str, network: nn.Module, clip: float) -> Any:
    trained = [p for p in network.parameters() if p.requires_grad and p.numel()]
    for p in network.parameters():
        p.requires_grad_(p.requires_grad and p.numel() > 0)
    added = Noise(clip, 0.0, 1.0, torch.Generator())
    return STEPS[mode](network, torch.optim.SGD(trained, lr=1.0), added)  # type: ignore[index]


@PROBLEMS
@pytest.mark.parametrize("mode", ["ghost", "hooks"])
def test_the_gradient_of_a_row_is_the_mean_over_its_looks(problem: Any, mode: str) -> None:
    network, losses = problem()
    trained = [p for p in network.parameters() if p.requires_grad and p.numel()]
    each = torch.zeros(ROWS, sum(p.numel() for p in trained))
    for row in range(ROWS):
        for look in range(LOOKS):
            one = losses(torch.tensor([row]), slice(look, look + 1))[0]
            found = torch.autograd.grad(one, trained, allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]
            each[row] += torch.cat([g.flatten() for g in parts]) / LOOKS
    step = step_of(mode, network, clip=1.0)
    _, norms = step.norms(lambda at, *_: losses(at, slice(None)), torch.arange(ROWS), torch.Generator(), 0.0)
    assert torch.allclose(norms, each.norm(dim=1), rtol=1e-4)
    if mode == "hooks":
        said = torch.cat([p.grad_sample.flatten(1) for p in trained], dim=1)
        assert torch.allclose(said, each, atol=1e-4 * float(each.abs().max()))
    step.wrapped.to_standard_module()


@PROBLEMS
def test_a_subject_moves_the_sum_by_no_more_than_the_clip_times_its_rows(problem: Any) -> None:
    """Three rows of one subject, each looked at several times, come or stay away."""
    clip, sums = 0.05, []
    for rows in (torch.arange(5), torch.arange(8)):
        network, losses = problem()
        before = [p.detach().clone() for p in network.parameters()]
        step = step_of("ghost", network, clip)
        step.add(lambda at, *_, losses=losses: losses(at, slice(None)), rows, torch.Generator(), 0.0, last=True)
        sums.append(torch.cat([(b - p.detach()).flatten() for b, p in zip(before, network.parameters(), strict=True)]))
    gap = float((sums[1] - sums[0]).norm())
    assert 0 < gap <= 3 * clip + 1e-5
    assert float(sums[0].norm()) <= 5 * clip + 1e-5


@pytest.mark.parametrize(("name", "part"), [("mixed_flow", "_flow"), ("ehrdiff", "_model")])
def test_several_rows_of_a_subject_are_paid_for(name: str, part: str) -> None:
    cohort = lab.ward_cohort(1_400)
    doubled = replace(cohort, subject=np.array([f"p{i // 2}" for i in range(1_400)]))
    few = {"private_epochs": 1.0, "private_batch_size": 300, "private_draws": 2, "private_width": 8}
    kind = generator_class(name)
    model = kind(kind.Config.build({"preset": "quick", "sampling_steps": 2, **few}))
    asked = TrainingPrivacy(epsilon=4, rows_per_subject=2, accountant="rdp")
    said = model.fit(doubled, seed=0, privacy=asked, noise_key=lab.KEY).privacy
    assert said is not None
    assert said["n"] == 700
    sgd = [m for m in said["mechanisms"] if m["type"] == "dp_sgd"]
    assert [m["sensitivity"] for m in sgd] == [2.0], "a clip of 1 for each of two rows"
    assert sgd[0]["scale"] == pytest.approx(2 * sgd[0]["noise_multiplier"])
    assert {m["part"] for m in said["mechanisms"]} == {"encoding", "learning"}
    assert all(bool(torch.isfinite(p).all()) for p in getattr(model, part).parameters())


@pytest.mark.parametrize("name", BY_NOISE)
def test_nothing_but_the_noisy_steps_looks_at_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without these steps, what is learned of two different tables under one encoder is the same."""
    one, other = lab.ward_cohort(600), lab.ward_cohort(600, seed=7)
    encoder = TableEncoder.fit(one, EncodingSettings())
    kind = generator_class(name)
    private: Any = kind._learn_private  # type: ignore[attr-defined]
    looked = []

    def blind(network: nn.Module, loss: Any, **_: Any) -> TrainLog:
        looked.append(len(loss(torch.arange(4), torch.Generator().manual_seed(0), 0.5)))
        network.eval()
        return TrainLog()

    monkeypatch.setattr(sys.modules[private.__module__], "train_private", blind)
    states = []
    for cohort in (one, other):
        small = {"sampling_steps": 2} if "sampling_steps" in kind.Config.model_fields else {}
        model: Any = kind(kind.Config.build({"preset": "quick", **small}))
        rows = encoder.encode(cohort, stream(0))
        run = SimpleNamespace(subjects=600)
        model._learn_private(encoder, rows, cohort, seed=3, device="cpu", run=run, progress=None)
        states.append(model._state())
    assert looked == [4, 4]
    (tensors, extra), (again, extra_again) = states
    assert extra == extra_again
    assert all(np.array_equal(tensors[k], again[k]) for k in tensors | again)


@pytest.mark.parametrize("name", BY_NOISE)
def test_quick_is_quick_in_private_too(name: str) -> None:
    kind = generator_class(name)
    steps = [
        kind(kind.Config.build({"preset": preset})).noise_settings(5_000).all_steps(5_000)  # type: ignore[attr-defined]
        for preset in ("quick", "default")
    ]
    assert steps[0] <= 60
    assert steps[1] > 5 * steps[0]


@pytest.mark.parametrize("name", ["mixed_flow", "ehrdiff"])
def test_a_table_of_constants(name: str) -> None:
    schema = TableSchema(columns=[Column(name="site", kind="categorical", dtype="string", levels=["here"])])
    cohort = assemble(schema, {"site": np.zeros(600, dtype=int)})
    kind = generator_class(name)
    model = kind(kind.Config.build({"preset": "quick", "sampling_steps": 2}))
    model.fit(cohort, seed=0, privacy=TrainingPrivacy(epsilon=3, accountant="rdp"), noise_key=lab.KEY)
    assert set(model.sample(20, seed=1).table.column("site").to_pylist()) == {"here"}


def test_what_the_published_ehrdiff_would_look_at_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="published decoding"):
        EHRDiff({"preset": "paper"}).fit(lab.plain_cohort(), seed=0, privacy=TrainingPrivacy(epsilon=3))


def test_moments_follow_from_what_the_encoder_knows() -> None:
    cohort = lab.ward_cohort(1_500)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    scales: tuple[NumberScale, ...] = ("score", "minmax")
    for numbers in scales:
        vector = RealVector(encoder, numbers=numbers, counts="log1p")
        found = vector.moments(vector.rows(encoder.encode(cohort, stream(0)), "cpu"))
        for known, true in zip(vector.known_moments(), found, strict=True):
            np.testing.assert_allclose(known[~vector.counted], true[~vector.counted], atol=0.03)
            # Of counts the encoder knows presence alone; the rest is a guess.
            np.testing.assert_allclose(known[vector.counted], true[vector.counted], rtol=0.3)


def test_gaussian_numbers_keep_their_scale_under_privacy() -> None:
    config = {"preset": "quick", "numeric_head": "gaussian", "private_epochs": 1.0, "sampling_steps": 2}
    model = MixedFlow(config)
    model.fit(lab.ward_cohort(700), seed=0, privacy=TrainingPrivacy(epsilon=5, accountant="rdp"), noise_key=lab.KEY)
    scales = model._flow.rows.free_scales()
    assert sum(s.numel() for s in scales) == 2
    assert all(not s.detach().any() for s in scales)
    assert model.sample(50, seed=1).n_rows == 50
