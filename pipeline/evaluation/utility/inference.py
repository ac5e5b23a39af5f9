"""Utility as an epidemiologist asks it: do the effect estimates of prespecified analyses survive, and their intervals?

Each analysis is fitted to T, to T and H together (the best estimate that there is), to H (people whom S cannot know),
and to as many rows of S as T has, taken at face value as so many people. `false_positive_rate` and `variance_ratio`
show how wrong that is. Designs and complete cases are in `analyses.py`, the comparisons in `effects.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import Z95, clopper_pearson
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.utility.analyses import Estimates, Fitted, effects_between, fitted
from pipeline.evaluation.utility.contrasts import contrasts
from pipeline.evaluation.utility.effects import (
    Comparison,
    Effects,
    claims,
    distances,
    interval_misses,
    overlaps,
    rejected,
    same_conclusion,
    same_sign,
    same_sign_of_clear,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult, Scope

INFLATIONS = (2, 5)
"""How many times as many synthetic rows as T has the naive analyst may have drawn."""
MOST_DRAWS = 200
NO_ANALYSIS = "the cohort prespecifies no analysis"


def _spec(name: str, direction: int, low: float, high: float, title: str, caption: str, source: str) -> MetricSpec:
    return MetricSpec(
        id=f"util.inference.{name}",
        family="utility",
        direction=1 if direction > 0 else -1,
        range=(low, high),
        needs=frozenset({"T", "H", "S"}),
        version="1",
        title=title,
        caption=caption,
        source=source,
        cost="B",
    )


OVERLAP = _spec(
    "ci_overlap", 1, 0, 1, "Overlap of confidence intervals",
    "Mean overlap of the 95 % intervals of each effect, fitted to the training rows and to as many synthetic ones. Higher "
    "is better; 1 is the same interval, 0 no overlap. Two real samples reach the null.",
    "Karr et al. 2006, section 3; intervals that do not meet count 0",
)  # fmt: skip
SIGN = _spec(
    "sign_agreement", 1, 0, 1, "Effects of the right sign",
    "Share of the effects that real rows show (95 % interval without 0) that have the same sign in the synthetic rows; one "
    "that cannot be estimated there counts as lost. Higher is better; the null is what as large a real sample would reach.",
    "prespecified regressions; robust errors by subject",
)  # fmt: skip
DIFFERENCE = _spec(
    "std_difference", -1, 0, np.inf, "Difference of effects in standard errors",
    "Mean distance of the effects in synthetic and training rows in standard errors of the real ones. Lower is better; two "
    "real samples of a size differ by about 1.1.",
    "Raab, Nowok and Dibben 2017 (synthpop), standardised difference of coefficients",
)  # fmt: skip
CONTRAST = _spec(
    "contrast", 1, 0, 1, "Sub-group contrasts that survive",
    "Share of the contrasts (the effect in one sub-group against another) on which synthetic and real rows come to the same "
    "conclusion: smaller, larger, or no difference shown. Higher is better; the null is what as large a real sample reaches.",
    "prespecified regressions inside each level of the contrast",
)  # fmt: skip
FALSE = _spec(
    "false_positive_rate", -1, 0, 1, "False positives of naive inference",
    "Share of effects for which a test that takes synthetic rows for people finds them different from people outside "
    "training. Both stand for one population, so that each is a false positive. Lower is better; real people give 0.05.",
    "two-sample z-test at 5 % with robust errors; the problem: Decruyenaere et al. 2024, Raghunathan et al. 2003",
)  # fmt: skip
VARIANCE = _spec(
    "variance_ratio", -1, 0, np.inf, "True against naive variance of effects",
    "How many times larger the squared error of the synthetic effects is than a naive analyst takes it to be. Lower is "
    "better; 1 for real people; a perfect generator reaches 1 + rows analysed / training rows, since it cannot know more "
    "than its training rows. Synthetic rows divided by this are the real people that they are worth.",
    "Raghunathan et al. 2003 (combining rules), estimated against the holdout",
)  # fmt: skip


@metric(OVERLAP)
def ci_overlap(ctx: EvaluationContext) -> list[MetricResult]:
    """Karr's overlap with T's intervals, mean over effects."""
    if ctx.with_plots and (found := fitted(ctx)):
        ctx.plots["inference"] = [_forest(f) for f in found]
    return _rows(ctx, OVERLAP, "train", overlaps)


@metric(DIFFERENCE)
def std_difference(ctx: EvaluationContext) -> list[MetricResult]:
    """Distance in standard errors of T's estimate, mean over the effects that both can estimate."""
    return _rows(ctx, DIFFERENCE, "train", distances)


@metric(SIGN)
def sign_agreement(ctx: EvaluationContext) -> list[MetricResult]:
    """Signs of the effects that T and H together show; with key2 "all" of all effects."""
    lacking = "real rows show no effect that is clearly not 0"
    clear = _rows(ctx, SIGN, "pooled", same_sign_of_clear, drawn=same_sign, lacking=lacking)
    return clear + _rows(ctx, SIGN, "pooled", same_sign, key2="all")[:1]


@metric(CONTRAST)
def contrast(ctx: EvaluationContext) -> list[MetricResult]:
    """Conclusions on the contrasts of analyses that ask for one."""
    asked = [spec for spec in ctx.plan.analyses if spec.contrast is not None]
    if not asked:
        note = "no analysis asks for a sub-group contrast" if ctx.plan.analyses else NO_ANALYSIS
        return [CONTRAST.not_applicable(note)]
    rows, every = [], []
    for spec in asked:
        effects = contrasts(ctx, spec)
        every.append(effects)
        rows.append(_share_of(CONTRAST, same_conclusion, [effects], key1=spec.name, what="contrasts"))
    return [_share_of(CONTRAST, same_conclusion, every, what="contrasts"), *rows]


@metric(FALSE)
def false_positive_rate(ctx: EvaluationContext) -> list[MetricResult]:
    """Naive tests of S against H; for 2 and 5 times as many rows, and claims of effects that are none (key2)."""
    found = fitted(ctx)
    if not found:
        return [FALSE.not_applicable(NO_ANALYSIS, null=0.05)]
    tested = [f for f in found if not f.holdout.reason and not f.synthetic.reason]
    if not tested:
        return [_lacking(FALSE, [f.holdout for f in found] + [f.synthetic for f in found], null=0.05)]
    against = [effects_between(f.holdout, f.synthetic) for f in tested]
    pooled = [effects_between(f.pooled, f.synthetic) for f in tested]
    rows = [_share_of(FALSE, rejected(1), against)]
    rows += [_share_of(FALSE, rejected(k), against, key2=f"{k}x") for k in INFLATIONS]
    rows.append(_share_of(FALSE, interval_misses, pooled, key2="interval_misses"))
    rows.append(_share_of(FALSE, claims, pooled, key2="claims", lacking="real rows show no effect to be negligible"))
    rows += [_share_of(FALSE, rejected(1), [e], key1=f.spec.name) for f, e in zip(tested, against, strict=True)]
    if ctx.with_plots:
        ctx.plots["false_positives"] = [
            {"rows": k, "share": row.value, "null": row.null_value, "effects": row.n}
            for k, row in zip((1, *INFLATIONS), rows, strict=False)
        ]
    return rows


@metric(VARIANCE)
def variance_ratio(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over effects of (squared distance from H less H's variance) / naive variance."""
    found = fitted(ctx)
    if not found:
        return [VARIANCE.not_applicable(NO_ANALYSIS, null=1.0)]
    usable = [f for f in found if not f.holdout.reason and not f.synthetic.reason]
    if not usable:
        return [_lacking(VARIANCE, [f.holdout for f in found] + [f.synthetic for f in found], null=1.0)]
    effects = [effects_between(f.holdout, f.synthetic) for f in usable]
    ratios = np.concatenate([(((e.made - e.real) ** 2 - e.real_se**2) / e.made_se**2)[e.known] for e in effects])
    if len(ratios) < 2:
        return [VARIANCE.result(None, null=1.0, n=len(ratios), note="fewer than two effects")]
    value = max(float(ratios.mean()), 0.0)
    rows = int(np.mean([f.synthetic.n for f in usable]))
    note = f"{rows:,} synthetic rows are worth about {rows / value:,.0f} real people" if value > 1 else ""
    # Effects stand for the population of effects: the spread between them is the error.
    se = float(ratios.std(ddof=1) / np.sqrt(len(ratios)))
    return [VARIANCE.result(value, se=se, n=len(ratios), null=1.0, note=note)]


def _share_of(
    spec: MetricSpec,
    compare: Comparison,
    effects: Sequence[Effects],
    *,
    key1: str = "",
    key2: str = "",
    what: str = "effects",
    lacking: str = "no effect can be estimated on both sides",
) -> MetricResult:
    """A share of effects with the exact binomial interval (effects as if independent of one another)."""
    pairs = [compare(e) for e in effects]
    value = np.concatenate([v for v, _ in pairs]) if pairs else np.zeros(0)
    expected = np.concatenate([x for _, x in pairs]) if pairs else np.zeros(0)
    known = np.isfinite(value)
    if not known.any():
        return spec.result(None, n=0, scope="task" if key1 else "table", key1=key1, key2=key2, note=lacking)
    n, hits = int(known.sum()), float(value[known].sum())
    return spec.result(
        hits / n,
        interval=clopper_pearson(hits, n),
        n=n,
        null=float(expected[known].mean()),
        scope="task" if key1 else "table",
        key1=key1,
        key2=key2,
        note=f"{hits:.0f} of {n} {what}",
    )


def _rows(
    ctx: EvaluationContext,
    spec: MetricSpec,
    side: str,
    compare: Comparison,
    *,
    drawn: Comparison | None = None,
    key2: str = "",
    lacking: str = "no effect can be estimated on both sides",
) -> list[MetricResult]:
    """Mean over the effects of all analyses, then of each; errors from draws of both sides' estimates.

    Args:
        ctx: The synthetic cohort and the real sides.
        spec: Of which metric.
        side: "train" or "pooled": what S is compared with.
        compare: The comparison.
        drawn: The same comparison for draws, where `compare` would choose other effects in each.
        key2: Second key of the rows.
        lacking: Said where no effect has a value.
    """
    found = fitted(ctx)
    if not found:
        return [spec.not_applicable(NO_ANALYSIS, key2=key2)]
    parts: list[_Part] = []
    rows: list[MetricResult] = []
    for f in found:
        real = f.train if side == "train" else f.pooled
        if real.reason:
            rows.append(_lacking(spec, [real], key1=f.spec.name, key2=key2))
            continue
        if f.synthetic.reason and real.too_few(f.synthetic.rows):
            rows.append(_lacking(spec, [replace(f.synthetic, needed=real.needed_rows)], key1=f.spec.name, key2=key2))
            continue
        effects = effects_between(real, f.synthetic)
        value, expected = compare(effects)
        draws = (drawn or compare)(_drawn(ctx, f, side, real))[0]
        parts.append(_Part(f, effects, value, expected, np.where(np.isfinite(value), draws, np.nan)))
        rows.append(_mean(spec, [parts[-1]], key1=f.spec.name, key2=key2, lacking=lacking))
    if not parts:
        lacking_of = [e for f in found for e in (f.train if side == "train" else f.pooled, f.synthetic)]
        return [_lacking(spec, lacking_of, key2=key2), *rows]
    return [_mean(spec, parts, key2=key2, lacking=lacking), *rows]


@dataclass(frozen=True)
class _Part:
    """A comparison of one analysis: (p,) values and expectations, (draws, p) values of drawn estimates."""

    fitted: Fitted
    effects: Effects
    value: NDArray[np.float64]
    expected: NDArray[np.float64]
    draws: NDArray[np.float64]


def _mean(
    spec: MetricSpec, parts: Sequence[_Part], *, key1: str = "", key2: str = "", lacking: str = ""
) -> MetricResult:
    scope: Scope = "task" if key1 else "table"
    value, expected = (np.concatenate([getattr(p, name) for p in parts]) for name in ("value", "expected"))
    known = np.isfinite(value)
    if not known.any():
        return spec.result(None, n=0, scope=scope, key1=key1, key2=key2, note=lacking)
    draws = np.concatenate([p.draws for p in parts], axis=1)[:, known].mean(axis=1)
    names = [f"{p.fitted.spec.name}: {n}" for p in parts for n in p.effects.names]
    said = [f"{int(known.sum())} effects"]
    worse = np.where(known, -spec.direction * value, -np.inf)
    if value[known].min() < value[known].max():
        said.append(f"worst: {names[int(np.argmax(worse))]}")
    if lost := sum(int((~p.effects.known).sum()) for p in parts):
        said.append(f"{lost} cannot be estimated on synthetic rows")
    said += dict.fromkeys(p.fitted.synthetic.reason for p in parts if p.fitted.synthetic.reason)
    return spec.result(
        float(value[known].mean()),
        se=float(draws.std(ddof=1)),
        n=int(known.sum()),
        null=float(np.nanmean(expected[known])),
        scope=scope,
        key1=key1,
        key2=key2,
        note="; ".join(said),
        draws=draws if not key1 and not key2 else None,
    )


def _drawn(ctx: EvaluationContext, f: Fitted, side: str, real: Estimates) -> Effects:
    """Both sides' estimates drawn from their distributions; the real draws are the same for every generator."""
    draws = min(ctx.sides.profile.draws, MOST_DRAWS)
    name = f"{f.spec.name}/{side}"
    first = ctx.sides.once(f"inference/draws/{name}", lambda: real.draws(ctx.sides.rng("util.inference", name), draws))
    second = f.synthetic.draws(ctx.rng("util.inference", f.spec.name), draws)
    point = effects_between(real, f.synthetic)
    kept = [real.names.index(name) for name in point.names]
    return replace(point, real=first[:, kept], made=second[:, kept])


def _lacking(
    spec: MetricSpec,
    estimates: Sequence[Estimates],
    *,
    key1: str = "",
    key2: str = "",
    null: float | None = None,
) -> MetricResult:
    """The row of an analysis that cannot be fitted: underpowered with the rows needed, or the reason."""
    scope: Scope = "task" if key1 else "table"
    worst = max(estimates, key=lambda e: (bool(e.reason), e.needed))
    if worst.needed:
        return spec.underpowered(
            worst.n + worst.left_out,
            worst.needed,
            f"rows ({worst.reason})",
            null=null,
            scope=scope,
            key1=key1,
            key2=key2,
        )
    return spec.result(None, n=worst.n, null=null, scope=scope, key1=key1, key2=key2, note=worst.reason)


def _forest(f: Fitted) -> dict[str, object]:
    """Effects with their intervals on real (T and H) and synthetic rows, for a forest plot."""

    def column(e: Estimates) -> dict[str, list[float | None]]:
        ends = {"value": e.coef, "lo": e.coef - Z95 * e.se, "hi": e.coef + Z95 * e.se}
        return {k: [round(float(x), 4) if np.isfinite(x) else None for x in v] for k, v in ends.items()}

    return {
        "analysis": f.spec.name,
        "kind": f.spec.kind,
        "description": f.spec.description,
        "names": list(f.pooled.names),
        "real": column(f.pooled),
        "synthetic": column(f.synthetic),
        "rows": {"real": f.pooled.n, "synthetic": f.synthetic.n},
        "left_out": {"real": f.pooled.left_out, "synthetic": f.synthetic.left_out},
        "reason": f.pooled.reason or f.synthetic.reason,
    }
