"""Uncertainty of figures that are smooth in the shares and means of the rows: what each row adds to first order.

A figure of many pairs of columns is too dear to be computed again a thousand times. To first order it changes by the
mean of its influence over the rows that are drawn, so that its error is that of a mean over subjects, and a bootstrap
draw is one weighted mean. Source: the infinitesimal jackknife (Jaeckel 1972; Efron 1982, ch. 6), by cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.two_sample import mean_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext


def error_of(ctx: EvaluationContext, real: NDArray[np.floating], synthetic: NDArray[np.floating]) -> float:
    """Standard error of a figure from the influence of the rows of the first matched draw.

    Args:
        ctx: Both sides.
        real: (size,) influence of the holdout rows of the first matched draw; its mean is 0.
        synthetic: (size,) influence of the synthetic rows.
    """
    first = ctx.matched[0]
    return float(
        np.hypot(
            mean_error(real, ctx.sides.holdout.clusters[first.real]),
            mean_error(synthetic, ctx.synthetic.clusters[first.synthetic]),
        )
    )


def holdout_draws(ctx: EvaluationContext, value: float, real: NDArray[np.floating]) -> NDArray[np.float64]:
    """(draws,) a figure under the bootstrap draws of holdout subjects that all generators share, to first order."""
    rows = ctx.matched[0].real
    spread = np.zeros((len(ctx.sides.holdout), 2), dtype=np.float32)
    spread[rows, 0] = real
    spread[rows, 1] = 1.0
    moved = ctx.sides.holdout_weights @ spread
    return value + moved[:, 0].astype(np.float64) / np.maximum(moved[:, 1], 1e-12)
