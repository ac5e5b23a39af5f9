"""Codes of a block drawn by themselves: the distribution of each code's count, and drawing from it.

For generators that model few or no codes together with the columns. Which codes are kept at all is the encoder's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.encoding.encoder import TableEncoder


def count_frequencies(counts: NDArray[np.int16]) -> NDArray[np.float64]:
    """(codes, largest count + 1) share of rows with each count, for (rows, codes) counts."""
    n, codes = counts.shape
    largest = int(counts.max(initial=0))
    table = np.zeros((codes, largest + 1))
    for k in range(largest + 1):
        table[:, k] = (counts == k).sum(axis=0)
    return table / max(1, n)


def draw_counts(shares: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """(n, codes) counts, each code by itself, from (codes, largest count + 1) probabilities."""
    # P(count > k) for k = 0, 1, ..: the number of these that one uniform lies below is the count.
    above = 1.0 - np.cumsum(shares, axis=1)[:, :-1]
    uniform = rng.random((n, len(shares)))
    counts = np.zeros(uniform.shape, dtype=np.int16)
    for step in above.T:
        counts += uniform < step
    return counts


def commonest_codes(encoder: TableEncoder, most: int) -> dict[str, NDArray[np.int64]]:
    """Positions of the commonest codes of each block, at most `most` of all blocks together."""
    places = [(b.prevalence[i], name, i) for name, b in encoder.blocks.items() for i in np.flatnonzero(b.common)]
    chosen = sorted(places, key=lambda p: (-p[0], p[1], p[2]))[:most]
    return {name: np.sort([i for _, b, i in chosen if b == name]).astype(np.int64) for name in encoder.blocks}
