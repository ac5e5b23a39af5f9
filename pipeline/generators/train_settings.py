"""How long and how fast a network is trained: settings of the loop in `training.py`, and what follows from them.

Nothing here knows the network, the rows or the loss; what is averaged over the steps is in `averaging.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

MOST_ROUNDS = 100
"""Rounds that a budget of steps is cut into, at most: each ends with a look at the tuning rows."""


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        epochs: passes over the training rows, at most.
        batch_size: rows a step.
        learning_rate: of AdamW at the start.
        weight_decay: of AdamW.
        clip: largest norm of a step's gradient.
        patience: rounds without improvement on the tuning rows after which training stops; 0 trains them all.
        plateau: rounds without improvement after which the learning rate is halved; 0 never.
        schedule: how the learning rate falls over the training: not at all, or to 0 along a half cosine or a line.
        least_gain: relative improvement that counts as one.
        settled: share of the training after which the loss is no longer annealed; early stopping looks from then on.
        poisson: each row comes into each batch by chance, `batch_size` rows expected, instead of once an epoch.
        steps: a budget of steps instead of `epochs`; a round is then as many epochs as make a hundredth of it.
        ema: decay of a running mean of the weights, which is what is judged, kept and given back; 0 takes the weights
            as they are.
        bfloat16_products: on a CPU with units for it, factors of matrix products are rounded to bfloat16 (sums stay
            float32): a third of their time. Other CPUs compute as ever.
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    clip: float = 1.0
    patience: int = 10
    plateau: int = 5
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    least_gain: float = 1e-4
    settled: float = 0.0
    poisson: bool = False
    steps: int | None = None
    ema: float = 0.0
    bfloat16_products: bool = False

    def epoch_steps(self, rows: int) -> int:
        """Steps of one pass over so many rows."""
        return max(1, -(-rows // self.batch_size))

    def total_steps(self, rows: int) -> int:
        """Steps of the whole training."""
        return max(1, self.steps) if self.steps is not None else self.epochs * self.epoch_steps(rows)

    def round_steps(self, rows: int) -> int:
        """Steps between two looks at the tuning rows: an epoch, or several where there is a budget of steps."""
        epoch = self.epoch_steps(rows)
        return epoch if self.steps is None else epoch * max(1, self.steps // (MOST_ROUNDS * epoch))

    def rounds(self, rows: int) -> int:
        """Rounds of the whole training; the last one may be shorter."""
        return -(-self.total_steps(rows) // self.round_steps(rows))

    def rate_factor(self, done: float) -> float:
        """What the learning rate is multiplied by when the share `done` of the training is over."""
        if self.schedule == "constant":
            return 1.0
        return float(0.5 * (1 + np.cos(np.pi * done))) if self.schedule == "cosine" else 1.0 - done
