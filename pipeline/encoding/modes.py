"""Mode-specific normalisation (Xu et al. 2019, "Modeling tabular data using conditional GAN", section 4.2), mended.

A number becomes the mode of the column that it belongs to, drawn from a variational Gaussian mixture, and its place in
that mode, a scalar. What repeats (zeros of laboratory values, spikes of vital signs, counts with few values) is no
part of any mode: it becomes a state of its own. Numbers are put on the axis of the column's smoothed distribution
function first, so that a place on it goes back to a real grid, with the frequencies of its repeated values
(`scalers.py`). The table of a neural model that is made of this is in `mode_table.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.generators.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.encoding.scalers import QuantileScaler

MOST_MODES = 10
LEAST_WEIGHT = 0.005
MIXTURE_ROWS = 20_000
MIXTURE_ROUNDS = 100
FEWEST_ROWS = 40
"""With fewer numbers than this between its spikes a column has one mode."""
FEW_VALUES = 32
"""A whole-number column with at most so many stretches is all states (spec 4: numbers with few values)."""
SPAN = 4.0
"""Standard deviations that the scalar's unit stands for."""
LARGEST_SCALAR = 0.99
SMALLEST_STEP = 1e-6
MOST_WORKERS = 4


@dataclass(frozen=True)
class NumberAxis:
    """A numeric column as states with nothing between them, and an axis for all other numbers.

    Attributes:
        spikes: (spikes, 2) from where to where each state reaches, as cumulative probabilities of the column.
        shares: (knots, 2) the same for the stretches between the knots of the axis.
        places: (knots, 2) from where to where each stretch reaches on the axis, ascending.
    """

    spikes: NDArray[np.float64]
    shares: NDArray[np.float64]
    places: NDArray[np.float64]

    @classmethod
    def of(cls, scaler: QuantileScaler, pieces: int) -> NumberAxis:
        """The axis of a fitted scaler, with about `pieces` knots; spikes have at least 1 / pieces of the numbers."""
        cells = np.searchsorted(scaler.edges, scaler.bins(pieces) - 1e-12)
        whole = scaler.resolution is not None and bool(np.all(np.mod(np.r_[scaler.low, scaler.high], 1) == 0))
        if whole and len(scaler.mass) <= FEW_VALUES:
            cells = np.arange(len(scaler.mass) + 1)
        first, last = cells[:-1], cells[1:] - 1
        share = np.stack([scaler.edges[first], scaler.edges[last + 1]], axis=1)
        alone = (first == last) & (
            (scaler.low[first] == scaler.high[first]) | (whole and len(scaler.mass) <= FEW_VALUES)
        )
        low, high = scaler.low[first], scaler.high[last]
        # A stretch reaches to half-way before its neighbour, but as far as a spike.
        border = np.where(alone[:-1], high[:-1], np.where(alone[1:], low[1:], (high[:-1] + low[1:]) / 2))
        places = np.stack([np.r_[low[:1], border], np.r_[border, high[-1:]]], axis=1)[~alone]
        if len(places):
            # Stretches that stand at one number (grids of atoms) still need a place of their own.
            width = SMALLEST_STEP * max(1.0, float(places[-1, 1] - places[0, 0]))
            flat = np.maximum.accumulate(places.ravel()) + width * np.arange(places.size)
            places = flat.reshape(places.shape)
        return cls(share[alone], share[~alone], places)

    def spike_of(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n,) which spike each uniform lies in, -1 if none; NaN gives -1."""
        if not len(self.spikes):
            return np.full(len(uniform), -1)
        index = np.clip(np.searchsorted(self.spikes[:, 0], uniform, side="right") - 1, 0, None)
        return np.where(uniform < self.spikes[index, 1], np.where(uniform >= self.spikes[index, 0], index, -1), -1)

    def place(self, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) places on the axis of uniforms between spikes; NaN where there is no axis."""
        if not len(self.shares):
            return np.full(len(uniform), np.nan)
        index = np.clip(np.searchsorted(self.shares[:, 0], uniform, side="right") - 1, 0, len(self.shares) - 1)
        start, end = self.shares[index].T
        inside = np.clip((uniform - start) / (end - start), 0, 1)
        return self.places[index, 0] + inside * (self.places[index, 1] - self.places[index, 0])

    def uniform(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) uniforms for places on the axis; a place in a gap that spikes leave goes to the nearer side."""
        middle = (self.places[:-1, 1] + self.places[1:, 0]) / 2
        index = np.searchsorted(middle, place)
        low, high = self.places[index].T
        start, end = self.shares[index].T
        inside = np.clip((place - low) / (high - low), 1e-6, 1 - 1e-6)
        return start + inside * (end - start)


@dataclass(frozen=True)
class ModeCodec:
    """A numeric column as a state and a scalar.

    States are the modes, then the spikes, then missing where there is any. The scalar counts in modes only.

    Attributes:
        axis: Spikes, and the axis on which the modes lie.
        mean: (modes,) centres.
        std: (modes,) widths.
        weight: (modes,) shares of the numbers that are no spike; sums to 1.
        has_missing: Is there a state for missing?
    """

    axis: NumberAxis
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    weight: NDArray[np.float64]
    has_missing: bool

    @classmethod
    def fit(
        cls, scaler: QuantileScaler, uniform: NDArray[np.float64], *, pieces: int, has_missing: bool, seed: int
    ) -> ModeCodec:
        """Learn from (n,) uniforms of a column, NaN where missing."""
        axis = NumberAxis.of(scaler, pieces)
        seen = uniform[~np.isnan(uniform)]
        between = axis.place(seen[axis.spike_of(seen) < 0]) if len(axis.shares) else np.empty(0)
        return cls(axis, *_mixture(between, seed), has_missing)

    @property
    def modes(self) -> int:
        """Number of modes; none if every number is a spike."""
        return len(self.mean)

    @property
    def states(self) -> int:
        """Number of states."""
        return self.modes + len(self.axis.spikes) + int(self.has_missing)

    def encode(
        self, uniform: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(n,) states and (n,) scalars (0 where the state is no mode); the mode is drawn from the responsibilities."""
        spike, gone = self.axis.spike_of(uniform), np.isnan(uniform)
        draw = rng.random(len(uniform))
        states = np.where(spike >= 0, self.modes + spike, 0)
        states[gone] = self.states - 1
        scalars = np.zeros(len(uniform))
        free = (spike < 0) & ~gone
        if self.modes and free.any():
            place = self.axis.place(uniform[free])
            edges = self.responsibilities(place).cumsum(axis=1)
            mode = np.minimum((draw[free][:, None] * edges[:, -1:] >= edges).sum(axis=1), self.modes - 1)
            states[free] = mode
            alpha = (place - self.mean[mode]) / (SPAN * self.std[mode])
            scalars[free] = np.clip(alpha, -LARGEST_SCALAR, LARGEST_SCALAR)
        return states, scalars

    def decode(
        self, states: NDArray[np.integer], scalars: NDArray[np.floating], inside: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(n,) uniforms for states and scalars, `inside` (0 to 1) saying where in a spike; NaN where missing."""
        out = np.full(len(states), np.nan)
        mode = states < self.modes
        if mode.any():
            at = states[mode]
            scalar = np.clip(np.asarray(scalars, dtype=np.float64)[mode], -1, 1)
            out[mode] = self.axis.uniform(self.mean[at] + SPAN * self.std[at] * scalar)
        spike = ~mode & (states < self.modes + len(self.axis.spikes))
        if spike.any():
            start, end = self.axis.spikes[states[spike] - self.modes].T
            out[spike] = start + inside[spike] * (end - start)
        return out

    def responsibilities(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, modes) probability of each mode given the place on the axis."""
        gap = (place[:, None] - self.mean) / self.std
        log = np.log(self.weight) - np.log(self.std) - 0.5 * gap**2
        likely = np.exp(log - log.max(axis=1, keepdims=True))
        return likely / likely.sum(axis=1, keepdims=True)

    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """The arrays to be saved."""
        parts = {"spikes": self.axis.spikes, "shares": self.axis.shares, "places": self.axis.places}
        return {**parts, "mean": self.mean, "std": self.std, "weight": self.weight}

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[Any]], *, has_missing: bool) -> ModeCodec:
        """The codec back from its arrays."""
        arrays = {k: np.asarray(v, dtype=np.float64) for k, v in tensors.items()}
        axis = NumberAxis(arrays["spikes"], arrays["shares"], arrays["places"])
        return cls(axis, arrays["mean"], arrays["std"], arrays["weight"], has_missing)


def fit_modes(encoder: TableEncoder, rows: Encoded, *, pieces: int, seed: int) -> dict[str, ModeCodec]:
    """The codec of every numeric column that has a value, columns side by side."""
    import warnings
    from concurrent.futures import ThreadPoolExecutor

    from sklearn.exceptions import ConvergenceWarning

    names = [name for name, number in encoder.numbers.items() if not number.scaler.empty]

    def fit(i: int) -> ModeCodec:
        number, of_column = encoder.numbers[names[i]], derive_seed(seed, "modes", i) % 2**32
        uniform = rows.uniforms[names[i]]
        return ModeCodec.fit(number.scaler, uniform, pieces=pieces, has_missing=number.has_missing, seed=of_column)

    # Threads, not processes: what takes the time is numpy, and nothing has to be copied.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(MOST_WORKERS, os.cpu_count() or 1)) as workers:
        # What has not settled after so many rounds is still a good description of the column.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return dict(zip(names, workers.map(fit, range(len(names))), strict=True))


def _mixture(
    places: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, standard deviation and weight of the modes of some places."""
    if not len(places):
        return np.empty(0), np.empty(0), np.empty(0)
    centre, spread = float(places.mean()), float(places.std())
    if len(places) < FEWEST_ROWS or not spread:
        return np.array([centre]), np.array([max(spread, SMALLEST_STEP)]), np.ones(1)
    from sklearn.mixture import BayesianGaussianMixture

    if len(places) > MIXTURE_ROWS:
        places = places[np.random.default_rng(seed).permutation(len(places))[:MIXTURE_ROWS]]
    mixture = BayesianGaussianMixture(
        n_components=MOST_MODES,
        weight_concentration_prior_type="dirichlet_process",
        weight_concentration_prior=1e-3,
        max_iter=MIXTURE_ROUNDS,
        n_init=1,
        random_state=seed,
    )
    mixture.fit(((places - centre) / spread)[:, None])
    kept = mixture.weights_ > LEAST_WEIGHT
    std = np.sqrt(mixture.covariances_[kept, 0, 0])
    weight = mixture.weights_[kept] / mixture.weights_[kept].sum()
    return centre + spread * mixture.means_[kept, 0], spread * std, weight
