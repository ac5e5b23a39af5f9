"""The encoding of the published VAE, kept to show what it does: min-max numbers, one-hot levels, squared error, means.

Not for use: squared error with decoder means loses the variance of every column (spec 2.2). The encoding that
generators use is in `mixed.py`; the interface is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.mixed import Batch, TableTensors

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MinMaxTable(nn.Module):
    """Columns scaled to [0, 1] and one-hot levels, through a sigmoid; the loss is the squared error.

    Args:
        encoder: the fitted encoder of the table.

    Attributes:
        inputs: width of the network's input.
        width: width of the network's output (the same).
    """

    def __init__(self, encoder: TableEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.common = {k: np.flatnonzero(b.common) for k, b in encoder.blocks.items()}
        self.inputs = self.width = (
            sum(1 + int(c.has_missing) for c in encoder.numbers.values())
            + sum(max(1, c.states) for c in encoder.levels.values())
            + sum(map(len, self.common.values()))
        )

    def tensors(self, rows: Encoded, device: torch.device | str) -> TableTensors:
        """Inputs, which are the targets too."""
        table = torch.as_tensor(self._matrix(rows), device=device)
        nothing = torch.zeros(rows.n, 0, device=device)
        return TableTensors(scores=table, states=nothing.to(torch.int32), seen=nothing, blocks=[])

    def batch(self, rows: TableTensors) -> Batch:
        """Inputs and targets of some rows."""
        return Batch(rows.scores, rows, [])

    def free_scales(self) -> list[Tensor]:
        """None: the scale of squared error is fixed."""
        return []

    def start_bias(self, rows: Encoded) -> Tensor | None:
        """None: the published model starts from the framework's own initialisation."""
        return None

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """(batch,) squared error of the sigmoid outputs, summed over columns."""
        return ((torch.sigmoid(outputs) - batch.columns) ** 2).sum(dim=1)

    def draw(self, outputs: Tensor, generator: torch.Generator, rng: np.random.Generator) -> Encoded:
        """The decoder's means as encoded rows: nothing is drawn, levels are those with the largest output."""
        mean = torch.sigmoid(outputs).cpu().numpy().astype(np.float64)
        n, at = len(mean), 0
        out = Encoded(n=n)
        for name, number in self.encoder.numbers.items():
            low, high = _range(number.scaler.floor, number.scaler.ceiling)
            out.uniforms[name] = number.scaler.to_uniform(number.scaler.snap(low + mean[:, at] * (high - low)), rng)
            at += 1
            if number.has_missing:
                out.uniforms[name][mean[:, at] > 0.5] = np.nan
                at += 1
        for name, level in self.encoder.levels.items():
            size = max(1, level.states)
            out.states[name] = mean[:, at : at + size].argmax(axis=1).astype(np.int64)
            at += size
        for name, places in self.common.items():
            block = self.encoder.blocks[name]
            counts = np.zeros((n, len(block.used)), dtype=np.int16)
            counts[:, places] = np.rint(mean[:, at : at + len(places)] * block.cap[places])
            at += len(places)
            out.blocks[name] = counts
        return out

    def _matrix(self, rows: Encoded) -> NDArray[np.float32]:
        parts: list[NDArray[Any]] = [np.zeros((rows.n, 0))]
        for name, number in self.encoder.numbers.items():
            low, high = _range(number.scaler.floor, number.scaler.ceiling)
            scaled = (number.scaler.from_uniform(rows.uniforms[name]) - low) / (high - low)
            parts.append(np.nan_to_num(scaled)[:, None])
            if number.has_missing:
                parts.append(np.isnan(rows.uniforms[name])[:, None])
        for name, level in self.encoder.levels.items():
            parts.append(rows.states[name][:, None] == np.arange(max(1, level.states))[None, :])
        for name, places in self.common.items():
            parts.append(rows.blocks[name][:, places] / self.encoder.blocks[name].cap[places])
        return np.concatenate(parts, axis=1).astype(np.float32)


def _range(low: float, high: float) -> tuple[float, float]:
    """The ends of a column, apart enough to divide by; 0 and 1 for a column without values."""
    if np.isnan(low):
        return 0.0, 1.0
    return low, high if high > low else low + 1.0
