"""Log-cluster: are real and synthetic rows mixed alike in every corner?

Rows of both sides are clustered together in T's leading principal components; U is the logarithm of the mean squared
deviation of the clusters' shares of real rows from the overall share (Goncalves et al. 2020). The literal versions of
two papers are in `pipeline.evaluation.literal.joint`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.aggregates import SMALL
from pipeline.evaluation.fidelity.components import principal, standardised
from pipeline.evaluation.intervals import subject_weights
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult

CLUSTERS = 20
COMPONENTS = 50
STARTS = 5
FEWEST = 100
"""Rows a side below which 20 clusters hold fewer than ten rows each."""
LOG_CLUSTER = MetricSpec(
    id="fid.joint.log_cluster",
    family="fidelity",
    direction=-1,
    range=(-np.inf, 0.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Log-cluster U",
    caption="Logarithm of how unevenly holdout and synthetic rows share 20 clusters. Lower is better; the null depends on "
    "the number of rows and is printed, -1.4 is complete separation.",
    source="Goncalves et al. 2020; k-means on 50 principal components of T, 5 restarts",
    cost="B",
)


@dataclass(frozen=True)
class Clustered:
    """One restart: (G) rows of the holdout and of both sides in each cluster; empty clusters left out."""

    real: NDArray[np.int64]
    total: NDArray[np.int64]


@metric(LOG_CLUSTER)
def log_cluster(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over restarts, each on another matched draw; error from resampled subjects and the spread of restarts."""
    found = restarts(ctx)
    if isinstance(found, str):
        return [LOG_CLUSTER.result(None, n=ctx.matched_size, note=found)]
    n = ctx.matched_size
    values = np.array([log_unevenness(c.real, c.total, 0.5) for c in found.restarts])
    null = float(np.mean([expected(c.total, 0.5) for c in found.restarts]))
    if not np.isfinite(values).all():
        note = "every cluster holds exactly the expected share of both sides"
        return [LOG_CLUSTER.result(None, n=n, null=null, note=note)]
    if ctx.with_plots:
        ctx.plots["clusters"] = _bars(found.restarts[0])
    between = float(values.std(ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return [LOG_CLUSTER.result(float(values.mean()), se=float(np.hypot(found.error, between)), n=n, null=null)]


def log_unevenness(real: NDArray[np.integer], total: NDArray[np.integer], share: float) -> float:
    """U = ln((1/G) Σ (n_j real / n_j - c)²) over the clusters that hold a row; minus infinity if perfectly even."""
    held = total > 0
    mean = float(np.mean((real[held] / total[held] - share) ** 2))
    return float(np.log(mean)) if mean > 0 else float("-inf")


def expected(total: NDArray[np.integer], share: float) -> float:
    """U of two samples of one population: ln(c (1 - c) mean(1/n_j))."""
    held = total[total > 0]
    return float(np.log(share * (1 - share) * np.mean(1.0 / held)))


@dataclass(frozen=True)
class Restarts:
    """All restarts, and the bootstrap error of the first."""

    restarts: list[Clustered]
    error: float


def restarts(ctx: EvaluationContext) -> Restarts | str:
    """The clusterings, made once; or why there are none."""
    return ctx.once("joint/clusters", lambda: _cluster(ctx))


def _cluster(ctx: EvaluationContext) -> Restarts | str:
    if ctx.matched_size < FEWEST:
        return TooFew(ctx.matched_size, FEWEST, "rows a side")
    frame = principal(ctx.sides)
    if not frame.axes.shape[1]:
        return "no column has spread in the training rows"
    real = ctx.sides.once("joint/scores50/H", lambda: frame.scores(standardised(ctx, "H"), COMPONENTS))
    made = frame.scores(standardised(ctx, "S"), COMPONENTS)
    found, error = [], 0.0
    for r in range(STARTS):
        draw = ctx.matched[r % len(ctx.matched)]
        rows = np.concatenate([real[draw.real], made[draw.synthetic]])
        label = kmeans(rows, CLUSTERS, seed=int(ctx.rng("fid.joint.log_cluster", r).integers(2**31)))
        n = len(draw.real)
        found.append(Clustered(np.bincount(label[:n], minlength=CLUSTERS), np.bincount(label, minlength=CLUSTERS)))
        if r == 0:
            error = _bootstrap(ctx, label[:n], label[n:])
    return Restarts(found, error)


def kmeans(rows: NDArray[np.floating], clusters: int, *, seed: int) -> NDArray[np.int64]:
    """(n,) number of each row's cluster by mini-batch k-means, best of five starts; fewer where fewer rows differ."""
    from sklearn.cluster import MiniBatchKMeans

    few = np.unique(rows[: 4 * clusters], axis=0)
    distinct = len(few) if len(few) > clusters else len(np.unique(rows, axis=0))
    if distinct <= 1:
        return np.zeros(len(rows), dtype=np.int64)
    model = MiniBatchKMeans(min(clusters, distinct), n_init=STARTS, random_state=seed)
    return model.fit(rows).labels_.astype(np.int64)


def _bootstrap(ctx: EvaluationContext, real: NDArray[np.int64], made: NDArray[np.int64]) -> float:
    """Standard deviation of U with whole subjects drawn again, clusters as they are."""
    first = ctx.matched[0]
    draws = min(ctx.sides.profile.draws, 200)
    counts: list[NDArray[np.float32]] = []
    for side, rows, label in (
        (ctx.sides.holdout, first.real, real),
        (ctx.synthetic, first.synthetic, made),
    ):
        weights = subject_weights(side.clusters[rows], draws, ctx.rng("fid.joint.log_cluster", len(counts)))
        counts.append(weights @ np.eye(CLUSTERS, dtype=np.float32)[label])
    total = counts[0] + counts[1]
    share = np.divide(counts[0], total, out=np.full_like(total, 0.5), where=total > 0)
    uneven = np.mean((share - 0.5) ** 2, axis=1)
    return float(np.log(uneven[uneven > 0]).std(ddof=1)) if (uneven > 0).sum() > 1 else 0.0


def _bars(found: Clustered) -> dict[str, Any]:
    """Share of the holdout and of the synthetic rows in each cluster, largest first; None where fewer than 11 real."""
    held = np.flatnonzero(found.total > 0)
    order = held[np.argsort(-found.real[held], kind="stable")]
    real, made = found.real[order], (found.total - found.real)[order]
    hidden = (real > 0) & (real < SMALL)
    shown = np.flatnonzero(~hidden & (real > 0))
    if hidden.sum() == 1 and len(shown):
        hidden[shown[-1]] = True
    return {
        "real": [
            None if h else round(float(x) / max(int(real.sum()), 1), 4) for x, h in zip(real, hidden, strict=True)
        ],
        "synthetic": [round(float(x) / max(int(made.sum()), 1), 4) for x in made],
    }
