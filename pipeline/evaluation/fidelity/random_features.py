"""Kernel discrepancy of very many rows through random Fourier features: linear in rows, no matrix of pairs.

The kernel is the mixture of `energy.py` on a Euclidean picture of the rows, in which a code block counts by the codes
that two rows do not share, divided by what two typical rows without a shared code have (Jaccard's dissimilarity has no
such features).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.fidelity.two_sample import TwoSample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, RealSides
    from pipeline.evaluation.distances import Points
    from pipeline.evaluation.encoding import Side

FEATURES = 1_024
WIDTHS = (0.5, 1.0, 2.0)
CHUNK = 4_096


class Features:
    """z with z(x)·z(y) close to the mixture kernel of x and y.

    Args:
        sides: For the layout of rows, the typical number of codes in T, and randomness.
        width: The middle of the three widths.

    Source: Rahimi and Recht 2007, cosines with a random phase.
    """

    def __init__(self, sides: RealSides, width: float) -> None:
        rng = sides.rng("fid.joint.mmd2", "features")
        points = sides.train.points
        scale = np.resize([1.0 / (width * w) for w in WIDTHS], FEATURES)
        self._phase = rng.uniform(0, 2 * np.pi, FEATURES)
        self._dense = rng.normal(size=(points.dense.shape[1], FEATURES)) * scale
        self._dense /= np.sqrt(max(points.columns * points.parts, 1))
        self._codes = [
            rng.normal(size=(p.shape[1], FEATURES)) * scale / np.sqrt(2 * max(p.nnz / p.shape[0], 1.0) * points.parts)
            for p in points.presence
        ]

    def __call__(self, points: Points) -> NDArray[np.float64]:
        """(n, 1024) features."""
        angle = points.dense @ self._dense + self._phase
        for presence, weights in zip(points.presence, self._codes, strict=True):
            angle += presence @ weights
        return np.sqrt(2.0 / FEATURES) * np.cos(angle)


def featured(ctx: EvaluationContext, width: float) -> TwoSample:
    """The unbiased squared discrepancy on the first matched draw, all its rows; error by the jackknife over subjects."""
    features = ctx.sides.once(f"joint/features/{width}", lambda: Features(ctx.sides, width))
    first = ctx.matched[0]
    real, made = ctx.sides.holdout, ctx.synthetic
    (sx, qx), (sy, qy) = (_sums(features, s, r) for s, r in ((real, first.real), (made, first.synthetic)))
    n, m = len(first.real), len(first.synthetic)
    left, right = float(sx @ sx - qx), float(sy @ sy - qy)
    across = float(sx @ sy)
    value = left / (n * (n - 1)) + right / (m * (m - 1)) - 2 * across / (n * m)
    variance = 0.0
    for side, rows, own, other, inside, sizes in (
        (real, first.real, sx, sy, left, (n, m)),
        (made, first.synthetic, sy, sx, right, (m, n)),
    ):
        groups = np.unique(side.clusters[rows], return_inverse=True)[1]
        a, b = (np.bincount(groups, weights=w) for w in _against(features, side, rows, own, other))
        kept = sizes[0] - np.bincount(groups)
        pairs = np.maximum(kept * (kept - 1), 1)
        without = (inside - 2 * a) / pairs - 2 * (across - b) / np.maximum(kept * sizes[1], 1)
        variance += (len(a) - 1) / len(a) * float(((without - without.mean()) ** 2).sum())
    return TwoSample(value, float(np.sqrt(variance)))


def _chunks(features: Features, side: Side, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    for lo in range(0, len(rows), CHUNK):
        yield features(side.points.take(rows[lo : lo + CHUNK]))


def _sums(features: Features, side: Side, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Sum of the features, and sum of their squared lengths."""
    total, squares = np.zeros(FEATURES), 0.0
    for z in _chunks(features, side, rows):
        total += z.sum(axis=0)
        squares += float((z * z).sum())
    return total, squares


def _against(
    features: Features, side: Side, rows: NDArray[np.int64], own: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each row's kernel summed over the other rows of its own side, and over the rows of the other side."""
    within, across = [], []
    for z in _chunks(features, side, rows):
        within.append(z @ own - (z * z).sum(axis=1))
        across.append(z @ other)
    return np.concatenate(within), np.concatenate(across)
