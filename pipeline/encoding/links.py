"""Links between the columns of a row: each column's logits also depend on the columns before it.

A decoder that only sees the latents draws columns independently given them, so whatever the latents do not carry is
lost. With links the likelihood is log p(x | z) = sum_j log p(x_j | z, x_1 ... x_(j-1)), each conditional a softmax of
the decoder's logits plus a linear map of what was drawn before (the autoregressive decoder of Chen et al. 2017,
"Variational lossy autoencoder", with the masked weights of Germain et al. 2015, "MADE"; one layer). In training that
is one product of matrices; in drawing one small product a column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

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

    def column(self, context: Tensor, column: int) -> Tensor:
        """(batch, states) what is added to one column's logits; inputs of columns not drawn yet do not matter."""
        at = self.outputs[column]
        return functional.linear(context, self.weight[at] * self.mask[at])
