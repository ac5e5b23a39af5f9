"""Means, spreads and missing rates of the columns, side by side, and the alarm for columns that lost their spread.

A generator that emits means keeps every mean and loses every spread; averages of divergences hide it, this does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.schema import CodeBlock, Column

COLLAPSED_RATIO = 0.5
COLLAPSED_SHARE = 0.10
"""The alarm is on when more than this share of columns has less than half of the real spread."""
COMMON_ROWS = 20
"""Rows a side that are expected to have a code: of a rarer one the spread is lost by chance."""
MOMENTS = MetricSpec(
    id="fid.marg.moments",
    family="fidelity",
    direction=0,
    range=(-np.inf, np.inf),
    needs=frozenset({"H", "S"}),
    version="1",
    title="Moments",
    caption="Mean, standard deviation and missing rate of each column, real (holdout) and synthetic; the standardised "
    "mean difference (null 0) and the ratio of standard deviations (null 1). Binary columns count as 0 and 1.",
    source="Austin 2009 for the standardised difference",
)
COLLAPSE = MetricSpec(
    id="fid.marg.variance_collapse",
    family="fidelity",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"H", "S"}),
    version="2",
    title="Columns that lost their spread",
    caption="Share of numeric and binary columns whose synthetic standard deviation is less than half the real one "
    "(outliers cut at the 0.5th and 99.5th percentile); of a code block, the share of its common codes, where that is "
    "larger. Lower is better, the null is 0; the alarm is on above 10 %.",
    source="alarm of this project, after decoder-mean sampling in published VAEs",
)


@metric(MOMENTS, floor="ref_mode")
def moments(ctx: EvaluationContext) -> list[MetricResult]:
    """Eight numbers a numeric, binary or ordinal column; the two missing rates of the others."""
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
                note="" if np.isfinite(value) else "not defined: no value, or no spread in the real column",
            )
        )

    for column in ctx.sides.encoder.columns:
        real, made = as_numbers(ctx.sides.holdout, column), as_numbers(ctx.synthetic, column)
        if real is None or made is None:
            add(column.name, "missing_real", float(np.mean(ctx.sides.holdout.codes[column.name] == -1)))
            add(column.name, "missing_synthetic", float(np.mean(ctx.synthetic.codes[column.name] == -1)))
            continue
        (mean_r, std_r, n_r), (mean_s, std_s, n_s) = _mean_std(real), _mean_std(made)
        pooled = np.sqrt((std_r**2 + std_s**2) / 2)
        difference = (mean_s - mean_r) / pooled if pooled > 0 else np.nan
        error = np.sqrt(1 / n_r + 1 / n_s + difference**2 / (2 * (n_r + n_s))) if n_r and n_s else np.nan
        add(column.name, "mean_real", mean_r)
        add(column.name, "mean_synthetic", mean_s)
        add(column.name, "std_real", std_r)
        add(column.name, "std_synthetic", std_s)
        add(column.name, "missing_real", float(np.isnan(real).mean()))
        add(column.name, "missing_synthetic", float(np.isnan(made).mean()))
        add(column.name, "smd", difference, 0.0, float(error))
        add(column.name, "std_ratio", std_s / std_r if std_r > 0 else np.nan, 1.0)
    return rows


@metric(COLLAPSE, floor="ref_mode")
def variance_collapse(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of numeric and binary columns, or of a block's codes, with less than half of the real spread.

    Columns that are constant in the real rows are left out.

    Numbers are cut on both sides at the 0.5th and 99.5th percentile of T first: one mistyped value in the holdout
    would else make the real spread huge and set off the alarm for every generator.
    """
    lost: list[str] = []
    judged = 0
    for column in ctx.sides.encoder.columns:
        real, made = as_numbers(ctx.sides.holdout, column), as_numbers(ctx.synthetic, column)
        if column.kind == "ordinal" or real is None or made is None:
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
