"""Does a model trained on synthetic rows rest on the same features as one trained on real ones?

A feature is a column (its dummies and its missing mask together) or a code. Of logistic regression its importance is
the mean absolute contribution to the logit over holdout people (exactly the mean absolute SHAP value of a linear
model), of boosting the AUROC that is lost when it is shuffled. What two halves of the training rows agree on is the
ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import auc
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.utility.learners import TASK_MODELS, Learner, TrainingRows, fit_learner
from pipeline.evaluation.utility.regimes import best_model, holdout_scores, real_scores, subject_folds, training_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import TaskSpec

TOP = 25
SPLITS = 3
"""How often T and S are halved; each half gives a ranking."""
MOST_TESTED = 1_000
"""Holdout people on whom features are shuffled."""
SCORED_AT_ONCE = 5_000
"""Rows that are scored together, at least: a call of boosting costs as much as a thousand rows."""
PERSISTENCE = 0.9


def _spec(name: str, low: float, title: str, caption: str, source: str) -> MetricSpec:
    return MetricSpec(
        id=f"util.{name}",
        family="utility",
        direction=1,
        range=(low, 1),
        needs=frozenset({"T", "H", "S", "task"}),
        version="1",
        title=title,
        caption=caption,
        source=source,
        cost="C",
    )


OVERLAP = _spec(
    "feature_overlap", 0, "Overlap of the top features",
    "Share of the 25 most important features (or half of them, if there are fewer than 50) that models trained on real and "
    "on synthetic rows have in common. Higher is better; the null is what two halves of the training rows share.",
    "Yan et al. 2022 (feature selection); linear SHAP: Lundberg and Lee 2017, corollary 1",
)  # fmt: skip
SPEARMAN = _spec(
    "feature_spearman", -1, "Rank correlation of features",
    "Spearman's correlation of the importance of all features in models trained on real and on synthetic rows. Higher is "
    "better; 0 is chance, the null what two halves of the training rows reach.", "Spearman 1904",
)  # fmt: skip
RBO = _spec(
    "rbo", 0, "Rank-biased overlap of features",
    "Agreement of the order of features, the first ones counting most (persistence 0.9: the top ten make up 86 %). Higher "
    "is better; the null is what two halves of the training rows reach.", "Webber, Moffat and Zobel 2010, RBO_ext",
)  # fmt: skip

Importance = dict[str, float]


@dataclass(frozen=True)
class Rankings:
    """Importances on whole sides and on halves.

    Attributes:
        whole: Importance of each feature in the model trained on all rows; empty where there is none.
        halves: The same for both halves of each split, in order.
    """

    whole: Importance
    halves: tuple[Importance, ...]


@metric(OVERLAP)
def feature_overlap(ctx: EvaluationContext) -> list[MetricResult]:
    """Top features of the headline model and of each model (key2)."""
    return _rows(ctx, OVERLAP, top_overlap)


@metric(SPEARMAN)
def feature_spearman(ctx: EvaluationContext) -> list[MetricResult]:
    """All features."""

    def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        from scipy.stats import rankdata

        x, y = rankdata(a), rankdata(b)
        return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else float("nan")

    return _rows(ctx, SPEARMAN, correlation)


@metric(RBO)
def rbo(ctx: EvaluationContext) -> list[MetricResult]:
    """All features, weighted to the top."""
    return _rows(ctx, RBO, rank_biased_overlap)


def top_overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Share of the top 25 (or half of them) of two (p,) importances that is common; the first of equals counts."""
    k = max(1, min(TOP, len(a) // 2))
    return len(np.intersect1d(_order(a)[:k], _order(b)[:k])) / k


def rank_biased_overlap(a: NDArray[np.float64], b: NDArray[np.float64], p: float = PERSISTENCE) -> float:
    """Extrapolated rank-biased overlap of two (n,) importances of the same features.

    Source: Webber, Moffat and Zobel 2010, equation 23 with lists of equal length: X_n / n p^n + (1 - p) / p times the sum
    over depths d of X_d / d p^d, where X_d is the number of common features among the first d.
    """
    first, second = _order(a), _order(b)
    n = len(first)
    place = np.empty(n, dtype=np.int64)
    place[second] = np.arange(n)
    depth = np.maximum(np.arange(n), place[first])
    common = np.cumsum(np.bincount(depth, minlength=n))
    d = np.arange(1, n + 1)
    return float(common[-1] / n * p**n + (1 - p) / p * (common / d * p**d).sum())


def importance(
    learner: Learner, side: Side, rows: NDArray[np.int64], truth: NDArray[np.bool_], seed: int
) -> Importance:
    """Importance of every feature that the model was given, by name of the column or "block/number" of the code."""
    if learner.model is None:
        return {}
    features = learner.matrix(side, rows)
    if learner.design is not None:
        contribution = features * learner.model.coef_[0]
        groups = np.array(learner.design.groups)
        return {
            g: float(np.abs(contribution[:, groups == g].sum(axis=1)).mean())
            for g in dict.fromkeys(learner.design.groups)
        }
    plain = learner.scores_of(features)
    reached = auc(plain, truth)
    names = side.tree_features(learner.drop, rows[:0]).names
    found = {}
    for j, changed, moved in _shuffled(learner, features, np.random.default_rng(seed)):
        scores = plain.copy()
        scores[changed] = moved
        found[names[learner.kept[j]]] = reached - auc(scores, truth)
    return found


def _shuffled(
    learner: Learner, features: NDArray[np.floating], rng: np.random.Generator
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float64]]]:
    """Each feature in turn, shuffled: its number, the rows whose value changes, and their new scores.

    Only rows whose value changes are scored again (of a rare code these are few), those of several features at once.
    """
    waiting: list[tuple[int, NDArray[np.int64], NDArray[np.floating]]] = []
    for j in range(features.shape[1]):
        column = rng.permutation(features[:, j])
        changed = np.flatnonzero((column != features[:, j]) & ~(np.isnan(column) & np.isnan(features[:, j])))
        moved = features[changed]
        moved[:, j] = column[changed]
        waiting.append((j, changed, moved))
        if sum(len(w[1]) for w in waiting) >= SCORED_AT_ONCE or j == features.shape[1] - 1:
            scores = learner.scores_of(np.concatenate([w[2] for w in waiting]))
            ends = np.cumsum([len(w[1]) for w in waiting])
            for (k, rows, _), own in zip(waiting, np.split(scores, ends[:-1]), strict=True):
                yield k, rows, own
            waiting = []


def real_rankings(sides: RealSides, task: TaskSpec, model: str) -> Rankings:
    """Importances in models trained on T and on its halves; the same for every generator."""
    return sides.once(
        f"features/real/{task.name}/{model}",
        lambda: _rankings(sides, sides.train, task, model, "train", real_scores(sides, task, model).learner),
    )


def _synthetic_rankings(ctx: EvaluationContext, task: TaskSpec, model: str) -> Rankings:
    if ctx.synthetic.cohort is ctx.sides.train.cohort:
        return real_rankings(ctx.sides, task, model)
    learner = holdout_scores(ctx, task, model, "tstr").learner
    name = f"synthetic/{ctx.replicate}"
    return ctx.once(
        f"features/{task.name}/{model}", lambda: _rankings(ctx.sides, ctx.synthetic, task, model, name, learner)
    )


def _rankings(sides: RealSides, side: Side, task: TaskSpec, model: str, name: str, whole: Learner | None) -> Rankings:
    if whole is None:
        return Rankings({}, ())
    tested = real_scores(sides, task, model)
    some = sides.sample(len(tested.rows), MOST_TESTED, "util.features", task.name)
    rows, truth = tested.rows[some], tested.truth[some]
    seed = int(sides.rng("util.features", task.name, model).integers(2**31))
    given, _ = training_rows(sides, side, task, name, "halves")
    halves = []
    for split in range(SPLITS):
        rng = sides.rng("util.features", task.name, name, split)
        half = subject_folds(side.clusters[given.rows], given.labels, rng, folds=2)
        for which in (0, 1):
            part = TrainingRows(side, given.rows[half == which], given.labels[half == which])
            if len(np.unique(part.labels)) == 2:
                learner = fit_learner(model, [part], whole.drop, seed)
                halves.append(importance(learner, sides.holdout, rows, truth, seed))
    return Rankings(importance(whole, sides.holdout, rows, truth, seed), tuple(halves))


def _rows(
    ctx: EvaluationContext, spec: MetricSpec, compare: Callable[[NDArray[np.float64], NDArray[np.float64]], float]
) -> list[MetricResult]:
    rows = []
    for task in ctx.plan.tasks:
        best = best_model(ctx.sides, task)
        rows += [_row(ctx, spec, compare, task, key2 or best, key2) for key2 in ("", *TASK_MODELS)]
    return rows


def _row(
    ctx: EvaluationContext,
    spec: MetricSpec,
    compare: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    task: TaskSpec,
    model: str,
    key2: str,
) -> MetricResult:
    fit = holdout_scores(ctx, task, model, "tstr")
    said = "" if key2 else f"model: {model}"
    if fit.reason:
        return spec.result(None, n=fit.size, scope="task", key1=task.name, key2=key2, note=fit.reason)
    real, made = real_rankings(ctx.sides, task, model), _synthetic_rankings(ctx, task, model)
    names = sorted({*real.whole, *made.whole})
    if not made.whole or len(names) < 2:
        note = fit.note or "no feature to rank"
        return spec.result(None, n=len(fit.rows), scope="task", key1=task.name, key2=key2, note=note)

    def between(a: Importance, b: Importance) -> float:
        return compare(*(np.array([x.get(n, 0.0) for n in names]) for x in (a, b)))

    again = [between(a, b) for a, b in zip(real.halves, made.halves, strict=False)]
    ceiling = [between(a, b) for a, b in zip(real.halves[::2], real.halves[1::2], strict=False)]
    if ctx.with_plots and spec is OVERLAP and not key2:
        ctx.plots.setdefault("features", []).append(_drawable(ctx, task, model, names, real.whole, made.whole))
    return spec.result(
        between(real.whole, made.whole),
        # Halves without replacement vary about as much as whole samples do around the truth.
        se=float(np.std(again, ddof=1)) if len(again) > 1 else None,
        n=len(names),
        null=float(np.mean(ceiling)) if ceiling else None,
        scope="task",
        key1=task.name,
        key2=key2,
        note="; ".join(filter(None, [said, f"{len(names)} features"])),
    )


def _order(values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-values, kind="stable")


def _drawable(
    ctx: EvaluationContext, task: TaskSpec, model: str, names: list[str], real: Importance, made: Importance
) -> dict[str, object]:
    """Ranks of the top features on both sides, codes by their vocabulary."""
    vocabularies = {b.name: b.vocabulary for b in ctx.sides.encoder.blocks}

    def said(name: str) -> str:
        block, _, number = name.rpartition("/")
        return vocabularies[block][int(number)] if block in vocabularies else name

    orders = [[names[i] for i in _order(np.array([x.get(n, 0.0) for n in names]))] for x in (real, made)]
    shown = dict.fromkeys([*orders[0][:10], *orders[1][:10]])
    return {
        "task": task.name,
        "model": model,
        "names": [said(n) for n in shown],
        "real": [orders[0].index(n) + 1 for n in shown],
        "synthetic": [orders[1].index(n) + 1 for n in shown],
        "features": len(names),
    }
