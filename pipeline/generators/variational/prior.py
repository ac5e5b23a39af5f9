"""Where latents are drawn from: N(0, I), or a Gaussian mixture fitted to the latents of the training rows.

A trained encoder does not fill N(0, I): between the aggregate posterior and the prior there is a hole, from which the
decoder was never asked (spec 2.3). The mixture closes it. It is fitted to private rows, so it is not for DP trainings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.generators.seeds import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ROUNDS = 50
ROWS_A_COMPONENT = 100


class StandardPrior:
    """N(0, I)."""

    def __init__(self, latents: int) -> None:
        self.latents = latents

    def draw(self, n: int, rng: np.random.Generator, groups: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
        """(n, latents) draws."""
        return rng.standard_normal((n, self.latents))

    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """Nothing to be saved."""
        return {}


class MixturePrior:
    """A full-covariance Gaussian mixture; its weights may differ between groups of rows (conditions).

    Attributes:
        weights: (groups, components) rows sum to 1; one group where there are no conditions.
        means: (components, latents).
        factors: (components, latents, latents) lower Cholesky factors of the covariances.
    """

    def __init__(self, weights: NDArray[np.float64], means: NDArray[np.float64], factors: NDArray[np.float64]) -> None:
        self.weights, self.means, self.factors = weights, means, factors

    @classmethod
    def fit(
        cls,
        points: NDArray[np.float64],
        *,
        components: int,
        rows: int,
        seed: int,
        groups: NDArray[np.integer] | None = None,
        known: int = 1,
    ) -> MixturePrior:
        """Fit to points of the aggregate posterior.

        Args:
            points: (points, latents).
            components: number of components, at most one for 100 rows.
            rows: training rows.
            seed: of the fit.
            groups: (points,) the group of each point; None for one group.
            known: number of groups; one more row of weights, the overall ones, is kept for rows of no group.
        """
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        # Single precision fits the same mixture in half the time.
        points = points.astype(np.float32)
        with warnings.catch_warnings():
            # Fifty rounds are enough for a prior; that the likelihood still creeps up is no news for the user.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture = GaussianMixture(
                max(1, min(components, rows // ROWS_A_COMPONENT)),
                max_iter=ROUNDS,
                reg_covar=1e-3,
                random_state=derive_seed(seed, "mixture") % 2**32,
            ).fit(points)
        overall = mixture.weights_.astype(np.float64)
        weights = overall[None, :]
        if groups is not None:
            shares = mixture.predict_proba(points).astype(np.float64)
            # One point's worth of the overall weights keeps a small group from being its own few rows.
            sums = np.stack([shares[groups == g].sum(axis=0) for g in range(known)]) + overall
            weights = np.vstack([sums / sums.sum(axis=1, keepdims=True), overall])
        spreads = np.linalg.cholesky(mixture.covariances_.astype(np.float64))
        return cls(weights, mixture.means_.astype(np.float64), spreads)

    def draw(self, n: int, rng: np.random.Generator, groups: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
        """(n, latents) draws; `groups` (n,) choose the row of weights, the last row (overall) by default."""
        normal = rng.standard_normal((n, self.means.shape[1]))
        group = np.full(n, len(self.weights) - 1) if groups is None else np.asarray(groups)
        edges = np.cumsum(self.weights, axis=1)[group]
        component = (rng.random(n)[:, None] * edges[:, -1:] >= edges).sum(axis=1)
        component = np.minimum(component, self.weights.shape[1] - 1)
        out = self.means[component]
        for k in np.unique(component):
            at = component == k
            out[at] += normal[at] @ self.factors[k].T
        return out

    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """The arrays to be saved."""
        return {"weights": self.weights, "means": self.means, "factors": self.factors}

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[np.float64]]) -> MixturePrior:
        """Back from what `tensors` gave."""
        return cls(*(np.asarray(tensors[k], dtype=np.float64) for k in ("weights", "means", "factors")))
