"""A numeric column of an adversarial generator: a scalar for its place, and states for what repeats or is missing.

Three ways: the rank among the numbers that are no spike, even or as a normal score (`ScoreNumber`), the number itself
between the column's ends (`RangeNumber`), and modes of a Gaussian mixture (`ModeNumber`; Xu et al. 2019, section 4.2), of the
numbers or of their normal scores. All go from uniforms to uniforms, so that numbers come back on their real grid. What a whole row is, is in `vector.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from pipeline.encoding.modes import ModeCodec, NumberAxis, fit_modes
from pipeline.encoding.scalers import QuantileScaler
from pipeline.generators.adversarial.intervals import IntervalCodec, IntervalNumber, PlaceOrMissing
from pipeline.generators.adversarial.long_tails import tails_logged
from pipeline.generators.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, NumberCodec, TableEncoder

NumberKind = Literal["even", "normal", "range", "modes", "score_modes", "tail_modes"]
_MODAL = ("modes", "score_modes", "tail_modes")
FARTHEST_SCORE = 4.0
SCORE_KNOTS = 1_000
NORMAL_SCALE = 0.4
"""A normal score is shown as so many units: 2.5 standard deviations are 1, as in a coordinate that is even."""
_MODES = "modes/"


class Number(Protocol):
    """One numeric column.

    Attributes:
        scalar: Has it a place beside its states?
        states: States of the column: those with a place first, then spikes, then missing where there is any.
    """

    @property
    def scalar(self) -> bool:
        """Has the column a place?"""

    @property
    def states(self) -> int:
        """Number of states, at least 1."""

    def shares(self) -> NDArray[np.float64]:
        """(states,) how often each is, as the encoder knows it."""

    def encode(
        self, uniform: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(n,) states and (n,) places (0 where the state has none) for (n,) uniforms, NaN where missing."""

    def decode(
        self, states: NDArray[np.integer], places: NDArray[np.floating], inside: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(n,) uniforms; `inside` (0 to 1) says where in a spike."""


@dataclass(frozen=True)
class ScoreNumber:
    """The rank among the numbers that are no spike.

    Attributes:
        spikes: (spikes, 2) from where to where each reaches, as cumulative probabilities.
        missing: share of missing cells; 0 if there is no such state.
        normal: Shown as a normal score, else evenly between -1 and 1.
    """

    spikes: NDArray[np.float64]
    missing: float
    normal: bool

    @classmethod
    def of(cls, number: NumberCodec, pieces: int, *, normal: bool) -> ScoreNumber:
        """The column of a fitted codec; numbers that at least one in `pieces` rows has are spikes."""
        spikes = NumberAxis.of(number.scaler, pieces).spikes if pieces else np.empty((0, 2))
        return cls(spikes, number.missing_rate, normal)

    @property
    def free(self) -> float:
        """Share of the present numbers that are no spike."""
        return max(0.0, 1.0 - float((self.spikes[:, 1] - self.spikes[:, 0]).sum()))

    @property
    def scalar(self) -> bool:
        """Is there anything beside spikes?"""
        return self.free > 1e-9

    @property
    def states(self) -> int:
        """One for all that has a place, the spikes, missing."""
        return int(self.scalar) + len(self.spikes) + int(self.missing > 0)

    def shares(self) -> NDArray[np.float64]:
        """(states,) from the column's distribution."""
        present = np.r_[[self.free] * self.scalar, self.spikes[:, 1] - self.spikes[:, 0]] * (1 - self.missing)
        return np.r_[present, [self.missing] * (self.missing > 0)]

    def encode(
        self, uniform: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See `Number.encode`."""
        gone, spike = np.isnan(uniform), self._spike(uniform)
        states = np.where(spike >= 0, spike + int(self.scalar), 0)
        states[gone] = self.states - 1
        places, free = np.zeros(len(uniform)), (spike < 0) & ~gone & self.scalar
        places[free] = self._shown(np.interp(uniform[free], *between(self.spikes)))
        return states, places

    def decode(
        self, states: NDArray[np.integer], places: NDArray[np.floating], inside: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """See `Number.decode`."""
        out, first = np.full(len(states), np.nan), int(self.scalar)
        if self.scalar:
            known, ranks = between(self.spikes)
            rank = self._rank(np.asarray(places, dtype=np.float64))
            out = np.where(states < first, np.interp(rank, ranks, known), out)
        spike = (states >= first) & (states < first + len(self.spikes))
        if spike.any():
            start, end = self.spikes[states[spike] - first].T
            out[spike] = start + inside[spike] * (end - start)
        return out

    def _spike(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        nothing = np.empty((0, 2))
        return NumberAxis(self.spikes, nothing, nothing).spike_of(uniform)

    def _shown(self, rank: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.normal:
            return 2 * rank - 1
        from scipy.special import ndtri

        return NORMAL_SCALE * np.clip(ndtri(np.clip(rank, 0, 1)), -FARTHEST_SCORE, FARTHEST_SCORE)

    def _rank(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.normal:
            return np.clip((places + 1) / 2, 0, 1)
        from scipy.special import ndtr

        return np.asarray(ndtr(places / NORMAL_SCALE))


@dataclass(frozen=True)
class RangeNumber(PlaceOrMissing):
    """The number itself, between the smallest and the largest that is emitted: -1 to 1, as published GANs have it.

    Attributes:
        scaler: Of the column.
        missing: share of missing cells; 0 if there is no such state.
    """

    scaler: QuantileScaler
    missing: float

    def encode(
        self, uniform: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See `Number.encode`."""
        gone = np.isnan(uniform)
        values = self.scaler.from_uniform(np.where(gone, 0.5, uniform))
        width = self.scaler.ceiling - self.scaler.floor
        places = 2 * (values - self.scaler.floor) / width - 1 if width else np.zeros(len(values))
        return np.where(gone, self.states - 1, 0), np.where(gone, 0.0, places)

    def decode(
        self, states: NDArray[np.integer], places: NDArray[np.floating], inside: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """See `Number.decode`."""
        share = (np.clip(np.asarray(places, dtype=np.float64), -1, 1) + 1) / 2
        values = self.scaler.snap(self.scaler.floor + share * (self.scaler.ceiling - self.scaler.floor))
        start, end = self.scaler.interval(values)
        uniform = np.clip(start + inside * (end - start), 1e-9, 1 - 1e-9)
        return np.where(np.asarray(states) == 0, uniform, np.nan)


@dataclass(frozen=True)
class ModeNumber:
    """A mode of a Gaussian mixture and the place in it.

    Attributes:
        codec: The fitted modes and spikes.
        missing: share of missing cells.
    """

    codec: ModeCodec
    missing: float

    @property
    def scalar(self) -> bool:
        """Has it modes?"""
        return self.codec.modes > 0

    @property
    def states(self) -> int:
        """Modes, spikes, missing."""
        return self.codec.states

    def shares(self) -> NDArray[np.float64]:
        """(states,) weights of the mixture, masses of the spikes, missing."""
        spikes = self.codec.axis.spikes[:, 1] - self.codec.axis.spikes[:, 0]
        present = np.r_[self.codec.weight * max(0.0, 1 - spikes.sum()), spikes] * (1 - self.missing)
        return np.r_[present, [self.missing] * self.codec.has_missing]

    def encode(
        self, uniform: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """See `Number.encode`."""
        return self.codec.encode(uniform, rng)

    def decode(
        self, states: NDArray[np.integer], places: NDArray[np.floating], inside: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """See `Number.decode`."""
        return self.codec.decode(np.asarray(states), places, inside)


def between(spikes: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cumulative probabilities at the ends of what lies between (spikes, 2) spikes, and their ranks among it."""
    known = np.r_[0.0, spikes.ravel(), 1.0]
    width = np.diff(known)[::2]
    ranks = np.zeros(len(known))
    ranks[1::2] = np.cumsum(width) / max(1e-12, width.sum())
    # A spike is a step: its two ends have one rank, which belongs to neither side.
    ranks[2::2] = ranks[1:-1:2] + 1e-12
    return known, ranks


def spikes_of(number: Number) -> NDArray[np.float64]:
    """(spikes, 2) from where to where the spikes of a column reach."""
    if isinstance(number, ScoreNumber):
        return number.spikes
    return number.codec.axis.spikes if isinstance(number, ModeNumber) else np.empty((0, 2))


def fit_numbers(
    encoder: TableEncoder, kind: NumberKind, pieces: int, rows: Encoded | None = None, seed: int = 0
) -> dict[str, Number]:
    """Every numeric column that has a value.

    Args:
        encoder: the fitted encoder; all that is learned of a column except modes.
        kind: how numbers are shown.
        pieces: numbers that at least one in so many rows has become states of their own; 0 for none.
        rows: the training rows, for modes only.
        seed: of the mixtures.
    """
    present = {k: c for k, c in encoder.numbers.items() if not c.scaler.empty}
    if kind == "score_modes":
        assert rows is not None
        return {k: _score_modes(rows.uniforms[k], c, seed, i) for i, (k, c) in enumerate(present.items())}
    if kind in ("modes", "tail_modes"):
        assert rows is not None
        shown = tails_logged(encoder) if kind == "tail_modes" else encoder
        found = fit_modes(shown, rows, pieces=pieces, seed=seed)
        return {k: ModeNumber(codec, encoder.numbers[k].missing_rate) for k, codec in found.items()}
    return {k: _shown(c, kind, pieces) for k, c in present.items()}


def _shown(codec: NumberCodec, kind: NumberKind, pieces: int) -> Number:
    """A column whose modes need not be learned."""
    if isinstance(codec, IntervalCodec):
        return IntervalNumber(codec.scaler.edges, codec.missing_rate, codec.normal)
    if kind == "range":
        return RangeNumber(codec.scaler, codec.missing_rate)
    return ScoreNumber.of(codec, pieces, normal=kind == "normal")


def _score_modes(uniform: NDArray[np.float64], number: NumberCodec, seed: int, place: int) -> ModeNumber:
    """Modes of a column's normal scores: those of a column that is normally distributed."""
    import warnings

    from scipy.special import ndtri
    from sklearn.exceptions import ConvergenceWarning

    ends = np.clip(ndtri(np.linspace(0, 1, SCORE_KNOTS + 1)), -FARTHEST_SCORE, FARTHEST_SCORE)
    mass, cuts = np.full(SCORE_KNOTS, 1 / SCORE_KNOTS), ends[1:-1]
    normal = QuantileScaler(mass, ends[:-1], ends[1:], cuts, None, float(ends[0]), float(ends[-1]))
    own = derive_seed(seed, "score-modes", place) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        codec = ModeCodec.fit(normal, uniform, pieces=SCORE_KNOTS, has_missing=number.has_missing, seed=own)
    return ModeNumber(codec, number.missing_rate)


def number_arrays(numbers: Mapping[str, Number]) -> dict[str, NDArray[Any]]:
    """What has to be saved of the columns beside the encoder: the modes, where there are any."""
    out: dict[str, NDArray[Any]] = {}
    for i, number in enumerate(numbers.values()):
        if isinstance(number, ModeNumber):
            out |= {f"{_MODES}{i:05d}/{k}": v for k, v in number.codec.tensors().items()}
    return out


def restore_numbers(
    encoder: TableEncoder, kind: NumberKind, pieces: int, arrays: Mapping[str, NDArray[Any]]
) -> dict[str, Number]:
    """The columns back from what `number_arrays` gave."""
    if kind not in _MODAL:
        return fit_numbers(encoder, kind, pieces)
    out: dict[str, Number] = {}
    for name, number in encoder.numbers.items():
        if not number.scaler.empty:
            prefix = f"{_MODES}{len(out):05d}/"
            own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            out[name] = ModeNumber(ModeCodec.restore(own, has_missing=number.has_missing), number.missing_rate)
    return out
