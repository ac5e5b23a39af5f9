"""What a generator is told of a row: one-hots of some of its discrete columns, and zeros for the others.

CTGAN tells one column a row (`TellOne`; Xu et al. 2019, section 4.3). A level is told as often as the training rows have it;
the published log-frequencies, which show rare levels more often, are for training only: rows are always drawn under true
frequencies. Generators whose label or protected column is always told use `TellAll`. What a caller may fix is in
`pipeline/generators/conditions.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.generators.adversarial.vector import RowBlocks
    from pipeline.generators.conditions import Fixed

Frequencies = Literal["true", "log"]
UNTOLD = -1


class ConditionVector:
    """The layout of what is told.

    Args:
        encoder: the fitted encoder.
        columns: discrete columns that may be told, each of at least two states.

    Attributes:
        sizes: states of each column.
        starts: first coordinate of each column.
        width: coordinates.
    """

    def __init__(self, encoder: TableEncoder, columns: Sequence[str]) -> None:
        self.encoder, self.columns = encoder, list(columns)
        self.sizes = [len(self.shares(k)) for k in self.columns]
        self.starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        self.width = sum(self.sizes)

    @classmethod
    def of(cls, encoder: TableEncoder) -> ConditionVector:
        """All discrete columns that say something."""
        return cls(encoder, [k for k, c in encoder.levels.items() if c.states > 1])

    def shares(self, column: str) -> NDArray[np.float64]:
        """(states,) how often each state of a column is, as the encoder knows it."""
        return self.encoder.levels[column].frequency

    def states(self, rows: Encoded) -> NDArray[np.int64]:
        """(n, columns) states of encoded rows."""
        if not self.columns:
            return np.zeros((rows.n, 0), dtype=np.int64)
        return np.stack([rows.states[k] for k in self.columns], axis=1)

    def vector(self, told: Tensor) -> Tensor:
        """(n, width) float32 for (n, columns) told states."""
        out = torch.zeros(len(told), self.width + 1, device=told.device)
        at = told + torch.tensor(self.starts, dtype=torch.long, device=told.device)
        return out.scatter_(1, torch.where(told == UNTOLD, self.width, at), 1.0)[:, : self.width]

    def fixed(self, fixed: Fixed, n: int) -> NDArray[np.int64]:
        """(n, columns) states that a caller fixes; untold where it fixes none or training had none."""
        out = np.full((n, len(self.columns)), UNTOLD, dtype=np.int64)
        for i, name in enumerate(self.columns):
            if name in fixed.codes:
                out[:, i] = self.encoder.levels[name].encode(fixed.codes[name])
        return out

    def penalty(self, blocks: RowBlocks, outputs: Tensor, told: Tensor) -> Tensor:
        """Mean over the rows of -log of the chance that what is told is drawn, for (n, head_width) outputs."""
        row, column = torch.nonzero(told != UNTOLD, as_tuple=True)
        if not len(row):
            return outputs.new_zeros(())
        place = torch.tensor([blocks.columns.index(k) for k in self.columns], device=told.device)
        first = len(blocks.placed)
        logits = outputs[:, first : first + blocks.softmaxes.width]
        # One column a row is the usual: the rows are then all there, in order.
        logits = logits if len(row) == len(told) else logits[row]
        return -blocks.softmaxes.log_shares(logits, place[column], told[row, column]).sum() / len(told)


class Teller(Protocol):
    """Says which rows are looked at in a step, and what is told of them."""

    vector: ConditionVector

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(n,) training rows, and (n, columns) states that are told, of these rows; on the CPU."""

    def drawn(self, n: int, rng: np.random.Generator) -> Tensor:
        """(n, columns) states to be told for rows to be drawn, as often as training rows have them."""


class TellNothing:
    """Rows at random, and nothing told."""

    def __init__(self, encoder: TableEncoder, rows: NDArray[np.integer]) -> None:
        self.vector = ConditionVector(encoder, [])
        self.rows = torch.as_tensor(np.asarray(rows), dtype=torch.long)

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Teller.batch`."""
        return self.rows[torch.randint(len(self.rows), (n,), generator=generator)], torch.zeros(n, 0, dtype=torch.long)

    def drawn(self, n: int, rng: np.random.Generator) -> Tensor:
        """See `Teller.drawn`."""
        return torch.zeros(n, 0, dtype=torch.long)


class TellOne:
    """A column at random, a level of it, and a training row that has it.

    Args:
        vector: the columns; at least one.
        states: (n, columns) states of the training rows.
        rows: (m,) training rows to learn from.
        frequencies: how often a level is told in training: as often as rows have it, or by log(1 + count).

    Attributes:
        ids: rows in the order of their states, one column after the other.
        first: (levels,) where each level's rows begin.
        count: (levels,) how many there are.
        edges: (columns, levels of the widest) cumulative chances of a column's levels.
    """

    def __init__(
        self,
        vector: ConditionVector,
        states: NDArray[np.integer],
        rows: NDArray[np.integer],
        frequencies: Frequencies = "true",
    ) -> None:
        self.vector = vector
        rows = np.asarray(rows)
        counts = [np.bincount(states[rows, i], minlength=size) for i, size in enumerate(vector.sizes)]
        order = [rows[np.argsort(states[rows, i], kind="stable")] for i in range(len(counts))]
        self.ids = torch.as_tensor(np.concatenate(order).astype(np.int32))
        self.count = torch.as_tensor(np.concatenate(counts))
        self.first = self.count.cumsum(0) - self.count
        self.starts = torch.tensor(vector.starts)
        edges = np.ones((len(counts), max(vector.sizes)))
        for i, count in enumerate(counts):
            weight = np.log1p(count) if frequencies == "log" else count.astype(np.float64)
            edges[i, : len(count)] = np.cumsum(weight) / weight.sum()
            # Nothing after the last level that rows have can be told, whatever is rounded.
            edges[i, np.flatnonzero(count)[-1] :] = 1.0
        self.edges = torch.as_tensor(edges)

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Teller.batch`."""
        column = torch.randint(len(self.edges), (n,), generator=generator)
        chance, place = torch.rand(2, n, generator=generator, dtype=torch.float64)
        state = (chance[:, None] >= self.edges[column]).sum(dim=1)
        level = self.starts[column] + state
        at = self.first[level] + (place * self.count[level]).long()
        return self.ids[at].long(), _one(column, state, len(self.edges))

    def drawn(self, n: int, rng: np.random.Generator) -> Tensor:
        """See `Teller.drawn`; from what the encoder knows, so that no row has to be kept."""
        return tell_one(self.vector, n, rng)


def tell_one(vector: ConditionVector, n: int, rng: np.random.Generator) -> Tensor:
    """(n, columns) states: a column at random and a level of it, as often as the encoder knows it."""
    if not vector.columns:
        return torch.zeros(n, 0, dtype=torch.long)
    column, chance = rng.integers(len(vector.columns), size=n), rng.random(n)
    state = np.zeros(n, dtype=np.int64)
    for i, name in enumerate(vector.columns):
        edges = np.cumsum(vector.shares(name))
        at = column == i
        state[at] = np.minimum(np.searchsorted(edges, chance[at] * edges[-1], side="right"), len(edges) - 1)
    return _one(torch.as_tensor(column), torch.as_tensor(state), len(vector.columns))


class TellAll:
    """Rows at random, told by all columns of the vector: for labels and protected attributes.

    Args:
        vector: the columns.
        states: (n, columns) states of the training rows.
        rows: (m,) training rows to learn from.
        fewest: combinations that fewer of these rows have are not told when rows are drawn.
    """

    def __init__(
        self, vector: ConditionVector, states: NDArray[np.integer], rows: NDArray[np.integer], fewest: int = 1
    ) -> None:
        self.vector = vector
        self.rows = torch.as_tensor(np.asarray(rows), dtype=torch.long)
        self.states = torch.as_tensor(np.asarray(states), dtype=torch.long)
        joint, count = np.unique(states[rows], axis=0, return_counts=True)
        kept = count >= fewest if (count >= fewest).any() else count == count.max()
        self.joint, self.share = joint[kept], count[kept] / count[kept].sum()

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See `Teller.batch`."""
        rows = self.rows[torch.randint(len(self.rows), (n,), generator=generator)]
        return rows, self.states[rows]

    def drawn(self, n: int, rng: np.random.Generator) -> Tensor:
        """See `Teller.drawn`."""
        return torch.as_tensor(self.joint[rng.choice(len(self.joint), size=n, p=self.share)])


def _one(column: Tensor, state: Tensor, columns: int) -> Tensor:
    return torch.full((len(column), columns), UNTOLD).scatter_(1, column[:, None], state[:, None])
