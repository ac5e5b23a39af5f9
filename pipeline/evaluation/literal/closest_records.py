"""Distances to the closest record as SDMetrics scores them, to the letter.

How it scales and cuts was found by calling it as a black box; the figures agree to nine decimals
(tests/evaluation/test_peers.py). Code blocks, which it does not know, enter by Jaccard distance. The sound versions are
in `pipeline.evaluation.privacy.distances`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.distances import CityPoints
from pipeline.evaluation.intervals import clopper_pearson
from pipeline.evaluation.neighbours import knn
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

UNIFORM_ROWS = 500
"""Uniformly random rows of codes that are dense at once."""
BEYOND = 1.0
"""Widths of the range outside it that a number keeps: from there on it differs from all real ones by the most, 1."""
MISSING = 4.0
"""A missing number's place, 1 or more from every other."""

OVERFITTING = MetricSpec(
    id="lit.sdv.dcr_overfitting",
    family="literal",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="2",
    title="Overfitting protection (SDMetrics)",
    caption="min(1, 2 (1 - share of synthetic rows strictly nearer to training than to holdout)). 1 is said to be the best.",
    source="SDMetrics DCROverfittingProtection 0.32",
    cost="C",
    flaw="Distances to training rows are scaled by the range of these, distances to holdout rows by *their* range: where "
    "one outlier makes the one range wider, its rows look nearer, and fresh rows that repeat nobody score below 1. A tie "
    "counts as nearer to the holdout, so exact copies of training rows in sparse binary data "
    "score a perfect 1. Sizes are not matched, so an innocent 70/30 split scores below 1, 0.82 in a simulation.",
)
BASELINE = MetricSpec(
    id="lit.sdv.dcr_baseline",
    family="literal",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "S"}),
    version="2",
    title="Baseline protection (SDMetrics)",
    caption="min(1, median distance to training of synthetic rows over that of uniformly random rows). 1 is said to be the "
    "best.",
    source="SDMetrics DCRBaselineProtection 0.32",
    cost="C",
    flaw="Uniform noise lies far from all people, so real people who were never trained on score low too: it measures how "
    "realistic rows are, and calls that a danger. One outlier widens a range and moves all distances.",
)


@metric(OVERFITTING, floor="")
def dcr_overfitting(ctx: EvaluationContext) -> list[MetricResult]:
    """Each side on its own range, ties as in the source."""
    train, holdout = _distance(ctx, "T"), _distance(ctx, "H")
    low, high = clopper_pearson(float((train < holdout).sum()), len(train))
    interval = min(1.0, 2.0 * (1.0 - high)), min(1.0, 2.0 * (1.0 - low))
    return [OVERFITTING.result(overfitting_protection(train, holdout), interval=interval, n=len(train))]


@metric(BASELINE, floor="")
def dcr_baseline(ctx: EvaluationContext) -> list[MetricResult]:
    """Median distances to training rows, of synthetic rows over uniform ones."""
    own = np.sort(_distance(ctx, "T"))
    noise = ctx.sides.once("lit/uniform", lambda: _uniform_distance(ctx))
    if noise == 0:
        return [BASELINE.result(None, note="uniformly random rows equal training rows")]
    # The median's 95 % interval by ranks: half of the rows, give or take 1.96 sqrt(n) / 2.
    reach = 0.98 * len(own) ** 0.5
    ranks = np.clip([len(own) / 2 - reach, len(own) / 2 + reach], 0, len(own) - 1).astype(int)
    low, high = (min(1.0, float(own[rank]) / noise) for rank in ranks)
    return [BASELINE.result(min(1.0, float(np.median(own)) / noise), interval=(low, high), n=len(own))]


def overfitting_protection(to_train: NDArray[np.float64], to_holdout: NDArray[np.float64]) -> float:
    """min(1, 2 (1 - share strictly nearer to training))."""
    return float(min(1.0, 2.0 * (1.0 - (to_train < to_holdout).mean())))


def ranged_points(side: Side, rows: NDArray[np.int64], real: Side) -> CityPoints:
    """Rows ready for the mean of plain differences, numbers on the full range of the `real` side's known values.

    Levels, ordinal ones too, differ by 1, as do missing and present; a number differs by 1 at most.
    """
    columns = real.encoder.columns
    dense = np.empty((len(rows), len(columns)), dtype=np.float32)
    for j, column in enumerate(columns):
        if column.discrete:
            dense[:, j] = side.codes[column.name][rows]
            continue
        low, high = range_of(real.values[column.name])
        value = side.values[column.name][rows]
        with np.errstate(invalid="ignore", divide="ignore"):
            unit = (value - low) / (high - low) if high > low else np.sign(value - low) * (1 + BEYOND)
        dense[:, j] = np.where(np.isnan(value), MISSING, np.clip(unit, -BEYOND, 1 + BEYOND))
    levels = tuple(len(c.levels or []) if c.discrete else 0 for c in columns)
    return CityPoints(dense, len(columns), tuple(matrix[rows] for matrix in side.presence.values()), levels)


def range_of(values: NDArray[np.float64]) -> tuple[float, float]:
    """Least and greatest known value; (0, 0) where none is known."""
    known = values[~np.isnan(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)


def _distance(ctx: EvaluationContext, name: Literal["T", "H"]) -> NDArray[np.float64]:
    """(n,) of the synthetic rows to the nearest row of a real side."""
    return ctx.once(f"lit/closest/{name}", lambda: _nearest(ctx, ctx.synthetic, ctx.rows("S"), name))


def _nearest(
    ctx: EvaluationContext, side: Side, rows: NDArray[np.int64], name: Literal["T", "H"]
) -> NDArray[np.float64]:
    real = ctx.side(name)
    reference = ranged_points(real, ctx.rows(name, "reference"), real)
    return knn(ranged_points(side, rows, real), reference, 1, device=ctx.plan.device).distance[:, 0]


def _uniform_distance(ctx: EvaluationContext) -> float:
    """Median distance to T of rows drawn uniformly over T's ranges, levels and codes."""
    side = ctx.sides.encoder.side(_uniform(ctx.sides, len(ctx.rows("T"))))
    return float(np.median(_nearest(ctx, side, np.arange(len(side)), "T")))


def _uniform(sides: RealSides, n: int) -> Cohort:
    from scipy.sparse import csr_matrix, vstack

    from pipeline.features.cohort import assemble

    rng = sides.rng("lit.sdv.dcr_baseline")
    values: dict[str, NDArray[np.generic]] = {}
    for column in sides.encoder.columns:
        if column.discrete:
            values[column.name] = rng.integers(0, max(len(column.levels or []), 1), n)
            continue
        low, high = range_of(sides.train.values[column.name])
        values[column.name] = rng.uniform(low, high, n)
    blocks = {
        b.name: vstack(
            [
                csr_matrix(rng.integers(0, 2, (min(UNIFORM_ROWS, n - lo), len(b.vocabulary))).astype(np.float32))
                for lo in range(0, n, UNIFORM_ROWS)
            ],
            format="csr",
        )
        for b in sides.encoder.blocks
    }
    schema = sides.encoder.schema
    kept = [c for c in schema.columns if c.kind == "identifier" or c.name in values]
    return assemble(schema.model_copy(update={"columns": kept}), values, blocks=blocks)
