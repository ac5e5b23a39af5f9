"""The regressions of an epidemiologist in numpy: linear, logistic and Poisson by Newton's method, Cox with Efron's ties.

Plain arrays in, estimates with robust (sandwich) errors by subject out. Which columns become which features is in
`analyses.py`; what is made of the estimates in `inference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Family = Literal["linear", "logistic", "poisson"]
MOST_STEPS = 60
TOLERANCE = 1e-10
"""Newton stops where the expected gain in log-likelihood is less."""
DEPENDENT = 1e-7
"""Share of a column's length that earlier columns must leave unexplained."""
RUNAWAY = 10.0
"""Model-based standard error of a coefficient (per standard deviation, or of a dummy) that tells of separation."""
LARGEST = 30.0
"""Linear predictors are cut here: exp(30) is beyond any rate."""


@dataclass(frozen=True)
class Regression:
    """A fitted regression with p coefficients.

    Attributes:
        coef: (p,) estimates; NaN where `estimable` is False.
        estimable: (p,) False for a column without spread or dependent on earlier ones, and for a coefficient that runs
            off to infinity (separation).
        covariance: (p, p) robust covariance by subject, with the factor G / (G - 1) for G subjects; NaN where not
            estimable.
        n: Rows.
        events: Rows of the rarer class (logistic), deaths (Cox), rows otherwise: what limits the precision.
        reason: Why there is no estimate at all; "" if there is.
    """

    coef: NDArray[np.float64]
    estimable: NDArray[np.bool_]
    covariance: NDArray[np.float64]
    n: int
    events: int
    reason: str = ""

    @property
    def se(self) -> NDArray[np.float64]:
        """(p,) robust standard errors."""
        return np.sqrt(np.diag(self.covariance))


def fit_glm(
    family: Family, features: NDArray[np.float64], outcome: NDArray[np.float64], clusters: NDArray[np.integer]
) -> Regression:
    """Maximum likelihood of a generalised linear model with its canonical link.

    Args:
        family: "linear" (identity), "logistic" (logit; outcome 0 or 1) or "poisson" (log; outcome >= 0).
        features: (n, p) with the intercept as a column of ones, if there is to be one.
        outcome: (n,) without missing values.
        clusters: (n,) subject numbers.

    Source: McCullagh and Nelder 1989; the sandwich of White 1980 and Liang and Zeger 1986 under independence.
    """
    n = len(outcome)
    if family == "logistic":
        events = int(min(outcome.sum(), n - outcome.sum()))
    else:
        events = n if len(np.unique(outcome)) > 1 else 0
    if not events:
        return _none(features, n, "the outcome does not vary")
    kept = independent(features)
    x = features[:, kept]
    if n <= x.shape[1]:
        return _none(features, n, "fewer rows than coefficients")

    def mean(eta: NDArray[np.float64]) -> NDArray[np.float64]:
        if family == "linear":
            return eta
        eta = np.clip(eta, -LARGEST, LARGEST)
        return 1 / (1 + np.exp(-eta)) if family == "logistic" else np.exp(eta)

    def likelihood(eta: NDArray[np.float64]) -> float:
        if family == "linear":
            return -0.5 * float(((outcome - eta) ** 2).sum())
        eta = np.clip(eta, -LARGEST, LARGEST)
        return float((outcome * eta - (np.logaddexp(0, eta) if family == "logistic" else np.exp(eta))).sum())

    def at(beta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        eta = x @ beta
        mu = mean(eta)
        variance = np.ones(n) if family == "linear" else mu * (1 - mu) if family == "logistic" else mu
        return likelihood(eta), x.T @ (outcome - mu), (x * variance[:, None]).T @ x

    beta, information = _newton(at, x.shape[1])
    if beta is None or information is None:
        return _none(features, n, "the fit does not settle")
    residual = outcome - mean(x @ beta)
    scale = float(residual @ residual) / (n - x.shape[1]) if family == "linear" else 1.0
    return _finished(features, kept, beta, information, x * residual[:, None], clusters, events, scale)


def fit_cox(
    features: NDArray[np.float64],
    time: NDArray[np.float64],
    event: NDArray[np.bool_],
    clusters: NDArray[np.integer],
) -> Regression:
    """Maximum partial likelihood of Cox's model; ties by Efron's method.

    Args:
        features: (n, p) without an intercept.
        time: (n,) follow-up; somebody censored at a time of death is still at risk then.
        event: (n,) True for deaths.
        clusters: (n,) subject numbers.

    Source: Cox 1972; Efron 1977; robust variance from score residuals: Lin and Wei 1989, Therneau and Grambsch 2000.
    """
    n, deaths = len(time), int(event.sum())
    if not deaths:
        return _none(features, n, "nobody has the event")
    centred = features - features.mean(axis=0)
    kept = independent(np.column_stack([np.ones(n), centred]))
    kept = kept[kept > 0] - 1
    if not len(kept) or deaths <= len(kept):
        return _none(features, n, "fewer events than coefficients")
    order = np.argsort(-time, kind="stable")
    risk = RiskSets(centred[order][:, kept], time[order], event[order])
    beta, information = _newton(risk.at, len(kept))
    if beta is None or information is None:
        return _none(features, n, "the fit does not settle")
    scores = np.empty((n, len(kept)))
    scores[order] = risk.residuals(beta)
    return _finished(features, kept, beta, information, scores, clusters, deaths, 1.0)


class RiskSets:
    """Sums over the people at risk at each time, of rows sorted by falling time.

    Each death is one term of Efron's likelihood: the l-th of d deaths at a time sees the risk set less l/d of those who
    die then. All sums of products are one product with weights, so that nothing of n x p x p is made.
    """

    def __init__(self, x: NDArray[np.float64], time: NDArray[np.float64], event: NDArray[np.bool_]) -> None:
        self.x, self.event = x, event
        starts = np.flatnonzero(np.r_[True, time[1:] != time[:-1]])
        self.ends = np.r_[starts[1:], len(time)]
        self.group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(time)]))
        """Number of each row's time, from the last to the first."""
        self.dead = np.flatnonzero(event)
        self.of = self.group[self.dead]
        died = np.bincount(self.of, minlength=len(starts))
        self.part = (np.arange(len(self.dead)) - (np.cumsum(died) - died)[self.of]) / died[self.of]
        """l/d of each death."""

    def at(self, beta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Log partial likelihood, its gradient and the information."""
        eta, weight, total, mean = self._sums(beta)
        own = self._applied(weight, 1 / total, self.part / total)
        value = float(eta[self.dead].sum() - np.log(total).sum())
        gradient = self.x[self.dead].sum(axis=0) - mean.sum(axis=0)
        return value, gradient, (self.x * own[:, None]).T @ self.x - mean.T @ mean

    def residuals(self, beta: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, p) score residuals in the order of the rows; they sum to the gradient."""
        _, weight, total, mean = self._sums(beta)
        own = self._applied(weight, 1 / total, self.part / total)
        seen = np.column_stack(
            [self._applied(weight, m / total, self.part * m / total) for m in mean.T]
        )  # fmt: skip
        found = seen - own[:, None] * self.x
        counts = np.bincount(self.of, minlength=len(self.ends))
        centre = np.column_stack([np.bincount(self.of, m, minlength=len(self.ends)) for m in mean.T])
        average = centre / np.maximum(counts, 1)[:, None]
        found[self.dead] += self.x[self.dead] - average[self.of]
        return found

    def _sums(self, beta: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """Linear predictor and hazard of each row; sum of hazards and mean features at risk for each death."""
        eta = np.clip(self.x @ beta, -LARGEST, LARGEST)
        weight = np.exp(eta)
        moments = np.column_stack([weight, weight[:, None] * self.x])
        at_risk = np.cumsum(moments, axis=0)[self.ends - 1][self.of]
        dying = np.zeros((len(self.ends), moments.shape[1]))
        np.add.at(dying, self.of, moments[self.dead])
        left = at_risk - self.part[:, None] * dying[self.of]
        return eta, weight, left[:, 0], left[:, 1:] / left[:, :1]

    def _applied(
        self, weight: NDArray[np.float64], each: NDArray[np.float64], own: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(n,) hazard times the sum of `each` over the deaths that a row is at risk for, less `own` of its own time."""
        sums = np.bincount(self.of, each, minlength=len(self.ends))
        less = np.bincount(self.of, own, minlength=len(self.ends))
        # Rows are sorted by falling time: whoever is in a later group number has died or left earlier.
        until = np.cumsum(sums[::-1])[::-1][self.group]
        return weight * (until - np.where(self.event, less[self.group], 0.0))


def independent(features: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of the columns that do not depend linearly on those before them; a column of zeros is none."""
    length = np.sqrt((features**2).sum(axis=0))
    scaled = features / np.where(length > 0, length, 1.0)
    kept: list[int] = []
    basis = np.zeros((len(features), 0))
    for j in range(features.shape[1]):
        if length[j] == 0 or not np.isfinite(length[j]):
            continue
        rest = scaled[:, j] - basis @ (basis.T @ scaled[:, j])
        rest -= basis @ (basis.T @ rest)
        left = float(np.sqrt(rest @ rest))
        if left > DEPENDENT:
            basis = np.column_stack([basis, rest / left])
            kept.append(j)
    return np.array(kept, dtype=np.int64)


def _newton(
    at: Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64], NDArray[np.float64]]], size: int
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """The maximum and the information there; a step is halved until the likelihood rises. None if it does not settle."""
    beta = np.zeros(size)
    value, gradient, information = at(beta)
    for _ in range(MOST_STEPS):
        try:
            step = np.linalg.solve(information, gradient)
        except np.linalg.LinAlgError:
            return None, None
        if float(gradient @ step) < TOLERANCE:
            return beta, information
        for _ in range(30):
            tried = at(beta + step)
            if np.isfinite(tried[0]) and tried[0] >= value - 1e-12 * abs(value):
                break
            step = step / 2
        beta = beta + step
        value, gradient, information = tried
    return None, None


def _finished(
    features: NDArray[np.float64],
    kept: NDArray[np.int64],
    beta: NDArray[np.float64],
    information: NDArray[np.float64],
    scores: NDArray[np.float64],
    clusters: NDArray[np.integer],
    events: int,
    scale: float,
) -> Regression:
    """Estimates and robust errors, put back to the places of all columns."""
    p = features.shape[1]
    inverse = np.linalg.pinv(information)
    sound = np.sqrt(np.maximum(np.diag(inverse) * scale, 0.0)) < RUNAWAY if scale == 1.0 else np.ones(len(kept), bool)
    _, subject = np.unique(clusters, return_inverse=True)
    subjects = int(subject.max()) + 1
    sums = np.stack([np.bincount(subject, column) for column in (scores @ inverse).T])
    robust = sums @ sums.T * subjects / max(subjects - 1, 1)
    sound &= np.diag(robust) > 0
    places = kept[sound]
    coef, covariance, estimable = np.full(p, np.nan), np.full((p, p), np.nan), np.zeros(p, dtype=bool)
    estimable[places] = True
    coef[places] = beta[sound]
    covariance[np.ix_(places, places)] = robust[np.ix_(sound, sound)]
    return Regression(coef, estimable, covariance, len(scores), events)


def _none(features: NDArray[np.float64], n: int, reason: str) -> Regression:
    p = features.shape[1]
    return Regression(np.full(p, np.nan), np.zeros(p, dtype=bool), np.full((p, p), np.nan), n, 0, reason)
