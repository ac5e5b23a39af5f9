"""What is drawn of the joint distribution: real and synthetic rows on T's first two principal components, and t-SNE.

Plots, not scores. The public picture is a coarse two-dimensional histogram, cut at the training rows' 1st and 99th
percentiles, with cells of fewer than 11 rows left out. Dots of single records are for the internal report alone. An
axis says how much of T's variance it shows: what two axes leave out cannot be seen here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.aggregates import SMALL
from pipeline.evaluation.fidelity.components import principal, standardised
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.results import MetricResult

CELLS = (4, 18)
"""Fewest and most cells along an axis."""
ROWS_A_CELL = 25
DOTS = 1_000
FEWEST = 100
PERPLEXITY = 30.0
INPUTS = 50
PROJECTION = MetricSpec(
    id="fid.joint.pca_explained",
    family="fidelity",
    direction=0,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Holdout variance on the drawn axes",
    caption="Share of the holdout's variance that the two drawn principal components hold; key2 'synthetic' is the same "
    "share of the synthetic rows. Neither high nor low is better; equal shares are the null.",
    source="principal components fitted on T",
)
TSNE = MetricSpec(
    id="fid.joint.tsne",
    family="fidelity",
    direction=0,
    range=(0.0, np.inf),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Misfit of the t-SNE picture",
    caption="Kullback-Leibler divergence that the picture of 1,000 real and 1,000 synthetic rows leaves: a measure of the "
    "picture, not of the rows. Distances between clusters in it mean nothing.",
    source="van der Maaten and Hinton 2008; one joint fit, perplexity 30, fixed seed, started from principal components",
    cost="C",
)


@metric(PROJECTION, floor="")
def pca_explained(ctx: EvaluationContext) -> list[MetricResult]:
    """Shares of variance on two axes; leaves the pictures where plots are wanted."""
    frame = principal(ctx.sides)
    if frame.axes.shape[1] < 2:
        return [PROJECTION.result(None, note="fewer than two directions in which the training rows spread")]
    shares = {}
    names: tuple[PartName, PartName] = ("H", "S")
    for name in names:
        rows = standardised(ctx, name)
        total = float(rows.var(axis=0, dtype=np.float64).sum())
        shares[name] = float(frame.scores(rows, 2).var(axis=0, dtype=np.float64).sum()) / total if total > 0 else None
    if ctx.with_plots:
        _draw(ctx)
    return [
        PROJECTION.result(
            shares["H"],
            n=len(ctx.sides.holdout),
            null=float(frame.explained[:2].sum()),
            note="" if shares["H"] is not None else "the holdout rows have no spread",
        ),
        PROJECTION.result(
            shares["S"],
            n=len(ctx.synthetic),
            null=shares["H"],
            key2="synthetic",
            note="" if shares["S"] is not None else "the synthetic rows have no spread",
        ),
    ]


@metric(TSNE, floor="")
def tsne(ctx: EvaluationContext) -> list[MetricResult]:
    """Only for the internal picture: without plots nothing is fitted and there is no figure."""
    if not ctx.with_plots:
        return []
    size = min(DOTS, ctx.matched_size)
    frame = principal(ctx.sides)
    if size < FEWEST or frame.axes.shape[1] < 2:
        return [TSNE.result(None, n=size, note=f"{size} rows a side, at least {FEWEST} needed, and two components")]
    left, right = _dots(ctx, size)
    rows = standardised(ctx, "H")[left], standardised(ctx, "S")[right]
    placed, misfit = embed(frame.scores(np.concatenate(rows), INPUTS), seed=ctx.sides.seed)
    ctx.internal["tsne"] = {"real": placed[:size].round(2).tolist(), "synthetic": placed[size:].round(2).tolist()}
    return [TSNE.result(misfit, n=size)]


def embed(rows: NDArray[np.floating], *, seed: int) -> tuple[NDArray[np.float64], float]:
    """(n, 2) places by t-SNE started from the rows' first two components, and the divergence that is left."""
    from sklearn import manifold

    start = rows[:, :2] / max(float(rows[:, 0].std()), 1e-12) * 1e-4
    model = manifold.TSNE(
        2,
        perplexity=min(PERPLEXITY, (len(rows) - 1) / 3),
        init=np.ascontiguousarray(start, dtype=np.float32),
        random_state=seed,
    )
    placed = model.fit_transform(rows)
    return np.asarray(placed, dtype=np.float64), float(model.kl_divergence_)


def density(places: NDArray[np.floating], edges: list[NDArray[np.float64]], total: int) -> list[list[float | None]]:
    """(cells, cells) shares of all rows by cell of a grid, rows of the second axis first; None for 1 to 10 rows.

    Rows beyond the grid are in no cell, so a hidden count cannot be told from the others.
    """
    counts = np.histogram2d(places[:, 0], places[:, 1], bins=edges)[0].T
    return [
        [None if 0 < c < SMALL else round(float(c) / max(total, 1), 5) for c in line] for line in counts.astype(int)
    ]


def _draw(ctx: EvaluationContext) -> None:
    frame = principal(ctx.sides)
    train = ctx.sides.once("joint/scores2/T", lambda: frame.scores(standardised(ctx, "T"), 2))
    if len(train) < 10 * SMALL:
        return
    low, high = np.quantile(train, [0.01, 0.99], axis=0)
    if not (high > low).all():
        return
    fewest, most = CELLS
    cells = min(most, max(fewest, int((len(ctx.sides.holdout) / ROWS_A_CELL) ** 0.5)))
    edges = [np.linspace(a, b, cells + 1) for a, b in zip(low, high, strict=True)]
    real, made = (frame.scores(standardised(ctx, n), 2) for n in ("H", "S"))
    plot: dict[str, Any] = {
        "explained": frame.explained[:10].round(4).tolist(),
        "x": edges[0].round(3).tolist(),
        "y": edges[1].round(3).tolist(),
        "real": density(real, edges, len(real)),
        "synthetic": density(made, edges, len(made)),
    }
    ctx.plots["projection"] = plot
    size = min(DOTS, ctx.matched_size)
    left, right = _dots(ctx, size)
    ctx.internal["projection"] = {
        "explained": plot["explained"][:2],
        "real": real[left].round(3).tolist(),
        "synthetic": made[right].round(3).tolist(),
    }


def _dots(ctx: EvaluationContext, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return (
        ctx.sides.sample(len(ctx.sides.holdout), size, "dots", "H"),
        ctx.sides.sample(len(ctx.synthetic), size, "dots", "S"),
    )
