"""Discrete columns of unequal numbers of states as a network sees them and speaks of them, without a loop over columns.

Columns are grouped by their number of states, padded to the next power of two, so that a group's outputs are a slice
and a softmax over the first axis of (states, batch, columns), the fast one to sum over. A column of two states takes one coordinate and one logit. Where a row's
states come from is in `split_rows.py`, what noise does to them in `multinomial.py` and the generators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

SMALLEST_SHARE = 1e-4


@dataclass(frozen=True)
class Group:
    """Columns of about as many states.

    Attributes:
        states: states of the widest, which the others are padded to.
        at: where their coordinates and logits lie.
        members: (columns,) their places among all columns.
        sizes: (columns,) float32 number of states.
        valid: (states, 1, columns) 1 where there is a state, 0 where padded.
    """

    states: int
    at: slice
    members: Tensor
    sizes: Tensor
    valid: Tensor


class StateGroups(nn.Module):
    """The places of discrete columns in a vector.

    Args:
        sizes: number of states of each column, at least 2.

    Attributes:
        columns: number of columns.
        width: coordinates, and logits.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.columns, self.sizes = len(sizes), list(sizes)
        self._places: list[tuple[int, slice]] = []
        order: list[int] = []
        self.width, smallest = 0, 1
        while smallest < max(sizes, default=1):
            largest = 2 * smallest
            members = [i for i, k in enumerate(sizes) if smallest < k <= largest]
            smallest = largest
            if not members:
                continue
            end = self.width + len(members) * (1 if largest == 2 else largest)
            part = torch.tensor([sizes[i] for i in members])
            name = len(self._places)
            self.register_buffer(f"members{name}", torch.tensor(members), persistent=False)
            self.register_buffer(f"sizes{name}", part.float(), persistent=False)
            self.register_buffer(f"valid{name}", _valid(part, largest), persistent=False)
            self._places.append((largest, slice(self.width, end)))
            self.width, order = end, [*order, *members]
        self.home: Tensor
        self.register_buffer("home", torch.tensor(order, dtype=torch.long).argsort(), persistent=False)

    def groups(self) -> list[Group]:
        """All groups, on the module's device."""
        return [
            Group(k, at, self.get_buffer(f"members{i}"), self.get_buffer(f"sizes{i}"), self.get_buffer(f"valid{i}"))
            for i, (k, at) in enumerate(self._places)
        ]

    def split(self, states: Tensor) -> list[Tensor]:
        """(batch, columns of the group) a group for (batch, columns)."""
        return [states[:, g.members] for g in self.groups()]

    def join(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        """(batch, columns) again; `like` says the rows and the type where there is no column."""
        return torch.cat(list(parts), dim=1)[:, self.home] if parts else like

    def shown(self, states: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(batch, width) coordinates of (batch, columns) states: one-hot in {-1, 1}; 0 where (batch, columns) hidden."""
        out = [torch.zeros(len(states), 0, device=states.device)]
        for group in self.groups():
            own = states[:, group.members]
            if group.states == 2:
                part = (2.0 * own - 1).unsqueeze(2)
            else:
                part = ((2 * one_hot(own, group.states) - 1) * group.valid).permute(1, 2, 0)
            if hidden is not None:
                part = part * (~hidden[:, group.members]).unsqueeze(2)
            out.append(part.flatten(1))
        return torch.cat(out, dim=1)

    def chances(self, logits: Tensor) -> list[Tensor]:
        """(states, batch, columns) probabilities a group for (batch, width) logits, 0 where padded."""
        out = []
        for group in self.groups():
            part = logits[:, group.at]
            if group.states == 2:
                out.append(torch.stack([(-part).sigmoid(), part.sigmoid()]))
            else:
                part = part.unflatten(1, (len(group.members), -1)).permute(2, 0, 1)
                out.append((part + group.valid.log()).softmax(dim=0))
        return out

    def start_bias(self, shares: Sequence[NDArray[np.float64]]) -> Tensor:
        """(width,) logits of an untrained network that draws states with their shares."""
        out = torch.zeros(self.width)
        for group in self.groups():
            table = torch.zeros(len(group.members), group.states)
            for row, i in enumerate(group.members.tolist()):
                table[row, : len(shares[i])] = torch.as_tensor(shares[i]).clamp_min(SMALLEST_SHARE).log()
            table = table[:, 1:] - table[:, :1] if group.states == 2 else table
            out[group.at] = table.flatten()
        return out


def _valid(sizes: Tensor, states: int) -> Tensor:
    return (torch.arange(states)[:, None] < sizes).float().unsqueeze(1)


def one_hot(states: Tensor, size: int) -> Tensor:
    """(size, batch, columns) float32 for (batch, columns) states."""
    return (states == torch.arange(size, device=states.device)[:, None, None]).float()


def drawn_states(chances: Tensor, noise: torch.Generator) -> Tensor:
    """(batch, columns) states drawn with (states, batch, columns) probabilities, 0 where padded."""
    edges = chances.cumsum(dim=0)
    uniform = torch.rand(edges.shape[1:], generator=noise, device=edges.device) * edges[-1]
    # Strictly below the last edge, and padded states repeat it: none of them is ever drawn.
    return (uniform >= edges[:-1]).sum(dim=0)
