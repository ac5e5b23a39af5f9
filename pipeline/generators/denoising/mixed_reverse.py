"""Mixed rows out of noise: strided steps back through a Gaussian and a multinomial diffusion at once (spec 6.1).

A denoiser says what the clean row may be; numbers go by DDIM or by the published ancestral step, states by the exact
posterior. Only the current rows are kept. The noise is in `multinomial.py`, networks with their generators.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.generators.denoising.multinomial import CosineSchedule, blurred, posterior
from pipeline.generators.denoising.state_groups import drawn_states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.generators.denoising.known_states import KnownStates
    from pipeline.generators.denoising.state_groups import StateGroups

    Denoiser = Callable[[Tensor, Tensor, int], tuple[Tensor, Sequence[Tensor]]]
    """(rows, numbers) noisy scores, (rows, columns) noisy states and a time to E[x_0 | x_t] of the scores and, a group,
    (states, rows, columns) probabilities of the clean states given the other columns."""
    NumberStep = Callable[[Tensor, Tensor, float, float, torch.Generator], Tensor]
    """Noisy and clean scores, alpha-bar now and after the step, random numbers, to the scores after the step."""


def ddim_step(x: Tensor, clean: Tensor, kept: float, after: float, noise: torch.Generator) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12 with no noise)."""
    said = (x - kept**0.5 * clean) / (1 - kept) ** 0.5
    return after**0.5 * clean + (1 - after) ** 0.5 * said


def ancestral_step(x: Tensor, clean: Tensor, kept: float, after: float, noise: torch.Generator) -> Tensor:
    """DDPM (Ho et al. 2020, algorithm 2) with variance beta_t, over any stride; none in the last step."""
    step = kept / after
    mean = (after**0.5 * (1 - step) * clean + step**0.5 * (1 - after) * x) / (1 - kept)
    if after == 1:
        return mean
    return mean + (1 - step) ** 0.5 * torch.randn(x.shape, generator=noise, device=x.device)


def draw_back(
    denoiser: Denoiser,
    schedule: CosineSchedule,
    groups: StateGroups,
    times: Sequence[int],
    known: KnownStates,
    noise: torch.Generator,
    *,
    numbers: int,
    number_step: NumberStep = ddim_step,
    repeats: int = 1,
) -> tuple[Tensor, Tensor]:
    """(rows, numbers) scores and (rows, columns) states out of noise.

    Args:
        denoiser: see `Denoiser`.
        schedule: the noise of both parts.
        groups: the discrete columns.
        times: from the noisiest down to 0.
        known: cells that are fixed; put back with their noise at every step (Lugmayr et al. 2022, "RePaint").
        noise: random numbers.
        numbers: how many scores a row has.
        number_step: how scores take a step.
        repeats: times each step is gone where cells are fixed, re-noised in between.
    """
    sizes = torch.tensor(groups.sizes, dtype=torch.float32)
    known.begin(sizes, noise)
    x = torch.randn(known.n, numbers, generator=noise)
    states = (torch.rand(known.n, groups.columns, generator=noise) * sizes).long()
    kept = schedule.kept.tolist()
    for t, s in pairwise(times):
        step = kept[t] / kept[s]
        for left in reversed(range(repeats if known else 1)):
            known.put_noisy(x, states, kept[t])
            clean, chances = denoiser(x, states, t)
            x = number_step(x, clean, kept[t], kept[s], noise)
            parts = []
            for group, chance, own in zip(groups.groups(), chances, groups.split(states), strict=True):
                told = posterior(chance, own, group.valid, torch.tensor(step), torch.tensor(kept[s]))
                parts.append(drawn_states(told, noise))
            states = groups.join(parts, states)
            if left:
                x = step**0.5 * x + (1 - step) ** 0.5 * torch.randn(x.shape, generator=noise)
                states = blurred(states, sizes, torch.tensor(step), noise)
    known.put_clean(x, states)
    return x, states
