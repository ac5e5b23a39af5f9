"""The network of `mixed_flow` and the likelihood that its outputs go to: its losses, and the velocity that follows.

What a row is as a vector is in `row_vector.py`, layers are in `network.py`; how it is trained and drawn from is in
`pipeline/generators/mixed_flow.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from pipeline.generators.denoising.network import ResMLP
from pipeline.generators.denoising.row_vector import Noisy, RowVector
from pipeline.generators.denoising.smooth_logits import SmoothLogits

if TYPE_CHECKING:
    from pipeline.encoding.encoder import TableEncoder
    from pipeline.encoding.mixed import TableTensors
    from pipeline.generators.denoising.network import Film

WIDE = 100
"""Coordinates from which a table takes the wider network."""


@dataclass(frozen=True)
class FlowShape:
    """Likelihoods and sizes.

    Attributes:
        numeric: endpoint likelihood of numbers.
        bins: about how many pieces a binned number has.
        waves: cosines that tilt a binned number; 0 for a logit a piece.
        own_word: add what a column's own noisy coordinates say.
        width: of the network; None: 64, or 256 from 100 coordinates on.
        blocks: residual blocks.
        film: how the network is told the time.
        dropout: share of the coordinates hidden while training; None: none, and the network is not told of any.
    """

    numeric: Literal["binned", "gaussian"]
    bins: int
    waves: int
    own_word: bool
    width: int | None
    blocks: int
    film: Film
    dropout: float | None


class Flow(nn.Module):
    """What is trained.

    Args:
        encoder: the fitted encoder of the table.
        shape: sizes and likelihoods.
    """

    def __init__(self, encoder: TableEncoder, shape: FlowShape) -> None:
        super().__init__()
        self.rows = RowVector(encoder, bins=shape.bins, numeric=shape.numeric)
        waves = shape.waves if shape.numeric == "binned" else 0
        self.logits = SmoothLogits(self.rows, waves=waves, bins=shape.bins)
        width = shape.width or (256 if self.rows.width >= WIDE else 64)
        self.hides = shape.dropout is not None
        shown = 2 * self.rows.width if self.hides else self.rows.width
        self.network = ResMLP(shown, self.logits.width, width, shape.blocks, shape.film)
        self.own_word, self.dropout = shape.own_word, shape.dropout or 0.0

    def look(self, x: Tensor, time: Tensor) -> tuple[Tensor, Noisy | None]:
        """Outputs for (batch, ..., width) noisy vectors at (batch, ..., 1) times, and the word that goes with them."""
        shown = x
        if self.hides:
            hidden = torch.zeros_like(x)
            if self.training and self.dropout:
                hidden = torch.empty_like(x).bernoulli_(self.dropout)
            # Told which coordinates are hidden, the network has no reason to trust the others less.
            shown = torch.cat([x * (1 - hidden), hidden], dim=-1)
        outputs = self.logits(self.network(shown, 1000 * time[..., 0]))
        return outputs, Noisy(x, time, 1 - time) if self.own_word else None

    def loss(self, batch: TableTensors, time: Tensor, noise: Tensor) -> Tensor:
        """(batch,) negative log-likelihoods of rows given (batch, width) noise mixed in at (batch, 1) times."""
        clean = self.rows.clean(batch)
        outputs, seen = self.look(time * clean + (1 - time) * noise, time)
        return self.rows.loss(outputs, batch, seen)

    def mean_loss(self, batch: TableTensors, time: Tensor, noise: Tensor) -> Tensor:
        """(batch,) the same, averaged over several looks at each row: (batch, looks, 1) times, (batch, looks, width) noise.

        A row's looks go through the network together, as one sample of whoever clips gradients by row (spec 6.5, 8.4).
        """
        looks = time.shape[1]
        clean = self.rows.clean(batch).unsqueeze(1)
        outputs, seen = self.look(time * clean + (1 - time) * noise, time)
        each = torch.arange(len(batch), device=time.device).repeat_interleave(looks)
        if seen is not None:
            seen = Noisy(*(part.flatten(0, 1) for part in (seen.x, seen.signal, seen.noise)))
        return self.rows.loss(outputs.flatten(0, 1), batch.take(each), seen).view(-1, looks).mean(dim=1)

    def velocity(self, x: Tensor, time: float) -> Tensor:
        """(batch, width) (E[x_1 | x_t] - x_t) / (1 - t)."""
        outputs, seen = self.look(x, torch.full((len(x), 1), time, device=x.device))
        return (self.rows.mean(outputs, seen) - x) / (1 - time)
