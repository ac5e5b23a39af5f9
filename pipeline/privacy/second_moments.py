"""Products of columns under zero-concentrated privacy: the noisy Gram matrix that a private copula is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.privacy.marginals import gaussian_sd

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.privacy.marginals import Measurer


def clipped(rows: NDArray[np.floating], norm: float) -> NDArray[np.float64]:
    """(n, d) rows, the longer ones shortened to Euclidean length `norm`."""
    length = np.sqrt((np.asarray(rows, dtype=np.float64) ** 2).sum(axis=1, keepdims=True))
    return np.asarray(rows * np.minimum(1.0, norm / np.maximum(length, 1e-300)), dtype=np.float64)


def products_reach(norm: float, d: int) -> float:
    """How far one row of length `norm` moves the sums of products s_i s_j, i < j, of d columns (L2).

    sum over i < j of (s_i s_j)^2 = (|s|^4 - sum s_i^4) / 2 <= norm^4 (1 - 1/d) / 2, since sum s_i^4 >= |s|^4 / d. The
    diagonal is not asked for (a correlation matrix has ones there), which makes this less than the norm^2 of the whole
    matrix (spec 1.2).
    """
    return norm**2 * float(np.sqrt((1 - 1 / d) / 2))


def measure_products(
    measurer: Measurer, products: NDArray[np.float64], *, norm: float, rho: float, rows_per_subject: int
) -> tuple[NDArray[np.float64], float]:
    """The off-diagonal sums of products with symmetric Gaussian noise, and its standard deviation.

    Args:
        measurer: draws the noise.
        products: (d, d) sum over rows of s s^T, each row of length `norm` at most; d at least 2.
        norm: that length.
        rho: zCDP.
        rows_per_subject: rows that one subject may have.

    Returns:
        (d, d) symmetric, zeros on the diagonal; and the standard deviation of its cells.
    """
    d = len(products)
    above = np.triu_indices(d, 1)
    reach = products_reach(norm, d)
    noisy = np.zeros((d, d))
    noisy[above] = measurer.gaussian(products[above], l2=reach, rho=rho, what=f"products of {d} columns' scores")
    return noisy + noisy.T, gaussian_sd(reach * rows_per_subject, rho)
