"""Generators and critics of the adversarial family, plain perceptrons of several builds.

A generator ends in a linear layer `head`, so that its outputs' margins can be set by the bias. A critic says of packs of rows
how real they are, and gives the gradient of what it says to the rows, which penalties take: for layers with slopes 1 and
`slope` that is a product of weights, written down here, so that no second backward pass is needed. Losses are in `losses.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

Norm = Literal["batch", "layer", "none"]
Build = Literal["plain", "concat", "residual"]


class GeneratorNet(nn.Module):
    """Noise and what is told to outputs.

    Args:
        inputs: width of noise and condition vector.
        hidden: widths of the hidden layers.
        outputs: width of the outputs.
        build: "concat": each layer's output beside its input (Xu et al. 2019); "residual": added to its input where
            the widths agree (Yan et al. 2022); "plain": neither.
        norm: of each hidden layer, before its ReLU.

    Attributes:
        head: The last, linear layer.
    """

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, *, build: Build = "concat", norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.build = build
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        at = inputs
        for width in hidden:
            self.layers.append(nn.Linear(at, width))
            self.norms.append(_norm(norm, width))
            at = at + width if build == "concat" else width
        self.head = nn.Linear(at, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, outputs) for (batch, inputs)."""
        x = inputs
        for layer, norm in zip(self.layers, self.norms, strict=True):
            found = functional.relu(norm(layer(x)))
            if self.build == "concat":
                x = torch.cat([found, x], dim=1)
            else:
                x = x + found if self.build == "residual" and x.shape == found.shape else found
        out: Tensor = self.head(x)
        return out

    def start(self, bias: Tensor, scale: float = 1.0) -> None:
        """Begin with the given bias of the outputs, and the head's weights scaled."""
        with torch.no_grad():
            self.head.bias.copy_(bias)
            self.head.weight.mul_(scale)


class Critic(nn.Module):
    """Says how real packs of rows are; the base of all critics.

    Args:
        width: coordinates of a row with what is told of it.
        pac: rows in a pack (Lin et al. 2018, "PacGAN").
    """

    def __init__(self, width: int, pac: int = 1) -> None:
        super().__init__()
        self.width, self.pac = width, pac

    def packs(self, rows: Tensor) -> Tensor:
        """(n / pac, pac * width) packs of (n, width) rows."""
        return rows.reshape(-1, self.pac * self.width)

    def score(self, packs: Tensor) -> Tensor:
        """(m,) of (m, pac * width) packs: higher is more real; (n, k) of (n, k, width) single rows."""
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        """(n / pac,) of (n, width) rows."""
        return self.score(self.packs(rows))

    def apiece(self, rows: Tensor) -> Tensor:
        """(n, k) scores of (n, k, width) rows, each judged by itself; for critics without packs."""
        return self.score(rows)

    def with_gradient(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(m,) scores of the rows' packs, and (m, pac * width) their gradients, differentiable in the weights."""
        packs = self.packs(rows).detach().requires_grad_(True)
        score = self.score(packs)
        (gradient,) = torch.autograd.grad(score.sum(), packs, create_graph=True)
        return score, gradient

    def apart(self, real: Tensor, fake: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of real and of drawn rows, and the gradients at packs on the way from one to the other."""
        packs = self.packs(torch.cat([real, fake]))
        on_real, on_fake = self.score(packs).chunk(2)
        mixed = _mixed(packs, generator)
        return on_real, on_fake, self.with_gradient(mixed.reshape(-1, self.width))[1]


class LeakyCritic(Critic):
    """Leaky ReLUs and dropout, no normalisation.

    Args:
        width: see `Critic`.
        hidden: widths of the hidden layers.
        pac: see `Critic`.
        dropout: share of the hidden units that are dropped in training.
        slope: below 0; 0 is a plain ReLU.
    """

    def __init__(
        self, width: int, hidden: Sequence[int], *, pac: int = 1, dropout: float = 0.0, slope: float = 0.2
    ) -> None:
        super().__init__(width, pac)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([pac * width, *hidden]))
        self.last = nn.Linear([pac * width, *hidden][-1], 1)
        self.dropout, self.slope = dropout, slope

    def score(self, packs: Tensor) -> Tensor:
        """See `Critic.score`."""
        for layer in self.layers:
            packs = functional.dropout(
                functional.leaky_relu(layer(packs), self.slope), self.dropout, training=self.training
            )
        out: Tensor = self.last(packs)[..., 0]
        return out

    def with_gradient(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See `Critic.with_gradient`; one forward pass and one backwards, both recorded."""
        packs = self.packs(rows)
        return self._from_first(self.layers[0](packs)) if len(self.layers) else super().with_gradient(rows)

    def apart(self, real: Tensor, fake: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Critic.apart`; the first layer is linear, so that a mix of rows is a mix of what it says of them."""
        if not self.layers:
            return super().apart(real, fake, generator)
        first = self.layers[0](self.packs(torch.cat([real, fake])))
        hidden = first
        for i in range(len(self.layers)):
            hidden = hidden if i == 0 else self.layers[i](hidden)
            hidden = functional.dropout(functional.leaky_relu(hidden, self.slope), self.dropout, training=self.training)
        on_real, on_fake = self.last(hidden)[:, 0].chunk(2)
        # Where a unit bends does not move with its weights: no gradient goes through the mix itself.
        return on_real, on_fake, self._from_first(_mixed(first.detach(), generator))[1]

    def _from_first(self, before: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and gradients from (m, first width) pre-activations of the first layer."""
        slopes: list[Tensor] = []
        for i in range(len(self.layers)):
            before = before if i == 0 else self.layers[i](before)
            slope = torch.where(before > 0, 1.0, self.slope)
            if self.training and self.dropout:
                slope = functional.dropout(slope, self.dropout)
            slopes.append(slope.detach())
            before = before * slopes[-1]
        gradient: Tensor = self.last.weight.expand(len(before), -1)
        for layer, slope in zip(reversed(list(self.layers)), reversed(slopes), strict=True):
            assert isinstance(layer, nn.Linear)
            gradient = (gradient * slope) @ layer.weight
        score: Tensor = self.last(before)[:, 0]
        return score, gradient


class ResidualCritic(Critic):
    """ReLU and LayerNorm layers, each added to its input where the widths agree (Yan et al. 2022).

    Args:
        width: see `Critic`.
        hidden: widths of the hidden layers.
        pac: see `Critic`.
    """

    def __init__(self, width: int, hidden: Sequence[int], *, pac: int = 1) -> None:
        super().__init__(width, pac)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([pac * width, *hidden]))
        self.norms = nn.ModuleList(nn.LayerNorm(b) for b in hidden)
        self.last = nn.Linear([pac * width, *hidden][-1], 1)

    def score(self, packs: Tensor) -> Tensor:
        """See `Critic.score`."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            found = norm(functional.relu(layer(packs)))
            packs = packs + found if packs.shape == found.shape else found
        out: Tensor = self.last(packs)[..., 0]
        return out


def refreshed(network: GeneratorNet, batches: Sequence[Tensor]) -> None:
    """Take the statistics of normalised layers anew from the given inputs: averaged weights have others than they were
    learned with."""
    norms = [m for m in network.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    if not norms:
        return
    was = network.training
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    network.train(was)
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum


def _mixed(both: Tensor, generator: torch.Generator) -> Tensor:
    """Points between the first and the second half of some rows, a place of its own for each."""
    real, fake = both.chunk(2)
    share = torch.rand(len(real), 1, generator=generator, device=real.device)
    return share * real + (1 - share) * fake


def _norm(kind: Norm, width: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm1d(width)
    return nn.LayerNorm(width) if kind == "layer" else nn.Identity()
