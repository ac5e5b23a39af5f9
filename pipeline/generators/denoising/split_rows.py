"""Rows of a table split into normal scores and states, for diffusion with a process of its own for each kind.

A number is a normal score among its regular values, and a state: regular, one of its spikes (values that a tenth of the
rows share, spec 0.1) or missing. Where it is not regular its score is noise that nobody looks at, so that scores are
N(0, 1) whatever the state. Discrete columns and codes of blocks are states. What noise does to both, and networks, are
elsewhere; the likelihoods of `row_vector.py` cut numbers into pieces instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.mixed import LARGEST_SCORE
from pipeline.generators.denoising.code_states import CodeStates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.encoding.scalers import QuantileScaler

LEAST_REGULAR = 1e-9
EDGE = 1e-9
KNOTS = 257


@dataclass(frozen=True)
class SplitTensors:
    """Rows on a device.

    Attributes:
        scores: (n, numbers) float32, NaN where a number is not regular.
        states: (n, kinds and levels) int16.
        blocks: (n, common codes) int16 counts a block.
    """

    scores: Tensor
    states: Tensor
    blocks: list[Tensor]

    def __len__(self) -> int:
        return len(self.states)


@dataclass(frozen=True)
class Kinds:
    """What a number can be: regular (if any value is), a spike, missing; in this order of states.

    Attributes:
        low: (spikes,) cumulative probability below each spike.
        mass: (spikes,) probability of each spike.
        regular: is there any other value?
        missing: can it be missing?
        missing_rate: share of rows without a value.
    """

    low: NDArray[np.float64]
    mass: NDArray[np.float64]
    regular: bool
    missing: bool
    missing_rate: float

    @classmethod
    def of(cls, scaler: QuantileScaler, missing: bool, missing_rate: float, spike_share: float) -> Kinds:
        """The kinds of a numeric column; a spike has at least `spike_share` of the rows with a value."""
        if scaler.empty:
            return cls(np.empty(0), np.empty(0), False, True, 1.0)
        heavy = (scaler.low == scaler.high) & (scaler.mass >= spike_share)
        mass = scaler.mass[heavy]
        return cls(scaler.edges[:-1][heavy], mass, 1 - mass.sum() > LEAST_REGULAR, missing, missing_rate)

    @property
    def size(self) -> int:
        """Number of states."""
        return int(self.regular) + len(self.mass) + int(self.missing)

    def shares(self) -> NDArray[np.float64]:
        """(size,) share of rows a state."""
        seen = 1 - self.missing_rate if self.missing else 1.0
        usual = [1 - self.mass.sum()] if self.regular else []
        return np.array([*(seen * np.r_[usual, self.mass]), *([self.missing_rate] if self.missing else [])])

    def split(self, uniform: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(n,) states and (n,) uniforms among regular values, NaN where not regular, for (n,) uniforms."""
        at = np.searchsorted(self.low, uniform, side="right") - 1
        inside = (at >= 0) & (uniform < (self.low + self.mass)[at]) if len(self.mass) else np.zeros(len(uniform), bool)
        if not self.regular:
            # All mass is in spikes: a uniform at the very end belongs to the last of them.
            inside = ~np.isnan(uniform)
        state = np.where(inside, int(self.regular) + np.maximum(at, 0), 0)
        state = np.where(np.isnan(uniform), self.size - 1, state)
        before = np.r_[0.0, np.cumsum(self.mass)][at + 1]
        rest = (uniform - before) / max(1 - self.mass.sum(), LEAST_REGULAR)
        return state, np.where(inside | ~np.isfinite(uniform), np.nan, np.clip(rest, EDGE, 1 - EDGE))

    def join(
        self, state: NDArray[np.int64], rest: NDArray[np.float64], inside: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(n,) uniforms for (n,) states, uniforms among regular values, and places inside a spike."""
        before = np.cumsum(self.mass) - self.mass
        value = rest * max(1 - self.mass.sum(), LEAST_REGULAR)
        uniform = value + np.r_[0.0, np.cumsum(self.mass)][np.searchsorted(self.low - before, value, side="right")]
        spike = state - int(self.regular)
        if len(self.mass):
            at = np.clip(spike, 0, len(self.mass) - 1)
            uniform = np.where(spike >= 0, self.low[at] + (EDGE + (1 - 2 * EDGE) * inside) * self.mass[at], uniform)
        gone = (state == self.size - 1) if self.missing else np.zeros(len(state), dtype=bool)
        return np.where(gone, np.nan, np.clip(uniform, EDGE, 1 - EDGE))


class SplitRows:
    """Rows to scores and states, and back.

    Args:
        encoder: the fitted encoder of the table.
        spike_share: share of a number's rows from which a value is a spike; above 1 for none.
        without: discrete column that stands outside (a label that is given), or None.

    Attributes:
        numbers: names of the columns that have a score.
        names: column of each state, kinds of numbers first, then levels; codes follow.
        sizes: number of states of each, at least 2.
    """

    def __init__(self, encoder: TableEncoder, *, spike_share: float, without: str | None = None) -> None:
        self.encoder, self.without = encoder, without
        self.kinds = {
            k: Kinds.of(c.scaler, c.has_missing, c.missing_rate, spike_share) for k, c in encoder.numbers.items()
        }
        self.numbers = [k for k, kinds in self.kinds.items() if kinds.regular]
        self.kind_names = [k for k, kinds in self.kinds.items() if kinds.size > 1]
        self.level_names = [k for k, c in encoder.levels.items() if c.states > 1 and k != without]
        self.names = [*self.kind_names, *self.level_names]
        self.common = {k: np.flatnonzero(b.common) for k, b in encoder.blocks.items()}
        self.code_states = [CodeStates(b.cap[self.common[k]], binary=b.binary) for k, b in encoder.blocks.items()]
        self.sizes = [self.kinds[k].size for k in self.kind_names]
        self.sizes += [encoder.levels[k].states for k in self.level_names]
        for codes in self.code_states:
            self.sizes += codes.open_states().tolist()

    def shares(self) -> list[NDArray[np.float64]]:
        """Shares of the states of each column; those of codes once `learn` or `know` was called."""
        out = [self.kinds[k].shares() for k in self.kind_names]
        out += [self.encoder.levels[k].frequency for k in self.level_names]
        for codes in self.code_states:
            table = codes.log_share.exp().double().numpy()
            out += [row[:size] for row, size in zip(table, codes.open_states().tolist(), strict=True)]
        return out

    def learn(self, rows: Encoded) -> None:
        """Take the shares of the codes' states from training rows."""
        for codes, (name, places) in zip(self.code_states, self.common.items(), strict=True):
            codes.learn(rows.blocks[name][:, places])

    def know(self) -> None:
        """The same from what the encoder knows, for trainings whose encoder is private."""
        for codes, (name, places) in zip(self.code_states, self.common.items(), strict=True):
            codes.know(self.encoder.blocks[name].prevalence[places])

    def tensors(self, rows: Encoded, device: torch.device | str) -> SplitTensors:
        """Encoded rows on the device, as small as they are stored."""
        from scipy.special import ndtri

        scores = np.zeros((rows.n, len(self.numbers)), dtype=np.float32)
        states = np.zeros((rows.n, len(self.names)), dtype=np.int16)
        for name, kinds in self.kinds.items():
            state, rest = kinds.split(rows.uniforms[name])
            if name in self.numbers:
                scores[:, self.numbers.index(name)] = np.clip(ndtri(rest), -LARGEST_SCORE, LARGEST_SCORE)
            if name in self.kind_names:
                states[:, self.kind_names.index(name)] = state
        for i, name in enumerate(self.level_names, start=len(self.kind_names)):
            states[:, i] = rows.states[name]
        blocks = [torch.as_tensor(rows.blocks[k][:, at], device=device) for k, at in self.common.items()]
        return SplitTensors(torch.as_tensor(scores, device=device), torch.as_tensor(states, device=device), blocks)

    def batch(self, rows: SplitTensors, at: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """(batch, numbers) scores, noise where not regular, and (batch, columns) states of some rows."""
        parts = [rows.states[at].long()]
        parts += [self._code_states(k, block[at]) for k, block in enumerate(rows.blocks)]
        return filled(rows.scores[at], noise), torch.cat(parts, dim=1)

    def _code_states(self, block: int, counts: Tensor) -> Tensor:
        codes = self.code_states[block]
        return (counts > 0).long() if codes.binary else codes.to(counts.device).states(counts)

    def encoded(
        self, rest: NDArray[np.float64], states: NDArray[np.int64], rng: np.random.Generator, known: Encoded
    ) -> Encoded:
        """Encoded rows; columns in `known` are taken over, codes too rare to model are drawn by themselves.

        Args:
            rest: (n, numbers) uniforms among regular values.
            states: (n, columns).
            rng: random numbers.
            known: rows of which some columns are known.
        """
        out, n = Encoded(n=len(states)), len(states)
        inside = rng.random((n, len(self.kinds)))
        for i, (name, kinds) in enumerate(self.kinds.items()):
            state = states[:, self.kind_names.index(name)] if name in self.kind_names else np.zeros(n, dtype=np.int64)
            own = rest[:, self.numbers.index(name)] if name in self.numbers else np.full(n, 0.5)
            out.uniforms[name] = known.uniforms.get(name, kinds.join(state, own, inside[:, i]))
        for name in self.encoder.levels:
            at = self.names.index(name) if name in self.level_names else -1
            found = states[:, at] if at >= 0 else np.zeros(n, dtype=np.int64)
            out.states[name] = known.states.get(name, found)
        start = len(self.names)
        for codes, (name, places) in zip(self.code_states, self.common.items(), strict=True):
            block = self.encoder.blocks[name]
            counts = (rng.random((n, len(block.used))) < block.prevalence).astype(np.int16)
            counts[:, places] = codes.counts(states[:, start : start + len(places)], rng)
            out.blocks[name] = counts
            start += len(places)
        return out

    def regular(self, states: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, numbers) where a number has a regular value, for (n, columns) states."""
        places = [self.kind_names.index(k) if k in self.kind_names else -1 for k in self.numbers]
        columns = [states[:, p] == 0 if p >= 0 else np.ones(len(states), dtype=bool) for p in places]
        return np.stack(columns, axis=1) if columns else np.ones((len(states), 0), dtype=bool)


def filled(scores: Tensor, noise: torch.Generator) -> Tensor:
    """Scores with noise where there is none."""
    return torch.where(scores.isnan(), torch.randn(scores.shape, generator=noise, device=scores.device), scores)


@dataclass(frozen=True)
class ScoreRanks:
    """Uniforms of drawn scores: their ranks among scores drawn before, so that margins are those of training.

    Attributes:
        knots: (numbers, KNOTS) quantiles of drawn scores; no row at all to take the normal distribution instead.
    """

    knots: NDArray[np.float64]

    @classmethod
    def fit(cls, scores: NDArray[np.float64], regular: NDArray[np.bool_]) -> ScoreRanks:
        """Learn from (n, numbers) drawn scores, of those that are regular."""
        share = np.linspace(0, 1, KNOTS)
        columns = [
            scores[seen, k] if (seen := regular[:, k]).sum() > KNOTS else scores[:, k] for k in range(scores.shape[1])
        ]
        return cls(np.array([np.quantile(c, share) for c in columns]).reshape(-1, KNOTS))

    def uniforms(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, numbers) uniforms."""
        from scipy.special import ndtr

        if not len(self.knots):
            return np.asarray(ndtr(scores))
        # Knots that coincide would give all their rows one probability.
        share, apart = np.linspace(0, 1, KNOTS), EDGE * np.arange(KNOTS)
        columns = [np.interp(scores[:, k], knots + apart, share) for k, knots in enumerate(self.knots)]
        return np.clip(np.stack(columns, axis=1), EDGE, 1 - EDGE)
