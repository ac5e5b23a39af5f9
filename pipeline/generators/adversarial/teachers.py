"""Teachers of PATE-GAN: many small classifiers, each of its own subjects' rows against drawn ones, trained all at once.

A teacher is a logistic regression on a row's coordinates, standardised by what the encoder knows, or on squares of random
projections of them, which see pairs of values: where margins are known already, pairs are all that there is to be told. Only
this module holds real rows; what leaves it is how many teachers vote, and even that only for `pipeline/privacy/pate.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.generators.adversarial.vector import RowBlocks, RowTensors

BETAS = (0.9, 0.999)
TINY = 1e-8
FEATURE_SCALE = 4.0
MIDDLE_OF = 2_048
"""Drawn rows that a teacher's middle score is taken over."""


class Teachers:
    """`count` logistic regressions side by side.

    Nothing of one teacher's rows reaches another's weights: all see the same drawn rows, and each draws its own rows.

    Args:
        blocks: the layout of vectors.
        data: the real rows.
        teacher: (rows,) teacher of each row, from 0 on.
        count: number of teachers; one without rows votes 0.
        middle: (width,) mean of each coordinate, as the encoder knows it.
        spread: (width,) its standard deviation, above 0.
        features: squares of random projections; 0: the coordinates themselves.
        rows: own rows that each looks at in a step, drawn with replacement.
        rate: learning rate of Adam.
        decay: ridge.
        halves: a vote is for the half of drawn rows that a teacher finds more real, and not for a score above 0: of few
            rows a teacher learns them by heart and takes every drawn row for drawn, and labels that are all alike say nothing.
        public: draws the features, which are no secret; on the CPU.
        random: draws rows, where the data are.

    Attributes:
        weights: (count, inputs) of the regressions; the last input is 1.
        bar: (count,) score above which a teacher votes for a row.
    """

    def __init__(
        self,
        blocks: RowBlocks,
        data: RowTensors,
        teacher: NDArray[np.integer],
        count: int,
        *,
        middle: Tensor,
        spread: Tensor,
        features: int,
        rows: int,
        rate: float,
        decay: float,
        halves: bool,
        public: torch.Generator,
        random: torch.Generator,
    ) -> None:
        self.blocks, self.data, self.count = blocks, data, count
        self.rows, self.rate, self.decay, self.halves, self.random = rows, rate, decay, halves, random
        device = data.places.device
        held = np.bincount(teacher, minlength=count)
        self.order = torch.as_tensor(np.argsort(teacher, kind="stable"), device=device)
        self.held = torch.as_tensor(held, device=device)
        self.first = torch.as_tensor(np.cumsum(held) - held, device=device)
        self.middle, self.spread = middle, spread
        scale = max(1, blocks.width) ** 0.5
        self.directions = (torch.randn(blocks.width, features, generator=public) / scale).to(device)
        self.weights = torch.zeros(count, (features or blocks.width) + 1, device=device)
        self.bar = torch.zeros(count, device=device)

    def train(self, drawn: Tensor, steps: int) -> None:
        """Adam steps of all teachers on their own rows against (m, width) drawn ones, from the weights of the last time.

        Each minimises the mean of softplus(-score) over its rows, of softplus(score) over drawn ones, and the ridge.
        """
        first, second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        has = (self.held > 0).to(drawn.dtype)[:, None]
        for k, part in enumerate(self.inputs(drawn).tensor_split(steps)):
            chance = torch.rand(self.count, self.rows, generator=self.random, device=drawn.device)
            place = self.first[:, None] + (chance * self.held[:, None]).long()
            # A teacher without rows looks at somebody else's with weight 0, since all are gathered at once.
            at = self.order[place.clamp_max(len(self.order) - 1).flatten()]
            own = self.inputs(self.blocks.real(self.data.take(at))).view(self.count, self.rows, -1)
            missed = torch.sigmoid(-torch.einsum("krf,kf->kr", own, self.weights)) * has / self.rows
            taken = torch.sigmoid(part @ self.weights.T) / max(1, len(part))
            slope = taken.T @ part - torch.einsum("kr,krf->kf", missed, own) + self.decay * self.weights
            first = BETAS[0] * first + (1 - BETAS[0]) * slope
            second = BETAS[1] * second + (1 - BETAS[1]) * slope.square()
            mean, spread = first / (1 - BETAS[0] ** (k + 1)), second / (1 - BETAS[1] ** (k + 1))
            self.weights = self.weights - self.rate * mean / (spread.sqrt() + TINY)
        if self.halves:
            self.bar = (self.inputs(drawn[:MIDDLE_OF]) @ self.weights.T).median(dim=0).values

    def votes(self, drawn: Tensor) -> Tensor:
        """(n,) number of teachers that take each of (n, width) drawn rows for real."""
        votes = (self.inputs(drawn) @ self.weights.T > self.bar) & (self.held > 0)
        return votes.sum(dim=1)

    def inputs(self, vectors: Tensor) -> Tensor:
        """(n, inputs) of the regressions for (n, width) vectors."""
        seen = (vectors - self.middle) / self.spread
        if self.directions.shape[1]:
            seen = FEATURE_SCALE * ((seen @ self.directions).square() - 1) / self.directions.shape[1] ** 0.5
        return torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
