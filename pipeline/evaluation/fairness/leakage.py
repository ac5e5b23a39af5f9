"""Leakage: how well is a person's group told from the outcome, and better still from what a model predicts?

The attacker sees one yes or no (the outcome, or the prediction at the threshold where as many are predicted positive as
there are) and guesses the group. Groups count alike, however many people they hold, so that guessing the majority gains
nothing and chance is 1 / groups. For one yes or no the best attacker is known in closed form: he says "the group with
the highest share" on yes and "the one with the lowest" on no; which these are is learned on four fifths of the subjects
and tested on the last.

Source: Wang et al. 2019 ("Balanced datasets are not enough"), sections 3.1 and 3.2, with balanced accuracy in place of
accuracy, which a majority of 71 % keeps at 71 % or above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.evaluation.fairness.groups import NOBODY
from pipeline.evaluation.fairness.predictions import FEWEST, Predicted, at_prevalence, predicted, splits
from pipeline.evaluation.intervals import weighted_auc
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.utility.regimes import labels_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fairness.predictions import Draws, Split
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import TaskSpec

FOLDS = 5


def _spec(name: str, title: str, caption: str, low: float) -> MetricSpec:
    return MetricSpec(
        id=f"fair.leak.{name}",
        family="fairness",
        direction=-1,
        range=(low, 1.0),
        needs=frozenset({"T", "H", "S", "task"}),
        version="1",
        title=title,
        caption=caption,
        source="Wang et al. 2019, sections 3.1-3.2; balanced accuracy, 5 folds by subject",
    )


DATA = _spec(
    "data", "Group told from the outcome",
    "Balanced accuracy with which a synthetic person's group is guessed from the synthetic outcome. Lower is better; "
    "chance is 1 / groups; beside it what the real (holdout) outcome betrays.", 0.0,
)  # fmt: skip
MODEL = _spec(
    "model", "Group told from the prediction",
    "Balanced accuracy with which a real person's group is guessed from the prediction of a model trained on synthetic "
    "rows. Lower is better; chance is 1 / groups; beside it the same for a model trained on real rows.", 0.0,
)  # fmt: skip
DELTA = _spec(
    "delta", "Bias amplification",
    "How much better a real person's group is guessed from the prediction than from the true outcome. Lower is better; "
    "0: the model adds nothing. A model's plain errors lower it too: see the adjusted figure.", -1.0,
)  # fmt: skip
ADJUSTED = _spec(
    "adjusted", "Bias amplification, errors allowed for",
    "The same, but the true outcomes are first flipped at random as often as the model errs. Lower is better; 0: the "
    "model's predictions betray the group no more than its errors explain.", -1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Leaks:
    """What is betrayed of one attribute in one task; (draws + 1,) each, the estimate first.

    Attributes:
        split: The groups; those with 50 holdout rows whose outcome is known.
        note: Chance and base rate.
        data: From the holdout's true outcomes.
        adjusted: From true outcomes flipped to the model's error rates (model trained on synthetic rows).
        adjusted_real: The same for the model trained on real rows.
        model: From the predictions of the model trained on synthetic rows.
        model_real: From those of the model trained on real rows.
        bits: Mutual information of those predictions and the group, in bits, groups counted alike.
        bits_real: The same for the model trained on real rows.
        area: AUC with which two groups are told apart by the score itself; None for more groups.
    """

    split: Split
    note: str
    data: Draws
    adjusted: Draws
    adjusted_real: Draws
    model: Draws
    model_real: Draws
    bits: Draws
    bits_real: Draws
    area: Draws | None


@metric(DATA, floor="")
def data(ctx: EvaluationContext) -> list[MetricResult]:
    """From the synthetic outcome, with the holdout's figure as the null."""

    def figures(leaks: Leaks, task: TaskSpec) -> list[MetricResult]:
        size = len(leaks.split.groups)
        made, number = labels_of(ctx.synthetic, task), leaks.split.crossing.of(ctx.synthetic)
        key2, null = leaks.split.name, float(leaks.data[0])
        place = {g.number: i for i, g in enumerate(leaks.split.groups)}
        if made is None:
            return []
        known = np.flatnonzero(~np.isnan(made) & np.isin(number, list(place)))
        place_of = np.array([place[int(g)] for g in number[known]], dtype=np.int64)
        counts = np.bincount(place_of, minlength=size)
        if not (counts > 0).all():
            note = "a group has no synthetic row"
            return [DATA.result(None, null=null, scope="task", key1=task.name, key2=key2, note=note)]
        yes, clusters = (made[known] > 0.5).astype(np.float64), ctx.synthetic.clusters[known]
        value = guessed(yes, place_of, clusters, size, ctx.rng("fair.leak.data", task.name, key2))
        rates = np.bincount(place_of, weights=yes, minlength=size) / counts
        return [
            DATA.result(
                value,
                se=_rate_error(yes, place_of, clusters, rates),
                n=len(known),
                null=null,
                scope="task",
                key1=task.name,
                key2=key2,
                note=leaks.note,
            )
        ]

    return _rows(ctx, DATA, figures)


@metric(MODEL, floor="")
def model(ctx: EvaluationContext) -> list[MetricResult]:
    """From predictions for holdout people; beside it mutual information and, of two groups, AUC of the score."""

    def figures(leaks: Leaks, task: TaskSpec) -> list[MetricResult]:
        rows = [_result(MODEL, leaks.model, leaks, task, "", float(leaks.model_real[0]))]
        rows.append(_result(MODEL, leaks.bits, leaks, task, "bits", float(leaks.bits_real[0])))
        if leaks.area is not None:
            rows.append(_result(MODEL, leaks.area, leaks, task, "auc", None))
        return rows

    return _rows(ctx, MODEL, figures)


@metric(DELTA, floor="")
def delta(ctx: EvaluationContext) -> list[MetricResult]:
    """Model leakage minus data leakage; the null is the same of a model trained on real rows."""

    def figures(leaks: Leaks, task: TaskSpec) -> list[MetricResult]:
        real = float(leaks.model_real[0] - leaks.data[0])
        return [_result(DELTA, leaks.model - leaks.data, leaks, task, "", real)]

    return _rows(ctx, DELTA, figures)


@metric(ADJUSTED, floor="")
def adjusted(ctx: EvaluationContext) -> list[MetricResult]:
    """Model leakage minus the leakage of labels flipped to the model's error rates."""

    def figures(leaks: Leaks, task: TaskSpec) -> list[MetricResult]:
        real = float(leaks.model_real[0] - leaks.adjusted_real[0])
        return [_result(ADJUSTED, leaks.model - leaks.adjusted, leaks, task, "", real)]

    return _rows(ctx, ADJUSTED, figures)


def _rows(
    ctx: EvaluationContext, spec: MetricSpec, figures: Callable[[Leaks, TaskSpec], list[MetricResult]]
) -> list[MetricResult]:
    """Headline (worst attribute of all tasks), worst of each task, and each attribute's rows."""
    if not ctx.plan.protected or not ctx.plan.tasks:
        return [spec.not_applicable(NOBODY if ctx.plan.tasks else "no task is declared")]
    tops: list[MetricResult] = []
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks:
        found = leaks_of(ctx, task)
        if isinstance(found, str):
            tops.append(spec.result(None, scope="task", key1=task.name, note=found))
            continue
        inside = [row for leaks in found for row in figures(leaks, task)]
        tops.append(_worst(spec, inside, task.name))
        rows += inside
    return [_worst(spec, tops, ""), *tops, *rows]


def _worst(spec: MetricSpec, rows: list[MetricResult], task: str) -> MetricResult:
    """The row that lies furthest above its null, under the headline's key; those of bits and AUC do not compete."""
    scope: Literal["task", "table"] = "task" if task else "table"
    known = [r for r in rows if r.value is not None and not r.key2.endswith(("/bits", "/auc"))]
    if not known:
        note = next((r.note for r in rows if r.note), "no protected attribute has groups to tell apart")
        return spec.result(None, scope=scope, key1=task, note=note)
    worst = max(known, key=lambda r: (r.value or 0.0) - (r.null_value or 0.0))
    about = worst.key2 if task else worst.key1
    return spec.result(
        worst.value, se=worst.se, n=worst.n, null=worst.null_value, scope=scope, key1=task,
        note=": ".join(filter(None, [about, worst.note])), draws=worst.draws,
    )  # fmt: skip


def _result(
    spec: MetricSpec, draws: Draws, leaks: Leaks, task: TaskSpec, kind: str, null: float | None
) -> MetricResult:
    return spec.result(
        float(draws[0]),
        se=float(draws[1:].std(ddof=1)),
        n=int((leaks.split.number >= 0).sum()),
        null=null,
        scope="task",
        key1=task.name,
        key2="/".join(filter(None, [leaks.split.name, kind])),
        note=leaks.note,
        draws=draws[1:],
    )


def leaks_of(ctx: EvaluationContext, task: TaskSpec) -> list[Leaks] | str:
    """What is betrayed of each protected attribute in a task; the reason in words where it cannot be told."""
    return ctx.once(f"fair/leaks/{task.name}", lambda: _leaks(ctx, task))


def _leaks(ctx: EvaluationContext, task: TaskSpec) -> list[Leaks] | str:
    real, made = predicted(ctx, task, "trtr"), predicted(ctx, task, "tstr")
    if isinstance(real, str):
        return real
    if isinstance(made, str):
        return made
    found = []
    for split in splits(ctx, task, real):
        kept = split.only(split.positives + split.negatives >= FEWEST)
        if len(kept.groups) >= 2:
            found.append(_measured(ctx, task, kept, real, made))
    return found or f"no protected attribute has two groups of {FEWEST} holdout people"


def _measured(ctx: EvaluationContext, task: TaskSpec, split: Split, real: Predicted, made: Predicted) -> Leaks:
    inside = [split.number == g for g in range(len(split.groups))]
    clusters = ctx.sides.holdout.clusters[real.rows]
    size = len(inside)

    def told(found: Predicted, yes: NDArray[np.float64], factor: float = 1.0) -> tuple[Draws, Draws]:
        """Leakage of one yes or no (and of it blurred by `factor`), shifted to what is guessed out of fold."""
        rates = found.shares(yes, inside)
        plain = best_guess(rates)
        rng = ctx.sides.rng("fair.leak", task.name, split.name)
        rows = split.number >= 0
        shift = guessed(yes[rows], split.number[rows], clusters[rows], size, rng) - plain[0]
        return best_guess(rates * factor) + shift * factor, rates

    truth = real.truth.astype(np.float64)
    calls = {name: at_prevalence(p.scores, p.truth) for name, p in (("real", real), ("made", made))}
    shares = np.array([i.sum() for i in inside], dtype=np.float64)
    model_real, rates_real = told(real, calls["real"])
    model_made, rates_made = told(made, calls["made"])
    area = None
    if size == 2:
        either = inside[0] | inside[1]
        raw = weighted_auc(made.scores[either], inside[0][either], made.weights[:, either])
        area = raw if raw[0] >= 0.5 else 1 - raw
    return Leaks(
        split,
        f"chance {1 / size:.0%}, largest group {shares.max() / shares.sum():.0%}",
        told(real, truth)[0],
        told(made, truth, _skill(made, calls["made"]))[0],
        told(real, truth, _skill(real, calls["real"]))[0],
        model_made,
        model_real,
        mutual_information(rates_made, shares),
        mutual_information(rates_real, shares),
        area,
    )


def _skill(found: Predicted, called: NDArray[np.float64]) -> float:
    """True-positive minus false-positive rate.

    True outcomes flipped at random to these rates differ between groups by this share of what they differed by.
    """
    truth = found.truth
    return float(called[truth].mean() - called[~truth].mean()) if truth.any() and not truth.all() else 0.0


def best_guess(rates: Draws) -> Draws:
    """(draws,) balanced accuracy of the best guess from one yes or no, given each group's share of yes (draws, groups)."""
    return (1 + rates.max(axis=1) - rates.min(axis=1)) / rates.shape[1]


def guessed(
    yes: NDArray[np.float64], group: NDArray[np.int64], clusters: NDArray[np.int64], size: int, rng: np.random.Generator
) -> float:
    """Balanced accuracy of the guess, learned on four fifths of the subjects and tested on the last, over five folds.

    Args:
        yes: (n,) share of yes of each row.
        group: (n,) group numbers.
        clusters: (n,) subject numbers.
        size: How many groups there are.
        rng: Draws the folds.
    """
    fold = (rng.permutation(int(clusters.max()) + 1) % FOLDS)[clusters]
    counts = np.stack([np.bincount(group[fold == f], minlength=size) for f in range(FOLDS)]).astype(np.float64)
    sums = np.stack([np.bincount(group[fold == f], weights=yes[fold == f], minlength=size) for f in range(FOLDS)])
    right = np.zeros(size)
    for f in range(FOLDS):
        rates = (sums.sum(axis=0) - sums[f]) / np.maximum(counts.sum(axis=0) - counts[f], 1.0)
        on_yes, on_no = int(np.argmax(rates)), int(np.argmin(rates))
        right[on_yes] += sums[f, on_yes]
        right[on_no] += counts[f, on_no] - sums[f, on_no]
    return float((right / counts.sum(axis=0)).mean())


def mutual_information(rates: Draws, counts: NDArray[np.float64]) -> Draws:
    """(draws,) bits that one yes or no says of the group, groups counted alike, less what chance alone gives.

    Args:
        rates: (draws, groups) share of yes.
        counts: (groups,) rows of each group, for the bias of a plug-in estimate (Miller and Madow).
    """

    def entropy(p: Draws) -> Draws:
        q = np.clip(p, 1e-12, 1 - 1e-12)
        return -(q * np.log2(q) + (1 - q) * np.log2(1 - q))

    size = rates.shape[1]
    bias = (size - 1) / size * float(np.mean(1 / counts)) / (2 * np.log(2))
    found = entropy(rates.mean(axis=1)) - entropy(rates).mean(axis=1) - bias
    return np.maximum(found, 0.0)


def _rate_error(
    yes: NDArray[np.float64], group: NDArray[np.int64], clusters: NDArray[np.int64], rates: NDArray[np.float64]
) -> float:
    """Standard error of `best_guess` on synthetic rows: of the difference of the two extreme groups' shares."""
    top, bottom = int(np.argmax(rates)), int(np.argmin(rates))
    if top == bottom:
        return float("nan")
    counts = np.bincount(group, minlength=len(rates))
    part = np.zeros(len(yes))
    for g, sign in ((top, 1.0), (bottom, -1.0)):
        inside = group == g
        part[inside] = sign * (yes[inside] - rates[g]) / counts[g]
    sums = np.bincount(clusters, weights=part)
    return float(np.sqrt((sums**2).sum())) / len(rates)
