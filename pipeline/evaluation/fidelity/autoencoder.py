"""A small autoencoder of the training rows, whose bottleneck is a frozen embedding for Fréchet distances.

Trained once for an evaluation, on T only, with a fixed seed; it is a ruler, not a generator, and is never stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.fidelity.components import FLAT, moments, standardised_real

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import RealSides

WIDTHS = (256, 64, 32)
STEPS = 1_000
BATCH = 256
RATE = 1e-3
CHUNK = 8_192
REACH = 5.0
"""Standardised cells are squeezed to ±5 softly, so that one far-off cell does not rule the embedding."""


@dataclass(frozen=True)
class Encoder:
    """The trained bottleneck, whitened on T.

    Attributes:
        network: torch module, (n, p) to (n, 32).
        centre: (32,) mean of T's codes.
        axes: (32, k) directions of T's codes, divided by their standard deviation.
        device: Where it computes.
    """

    network: Any
    centre: NDArray[np.float64]
    axes: NDArray[np.float64]
    device: str

    def encode(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, k) float32 whitened codes of standardised rows (`components.standardised`)."""
        return ((_codes(self.network, rows, self.device) - self.centre) @ self.axes).astype(np.float32)


def encoder(sides: RealSides) -> Encoder:
    """The autoencoder of T, trained once."""
    return sides.once("joint/autoencoder", lambda: _train(sides))


def _train(sides: RealSides) -> Encoder:
    import torch
    from torch import nn

    rows = standardised_real(sides, "T")
    device = sides.plan.device
    seed = int(sides.rng("joint/autoencoder").integers(2**31))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, decoder = _stack(nn, (rows.shape[1], *WIDTHS)), _stack(nn, (*WIDTHS[::-1], rows.shape[1]))
    network.to(device)
    decoder.to(device)
    optimiser = torch.optim.Adam([*network.parameters(), *decoder.parameters()], lr=RATE)
    order = np.random.default_rng(seed)
    for _ in range(STEPS):
        batch = torch.from_numpy(_squeezed(rows[order.integers(0, len(rows), BATCH)])).to(device)
        loss = nn.functional.mse_loss(decoder(network(batch)), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    codes = _codes(network, rows, device)
    centre, covariance = moments(codes)
    variance, axes = np.linalg.eigh(covariance)
    kept = np.flatnonzero(variance > FLAT * max(float(variance.mean()), 1e-12))[::-1]
    return Encoder(network, centre, axes[:, kept] / np.sqrt(variance[kept]), device)


def _stack(nn: Any, widths: tuple[int, ...]) -> Any:
    layers: list[Any] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(a, b)]
    return nn.Sequential(*layers)


def _codes(network: Any, rows: NDArray[np.float32], device: str) -> NDArray[np.float64]:
    import torch

    parts = []
    with torch.no_grad():
        for lo in range(0, len(rows), CHUNK):
            batch = torch.from_numpy(_squeezed(rows[lo : lo + CHUNK])).to(device)
            parts.append(network(batch).cpu().numpy().astype(np.float64))
    return np.concatenate(parts)


def _squeezed(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return (REACH * np.tanh(rows / REACH)).astype(np.float32)
