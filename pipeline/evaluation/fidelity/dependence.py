"""Dependence: do columns move together as they do in reality? Correlations of all pairs of columns.

Headline and companions come from the same matrices (`correlation.py`), each the mean over the matched draws. The
headline of a table with code blocks takes the 200 most variable codes of each: over all codes the sampling noise of
rare ones drowns what is broken (50,000 rows of 1,071 codes: independent and real codes lie 44 standard errors apart on
200 codes, 6 on all); all codes are a row of their own. Associations of other kinds are in `association.py` and
`pairs.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.fidelity.correlation import (
    FEWEST_CARRIERS,
    code_correlations,
    code_influence,
    code_rows,
    common_codes,
    correlated,
    design_of,
    drawn,
    pair_draws,
    row_influence,
)
from pipeline.evaluation.fidelity.influence import error_of, holdout_draws
from pipeline.evaluation.fidelity.two_sample import mean_error
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fidelity.correlation import Correlated, Design, Matrix, Pairs
    from pipeline.evaluation.results import MetricResult

SHOWN = 80
BROKEN = 20
STRONG = 0.1
"""Correlations beyond this must keep their sign."""
SIGN_DRAWS = 100
ALL_CODES = "all codes"
CORR_RMSE = MetricSpec(
    id="fid.dep.corr_rmse",
    family="fidelity",
    direction=-1,
    range=(0.0, 2.0),
    needs=frozenset({"T", "H", "S"}),
    version="2",
    title="Correlation error (RMSE)",
    caption="Root mean squared difference between the correlations of all pairs of columns, holdout against synthetic. "
    "Lower is better; the null is what two real samples of this size differ by.",
    source="off-diagonal Pearson, mixed columns; Goncalves 2020 without its diagonal and its scale",
)
CORR_MAD = MetricSpec(
    id="fid.dep.corr_mad",
    family="fidelity",
    direction=-1,
    range=(0.0, 2.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Correlation error (mean absolute)",
    caption="Mean absolute difference between the correlations of all pairs of columns, holdout against synthetic. "
    "Lower is better; the null is what two real samples of this size differ by.",
    source="Yan 2022, correlation difference as its text defines it",
)
SPEARMAN = MetricSpec(
    id="fid.dep.corr_spearman",
    family="fidelity",
    direction=-1,
    range=(0.0, 2.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Rank correlation error (RMSE)",
    caption="The correlation error after numbers are replaced by their ranks, which a few extreme values cannot move. "
    "Lower is better; the null is what two real samples of this size differ by.",
    source="Spearman 1904, mixed columns",
)
PCD_EXCESS = MetricSpec(
    id="fid.dep.pcd_excess",
    family="fidelity",
    direction=-1,
    range=(0.0, 2.0),
    needs=frozenset({"T", "H", "R0", "S"}),
    version="1",
    title="Correlation error above sampling noise",
    caption="What is left of the correlation error when that of fresh real rows of the same number is taken off "
    "(squared). Lower is better; the null is 0: no error beyond sampling.",
    source="sqrt(max(0, PCD² - PCD_ref²)) / sqrt(d (d - 1)); PCD: Goncalves 2020",
)
SIGN = MetricSpec(
    id="fid.dep.corr_sign",
    family="fidelity",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Correlations that keep their sign",
    caption="Of the pairs of columns that are correlated by more than 0.1 in the holdout, the share that is correlated "
    "in the same direction in the synthetic rows. Higher is better; the null, next to 1, is what a fresh real sample "
    "would reach.",
    source="sign agreement of Pearson correlations",
)


@metric(CORR_RMSE)
def corr_rmse(ctx: EvaluationContext) -> list[MetricResult]:
    """RMSE over the pairs against the holdout; against the training rows; and over all codes."""
    lacking = _lacking(ctx)
    if lacking:
        return [CORR_RMSE.result(None, n=ctx.matched_size, note=lacking)]
    design = design_of(ctx.sides)
    made = correlated(ctx, "S")
    real = correlated(ctx, "H")
    if ctx.with_plots:
        ctx.plots["correlation"] = _heatmaps(ctx, design, real.matrices[0], made.matrices[0])
    collapsed = f"{made.constant} of {len(design.names)} encoded columns are constant in the synthetic rows"
    rows = [_row(CORR_RMSE, ctx, real, made, design.pairs, _rmse, note=collapsed if made.constant else "")]
    if len(ctx.sides.train) >= ctx.matched_size:
        known = correlated(ctx, "T")
        value = _mean(known, made, design.pairs, _rmse)
        left, right = _influences(known, made, design.pairs, _rmse)
        clusters = ctx.sides.train.clusters[ctx.rows("T", "matched")], ctx.synthetic.clusters[ctx.matched[0].synthetic]
        error = float(np.hypot(mean_error(left, clusters[0]), mean_error(right, clusters[1])))
        rows.append(CORR_RMSE.result(value, se=error, n=ctx.matched_size, null=_null(ctx), key2="train"))
    return rows + _all_codes(ctx)


@metric(CORR_MAD)
def corr_mad(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean absolute difference over the pairs."""
    lacking = _lacking(ctx)
    if lacking:
        return [CORR_MAD.result(None, n=ctx.matched_size, note=lacking)]
    real, made = correlated(ctx, "H"), correlated(ctx, "S")
    pairs = design_of(ctx.sides).pairs
    return [_row(CORR_MAD, ctx, real, made, pairs, _mad, null=_null(ctx) * float(np.sqrt(2 / np.pi)))]


@metric(SPEARMAN)
def corr_spearman(ctx: EvaluationContext) -> list[MetricResult]:
    """RMSE over the pairs of rank correlations; missing cells take the rank of the mean, as they do its value."""
    lacking = _lacking(ctx)
    if lacking:
        return [SPEARMAN.result(None, n=ctx.matched_size, note=lacking)]
    design = design_of(ctx.sides)
    if not len(design.ranked):
        return [SPEARMAN.not_applicable("the table has no number and no ordinal column")]
    real, made = correlated(ctx, "H", ranks=True), correlated(ctx, "S", ranks=True)
    return [_row(SPEARMAN, ctx, real, made, design.pairs, _rmse)]


@metric(PCD_EXCESS)
def pcd_excess(ctx: EvaluationContext) -> list[MetricResult]:
    """Root of the mean squared difference less that of fresh real rows, cut at 0."""
    lacking = _lacking(ctx)
    if lacking:
        return [PCD_EXCESS.result(None, n=ctx.matched_size, note=lacking)]
    pairs = design_of(ctx.sides).pairs
    real, made = correlated(ctx, "H"), correlated(ctx, "S")
    value = _mean(real, made, pairs, _rmse)
    left, right = (2 * value * x for x in _influences(real, made, pairs, _rmse))
    if len(ctx.sides.reference0) >= 2:
        fresh = correlated(ctx, "R0")
        noise = _mean(real, fresh, pairs, _rmse)
        of_real, of_fresh = _influences(real, fresh, pairs, _rmse)
        left = left - 2 * noise * of_real
        clusters = ctx.sides.reference0.clusters[ctx.rows("R0", "matched")]
        error, note = 2 * noise * mean_error(of_fresh, clusters), ""
    else:
        noise, error, note = _null(ctx), 0.0, "no fresh real rows: sampling noise from its formula, sqrt(1/n + 1/m)"
    squared = value**2 - noise**2
    half = 1.959964 * float(np.hypot(error, error_of(ctx, left, right)))
    low, excess, high = (float(np.sqrt(max(0.0, squared + by))) for by in (-half, 0.0, half))
    return [
        PCD_EXCESS.result(
            excess,
            se=(high - low) / (2 * 1.959964),
            interval=(low, high),
            n=ctx.matched_size,
            null=0.0,
            note=note,
            draws=np.sqrt(np.maximum(0.0, holdout_draws(ctx, squared, left))),
        )
    ]


@metric(SIGN)
def corr_sign(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of the pairs with |C| > 0.1 in the holdout whose sign is the same; a constant column has no sign."""
    lacking = _lacking(ctx)
    if lacking:
        return [SIGN.result(None, n=ctx.matched_size, note=lacking)]
    pairs = design_of(ctx.sides).pairs
    real, made = correlated(ctx, "H"), correlated(ctx, "S")
    shares, nulls, judged = [], [], []
    for a, b in zip(real.matrices, made.matrices, strict=True):
        strong = np.abs(a[pairs]) > STRONG
        judged.append(int(strong.sum()))
        if judged[-1]:
            shares.append(float((np.sign(a[pairs][strong]) == np.sign(b[pairs][strong])).mean()))
            nulls.append(_sign_null(a[pairs][strong], ctx.matched_size))
    if not shares:
        return [
            SIGN.result(None, n=ctx.matched_size, note=f"no pair is correlated by more than {STRONG} in the holdout")
        ]
    strong = np.abs(real.matrices[0][pairs]) > STRONG
    chosen = pairs[0][strong], pairs[1][strong]
    draws = np.zeros(0)
    if strong.any():
        real_weights, synthetic_weights = (w[:SIGN_DRAWS] for w in ctx.matched_weights)
        signs = np.sign(pair_draws(real.unit, real.matrices[0], chosen, real_weights))
        made_draws = pair_draws(made.unit, made.matrices[0], chosen, synthetic_weights)
        draws = (signs == np.sign(made_draws)).mean(axis=1)
    return [
        SIGN.result(
            float(np.mean(shares)),
            se=float(draws.std(ddof=1)) if len(draws) > 1 else None,
            n=ctx.matched_size,
            null=float(np.mean(nulls)),
            note=f"{judged[0]:,} pairs",
        )
    ]


def _lacking(ctx: EvaluationContext) -> str:
    """Why no correlation can be compared; empty if it can."""
    if not len(design_of(ctx.sides).pairs[0]):
        return "fewer than two columns with spread"
    return TooFew(ctx.matched_size, 2, "rows a side") if ctx.matched_size < 2 else ""


def _null(ctx: EvaluationContext) -> float:
    """Root mean squared difference of a correlation near 0 between two real samples: sqrt(1/n + 1/m)."""
    return float(np.sqrt(2 / ctx.matched_size))


def _sign_null(correlation: NDArray[np.float64], n: int) -> float:
    """Expected share of signs met by a sample of n rows that has these correlations in truth."""
    from scipy.stats import norm

    return float(norm.cdf(np.abs(correlation) * np.sqrt(n) / (1 - np.minimum(correlation**2, 0.999))).mean())


def _rmse(difference: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Root mean square of (pairs,) differences, and its derivative."""
    value = float(np.sqrt(np.mean(difference**2)))
    return value, difference / (len(difference) * value) if value > 0 else np.zeros_like(difference)


def _mad(difference: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Mean absolute value of (pairs,) differences, and its derivative."""
    return float(np.mean(np.abs(difference))), np.sign(difference) / len(difference)


def _mean(real: Correlated, made: Correlated, pairs: Pairs, figure: Any) -> float:
    """The figure of the differences, averaged over the matched draws."""
    return float(np.mean([figure(a[pairs] - b[pairs])[0] for a, b in zip(real.matrices, made.matrices, strict=True)]))


def _influences(
    real: Correlated, made: Correlated, pairs: Pairs, figure: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(size,) influence of the real and of the synthetic rows of the first draw on the figure of the differences."""
    left, right = real.matrices[0], made.matrices[0]
    gradient = _symmetric(figure(left[pairs] - right[pairs])[1], pairs, len(left))
    return row_influence(real.unit, left, gradient), -row_influence(made.unit, right, gradient)


def _symmetric(values: NDArray[np.float64], pairs: Pairs, size: int) -> Matrix:
    found = np.zeros((size, size))
    found[pairs] = values
    return found + found.T


def _row(
    spec: MetricSpec,
    ctx: EvaluationContext,
    real: Correlated,
    made: Correlated,
    pairs: Pairs,
    figure: Any,
    *,
    null: float | None = None,
    note: str = "",
) -> MetricResult:
    value = _mean(real, made, pairs, figure)
    left, right = _influences(real, made, pairs, figure)
    return spec.result(
        value,
        se=error_of(ctx, left, right),
        n=ctx.matched_size,
        null=_null(ctx) if null is None else null,
        note=note,
        draws=holdout_draws(ctx, value, left),
    )


def _all_codes(ctx: EvaluationContext) -> list[MetricResult]:
    """The RMSE over all pairs of codes that enough training rows carry; nothing where the headline has them all."""
    codes = common_codes(ctx.sides)
    kept = sum(len(ctx.sides.encoder.kept_codes[name]) for name in codes)
    total = sum(len(chosen) for chosen in codes.values())
    if total <= kept or total < 2:
        return []
    pairs = np.triu_indices(total, k=1)
    real_rows, made_rows = drawn(ctx, "H"), drawn(ctx, "S")

    def first(name: str) -> Any:
        side, rows = (ctx.synthetic, made_rows) if name == "S" else (ctx.sides.holdout, real_rows)
        presence = code_rows(side, codes, rows[0])
        return presence, code_correlations(presence)

    presence, left = ctx.sides.once(f"correlation/all_codes/{ctx.matched_size}", lambda: first("H"))
    made, right = first("S")
    value, slope = _rmse(left[pairs] - right[pairs])
    gradient = _symmetric(slope, pairs, total)
    influences = code_influence(presence, left, gradient), -code_influence(made, right, gradient)
    note = f"{total:,} codes that at least {FEWEST_CARRIERS} training rows carry"
    return [
        CORR_RMSE.result(
            value, se=error_of(ctx, *influences), n=ctx.matched_size, null=_null(ctx), key1=ALL_CODES, note=note
        )
    ]


def _heatmaps(ctx: EvaluationContext, design: Design, left: Matrix, right: Matrix) -> dict[str, Any]:
    """Both matrices for the SHOWN features with the largest differences, clustered on T; and the most broken pairs.

    Features of levels and codes that fewer than 11 training rows carry (or lack) are not named anywhere.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    nameable = _nameable(ctx, design)
    difference = np.abs(left - right)
    shown = np.sort(nameable[np.argsort(-difference.max(axis=1)[nameable], kind="stable")[:SHOWN]])
    names = readable_names(ctx, design)
    order = np.arange(len(shown))
    if len(shown) > 2:
        known = correlated(ctx, "T").matrices[0][np.ix_(shown, shown)]
        far = 1 - np.abs(known)
        np.fill_diagonal(far, 0.0)
        order = leaves_list(linkage(squareform(np.maximum(far, far.T), checks=False), method="average"))
    picked = shown[order]
    i, j = design.pairs
    known_pairs = np.flatnonzero(np.isin(i, nameable) & np.isin(j, nameable))
    worst = known_pairs[np.argsort(-difference[i[known_pairs], j[known_pairs]], kind="stable")[:BROKEN]]
    return {
        "names": [names[k] for k in picked],
        "real": np.round(left[np.ix_(picked, picked)], 3).tolist(),
        "synthetic": np.round(right[np.ix_(picked, picked)], 3).tolist(),
        "left_out": len(design.names) - len(shown),
        "broken": [
            [names[i[k]], names[j[k]], round(float(left[i[k], j[k]]), 3), round(float(right[i[k], j[k]]), 3)]
            for k in worst
        ],
    }


def readable_names(ctx: EvaluationContext, design: Design) -> list[str]:
    """Names of the features as people read them: codes by their name instead of their position."""
    names = list(design.names)
    for block in ctx.sides.encoder.blocks:
        prefix = f"{block.name}/"
        for k, name in enumerate(names):
            if design.linear.groups[k] == name and name.startswith(prefix):
                names[k] = f"{prefix}{block.vocabulary[int(name.removeprefix(prefix))]}"
    return names


def _nameable(ctx: EvaluationContext, design: Design) -> NDArray[np.int64]:
    """Features that may be named: those of two values are carried, and lacked, by at least 11 training rows."""

    def make() -> NDArray[np.int64]:
        features = design.linear.transform(ctx.sides.train)
        low, high = features.min(axis=0), features.max(axis=0)
        at_ends = (features == low).sum(axis=0), (features == high).sum(axis=0)
        two = at_ends[0] + at_ends[1] == len(features)
        return np.flatnonzero(~two | (np.minimum(*at_ends) >= FEWEST_CARRIERS))

    return ctx.sides.once("correlation/nameable", make)
