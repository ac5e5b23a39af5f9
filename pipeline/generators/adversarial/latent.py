"""Generators in the latent space of an autoencoder, and critics that see the mean of their batch, as medGAN has them.

`LatentNet` ends in the decoder, which is learned with an `Encoder` before the game (`reconstruction`) and goes on being the
generator's. `MeanCritic` is what keeps such a generator from drawing the same row over and over. Counts may be shown as the
older models have them, by a ReLU and rounded (`rounded_counts`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.generators.adversarial.networks import GeneratorNet, LeakyCritic

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.generators.adversarial.vector import RowBlocks

Squashed = Literal["tanh", "relu"]
NORM_EPS = 1e-3
LEAST_SHARE = 1e-12


def squash(kind: Squashed, x: Tensor) -> Tensor:
    """The activation of latents."""
    return torch.tanh(x) if kind == "tanh" else functional.relu(x)


class LatentNet(GeneratorNet):
    """Noise to latents by residual layers, latents to outputs by the decoder `head` (Choi et al. 2017, section 3.3).

    Args:
        inputs: width of the noise and what is told.
        hidden: widths of the residual layers.
        latents: width of the latent space.
        outputs: width of the outputs.
        squashed: activation of the latents; the hidden layers have ReLUs.
        momentum: of the running statistics of normalised layers.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        latents: int,
        outputs: int,
        *,
        squashed: Squashed,
        momentum: float = 0.1,
    ) -> None:
        super().__init__(inputs, (*hidden, latents), outputs, build="residual")
        self.squashed: Squashed = squashed
        for norm in self.norms:
            assert isinstance(norm, nn.BatchNorm1d)
            norm.momentum, norm.eps = momentum, NORM_EPS

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, outputs) for (batch, inputs)."""
        x = inputs
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            before = norm(layer(x))
            found = squash(self.squashed, before) if i == len(self.layers) - 1 else functional.relu(before)
            x = x + found if x.shape == found.shape else found
        out: Tensor = self.head(x)
        return out


class Encoder(nn.Module):
    """Rows to latents, and back by the decoder that it is given; the decoder is trained with it.

    Args:
        width: of a row's vector.
        latents: width of the latent space.
        decoder: of the generator, `LatentNet.head`.
        squashed: activation of the latents.
    """

    def __init__(self, width: int, latents: int, decoder: nn.Module, *, squashed: Squashed) -> None:
        super().__init__()
        self.layer, self.decoder = nn.Linear(width, latents), decoder
        self.squashed: Squashed = squashed

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, head_width) outputs for (n, width) vectors."""
        out: Tensor = self.decoder(squash(self.squashed, self.layer(vectors)))
        return out


class MeanCritic(LeakyCritic):
    """ReLU layers over a row beside the mean of its batch (Choi et al. 2017, section 3.4).

    Gradients are those to the row alone: a penalty then says nothing of other rows, as it should (Gulrajani et al. 2017,
    section 4). The mean's part of the first layer costs one row.

    Args:
        width: coordinates of a row.
        hidden: widths of the hidden layers; at least one.
        dropout: see `LeakyCritic`.
        mean: is the mean seen?
        counted: (width,) which coordinates are log2(1 + count) and judged as counts; None: none.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        *,
        dropout: float = 0.0,
        mean: bool = True,
        counted: Tensor | None = None,
    ) -> None:
        super().__init__(width, hidden, dropout=dropout, slope=0.0)
        self.of_mean = nn.Linear(width, hidden[0], bias=False) if mean else None
        self.counted: Tensor | None
        self.register_buffer("counted", counted, persistent=False)

    def packs(self, rows: Tensor) -> Tensor:
        """(n, width) rows with counts as they are."""
        return rows if self.counted is None else torch.where(self.counted, torch.exp2(rows) - 1, rows)

    def score(self, packs: Tensor) -> Tensor:
        """(n,) of (n, width) rows that are one batch."""
        hidden = self._first(packs)
        for i in range(len(self.layers)):
            hidden = hidden if i == 0 else self.layers[i](hidden)
            hidden = functional.dropout(functional.relu(hidden), self.dropout, training=self.training)
        out: Tensor = self.last(hidden)[..., 0]
        return out

    def apiece(self, rows: Tensor) -> Tensor:
        """See `Critic.apiece`; not for a critic that sees the mean."""
        return self.score(self.packs(rows))

    def with_gradient(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """See `Critic.with_gradient`; the gradient to a row, the mean held still."""
        return self._from_first(self._first(self.packs(rows)))

    def apart(self, real: Tensor, fake: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """See `Critic.apart`; each kind beside its own mean, and a place of its own for each row on the way."""
        on_real, on_fake = self(real), self(fake)
        share = torch.rand(len(real), 1, generator=generator, device=real.device)
        with torch.no_grad():
            first = [self._first(self.packs(rows)) for rows in (real, fake)]
        return on_real, on_fake, self._from_first(share * first[0] + (1 - share) * first[1])[1]

    def _first(self, packs: Tensor) -> Tensor:
        first: Tensor = self.layers[0](packs)
        return first if self.of_mean is None else first + self.of_mean(packs.mean(dim=0))


def code_parts(blocks: RowBlocks, outputs: Tensor) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Of each block of codes: where it lies in a vector, and of (n, head_width) outputs presence and amount (None: binary)."""
    at = sum(blocks.widths[:2])
    for width, part, counted in zip(
        blocks.widths[2:], outputs.split(blocks.head_widths, dim=1)[2:], blocks.counted, strict=True
    ):
        present, amount = part.chunk(2, dim=1) if counted else (part, None)
        yield slice(at, at + width), present, amount
        at += width


def counted_coordinates(blocks: RowBlocks) -> Tensor:
    """(width,) which coordinates are log2(1 + count)."""
    kinds = [torch.full((w,), c) for w, c in zip(blocks.widths[2:], blocks.counted, strict=True)]
    return torch.cat([torch.zeros(sum(blocks.widths[:2]), dtype=torch.bool), *kinds])


def rounded_counts(blocks: RowBlocks, outputs: Tensor, vectors: Tensor) -> Tensor:
    """The vectors with counts as ReLUs of the outputs, no longer present or absent first; rounding them is for whoever reads."""
    shown = vectors.clone()
    for place, _, amount in code_parts(blocks, outputs):
        if amount is not None:
            shown[:, place] = torch.log2(1 + functional.relu(amount))
    return shown


def reconstruction(blocks: RowBlocks, vectors: Tensor, outputs: Tensor, *, rounded: bool) -> Tensor:
    """(n,) how badly (n, head_width) outputs of a decoder say what (n, width) vectors are.

    Cross-entropy of codes and states, summed (Choi et al. 2017, equation 1); squared error of places, and of counts: of
    the coordinate where a code is present, or, `rounded`, of the counts themselves in all cells.
    """
    places, states = vectors[:, : blocks.widths[0]], vectors[:, blocks.widths[0] : sum(blocks.widths[:2])]
    out_places, out_states = outputs[:, : blocks.widths[0]], outputs[:, blocks.widths[0] : sum(blocks.widths[:2])]
    loss = (torch.tanh(out_places) - places).square().sum(dim=1)
    if blocks.softmaxes.width:
        loss = loss - (states * blocks.softmaxes(out_states).clamp_min(LEAST_SHARE).log()).sum(dim=1)
    for place, present, amount in code_parts(blocks, outputs):
        shown = vectors[:, place]
        if amount is not None and rounded:
            loss = loss + (functional.relu(amount) - (torch.exp2(shown) - 1)).square().sum(dim=1)
            continue
        has = (shown > 0).to(shown.dtype)
        loss = loss + functional.binary_cross_entropy_with_logits(present, has, reduction="none").sum(dim=1)
        if amount is not None:
            loss = loss + (has * (1 + functional.softplus(amount) - shown).square()).sum(dim=1)
    return loss
