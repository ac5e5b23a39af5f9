"""Rounds of forests against samples: the adversarial part of adversarial random forests.

The first forest tells real rows from rows whose columns are shuffled; each further one from what the leaves of the one
before it draw, until a forest can no longer tell them apart (Watson et al. 2023, algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.generators.arf.forest import Grid, Growth, grow_forest
from pipeline.generators.arf.leaves import Leaves
from pipeline.generators.seeds import derive_seed, stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@dataclass
class Rounds:
    """What came of the rounds.

    Attributes:
        leaves: Of the forest whose samples were hardest to tell from real rows.
        accuracy: Of each round's forest; the one of round k judges the samples of round k - 1.
        kept: Round of the forest that was kept.
        lost: Share of rows that are in no leaf of any tree, whose leaves were too small.
    """

    leaves: Leaves
    accuracy: list[float] = field(default_factory=list)
    kept: int = 0
    lost: float = 0.0


def adversarial_rounds(
    grid: Grid,
    real: NDArray[np.int64],
    subject: NDArray[np.integer],
    growth: Growth,
    *,
    most: int,
    margin: float,
    pseudo: float,
    seed: int,
    progress: Callable[[int], None],
) -> Rounds:
    """Grow forests on (n, d) real states until one of them is right in at most half of the rows.

    Args:
        grid: what the columns are.
        real: (n, d) states.
        subject: (n,) whose each row is, as numbers from 0.
        growth: how a forest is grown.
        most: rounds, at most.
        margin: how far above one half an accuracy counts as chance.
        pseudo: see `Leaves`.
        seed: of everything random.
        progress: called after each round with its number.
    """
    rng = stream(seed, "shuffle")
    made_up = np.stack([rng.permutation(real[:, j]) for j in range(real.shape[1])], axis=1)
    forest, accuracy = grow_forest(grid, real, made_up, subject, growth, derive_seed(seed, "round", 0))
    found = Rounds(Leaves.of(grid, real, forest, pseudo), [accuracy])
    found.lost = float(np.mean(~np.any([b.leaf >= 0 for b in forest], axis=0)))
    leaves, best = found.leaves, np.inf
    progress(1)
    for k in range(1, most):
        made_up = leaves.draw(len(real), stream(seed, "draw", k))
        forest, accuracy = grow_forest(grid, real, made_up, subject, growth, derive_seed(seed, "round", k))
        found.accuracy.append(accuracy)
        progress(k + 1)
        if accuracy >= best:
            break
        best, found.leaves, found.kept = accuracy, leaves, k - 1
        if accuracy <= 0.5 + margin:
            break
        leaves = Leaves.of(grid, real, forest, pseudo)
    return found
