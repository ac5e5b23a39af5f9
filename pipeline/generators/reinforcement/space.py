"""Actions: whole rows as a policy takes them, as a discriminator sees them, and back to encoded rows (spec 7.3).

Columns are categoricals (levels; pieces of a numeric column's distribution; how often a code counts), bits (binary
codes; whether a number is missing; as published, every level of a one-hot) and, if not cut to pieces, numbers. What is
drawn inside a piece is the environment's doing and no part of the action. Probabilities are in `policy.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.mixed import piece_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

NumberKind = Literal["pieces", "scores", "minmax"]
LevelKind = Literal["categorical", "bernoulli"]
SHOWN_PIECES = 12
"""A discriminator sees a number as its score and one of about so many pieces: enough to tell a spike from its
neighbourhood, at a third of the work."""
LARGEST_SCORE = 4.0
"""Normal scores are clipped here: 3 in 100,000 rows lie beyond."""
SQUASH_EDGE = 1e-6
"""Numbers on the unit interval stay so far from its ends, where the inverse of the hyperbolic tangent is infinite."""
COUNT_LADDER = (0, 1, 2, 3, 4, 6, 9, 14, 22, 35, 56, 90, 150)
"""Counts become these classes (spec 7.3): single up to 3, then about logarithmic; a class is drawn from evenly."""


@dataclass
class Action:
    """Rows on a device.

    Attributes:
        states: (n, categoricals) int64.
        bits: (n, bits) float32, 0 or 1.
        numbers: (n, numbers) float32: the place inside the piece, in [0, 1); or the number that is drawn itself.
    """

    states: Tensor
    bits: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def take(self, rows: Tensor) -> Action:
        """The given rows."""
        return Action(self.states[rows], self.bits[rows], self.numbers[rows])

    @classmethod
    def concatenate(cls, parts: list[Action]) -> Action:
        """The rows of all parts, one after the other."""
        return cls(*(torch.cat([getattr(p, k) for p in parts]) for k in ("states", "bits", "numbers")))

    def to(self, device: torch.device | str) -> Action:
        """The same rows on another device."""
        return Action(self.states.to(device), self.bits.to(device), self.numbers.to(device))


class ActionSpace:
    """The layout of a table's actions and views.

    Args:
        encoder: the fitted encoder.
        numbers: numeric columns as "pieces" of their distribution (a categorical), as normal "scores", or as "minmax"
            numbers through a hyperbolic tangent (as published).
        levels: one "categorical" a column, or independent "bernoulli" bits for its one-hot (as published).
        bins: about how many pieces a numeric column has.

    Attributes:
        numeric: names of the numeric columns that have a value.
        names: names of the columns behind the categoricals, those that are not codes first.
        sizes: states of each categorical.
        columns: how many of the categoricals are columns of the table; the others are codes.
        bit_names: a column's name for each of its bits, in order; codes have none.
        bits: number of bits.
        context: width of the part of a view that columns have.
        width: width of a view.
    """

    def __init__(self, encoder: TableEncoder, *, numbers: NumberKind, levels: LevelKind, bins: int) -> None:
        self.encoder, self.numbers, self.levels = encoder, numbers, levels
        self.numeric = [k for k, c in encoder.numbers.items() if not c.scaler.empty]
        pieces = self.numeric if numbers == "pieces" else []
        self.edges = {k: encoder.numbers[k].scaler.bins(bins) for k in pieces}
        self.names = [*pieces, *(encoder.levels if levels == "categorical" else ())]
        self.sizes = [len(self.edges[k]) - 1 + int(encoder.numbers[k].has_missing) for k in pieces]
        self.sizes += [max(1, encoder.levels[k].states) for k in self.names[len(pieces) :]]
        self.columns = len(self.names)
        self.bit_names = [] if pieces else [k for k in self.numeric if encoder.numbers[k].has_missing]
        self.missing_bits = {k: i for i, k in enumerate(self.bit_names)}
        if levels == "bernoulli":
            for name, level in encoder.levels.items():
                # Two levels are one flag, as in the publication's data.
                self.bit_names += [name] * (level.states if level.states > 2 else level.states - 1)
        self.common = {k: np.flatnonzero(b.common) for k, b in encoder.blocks.items()}
        self.binary = [k for k, b in encoder.blocks.items() if b.binary]
        self.counted = [k for k, b in encoder.blocks.items() if not b.binary]
        self.bits = len(self.bit_names) + sum(len(self.common[k]) for k in self.binary)
        self.ladders = {k: [_ladder(int(c)) for c in encoder.blocks[k].cap[self.common[k]]] for k in self.counted}
        self.sizes += [len(steps) for k in self.counted for steps in self.ladders[k]]
        self.codes = len(self.sizes) - self.columns
        self._tables()

    def _tables(self) -> None:
        """Look-up tables, padded to the widest column."""
        widest = max([1, *(len(e) for e in self.edges.values())])
        self.low, self.span = torch.zeros(len(self.edges), widest), torch.zeros(len(self.edges), widest)
        most = max([1, *self.sizes[: self.columns]])
        self.place = torch.zeros(self.columns, most, dtype=torch.long)
        self.inputs: list[list[int]] = []
        at = len(self.numeric)
        for i, name in enumerate(self.names):
            shown = np.arange(self.sizes[i])
            if name in self.edges:
                edges = self.edges[name]
                self.low[i, : len(edges) - 1] = torch.as_tensor(edges[:-1], dtype=torch.float32)
                self.span[i, : len(edges) - 1] = torch.as_tensor(np.diff(edges), dtype=torch.float32)
                shown = _merged(np.diff(edges), SHOWN_PIECES)
                shown = np.r_[shown, [shown[-1] + 1] * (self.sizes[i] - len(shown))]
            self.place[i, : self.sizes[i]] = torch.as_tensor(at + shown)
            own = [self.numeric.index(name)] if name in self.edges else []
            self.inputs.append([*own, *range(at, at + int(shown[-1]) + 1)])
            at += int(shown[-1]) + 1
        # A network needs an input even where no column says anything.
        self.context = max(1, at)
        self.width = self.context + self.codes + self.bits
        lows = [[np.log2(1.0 + s) for s in steps] for k in self.counted for steps in self.ladders[k]]
        self.count_shown = torch.zeros(self.codes, max([1, *map(len, lows)]))
        for i, row in enumerate(lows):
            self.count_shown[i, : len(row)] = torch.as_tensor(row, dtype=torch.float32)

    def __deepcopy__(self, memo: dict[int, object]) -> ActionSpace:
        """Itself: copies of a policy share the layout, which nothing changes."""
        return self

    def to(self, device: torch.device | str) -> ActionSpace:
        """Move the look-up tables to a device; gives itself."""
        for name in ("low", "span", "place", "count_shown"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    # ---- rows to actions

    def actions(self, rows: Encoded, device: torch.device | str) -> Action:
        """Encoded rows as actions."""
        states = np.zeros((rows.n, len(self.sizes)), dtype=np.int64)
        numbers = np.zeros((rows.n, len(self.numeric)), dtype=np.float64)
        for i, name in enumerate(self.numeric):
            uniform = rows.uniforms[name]
            gone = np.isnan(uniform)
            if name in self.edges:
                edges = self.edges[name]
                piece = np.maximum(piece_of(uniform, edges), 0)
                states[:, i] = np.where(gone, self.sizes[i] - 1, piece)
                numbers[:, i] = np.clip((uniform - edges[piece]) / (edges[piece + 1] - edges[piece]), 0, 1 - 1e-6)
            else:
                numbers[:, i] = self._drawn_scale(name, uniform)
            numbers[gone, i] = 0.0
        for i, name in enumerate(self.names):
            if name not in self.edges:
                states[:, i] = rows.states[name]
        at = self.columns
        for name in self.counted:
            counts = rows.blocks[name][:, self.common[name]]
            for k, steps in enumerate(self.ladders[name]):
                states[:, at + k] = np.searchsorted(steps, counts[:, k], side="right") - 1
            at += len(self.ladders[name])
        return Action(
            torch.as_tensor(states, device=device),
            torch.as_tensor(self._bits_of(rows), device=device),
            torch.as_tensor(numbers.astype(np.float32), device=device),
        )

    def _bits_of(self, rows: Encoded) -> NDArray[np.float32]:
        parts: list[NDArray[np.bool_]] = [np.isnan(rows.uniforms[k])[:, None] for k in self.missing_bits]
        if self.levels == "bernoulli":
            for name, level in self.encoder.levels.items():
                wanted = np.arange(level.states) if level.states > 2 else np.arange(1, level.states)
                parts.append(rows.states[name][:, None] == wanted)
        parts += [rows.blocks[k][:, self.common[k]] > 0 for k in self.binary]
        return np.concatenate([np.zeros((rows.n, 0), dtype=bool), *parts], axis=1).astype(np.float32)

    def _drawn_scale(self, name: str, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) numbers as the policy draws them: normal scores, or the inverse hyperbolic tangent of min-max numbers."""
        from scipy.special import ndtri

        if self.numbers == "scores":
            return np.asarray(np.clip(ndtri(uniform), -LARGEST_SCORE, LARGEST_SCORE))
        scaler = self.encoder.numbers[name].scaler
        low, high = _range(scaler.floor, scaler.ceiling)
        share = np.clip((scaler.from_uniform(uniform) - low) / (high - low), SQUASH_EDGE, 1 - SQUASH_EDGE)
        return np.asarray(np.arctanh(2 * share - 1))

    # ---- what a discriminator sees

    def view(self, action: Action) -> Tensor:
        """(n, width) float32: numbers, one-hot columns (numbers in few pieces), codes (log2(1 + count)), bits."""
        out = torch.zeros(len(action), self.width, device=action.states.device)
        self.show_numbers(out, action)
        if self.columns:
            out.scatter_(1, self.shown(action.states[:, : self.columns]), 1.0)
        if self.codes:
            column = torch.arange(self.codes, device=out.device)
            out[:, self.context : self.context + self.codes] = self.count_shown[
                column, action.states[:, self.columns :]
            ]
        if self.bits:
            out[:, self.width - self.bits :] = action.bits
        return out

    def shown(self, states: Tensor) -> Tensor:
        """(n, columns) places in the view that the states of columns are shown at."""
        return self.place[torch.arange(self.columns, device=states.device), states]

    def show_numbers(self, view: Tensor, action: Action) -> None:
        """Write the numbers of (n, width) views, 0 where missing."""
        for_pieces = len(self.edges)
        if for_pieces:
            view[:, :for_pieces] = self.scores(action.states[:, :for_pieces], action.numbers)
        elif self.numeric:
            shown = action.numbers if self.numbers == "scores" else (torch.tanh(action.numbers) + 1) / 2
            view[:, : len(self.numeric)] = shown * self.seen(action)

    def seen(self, action: Action) -> Tensor:
        """(n, numbers) 0 where a number that is not cut to pieces is missing."""
        seen = torch.ones_like(action.numbers)
        for i, name in enumerate(self.numeric):
            if name in self.missing_bits:
                seen[:, i] = 1 - action.bits[:, self.missing_bits[name]]
        return seen

    def scores(self, states: Tensor, inside: Tensor, first: int = 0) -> Tensor:
        """(n, k) normal scores of k numeric columns from `first` on, for pieces and places inside; 0 where missing."""
        column = torch.arange(first, first + states.shape[1], device=states.device)
        span = self.span[column, states]
        uniform = (self.low[column, states] + inside * span).clamp(1e-6, 1 - 1e-6)
        score = torch.special.ndtri(uniform).clamp(-LARGEST_SCORE, LARGEST_SCORE)
        return torch.where(span > 0, score, 0.0)

    # ---- actions to rows

    def rows(self, action: Action, rng: np.random.Generator) -> tuple[Encoded, int]:
        """Encoded rows of actions, and how many of them are no valid one-hot (only where levels are single bits)."""
        n, out = len(action), Encoded(n=len(action))
        states, bits = action.states.cpu().numpy(), action.bits.cpu().numpy() > 0.5
        numbers = action.numbers.cpu().numpy().astype(np.float64)
        for name in self.encoder.numbers:
            out.uniforms[name] = (
                self._uniform(name, states, bits, numbers, rng) if name in self.numeric else np.full(n, np.nan)
            )
        for i, name in enumerate(self.names):
            if name not in self.edges:
                out.states[name] = states[:, i].copy()
        invalid = np.zeros(n, dtype=bool)
        at = len(self.missing_bits)
        if self.levels == "bernoulli":
            for name, level in self.encoder.levels.items():
                size = level.states if level.states > 2 else max(0, level.states - 1)
                part = bits[:, at : at + size]
                at += size
                if level.states > 2:
                    invalid |= part.sum(axis=1) != 1
                out.states[name] = _one_of(part, rng) if level.states > 2 else part.sum(axis=1).astype(np.int64)
        self._blocks(out, states, bits[:, at:], rng)
        return out, int(invalid.sum())

    def _uniform(
        self,
        name: str,
        states: NDArray[np.int64],
        bits: NDArray[np.bool_],
        numbers: NDArray[np.float64],
        rng: np.random.Generator,
    ) -> NDArray[np.float64]:
        from scipy.special import ndtr

        i = self.numeric.index(name)
        number = self.encoder.numbers[name]
        if name in self.edges:
            edges = self.edges[name]
            piece = np.minimum(states[:, i], len(edges) - 2)
            uniform = edges[piece] + numbers[:, i] * (edges[piece + 1] - edges[piece])
            return np.where(states[:, i] > len(edges) - 2, np.nan, uniform)
        if self.numbers == "scores":
            uniform = np.clip(ndtr(numbers[:, i]), 0.0, 1.0)
        else:
            low, high = _range(number.scaler.floor, number.scaler.ceiling)
            value = low + (np.tanh(numbers[:, i]) + 1) / 2 * (high - low)
            uniform = number.scaler.to_uniform(number.scaler.snap(value), rng)
        if name in self.missing_bits:
            uniform[bits[:, self.missing_bits[name]]] = np.nan
        return uniform

    def _blocks(
        self, out: Encoded, states: NDArray[np.int64], bits: NDArray[np.bool_], rng: np.random.Generator
    ) -> None:
        """Codes: common ones as drawn, rarer ones by themselves."""
        at, bit = self.columns, 0
        for name, block in self.encoder.blocks.items():
            common = self.common[name]
            counts = (rng.random((out.n, len(block.used))) < block.prevalence).astype(np.int16)
            if block.binary:
                counts[:, common] = bits[:, bit : bit + len(common)]
                bit += len(common)
            for k, steps in enumerate(self.ladders.get(name, ())):
                low = np.array(steps)
                high = np.r_[low[1:], block.cap[common[k]] + 1]
                state = states[:, at + k]
                counts[:, common[k]] = low[state] + rng.random(out.n) * (high[state] - low[state])
            at += len(self.ladders.get(name, ()))
            out.blocks[name] = counts


def _ladder(cap: int) -> list[int]:
    """The smallest count of each class up to `cap`."""
    return [step for step in COUNT_LADDER if step <= max(cap, 1)]


def _merged(shares: NDArray[np.float64], wanted: int) -> NDArray[np.int64]:
    """(pieces,) which of about `wanted` groups of neighbouring pieces each is in; a heavy piece is one by itself."""
    out, group, filled = np.zeros(len(shares), dtype=np.int64), 0, 0.0
    for i, share in enumerate(shares):
        heavy = share >= 1 / wanted
        if filled > 0 and (heavy or filled >= 1 / wanted - 1e-9):
            group, filled = group + 1, 0.0
        out[i] = group
        filled += 1.0 if heavy else float(share)
    return out


def _one_of(bits: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,) a level for (n, levels) independent bits: the one that is on, one of several at random, any if none is."""
    chance = rng.random(bits.shape) + np.where(bits, 1.0, 0.0)
    return np.asarray(chance.argmax(axis=1), dtype=np.int64)


def _range(low: float, high: float) -> tuple[float, float]:
    """The ends of a column, apart enough to divide by."""
    return low, high if high > low else low + 1.0
