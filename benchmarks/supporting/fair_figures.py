"""Figures of fairness of a model of real people, whatever it was trained on: two groups, one outcome, one line.

Rates are taken where as many people are called positive as are (as in `pipeline/evaluation/fairness`), leakages are the
balanced accuracy of the best guess of the group from one yes or no, which of two groups is 1/2 + |gap of rates| / 2.
A figure that cannot be told (a group without a case) is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from supporting.fair_rows import FairSplit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

    Numbers = NDArray[np.float64]

LEAST_SHARE = 0.01
"""Share of the holdout from which a sub-group's representation is told."""
T975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""97.5 % quantile of Student's t of one degree of freedom less than seeds."""


@dataclass(frozen=True)
class People:
    """Real people whose outcome is known, with their group: 0 the favoured, 1 the other."""

    rows: NDArray[np.int64]
    truth: NDArray[np.bool_]
    group: NDArray[np.int64]

    @classmethod
    def of(cls, split: FairSplit, cohort: Cohort) -> People:
        """The rows of a cohort that belong to one of the two groups."""
        levels = list(cohort.schema.column(split.data.protected).levels or [])
        group = cohort.codes(split.data.protected)
        number = np.full(len(group), -1)
        for k, level in enumerate(split.data.groups):
            number[group == levels.index(level)] = k
        outcome = cohort.codes(split.task.label)
        rows = np.flatnonzero((number >= 0) & (outcome >= 0))
        return cls(rows, outcome[rows] == 1, number[rows])


def interval(values: list[float]) -> str:
    """Mean and half the width of its 95 % interval over seeds (Student); of one seed the figure alone."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = T975.get(len(values), 2.0) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{np.mean(values):.3f} ± {half:.3f}"


def figures(people: People, scores: Numbers, *, ranked: bool = True) -> dict[str, float]:
    """Figures of scores for real people; AUROCs, and rates at a chance of 1/2, only of scores that rank."""
    from sklearn.metrics import average_precision_score

    from pipeline.evaluation.fairness.predictions import at_prevalence
    from pipeline.evaluation.intervals import auc

    called = at_prevalence(scores, people.truth)
    inside = [people.group == g for g in (0, 1)]
    rate, hits, misses = (
        [_mean(called[i & among]) for i in inside]
        for among in (np.ones(len(called), dtype=bool), people.truth, ~people.truth)
    )
    found = {
        "precision": _share(called[people.truth].sum(), called.sum()),
        "recall": _mean(called[people.truth]),
        "parity_gap": rate[0] - rate[1],
        "opportunity_gap": hits[0] - hits[1],
        "odds_gap": float(np.maximum(abs(hits[0] - hits[1]), abs(misses[0] - misses[1]))),
        "leak_model": 0.5 + abs(rate[0] - rate[1]) / 2,
    }
    if ranked:
        areas = [auc(scores[i], people.truth[i]) for i in inside]
        found |= {"auroc": auc(scores, people.truth), "auroc_gap": areas[0] - areas[1]}
        found["auprc"] = float(average_precision_score(people.truth, scores)) if people.truth.any() else np.nan
        half = scores >= 0.5
        found["parity_gap_half"] = _mean(half[inside[0]]) - _mean(half[inside[1]])
        found |= {f"{name}_half": value for name, value in _at_half(half, people.truth).items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _at_half(called: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of the positive class where a chance of 1/2 is a yes; nobody called: 0."""
    right = int((called & truth).sum())
    return {
        "accuracy": _mean(called == truth),
        "precision": right / max(int(called.sum()), 1),
        "recall": _share(right, truth.sum()),
        "f1": _share(2 * right, called.sum() + truth.sum()),
    }


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def of_rows(split: FairSplit, rows: Cohort) -> dict[str, float]:
    """Figures of the rows themselves: leakage from their outcome, and the sub-group furthest out of proportion."""
    people = People.of(split, rows)
    share = [_mean(people.truth[people.group == g]) for g in (0, 1)]
    found = {
        "label_gap": share[0] - share[1],
        "leak_data": 0.5 + abs(share[0] - share[1]) / 2,
        "ldss": worst_ldss(split, rows),
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def worst_ldss(split: FairSplit, rows: Cohort) -> float:
    """Largest |log odds ratio| to the holdout, over levels of the sub-group columns and their pairs of 1 % and more."""
    from pipeline.evaluation.fairness.representation import log_disparity

    worst = 0.0
    names = split.data.subgroups
    for crossed in [*((n,) for n in names), *combinations(names, 2)]:
        sides = []
        for cohort in (rows, split.holdout):
            key = np.zeros(cohort.n_rows, dtype=np.int64)
            for name in crossed:
                key = key * (len(cohort.schema.column(name).levels or []) + 1) + cohort.codes(name) + 1
            sides.append(key)
        made, real = (np.bincount(k, minlength=max(map(np.max, sides)) + 1) for k in sides)
        for g in np.flatnonzero(real >= LEAST_SHARE * len(sides[1])):
            value, _ = log_disparity(float(made[g]), len(sides[0]), float(real[g]), len(sides[1]))
            worst = max(worst, abs(value))
    return worst


def best_order(people: People, scores: Numbers) -> Numbers:
    """Scores changed as little as parity allows: each group's first rows up to the same rate go before all others.

    No other order of these people in which both groups are called alike has a higher AUROC, given what the scores know
    of risk: the least that parity costs after the fact.
    """
    chosen = np.zeros(len(scores))
    for g in (0, 1):
        mine = people.group == g
        line = np.quantile(scores[mine], 1 - people.truth.mean())
        chosen[mine] = scores[mine] > line
    return scores + 100 * chosen
