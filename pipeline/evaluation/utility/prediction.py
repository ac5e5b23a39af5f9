"""Utility: a model trained on synthetic rows and tested on real ones (TSTR), against one trained on real rows (TRTR).

Each task gives AUROCs of gradient boosting and of logistic regression on the holdout; the task's headline is the
model that does better when trained on real rows, a choice that no synthetic row can influence. Preprocessing is
fitted inside the training rows. Leak lists are dropped. All four figures come from one paired bootstrap by subject.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.boosting import boosted_scores, fit_boosting
from pipeline.evaluation.encoding import LinearDesign
from pipeline.evaluation.intervals import auc, weighted_auc
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import TaskSpec

MODELS = ("hgb", "lr")
FEWEST_CASES = 10
"""Holdout rows of each class below which no AUROC is printed."""


def _spec(name: str, direction: int, low: float, high: float, title: str, caption: str) -> MetricSpec:
    return MetricSpec(
        id=f"util.{name}",
        family="utility",
        direction=1 if direction > 0 else -1,
        range=(low, high),
        needs=frozenset({"T", "H", "S", "task"}),
        version="1",
        title=title,
        caption=caption,
        source="train on synthetic, test on real (Esteban 2017); paired bootstrap by subject",
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


@dataclass(frozen=True)
class TaskScores:
    """AUROCs of one task and model on the holdout.

    Attributes:
        value: AUROC, or None with `note`.
        draws: (draws,) bootstrap AUROCs; every regime uses the same draws.
        n: Holdout rows.
        note: What to bear in mind.
    """

    value: float | None
    draws: NDArray[np.float64]
    n: int
    note: str = ""


@metric(TRTR)
def trtr_auroc(ctx: EvaluationContext) -> list[MetricResult]:
    """What real training rows reach; the same for every generator."""
    return _rows(ctx, TRTR, lambda real, _: (real.value, real.draws, real.note), null=None)


@metric(TSTR)
def tstr_auroc(ctx: EvaluationContext) -> list[MetricResult]:
    """What synthetic training rows reach."""
    return _rows(ctx, TSTR, lambda _, made: (made.value, made.draws, made.note), null=0.5)


@metric(GAP)
def gap(ctx: EvaluationContext) -> list[MetricResult]:
    """TRTR minus TSTR on the same holdout rows."""

    def figure(real: TaskScores, made: TaskScores) -> tuple[float | None, NDArray[np.float64], str]:
        if real.value is None or made.value is None:
            return None, real.draws, real.note or made.note
        return real.value - made.value, real.draws - made.draws, made.note

    return _rows(ctx, GAP, figure, null=0.0)


@metric(RATIO)
def ratio(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of the skill above chance; not estimable where the real model's own skill is within 3 errors of chance."""

    def figure(real: TaskScores, made: TaskScores) -> tuple[float | None, NDArray[np.float64], str]:
        if real.value is None or made.value is None:
            return None, real.draws, real.note or made.note
        skill = real.value - 0.5
        if skill < 3 * float(real.draws.std(ddof=1)):
            return None, real.draws, "the model trained on real rows is no better than chance"
        return (made.value - 0.5) / skill, (made.draws - 0.5) / np.maximum(real.draws - 0.5, 1e-3), made.note

    return _rows(ctx, RATIO, figure, null=1.0)


def _rows(
    ctx: EvaluationContext,
    spec: MetricSpec,
    figure: Callable[[TaskScores, TaskScores], tuple[float | None, NDArray[np.float64], str]],
    null: float | None,
) -> list[MetricResult]:
    rows = []
    for task in ctx.plan.tasks:
        best = _best_model(ctx.sides, task)
        for model in ("", *MODELS):
            used = model or best
            real, made = _real_scores(ctx.sides, task, used), _synthetic_scores(ctx, task, used)
            value, draws, note = figure(real, made)
            rows.append(
                spec.result(
                    value,
                    se=float(draws.std(ddof=1)) if value is not None else None,
                    n=real.n,
                    null=null,
                    scope="task",
                    key1=task.name,
                    key2=model,
                    note=note if model else f"model: {used}" + (f"; {note}" if note else ""),
                )
            )
    return rows


def _real_scores(sides: RealSides, task: TaskSpec, model: str) -> TaskScores:
    return sides.once(f"trtr/{task.name}/{model}", lambda: _score(sides, sides.train, task, model, "train"))


def _synthetic_scores(ctx: EvaluationContext, task: TaskSpec, model: str) -> TaskScores:
    def make() -> TaskScores:
        if ctx.synthetic.cohort is ctx.sides.train.cohort:
            return _real_scores(ctx.sides, task, model)
        return _score(ctx.sides, ctx.synthetic, task, model, f"synthetic/{ctx.replicate}")

    return ctx.once(f"tstr/{task.name}/{model}", make)


def _best_model(sides: RealSides, task: TaskSpec) -> str:
    values = {m: _real_scores(sides, task, m).value for m in MODELS}
    return max(MODELS, key=lambda m: (-1.0 if values[m] is None else float(values[m] or 0.0), m))


def labels_of(side: Side, task: TaskSpec) -> NDArray[np.float64] | None:
    """(n,) 1 where the label is positive, 0 where it is another level, NaN where missing; None of a numeric label."""
    column = next(c for c in side.encoder.columns if c.name == task.label)
    if not column.discrete or not column.levels:
        return None
    positive = len(column.levels) - 1
    if task.positive is not None:
        texts = [str(level) for level in column.levels]
        positive = texts.index(str(task.positive)) if str(task.positive) in texts else -9
    code = side.codes[task.label]
    return np.where(code < 0, np.nan, (code == positive).astype(np.float64))


def _score(sides: RealSides, training: Side, task: TaskSpec, model: str, name: str) -> TaskScores:
    """Train on one side, score the holdout."""
    test, given = labels_of(sides.holdout, task), labels_of(training, task)
    none = np.zeros(sides.profile.draws)
    if test is None or given is None:
        return TaskScores(None, none, 0, f"the label '{task.label}' is not discrete")
    tested = np.flatnonzero(~np.isnan(test))
    positives = int(np.nansum(test))
    if min(positives, len(tested) - positives) < FEWEST_CASES:
        return TaskScores(None, none, len(tested), f"fewer than {FEWEST_CASES} holdout rows of a class")
    known = np.flatnonzero(~np.isnan(given))
    size = min(len(known), sides.profile.training_rows)
    rows = known[sides.sample(len(known), size, "util", task.name, name)] if size else known
    truth = test[tested] > 0.5
    if len(np.unique(given[rows])) < 2:
        return TaskScores(
            0.5, none + 0.5, len(tested), "only one class among the training rows: nothing to learn, 0.5 by definition"
        )
    drop = (task.label, *task.leak)
    seed = int(sides.rng("util", task.name, model, name).integers(2**31))
    scores = _predict(sides, training, rows, given[rows] > 0.5, tested, drop, model, seed)
    weights = sides.holdout_weights[:, tested]
    return TaskScores(auc(scores, truth), weighted_auc(scores, truth, weights), len(tested))


def _predict(
    sides: RealSides,
    training: Side,
    rows: NDArray[np.int64],
    labels: NDArray[np.bool_],
    tested: NDArray[np.int64],
    drop: tuple[str, ...],
    model: str,
    seed: int,
) -> NDArray[np.float64]:
    if model == "hgb":
        features = training.tree_features(drop)
        kept, nominal = features.usable(features.matrix[rows])
        if not len(kept):
            return np.zeros(len(tested))
        boosted = fit_boosting(
            features.matrix[np.ix_(rows, kept)], labels, nominal, rounds=100, early_stopping=False, seed=seed
        )
        return boosted_scores(boosted, sides.holdout.tree_features(drop).matrix[np.ix_(tested, kept)])
    from sklearn.linear_model import LogisticRegression

    design = LinearDesign(training, rows, drop=drop)
    if not design.names:
        return np.zeros(len(tested))
    linear = LogisticRegression(C=1.0, max_iter=500)
    linear.fit(design.transform(training)[rows], labels)
    return np.asarray(linear.decision_function(design.transform(sides.holdout)[tested]), dtype=np.float64)
