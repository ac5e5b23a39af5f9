"""Columns that a caller fixes, as scores and states, while a diffusion with a process for each draws the others.

The counterpart of `known_columns.py` for rows that are split (`split_rows.py`). What is fixed is checked in
`conditions.py`; how known cells look at a noise level is here, when they are put back is the sampler's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.encoding.encoder import Encoded
from pipeline.generators.denoising.known_columns import known_cells
from pipeline.generators.denoising.split_rows import filled

if TYPE_CHECKING:
    from pipeline.generators.conditions import Fixed
    from pipeline.generators.denoising.split_rows import SplitRows


@dataclass
class KnownStates:
    """The fixed cells of n rows; false if there are none.

    Attributes:
        rows: states and uniforms of the fixed columns, a label that stands outside included.
        scores: (n, numbers) their scores, NaN where not regular or not known; no row at all if nothing is fixed.
        states: (n, columns) their states.
        numbers: (numbers,) whose score is known.
        columns: (columns,) whose state is known.
    """

    rows: Encoded
    scores: Tensor
    states: Tensor
    numbers: Tensor
    columns: Tensor
    _noise: Tensor = field(default_factory=lambda: torch.empty(0))
    _stays: Tensor = field(default_factory=lambda: torch.empty(0))
    _other: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def of(cls, split: SplitRows, n: int, fixed: Fixed, rng: np.random.Generator) -> KnownStates:
        """What is fixed of `n` rows."""
        rows = known_cells(split.encoder, n, fixed, rng)
        names = {*rows.states, *rows.uniforms}
        numbers = torch.tensor([k in names for k in split.numbers], dtype=torch.bool)
        columns = torch.zeros(len(split.sizes), dtype=torch.bool)
        columns[: len(split.names)] = torch.tensor([k in names for k in split.names], dtype=torch.bool)
        if not (numbers.any() or columns.any()):
            return cls(rows, torch.empty(0), torch.empty(0), numbers, columns)
        encoder = split.encoder
        whole = Encoded(
            n=n,
            states={k: rows.states.get(k, np.zeros(n, dtype=np.int64)) for k in encoder.levels},
            uniforms={k: rows.uniforms.get(k, np.full(n, 0.5)) for k in encoder.numbers},
            blocks={k: np.zeros((n, len(b.used)), dtype=np.int16) for k, b in encoder.blocks.items()},
        )
        found = split.tensors(whole, "cpu")
        states = torch.zeros(n, len(split.sizes), dtype=torch.long)
        states[:, : len(split.names)] = found.states.long()
        return cls(rows, found.scores, states, numbers, columns)

    def __bool__(self) -> bool:
        """Is a cell known that takes part in the diffusion?"""
        return len(self.states) > 0

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.rows.n

    def part(self, at: slice) -> KnownStates:
        """Some of the rows."""
        taken = self.rows.take(np.arange(self.n)[at])
        if not self:
            return replace(self, rows=taken)
        return replace(self, rows=taken, scores=self.scores[at], states=self.states[at])

    def begin(self, sizes: Tensor, noise: torch.Generator) -> None:
        """Choose the noise that the known cells keep over all steps; `sizes` are (columns,) numbers of states."""
        if self:
            self.scores = filled(self.scores, noise)
            self._noise = torch.randn(self.scores.shape, generator=noise)
            self._stays = torch.rand(self.states.shape, generator=noise)
            self._other = (torch.rand(self.states.shape, generator=noise) * sizes).long()

    def put_noisy(self, x: Tensor, states: Tensor, kept: float) -> None:
        """Overwrite the known cells of (n, numbers) scores and (n, columns) states, `kept` of a row's variance being left."""
        if not self:
            return
        x[:, self.numbers] = (kept**0.5 * self.scores + (1 - kept) ** 0.5 * self._noise)[:, self.numbers]
        # The same thresholds at every step: a state that is visible once stays so.
        states[:, self.columns] = torch.where(self._stays < kept, self.states, self._other)[:, self.columns]

    def put_clean(self, x: Tensor, states: Tensor) -> None:
        """Overwrite them as they are."""
        if self:
            x[:, self.numbers] = self.scores[:, self.numbers]
            states[:, self.columns] = self.states[:, self.columns]
