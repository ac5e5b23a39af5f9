"""The network that generators which denoise share: a residual MLP that is told the time.

Linear layers, LayerNorm and SiLU only, so that per-sample gradients exist (spec 6.5). What goes in and what the outputs
mean is in `row_vector.py`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

TIME_WAVES = 64
SLOWEST = 1e-4
Film = Literal["full", "additive"]


def time_features(time: Tensor, waves: int = TIME_WAVES) -> Tensor:
    """(batch, ..., 2 waves) sines and cosines of (batch, ...) times, of frequencies from 1 down to 1e-4.

    Give t * 1000 for times from 0 to 1, ln(sigma) / 4 for noise levels (spec 6.5).
    """
    exponent = torch.arange(waves, device=time.device, dtype=torch.float32) / max(1, waves - 1)
    angle = time.float()[..., None] * torch.exp(exponent * math.log(SLOWEST))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ResMLP(nn.Module):
    """Linear in, residual blocks that are shifted (and scaled) by time and condition, Linear out (spec 6.5).

    The last layer of each block and of the network starts at 0: untrained, the outputs are the last bias.

    Args:
        inputs: width of the vectors.
        outputs: width of the outputs.
        width: of the hidden layers.
        blocks: number of residual blocks.
        film: "full" scales and shifts each block by the time; "additive" adds it once, half of the work.
        condition: width of a condition vector, 0 for none.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, blocks: int, film: Film = "additive", condition: int = 0
    ) -> None:
        super().__init__()
        self.first = nn.Linear(max(1, inputs), width)
        self.time = nn.Sequential(nn.Linear(2 * TIME_WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition, width) if condition else None
        self.blocks = nn.ModuleList(_Block(width, scaled=film == "full") for _ in range(blocks))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.last = nn.Linear(width, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """(batch, ..., outputs) for (batch, ..., inputs) vectors at (batch, ...) times (see `time_features`).

        Several vectors a row are one sample to whoever takes gradients of single rows (spec 8.2).
        """
        told = self.time(time_features(time))
        if self.condition is not None and condition is not None:
            told = told + self.condition(condition)
        if not x.shape[-1]:
            x = x.new_zeros(*x.shape[:-1], 1)
        hidden = self.first(x) + told
        for block in self.blocks:
            hidden = block(hidden, told)
        return self.last(nn.functional.silu(self.norm(hidden)))


class _Block(nn.Module):
    """LayerNorm, scale and shift by what the network is told, Linear, SiLU, Linear, residual."""

    def __init__(self, width: int, *, scaled: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 2 * width) if scaled else None
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, hidden: Tensor, told: Tensor) -> Tensor:
        normal = self.norm(hidden)
        if self.film is not None:
            scale, shift = self.film(nn.functional.silu(told)).chunk(2, dim=-1)
            normal = normal * (1 + scale) + shift
        out: Tensor = hidden + self.down(nn.functional.silu(self.up(normal)))
        return out
