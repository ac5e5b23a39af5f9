"""Tables too small or too sparse for a classifier are left unjudged in words, not given a chance's 0.5 or a crash."""

from __future__ import annotations

import numpy as np

from pipeline.evaluation.boosting import fit_boosting
from pipeline.evaluation.encoding import TreeFeatures
from pipeline.evaluation.joint import FEWEST


def test_a_column_with_a_handful_of_values_is_not_offered_to_boosting() -> None:
    """All of them may fall into the tenth set aside for early stopping, and a column without a value cannot be binned."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(120, 3))
    matrix[1:, 1] = np.nan
    matrix[20:, 2] = np.nan
    features = TreeFeatures(matrix=matrix, nominal=[False] * 3, names=["a", "b", "c"], groups=["a", "b", "c"])
    kept, nominal = features.usable(matrix)
    assert (kept.tolist(), nominal) == ([0, 2], None)
    for seed in range(20):
        fit_boosting(matrix[:, kept], rng.random(120) < 0.5, None, rounds=5, early_stopping=True, seed=seed)


def test_fewest_rows_are_those_that_boosting_can_split() -> None:
    """Rows that are told apart at a glance: with the fewest rows a side, a fold's classifier does so."""
    matrix = np.r_[np.zeros(FEWEST), np.ones(FEWEST)][:, None]
    labels = np.repeat([False, True], FEWEST)
    train = np.arange(2 * FEWEST) % 5 != 0
    model = fit_boosting(matrix[train], labels[train], None, rounds=20, early_stopping=True, seed=0)
    assert np.ptp(model.predict_proba(matrix)[:, 1]) > 0.2
