"""A whole table for a neural model, its numbers as modes and places in them (`modes.py`).

Everything that is not a number (discrete columns, code blocks, drawing) is that of `mixed.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoding.heads import CategoricalHead
from pipeline.encoding.mixed import MixedTable, TableTensors
from pipeline.generators.seeds import stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.encoding.modes import ModeCodec

FIRST_SIGMA = 0.1
SIGMA_RANGE = (0.01, 1.0)


class ModeTable(MixedTable):
    """Likelihood of a table's rows with mode-specific normalisation, and rows drawn from it.

    Args:
        encoder: the fitted encoder of the table.
        modes: the codec of every numeric column that has a value.
        likeliest: take the likeliest mode and level instead of drawing one, as published; it loses rare levels.
        seed: decides which mode a number that could belong to several is given.
    """

    def __init__(
        self, encoder: TableEncoder, modes: Mapping[str, ModeCodec], *, likeliest: bool = False, seed: int = 0
    ) -> None:
        nn.Module.__init__(self)
        self.encoder = encoder
        self.modes = dict(modes)
        self.seed = seed
        # Who has a score, as elsewhere; where it is cut is the codec's business here.
        self.edges = {name: np.empty(0) for name in self.modes}
        sizes = [self.modes[name].states if name in self.modes else 1 for name in encoder.numbers]
        sizes += [max(1, level.states) for level in encoder.levels.values()]
        head = LikeliestHead(sizes) if likeliest else CategoricalHead(sizes)
        self._assemble(head, ScalarHead(len(self.modes)))
        self.links = None

    def tensors(self, rows: Encoded, device: torch.device | str) -> TableTensors:
        """Encoded rows on the device: scalars instead of normal scores, which count in modes only."""
        states, scalars = self._encoded(rows)
        inside = [states[:, i] < codec.modes for i, codec in self._numbered()]
        return TableTensors(
            scores=torch.as_tensor(scalars, device=device),
            states=torch.as_tensor(states, device=device),
            seen=torch.as_tensor(np.stack(inside, axis=1).astype(np.float32) if inside else scalars, device=device),
            blocks=[torch.as_tensor(rows.blocks[k][:, at], device=device) for k, at in self.common.items()],
        )

    def free_scales(self) -> list[Tensor]:
        """Dispersions of counts; sigma keeps the learning rate of the weights.

        Sigma that grows fast makes the numbers say little before the latents are used, and then they never are.
        """
        return list(self.block_heads.parameters())

    def _numbered(self) -> list[tuple[int, ModeCodec]]:
        """Codecs with the place of their column's states."""
        return [(i, self.modes[name]) for i, name in enumerate(self.encoder.numbers) if name in self.modes]

    def _encoded(self, rows: Encoded) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(n, columns) states and (n, codecs) scalars; the same at every call."""
        states = np.zeros((rows.n, len(self.categorical.sizes)), dtype=np.int32)
        scalars = np.zeros((rows.n, len(self.modes)), dtype=np.float32)
        names = list(self.encoder.numbers)
        for at, (i, codec) in enumerate(self._numbered()):
            rng = stream(self.seed, "mode", i)
            states[:, i], scalars[:, at] = codec.encode(rows.uniforms[names[i]], rng)
        for i, name in enumerate(self.encoder.levels, start=len(names)):
            states[:, i] = rows.states[name]
        return states, scalars

    def _states(self, rows: Encoded) -> NDArray[np.int32]:
        return self._encoded(rows)[0]

    def _uniform(
        self,
        i: int,
        name: str,
        states: NDArray[np.integer],
        inside: NDArray[np.float64],
        scores: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        if name not in self.modes or scores is None:
            return np.full(len(states), np.nan)
        return self.modes[name].decode(states, scores[:, list(self.modes).index(name)], inside)


class LikeliestHead(CategoricalHead):
    """Columns of states of which the likeliest is taken, as published."""

    def draw(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """(batch, columns) likeliest states."""
        return torch.stack([part.argmax(dim=1) for part in logits.split(self.sizes, dim=1)], dim=1)


class ScalarHead(nn.Module):
    """Places in a mode: Gaussian around the hyperbolic tangent of the output, with one free width a column.

    Loss of a scalar a with output o: (a - tanh o)^2 / (2 sigma^2) + ln sigma (Xu et al. 2019, section 4.4). Sigma starts
    at 0.1 and is put back into [0.01, 1] before it is used.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.width = columns
        self.sigma = nn.Parameter(torch.full((columns,), FIRST_SIGMA))

    def _width(self) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.sigma.clamp_(*SIGMA_RANGE)
            return self.sigma
        return self.sigma.clamp(*SIGMA_RANGE)

    def loss(self, outputs: Tensor, scalars: Tensor, weight: Tensor) -> Tensor:
        """(batch,) negative log-likelihood of (batch, columns) scalars, `weight` 0 where the state is no mode."""
        sigma = self._width()
        each = (scalars - torch.tanh(outputs)) ** 2 / (2 * sigma**2) + torch.log(sigma)
        return (each * weight).sum(dim=1)

    def draw(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """(batch, columns) scalars."""
        noise = torch.randn(outputs.shape, generator=generator, device=outputs.device)
        return torch.tanh(outputs) + self._width() * noise
