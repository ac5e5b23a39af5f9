"""Nearest-neighbour comparisons that train no classifier: adversarial accuracy, identifiability, authenticity.

Each is set against the same figure for people outside training, so what is a property of the population drops out.
Sides are compared at equal numbers of rows (`nearness.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.privacy.nearness import Listed, listed, nearer, standard_error, winners
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.neighbours import Neighbours
    from pipeline.evaluation.results import MetricResult

NNAA = MetricSpec(
    id="priv.nnaa_loss",
    family="privacy",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Closeness to training over that to others (NNAA loss)",
    caption="How much more the synthetic rows mingle with training rows than with holdout rows: adversarial accuracy "
    "against holdout minus that against training, at equal numbers of rows. Lower is better; the null is 0.",
    source="Yale et al. 2020, privacy loss; the mean over all subsamples of equal size, in closed form",
    cost="B",
)
IDENTIFIABILITY = MetricSpec(
    id="priv.identifiability",
    family="privacy",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Identifiability (excess over holdout)",
    caption="Share of training people who have a synthetic row nearer to them than any other training row, minus the "
    "same share of holdout people among holdout rows, at equal numbers. Lower is better; the null is 0.",
    source="Yoon et al. 2020 (ADS-GAN), epsilon-identifiability without entropy weights",
    cost="B",
)
AUTHENTICITY = MetricSpec(
    id="priv.authenticity",
    family="privacy",
    direction=0,
    range=(0.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Authenticity",
    caption="Share of synthetic rows that lie farther from their nearest training row than that row's own nearest "
    "neighbour does. The null is what holdout people score: far below it rows are copies, far above it they are off "
    "the population, so higher is not better.",
    source="Alaa et al. 2022, section 4, re-derived: the nearest neighbour is that of the training row",
    cost="B",
)


@metric(NNAA, floor="ref_train")
def nnaa_loss(ctx: EvaluationContext) -> list[MetricResult]:
    """AA(H, S) - AA(T, S); the two accuracies stand beside it as rows of their own."""
    size = min(len(ctx.rows(name, "reference")) for name in ("T", "H", "S"))
    if size < 2:
        return [NNAA.result(None, n=size, null=0.0, note=f"{size} rows a side, at least 2 needed")]
    real: dict[PartName, NDArray[np.float64]] = {}
    drawn: dict[PartName, NDArray[np.float64]] = {}
    groups: dict[PartName, NDArray[np.int64]] = {}
    clusters: dict[PartName, NDArray[np.int64]] = {}
    among = listed(ctx, "S", "S", size)
    for name in ("T", "H"):
        own, other = listed(ctx, name, name, size), listed(ctx, name, "S", size)
        real[name] = nearer(own, other)
        groups[name] = winners(ctx, own, other, (name, "S"))
        clusters[name] = ctx.side(name).clusters[ctx.rows(name)]
        drawn[name] = nearer(among, listed(ctx, "S", name, size))
    accuracy = {name: 0.5 * (float(real[name].mean()) + float(drawn[name].mean())) for name in real}
    people = ctx.synthetic.clusters[ctx.rows("S")]
    both = winners(ctx, listed(ctx, "S", "T", size), listed(ctx, "S", "H", size), ("T", "H"))
    errors = [standard_error(real[name], clusters[name], groups[name]) for name in real]
    errors.append(standard_error(drawn["H"] - drawn["T"], people, both))
    n = len(people)
    rows = [NNAA.result(accuracy["H"] - accuracy["T"], se=0.5 * float(np.hypot.reduce(errors)), n=n, null=0.0)]
    for (name, values), words, error in zip(drawn.items(), ("training", "holdout"), errors, strict=False):
        alone = standard_error(values, people, both)
        rows.append(
            NNAA.result(accuracy[name], se=0.5 * float(np.hypot(error, alone)), n=n, null=0.5, key1=f"AA {words}")
        )
    return rows


@metric(IDENTIFIABILITY, floor="ref_train")
def identifiability(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of T with a synthetic row nearer than the rest of T, minus that of H; the whole of S, T thinned to H."""
    size = min(len(ctx.rows("T", "reference")), len(ctx.rows("H", "reference")))
    if size < 2:
        return [IDENTIFIABILITY.result(None, n=size, null=0.0, note=f"{size} rows a side, at least 2 needed")]
    share, error = {}, {}
    for name in ("T", "H"):
        side: PartName = name
        own, found = listed(ctx, side, side, size), ctx.near(side, "S")
        whole = len(ctx.rows("S", "reference"))
        other = Listed(found.distance, found.index, whole, whole)
        hit = nearer(other, own)
        share[name] = float(hit.mean())
        people = ctx.side(side).clusters[ctx.rows(side)]
        error[name] = standard_error(hit, people, winners(ctx, other, own, ("S", side)))
    return [
        IDENTIFIABILITY.result(
            share["T"] - share["H"],
            se=float(np.hypot(error["T"], error["H"])),
            n=len(ctx.rows("H")),
            null=0.0,
            note=f"{share['T']:.1%} of training people, {share['H']:.1%} of others",
        )
    ]


@metric(AUTHENTICITY, floor="ref_train")
def authenticity(ctx: EvaluationContext) -> list[MetricResult]:
    """1[d(i*, NN_T(i*)) < d(s, i*)] with i* the training row nearest to s among all of T; ties one half."""
    if len(ctx.rows("T", "reference")) < 2:
        return [AUTHENTICITY.result(None, n=len(ctx.rows("S")), note="one training row has no neighbour")]
    outside, doubt = ctx.sides.once("priv/authenticity/holdout", lambda: _authenticity(ctx, "H"))
    value, error = _authenticity(ctx, "S")
    note = f"holdout people score {outside:.3f}, give or take {1.96 * doubt:.3f}"
    return [AUTHENTICITY.result(value, se=error, n=len(ctx.rows("S")), null=outside, note=note)]


def _authenticity(ctx: EvaluationContext, query: PartName) -> tuple[float, float]:
    """The mean over target rows of a side, and its error."""
    found = ctx.near(query, "T", k=1)
    values = authentic(ctx, found)
    people = ctx.side(query).clusters[ctx.rows(query)]
    return float(values.mean()), standard_error(values, people, ctx.sides.train.clusters[found.index[:, 0]])


def authentic(ctx: EvaluationContext, found: Neighbours) -> NDArray[np.float64]:
    """(n,) 1 where the nearest training row has a nearer neighbour of its own in T, 0 where not, 1/2 for a tie."""
    among = ctx.near("T", "T", of="reference", k=1)
    place = np.searchsorted(ctx.rows("T", "reference"), found.index[:, 0])
    spacing, distance = among.distance[place, 0], found.distance[:, 0]
    return np.where(spacing < distance, 1.0, np.where(spacing == distance, 0.5, 0.0))
