"""How many rows each cell of outcome, group and stratum is to have, from the shares of cells that are known.

What the shares are of (the model's own rows, training rows, a table) is the caller's; drawing is in `quotas.py`.

Source: Kamiran and Calders 2012, section 4.3 (expected share of a cell under independence); conditional parity as in
Zliobaite, Kamiran and Calders 2011.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.fairness_spec import Notion


def target_shares(counts: NDArray[np.float64], notion: Notion) -> NDArray[np.float64]:
    """(strata, groups, outcomes) shares: p(stratum, group) p(outcome given stratum) under parity, as they are under "none".

    Without strata that is p(outcome) p(group). Missing outcomes are an outcome.
    """
    total = counts.sum()
    if notion == "none":
        return counts / total
    people = counts.sum(axis=2, keepdims=True)
    outcomes = counts.sum(axis=1, keepdims=True)
    return people * outcomes / np.maximum(people.sum(axis=1, keepdims=True), 1e-300) / total


def whole_rows(shares: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """(strata, groups, outcomes) whole rows that add up to `n`: groups first, then outcomes within each group.

    So each group's share of an outcome is off by less than one of its rows. Largest remainders, ties to the first.
    """
    people = largest_remainders(shares.sum(axis=2).ravel(), n)
    flat = shares.reshape(-1, shares.shape[2])
    rows = [largest_remainders(part, int(size)) for part, size in zip(flat, people, strict=True)]
    return np.stack(rows).reshape(shares.shape)


def largest_remainders(shares: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """Whole numbers in proportion to `shares` that add up to `n`; all 0 where nothing has a share."""
    total = shares.sum()
    if n == 0 or total <= 0:
        return np.zeros(len(shares), dtype=np.int64)
    exact = shares / total * n
    whole = np.floor(exact + 1e-9).astype(np.int64)
    rest = np.where(shares > 0, exact - whole, -1.0)
    whole[np.argsort(-rest, kind="stable")[: n - int(whole.sum())]] += 1
    return whole


def label_gap(counts: NDArray[np.float64], positive: int) -> float:
    """Largest minus smallest share of positives among the known outcomes of groups that have any."""
    known = counts[..., :-1].sum(axis=(0, 2))
    hits = counts[..., positive].sum(axis=0)[known > 0] / known[known > 0]
    return float(hits.max() - hits.min()) if len(hits) else 0.0
