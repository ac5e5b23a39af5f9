"""Propensity: how far does the predicted chance of being synthetic stray from its overall share?

A logistic regression is fitted to all rows of both sides and read in sample (pMSE); its value grows with the number
of parameters, so it is shown as a ratio to what two samples of one population would give. Classifiers that are read
out of sample are in `detection.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.components import standardised
from pipeline.evaluation.intervals import subject_weights
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.results import MetricResult

ROWS_A_PARAMETER = 10
RIDGE = 1e-4
"""Penalty on standardised coefficients, in rows: keeps collinear levels and separated rows finite, changes nothing else."""
STEPS = 50
PMSE = MetricSpec(
    id="fid.joint.pmse_ratio",
    family="fidelity",
    direction=-1,
    range=(0.0, np.inf),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Propensity score error (ratio to its null)",
    caption="Mean squared distance of in-sample propensities from one half, over what two independent samples of one "
    "population would give. 1 is the null (slightly more or less is noise), 10 says that the difference is ten times "
    "that of chance. Lower is better. Linear: blind to interactions.",
    source="Woo et al. 2009; null of Snoke et al. 2018, (k-1)c(1-c)/N for independent draws",
    cost="B",
)


@dataclass(frozen=True)
class Propensity:
    """A fitted logistic regression on both sides.

    Attributes:
        pmse: Mean squared deviation of the propensities from the share of synthetic rows.
        parameters: Rank of the design with its intercept.
        draws: (draws,) pmse with whole subjects drawn again (one score step each).
    """

    pmse: float
    parameters: int
    draws: NDArray[np.float64]


@metric(PMSE)
def pmse_ratio(ctx: EvaluationContext) -> list[MetricResult]:
    """Against the holdout, mean over matched draws; and against the training rows (key2 "train") with Snoke's null."""
    return [_against(ctx, "H", ""), _against(ctx, "T", "train")]


def _against(ctx: EvaluationContext, name: PartName, key2: str) -> MetricResult:
    note = (
        "the null is that of rows fitted to these: (k-1)(1-c)²c/N; an independent sample gives 2"
        if key2
        else "nothing was fitted to the holdout: null of two independent samples, (k-1)c(1-c)/N"
    )
    real, made = standardised(ctx, name), standardised(ctx, "S")
    if not real.shape[1]:
        return PMSE.result(None, null=1.0, key2=key2, note="no column has spread in the training rows")
    size = min(ctx.matched_size, len(ctx.side(name)))
    needed = ROWS_A_PARAMETER * (real.shape[1] + 1)
    if 2 * size < needed:
        return PMSE.underpowered(size, -(-needed // 2), "rows a side", null=1.0, key2=key2)
    values, found = [], None
    for r, draw in enumerate(ctx.matched):
        left, right = draw.real, draw.synthetic[:size]
        if name != "H":
            left = ctx.sides.sample(len(ctx.side(name)), size, PMSE.id, name, r)
        rows = np.concatenate([real[left], made[right]]).astype(np.float64)
        weights = None
        if r == 0:
            weights = np.concatenate(
                [
                    subject_weights(ctx.side(name).clusters[left], _draws(ctx), ctx.sides.rng(PMSE.id, name)),
                    subject_weights(ctx.synthetic.clusters[right], _draws(ctx), ctx.rng(PMSE.id, "S")),
                ],
                axis=1,
            )
        fitted = propensity(rows, np.repeat([False, True], size), weights)
        found = found or fitted
        values.append(fitted.pmse / expected(fitted.parameters, 0.5, 2 * size, independent=not key2))
    assert found is not None
    ratio = found.draws / expected(found.parameters, 0.5, 2 * size, independent=not key2)
    return PMSE.result(float(np.mean(values)), se=float(ratio.std(ddof=1)), n=size, null=1.0, key2=key2, note=note)


def expected(parameters: int, share: float, rows: int, *, independent: bool) -> float:
    """pMSE of two samples of one population; of one fitted to the other where they are not independent (Snoke 2018)."""
    spread = share * (1 - share) if independent else (1 - share) ** 2 * share
    return max(parameters - 1, 1) * spread / rows


def propensity(
    rows: NDArray[np.floating], labels: NDArray[np.bool_], weights: NDArray[np.floating] | None = None
) -> Propensity:
    """Maximum likelihood by Newton's method, and the pMSE of reweighted rows by one score step from it.

    Args:
        rows: (N, p) standardised columns; an intercept is added.
        labels: (N,) True for synthetic rows.
        weights: (draws, N) bootstrap weights.

    Source: score bootstrap of Kline and Santos 2012.
    """
    design = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    centred = rows - rows.mean(axis=0)
    parameters = int(np.linalg.matrix_rank(centred.T @ centred, hermitian=True, rtol=1e-7)) + 1
    penalty = np.full(design.shape[1], RIDGE)
    penalty[0] = 0.0
    beta = np.zeros(design.shape[1])
    probability = np.full(len(rows), 0.5)
    loss = np.inf
    for _ in range(STEPS):
        bent = (design * (probability * (1 - probability))[:, None]).T @ design + np.diag(penalty + 1e-9)
        step = np.linalg.solve(bent, design.T @ (labels - probability) - penalty * beta)
        scale = 1.0
        while scale > 1e-3:
            candidate = beta + scale * step
            trial = _loss(design @ candidate, labels) + float(penalty @ candidate**2) / 2
            if trial <= loss:
                break
            scale /= 2
        improved = loss - trial
        if not trial <= loss:
            break
        beta, loss = candidate, trial
        probability = _logistic(design @ beta)
        if improved < 1e-8 * len(rows):
            break
    share = float(labels.mean())
    pmse = float(np.mean((probability - share) ** 2))
    if weights is None:
        return Propensity(pmse, parameters, np.zeros(0))
    bent = (design * (probability * (1 - probability))[:, None]).T @ design + np.diag(penalty + 1e-9)
    scores = design * (labels - probability)[:, None]
    moved = beta[:, None] + np.linalg.solve(bent, ((weights - 1) @ scores).T)
    again = _logistic(design @ moved).T
    total = weights.sum(axis=1)
    shares = (weights @ labels.astype(np.float64)) / total
    draws = (weights * (again - shares[:, None]) ** 2).sum(axis=1) / total
    return Propensity(pmse, parameters, draws)


def _draws(ctx: EvaluationContext) -> int:
    return min(ctx.sides.profile.draws, 200)


def _loss(logit: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    return float((np.logaddexp(0.0, logit) - labels * logit).sum())


def _logistic(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-np.clip(logit, -35.0, 35.0)))
