"""The price of fairness: skill that synthetic rows cost and the gap that is left, beside real rows that were made fair.

The reference is Kamiran and Calders' uniform sampling: real training rows drawn so that outcome and group are
independent, of the same number. A fair generator should give up no more skill for the gap that it leaves. Gaps of other
notions are in `gaps.py`.

Source: Kamiran and Calders 2012 (Data preprocessing techniques for classification without discrimination), section 4.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fairness.groups import NOBODY
from pipeline.evaluation.fairness.predictions import Predicted, by_group, difference, measure, predicted, splits
from pipeline.evaluation.intervals import weighted_auc
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.utility.learners import TrainingRows
from pipeline.evaluation.utility.regimes import best_model, scores_of_training, training_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.fairness.predictions import Draws, Split
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import TaskSpec

    Both = tuple[Draws, Draws]
    """Of synthetic rows, and of real rows that were drawn fairly."""

AUROC = MetricSpec(
    id="fair.price.auroc",
    family="fairness",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S", "task"}),
    version="1",
    title="Skill given up (AUROC)",
    caption="AUROC on real holdout people of a model trained on real rows, less that of one trained on synthetic rows. The "
    "null is what real rows cost that are drawn so that outcome and group are independent. Lower is better.",
    source="Kamiran and Calders 2012, section 4.4 (uniform sampling) for the null; paired bootstrap by subject",
)
PARITY = MetricSpec(
    id="fair.price.parity",
    family="fairness",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S", "task"}),
    version="1",
    title="Parity gap that is left",
    caption="Size of the difference between groups of real holdout people in the share predicted positive, by a model "
    "trained on synthetic rows. The null is that of real rows drawn so that outcome and group are independent. Lower is better.",
    source="Kamiran and Calders 2012, section 4.4 (uniform sampling) for the null; paired bootstrap by subject",
)


@metric(AUROC, floor="")
def auroc(ctx: EvaluationContext) -> list[MetricResult]:
    """The largest loss of all tasks, and a row a task and attribute."""
    return _rows(ctx, AUROC, _losses)


@metric(PARITY, floor="")
def parity(ctx: EvaluationContext) -> list[MetricResult]:
    """The largest gap of all tasks and attributes, and a row a task and attribute."""
    return _rows(ctx, PARITY, _gaps)


def _losses(
    ctx: EvaluationContext, task: TaskSpec, split: Split, real: Predicted, made: Predicted, fair: Predicted
) -> Both:
    areas = [weighted_auc(p.scores, p.truth, p.weights) for p in (real, made, fair)]
    return areas[0] - areas[1], areas[0] - areas[2]


def _gaps(
    ctx: EvaluationContext, task: TaskSpec, split: Split, real: Predicted, made: Predicted, fair: Predicted
) -> Both:
    rates = by_group(ctx, task, split, made).rate, measure(fair, split).rate
    return np.abs(difference(rates[0])), np.abs(difference(rates[1]))


def _rows(
    ctx: EvaluationContext,
    spec: MetricSpec,
    both: Callable[[EvaluationContext, TaskSpec, Split, Predicted, Predicted, Predicted], Both],
) -> list[MetricResult]:
    if not ctx.plan.protected or not ctx.plan.tasks:
        return [spec.not_applicable(NOBODY if ctx.plan.tasks else "no task is declared")]
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks:
        real, made = predicted(ctx, task, "trtr"), predicted(ctx, task, "tstr")
        if isinstance(real, str) or isinstance(made, str):
            reason = next(p for p in (real, made) if isinstance(p, str))
            rows.append(spec.result(None, scope="task", key1=task.name, note=reason))
            continue
        for split in splits(ctx, task, real):
            kept = split.judgeable()
            if len(kept.groups) < 2:
                continue
            fair = _fair(ctx.sides, task, split, real)
            if fair is None:
                continue
            value, null = both(ctx, task, kept, real, made, fair)
            rows.append(
                spec.result(
                    float(value[0]),
                    se=float(value[1:].std(ddof=1)),
                    n=len(real.rows),
                    null=float(null[0]),
                    scope="task",
                    key1=task.name,
                    key2=split.name,
                    note=f"model: {made.model}; null: real rows with {task.label} independent of {split.name}",
                    draws=value[1:],
                )
            )
    known = [r for r in rows if r.value is not None]
    if not known:
        note = rows[0].note if rows else "no protected attribute has groups to compare"
        return [spec.result(None, scope="table", note=note), *rows]
    worst = max(known, key=lambda r: r.value or 0.0)
    top = spec.result(
        worst.value,
        se=worst.se,
        n=worst.n,
        null=worst.null_value,
        note=f"{worst.key1}, {worst.key2}: {worst.note}",
        draws=worst.draws,
    )
    return [top, *rows]


def _fair(sides: RealSides, task: TaskSpec, split: Split, real: Predicted) -> Predicted | None:
    """What a model trained on real rows drawn fairly says of the holdout; None where it cannot be trained."""
    model = best_model(sides, task)
    given, reason = training_rows(sides, sides.train, task, "train", model)
    if reason:
        return None
    group = split.crossing.of(sides.train)[given.rows]
    chosen = independent_rows(group, given.labels, sides.rng("fair", "uniform sampling", task.name, split.name))
    rows = TrainingRows(given.side, given.rows[chosen], given.labels[chosen])
    fit = scores_of_training(sides, task, model, f"uniform sampling/{split.name}", rows)
    if fit.reason:
        return None
    return Predicted(
        fit.rows, fit.truth, np.asarray(fit.scores, dtype=np.float64), real.weights, model, "fair", fit.note
    )


def independent_rows(group: NDArray[np.int64], label: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions of rows, so many of each group and outcome as there would be if they were independent.

    A cell with too many rows loses some at random; one with too few has all of them, and some again.
    """
    chosen = []
    for g in np.unique(group):
        for y in (False, True):
            inside = np.flatnonzero((group == g) & (label == y))
            wanted = round(float((group == g).mean() * (label == y).mean()) * len(group))
            if len(inside):
                mixed = rng.permutation(inside)
                chosen.append(np.resize(mixed, wanted))
    return np.sort(np.concatenate(chosen))
