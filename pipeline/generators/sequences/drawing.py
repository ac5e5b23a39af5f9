"""Visits drawn from the network, row by row in parts, visit after visit, code after code.

The next code of a visit is drawn in one look at the vocabulary: the chance that none of the next codes is there is the
exponential of minus the sum of softplus(logit), so that one exponential number finds the first code that is. The network
is in `network.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from pipeline.features.visits import Visits
from pipeline.generators.sequences.gaps import END

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.generators.sequences.network import VisitNetwork

HELD = 64_000_000
"""Numbers of keys and values that are held at once."""
MOST_ROWS = 2_048
SMALLEST = 1e-300


@dataclass(frozen=True)
class Drawn:
    """Visits of n rows, by row.

    Attributes:
        counts: (n,) visits of each row.
        gap: (visits,) class of the gap before each.
        size: (visits,) codes of each.
        code: (codes,) positions, rising within a visit.
        cut: rows that had the most visits that are drawn and were not at their end.
    """

    counts: NDArray[np.int64]
    gap: NDArray[np.int64]
    size: NDArray[np.int64]
    code: NDArray[np.int32]
    cut: int

    def visits(self, gap_days: NDArray[np.int64], first_day: NDArray[np.int64]) -> Visits:
        """The visits, with days since the visit before and the first day of each row; the codes have no names yet."""
        start = np.r_[0, np.cumsum(self.counts)].astype(np.int64)
        elapsed = np.cumsum(gap_days)
        at_first = np.repeat(np.r_[elapsed, 0][start[:-1]], self.counts)
        day = elapsed - at_first + np.repeat(first_day, self.counts)
        return Visits((), start, day, np.r_[0, np.cumsum(self.size)].astype(np.int64), self.code)


def chunk_rows(network: VisitNetwork) -> int:
    """Rows that are drawn at once."""
    shape = network.shape
    return max(16, min(MOST_ROWS, HELD // (2 * shape.layers * shape.width * (shape.places + 1))))


def draw_visits(network: VisitNetwork, prompt: Tensor, random: torch.Generator) -> Drawn:
    """The visits of (n, d) prompts."""
    parts = [_draw_part(network, p, random) for p in prompt.split(chunk_rows(network))]
    return Drawn(
        counts=np.concatenate([p.counts for p in parts]),
        gap=np.concatenate([p.gap for p in parts]),
        size=np.concatenate([p.size for p in parts]),
        code=np.concatenate([p.code for p in parts]),
        cut=sum(p.cut for p in parts),
    )


def _draw_part(network: VisitNetwork, prompt: Tensor, random: torch.Generator) -> Drawn:
    n = len(prompt)
    row = torch.arange(n)
    token = network.first_token(prompt)
    kept: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(network.layers)
    rows, gaps, sizes, codes, owners = [], [], [], [], []
    visits, cut = 0, 0
    for place in range(network.shape.places + 1):
        for i, layer in enumerate(network.layers):
            token, key, value = layer.step(token, *kept[i])  # type: ignore[operator]
            kept[i] = key, value
        out = network.after(token)
        chance = network.next_chances(out, torch.full((len(row),), place == 0))
        following = _categorical(chance, random)
        goes_on = torch.nonzero(following != END).squeeze(1)
        if place == network.shape.places:
            cut = len(goes_on)
            break
        if not len(goes_on):
            break
        row, gap, out = row[goes_on], following[goes_on], out[goes_on]
        kept = [(k[goes_on], v[goes_on]) for k, v in kept if k is not None and v is not None]
        owner, code = draw_codes(network, network.told(out, gap), random)
        size = torch.bincount(owner, minlength=len(row))
        rows.append(row)
        gaps.append(gap)
        sizes.append(size)
        codes.append(code)
        owners.append(owner + visits)
        visits += len(row)
        added = torch.zeros(len(row), network.shape.width).index_add(0, owner, network.code_in(code))
        token = network.visit_tokens(added, gap, torch.full_like(gap, place))
    if not rows:
        nothing = np.zeros(0, dtype=np.int64)
        return Drawn(np.zeros(n, dtype=np.int64), nothing, nothing, nothing.astype(np.int32), cut)
    of_row = torch.cat(rows)
    order = torch.argsort(of_row, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    by_visit = torch.argsort(rank[torch.cat(owners)], stable=True)
    return Drawn(
        counts=torch.bincount(of_row, minlength=n).numpy(),
        gap=torch.cat(gaps)[order].numpy(),
        size=torch.cat(sizes)[order].numpy(),
        code=torch.cat(codes)[by_visit].numpy().astype(np.int32),
        cut=cut,
    )


def draw_codes(network: VisitNetwork, told: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Owner and code of every code of (visits, hidden) visits, rising within a visit; how many is drawn first."""
    left = _categorical(network.size_chances(told), random) + 1
    at, last = torch.arange(len(told)), torch.full((len(told),), -1)
    owners, codes = [], []
    column = torch.arange(network.codes)
    while len(at):
        limit = network.codes - left
        possible = (column > last.unsqueeze(1)) & (column <= limit.unsqueeze(1))
        absent = torch.where(possible, functional.softplus(network.logits(told + network.left(left))), 0.0)
        total = absent.to(torch.float64).cumsum(dim=1)
        # One must be there: the exponential number is drawn below the sum over all that are possible.
        share = torch.rand(len(at), dtype=torch.float64, generator=random) * -torch.expm1(-total[:, -1])
        threshold = (-torch.log1p(-share)).clamp_min(SMALLEST)
        code = torch.searchsorted(total, threshold.unsqueeze(1)).squeeze(1)
        last = torch.maximum(torch.minimum(code, limit), last + 1)
        owners.append(at)
        codes.append(last)
        more = torch.nonzero(left > 1).squeeze(1)
        told = (told + network.code_head(last))[more]
        at, last, left = at[more], last[more], left[more] - 1
    owner, code = torch.cat(owners), torch.cat(codes)
    order = torch.argsort(owner * network.codes + code)
    return owner[order], code[order]


def _categorical(log_chance: Tensor, random: torch.Generator) -> Tensor:
    """(n,) classes drawn from (n, classes) log chances."""
    total = log_chance.to(torch.float64).exp().cumsum(dim=1)
    share = torch.rand(len(total), 1, dtype=torch.float64, generator=random) * total[:, -1:]
    return torch.searchsorted(total, share, right=True).squeeze(1).clamp_max(total.shape[1] - 1)
