"""A task's predictions for real holdout people, split by group: what gaps, leakages and worst groups are made of.

The models are the utility metrics' own (`utility/regimes.py`); nothing is fitted here. Every figure is computed under
the same resampled holdout people, so that differences between regimes and between generators are paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fairness.groups import members, protected_crossings
from pipeline.evaluation.intervals import weighted_auc
from pipeline.evaluation.utility.regimes import best_model, holdout_draws, holdout_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fairness.groups import Crossing, Group
    from pipeline.evaluation.utility.regimes import TaskFit
    from pipeline.features.evaluation_spec import TaskSpec

    Draws = NDArray[np.float64]

FEWEST = 50
"""Positives, and negatives, that a group needs for its AUROC and rates to be compared."""
CHUNK = 100
"""Bootstrap draws that are held in memory at once."""


@dataclass(frozen=True)
class Split:
    """The groups of one attribute (or crossing) among the holdout rows whose outcome is known.

    Attributes:
        crossing: What they are groups of.
        groups: The groups, most training rows first.
        number: (k,) position in `groups` of each row; -1 where it belongs to none of them.
        positives: Positive rows of each group.
        negatives: Negative rows of each group.
    """

    crossing: Crossing
    groups: tuple[Group, ...]
    number: NDArray[np.int64]
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]

    @property
    def name(self) -> str:
        """The attribute's name."""
        return self.crossing.name

    def only(self, kept: NDArray[np.bool_]) -> Split:
        """The split with some of its groups."""
        place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
        return Split(
            self.crossing,
            tuple(g for g, keep in zip(self.groups, kept, strict=True) if keep),
            place[self.number],
            self.positives[kept],
            self.negatives[kept],
        )

    def judgeable(self) -> Split:
        """The groups with positives and negatives enough."""
        return self.only(np.minimum(self.positives, self.negatives) >= FEWEST)


@dataclass(frozen=True)
class Predicted:
    """A model's scores for the holdout rows whose outcome is known.

    Attributes:
        rows: (k,) positions in the holdout.
        truth: (k,) True where the outcome is positive.
        scores: (k,) chance of a positive outcome.
        weights: (draws + 1, k) how often each row counts: once in the first line, resampled by subject in the others.
        model: Which model they are of.
        regime: "trtr": it was trained on real rows, "tstr": on synthetic ones.
        note: What to bear in mind.
    """

    rows: NDArray[np.int64]
    truth: NDArray[np.bool_]
    scores: NDArray[np.float64]
    weights: NDArray[np.float32]
    model: str
    regime: str
    note: str

    def shares(self, values: NDArray[np.floating], inside: list[NDArray[np.bool_]]) -> Draws:
        """(draws + 1, groups) weighted mean of a row's value inside each group."""
        chosen = np.stack(inside, axis=1).astype(np.float32)
        total = (self.weights @ chosen).astype(np.float64)
        return (self.weights @ (chosen * values.astype(np.float32)[:, None])) / np.maximum(total, 1e-9)


def predicted(ctx: EvaluationContext, task: TaskSpec, regime: str, model: str = "") -> Predicted | str:
    """Scores of a task's model ("trtr" or "tstr"); the reason in words where there are none.

    Args:
        ctx: The cohort that is judged.
        task: The task.
        regime: "trtr": trained on real rows, "tstr": on synthetic ones.
        model: Which model; the task's headline model (the better one when trained on real rows) if empty.
    """
    model = model or best_model(ctx.sides, task)
    fit: TaskFit = holdout_scores(ctx, task, model, "trtr" if regime == "trtr" else "tstr")
    if fit.reason:
        return fit.reason
    which = "" if len(fit.rows) == len(ctx.sides.holdout) else task.name
    weights = ctx.sides.once(f"fair/weights/{which}", lambda: _with_once(holdout_draws(ctx.sides, fit)))
    return Predicted(fit.rows, fit.truth, np.asarray(fit.scores, dtype=np.float64), weights, model, regime, fit.note)


def splits(ctx: EvaluationContext, task: TaskSpec, real: Predicted, most: int = 1) -> list[Split]:
    """The holdout rows of a task by protected attribute (crossings of at most `most`), the label's own left out."""
    return ctx.sides.once(f"fair/splits/{task.name}/{most}", lambda: [
        _split(members(ctx.sides, crossing)[real.rows], crossing, real.truth)
        for crossing in protected_crossings(ctx.sides, most)
        if all(a.column.name != task.label for a in crossing.attributes)
    ])  # fmt: skip


def _split(number: NDArray[np.int64], crossing: Crossing, truth: NDArray[np.bool_]) -> Split:
    groups = sorted(crossing.groups, key=lambda g: (-g.train, g.name))
    place = np.full(len(groups) + 1, -1)
    for position, group in enumerate(groups):
        place[group.number] = position
    ordered = place[number]
    counts = [
        np.bincount(ordered[(ordered >= 0) & (truth == positive)], minlength=len(groups)) for positive in (True, False)
    ]
    return Split(crossing, tuple(groups), ordered, *counts)


def _with_once(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.ones((1, weights.shape[1]), dtype=np.float32), weights])


@dataclass(frozen=True)
class ByGroup:
    """What a model does to each group, (draws + 1, groups) each; the first line is the estimate.

    Attributes:
        auroc: AUROC within the group.
        rate: Share predicted positive where as many are predicted positive in all as there are.
        true_positive: Share of the positives predicted so.
        false_positive: Share of the negatives predicted positive.
        calibration: Mean predicted chance minus the share that is positive.
    """

    auroc: Draws
    rate: Draws
    true_positive: Draws
    false_positive: Draws
    calibration: Draws


def by_group(ctx: EvaluationContext, task: TaskSpec, split: Split, found: Predicted) -> ByGroup:
    """The figures of each group of a split, kept for all metrics that ask; those trained on real rows for all cohorts."""
    keeper = ctx.sides if found.regime == "trtr" else ctx
    names = "/".join(g.name for g in split.groups)
    key = f"fair/by_group/{found.regime}/{found.model}/{task.name}/{split.name}/{names}"
    return keeper.once(key, lambda: measure(found, split))


def measure(found: Predicted, split: Split) -> ByGroup:
    """The figures of each group of a split."""
    inside = [split.number == g for g in range(len(split.groups))]
    called = at_prevalence(found.scores, found.truth)
    positive = [i & found.truth for i in inside]
    negative = [i & ~found.truth for i in inside]
    areas = [weighted_auc(found.scores[i], found.truth[i], found.weights[:, i]) for i in inside]
    return ByGroup(
        np.stack(areas, axis=1) if areas else np.zeros((len(found.weights), 0)),
        found.shares(called, inside),
        found.shares(called, positive),
        found.shares(called, negative),
        found.shares(found.scores - found.truth, inside),
    )


def at_prevalence(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(k,) share of each row that is called positive, so that in all as many are as there are positive rows.

    The highest scores are called positive. Rows that tie at the threshold are called so in part, as by a coin.
    """
    wanted = int(truth.sum())
    if not wanted:
        return np.zeros(len(scores))
    threshold = np.partition(scores, len(scores) - wanted)[len(scores) - wanted]
    above, at = scores > threshold, scores == threshold
    return above + at * ((wanted - above.sum()) / at.sum())


def difference(values: Draws) -> Draws:
    """(draws + 1,) first minus second of two groups (signed), largest minus smallest of more."""
    if values.shape[1] == 2:
        return values[:, 0] - values[:, 1]
    return values.max(axis=1) - values.min(axis=1)


def widest_parity(found: Predicted, split: Split) -> Draws:
    """(draws + 1,) the largest gap in predicted-positive rates over all thresholds: sup |F1 - F2| of the scores."""
    order = np.argsort(found.scores, kind="stable")
    ends = np.flatnonzero(np.r_[np.diff(found.scores[order]) != 0, True])
    inside = [(split.number == g)[order] for g in range(len(split.groups))]
    widest = np.empty(len(found.weights))
    for lo in range(0, len(widest), CHUNK):
        weights = found.weights[lo : lo + CHUNK][:, order]
        highest, lowest = np.zeros((len(weights), len(ends))), np.ones((len(weights), len(ends)))
        for chosen in inside:
            curve = np.cumsum(weights * chosen, axis=1, dtype=np.float64)
            curve = curve[:, ends] / np.maximum(curve[:, -1:], 1e-9)
            highest, lowest = np.maximum(highest, curve), np.minimum(lowest, curve)
        widest[lo : lo + CHUNK] = (highest - lowest).max(axis=1)
    return widest
