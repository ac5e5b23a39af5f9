"""Many softmaxes of unequal widths side by side, all at once, soft or straight-through hard, with Gumbel noise.

Columns are padded to the widest of their group and gathered once; the gradient is written down, so that it is gathers too and
nothing is added up in an order of chance (Jang et al. 2017, "Categorical reparameterization with Gumbel-softmax").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS = (4, 16, 64, 256, 1_000_000)
"""Columns are padded to the widest of their group: a column of 500 levels does not pad twenty flags."""
NOTHING = -1e9


class SoftmaxColumns(nn.Module):
    """Columns of K states each, a softmax a column.

    Args:
        sizes: states of each column.

    Attributes:
        width: states of all columns.
        starts: first coordinate of each column.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes, self.width = list(sizes), sum(sizes)
        self.starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        places: list[Tensor] = []
        back = torch.zeros(self.width, dtype=torch.long)
        self.shapes: list[tuple[int, int]] = []
        below, at = 0, 0
        for limit in GROUPS:
            members = [i for i, k in enumerate(self.sizes) if below < k <= limit]
            below = limit
            if not members:
                continue
            widest = max(self.sizes[i] for i in members)
            place = torch.full((len(members), widest), self.width, dtype=torch.long)
            for row, i in enumerate(members):
                own = torch.arange(self.sizes[i])
                place[row, : self.sizes[i]] = self.starts[i] + own
                back[self.starts[i] : self.starts[i] + self.sizes[i]] = at + row * widest + own
            self.shapes.append((len(members), widest))
            at += place.numel()
            places.append(place.flatten())
        self.place: Tensor
        self.back: Tensor
        self.register_buffer(
            "place", torch.cat(places) if places else torch.zeros(0, dtype=torch.long), persistent=False
        )
        self.register_buffer("back", back, persistent=False)

    def forward(
        self, logits: Tensor, generator: torch.Generator | None = None, *, tau: float = 1.0, hard: bool = False
    ) -> Tensor:
        """(batch, width) shares of each state.

        Args:
            logits: (batch, width).
            generator: draws Gumbel noise; None for none.
            tau: temperature.
            hard: one-hot forwards, the gradient of the soft shares backwards.
        """
        if not self.width:
            return logits
        if generator is not None:
            logits = logits + gumbel(logits, generator)
        out: Tensor = _Softmaxes.apply(logits, self.place, self.back, tuple(self.shapes), tau, hard)
        return out

    def log_shares(self, logits: Tensor, columns: Tensor, states: Tensor) -> Tensor:
        """(k,) log-probability that `columns` (k,) are in `states` (k,), for (k, width) logits."""
        widest = max(self.sizes)
        start = torch.tensor(self.starts, device=logits.device)[columns]
        size = torch.tensor(self.sizes, device=logits.device)[columns]
        own = torch.arange(widest, device=logits.device)
        inside = own < size[:, None]
        part = logits.gather(1, torch.where(inside, start[:, None] + own, 0)).masked_fill(~inside, NOTHING)
        return -functional.cross_entropy(part, states, reduction="none")


def gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise in the shape of `like`: no argument of a logarithm is ever 0."""
    uniform = torch.rand(like.shape, generator=generator, device=like.device).clamp_(1e-10, 1 - 1e-7)
    return uniform.log_().neg_().log_().neg_()


class _Softmaxes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        place: Tensor,
        back: Tensor,
        shapes: tuple[tuple[int, int], ...],
        tau: float,
        hard: bool,
    ) -> Tensor:
        padded = functional.pad(logits, (0, 1), value=NOTHING).index_select(1, place)
        shares = torch.cat([_shares(p, n, k, tau) for p, (n, k) in _split(padded, shapes)], dim=1)
        ctx.save_for_backward(shares, place, back)
        ctx.shapes, ctx.tau = shapes, tau
        if not hard:
            return shares.index_select(1, back)
        ones = [
            functional.one_hot(p.view(-1, n, k).argmax(2), k).view(-1, n * k) for p, (n, k) in _split(shares, shapes)
        ]
        return torch.cat(ones, dim=1).index_select(1, back).to(logits.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        shares, place, back = ctx.saved_tensors
        given = functional.pad(gradients[0], (0, 1)).index_select(1, place) * shares
        parts = []
        for (g, (n, k)), (p, _) in zip(_split(given, ctx.shapes), _split(shares, ctx.shapes), strict=True):
            parts.append(g - p * g.view(-1, n, k).sum(2, keepdim=True).expand(-1, n, k).reshape(-1, n * k))
        return torch.cat(parts, dim=1).index_select(1, back).div_(ctx.tau), None, None, None, None, None


def _split(padded: Tensor, shapes: tuple[tuple[int, int], ...]) -> list[tuple[Tensor, tuple[int, int]]]:
    return list(zip(padded.split([n * k for n, k in shapes], dim=1), shapes, strict=True))


def _shares(padded: Tensor, n: int, k: int, tau: float) -> Tensor:
    return torch.softmax(padded.reshape(-1, n, k) / tau, dim=2).view(-1, n * k)
