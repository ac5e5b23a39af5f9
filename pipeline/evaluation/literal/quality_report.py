"""The quality report of SDMetrics, to the letter: column shapes and column pair trends, against the training rows.

What it leaves out, bins and counts was found by calling it as a black box on rows made for that; the figures agree to
nine decimals (tests/evaluation/test_peers.py). The sound versions are in `pipeline.evaluation.fidelity`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.cells import MISSING
from pipeline.evaluation.literal.dependence import capped, drawn_pairs, literal_spec, overlap
from pipeline.evaluation.registry import metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.schema import Column

BINS = 10
WEAKEST_CORRELATION, WEAKEST_ASSOCIATION = 0.5, 0.3
"""Pairs of columns of a weaker Pearson correlation, or a weaker Cramér's V, among the real rows are left out."""

QUALITY = literal_spec(
    "sdv.quality", "Quality report (SDMetrics)",
    "Mean of column shapes (one minus Kolmogorov-Smirnov or total variation distance) and column pair trends (similarity "
    "of correlations and of two-way tables, over the pairs whose real correlation is at least 0.5 or whose real Cramér's "
    "V is at least 0.3). Higher is better; two real samples come near 1.",
    "SDMetrics QualityReport 0.32",
    "Pairs that hardly depend in real rows are left out, so that dependences which the generator made up are never seen. "
    "Numbers are cut into bins of real and of synthetic values separately, and correlations know no scale: a number "
    "multiplied by 10 and raised by 500 keeps a pair score of 1. Half of the score is marginal, all of it where no pair "
    "of columns is left.",
    needs="T", upper=1.0, higher=True, cost="C", version="2",
)  # fmt: skip


@metric(QUALITY, floor="")
def sdv_quality(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean of both halves, and each of them; code blocks are left out."""
    columns = {c.name: c for c in ctx.sides.encoder.columns}
    real, made = ctx.sides.train, ctx.synthetic
    shapes = [s for c in columns.values() if (s := column_shape(real, made, c)) is not None]
    trends = pair_trends(real, made, columns, drawn_pairs(ctx, list(columns), QUALITY.id))
    if not shapes:
        return [QUALITY.not_applicable("no column with values")]
    n, shape = len(made), float(np.mean(shapes))
    trend = float(np.mean(trends)) if trends else None
    weak = f"no pair with a real correlation of {WEAKEST_CORRELATION} or a V of {WEAKEST_ASSOCIATION}"
    return [
        QUALITY.result(shape if trend is None else (shape + trend) / 2, n=n, null=1.0, note=capped(trends)),
        QUALITY.result(shape, n=n, null=1.0, key1="column shapes"),
        QUALITY.result(trend, n=n, null=1.0, key1="column pair trends", note="" if trends else weak),
    ]


def column_shape(real: Side, made: Side, column: Column) -> float | None:
    """1 - Kolmogorov-Smirnov or total variation distance of known values; None where a side has none."""
    from pipeline.evaluation.fidelity.marginal import ks_distance

    if column.numeric:
        pair = real.values[column.name], made.values[column.name]
        return None if any(np.isnan(x).all() for x in pair) else 1.0 - ks_distance(*pair)
    levels = len(column.levels or [])
    # A value that is no level of the real rows is one more level.
    codes = [s.codes[column.name] for s in (real, made)]
    counts = [np.bincount(np.where(c < 0, levels, c)[c != MISSING], minlength=levels + 1).astype(float) for c in codes]
    return overlap(counts[0], counts[1]) if all(c.sum() for c in counts) else None


def pair_trends(real: Side, made: Side, columns: dict[str, Column], pairs: list[tuple[str, str]]) -> list[float]:
    """Similarity of each pair that depends strongly enough among the real rows.

    Two numbers by their correlations (rows where both are known), others by their two-way tables.
    """
    bins = [{n: own_bins(side, c) for n, c in columns.items()} for side in (real, made)]
    found = []
    for a, b in pairs:
        if columns[a].numeric and columns[b].numeric:
            ours, theirs = (_correlation(s.values[a], s.values[b]) for s in (real, made))
            if ours is not None and theirs is not None and abs(ours) >= WEAKEST_CORRELATION:
                found.append(1 - abs(ours - theirs) / 2)
            continue
        sizes = [len(columns[c].levels or []) + 2 if columns[c].discrete else BINS + 2 for c in (a, b)]
        tables = [_table(side[a], side[b], sizes) for side in bins]
        if cramers_v(tables[0]) >= WEAKEST_ASSOCIATION:
            found.append(overlap(tables[0], tables[1]))
    return found


def own_bins(side: Side, column: Column) -> NDArray[np.int64]:
    """(n,) bins: levels, missing among them, or ten of equal width on this side's own range.

    The greatest number of all has a bin of its own, beyond the ten, and missing numbers share it.
    """
    if column.discrete:
        code = side.codes[column.name]
        return np.where(code >= 0, code, len(column.levels or []) - 1 - code)
    value = side.values[column.name]
    known = value[~np.isnan(value)]
    if not len(known):
        return np.full(len(value), BINS + 1)
    return np.digitize(value, np.histogram_bin_edges(known, BINS)).astype(np.int64)


def cramers_v(table: NDArray[np.float64]) -> float:
    """Cramér's V of a table of counts, without a correction; 0 where one side does not vary."""
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    fewest = min(table.shape) - 1
    if fewest < 1:
        return 0.0
    expected = table.sum(axis=1)[:, None] * table.sum(axis=0)[None, :]
    return float(np.sqrt(max(0.0, float((table**2 / expected).sum()) - 1.0) / fewest))


def _table(a: NDArray[np.int64], b: NDArray[np.int64], sizes: list[int]) -> NDArray[np.float64]:
    """(sizes) counts of pairs of bins."""
    return np.bincount(a * sizes[1] + b, minlength=sizes[0] * sizes[1]).reshape(sizes).astype(np.float64)


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    known = ~(np.isnan(x) | np.isnan(y))
    x, y = x[known], y[known]
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return None
    return float(np.corrcoef(x, y)[0, 1])
