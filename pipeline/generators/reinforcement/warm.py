"""The warm start of a policy: a briefly trained autoencoder with the policy as its decoder (spec 7.3).

A policy that starts from margins has to find all dependence by trial; this one begins near the data, and training by
reward closes what the likelihood left open: the gap between N(0, I) and where the latents of real rows lie.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.generators.training import TrainSettings, torch_stream, train
from pipeline.generators.variational.prior import MixturePrior

if TYPE_CHECKING:
    from collections.abc import Callable

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
COMPONENTS = 10
"""Of the mixture that states are drawn from, at most; one for 100 rows."""
FEWEST_POINTS, MOST_POINTS, CHUNK = 2_000, 20_000, 4_096
"""Latents that it is fitted to, and rows that are encoded at once."""


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

    def latents(self, rows: Action, told: Told | None, generator: torch.Generator) -> Tensor:
        """(n, noise) a draw of each row's posterior."""
        mean, log_var = self._posterior(rows, told)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + noise * (0.5 * log_var).exp()

    def _posterior(self, rows: Action, told: Told | None) -> tuple[Tensor, Tensor]:
        view = self.policy.space.view(rows)
        inputs = view if told is None else torch.cat([view, told.vector], dim=1)
        mean, log_var = self.encoder(inputs).chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VARIANCES)

    def loss(self, rows: Action, told: Told | None, generator: torch.Generator, beta: float) -> Tensor:
        """(n,) negative evidence lower bounds; beta weighs the KL term."""
        view = self.policy.space.view(rows)
        mean, log_var = self._posterior(rows, told)
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
        return network.loss(rows.take(at), tell(at, noise), noise, config.warm_beta * min(1.0, done / KL_WARMUP))

    free = [policy.heads.log_scale] if policy.heads.log_scale is not None else []
    log = train(
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
    if config.states == "mixture":
        _take_states(network, rows, tell, fit_rows, seed, device)
    return log


def _take_states(
    network: Autoencoder, rows: Action, tell: TellSome, fit_rows: NDArray[np.integer], seed: int, device: torch.device
) -> None:
    """Let the policy's states come from where the rows it learned from lie.

    The encoder does not fill N(0, I), and from the holes between the policy was never asked (spec 2.3). Training by
    reward could close them too, but has too little to say where rows are few.
    """
    noise, order = torch_stream(seed, "states", device=device), torch_stream(seed, "states-rows")
    at = torch.as_tensor(np.asarray(fit_rows), dtype=torch.long)
    at = at[torch.randperm(len(at), generator=order)[:MOST_POINTS]].repeat(max(1, FEWEST_POINTS // max(1, len(at))))
    with torch.no_grad():
        parts = [network.latents(rows.take(part.to(device)), tell(part, order), noise) for part in at.split(CHUNK)]
    prior = MixturePrior.fit(torch.cat(parts).cpu().numpy(), components=COMPONENTS, rows=len(fit_rows), seed=seed)
    network.policy.draw_states_from(
        torch.as_tensor(prior.weights[0]).cumsum(0), torch.as_tensor(prior.means), torch.as_tensor(prior.factors)
    )
