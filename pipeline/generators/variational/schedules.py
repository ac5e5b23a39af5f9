"""How the weight of the KL term grows while a variational autoencoder trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Schedule = Literal["linear", "cyclical", "constant"]
RISING = 0.5
"""Share of a cycle over which beta rises (Fu et al. 2019, "Cyclical annealing schedule", R = 0.5)."""


@dataclass(frozen=True)
class BetaSchedule:
    """Weight of the KL term over a training.

    Attributes:
        beta: the weight in the end.
        kind: "constant"; "linear": from 0 to beta over the first `warmup` of the training (spec 2.3); "cyclical": from 0
            to beta over the first half of each of `cycles` equal cycles.
        warmup: share of the training.
        cycles: number of cycles.
    """

    beta: float
    kind: Schedule = "linear"
    warmup: float = 0.1
    cycles: int = 4

    def at(self, done: float) -> float:
        """The weight when the share `done` of the training is over; the full one at the end."""
        if self.kind == "constant" or done >= 1:
            return self.beta
        if self.kind == "linear":
            return self.beta * (min(1.0, done / self.warmup) if self.warmup else 1.0)
        return self.beta * min(1.0, (done * self.cycles % 1.0) / RISING)

    @property
    def settled(self) -> float:
        """Share of the training after which the weight no longer changes: early stopping looks from then on."""
        if self.kind == "constant":
            return 0.0
        return self.warmup if self.kind == "linear" else 1 - (1 - RISING) / self.cycles
