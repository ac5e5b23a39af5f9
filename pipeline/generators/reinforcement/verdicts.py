"""Has the discriminator won or lost completely? Watched step by step, and what is done about it (spec 7.3, monitoring).

One that wins tells every drawn row from every real one: all rewards are alike and the policy learns nothing. One that
loses says the same of every row, or takes drawn rows for real ones and real ones for drawn: its rewards mislead.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Remedy = Literal["slower", "restart", "stop"]
WON = 0.99
"""Share of the rows told right, half of them real: above it nothing is left to learn from."""
LOST = 0.4
"""Share told right, below which it is worse than a coin."""
FLAT = 1e-3
"""Spread of the logits, below which it says the same of every row."""
REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "won": ("slower", "restart", "stop"),
    "lost": ("restart", "stop"),
    "not finite": ("restart", "stop"),
}
WORDS = {
    "won": "told all drawn rows from all real rows",
    "lost": "could tell nothing (or the wrong way round)",
    "not finite": "gave numbers that are not finite",
}
DONE = {
    "slower": "it now learns at a quarter of the rate, one step an iteration",
    "restart": "it was begun anew and shown rows from earlier on first",
    "stop": "the training was stopped",
}


@dataclass
class DiscriminatorWatch:
    """Counts steps on end in which a discriminator has won or lost completely.

    Attributes:
        patience: Steps on end that make a verdict.
        won: Steps on end won so far.
        lost: Steps on end lost so far.
        verdicts: How often each verdict was given.
    """

    patience: int
    won: int = 0
    lost: int = 0
    verdicts: dict[str, int] | None = None

    def see(self, right: float, spread: float) -> str:
        """Look at a step; gives "won", "lost", "not finite" or "" and begins to count anew after a verdict.

        Args:
            right: share of the step's rows that were told right, real and drawn ones weighed alike.
            spread: standard deviation of the logits over real and drawn rows.
        """
        if not (np.isfinite(right) and np.isfinite(spread)):
            return self._said("not finite")
        self.won = self.won + 1 if right >= WON else 0
        self.lost = self.lost + 1 if right <= LOST or spread <= FLAT else 0
        if self.won >= self.patience:
            return self._said("won")
        return self._said("lost") if self.lost >= self.patience else ""

    def remedy(self, verdict: str) -> Remedy:
        """What is to be done about a verdict, by how often it was given."""
        remedies = REMEDIES[verdict]
        return remedies[min((self.verdicts or {})[verdict], len(remedies)) - 1]

    def _said(self, verdict: str) -> str:
        self.won = self.lost = 0
        self.verdicts = self.verdicts or {}
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        return verdict

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)


def said(verdict: str, remedy: str, iteration: int, steps: int) -> str:
    """The sentence for people.

    Args:
        verdict: what was found.
        remedy: what was done about it; "" where the settings only ask for a report.
        iteration: when.
        steps: steps on end that it took.
    """
    long = "" if verdict == "not finite" else f" for {steps} steps on end"
    done = DONE.get(remedy, "nothing was done, as the settings ask")
    return f"Iteration {iteration}: the discriminator {WORDS[verdict]}{long}; {done}."
