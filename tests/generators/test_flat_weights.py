"""Flat weights: the same steps as torch's own optimiser and clipping, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.generators.flat_weights import FlatAdamW, FlatWeights


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def loss(model: nn.Module, scale: float) -> torch.Tensor:
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    return scale * ((model(x) - 2) ** 2).mean()


@pytest.mark.parametrize("scale", [1e-3, 100.0])
def test_steps_are_those_of_torch(scale: float) -> None:
    mine, other = network(), network()
    weights = FlatWeights([[*mine[0].parameters()], [*mine[2].parameters()]])
    steps = FlatAdamW(weights, (0.01, 0.05), 0.1)
    groups = [{"params": other[0].parameters(), "lr": 0.01}, {"params": other[2].parameters(), "lr": 0.05}]
    theirs = torch.optim.AdamW(groups, weight_decay=0.1)
    for _ in range(5):
        weights.clear()
        loss(mine, scale).backward()
        norm = weights.clip(0.5)
        steps.step(1.0)
        theirs.zero_grad()
        loss(other, scale).backward()
        wanted = torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        theirs.step()
        torch.testing.assert_close(norm, wanted)
    for p, q in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_half_a_rate_moves_half_as_far() -> None:
    moved = []
    for factor in (1.0, 0.5):
        model = network()
        weights = FlatWeights([list(model.parameters())])
        before = weights.flat[0].detach().clone()
        loss(model, 1.0).backward()
        FlatAdamW(weights, (0.01,), 0.0).step(factor)
        moved.append(weights.flat[0].detach() - before)
    torch.testing.assert_close(moved[1], moved[0] / 2, rtol=1e-3, atol=1e-7)


def test_released_layers_have_tensors_of_their_own() -> None:
    model = network()
    weights = FlatWeights([list(model.parameters())])
    kept = model[0].weight.detach().clone()
    weights.release()
    weights.flat[0].data.zero_()
    torch.testing.assert_close(model[0].weight, kept, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())


def test_a_state_goes_on_where_it_was_saved() -> None:
    ends = []
    for stop in (None, 2):
        model = network()
        weights = FlatWeights([list(model.parameters())])
        steps = FlatAdamW(weights, (0.01,), 0.0)
        for k in range(4):
            if k == stop:
                saved = {name: part.clone() for name, part in steps.state().items()}
                steps = FlatAdamW(weights, (0.01,), 0.0)
                steps.restore(saved)
            weights.clear()
            loss(model, 1.0).backward()
            steps.step(1.0)
        ends.append(weights.flat[0].detach().clone())
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)
