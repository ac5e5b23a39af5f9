"""Trees that tell real rows from made-up ones, and what is known of their leaves; grown by scikit-learn, kept as arrays.

Rows are states here (`column_states.py`): pieces of numbers, levels, counts, missing last. A leaf is a box: an interval
of states of each column, which for levels without an order is one in a random order that each tree has for itself. What
is drawn inside a leaf is in `leaves.py`; the rounds of forests against samples in `rounds.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.generators.seeds import derive_seed, stream

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Grid:
    """What the columns of a table of states are.

    Attributes:
        sizes: (d,) number of states, missing included.
        ordered: (d,) do neighbouring states mean like things?
        hole: (d,) is the last state a missing cell beside an order?
    """

    sizes: NDArray[np.int64]
    ordered: NDArray[np.bool_]
    hole: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Growth:
    """How a forest is grown.

    Attributes:
        trees: Number of trees.
        leaf: Least rows of a leaf, and least subjects with a real row in it.
        features: Share of the columns that a split chooses from; 0 takes the square root of their number.
    """

    trees: int
    leaf: int
    features: float = 0.0


@dataclass(frozen=True)
class Boxes:
    """The leaves of one tree.

    Attributes:
        places: d arrays of (states,) the place of each state in the order of this tree.
        low: (leaves, d) int32 first place inside.
        high: (leaves, d) int32 last place inside; below `low` where no place is.
        missing: (leaves, d) bool; may a cell be missing? Only where a column has a hole.
        leaf: (n,) leaf of each real row; -1 for one in a leaf of too few subjects.
    """

    places: list[NDArray[np.int64]]
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    missing: NDArray[np.bool_]
    leaf: NDArray[np.int64]


def whole(grid: Grid, n: int) -> Boxes:
    """One leaf with all of n rows."""
    return Boxes(
        places=[np.arange(size) for size in grid.sizes],
        low=np.zeros((1, len(grid)), dtype=np.int32),
        high=(grid.sizes - 1 - grid.hole).astype(np.int32)[None, :],
        missing=grid.hole[None, :].copy(),
        leaf=np.zeros(n, dtype=np.int64),
    )


def grow_forest(
    grid: Grid,
    real: NDArray[np.int64],
    made_up: NDArray[np.int64],
    subject: NDArray[np.integer],
    growth: Growth,
    seed: int,
) -> tuple[list[Boxes], float]:
    """A forest that tells (n, d) real from (n, d) made-up states, and how often it is right on rows it has not seen.

    Every tree grows on a bootstrap sample; the accuracy is that of the votes of the trees that did not have a row
    (Watson et al. 2023, algorithm 1).
    """
    from sklearn import config_context
    from sklearn.tree import DecisionTreeClassifier

    n = len(real)
    states = np.concatenate([real, made_up])
    truth = np.r_[np.ones(n, dtype=np.int64), np.zeros(len(made_up), dtype=np.int64)]
    votes, asked = np.zeros(len(states)), np.zeros(len(states), dtype=np.int64)
    forest: list[Boxes] = []
    for k in range(growth.trees):
        rng = stream(seed, "tree", k)
        places = [
            np.arange(size) if ordered else rng.permutation(size)
            for size, ordered in zip(grid.sizes, grid.ordered, strict=True)
        ]
        matrix = _matrix(grid, states, places)
        sampled = rng.integers(0, len(states), len(states))
        with config_context(skip_parameter_validation=True):
            tree = DecisionTreeClassifier(
                min_samples_leaf=growth.leaf,
                max_features="sqrt" if growth.features == 0 else max(1, round(growth.features * len(grid))),
                random_state=derive_seed(seed, "splits", k) % 2**32,
            ).fit(matrix[sampled], truth[sampled])
        node = tree.apply(matrix)
        unseen = np.ones(len(states), dtype=bool)
        unseen[sampled] = False
        chance = tree.tree_.value[:, 0, -1] if len(tree.classes_) > 1 else np.full(tree.tree_.node_count, 0.5)
        votes[unseen] += chance[node[unseen]]
        asked[unseen] += 1
        forest.append(_boxes(tree.tree_, grid, places, node[:n], subject, growth.leaf))
    judged = asked > 0
    accuracy = float(((votes[judged] / asked[judged] > 0.5) == truth[judged]).mean()) if judged.any() else 0.5
    return forest, accuracy


def _matrix(grid: Grid, states: NDArray[np.int64], places: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """(n, d) places as the trees see them, NaN in a hole."""
    out = np.empty(states.shape, dtype=np.float32)
    for j, place in enumerate(places):
        out[:, j] = place[states[:, j]]
        if grid.hole[j]:
            out[states[:, j] == grid.sizes[j] - 1, j] = np.nan
    return out


def _boxes(
    tree: Any,
    grid: Grid,
    places: list[NDArray[np.int64]],
    node: NDArray[np.int64],
    subject: NDArray[np.integer],
    fewest: int,
) -> Boxes:
    """The boxes of a tree's leaves that have real rows of enough subjects."""
    table = tree.__getstate__()["nodes"]
    count, d = len(table), len(grid)
    low = np.zeros((count, d), dtype=np.int32)
    high = np.tile((grid.sizes - 1 - grid.hole).astype(np.int32), (count, 1))
    missing = np.tile(grid.hole, (count, 1))
    # Parents come before their children, so that one pass hands every box down.
    for i in np.flatnonzero(table["left_child"] >= 0):
        left, right, j = table["left_child"][i], table["right_child"][i], table["feature"][i]
        for array in (low, high, missing):
            array[left] = array[right] = array[i]
        below = int(np.floor(table["threshold"][i])) if np.isfinite(table["threshold"][i]) else int(high[i, j])
        high[left, j] = min(high[left, j], below)
        low[right, j] = max(low[right, j], below + 1)
        to_left = bool(table["missing_go_to_left"][i])
        missing[left, j] &= to_left
        missing[right, j] &= not to_left
    people = int(subject.max(initial=0)) + 1
    holders = np.bincount(np.unique(node * people + subject) // people, minlength=count)
    # A leaf with fewer is dropped, not joined to its neighbour: what is there is mostly made up, and would be drawn.
    kept = np.flatnonzero((table["left_child"] < 0) & (holders >= fewest))
    if not len(kept):
        # Too few subjects for any split: the whole table is one leaf, which is node 0.
        kept, node = np.zeros(1, dtype=np.int64), np.zeros_like(node)
    number = np.full(count, -1, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    return Boxes(places, low[kept], high[kept], missing[kept], number[node])
