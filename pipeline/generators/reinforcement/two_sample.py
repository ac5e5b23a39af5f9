"""How well drawn rows are told from rows that training did not see: the classifier two-sample test that selects weights.

Boosted trees learn on training rows against drawn ones, and are asked about tuning rows against newly drawn ones
(Lopez-Paz and Oquab 2017). 0.5 is the null. No test on held-out rows and no use of the data has a say (spec 7.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.generators.reinforcement.space import Action, ActionSpace

MOST_ROWS = 4_000
MOST_CODES = 100
FEWEST = 50
"""Tuning rows below which the test says nothing: its standard error is then above 0.05."""
TREES = 60


def told_apart(known: NDArray[np.float32], drawn: NDArray[np.float32], new: NDArray[np.float32]) -> float:
    """AUC of boosted trees on rows they did not learn from.

    Args:
        known: (n, features) training rows.
        drawn: (m, features) drawn rows; half are learned from, half are asked about.
        new: (k, features) tuning rows.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from threadpoolctl import threadpool_limits

    half = len(drawn) // 2
    # With other numbers of threads sums differ in their last digits, and the choice of weights with them.
    with threadpool_limits(1):
        model = HistGradientBoostingClassifier(max_iter=TREES, early_stopping=False, random_state=0)
        model.fit(np.vstack([known, drawn[:half]]), np.r_[np.ones(len(known)), np.zeros(half)])
        score = model.predict_proba(np.vstack([new, drawn[half:]]))[:, 1]
    return float(roc_auc_score(np.r_[np.ones(len(new)), np.zeros(len(drawn) - half)], score))


def features(space: ActionSpace, action: Action) -> NDArray[np.float32]:
    """(n, features) numbers (missing ones NaN), states, the commonest codes, and how many codes a row has."""
    states = action.states.cpu().numpy().astype(np.float32)
    numbers = action.numbers.cpu().numpy().astype(np.float32)
    bits = action.bits.cpu().numpy()
    pieces = len(space.edges)
    if pieces:
        # Pieces are in order, so that the place in the whole order is a sum.
        gone = action.states[:, :pieces].cpu().numpy() >= np.array([len(e) - 1 for e in space.edges.values()])
        numbers = np.where(gone, np.nan, states[:, :pieces] + numbers)
    first = len(space.bit_names)
    codes = np.concatenate([states[:, space.columns :], bits[:, first:]], axis=1)
    return np.concatenate(
        [
            numbers,
            states[:, pieces : space.columns],
            bits[:, :first],
            _commonest(space, codes),
            codes.sum(axis=1)[:, None],
        ],
        axis=1,
    )


def _commonest(space: ActionSpace, codes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The columns of at most a hundred codes, chosen by what the encoder knows."""
    prevalence = [space.encoder.blocks[k].prevalence[space.common[k]] for k in [*space.counted, *space.binary]]
    order = np.argsort(-np.concatenate([np.zeros(0), *prevalence]), kind="stable")
    return codes[:, np.sort(order[:MOST_CODES])]
