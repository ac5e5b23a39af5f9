"""Interval coding: a whole column as one number between 0 and 1, levels as intervals as long as they are frequent.

As HealthGAN has it (Yale et al. 2020, "Generation and evaluation of privacy preserving synthetic health data", section 3;
spec 3.2 and A6): the most frequent level comes first, and a cell is a draw of a normal distribution that is cut to its level's
interval. Whole numbers of a small range are levels in their own order, smoothed by one row each. A table so coded has numbers
only (`IntervalTable`), so that everything about numbers holds for it (`numbers.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.encoding.encoder import Encoded, LevelCodec, NumberCodec, TableEncoder
from pipeline.encoding.scalers import QuantileScaler

if TYPE_CHECKING:
    from numpy.typing import NDArray

REACH = 3.0
"""Standard deviations from an interval's middle to its ends."""
SMALL_RANGE = 50
"""Whole numbers that span at most so much are ordinal intervals."""
GRID = 20_000
"""Points at which a column's distribution is asked how frequent a whole number is."""
EDGE = 1e-6
"""Cells stay this share of their interval away from its ends, so that rounding never moves them into the next one."""


@dataclass(frozen=True)
class IntervalCodec(NumberCodec):
    """A column whose number is an interval and a place in it.

    Attributes:
        order: (intervals,) what each interval stands for: a state of a discrete column, or a whole number.
        normal: Are cells draws of a cut normal in their interval, as published? Otherwise even ones.
    """

    order: NDArray[np.int64]
    normal: bool

    @classmethod
    def of(
        cls, codec: LevelCodec | NumberCodec, order: NDArray[np.int64], share: NDArray[np.float64], *, normal: bool
    ) -> IntervalCodec:
        """Intervals of the given lengths, one after the other; the last one ends at exactly 1."""
        place = np.arange(len(order), dtype=np.float64)
        scaler = QuantileScaler(
            share / share.sum(), place, place, place[1:] - 0.5, None, 0.0, float(max(0, len(order) - 1))
        )
        missing = codec.missing_rate if isinstance(codec, NumberCodec) else 0.0
        return cls(codec.column, scaler, missing, order, normal)

    def uniform(self, meant: NDArray[np.integer], inside: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) numbers for what each cell is (n,), `inside` (0 to 1) saying where in its interval."""
        sorter = np.argsort(self.order)
        found = sorter[np.searchsorted(self.order, meant, sorter=sorter)]
        start, end = self.scaler.edges[found], self.scaler.edges[found + 1]
        return start + np.clip(inside, EDGE, 1 - EDGE) * (end - start)

    def meant(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n,) what each number stands for: the first interval whose upper limit is not below it."""
        return self.order[_interval(self.scaler.edges, uniform)]


class PlaceOrMissing:
    """What numbers share that are one place, beside a state of missing cells where there are any.

    Attributes:
        missing: Share of missing cells; 0 if there is no such state.
    """

    missing: float

    @property
    def scalar(self) -> bool:
        """Always."""
        return True

    @property
    def states(self) -> int:
        """Present, and missing where there is any."""
        return 1 + int(self.missing > 0)

    def shares(self) -> NDArray[np.float64]:
        """(states,) present and missing."""
        return np.array([1 - self.missing, self.missing])[: self.states]


@dataclass(frozen=True)
class IntervalNumber(PlaceOrMissing):
    """How such a column is shown: -1 to 1, which is the published 0 to 1 stretched.

    Attributes:
        edges: (intervals + 1,) limits, from 0 to exactly 1.
        missing: Share of missing cells; 0 if there is no such state.
        normal: See `IntervalCodec`.
    """

    edges: NDArray[np.float64]
    missing: float
    normal: bool

    def encode(
        self, uniform: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See `Number.encode`; `uniform` is drawn already, so that no more chance is needed."""
        gone = np.isnan(uniform)
        known = np.where(gone, 0.5, uniform)
        if self.normal:
            from scipy.special import ndtr, ndtri

            middle, spread, start, width = self._normal(known)
            low, high = ndtr(-REACH), ndtr(REACH)
            known = middle + spread * ndtri(low + (known - start) / width * (high - low))
        return np.where(gone, self.states - 1, 0), np.where(gone, 0.0, 2 * known - 1)

    def decode(
        self, states: NDArray[np.integer], places: NDArray[np.floating], inside: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """See `Number.decode`; chance is in the place, so that `inside` is not needed."""
        found = np.clip((np.asarray(places, dtype=np.float64) + 1) / 2, 0, 1)
        if self.normal:
            from scipy.special import ndtr

            middle, spread, start, width = self._normal(found)
            low, high = ndtr(-REACH), ndtr(REACH)
            share = (ndtr((found - middle) / spread) - low) / (high - low)
            found = start + np.clip(share, EDGE, 1 - EDGE) * width
        return np.where(np.asarray(states) == 0, np.clip(found, 1e-9, 1 - 1e-9), np.nan)

    def _normal(
        self, known: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(n,) middle and spread of the normal, start and length of the interval in which each number lies."""
        at = _interval(self.edges, known)
        start, end = self.edges[at], self.edges[at + 1]
        return (start + end) / 2, (end - start) / (2 * REACH), start, end - start


class IntervalTable:
    """A table in which levels are intervals.

    Args:
        encoder: the fitted encoder.
        rows: training rows, for the smoothing of whole numbers.
        normal: see `IntervalCodec`.
        whole: are whole numbers of a small range intervals too?

    Attributes:
        coded: the encoder of the same table with numbers only; columns that say nothing stay levels.
    """

    def __init__(self, encoder: TableEncoder, rows: int, *, normal: bool, whole: bool) -> None:
        self.encoder = encoder
        levels: dict[str, LevelCodec] = {}
        numbers: dict[str, NumberCodec] = {}
        for name, number in encoder.numbers.items():
            numbers[name] = _whole(number, rows, normal=normal) if whole and _small(number) else number
        for name, level in encoder.levels.items():
            # Ties in the schema's order.
            order = np.argsort(-level.frequency, kind="stable")
            order = order[level.frequency[order] > 0]
            if len(order) < 2:
                levels[name] = level
            else:
                numbers[name] = IntervalCodec.of(level, order, level.frequency[order], normal=normal)
        self.coded = TableEncoder(encoder.schema, levels, numbers, encoder.blocks)

    def encode(self, rows: Encoded, rng: np.random.Generator) -> Encoded:
        """The rows with levels as numbers; where in its interval a cell lies is drawn."""
        out = Encoded(rows.n, {k: rows.states[k] for k in self.coded.levels}, {}, rows.blocks)
        for name, codec in self.coded.numbers.items():
            if not isinstance(codec, IntervalCodec):
                out.uniforms[name] = rows.uniforms[name]
            elif name in rows.states:
                out.uniforms[name] = codec.uniform(rows.states[name], rng.random(rows.n))
            else:
                values = self.encoder.numbers[name].scaler.from_uniform(rows.uniforms[name])
                seen, inside = ~np.isnan(values), rng.random(rows.n)
                out.uniforms[name] = np.full(rows.n, np.nan)
                out.uniforms[name][seen] = codec.uniform(np.rint(values[seen]).astype(np.int64), inside[seen])
        return out

    def decode(self, rows: Encoded, rng: np.random.Generator) -> Encoded:
        """The rows with levels as states again; `rng` says which of the uniforms that stand for a whole number."""
        out = Encoded(rows.n, {}, {}, rows.blocks)
        for name, number in self.encoder.numbers.items():
            uniform, codec = rows.uniforms[name], self.coded.numbers[name]
            if isinstance(codec, IntervalCodec):
                seen = ~np.isnan(uniform)
                values = np.full(rows.n, np.nan)
                values[seen] = codec.meant(uniform[seen])
                uniform = number.scaler.to_uniform(values, rng)
            out.uniforms[name] = uniform
        for name in self.encoder.levels:
            intervals = self.coded.numbers.get(name)
            if isinstance(intervals, IntervalCodec):
                out.states[name] = intervals.meant(rows.uniforms[name])
            else:
                out.states[name] = rows.states[name]
        return out

    def thin(self, least: float, most: int) -> list[str]:
        """Columns with an interval shorter than `least`, or with more than `most` intervals."""
        found = {k: c.scaler.mass for k, c in self.coded.numbers.items() if isinstance(c, IntervalCodec)}
        return [k for k, mass in found.items() if mass.min() < least or len(mass) > most]


def _interval(edges: NDArray[np.float64], known: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) the first interval whose upper limit is not below the number."""
    return np.clip(np.searchsorted(edges[1:], known, side="left"), 0, len(edges) - 2).astype(np.int64)


def _small(number: NumberCodec) -> bool:
    """Are these whole numbers of a small range?"""
    scaler = number.scaler
    if scaler.empty or not 1 <= scaler.ceiling - scaler.floor <= SMALL_RANGE:
        return False
    return bool(np.all(np.mod(np.r_[scaler.floor, scaler.ceiling, _values(scaler)], 1) == 0))


def _values(scaler: QuantileScaler) -> NDArray[np.float64]:
    """(GRID,) numbers at even steps of the distribution."""
    return scaler.from_uniform((np.arange(GRID) + 0.5) / GRID)


def _whole(number: NumberCodec, rows: int, *, normal: bool) -> IntervalCodec:
    """Intervals of all whole numbers between the column's ends, each with a row more than it has."""
    scaler = number.scaler
    first, last = int(scaler.floor), int(scaler.ceiling)
    count = np.bincount((_values(scaler) - first).astype(np.int64), minlength=last - first + 1) / GRID * rows
    return IntervalCodec.of(number, np.arange(first, last + 1), count + 1.0, normal=normal)
