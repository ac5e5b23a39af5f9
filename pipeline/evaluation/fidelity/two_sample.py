"""Two samples against each other: all distances between them, the U-statistics on those, and errors by subject.

Energy distance and maximum mean discrepancy are one statistic on different matrices (`energy.py`); the jackknife over
groups of subjects also serves figures that have no such form (`frechet.py`, `components.py`).
Nearest neighbours in large samples are in `pipeline.evaluation.neighbours`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.distances import Points

PAIR_ROWS = 2_000
"""Rows a side of which all pairs are looked at."""
GROUPS = 20
"""Groups of subjects of a side that the jackknife leaves out in turn."""


def squared_distances(left: Points, right: Points, device: str) -> NDArray[np.float32]:
    """(n, m) float32 squared distances, the same distance as that of the nearest neighbours up to `rounding`; none < 0."""
    found = left.against(right.loaded(device), device).cpu().numpy()
    np.maximum(found, 0.0, out=found)
    return np.divide(found, max(left.parts, 1), out=found)


def rounding(left: Points, right: Points) -> float:
    """How far `squared_distances` may lie from the exact ones."""
    return left.slack(right) / max(left.parts, 1)


def small_draws(ctx: EvaluationContext) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The matched draws, rows of holdout and of synthetic cohort, cut at random to `PAIR_ROWS` a side."""

    def cut(rows: NDArray[np.int64], *name: str | int) -> NDArray[np.int64]:
        return rows[ctx.sides.sample(len(rows), PAIR_ROWS, "pairs", *name)]

    return [
        (cut(d.real, "holdout", r), cut(d.synthetic, "synthetic", ctx.replicate, r)) for r, d in enumerate(ctx.matched)
    ]


@dataclass(frozen=True)
class Matrices:
    """One symmetric kernel (or distance) on two samples of n and m rows.

    Attributes:
        within_left: (n, n); the diagonal is not read.
        within_right: (m, m); the diagonal is not read.
        across: (n, m).
    """

    within_left: NDArray[np.floating]
    within_right: NDArray[np.floating]
    across: NDArray[np.floating]


@dataclass(frozen=True)
class TwoSample:
    """A figure and its standard error."""

    value: float
    se: float


@dataclass(frozen=True)
class Within:
    """What a discrepancy needs of one side's own (n, n) matrix.

    Attributes:
        mean: Mean off the diagonal.
        without: (subjects,) the same without each subject.
        sizes: (subjects,) rows of each subject.
        groups: (n,) number of each row's subject.
    """

    mean: float
    without: NDArray[np.float64]
    sizes: NDArray[np.int64]
    groups: NDArray[np.int64]


def within(matrix: NDArray[np.floating], clusters: NDArray[np.integer]) -> Within:
    """Means over pairs of one side: (n, n) `matrix`, (n,) subject numbers; the diagonal is not read."""
    n = len(matrix)
    groups = np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(groups)
    diagonal = np.diagonal(matrix).astype(np.float64)
    rows = matrix.sum(axis=1, dtype=np.float64) - diagonal
    total = float(rows.sum())
    by_subject = np.bincount(groups, weights=rows)
    inside = np.zeros(len(sizes))
    if len(sizes) < n:
        order = np.argsort(groups, kind="stable")
        starts = np.r_[0, np.cumsum(sizes)[:-1]]
        for g in np.flatnonzero(sizes > 1):
            own = order[starts[g] : starts[g] + sizes[g]]
            inside[g] = matrix[np.ix_(own, own)].sum(dtype=np.float64) - diagonal[own].sum()
    left = n - sizes
    without = (total - 2 * by_subject + inside) / np.maximum(left * (left - 1), 1)
    return Within(total / max(n * (n - 1), 1), without, sizes, groups)


def discrepancy(kernel: Matrices, left_clusters: NDArray[np.integer], right_clusters: NDArray[np.integer]) -> TwoSample:
    """Mean within left + mean within right - 2 mean across, the diagonals left out: unbiased, so it may be below 0.

    For a positive definite kernel this is the squared maximum mean discrepancy (Gretton et al. 2012, equation 3); for
    minus a distance of negative type it is the energy distance (Sejdinovic et al. 2013). The error is the jackknife
    over subjects of both sides: about right far from 0, up to 1.4 times too wide at 0, where the statistic is
    degenerate.

    Args:
        kernel: The matrices, at least two rows a side.
        left_clusters: (n,) subject numbers.
        right_clusters: (m,) subject numbers.
    """
    return between(
        within(kernel.within_left, left_clusters), within(kernel.within_right, right_clusters), kernel.across
    )


def between(left: Within, right: Within, kernel: NDArray[np.floating]) -> TwoSample:
    """`discrepancy` from what was taken from each side's own matrix and the (n, m) kernel across the sides."""
    n, m = kernel.shape
    across = float(kernel.sum(dtype=np.float64))
    value = left.mean + right.mean - 2 * across / (n * m)
    rows = np.bincount(left.groups, weights=kernel.sum(axis=1, dtype=np.float64))
    columns = np.bincount(right.groups, weights=kernel.sum(axis=0, dtype=np.float64))
    less_left = left.without + right.mean - 2 * (across - rows) / np.maximum((n - left.sizes) * m, 1)
    less_right = left.mean + right.without - 2 * (across - columns) / np.maximum((m - right.sizes) * n, 1)
    return TwoSample(value, float(np.sqrt(_jackknife(less_left) + _jackknife(less_right))))


def permutation_p(
    kernel: Matrices,
    left_clusters: NDArray[np.integer],
    right_clusters: NDArray[np.integer],
    draws: int,
    rng: np.random.Generator,
) -> float:
    """Probability of a discrepancy at least as large if the labels meant nothing: whole subjects change sides.

    Every permutation is read off one pooled matrix (two products), never computed anew. (1 + hits) / (1 + draws).
    """
    n, m = kernel.across.shape
    pooled = np.empty((n + m, n + m), dtype=np.float32)
    pooled[:n, :n], pooled[n:, n:] = kernel.within_left, kernel.within_right
    pooled[:n, n:], pooled[n:, :n] = kernel.across, kernel.across.T
    np.fill_diagonal(pooled, 0.0)
    groups = np.concatenate(
        [np.unique(left_clusters, return_inverse=True)[1], np.unique(right_clusters, return_inverse=True)[1] + n]
    )
    groups = np.unique(groups, return_inverse=True)[1]
    subjects = len(np.unique(groups[:n]))
    sides = np.zeros((draws + 1, n + m), dtype=np.float32)
    sides[0, :n] = 1.0
    for b in range(1, draws + 1):
        chosen = np.zeros(int(groups.max()) + 1, dtype=np.float32)
        chosen[rng.permutation(len(chosen))[:subjects]] = 1.0
        sides[b] = chosen[groups]
    product = sides @ pooled
    here = sides.sum(axis=1, dtype=np.float64)
    there = n + m - here
    inside = np.einsum("ij,ij->i", product, sides, dtype=np.float64)
    reach = product.sum(axis=1, dtype=np.float64)
    outside = float(pooled.sum(dtype=np.float64)) - 2 * reach + inside
    values = (
        inside / np.maximum(here * (here - 1), 1)
        + outside / np.maximum(there * (there - 1), 1)
        - 2 * (reach - inside) / np.maximum(here * there, 1)
    )
    return float((1 + (values[1:] >= values[0] - 1e-9 * abs(values[0])).sum()) / (draws + 1))


def grouped_error(
    figure: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.float64]],
    left_clusters: NDArray[np.integer],
    right_clusters: NDArray[np.integer],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Standard errors by the delete-a-group jackknife: a twentieth of a side's subjects is left out at a time.

    Args:
        figure: Gives (q,) numbers from the rows that are kept of the left and of the right side.
        left_clusters: (n,) subject numbers.
        right_clusters: (m,) subject numbers.
        rng: Deals the subjects into groups.

    Source: Efron and Tibshirani 1993, section 11.5.
    """
    everyone = np.ones(len(left_clusters), dtype=bool), np.ones(len(right_clusters), dtype=bool)
    variance = np.zeros(1)
    for side, clusters in enumerate((left_clusters, right_clusters)):
        number = np.unique(clusters, return_inverse=True)[1]
        groups = min(GROUPS, int(number.max()) + 1)
        if groups < 2:
            return np.full(1, np.nan)
        dealt = (rng.permutation(int(number.max()) + 1) % groups)[number]
        values = []
        for g in range(groups):
            kept = list(everyone)
            kept[side] = dealt != g
            values.append(figure(kept[0], kept[1]))
        spread = np.asarray(values, dtype=np.float64)
        variance = variance + (groups - 1) / groups * ((spread - spread.mean(axis=0)) ** 2).sum(axis=0)
    return np.sqrt(variance)


def mean_error(contributions: NDArray[np.generic], clusters: NDArray[np.integer]) -> float:
    """Standard error of the mean of (n,) contributions, rows of one subject taken together; 0 for a single subject."""
    number = np.unique(clusters, return_inverse=True)[1]
    given = np.asarray(contributions, dtype=np.float64)
    sums = np.bincount(number, weights=given - given.mean())
    subjects = len(sums)
    if subjects < 2:
        return 0.0
    return float(np.sqrt(subjects / (subjects - 1) * (sums @ sums)) / len(number))


def _jackknife(values: NDArray[np.float64]) -> float:
    size = len(values)
    return (size - 1) / size * float(((values - values.mean()) ** 2).sum())
