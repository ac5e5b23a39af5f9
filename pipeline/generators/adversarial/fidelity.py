"""Which weights of a game are kept: how far drawn rows are from tuning rows in their margins and pairs of coordinates.

Losses of games do not say how good the rows are (spec decision 8). This costs two products of matrices a look; it does not see
dependence beyond pairs, which `pipeline/evaluation/` does.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_COORDINATES = 400
LEAST_SPREAD = 0.05
"""Coordinates are divided by their spread, but never by less: rare levels and codes would outweigh all else."""


class Fidelity:
    """Holds drawn rows against some real ones.

    Args:
        real: (n, width) vectors of rows that are not learned from.
    """

    def __init__(self, real: Tensor) -> None:
        spread = real.std(dim=0)
        # The coordinates that vary most, in order of place: the commonest of many codes.
        self.chosen = torch.sort(torch.topk(spread, min(MOST_COORDINATES, real.shape[1])).indices).values
        self.scale = spread[self.chosen].clamp_min(LEAST_SPREAD)
        self.middle = real[:, self.chosen].mean(dim=0)
        self.pairs = self._pairs(real)

    def _pairs(self, rows: Tensor) -> Tensor:
        part = (rows[:, self.chosen] - self.middle) / self.scale
        return part.T @ part / len(part)

    def __call__(self, drawn: Tensor) -> float:
        """Mean distance of the means (in spreads), and of all products of two coordinates; 0 for the same rows."""
        margins = ((drawn[:, self.chosen].mean(dim=0) - self.middle) / self.scale).abs().mean()
        return float(margins + (self._pairs(drawn) - self.pairs).abs().mean())
