"""What the report draws of visits: shares of people and visits by whole numbers, in bins that both sides share."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.aggregates import visible_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray


BINS = 16
DAYS = {
    "the same day": 0,
    "1 to 7 days": 1,
    "8 to 30": 8,
    "31 to 90": 31,
    "91 to 182": 91,
    "183 to 365": 183,
    "1 to 2 years": 366,
    "more": 731,
}
"""First day of each bin of the days between two visits."""

Counted = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""(m,) person and whole number of each thing that is counted."""


def bars(name: str, real: Counted, made: Counted, train: Counted) -> dict[str, Any]:
    """Shares of what is counted in each bin; a real bin of 1 to 10 people has none.

    Args:
        name: id of the metric; that of gaps has bins of days, others have bins of equal whole widths up to the training rows' 99th percentile.
        real: of the holdout.
        made: of the synthetic rows.
        train: of the training rows, which alone choose the bins.
    """
    labels, first = (list(DAYS), np.array(list(DAYS.values()))) if name.endswith("gap_ks") else _widths(train[1])
    found: dict[str, Any] = {"name": name, "labels": labels}
    for key, (person, value) in (("real", real), ("synthetic", made)):
        place = np.maximum(np.searchsorted(first, value, side="right") - 1, 0)
        people = np.bincount(np.unique(np.stack([place, person]), axis=1)[0], minlength=len(first))
        count = np.bincount(place, minlength=len(first))
        found[key] = visible_shares(count, suppress=key == "real", people=people)
    return found


def _widths(values: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    least = int(values.min(initial=0))
    top = int(np.quantile(values, 0.99)) if len(values) else 1
    width = max(1, int(np.ceil((top - least + 1) / (BINS - 1))))
    first = np.arange(least, max(top, least) + width + 1, width)
    names = [str(a) if b - a == 1 else f"{a}-{b - 1}" for a, b in pairwise(first.tolist())]
    return [*names, f"{first[-1]} and more"], first
