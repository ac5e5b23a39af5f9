"""Who could be known again: how many real rows have a drawn row nearer to them than any other real row (Yoon et al. 2020).

ADS-GAN measures this while it trains and keeps its rows away from real ones by it. Columns count with the inverse of their
entropy, so that an unusual value weighs more than a common one (section III-B of the paper). The figure that judges finished
rows against a holdout is `pipeline/evaluation/privacy/adversarial.py: identifiability`, without weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.generators.adversarial.vector import RowBlocks, RowTensors

PARTS = 16
"""Parts of a number's range that its entropy is taken over."""
LEAST_ENTROPY = 0.1
"""Nats below which an entropy counts as that much, about a flag of one in fifty rows: a rarer one would outweigh all else."""
CHUNK = 1_024


def column_weights(blocks: RowBlocks, data: RowTensors) -> Tensor:
    """(width,) what each coordinate of a vector is multiplied by before distances are taken, on the device of `data`.

    A column's weight is one over its entropy in nats, 0 where it has none. The range of a number and a mismatch of levels both
    count 1 before that: places lie between -1 and 1, and two different one-hots are sqrt(2) apart.
    """
    places, states, *codes = blocks.real(data).split(blocks.widths, dim=1)
    cells = ((places.clamp(-1, 1) + 1) * (PARTS / 2)).long().clamp_max(PARTS - 1)
    of_places = [0.5 * _weight(torch.bincount(part, minlength=PARTS)) for part in cells.unbind(dim=1)]
    of_states = [
        (0.5**0.5 * _weight(part.sum(dim=0))).expand(part.shape[1])
        for part in states.split(blocks.softmaxes.sizes, dim=1)
    ]
    of_codes = [
        _weight(torch.stack([(column > 0).sum(), (column <= 0).sum()]))
        for part in codes
        for column in part.unbind(dim=1)
    ]
    found = [*of_places, *of_states, *of_codes]
    return torch.cat([w.reshape(-1) for w in found]) if found else places.new_zeros(0)


def _weight(counts: Tensor) -> Tensor:
    """() one over the entropy of (k,) counts; 0 where all rows are alike."""
    share = counts[counts > 0].float() / counts.sum()
    entropy = -(share * share.log()).sum()
    return torch.where(entropy > 1e-6, 1 / entropy.clamp_min(LEAST_ENTROPY), 0.0)


def nearest(rows: Tensor, among: Tensor, *, same: bool = False) -> Tensor:
    """(n,) position in (m, width) `among` of the row nearest to each of (n, width) `rows`.

    Args:
        rows: whose neighbours are looked for.
        among: the neighbours; at least one, or two if they are the `same` rows.
        same: they are the same rows in the same order, and no row is its own neighbour.
    """
    with torch.no_grad():
        length, out = among.square().sum(dim=1), []
        for start in range(0, len(rows), CHUNK):
            # The length of the query row is the same for all of its neighbours.
            distance = length - 2 * rows[start : start + CHUNK] @ among.T
            if same:
                own = torch.arange(len(distance), device=rows.device)
                distance[own, start + own] = torch.inf
            out.append(distance.argmin(dim=1))
        return torch.cat(out) if out else torch.zeros(0, dtype=torch.long, device=rows.device)


def spacing(rows: Tensor) -> Tensor:
    """(n,) distance of each of (n, width) rows to the nearest other one."""
    return _apart(rows, rows[nearest(rows, rows, same=True)])


def identifiability(real: Tensor, drawn: Tensor) -> float:
    """Share of (n, width) real rows that a drawn row is nearer to than any other real row; a tie counts one half.

    Copies give 1, noise far from the data about 0. As many drawn rows that are as good as new real ones give about one half,
    since a drawn row is then as often the nearer one as another real row.

    Args:
        real: weighted vectors of real rows, at least two.
        drawn: (m, width) weighted vectors of drawn rows; at equal numbers the share can be compared.
    """
    own, other = spacing(real), _apart(real, drawn[nearest(real, drawn)])
    return float(((other < own).float() + 0.5 * (other == own).float()).mean())


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """(n,) Euclidean distances, row by row: exactly 0 for rows that are the same."""
    return (a - b).square().sum(dim=1).sqrt()
