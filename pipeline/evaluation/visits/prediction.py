"""Next-visit prediction: a model of synthetic histories says which codes real people have at their next visit.

Each of the commonest codes is predicted at every visit but a person's first, from the codes that the person ever had,
those of the visit before, and how many visits there were. All predictions are ridge regressions of a 0/1 target; one
solution serves all targets at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import auc, weighted_auc
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew
from pipeline.evaluation.visits.sides import refusal, visits_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.visits import Visits

TARGETS = 30
FEATURES = 200
FEWEST_CASES = 10
FEWEST_VISITS = 40
PENALTY = 10.0
"""Added to the sums of squares of features: ten visits' worth of nothing."""
MOST_DRAWS = 200
MOST_VISITS = 50_000

NEXT_VISIT = MetricSpec(
    id="util.next_visit",
    family="utility",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Next-visit prediction, trained on synthetic visits (mean AUROC)",
    caption="Mean AUROC with which the 30 commonest codes of a next visit are predicted from the visits before, on people "
    "of the holdout, by a model of synthetic people. Higher is better; `real` is the same by a model of the training "
    "people, `ratio` what of its skill above 0.5 is kept. 0.5 is chance.",
    source="HALO (Theodorou et al. 2023), next-visit codes; ridge regression",
    cost="B",
)


@dataclass(frozen=True)
class Histories:
    """Every visit but the first of each person.

    Attributes:
        person: (m,) row of the side.
        features: (m, p) float32 what is known before the visit, 1 for a constant last.
        truth: (m, k) bool whether the visit has each target.
    """

    person: NDArray[np.int64]
    features: NDArray[np.float32]
    truth: NDArray[np.bool_]


@metric(NEXT_VISIT)
def next_visit(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over codes; the same from the training people (key2 "real"), and the share of skill kept ("ratio")."""
    refused = refusal(ctx, NEXT_VISIT)
    if refused:
        return refused
    sides = ctx.sides
    targets, known = sides.once("next visit/codes", lambda: _codes(visits_of(ctx, "T"), visits_of(ctx, "H")))
    if not len(targets):
        return [NEXT_VISIT.result(None, null=0.5, note=f"no code is in {FEWEST_CASES} later visits of the holdout")]
    holdout = sides.once("next visit/H", lambda: histories(visits_of(ctx, "H"), targets, known))
    train = sides.once("next visit/T", lambda: histories(visits_of(ctx, "T"), targets, known))
    made = histories(visits_of(ctx, "S"), targets, known)
    for name, side in (("training", train), ("synthetic", made)):
        if len(side.person) < FEWEST_VISITS:
            note = TooFew(len(side.person), FEWEST_VISITS, f"{name} visits after a first one")
            return [NEXT_VISIT.result(None, null=0.5, note=note)]
    weights = sides.holdout_weights[:MOST_DRAWS][:, holdout.person]
    real = sides.once("next visit/real", lambda: _scored(train, holdout, weights))
    found = _scored(made, holdout, weights)
    ratio = (found[0] - 0.5) / (real[0] - 0.5) if real[0] > 0.5 else float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (found[1] - 0.5) / (real[1] - 0.5)
    n = len(holdout.person)
    return [
        NEXT_VISIT.result(found[0], se=_spread(found[1]), n=n, null=0.5, note=f"{len(targets)} codes", draws=found[1]),
        NEXT_VISIT.result(real[0], se=_spread(real[1]), n=n, null=0.5, key2="real"),
        NEXT_VISIT.result(
            ratio if _spread(real[1]) * 3 < real[0] - 0.5 else None, se=_spread(ratios), n=n, null=1.0, key2="ratio",
            note="" if _spread(real[1]) * 3 < real[0] - 0.5 else "real visits tell too little of the next one",
        ),
    ]  # fmt: skip


def histories(visits: Visits, targets: NDArray[np.int64], known: NDArray[np.int64]) -> Histories:
    """The visits after a first one, at most `MOST_VISITS` of them (those of the first people).

    Args:
        visits: of a side.
        targets: (k,) codes to be predicted.
        known: codes that are looked at before.
    """
    from scipy.sparse import csr_matrix

    total, width = len(visits.day), len(visits.vocabulary)
    presence = csr_matrix((np.ones(len(visits.code), np.float32), (visits.visit_of_code, visits.code)), (total, width))
    place = visits.place_of_visit
    later = np.flatnonzero(place > 0)[:MOST_VISITS]
    known_now = presence[:, known].toarray()
    # Ever before: sums within a person, of the visits up to the one before.
    ever = np.cumsum(known_now, axis=0, dtype=np.float32)
    first = later - place[later]
    before = ever[later - 1] - np.where((first > 0)[:, None], ever[np.maximum(first - 1, 0)], 0)
    features = np.concatenate(
        [
            (before > 0.5).astype(np.float32),
            known_now[later - 1],
            np.log1p(place[later])[:, None].astype(np.float32),
            np.ones((len(later), 1), dtype=np.float32),
        ],
        axis=1,
    )
    return Histories(visits.row_of_visit[later], features, presence[later][:, targets].toarray() > 0)


def _codes(train: Visits, holdout: Visits) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The commonest codes of T's later visits that enough of the holdout's have and lack, and the codes looked at before."""
    counts = [
        np.bincount(v.code[v.place_of_visit[v.visit_of_code] > 0], minlength=len(v.vocabulary))
        for v in (train, holdout)
    ]
    later = int((holdout.place_of_visit > 0).sum())
    fit = (counts[1] >= FEWEST_CASES) & (later - counts[1] >= FEWEST_CASES) & (counts[0] >= FEWEST_CASES)
    order = np.argsort(-counts[0], kind="stable")
    everywhere = np.bincount(train.code, minlength=len(train.vocabulary))
    return order[fit[order]][:TARGETS], np.argsort(-everywhere, kind="stable")[:FEATURES]


def _scored(learned: Histories, holdout: Histories, weights: NDArray[np.float32]) -> tuple[float, NDArray[np.float64]]:
    """Mean AUROC on the holdout of a model of `learned`, and its bootstrap."""
    x, y = learned.features.astype(np.float64), learned.truth.astype(np.float64)
    coefficients = np.linalg.solve(x.T @ x + PENALTY * np.eye(x.shape[1]), x.T @ y)
    scores = np.round(holdout.features @ coefficients, 10)
    value = float(np.mean([auc(s, t) for s, t in zip(scores.T, holdout.truth.T, strict=True)]))
    draws = [weighted_auc(s, t, weights) for s, t in zip(scores.T, holdout.truth.T, strict=True)]
    return value, np.mean(draws, axis=0)


def _spread(draws: NDArray[np.float64]) -> float:
    known = draws[np.isfinite(draws)]
    return float(known.std(ddof=1)) if len(known) > 1 else float("nan")
