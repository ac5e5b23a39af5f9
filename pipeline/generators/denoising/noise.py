"""Noise schedules of diffusion models: how much of a row and how much noise there is at a time.

The variance-preserving process of Song et al. 2021 ("Score-based generative modeling through SDEs", eq. 11), and the
noise levels and preconditioning of Karras et al. 2022 ("Elucidating the design space of diffusion-based generative
models", table 1). How rows are drawn back out of noise is in `samplers.py`; networks are in `network.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VPSchedule:
    """Variance-preserving noise: x_t = alpha(t) x_0 + sigma(t) e for t in [0, 1], beta(t) linear (spec 5.1).

    Attributes:
        beta0: beta at t = 0.
        beta1: beta at t = 1.
    """

    beta0: float = 0.1
    beta1: float = 20.0

    def beta(self, t: float) -> float:
        """The rate at which noise comes in."""
        return self.beta0 + t * (self.beta1 - self.beta0)

    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t) = -t^2 (beta1 - beta0) / 4 - t beta0 / 2, of the shape of `t`."""
        return -(t**2) * (self.beta1 - self.beta0) / 4 - t * self.beta0 / 2

    def alpha(self, t: Tensor) -> Tensor:
        """Weight of the row."""
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise, sqrt(1 - alpha^2) without the difference of two nearly equal numbers."""
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def log_ratio(self, t: Tensor) -> Tensor:
        """lambda(t) = log(alpha / sigma), half the log of the signal-to-noise ratio; falls from infinity at t = 0."""
        return self.log_alpha(t) - 0.5 * torch.log(-torch.expm1(2 * self.log_alpha(t)))

    def time_of(self, log_ratio: Tensor) -> Tensor:
        """The t at which lambda is `log_ratio` (spec 5.3)."""
        total = torch.nn.functional.softplus(-2 * log_ratio)
        rise = self.beta1 - self.beta0
        return (torch.sqrt(self.beta0**2 + 2 * rise * total) - self.beta0) / rise

    def even_times(self, steps: int, end: float) -> list[float]:
        """`steps` + 1 times from 1 down to `end`, evenly spaced."""
        return [float(t) for t in torch.linspace(1.0, end, steps + 1, dtype=torch.float64)]

    def even_ratios(self, points: int, end: float) -> list[float]:
        """`points` times from 1 down to `end`, evenly spaced in lambda: what multistep solvers need."""
        ends = self.log_ratio(torch.tensor([1.0, end], dtype=torch.float64)).tolist()
        times = self.time_of(torch.linspace(ends[0], ends[1], points, dtype=torch.float64)).tolist()
        return [1.0, *times[1:-1], end] if points > 1 else [1.0]


@dataclass(frozen=True)
class EDMSchedule:
    """Noise of growing variance: x_s = x_0 + s e for noise levels s, which play the part of time (Karras et al. 2022).

    Attributes:
        smallest: Last noise level before 0 while drawing.
        largest: First noise level.
        rho: How much the levels crowd at the small end.
        data: Standard deviation of the data.
        mean_log, spread_log: Of ln s in training.
    """

    smallest: float = 0.02
    largest: float = 80.0
    rho: float = 7.0
    data: float = 1.0
    mean_log: float = -1.2
    spread_log: float = 1.2

    def levels(self, steps: int) -> list[float]:
        """`steps` noise levels from the largest to the smallest, then 0 (eq. 5)."""
        low, high = self.smallest ** (1 / self.rho), self.largest ** (1 / self.rho)
        between = [high + i / max(1, steps - 1) * (low - high) for i in range(steps)]
        return [*(x**self.rho for x in between), 0.0]

    def drawn(self, n: int, noise: torch.Generator, device: torch.device | str) -> Tensor:
        """(n,) noise levels for training."""
        return (self.mean_log + self.spread_log * torch.randn(n, generator=noise, device=device)).exp()

    def spread_out(self, n: int, looks: int, noise: torch.Generator, device: torch.device | str) -> Tensor:
        """(n, looks) noise levels for training, those of a row one in each of as many strata: its own, not the batch's."""
        chance = (torch.arange(looks, device=device) + torch.rand(n, looks, generator=noise, device=device)) / looks
        return (self.mean_log + self.spread_log * torch.special.ndtri(chance.clamp(1e-6, 1 - 1e-6))).exp()

    def skip(self, s: Tensor) -> Tensor:
        """Weight of the noisy row in the denoised one (c_skip)."""
        return self.data**2 / (s**2 + self.data**2)

    def out(self, s: Tensor) -> Tensor:
        """Weight of the network's output in the denoised row (c_out)."""
        return s * self.data / torch.sqrt(s**2 + self.data**2)

    def into(self, s: Tensor) -> Tensor:
        """Scale that gives the network's input unit variance (c_in)."""
        return 1 / torch.sqrt(s**2 + self.data**2)

    def weight(self, s: Tensor) -> Tensor:
        """Weight of the squared error of the denoised row, under which the network's target has unit variance."""
        return (s**2 + self.data**2) / (s * self.data) ** 2

    def shown(self, s: Tensor) -> Tensor:
        """The noise level as the network is told it (c_noise)."""
        return torch.log(s) / 4


def stratified_times(n: int, noise: torch.Generator, device: torch.device | str, first: float = 1e-3) -> Tensor:
    """(n,) times for a batch, one in each of n even stretches, in random order (spec 5.1).

    Args:
        n: rows of the batch.
        noise: random numbers.
        device: where they live.
        first: no time is smaller: there is nothing to learn where there is no noise.
    """
    stretch = 1 / n
    middle = torch.linspace(min(stretch + first, 1 - stretch), 1 - stretch, n, device=device)
    jitter = (2 * torch.rand(n, generator=noise, device=device) - 1) * stretch
    order = torch.randperm(n, generator=noise, device=device)
    return (middle + jitter)[order].clamp(first, 1.0)
