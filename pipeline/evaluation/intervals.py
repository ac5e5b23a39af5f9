"""Uncertainty of a number: AUC with DeLong's variance, subject bootstrap, exact binomial intervals, seeds pooled.

Nothing here knows a cohort: plain arrays in, plain floats out. Every interval is two-sided 95 % unless it says
otherwise. Which number gets which interval is decided in the metric modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Z95 = 1.959963984540054
CHUNK = 100
"""Bootstrap draws that are held in memory at once."""


@dataclass(frozen=True)
class Auc:
    """An area under the ROC curve with its standard error.

    Attributes:
        value: Probability that a positive scores above a negative; ties count one half.
        se: Standard error by DeLong, summed over clusters where several rows belong to one subject.
        positives: Number of positive rows.
        negatives: Number of negative rows.
    """

    value: float
    se: float
    positives: int
    negatives: int

    def interval(self, z: float = Z95) -> tuple[float, float]:
        """Normal interval, cut to [0, 1]."""
        return max(0.0, self.value - z * self.se), min(1.0, self.value + z * self.se)


def auc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """Area under the ROC curve from midranks; NaN if a class is empty."""
    from scipy.stats import rankdata

    labels = np.asarray(labels, dtype=bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def delong(scores: NDArray[np.floating], labels: NDArray[np.bool_], clusters: NDArray[np.integer] | None = None) -> Auc:
    """AUC with DeLong's standard error; with `clusters` Obuchowski's version of it for several rows a subject.

    Args:
        scores: (n,) higher means "positive".
        labels: (n,) True for positives.
        clusters: (n,) subject numbers; None if every row is its own subject. One subject may hold both classes.

    Returns:
        The AUC; its standard error is NaN with fewer than two clusters of a class.

    Source: DeLong, DeLong and Clarke-Pearson 1988; Obuchowski 1997 (clustered data).
    """
    from scipy.stats import rankdata

    labels = np.asarray(labels, dtype=bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return Auc(float("nan"), float("nan"), positives, negatives)
    overall = rankdata(scores)
    above = (overall[labels] - rankdata(np.asarray(scores)[labels])) / negatives
    below = 1.0 - (overall[~labels] - rankdata(np.asarray(scores)[~labels])) / positives
    value = float(above.mean())
    groups = np.arange(len(labels)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    size = int(groups.max()) + 1
    plus = np.bincount(groups[labels], weights=above - value, minlength=size)
    minus = np.bincount(groups[~labels], weights=below - value, minlength=size)
    has_plus = len(np.unique(groups[labels]))
    has_minus = len(np.unique(groups[~labels]))
    if min(has_plus, has_minus) < 2:
        return Auc(value, float("nan"), positives, negatives)
    variance = (
        has_plus / (has_plus - 1) * float(plus @ plus) / positives**2
        + has_minus / (has_minus - 1) * float(minus @ minus) / negatives**2
        + 2 * size / (size - 1) * float(plus @ minus) / (positives * negatives)
    )
    return Auc(value, float(np.sqrt(max(variance, 0.0))), positives, negatives)


def subject_weights(clusters: NDArray[np.integer], draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(draws, n) float32: how often each row is drawn when whole subjects are drawn with replacement."""
    _, groups = np.unique(clusters, return_inverse=True)
    size = int(groups.max()) + 1 if len(groups) else 0
    weights = np.empty((draws, len(groups)), dtype=np.float32)
    for b in range(draws):
        weights[b] = np.bincount(rng.integers(0, size, size), minlength=size)[groups]
    return weights


def weighted_sums(weights: NDArray[np.float32], values: NDArray[np.floating]) -> NDArray[np.float64]:
    """(draws,) sums of (n,) values under (draws, n) weights, in double precision without a copy of the weights in it."""
    found = np.empty(len(weights))
    for lo in range(0, len(weights), CHUNK):
        found[lo : lo + CHUNK] = weights[lo : lo + CHUNK].astype(np.float64) @ values
    return found


def weighted_auc(
    scores: NDArray[np.floating], labels: NDArray[np.bool_], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(draws,) AUC under each row of `weights` (draws, n); 0.5 for a draw without one of the classes."""
    labels = np.asarray(labels, dtype=bool)
    order = np.argsort(scores, kind="stable")
    ordered = np.asarray(scores)[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    result = np.empty(len(weights))
    for lo in range(0, len(weights), CHUNK):
        w = weights[lo : lo + CHUNK][:, order].astype(np.float64)
        plus = np.add.reduceat(w * labels[order], starts, axis=1)
        minus = np.add.reduceat(w * ~labels[order], starts, axis=1)
        below = np.cumsum(minus, axis=1) - minus / 2
        total = plus.sum(axis=1) * minus.sum(axis=1)
        area = (plus * below).sum(axis=1)
        result[lo : lo + CHUNK] = np.divide(area, total, out=np.full(len(w), 0.5), where=total > 0)
    return result


def clopper_pearson(successes: float, trials: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share; `successes` may be fractional (ties counted in part), `trials` an effective number."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    lo = 0.0 if successes <= 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    hi = 1.0 if successes >= trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return lo, hi


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Wilson's interval of a share; `trials` may be an effective number (clustered rows). (0, 1) without any.

    Source: Wilson 1927.
    """
    if trials <= 0:
        return 0.0, 1.0
    z2 = Z95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * float(np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)))
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(share: float, trials: float, other: float, other_trials: float) -> tuple[float, float]:
    """Interval of the difference of two independent shares, sound where one of them is 0: Newcombe 1998, method 10."""
    low, high = wilson(share, trials)
    other_low, other_high = wilson(other, other_trials)
    difference = share - other
    return (
        difference - float(np.hypot(share - low, other_high - other)),
        difference + float(np.hypot(high - share, other - other_low)),
    )


def tpr_at_fpr(scores: NDArray[np.floating], members: NDArray[np.bool_], fpr: float) -> float:
    """True-positive rate where the false-positive rate is `fpr`: the ROC curve, straight between its points.

    The straight line is what an attacker reaches who breaks ties by a coin.
    """
    false, true = roc_points(scores, members)
    return float(np.interp(fpr, false, true))


def roc_points(
    scores: NDArray[np.floating], labels: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ROC curve's corners as (false-positive rate, true-positive rate), one for each distinct score.

    Where several corners share a false-positive rate only the highest is kept, so that the curve can be interpolated.
    """
    labels = np.asarray(labels, dtype=bool)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ordered = np.asarray(scores)[order]
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    true = np.cumsum(labels[order])[ends] / max(int(labels.sum()), 1)
    false = np.cumsum(~labels[order])[ends] / max(int((~labels).sum()), 1)
    false, true = np.r_[0.0, false], np.r_[0.0, true]
    last = np.r_[false[1:] != false[:-1], True]
    return false[last], true[last]


@dataclass(frozen=True)
class Pooled:
    """A mean over trained seeds with its interval."""

    value: float
    se: float | None
    lo: float | None
    hi: float | None


def pool_seeds(values: Sequence[float], errors: Sequence[float | None]) -> Pooled:
    """Mean over seeds; variance = between seeds / number of seeds + mean variance within a cohort.

    The part within a cohort is not divided: all seeds are measured against the same real people. The interval is
    Student's with Welch and Satterthwaite's degrees of freedom, so it is the t-interval over seeds where the part
    within vanishes, and normal where there is one seed.
    """
    from scipy.stats import t

    given = np.asarray(values, dtype=np.float64)
    inside = [e**2 for e in errors if e is not None and np.isfinite(e)]
    within = float(np.mean(inside)) if inside else 0.0
    k = len(given)
    between = float(given.var(ddof=1)) / k if k > 1 else 0.0
    mean = float(given.mean())
    if not inside and k == 1:
        return Pooled(mean, None, None, None)
    se = float(np.sqrt(between + within))
    # As a ratio, not as squares: the squares of p-values of exact copies are too small for a float.
    share = (between + within) / between if between > 0 else np.inf
    freedom = share * share * (k - 1) if k > 1 else np.inf
    half = float(t.ppf(0.975, freedom)) * se
    return Pooled(mean, se, mean - half, mean + half)
