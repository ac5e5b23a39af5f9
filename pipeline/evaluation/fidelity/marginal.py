"""Marginal fidelity: does each column look like the holdout's? And does each cell keep to the schema?

Jensen-Shannon divergence, Kolmogorov-Smirnov, total variation, adherence. Mean, spread and missing rate are in
`moments.py`. Every comparison is against the holdout, at matched sizes, averaged over the matched draws; standard
errors are bootstrapped by subject on the first draw. A code block counts as one column: the mean over its codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.encoding import UNSEEN
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult

    Shares = NDArray[np.float64]

ADHERENCE = MetricSpec(
    id="schema.adherence",
    family="schema",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"S"}),
    version="1",
    title="Rows that keep to the schema",
    caption="Share of synthetic rows whose every cell has the right type, an admissible level, a number within "
    "bounds, and is missing only where it may be. Must be 100 %.",
    source="SDMetrics DiagnosticReport, re-implemented",
)
JSD = MetricSpec(
    id="fid.marg.jsd",
    family="fidelity",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Jensen-Shannon divergence",
    caption="How far each column's distribution (missing included) lies from the holdout's, in bits: 0 is the same, "
    "1 has nothing in common. Lower is better; the null is what two real samples of this size differ by.",
    source="Lin 1991; 20 quantile bins of T, values above 5 % in bins of their own",
)
JSD_DEBIASED = MetricSpec(
    id="fid.marg.jsd_debiased",
    family="fidelity",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Jensen-Shannon divergence above sampling noise",
    caption="The divergence minus what two real samples of this size differ by. Lower is better; the null is 0.",
    source="chi-squared limit: (bins - 1)(1/n + 1/m) / 8 nats",
)
KS = MetricSpec(
    id="fid.marg.ks",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"H", "S"}),
    version="1",
    title="1 - Kolmogorov-Smirnov distance",
    caption="One minus the largest gap between the two cumulative curves of a numeric column (missing left out). "
    "Higher is better; the null is what two real samples of this size reach.",
    source="Massey 1951; compatible with KSComplement",
)
TVD = MetricSpec(
    id="fid.marg.tvd",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"H", "S"}),
    version="1",
    title="1 - total variation distance",
    caption="One minus half the summed differences of a discrete column's level shares (missing is a level). "
    "Higher is better; the null is what two real samples of this size reach.",
    source="compatible with TVComplement",
)


@metric(ADHERENCE, floor="")
def adherence(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of rows and, for each column, of cells that the schema admits."""
    from pipeline.features.schema import arrow_type

    side = ctx.synthetic
    whole = np.ones(len(side), dtype=bool)
    rows: list[MetricResult] = []
    for column in ctx.sides.encoder.columns:
        array = side.cohort.table.column(column.name)
        missing = _missing(side.cohort.table.column(column.name))[side.order]
        good = np.full(len(side), array.type == arrow_type(column.dtype))
        if column.discrete:
            good &= side.codes[column.name] != UNSEEN
        else:
            value = side.values[column.name]
            good &= missing | ~np.isnan(value)
            if column.bounds is not None:
                slack = 1e-9 * max(1.0, *map(abs, column.bounds))
                good &= ~(value < column.bounds[0] - slack) & ~(value > column.bounds[1] + slack)
        if not column.nullable:
            good &= ~missing
        whole &= good
        rows.append(ADHERENCE.result(good.mean(), n=len(side), null=1.0, scope="column", key1=column.name))
    for block in ctx.sides.encoder.blocks:
        given = next(b for b in side.cohort.schema.blocks if b.name == block.name)
        known = set(block.vocabulary)
        strange = np.array([code not in known for code in given.vocabulary], dtype=bool)
        matrix = side.cohort.blocks[block.name][side.order]
        bad = (
            np.asarray((matrix[:, strange] != 0).sum(axis=1)).ravel() > 0
            if strange.any()
            else np.zeros(len(side), bool)
        )
        lowest = np.asarray(matrix.min(axis=1).todense()).ravel() if matrix.shape[1] else np.zeros(len(side))
        bad |= lowest < 0
        if block.kind == "binary" and matrix.shape[1]:
            bad |= np.asarray(matrix.max(axis=1).todense()).ravel() > 1
        whole &= ~bad
        rows.append(ADHERENCE.result((~bad).mean(), n=len(side), null=1.0, scope="column", key1=block.name))
    return [ADHERENCE.result(whole.mean(), n=len(side), null=1.0), *rows]


@metric(JSD, floor="ref_mode")
def jsd(ctx: EvaluationContext) -> list[MetricResult]:
    """Divergence in bits, for each column and block, with mean, median and worst."""
    return _by_column(ctx, JSD, _divergences(ctx))


@metric(JSD_DEBIASED, floor="ref_mode")
def jsd_debiased(ctx: EvaluationContext) -> list[MetricResult]:
    """The same minus its expectation under sampling alone."""
    lowered = {
        name: Compared(c.value - c.null, 0.0, None if c.draws is None else c.draws - c.null, c.n)
        for name, c in _divergences(ctx).items()
    }
    return _by_column(ctx, JSD_DEBIASED, lowered)


@metric(TVD, floor="ref_mode")
def tvd(ctx: EvaluationContext) -> list[MetricResult]:
    """One minus total variation distance of each discrete column and block."""
    found = {}
    for name, parts in _discrete(ctx):
        found[name] = _compare(ctx, parts, _overlap, _overlap_null)
    return _by_column(ctx, TVD, found)


@metric(KS, floor="ref_mode")
def ks(ctx: EvaluationContext) -> list[MetricResult]:
    """One minus the Kolmogorov-Smirnov distance of each numeric column."""
    found = {}
    for column in ctx.sides.encoder.columns:
        if not column.numeric:
            continue
        real, synthetic = ctx.sides.holdout.values[column.name], ctx.synthetic.values[column.name]
        values, nulls = [], []
        for draw in ctx.matched:
            a, b = real[draw.real], synthetic[draw.synthetic]
            n, m = int((~np.isnan(a)).sum()), int((~np.isnan(b)).sum())
            values.append(1.0 - ks_distance(a, b) if n and m else (1.0 if n == m else 0.0))
            nulls.append(1.0 - 0.8687 * np.sqrt((n + m) / (n * m)) if n and m else np.nan)
        first = ctx.matched[0]
        draws = 1.0 - _ks_draws(real[first.real], synthetic[first.synthetic], *ctx.matched_weights)
        found[column.name] = Compared(float(np.mean(values)), float(np.mean(nulls)), draws, ctx.matched_size)
    return _by_column(ctx, KS, found)


def ks_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Largest gap between two empirical cumulative curves; NaN cells are left out."""
    a, b = np.sort(a[~np.isnan(a)]), np.sort(b[~np.isnan(b)])
    at = np.concatenate([a, b])
    gap = np.searchsorted(a, at, side="right") / len(a) - np.searchsorted(b, at, side="right") / len(b)
    return float(np.abs(gap).max())


def jensen_shannon(p: Shares, q: Shares) -> Shares:
    """Jensen-Shannon divergence in bits over the last axis of two arrays of shares."""
    middle = (p + q) / 2

    def term(x: Shares) -> Shares:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(x > 0, x * np.log2(x / middle), 0.0).sum(axis=-1)

    return np.maximum((term(p) + term(q)) / 2, 0.0)


class Compared:
    """A column's figure: value, null expectation, bootstrap draws (None without any), rows a side."""

    def __init__(self, value: float, null: float, draws: NDArray[np.float64] | None, n: int) -> None:
        self.value, self.null, self.draws, self.n = value, null, draws, n


class _Binned:
    """A column as bin numbers of both sides, or a block as presence of both sides."""

    def __init__(self, ctx: EvaluationContext, name: str) -> None:
        self.ctx = ctx
        self.block = name in ctx.sides.holdout.presence
        if self.block:
            self.real, self.synthetic = ctx.sides.holdout.presence[name], ctx.synthetic.presence[name]
            return
        column = next(c for c in ctx.sides.encoder.columns if c.name == name)
        self.real, self.size = ctx.sides.holdout.bins(column)
        self.synthetic, _ = ctx.synthetic.bins(column)

    def shares(self, rows: NDArray[np.int64], weights: NDArray[np.float32] | None, *, real: bool) -> Shares:
        """Shares of the bins: (bins,), or (draws, bins) with weights; of a block (..., codes, 2): present, absent."""
        data = (self.real if real else self.synthetic)[rows]
        w = np.full((1, len(rows)), 1.0, dtype=np.float32) if weights is None else weights
        total = np.maximum(w.sum(axis=1, dtype=np.float64), 1e-12)[:, None]
        if self.block:
            present = (data.T @ w.T).T.astype(np.float64) / total
            found = np.stack([present, 1 - present], axis=-1)
        else:
            hot = np.zeros((len(rows), self.size), dtype=np.float32)
            hot[np.arange(len(rows)), data] = 1.0
            found = (w @ hot).astype(np.float64) / total
        return found[0] if weights is None else found


def _compare(
    ctx: EvaluationContext,
    parts: _Binned,
    figure: Callable[[Shares, Shares], Shares],
    null: Callable[[Shares, int], Shares],
) -> Compared:
    """A figure of two shares over the matched draws, its null, and its bootstrap on the first draw."""
    values, nulls = [], []
    size = ctx.matched_size
    for draw in ctx.matched:
        p = parts.shares(draw.real, None, real=True)
        q = parts.shares(draw.synthetic, None, real=False)
        values.append(float(np.mean(figure(p, q))))
        nulls.append(float(np.mean(null((p + q) / 2, size))))
    first = ctx.matched[0]
    real_weights, synthetic_weights = ctx.matched_weights
    draws = figure(
        parts.shares(first.real, real_weights, real=True),
        parts.shares(first.synthetic, synthetic_weights, real=False),
    )
    return Compared(
        float(np.mean(values)), float(np.mean(nulls)), draws.mean(axis=1) if draws.ndim > 1 else draws, size
    )


def _jsd_null(pooled: Shares, size: int) -> Shares:
    occupied = (pooled > 0).sum(axis=-1)
    return np.maximum(occupied - 1, 0) * (2 / size) / 8 / np.log(2)


def _overlap(p: Shares, q: Shares) -> Shares:
    return 1.0 - np.abs(p - q).sum(axis=-1) / 2


def _overlap_null(pooled: Shares, size: int) -> Shares:
    return 1.0 - np.sqrt(2 / np.pi * pooled * (1 - pooled) * 2 / size).sum(axis=-1) / 2


def _divergences(ctx: EvaluationContext) -> dict[str, Compared]:
    def find() -> dict[str, Compared]:
        names = [c.name for c in ctx.sides.encoder.columns] + [b.name for b in ctx.sides.encoder.blocks]
        return {name: _compare(ctx, _Binned(ctx, name), jensen_shannon, _jsd_null) for name in names}

    return ctx.once("fid.marg.jsd", find)


def _discrete(ctx: EvaluationContext) -> Iterator[tuple[str, _Binned]]:
    for column in ctx.sides.encoder.columns:
        if column.discrete:
            yield column.name, _Binned(ctx, column.name)
    for block in ctx.sides.encoder.blocks:
        yield block.name, _Binned(ctx, block.name)


def _by_column(ctx: EvaluationContext, spec: MetricSpec, found: dict[str, Compared]) -> list[MetricResult]:
    """Mean (the headline), median and worst over the columns, then the columns."""
    if not found:
        return [spec.result(None, note="the table has no column of this kind")]
    values = np.array([c.value for c in found.values()])
    nulls = np.array([c.null for c in found.values()])
    draws = [c.draws for c in found.values() if c.draws is not None]
    stacked = np.stack(draws) if len(draws) == len(found) else None
    worst = np.max if spec.direction < 0 else np.min
    rows = []
    for key, summary in (("", np.mean), ("median", np.median), ("worst", worst)):
        se = None if stacked is None else float(summary(stacked, axis=0).std(ddof=1))
        null = float(summary(nulls[np.isfinite(nulls)])) if np.isfinite(nulls).any() else None
        rows.append(
            spec.result(
                float(summary(values)), se=se, n=ctx.matched_size, null=null if key != "worst" else None, key1=key
            )
        )
    for name, c in found.items():
        se = None if c.draws is None else float(c.draws.std(ddof=1))
        rows.append(spec.result(c.value, se=se, n=c.n, null=c.null, scope="column", key1=name))
    return rows


def _ks_draws(
    a: NDArray[np.float64], b: NDArray[np.float64], wa: NDArray[np.float32], wb: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(draws,) Kolmogorov-Smirnov distances under bootstrap weights; 0 where a side has no number in a draw."""
    left, right = ~np.isnan(a), ~np.isnan(b)
    if not left.any() or not right.any():
        return np.zeros(len(wa))
    values = np.concatenate([a[left], b[right]])
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(np.r_[values[order][1:] != values[order][:-1], True])
    result = np.empty(len(wa))
    for lo in range(0, len(wa), 100):
        x, y = wa[lo : lo + 100][:, left], wb[lo : lo + 100][:, right]
        sx, sy = x.sum(axis=1, keepdims=True), y.sum(axis=1, keepdims=True)
        signed = np.concatenate([x / np.maximum(sx, 1), -y / np.maximum(sy, 1)], axis=1)[:, order]
        gap = np.abs(np.cumsum(signed, axis=1)[:, ends]).max(axis=1)
        result[lo : lo + 100] = np.where((sx[:, 0] > 0) & (sy[:, 0] > 0), gap, 0.0)
    return result


def _missing(column: object) -> NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as pc

    assert isinstance(column, pa.ChunkedArray)
    nan = pa.types.is_floating(column.type)
    return np.asarray(pc.is_null(column, nan_is_null=nan).to_numpy(zero_copy_only=False), dtype=bool)
