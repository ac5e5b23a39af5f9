"""Utility by everything else that a classifier is judged by, for each task on the holdout.

The headline of each figure is the task's headline model trained on synthetic rows (TSTR); key2 "trtr" is the same model
trained on real ones, "<regime>/<model>" the others in the profiles beyond quick. The threshold of accuracy, precision,
recall and F1 is found out of fold on the training rows of each regime, never on tested ones; a fixed 0.5 is used in
literal variants alone, since with rare outcomes almost nobody scores above it. The arithmetic is in `scoring.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.utility.curves import calibration, precision_recall
from pipeline.evaluation.utility.regimes import NO_TASK, best_model, holdout_scores, models_of, tested_weights
from pipeline.evaluation.utility.scoring import Estimate, at_threshold, average_precision, of_probabilities

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.registry import Metric
    from pipeline.evaluation.results import MetricResult
    from pipeline.evaluation.utility.regimes import Regime, TaskFit
    from pipeline.features.evaluation_spec import TaskSpec

CUT = (
    " Rows are called positive from the score that maximises F1 out of fold on the rows that the model was trained on."
)


def _spec(name: str, direction: int, title: str, caption: str, low: float = 0.0, high: float = 1.0) -> MetricSpec:
    return MetricSpec(
        id=f"util.{name}",
        family="utility",
        direction=1 if direction > 0 else -1 if direction < 0 else 0,
        range=(low, high),
        needs=frozenset({"T", "H", "S", "task"}),
        version="1",
        title=title,
        caption=caption,
        source="metrics specification 6.3; bootstrap by subject on the holdout",
    )


INFINITE = float("inf")
SPECS = {
    "auprc": _spec(
        "auprc", 1, "Trained on synthetic rows (AUPRC)",
        "Average precision on the holdout of a model trained on synthetic rows. Higher is better; the null is the "
        "prevalence.",
    ),
    "accuracy": _spec(
        "accuracy", 1, "Accuracy",
        "Share of holdout people called right by a model trained on synthetic rows. Higher is better; the null is the "
        "share of the commoner class." + CUT,
    ),
    "precision": _spec(
        "precision", 1, "Precision",
        "Share of true positives among those called positive. Higher is better; the null is the prevalence." + CUT,
    ),
    "recall": _spec(
        "recall", 1, "Recall",
        "Share of the positives that are found. Higher is better at equal precision; calling all positive gives 1." + CUT,
    ),
    "f1": _spec(
        "f1", 1, "F1 of the positive class",
        "Harmonic mean of precision and recall. Higher is better; the null is what calling everybody positive gives." + CUT,
    ),
    "macro_f1": _spec(
        "macro_f1", 1, "F1, mean of both classes",
        "Mean of the F1 of positives and of negatives. Higher is better; the null is what the commoner class for all gives."
        + CUT,
    ),
    "balanced_accuracy": _spec(
        "balanced_accuracy", 1, "Balanced accuracy",
        "Mean of the shares called right among positives and among negatives. Higher is better; 0.5 is chance." + CUT,
    ),
    "brier": _spec(
        "brier", -1, "Brier score",
        "Mean squared distance of predicted probability and outcome on the holdout. Lower is better; the null is what the "
        "prevalence for everybody gives.",
    ),
    "calibration_slope": _spec(
        "calibration_slope", 0, "Calibration slope",
        "Slope of the outcome on the logit of the probability that a model trained on synthetic rows predicts. 1 is right; "
        "below 1 its predictions are too extreme, above 1 too timid.", -INFINITE, INFINITE,
    ),
    "calibration_intercept": _spec(
        "calibration_intercept", 0, "Calibration in the large",
        "Shift of the logits that would make predicted and observed number of positives agree. 0 is right; above 0 the "
        "outcome is predicted too rarely.", -INFINITE, INFINITE,
    ),
    "ece": _spec(
        "ece", -1, "Calibration error",
        "Mean distance of predicted probability and observed share over ten bins of equally many people. Lower is better; "
        "the null is what right predictions give with so few people.",
    ),
}  # fmt: skip


def _metric(name: str) -> Metric:
    def compute(ctx: EvaluationContext) -> list[MetricResult]:
        return _rows(ctx, name)

    compute.__doc__ = SPECS[name].title
    return metric(SPECS[name])(compute)


@metric(SPECS["auprc"])
def auprc(ctx: EvaluationContext) -> list[MetricResult]:
    """Average precision; leaves the curves that the report draws."""
    if ctx.with_plots:
        ctx.plots["task_curves"] = [found for task in ctx.plan.tasks if (found := _curves(ctx, task))]
    return _rows(ctx, "auprc")


accuracy = _metric("accuracy")
precision = _metric("precision")
recall = _metric("recall")
f1 = _metric("f1")
macro_f1 = _metric("macro_f1")
balanced_accuracy = _metric("balanced_accuracy")
brier = _metric("brier")
calibration_slope = _metric("calibration_slope")
calibration_intercept = _metric("calibration_intercept")
ece = _metric("ece")


def _rows(ctx: EvaluationContext, name: str) -> list[MetricResult]:
    if not ctx.plan.tasks:
        return [SPECS[name].not_applicable(NO_TASK)]
    rows = []
    costly = "C" in ctx.sides.profile.costs
    for task in ctx.plan.tasks:
        best = best_model(ctx.sides, task)
        wanted: list[tuple[str, str, Regime]] = [("", best, "tstr"), ("trtr", best, "trtr")]
        if costly:
            more: tuple[Regime, ...] = ("tstr_plus", "trts", "tsts")
            wanted += [(regime, best, regime) for regime in more]
            plain: tuple[Regime, ...] = ("trtr", "tstr")
            wanted += [(f"{regime}/{model}", model, regime) for model in models_of(ctx.sides) for regime in plain]
        rows += [_row(ctx, SPECS[name], name, task, model, regime, key2) for key2, model, regime in wanted]
    return rows


def _curves(ctx: EvaluationContext, task: TaskSpec) -> dict[str, object] | None:
    """Precision-recall and calibration curves of the headline model in both regimes; None without scores."""
    model = best_model(ctx.sides, task)
    real, made = (holdout_scores(ctx, task, model, regime) for regime in ("trtr", "tstr"))
    if real.reason or made.reason:
        return None
    return {
        "task": task.name,
        "model": model,
        "prevalence": round(float(made.truth.mean()), 3),
        "precision_recall": {
            "real": precision_recall(real.scores, real.truth), "synthetic": precision_recall(made.scores, made.truth)
        },
        "calibration": {
            "real": calibration(real.scores, real.truth), "synthetic": calibration(made.scores, made.truth)
        },
    }  # fmt: skip


def _row(
    ctx: EvaluationContext, spec: MetricSpec, name: str, task: TaskSpec, model: str, regime: Regime, key2: str
) -> MetricResult:
    fit = holdout_scores(ctx, task, model, regime)
    if fit.reason:
        return spec.result(None, n=fit.size, scope="task", key1=task.name, key2=key2, note=fit.reason)
    found = figures(ctx, task, model, regime)[name]
    said = [f"model: {model}", *([fit.note] if fit.note else []), *([found.note] if found.note else [])]
    return spec.result(
        found.value,
        se=found.se,
        n=len(fit.rows),
        null=found.null,
        scope="task",
        key1=task.name,
        key2=key2,
        note="; ".join(said),
        draws=found.draws if not key2 and found.value is not None else None,
    )


def figures(ctx: EvaluationContext, task: TaskSpec, model: str, regime: Regime) -> dict[str, Estimate]:
    """All figures of one set of scores, made once; those of `trtr` once for all cohorts."""
    same = regime == "trtr" or (regime == "tstr" and ctx.synthetic.cohort is ctx.sides.train.cohort)
    keeper = ctx.sides if same else ctx
    key = f"figures/{'trtr' if same else regime}/{task.name}/{model}"

    def make() -> dict[str, Estimate]:
        fit = holdout_scores(ctx, task, model, regime)
        return _figures(fit, tested_weights(ctx, fit, regime))

    return keeper.once(key, make)


def _figures(fit: TaskFit, weights: NDArray[np.float32]) -> dict[str, Estimate]:
    return {
        "auprc": average_precision(fit.scores, fit.truth, weights),
        **at_threshold(fit.scores, fit.truth, fit.threshold, weights),
        **of_probabilities(fit.scores, fit.truth, weights),
    }
