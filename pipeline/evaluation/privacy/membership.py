"""Membership inference: can an attacker who has the synthetic cohort tell who was in training?

Targets are training rows (members) and holdout rows (non-members) of the same population, equally many. Three attacks:
`nn` (closeness to the nearest synthetic row), and two that weigh it against a reference sample R1 that no generator
has seen, `domias_knn` (ratio of local densities) and `ganleaks_cal` (difference of nearest distances). What decides
is the most successful attack, with intervals widened for having picked it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import Auc, clopper_pearson, delong, roc_points, tpr_at_fpr
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult

K = 5
ATTACKS = ("nn", "domias_knn", "ganleaks_cal")
NEEDED = {0.01: 1_000, 0.001: 10_000}
"""Non-members needed before a true-positive rate at that false-positive rate means anything."""
TINY = 1e-9


def _spec(name: str, title: str, caption: str, needs: str = "T H S") -> MetricSpec:
    return MetricSpec(
        id=f"priv.mia.{name}",
        family="privacy",
        direction=-1,
        range=(0.0, 1.0),
        needs=frozenset(needs.split()),
        version="1",
        title=title,
        caption=caption,
        source="members T against non-members H, balanced",
    )


NN = _spec(
    "nn_auc", "Membership inference, nearest row (AUC)",
    "How well closeness to the nearest synthetic row tells training people from others. Lower is better; the null "
    "is 0.5.",
)  # fmt: skip
DOMIAS = _spec(
    "domias_knn_auc", "Membership inference, density ratio (AUC)",
    "The same by the density of synthetic rows relative to a reference sample (DOMIAS, 5 neighbours). Null 0.5.",
    "T H S R1",
)  # fmt: skip
GANLEAKS = _spec(
    "ganleaks_cal_auc", "Membership inference, calibrated distance (AUC)",
    "The same by the nearest distance relative to a reference sample (GAN-leaks, calibrated). Null 0.5.",
    "T H S R1",
)  # fmt: skip
MAX_AUC = _spec(
    "max_auc", "Membership inference, best attack (AUC)",
    "The most successful of the attacks, interval widened for the choice (Bonferroni). Lower is better; the null "
    "is 0.5.",
)  # fmt: skip
TPR_1 = _spec(
    "tpr_at_1pct_fpr", "Members found at 1 % false alarms",
    "Share of training people whom the best attacker flags while flagging 1 % of others wrongly. Lower is better; the "
    "null is 1 %. Needs 1,000 non-members.",
)  # fmt: skip
TPR_01 = _spec(
    "tpr_at_01pct_fpr", "Members found at 0.1 % false alarms",
    "The same at one false alarm in a thousand. The null is 0.1 %. Needs 10,000 non-members.",
)  # fmt: skip


@dataclass(frozen=True)
class Attacks:
    """Scores of all targets.

    Attributes:
        scores: Attack to (n,) scores, higher means "member".
        members: (n,) True for training rows.
        clusters: (n,) subject numbers.
        aucs: Attack to AUC with error.
        reason: Why attacks are missing; empty if none is.
    """

    scores: dict[str, NDArray[np.float64]]
    members: NDArray[np.bool_]
    clusters: NDArray[np.int64]
    aucs: dict[str, Auc]
    reason: str

    @property
    def people(self) -> tuple[int, int]:
        """Distinct members and distinct non-members."""
        return len(np.unique(self.clusters[self.members])), len(np.unique(self.clusters[~self.members]))


@metric(NN, floor="ref_train")
def nn_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Nearest synthetic row."""
    return [_single(ctx, NN, "nn")]


@metric(DOMIAS, floor="ref_train")
def domias_knn_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Density of synthetic rows over density of reference rows."""
    return [_single(ctx, DOMIAS, "domias_knn")]


@metric(GANLEAKS, floor="ref_train")
def ganleaks_cal_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """Nearest reference distance minus nearest synthetic distance."""
    return [_single(ctx, GANLEAKS, "ganleaks_cal")]


@metric(MAX_AUC, floor="ref_train")
def max_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """The attack of highest AUC with a simultaneous 95 % interval."""
    attacks = _attack(ctx)
    name, best = max(attacks.aucs.items(), key=lambda item: item[1].value)
    members, others = attacks.people
    if not np.isfinite(best.se):
        return [MAX_AUC.result(None, n=others, null=0.5, note="too few people for an interval")]
    if ctx.with_plots:
        grid = np.logspace(-3, 0, 61)
        false, true = roc_points(attacks.scores[name], attacks.members)
        ctx.plots["membership"] = {
            "attack": name,
            "fpr": grid.round(6).tolist(),
            "tpr": np.interp(grid, false, true).round(4).tolist(),
            "members": members,
            "others": others,
        }
    note = f"attack: {name}" + (f"; {attacks.reason}" if attacks.reason else "")
    return [
        MAX_AUC.result(
            best.value,
            se=best.se,
            interval=best.interval(_bonferroni(len(attacks.aucs))),
            n=others,
            null=0.5,
            note=note,
        )
    ]


@metric(TPR_1, floor="ref_train")
def tpr_at_1pct_fpr(ctx: EvaluationContext) -> list[MetricResult]:
    """Best attack and each attack at 1 % false positives; exact binomial interval."""
    return _rates(ctx, TPR_1, 0.01)


@metric(TPR_01, floor="ref_train")
def tpr_at_01pct_fpr(ctx: EvaluationContext) -> list[MetricResult]:
    """Best attack and each attack at 0.1 % false positives; exact binomial interval."""
    return _rates(ctx, TPR_01, 0.001)


def _rates(ctx: EvaluationContext, spec: MetricSpec, fpr: float) -> list[MetricResult]:
    attacks = _attack(ctx)
    members, others = attacks.people
    if others < NEEDED[fpr]:
        return [
            spec.result(
                None,
                n=others,
                null=fpr,
                note=f"not estimable: {others} non-members among the targets, at least {NEEDED[fpr]} needed",
            )
        ]
    rates = {name: tpr_at_fpr(s, attacks.members, fpr) for name, s in attacks.scores.items()}
    best = max(rates, key=lambda name: rates[name])
    rows = []
    for key in ("", *rates):
        rate = rates[key or best]
        level = 1 - 0.05 / len(rates) if not key else 0.95
        interval = clopper_pearson(rate * members, members, confidence=level)
        width = clopper_pearson(rate * members, members)
        rows.append(
            spec.result(
                rate,
                se=(width[1] - width[0]) / (2 * 1.959964),
                interval=interval,
                n=others,
                null=fpr,
                scope="table",
                key1=key,
                note="" if key else f"attack: {best}",
            )
        )
    return rows


def _single(ctx: EvaluationContext, spec: MetricSpec, attack: str) -> MetricResult:
    attacks = _attack(ctx)
    if attack not in attacks.aucs:
        return spec.result(None, null=0.5, note=attacks.reason)
    found = attacks.aucs[attack]
    return spec.result(found.value, se=found.se, n=attacks.people[1], null=0.5)


def _bonferroni(attacks: int) -> float:
    from scipy.stats import norm

    return float(norm.ppf(1 - 0.025 / attacks))


def _attack(ctx: EvaluationContext) -> Attacks:
    return ctx.once("priv.mia", lambda: _make(ctx))


def _make(ctx: EvaluationContext) -> Attacks:
    sides = ctx.sides
    member_rows, other_rows = ctx.rows("T"), ctx.rows("H")
    to_synthetic = [ctx.near("T", "S"), ctx.near("H", "S")]
    first = np.concatenate([x.kth(1) for x in to_synthetic])
    fifth = np.concatenate([x.kth(K) for x in to_synthetic])
    scores = {"nn": -first}
    reason = ""
    if len(sides.reference1):
        to_reference = [ctx.near("T", "R1"), ctx.near("H", "R1")]
        near = np.concatenate([x.kth(1) for x in to_reference])
        scores["domias_knn"] = np.log(np.concatenate([x.kth(K) for x in to_reference]) + TINY) - np.log(fifth + TINY)
        scores["ganleaks_cal"] = near - first
    else:
        reason = "no reference sample: attacks are not calibrated"
    members = np.repeat([True, False], [len(member_rows), len(other_rows)])
    subjects = np.concatenate(
        [sides.train.clusters[member_rows], sides.holdout.clusters[other_rows] + len(sides.train)]
    )
    return Attacks(scores, members, subjects, {k: delong(v, members, subjects) for k, v in scores.items()}, reason)
