"""Figures of fairness of a model of real people, whatever it was trained on: two groups, one outcome, one line.

Rates are taken where as many people are called positive as are (as in `pipeline/evaluation/fairness`), leakages are the
balanced accuracy of the best guess of the group from one yes or no, which of two groups is 1/2 + |gap of rates| / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from supporting.fair_rows import FairSplit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

    Numbers = NDArray[np.float64]

LEAST_SHARE = 0.01
"""Share of the holdout from which a sub-group's representation is told."""


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


def figures(people: People, scores: Numbers, *, ranked: bool = True) -> dict[str, float]:
    """Figures of scores for real people; AUROCs only of scores that rank."""
    from pipeline.evaluation.fairness.predictions import at_prevalence
    from pipeline.evaluation.intervals import auc

    called = at_prevalence(scores, people.truth)
    inside = [people.group == g for g in (0, 1)]
    rate, hits, misses = (
        [float(called[i & among].mean()) for i in inside]
        for among in (np.ones(len(called), dtype=bool), people.truth, ~people.truth)
    )
    found = {
        "precision": float(called[people.truth].sum() / called.sum()),
        "recall": float(called[people.truth].mean()),
        "parity_gap": rate[0] - rate[1],
        "opportunity_gap": hits[0] - hits[1],
        "odds_gap": max(abs(hits[0] - hits[1]), abs(misses[0] - misses[1])),
        "leak_model": 0.5 + abs(rate[0] - rate[1]) / 2,
    }
    if ranked:
        areas = [auc(scores[i], people.truth[i]) for i in inside]
        found |= {"auroc": auc(scores, people.truth), "auroc_gap": areas[0] - areas[1]}
        half = scores >= 0.5
        found["parity_gap_half"] = float(half[inside[0]].mean() - half[inside[1]].mean())
    return found


def of_rows(split: FairSplit, rows: Cohort) -> dict[str, float]:
    """Figures of the rows themselves: leakage from their outcome, and the sub-group furthest out of proportion."""
    people = People.of(split, rows)
    share = [float(people.truth[people.group == g].mean()) for g in (0, 1)]
    return {
        "label_gap": share[0] - share[1],
        "leak_data": 0.5 + abs(share[0] - share[1]) / 2,
        "ldss": worst_ldss(split, rows),
    }


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
