"""The network of `ehrdiff` inside the preconditioning of Karras et al. 2022 (table 1): its loss, and vectors drawn from it.

Noise levels are in `noise.py`, the sampler in `samplers.py`, vectors of rows in `real_vector.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.generators.denoising.network import ResMLP
from pipeline.generators.denoising.noise import EDMSchedule
from pipeline.generators.denoising.samplers import heun
from pipeline.generators.denoising.unet import sines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class DenoiserShape:
    """Backbone and noise levels.

    Attributes:
        width: units a layer of the residual backbone.
        blocks: its residual blocks.
        hidden: widths of the published backbone, which is taken instead; empty for the residual one.
        time_width: of the published backbone's noise embedding.
        sampling_steps: of Heun's method.
        noise_levels: of `EDMSchedule`: smallest, largest, mean_log, spread_log.
    """

    width: int
    blocks: int
    hidden: tuple[int, ...] = ()
    time_width: int = 384
    sampling_steps: int = 32
    noise_levels: Mapping[str, float] = field(default_factory=dict)


class Layers(nn.Module):
    """The published network: before every layer the noise level's embedding is added (spec 6.2).

    Args:
        width: of the vectors.
        hidden: widths of the layers.
        told: width of the embedding.
    """

    def __init__(self, width: int, hidden: tuple[int, ...], told: int) -> None:
        super().__init__()
        self.told = told
        self.first = nn.Linear(width, hidden[0])
        self.times = nn.ModuleList(nn.Linear(told, size) for size in hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([*hidden, width]))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(batch, ..., width) for (batch, ..., width) vectors and (batch, ...) noise levels as they are shown."""
        embedded = sines(time, self.told)
        hidden: Tensor = self.first(x)
        for time_layer, layer in zip(self.times, self.layers, strict=True):
            hidden = layer(torch.relu(hidden + time_layer(embedded)))
        return hidden


class Denoiser(nn.Module):
    """The network inside Karras's preconditioning.

    Args:
        width: of the vectors.
        shape: backbone and noise levels.
    """

    def __init__(self, width: int, shape: DenoiserShape) -> None:
        super().__init__()
        self.width, self.steps = width, shape.sampling_steps
        self.noise_levels = shape.noise_levels
        self.data: Tensor
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("data", torch.ones(()))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.backbone: Layers | ResMLP = (
            Layers(width, shape.hidden, shape.time_width)
            if shape.hidden
            else ResMLP(width, width, shape.width, shape.blocks)
        )

    @property
    def schedule(self) -> EDMSchedule:
        """The noise levels, for data of the spread that was found."""
        return EDMSchedule(data=float(self.data), **self.noise_levels)

    def _said(self, x: Tensor, s: Tensor, schedule: EDMSchedule) -> Tensor:
        out: Tensor = self.backbone(schedule.into(s)[..., None] * x, schedule.shown(s))
        return out

    def loss(self, rows: Tensor, noise: torch.Generator) -> Tensor:
        """(batch,) weighted squared errors of the denoised rows, mean over columns."""
        s = self.schedule.drawn(len(rows), noise, rows.device)
        return self.errors(rows, s, torch.randn(rows.shape, generator=noise, device=rows.device))

    def errors(self, rows: Tensor, s: Tensor, added: Tensor) -> Tensor:
        """(batch, ...) the same for (batch, ...) noise levels and (batch, ..., width) noise of variance 1.

        Several looks at a row go through the network together, as one sample of whoever clips gradients by row; `rows`
        are then (batch, 1, width).
        """
        schedule = self.schedule
        clean = (rows - self.centre) / self.spread
        x = clean + s[..., None] * added
        # weight c_out^2 = 1: the same as the weighted error of c_skip x + c_out F, without dividing by small numbers.
        target = (clean - schedule.skip(s)[..., None] * x) / schedule.out(s)[..., None]
        return ((self._said(x, s, schedule) - target) ** 2).mean(dim=-1)

    def draw(self, n: int, noise: torch.Generator) -> NDArray[np.float64]:
        """(n, width) vectors, on the scale of rows."""
        schedule = self.schedule

        def clean(x: Tensor, level: float) -> Tensor:
            s = torch.full((len(x),), level, device=x.device)
            return schedule.skip(s)[:, None] * x + schedule.out(s)[:, None] * self._said(x, s, schedule)

        with torch.inference_mode():
            x = heun(clean, schedule, torch.randn(n, self.width, generator=noise, device=noise.device), self.steps)
            return (x * self.spread + self.centre).cpu().numpy().astype(np.float64)
