"""Utility as published: Yan's TSTR and TRTS, the ranking agreement of PATE-GAN, tables at a threshold of 1/2.

The sound versions are in `pipeline.evaluation.utility`; models and their fits are the same ones, so that only the
formulas differ. The RLSyn and VAE texts do not name their classifiers' settings: ours stand in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import auc, subject_weights, weighted_auc
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, Published
from pipeline.evaluation.utility.agreement import agreement, ranking
from pipeline.evaluation.utility.learners import TITLES
from pipeline.evaluation.utility.regimes import holdout_scores, tested_weights
from pipeline.evaluation.utility.scoring import at_threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult
    from pipeline.evaluation.utility.regimes import Regime, TaskFit
    from pipeline.features.evaluation_spec import TaskSpec

HALF = 0.5
YAN_MODEL = "hgb"
BTGAN_MODELS = ("lr", "rf")
VAE_MODELS = ("rf", "mlp", "lr")
NO_TASK = "no task is declared"
BTGAN = "Bt-GAN (Ramachandranpillai 2024), table 2"
BTGAN_TASKS = ("in-ICU mortality", "length of stay > 3 days", "in-hospital mortality", "length of stay > 7 days")
BTGAN_SYSTEMS = ("real data", "HealthGAN", "FairGAN", "Bt-GAN")
BTGAN_ACCURACY = (
    (92.1, 91.3, 89.5, 91.5), (71.2, 69.4, 67.1, 68.1), (90.1, 89.1, 85.4, 89.6), (89.9, 87.9, 86.1, 88.4),
)  # fmt: skip
BTGAN_F1 = ((37.6, 34.2, 32.4, 34.7), (59.9, 58.3, 56.3, 57.3), (39.6, 37.0, 32.8, 39.9), (7.0, 8.5, 4.3, 6.8))


def _of_table(rows: Sequence[Sequence[float]]) -> tuple[Published, ...]:
    """The logistic rows of Bt-GAN's table 2."""
    return tuple(
        Published(BTGAN, f"MIMIC-III, {task}", system, value)
        for task, values in zip(BTGAN_TASKS, rows, strict=True)
        for system, value in zip(BTGAN_SYSTEMS, values, strict=True)
    )


def _spec(
    name: str, title: str, caption: str, source: str, flaw: str, *, high: float = 1.0, published: tuple[Published, ...] = ()
) -> MetricSpec:  # fmt: skip
    return MetricSpec(
        id=f"lit.{name}",
        family="literal",
        direction=1,
        range=(0.0, high),
        needs=frozenset({"T", "H", "S", "task"}),
        version="1",
        title=title,
        caption=caption,
        source=source,
        cost="C",
        flaw=flaw,
        published=published,
    )


BY_ROW = (
    "Rows are drawn one by one, as if several rows of a person were different people, so that intervals are too narrow "
    "where people have several rows. Boosting stands in for LightGBM."
)
YAN_TSTR = _spec(
    "yan.tstr", "Trained on synthetic, tested on real (Yan)",
    "AUROC of boosting trained on synthetic and tested on holdout rows, with a percentile interval of bootstrapped rows. "
    "Higher is better; 0.5 is chance.",
    "Yan et al. 2022, prediction performance", BY_ROW,
)  # fmt: skip
YAN_TRTS = _spec(
    "yan.trts", "Trained on real, tested on synthetic (Yan)",
    "AUROC of boosting trained on real and tested on synthetic rows, with a percentile interval of bootstrapped rows. "
    "Higher is said to be better.",
    "Yan et al. 2022, prediction performance",
    "A generator whose outcomes follow from the features more neatly than those of real people scores above real data. "
    + BY_ROW,
)  # fmt: skip
SRA = _spec(
    "pategan.sra", "Synthetic ranking agreement (PATE-GAN, ScoEHR)",
    "Share of pairs of models that are in the same order trained and tested on synthetic as trained and tested on real rows. "
    "Higher is said to be better; 0.5 is chance.",
    "Jordon, Yoon and van der Schaar 2018; ScoEHR reproduction, 1.4",
    "Whoever trains and tests on synthetic rows learns how the models rank on them, which no one needs to know. With four "
    "models there are six pairs, so that it moves in steps of 0.17.",
    published=tuple(
        Published("ScoEHR (Naseer 2023), as the reproduction quotes it", data, system, value)
        for data, values in (
            ("MIMIC-III", (0.83, 0.86, 0.81, 0.87)), ("ED EHR", (0.81, 0.85, 0.83, 0.86)),
        )
        for system, value in zip(("medGAN", "medBGAN", "medWGAN", "ScoEHR"), values, strict=True)
    ),
)  # fmt: skip
BTGAN_ACC = _spec(
    "btgan.accuracy", "Accuracy at 1/2 (Bt-GAN)",
    "Percent of holdout rows that logistic regression trained on synthetic rows calls right at a threshold of 1/2 (key2: "
    "random forest). Higher is said to be better.",
    "Bt-GAN (Ramachandranpillai 2024), section Evaluation, table 2",
    "Where one in ten dies, calling nobody dead is 90 % right: the figure is hardly more than the base rate. The paper "
    "writes linear for logistic regression.",
    high=100.0, published=_of_table(BTGAN_ACCURACY),
)  # fmt: skip
BTGAN_F1_SPEC = _spec(
    "btgan.f1", "F1 at 1/2 (Bt-GAN)",
    "F1 of the positive class, in percent, of logistic regression trained on synthetic rows at a threshold of 1/2 (key2: "
    "random forest). Higher is said to be better.",
    "Bt-GAN (Ramachandranpillai 2024), section Evaluation, table 2",
    "A model of a rare outcome scores almost nobody above 1/2: F1 of 1 to 8 % for long stays comes of the threshold. The "
    "average is not stated: the text quotes an F1 of 92.3 where the table has 37.6.",
    high=100.0, published=_of_table(BTGAN_F1),
)  # fmt: skip
VAE_FLAW = "No prevalence, threshold or interval is given, nor a figure for either side: the text says 2 to 3 % lower than real."
VAE_TITLES = {
    "accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "auc": "AUROC",
}  # fmt: skip
VAE = {
    name: _spec(
        f"vae.{name}", f"Mean {title} of three models (VAE framework)",
        f"Mean {title} on the holdout of random forest, neural network and logistic regression (key2) trained on synthetic "
        "rows" + (", at a threshold of 1/2." if name != "auc" else ".") + " Higher is said to be better.",
        "VAE framework (Synthea), section Predictive performance of ML models", VAE_FLAW,
    )
    for name, title in VAE_TITLES.items()
}  # fmt: skip
RLSYN = _spec(
    "rlsyn.s2r", "Synthetic to real AUC (RLSyn)",
    "AUROC on the holdout of a model trained on synthetic rows. Higher is better; 0.5 is chance.",
    "RLSyn, utility (S2R); the classifier is not named, boosting stands in",
    "The real model's own figure differs by 0.002 to 0.004, within the noise of a test set, and no interval is given.",
    published=(
        Published("RLSyn", "MIMIC-IV", "RLSyn", 0.902), Published("RLSyn", "MIMIC-IV", "real data", 0.906),
        Published("RLSyn", "AI-READI", "RLSyn", 0.873), Published("RLSyn", "AI-READI", "real data", 0.871),
    ),
)  # fmt: skip


@metric(YAN_TSTR, floor="")
def yan_tstr(ctx: EvaluationContext) -> list[MetricResult]:
    """For each task; the headline is the mean over tasks."""
    return _with_mean(YAN_TSTR, [_by_row(ctx, YAN_TSTR, task, "tstr") for task in ctx.plan.tasks])


@metric(YAN_TRTS, floor="")
def yan_trts(ctx: EvaluationContext) -> list[MetricResult]:
    """For each task; the headline is the mean over tasks."""
    return _with_mean(YAN_TRTS, [_by_row(ctx, YAN_TRTS, task, "trts") for task in ctx.plan.tasks])


@metric(SRA, floor="")
def pategan_sra(ctx: EvaluationContext) -> list[MetricResult]:
    """For each task, nine models; the headline is the mean over tasks."""
    rows = []
    for task in ctx.plan.tasks:
        found = ranking(ctx, task, "tsts")
        if found.reason:
            rows.append(SRA.result(None, scope="task", key1=task.name, note=found.reason))
            continue
        value = float(agreement(found.real[None], found.made[None])[0])
        error = float(agreement(found.real_draws, found.made_draws).std(ddof=1))
        rows.append(SRA.result(value, se=error, n=found.n, null=0.5, scope="task", key1=task.name))
    return _with_mean(SRA, rows)


@metric(BTGAN_ACC, floor="")
def btgan_accuracy(ctx: EvaluationContext) -> list[MetricResult]:
    """Logistic regression, and random forest as key2; the headline is the mean over tasks."""
    return _at_half(ctx, BTGAN_ACC, "accuracy")


@metric(BTGAN_F1_SPEC, floor="")
def btgan_f1(ctx: EvaluationContext) -> list[MetricResult]:
    """Logistic regression, and random forest as key2; the headline is the mean over tasks."""
    return _at_half(ctx, BTGAN_F1_SPEC, "f1")


@metric(VAE["accuracy"], floor="")
def vae_accuracy(ctx: EvaluationContext) -> list[MetricResult]:
    """Three models."""
    return _three(ctx, "accuracy")


@metric(VAE["precision"], floor="")
def vae_precision(ctx: EvaluationContext) -> list[MetricResult]:
    """Three models; 0 where nothing is called positive."""
    return _three(ctx, "precision")


@metric(VAE["recall"], floor="")
def vae_recall(ctx: EvaluationContext) -> list[MetricResult]:
    """Three models."""
    return _three(ctx, "recall")


@metric(VAE["f1"], floor="")
def vae_f1(ctx: EvaluationContext) -> list[MetricResult]:
    """Three models."""
    return _three(ctx, "f1")


@metric(VAE["auc"], floor="")
def vae_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Three models."""
    return _three(ctx, "auc")


@metric(RLSYN, floor="")
def rlsyn_s2r(ctx: EvaluationContext) -> list[MetricResult]:
    """For each task; the headline is the mean over tasks."""
    rows = []
    for task in ctx.plan.tasks:
        fit = holdout_scores(ctx, task, YAN_MODEL, "tstr")
        value, draws = _figure(ctx, fit, "tstr", "auc")
        rows.append(_row(RLSYN, fit, task, value, draws))
    return _with_mean(RLSYN, rows)


def percentile_interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of bootstrapped values."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _by_row(ctx: EvaluationContext, spec: MetricSpec, task: TaskSpec, regime: Regime) -> MetricResult:
    fit = holdout_scores(ctx, task, YAN_MODEL, regime)
    if fit.reason:
        return spec.result(None, n=fit.size, scope="task", key1=task.name, note=fit.reason)
    rows = np.arange(len(fit.rows))
    weights = subject_weights(rows, ctx.sides.profile.draws, ctx.rng(spec.id, task.name))
    draws = weighted_auc(fit.scores, fit.truth, weights)
    return spec.result(
        fit.auc, interval=percentile_interval(draws), se=float(draws.std(ddof=1)), n=len(rows), null=0.5,
        scope="task", key1=task.name, note=fit.note,
    )  # fmt: skip


def _figure(ctx: EvaluationContext, fit: TaskFit, regime: Regime, name: str) -> tuple[float, NDArray[np.float64]]:
    """A figure at the threshold 1/2 (or the AUROC) and its bootstrap by subject; 0 where it is a share of nobody."""
    if fit.reason:
        return float("nan"), np.zeros(0)
    weights = tested_weights(ctx, fit, regime)
    if name == "auc":
        return auc(fit.scores, fit.truth), weighted_auc(fit.scores, fit.truth, weights)
    found = at_threshold(fit.scores, fit.truth, HALF, weights)[name]
    return found.value or 0.0, np.nan_to_num(found.draws, nan=0.0)


def _at_half(ctx: EvaluationContext, spec: MetricSpec, name: str) -> list[MetricResult]:
    rows: list[MetricResult] = []
    others: list[MetricResult] = []
    for task in ctx.plan.tasks:
        for model in BTGAN_MODELS:
            fit = holdout_scores(ctx, task, model, "tstr")
            value, draws = _figure(ctx, fit, "tstr", name)
            row = _row(spec, fit, task, 100 * value, 100 * draws, key2="" if model == "lr" else model)
            (rows if model == "lr" else others).append(row)
    return [*_with_mean(spec, rows), *others]


def _three(ctx: EvaluationContext, name: str) -> list[MetricResult]:
    spec = VAE[name]
    rows: list[MetricResult] = []
    others: list[MetricResult] = []
    for task in ctx.plan.tasks:
        fits = [holdout_scores(ctx, task, model, "tstr") for model in VAE_MODELS]
        found = [_figure(ctx, fit, "tstr", name) for fit in fits]
        mean = float(np.mean([value for value, _ in found]))
        rows.append(_row(spec, fits[0], task, mean, np.mean([draws for _, draws in found], axis=0)))
        others += [
            _row(spec, fit, task, value, draws, key2=model)
            for model, fit, (value, draws) in zip(VAE_MODELS, fits, found, strict=True)
        ]
    return [*_with_mean(spec, rows), *others]


def _row(
    spec: MetricSpec, fit: TaskFit, task: TaskSpec, value: float, draws: NDArray[np.float64], *, key2: str = ""
) -> MetricResult:
    if fit.reason:
        return spec.result(None, n=fit.size, scope="task", key1=task.name, key2=key2, note=fit.reason)
    said = "; ".join(filter(None, [TITLES.get(key2, ""), fit.note]))
    error = float(draws.std(ddof=1))
    return spec.result(value, se=error, n=len(fit.rows), scope="task", key1=task.name, key2=key2, note=said)


def _with_mean(spec: MetricSpec, rows: list[MetricResult]) -> list[MetricResult]:
    """The mean over tasks as the headline, before the tasks' rows."""
    known = [(r.value, r.se or 0.0) for r in rows if r.value is not None]
    if not rows:
        return [spec.not_applicable(NO_TASK)]
    if not known:
        return [spec.result(None, note=rows[0].note), *rows]
    # One holdout for all tasks: their errors are taken to go together.
    error = float(np.mean([e for _, e in known]))
    note = f"mean of {len(known)} tasks" if len(known) > 1 else ""
    return [spec.result(float(np.mean([v for v, _ in known])), se=error, note=note), *rows]
