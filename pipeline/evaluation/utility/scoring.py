"""What scores are worth beside AUROC: figures at a threshold, of probabilities, and of their calibration.

Plain arrays in, a value and its bootstrap out; all figures of one set of scores come from two matrix products with the
weights by subject. Which scores, and what their rows are called, is in `classification.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import CHUNK
from pipeline.evaluation.utility.regression import fit_glm

if TYPE_CHECKING:
    from numpy.typing import NDArray

ECE_BINS = 10
EDGE = 1e-6
"""Probabilities are cut to [EDGE, 1 - EDGE] before their logit is taken."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap.

    Attributes:
        value: The figure; None with `note`.
        draws: (draws,) the figure in each draw; NaN in a draw where it does not exist.
        null: What it is where the scores say nothing (or, of calibration, where all is right); None if there is none.
        note: Why there is no value.
    """

    value: float | None
    draws: NDArray[np.float64]
    null: float | None = None
    note: str = ""

    @property
    def se(self) -> float | None:
        """Standard deviation of the draws in which the figure exists."""
        known = self.draws[np.isfinite(self.draws)]
        return float(known.std(ddof=1)) if self.value is not None and len(known) > 1 else None


def at_threshold(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], threshold: float, weights: NDArray[np.float32]
) -> dict[str, Estimate]:
    """Accuracy, precision, recall, F1, macro-F1 and balanced accuracy where `score >= threshold` is called positive.

    Precision is not estimable where nothing is called positive; F1 of a class is 2 TP / (2 TP + FP + FN), so 0 there.
    Nulls: accuracy of calling all of them the commoner class, precision of calling positive by lot (the prevalence),
    F1 of calling all positive, macro-F1 of the better constant call, balanced accuracy 1/2.
    """
    called = scores >= threshold
    cells = np.column_stack([truth & called, ~truth & called, truth & ~called, ~truth & ~called]).astype(np.float32)
    share = float(truth.mean())
    commoner = max(share, 1 - share)
    nulls = {
        "accuracy": commoner,
        "precision": share,
        "recall": None,
        "f1": 2 * share / (1 + share),
        "macro_f1": commoner / (1 + commoner),
        "balanced_accuracy": 0.5,
    }
    value = _confusion(cells.sum(axis=0, dtype=np.float64)[None])
    draws = _confusion((weights @ cells).astype(np.float64))
    note = "nothing is called positive" if not called.any() else ""
    return {
        name: Estimate(
            float(value[name][0]) if np.isfinite(value[name][0]) else None,
            draws[name],
            nulls[name],
            "" if np.isfinite(value[name][0]) else note,
        )
        for name in nulls
    }


def _confusion(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Figures of (draws, 4) weighted numbers of true and false positives, false and true negatives."""
    tp, fp, fn, tn = counts.T

    def share(of: NDArray[np.float64], all_of: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.divide(of, all_of, out=np.full(len(of), np.nan), where=all_of > 0)

    def or_zero(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.isnan(x), 0.0, x)

    f1, other = or_zero(share(2 * tp, 2 * tp + fp + fn)), or_zero(share(2 * tn, 2 * tn + fp + fn))
    recall, kept = share(tp, tp + fn), share(tn, tn + fp)
    return {
        "accuracy": share(tp + tn, tp + fp + fn + tn),
        "precision": share(tp, tp + fp),
        "recall": recall,
        "f1": f1,
        "macro_f1": (f1 + other) / 2,
        "balanced_accuracy": (recall + kept) / 2,
    }


def average_precision(scores: NDArray[np.float64], truth: NDArray[np.bool_], weights: NDArray[np.float32]) -> Estimate:
    """Area under the precision-recall curve as average precision (no interpolation); the null is the prevalence."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], truth[order].astype(np.float32)
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])

    def of(w: NDArray[np.float32]) -> NDArray[np.float64]:
        w = w[:, order].astype(np.float64)
        true = np.cumsum(w * hits, axis=1)[:, ends]
        called = np.cumsum(w, axis=1)[:, ends]
        precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
        total = true[:, -1]
        area = (np.diff(true, axis=1, prepend=0.0) * precision).sum(axis=1)
        return np.divide(area, total, out=np.full(len(w), np.nan), where=total > 0)

    draws = np.concatenate([of(weights[lo : lo + CHUNK]) for lo in range(0, len(weights), CHUNK)])
    return Estimate(float(of(np.ones((1, len(scores)), np.float32))[0]), draws, float(truth.mean()))


def of_probabilities(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], weights: NDArray[np.float32]
) -> dict[str, Estimate]:
    """Brier score, expected calibration error, calibration slope and intercept.

    The slope is that of the logistic regression of the truth on the logit of the score, the intercept that of the one
    whose slope is held at 1 (calibration in the large). Both have one Newton step from the fit as their bootstrap. The
    error of calibration is the mean distance of mean score and share of positives over ten bins of equally many rows;
    its null is what perfectly calibrated scores give with so few rows a bin.

    Source: Brier 1950; Cox 1958; Van Calster et al. 2019 (hierarchy of calibration).
    """
    y = truth.astype(np.float64)
    share = float(y.mean())
    logit = np.log(np.clip(scores, EDGE, 1 - EDGE) / (1 - np.clip(scores, EDGE, 1 - EDGE)))
    bins = _equal_bins(scores)
    hot = np.eye(int(bins.max()) + 1)[bins]
    level = _large(y, logit)
    slope = fit_glm("logistic", np.column_stack([np.ones(len(y)), logit]), y, np.arange(len(y)))
    spread = bool(slope.estimable.all()) if not slope.reason else False
    parts = [np.ones(len(y)), (scores - y) ** 2, *(hot * (scores - y)[:, None]).T]
    parts += _steps(logit, y, level, 1.0)
    if spread:
        parts += _steps(logit, y, float(slope.coef[0]), float(slope.coef[1]))
    columns = np.column_stack(parts)
    sums = (weights @ columns.astype(np.float32)).astype(np.float64)
    total, k = np.maximum(sums[:, 0], 1.0), hot.shape[1]
    noise = np.sqrt(2 / np.pi) * np.sqrt(np.maximum((hot * (scores * (1 - scores))[:, None]).sum(axis=0), 0.0)).sum()
    steep = Estimate(None, np.full(len(weights), np.nan), 1.0, slope.reason or "all scores are alike")
    if spread:
        steep = Estimate(float(slope.coef[1]), slope.coef[1] + _stepped(sums[:, 2 + k + 5 :])[:, 1], 1.0)
    return {
        "brier": Estimate(float(((scores - y) ** 2).mean()), sums[:, 1] / total, share * (1 - share)),
        "ece": Estimate(
            float(np.abs(hot.T @ (scores - y)).sum() / len(y)),
            np.abs(sums[:, 2 : 2 + k]).sum(axis=1) / total,
            float(noise / len(y)),
        ),
        "calibration_slope": steep,
        "calibration_intercept": Estimate(level, level + _alone(sums[:, 2 + k : 2 + k + 5]), 0.0),
    }


def _equal_bins(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) number of each score's bin, 0 and up: ten bins of equally many rows, equal scores together."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, ECE_BINS + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, scores, side="left"), return_inverse=True)[1]


def _large(y: NDArray[np.float64], logit: NDArray[np.float64]) -> float:
    """The shift of the logits at which they add up to the number of positives (both classes occur)."""
    shift = 0.0
    for _ in range(100):
        p = 1 / (1 + np.exp(-(shift + logit)))
        step = float((y - p).sum()) / max(float((p * (1 - p)).sum()), 1e-12)
        shift += float(np.clip(step, -2.0, 2.0))
        if abs(step) < 1e-10:
            break
    return shift


def _steps(logit: NDArray[np.float64], y: NDArray[np.float64], level: float, slope: float) -> list[NDArray[np.float64]]:
    """Per row: gradient (2) and information (3) of the recalibration model at a point."""
    p = 1 / (1 + np.exp(-(level + slope * logit)))
    v = p * (1 - p)
    return [y - p, (y - p) * logit, v, v * logit, v * logit**2]


def _stepped(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws, 2) Newton steps of level and slope from weighted sums of `_steps`."""
    g0, g1, a, b, c = sums.T
    det = a * c - b * b
    safe = np.where(det > 0, det, np.nan)
    return np.column_stack([(c * g0 - b * g1) / safe, (a * g1 - b * g0) / safe])


def _alone(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(draws,) Newton steps of the level alone."""
    return sums[:, 0] / np.where(sums[:, 2] > 0, sums[:, 2], np.nan)
