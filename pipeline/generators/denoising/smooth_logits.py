"""Few numbers to the many logits of a row vector's likelihood, so that a number's pieces rise and fall together.

With a free logit a piece, a network of a few thousand patients learns more noise than dependence (on SUPPORT three
quarters of what is to be learned were lost that way). Here a number's distribution is the training one, tilted by
powers of its normal score and a few cosines of its uniform; single heavy values, missing, levels and codes keep logits of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.generators.denoising.row_vector import RowVector

FARTHEST = 1e-3
HEAVY = 1.5
"""A piece with so many times the usual mass is a single value: pieces end where they have about the usual one."""


class SmoothLogits(nn.Module):
    """logits = bias + basis coefficients, the bias that of the margins.

    Args:
        rows: whose likelihood takes the logits.
        waves: cosines a number beside the two powers, fewer where it has few pieces; 0 for a logit a piece.
        bins: pieces that were asked for.

    Attributes:
        width: coefficients that a network has to give.
    """

    def __init__(self, rows: RowVector, *, waves: int, bins: int) -> None:
        super().__init__()
        head = rows.table.categorical
        parts: list[np.ndarray] = []
        for i, name in enumerate(rows.encoder.numbers):
            pieces = len(rows.table.edges[name]) - 1 if name in rows.table.edges else 0
            if pieces and waves:
                parts.append(_waves(rows.table.edges[name], waves, bins, head.sizes[i]))
            else:
                parts.append(_free(head.sizes[i]))
        parts += [_free(size) for size in head.sizes[len(parts) :]]
        self.basis: Tensor
        self.bias: Tensor
        self.columns = sum(head.sizes)
        basis = torch.block_diag(*map(torch.tensor, parts)).float() if parts else torch.zeros(0, 0)
        # Centres of Gaussian numbers come after the states, one output each.
        basis = torch.block_diag(basis, torch.eye(rows.column_outputs - self.columns))
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("bias", torch.zeros(rows.head_width))
        self.width = self.basis.shape[1] + rows.head_width - rows.column_outputs

    def forward(self, coefficients: Tensor) -> Tensor:
        """(batch, ..., head width) logits for (batch, ..., width) coefficients."""
        tilt, rest = coefficients[..., : self.basis.shape[1]], coefficients[..., self.basis.shape[1] :]
        return torch.cat([tilt @ self.basis.T, rest], dim=-1) + self.bias


def _free(size: int) -> np.ndarray:
    """A logit for each state; a single state needs none."""
    return np.eye(size) if size > 1 else np.zeros((1, 0))


def _waves(edges: np.ndarray, waves: int, bins: int, size: int) -> np.ndarray:
    """(states, coefficients) of one number: smooth shapes over the middles of its pieces, then single states."""
    from scipy.special import ndtri

    pieces = len(edges) - 1
    middle = (edges[1:] + edges[:-1]) / 2
    score = ndtri(np.clip(middle, FARTHEST, 1 - FARTHEST))
    # What a normal score depends on others by, where all are jointly normal, is exactly its first two powers.
    shapes = [score, (score**2 - 1) / 2, *(np.sqrt(2) * np.cos(np.pi * (k + 1) * middle) for k in range(waves))]
    smooth = np.zeros((size, min(len(shapes), pieces - 1)))
    for k in range(smooth.shape[1]):
        smooth[:pieces, k] = shapes[k]
    alone = (
        [*np.flatnonzero(np.diff(edges) >= HEAVY / bins), *range(pieces, size)]
        if pieces > 1
        else [*range(pieces, size)]
    )
    single = np.zeros((size, len(alone)))
    single[alone, range(len(alone))] = 1.0
    return np.hstack([smooth, single])
