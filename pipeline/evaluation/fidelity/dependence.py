"""Dependence: do columns move together as they do in reality?

Pearson correlations of a mixed table: numbers, binary columns as 0/1, ordinal columns as positions, nominal columns
as one 0/1 column a level, code blocks as presence of their 200 most variable codes. Missing cells stand at the mean
of T and are told by 0/1 mask columns of their own, so that "measured together" is compared as well. Pairs inside one
source column (levels of one column, a value and its mask) are fixed by the marginals and left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.encoding import LinearDesign
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult

SHOWN = 40
CORR_RMSE = MetricSpec(
    id="fid.dep.corr_rmse",
    family="fidelity",
    direction=-1,
    range=(0.0, 2.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Correlation error (RMSE)",
    caption="Root mean squared difference between the correlations of all pairs of columns, holdout against synthetic. "
    "Lower is better; the null is what two real samples of this size differ by.",
    source="off-diagonal Pearson, mixed columns",
)


@metric(CORR_RMSE)
def corr_rmse(ctx: EvaluationContext) -> list[MetricResult]:
    """RMSE over pairs, averaged over the matched draws; bootstrap by subject."""
    design = ctx.sides.once("corr/design", lambda: LinearDesign(ctx.sides.train))
    real = ctx.sides.once("corr/holdout", lambda: design.transform(ctx.sides.holdout))
    made = design.transform(ctx.synthetic)
    pairs = _pairs(design.groups)
    if not len(pairs[0]):
        return [CORR_RMSE.result(None, note="fewer than two columns with spread")]
    if ctx.matched_size < 2:
        return [CORR_RMSE.result(None, n=ctx.matched_size, note="fewer than two rows to compare")]
    values, collapsed = [], 0
    for draw in ctx.matched:
        left, _ = correlations(real[draw.real])
        right, constant = correlations(made[draw.synthetic])
        values.append(rmse(left, right, pairs))
        collapsed = max(collapsed, constant)
    first = ctx.matched[0]
    draws = _bootstrap(ctx, real[first.real], made[first.synthetic], pairs)
    if ctx.with_plots:
        ctx.plots["correlation"] = _heatmaps(ctx, design, real, made)
    return [
        CORR_RMSE.result(
            float(np.mean(values)),
            se=float(draws.std(ddof=1)),
            n=ctx.matched_size,
            null=float(np.sqrt(2 / ctx.matched_size)),
            note=f"{collapsed} of {len(design.names)} encoded columns are constant in the synthetic rows"
            if collapsed
            else "",
        )
    ]


def correlations(x: NDArray[np.floating]) -> tuple[NDArray[np.float64], int]:
    """(p, p) Pearson correlations of (n, p) numbers, 0 for constant columns, and how many columns are constant."""
    x = np.asarray(x, dtype=np.float64)
    centred = x - x.mean(axis=0)
    flat = (x == x[:1]).all(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    unit = np.where(flat, 0.0, centred / np.where(flat | (norm == 0), 1.0, norm))
    return np.clip(unit.T @ unit, -1.0, 1.0), int(flat.sum())


def rmse(left: NDArray[np.float64], right: NDArray[np.float64], pairs: tuple[NDArray[Any], NDArray[Any]]) -> float:
    """Root mean squared difference over the given pairs."""
    return float(np.sqrt(np.mean((left[pairs] - right[pairs]) ** 2)))


def _pairs(groups: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    codes = np.unique(np.array(groups, dtype=str), return_inverse=True)[1] if groups else np.zeros(0, dtype=np.int64)
    i, j = np.triu_indices(len(groups), k=1)
    apart = codes[i] != codes[j]
    return i[apart], j[apart]


def _bootstrap(
    ctx: EvaluationContext,
    real: NDArray[np.float32],
    made: NDArray[np.float32],
    pairs: tuple[NDArray[Any], NDArray[Any]],
) -> NDArray[np.float64]:
    """(draws,) RMSE with whole subjects drawn again; wide tables take fewer draws (the work grows with p squared)."""
    wr, ws = ctx.matched_weights
    draws = min(len(wr), 200 if real.shape[1] <= 60 else 50)
    return np.array(
        [rmse(_weighted_correlations(real, wr[b]), _weighted_correlations(made, ws[b]), pairs) for b in range(draws)]
    )


def _weighted_correlations(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    drawn = weight > 0
    rows, w = x[drawn], weight[drawn]
    total = float(w.sum())
    mean = (w @ rows) / total
    centred = (rows - mean) * np.sqrt(w)[:, None]
    covariance = (centred.T @ centred).astype(np.float64)
    norm = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    flat = norm < 1e-5 * np.sqrt(total)
    scale = np.where(flat, np.inf, norm)
    return np.clip(covariance / np.outer(scale, scale), -1.0, 1.0)


def _heatmaps(
    ctx: EvaluationContext, design: LinearDesign, real: NDArray[np.float32], made: NDArray[np.float32]
) -> dict[str, Any]:
    """Both matrices and the order of columns clustered on T; the SHOWN columns with the largest differences."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    left, right = correlations(real)[0], correlations(made)[0]
    gap = np.abs(left - right).max(axis=1)
    shown = np.sort(np.argsort(-gap, kind="stable")[:SHOWN])
    names = [design.names[i] for i in shown]
    train = correlations(design.transform(ctx.sides.train)[:, shown])[0]
    if len(shown) > 2:
        far = 1 - np.abs(train)
        np.fill_diagonal(far, 0.0)
        order = leaves_list(linkage(squareform(np.maximum(far, far.T), checks=False), method="average"))
    else:
        order = np.arange(len(shown))
    picked = shown[order]
    for block in ctx.sides.encoder.blocks:
        prefix = f"{block.name}/"
        names = [
            f"{prefix}{block.vocabulary[int(n.removeprefix(prefix))]}" if n.startswith(prefix) else n for n in names
        ]
    return {
        "names": [names[i] for i in order],
        "real": np.round(left[np.ix_(picked, picked)], 3).tolist(),
        "synthetic": np.round(right[np.ix_(picked, picked)], 3).tolist(),
        "left_out": len(design.names) - len(shown),
    }
