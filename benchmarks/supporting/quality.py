"""The figures of `benchmarks/support.py`, computed the same for every table, whoever drew it.

Plain numbers of a plain frame against the holdout: they are meant to be read beside those of other packages. The
system's own evaluation (intervals, reference rows, many more figures) is `pipeline.evaluation`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from supporting.rows import CATEGORICAL, NUMERIC

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FOLDS = 3
LABEL = "event"
EDGES = (0.005, 0.995)
TINY = 1e-9


@dataclass(frozen=True)
class Quality:
    """One synthetic table against the holdout.

    Attributes:
        detection: AUC of boosted trees telling synthetic from holdout rows, three folds; lower is better, 0.5 the null.
        logistic: 1 - (2 max(AUC, 1/2) - 1) of a logistic regression (the NHS report's score); higher is better.
        svc: The same of a support vector machine.
        correlation: RMSE between the correlation matrices of the numeric columns; lower is better.
        tstr: AUC on the holdout of boosted trees that learned `event` from the synthetic rows, all other columns given.
        membership: AUC of the distance attack on training against other rows (k=1, with reference rows); null 0.5.
        tpr: Its true-positive rate at 1 % false positives; null 0.01.
        copies: Share of rows that are, in every cell, a training row.
    """

    detection: float
    logistic: float
    svc: float
    correlation: float
    tstr: float
    membership: float
    tpr: float
    copies: float

    @classmethod
    def names(cls) -> list[str]:
        """The figures, in order."""
        return [f.name for f in fields(cls)]


def quality(train: pd.DataFrame, holdout: pd.DataFrame, synthetic: pd.DataFrame) -> Quality:
    """All figures of one synthetic table (any number of rows, the columns of `rows.plain`)."""
    encode = _Encoder(train)
    real, drawn = encode(holdout), encode(synthetic)
    numeric = slice(0, len(NUMERIC))
    apart = np.corrcoef(drawn[:, numeric].T) - np.corrcoef(real[:, numeric].T)
    auc, rate = _membership(train, holdout, synthetic)
    return Quality(
        detection=_detection(drawn, real, _boosted()),
        logistic=_score(drawn, real, _linear()),
        svc=_score(drawn, real, _support_vectors()),
        correlation=float(np.sqrt(np.mean(np.nan_to_num(apart, nan=1.0) ** 2))),
        tstr=_tstr(encode, synthetic, holdout),
        membership=auc,
        tpr=rate,
        copies=_copies(train, synthetic),
    )


class _Encoder:
    """Numbers scaled by the training rows, then one-hot levels of the training rows."""

    def __init__(self, train: pd.DataFrame) -> None:
        self.levels = {name: sorted(train[name].unique()) for name in CATEGORICAL}
        self.mean, self.std = train[list(NUMERIC)].mean(), train[list(NUMERIC)].std()

    def __call__(self, rows: pd.DataFrame, without: str = "") -> NDArray[np.float64]:
        numbers = ((rows[list(NUMERIC)].astype(float) - self.mean) / self.std).drop(
            columns=[without] if without else []
        )
        hot = [
            rows[k].to_numpy()[:, None].astype(str) == np.array(levels)[None, :] for k, levels in self.levels.items()
        ]
        return np.nan_to_num(np.hstack([numbers.to_numpy(), *hot]).astype(float))


def _boosted() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=0)


def _linear() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import RobustScaler

    return make_pipeline(RobustScaler(), LogisticRegression(max_iter=500))


def _support_vectors() -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import RobustScaler
    from sklearn.svm import SVC

    return make_pipeline(RobustScaler(), SVC())


def _folds(drawn: NDArray[np.float64], real: NDArray[np.float64], model: Any) -> NDArray[np.float64]:
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    n = min(len(drawn), len(real))
    rows, labels = np.vstack([drawn[:n], real[:n]]), np.r_[np.ones(n), np.zeros(n)]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return np.asarray(cross_val_score(model, rows, labels, cv=folds, scoring="roc_auc"))


def _detection(drawn: NDArray[np.float64], real: NDArray[np.float64], model: Any) -> float:
    return float(_folds(drawn, real, model).mean())


def _score(drawn: NDArray[np.float64], real: NDArray[np.float64], model: Any) -> float:
    """The detection score of the NHS report's tables: 1 if the AUC is at most 1/2, else 2 (1 - AUC), by folds."""
    return float(np.mean(2 - 2 * np.maximum(_folds(drawn, real, model), 0.5)))


def _tstr(encode: _Encoder, synthetic: pd.DataFrame, holdout: pd.DataFrame) -> float:
    from sklearn.metrics import roc_auc_score

    label = synthetic[LABEL].astype(int)
    if label.nunique() < 2:
        return 0.5
    model = _boosted().fit(encode(synthetic, without=LABEL), label)
    scores = model.predict_proba(encode(holdout, without=LABEL))[:, 1]
    return float(roc_auc_score(holdout[LABEL].astype(int), scores))


def _nearest(query: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.neighbors import NearestNeighbors

    return np.asarray(NearestNeighbors(n_neighbors=1).fit(points).kneighbors(query)[0][:, 0])


def _copies(train: pd.DataFrame, synthetic: pd.DataFrame) -> float:
    columns = [*CATEGORICAL, *NUMERIC]
    known = set(train[columns].itertuples(index=False, name=None))
    return float(np.mean([row in known for row in synthetic[columns].itertuples(index=False, name=None)]))


def _membership(train: pd.DataFrame, holdout: pd.DataFrame, synthetic: pd.DataFrame) -> tuple[float, float]:
    """Distance to reference rows against distance to synthetic rows (log ratio), members against half the holdout."""
    from sklearn.metrics import roc_auc_score

    low, high = (train[list(NUMERIC)].quantile(q) for q in EDGES)
    levels = {name: np.array(sorted(train[name].unique())) for name in CATEGORICAL}

    def encode(rows: pd.DataFrame) -> NDArray[np.float64]:
        numbers = ((rows[list(NUMERIC)].astype(float) - low) / (high - low)).clip(0, 1).fillna(0.5).to_numpy()
        hot = [(rows[k].to_numpy()[:, None].astype(str) == v[None, :]) / np.sqrt(2) for k, v in levels.items()]
        return np.hstack([numbers, *hot])

    shuffled = holdout.sample(frac=1, random_state=1)
    half = len(holdout) // 2
    others, reference = encode(shuffled.iloc[:half]), encode(shuffled.iloc[half:])
    members, drawn = encode(train.sample(len(others), random_state=2)), encode(synthetic)

    def score(people: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(_nearest(people, reference) + TINY) - np.log(_nearest(people, drawn) + TINY)

    inside, outside = score(members), score(others)
    labels = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    auc = float(roc_auc_score(labels, np.r_[inside, outside]))
    return auc, float(np.mean(inside > np.quantile(outside, 0.99)))
