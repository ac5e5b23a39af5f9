"""Discriminator rejection sampling (Azadi et al. 2019): drawn rows are kept as often as a critic finds them short in supply.

The critic is learned anew on training rows against the rows that are to be filtered, from the critic of an earlier stage, and
rows are accepted within strata, about half of each, so that no group is filtered away. A critic of an earlier stage itself does not
know the ratio that is needed, and brings back what was removed since. It is the last stage of Bt-GAN as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.generators.adversarial.networks import Critic

STEPS, BATCH, RATE = 500, 256, 1e-4
MEDIAN = 50.0
EDGE = 1e-6


def odds(scores: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """F of the paper (equation 8) without gamma: logit of the chance that a row with this score is accepted."""
    below = np.minimum(scores - most, 0.0)
    return np.asarray(below - np.log1p(-np.exp(below - EDGE)), dtype=np.float64)


@dataclass
class RejectionFilter:
    """Which drawn rows are kept.

    Attributes:
        critic: Scores of vectors: log of the density of training rows over that of drawn ones.
        most: The largest score among the rows it was set up with.
        gamma: (strata,) median of `odds` in each.
    """

    critic: Critic
    most: float
    gamma: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        critic: Critic,
        real: Tensor,
        drawn: Tensor,
        stratum: NDArray[np.int64],
        strata: int,
        order: torch.Generator,
    ) -> RejectionFilter:
        """Learn from (n, width) training rows and (m, width) drawn ones, whose strata are given."""
        critic.train().requires_grad_(True)
        stepper = torch.optim.Adam(critic.parameters(), lr=RATE)
        for _ in range(STEPS):
            on_real, on_drawn = (
                critic(rows[torch.randint(len(rows), (BATCH,), generator=order)]) for rows in (real, drawn)
            )
            loss = functional.softplus(-on_real).mean() + functional.softplus(on_drawn).mean()
            stepper.zero_grad()
            loss.backward()
            stepper.step()
        out = cls(critic.eval().requires_grad_(False), 0.0, np.zeros(strata))
        scores = out.scores(drawn)
        out.most = float(scores.max())
        found = odds(scores, out.most)
        for i in np.unique(stratum):
            out.gamma[i] = np.percentile(found[stratum == i], MEDIAN)
        return out

    def scores(self, vectors: Tensor) -> NDArray[np.float64]:
        """(n,) scores."""
        with torch.no_grad():
            return np.asarray(self.critic(vectors).numpy(), dtype=np.float64)

    def accepted(self, vectors: Tensor, stratum: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """(n,) whether each row is kept."""
        found = odds(self.scores(vectors), self.most) - self.gamma[stratum]
        return np.asarray(rng.random(len(found)) < 1 / (1 + np.exp(-np.clip(found, -50, 50))))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is to be saved."""
        weights = {f"filter/critic/{k}": v.numpy() for k, v in self.critic.state_dict().items()}
        return {**weights, "filter/gamma": self.gamma, "filter/most": np.array(self.most)}

    @classmethod
    def restore(cls, critic: Critic, arrays: Mapping[str, NDArray[Any]]) -> RejectionFilter:
        """Back from `arrays`, into an untrained critic of the same build."""
        start = "filter/critic/"
        critic.load_state_dict(
            {k.removeprefix(start): torch.as_tensor(np.array(v)) for k, v in arrays.items() if k.startswith(start)}
        )
        return cls(critic.eval().requires_grad_(False), float(arrays["filter/most"]), np.array(arrays["filter/gamma"]))
