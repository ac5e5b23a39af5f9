"""Fairness as published: Bt-GAN's gaps, leakages and log disparity, and SDMetrics' equalized-odds improvement.

Where a paper leaves open which groups are meant, they are the two groups of the first protected attribute with most
training rows (gaps) or all of its groups (leakages, disparity). The sound versions are in `pipeline.evaluation.fairness`.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fairness.groups import NOBODY, crossings, members, protected_crossings
from pipeline.evaluation.fairness.predictions import Predicted, predicted, splits
from pipeline.evaluation.intervals import weighted_auc
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, Published
from pipeline.evaluation.utility.regimes import holdout_scores, labels_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fairness.predictions import Draws, Split
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import TaskSpec

    Measure = Callable[[Predicted, NDArray[np.bool_], NDArray[np.bool_]], Draws]

SYSTEMS = ("real data", "HealthGAN", "FairGAN", "Bt-GAN")
BENCHMARKED = ("real data", "DECAF", "FairGAN", "Bt-GAN")
LEAKING = ("HealthGAN", "FairGAN", "Bt-GAN-", "Bt-GAN")
MIMIC_TASKS = ("hospital mortality", "ICU mortality", "stay over 3 days", "stay over 7 days")


def _printed(
    table: str, rows: dict[str, tuple[float, ...]], systems: tuple[str, ...] = SYSTEMS
) -> tuple[Published, ...]:
    paper = f"Bt-GAN (Ramachandranpillai 2024), {table}"
    return tuple(
        Published(paper, data, system, value)
        for data, values in rows.items()
        for system, value in zip(systems, values, strict=True)
    )


def _mimic(*values: tuple[float, ...]) -> dict[str, tuple[float, ...]]:
    return {f"MIMIC-III, {task}": row for task, row in zip(MIMIC_TASKS, values, strict=True)}


def _spec(
    name: str, title: str, caption: str, source: str, flaw: str, published: tuple[Published, ...],
    range_: tuple[float, float] = (-1.0, 1.0), direction: int = 0,
) -> MetricSpec:  # fmt: skip
    return MetricSpec(
        id=f"lit.{name}",
        family="literal",
        direction=1 if direction > 0 else -1 if direction < 0 else 0,
        range=range_,
        needs=frozenset({"T", "H", "S", "task"}),
        version="1",
        title=title,
        caption=caption,
        source=source,
        flaw=flaw,
        published=published,
    )


PARITY = _spec(
    "btgan.parity_gap", "Parity gap at 1/2 (Bt-GAN)",
    "Share predicted positive at a threshold of 1/2 in the largest group minus that in the second largest, by a logistic "
    "model. 0 is the ideal; above it favours the larger group.",
    "Bt-GAN (Ramachandranpillai 2024), table 7: (TP1 + FP1) / N1 - (TP2 + FP2) / N2",
    "At a threshold of 1/2 a model of a rare outcome calls hardly anybody positive, so the gap is 0 because the "
    "predictions are empty (an F1 of 7 % stands beside the gap of -0.003). Not set against the gap of real training rows.",
    _printed("table 4", _mimic(
        (-0.046, -0.154, -0.004, 0.0), (-0.031, -0.331, -0.005, 0.0), (0.022, 0.224, 0.022, 0.0), (-0.004, -0.004, -0.002, -0.003)
    )) + _printed("table 6", {"Adult": (0.121, 0.001, 0.097, 0.001), "COMPAS": (0.258, 0.003, 0.205, 0.002)}, BENCHMARKED),
)  # fmt: skip
AUROC = _spec(
    "btgan.auroc_gap", "AUROC gap (Bt-GAN)",
    "AUROC of a logistic model in the largest group minus that in the second largest. 0 is the ideal; above it favours "
    "the larger group.",
    "Bt-GAN (Ramachandranpillai 2024), table 7",
    "No interval from people (the printed ± is over runs) and no fewest number of cases in a group; not set against the gap "
    "of real training rows.",
    _printed("table 4", _mimic(
        (0.043, 0.082, 0.021, 0.001), (0.03, 0.15, 0.023, 0.012), (-0.003, -0.104, -0.003, 0.0), (-0.005, -0.076, -0.061, -0.013)
    )) + _printed("table 6", {"Adult": (0.198, 0.011, 0.089, 0.002), "COMPAS": (0.239, 0.021, 0.045, 0.001)}, BENCHMARKED),
)  # fmt: skip
LEAKAGE_FLAW = (
    "Plain accuracy: whoever answers with the largest group scores its share (White, 71 %), so the figure is read as "
    "leakage where it is base rate. Comparing the two leakages confounds the model's errors with fairness."
)
DATA_LEAKAGE = _spec(
    "btgan.data_leakage", "Data leakage in percent (Bt-GAN)",
    "Percent of real (holdout) people whose group an attacker guesses from their outcome, having learned from the "
    "synthetic rows. Lower is better; the share of the largest group is what ignorance gives.",
    "Bt-GAN (Ramachandranpillai 2024), equation 13; Wang et al. 2019", LEAKAGE_FLAW,
    _printed("table 5", {"MIMIC-III, ICU mortality": (63.17, 60.81, 50.45, 49.90)}, LEAKING), (0.0, 100.0), -1,
)  # fmt: skip
MODEL_LEAKAGE = _spec(
    "btgan.model_leakage", "Model leakage in percent (Bt-GAN)",
    "The same from the predictions (threshold 1/2) of a logistic model trained on synthetic rows. Lower is better; the "
    "share of the largest group is what ignorance gives.",
    "Bt-GAN (Ramachandranpillai 2024), equation 14; Wang et al. 2019", LEAKAGE_FLAW,
    _printed("table 5", {"MIMIC-III, ICU mortality": (65.42, 62.97, 49.16, 48.31)}, LEAKING), (0.0, 100.0), -1,
)  # fmt: skip
LDSS = _spec(
    "btgan.ldss", "Log disparity of sub-groups (Bt-GAN)",
    "Natural log of a group's odds among synthetic over its odds among real (holdout) rows, with the paper's level. 0 is "
    "the ideal. The headline is the most under-represented group.",
    "Bt-GAN (Ramachandranpillai 2024), definition 7 and section 8.3",
    "No level is defined above -ln 0.8, “missing” also swallows groups that are merely rare, and there is no interval: a "
    "handful of people decides the level.",
    (), (-np.inf, np.inf),
)  # fmt: skip
ODDS = _spec(
    "sdv.equalized_odds_improvement", "Equalized-odds improvement (SDMetrics)",
    "Half the difference between two equalised-odds scores (1 minus the larger gap in true- or false-positive rates, the "
    "largest group against all others), trained on synthetic and on real rows, plus 1/2. Above 1/2 the synthetic rows "
    "are fairer, 1/2 is no change.",
    "SDMetrics, EqualizedOddsImprovement, as documented: (EO synthetic - EO real) / 2 + 1/2",
    "Rates at a threshold of 1/2: a model that predicts nobody positive is perfectly fair. Halved and shifted, so that a "
    "change of 0.1 looks like 0.05 around 1/2.",
    (), (0.0, 1.0), 1,
)  # fmt: skip


@metric(PARITY, floor="")
def parity_gap(ctx: EvaluationContext) -> list[MetricResult]:
    """Difference in predicted-positive rates at 1/2, for each task and protected attribute."""

    def gap(found: Predicted, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Draws:
        rates = found.shares((found.scores >= 0.5).astype(np.float32), [first, second])
        return rates[:, 0] - rates[:, 1]

    return _two_groups(ctx, PARITY, gap)


@metric(AUROC, floor="")
def auroc_gap(ctx: EvaluationContext) -> list[MetricResult]:
    """Difference in AUROC, for each task and protected attribute."""

    def gap(found: Predicted, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Draws:
        areas = [weighted_auc(found.scores[i], found.truth[i], found.weights[:, i]) for i in (first, second)]
        both = all(found.truth[i].any() and not found.truth[i].all() for i in (first, second))
        return areas[0] - areas[1] if both else np.full(len(found.weights), np.nan)

    return _two_groups(ctx, AUROC, gap)


def _two_groups(ctx: EvaluationContext, spec: MetricSpec, gap: Measure) -> list[MetricResult]:
    """A row for each task and attribute; the headline is the first attribute of the first task."""
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks if ctx.plan.protected else ():
        found = predicted(ctx, task, "tstr", "lr")
        if isinstance(found, str):
            rows.append(spec.result(None, scope="task", key1=task.name, note=found))
            continue
        for split in splits(ctx, task, found):
            if len(split.groups) < 2:
                continue
            draws = gap(found, split.number == 0, split.number == 1)
            error = float(draws[1:].std(ddof=1)) if np.isfinite(draws).all() else None
            rows.append(
                spec.result(float(draws[0]), se=error, n=int((split.number < 2).sum() - (split.number < 0).sum()),
                            scope="task", key1=task.name, key2=split.name, note=_versus(split))
            )  # fmt: skip
    return _first(ctx, spec, rows)


def _versus(split: Split) -> str:
    return f"{split.groups[0].name} minus {split.groups[1].name}"


def _first(ctx: EvaluationContext, spec: MetricSpec, rows: list[MetricResult]) -> list[MetricResult]:
    """The rows behind the first that has a value, under the headline's key."""
    row = next((r for r in rows if r.value is not None), None)
    if row is None:
        if not ctx.plan.protected or not ctx.plan.tasks:
            return [spec.not_applicable(NOBODY if ctx.plan.tasks else "no task is declared")]
        return [spec.result(None, note=rows[0].note if rows else "no two groups"), *rows]
    about = ", ".join(filter(None, [row.key1, row.key2]))
    interval = None if row.ci_lo is None or row.ci_hi is None else (row.ci_lo, row.ci_hi)
    note = ": ".join(filter(None, [about, row.note]))
    return [spec.result(row.value, se=row.se, interval=interval, n=row.n, null=row.null_value, note=note), *rows]


@metric(DATA_LEAKAGE, floor="")
def data_leakage(ctx: EvaluationContext) -> list[MetricResult]:
    """From the outcome: learned on synthetic outcomes, tested on the holdout's."""

    def inputs(task: TaskSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
        made, real = labels_of(ctx.synthetic, task), labels_of(ctx.sides.holdout, task)
        if made is None or real is None:
            return f"the label '{task.label}' is not discrete"
        return made, real

    return _leakage(ctx, DATA_LEAKAGE, inputs)


@metric(MODEL_LEAKAGE, floor="")
def model_leakage(ctx: EvaluationContext) -> list[MetricResult]:
    """From predictions at 1/2: learned on those for synthetic rows, tested on those for holdout people."""

    def inputs(task: TaskSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]] | str:
        fit = holdout_scores(ctx, task, "lr", "tstr")
        if fit.reason or fit.learner is None:
            return fit.reason or fit.note
        real = np.full(len(ctx.sides.holdout), np.nan)
        real[fit.rows] = fit.scores >= 0.5
        made = fit.learner.scores(ctx.synthetic, np.arange(len(ctx.synthetic))) >= 0.5
        return made.astype(np.float64), real

    return _leakage(ctx, MODEL_LEAKAGE, inputs)


def _leakage(
    ctx: EvaluationContext,
    spec: MetricSpec,
    inputs: Callable[[TaskSpec], tuple[NDArray[np.float64], NDArray[np.float64]] | str],
) -> list[MetricResult]:
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks if ctx.plan.protected else ():
        found = inputs(task)
        if isinstance(found, str):
            rows.append(spec.result(None, scope="task", key1=task.name, note=found))
            continue
        made, real = found
        for crossing in protected_crossings(ctx.sides, 1):
            if crossing.attributes[0].column.name == task.label:
                continue
            group, tested = crossing.of(ctx.synthetic), members(ctx.sides, crossing)
            known, usable = ~np.isnan(made) & (group >= 0), ~np.isnan(real) & (tested >= 0)
            if not known.any() or not usable.any():
                continue
            right = leaked(made[known] > 0, group[known], real[usable] > 0, tested[usable])
            sums = np.bincount(ctx.sides.holdout.clusters[usable], weights=right - right.mean())
            largest = np.bincount(tested[usable]).max() / usable.sum()
            rows.append(
                spec.result(100 * right.mean(), se=100 * float(np.sqrt((sums**2).sum())) / len(right), n=len(right),
                            null=100 * float(largest), scope="task", key1=task.name, key2=crossing.name,
                            note=f"the largest group is {largest:.0%}")
            )  # fmt: skip
    return _first(ctx, spec, rows)


def leaked(
    learned: NDArray[np.bool_], groups: NDArray[np.int64], tested: NDArray[np.bool_], truth: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(tested,) 1 where the attacker's guess is right: the commonest group of those with the same yes or no."""
    commonest = np.bincount(groups).argmax()
    answer = [
        np.bincount(groups[learned == yes]).argmax() if (learned == yes).any() else commonest for yes in (False, True)
    ]
    return (np.asarray(answer)[tested.astype(int)] == truth).astype(np.float64)


@metric(LDSS, floor="")
def ldss(ctx: EvaluationContext) -> list[MetricResult]:
    """The disparity of every group with the paper's level; infinite where a side has none of it."""
    rows: list[MetricResult] = []
    for crossing in crossings(ctx.sides) if ctx.plan.protected else ():
        real, made = members(ctx.sides, crossing), crossing.of(ctx.synthetic)
        for group in crossing.groups:
            value = disparity(float(np.mean(made == group.number)), float(np.mean(real == group.number)))
            note = "missing: no synthetic row, minus infinity" if value == -np.inf else level(value)
            rows.append(LDSS.result(value, n=int((made == group.number).sum()), null=0.0, scope="subgroup", key1=group.name, note=note))  # fmt: skip
    if not rows:
        if not ctx.plan.protected:
            return [LDSS.not_applicable(NOBODY)]
        return [LDSS.result(None, note="no group has 11 training and holdout rows")]
    known = [r for r in rows if r.value is not None]
    gone = len(rows) - len(known)
    beside = f"; {gone} groups without a synthetic row" if gone else ""
    if not known:
        return [LDSS.result(None, note="every group is infinitely over- or under-represented"), *rows]
    least = min(known, key=lambda r: r.value or 0.0)
    return [LDSS.result(least.value, n=least.n, null=0.0, note=f"{least.key1}: {least.note}{beside}"), *rows]


def disparity(share: float, share_real: float) -> float:
    """Natural log of the ratio of odds; infinite where one share is 0 or 1, no number where both are the same of these."""
    with np.errstate(divide="ignore", invalid="ignore"):
        odds, odds_real = (np.log(np.float64(p)) - np.log1p(-np.float64(p)) for p in (share, share_real))
        return float(odds - odds_real)


def level(value: float) -> str:
    """The paper's level of a disparity; it defines none above -ln 0.8."""
    if value <= log(0.8):
        return "missing"
    if value <= log(0.9):
        return "underrepresented"
    if value <= -log(0.9):
        return "adequately represented"
    return "over-represented" if value <= -log(0.8) else "no level defined"


@metric(ODDS, floor="")
def equalized_odds_improvement(ctx: EvaluationContext) -> list[MetricResult]:
    """Boosting at 1/2, the largest group of each protected attribute against all others."""
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks if ctx.plan.protected else ():
        real, made = (predicted(ctx, task, regime, "hgb") for regime in ("trtr", "tstr"))
        if isinstance(real, str) or isinstance(made, str):
            reason = next(found for found in (real, made) if isinstance(found, str))
            rows.append(ODDS.result(None, scope="task", key1=task.name, note=reason))
            continue
        for split in splits(ctx, task, real):
            if len(split.groups) < 2:
                continue
            first = split.number == 0
            draws = (_odds(made, first) - _odds(real, first)) / 2 + 0.5
            rows.append(
                ODDS.result(float(draws[0]), se=float(draws[1:].std(ddof=1)), n=len(real.rows), null=0.5, scope="task",
                            key1=task.name, key2=split.name, note=f"{split.groups[0].name} against all others")
            )  # fmt: skip
    return _first(ctx, ODDS, rows)


def _odds(found: Predicted, first: NDArray[np.bool_]) -> Draws:
    """(draws + 1,) 1 minus the larger difference in true- or false-positive rate at 1/2."""
    called = (found.scores >= 0.5).astype(np.float32)
    gaps = []
    for truth in (found.truth, ~found.truth):
        rates = found.shares(called, [first & truth, ~first & truth])
        gaps.append(np.abs(rates[:, 0] - rates[:, 1]))
    return 1 - np.maximum(*gaps)
