"""Curves of a task's scores that are safe to publish: precision against recall, predicted against observed shares.

Every point stands for at least 11 holdout people with and, of calibration, 11 without the outcome. Which tasks and
models are drawn is in `classification.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEWEST = 11
RECALLS = np.linspace(0.05, 1.0, 20)
MOST_BINS = 10


def precision_recall(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Precision at recalls of 5, 10, ... 100 %, from the first at which 11 people are found."""
    order = np.argsort(-scores, kind="stable")
    ordered, found = scores[order], np.cumsum(truth[order])
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    total = int(found[-1]) if len(found) else 0
    recalls, precisions = [], []
    for recall in RECALLS:
        needed = np.ceil(recall * total - 1e-9)
        if needed < FEWEST:
            continue
        end = int(ends[np.searchsorted(found[ends], needed)])
        recalls.append(round(float(recall), 2))
        precisions.append(round(float(found[end]) / (end + 1), 3))
    return {"recall": recalls, "precision": precisions}


def calibration(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> dict[str, list[float]]:
    """Mean score and share of positives in up to ten bins, by rising score, merged until each has enough of both."""
    order = np.argsort(scores, kind="stable")
    ordered, hits = scores[order], truth[order]
    size = max(2 * FEWEST, int(np.ceil(len(scores) / MOST_BINS)))
    bins: list[tuple[int, int]] = []
    start = 0
    for end in range(1, len(scores) + 1):
        positives = int(hits[start:end].sum())
        full = end - start >= size and min(positives, end - start - positives) >= FEWEST
        if full and (end == len(scores) or ordered[end] != ordered[end - 1]):
            bins.append((start, end))
            start = end
    if bins and start < len(scores):
        bins[-1] = (bins[-1][0], len(scores))
    return {
        "predicted": [round(float(ordered[a:b].mean()), 3) for a, b in bins],
        "observed": [round(float(hits[a:b].mean()), 3) for a, b in bins],
    }
