"""Figures of what models go by: the weight of protected attributes, and whether training on synthetic rows keeps the order.

All of them compare two models that explain the same real holdout people (`explanations.py`): for everybody, and in each
group of a protected attribute, as figure 7 of the Bt-GAN paper does for one attribute.

Source: Bt-GAN (Ramachandranpillai 2024), section 8.4; Lundberg and Lee 2017.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.evaluation.fairness.explanations import FEWEST, ExplanationError, compared, explained
from pipeline.evaluation.fairness.groups import NOBODY, SMALL
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fairness.explanations import Draws, Explained, Weights
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import TaskSpec

RANKS_SHOWN = 12
ON_TOP = 5
"""Columns that are the top of the order; half of them, where there are fewer than ten."""
SHARES = MetricSpec(
    id="xai.shap_subgroup",
    family="fairness",
    direction=0,
    range=(0.0, np.inf),
    needs=frozenset({"T", "H", "S", "task"}),
    version="1",
    title="Weight of protected attributes",
    caption="Share of a protected attribute in what moves the predictions of a logistic model trained on synthetic rows, "
    "in each group of real people; rows called 'rank' give its place among all columns (1 moves most). The null is the "
    "same for a model trained on real rows: closer to it is better.",
    source="Lundberg and Lee 2017, corollary 1; Bt-GAN (Ramachandranpillai 2024), figure 7",
)
RANK = MetricSpec(
    id="xai.shap_rank",
    family="fairness",
    direction=1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S", "task"}),
    version="1",
    title="Agreement on what matters",
    caption="Rank correlation of the columns' weights in logistic models trained on synthetic and on real rows, explaining "
    "the same real people, and in each group. Higher is better; 1 is the same order, 0 none.",
    source="Spearman correlation of mean |Shapley value|; Lundberg and Lee 2017, corollary 1",
)
TREES = MetricSpec(
    id="xai.shap_rank_trees",
    family="fairness",
    direction=1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S", "task"}),
    version="2",
    title="Agreement on what matters, trees",
    caption="The same for random forests (extra `explain`), on as many real people as the profile allows. Higher is better; 1 is the same order, 0 none.",
    source="Spearman correlation of mean |Shapley value|; Lundberg et al. 2020 (TreeExplainer)",
    cost="C",
)
TOP = MetricSpec(
    id="xai.shap_top",
    family="fairness",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S", "task"}),
    version="1",
    title="Same columns on top",
    caption="Share of the five columns that move a logistic model trained on real rows most which are also among the five of "
    "one trained on synthetic rows, for the same real people, and in each group. Higher is better; 1 is all of them.",
    source="Overlap of the largest mean |Shapley value|; Lundberg and Lee 2017, corollary 1",
)


@metric(SHARES, floor="")
def shap_subgroup(ctx: EvaluationContext) -> list[MetricResult]:
    """Share and rank of every protected attribute that the model sees, for everybody and for each of its groups."""
    if not ctx.plan.protected or not ctx.plan.tasks:
        return [SHARES.not_applicable(NOBODY if ctx.plan.tasks else "no task is declared")]
    tops: list[MetricResult] = []
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks:
        found = explained(ctx, task)
        if isinstance(found, str):
            tops.append(SHARES.result(None, scope="task", key1=task.name, note=found))
            continue
        if ctx.with_plots:
            ctx.plots.setdefault("explanations", {})[task.name] = shown_ranks(ctx, found)
        shares = [row for name in ctx.plan.protected for row in _of_attribute(task, name, found)]
        tops.append(_furthest([r for r in shares if not r.key2.endswith("/rank")], task.name))
        rows += shares
    return [_furthest(tops, ""), *tops, *rows]


@metric(RANK, floor="ref_marginal")
def shap_rank(ctx: EvaluationContext) -> list[MetricResult]:
    """Spearman correlation of the columns' weights, for everybody (a task's headline) and in each group."""
    if not ctx.plan.tasks:
        return [RANK.not_applicable("no task is declared")]
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks:
        found = explained(ctx, task)
        if isinstance(found, str):
            rows.append(RANK.result(None, null=1.0, scope="task", key1=task.name, note=found))
            continue
        rows += [_agreement(RANK, task, weights) for weights in found.groups]
        rows += _left_out(RANK, task, found)
    return [_least(RANK, rows), *rows]


@metric(TOP, floor="ref_marginal")
def shap_top(ctx: EvaluationContext) -> list[MetricResult]:
    """Overlap of the columns on top, for everybody (a task's headline) and in each group."""
    if not ctx.plan.tasks:
        return [TOP.not_applicable("no task is declared")]
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks:
        found = explained(ctx, task)
        if isinstance(found, str):
            rows.append(TOP.result(None, null=1.0, scope="task", key1=task.name, note=found))
            continue
        rows += [_overlap(task, weights) for weights in found.groups]
        rows += _left_out(TOP, task, found)
    return [_least(TOP, rows), *rows]


@metric(TREES, floor="ref_marginal")
def shap_rank_trees(ctx: EvaluationContext) -> list[MetricResult]:
    """Spearman correlation of the columns' weights in random forests, for each task."""
    if not ctx.plan.tasks:
        return [TREES.not_applicable("no task is declared")]
    if find_spec("shap") is None:
        return [TREES.result(None, null=1.0, note="needs the extra `explain`: pip install 'cohortloom[explain]'")]
    rows: list[MetricResult] = []
    for task in ctx.plan.tasks:
        try:
            found = compared(ctx, task, "rf")
        except ExplanationError as error:
            found = str(error)
        if isinstance(found, str):
            rows.append(TREES.result(None, null=1.0, scope="task", key1=task.name, note=found))
        else:
            rows.append(_agreement(TREES, task, found.groups[0]))
    return [_least(TREES, rows), *rows]


def _least(spec: MetricSpec, rows: list[MetricResult]) -> MetricResult:
    """The task with the lowest agreement, under the headline's key."""
    known = [r for r in rows if r.value is not None and not r.key2]
    if not known:
        return spec.result(None, null=1.0, note=rows[0].note)
    least = min(known, key=lambda r: r.value or 0.0)
    return spec.result(least.value, se=least.se, n=least.n, null=1.0, note=least.key1, draws=least.draws)


def _agreement(spec: MetricSpec, task: TaskSpec, weights: Weights) -> MetricResult:
    from scipy.stats import rankdata

    key2 = "" if weights.group is None else weights.name
    if weights.real.shape[1] < 3:
        note = "fewer than three columns to rank"
        return spec.result(None, n=weights.rows, null=1.0, scope="task", key1=task.name, key2=key2, note=note)
    left, right = (rankdata(w, axis=1) for w in (weights.real, weights.made))
    left, right = (r - r.mean(axis=1, keepdims=True) for r in (left, right))
    scale = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    draws = np.divide((left * right).sum(axis=1), scale, out=np.zeros(len(scale)), where=scale > 0)
    return spec.result(
        float(draws[0]),
        se=float(draws[1:].std(ddof=1)),
        n=weights.rows,
        null=1.0,
        scope="task",
        key1=task.name,
        key2=key2,
        note=f"{weights.real.shape[1]} columns",
        draws=draws[1:],
    )


def _overlap(task: TaskSpec, weights: Weights) -> MetricResult:
    key2 = "" if weights.group is None else weights.name
    columns = weights.real.shape[1]
    top = min(ON_TOP, columns // 2)
    if not top:
        note = "fewer than two columns to rank"
        return TOP.result(None, n=weights.rows, null=1.0, scope="task", key1=task.name, key2=key2, note=note)
    real, made = (_on_top(w, top) for w in (weights.real, weights.made))
    draws = (real & made).sum(axis=1) / top
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return TOP.result(
        float(draws[0]),
        se=float(draws[1:].std(ddof=1)),
        interval=(min(float(low), float(draws[0])), max(float(high), float(draws[0]))),
        n=weights.rows,
        null=1.0,
        scope="task",
        key1=task.name,
        key2=key2,
        note=f"{top} of {columns} columns; {top / columns:.2f} by chance",
        draws=draws[1:],
    )


def _on_top(weights: Draws, top: int) -> NDArray[np.bool_]:
    """(draws + 1, columns) the columns with the largest weights; the first by name where two are alike."""
    chosen = np.zeros(weights.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-weights, axis=1, kind="stable")[:, :top], values=True, axis=1)
    return chosen


def _left_out(spec: MetricSpec, task: TaskSpec, found: Explained) -> list[MetricResult]:
    """A row for each group with too few people to average over; their number is one of people, and public from 11 on."""
    return [
        spec.underpowered(n, FEWEST, "people of the group", null=1.0, scope="subgroup", key1=task.name, key2=group.name)
        for group, n in found.left_out
    ]


def _of_attribute(task: TaskSpec, name: str, found: Explained) -> list[MetricResult]:
    """Share and rank of one attribute, for everybody and for its own groups."""
    if name not in found.columns:
        return []
    j = found.columns.index(name)
    rows = []
    for weights in found.groups:
        if weights.group is not None and (not weights.group.path or weights.group.path[0][0] != name):
            continue
        real, made = (w[:, j] / np.maximum(w.sum(axis=1), 1e-12) for w in (weights.real, weights.made))
        sizes = [float(w[0, j]) for w in (weights.real, weights.made)]
        ranks = [1 + (w > w[:, [j]]).sum(axis=1).astype(float) for w in (weights.real, weights.made)]
        key = name if weights.group is None else f"{name}/{weights.name}"
        for draws, null, kind in ((made, real, ""), (ranks[1], ranks[0], "rank")):
            low, high = np.quantile(draws[1:], [0.025, 0.975])
            rows.append(
                SHARES.result(
                    float(draws[0]),
                    se=float(draws[1:].std(ddof=1)),
                    interval=(min(float(low), float(draws[0])), max(float(high), float(draws[0]))),
                    n=weights.rows,
                    null=float(null[0]),
                    scope="task",
                    key1=task.name,
                    key2="/".join(filter(None, [key, kind])),
                    note=f"of {len(found.columns)} columns"
                    if kind
                    else f"mean |Shapley value| {sizes[1]:.3g} (trained on real rows {sizes[0]:.3g}) on the scale of log odds",
                )
            )
    return rows


def _furthest(rows: list[MetricResult], task: str) -> MetricResult:
    """The row that lies furthest from its null, under the headline's key."""
    scope: Literal["task", "table"] = "task" if task else "table"
    known = [r for r in rows if r.value is not None and r.null_value is not None]
    if not known:
        note = next((r.note for r in rows if r.note), "the model sees no protected attribute")
        return SHARES.result(None, scope=scope, key1=task, note=note)
    worst = max(known, key=lambda r: abs((r.value or 0.0) - (r.null_value or 0.0)))
    about = worst.key2 if task else ", ".join(filter(None, [worst.key1, worst.note]))
    return SHARES.result(worst.value, se=worst.se, n=worst.n, null=worst.null_value, scope=scope, key1=task, note=about)


def shown_ranks(ctx: EvaluationContext, found: Explained) -> dict[str, object]:
    """What the report draws: ranks of the columns that matter most to either model and of the protected ones, and each
    group's columns on top. Columns and codes are named, never values; codes of fewer than 11 training rows are left out.

    Returns:
        `columns`: how many are ranked; `ranks`: column, protected, real, synthetic; `groups`: group, rows, real,
        synthetic (names in order); `left_out`: names of groups with too few people.
    """
    named = _names(ctx, found)
    real, made = (_ranks(w) for w in (found.groups[0].real, found.groups[0].made))
    ranks = [
        {"column": named[c], "protected": c in ctx.plan.protected, "real": int(real[j]), "synthetic": int(made[j])}
        for j, c in enumerate(found.columns)
        if c in named and (min(real[j], made[j]) <= RANKS_SHOWN or c in ctx.plan.protected)
    ]
    groups = [
        {"group": w.name, "rows": w.rows, "real": _first(ctx, found, named, w.real), "synthetic": _first(ctx, found, named, w.made)}
        for w in found.groups
    ]  # fmt: skip
    return {
        "columns": len(found.columns),
        "ranks": sorted(ranks, key=lambda r: (r["real"], r["synthetic"])),
        "groups": groups,
        "left_out": [group.name for group, _ in found.left_out],
    }


def _ranks(weights: Draws) -> NDArray[np.int64]:
    """(columns,) rank of each column by the estimate's weights, 1 for the largest."""
    return len(weights[0]) - np.argsort(np.argsort(weights[0], kind="stable"))


def _names(ctx: EvaluationContext, found: Explained) -> dict[str, str]:
    """Column or code to its name for people, without codes that fewer than 11 training rows carry."""
    named = {c: c for c in found.columns if "/" not in c}
    for block in ctx.sides.encoder.blocks:
        carried = np.asarray(ctx.sides.train.presence[block.name].sum(axis=0)).ravel()
        named |= {f"{block.name}/{i}": f"{block.name} {code}" for i, code in enumerate(block.vocabulary) if carried[i] >= SMALL}  # fmt: skip
    return named


def _first(ctx: EvaluationContext, found: Explained, named: dict[str, str], weights: Draws) -> list[str]:
    """The columns on top in their order, protected ones marked; what may not be named is skipped."""
    order = [found.columns[j] for j in np.argsort(-weights[0], kind="stable") if weights[0, j] > 0]
    return [named[c] + (" (protected)" if c in ctx.plan.protected else "") for c in order if c in named][:ON_TOP]
