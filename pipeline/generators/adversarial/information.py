"""Mutual information between what a generator draws: from the table of two discrete columns, or by a network that bounds it.

The table is exact for the batch, differentiable, and too high by about (k - 1)(m - 1) / 2n nats. The bound is MINE's
(Belghazi et al. 2018, "Mutual information neural estimation", after Donsker and Varadhan), which Bt-GAN publishes.
"""

from __future__ import annotations

from itertools import pairwise
from math import log
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

TINY = 1e-12


def table_information(a: Tensor, b: Tensor) -> Tensor:
    """Mutual information in nats of two discrete columns, as (n, k) and (n, m) one-hots."""
    joint = a.T @ b / len(a)
    product = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)
    # 0 log 0 is 0, with a gradient of 0.
    at = joint > TINY
    ratio = torch.where(at, joint, 1.0) / torch.where(at, product, 1.0)
    return (joint * ratio.log()).sum()


def bound(together: Tensor, apart: Tensor) -> Tensor:
    """Donsker-Varadhan: mean of T over pairs minus log of the mean of exp T over pairs that were torn apart; (n,) each."""
    return together.mean() - (torch.logsumexp(apart, dim=0) - log(len(apart)))


class Statistic(nn.Module):
    """T of MINE: (n,) numbers for pairs of (n, a) and (n, b).

    Args:
        width: a + b.
        hidden: widths of the hidden layers.
    """

    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        sizes = [width, *hidden]
        self.layers = nn.ModuleList(nn.Linear(i, j) for i, j in pairwise(sizes))
        self.last = nn.Linear(sizes[-1], 1)
        for parameter in self.parameters():
            parameter.register_hook(_short)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(n,) numbers."""
        x = torch.cat([a, b], dim=1)
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
        out: Tensor = self.last(x)[:, 0]
        return out


class Estimator:
    """Learns T, with a running mean of exp T for the gradient, which a batch's own mean makes biased (MINE, section 3.2).

    Args:
        statistic: T.
        decay: of the running mean.
    """

    def __init__(self, statistic: Statistic, decay: float = 0.99) -> None:
        self.statistic, self.decay = statistic, decay
        self.mean: Tensor | None = None

    def loss(self, a: Tensor, b: Tensor, torn: Tensor) -> Tensor:
        """What T minimises: minus the bound; `torn` (n, b) are the rows of `b` in another order."""
        together, apart = self.statistic(a, b), self.statistic(a, torn)
        raised = apart.exp().mean()
        now = raised.detach()
        self.mean = now if self.mean is None else self.decay * self.mean + (1 - self.decay) * now
        # The value of minus the bound, with the gradient of the running mean.
        gradient = together.mean() - raised / self.mean.clamp_min(TINY)
        return -(gradient + (bound(together, apart) - gradient).detach())

    def information(self, a: Tensor, b: Tensor, torn: Tensor) -> Tensor:
        """The bound, never below 0."""
        return functional.relu(bound(self.statistic(a, b), self.statistic(a, torn)))


def _short(gradient: Tensor) -> Tensor:
    """The gradient of one tensor, at most of length 1."""
    return gradient / gradient.norm().clamp_min(1.0)
