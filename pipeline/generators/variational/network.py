"""Encoder and decoder of the variational autoencoders, with or without a condition vector.

What rows look like to the network and what its outputs mean is the table's business (`encoding/mixed.py`,
`encoding/literal.py`); the loss is put together in `vae.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.encoding.literal import MinMaxTable
from pipeline.encoding.mixed import MixedTable

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
LOG_VARIANCES = (-10.0, 4.0)


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of a network.

    Attributes:
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        latent: number of latents.
        activation: one of `ACTIVATIONS`.
        dropout: share of hidden units dropped while training.
        norm: a LayerNorm before each nonlinearity.
        conditions: width of the condition vector, 0 for none.
    """

    hidden: tuple[int, ...]
    latent: int
    activation: str
    dropout: float = 0.0
    norm: bool = False
    conditions: int = 0


class Network(nn.Module):
    """Encoder and decoder around a table's likelihood.

    Args:
        table: the likelihood; part of the module, since it owns free scales and links.
        shape: sizes.
    """

    def __init__(self, table: MixedTable | MinMaxTable, shape: NetworkShape) -> None:
        super().__init__()
        self.table = table
        self.shape = shape
        self.encoder = _Layers([table.inputs, *shape.hidden], shape, repeated=False)
        self.posterior = nn.Linear(shape.hidden[-1], 2 * shape.latent)
        self.decoder = _Layers([shape.latent, *reversed(shape.hidden)], shape, repeated=True)
        self.last = nn.Linear(shape.hidden[0] + shape.conditions, table.width)

    def encode(self, inputs: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, (batch, latents) each."""
        mean, log_var = self.posterior(self.encoder(inputs, condition)).chunk(2, dim=1)
        return mean, log_var.clamp(*LOG_VARIANCES)

    def decode(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """(batch, width) outputs for the heads."""
        return self.last(_beside(self.decoder(latents, condition), condition))


class _Layers(nn.Module):
    """Hidden layers; the condition stands beside the first input, or beside every layer's (spec 2.3: the decoder)."""

    def __init__(self, widths: list[int], shape: NetworkShape, *, repeated: bool) -> None:
        super().__init__()
        self.repeated = repeated
        layers = []
        for i, (before, after) in enumerate(pairwise(widths)):
            beside = shape.conditions if repeated or i == 0 else 0
            modules: list[nn.Module] = [nn.Linear(before + beside, after)]
            modules += [nn.LayerNorm(after)] if shape.norm else []
            modules += [ACTIVATIONS[shape.activation]()]
            modules += [nn.Dropout(shape.dropout)] if shape.dropout else []
            layers.append(nn.Sequential(*modules))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(_beside(x, condition) if self.repeated or i == 0 else x)
        return x


def _beside(x: Tensor, condition: Tensor | None) -> Tensor:
    return x if condition is None else torch.cat([x, condition], dim=1)
