"""Gradient boosting as the metrics use it: one way to fit, one way to score, threads bounded for small tables."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL_CELLS = 5_000_000
"""Up to so many cells one thread is used. A fit then has many short parallel regions, and threads that wait for one
another on a busy machine took ten times as long as one alone; beyond it the caller's OMP_NUM_THREADS holds."""


def fit_boosting(
    features: NDArray[np.float64],
    labels: NDArray[np.bool_],
    nominal: NDArray[np.bool_] | None,
    *,
    rounds: int,
    early_stopping: bool,
    seed: int,
) -> Any:
    """A fitted HistGradientBoostingClassifier.

    Args:
        features: (n, p) with NaN for missing; no column without any value.
        labels: (n,) True for the second class; both classes must occur.
        nominal: (p,) True for features whose numbers are names of levels; None if there is none.
        rounds: Most trees.
        early_stopping: Stop when a tenth of the rows, held out, gains nothing over ten rounds.
        seed: Seed of that tenth and of binning large tables.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=rounds, early_stopping=early_stopping, categorical_features=nominal, random_state=seed
    )
    with bounded_threads(features):
        return model.fit(features, labels)


def boosted_scores(model: Any, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) probability of the second class."""
    with bounded_threads(features):
        return model.predict_proba(features)[:, 1]


def bounded_threads(features: NDArray[np.float64]) -> AbstractContextManager[Any]:
    """One thread inside where the features are few (see `SMALL_CELLS`), else as many as the caller allows."""
    return _runtimes().limit(limits=1, user_api="openmp") if features.size <= SMALL_CELLS else nullcontext()


@cache
def _runtimes() -> Any:
    """The thread runtimes of this process, looked for once: the search reads all that is mapped, 5 ms each time."""
    import sklearn.ensemble  # noqa: F401  (loads the one that boosting uses)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
