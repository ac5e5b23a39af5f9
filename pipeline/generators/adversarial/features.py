"""Critics whose last hidden layer is compared as well as their score: what generators match beside being taken for real.

Matching the features of rows goes back to Larsen et al. 2016 (VAE-GAN, section 2.3); matching their means and spreads over a
batch, to table-GAN (Park et al. 2018) and CTAB-GAN (Zhao et al. 2021, section 3.2).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn
from torch.nn import functional

from pipeline.generators.adversarial.networks import Critic, LeakyCritic

if TYPE_CHECKING:
    from collections.abc import Sequence

TINY = 1e-12


class WithFeatures(Protocol):
    """A critic that shows what its score is made of."""

    def features(self, rows: Tensor) -> Tensor:
        """(n / pac, features) of (n, width) rows."""

    def judged(self, features: Tensor) -> Tensor:
        """(m,) scores of (m, features)."""


class LeakyFeatureCritic(LeakyCritic):
    """`LeakyCritic` with its last hidden layer as features."""

    def features(self, rows: Tensor) -> Tensor:
        """See `WithFeatures.features`."""
        hidden = self.packs(rows)
        for layer in self.layers:
            hidden = functional.leaky_relu(layer(hidden), self.slope)
            hidden = functional.dropout(hidden, self.dropout, training=self.training)
        return hidden

    def judged(self, features: Tensor) -> Tensor:
        """See `WithFeatures.judged`."""
        out: Tensor = self.last(features)[..., 0]
        return out


class LayerNormCritic(Critic):
    """Leaky ReLU layers with layer normalisation; no row is judged by the others of its batch.

    Args:
        width: see `Critic`.
        hidden: widths of the hidden layers; the last one is the features.
        slope: of the leaky ReLUs below 0.
    """

    def __init__(self, width: int, hidden: Sequence[int], *, slope: float = 0.2) -> None:
        super().__init__(width)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([width, *hidden]))
        self.norms = nn.ModuleList(nn.LayerNorm(b) for b in hidden)
        self.last = nn.Linear([width, *hidden][-1], 1)
        self.slope = slope

    def features(self, rows: Tensor) -> Tensor:
        """See `WithFeatures.features`."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            rows = functional.leaky_relu(norm(layer(rows)), self.slope)
        return rows

    def judged(self, features: Tensor) -> Tensor:
        """See `WithFeatures.judged`."""
        out: Tensor = self.last(features)[..., 0]
        return out

    def score(self, packs: Tensor) -> Tensor:
        """See `Critic.score`."""
        return self.judged(self.features(packs))


def moments_apart(real: Tensor, drawn: Tensor) -> Tensor:
    """Distance of the means and of the standard deviations of (n, features) and (m, features), a number.

    The information loss, |E f(x) - E f(G(z))| + |SD f(x) - SD f(G(z))|, Euclidean (Zhao et al. 2021, section 3.2).
    """
    means = (real.mean(dim=0) - drawn.mean(dim=0)).square().sum()
    spreads = (_spread(real) - _spread(drawn)).square().sum()
    return (means + TINY).sqrt() + (spreads + TINY).sqrt()


def _spread(rows: Tensor) -> Tensor:
    return (rows.var(dim=0, correction=0) + TINY).sqrt()


def features_apart(real: Tensor, drawn: Tensor) -> Tensor:
    """(n,) squared distances of (n, features), halved: features are Gaussian of variance 1 (Larsen et al. 2016, equation 7)."""
    return 0.5 * (real - drawn).square().sum(dim=1)
