"""Columns that a caller fixes, while the others are denoised around them (inpainting: Lugmayr et al. 2022, "RePaint").

At every step the fixed columns' coordinates are overwritten by their true values with that step's noise, always the same;
in the end they are handed to the likelihoods as known. What is fixed is checked in `conditions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.encoding.encoder import Encoded, TableEncoder

if TYPE_CHECKING:
    from pipeline.generators.conditions import Fixed
    from pipeline.generators.denoising.row_vector import RowVector


@dataclass
class KnownColumns:
    """The fixed columns of n rows; false if there are none.

    Attributes:
        rows: their states and uniforms.
        clean: (n, width) vectors that hold them; no row at all if nothing is fixed.
        mask: (width,) which coordinates are theirs.
    """

    rows: Encoded
    clean: Tensor
    mask: Tensor
    _noise: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def of(
        cls, encoder: TableEncoder, vector: RowVector, n: int, fixed: Fixed, rng: np.random.Generator
    ) -> KnownColumns:
        """What is fixed of `n` rows; a level that training did not have is left to the model and overwritten afterwards."""
        known = known_cells(encoder, n, fixed, rng)
        if not (known.states or known.uniforms):
            return cls(known, torch.empty(0, vector.width), torch.zeros(vector.width, dtype=torch.bool))
        return cls(known, *vector.known_part(known, [*known.states, *known.uniforms], "cpu"))

    def __bool__(self) -> bool:
        """Is a coordinate known?"""
        return bool(self.mask.any())

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.rows.n

    def part(self, at: slice) -> KnownColumns:
        """Some of the rows."""
        rows = np.arange(self.n)[at]
        taken = self.rows.take(rows)
        return KnownColumns(taken, self.clean[at] if len(self.clean) else self.clean, self.mask)

    def begin(self, x: Tensor) -> None:
        """Remember the noise that the known coordinates keep: that of the first (n, width) vectors."""
        self._noise = x[:, self.mask].clone()

    def put(self, x: Tensor, signal: float, noise: float) -> None:
        """Overwrite the known coordinates of (n, width) vectors at one time."""
        if self:
            x[:, self.mask] = signal * self.clean[:, self.mask] + noise * self._noise


def known_cells(encoder: TableEncoder, n: int, fixed: Fixed, rng: np.random.Generator) -> Encoded:
    """States and uniforms of the fixed columns; a level that training did not have is left to the model."""
    known = Encoded(n=n)
    for name, codes in fixed.codes.items():
        states = encoder.levels[name].encode(codes)
        if (states >= 0).all():
            known.states[name] = states
    for name, values in fixed.values.items():
        number = encoder.numbers[name]
        if not number.scaler.empty and (number.has_missing or not np.isnan(values).any()):
            known.uniforms[name] = number.scaler.to_uniform(values, rng)
    return known
