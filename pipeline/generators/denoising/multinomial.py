"""Diffusion of discrete columns: states that are replaced by random ones (Hoogeboom et al. 2021, "Argmax flows and
multinomial diffusion", as Kotelnikov et al. 2023, "TabDDPM", use it), and the cosine schedule that both parts follow.

Probabilities are (states, batch, columns) tensors of one group of `state_groups.py`. Formulas are those of spec 6.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.generators.denoising.state_groups import one_hot

OFFSET = 0.008
MOST_NOISE = 0.999
TINY = 1e-30
LEAST_KEPT = 1e-3


@dataclass(frozen=True)
class CosineSchedule:
    """How much of a row is kept after t steps of noise (Nichol and Dhariwal 2021, eq. 17; betas at most .999).

    Attributes:
        kept: (steps + 1,) float64 alpha-bar, from 1 at t = 0 down to nearly 0.
    """

    kept: Tensor

    @classmethod
    def of(cls, steps: int) -> CosineSchedule:
        """The schedule of so many steps."""
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        curve = torch.cos((t + OFFSET) / (1 + OFFSET) * math.pi / 2) ** 2
        beta = (1 - curve[1:] / curve[:-1]).clamp_max(MOST_NOISE)
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(dim=0)]))

    @property
    def steps(self) -> int:
        """Number of steps of noise."""
        return len(self.kept) - 1

    def at(self, t: Tensor) -> Tensor:
        """(batch,) float32 alpha-bar at (batch,) times."""
        return self.kept.to(t.device)[t].float()

    def strided(self, steps: int) -> list[int]:
        """At most `steps` + 1 times down to 0, evenly spaced, from the last at which anything of a row is left.

        Before it x_0 would be told from x_t by division by nearly nothing.
        """
        first = max(1, int((self.kept >= LEAST_KEPT).sum()) - 1)
        times = torch.linspace(first, 0, min(steps, first) + 1, dtype=torch.float64).round().long()
        return list(dict.fromkeys(times.tolist()))


def blurred(states: Tensor, sizes: Tensor, kept: Tensor, noise: torch.Generator) -> Tensor:
    """q(x_t | x_0): (batch, columns) states, each kept with probability (batch, 1) `kept`, else any state evenly.

    Args:
        states: (batch, columns).
        sizes: (columns,) number of states.
        kept: (batch, 1).
        noise: random numbers.
    """
    device = states.device
    stays = torch.rand(states.shape, generator=noise, device=device) < kept
    other = torch.rand(states.shape, generator=noise, device=device) * sizes
    return torch.where(stays, states, torch.minimum(other.floor(), sizes - 1).long())


def posterior(clean: Tensor, noisy: Tensor, valid: Tensor, step: Tensor, before: Tensor) -> Tensor:
    """(states, batch, columns) q(x_s | x_t, x_0) for s < t, proportional to
    [a x_t + (1 - a) / K] * [b x_0 + (1 - b) / K] with a = alpha-bar_t / alpha-bar_s and b = alpha-bar_s.

    With probabilities in the place of x_0 this is the mixture over x_0 exactly if they are those given everything but
    the column's own x_t: a Bayes factor q(x_t | x_0) would cancel against the normalisation of each q(x_s | x_t, x_0).

    Args:
        clean: (states, batch, columns) one-hot x_0, or how likely each state of it is given the other columns.
        noisy: (batch, columns) states x_t.
        valid: (states, 1, columns) 1 where there is a state.
        step: (batch, 1) a.
        before: (batch, 1) b.
    """
    even = valid / valid.sum(dim=0, keepdim=True)
    product = (step * one_hot(noisy, len(valid)) + (1 - step) * even) * (before * clean + (1 - before) * even)
    return product / product.sum(dim=0, keepdim=True).clamp_min(TINY)


def divergence(true: Tensor, told: Tensor) -> Tensor:
    """(batch,) Kullback-Leibler divergence of (states, batch, columns) distributions, summed over columns."""
    return (torch.xlogy(true, true) - true * told.clamp_min(TINY).log()).sum(dim=(0, 2))
