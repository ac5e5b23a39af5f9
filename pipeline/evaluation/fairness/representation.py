"""Representation: is every group as large a share of the synthetic people as of the real ones?

The log disparity of a group is the log of the ratio of its odds, synthetic to real. A level ("under", "adequate", ...)
is printed only where the 95 % interval lies wholly inside it. Who the groups are is in `groups.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fairness.groups import NOBODY, SMALL, crossings, members
from pipeline.evaluation.intervals import Z95
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fairness.groups import Group
    from pipeline.evaluation.results import MetricResult

MILD, STRONG = -log(0.9), -log(0.8)
"""Thresholds of the levels, both sides: 0.105 and 0.223 (the 90 % and 80 % rules)."""
FALSE_SHARE = 0.05
"""Benjamini and Hochberg's share of false discoveries among the groups that are named as certain."""
ABSENT_SHARE = 0.01
"""A group that is at least this share of the holdout must not be missing from the synthetic rows."""
LDSS = MetricSpec(
    id="fair.ldss",
    family="fairness",
    direction=-1,
    range=(-np.inf, np.inf),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Groups out of proportion",
    caption="Log of a group's odds among synthetic people over its odds among real (holdout) people: 0 is the same "
    "share, below 0 under-represented, beyond ±0.22 strongly so. The headline is the largest one, without its sign, "
    "that is certain after allowing for the number of groups. Lower is better; the null is 0.",
    source="Bt-GAN (Ramachandranpillai 2024), definition 7; Haldane-Anscombe 1/2; Benjamini and Yekutieli 2005",
)
ABSENT = MetricSpec(
    id="fair.absent",
    family="fairness",
    direction=-1,
    range=(0.0, np.inf),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Groups that are missing altogether",
    caption="How many groups that are at least 1 % of the real (holdout) people have no synthetic row at all. Must be 0; "
    "the null is what a real sample of the same size would lack by chance.",
    source="Bt-GAN (Ramachandranpillai 2024), section 8.3, with absence told from rarity",
)


@dataclass(frozen=True)
class Disparity:
    """How far a group is out of proportion.

    Attributes:
        group: Who.
        lds: Log of the ratio of odds, synthetic to holdout, 1/2 added to every count.
        se: Its standard error, widened where several rows belong to one subject.
        synthetic: Synthetic rows of the group.
        real_share: Share of holdout rows.
        synthetic_share: Share of synthetic rows.
        absent: No synthetic row, where chance alone would leave the group out in less than one of 20 real samples.
    """

    group: Group
    lds: float
    se: float
    synthetic: int
    real_share: float
    synthetic_share: float
    absent: bool

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the log disparity."""
        return self.lds - Z95 * self.se, self.lds + Z95 * self.se

    @property
    def level(self) -> str:
        """The level that the whole interval lies in, else "inconclusive"; "absent" if no row is no chance."""
        low, high = self.interval
        if self.absent:
            return "absent"
        if high < -STRONG:
            return "strongly_under"
        if low > STRONG:
            return "strongly_over"
        if low >= -MILD and high <= MILD:
            return "adequate"
        if low >= -STRONG and high < -MILD:
            return "under"
        if low > MILD and high <= STRONG:
            return "over"
        return "inconclusive"


@metric(LDSS, floor="ref_mode")
def ldss(ctx: EvaluationContext) -> list[MetricResult]:
    """The largest disparity that is certain, and a row a group."""
    found = disparities(ctx)
    if not found:
        return [_nobody(ctx, LDSS)]
    if ctx.with_plots:
        ctx.plots["representation"] = [_shown(d) for d in found]
    rows = [
        LDSS.result(
            d.lds,
            se=d.se,
            interval=d.interval,
            n=d.group.holdout,
            null=0.0,
            scope="subgroup",
            key1=d.group.name,
            note=d.level,
        )
        for d in found
    ]
    return [_headline(ctx, found), *rows]


def _nobody(ctx: EvaluationContext, spec: MetricSpec) -> MetricResult:
    """Why there is no group at all."""
    if not ctx.plan.protected:
        return spec.not_applicable(NOBODY)
    few = min(len(ctx.sides.train), len(ctx.sides.holdout))
    return spec.underpowered(few, 2 * SMALL, "rows on the smaller real side", null=0.0)


def _headline(ctx: EvaluationContext, found: list[Disparity]) -> MetricResult:
    from scipy.stats import norm

    chances = np.array([2 * norm.sf((abs(d.lds) - STRONG) / d.se) for d in found])
    certain = discoveries(chances, FALSE_SHARE)
    sharpest = min(found, key=lambda d: d.se)
    if not certain.any() and Z95 * sharpest.se > STRONG:
        few = min(len(ctx.synthetic), len(ctx.sides.holdout))
        # Nobody, or everybody, of the holdout in it stands for one person too few to be sure.
        spread = max(sharpest.real_share * (1 - sharpest.real_share), 1 / (4 * few + 4))
        needed = 2 / spread * (Z95 / STRONG) ** 2
        return LDSS.underpowered(few, ceil(needed), "rows on the smaller side", null=0.0)
    if not certain.any():
        note = f"none of {len(found)} groups is strongly out of proportion for certain"
        return LDSS.result(0.0, n=len(found), null=0.0, note=note)
    worst = max((d for d, sure in zip(found, certain, strict=True) if sure), key=lambda d: abs(d.lds))
    half = float(norm.isf(FALSE_SHARE * certain.sum() / len(found) / 2)) * worst.se
    size = abs(worst.lds)
    return LDSS.result(
        size,
        se=worst.se,
        interval=(max(0.0, size - half), size + half),
        n=len(found),
        null=0.0,
        note=f"{worst.group.name}: {'absent' if worst.absent else 'under' if worst.lds < 0 else 'over'}; "
        f"{int(certain.sum())} of {len(found)} groups strongly out of proportion for certain",
    )


@metric(ABSENT, floor="ref_mode")
def absent(ctx: EvaluationContext) -> list[MetricResult]:
    """Count of large groups without a synthetic row; its interval is over resampled holdout people."""
    found = disparities(ctx)
    if not found:
        return [_nobody(ctx, ABSENT)]
    large = [d for d in found if d.real_share >= ABSENT_SHARE]
    size = len(ctx.synthetic)
    by_chance = float(sum((1 - d.real_share) ** size for d in large))
    if by_chance > 0.5:
        return [ABSENT.underpowered(size, ceil(5 / ABSENT_SHARE), "synthetic rows", null=by_chance)]
    lacking = [d for d in found if d.synthetic == 0]
    draws = np.zeros(ctx.sides.profile.draws)
    for d in lacking:
        draws += _share_draws(ctx, d) >= ABSENT_SHARE
    named = [d.group.name for d in lacking if d.real_share >= ABSENT_SHARE]
    low, high = np.quantile(draws, [0.025, 0.975])
    return [
        ABSENT.result(
            len(named),
            interval=(min(float(low), len(named)), max(float(high), len(named))),
            n=len(large),
            null=by_chance,
            note="; ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else ""),
            draws=draws,
        )
    ]


def _share_draws(ctx: EvaluationContext, disparity: Disparity) -> NDArray[np.float64]:
    """(draws,) share of the group among resampled holdout people."""
    crossing = next(c for c in crossings(ctx.sides) if disparity.group in c.groups)
    inside = members(ctx.sides, crossing) == disparity.group.number
    weights = ctx.sides.holdout_weights
    return weights[:, inside].sum(axis=1) / weights.sum(axis=1)


def disparities(ctx: EvaluationContext) -> list[Disparity]:
    """Every named group of every crossing, largest crossings last."""
    return ctx.once("fair/disparities", lambda: _disparities(ctx))


def _disparities(ctx: EvaluationContext) -> list[Disparity]:
    found = []
    for crossing in crossings(ctx.sides):
        real, made = members(ctx.sides, crossing), crossing.of(ctx.synthetic)
        n, m, size = len(real), len(made), len(crossing.groups)
        inside_real = np.bincount(real[real >= 0], minlength=size)
        inside_made = np.bincount(made[made >= 0], minlength=size)
        wide_real, wide_made = (
            widening(real, ctx.sides.holdout.clusters, size),
            widening(made, ctx.synthetic.clusters, size),
        )
        for group in crossing.groups:
            a, c = float(inside_made[group.number]), float(inside_real[group.number])
            lds, variance = log_disparity(a, m, c, n, float(wide_made[group.number]), float(wide_real[group.number]))
            found.append(Disparity(group, lds, variance**0.5, int(a), c / n, a / m, a == 0 and (1 - c / n) ** m < 0.05))
    return found


def log_disparity(
    inside: float, rows: int, inside_real: float, rows_real: int, wide: float = 1.0, wide_real: float = 1.0
) -> tuple[float, float]:
    """Log odds ratio with 1/2 added to each count, and its variance 1/a + 1/b + 1/c + 1/d.

    Args:
        inside: Synthetic rows of the group.
        rows: Synthetic rows.
        inside_real: Real rows of the group.
        rows_real: Real rows.
        wide: Factor of the synthetic side's variance (several rows a subject).
        wide_real: Factor of the real side's variance.
    """
    a, b = inside + 0.5, rows - inside + 0.5
    c, d = inside_real + 0.5, rows_real - inside_real + 0.5
    return log(a / b) - log(c / d), wide * (1 / a + 1 / b) + wide_real * (1 / c + 1 / d)


def discoveries(chances: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """(n,) which p-values Benjamini and Hochberg's procedure rejects at that share of false discoveries."""
    order = np.argsort(chances, kind="stable")
    below = chances[order] <= share * np.arange(1, len(chances) + 1) / len(chances)
    rejected = np.zeros(len(chances), dtype=bool)
    if below.any():
        rejected[order[: int(np.flatnonzero(below)[-1]) + 1]] = True
    return rejected


def widening(number: NDArray[np.int64], clusters: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """(size,) variance of each group's share over subjects, relative to independent rows; at least 1."""
    if not len(clusters) or int(clusters.max()) + 1 == len(clusters):
        return np.ones(size)
    rows = np.bincount(clusters).astype(np.float64)
    factors = np.ones(size)
    for g in range(size):
        inside = number == g
        share = inside.mean()
        if 0 < share < 1:
            excess = np.bincount(clusters, weights=inside) - share * rows
            factors[g] = max(1.0, float(excess @ excess) / (len(clusters) * share * (1 - share)))
    return factors


def _shown(d: Disparity) -> dict[str, object]:
    """What the figures need of a group: shares, never a count."""
    low, high = d.interval
    return {
        "group": d.group.name,
        "path": [list(p) for p in d.group.path],
        "real": round(d.real_share, 4),
        "synthetic": round(d.synthetic_share, 4),
        "lds": round(d.lds, 3),
        "lo": round(low, 3),
        "hi": round(high, 3),
        "level": d.level,
    }
