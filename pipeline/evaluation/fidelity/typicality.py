"""Alpha-precision and beta-recall: are synthetic rows as typical as real ones, and do they reach every real row?

Rows are points of a Euclidean space (numbers scaled on T, levels, codes), typical near the centre of their side.
Alpha-precision asks how many synthetic rows lie in the ball that holds a share alpha of the real rows; beta-recall how
many real rows have a synthetic row nearer than another real row, among the most typical share beta of such rows. Neither is "higher is
better" all the way: beta-recall of fresh real rows is about one half, and more means rows near the training rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.fidelity.manifold import ENOUGH, FEWEST
from pipeline.evaluation.intervals import subject_weights
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName, RealSides
    from pipeline.evaluation.distances import Points
    from pipeline.evaluation.results import MetricResult

GRID = 30
LEVELS = np.linspace(0.0, 1.0, GRID)
IP_ALPHA = MetricSpec(
    id="fid.joint.ip_alpha",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Alpha-precision (integrated)",
    caption="1 minus twice the area between the share of synthetic rows inside the ball of the most typical real rows and "
    "the share of real rows that defines it. Higher is better; the null is just under 1 and is printed.",
    source="Alaa et al. 2022, grid of 30, identity embedding",
    cost="B",
)
IR_BETA = MetricSpec(
    id="fid.joint.ir_beta",
    family="fidelity",
    direction=0,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Beta-recall (integrated)",
    caption="The same for the share of real rows that have one of the most typical synthetic rows nearer than any other "
    "real row. Fresh real rows reach about 0.5: closest to them is best. Below, parts of the population are missed; "
    "above, synthetic rows sit too near to real ones.",
    source="Alaa et al. 2022, grid of 30, nearest neighbours from the cache",
    cost="B",
)


@dataclass(frozen=True)
class Typicality:
    """Curves and figures.

    Attributes:
        precision: (30) P(alpha), mean over the matched draws.
        recall: (30) C(beta).
        ip_alpha: Integrated precision, with error.
        ir_beta: Integrated recall, with error.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    ip_alpha: tuple[float, float]
    ir_beta: tuple[float, float]


@metric(IP_ALPHA)
def ip_alpha(ctx: EvaluationContext) -> list[MetricResult]:
    """Also leaves both curves for the report."""
    n = ctx.matched_size
    found = _typicality(ctx, "S")
    if isinstance(found, str):
        return [IP_ALPHA.result(None, n=n, note=found)]
    if ctx.with_plots:
        ctx.plots["typicality"] = _curves(ctx, found)
    null = 1 - 2 * np.sqrt(2 / np.pi) * np.pi / 8 * np.sqrt(2 / n)
    return [IP_ALPHA.result(found.ip_alpha[0], se=found.ip_alpha[1], n=n, null=float(null))]


@metric(IR_BETA)
def ir_beta(ctx: EvaluationContext) -> list[MetricResult]:
    """The null depends on the data: read it against fresh real rows."""
    found = _typicality(ctx, "S")
    if isinstance(found, str):
        return [IR_BETA.result(None, n=ctx.matched_size, note=found)]
    return [IR_BETA.result(found.ir_beta[0], se=found.ir_beta[1], n=ctx.matched_size)]


def integrated(curve: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 - 2 ∫ |curve - level| over the last axis, which has the 30 levels (trapezoids)."""
    return 1.0 - 2.0 * np.trapezoid(np.abs(np.asarray(curve, dtype=np.float64) - LEVELS), LEVELS, axis=-1)


def precision_curve(
    real: NDArray[np.floating],
    made: NDArray[np.floating],
    real_weights: NDArray[np.floating],
    made_weights: NDArray[np.floating],
) -> NDArray[np.float64]:
    """(draws, 30) share of synthetic rows within the ball that holds a share alpha of the real rows.

    Args:
        real: (n) distances of the real rows from the centre of the real rows.
        made: (m) distances of the synthetic rows from the same centre.
        real_weights: (draws, n).
        made_weights: (draws, m).
    """
    radius = _quantiles(real, real_weights)
    order = np.argsort(made, kind="stable")
    sums = np.cumsum(made_weights[:, order], axis=1, dtype=np.float64)
    place = np.searchsorted(made[order], radius, side="right")
    padded = np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)
    return np.take_along_axis(padded, place, axis=1) / sums[:, -1:]


def recall_curve(
    nearer: NDArray[np.bool_], distance: NDArray[np.floating], weights: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(draws, 30) share of real rows with a synthetic row nearer than a real one, among the most typical such rows.

    Args:
        nearer: (n) whether the nearest synthetic row is at most as far as the nearest other real row.
        distance: (n) distance of that nearest synthetic row from the centre of the synthetic rows; the radius that
            holds a share beta is taken over these rows (over all synthetic rows, hubs near the centre would lift the
            curve of fresh real rows with the number of columns).
        weights: (draws, n).
    """
    radius = _quantiles(distance, weights)
    reach = np.where(nearer, distance, np.inf)
    order = np.argsort(reach, kind="stable")
    sums = np.cumsum(weights[:, order], axis=1, dtype=np.float64)
    place = np.searchsorted(reach[order], radius, side="right")
    padded = np.concatenate([np.zeros((len(sums), 1)), sums], axis=1)
    return np.take_along_axis(padded, place, axis=1) / sums[:, -1:]


def centre_of(points: Points) -> list[NDArray[np.float64]]:
    """Mean of the columns' part and of each code block."""
    means = [np.asarray(p.mean(axis=0), dtype=np.float64).ravel() for p in points.presence]
    return [points.dense.mean(axis=0, dtype=np.float64), *means]


def radii(points: Points, centre: list[NDArray[np.float64]], codes_a_row: list[float]) -> NDArray[np.float64]:
    """(n,) distances from a centre; a block's squared distance is divided by that of two rows without a shared code."""
    squared = np.zeros(len(points))
    if points.columns:
        squared += ((points.dense - centre[0]) ** 2).sum(axis=1) / points.columns
    for presence, mean, typical in zip(points.presence, centre[1:], codes_a_row, strict=True):
        own = np.asarray(presence.sum(axis=1), dtype=np.float64).ravel()
        squared += (own - 2 * (presence @ mean) + mean @ mean) / (2 * typical)
    return np.sqrt(np.maximum(squared, 0.0) / max(points.parts, 1))


def _typicality(ctx: EvaluationContext, name: PartName) -> Typicality | str:
    keeper = ctx if name == "S" else ctx.sides
    return keeper.once(f"joint/typicality/{name}/{ctx.matched_size}", lambda: _measure(ctx, name))


def _measure(ctx: EvaluationContext, name: PartName) -> Typicality | str:
    if ctx.matched_size < FEWEST:
        return TooFew(ctx.matched_size, FEWEST, "rows a side")
    side, holdout = ctx.side(name), ctx.sides.holdout
    if not side.points.parts:
        return "no column and no code"
    typical = _codes_a_row(ctx.sides)
    precisions, recalls, errors = [], [], (0.0, 0.0)
    for draw in range(1 if ctx.matched_size >= ENOUGH else ctx.sides.profile.redraws):
        left, right = ctx.rows("H", "matched", draw), ctx.rows(name, "matched", draw)
        real, made = holdout.points.take(left), side.points.take(right)
        centre = centre_of(real)
        spread = radii(real, centre, typical), radii(made, centre, typical)
        near = ctx.near("H", name, of="matched", within="matched", draw=draw, k=1)
        mate = ctx.near("H", "H", of="matched", within="matched", draw=draw, k=1)
        nearest = radii(made, centre_of(made), typical)[np.searchsorted(right, near.index[:, 0])]
        nearer = near.distance[:, 0] <= mate.distance[:, 0]
        ones = np.ones((1, len(left))), np.ones((1, len(right)))
        precisions.append(precision_curve(*spread, *ones)[0])
        recalls.append(recall_curve(nearer, nearest, ones[0])[0])
        if draw == 0:
            draws = min(ctx.sides.profile.draws, 200)
            weights = (
                subject_weights(holdout.clusters[left], draws, ctx.sides.rng("fid.joint.ip_alpha", "holdout")),
                subject_weights(side.clusters[right], draws, ctx.rng("fid.joint.ip_alpha", name)),
            )
            again = (
                integrated(precision_curve(*spread, *weights)),
                integrated(recall_curve(nearer, nearest, weights[0])),
            )
            errors = float(again[0].std(ddof=1)), float(again[1].std(ddof=1))
    return Typicality(
        np.mean(precisions, axis=0),
        np.mean(recalls, axis=0),
        (float(integrated(np.array(precisions)).mean()), errors[0]),
        (float(integrated(np.array(recalls)).mean()), errors[1]),
    )


def _codes_a_row(sides: RealSides) -> list[float]:
    return [max(p.nnz / max(p.shape[0], 1), 1.0) for p in sides.train.points.presence]


def _quantiles(values: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """(draws, 30) smallest radius within which the share of weight reaches each level; nothing at level 0."""
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(weights[:, order], axis=1, dtype=np.float64)
    found = np.empty((len(weights), GRID))
    for b, total in enumerate(sums):
        place = np.searchsorted(total, LEVELS * total[-1] - 1e-9 * total[-1], side="left")
        found[b] = values[order][np.minimum(place, len(values) - 1)]
    found[:, 0] = -np.inf
    return found


def _curves(ctx: EvaluationContext, found: Typicality) -> dict[str, Any]:
    """Both curves, what fresh real rows give at the same size where there are any, and how far chance reaches."""
    curves: dict[str, Any] = {
        "level": LEVELS.round(4).tolist(),
        "precision": found.precision.round(4).tolist(),
        "recall": found.recall.round(4).tolist(),
        "band": (1.96 * np.sqrt(LEVELS * (1 - LEVELS) * 2 / ctx.matched_size)).round(4).tolist(),
    }
    if len(ctx.sides.reference0) >= ctx.matched_size:
        fresh = _typicality(ctx, "R0")
        if not isinstance(fresh, str):
            curves["fresh_precision"] = fresh.precision.round(4).tolist()
            curves["fresh_recall"] = fresh.recall.round(4).tolist()
    return curves
