"""The columns that a conditional VAE is told: as states, as a vector for the network, and how often they come together.

A discrete column is told as it is, a number as one of about eight pieces of its distribution; a column that is not told
is a stretch of zeros. What a caller may fix is in `generators/conditions.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.encoding.mixed import piece_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.generators.conditions import Fixed

PIECES = 8
UNTOLD = -1


class ConditionVector:
    """Condition columns of a fitted table.

    Args:
        encoder: the fitted encoder.
        columns: names of the condition columns.
        joint: (combinations, columns) states that occur together.
        share: (combinations,) how often; sums to 1.

    Attributes:
        sizes: states of each column.
        width: length of the vector.
    """

    def __init__(
        self,
        encoder: TableEncoder,
        columns: Sequence[str],
        joint: NDArray[np.int64],
        share: NDArray[np.float64],
    ) -> None:
        self.encoder = encoder
        self.columns = list(columns)
        self.joint, self.share = joint, share
        self.edges = {k: encoder.numbers[k].scaler.bins(PIECES) for k in self.columns if k in encoder.numbers}
        self.sizes = [len(self.edges[k]) if k in self.edges else max(1, encoder.levels[k].states) for k in self.columns]
        self.width = sum(self.sizes)

    @classmethod
    def fit(cls, encoder: TableEncoder, rows: Encoded, columns: Sequence[str], fewest: int) -> ConditionVector:
        """With the empirical joint distribution of the columns.

        Combinations that fewer than `fewest` rows have are left out where any other is left: that so few people are
        thus is not to be told.
        """
        blank = cls(encoder, columns, np.empty((0, len(columns)), dtype=np.int64), np.empty(0))
        joint, count = np.unique(blank.states(rows), axis=0, return_counts=True)
        kept = count >= fewest if (count >= fewest).any() else count == count.max()
        return cls(encoder, columns, joint[kept], count[kept] / count[kept].sum())

    @classmethod
    def independent(cls, encoder: TableEncoder, columns: Sequence[str], most: int = 4096) -> ConditionVector:
        """With the columns independent, as often as the encoder says: what a private encoder knows already."""
        blank = cls(encoder, columns, np.empty((0, len(columns)), dtype=np.int64), np.empty(0))
        joint, share = np.zeros((1, 0), dtype=np.int64), np.ones(1)
        for name, size in zip(blank.columns, blank.sizes, strict=True):
            margin = blank._margin(name)
            joint = np.column_stack([np.repeat(joint, size, axis=0), np.tile(np.arange(size), len(joint))])
            share = (share[:, None] * margin).ravel()
            order = np.sort(np.argsort(-share, kind="stable")[:most])
            joint, share = joint[order], share[order]
        kept = share > 0
        return cls(encoder, columns, joint[kept], share[kept] / share[kept].sum())

    def _margin(self, name: str) -> NDArray[np.float64]:
        if name not in self.edges:
            return np.asarray(self.encoder.levels[name].frequency, dtype=np.float64)
        gone = self.encoder.numbers[name].missing_rate
        return np.r_[np.diff(self.edges[name]) * (1 - gone), gone]

    def states(self, rows: Encoded) -> NDArray[np.int64]:
        """(n, columns) states of encoded rows; the last state of a number is missing."""
        told = [self._told(k, rows.states.get(k), rows.uniforms.get(k)) for k in self.columns]
        return np.stack(told, axis=1) if told else np.zeros((rows.n, 0), dtype=np.int64)

    def _told(
        self, name: str, states: NDArray[np.int64] | None, uniform: NDArray[np.float64] | None
    ) -> NDArray[np.int64]:
        if states is not None:
            return states
        assert uniform is not None
        piece = piece_of(uniform, self.edges[name])
        return np.where(piece < 0, len(self.edges[name]) - 1, piece)

    def asked(self, fixed: Fixed, n: int) -> NDArray[np.int64]:
        """(n, columns) states that a caller fixed; -1 where a column is free."""
        out = np.full((n, len(self.columns)), UNTOLD, dtype=np.int64)
        for i, name in enumerate(self.columns):
            if name in fixed.codes:
                out[:, i] = self.encoder.levels[name].encode(fixed.codes[name])
            elif name in fixed.values:
                values = fixed.values[name]
                middle = np.full(n, np.nan)
                seen = ~np.isnan(values)
                if seen.any() and not self.encoder.numbers[name].scaler.empty:
                    start, end = self.encoder.numbers[name].scaler.interval(values[seen])
                    middle[seen] = (start + end) / 2
                out[:, i] = self._told(name, None, middle)
        return out

    def drawn(self, asked: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """(n, columns) what the network is told: free columns from the joint, among the combinations that fit.

        Where no known combination fits, the free columns stay untold.
        """
        out = asked.copy()
        patterns, which = np.unique(asked, axis=0, return_inverse=True)
        for k, pattern in enumerate(patterns):
            told = pattern != UNTOLD
            fits = np.flatnonzero((self.joint[:, told] == pattern[told]).all(axis=1))
            at = np.flatnonzero(np.ravel(which) == k)
            if told.all() or not len(fits):
                continue
            weight = self.share[fits] / self.share[fits].sum()
            out[at] = self.joint[rng.choice(fits, size=len(at), p=weight)]
        return out

    def group(self, states: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) which combination of the joint each row is; the number of combinations where it is none of them."""
        both = np.concatenate([self.joint, states])
        _, key = np.unique(both, axis=0, return_inverse=True)
        key = np.ravel(key)
        place = np.full(int(key.max(initial=0)) + 1, len(self.joint))
        place[key[: len(self.joint)]] = np.arange(len(self.joint))
        return place[key[len(self.joint) :]]

    def vector(self, states: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, width) one-hot states side by side; zeros where untold."""
        out = np.zeros((len(states), self.width), dtype=np.float32)
        start = 0
        for i, size in enumerate(self.sizes):
            told = np.flatnonzero(states[:, i] != UNTOLD)
            out[told, start + states[told, i]] = 1
            start += size
        return out

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays to be saved."""
        return {"joint": self.joint, "share": self.share}

    @classmethod
    def restore(
        cls, encoder: TableEncoder, columns: Sequence[str], tensors: Mapping[str, NDArray[Any]]
    ) -> ConditionVector:
        """Back from its arrays."""
        joint, share = np.asarray(tensors["joint"], np.int64), np.asarray(tensors["share"], np.float64)
        return cls(encoder, columns, joint.reshape(len(share), len(columns)), share)
