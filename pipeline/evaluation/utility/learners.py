"""The models that utility trains: one way to fit each, one way to score, the same hyper-parameters in every regime.

`TASK_MODELS` are the models of a task's figures; `RANKED` are the (also cheap) ones whose order is compared. Whatever
is fitted to rows (scales, dummies, which columns have values) is fitted to the training rows alone. Which rows those
are is in `regimes.py`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.evaluation.boosting import boosted_scores, fit_boosting
from pipeline.evaluation.linear_design import LinearDesign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.evaluation.encoding import Side

Number = TypeVar("Number", bound=np.floating)
TASK_MODELS = ("hgb", "lr")
"""A task's headline is the better of these in every profile, so that profiles agree."""
MORE_MODELS = ("rf", "mlp")
"""Added in the profiles beyond quick."""
RANKED = ("lr", "lr_strict", "hgb", "rf", "mlp", "tree_small", "tree_large", "bayes", "nearest")
"""Nine models of different kinds, whose ranking is compared (`agreement.py`): 36 pairs."""
TITLES = {
    "hgb": "boosting",
    "lr": "logistic",
    "rf": "random forest",
    "mlp": "neural network",
    "lr_strict": "logistic, strong penalty",
    "tree_small": "tree of depth 3",
    "tree_large": "tree of depth 8",
    "bayes": "naive Bayes",
    "nearest": "25 nearest neighbours",
}
ON_TREES = frozenset({"hgb", "rf", "tree_small", "tree_large"})
FEWEST_FOR_STOPPING = 20
"""Cases of each class from which the neural network sets a tenth aside to stop early."""


@dataclass(frozen=True)
class TrainingRows:
    """Rows of one side that a model is trained on, with their labels (True for the positive class)."""

    side: Side
    rows: NDArray[np.int64]
    labels: NDArray[np.bool_]


@dataclass(frozen=True)
class Learner:
    """A fitted model.

    Attributes:
        name: Which one, see `TITLES`.
        model: What scikit-learn fitted; None where no feature has spread: then every row scores the same.
        drop: Columns and blocks that it never sees.
        share: Share of positives among the training rows.
        design: Its features if it works on standardised numbers and dummies, else None.
        kept: Its features if it works on trees' features: positions in `Side.tree_features(drop)`.
    """

    name: str
    model: Any
    drop: tuple[str, ...]
    share: float
    design: LinearDesign | None = None
    kept: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def matrix(self, side: Side, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """(rows, features) of a side as this model sees them."""
        if self.design is not None:
            return self.design.transform(side, rows)
        return side.tree_features(self.drop, rows).matrix[:, self.kept]

    def scores_of(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """(rows,) probability of the positive class from `matrix`."""
        if self.model is None:
            return np.full(len(features), self.share)
        if not len(features):
            return np.zeros(0)
        if self.name == "hgb":
            return boosted_scores(self.model, np.asarray(features, dtype=np.float64))
        return np.asarray(self.model.predict_proba(features)[:, 1], dtype=np.float64)

    def scores(self, side: Side, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(rows,) probability of the positive class."""
        if self.model is None:
            return np.full(len(rows), self.share)
        return self.scores_of(self.matrix(side, rows))


def fit_learner(name: str, parts: Sequence[TrainingRows], drop: tuple[str, ...], seed: int) -> Learner:
    """A model trained on the rows of all parts together; both classes must occur.

    Args:
        name: One of `TITLES`.
        parts: Training rows; scales and dummies are fitted on the first part.
        drop: Columns and blocks that are left out: the label and what gives it away.
        seed: Seed of whatever the model draws.
    """
    labels = np.concatenate([p.labels for p in parts])
    share = float(labels.mean())
    if name in ON_TREES:
        first = parts[0].side.tree_features(drop, parts[0].rows[:0])
        features = _stacked([p.side.tree_features(drop, p.rows).matrix for p in parts])
        kept, nominal = first.usable(features)
        if not len(kept):
            return Learner(name, None, drop, share, kept=kept)
        if len(kept) < features.shape[1]:
            features = features[:, kept]
        return Learner(name, _fit_tree(name, features, labels, nominal, seed), drop, share, kept=kept)
    design = LinearDesign(parts[0].side, parts[0].rows, drop=drop)
    if not design.names:
        return Learner(name, None, drop, share, design=design)
    scaled = _stacked([design.transform(p.side, p.rows) for p in parts])
    return Learner(name, _fit_scaled(name, scaled, labels, seed), drop, share, design=design)


def _stacked(tables: list[NDArray[Number]]) -> NDArray[Number]:
    """One below the other; a single one as it is: of a wide cohort a copy is 50 MB."""
    return tables[0] if len(tables) == 1 else np.concatenate(tables)


def _fit_tree(
    name: str, features: NDArray[np.float64], labels: NDArray[np.bool_], nominal: NDArray[np.bool_] | None, seed: int
) -> Any:
    if name == "hgb":
        return fit_boosting(features, labels, nominal, rounds=100, early_stopping=False, seed=seed)
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    if name == "rf":
        return RandomForestClassifier(n_estimators=300, min_samples_leaf=5, random_state=seed).fit(features, labels)
    depth = 3 if name == "tree_small" else 8
    return DecisionTreeClassifier(max_depth=depth, min_samples_leaf=20, random_state=seed).fit(features, labels)


def _fit_scaled(name: str, scaled: NDArray[np.float32], labels: NDArray[np.bool_], seed: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier

    rarer = int(min(labels.sum(), (~labels).sum()))
    made: dict[str, Any] = {
        "lr": lambda: LogisticRegression(C=1.0, max_iter=500),
        "lr_strict": lambda: LogisticRegression(C=0.001, max_iter=500),
        "mlp": lambda: MLPClassifier((100,), early_stopping=rarer >= FEWEST_FOR_STOPPING, random_state=seed),
        "bayes": lambda: GaussianNB(var_smoothing=1e-3),
        "nearest": lambda: KNeighborsClassifier(min(25, len(labels))),
    }
    with warnings.catch_warnings():
        # A neural network that has not settled after 200 rounds is used as it is, in every regime alike.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return made[name]().fit(scaled, labels)
