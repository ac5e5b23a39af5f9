"""One time for two kinds of noise: Gaussian on numbers, masks on states; and rows out of both (Shi et al. 2025, "TabDiff").

Numbers follow the noise levels of Karras et al. 2022 with rho 7, states stay visible with a probability that falls along
a line (masked diffusion: Sahoo et al. 2024; Shi et al. 2024). Networks are with their generators; spec 6.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.generators.denoising.state_groups import drawn_states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.generators.denoising.known_states import KnownStates
    from pipeline.generators.denoising.state_groups import StateGroups

    Revealer = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Sequence[Tensor]]]
    """(rows, numbers) noisy scores, (rows, columns) states, which of them are hidden, and the time, to E[x_0 | x_t] of
    the scores and, a group, (states, rows, columns) probabilities."""

RHO = 7.0
FIRST, LAST = 1e-5, 1e-3
"""Shares that are hidden at time 0, and visible (about) at time 1."""
EARLY = 0.58
"""Time at which numbers have a noise of 5 standard deviations."""
MOST_CHURN = 2**0.5 - 1


@dataclass(frozen=True)
class JointNoise:
    """Noise of numbers and states at times from 0 to 1.

    Attributes:
        smallest: noise level of numbers at time 0.
        largest: at time 1.
    """

    smallest: float = 0.002
    largest: float = 80.0

    def level(self, time: Tensor) -> Tensor:
        """Standard deviation of the noise on numbers (Karras et al. 2022, eq. 5)."""
        low, high = self.smallest ** (1 / RHO), self.largest ** (1 / RHO)
        return (low + time * (high - low)) ** RHO

    def time_of(self, level: Tensor) -> Tensor:
        """The time at which numbers have a noise level."""
        low, high = self.smallest ** (1 / RHO), self.largest ** (1 / RHO)
        return (level ** (1 / RHO) - low) / (high - low)

    def hidden(self, time: Tensor, early: Tensor) -> Tensor:
        """(..., columns) probability that a state is masked at (..., 1) times.

        Args:
            time: from 0 to 1.
            early: (columns,) True for states that are all visible before numbers are: what a number is (missing, a
                spike) is decided while its value is still lost in noise, by the same line squeezed into [EARLY, 1].
        """
        late = (1 - LAST - FIRST) * time + FIRST
        return torch.where(early, (late - EARLY) / (1 - EARLY), late).clamp_min(0)

    def rate(self, time: Tensor, early: Tensor) -> Tensor:
        """(..., columns) -alpha' / (1 - alpha), the weight of a masked column's cross-entropy; 0 where none is masked."""
        hidden = self.hidden(time, early)
        return torch.where(hidden > 0, torch.where(early, 1 / (1 - EARLY), 1.0) / hidden.clamp_min(FIRST), 0.0)


def reveal(
    denoiser: Revealer,
    schedule: JointNoise,
    groups: StateGroups,
    known: KnownStates,
    noise: torch.Generator,
    *,
    numbers: int,
    early: Tensor,
    steps: int,
    churn: float,
) -> tuple[Tensor, Tensor]:
    """(rows, numbers) scores and (rows, columns) states out of noise and masks.

    A step draws each hidden state with probability (alpha_s - alpha_t) / (1 - alpha_t) and moves numbers by Heun's method
    with some noise put back first (Karras et al. 2022, algorithm 2). Its second look already sees the new states.

    Args:
        denoiser: see `Revealer`.
        schedule: the noise of both parts.
        groups: the discrete columns.
        known: cells that are fixed: never hidden, never noised.
        noise: random numbers.
        numbers: how many scores a row has.
        early: (columns,) see `JointNoise.hidden`.
        steps: number of steps, two looks each but the last.
        churn: noise that is put back over all steps, as a share of the level.
    """
    known.begin(torch.tensor(groups.sizes, dtype=torch.float32), noise)
    x = schedule.largest * torch.randn(known.n, numbers, generator=noise)
    states = torch.zeros(known.n, groups.columns, dtype=torch.long)
    known.put_clean(x, states)
    hidden = (~known.columns).expand(known.n, -1).clone()
    moved = ~known.numbers
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    levels, masked = schedule.level(times).tolist(), schedule.hidden(times[:, None], early).float()
    # Nothing is noised or hidden in the end.
    levels[-1], masked[-1] = 0.0, 0.0
    more = min(churn / steps, MOST_CHURN)
    for i, (time, after) in enumerate(pairwise(times.tolist())):
        level, target = levels[i], levels[i + 1]
        # Noise beyond the largest level was never seen in training.
        raised = min(level * (1 + more), schedule.largest)
        fresh = torch.randn(x.shape, generator=noise)
        x = torch.where(moved, x + (raised**2 - level**2) ** 0.5 * fresh, x)
        now = float(schedule.time_of(torch.tensor(raised, dtype=torch.float64))) if raised > level else time
        clean, chances = denoiser(x, states, hidden, now)
        chance = (masked[i] - masked[i + 1]) / masked[i].clamp_min(FIRST)
        drawn = groups.join([drawn_states(c, noise) for c in chances], states)
        shown = hidden & (torch.rand(hidden.shape, generator=noise) < chance)
        states, hidden = torch.where(shown, drawn, states), hidden & ~shown
        slope = (x - clean) / raised
        ahead = torch.where(moved, x + (target - raised) * slope, x)
        if target > 0:
            clean, _ = denoiser(ahead, states, hidden, after)
            slope = (slope + (ahead - clean) / target) / 2
            ahead = torch.where(moved, x + (target - raised) * slope, x)
        x = ahead
    return x, states
