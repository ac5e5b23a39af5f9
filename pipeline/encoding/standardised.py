"""A whole table for a neural model, its numbers standardised: minus their mean, over their standard deviation.

What the NHS SynthVAE report fits its Gaussians to (spec 3.1). Skewed columns and spikes are badly described by it; the
normal scores of `mixed.py`, from which this differs in nothing else, are what to use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.encoding.mixed import MixedTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.encoding.scalers import QuantileScaler

LARGEST = 10.0
SMALLEST_SPREAD = 1e-9


class StandardisedTable(MixedTable):
    """A table with numbers on the scale of their mean and standard deviation, both told from the encoder alone."""

    def _scaled(self, name: str, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        scaler = self.encoder.numbers[name].scaler
        mean, spread = moments(scaler)
        return np.clip((scaler.from_uniform(uniform) - mean) / spread, -LARGEST, LARGEST)

    def _unscaled(self, name: str, scores: NDArray[np.float64], inside: NDArray[np.float64]) -> NDArray[np.float64]:
        scaler = self.encoder.numbers[name].scaler
        mean, spread = moments(scaler)
        start, end = scaler.interval(scaler.snap(mean + spread * scores))
        return np.clip(start + inside * (end - start), 1e-9, 1 - 1e-9)


def moments(scaler: QuantileScaler) -> tuple[float, float]:
    """Mean and standard deviation of a column as its scaler knows it: uniform inside each cell."""
    mean = float(scaler.mass @ (scaler.low + scaler.high)) / 2
    square = float(scaler.mass @ (scaler.low**2 + scaler.low * scaler.high + scaler.high**2)) / 3
    return mean, max(float(np.sqrt(max(square - mean**2, 0.0))), SMALLEST_SPREAD)
