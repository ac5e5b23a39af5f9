"""Explanations: what does a model go by, in each group, and does training on synthetic rows change it?

The share of a column in a prediction is its Shapley value; for a logistic model with features taken as independent it is
exact and needs no library: w_j (x_ij - mean_j), means over the explained rows. Dummies of one column are summed before
sizes are taken. Trees go through `shap.TreeExplainer` (extra `explain`). Both models explain the same real holdout people.
The figures made of them are in `what_matters.py`.

Source: Lundberg and Lee 2017, corollary 1 (linear models); Bt-GAN (Ramachandranpillai 2024), section 8.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import CohortLoomError
from pipeline.evaluation.fairness.groups import members, protected_crossings
from pipeline.evaluation.utility.regimes import holdout_scores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.fairness.groups import Group
    from pipeline.evaluation.utility.learners import Learner
    from pipeline.evaluation.utility.regimes import TaskFit
    from pipeline.features.evaluation_spec import TaskSpec

    Draws = NDArray[np.float64]

FEWEST = 50
"""Holdout rows of a group whose explanations are averaged."""


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
        left_out: Groups of fewer than `FEWEST` explained people, with their number.
    """

    columns: tuple[str, ...]
    groups: tuple[Weights, ...]
    left_out: tuple[tuple[Group, int], ...] = ()


def explained(ctx: EvaluationContext, task: TaskSpec) -> Explained | str:
    """What logistic models go by in a task; the reason in words where there are none."""
    return ctx.once(f"xai/{task.name}", lambda: compared(ctx, task, "lr"))


def compared(ctx: EvaluationContext, task: TaskSpec, model: str) -> Explained | str:
    """What two models of a kind go by, trained on real and on synthetic rows: for all holdout people and for each group.

    Args:
        ctx: The cohort that is judged.
        task: The task.
        model: "lr", with groups, or "rf", without.

    Raises:
        ExplanationError: the values of a library do not add up.
    """
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
    left_out: list[tuple[Group, int]] = []
    for crossing in protected_crossings(ctx.sides, 1) if model == "lr" else []:
        number = members(ctx.sides, crossing)[rows[some]]
        for group in crossing.groups:
            inside = np.flatnonzero(number == group.number)
            if len(inside) >= FEWEST:
                both = (_mean(stacked[k][inside], weights[:, inside]) for k in ("real", "made"))
                found.append(Weights(group, len(inside), *both))
            else:
                left_out.append((group, len(inside)))
    return Explained(tuple(columns), tuple(found), tuple(left_out))


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
