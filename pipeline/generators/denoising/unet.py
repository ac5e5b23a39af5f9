"""The two-dimensional UNet of DDPM (Ho et al. 2020, appendix B) on vectors laid out as squares, as ScoEHR publishes it.

Codes and latents have no neighbours, so convolutions have nothing to find here, and at 12 x 12 one pass costs some
fifty times one of `network.py`. It is kept for the published presets and comparisons; nothing else uses it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 4
"""Sides of squares are multiples of this: two halvings."""
GROUPS = 32


@dataclass(frozen=True)
class UNetShape:
    """Sizes of the published network.

    Attributes:
        channels: of the first level.
        multipliers: of the channels, one a level; the side is halved between levels.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: sides of squares at which a level has self-attention.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)


def side_of(width: int) -> int:
    """Side of the smallest square of `STRIDE`-sized steps that holds a vector of this width."""
    return STRIDE * math.ceil(math.isqrt(width - 1) / STRIDE + 1e-9) if width > 1 else STRIDE


def sines(t: Tensor, width: int) -> Tensor:
    """(batch, ..., width) sines and cosines of (batch, ...) times, waves of 2 pi to 20,000 pi (Vaswani et al. 2017)."""
    half = width // 2
    speed = torch.exp(-math.log(10_000) / max(1, half - 1) * torch.arange(half, device=t.device, dtype=torch.float32))
    angle = t.float()[..., None] * speed
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class UNet(nn.Module):
    """(batch, width) vectors and (batch,) times to (batch, width): a square image of one channel inside.

    Args:
        width: of the vectors; filled up with zeros to a square.
        shape: sizes.
    """

    def __init__(self, width: int, shape: UNetShape) -> None:
        super().__init__()
        self.width, self.shape = width, shape
        self.side = side_of(width)
        first = shape.channels
        told = 4 * first
        self.time = nn.Sequential(nn.Linear(first, told), nn.Linear(told, told))
        self.into = nn.Conv2d(1, first, 3, padding=1)
        side, now = self.side, first
        # What the way down leaves for the way up, in channels.
        left = [first]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        last = len(shape.multipliers) - 1
        for level, multiplier in enumerate(shape.multipliers):
            for _ in range(shape.blocks):
                self.down.append(_Level(now, first * multiplier, told, attends=side in shape.attention))
                now = first * multiplier
                left.append(now)
            if level < last:
                self.down.append(_Halved(now))
                left.append(now)
                side //= 2
        self.middle = nn.ModuleList([_Level(now, now, told, attends=True), _Level(now, now, told, attends=False)])
        for level, multiplier in reversed(list(enumerate(shape.multipliers))):
            for _ in range(shape.blocks + 1):
                self.up.append(_Level(now + left.pop(), first * multiplier, told, attends=side in shape.attention))
                now = first * multiplier
            if level > 0:
                self.up.append(_Doubled(now))
                side *= 2
        self.norm = _norm(now)
        self.out = nn.Conv2d(now, 1, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """What the network says of noisy vectors at their times."""
        square = functional.pad(x, (0, self.side**2 - self.width)).view(-1, 1, self.side, self.side)
        told = self.time(sines(t, self.shape.channels))
        h = self.into(square)
        left = [h]
        for part in self.down:
            h = part(h, told)
            left.append(h)
        for part in self.middle:
            h = part(h, told)
        for part in self.up:
            h = part(h if isinstance(part, _Doubled) else torch.cat([h, left.pop()], dim=1), told)
        out: Tensor = self.out(functional.silu(self.norm(h)))
        return out.flatten(1)[:, : self.width]


class _Level(nn.Module):
    """A residual block that is told the time, and self-attention where asked for."""

    def __init__(self, before: int, after: int, told: int, *, attends: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(told, after))
        self.second = nn.Sequential(_norm(after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1))
        self.past = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.attention = _Attention(after) if attends else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.second(self.first(x) + self.time(told)[:, :, None, None])
        out: Tensor = self.attention(self.past(x) + h)
        return out


class _Attention(nn.Module):
    """Self-attention over the places of an image, one head, added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.asked = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.asked(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        found = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = x + self.out(found.transpose(1, 2).reshape(x.shape))
        return out


class _Halved(nn.Module):
    """Half the side, by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.step = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        out: Tensor = self.step(x)
        return out


class _Doubled(nn.Module):
    """Twice the side, each place repeated, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.step = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        out: Tensor = self.step(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels, eps=1e-6)
