"""Distances to the closest record: do synthetic rows lie nearer to training rows than to people outside training?

Diagnostics, never sufficient: a generator that copies a few people verbatim passes them all (Yao et al. 2025). What
decides is membership inference (`membership.py`). Sides are compared at the same number of rows (`nearness.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.intervals import CHUNK, subject_weights
from pipeline.evaluation.privacy.nearness import dealt, listed, nearer, standard_error, winners
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.neighbours import Neighbours
    from pipeline.evaluation.results import MetricResult

LOW = 0.05
CAVEAT = "Passing it does not bound what leaks (Yao et al. 2025, arXiv 2505.01524): membership inference decides."
FEWEST_SHOWN = 11
GRID = 40


def _spec(name: str, high: float, title: str, caption: str) -> MetricSpec:
    return MetricSpec(
        id=f"priv.{name}",
        family="privacy",
        direction=0,
        range=(0.0, high),
        needs=frozenset({"T", "H", "S"}),
        version="1",
        title=title,
        caption=f"{caption} {CAVEAT}",
        source="distance to the closest record (DCR), training thinned to the holdout's size",
        cost="B",
    )


SHARE = _spec(
    "dcr_share", 1.0, "Synthetic rows nearer to training than to others",
    "Share of synthetic rows whose nearest real row is a training row rather than a holdout row, at equal numbers of "
    "both, ties one half. The null is 50 %; clearly above it rows are drawn towards training people.",
)  # fmt: skip
Q05 = _spec(
    "dcr_q05", np.inf, "Small distances: training over others",
    "5th percentile of the distance to the nearest training row over that to the nearest holdout row, at equal "
    "numbers. The null is 1; near 0 a twentieth of the synthetic rows are next to copies.",
)  # fmt: skip
NNDR = _spec(
    "nndr", np.inf, "Distance ratios: training over others",
    "Nearest over second-nearest distance of each synthetic row, its 5th percentile among training rows over that "
    "among holdout rows, at equal numbers. The null is 1; below it, single training rows are singled out.",
)  # fmt: skip


@metric(SHARE, floor="ref_train")
def dcr_share(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over synthetic rows and over all subsamples of T as large as H."""
    size = common_size(ctx)
    train, holdout = listed(ctx, "S", "T", size), listed(ctx, "S", "H", size)
    share = nearer(train, holdout)
    people = ctx.synthetic.clusters[ctx.rows("S")]
    error = standard_error(share, people, winners(ctx, train, holdout, ("T", "H")))
    if ctx.with_plots:
        ctx.plots["distances"] = distance_curves(ctx, size)
    return [SHARE.result(float(share.mean()), se=error, n=len(share), null=0.5)]


@metric(Q05, floor="ref_train")
def dcr_q05(ctx: EvaluationContext) -> list[MetricResult]:
    """Ratio of the 5th percentiles of the nearest distance."""
    return [_ratio(ctx, Q05, lambda found: found.distance[:, 0])]


@metric(NNDR, floor="ref_train")
def nndr(ctx: EvaluationContext) -> list[MetricResult]:
    """Ratio of the 5th percentiles of d1 / d2."""
    return [_ratio(ctx, NNDR, _relative)]


def common_size(ctx: EvaluationContext) -> int:
    """Rows of T and of H that distances are compared at."""
    return min(len(ctx.rows("T", "reference")), len(ctx.rows("H", "reference")))


def _relative(found: Neighbours) -> NDArray[np.float64]:
    """d1 / d2; 1 where both are 0 (two equal rows single nobody out)."""
    if found.distance.shape[1] < 2:
        return np.ones(len(found.distance))
    first, second = found.distance[:, 0], found.distance[:, 1]
    return np.divide(first, second, out=np.ones(len(first)), where=second > 0)


def _ratio(ctx: EvaluationContext, spec: MetricSpec, of: Callable[[Neighbours], NDArray[np.float64]]) -> MetricResult:
    size = common_size(ctx)
    sides: dict[PartName, list[Neighbours]] = {name: dealt(ctx, "S", name, size) for name in ("T", "H")}
    n = len(ctx.rows("S"))
    below = {name: np.concatenate([of(found) for found in deals]) for name, deals in sides.items()}
    train, holdout = (float(np.quantile(values, LOW, method="inverted_cdf")) for values in below.values())
    if holdout == 0:
        why = "equal" if train == 0 else "only holdout rows are equal"
        note = f"a twentieth of the synthetic rows have a real row at distance 0 ({why})"
        return spec.result(None, n=n, null=1.0, note=note)
    # Synthetic rows with the same nearest person are drawn together: they are one piece of evidence.
    nearest = ctx.side("T").clusters[sides["T"][0].index[:, 0]]
    own = ctx.synthetic.clusters[ctx.rows("S")]
    groups = min(nearest, own, key=lambda g: len(np.unique(g)))
    weights = subject_weights(groups, ctx.sides.profile.draws, ctx.rng(spec.id, "bootstrap"))
    draws = [weighted_quantile(values, weights) for values in below.values()]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = draws[0] / draws[1]
    known = ratio[np.isfinite(ratio)]
    if len(np.unique(groups)) < 2 or len(known) < len(ratio) / 2:
        return spec.result(train / holdout, n=n, null=1.0, note="too few distinct synthetic rows for an interval")
    ends = np.quantile(known, [0.025, 0.975])
    return spec.result(train / holdout, se=float(known.std()), interval=(float(ends[0]), float(ends[1])), n=n, null=1.0)


def weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """(draws,) 5th percentile of (m n,) values, m for each row, under each line of (draws, n) weights of rows."""
    order = np.argsort(values, kind="stable")
    row = order % weights.shape[1]
    found = np.empty(len(weights))
    for lo in range(0, len(weights), CHUNK):
        mass = np.cumsum(weights[lo : lo + CHUNK, row], axis=1, dtype=np.float64)
        place = (mass < LOW * mass[:, -1:]).sum(axis=1)
        found[lo : lo + CHUNK] = values[order][np.minimum(place, len(values) - 1)]
    return found


def distance_curves(ctx: EvaluationContext, size: int) -> dict[str, Any]:
    """Shares of rows within a distance, in steps of at least 11 rows: S to T, S to H, and fresh people to T."""
    found = {
        "synthetic to training": dealt(ctx, "S", "T", size)[0],
        "synthetic to holdout": dealt(ctx, "S", "H", size)[0],
    }
    if len(ctx.side("R0")):
        found["fresh people to training"] = dealt(ctx, "R0", "T", size)[0]
    nearest = {name: neighbours.distance[:, 0] for name, neighbours in found.items()}
    top = float(np.quantile(np.concatenate(list(nearest.values())), 0.99))
    edges = np.linspace(0.0, top or 1.0, GRID + 1)
    return {
        "distance": edges.round(4).tolist(),
        "share": {name: _steps(values, edges) for name, values in nearest.items()},
        "rows": size,
    }


def _steps(values: NDArray[np.float64], edges: NDArray[np.float64]) -> list[float]:
    """Share of values up to each edge; it rises only once 11 more have been passed, and stops 11 before all are."""
    counts = np.searchsorted(np.sort(values), edges, side="right")
    shown, last = [], 0
    for count in counts:
        if count - last >= FEWEST_SHOWN and (count == len(values) or len(values) - count >= FEWEST_SHOWN):
            last = int(count)
        shown.append(round(last / len(values), 4))
    return shown
