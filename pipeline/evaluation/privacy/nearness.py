"""Comparisons of nearest distances that do not depend on how many rows a side has.

A larger side lies nearer to everybody, so two sides may only be compared at the same number of rows. `nearer` gives
the mean over all subsamples of a common size in closed form, so nothing is drawn and no noise added; `dealt` deals out
disjoint subsamples where whole distances are needed. What is made of it is in `distances.py` and `adversarial.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.neighbours import Neighbours, knn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName

DEALS = 5
"""Disjoint subsamples that are dealt out at most."""
HEADROOM = 2
"""A pool holds at most so many times the common size: with six neighbours of each row known, the chance that a
subsample of at least every second row misses them all is below 1/64."""


@dataclass(frozen=True)
class Listed:
    """The nearest rows of a pool for some query rows, and how the pool is thinned.

    Attributes:
        distance: (n, k) distances, ascending.
        index: (n, k) positions of these rows in the side.
        total: Rows of the pool that can be neighbours of a query row.
        size: How many of them a subsample keeps.
    """

    distance: NDArray[np.float64]
    index: NDArray[np.int64]
    total: int
    size: int

    def untouched(self) -> NDArray[np.float64]:
        """(k + 1,) chance that a subsample keeps none of the c nearest rows, for c = 0 ... k (hypergeometric)."""
        k = self.distance.shape[1]
        kept = np.minimum(self.size / np.maximum(self.total - np.arange(k), 1), 1.0)
        return np.concatenate([[1.0], np.cumprod(1.0 - kept)])


def listed(ctx: EvaluationContext, query: PartName, reference: PartName, size: int) -> Listed:
    """Nearest rows of `reference` for the target rows of `query`, to be thinned to `size` rows.

    A row is none of its own neighbours, and belongs to every subsample of its own side.
    """
    within, own = ctx.rows(reference, "reference"), int(query == reference)
    if len(within) <= HEADROOM * size:
        found = ctx.near(query, reference)
        return Listed(found.distance, found.index, len(within) - own, size - own)
    keeper = ctx if "S" in (query, reference) else ctx.sides
    pool = _thinned(ctx, reference, HEADROOM * size)
    found = keeper.once(f"priv/near/{query}/{reference}/{len(pool)}", lambda: _near(ctx, query, reference, pool))
    return Listed(found.distance, found.index, len(pool) - own, size - own)


def nearer(a: Listed, b: Listed) -> NDArray[np.float64]:
    """(n,) chance that the nearest row of a subsample of `a` is nearer than that of `b`; a tie counts one half.

    The mean over all subsamples of both. What lies beyond the known neighbours is bounded from either side and the
    middle taken, so `nearer(a, b)` and `nearer(b, a)` add up to 1.
    """
    if not a.distance.shape[1] or not b.distance.shape[1]:
        return np.full(len(a.distance), 0.5)
    return 0.5 * (1.0 + _first(a, b) - _first(b, a))


def _first(a: Listed, b: Listed) -> NDArray[np.float64]:
    """As `nearer`, as if all rows beyond the known neighbours were as near as the last of them."""
    none_a, none_b = a.untouched(), b.untouched()
    chance = none_a[:-1] - none_a[1:]
    chance[-1] += none_a[-1]
    strict = (b.distance[:, None, :] < a.distance[:, :, None]).sum(axis=2)
    loose = (b.distance[:, None, :] <= a.distance[:, :, None]).sum(axis=2)
    won = 0.5 * (none_b[strict] + none_b[loose])
    return np.asarray(won @ chance)


def winners(ctx: EvaluationContext, a: Listed, b: Listed, sides: tuple[PartName, PartName]) -> NDArray[np.int64]:
    """(n,) number of the person to whom the nearest row of both pools belongs; people of the second count on.

    Query rows with the same winner are right or wrong together: they are one piece of evidence. Where both pools are
    equally near nobody wins, and the row has a number of its own.
    """
    people = [ctx.side(name).clusters for name in sides]
    if not b.distance.shape[1]:
        return people[0][a.index[:, 0]]
    if not a.distance.shape[1]:
        return people[1][b.index[:, 0]]
    first, second = people[0][a.index[:, 0]], people[1][b.index[:, 0]]
    second = second + len(people[0])
    nobody = np.arange(len(first)) + len(people[0]) + len(people[1])
    left, right = a.distance[:, 0], b.distance[:, 0]
    return np.where(left < right, first, np.where(right < left, second, nobody))


def standard_error(values: NDArray[np.floating], *groupings: NDArray[np.integer]) -> float:
    """Standard error of a mean of values in [-1, 1] that move together within groups.

    Args:
        values: (n,) contributions.
        groupings: Each (n,) numbers: contributions of the same person, with the same nearest person, and so on.

    Returns:
        From the sums over groups, whichever grouping gives the greatest error. A quarter over the square of Kish's
        effective number n^2 / sum(group size^2) is added to the variance, so that one group (a cohort of one repeated
        row) is no certainty.
    """
    n = len(values)
    if not n:
        return float("nan")
    away = values - values.mean()
    together = max(float((np.bincount(g, weights=away) ** 2).sum()) for g in groupings) / n**2
    effective = min(n**2 / float((np.bincount(g) ** 2.0).sum()) for g in groupings)
    return float(np.sqrt(together + 0.25 / effective**2))


def dealt(ctx: EvaluationContext, query: PartName, reference: PartName, size: int) -> list[Neighbours]:
    """The two nearest rows among disjoint subsamples of `size` rows of `reference`, at most `DEALS` of them."""
    whole = ctx.rows(reference, "reference")
    if size == len(whole) and query != reference:
        return [ctx.near(query, reference, k=2)]
    keeper = ctx if "S" in (query, reference) else ctx.sides

    def make() -> list[Neighbours]:
        order = ctx.sides.rng("priv/deal", reference).permutation(whole)
        deals = max(1, min(DEALS, len(whole) // size))
        return [_near(ctx, query, reference, np.sort(order[i * size : (i + 1) * size]), k=2) for i in range(deals)]

    return keeper.once(f"priv/dealt/{query}/{reference}/{size}", make)


def _thinned(ctx: EvaluationContext, reference: PartName, size: int) -> NDArray[np.int64]:
    within = ctx.rows(reference, "reference")
    own = (ctx.replicate,) if reference == "S" else ()
    return within[ctx.sides.sample(len(within), size, "priv/thinned", reference, *own)]


def _near(
    ctx: EvaluationContext, query: PartName, reference: PartName, pool: NDArray[np.int64], k: int = 6
) -> Neighbours:
    targets = ctx.rows(query)
    own = None
    if query == reference:
        place = np.minimum(np.searchsorted(pool, targets), len(pool) - 1)
        own = np.where(pool[place] == targets, place, -1)
    found = knn(
        ctx.side(query).points.take(targets), ctx.side(reference).points.take(pool), k, own=own, device=ctx.plan.device
    )
    return Neighbours(found.distance, pool[found.index] if found.index.size else found.index)
