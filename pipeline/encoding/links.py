"""Links between the columns of a row: each column's logits also depend on the columns before it.

A decoder that only sees the latents draws columns independently given them, so whatever the latents do not carry is
lost. With links the likelihood is log p(x | z) = sum_j log p(x_j | z, x_1 ... x_(j-1)), each conditional a softmax of
the decoder's logits plus a linear map of what was drawn before (the autoregressive decoder of Chen et al. 2017,
"Variational lossy autoencoder", with the masked weights of Germain et al. 2015, "MADE"; one layer). In training that
is one product of matrices; in drawing one small product a column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.encoding.heads import CategoricalHead, column_gradients, column_losses

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_LINKS = 4_000_000
"""Weights beyond which a table is too wide for links: 300 columns of 32 pieces have 40 million."""


class ColumnLinks(nn.Module):
    """The weights from earlier columns' inputs to later columns' logits; zero at first.

    Args:
        inputs: which of the inputs' positions belong to each column, in the order of the columns' logits.
        outputs: which of the logits' positions belong to each column.
        order: the columns in the order in which they are drawn.
        width: number of inputs.
        total: number of outputs; those that belong to no column (codes of blocks) depend on all columns.
    """

    def __init__(
        self, inputs: Sequence[Sequence[int]], outputs: Sequence[slice], order: Sequence[int], width: int, total: int
    ) -> None:
        super().__init__()
        self.order = list(order)
        self.outputs = list(outputs)
        mask = torch.ones(total, width)
        for place, column in enumerate(self.order):
            for later in self.order[place:]:
                mask[self.outputs[column], list(inputs[later])] = 0
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.weight = nn.Parameter(torch.zeros(total, width))

    def forward(self, context: Tensor) -> Tensor:
        """(batch, total) what is added to the logits, for (batch, width) inputs of whole rows."""
        return functional.linear(context, self.weight * self.mask)

    def loss(self, outputs: Tensor, context: Tensor, columns: CategoricalHead, states: Tensor) -> Tensor:
        """(batch,) `columns.loss` of the linked outputs, where there are no others: fewer passes over all states."""
        places = states.to(torch.long) + columns.start
        loss: Tensor = _LinkedColumns.apply(outputs.float(), context, self.weight, self.mask, places, columns.member)
        return loss

    def column(self, context: Tensor, column: int) -> Tensor:
        """(batch, states) what is added to one column's logits; inputs of columns not drawn yet do not matter."""
        at = self.outputs[column]
        return functional.linear(context, self.weight[at] * self.mask[at])


class _LinkedColumns(torch.autograd.Function):
    """Links and the softmaxes behind them in one: the linked logits are overwritten, their gradient is written down."""

    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, context: Tensor, weight: Tensor, mask: Tensor, places: Tensor, member: Tensor
    ) -> Tensor:
        logits = torch.addmm(outputs, context, (weight * mask).T)
        loss, share, total = column_losses(logits, places, member, into=logits)
        ctx.save_for_backward(share, total, places, member, context, mask)
        return loss

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        share, total, places, member, context, mask = ctx.saved_tensors
        gradient = column_gradients(given, share, total, places, member)
        return gradient, None, (gradient.T @ context).mul_(mask), None, None, None
