"""Energy distance and maximum mean discrepancy: are the two clouds of rows the same?

Both see rows through the distance of the nearest neighbours (root of the mean of squared column differences and code
dissimilarities), which is of strictly negative type: the population value is 0 only for equal distributions. The plain
Gower distance, a sum over columns, is not: its energy is the sum of those of the single columns, blind to how columns
go together. Both are unbiased U-statistics; what they rest on is in `two_sample.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.two_sample import (
    Matrices,
    Within,
    between,
    permutation_p,
    small_draws,
    squared_distances,
    within,
)
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.distances import Points
    from pipeline.evaluation.results import MetricResult

FEWEST = 20
BANDWIDTHS = 1_000
"""Training rows whose median distance sets the width of the kernel."""
MANY = 10_000
"""Rows a side above which the kernel is taken by random features of all rows, not by all pairs of 2,000."""
ENERGY = MetricSpec(
    id="fid.joint.energy",
    family="fidelity",
    direction=-1,
    range=(-np.inf, np.inf),
    needs=frozenset({"H", "S"}),
    version="1",
    title="Energy distance",
    caption="Twice the mean distance between holdout and synthetic rows, less the mean distances within each side. Lower "
    "is better; 0 is the null and is reached only by equal distributions (slightly below is noise). Unlike a mean "
    "distance it is not won by collapse.",
    source="Székely and Rizzo 2013, unbiased, root of the mean squared Gower distance",
    cost="B",
)
MMD2 = MetricSpec(
    id="fid.joint.mmd2",
    family="fidelity",
    direction=-1,
    range=(-np.inf, np.inf),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Maximum mean discrepancy (squared)",
    caption="Squared discrepancy under a Gaussian kernel of three widths (half, once and twice the median distance in "
    "training). Lower is better; the null is 0, and slightly below is noise.",
    source="Gretton et al. 2012, unbiased U-statistic",
    cost="B",
)
MMD2_P = MetricSpec(
    id="fid.joint.mmd2_p",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Chance of such a discrepancy",
    caption="Probability of a kernel discrepancy at least as large if holdout and synthetic rows came from one population, "
    "by permuting subjects. Small means distinguishable; with many rows any generator becomes so. Higher is better; "
    "under the null any value is as likely as any other (0.5 on average).",
    source="permutation test on one kernel matrix",
    cost="B",
)


@dataclass(frozen=True)
class Discrepancies:
    """Energy distance and kernel discrepancy with errors, and the permutation's p; on how many rows a side."""

    energy: float
    energy_se: float
    mmd2: float
    mmd2_se: float
    p: float
    n: int


@metric(ENERGY)
def energy(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over the matched draws."""
    found = _discrepancies(ctx)
    if isinstance(found, str):
        return [ENERGY.result(None, n=ctx.matched_size, null=0.0, note=found)]
    return [ENERGY.result(found.energy, se=found.energy_se, n=found.n, null=0.0)]


@metric(MMD2)
def mmd2(ctx: EvaluationContext) -> list[MetricResult]:
    """All pairs of up to 2,000 rows a side, or random features above 10,000."""
    found = _discrepancies(ctx)
    if isinstance(found, str):
        return [MMD2.result(None, n=ctx.matched_size, null=0.0, note=found)]
    if ctx.matched_size > MANY:
        from pipeline.evaluation.fidelity.random_features import featured

        many = featured(ctx, bandwidth(ctx.sides))
        note = "random Fourier features (1,024) on all rows"
        return [MMD2.result(many.value, se=many.se, n=ctx.matched_size, null=0.0, note=note)]
    return [MMD2.result(found.mmd2, se=found.mmd2_se, n=found.n, null=0.0)]


@metric(MMD2_P)
def mmd2_p(ctx: EvaluationContext) -> list[MetricResult]:
    """Whole subjects change sides, on the first matched draw (at most 2,000 rows a side)."""
    found = _discrepancies(ctx)
    if isinstance(found, str):
        return [MMD2_P.result(None, n=ctx.matched_size, null=0.5, note=found)]
    return [MMD2_P.result(found.p, n=found.n, null=0.5)]


def mixture_kernel(squared: NDArray[np.floating], width: float) -> NDArray[np.floating]:
    """Mean of Gaussian kernels exp(-d²/2σ²) with σ = 1/2, 1 and 2 times `width`: one exponential, then powers of it."""
    widest = np.exp(squared * (-1.0 / (8.0 * width * width)))
    middle = np.square(np.square(widest))
    widest += middle
    widest += np.square(np.square(middle, out=middle), out=middle)
    return np.divide(widest, 3.0, out=widest)


def bandwidth(sides: RealSides) -> float:
    """Median of the positive distances between training rows: the same width for every cohort."""

    def measure() -> float:
        points = sides.train.points.take(sides.sample(len(sides.train), BANDWIDTHS, "joint/bandwidth"))
        between = squared_distances(points, points, sides.plan.device)[np.triu_indices(len(points), k=1)]
        positive = between[between > 1e-6]
        return float(np.sqrt(np.median(positive))) if len(positive) else 1.0

    return sides.once("joint/bandwidth", measure)


def _discrepancies(ctx: EvaluationContext) -> Discrepancies | str:
    return ctx.once("joint/discrepancies", lambda: _measure(ctx))


def _measure(ctx: EvaluationContext) -> Discrepancies | str:
    if ctx.matched_size < FEWEST:
        return TooFew(ctx.matched_size, FEWEST, "rows a side")
    if not ctx.synthetic.points.parts:
        return "no column and no code"
    real, made, width = ctx.sides.holdout, ctx.synthetic, bandwidth(ctx.sides)
    device = ctx.plan.device
    energies, kernels, p = [], [], 1.0
    for r, (left, right) in enumerate(small_draws(ctx)):
        x, y = real.points.take(left), made.points.take(right)
        clusters = real.clusters[left], made.clusters[right]
        # What is taken from the holdout's own matrix is small; the matrices of all draws would be 80 MB.
        own = partial(_own, x, clusters[0], width, device)
        first = ctx.sides.once(f"joint/within/{r}/{ctx.matched_size}", own)
        second = _own(y, clusters[1], width, device)
        squared = squared_distances(x, y, device)
        energies.append(between(first.energy, second.energy, -np.sqrt(squared)))
        across = mixture_kernel(squared, width)
        kernels.append(between(first.kernel, second.kernel, across))
        if r == 0:
            inside = [mixture_kernel(squared_distances(z, z, device), width) for z in (x, y)]
            rng = ctx.rng("fid.joint.mmd2", "permute")
            p = permutation_p(Matrices(inside[0], inside[1], across), *clusters, ctx.sides.profile.draws - 1, rng)
    return Discrepancies(
        float(np.mean([e.value for e in energies])),
        energies[0].se,
        float(np.mean([k.value for k in kernels])),
        kernels[0].se,
        p,
        len(left),
    )


@dataclass(frozen=True)
class _Own:
    """What is taken from one side's own distances and from its own kernel."""

    energy: Within
    kernel: Within


def _own(points: Points, clusters: NDArray[np.integer], width: float, device: str) -> _Own:
    squared = squared_distances(points, points, device)
    return _Own(within(-np.sqrt(squared), clusters), within(mixture_kernel(squared, width), clusters))
