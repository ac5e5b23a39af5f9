"""Which rows a task's model is trained on and which it is tested on, and what it says of them, each fit made once.

`trtr` trains on T and tests on H, `tstr` trains on S and tests on H, `tstr_plus` trains on both together, `trts` trains
on T and tests on S, `tsts` trains and tests within S (out of fold). As many rows of S are used as T has. The figures
made of the scores are in `prediction.py` and `classification.py`, the models in `learners.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.evaluation.intervals import auc, subject_weights
from pipeline.evaluation.results import TooFew
from pipeline.evaluation.utility.learners import MORE_MODELS, TASK_MODELS, Learner, TrainingRows, fit_learner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.features.evaluation_spec import TaskSpec

FEWEST_TRAINING = 60
"""Training rows below which no model is fitted: boosting, with 20 a leaf, would give everybody the same score."""
Regime = Literal["trtr", "tstr", "tstr_plus", "trts", "tsts"]
REGIME_TITLES: dict[str, str] = {
    "trtr": "trained and tested on real people",
    "tstr": "trained on synthetic, tested on real people",
    "tstr_plus": "trained on real and synthetic together, tested on real people",
    "trts": "trained on real, tested on synthetic people",
    "tsts": "trained and tested on synthetic people",
}
FEWEST_CASES = 10
"""Tested rows of each class below which nothing is printed."""
FOLDS = 3
NO_TASK = "no task is declared"
NOTHING_TO_LEARN = "the rows that the model learns from have only one class: nothing to learn, 0.5 by definition"


@dataclass(frozen=True)
class OutOfFold:
    """Scores of training rows by models that were not trained on their subjects; both empty where that is impossible."""

    scores: NDArray[np.float64]
    truth: NDArray[np.bool_]


@dataclass(frozen=True)
class TaskFit:
    """A task's model in one regime, and what it says of the tested rows.

    Attributes:
        rows: (k,) positions in the tested side (the holdout in `trtr`, `tstr` and `tstr_plus`) of rows whose label is
            known; their bootstrap weights are `tested_weights(...)`, i.e. `sides.holdout_weights[:, rows]`.
        truth: (k,) True where positive.
        scores: (k,) probability of the positive class.
        share: Share of positives among the training rows.
        size: Training rows.
        reason: Why there are no scores; then all arrays are empty.
        note: What to bear in mind.
        learner: The fitted model; None where nothing was learned, and in `tsts`, where there are several.
        fold: Makes the out-of-fold scores of the training rows.
    """

    rows: NDArray[np.int64]
    truth: NDArray[np.bool_]
    scores: NDArray[np.float64]
    share: float
    size: int
    reason: str = ""
    note: str = ""
    learner: Learner | None = field(default=None, repr=False)
    fold: Callable[[], OutOfFold] = field(default=lambda: OutOfFold(np.zeros(0), np.zeros(0, dtype=bool)), repr=False)

    @cached_property
    def threshold(self) -> float:
        """The score from which a row is called positive: it maximises F1 out of fold on the *training* rows.

        No tested row has a say. Where the training rows cannot be folded (fewer cases of a class than folds) it is
        their share of positives, and 1/2 where they are of one class. Costs three more fits the first time.
        """
        if self.share in (0.0, 1.0):
            return 0.5
        found = self.fold()
        return best_f1_threshold(found.scores, found.truth) if found.truth.any() else self.share

    @property
    def auc(self) -> float:
        """AUROC on the tested rows."""
        return auc(self.scores, self.truth)


def best_f1_threshold(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The cut (score >= cut is positive) with the highest F1, halfway between two scores; the highest of equals."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(truth[order])
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    f1 = 2 * hits[ends] / (ends + 1 + hits[-1])
    best = int(ends[np.argmax(f1)])
    below = ordered[best + 1] if best + 1 < len(ordered) else ordered[best]
    return float((ordered[best] + below) / 2)


def models_of(sides: RealSides) -> tuple[str, ...]:
    """The models that a task's figures are made for in this profile."""
    return TASK_MODELS if sides.profile.name == "quick" else (*TASK_MODELS, *MORE_MODELS)


def best_model(sides: RealSides, task: TaskSpec) -> str:
    """The headline model: of boosting and logistic regression the better one where trained on real rows."""
    fits = {m: real_scores(sides, task, m) for m in TASK_MODELS}
    return max(TASK_MODELS, key=lambda m: (-1.0 if fits[m].reason else fits[m].auc, m))


def real_scores(sides: RealSides, task: TaskSpec, model: str) -> TaskFit:
    """What a model trained on T says of H; the same for every generator."""

    def make() -> TaskFit:
        training, reason = training_rows(sides, sides.train, task, "train", model)
        return _tested(sides, task, model, "train", [training], sides.holdout, reason)

    return sides.once(f"fit/trtr/{task.name}/{model}", make)


def scores_of_training(sides: RealSides, task: TaskSpec, model: str, name: str, rows: TrainingRows) -> TaskFit:
    """What a model trained on chosen rows of T (repeats allowed) says of H; `name` tells the choice from others."""
    return sides.once(
        f"fit/{name}/{task.name}/{model}", lambda: _tested(sides, task, model, name, [rows], sides.holdout, "")
    )


def holdout_scores(ctx: EvaluationContext, task: TaskSpec, model: str, regime: Regime) -> TaskFit:
    """What a model says of the tested rows of a regime, fitted once and shared by all metrics.

    Args:
        ctx: The synthetic cohort and the real sides.
        task: What is predicted.
        model: One of `learners.TITLES`.
        regime: See the module; in `trts` and `tsts` the tested rows are S's.
    """
    if regime == "trtr":
        return real_scores(ctx.sides, task, model)
    if regime == "tstr" and ctx.synthetic.cohort is ctx.sides.train.cohort:
        return real_scores(ctx.sides, task, model)
    return ctx.once(f"fit/{regime}/{task.name}/{model}", lambda: _make(ctx, task, model, regime))


def tested_weights(ctx: EvaluationContext, fit: TaskFit, regime: Regime) -> NDArray[np.float32]:
    """(draws, k) bootstrap weights by subject of the tested rows; the same holdout draws for every generator."""
    if regime in ("trts", "tsts"):
        clusters = ctx.synthetic.clusters[fit.rows]
        return subject_weights(clusters, ctx.sides.profile.draws, ctx.rng("util", "bootstrap", "tested"))
    return holdout_draws(ctx.sides, fit)


def holdout_draws(sides: RealSides, fit: TaskFit) -> NDArray[np.float32]:
    """(draws, k) bootstrap weights by subject of holdout rows."""
    weights = sides.holdout_weights
    return weights if len(fit.rows) == weights.shape[1] else weights[:, fit.rows]


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


def _make(ctx: EvaluationContext, task: TaskSpec, model: str, regime: Regime) -> TaskFit:
    sides, name = ctx.sides, f"synthetic/{ctx.replicate}"
    if regime == "trts":
        real, reason = training_rows(sides, sides.train, task, "train", model)
        made, _ = training_rows(sides, ctx.synthetic, task, name, model)
        learner = real_scores(sides, task, model).learner
        return _tested(sides, task, model, "train", [real], ctx.synthetic, reason, among=made.rows, learner=learner)
    made, reason = training_rows(sides, ctx.synthetic, task, name, model)
    if regime == "tstr":
        return _tested(sides, task, model, name, [made], sides.holdout, reason)
    if regime == "tsts":
        return _within(sides, task, model, name, made, reason)
    real, lacking = training_rows(sides, sides.train, task, "train", model)
    return _tested(sides, task, model, f"{name}/plus", [real, made], sides.holdout, lacking or reason)


def training_rows(sides: RealSides, side: Side, task: TaskSpec, name: str, model: str) -> tuple[TrainingRows, str]:
    """The rows of a side with a label, at most as many as T has and the profile allows, and why there are none.

    Boosting and logistic regression take the profile's `training_rows`, other models its `rows`.
    """
    given, of_train = labels_of(side, task), labels_of(sides.train, task)
    if given is None or of_train is None:
        empty = np.zeros(0, dtype=np.int64)
        return TrainingRows(side, empty, empty.astype(bool)), f"the label '{task.label}' is not discrete"
    cap = sides.profile.training_rows if model in TASK_MODELS else sides.profile.rows
    known = np.flatnonzero(~np.isnan(given))
    size = min(len(known), int((~np.isnan(of_train)).sum()), cap)
    rows = known[sides.sample(len(known), size, "util", task.name, name)] if size else known[:0]
    return TrainingRows(side, rows, given[rows] > 0.5), ""


def _tested(
    sides: RealSides,
    task: TaskSpec,
    model: str,
    name: str,
    parts: Sequence[TrainingRows],
    side: Side,
    reason: str,
    *,
    among: NDArray[np.int64] | None = None,
    learner: Learner | None = None,
) -> TaskFit:
    """Train on the parts (unless a `learner` is handed over), score the rows of `side` (of `among`) with a label."""
    test = labels_of(side, task)
    if reason or test is None:
        return _nothing(reason)
    tested = np.flatnonzero(~np.isnan(test)) if among is None else among
    truth = test[tested] > 0.5
    if too_few := _too_few(truth):
        return _nothing(too_few, len(tested))
    labels = np.concatenate([p.labels for p in parts])
    drop, seed = (task.label, *task.leak), int(sides.rng("util", task.name, model, name).integers(2**31))
    if len(np.unique(labels)) < 2:
        share = float(labels.mean()) if len(labels) else 0.0
        return TaskFit(tested, truth, np.full(len(tested), share), share, len(labels), note=NOTHING_TO_LEARN)
    if len(labels) < FEWEST_TRAINING:
        return _nothing(TooFew(len(labels), FEWEST_TRAINING, "training rows"), len(tested))
    learner = learner or fit_learner(model, parts, drop, seed)
    scores = learner.scores(side, tested)
    return TaskFit(
        tested, truth, scores, learner.share, len(labels), learner=learner,
        fold=lambda: out_of_fold(model, [_fewer(sides, p, name) for p in parts], drop, seed),
    )  # fmt: skip


def _within(
    sides: RealSides, task: TaskSpec, model: str, name: str, made: TrainingRows, reason: str
) -> TaskFit:  # fmt: skip
    """Trained and tested within S: the out-of-fold scores, whose threshold is the one of `tstr`."""
    if reason or (reason := _too_few(made.labels)):
        return _nothing(reason, len(made.labels))
    seed = int(sides.rng("util", task.name, model, name).integers(2**31))
    some = _fewer(sides, made, name)
    found = out_of_fold(model, [some], (task.label, *task.leak), seed)
    if not len(found.scores):
        return _nothing("too few synthetic rows of a class to train and test within them", len(some.rows))
    return TaskFit(some.rows, found.truth, found.scores, float(found.truth.mean()), len(some.rows), fold=lambda: found)


def _too_few(truth: NDArray[np.bool_]) -> str:
    rarer = min(int(truth.sum()), int((~truth).sum()))
    return TooFew(rarer, FEWEST_CASES, "tested rows of the rarer class") if rarer < FEWEST_CASES else ""


def _nothing(reason: str, size: int = 0) -> TaskFit:
    none = np.zeros(0, dtype=np.int64)
    return TaskFit(none, none.astype(bool), none.astype(float), 0.0, size, reason=reason)


def _fewer(sides: RealSides, part: TrainingRows, name: str) -> TrainingRows:
    """At most the profile's rows of a part: enough to find a threshold with."""
    some = sides.sample(len(part.rows), sides.profile.rows, "util", "fold", name)
    return TrainingRows(part.side, part.rows[some], part.labels[some])


def out_of_fold(model: str, parts: Sequence[TrainingRows], drop: tuple[str, ...], seed: int) -> OutOfFold:
    """Every row scored by a model that was trained on the other two thirds of the subjects, in the order of the parts.

    Folds are drawn by subject, those with a positive row first, so that every fold has its share of both classes.
    """
    folds = [subject_folds(p.side.clusters[p.rows], p.labels, np.random.default_rng(seed)) for p in parts]
    scores = [np.zeros(len(p.rows)) for p in parts]
    for fold in range(FOLDS):
        rest = [TrainingRows(p.side, p.rows[f != fold], p.labels[f != fold]) for p, f in zip(parts, folds, strict=True)]
        labels = np.concatenate([p.labels for p in rest])
        if len(np.unique(labels)) < 2 or not len(rest[0].rows):
            return OutOfFold(np.zeros(0), np.zeros(0, dtype=bool))
        learner = fit_learner(model, rest, drop, seed)
        for k, part in enumerate(parts):
            left = folds[k] == fold
            scores[k][left] = learner.scores(part.side, part.rows[left])
    return OutOfFold(np.concatenate(scores), np.concatenate([p.labels for p in parts]))


def subject_folds(
    clusters: NDArray[np.integer], labels: NDArray[np.bool_], rng: np.random.Generator, folds: int = FOLDS
) -> NDArray[np.int64]:
    """(n,) number of the fold of each row; all rows of a subject are in one fold."""
    _, subject = np.unique(clusters, return_inverse=True)
    count = int(subject.max()) + 1 if len(subject) else 0
    positive = np.bincount(subject[labels], minlength=count) > 0
    order = np.lexsort((rng.random(count), ~positive))
    fold = np.empty(count, dtype=np.int64)
    fold[order] = np.arange(count) % folds
    return fold[subject]
