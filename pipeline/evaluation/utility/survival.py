"""Utility of follow-up: do synthetic people survive as long as real ones? Kaplan-Meier curves and how far they are apart.

One comparison for each follow-up (outcome and time) that the prespecified Cox models name, over all people and inside
each level of the analysis' contrast. The curves are compared from 0 to the last time at which 11 real people are still
at risk. Effects on survival are in `inference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.intervals import CHUNK, subject_weights
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew
from pipeline.evaluation.utility.analyses import event_of, level_text, number_of, problem_of, synthetic_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import AnalysisSpec

FEWEST_AT_RISK = 11
GRID = 200
MOST_STEPS = 40
NO_FOLLOW_UP = "the cohort prespecifies no analysis of survival"

KM = MetricSpec(
    id="util.km",
    family="utility",
    direction=-1,
    range=(0, 1),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Distance of survival curves",
    caption="Mean distance of the Kaplan-Meier curves of synthetic and holdout people over the time of follow-up. Lower is "
    "better; 0.05 is five in a hundred people too many or too few alive at an average time. The null is what two real "
    "samples differ by.",
    source="Kaplan and Meier 1958; L1 distance over time as in synthcity's survival_km_distance",
    cost="B",
)


@dataclass(frozen=True)
class FollowUp:
    """People followed up: (n,) times in ascending order, whether they had the event, and their subjects."""

    time: NDArray[np.float64]
    event: NDArray[np.bool_]
    clusters: NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """A Kaplan-Meier curve: the share alive from each of the ascending times on; 1 before the first."""

    times: NDArray[np.float64]
    alive: NDArray[np.float64]
    at_risk: NDArray[np.int64]
    deaths: NDArray[np.int64]

    def at(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share alive at some times."""
        return np.r_[1.0, self.alive][np.searchsorted(self.times, times, side="right")]


@metric(KM)
def km(ctx: EvaluationContext) -> list[MetricResult]:
    """All follow-ups, each over all people and inside the levels of the contrast (key2)."""
    asked: dict[tuple[str, str, str], AnalysisSpec] = {}
    for spec in ctx.plan.analyses:
        if spec.kind == "cox":
            asked.setdefault((spec.outcome, str(spec.positive), str(spec.time)), spec)
    if not asked:
        return [KM.not_applicable(NO_FOLLOW_UP, null=0.0)]
    rows = [_compared(ctx, spec, None) for spec in asked.values()]
    known = [r for r in rows if r.value is not None]
    if not known:
        return [KM.result(None, note=rows[0].note), *rows]
    errors = [r.se or 0.0 for r in known]
    total = KM.result(
        float(np.mean([r.value or 0.0 for r in known])), se=float(np.sqrt(np.sum(np.square(errors))) / len(known)),
        n=min(r.n or 0 for r in known), null=float(np.mean([r.null_value or 0.0 for r in known])),
    )  # fmt: skip
    for spec in asked.values():
        rows += [_compared(ctx, spec, level) for level in _levels(ctx.sides, spec)]
    return [total, *rows]


def kaplan_meier(people: FollowUp) -> Curve:
    """The curve of some people.

    Source: Kaplan and Meier 1958; who is censored at a time of death is still at risk then.
    """
    times, starts = np.unique(people.time, return_index=True)
    deaths = np.add.reduceat(people.event.astype(np.int64), starts) if len(starts) else np.zeros(0, dtype=np.int64)
    at_risk = len(people.time) - starts
    alive = np.cumprod(1 - deaths / np.maximum(at_risk, 1)).astype(np.float64)
    return Curve(times, alive, at_risk, deaths)


def drawn_curves(people: FollowUp, weights: NDArray[np.float32], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws, grid) shares alive at the times of the grid under bootstrap weights (draws, n)."""
    times, starts = np.unique(people.time, return_index=True)
    place = np.searchsorted(times, grid, side="right")
    found = np.empty((len(weights), len(grid)))
    for lo in range(0, len(weights), CHUNK):
        w = weights[lo : lo + CHUNK].astype(np.float64)
        at_risk = np.cumsum(w[:, ::-1], axis=1)[:, ::-1][:, starts]
        deaths = np.add.reduceat(w * people.event, starts, axis=1)
        hazard = np.divide(deaths, at_risk, out=np.zeros_like(deaths), where=at_risk > 0)
        alive = np.cumprod(1 - hazard, axis=1)
        found[lo : lo + CHUNK] = np.column_stack([np.ones(len(w)), alive])[:, place]
    return found


def area_between(a: Curve, b: Curve, end: float) -> float:
    """Mean distance of two curves from 0 to `end`, exactly (both are steps)."""
    steps = np.unique(np.r_[0.0, a.times, b.times, end])
    steps = steps[steps <= end]
    gaps = np.abs(a.at(steps[:-1]) - b.at(steps[:-1]))
    return float((gaps * np.diff(steps)).sum() / end)


def _compared(ctx: EvaluationContext, spec: AnalysisSpec, level: int | None) -> MetricResult:
    sides = ctx.sides
    key2 = "" if level is None else _named(sides, spec, level)
    if problem := problem_of(sides.train, spec):
        return KM.result(None, scope="task", key1=spec.name, key2=key2, note=problem)
    real, places = _followed(sides.holdout, np.arange(len(sides.holdout)), spec, level)
    made, _ = _followed(ctx.synthetic, synthetic_rows(ctx), spec, level)
    if len(real.time) < 2 * FEWEST_AT_RISK:
        few = TooFew(len(real.time), 10 * FEWEST_AT_RISK, "holdout people followed up")
        return KM.result(None, scope="task", key1=spec.name, key2=key2, note=few)
    if not real.event.any():
        few = TooFew(0, FEWEST_AT_RISK, "holdout people with the event")
        return KM.result(None, scope="task", key1=spec.name, key2=key2, note=few)
    curve = kaplan_meier(real)
    end = float(min(curve.times[curve.at_risk >= FEWEST_AT_RISK][-1], _long(sides, spec)))
    if not len(made.time) or end <= 0:
        note = "no synthetic person is followed up" if end > 0 else "nobody is followed up for any time"
        return KM.result(None, n=len(real.time), scope="task", key1=spec.name, key2=key2, note=note)
    theirs = kaplan_meier(made)
    grid = (np.arange(GRID) + 0.5) * end / GRID
    first = sides.once(
        f"km/{spec.outcome}/{spec.time}/{level}", lambda: drawn_curves(real, sides.holdout_weights[:, places], grid)
    )
    drawn = subject_weights(made.clusters, sides.profile.draws, ctx.rng("util.km", spec.name, str(level)))
    draws = np.abs(first - drawn_curves(made, drawn, grid)).mean(axis=1)
    spread = first.std(axis=0, ddof=1) * np.sqrt(1 + len(real.time) / len(made.time))
    if ctx.with_plots:
        ctx.plots.setdefault("survival", []).append(_drawable(spec, key2, curve, theirs, first, grid, end))
    return KM.result(
        area_between(curve, theirs, end), se=float(draws.std(ddof=1)), n=len(real.time),
        null=float(np.sqrt(2 / np.pi) * spread.mean()), scope="task", key1=spec.name, key2=key2,
        note=f"over {end:.4g} {_unit(sides, spec)}".rstrip(),
    )  # fmt: skip


def _followed(
    side: Side, rows: NDArray[np.int64], spec: AnalysisSpec, level: int | None
) -> tuple[FollowUp, NDArray[np.int64]]:
    """The people of a side with a time and an outcome, by time, and their positions in the side."""
    time, event = number_of(side, str(spec.time))[rows], event_of(side, spec)[rows]
    whole = np.isfinite(time) & (time >= 0) & np.isfinite(event)
    if level is not None:
        whole &= side.codes[str(spec.contrast)][rows] == level
    places = rows[whole]
    order = np.argsort(time[whole], kind="stable")
    places = places[order]
    return FollowUp(time[whole][order], event[whole][order] > 0.5, side.clusters[places]), places


def _levels(sides: RealSides, spec: AnalysisSpec) -> list[int]:
    """Levels of the contrast that at least 22 training rows carry."""
    if spec.contrast is None or spec.contrast not in sides.train.codes:
        return []
    codes = sides.train.codes[spec.contrast]
    counts = np.bincount(codes[codes >= 0], minlength=1)
    return [int(level) for level in np.flatnonzero(counts >= 2 * FEWEST_AT_RISK)]


def _named(sides: RealSides, spec: AnalysisSpec, level: int) -> str:
    levels = next(c.levels for c in sides.encoder.columns if c.name == spec.contrast) or []
    return f"{spec.contrast} = {level_text(levels[level])}"


def _long(sides: RealSides, spec: AnalysisSpec) -> float:
    """T's 99th percentile of follow-up: nobody's own longest time ends the axis."""
    time = number_of(sides.train, str(spec.time))
    known = time[np.isfinite(time)]
    return float(np.quantile(known, 0.99)) if len(known) else 0.0


def _unit(sides: RealSides, spec: AnalysisSpec) -> str:
    return next(c.unit for c in sides.encoder.columns if c.name == spec.time) or ""


def _drawable(
    spec: AnalysisSpec,
    level: str,
    real: Curve,
    made: Curve,
    draws: NDArray[np.float64],
    grid: NDArray[np.float64],
    end: float,
) -> dict[str, Any]:
    """Both curves at times between which at least 11 real people have the event, so that no step is one person's."""
    deaths = np.cumsum(real.deaths)
    within = real.times <= end
    least = max(FEWEST_AT_RISK, int(deaths[within][-1]) // MOST_STEPS)
    steps: list[float] = [0.0]
    seen = 0
    for time, total in zip(real.times[within], deaths[within], strict=True):
        if total - seen >= least:
            steps.append(float(time))
            seen = int(total)
    times = np.unique(steps)
    near = np.minimum(np.searchsorted(grid, times), len(grid) - 1)
    low, high = np.quantile(draws[:, near], [0.025, 0.975], axis=0)
    return {
        "analysis": spec.name,
        "group": level,
        "time": [float(f"{t:.4g}") for t in times],
        "real": [round(float(x), 3) for x in real.at(times)],
        "lo": [round(float(x), 3) for x in low],
        "hi": [round(float(x), 3) for x in high],
        "synthetic": [round(float(x), 3) for x in made.at(times)],
    }
