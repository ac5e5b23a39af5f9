"""What multiplies in bfloat16 on a GPU (spec 0.4) and on a CPU. Where to train is in `training.py`."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

WIDE = 512
"""Layers at least this wide on both sides gain from it."""


@contextmanager
def wide_layers_in_bfloat16(network: nn.Module) -> Iterator[None]:
    """Inside, linear layers that are wide on both sides multiply in bfloat16; all else, losses too, stays float32."""
    wide = [m for m in network.modules() if isinstance(m, nn.Linear) and min(m.in_features, m.out_features) >= WIDE]
    for layer in wide:
        layer.__dict__["forward"] = partial(_in_bfloat16, layer)
    try:
        yield
    finally:
        for layer in wide:
            del layer.__dict__["forward"]


@contextmanager
def factors_in_bfloat16() -> Iterator[None]:
    """Inside, a CPU that has units for it rounds the factors of matrix products to bfloat16; sums stay float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _in_bfloat16(layer: nn.Linear, inputs: Tensor) -> Tensor:
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        return nn.functional.linear(inputs, layer.weight, layer.bias).float()
