"""The diffusion of ScoEHR: a network that says how much of a noisy vector is noise, its loss, and vectors out of noise.

The loss is the published one, sigma^2 |s + e / sigma|^2 for the score s: with s = -e_hat / sigma it is the squared error
of the noise, which keeps its size at every time, while the score grows to 95 at t = 0.001 (spec 5.2). Schedules and
samplers are in `denoising/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from pipeline.generators.denoising.network import ResMLP
from pipeline.generators.denoising.noise import VPSchedule, stratified_times
from pipeline.generators.denoising.samplers import ddim, dpmpp_2m, em
from pipeline.generators.denoising.unet import UNet, UNetShape

if TYPE_CHECKING:
    from pipeline.generators.latent_diffusion.settings import ScoEHRConfig

FARTHEST = 10.0
"""Standardised vectors never lie farther from 0 in a coordinate; a denoiser that says so at t = 1, where it divides by an
alpha of 0.007, is held to it."""


class NoiseModel(nn.Module):
    """Vectors under the variance-preserving process.

    Args:
        width: of the vectors.
        config: backbone, its sizes, and how is drawn.
    """

    def __init__(self, width: int, config: ScoEHRConfig) -> None:
        super().__init__()
        self.width = width
        self.schedule = VPSchedule()
        self.sampler: Literal["dpmpp_2m", "ddim", "em"] = config.sampler
        self.steps, self.end = config.sampling_steps, config.sampling_end
        self.limit = FARTHEST if config.space == "likelihood" else float("inf")
        self.time_scale = config.time_scale
        self.backbone: UNet | ResMLP
        if config.backbone == "unet":
            self.backbone = UNet(width, UNetShape(channels=config.unet_channels))
        else:
            self.backbone = ResMLP(width, width, config.width, config.blocks)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """(batch, width) the expected noise in (batch, width) vectors at (batch,) times."""
        out: Tensor = self.backbone(x, t * self.time_scale)
        return out

    def loss(self, clean: Tensor, noise: torch.Generator) -> Tensor:
        """(batch,) squared errors of the noise, mean over coordinates, at times in even stretches of (0, 1)."""
        t = stratified_times(len(clean), noise, clean.device)
        e = torch.randn(clean.shape, generator=noise, device=clean.device)
        x = self.schedule.alpha(t)[:, None] * clean + self.schedule.sigma(t)[:, None] * e
        return ((self.noise(x, t) - e) ** 2).mean(dim=1)

    def clean(self, x: Tensor, t: float) -> Tensor:
        """(batch, width) expected clean vectors at one time."""
        time = torch.full((len(x),), t, device=x.device)
        alpha, sigma = self.schedule.alpha(time)[:, None], self.schedule.sigma(time)[:, None]
        return ((x - sigma * self.noise(x, time)) / alpha).clamp(-self.limit, self.limit)

    def draw(self, n: int, noise: torch.Generator) -> Tensor:
        """(n, width) new vectors, on the device of `noise`."""
        x = torch.randn(n, self.width, generator=noise, device=noise.device)
        with torch.inference_mode():
            if self.sampler == "em":
                return em(self.clean, self.schedule, x, self.steps, noise, self.end)
            way = dpmpp_2m if self.sampler == "dpmpp_2m" else ddim
            return way(self.clean, self.schedule, x, self.steps, self.end)
