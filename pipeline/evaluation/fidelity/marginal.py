"""Marginal fidelity: does each column look like the holdout's?

Jensen-Shannon divergence, Kolmogorov-Smirnov, total variation, chi-squared, Wasserstein. Mean, spread and quantiles are
in `moments.py`, codes in `codes.py`, what T's levels and ranges became in `coverage.py`. Every comparison is against the
holdout, at matched sizes, averaged over the matched draws; standard errors are bootstrapped by subject on the first
draw. How that is done, and summed up over columns, is in `by_column.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.by_column import Compared, compare, discrete, independent_rows, resampled, summed_up
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fidelity.by_column import Shares
    from pipeline.evaluation.results import MetricResult

REJECTED = 0.05
"""False discovery rate at which columns count as different (Benjamini and Hochberg)."""
CURVE_POINTS, FEWEST_BETWEEN = 40, 11
"""Points of a drawn cumulative curve, and holdout values that lie between two of them at least, on average."""
FEWEST_EXPECTED = 5
"""Carriers that each side is expected to have for a code's chi-squared test to hold (Cochran)."""
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


CHI2 = MetricSpec(
    id="fid.marg.chi2",
    family="fidelity",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"H", "S"}),
    version="1",
    title="Cramér's V of each discrete column (chi-squared)",
    caption="Strength with which a row's level tells whether it is real: 0 not at all, 1 for certain. Lower is better; "
    "the null is what two real samples of this size give. `rejected` is the share of columns that differ beyond chance.",
    source="Pearson 1900 on counts; Cramér 1946; Benjamini and Hochberg 1995 at 5 %",
)
WD = MetricSpec(
    id="fid.marg.wd",
    family="fidelity",
    direction=-1,
    range=(0.0, np.inf),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Wasserstein distance",
    caption="How far a numeric column's values must be moved on average to become the holdout's, in standard "
    "deviations of the training rows. Lower is better; the null is what two real samples of this size give.",
    source="W1 = area between the cumulative curves, over the standard deviation of T",
)


@metric(JSD, floor="ref_mode")
def jsd(ctx: EvaluationContext) -> list[MetricResult]:
    """Divergence in bits, for each column and block, with mean, median and worst."""
    return summed_up(ctx, JSD, _divergences(ctx))


@metric(JSD_DEBIASED, floor="ref_mode")
def jsd_debiased(ctx: EvaluationContext) -> list[MetricResult]:
    """The same minus its expectation under sampling alone."""
    lowered = {
        name: Compared(c.value - c.null, 0.0, None if c.draws is None else c.draws - c.null, c.n)
        for name, c in _divergences(ctx).items()
    }
    return summed_up(ctx, JSD_DEBIASED, lowered)


@metric(TVD, floor="ref_mode")
def tvd(ctx: EvaluationContext) -> list[MetricResult]:
    """One minus total variation distance of each discrete column and block."""
    return summed_up(ctx, TVD, {name: compare(ctx, name, _overlap, _overlap_null) for name in discrete(ctx)})


@metric(CHI2, floor="ref_mode")
def chi2(ctx: EvaluationContext) -> list[MetricResult]:
    """Cramér's V of level against side, its p-values (for information), and the share of columns that differ."""
    rows = summed_up(ctx, CHI2, {name: compare(ctx, name, cramers_v, _v_null) for name in discrete(ctx)})
    p_values: list[float] = []
    for name in discrete(ctx):
        p, q = resampled(ctx, name).drawn[0]
        found = _chi2_p(ctx, p, q)
        if p.ndim > 1:
            common = ((p + q)[:, 0] / 2) * ctx.matched_size >= FEWEST_EXPECTED
            found = found[common]
            if len(found):
                share = float(rejected(found).mean())
                rows.append(
                    CHI2.result(share, n=len(found), null=0.0, scope="column", key1=name, key2="rejected",
                                note="share of the block's codes that differ beyond chance")
                )  # fmt: skip
            continue
        p_values.append(float(found))
        rows.append(CHI2.result(float(found), n=ctx.matched_size, scope="column", key1=name, key2="p_value"))
    if p_values:
        refused = rejected(np.array(p_values))
        note = f"{int(refused.sum())} of {len(refused)} columns"
        rows.append(CHI2.result(float(refused.mean()), n=len(refused), null=0.0, key1="rejected", note=note))
    return rows


@metric(KS, floor="ref_mode")
def ks(ctx: EvaluationContext) -> list[MetricResult]:
    """One minus the Kolmogorov-Smirnov distance of each numeric column; p-values for information."""
    curves = _curves(ctx)
    if ctx.with_plots:
        ctx.plots["curves"] = {name: drawn for name in curves if (drawn := _drawn(ctx, name)) is not None}
    rows = summed_up(ctx, KS, {name: c.ks for name, c in curves.items()})
    return rows + [
        KS.result(c.p_value, n=ctx.matched_size, scope="column", key1=name, key2="p_value")
        for name, c in curves.items()
        if np.isfinite(c.p_value)
    ]


@metric(WD, floor="ref_mode")
def wd(ctx: EvaluationContext) -> list[MetricResult]:
    """W1 of each numeric column in standard deviations of T; columns without spread in T are left out."""
    found = {name: c.wd for name, c in _curves(ctx).items() if c.wd is not None}
    if not found and _curves(ctx):
        return [WD.result(None, note="no numeric column has spread in the training rows and values on both sides")]
    return summed_up(ctx, WD, found)


def ks_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Largest gap between two empirical cumulative curves; NaN cells are left out."""
    a, b = np.sort(a[~np.isnan(a)]), np.sort(b[~np.isnan(b)])
    at = np.concatenate([a, b])
    gap = np.searchsorted(a, at, side="right") / len(a) - np.searchsorted(b, at, side="right") / len(b)
    return float(np.abs(gap).max())


def wasserstein(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Area between two empirical cumulative curves; NaN cells are left out."""
    a, b = np.sort(a[~np.isnan(a)]), np.sort(b[~np.isnan(b)])
    at = np.sort(np.concatenate([a, b]))
    gap = np.searchsorted(a, at[:-1], side="right") / len(a) - np.searchsorted(b, at[:-1], side="right") / len(b)
    return float(np.abs(gap) @ np.diff(at))


def jensen_shannon(p: Shares, q: Shares) -> Shares:
    """Jensen-Shannon divergence in bits over the last axis of two arrays of shares."""
    middle = (p + q) / 2

    def term(x: Shares) -> Shares:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(x > 0, x * np.log2(x / middle), 0.0).sum(axis=-1)

    return np.maximum((term(p) + term(q)) / 2, 0.0)


def cramers_v(p: Shares, q: Shares) -> Shares:
    """Cramér's V of level against side, two samples of one size, over the last axis of two arrays of shares."""
    total = p + q
    return np.sqrt(((p - q) ** 2 / np.where(total > 0, total, 1.0)).sum(axis=-1) / 2)


def rejected(p_values: NDArray[np.float64], rate: float = REJECTED) -> NDArray[np.bool_]:
    """(n,) True where Benjamini and Hochberg's procedure at this false discovery rate rejects."""
    order = np.argsort(p_values)
    below = np.flatnonzero(p_values[order] <= rate * np.arange(1, len(order) + 1) / len(order))
    result = np.zeros(len(order), dtype=bool)
    if len(below):
        result[order[: below[-1] + 1]] = True
    return result


def _jsd_null(pooled: Shares, size: int) -> Shares:
    occupied = (pooled > 0).sum(axis=-1)
    return np.maximum(occupied - 1, 0) * (2 / size) / 8 / np.log(2)


def _overlap(p: Shares, q: Shares) -> Shares:
    return 1.0 - np.abs(p - q).sum(axis=-1) / 2


def _overlap_null(pooled: Shares, size: int) -> Shares:
    return 1.0 - np.sqrt(2 / np.pi * pooled * (1 - pooled) * 2 / size).sum(axis=-1) / 2


def _v_null(pooled: Shares, size: int) -> Shares:
    """Mean of chi with as many degrees of freedom as levels met, less one, over the root of all rows."""
    from scipy.special import gammaln

    freedom = np.maximum((pooled > 0).sum(axis=-1) - 1, 0)
    safe = np.maximum(freedom, 1)
    mean = np.sqrt(2) * np.exp(gammaln((safe + 1) / 2) - gammaln(safe / 2))
    return np.where(freedom > 0, mean, 0.0) / np.sqrt(2 * size)


def _chi2_p(ctx: EvaluationContext, p: Shares, q: Shares) -> Shares:
    """p-value of the contingency test on counts; rows of one subject count together as one."""
    from scipy.stats import chi2 as distribution

    size = ctx.matched_size
    rows = 2 / (1 / independent_rows(ctx.sides.holdout, size) + 1 / independent_rows(ctx.synthetic, size))
    freedom = ((p + q) > 0).sum(axis=-1) - 1
    return np.where(freedom > 0, distribution.sf(2 * rows * cramers_v(p, q) ** 2, np.maximum(freedom, 1)), 1.0)


def _divergences(ctx: EvaluationContext) -> dict[str, Compared]:
    def find() -> dict[str, Compared]:
        names = [c.name for c in ctx.sides.encoder.columns] + [b.name for b in ctx.sides.encoder.blocks]
        return {name: compare(ctx, name, jensen_shannon, _jsd_null) for name in names}

    return ctx.once("fid.marg.jsd", find)


@dataclass(frozen=True)
class _Curves:
    """What the cumulative curves of a numeric column give; `wd` is None without spread in T or values on a side."""

    ks: Compared
    wd: Compared | None
    p_value: float


def _curves(ctx: EvaluationContext) -> dict[str, _Curves]:
    def find() -> dict[str, _Curves]:
        return {c.name: _curves_of(ctx, c.name) for c in ctx.sides.encoder.columns if c.numeric}

    return ctx.once("fid.marg.curves", find)


def _curves_of(ctx: EvaluationContext, name: str) -> _Curves:
    from scipy.stats import kstwo

    real, synthetic = ctx.sides.holdout.values[name], ctx.synthetic.values[name]
    spread = ctx.sides.once(f"spread/{name}", lambda: _spread(ctx.sides.train.values[name]))
    size = ctx.matched_size
    far, near, moved, alone, p_value = [], [], [], [], float("nan")
    for k, draw in enumerate(ctx.matched):
        a, b = real[draw.real], synthetic[draw.synthetic]
        a, b = a[~np.isnan(a)], b[~np.isnan(b)]
        n, m = len(a), len(b)
        if not n or not m:
            far.append(1.0 if n == m else 0.0)
            near.append(np.nan)
            continue
        distance = ks_distance(a, b)
        far.append(1.0 - distance)
        near.append(1.0 - 0.8687 * np.sqrt((n + m) / (n * m)))
        moved.append(wasserstein(a, b))
        alone.append(_wasserstein_null(a, b))
        if k == 0:
            x, y = independent_rows(ctx.sides.holdout, n), independent_rows(ctx.synthetic, m)
            p_value = float(kstwo.sf(distance, max(round(x * y / (x + y)), 1)))
    first = ctx.matched[0]
    gap, area = _curve_draws(real[first.real], synthetic[first.synthetic], *ctx.matched_weights)
    judged = bool(moved) and len(moved) == len(ctx.matched) and spread > 0
    return _Curves(
        Compared(float(np.mean(far)), float(np.mean(near)), 1.0 - gap, size),
        Compared(float(np.mean(moved)) / spread, float(np.mean(alone)) / spread, area / spread, size)
        if judged
        else None,
        p_value,
    )


def _spread(values: NDArray[np.float64]) -> float:
    """Standard deviation of the known values, 0 without any; rows in canonical order, so that their order is nothing."""
    known = values[~np.isnan(values)]
    return float(known.std()) if len(known) else 0.0


def _drawn(ctx: EvaluationContext, name: str) -> dict[str, list[float]] | None:
    """Both cumulative curves at quantiles of T between 1 and 99 %; None where too few values are known to draw any."""
    known = [v[~np.isnan(v)] for v in (s.values[name] for s in (ctx.sides.train, ctx.sides.holdout, ctx.synthetic))]
    points = min(CURVE_POINTS, len(known[0]) // FEWEST_BETWEEN, len(known[1]) // FEWEST_BETWEEN)
    if points < 5 or not len(known[2]):
        return None
    at = np.unique(np.quantile(known[0], np.linspace(0.01, 0.99, points)))
    shares = [np.searchsorted(np.sort(v), at, side="right") / len(v) for v in known[1:]]
    return {
        "x": [float(f"{x:.4g}") for x in at],
        "real": shares[0].round(3).tolist(),
        "synthetic": shares[1].round(3).tolist(),
    }


def _wasserstein_null(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Mean distance of two samples of these sizes from the pooled rows: the gap is normal with variance F(1 - F)."""
    at = np.sort(np.concatenate([a, b]))
    share = np.arange(1, len(at)) / len(at)
    width = np.sqrt(2 / np.pi * share * (1 - share) * (1 / len(a) + 1 / len(b)))
    return float(width @ np.diff(at))


def _curve_draws(
    a: NDArray[np.float64], b: NDArray[np.float64], wa: NDArray[np.float32], wb: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(draws,) largest gap and (draws,) area between the curves under bootstrap weights; 0 where a side is empty."""
    left, right = ~np.isnan(a), ~np.isnan(b)
    gaps, areas = np.zeros(len(wa)), np.zeros(len(wa))
    if not left.any() or not right.any():
        return gaps, areas
    values = np.concatenate([a[left], b[right]])
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    steps = np.diff(ordered[ends])
    for lo in range(0, len(wa), 100):
        x, y = wa[lo : lo + 100][:, left], wb[lo : lo + 100][:, right]
        sx, sy = x.sum(axis=1, keepdims=True), y.sum(axis=1, keepdims=True)
        signed = np.concatenate([x / np.maximum(sx, 1), -y / np.maximum(sy, 1)], axis=1)[:, order]
        gap = np.abs(np.cumsum(signed, axis=1)[:, ends])
        both = (sx[:, 0] > 0) & (sy[:, 0] > 0)
        gaps[lo : lo + 100] = np.where(both, gap.max(axis=1), 0.0)
        areas[lo : lo + 100] = np.where(both, gap[:, :-1].astype(np.float64) @ steps, 0.0)
    return gaps, areas
