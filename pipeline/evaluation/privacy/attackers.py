"""Attackers that learn from given rows to guess secrets of a target from what they know of it, and how they are scored.

Three of them: the nearest row (`nn1`), the ten nearest rows (`nn10`), and gradient boosting (`boosting`). Every guess is
scored on a scale on which 0 is guessing without looking at the target and 1 is always right: 2 AUC - 1 for a level or
code, the correlation of guess and truth for a number. Each score comes with the influence of every target on it, so
that means of scores have a standard error over people. What the scores mean is in `attributes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.boosting import bounded_threads
from pipeline.evaluation.neighbours import knn
from pipeline.evaluation.privacy.secrets import LOWEST, MOST_LEVELS, SMALL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.privacy.secrets import Knowledge, Secret

NEAREST = 10
BOOSTING = "boosting"
FEWEST = 10
"""Targets with and without a level (or twice as many with a number) that a side needs for a score."""


@dataclass(frozen=True)
class Effort:
    """How hard boosting works.

    Attributes:
        rounds: Trees a model.
        leaves: Leaves a tree.
        rows: Rows that it learns from.
    """

    rounds: int
    leaves: int
    rows: int


EFFORT: dict[str, Effort] = {"quick": Effort(10, 8, 1_500), "standard": Effort(60, 31, 10_000)}
FULL = Effort(100, 31, 50_000)


@dataclass(frozen=True)
class Question:
    """One thing to guess: whether a level or code is present, or a number.

    Attributes:
        secret: Place of its secret in the list of secrets.
        level: Place of the level in the column's levels; -1 for a number or code.
        weight: 1 for a number, 4 p (1 - p) for a level or code that a share p of the training rows carries.
    """

    secret: int
    level: int = -1
    weight: float = 1.0


@dataclass(frozen=True)
class Score:
    """A score in [-1, 1] and what each target adds to its error.

    Attributes:
        value: The score; NaN where there are too few targets.
        influence: (n,) sums to 0; its sums over subjects, squared and added up, are the variance.
    """

    value: float
    influence: NDArray[np.float64]


def questions(sides: RealSides, secrets: list[Secret]) -> list[Question]:
    """What is guessed of each secret: its number, its code, or each of its commonest levels (of two the rarer)."""
    found: list[Question] = []
    for place, secret in enumerate(secrets):
        if secret.column is None:
            share = float(sides.train.presence[secret.block][:, [secret.code]].mean())
            found.append(Question(place, weight=4 * share * (1 - share)))
            continue
        if secret.column.numeric:
            found.append(Question(place))
            continue
        codes = sides.train.codes[secret.column.name]
        counts = np.bincount(codes[codes >= 0], minlength=len(secret.column.levels or []))
        shares = counts / max(len(codes), 1)
        use = np.flatnonzero((counts >= SMALL) & (shares >= LOWEST) & (shares <= 1 - LOWEST))
        use = use[np.argsort(-counts[use], kind="stable")]
        use = use[-1:] if len(use) == 2 and counts[use].sum() == counts.sum() else use[:MOST_LEVELS]
        found += [Question(place, int(i), float(4 * shares[i] * (1 - shares[i]))) for i in np.sort(use)]
    return found


def truth(side: Side, rows: NDArray[np.int64], secrets: list[Secret], asked: list[Question]) -> NDArray[np.float32]:
    """(rows, questions) what is true: 0 or 1, or the number cut to T's 0.5 to 99.5 % range; NaN where missing."""
    found = np.empty((len(rows), len(asked)), dtype=np.float32)
    for q, question in enumerate(asked):
        secret = secrets[question.secret]
        if secret.column is None:
            found[:, q] = side.presence[secret.block][:, [secret.code]].toarray().ravel()[rows]
        elif secret.column.numeric:
            rule = side.encoder.numeric[secret.column.name]
            value = side.values[secret.column.name][rows]
            found[:, q] = np.clip((value - rule.lo) / (rule.hi - rule.lo), 0.0, 1.0)
        else:
            code = side.codes[secret.column.name][rows]
            found[:, q] = np.where(code == -1, np.nan, code == question.level)
    return found


def nearest_guesses(
    knowledge: Knowledge,
    side: Side,
    rows: NDArray[np.int64],
    answers: NDArray[np.float32],
    targets: list[tuple[Side, NDArray[np.int64]]],
    device: str,
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]:
    """Guesses of the nearest row and of the mean of the ten nearest, and how far the nearest one is.

    Args:
        knowledge: What is known of the targets.
        side: The side that is learnt from.
        rows: Which of its rows.
        answers: (rows, questions) what is true of them.
        targets: Sides and rows that are guessed about, one after the other.
        device: Where distances are computed.

    Returns:
        Attacker to (targets, questions) guesses, and (targets,) distances to the nearest row.
    """
    reference = knowledge.points(side, rows)
    seen = np.where(np.isnan(answers), np.float32(0), answers)
    known = (~np.isnan(answers)).astype(np.float32)
    usual = seen.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    first, ten, far = [], [], []
    for target, chosen in targets:
        found = knn(knowledge.points(target, chosen), reference, min(NEAREST, len(rows)), device=device)
        first.append(np.where(known[found.index[:, 0]] > 0, seen[found.index[:, 0]], usual))
        total, count = np.zeros_like(first[-1]), np.zeros_like(first[-1])
        for k in range(found.index.shape[1]):
            total += seen[found.index[:, k]]
            count += known[found.index[:, k]]
        ten.append(np.where(count > 0, total / np.maximum(count, 1), usual))
        far.append(found.distance[:, 0])
    return {"nn1": np.concatenate(first), "nn10": np.concatenate(ten)}, np.concatenate(far)


def boosted_guesses(
    knowledge: Knowledge,
    side: Side,
    rows: NDArray[np.int64],
    answers: NDArray[np.float32],
    targets: list[tuple[Side, NDArray[np.int64]]],
    effort: Effort,
    seed: int,
) -> NDArray[np.float32]:
    """(targets, questions) guesses of gradient boosting, one regression a question."""
    features, nominal = knowledge.features(side, rows)
    usable = np.flatnonzero([len(np.unique(c[~np.isnan(c)])) > 1 for c in features.T])
    given = np.concatenate([knowledge.features(s, r)[0] for s, r in targets])[:, usable]
    guesses = np.empty((len(given), answers.shape[1]), dtype=np.float32)
    for q in range(answers.shape[1]):
        has = ~np.isnan(answers[:, q])
        values = answers[has, q]
        if not len(usable) or len(np.unique(values)) < 2:
            guesses[:, q] = values[0] if len(values) else 0.0
            continue
        with bounded_threads(features):
            model = _model(nominal[usable], effort, seed).fit(features[has][:, usable], values)
            guesses[:, q] = model.predict(given)
    return guesses


def _model(nominal: NDArray[np.bool_], effort: Effort, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(
        max_iter=effort.rounds,
        max_leaf_nodes=effort.leaves,
        early_stopping=False,
        random_state=seed,
        categorical_features=nominal if nominal.any() else None,
    )


def score(guess: NDArray[np.floating], real: NDArray[np.floating]) -> Score:
    """How good guesses are: 2 AUC - 1 where the truth is 0 or 1 (ties count 1/2), else Pearson's correlation.

    Args:
        guess: (n,) any finite numbers.
        real: (n,) the truth, NaN where it is missing.

    Returns:
        0 for guesses that are all the same. The influence is DeLong's for an AUC and the delta method's for a
        correlation.
    """
    known = ~np.isnan(real)
    influence = np.zeros(len(real))
    y, x = real[known], guess[known].astype(np.float64)
    if bool(np.isin(y, (0.0, 1.0)).all()):
        positive = y == 1
        if min(positive.sum(), (~positive).sum()) < FEWEST:
            return Score(float("nan"), influence)
        value, part = _gini(x, positive)
    else:
        if len(y) < 2 * FEWEST:
            return Score(float("nan"), influence)
        value, part = _correlation(x, y.astype(np.float64))
    influence[known] = part
    return Score(value, influence)


def _gini(x: NDArray[np.float64], positive: NDArray[np.bool_]) -> tuple[float, NDArray[np.float64]]:
    from scipy.stats import rankdata

    plus, minus = int(positive.sum()), int((~positive).sum())
    overall = rankdata(x)
    above = (overall[positive] - rankdata(x[positive])) / minus
    below = 1.0 - (overall[~positive] - rankdata(x[~positive])) / plus
    area = float(above.mean())
    influence = np.empty(len(x))
    influence[positive] = 2 * (above - area) / plus
    influence[~positive] = 2 * (below - area) / minus
    return 2 * area - 1, influence


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    a, b = x - x.mean(), y - y.mean()
    sa, sb = float(np.sqrt((a * a).mean())), float(np.sqrt((b * b).mean()))
    if sa < 1e-12 or sb < 1e-12:
        return 0.0, np.zeros(len(x))
    a, b = a / sa, b / sb
    r = float((a * b).mean())
    return r, (a * b - r * (a * a + b * b) / 2) / len(x)
