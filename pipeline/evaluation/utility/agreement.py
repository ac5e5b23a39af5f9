"""Does somebody who chooses among models by synthetic rows choose as by real ones? Agreement of the order of models.

Nine models of different kinds (`learners.RANKED`, 36 pairs) are trained in both ways; the order is that of their AUROC
on the holdout. Four models, as in the papers, have six pairs and cannot tell much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec
from pipeline.evaluation.utility.learners import RANKED, TITLES
from pipeline.evaluation.utility.prediction import task_auroc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult
    from pipeline.evaluation.utility.regimes import Regime
    from pipeline.features.evaluation_spec import TaskSpec

CLEAR = 2.0
"""Standard errors of their difference by which two models must differ on real rows to be a pair that counts."""

SRA = MetricSpec(
    id="util.sra",
    family="utility",
    direction=1,
    range=(0, 1),
    needs=frozenset({"T", "H", "S", "task"}),
    version="1",
    title="Agreement of model rankings",
    caption="Share of pairs of nine models that are in the same order trained on synthetic as trained on real rows, both "
    "tested on real people. Higher is better; 0.5 is chance.",
    source="Jordon, Yoon and van der Schaar 2018 (SRA), with models tested on real rows",
    cost="C",
)
KENDALL = MetricSpec(
    id="util.kendall",
    family="utility",
    direction=1,
    range=(-1, 1),
    needs=frozenset({"T", "H", "S", "task"}),
    version="1",
    title="Rank correlation of models",
    caption="Kendall's rank correlation of the AUROCs of nine models trained on real and on synthetic rows. Higher is "
    "better; 0 is chance.",
    source="Kendall 1945 (tau-b)",
    cost="C",
)


@dataclass(frozen=True)
class Ranking:
    """AUROCs of L models in two regimes.

    Attributes:
        real: (L,) trained and tested on real rows.
        made: (L,) in the other regime.
        real_draws: (draws, L) bootstrap of `real`.
        made_draws: (draws, L) bootstrap of `made`; of the same people where both are tested on the holdout.
        n: Tested rows.
        reason: Why there is none.
    """

    real: NDArray[np.float64]
    made: NDArray[np.float64]
    real_draws: NDArray[np.float64]
    made_draws: NDArray[np.float64]
    n: int
    reason: str = ""


@metric(SRA)
def sra(ctx: EvaluationContext) -> list[MetricResult]:
    """All pairs; those whose order real rows leave no doubt of (key2 "clear"); within S alone (key2 "tsts")."""
    rows = []
    for task in ctx.plan.tasks:
        found = ranking(ctx, task, "tstr")
        rows.append(_row(SRA, found, task, "", None, 0.5))
        clear = None
        if not found.reason:
            apart = np.abs(found.real[:, None] - found.real)
            error = (found.real_draws[:, :, None] - found.real_draws[:, None, :]).std(axis=0, ddof=1)
            clear = (apart > CLEAR * error) & ~np.eye(len(apart), dtype=bool)
        rows.append(_row(SRA, found, task, "clear", clear, 0.5))
        rows.append(_row(SRA, ranking(ctx, task, "tsts"), task, "tsts", None, 0.5))
        if ctx.with_plots and not found.reason:
            ctx.plots.setdefault("ranking", []).append(
                {
                    "task": task.name,
                    "models": [TITLES[m] for m in RANKED],
                    "real": [round(float(x), 4) for x in found.real],
                    "synthetic": [round(float(x), 4) for x in found.made],
                }
            )
    return rows


@metric(KENDALL)
def kendall(ctx: EvaluationContext) -> list[MetricResult]:
    """Tau-b of all models; not estimable where all of them score alike."""
    rows = []
    for task in ctx.plan.tasks:
        found = ranking(ctx, task, "tstr")
        if found.reason:
            rows.append(KENDALL.result(None, n=found.n, scope="task", key1=task.name, note=found.reason))
            continue
        value = float(tau_b(found.real[None], found.made[None])[0])
        draws = tau_b(found.real_draws, found.made_draws)
        known = draws[np.isfinite(draws)]
        rows.append(
            KENDALL.result(
                value,
                se=float(known.std(ddof=1)) if len(known) > 1 else None,
                n=found.n,
                null=0.0,
                scope="task",
                key1=task.name,
                note="" if np.isfinite(value) else "all models score alike",
                draws=draws if len(known) == len(draws) else None,
            )
        )
    return rows


def ranking(ctx: EvaluationContext, task: TaskSpec, regime: Regime) -> Ranking:
    """AUROCs of all ranked models on real rows and in a regime; made once."""

    def make() -> Ranking:
        pairs = [(task_auroc(ctx, task, m, "trtr"), task_auroc(ctx, task, m, regime)) for m in RANKED]
        lacking = next((s for pair in pairs for s in pair if s.value is None), None)
        if lacking is not None:
            none = np.zeros(0)
            return Ranking(none, none, none, none, lacking.n, lacking.note)
        return Ranking(
            np.array([a.value for a, _ in pairs], dtype=np.float64),
            np.array([b.value for _, b in pairs], dtype=np.float64),
            np.column_stack([a.draws for a, _ in pairs]),
            np.column_stack([b.draws for _, b in pairs]),
            pairs[0][1].n,
        )

    return ctx.once(f"ranking/{task.name}/{regime}", make)


def agreement(
    real: NDArray[np.float64], made: NDArray[np.float64], pairs: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """(draws,) share of pairs of models in the same order; a tie on either side counts as another order.

    Args:
        real: (draws, L) scores of L models.
        made: (draws, L) their scores elsewhere.
        pairs: (L, L) pairs that count; all of different models if None.

    Source: Jordon et al. 2018: 1 / (L (L - 1)) times the sum over j != k of 1[(A_j - A_k)(B_j - B_k) > 0].
    """
    size = real.shape[1]
    counted = ~np.eye(size, dtype=bool) if pairs is None else pairs
    same = (real[:, :, None] - real[:, None, :]) * (made[:, :, None] - made[:, None, :]) > 0
    return (same & counted).sum(axis=(1, 2)) / counted.sum()


def tau_b(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws,) Kendall's tau-b of (draws, L) scores; NaN where one side is all ties."""
    x, y = np.sign(a[:, :, None] - a[:, None, :]), np.sign(b[:, :, None] - b[:, None, :])
    size = np.sqrt((x**2).sum(axis=(1, 2)) * (y**2).sum(axis=(1, 2)))
    return np.divide((x * y).sum(axis=(1, 2)), size, out=np.full(len(a), np.nan), where=size > 0)


def _row(
    spec: MetricSpec, found: Ranking, task: TaskSpec, key2: str, pairs: NDArray[np.bool_] | None, null: float
) -> MetricResult:
    if found.reason:
        return spec.result(None, n=found.n, scope="task", key1=task.name, key2=key2, note=found.reason)
    if pairs is not None and not pairs.any():
        note = "no two models differ clearly on real rows"
        return spec.result(None, n=found.n, scope="task", key1=task.name, key2=key2, note=note)
    value = float(agreement(found.real[None], found.made[None], pairs)[0])
    draws = agreement(found.real_draws, found.made_draws, pairs)
    size = len(found.real)
    count = size * (size - 1) // 2 if pairs is None else int(pairs.sum()) // 2
    return spec.result(
        value,
        se=float(draws.std(ddof=1)),
        n=found.n,
        null=null,
        scope="task",
        key1=task.name,
        key2=key2,
        note=f"{count} pairs of {size} models",
        draws=None if key2 else draws,
    )
