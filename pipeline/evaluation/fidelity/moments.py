"""Means, spreads, quantiles and missing rates of the columns, side by side; the alarm for columns that lost their spread.

A generator that emits means keeps every mean and loses every spread; averages of divergences hide it, this does not.
Smallest and largest values are single people's: they go to the internal report alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import Z95
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.schema import CodeBlock, Column

COLLAPSED_RATIO = 0.5
COLLAPSED_SHARE = 0.10
"""The alarm is on when more than this share of columns has less than half of the real spread."""
SMALL = 11
"""Levels of fewer training rows are not given out."""
COMMON_ROWS = 20
"""Rows a side that are expected to have a code: of a rarer one the spread is lost by chance."""
FEWEST_BELOW = 11
"""Real rows that must lie beyond a quantile for it to be given."""
QUANTILES = {"q05": 0.05, "q50": 0.50, "q95": 0.95}
MOMENTS = MetricSpec(
    id="fid.marg.moments",
    family="fidelity",
    direction=0,
    range=(-np.inf, np.inf),
    needs=frozenset({"H", "S"}),
    version="2",
    title="Moments",
    caption="Mean, standard deviation, quantiles and missing rate of each column, real (holdout) and synthetic; the "
    "standardised mean difference and log variance ratio (null 0), the ratio of standard deviations (null 1), changes in "
    "per cent, and how far the 95 % intervals of the means overlap (1 wholly). Binary columns count as 0 and 1.",
    source="Austin 2009 for the standardised difference; Karr 2006 for the overlap of intervals",
)
COLLAPSE = MetricSpec(
    id="fid.marg.variance_collapse",
    family="fidelity",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="3",
    title="Columns that lost their spread",
    caption="Share of numeric and binary columns whose synthetic standard deviation is less than half the real one "
    "(outliers cut at the 0.5th and 99.5th percentile); of a code block, the share of its common codes, where that is "
    "larger. Columns of two levels of which fewer than 11 training rows have one are left out: that level must not come "
    "out. Lower is better, the null is 0; the alarm is on above 10 %.",
    source="alarm of this project, after decoder-mean sampling in published VAEs",
)


@metric(MOMENTS, floor="ref_mode")
def moments(ctx: EvaluationContext) -> list[MetricResult]:
    """Everything of a numeric, binary or ordinal column (quantiles of numbers only); the missing rates of the others."""
    rows: list[MetricResult] = []

    def add(column: str, statistic: str, value: float, null: float | None = None, se: float | None = None) -> None:
        rows.append(
            MOMENTS.result(
                value,
                se=se,
                null=null,
                n=len(ctx.synthetic),
                scope="column",
                key1=column,
                key2=statistic,
                note="" if np.isfinite(value) else "not defined: no value, no spread, or too few rows beyond it",
            )
        )

    extremes: dict[str, dict[str, list[float]]] = {}
    for column in ctx.sides.encoder.columns:
        name = column.name
        real, made = as_numbers(ctx.sides.holdout, column), as_numbers(ctx.synthetic, column)
        if real is None or made is None:
            add(name, "missing_real", float(np.mean(ctx.sides.holdout.codes[name] == -1)))
            add(name, "missing_synthetic", float(np.mean(ctx.synthetic.codes[name] == -1)))
            continue
        a = ctx.sides.once(f"moments/{name}", lambda r=real: summary(r, ctx.sides.holdout.clusters))  # type: ignore[misc]
        b = summary(made, ctx.synthetic.clusters)
        pooled = np.sqrt((a.std**2 + b.std**2) / 2)
        difference = (b.mean - a.mean) / pooled if pooled > 0 else np.nan
        error = np.sqrt(1 / a.n + 1 / b.n + difference**2 / (2 * (a.n + b.n))) if a.n and b.n else np.nan
        spread = b.std > 0 and a.std > 0
        add(name, "mean_real", a.mean, se=a.error)
        add(name, "mean_synthetic", b.mean, se=b.error)
        add(name, "std_real", a.std)
        add(name, "std_synthetic", b.std)
        add(name, "missing_real", float(np.isnan(real).mean()))
        add(name, "missing_synthetic", float(np.isnan(made).mean()))
        add(name, "smd", difference, 0.0, float(error))
        add(name, "std_ratio", b.std / a.std if a.std > 0 else np.nan, 1.0)
        add(name, "log_variance_ratio", 2 * float(np.log(b.std / a.std)) if spread else np.nan, 0.0)
        add(name, "mean_change_percent", 100 * (b.mean - a.mean) / abs(a.mean) if a.std > 0 and a.mean else np.nan, 0.0)
        add(name, "std_change_percent", 100 * (b.std - a.std) / a.std if a.std > 0 else np.nan, 0.0)
        add(name, "interval_overlap", *interval_overlap(a, b))
        if column.numeric:
            for key, at in QUANTILES.items():
                beyond = min(at, 1 - at) * a.n >= FEWEST_BELOW
                add(name, f"{key}_real", float(np.nanquantile(real, at)) if beyond else np.nan)
                add(name, f"{key}_synthetic", float(np.nanquantile(made, at)) if b.n else np.nan)
            if ctx.with_plots and a.n and b.n:
                extremes[name] = {
                    "real": [float(np.nanmin(real)), float(np.nanmax(real))],
                    "synthetic": [float(np.nanmin(made)), float(np.nanmax(made))],
                }
    if extremes:
        ctx.internal["extremes"] = extremes
    return rows or [MOMENTS.not_applicable("the table has no column")]


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1), standard error of the mean by subject, and number of known values."""

    mean: float
    std: float
    error: float
    n: int


def summary(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> Summary:
    """The moments of (n,) values, NaN where missing; all NaN where none is known."""
    mean, std, n = _mean_std(values)
    if not n:
        return Summary(mean, std, float("nan"), 0)
    known = ~np.isnan(values)
    sums = np.bincount(clusters[known], weights=values[known] - mean)
    return Summary(mean, std, float(np.sqrt((sums**2).sum()) / n), n)


def interval_overlap(a: Summary, b: Summary) -> tuple[float, float | None]:
    """Mean of the shares of both 95 % intervals of the mean that the other covers, and what real rows would reach.

    NaN where an interval has no length. Two samples of one population whose intervals are of one length overlap by
    0.71 on average; in general it is the mean over a normal difference.
    """
    if not (a.error > 0 and b.error > 0):
        return float("nan"), None
    half, other = Z95 * a.error, Z95 * b.error

    def overlap(apart: NDArray[np.float64]) -> NDArray[np.float64]:
        shared = np.minimum(half, apart + other) - np.maximum(-half, apart - other)
        return np.maximum(shared, 0.0) * (1 / (2 * half) + 1 / (2 * other)) / 2

    points, weights = np.polynomial.hermite_e.hermegauss(61)
    null = float(overlap(points * np.hypot(a.error, b.error)) @ weights / weights.sum())
    return float(overlap(np.array(b.mean - a.mean))), null


@metric(COLLAPSE, floor="ref_mode")
def variance_collapse(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of numeric and binary columns, or of a block's codes, with less than half of the real spread.

    Columns that are constant in the real rows are left out, and so are columns of two levels of which fewer than 11
    training rows have one: a generator must not give that level out, so it cannot keep the spread.

    Numbers are cut on both sides at the 0.5th and 99.5th percentile of T first: one mistyped value in the holdout
    would else make the real spread huge and set off the alarm for every generator.
    """
    lost: list[str] = []
    judged = 0
    for column in ctx.sides.encoder.columns:
        real, made = as_numbers(ctx.sides.holdout, column), as_numbers(ctx.synthetic, column)
        if column.kind == "ordinal" or real is None or made is None or _withheld(ctx.sides, column):
            continue
        if column.numeric:
            rule = ctx.sides.encoder.numeric[column.name]
            real, made = np.clip(real, rule.lo, rule.hi), np.clip(made, rule.lo, rule.hi)
        std_r, std_s = _mean_std(real)[1], _mean_std(made)[1]
        if not std_r > 0:
            continue
        judged += 1
        if not std_s >= COLLAPSED_RATIO * std_r:
            lost.append(column.name)
    tables = {"": (lost, judged), **{b.name: _collapsed_codes(ctx, b) for b in ctx.sides.encoder.blocks}}
    tables = {name: (gone, of) for name, (gone, of) in tables.items() if of}
    if not tables:
        return [COLLAPSE.result(None, note="no numeric or binary column with spread, and no common code")]
    # Not all in one share: hundreds of codes would outvote the columns beside them.
    worst = max(tables, key=lambda name: len(tables[name][0]) / tables[name][1])
    lost, judged = tables[worst]
    share = len(lost) / judged
    named = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
    of = f"codes of {worst}" if worst else ""
    note = " ".join(filter(None, [f"{len(lost)} of {judged}", of])) + f": {named}" if lost else ""
    return [COLLAPSE.result(share, n=judged, null=0.0, note=f"alarm: {note}" if share > COLLAPSED_SHARE else note)]


def _withheld(sides: RealSides, column: Column) -> bool:
    """Whether a level of a binary column is too rare among the training rows to be given out."""
    if column.kind != "binary":
        return False
    codes = sides.train.codes[column.name]
    return bool((np.bincount(codes[codes >= 0], minlength=len(column.levels or [])) < SMALL).any())


def _collapsed_codes(ctx: EvaluationContext, block: CodeBlock) -> tuple[list[str], int]:
    """The common codes of a block whose presence has less than half of the real spread, and how many are common."""
    real = np.asarray(ctx.sides.holdout.presence[block.name].mean(axis=0)).ravel()
    made = np.asarray(ctx.synthetic.presence[block.name].mean(axis=0)).ravel()
    common = (real * min(len(ctx.sides.holdout), len(ctx.synthetic)) >= COMMON_ROWS) & (real < 1)
    gone = common & (made * (1 - made) < COLLAPSED_RATIO**2 * real * (1 - real))
    return [block.vocabulary[i] for i in np.flatnonzero(gone)], int(common.sum())


def as_numbers(side: Side, column: Column) -> NDArray[np.float64] | None:
    """(n,) numbers of a numeric, binary or ordinal column, NaN where missing or no level; None of a nominal one."""
    if column.numeric:
        return side.values[column.name]
    if column.kind == "categorical":
        return None
    code = side.codes[column.name]
    return np.where(code >= 0, code, np.nan).astype(np.float64)


def _mean_std(values: NDArray[np.float64]) -> tuple[float, float, int]:
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan"), 0
    constant = bool((known == known[0]).all())
    return float(known.mean()), 0.0 if constant else float(known.std(ddof=1)), len(known)
