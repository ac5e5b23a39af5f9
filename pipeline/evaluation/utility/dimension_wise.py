"""Utility without a label: each of the most balanced columns and codes predicted from all the others.

The only utility of a table of codes that has no task. All predictions are ridge regressions of a 0/1 target on every
other feature; one inversion of the features' correlations serves all targets at once, so that 50 of them cost one fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import auc, weighted_auc
from pipeline.evaluation.linear_design import LinearDesign
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec, TooFew

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

TARGETS = 50
RAREST = 0.01
FEWEST_CASES = 10
PENALTY = 1e-2
"""Added to each feature's variance of 1."""
MOST_DRAWS = 200

DWPRED = MetricSpec(
    id="util.dwpred",
    family="utility",
    direction=-1,
    range=(0, 1),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Dimension-wise prediction",
    caption="Mean difference of the AUROC with which each of the 50 most balanced columns and codes is predicted from the "
    "others on the holdout, trained on real and on synthetic rows. Lower is better; the null is what two halves of the "
    "training rows differ by.",
    source="Choi et al. 2017 (medGAN, dimension-wise prediction), by ridge regression",
    cost="B",
)


@dataclass(frozen=True)
class Targets:
    """What is predicted.

    Attributes:
        design: Features fitted on T.
        places: (k,) positions of the targets among the design's features.
        names: k names of targets.
        truth: (k, holdout rows) the targets' 0/1 on the holdout.
        features: (holdout rows, p) the holdout through the design.
    """

    design: LinearDesign
    places: NDArray[np.int64]
    names: list[str]
    truth: NDArray[np.bool_]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """AUROC of each target on the holdout, and its bootstrap: (k,) and (draws, k)."""

    value: NDArray[np.float64]
    draws: NDArray[np.float64]


@metric(DWPRED)
def dwpred(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over targets, and the mean AUROCs themselves (key2 "real", "synthetic")."""
    sides = ctx.sides
    targets = sides.once("dwpred/targets", lambda: _targets(sides))
    if not len(targets.places):
        note = f"no column or code is carried by 1 to 50 % of training rows and {FEWEST_CASES} of the holdout"
        return [DWPRED.result(None, n=0, note=note)]
    rows = sides.sample(len(sides.train), sides.profile.rows, "util.dwpred", "train")
    real = sides.once("dwpred/real", lambda: _scored(sides, targets, sides.train, rows))
    null = sides.once("dwpred/null", lambda: _halves(sides, targets, rows))
    size = min(len(ctx.synthetic), len(rows))
    some = sides.sample(len(ctx.synthetic), size, "util.dwpred", "synthetic", ctx.replicate)
    if size < 2:
        return [DWPRED.result(None, n=size, null=null, note=TooFew(size, 2, "synthetic rows"))]
    made = _scored(sides, targets, ctx.synthetic, some)
    gaps = np.abs(made.value - real.value)
    draws = np.abs(made.draws - real.draws).mean(axis=1)
    worst = targets.names[int(np.argmax(gaps))]
    found = [
        DWPRED.result(
            float(gaps.mean()), se=float(draws.std(ddof=1)), n=len(gaps), null=null,
            note=f"{len(gaps)} targets; worst: {worst}", draws=draws,
        )
    ]  # fmt: skip
    for name, scored in (("real", real), ("synthetic", made)):
        error = float(scored.draws.mean(axis=1).std(ddof=1))
        found.append(
            DWPRED.result(float(scored.value.mean()), se=error, n=len(gaps), null=0.5, key2=name, note="mean AUROC")
        )
    if ctx.with_plots:
        ctx.plots["dimension_wise"] = {
            "names": targets.names,
            "real": [round(float(x), 3) for x in real.value],
            "synthetic": [round(float(x), 3) for x in made.value],
        }
    return found


def leave_one_out(features: NDArray[np.float32], places: NDArray[np.int64], groups: list[str]) -> NDArray[np.float64]:
    """(p, k) ridge coefficients of each target on all features outside its own group.

    With P the inverse of the features' covariance plus the penalty, the regression of one target on all else has the
    coefficients -P[j, others] / P[j, j]; with the other features of its group left out, the rows of -P[g, g]^-1 P[g, others].
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    p = centred.shape[1]
    precision = np.linalg.inv(centred.T @ centred / len(centred) + PENALTY * np.eye(p))
    named = np.array(groups)
    found = np.zeros((p, len(places)))
    for column, j in enumerate(places):
        own = np.flatnonzero(named == named[j])
        block = -np.linalg.solve(precision[np.ix_(own, own)], precision[own])
        found[:, column] = block[int(np.flatnonzero(own == j)[0])]
        found[own, column] = 0.0
    return found


def _targets(sides: RealSides) -> Targets:
    """The 0/1 features whose share in T is nearest to a half, between 1 and 99 %; of a binary column one."""
    design = LinearDesign(sides.train)
    kinds = {c.name: c for c in sides.encoder.columns}
    mean, std = design.mean, design.std
    candidates: list[tuple[float, int]] = []
    for i, (name, group) in enumerate(zip(design.names, design.groups, strict=True)):
        column = kinds.get(group)
        binary = column is None or (column.kind == "binary" and name == group) or column.kind == "categorical"
        if binary and not name.endswith(" missing") and RAREST <= mean[i] <= 1 - RAREST:
            candidates.append((abs(float(mean[i]) - 0.5), i))
    features = design.transform(sides.holdout)
    kept: list[int] = []
    truths: list[NDArray[np.bool_]] = []
    for _, i in sorted(candidates):
        truth = features[:, i] > (0.5 - mean[i]) / std[i]
        if min(int(truth.sum()), int((~truth).sum())) >= FEWEST_CASES and len(kept) < TARGETS:
            kept.append(i)
            truths.append(truth)
    names = [_said(sides, design.names[i]) for i in kept]
    empty = np.zeros((0, len(features)), dtype=bool)
    return Targets(design, np.array(kept, dtype=np.int64), names, np.stack(truths) if truths else empty, features)


def _scored(sides: RealSides, targets: Targets, side: Side, rows: NDArray[np.int64]) -> Scored:
    weights = sides.holdout_weights[:MOST_DRAWS]
    scores = _scores(targets, side, rows)
    value = np.array([auc(s, t) for s, t in zip(scores.T, targets.truth, strict=True)])
    draws = [weighted_auc(s, t, weights) for s, t in zip(scores.T, targets.truth, strict=True)]
    return Scored(value, np.column_stack(draws))


def _scores(targets: Targets, side: Side, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    coefficients = leave_one_out(targets.design.transform(side, rows), targets.places, targets.design.groups)
    # Rounded, so that rows that differ by less than an inversion's error are ties.
    return np.round(targets.features @ coefficients, 10)


def _halves(sides: RealSides, targets: Targets, rows: NDArray[np.int64]) -> float:
    """Mean difference between two halves of T, by subject: what nothing but chance makes."""
    _, subject = np.unique(sides.train.clusters[rows], return_inverse=True)
    first = sides.rng("util.dwpred", "halves").random(int(subject.max()) + 1)[subject] < 0.5
    if first.all() or not first.any():
        return float("nan")
    values = [
        np.array([auc(s, t) for s, t in zip(_scores(targets, sides.train, half).T, targets.truth, strict=True)])
        for half in (rows[first], rows[~first])
    ]
    return float(np.abs(values[0] - values[1]).mean())


def _said(sides: RealSides, name: str) -> str:
    """A feature's name; a code's own instead of its number."""
    block, _, number = name.rpartition("/")
    found = next((b.vocabulary for b in sides.encoder.blocks if b.name == block), None)
    return name if found is None else found[int(number)]
