"""Links between columns: the fused loss against links and softmaxes one after the other, recorded by autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.encoding.heads import CategoricalHead
from pipeline.encoding.links import ColumnLinks

SIZES = [3, 1, 12, 2]


def linked() -> tuple[ColumnLinks, CategoricalHead, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Links with weights, their head, and outputs, inputs and states of 9 rows."""
    head, noise = CategoricalHead(SIZES), torch.Generator().manual_seed(0)
    places = [slice(a, a + k) for a, k in zip(head.starts, SIZES, strict=True)]
    links = ColumnLinks([range(p.start, p.stop) for p in places], places, [3, 0, 2, 1], head.width, head.width)
    with torch.no_grad():
        links.weight.copy_(torch.randn(links.weight.shape, generator=noise))
    outputs = 3 * torch.randn(9, head.width, generator=noise)
    context = torch.randn(9, head.width, generator=noise)
    states = torch.stack([torch.randint(k, (9,), generator=noise) for k in SIZES], dim=1)
    return links, head, outputs, context, states


def test_fused_loss_and_its_gradients_are_those_of_autograd() -> None:
    links, head, outputs, context, states = linked()
    given = torch.linspace(-1, 2, len(outputs))
    found = []
    for fused in (True, False):
        at, links.weight.grad = outputs.clone().requires_grad_(), None
        if fused:
            loss = links.loss(at, context, head, states)
        else:
            parts = (at + links(context)).split(SIZES, dim=1)
            each = [functional.cross_entropy(p, states[:, i], reduction="none") for i, p in enumerate(parts)]
            loss = torch.stack(each).sum(dim=0)
        (loss * given).sum().backward()
        assert at.grad is not None
        assert links.weight.grad is not None
        found.append((loss.detach(), at.grad, links.weight.grad.clone()))
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)
    assert found[0][2].abs().sum() > 0


def test_inputs_are_left_as_they_are() -> None:
    links, head, outputs, context, states = linked()
    before = outputs.clone(), context.clone()
    links.loss(outputs, context, head, states)
    torch.testing.assert_close((outputs, context), before, rtol=0, atol=0)


@pytest.mark.parametrize("column", range(len(SIZES)))
def test_a_column_hears_only_of_those_before_it(column: int) -> None:
    links, _, _, context, _ = linked()
    other = context.clone()
    for later in links.order[links.order.index(column) :]:
        other[:, links.outputs[later]] += 1.0
    torch.testing.assert_close(links.column(context, column), links.column(other, column))
    at = links.outputs[column]
    torch.testing.assert_close(links(context)[:, at], links.column(context, column))
