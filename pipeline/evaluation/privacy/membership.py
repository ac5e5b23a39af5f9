"""Membership inference: can an attacker who has the synthetic cohort tell who was in training?

The attacks are in `attacks.py`. Each is reported by its AUC, by its advantage, and by how many members it finds at
few false alarms; what decides is the most successful attack, with intervals widened for having picked it. The most
unusual people are in `outliers.py`, what the attacks prove about epsilon in `epsilon.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.intervals import clopper_pearson, roc_points, tpr_at_fpr
from pipeline.evaluation.privacy.attacks import FEWEST_ROWS, attack
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.intervals import Auc
    from pipeline.evaluation.privacy.attacks import Attacks
    from pipeline.evaluation.results import Cost, MetricResult

NEEDED = {0.01: 1_000, 0.001: 10_000}
"""Non-members needed before a true-positive rate at that false-positive rate means anything."""
FEWEST_SHOWN = 11
TOO_FEW = f"fewer than {FEWEST_ROWS} reference or synthetic rows to fit this attack to"


def _spec(
    name: str, title: str, caption: str, *, source: str, needs: str = "T H S R1", cost: Cost = "B", low: float = 0.0,
) -> MetricSpec:  # fmt: skip
    return MetricSpec(
        id=f"priv.mia.{name}",
        family="privacy",
        direction=-1,
        range=(low, 1.0),
        needs=frozenset(needs.split()),
        version="2",
        title=title,
        caption=caption,
        source=f"{source}; members T against non-members H, balanced, one score a person",
        cost=cost,
    )


NN = _spec(
    "nn_auc", "Membership inference, nearest row (AUC)",
    "How well closeness to the nearest synthetic row tells training people from others. Lower is better; the null "
    "is 0.5.", source="Chen et al. 2020 (GAN-leaks), black box", needs="T H S",
)  # fmt: skip
MC = _spec(
    "mc_auc", "Membership inference, rows within a radius (AUC)",
    "The same by how many synthetic rows lie within the median nearest distance. Lower is better; the null is 0.5.",
    source="Hilprecht et al. 2019, Monte Carlo attack", needs="T H S",
)  # fmt: skip
DOMIAS_KNN = _spec(
    "domias_knn_auc", "Membership inference, density ratio by neighbours (AUC)",
    "The same by the density of synthetic rows relative to a reference sample (5 neighbours). Lower is better; the "
    "null is 0.5.", source="van Breugel et al. 2023 (DOMIAS)",
)  # fmt: skip
GANLEAKS = _spec(
    "ganleaks_cal_auc", "Membership inference, calibrated distance (AUC)",
    "The same by the nearest distance relative to a reference sample. Lower is better; the null is 0.5.",
    source="Chen et al. 2020 (GAN-leaks), calibrated",
)  # fmt: skip
DOMIAS_KDE = _spec(
    "domias_kde_auc", "Membership inference, density ratio by kernels (AUC)",
    "The same by kernel densities of synthetic and reference rows on at most 16 principal components. Lower is better; "
    "the null is 0.5.", source="van Breugel et al. 2023 (DOMIAS)",
)  # fmt: skip
LOGAN = _spec(
    "logan_auc", "Membership inference, logistic classifier (AUC)",
    "The same by a classifier that was trained to tell synthetic from reference rows. Lower is better; the null is 0.5.",
    source="Hayes et al. 2019 (LOGAN)",
)  # fmt: skip
DOMIAS_CLF = _spec(
    "domias_clf_auc", "Membership inference, boosted classifier (AUC)",
    "The same by gradient boosting of synthetic against reference rows in five folds. Lower is better; the null is 0.5.",
    source="density ratio by classification, cross-fitted", cost="C",
)  # fmt: skip
MAX_AUC = _spec(
    "max_auc", "Membership inference, best attack (AUC)",
    "The most successful of the attacks, interval widened for the choice (Bonferroni). Lower is better; the null "
    "is 0.5.", source="the highest AUC",
)  # fmt: skip
TPR_1 = _spec(
    "tpr_at_1pct_fpr", "Members found at 1 % false alarms",
    "Share of training people whom the best attacker flags while flagging 1 % of others wrongly. Lower is better; the "
    "null is 1 %. Needs 1,000 people outside training.", source="Carlini et al. 2022, low false-positive rates",
)  # fmt: skip
TPR_01 = _spec(
    "tpr_at_01pct_fpr", "Members found at 0.1 % false alarms",
    "The same at one false alarm in a thousand. Lower is better; the null is 0.1 %. Needs 10,000 people outside "
    "training.", source="Carlini et al. 2022, low false-positive rates",
)  # fmt: skip
ADVANTAGE = _spec(
    "advantage", "Attacker's advantage",
    "Members found minus others wrongly flagged, at the threshold that serves the attacker best; the threshold is "
    "chosen on one half of the people and judged on the other. Lower is better; the null is 0.",
    source="Yeom et al. 2018, max(TPR - FPR), cross-fitted", low=-1.0,
)  # fmt: skip


@metric(NN, floor="ref_train")
def nn_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Nearest synthetic row."""
    return [_single(ctx, NN, "nn")]


@metric(MC, floor="ref_train")
def mc_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Synthetic rows within the median nearest distance."""
    return [_single(ctx, MC, "mc")]


@metric(DOMIAS_KNN, floor="ref_train")
def domias_knn_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Density of synthetic rows over density of reference rows, by the fifth neighbour."""
    return [_single(ctx, DOMIAS_KNN, "domias_knn")]


@metric(GANLEAKS, floor="ref_train")
def ganleaks_cal_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Nearest reference distance minus nearest synthetic distance."""
    return [_single(ctx, GANLEAKS, "ganleaks_cal")]


@metric(DOMIAS_KDE, floor="ref_train")
def domias_kde_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Ratio of kernel densities."""
    return [_single(ctx, DOMIAS_KDE, "domias_kde")]


@metric(LOGAN, floor="ref_train")
def logan_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Logistic classifier of synthetic against reference rows."""
    return [_single(ctx, LOGAN, "logan")]


@metric(DOMIAS_CLF, floor="ref_train")
def domias_clf_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Gradient boosting of synthetic against reference rows."""
    return [_single(ctx, DOMIAS_CLF, "domias_clf")]


@metric(MAX_AUC, floor="ref_train")
def max_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """The attack of highest AUC with a simultaneous 95 % interval."""
    attacks = attack(ctx)
    best = strongest(attacks.aucs)
    others = attacks.people[1]
    if best is None:
        return [MAX_AUC.result(None, n=others, null=0.5, note="too few people for an interval")]
    if ctx.with_plots:
        ctx.plots["membership"] = _curves(attacks, best)
    note = f"attack: {best}" + (f"; {attacks.reason}" if attacks.reason else "")
    found = attacks.aucs[best]
    return [MAX_AUC.result(found.value, se=found.se, interval=widened(attacks.aucs), n=others, null=0.5, note=note)]


@metric(TPR_1, floor="ref_train")
def tpr_at_1pct_fpr(ctx: EvaluationContext) -> list[MetricResult]:
    """Best attack and each attack at 1 % false positives."""
    return _rates(ctx, TPR_1, 0.01)


@metric(TPR_01, floor="ref_train")
def tpr_at_01pct_fpr(ctx: EvaluationContext) -> list[MetricResult]:
    """Best attack and each attack at 0.1 % false positives."""
    return _rates(ctx, TPR_01, 0.001)


@metric(ADVANTAGE, floor="ref_train")
def advantage(ctx: EvaluationContext) -> list[MetricResult]:
    """Best attack and each attack; thresholds are chosen on one half of the people and judged on the other."""
    attacks = attack(ctx)
    members, others = attacks.people
    if min(members, others) < 4:
        return [ADVANTAGE.underpowered(others, 4, "people outside training", null=0.0)]
    half = halves(ctx, attacks.members)
    found = {name: _advantage(score, attacks.members, half) for name, score in attacks.scores.items()}
    best = max(found, key=lambda name: found[name][0])
    z = bonferroni(len(found))
    ends = [[value + sign * z * se for value, se in found.values()] for sign in (-1, 1)]
    interval = (max(-1.0, max(ends[0])), min(1.0, max(ends[1])))
    value, error = found[best]
    rows = [ADVANTAGE.result(value, se=error, interval=interval, n=others, null=0.0, note=f"attack: {best}")]
    return rows + [ADVANTAGE.result(v, se=se, n=others, null=0.0, key1=name) for name, (v, se) in found.items()]


def strongest(aucs: Mapping[str, Auc]) -> str | None:
    """The attack of highest AUC; None where there are too few people for its error."""
    known = {name: found for name, found in aucs.items() if np.isfinite(found.se)}
    return max(known, key=lambda name: known[name].value) if known else None


def widened(aucs: Mapping[str, Auc]) -> tuple[float, float]:
    """95 % interval of the highest of several AUCs: the highest of each end, all at Bonferroni's level."""
    z = bonferroni(len(aucs))
    ends = [found.interval(z) for found in aucs.values() if np.isfinite(found.se)]
    return max(low for low, _ in ends), max(high for _, high in ends)


def bonferroni(attacks: int) -> float:
    """Normal quantile of a two-sided 95 % level that holds for so many attacks at once."""
    from scipy.stats import norm

    return float(norm.ppf(1 - 0.025 / attacks))


def halves(ctx: EvaluationContext, members: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) a random half of the members and of the others, the same for every synthetic cohort."""

    def make() -> NDArray[np.bool_]:
        chosen = np.zeros(len(members), dtype=bool)
        for group in (np.flatnonzero(members), np.flatnonzero(~members)):
            chosen[ctx.sides.rng("priv.mia", "halves").permutation(group)[: len(group) // 2]] = True
        return chosen

    return ctx.sides.once("priv/halves", make)


def rate_interval(
    scores: NDArray[np.floating], members: NDArray[np.bool_], fpr: float, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Standard error and interval of the true-positive rate at a false-positive rate.

    Clopper and Pearson's interval for as many people as the error stands for. The threshold is itself estimated from
    the non-members, which adds the slope of the ROC curve times the error of the false-positive rate (Linnet 1987).
    """
    n, others = int(members.sum()), int((~members).sum())
    rate = tpr_at_fpr(scores, members, fpr)
    noise = float(np.sqrt(fpr * (1 - fpr) / others))
    # Over a span as wide as the rate itself: nearby, the slope of a staircase is 0 or infinite by chance.
    slope = (tpr_at_fpr(scores, members, 2 * fpr) - tpr_at_fpr(scores, members, 0.0)) / (2 * fpr)
    sampling = rate * (1 - rate) / n
    variance = sampling + (slope * noise) ** 2
    effective = n * sampling / variance if sampling > 0 else float(n)
    low, high = clopper_pearson(rate * effective, effective, confidence=confidence)
    return float(np.sqrt(variance)), low, high


def _rates(ctx: EvaluationContext, spec: MetricSpec, fpr: float) -> list[MetricResult]:
    attacks = attack(ctx)
    others = attacks.people[1]
    if others < NEEDED[fpr]:
        return [spec.underpowered(others, NEEDED[fpr], "people outside training", null=fpr)]
    rates = {name: tpr_at_fpr(s, attacks.members, fpr) for name, s in attacks.scores.items()}
    best = max(rates, key=lambda name: rates[name])
    level = 1 - 0.05 / len(rates)
    wide = [rate_interval(s, attacks.members, fpr, confidence=level) for s in attacks.scores.values()]
    rows: list[MetricResult] = []
    for name, rate in rates.items():
        error, low, high = rate_interval(attacks.scores[name], attacks.members, fpr)
        row = spec.result(rate, se=error, interval=(low, high), n=others, null=fpr, key1=name)
        if name == best:
            together = max(low for _, low, _ in wide), max(high for _, _, high in wide)
            rows.insert(0, spec.result(rate, se=error, interval=together, n=others, null=fpr, note=f"attack: {best}"))
        rows.append(row)
    return rows


def _single(ctx: EvaluationContext, spec: MetricSpec, name: str) -> MetricResult:
    attacks = attack(ctx)
    if name not in attacks.aucs:
        return spec.result(None, null=0.5, note=attacks.reason or TOO_FEW)
    found = attacks.aucs[name]
    return spec.result(found.value, se=found.se, n=attacks.people[1], null=0.5)


def _advantage(scores: NDArray[np.float64], members: NDArray[np.bool_], half: NDArray[np.bool_]) -> tuple[float, float]:
    """TPR - FPR and its error, the mean of both halves, each at the threshold that is best in the other."""
    values, variance = [], 0.0
    for chosen in (half, ~half):
        order = np.unique(scores[chosen])[::-1]
        true, false = (_above(scores[chosen & group], order) for group in (members, ~members))
        threshold = order[int(np.argmax(true - false))]
        rates = [float((scores[~chosen & group] >= threshold).mean()) for group in (members, ~members)]
        values.append(rates[0] - rates[1])
        sizes = [int((~chosen & group).sum()) for group in (members, ~members)]
        variance += sum((p * (1 - p) + 0.25 / n) / n for p, n in zip(rates, sizes, strict=True)) / 4
    return float(np.mean(values)), float(np.sqrt(variance))


def _above(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of scores at or above each threshold."""
    return np.asarray(1.0 - np.searchsorted(np.sort(scores), thresholds, side="left") / len(scores))


def _curves(attacks: Attacks, best: str) -> dict[str, Any]:
    """ROC curves; points that stand for fewer than 11 people of either kind are left out."""
    members, others = attacks.people
    grid = np.logspace(-3, 0, 61)
    shown = grid * others >= FEWEST_SHOWN
    curves = {}
    for name, scores in attacks.scores.items():
        true = np.interp(grid, *roc_points(scores, attacks.members))
        kept = shown & (true * members >= FEWEST_SHOWN)
        curves[name] = {"fpr": grid[kept].round(6).tolist(), "tpr": true[kept].round(4).tolist()}
    return {"attack": best, **curves[best], "curves": curves, "members": members, "others": others}
