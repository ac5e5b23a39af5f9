"""Gaps: do models trained on synthetic rows treat groups of real people less alike than models trained on real rows?

All figures are of real holdout people; only what the model was trained on differs. With two groups a gap is signed
(the group with more training rows minus the other), with more it is the largest minus the smallest. Rates are taken
where as many people are predicted positive as there are: at a threshold of 1/2 a model of a rare outcome calls nobody
positive, and a gap between empty predictions is 0. Predictions by group are in `predictions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.evaluation.fairness.groups import NOBODY
from pipeline.evaluation.fairness.predictions import (
    FEWEST,
    by_group,
    difference,
    predicted,
    splits,
    widest_parity,
)
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.utility.learners import TASK_MODELS
from pipeline.evaluation.utility.regimes import best_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fairness.predictions import ByGroup, Draws, Predicted, Split
    from pipeline.evaluation.registry import Metric
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import TaskSpec

    Measure = Callable[[ByGroup], Draws]

SIGN = "With two groups: the larger one minus the other; with more: largest minus smallest. 0 is the ideal."


@dataclass(frozen=True)
class Gap:
    """One attribute's gap in one task.

    Attributes:
        split: The groups that are compared.
        real: (draws + 1,) gap of the model trained on real rows; the first is the estimate.
        made: (draws + 1,) gap of the model trained on synthetic rows.
        note: Who is compared, by which model.
    """

    split: Split
    real: Draws
    made: Draws
    note: str


@dataclass(frozen=True)
class Lacking:
    """An attribute whose groups cannot be compared: fewer than two have outcomes enough."""

    attribute: str
    rows: int
    needed: int


def _gap_spec(name: str, title: str, what: str, source: str, low: float = -1.0) -> MetricSpec:
    return MetricSpec(
        id=f"fair.gap.{name}",
        family="fairness",
        direction=0,
        range=(low, 1.0),
        needs=frozenset({"T", "H", "S", "task"}),
        version="1",
        title=title,
        caption=f"{what} {SIGN} Of real holdout people, by a model trained on synthetic rows; the same trained on real "
        "rows stands beside it.",
        source=source,
    )


def _delta_spec(name: str, title: str, what: str) -> MetricSpec:
    return MetricSpec(
        id=f"fair.delta_{name}_gap",
        family="fairness",
        direction=-1,
        range=(-1.0, 1.0),
        needs=frozenset({"T", "H", "S", "task"}),
        version="1",
        title=title,
        caption=f"How much wider the gap in {what} becomes when the model is trained on synthetic instead of real rows: "
        "size of the one gap minus size of the other, on the same real people. Lower is better; the null is 0.",
        source="gap trained on synthetic minus gap trained on real; paired bootstrap by subject",
    )


AUROC = _gap_spec("auroc", "AUROC gap", "Difference in AUROC between groups.", "Bt-GAN (Ramachandranpillai 2024), table 7")  # fmt: skip
PARITY = _gap_spec(
    "parity", "Parity gap", "Difference in the share predicted positive.", "Bt-GAN (Ramachandranpillai 2024), table 7, at the threshold where predicted positives match prevalence"
)  # fmt: skip
PARITY_MAX = _gap_spec(
    "parity_max", "Widest parity gap", "Largest difference in the share predicted positive over all thresholds.",
    "sup over t of |F1(t) - F2(t)| of the scores", 0.0,
)  # fmt: skip
OPPORTUNITY = _gap_spec(
    "equal_opportunity", "Equal-opportunity gap", "Difference in the share of true positives that are found.",
    "Hardt, Price and Srebro 2016",
)  # fmt: skip
ODDS = _gap_spec(
    "equalised_odds", "Equalised-odds gap",
    "The larger of the differences in true-positive and in false-positive rates, without sign.",
    "Hardt, Price and Srebro 2016", 0.0,
)  # fmt: skip
CALIBRATION = _gap_spec(
    "calibration", "Calibration gap", "Difference in mean predicted chance minus observed share.",
    "calibration in the large, by group",
)  # fmt: skip
DELTA_AUROC = _delta_spec("auroc", "AUROC gap added by synthesis", "AUROC")
DELTA_PARITY = _delta_spec("parity", "Parity gap added by synthesis", "predicted-positive rates")
DELTA_OPPORTUNITY = _delta_spec("equal_opportunity", "Equal-opportunity gap added by synthesis", "true-positive rates")
DELTA_ODDS = _delta_spec("equalised_odds", "Equalised-odds gap added by synthesis", "error rates")
DELTA_CALIBRATION = _delta_spec("calibration", "Calibration gap added by synthesis", "calibration")
WORST = MetricSpec(
    id="fair.worst_group",
    family="fairness",
    direction=1,
    range=(-np.inf, np.inf),
    needs=frozenset({"T", "H", "S", "task"}),
    version="1",
    title="Utility in the worst group",
    caption="Share of the real model's skill above chance that a model trained on synthetic rows keeps, in the group that "
    "loses most. Higher is better; 1 keeps all of it.",
    source="(TSTR AUROC - 1/2) / (TRTR AUROC - 1/2) within each group of holdout people",
)


def _odds(g: ByGroup) -> Draws:
    spread = [v.max(axis=1) - v.min(axis=1) for v in (g.true_positive, g.false_positive)]
    return np.maximum(*spread)


MEASURES: dict[str, Measure] = {
    "auroc": lambda g: difference(g.auroc),
    "parity": lambda g: difference(g.rate),
    "equal_opportunity": lambda g: difference(g.true_positive),
    "equalised_odds": _odds,
    "calibration": lambda g: difference(g.calibration),
}


def _gap(spec: MetricSpec) -> Metric:
    """The metric of a gap: worst of all tasks, worst of each task, and of each attribute both trainings of both models."""

    def compute(ctx: EvaluationContext) -> list[MetricResult]:
        return _rows(ctx, spec, spec.id.rpartition(".")[2], _pair)

    return metric(spec, floor="")(compute)


def _delta(spec: MetricSpec) -> Metric:
    """The metric of a gap's change: the same with one row an attribute."""

    def compute(ctx: EvaluationContext) -> list[MetricResult]:
        return _rows(ctx, spec, spec.id.removeprefix("fair.delta_").removesuffix("_gap"), _change)

    return metric(spec, floor="")(compute)


def _pair(gap: Gap) -> dict[str, Draws]:
    return {"tstr": gap.made, "trtr": gap.real}


def _change(gap: Gap) -> dict[str, Draws]:
    # First what is judged. The signed difference is told beside it: it can be far from 0 while the gap has not grown.
    return {"": np.abs(gap.made) - np.abs(gap.real), "signed": gap.made - gap.real}


def _rows(
    ctx: EvaluationContext, spec: MetricSpec, name: str, parts: Callable[[Gap], dict[str, Draws]]
) -> list[MetricResult]:
    """Headline, a row a task, and rows of each attribute and model.

    The headline is the attribute whose first part is worst by the headline model.
    """
    if not ctx.plan.protected or not ctx.plan.tasks:
        return [spec.not_applicable(NOBODY if ctx.plan.tasks else "no task is declared")]
    tops: list[MetricResult] = []
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks:
        found = gaps(ctx, task, name)
        if isinstance(found, str):
            tops.append(spec.result(None, null=0.0, scope="task", key1=task.name, note=found))
            continue
        first: list[MetricResult] = []
        for gap in found:
            if isinstance(gap, Lacking):
                first.append(spec.underpowered(gap.rows, gap.needed, f"holdout people in the second largest group of {gap.attribute}",
                                               null=0.0, scope="task", key1=task.name, key2=gap.attribute))  # fmt: skip
                continue
            made = [_row(spec, draws, gap, task, (key,)) for key, draws in parts(gap).items()]
            first.append(made[0])
            rows += made[1:]
        rows += first
        tops.append(_worst(spec, first, task.name))
        # The other model may follow what the headline model cannot: effects that differ between groups, say.
        for other in (m for m in TASK_MODELS if m != best_model(ctx.sides, task)):
            more = gaps(ctx, task, name, other)
            for gap in () if isinstance(more, str) else more:
                if isinstance(gap, Gap):
                    rows += [_row(spec, draws, gap, task, (other, key)) for key, draws in parts(gap).items()]
    return [_worst(spec, tops, ""), *tops, *rows]


def _row(spec: MetricSpec, draws: Draws, gap: Gap, task: TaskSpec, keys: tuple[str, ...]) -> MetricResult:
    return spec.result(
        float(draws[0]),
        se=float(draws[1:].std(ddof=1)),
        n=int((gap.split.number >= 0).sum()),
        null=0.0,
        scope="task",
        key1=task.name,
        key2="/".join(filter(None, [gap.split.name, *keys])),
        note=gap.note,
        draws=draws[1:],
    )


def _worst(spec: MetricSpec, rows: list[MetricResult], task: str) -> MetricResult:
    """The row with the largest value (without its sign where the sign only says who), under the headline's key."""
    scope: Literal["task", "table"] = "task" if task else "table"
    known = [r for r in rows if r.value is not None]
    if not known:
        few = [r for r in rows if r.n_needed is not None and r.n is not None]
        if few and len(few) == len(rows):
            nearest = min(few, key=lambda r: (r.n_needed or 0) / max(r.n or 1, 1))
            return replace(nearest, scope=scope, key1=task, key2="")
        note = next((r.note for r in rows if r.note and r.n_needed is None), "not estimable")
        return spec.result(None, null=0.0, scope=scope, key1=task, note=note)
    worst = max(known, key=lambda r: abs(r.value or 0.0) if spec.direction == 0 else -spec.direction * (r.value or 0.0))
    about = ", ".join(filter(None, [worst.key1 if not task else "", worst.key2.partition("/")[0]]))
    return spec.result(
        worst.value,
        se=worst.se,
        n=worst.n,
        null=worst.null_value,
        scope=scope,
        key1=task,
        note=": ".join(filter(None, [about, worst.note])),
        draws=worst.draws,
    )


def gaps(ctx: EvaluationContext, task: TaskSpec, name: str, model: str = "") -> list[Gap | Lacking] | str:
    """The gaps of a task's model, one a protected attribute; the reason in words where there is none.

    Args:
        ctx: The cohort that is judged.
        task: The task.
        name: One of `MEASURES`, or "parity_max".
        model: The model; the task's headline model if empty.
    """
    real, made = predicted(ctx, task, "trtr", model), predicted(ctx, task, "tstr", model)
    if isinstance(real, str):
        return real
    if isinstance(made, str):
        return made
    found: list[Gap | Lacking] = []
    for split in splits(ctx, task, real):
        kept = split.judgeable()
        if len(kept.groups) < 2:
            found.append(_lacking(split))
            continue
        found.append(_measured(ctx, task, name, kept, real, made, len(split.groups) - len(kept.groups)))
    return found or "no protected attribute has groups to compare"


def _measured(
    ctx: EvaluationContext, task: TaskSpec, name: str, split: Split, real: Predicted, made: Predicted, left_out: int
) -> Gap:
    if name == "parity_max":
        key = f"fair/parity_max/{real.model}/{task.name}/{split.name}"
        both = [
            ctx.sides.once(key, lambda: widest_parity(real, split)),
            ctx.once(key, lambda: widest_parity(made, split)),
        ]
    else:
        both = [MEASURES[name](by_group(ctx, task, split, p)) for p in (real, made)]
    who = [g.path[0][1] if g.path else "rare groups" for g in split.groups]
    words = f"{who[0]} minus {who[1]}" if len(who) == 2 else f"{len(who)} groups"
    words += f", {left_out} with too few outcomes left out" if left_out else ""
    return Gap(split, both[0], both[1], "; ".join(filter(None, [words, f"model: {made.model}", made.note])))


def _lacking(split: Split) -> Lacking:
    """How many holdout people the second largest group has, and would need for enough of the rarer outcome."""
    sizes = np.sort(split.positives + split.negatives)[::-1]
    total = max(int(sizes.sum()), 1)
    rarer = min(int(split.positives.sum()), int(split.negatives.sum())) / total
    return Lacking(split.name, int(sizes[1]) if len(sizes) > 1 else 0, ceil(FEWEST / max(rarer, 1 / total)))


gap_auroc = _gap(AUROC)
gap_parity = _gap(PARITY)
gap_parity_max = _gap(PARITY_MAX)
gap_equal_opportunity = _gap(OPPORTUNITY)
gap_equalised_odds = _gap(ODDS)
gap_calibration = _gap(CALIBRATION)
delta_auroc = _delta(DELTA_AUROC)
delta_parity = _delta(DELTA_PARITY)
delta_equal_opportunity = _delta(DELTA_OPPORTUNITY)
delta_equalised_odds = _delta(DELTA_ODDS)
delta_calibration = _delta(DELTA_CALIBRATION)


@metric(WORST, floor="ref_marginal")
def worst_group(ctx: EvaluationContext) -> list[MetricResult]:
    """The smallest share of skill kept over all groups with outcomes enough; a row a task and a row a group."""
    if not ctx.plan.protected or not ctx.plan.tasks:
        return [WORST.not_applicable(NOBODY if ctx.plan.tasks else "no task is declared")]
    tops: list[MetricResult] = []
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks:
        inside = _kept(ctx, task)
        tops.append(_worst(WORST, inside, task.name))
        rows += [r for r in inside if r.key2]
    return [_worst(WORST, tops, ""), *tops, *rows]


def _kept(ctx: EvaluationContext, task: TaskSpec) -> list[MetricResult]:
    """Share of skill kept in each group of a task."""
    real, made = predicted(ctx, task, "trtr"), predicted(ctx, task, "tstr")
    if isinstance(real, str) or isinstance(made, str):
        reason = next(found for found in (real, made) if isinstance(found, str))
        return [WORST.result(None, null=1.0, scope="task", key1=task.name, note=reason)]
    rows: list[MetricResult] = []
    for split in splits(ctx, task, real):
        kept = split.judgeable()
        if not kept.groups:
            few = _lacking(split)
            rows.append(WORST.underpowered(few.rows, few.needed, f"holdout people in the second largest group of {few.attribute}",
                                           null=1.0, scope="task", key1=task.name, key2=split.name))  # fmt: skip
            continue
        auc_real = by_group(ctx, task, kept, real).auroc
        auc_made = by_group(ctx, task, kept, made).auroc
        for g, group in enumerate(kept.groups):
            skill, left = auc_real[:, g] - 0.5, auc_made[:, g] - 0.5
            n = int(kept.positives[g] + kept.negatives[g])
            if skill[0] < 3 * skill[1:].std(ddof=1):
                note = "the model trained on real rows is no better than chance in this group"
                rows.append(WORST.result(None, n=n, null=1.0, scope="task", key1=task.name, key2=group.name, note=note))
                continue
            draws = left / np.maximum(skill, 1e-3)
            rows.append(
                WORST.result(
                    float(draws[0]),
                    se=float(draws[1:].std(ddof=1)),
                    n=n,
                    null=1.0,
                    scope="task",
                    key1=task.name,
                    key2=group.name,
                    note=made.note,
                    draws=draws[1:],
                )
            )
    return rows or [
        WORST.result(None, null=1.0, scope="task", key1=task.name, note="no protected attribute has groups")
    ]
