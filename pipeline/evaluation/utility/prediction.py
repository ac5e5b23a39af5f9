"""Utility by AUROC: a model trained on synthetic rows and tested on real ones (TSTR), against one trained on real rows.

Each task's headline is the better of boosting and logistic regression where trained on real rows, a choice that no
synthetic row can influence. Leak lists are dropped. All figures come from one paired bootstrap by subject. What else
is made of the same scores is in `classification.py`; how they come about in `regimes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import weighted_auc
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.utility.regimes import (
    NO_TASK,
    best_model,
    holdout_draws,
    holdout_scores,
    models_of,
    tested_weights,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.results import Cost, MetricResult
    from pipeline.evaluation.utility.regimes import Regime
    from pipeline.features.evaluation_spec import TaskSpec


def _spec(name: str, direction: int, low: float, high: float, title: str, caption: str, cost: Cost = "A") -> MetricSpec:
    return MetricSpec(
        id=f"util.{name}",
        family="utility",
        direction=1 if direction > 0 else -1,
        range=(low, high),
        needs=frozenset({"T", "H", "S", "task"}),
        version="2",
        title=title,
        caption=caption,
        source="train on synthetic, test on real (Esteban 2017); paired bootstrap by subject",
        cost=cost,
    )


TRTR = _spec(
    "trtr_auroc", 1, 0, 1, "Trained on real rows (AUROC)",
    "AUROC on the holdout of a model trained on the real training rows: what can be reached. Higher is better.",
)  # fmt: skip
TSTR = _spec(
    "tstr_auroc", 1, 0, 1, "Trained on synthetic rows (AUROC)",
    "AUROC on the holdout of the same model trained on synthetic rows. Higher is better; 0.5 is chance.",
)  # fmt: skip
GAP = _spec(
    "gap", -1, -1, 1, "Utility gap",
    "AUROC lost by training on synthetic instead of real rows. Lower is better; the null is 0.",
)  # fmt: skip
RATIO = _spec(
    "ratio", 1, -np.inf, np.inf, "Utility ratio",
    "Share of the real model's skill above chance that is kept: (TSTR - 1/2) / (TRTR - 1/2). Higher is better; "
    "1 keeps all of it.",
)  # fmt: skip
PLUS = _spec(
    "tstr_plus_auroc", 1, 0, 1, "Trained on real and synthetic rows together (AUROC)",
    "AUROC on the holdout of the model trained on the training rows and as many synthetic ones. Higher is better; the "
    "null is what the real rows reach alone.", "C",
)  # fmt: skip
AUGMENTATION = _spec(
    "augmentation", 1, -1, 1, "Gain by augmentation",
    "AUROC gained by adding synthetic rows to the real training rows. Higher is better; the null is 0: nothing gained.",
    "C",
)  # fmt: skip
TRTS = _spec(
    "trts_auroc", 1, 0, 1, "Trained on real, tested on synthetic rows (AUROC)",
    "AUROC on synthetic rows of the model trained on real ones. Far below the real model's own AUROC, synthetic labels "
    "do not follow from the features; far above, they follow too neatly. Real rows would give the same as TRTR.", "C",
)  # fmt: skip
TSTS = _spec(
    "tsts_auroc", 1, 0, 1, "Trained and tested on synthetic rows (AUROC)",
    "AUROC out of fold within the synthetic rows: what somebody who has nothing else would report. It may be anything, "
    "whatever the rows are worth; compare it with TSTR.", "C",
)  # fmt: skip


@dataclass(frozen=True)
class TaskScores:
    """AUROC of one task, model and regime.

    Attributes:
        value: AUROC, or None with `note`.
        draws: (draws,) bootstrap AUROCs; every regime that is tested on the holdout uses the same draws.
        n: Tested rows.
        note: What to bear in mind.
    """

    value: float | None
    draws: NDArray[np.float64]
    n: int
    note: str = ""


Figure = tuple[float | None, "NDArray[np.float64]", str]


@metric(TRTR)
def trtr_auroc(ctx: EvaluationContext) -> list[MetricResult]:
    """What real training rows reach; the same for every generator."""
    return _rows(ctx, TRTR, ("trtr",), lambda real: (real.value, real.draws, real.note), null=None)


@metric(TSTR)
def tstr_auroc(ctx: EvaluationContext) -> list[MetricResult]:
    """What synthetic training rows reach."""
    return _rows(ctx, TSTR, ("tstr",), lambda made: (made.value, made.draws, made.note), null=0.5)


@metric(GAP)
def gap(ctx: EvaluationContext) -> list[MetricResult]:
    """TRTR minus TSTR on the same holdout rows."""
    return _rows(ctx, GAP, ("trtr", "tstr"), lambda real, made: _difference(real, made), null=0.0)


@metric(RATIO)
def ratio(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of the skill above chance; not estimable where the real model's own skill is within 3 errors of chance."""

    def figure(real: TaskScores, made: TaskScores) -> Figure:
        if real.value is None or made.value is None:
            return None, real.draws, real.note or made.note
        skill = real.value - 0.5
        if skill <= 0 or skill < 3 * float(real.draws.std(ddof=1)):
            return None, real.draws, "the model trained on real rows is no better than chance"
        return (made.value - 0.5) / skill, (made.draws - 0.5) / np.maximum(real.draws - 0.5, 1e-3), made.note

    return _rows(ctx, RATIO, ("trtr", "tstr"), figure, null=1.0)


@metric(PLUS)
def tstr_plus_auroc(ctx: EvaluationContext) -> list[MetricResult]:
    """What real and synthetic rows reach together."""
    return _rows(ctx, PLUS, ("tstr_plus",), lambda both: (both.value, both.draws, both.note), null=None)


@metric(AUGMENTATION)
def augmentation(ctx: EvaluationContext) -> list[MetricResult]:
    """TSTR+ minus TRTR on the same holdout rows."""
    return _rows(ctx, AUGMENTATION, ("tstr_plus", "trtr"), lambda both, real: _difference(both, real), null=0.0)


@metric(TRTS)
def trts_auroc(ctx: EvaluationContext) -> list[MetricResult]:
    """What the real model makes of synthetic rows."""
    return _rows(ctx, TRTS, ("trts",), lambda made: (made.value, made.draws, made.note), null=None)


@metric(TSTS)
def tsts_auroc(ctx: EvaluationContext) -> list[MetricResult]:
    """What synthetic rows say of themselves."""
    return _rows(ctx, TSTS, ("tsts",), lambda made: (made.value, made.draws, made.note), null=None)


def _difference(first: TaskScores, second: TaskScores) -> Figure:
    if first.value is None or second.value is None:
        return None, first.draws, first.note or second.note
    return first.value - second.value, first.draws - second.draws, first.note or second.note


def _rows(
    ctx: EvaluationContext,
    spec: MetricSpec,
    regimes: tuple[Regime, ...],
    figure: Callable[..., Figure],
    null: float | None,
) -> list[MetricResult]:
    """A row for each task's headline model and each model; `figure` is given the AUROCs of the regimes."""
    if not ctx.plan.tasks:
        return [spec.not_applicable(NO_TASK)]
    rows = []
    for task in ctx.plan.tasks:
        best = best_model(ctx.sides, task)
        for model in ("", *models_of(ctx.sides)):
            used = model or best
            given = [task_auroc(ctx, task, used, regime) for regime in regimes]
            value, draws, note = figure(*given)
            shared = value is not None and not {"trts", "tsts"} & set(regimes)
            rows.append(
                spec.result(
                    value,
                    se=float(draws.std(ddof=1)) if value is not None else None,
                    n=given[0].n,
                    null=null,
                    scope="task",
                    key1=task.name,
                    key2=model,
                    note=note if model or value is None else f"model: {used}" + (f"; {note}" if note else ""),
                    draws=draws if shared and not model else None,
                )
            )
    return rows


def task_auroc(ctx: EvaluationContext, task: TaskSpec, model: str, regime: Regime) -> TaskScores:
    """AUROC and its bootstrap of one task, model and regime; made once."""

    def make() -> TaskScores:
        fit = holdout_scores(ctx, task, model, regime)
        if fit.reason:
            return TaskScores(None, np.zeros(ctx.sides.profile.draws), fit.size, fit.reason)
        weights = tested_weights(ctx, fit, regime)
        return TaskScores(fit.auc, weighted_auc(fit.scores, fit.truth, weights), len(fit.rows), fit.note)

    if regime == "trtr" or (regime == "tstr" and ctx.synthetic.cohort is ctx.sides.train.cohort):
        return real_auroc(ctx.sides, task, model)
    return ctx.once(f"auroc/{regime}/{task.name}/{model}", make)


def real_auroc(sides: RealSides, task: TaskSpec, model: str) -> TaskScores:
    """AUROC and its bootstrap of the model trained on T; the same for every generator."""
    from pipeline.evaluation.utility.regimes import real_scores

    def make() -> TaskScores:
        fit = real_scores(sides, task, model)
        if fit.reason:
            return TaskScores(None, np.zeros(sides.profile.draws), fit.size, fit.reason)
        draws = weighted_auc(fit.scores, fit.truth, holdout_draws(sides, fit))
        return TaskScores(fit.auc, draws, len(fit.rows), fit.note)

    return sides.once(f"auroc/trtr/{task.name}/{model}", make)
