"""Neighbourhoods: do synthetic rows lie where real rows lie (precision, density), and everywhere (recall, coverage)?

Balls around every row reach to its fifth neighbour of its own side (shared cache, matched rows, so that all generators
and the fresh real rows are judged at one size). Precision and recall count a row that any ball holds and so hang on
outliers; density and coverage do not, and are the figures to read. Typicality by distance from the centre
(alpha-precision, beta-recall) is in `typicality.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.two_sample import mean_error, rounding, squared_distances
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.distances import Points
    from pipeline.evaluation.results import MetricResult

K = 5
FEWEST = 50
"""Rows a side below which a ball of five neighbours is no neighbourhood."""
ENOUGH = 4_000
"""Rows a side from which one matched draw is enough."""
CHUNK = 1_024


def _spec(name: str, top: float, title: str, caption: str, source: str) -> MetricSpec:
    return MetricSpec(
        id=f"fid.joint.prdc.{name}",
        family="fidelity",
        direction=1,
        range=(0.0, top),
        needs=frozenset({"H", "S"}),
        version="1",
        title=title,
        caption=caption,
        source=source,
        cost="B",
    )


DENSITY = _spec(
    "density", np.inf, "Density",
    "Mean number of real neighbourhoods that hold a synthetic row, divided by 5. Higher is better up to the null (1, "
    "or more where real rows tie); above it the synthetic rows crowd where real rows are dense (collapse).",
    "Naeem et al. 2020, k=5",
)  # fmt: skip
COVERAGE = _spec(
    "coverage", 1.0, "Coverage",
    "Share of real rows with a synthetic row among as near as their fifth real neighbour. Higher is better; the null for "
    "two real samples of equal size is 0.97, or more where real rows tie.",
    "Naeem et al. 2020, k=5, expectation of its section 3.2",
)  # fmt: skip
PRECISION = _spec(
    "precision", 1.0, "Precision",
    "Share of synthetic rows inside the neighbourhood of any real row. Higher is better; hangs on outliers among the real "
    "rows, so read density beside it.",
    "Kynkäänniemi et al. 2019, k=5",
)  # fmt: skip
RECALL = _spec(
    "recall", 1.0, "Recall",
    "Share of real rows inside the neighbourhood of any synthetic row. Higher is better; hangs on outliers among the "
    "synthetic rows, so read coverage beside it.",
    "Kynkäänniemi et al. 2019, k=5",
)  # fmt: skip


@dataclass(frozen=True)
class Balls:
    """What one pass over all pairs of a draw gives.

    Attributes:
        holding: (m) real balls that hold each synthetic row.
        held: (n) synthetic rows in each real ball.
        reached: (n) synthetic balls that hold each real row.
        reaching: (m) real rows in each synthetic ball.
        only_held: (n) the synthetic row of a real ball that holds one only, else -1.
        only_holding: (m) the real ball of a synthetic row that is in one only, else -1.
        only_reached: (n) the synthetic ball of a real row that is in one only, else -1.
    """

    holding: NDArray[np.int64]
    held: NDArray[np.int64]
    reached: NDArray[np.int64]
    reaching: NDArray[np.int64]
    only_held: NDArray[np.int64]
    only_holding: NDArray[np.int64]
    only_reached: NDArray[np.int64]

    @property
    def figures(self) -> dict[str, float]:
        """The four figures."""
        return {
            "density": float(self.holding.mean()) / K,
            "coverage": float((self.held > 0).mean()),
            "precision": float((self.holding > 0).mean()),
            "recall": float((self.reached > 0).mean()),
        }


@metric(DENSITY)
def density(ctx: EvaluationContext) -> list[MetricResult]:
    """Real balls that hold a synthetic row."""
    return [_result(ctx, DENSITY, "density")]


@metric(COVERAGE)
def coverage(ctx: EvaluationContext) -> list[MetricResult]:
    """Real balls that hold any synthetic row."""
    return [_result(ctx, COVERAGE, "coverage")]


@metric(PRECISION)
def precision(ctx: EvaluationContext) -> list[MetricResult]:
    """Synthetic rows in any real ball."""
    return [_result(ctx, PRECISION, "precision")]


@metric(RECALL)
def recall(ctx: EvaluationContext) -> list[MetricResult]:
    """Real rows in any synthetic ball."""
    return [_result(ctx, RECALL, "recall")]


def balls(
    real: Points,
    made: Points,
    real_radius: NDArray[np.floating],
    made_radius: NDArray[np.floating],
    device: str = "cpu",
) -> Balls:
    """All pairs of n real and m synthetic rows against the balls of both, in chunks of synthetic rows.

    A row on the rim of a ball is inside it, rounding included.

    Args:
        real: (n) rows.
        made: (m) rows.
        real_radius: (n) distance of each real row to its k-th real neighbour.
        made_radius: (m) the same among synthetic rows.
        device: Where distances are computed.
    """
    n, m = len(real), len(made)
    rim = rounding(made, real)
    inner = (np.asarray(real_radius, dtype=np.float64) ** 2 + rim).astype(np.float32)
    outer = (np.asarray(made_radius, dtype=np.float64) ** 2 + rim).astype(np.float32)
    holding, reaching = np.zeros(m, dtype=np.int64), np.zeros(m, dtype=np.int64)
    held, held_sum, reached, reached_sum = (np.zeros(n, dtype=np.int64) for _ in range(4))
    holding_sum = np.zeros(m, dtype=np.int64)
    order = np.arange(n)
    for lo in range(0, m, CHUNK):
        rows = np.arange(lo, min(lo + CHUNK, m))
        squared = squared_distances(made.take(rows), real, device)
        inside = squared <= inner
        around = squared <= outer[rows][:, None]
        holding[rows], reaching[rows] = inside.sum(axis=1), around.sum(axis=1)
        holding_sum[rows] = inside @ order
        held += inside.sum(axis=0)
        held_sum += rows @ inside
        reached += around.sum(axis=0)
        reached_sum += rows @ around
    return Balls(
        holding,
        held,
        reached,
        reaching,
        np.where(held == 1, held_sum, -1),
        np.where(holding == 1, holding_sum, -1),
        np.where(reached == 1, reached_sum, -1),
    )


def expected_coverage(real: int, made: int, k: NDArray[np.integer] | int = K) -> NDArray[np.float64]:
    """Chance that a ball with k of the other real rows holds any of m rows of the same population.

    1 - Π (n - i) / (n + m - i), i = 1..k (Naeem et al. 2020, section 3.2; there for k without ties).

    Args:
        real: Real rows n.
        made: Synthetic rows m.
        k: (balls) real rows in each ball; more than 5 where rows tie on the rim.
    """
    i = np.arange(1, int(np.max(k, initial=1)) + 1)
    missed = np.cumprod(np.maximum(real - i, 0) / (real + made - i))
    return np.asarray(1 - missed[np.asarray(k) - 1])


@dataclass(frozen=True)
class _Found:
    values: dict[str, float]
    errors: dict[str, float]
    nulls: dict[str, float]


def _result(ctx: EvaluationContext, spec: MetricSpec, name: str) -> MetricResult:
    n = ctx.matched_size
    if n < FEWEST:
        return spec.result(None, n=n, note=TooFew(n, FEWEST, "rows a side"))
    if not ctx.synthetic.points.parts:
        return spec.result(None, n=n, note="no column and no code")
    found = ctx.once("joint/prdc", lambda: _measure(ctx))
    return spec.result(found.values[name], se=found.errors[name], n=n, null=found.nulls.get(name))


def _measure(ctx: EvaluationContext) -> _Found:
    """Mean over the matched draws; errors and nulls from the first."""
    redraws = 1 if ctx.matched_size >= ENOUGH else ctx.sides.profile.redraws
    values, errors = [], {}
    for draw in range(redraws):
        left, right = ctx.rows("H", "matched", draw), ctx.rows("S", "matched", draw)
        own = ctx.near("H", "H", of="matched", within="matched", draw=draw)
        other = ctx.near("S", "S", of="matched", within="matched", draw=draw)
        found = balls(
            ctx.sides.holdout.points.take(left),
            ctx.synthetic.points.take(right),
            own.kth(K),
            other.kth(K),
            ctx.plan.device,
        )
        values.append(found.figures)
        if draw == 0:
            errors = _errors(found, ctx.sides.holdout.clusters[left], ctx.synthetic.clusters[right])
    nulls = ctx.sides.once(f"joint/prdc/nulls/{ctx.matched_size}", lambda: _nulls(ctx))
    return _Found({k: float(np.mean([v[k] for v in values])) for k in values[0]}, errors, nulls)


def _nulls(ctx: EvaluationContext) -> dict[str, float]:
    """What a sample of the holdout's population would give: balls with ties on their rim hold more than five rows."""
    rows, n = ctx.rows("H", "matched"), ctx.matched_size
    real, radius = ctx.sides.holdout.points.take(rows), ctx.near("H", "H", of="matched", within="matched").kth(K)
    others = balls(real, real, radius, radius, ctx.plan.device).held - 1
    return {
        "density": float(others.mean()) / K * n / (n - 1),
        "coverage": float(expected_coverage(n, n, np.maximum(others, 1)).mean()),
    }


def _errors(found: Balls, real: NDArray[np.integer], made: NDArray[np.integer]) -> dict[str, float]:
    """Standard errors from both sides, radii as they are.

    A side's part is the error of a mean; the other side's is the jackknife, in which leaving a row out takes away
    what it alone accounts for.
    """

    def alone(owners: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        return np.bincount(owners[owners >= 0], minlength=size)

    n, m = len(real), len(made)
    parts = {
        "density": (mean_error(found.holding / K, made), mean_error(found.held * (n / (m * K)), real)),
        "coverage": (mean_error(found.held > 0, real), mean_error(alone(found.only_held, m) * (m / n), made)),
        "precision": (mean_error(found.holding > 0, made), mean_error(alone(found.only_holding, n) * (n / m), real)),
        "recall": (mean_error(found.reached > 0, real), mean_error(alone(found.only_reached, m) * (m / n), made)),
    }
    return {name: float(np.hypot(*both)) for name, both in parts.items()}
