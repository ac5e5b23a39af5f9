"""Coverage: what of the training rows' levels, codes and ranges do the synthetic rows still have?

Levels and codes that fewer than 11 training rows have are left out: they must not come out of a release at all
(`priv.rare_level`), so that leaving them out is no fault. Distributions are compared in `marginal.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.schema import Column

SMALL = 11
SPAN = (0.01, 0.99)
"""Quantiles of T whose span is to be covered."""
REACH = (0.005, 0.995)
"""Quantiles of the synthetic values that count as reached: a single wild value covers nothing."""
COVERAGE = MetricSpec(
    id="fid.coverage",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "S"}),
    version="1",
    title="Levels, codes and ranges covered",
    caption="Share of the training rows' levels and codes (of 11 rows or more) that occur among the synthetic rows, and "
    "share of a number's 1-99 % span that they reach; mean over columns. Higher is better; the null is what as many "
    "real rows cover.",
    source="SDMetrics RangeCoverage and CategoryCoverage, re-implemented without extremes and rare levels",
)


@dataclass(frozen=True)
class Covered:
    """Coverage of a column: value, standard error, what as many real rows would cover, and of how many levels."""

    value: float
    se: float
    null: float
    of: int


@metric(COVERAGE, floor="ref_mode")
def coverage(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over the columns and blocks, then each of them."""
    found: dict[str, Covered] = {}
    for column in ctx.sides.encoder.columns:
        covered = _levels(ctx, column) if column.discrete else _range(ctx, column)
        if covered is not None:
            found[column.name] = covered
    for block in ctx.sides.encoder.blocks:
        counts = [np.asarray(s.presence[block.name].sum(axis=0)).ravel() for s in (ctx.sides.train, ctx.synthetic)]
        covered = _met(counts[0], counts[1], ctx.sides.train, ctx.synthetic)
        if covered is not None:
            found[block.name] = covered
    if not found:
        return [COVERAGE.not_applicable(f"no column has spread, and no level {SMALL} training rows")]
    errors = np.array([c.se for c in found.values()])
    return [
        COVERAGE.result(
            float(np.mean([c.value for c in found.values()])),
            se=float(np.sqrt((errors**2).sum()) / len(errors)),
            n=len(ctx.synthetic),
            null=float(np.mean([c.null for c in found.values()])),
        ),
        *(
            COVERAGE.result(
                c.value, se=c.se, n=len(ctx.synthetic), null=c.null, scope="column", key1=name,
                note=f"{round(c.value * c.of)} of {c.of} levels or codes" if c.of else "",
            )
            for name, c in found.items()
        ),
    ]  # fmt: skip


def _levels(ctx: EvaluationContext, column: Column) -> Covered | None:
    """Levels of a column, missing among them."""
    size = len(column.levels or []) + 1
    train, made = (side.codes[column.name] for side in (ctx.sides.train, ctx.synthetic))
    counts = [np.bincount(codes[codes >= -1] + 1, minlength=size) for codes in (train, made)]
    return _met(counts[0], counts[1], ctx.sides.train, ctx.synthetic)


def _met(train: NDArray[np.number], made: NDArray[np.number], real_side: Side, synthetic_side: Side) -> Covered | None:
    """How many of the levels that SMALL rows of T have are met.

    The standard error is that of drawing the synthetic rows again: a level met c times would be missed with
    probability exp(-c).
    """
    wanted = train >= SMALL
    if not wanted.any():
        return None
    missed = np.exp(-made[wanted].astype(np.float64))
    missed[made[wanted] == 0] = 0.0
    share = train[wanted] / max(len(real_side), 1)
    return Covered(
        float((made[wanted] > 0).mean()),
        float(np.sqrt((missed * (1 - missed)).sum()) / wanted.sum()),
        float((1 - (1 - share) ** len(synthetic_side)).mean()),
        int(wanted.sum()),
    )


def _range(ctx: EvaluationContext, column: Column) -> Covered | None:
    """The part of T's SPAN that lies between the synthetic REACH."""
    train, made = (side.values[column.name] for side in (ctx.sides.train, ctx.synthetic))
    train, made = train[~np.isnan(train)], np.sort(made[~np.isnan(made)])
    if not len(train):
        return None
    low, high = np.quantile(train, SPAN)
    if high <= low:
        return None

    def part(ends: NDArray[np.float64]) -> NDArray[np.float64]:
        """(draws,) covered part for (draws, 2) ends."""
        return np.clip(np.minimum(ends[:, 1], high) - np.maximum(ends[:, 0], low), 0.0, None) / (high - low)

    if not len(made):
        return Covered(0.0, 0.0, 1.0, 0)
    # A quantile under resampling is an order statistic whose number is binomial.
    rng = ctx.rng("fid.coverage", column.name)
    subjects = len(np.unique(ctx.synthetic.clusters))
    worth = max(1, round(len(made) * subjects / len(ctx.synthetic)))
    place = rng.binomial(worth, REACH, (ctx.sides.profile.draws, 2)) / worth
    drawn = made[np.minimum((place * len(made)).astype(np.int64), len(made) - 1)]
    value = part(np.quantile(made, REACH)[None])[0]
    return Covered(float(value), float(part(drawn).std(ddof=1)), 1.0, 0)
