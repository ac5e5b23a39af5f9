"""One small linear layer a column, all computed as a single batched product, with gradients of single rows.

How Opacus gets the gradient of one row, and its norm without the gradient, is said here too, since only this layer knows;
what is done with them is in `pipeline/privacy/clipping.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """`groups` linear maps side by side: output g of a row is weight[g] times input g, plus bias[g].

    Args:
        groups: number of maps.
        inputs: inputs of each.
        outputs: outputs of each.
        zero: start with zeros instead of random weights: the last layer of a network that starts as its bias.
        mask: (inputs, outputs) zeros and ones that the weights of every map are multiplied by; None for none.
        bias: does each map have a bias?
    """

    def __init__(
        self,
        groups: int,
        inputs: int,
        outputs: int,
        *,
        zero: bool = False,
        mask: Tensor | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        scale = 0.0 if zero else 1 / math.sqrt(max(1, inputs))
        self.weight = nn.Parameter((2 * torch.rand(groups, inputs, outputs) - 1) * scale)
        self.bias = nn.Parameter(torch.zeros(groups, outputs)) if bias else None
        # No buffer: Opacus takes a layer with one for a layer with statistics of the batch.
        self._mask = mask

    @property
    def mask(self) -> Tensor | None:
        """The mask, where the weights are."""
        return None if self._mask is None else self._mask.to(self.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, groups, outputs) for (batch, groups, inputs)."""
        mask = self.mask
        weight = self.weight if mask is None else self.weight * mask
        if self.bias is None:
            return torch.bmm(x.transpose(0, 1), weight).transpose(0, 1)
        return torch.baddbmm(self.bias.unsqueeze(1), x.transpose(0, 1), weight).transpose(0, 1)

    def one(self, x: Tensor, group: int) -> Tensor:
        """(batch, outputs) of one map for (batch, inputs)."""
        mask = self.mask
        weight = self.weight[group] if mask is None else self.weight[group] * mask
        return x @ weight if self.bias is None else torch.addmm(self.bias[group], x, weight)


def teach_opacus() -> None:
    """Tell Opacus the gradients of single rows of a `GroupedLinear`, and their norms."""
    from pipeline.privacy.accounting import quiet_opacus

    with quiet_opacus():
        from opacus.grad_sample import register_grad_sampler, register_norm_sampler

        register_grad_sampler(GroupedLinear)(_gradients)
        register_norm_sampler(GroupedLinear)(_norms)


def _gradients(layer: GroupedLinear, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Every row's gradient: an outer product a group."""
    found: dict[nn.Parameter, Tensor] = {}
    if layer.weight.requires_grad:
        outer = torch.einsum("bgi,bgo->bgio", activations[0], backprops)
        mask = layer.mask
        found[layer.weight] = outer if mask is None else outer * mask
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = backprops
    return found


def _norms(layer: GroupedLinear, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """(batch,) norms of the same: that of an outer product is the product of the norms."""
    found: dict[nn.Parameter, Tensor] = {}
    x, g = activations[0].square(), backprops.square()
    if layer.weight.requires_grad:
        mask = layer.mask
        each = x.sum(-1) * g.sum(-1) if mask is None else ((x @ mask) * g).sum(-1)
        found[layer.weight] = each.sum(dim=1).sqrt()
    if layer.bias is not None and layer.bias.requires_grad:
        found[layer.bias] = g.flatten(1).sum(dim=1).sqrt()
    return found
