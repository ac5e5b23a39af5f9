"""Bringing the margins of drawn vectors to those of training: a shift a bit, level or count, a monotone map a number.

A network that predicts means draws dependence well and margins a little off, rare codes most of all, whose values are
small beside the error of the network. What is shifted here is told from drawn vectors and from what the encoder knows.
Vectors are in `real_vector.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pipeline.generators.denoising.real_vector import RealVector

KNOTS = 257
HALVINGS = 20
ROUNDS = 30
MOST = 3.0


@dataclass
class Margins:
    """What is done to drawn vectors before they become rows.

    Attributes:
        shift: (width,) added to bits, levels and counts.
        knots: (numbers, KNOTS) quantiles of each number as it was drawn; its rank among them is its new probability.
    """

    shift: NDArray[np.float64]
    knots: NDArray[np.float64]

    @classmethod
    def none(cls, vector: RealVector) -> Self:
        """Nothing is moved; the numbers stay where the network put them."""
        return cls(np.zeros(vector.width), np.zeros((0, KNOTS)))

    @classmethod
    def fit(cls, vector: RealVector, drawn: NDArray[np.float64], counts: Mapping[str, NDArray[np.float64]]) -> Self:
        """Learn from (n, width) drawn vectors.

        Args:
            vector: what stands where.
            drawn: vectors as the sampler gives them.
            counts: (common codes,) mean of each code a block.
        """
        encoder, shift = vector.encoder, np.zeros(vector.width)
        knots, at = [], 0
        share = np.linspace(0, 1, KNOTS)
        for number in encoder.numbers.values():
            column = drawn[:, at]
            at += 1
            if number.has_missing:
                gone = drawn[:, at]
                shift[at : at + 1] = _bisect(gone[:, None], np.array([number.missing_rate]))
                seen = column[gone + shift[at] < 0.5]
                column = seen if len(seen) > KNOTS else column
                at += 1
            knots.append(np.quantile(column, share))
        for level in encoder.levels.values():
            size = max(1, level.states)
            if level.states:
                shift[at : at + size] = _of_levels(drawn[:, at : at + size], level.frequency)
            at += size
        for name, places in vector.common.items():
            block, part = encoder.blocks[name], drawn[:, at : at + len(places)]
            if block.binary:
                found = _bisect(part, block.prevalence[places])
            else:
                found = _bisect(part, counts[name], lambda v: vector.plain_counts(v).mean(axis=0))
            shift[at : at + len(places)] = found
            at += len(places)
        return cls(shift, np.array(knots) if knots else np.zeros((0, KNOTS)))

    def apply(self, vector: RealVector, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, width) vectors with the margins of training."""
        from scipy.special import ndtri

        out, at = drawn + self.shift, 0
        share = np.linspace(0, 1, KNOTS)
        for number, knots in zip(vector.encoder.numbers.values(), self.knots, strict=False):
            # Knots that coincide would give all their rows one probability.
            apart = knots + 1e-9 * np.arange(KNOTS)
            out[:, at] = ndtri(np.clip(np.interp(drawn[:, at], apart, share), 1e-6, 1 - 1e-6))
            at += 1 + int(number.has_missing)
        return out


def _share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.clip(values, 0, 1).mean(axis=0)
    return out


def _bisect(
    values: NDArray[np.float64],
    target: NDArray[np.float64],
    mean: Callable[[NDArray[np.float64]], NDArray[np.float64]] = _share,
) -> NDArray[np.float64]:
    """(columns,) what to add to (rows, columns) values so that a mean that rises with them meets its target."""
    low, high = np.full(len(target), -MOST), np.full(len(target), MOST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        more = mean(values + middle) < target
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return np.asarray((low + high) / 2)


def _of_levels(values: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """(levels,) shifts after which levels, drawn in proportion to what is above 0, are as frequent as in training."""
    shift = np.zeros(len(frequency))
    for _ in range(ROUNDS):
        weight = np.maximum(values + shift, 1e-6)
        found = (weight / weight.sum(axis=1, keepdims=True)).mean(axis=0)
        shift += frequency - found
    return shift
