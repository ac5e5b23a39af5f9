"""One tree with donors in its leaves: grown by scikit-learn, kept as plain arrays, walked by numpy.

A model is saved as numbers, never as a pickled estimator, so the walk is our own: level by level, and the same leaf as
scikit-learn's `apply`. What predictors and donors mean is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

LEAF = -1
_NODE_ARRAYS = ("feature", "threshold", "left", "right", "missing_left", "start", "size")


@dataclass(frozen=True)
class DonorTree:
    """A binary tree whose leaves hold values of training rows, sorted inside a leaf, so that no row can be told.

    Attributes:
        feature: (nodes,) int32 predictor that a node looks at; -1 in a leaf.
        threshold: (nodes,) float64; a row goes left where its predictor is at most this.
        left: (nodes,) int32 child.
        right: (nodes,) int32 child.
        missing_left: (nodes,) bool; where a row goes whose predictor is missing.
        start: (nodes + 1,) int64; the donors stored for node i are `donors[start[i]:start[i + 1]]`.
        size: (nodes,) int64 donors of a leaf. Those beyond the stored ones are zeros (codes, which most rows lack).
        donors: (stored,) the values.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.bool_]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    donors: NDArray[Any]

    @property
    def leaves(self) -> int:
        """Number of leaves that hold donors."""
        return int((self.size > 0).sum())

    def apply(self, matrix: NDArray[np.float32]) -> NDArray[np.int64]:
        """(n,) leaf of each row of an (n, predictors) matrix, NaN where missing; as scikit-learn's `apply`."""
        node = np.zeros(len(matrix), dtype=np.int64)
        walking = np.arange(len(matrix)) if self.feature[0] != LEAF else np.empty(0, dtype=np.int64)
        while len(walking):
            at = node[walking]
            value = matrix[walking, self.feature[at]]
            left = np.where(np.isnan(value), self.missing_left[at], value <= self.threshold[at])
            at = np.where(left, self.left[at], self.right[at])
            node[walking] = at
            walking = walking[self.feature[at] != LEAF]
        return node

    def draw(
        self, matrix: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n,) leaf of each row and (n,) a donor of it at random: a position in `donors`, or -1 for a zero."""
        leaf = self.apply(matrix)
        size = self.size[leaf]
        chosen = np.minimum((rng.random(len(leaf)) * size).astype(np.int64), size - 1)
        stored = self.start[leaf + 1] - self.start[leaf]
        place = chosen - (size - stored)
        return leaf, np.where(place >= 0, self.start[leaf] + place, -1)


@dataclass(frozen=True)
class Growth:
    """How a tree is grown.

    Attributes:
        leaf: Least rows in a leaf, and least subjects.
        seed: For ties between splits.
        gain: What a split must explain, in variances of a single row.
        depth: Most levels; None for as many as the leaves allow.
    """

    leaf: int
    seed: int
    gain: float = 0.0
    depth: int | None = None


def grow(matrix: NDArray[np.float32], target: NDArray[Any], growth: Growth) -> DonorTree:
    """A tree without donors for (n, predictors) and a target: (n,) states, or (n, outputs) numbers.

    Splits by Gini impurity for states and by summed squared error for numbers (Breiman et al. 1984).
    """
    if matrix.shape[1] == 0 or len(matrix) < 2 * growth.leaf:
        return _stump()
    from sklearn import config_context
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeClassifier if target.ndim == 1 else DecisionTreeRegressor
    with config_context(skip_parameter_validation=True):
        made = kind(
            min_samples_leaf=growth.leaf,
            max_depth=growth.depth,
            min_impurity_decrease=growth.gain * _impurity(target) / len(target),
            random_state=growth.seed,
        ).fit(matrix, target)
    tree = made.tree_
    nodes = tree.__getstate__()["nodes"]
    return DonorTree(
        feature=np.where(nodes["left_child"] < 0, LEAF, nodes["feature"]).astype(np.int32),
        threshold=nodes["threshold"].astype(np.float64),
        left=nodes["left_child"].astype(np.int32),
        right=nodes["right_child"].astype(np.int32),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        start=np.zeros(tree.node_count + 1, dtype=np.int64),
        size=np.zeros(tree.node_count, dtype=np.int64),
        donors=np.empty(0),
    )


def with_donors(
    tree: DonorTree, matrix: NDArray[np.float32], values: NDArray[Any], subject: NDArray[np.integer], fewest: int
) -> DonorTree:
    """The tree with the values of all rows as donors; leaves of fewer than `fewest` subjects are joined to their kin.

    Args:
        tree: what `grow` gave, on these rows or on some of them.
        matrix: (n, predictors).
        values: (n,) donors; NaN is a value like any other.
        subject: (n,) whom each row belongs to, as numbers from 0.
        fewest: subjects that a leaf needs; the root is a leaf at worst.
    """
    tree, leaf = _joined(tree, matrix, subject, fewest)
    order = np.lexsort((values, leaf))
    size = np.bincount(leaf, minlength=len(tree.feature)).astype(np.int64)
    return replace(tree, start=np.r_[0, np.cumsum(size)].astype(np.int64), size=size, donors=values[order])


def without_zeros(tree: DonorTree) -> DonorTree:
    """The same tree with its zero donors counted instead of stored."""
    leaf = np.repeat(np.arange(len(tree.size)), np.diff(tree.start))
    kept = tree.donors != 0
    stored = np.bincount(leaf[kept], minlength=len(tree.size))
    return replace(tree, start=np.r_[0, np.cumsum(stored)].astype(np.int64), donors=tree.donors[kept])


def pack(trees: Sequence[DonorTree], prefix: str) -> dict[str, NDArray[Any]]:
    """All trees as a few long arrays; donors of one dtype together."""
    out = {
        f"{prefix}/{name}": np.concatenate([getattr(t, name) for t in trees] or [np.empty(0)]) for name in _NODE_ARRAYS
    }
    out[f"{prefix}/nodes"] = np.array([len(t.feature) for t in trees], dtype=np.int64)
    out[f"{prefix}/stored"] = np.array([len(t.donors) for t in trees], dtype=np.int64)
    for kind in sorted({t.donors.dtype.name for t in trees}):
        out[f"{prefix}/donors-{kind}"] = np.concatenate([t.donors for t in trees if t.donors.dtype.name == kind])
    kinds = sorted({t.donors.dtype.name for t in trees})
    out[f"{prefix}/kind"] = np.array([kinds.index(t.donors.dtype.name) for t in trees], dtype=np.int64)
    return out


def unpack(tensors: Mapping[str, NDArray[Any]], prefix: str) -> list[DonorTree]:
    """The trees back from what `pack` gave."""
    kinds = sorted(name for name in tensors if name.startswith(f"{prefix}/donors-"))
    used = dict.fromkeys(kinds, 0)
    trees: list[DonorTree] = []
    node = 0
    rows = zip(tensors[f"{prefix}/nodes"], tensors[f"{prefix}/stored"], tensors[f"{prefix}/kind"], strict=True)
    for i, (nodes, stored, kind) in enumerate(rows):
        parts = {name: tensors[f"{prefix}/{name}"][node : node + nodes] for name in _NODE_ARRAYS if name != "start"}
        # `start` has one entry more than there are nodes, in every tree.
        start = tensors[f"{prefix}/start"][node + i : node + i + nodes + 1]
        begin = used[kinds[kind]]
        donors = tensors[kinds[kind]][begin : begin + stored]
        trees.append(DonorTree(**parts, start=start, donors=donors))
        used[kinds[kind]] = begin + int(stored)
        node += int(nodes)
    return trees


def _stump() -> DonorTree:
    none, one = np.full(1, LEAF, dtype=np.int32), np.zeros(1, dtype=np.int64)
    return DonorTree(
        none, np.zeros(1), none, none, np.zeros(1, dtype=bool), np.zeros(2, dtype=np.int64), one, np.empty(0)
    )


def _impurity(target: NDArray[Any]) -> float:
    """Gini impurity of (n,) states, or the mean variance of (n, outputs): what scikit-learn's trees lower."""
    if target.ndim == 1:
        return float(1 - ((np.bincount(target) / len(target)) ** 2).sum())
    return float(target.var(axis=0).mean())


def _joined(
    tree: DonorTree, matrix: NDArray[np.float32], subject: NDArray[np.integer], fewest: int
) -> tuple[DonorTree, NDArray[np.int64]]:
    """The tree whose leaves have `fewest` subjects each, and the (n,) leaf of each row."""
    leaf = tree.apply(matrix)
    parent = np.full(len(tree.feature), -1, dtype=np.int64)
    inner = np.flatnonzero(tree.feature != LEAF)
    parent[tree.left[inner]] = parent[tree.right[inner]] = inner
    persons = int(subject.max(initial=0)) + 1
    while True:
        pairs = np.unique(leaf * persons + subject)
        holders = np.bincount(pairs // persons, minlength=len(tree.feature))
        reached = _reached(tree)
        poor = np.flatnonzero(reached & (tree.feature == LEAF) & (holders < fewest) & (parent >= 0))
        if not len(poor):
            return tree, leaf
        feature = tree.feature.copy()
        feature[parent[poor]] = LEAF
        tree = replace(tree, feature=feature)
        leaf = tree.apply(matrix)


def _reached(tree: DonorTree) -> NDArray[np.bool_]:
    """(nodes,) Can a row still come here? Below a node that became a leaf none can."""
    reached = np.zeros(len(tree.feature), dtype=bool)
    at = np.zeros(1, dtype=np.int64)
    while len(at):
        reached[at] = True
        inner = at[tree.feature[at] != LEAF]
        at = np.concatenate([tree.left[inner], tree.right[inner]]).astype(np.int64)
    return reached
