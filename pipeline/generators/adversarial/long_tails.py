"""Columns with a long tail on the axis of their logarithms, as CTAB-GAN shows them (Zhao et al. 2021, section 3.3).

A mixture of Gaussians spends its modes on the few largest numbers of such a column. What a column's logarithm is follows from
its fitted scaler alone; numbers go back by their cumulative probability (`encoding/modes.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.encoding.encoder import TableEncoder
from pipeline.encoding.modes import FEW_VALUES
from pipeline.encoding.scalers import QuantileScaler

if TYPE_CHECKING:
    from numpy.typing import NDArray

POINTS = 2_000
SKEWED = 2.0
"""Skewness above which a column has a long tail; the exponential distribution's."""
ABOVE_LEAST = 1.0
"""Added before the logarithm where numbers begin at 0 or below."""


def tails_logged(encoder: TableEncoder) -> TableEncoder:
    """The encoder with the scalers of columns with a long tail on the axis of their logarithms."""
    numbers = {
        k: replace(c, scaler=logged(c.scaler)) if long_tailed(c.scaler) else c for k, c in encoder.numbers.items()
    }
    return TableEncoder(encoder.schema, encoder.levels, numbers, encoder.blocks)


def long_tailed(scaler: QuantileScaler) -> bool:
    """Is the column far more skewed than its logarithm? Never one of few values, which are states of their own."""
    if scaler.empty or len(scaler.mass) <= FEW_VALUES:
        return False
    values = scaler.from_uniform((np.arange(POINTS) + 0.5) / POINTS)
    skew = _skewness(values)
    return skew > SKEWED and abs(_skewness(_log(scaler, values))) < skew


def logged(scaler: QuantileScaler) -> QuantileScaler:
    """The same distribution of log(x), or of log(x - least + 1) where numbers begin at 0 or below."""
    ends = _log(scaler, np.array([scaler.floor, scaler.ceiling]))
    low, high, cuts = (_log(scaler, x) for x in (scaler.low, scaler.high, scaler.cuts))
    return QuantileScaler(scaler.mass, low, high, cuts, None, float(ends[0]), float(ends[1]))


def _log(scaler: QuantileScaler, values: NDArray[np.float64]) -> NDArray[np.float64]:
    # Cuts lie between real values and may lie below the smallest one that is emitted.
    if scaler.floor > 0:
        return np.asarray(np.log(np.maximum(values, scaler.floor)))
    return np.asarray(np.log(np.maximum(values - scaler.floor, 0.0) + ABOVE_LEAST))


def _skewness(values: NDArray[np.float64]) -> float:
    spread = values.std()
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread else 0.0
