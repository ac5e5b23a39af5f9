"""The discriminator whose judgement of a row is the policy's reward, its loss, and the replay of earlier rows.

A perceptron with the R1 penalty of Mescheder et al. 2018 (gamma / 2 times the squared gradient on real rows). The
gradient of such a network is a product of its weights, written down here, so that no second backward pass is needed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.generators.reinforcement.space import Action

if TYPE_CHECKING:
    from collections.abc import Sequence

RewardKind = Literal["logit", "sigmoid", "softplus"]
SLOPE = 0.2
LARGEST_LOGIT = 5.0
"""Rewards are clipped here (spec 7.3): a density ratio of 148."""


class Discriminator(nn.Module):
    """Logit that a row is real; layers with slopes 1 and 0.2 (leaky ReLU), as published.

    Args:
        inputs: width of a view and of the condition vector.
        hidden: widths of the hidden layers.
    """

    def __init__(self, inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([inputs, *hidden, 1]))

    def forward(self, rows: Tensor) -> Tensor:
        """(n,) logits of (n, inputs) rows."""
        for layer in list(self.layers)[:-1]:
            rows = functional.leaky_relu(layer(rows), SLOPE)
        return self.layers[-1](rows)[:, 0]

    def with_gradient(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) logits, and (n, inputs) their gradients to the rows, differentiable in the weights."""
        slopes: list[Tensor] = []
        for layer in list(self.layers)[:-1]:
            before = layer(rows)
            slopes.append(torch.where(before > 0, 1.0, SLOPE))
            rows = before * slopes[-1]
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        gradient: Tensor = last.weight.expand(len(rows), -1)
        for layer, slope in zip(reversed(list(self.layers)[:-1]), reversed(slopes), strict=True):
            assert isinstance(layer, nn.Linear)
            gradient = (gradient * slope) @ layer.weight
        logit: Tensor = last(rows)[:, 0]
        return logit, gradient


def judged(kind: RewardKind, logit: Tensor) -> Tensor:
    """(n,) rewards of rows with the given logits.

    "logit" is the logarithm of the density ratio where the discriminator is at its best, so that maximising it minimises
    KL(policy || data); "sigmoid" is the published reward.
    """
    if kind == "logit":
        return logit.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
    return torch.sigmoid(logit) if kind == "sigmoid" else functional.softplus(logit)


def discriminator_loss(
    network: Discriminator, real: Tensor, fake: Tensor, *, gamma: float, real_target: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a step, and the logits of real and fake rows.

    Args:
        network: the discriminator.
        real: (n, inputs) real rows.
        fake: (m, inputs) drawn rows.
        gamma: weight of the R1 penalty; 0 for none.
        real_target: what a real row's probability is held against (one-sided label smoothing below 1).
    """
    if gamma:
        on_real, gradient = network.with_gradient(real)
        penalty = gamma / 2 * (gradient**2).sum(dim=1).mean()
    else:
        on_real, penalty = network(real), real.new_zeros(())
    on_fake = network(fake)
    wanted = torch.full_like(on_real, real_target)
    loss = functional.binary_cross_entropy_with_logits(on_real, wanted)
    loss = loss + functional.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
    return loss + penalty, on_real.detach(), on_fake.detach()


class Replay:
    """Some of the rows drawn earlier, which a discriminator is shown again so that it does not forget them.

    Args:
        most: rows that are kept.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows: Action | None = None
        self.vectors: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.rows is None else len(self.rows)

    def add(self, rows: Action, vectors: Tensor, generator: torch.Generator) -> None:
        """Keep a sixteenth of what fits, in place of rows chosen at random once it is full.

        Args:
            rows: drawn rows.
            vectors: (n, conditions) what they were told.
            generator: chooses, on the CPU.
        """
        some = torch.randperm(len(rows), generator=generator)[: max(1, self.most // 16)].to(vectors.device)
        if self.rows is None or self.vectors is None:
            self.rows, self.vectors = rows.take(some), vectors[some]
            return
        keep = torch.randperm(len(self.rows), generator=generator)[: self.most - len(some)].to(vectors.device)
        self.rows = Action.concatenate([self.rows.take(keep), rows.take(some)])
        self.vectors = torch.cat([self.vectors[keep], vectors[some]])

    def some(self, n: int, generator: torch.Generator) -> tuple[Action, Tensor]:
        """`n` of the rows kept, with repetition, and what they were told."""
        assert self.rows is not None
        assert self.vectors is not None
        at = torch.randint(len(self.rows), (n,), generator=generator).to(self.vectors.device)
        return self.rows.take(at), self.vectors[at]
