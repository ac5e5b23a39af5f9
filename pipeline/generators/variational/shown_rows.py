"""Rows as a critic judges them, real ones and such as a decoder's likelihoods draw, with a gradient through the draw.

A coordinate a state of every column, a number or score where the likelihood has one, and one a code: is it there or not. What
is drawn is whole (straight-through Gumbel softmax; Jang et al. 2017), so that no critic can tell it by its edges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.encoding.heads import BernoulliHead, CountHead
from pipeline.generators.adversarial.softmaxes import SoftmaxColumns
from pipeline.generators.adversarial.vector import logistic, presence

if TYPE_CHECKING:
    from pipeline.encoding.mixed import MixedTable, TableTensors

SCORE_SCALE = 0.4
"""A normal score is shown as so many units, beside coordinates that are 0 and 1."""


class ShownRows(nn.Module):
    """The layout of what a critic sees of a table.

    Args:
        table: the likelihoods; without links between columns, whose rows cannot be drawn at once.

    Attributes:
        width: coordinates of a row.
    """

    def __init__(self, table: MixedTable) -> None:
        super().__init__()
        self.softmaxes = SoftmaxColumns(table.categorical.sizes)
        codes = [len(at) for at in table.common.values()]
        self.width = self.softmaxes.width + table.gaussian.width + sum(codes)
        # Of each scored number the coordinate of its state "missing"; one past the end where it has none.
        gone = [self.softmaxes.width] * len(table.edges)
        for i, name in enumerate(table.encoder.numbers):
            if name in table.edges and table.encoder.numbers[name].has_missing:
                gone[list(table.edges).index(name)] = self.softmaxes.starts[i] + self.softmaxes.sizes[i] - 1
        self.gone: Tensor
        self.register_buffer("gone", torch.tensor(gone, dtype=torch.long), persistent=False)

    def real(self, table: MixedTable, rows: TableTensors) -> Tensor:
        """(batch, width) of training rows."""
        starts = torch.tensor(self.softmaxes.starts, dtype=torch.long, device=rows.states.device)
        ones = torch.zeros(len(rows), self.softmaxes.width, device=rows.scores.device)
        ones.scatter_(1, rows.states.long() + starts, 1.0)
        scores = [SCORE_SCALE * rows.scores] if table.gaussian.width else []
        return torch.cat([ones, *scores, *((b > 0).to(ones.dtype) for b in rows.blocks)], dim=1)

    def drawn(self, table: MixedTable, outputs: Tensor, noise: torch.Generator, *, tau: float) -> Tensor:
        """(batch, width) of rows drawn from (batch, table.width) outputs of a decoder.

        Args:
            table: the likelihoods.
            outputs: of a decoder.
            noise: draws states, numbers and codes.
            tau: temperature of the gradient of states and codes.
        """
        states, numeric, *codes = outputs.split(table.widths, dim=1)
        ones = self.softmaxes(states, noise, tau=tau, hard=True)
        parts = [ones]
        if table.gaussian.width:
            missing = torch.cat([ones, ones.new_zeros(len(ones), 1)], dim=1)[:, self.gone]
            parts.append(SCORE_SCALE * table.gaussian.draw(numeric, noise) * (1 - missing))
        for head, part in zip(table.block_heads, codes, strict=True):
            logit = part
            if isinstance(head, CountHead):
                absent = head.log_absent(part).clamp_max(-1e-6)
                logit = torch.log(-torch.expm1(absent)) - absent
            else:
                assert isinstance(head, BernoulliHead)
            parts.append(presence(logit + logistic(logit.shape, noise, logit.device), tau, hard=True))
        return torch.cat(parts, dim=1)
