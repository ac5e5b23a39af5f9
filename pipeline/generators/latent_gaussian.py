"""The linear algebra of a latent Gaussian: making a correlation matrix valid, and drawing it under conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

EIGENVALUE_FLOOR = 1e-4
EDGE = 1e-12


def repair(raw: NDArray[np.float64], *, least_identity: float) -> NDArray[np.float64]:
    """The nearest usable correlation matrix: mixed with the identity, eigenvalues at least 1e-4, diagonal 1 (spec 1.2).

    Args:
        raw: (d, d) symmetric matrix with unit diagonal, perhaps indefinite.
        least_identity: share of the identity.
    """
    d = len(raw)
    mixed = (1 - least_identity) * (raw + raw.T) / 2 + least_identity * np.eye(d)
    if d == 0:
        return mixed
    values, vectors = np.linalg.eigh(mixed)
    if values[0] < EIGENVALUE_FLOOR:
        mixed = (vectors * np.maximum(values, EIGENVALUE_FLOOR)) @ vectors.T
    scale = 1 / np.sqrt(np.diag(mixed))
    fixed = mixed * np.outer(scale, scale)
    fixed = (fixed + fixed.T) / 2
    np.fill_diagonal(fixed, 1.0)
    return fixed


def truncated_gibbs(
    correlation: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    sweeps: int,
) -> NDArray[np.float64]:
    """(n, m) normals with the given correlation, each inside its own interval; Gibbs sampling over the m latents.

    With one latent a single draw is exact; with several, intervals that are points stay where they are and `sweeps`
    sweeps bring the others near the exact joint distribution.
    """
    from scipy.special import ndtr, ndtri

    n, m = low.shape
    a, b = ndtr(low), ndtr(high)
    z = ndtri(np.clip(a + rng.random((n, m)) * (b - a), EDGE, 1 - EDGE))
    if m == 1:
        return z
    precision = np.linalg.inv(correlation)
    for _ in range(sweeps):
        for j in range(m):
            spread = 1 / np.sqrt(precision[j, j])
            others = np.delete(np.arange(m), j)
            mean = -(z[:, others] @ precision[others, j]) / precision[j, j]
            lower, upper = (low[:, j] - mean) / spread, (high[:, j] - mean) / spread
            # Mirrored into the lower tail, where the normal distribution function keeps its digits.
            flip = lower > 0
            lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
            p, q = ndtr(lower), ndtr(upper)
            draw = ndtri(np.clip(p + rng.random(n) * (q - p), 1e-300, 1 - EDGE))
            draw = np.clip(draw, lower, upper)
            z[:, j] = np.clip(mean + spread * np.where(flip, -draw, draw), low[:, j], high[:, j])
    return z


def conditional_normal(
    correlation: NDArray[np.float64],
    known: NDArray[np.integer],
    z_known: NDArray[np.float64],
    noise: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(n, d) normals that equal `z_known` at the places `known` and follow the conditional Gaussian elsewhere.

    Args:
        correlation: (d, d), positive definite.
        known: (m,) places.
        z_known: (n, m) values there.
        noise: (n, d) standard normals; those at `known` are not used.
    """
    rest = np.setdiff1d(np.arange(len(correlation)), known)
    out = np.empty_like(noise)
    out[:, known] = z_known
    if len(rest):
        weights = np.linalg.solve(correlation[np.ix_(known, known)], correlation[np.ix_(known, rest)])
        spread = correlation[np.ix_(rest, rest)] - correlation[np.ix_(rest, known)] @ weights
        spread = (spread + spread.T) / 2 + 1e-10 * np.eye(len(rest))
        out[:, rest] = z_known @ weights + noise[:, rest] @ np.linalg.cholesky(spread).T
    return out
