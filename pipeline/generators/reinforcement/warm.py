"""The warm start of a policy: a briefly trained autoencoder with the policy as its decoder (spec 7.3).

A policy that starts from margins has to find all dependence by trial; this one begins near the data, and training by
reward closes what the likelihood left open: the gap between N(0, I) and where the latents of real rows lie.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.generators.training import TrainSettings, train

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from pipeline.generators.base import Progress
    from pipeline.generators.checkpoint import Checkpoint
    from pipeline.generators.reinforcement.policy import Policy, Told
    from pipeline.generators.reinforcement.settings import RLSynConfig
    from pipeline.generators.reinforcement.space import Action
    from pipeline.generators.training import TrainLog

    TellSome = Callable[[Tensor, torch.Generator], Told | None]

LOG_VARIANCES = (-10.0, 4.0)
KL_WARMUP = 0.1


class Autoencoder(nn.Module):
    """The policy behind an encoder of rows to its noise.

    Args:
        policy: the decoder.
        hidden: widths of the encoder's layers.
    """

    def __init__(self, policy: Policy, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.policy = policy
        widths = [policy.space.width + policy.shape.conditions, *hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.encoder = nn.Sequential(*layers, nn.Linear(widths[-1], 2 * policy.shape.noise))

    def loss(self, rows: Action, told: Told | None, generator: torch.Generator, beta: float) -> Tensor:
        """(n,) negative evidence lower bounds; beta weighs the KL term."""
        view = self.policy.space.view(rows)
        inputs = view if told is None else torch.cat([view, told.vector], dim=1)
        mean, log_var = self.encoder(inputs).chunk(2, dim=1)
        log_var = log_var.clamp(*LOG_VARIANCES)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        hidden = self.policy.hidden(mean + noise * (0.5 * log_var).exp(), told)
        each = self.policy.heads.of(self.policy.outputs(hidden, view)).log_prob(rows)
        divergence = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(dim=1)
        return beta * divergence - (each * self.policy.chosen(told, each)).sum(dim=1)


def warm_start(
    policy: Policy,
    rows: Action,
    tell: TellSome,
    config: RLSynConfig,
    *,
    fit_rows: NDArray[np.integer],
    tune_rows: NDArray[np.integer],
    seed: int,
    device: torch.device,
    progress: Progress | None,
    checkpoint: Checkpoint | None,
) -> TrainLog:
    """Train the policy as a decoder until the tuning rows say enough.

    Args:
        policy: the policy, at its columns' margins.
        rows: the training rows.
        tell: what is told of given rows.
        config: the settings.
        fit_rows: rows to learn from.
        tune_rows: rows that end it.
        seed: of batches and noise.
        device: where policy and rows are.
        progress: called after every epoch.
        checkpoint: where the state is kept.
    """
    network = Autoencoder(policy, tuple(reversed(config.hidden))).to(device)

    def loss(at: Tensor, noise: torch.Generator, done: float) -> Tensor:
        return network.loss(rows.take(at), tell(at, noise), noise, min(1.0, done / KL_WARMUP))

    free = [policy.heads.log_scale] if policy.heads.log_scale is not None else []
    return train(
        network,
        loss,
        fit_rows=fit_rows,
        tune_rows=tune_rows,
        settings=TrainSettings(
            epochs=config.warm_epochs,
            batch_size=min(config.batch_size, max(32, len(rows) // 8)),
            learning_rate=config.warm_rate,
            settled=KL_WARMUP,
        ),
        seed=seed,
        device=device,
        fast_parameters=list(free),
        progress=progress,
        checkpoint=checkpoint,
    )
