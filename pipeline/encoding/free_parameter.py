"""A free parameter of a model as a layer of its own, so that per-sample gradients exist for it.

A bare `nn.Parameter` that a loss reads directly (a scale a column, a dispersion) passes by the hooks that differential
privacy needs. Here it goes through a forward pass: one copy of it a row. How its gradients are clipped is in
`pipeline/privacy/dpsgd.py`.
"""

from __future__ import annotations

from torch import Tensor, nn


class FreeParameter(nn.Module):
    """A learned vector, given once a row (spec 3.3, form b).

    Args:
        start: (k,) its first value.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(start.detach().clone())

    def forward(self, rows: Tensor) -> Tensor:
        """(batch, k) the vector for each row of (batch, ...) anything."""
        return self.value.expand(len(rows), -1)
