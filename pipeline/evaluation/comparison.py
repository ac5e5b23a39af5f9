"""Which of two generators is better: paired where the same people were resampled, corrected for many comparisons.

Every generator of a cell is judged on the same holdout people, resampled alike, so differences are tested draw by draw;
what seeds add to the error of each stays its own. All pairs of a family are corrected together (Holm 1979). How the
leaderboard orders by it is in `leaderboard.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEVEL = 0.05


@dataclass(frozen=True)
class Measured:
    """A figure of one generator, higher = more of it.

    Attributes:
        value: The mean over seeds.
        se: Its standard error; 0 where it has none.
        draws: Bootstrap values of the mean; None if they are not shared with other generators.
    """

    value: float
    se: float = 0.0
    draws: Sequence[float] | None = None


def difference_error(a: Measured, b: Measured) -> float:
    """Standard error of a - b: of the paired draws where both have them, plus what seeds add to either.

    Without paired draws the two are taken as independent, which is cautious: they share their people.
    """
    if a.draws is None or b.draws is None or len(a.draws) != len(b.draws) or len(a.draws) < 2:
        return float(np.hypot(a.se, b.se))
    left, right = np.asarray(a.draws, dtype=np.float64), np.asarray(b.draws, dtype=np.float64)
    seeds = sum(max(m.se**2 - float(d.var(ddof=1)), 0.0) for m, d in ((a, left), (b, right)))
    return float(np.sqrt((left - right).var(ddof=1) + seeds))


def p_value(a: Measured, b: Measured) -> float:
    """Two-sided chance of so large a difference between equals (normal); 1 where both are the same number."""
    from scipy.stats import norm

    gap, error = abs(a.value - b.value), difference_error(a, b)
    if gap == 0:
        return 1.0
    return float(2 * norm.sf(gap / error)) if error > 0 else 0.0


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order given."""
    order = np.argsort(np.asarray(values), kind="stable")
    adjusted = [1.0] * len(values)
    running = 0.0
    for rank, place in enumerate(order):
        running = max(running, (len(values) - rank) * values[int(place)])
        adjusted[int(place)] = min(running, 1.0)
    return adjusted


def certainly_more(figures: Mapping[str, Measured], level: float = LEVEL) -> set[tuple[str, str]]:
    """Pairs (a, b) of names in which a certainly has more than b, corrected over all pairs."""
    pairs = list(combinations(sorted(figures), 2))
    adjusted = holm([p_value(figures[a], figures[b]) for a, b in pairs])
    found = set()
    for (a, b), p in zip(pairs, adjusted, strict=True):
        if p < level:
            found.add((a, b) if figures[a].value > figures[b].value else (b, a))
    return found
