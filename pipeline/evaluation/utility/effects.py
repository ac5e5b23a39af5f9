"""Comparisons of effect estimates, one number an effect: what is seen, and what as large a sample of real people would show.

Plain arrays in and out: each comparison gives (p,) values, NaN where it says nothing of an effect, and (p,) expectations
for a fresh real sample with S's errors. All are elementwise, so that (draws, p) estimates give (draws, p) values. Where
the estimates come from is in `analyses.py`, what the comparisons are called in `inference.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import Z95

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN = 0.1
"""Effects whose whole 90 % interval lies within +-0.1 (an odds, rate or hazard ratio of 0.90 to 1.11) are negligible."""
Z90 = 1.6448536269514722


@dataclass(frozen=True)
class Effects:
    """p effects with their errors on a real side and on S.

    Attributes:
        names: p names.
        real: (p,) or (draws, p) estimates on the real side, none of them lacking.
        real_se: (p,) their standard errors.
        made: As `real`, on S; NaN where S cannot estimate an effect.
        made_se: (p,) their standard errors, taking S for people; NaN there too.
    """

    names: list[str]
    real: NDArray[np.float64]
    real_se: NDArray[np.float64]
    made: NDArray[np.float64]
    made_se: NDArray[np.float64]

    @property
    def known(self) -> NDArray[np.bool_]:
        """(p,) where S has an estimate."""
        return np.isfinite(self.made_se)

    @property
    def spread(self) -> NDArray[np.float64]:
        """(p,) error of the difference; with the real error twice where S has none."""
        return np.hypot(self.real_se, self.filled_se)

    @property
    def filled_se(self) -> NDArray[np.float64]:
        """(p,) S's errors, the real ones where S has none."""
        return np.where(self.known, self.made_se, self.real_se)


Comparison = Callable[[Effects], "tuple[NDArray[np.float64], NDArray[np.float64]]"]


def overlaps(e: Effects) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Karr's overlap of the 95 % intervals; 0 where S has none."""
    from scipy.special import ndtri

    value = np.where(e.known, interval_overlap(e.real, e.real_se, e.made, e.made_se), 0.0)
    # 64 equally likely distances of a standard normal from 0.
    distance = ndtri(0.5 + (np.arange(64) + 0.5) / 128)[:, None] * e.spread
    expected = interval_overlap(np.zeros_like(distance), e.real_se, distance, e.filled_se)
    return value, expected.mean(axis=0)


def distances(e: Effects) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance in real standard errors; NaN where S has no estimate."""
    return np.abs(e.made - e.real) / e.real_se, np.where(e.known, np.sqrt(2 / np.pi) * e.spread / e.real_se, np.nan)


def same_sign(e: Effects) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """1 where the signs agree, 0 where they do not or S has no estimate."""
    from scipy.special import ndtr

    agrees = np.sign(np.where(e.known, e.made, 0.0)) == np.sign(e.real)
    return agrees.astype(np.float64), ndtr(np.abs(e.real) / e.spread)


def same_sign_of_clear(e: Effects) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`same_sign` of the effects whose real 95 % interval leaves out 0; NaN of others."""
    agrees, expected = same_sign(e)
    clear = np.abs(e.real) > Z95 * e.real_se
    return np.where(clear, agrees, np.nan), np.where(clear, expected, np.nan)


def same_conclusion(e: Effects) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """1 where both intervals lie below 0, above it, or both hold it."""
    from scipy.special import ndtr

    def conclusion(x: NDArray[np.float64], se: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.abs(x) > Z95 * se, np.sign(x), 0.0)

    low = ndtr((-Z95 * e.filled_se - e.real) / e.spread)
    high = 1 - ndtr((Z95 * e.filled_se - e.real) / e.spread)
    mine = conclusion(e.real, e.real_se)
    expected = np.where(mine < 0, low, np.where(mine > 0, high, 1 - low - high))
    theirs = conclusion(np.where(e.known, e.made, 0.0), e.filled_se)
    return (e.known & (theirs == mine)).astype(np.float64), expected


def rejected(times: int) -> Comparison:
    """1 where a z-test at 5 % that takes S for `times` as many people finds both sides different; NaN without estimate.

    Expected of real people each of whom is in S so many times.
    """
    from scipy.special import ndtr

    def compare(e: Effects) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        taken = np.hypot(e.real_se, e.made_se / np.sqrt(times))
        value = np.where(e.known, np.abs(e.made - e.real) > Z95 * taken, np.nan)
        return value, 2 * ndtr(-Z95 * taken / np.hypot(e.real_se, e.made_se))

    return compare


def interval_misses(e: Effects) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """1 where S's interval leaves out the real estimate."""
    from scipy.special import ndtr

    missed = np.where(e.known, np.abs(e.made - e.real) > Z95 * e.made_se, np.nan)
    return missed, 2 * ndtr(-Z95 * e.made_se / np.hypot(e.real_se, e.made_se))


def claims(e: Effects) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """1 where S's interval lies beyond the margin, of the effects that real rows show to be within it; NaN of others."""
    from scipy.special import ndtr

    negligible = np.abs(e.real) + Z90 * e.real_se < MARGIN
    claimed = np.where(e.known & negligible, np.abs(e.made) - Z95 * e.made_se > MARGIN, np.nan)
    beyond = MARGIN + Z95 * e.made_se
    expected = ndtr((-beyond - e.real) / e.spread) + ndtr((-beyond + e.real) / e.spread)
    return claimed, np.where(negligible, expected, np.nan)


def interval_overlap(
    a: NDArray[np.float64], a_se: NDArray[np.float64], b: NDArray[np.float64], b_se: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Karr's J of two 95 % intervals: the mean share of each that lies in the other; 0 where they do not meet."""
    half_a, half_b = Z95 * a_se, Z95 * b_se
    shared = np.maximum(np.minimum(a + half_a, b + half_b) - np.maximum(a - half_a, b - half_b), 0.0)
    return shared / (4 * half_a) + shared / (4 * half_b)
