"""Rows out of noise: Euler-Maruyama, DDIM, DPM-Solver++ (2M) and Heun, as functions of a denoiser and a schedule.

A denoiser gives the expectation of the clean rows x_0 for noisy rows at one time. Only the current rows are kept. The
formulas are those of spec 5.3; the schedules and their grids are in `noise.py`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pipeline.generators.denoising.noise import EDMSchedule, VPSchedule

    Denoiser = Callable[[Tensor, float], Tensor]
    """(rows, width) noisy rows and their time (of `EDMSchedule`: their noise level) to (rows, width) E[x_0 | x_t]."""

END = 1e-3
"""Where the variance-preserving process is left: what is still noise there is taken away by the denoiser at once."""


def em(
    denoiser: Denoiser, schedule: VPSchedule, x: Tensor, steps: int, noise: torch.Generator, end: float = END
) -> Tensor:
    """Euler-Maruyama steps of the reverse SDE (Song et al. 2021, eq. 6), evenly spaced in time.

    Args:
        denoiser: see `Denoiser`.
        schedule: the process.
        x: (rows, width) standard normal noise.
        steps: evaluations of the denoiser; one more at the end unless `end` is 0.
        noise: random numbers of the steps.
        end: last time. At 0, as published, the last step's noise stays in the rows; the default denoises instead.
    """
    for t, u in pairwise(schedule.even_times(steps, end)):
        alpha, sigma = _at(schedule, t)
        beta, h = schedule.beta(t), t - u
        score = (alpha * denoiser(x, t) - x) / sigma**2
        fresh = torch.randn(x.shape, generator=noise, device=x.device, dtype=x.dtype)
        x = x + (0.5 * beta * x + beta * score) * h + math.sqrt(beta * h) * fresh
    return denoiser(x, end) if end > 0 else x


def ddim(denoiser: Denoiser, schedule: VPSchedule, x: Tensor, steps: int, end: float = END) -> Tensor:
    """The probability-flow ODE by first-order steps evenly spaced in time (Song et al. 2021, "DDIM", eq. 13)."""
    times = schedule.even_times(max(1, steps - 1), end) if steps > 1 else [1.0]
    for t, u in pairwise(times):
        alpha, sigma = _at(schedule, t)
        clean = denoiser(x, t)
        alpha_next, sigma_next = _at(schedule, u)
        x = alpha_next * clean + sigma_next * (x - alpha * clean) / sigma
    return denoiser(x, times[-1])


def dpmpp_2m(denoiser: Denoiser, schedule: VPSchedule, x: Tensor, steps: int, end: float = END) -> Tensor:
    """DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2), evenly spaced in lambda, where alone it is of second order.

    Args:
        denoiser: see `Denoiser`.
        schedule: the process.
        x: (rows, width) standard normal noise.
        steps: evaluations of the denoiser, the last of them at `end`.
        end: time at which the denoised rows are taken as they are.
    """
    times = schedule.even_ratios(steps, end)
    ratios = schedule.log_ratio(torch.tensor(times, dtype=torch.float64)).tolist()
    before, h_before = None, 0.0
    for i, (t, u) in enumerate(pairwise(times)):
        h = ratios[i + 1] - ratios[i]
        clean = denoiser(x, t)
        ahead = clean
        if before is not None:
            # h_before / h is 1 on this grid, up to rounding.
            half = h / (2 * h_before)
            ahead = (1 + half) * clean - half * before
        _, sigma = _at(schedule, t)
        alpha_next, sigma_next = _at(schedule, u)
        x = (sigma_next / sigma) * x - alpha_next * math.expm1(-h) * ahead
        before, h_before = clean, h
    return denoiser(x, times[-1])


def heun(denoiser: Denoiser, schedule: EDMSchedule, x: Tensor, steps: int) -> Tensor:
    """Heun's second-order steps down the noise levels (Karras et al. 2022, algorithm 1); deterministic.

    Args:
        denoiser: see `Denoiser`; asked twice a step, once in the last.
        schedule: the noise levels.
        x: (rows, width) standard normal noise; the largest noise level is applied here.
        steps: number of steps.
    """
    x = x * schedule.largest
    for s, u in pairwise(schedule.levels(steps)):
        slope = (x - denoiser(x, s)) / s
        ahead = x + (u - s) * slope
        if u > 0:
            slope = (slope + (ahead - denoiser(ahead, u)) / u) / 2
            ahead = x + (u - s) * slope
        x = ahead
    return x


def _at(schedule: VPSchedule, t: float) -> tuple[float, float]:
    """alpha and sigma at one time, in double precision."""
    time = torch.tensor(t, dtype=torch.float64)
    return float(schedule.alpha(time)), float(schedule.sigma(time))
