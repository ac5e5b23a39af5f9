"""Rows drawn from the network, column by column in any order, what is known first.

The network is in `network.py`; which order is taken is the generator's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.generators.argn.units import GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.generators.argn.network import Network


def draw_parts(
    network: Network,
    n: int,
    order: Sequence[int],
    known: Mapping[int, NDArray[np.int64]],
    random: torch.Generator,
) -> tuple[NDArray[np.int64], Tensor]:
    """(n, columns) parts, and (n, width) what they add together.

    Args:
        network: trained.
        n: rows.
        order: columns in the order of drawing.
        known: column to its (n,) parts, -1 where nothing is known after all; these come first.
        random: random numbers.
    """
    place = {i: k for k, i in enumerate(network.finer)}
    where = {i: (layer, row) for layer, part in enumerate(network.classes) for row, i in enumerate(part)}
    total = network.base.value.expand(n, -1)
    parts = np.full((n, len(network.columns)), -1, dtype=np.int64)
    for i, given in known.items():
        parts[:, i] = given
        total = total + _added(network, i, torch.as_tensor(given))
    for i in [i for i in order if i not in known]:
        layer, row = where[i]
        hidden = functional.relu(network.middle.one(functional.relu(total), i))
        first = _categorical(network.out[layer].one(hidden, row)[:, : network.columns[i].size], random)  # type: ignore[operator]
        digit = network.embedding(first + network.start[i])
        second = torch.zeros_like(first)
        if i in place:
            k = place[i]
            hidden = functional.relu(network.finer_middle.one(functional.relu(total + digit), k))
            inside = network.log_inside[first + network.inside_start[k]]
            second = _categorical(network.finer_out.one(hidden, k) + inside, random)
        part = torch.as_tensor(network.columns[i].parts())[first, second.clamp_max(network.columns[i].seconds - 1)]
        parts[:, i] = part.numpy()
        total = total + digit + network.place.one(network.features[i, part], i)
    return parts, total


def draw_codes(network: Network, total: Tensor, random: torch.Generator) -> NDArray[np.int16]:
    """(n, groups, 16) counts, group after group, given (n, width) what is known of the columns."""
    n = len(total)
    out = torch.zeros(n, len(network.groups), GROUP)
    tilted = {g: k for k, g in enumerate(network.counted)}
    links: Tensor = network.code_links.weight
    mask = network.code_links.mask
    if mask is not None:
        links = links * mask
    for g in range(len(network.groups)):
        hidden = functional.relu(network.code_middle.one(functional.relu(total), g))
        logits = network.code_out.one(hidden, g)
        chance = torch.rand(n, GROUP, generator=random)
        present = torch.zeros(n, GROUP)
        for k in range(len(network.groups[g].places)):
            present[:, k] = (chance[:, k] < torch.sigmoid(logits[:, k] + present @ links[g][:, k])).to(torch.float32)
        if g in tilted:
            tilt = network.code_tilt.one(hidden, tilted[g])
            logs = torch.arange(1, network.log_counts.shape[2] + 1).log()
            row, code = torch.nonzero(present, as_tuple=True)
            present[row, code] = 1.0 + _categorical(
                network.log_counts[tilted[g], code] + tilt[row, code].unsqueeze(1) * logs, random
            ).to(torch.float32)
        out[:, g] = present
        total = total + network.code_in.one(torch.log1p(present) / np.log(2), g)
    return out.to(torch.int16).numpy()


def _added(network: Network, i: int, part: Tensor) -> Tensor:
    """(n, width) what column `i` adds for (n,) parts, nothing where -1."""
    known = (part >= 0).unsqueeze(1)
    at = part.clamp_min(0)
    digit = network.embedding(network.first[i, at] + network.start[i])
    return (digit + network.place.one(network.features[i, at], i)) * known


def _categorical(logits: Tensor, random: torch.Generator) -> Tensor:
    """(n,) states drawn from (n, states) logits."""
    edges = torch.softmax(logits, dim=1).cumsum(dim=1)
    chance = torch.rand(len(logits), 1, generator=random) * edges[:, -1:]
    return (chance >= edges).sum(dim=1).clamp_max(logits.shape[1] - 1)
