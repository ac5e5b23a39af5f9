"""Where to cut numbers so that levels are not blurred: the places at which what happens to labels and flags changes.

A number is drawn evenly within a piece of its distribution, so a sharp change inside a piece (no survivor is followed
for less than some days) is lost. A small tree of all levels together on each number finds these places; they are moved
to the nearest border between cells of the column, most of which hold five rows or more (`scalers.py`), so that a cut
says nothing that the column's own cells do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder

LEAVES = 8
FEWEST_ROWS = 20
"""Rows of a leaf, at least; and a two-hundredth of all."""
MOST_ROWS = 20_000
"""Rows that are looked at, evenly spaced: enough for eight leaves, and a second for 60 columns."""
MOST_STATES = 10
MOST_LEVELS = 20


def level_cuts(encoder: TableEncoder, rows: Encoded) -> dict[str, NDArray[np.float64]]:
    """Where levels change, for each numeric column with values: at most seven cumulative probabilities.

    Args:
        encoder: the fitted encoder.
        rows: the training rows. Levels of more than ten states do not count; of more than 20 columns only labels do.
    """
    from sklearn.tree import DecisionTreeClassifier

    discrete = [k for k, c in encoder.levels.items() if 2 <= c.states <= MOST_STATES]
    if len(discrete) > MOST_LEVELS:
        discrete = [k for k in discrete if encoder.levels[k].column.role == "label"]
    if not discrete:
        return {}
    if rows.n > MOST_ROWS:
        rows = rows.take(np.linspace(0, rows.n - 1, MOST_ROWS).astype(np.int64))
    states = np.stack([rows.states[k] for k in discrete], axis=1)
    out: dict[str, NDArray[np.float64]] = {}
    for name, number in encoder.numbers.items():
        seen = ~np.isnan(rows.uniforms[name])
        if number.scaler.empty or seen.sum() < 2 * FEWEST_ROWS:
            continue
        fewest = max(FEWEST_ROWS, rows.n // 200)
        tree = DecisionTreeClassifier(max_leaf_nodes=LEAVES, min_samples_leaf=fewest, random_state=0)
        fitted = tree.fit(rows.uniforms[name][seen, None], states[seen]).tree_
        found = fitted.threshold[fitted.feature >= 0]
        borders = number.scaler.edges
        out[name] = np.unique(borders[np.abs(borders[None, :] - found[:, None]).argmin(axis=1)])
    return out
