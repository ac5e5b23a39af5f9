"""Membership of a person with all visits: is a synthetic history nearer to people of training than to others?

A history is a set: its codes, its codes with the number of their visit, the gaps between visits, and how many visits
there are. Likeness is Jaccard's. A person is a member, not a row or a visit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import Auc, delong
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.visits.sides import refusal, visits_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.visits import Visits

PLACES = 10
"""Visits whose codes are told apart by number; of later ones it is only told that they are later."""
GAP_EDGES = np.array([1, 2, 4, 8, 15, 31, 61, 91, 181, 366, 731])
MOST_COUNT = 50
FEWEST = 20
CELLS = 4_000_000

VISIT_AUC = MetricSpec(
    id="priv.mia.visit_auc",
    family="privacy",
    direction=-1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S", "R1"}),
    version="1",
    title="Membership inference by whole histories (AUC)",
    caption="How well likeness of a person's visits to the most alike synthetic history tells training people from others: "
    "the better of likeness itself (`nearest`) and likeness beyond that to a reference sample (`calibrated`). Lower is "
    "better; the null is 0.5.",
    source="nearest-neighbour attack (Chen et al. 2020) on visits, as HALO does; members T against non-members H, one score "
    "a person; interval widened for the choice (Bonferroni)",
    cost="B",
)


@metric(VISIT_AUC, floor="ref_train")
def visit_auc(ctx: EvaluationContext) -> list[MetricResult]:
    """The better of two attacks, and each of them."""
    refused = refusal(ctx, VISIT_AUC)
    if refused:
        return refused
    people = [len(ctx.rows(name)) for name in ("T", "H")]
    if min(people) < FEWEST:
        return [VISIT_AUC.underpowered(min(people), FEWEST, "people of training, and others", null=0.5)]
    members = np.repeat([True, False], people)
    near = _likeness(ctx, "S")
    scores = {"nearest": near}
    if len(ctx.side("R1")) and ctx.side("R1").cohort.events is not None:
        scores["calibrated"] = near - ctx.sides.once("visits/likeness R1", lambda: _likeness(ctx, "R1"))
    found = {name: delong(score, members) for name, score in scores.items()}
    best = max(found, key=lambda name: found[name].value)
    rows = [VISIT_AUC.result(a.value, se=a.se, n=people[1], null=0.5, key1=name) for name, a in found.items()]
    headline = VISIT_AUC.result(
        found[best].value,
        se=found[best].se,
        interval=_widened(found[best], len(found)),
        n=people[1],
        null=0.5,
        note=f"attack: {best}" + ("" if len(found) > 1 else "; no reference sample: not calibrated"),
    )
    return [headline, *rows]


def _widened(area: Auc, attacks: int) -> tuple[float, float]:
    from scipy.stats import norm

    return area.interval(float(norm.ppf(1 - 0.025 / attacks)))


def _likeness(ctx: EvaluationContext, reference: PartName) -> NDArray[np.float64]:
    """(targets,) likeness to the most alike history of a side, targets of T first; a row is never compared with itself."""
    pool = _history(ctx, reference)[ctx.rows(reference, "reference")]
    return np.concatenate([_nearest(_history(ctx, name)[ctx.rows(name)], pool) for name in ("T", "H")])


def _history(ctx: EvaluationContext, name: PartName) -> csr_matrix:
    keeper = ctx if name == "S" else ctx.sides
    return keeper.once(f"visits/history {name}", lambda: history_sets(visits_of(ctx, name)))


def history_sets(visits: Visits) -> csr_matrix:
    """(people, features) 1 where a person's history has a feature."""
    from scipy.sparse import csr_matrix

    width = len(visits.vocabulary)
    of_code = visits.row_of_visit[visits.visit_of_code]
    place = np.minimum(visits.place_of_visit[visits.visit_of_code], PLACES)
    gap = visits.gaps()
    later = gap >= 0
    gap_class = np.searchsorted(GAP_EDGES, gap[later], side="right")
    starts = np.cumsum([0, width, width * (PLACES + 1), len(GAP_EDGES) + 1, MOST_COUNT + 1])
    rows = [of_code, of_code, visits.row_of_visit[later], np.arange(visits.n)]
    columns = [
        starts[0] + visits.code,
        starts[1] + place * width + visits.code,
        starts[2] + gap_class,
        starts[3] + np.minimum(visits.counts, MOST_COUNT),
    ]
    row, column = np.concatenate(rows), np.concatenate(columns)
    matrix = csr_matrix((np.ones(len(row), np.float32), (row, column)), shape=(visits.n, int(starts[-1])))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def _nearest(query: csr_matrix, pool: csr_matrix) -> NDArray[np.float64]:
    """(n,) Jaccard's likeness to the most alike row of the pool."""
    sizes = np.asarray(pool.sum(axis=1)).ravel()
    mine = np.asarray(query.sum(axis=1)).ravel()
    turned = pool.T.tocsc()
    step = max(1, CELLS // max(pool.shape[0], 1))
    best = np.zeros(query.shape[0])
    for start in range(0, query.shape[0], step):
        shared = (query[start : start + step] @ turned).toarray()
        either = mine[start : start + step, None] + sizes[None, :] - shared
        best[start : start + step] = (shared / np.maximum(either, 1.0)).max(axis=1)
    return best
