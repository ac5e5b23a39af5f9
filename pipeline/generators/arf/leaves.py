"""The leaves of all trees together: a mixture of products, whose columns are drawn independently inside a leaf.

Inside a leaf a column has the frequencies of its real rows, shrunk to the column's margin within the leaf's box, so that
repeated numbers stay what they are and no leaf knows only what its rows have. How trees are grown is in `forest.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.generators.arf.forest import Boxes, Grid, whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

CHUNK = 1_024
EVEN_STEPS = 50
LEAST_WHOLE = 1e-3
"""Share of the rows that are drawn from the whole table's margins, at least: no row is impossible."""


@dataclass(frozen=True)
class Leaves:
    """Leaves of a forest (Watson et al. 2023, section 4: coverage times a product over columns).

    Attributes:
        sizes: (d,) number of states of each column.
        hole: (d,) is the last state a missing cell beside an order?
        weight: (leaves,) share of the rows that are drawn here.
        start: (leaves + 1,) the real rows of leaf l are `states[start[l]:start[l + 1]]`.
        states: (rows of all trees, d) states of the real rows, each column sorted inside a leaf, so that no row can be
            put together again.
        tree: (leaves,) tree of each leaf.
        low: (leaves, d) first place in the box.
        high: (leaves, d) last place in the box.
        missing: (leaves, d) may a cell be missing?
        order: d arrays of (trees, states) the state at each place of each tree's order.
        margin: d arrays of (states,) shares of the states in the whole table.
        pseudo: rows' worth of the margin that are added to each leaf.
    """

    sizes: NDArray[np.int64]
    hole: NDArray[np.bool_]
    weight: NDArray[np.float64]
    start: NDArray[np.int64]
    states: NDArray[np.uint16]
    tree: NDArray[np.int64]
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    missing: NDArray[np.bool_]
    order: list[NDArray[np.int64]]
    margin: list[NDArray[np.float64]]
    pseudo: float

    @classmethod
    def of(cls, grid: Grid, real: NDArray[np.int64], forest: Sequence[Boxes], pseudo: float) -> Leaves:
        """The leaves of a forest with (n, d) real states."""
        n = len(real)
        states, sizes, tree = [], [], []
        # Behind the forest stands one leaf with all rows, for those that are in no leaf of any tree.
        everywhere = whole(grid, n)
        for k, boxes in enumerate([*forest, everywhere]):
            rows = np.flatnonzero(boxes.leaf >= 0)
            leaf, leaves = boxes.leaf[rows], len(boxes.low)
            sizes.append(np.bincount(leaf, minlength=leaves))
            tree.append(np.full(leaves, k))
            part = np.empty((len(rows), len(grid)), dtype=np.uint16)
            for j in range(len(grid)):
                part[:, j] = real[rows, j][np.lexsort((real[rows, j], leaf))]
            states.append(part)
        all_sizes = np.concatenate(sizes)
        return cls(
            sizes=grid.sizes,
            hole=grid.hole,
            weight=_weights(forest, all_sizes[:-1]),
            start=np.r_[0, np.cumsum(all_sizes)].astype(np.int64),
            states=np.concatenate(states),
            tree=np.concatenate(tree).astype(np.int64),
            low=np.concatenate([b.low for b in forest] + [everywhere.low]),
            high=np.concatenate([b.high for b in forest] + [everywhere.high]),
            missing=np.concatenate([b.missing for b in forest] + [everywhere.missing]),
            order=[np.stack([np.argsort(b.places[j]) for b in [*forest, everywhere]]) for j in range(len(grid))],
            margin=[np.bincount(real[:, j], minlength=size) / n for j, size in enumerate(grid.sizes)],
            pseudo=pseudo,
        )

    def __len__(self) -> int:
        return len(self.weight)

    def draw(
        self, n: int, rng: np.random.Generator, evidence: Mapping[int, NDArray[np.float64]] | None = None
    ) -> NDArray[np.int64]:
        """(n, d) states.

        Args:
            n: rows.
            rng: random numbers.
            evidence: column to (n, states) likelihoods of what is known of it; leaves are drawn in proportion to
                weight times the chance of what is known (section 4.2), and the column from its states that agree.
        """
        if not evidence:
            leaf = _pick(np.cumsum(self.weight), rng.random(n))
            return self._inside(leaf, rng)
        tables = {j: self.table(j) for j in evidence}
        out = np.empty((n, len(self.sizes)), dtype=np.int64)
        for start in range(0, n, CHUNK):
            part = slice(start, min(n, start + CHUNK))
            chance = np.tile(self.weight, (part.stop - start, 1))
            for j, likelihood in evidence.items():
                chance *= likelihood[part] @ tables[j].T
            # What no leaf has says nothing about the others.
            chance[chance.sum(axis=1) <= 0] = self.weight
            leaf = _pick_by_row(chance, rng.random(len(chance)))
            out[part] = self._inside(leaf, rng)
            for j, likelihood in evidence.items():
                agreeing = tables[j][leaf] * likelihood[part]
                none = agreeing.sum(axis=1) <= 0
                agreeing[none] = likelihood[part][none]
                out[part, j] = _pick_by_row(agreeing, rng.random(len(agreeing)))
        return out

    def log_density(self, states: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) log probability of (n, d) states."""
        from scipy.special import logsumexp

        tables = [np.log(np.maximum(self.table(j), 1e-300)) for j in range(len(self.sizes))]
        out = np.empty(len(states))
        with np.errstate(divide="ignore"):
            weight = np.log(self.weight)
        for start in range(0, len(states), CHUNK):
            part = states[start : start + CHUNK]
            total = np.tile(weight, (len(part), 1))
            for j, table in enumerate(tables):
                total += table.T[part[:, j]]
            out[start : start + CHUNK] = logsumexp(total, axis=1)
        return out

    def table(self, j: int) -> NDArray[np.float64]:
        """(leaves, states) distribution of column `j` in each leaf."""
        size, count = int(self.sizes[j]), np.diff(self.start)
        leaf = np.repeat(np.arange(len(self)), count)
        table = np.bincount(leaf * size + self.states[:, j], minlength=len(self) * size).reshape(len(self), size)
        return (table + self.pseudo * self._prior(j)) / (count + self.pseudo)[:, None]

    def _prior(self, j: int) -> NDArray[np.float64]:
        """(leaves, states) the column's margin within the box of each leaf."""
        place = np.argsort(self.order[j], axis=1)[self.tree]
        inside = (place >= self.low[:, [j]]) & (place <= self.high[:, [j]])
        if self.hole[j]:
            inside[:, -1] = self.missing[:, j]
        prior = inside * self.margin[j]
        total = prior.sum(axis=1, keepdims=True)
        return np.where(total > 0, prior / np.where(total > 0, total, 1.0), self.margin[j])

    def _inside(self, leaf: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """(n, d) states for (n,) leaves, every column by itself."""
        first, count = self.start[leaf], np.diff(self.start)[leaf]
        out = np.empty((len(leaf), len(self.sizes)), dtype=np.int64)
        for j in range(len(self.sizes)):
            place = np.minimum((rng.random(len(leaf)) * count).astype(np.int64), count - 1)
            out[:, j] = self.states[first + place, j]
            shrunk = np.flatnonzero(rng.random(len(leaf)) * (count + self.pseudo) < self.pseudo)
            if len(shrunk):
                out[shrunk, j] = self._from_margin(j, leaf[shrunk], rng)
        return out

    def _from_margin(self, j: int, leaf: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """(m,) states of column `j` from its margin within the boxes of (m,) leaves."""
        order = self.order[j][self.tree[leaf]]
        place = np.arange(order.shape[1])
        inside = (place >= self.low[leaf, j][:, None]) & (place <= self.high[leaf, j][:, None])
        if self.hole[j]:
            inside[:, -1] = self.missing[leaf, j]
        margin = self.margin[j][order]
        chance = inside * margin
        nowhere = chance.sum(axis=1) <= 0
        chance[nowhere] = margin[nowhere]
        return order[np.arange(len(leaf)), _pick_by_row(chance, rng.random(len(leaf)))]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays to be saved."""
        out: dict[str, NDArray[Any]] = {
            name: getattr(self, name)
            for name in ("sizes", "hole", "weight", "start", "states", "tree", "low", "high", "missing")
        }
        for j, (order, margin) in enumerate(zip(self.order, self.margin, strict=True)):
            out[f"order-{j:05d}"], out[f"margin-{j:05d}"] = order, margin
        return out

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[Any]], pseudo: float) -> Leaves:
        """The leaves back from what `tensors` gave."""
        names = ("weight", "start", "states", "tree", "low", "high")
        flags = {name: np.asarray(tensors[name]).astype(bool) for name in ("hole", "missing")}
        count = len(tensors["sizes"])
        return cls(
            sizes=np.asarray(tensors["sizes"], dtype=np.int64),
            **{name: np.asarray(tensors[name]) for name in names},
            **flags,
            order=[np.asarray(tensors[f"order-{j:05d}"]) for j in range(count)],
            margin=[np.asarray(tensors[f"margin-{j:05d}"]) for j in range(count)],
            pseudo=pseudo,
        )


def _weights(forest: Sequence[Boxes], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(leaves + 1,) weights under which every real row is as likely as any other, that of the whole table last.

    Where all rows have a leaf in every tree that is coverage. A row whose leaf is too small in some trees has to count
    more in the others, else margins move: the mixture of leaves that gives the rows the greatest likelihood, by
    expectation maximisation.
    """
    start = np.r_[0, np.cumsum([len(boxes.low) for boxes in forest])]
    leaf = np.stack([np.where(b.leaf >= 0, b.leaf + first, -1) for b, first in zip(forest, start[:-1], strict=True)])
    inside, weight = leaf >= 0, sizes / max(1, sizes.sum())
    for _ in range(EVEN_STEPS):
        chance = np.where(inside, (weight / sizes)[leaf], 0.0).sum(axis=0)
        owed = np.divide(1.0, chance, out=np.zeros_like(chance), where=chance > 0) / leaf.shape[1]
        found = np.bincount(leaf[inside], weights=np.broadcast_to(owed, leaf.shape)[inside], minlength=len(sizes))
        weight = weight * found / sizes
    nowhere = max(LEAST_WHOLE, float(np.mean(~inside.any(axis=0))))
    return np.r_[weight / weight.sum() * (1 - nowhere), nowhere]


def _pick(edges: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) index of the interval between cumulated chances that each uniform falls into."""
    return np.minimum(np.searchsorted(edges, uniform * edges[-1], side="right"), len(edges) - 1).astype(np.int64)


def _pick_by_row(chance: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) index drawn from each row of (n, k) chances."""
    edges = np.cumsum(chance, axis=1)
    return (edges <= uniform[:, None] * edges[:, -1:]).sum(axis=1).clip(max=chance.shape[1] - 1).astype(np.int64)
