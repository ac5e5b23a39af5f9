"""Explanations: what does a model go by, in each group, and does training on synthetic rows change it?

The share of a column in a prediction is its Shapley value; for a logistic model with features taken as independent it is
exact and needs no library: w_j (x_ij - mean_j), means over the explained rows. Dummies of one column are summed before
sizes are taken. Trees go through `shap.TreeExplainer` (extra `explain`). Both models explain the same real holdout people.

Source: Lundberg and Lee 2017, corollary 1 (linear models); Bt-GAN (Ramachandranpillai 2024), section 8.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.errors import CohortLoomError
from pipeline.evaluation.fairness.groups import NOBODY, members, protected_crossings
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.utility.regimes import holdout_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fairness.groups import Group
    from pipeline.evaluation.results import MetricResult
    from pipeline.evaluation.utility.learners import Learner
    from pipeline.evaluation.utility.regimes import TaskFit
    from pipeline.features.evaluation_spec import TaskSpec

    Draws = NDArray[np.float64]

FEWEST = 50
"""Holdout rows of a group whose explanations are averaged."""
RANKS_SHOWN = 12
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


class ExplanationError(CohortLoomError):
    """A library's Shapley values do not add up to the model's own scores."""


@dataclass(frozen=True)
class Weights:
    """How much each column moves a model's scores, in one group of holdout people.

    Attributes:
        group: The group; None for everybody.
        rows: Holdout rows in it.
        real: (draws + 1, columns) mean size of Shapley values, trained on real rows; the first line is the estimate.
        made: The same, trained on synthetic rows.
    """

    group: Group | None
    rows: int
    real: Draws
    made: Draws

    @property
    def name(self) -> str:
        """The group's name."""
        return "everybody" if self.group is None else self.group.name


@dataclass(frozen=True)
class Explained:
    """The weights of a task's columns.

    Attributes:
        columns: Columns and codes, in the order of the weights.
        groups: Everybody first, then the groups of protected attributes.
    """

    columns: tuple[str, ...]
    groups: tuple[Weights, ...]


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
            ctx.plots.setdefault("explanations", {})[task.name] = _shown(ctx, found)
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
    return [_least(RANK, rows), *rows]


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
            found = _compared(ctx, task, "rf")
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


def explained(ctx: EvaluationContext, task: TaskSpec) -> Explained | str:
    """What logistic models go by in a task; the reason in words where there are none."""
    return ctx.once(f"xai/{task.name}", lambda: _compared(ctx, task, "lr"))


def _compared(ctx: EvaluationContext, task: TaskSpec, model: str) -> Explained | str:
    fits = {"trtr": holdout_scores(ctx, task, model, "trtr"), "tstr": holdout_scores(ctx, task, model, "tstr")}
    for fit in fits.values():
        if fit.reason or fit.learner is None or fit.learner.model is None:
            return fit.reason or fit.note or "no column has any spread to learn from"
    rows = fits["trtr"].rows
    cap = ctx.sides.profile.rows if model == "lr" else ctx.sides.profile.explained_rows
    some = ctx.sides.sample(len(rows), cap, "xai", task.name, model)
    real_sizes = ctx.sides.once(f"xai/{task.name}/{model}", lambda: _sizes(ctx, fits["trtr"], rows[some]))
    same = fits["tstr"] is fits["trtr"]
    sizes = {"real": real_sizes, "made": real_sizes if same else _sizes(ctx, fits["tstr"], rows[some])}
    # A column without spread in one training has no weight there.
    columns = sorted(set(sizes["real"]) | set(sizes["made"]))
    nothing = np.zeros(len(some), dtype=np.float32)
    stacked = {k: np.stack([v.get(c, nothing) for c in columns], axis=1) for k, v in sizes.items()}
    weights = np.concatenate([np.ones((1, len(some)), np.float32), ctx.sides.holdout_weights[:, rows[some]]])
    found = [Weights(None, len(some), *(_mean(stacked[k], weights) for k in ("real", "made")))]
    for crossing in protected_crossings(ctx.sides, 1) if model == "lr" else []:
        number = members(ctx.sides, crossing)[rows[some]]
        for group in crossing.groups:
            inside = np.flatnonzero(number == group.number)
            if len(inside) >= FEWEST:
                both = (_mean(stacked[k][inside], weights[:, inside]) for k in ("real", "made"))
                found.append(Weights(group, len(inside), *both))
    return Explained(tuple(columns), tuple(found))


def _mean(sizes: NDArray[np.float32], weights: NDArray[np.float32]) -> Draws:
    return np.asarray(weights @ sizes, dtype=np.float64) / np.maximum(weights.sum(axis=1), 1e-9)[:, None]


def _sizes(ctx: EvaluationContext, fit: TaskFit, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """Column to (rows,) size of its Shapley values: those of its features summed first."""
    assert fit.learner is not None
    learner = fit.learner
    features = learner.matrix(ctx.sides.holdout, rows)
    if learner.design is not None:
        values, columns = linear_shapley(learner.model.coef_[0], features), learner.design.groups
    else:
        values, columns = tree_shapley(learner, features), tree_columns(ctx, learner)
    summed: dict[str, NDArray[np.float32]] = {}
    for j, name in enumerate(columns):
        summed[name] = summed.get(name, np.float32(0)) + values[:, j].astype(np.float32)
    return {name: np.abs(value) for name, value in summed.items()}


def linear_shapley(coefficients: NDArray[np.floating], features: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, p) exact Shapley values of a linear score with independent features: w_j (x_ij - mean_j).

    They add up, row by row, to the score less its mean over the rows.
    """
    values = np.asarray(features, dtype=np.float64)
    return np.asarray(coefficients, dtype=np.float64) * (values - values.mean(axis=0))


def tree_shapley(learner: Learner, features: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, p) Shapley values of a forest's probability by `shap.TreeExplainer`, path-dependent.

    Raises:
        ExplanationError: they do not add up to the model's own probabilities, as with boosting that splits on names
            of levels, which shap 0.51 reads as numbers.
    """
    explainer = _tree_explainer()(learner.model)
    values = np.asarray(explainer.shap_values(features, check_additivity=False), dtype=np.float64)
    base = np.ravel(explainer.expected_value)[-1]
    if values.ndim == 3:
        values = values[:, :, 1]
    wanted = learner.model.predict_proba(features)[:, 1]
    if np.abs(values.sum(axis=1) + base - wanted).max() > 1e-4:
        raise ExplanationError("Shapley values do not add up to the model's scores.", todo="Explain another model.")
    return values


def _tree_explainer() -> type:
    """`shap.TreeExplainer`, imported on a stack of its own.

    shap keeps the errors of what it could not import, with their tracebacks: these would keep all that is on the stack
    of its first import, a whole evaluation, for as long as the process lives.
    """
    from concurrent.futures import ThreadPoolExecutor
    from importlib import import_module

    with ThreadPoolExecutor(1) as alone:
        return alone.submit(import_module, "shap").result().TreeExplainer


def tree_columns(ctx: EvaluationContext, learner: Learner) -> list[str]:
    """The column (or code, as block/position) behind each feature of a model on trees."""
    assert learner.kept is not None
    names = [c.name for c in ctx.sides.encoder.columns if c.name not in learner.drop]
    for block in ctx.sides.encoder.blocks:
        if block.name not in learner.drop:
            names += [f"{block.name}/{i}" for i in ctx.sides.encoder.kept_codes[block.name]]
    return [names[i] for i in learner.kept]


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


def _shown(ctx: EvaluationContext, found: Explained) -> dict[str, object]:
    """Ranks of the columns that matter most to either model, and of the protected ones; rare codes are left out."""
    everybody = found.groups[0]
    ranks = [
        len(found.columns) + 1 - np.argsort(np.argsort(w[0], kind="stable")) - 1
        for w in (everybody.real, everybody.made)
    ]
    named = {c: c for c in found.columns if "/" not in c}
    for block in ctx.sides.encoder.blocks:
        carried = np.asarray(ctx.sides.train.presence[block.name].sum(axis=0)).ravel()
        named |= {f"{block.name}/{i}": f"{block.name} {code}" for i, code in enumerate(block.vocabulary) if carried[i] >= 11}  # fmt: skip
    shown = [
        {"column": named[c], "protected": c in ctx.plan.protected, "real": int(ranks[0][j]), "synthetic": int(ranks[1][j])}
        for j, c in enumerate(found.columns)
        if c in named and (min(ranks[0][j], ranks[1][j]) <= RANKS_SHOWN or c in ctx.plan.protected)
    ]  # fmt: skip
    return {"columns": len(found.columns), "ranks": sorted(shown, key=lambda r: (r["real"], r["synthetic"]))}
