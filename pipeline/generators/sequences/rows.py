"""A table's rows and visits as the network takes them: the columns as one vector a row, the visits as ragged tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.features.visits import Visits

FARTHEST_SCORE = 4.0


def prompt(encoder: TableEncoder | None, rows: Encoded | None, n: int) -> NDArray[np.float32]:
    """(n, d) float32: levels one-hot, numbers as normal scores with a bit for missing, codes as log counts.

    Without columns or blocks there is nothing to say of a row, and d is 0.
    """
    from scipy.special import ndtri

    parts: list[NDArray[np.float32]] = [np.zeros((n, 0), dtype=np.float32)]
    if encoder is None or rows is None:
        return parts[0]
    for name, level in encoder.levels.items():
        hot = np.zeros((n, max(level.states, 1)), dtype=np.float32)
        known = np.flatnonzero(rows.states[name] >= 0)
        hot[known, rows.states[name][known]] = 1.0
        parts.append(hot)
    for name in encoder.numbers:
        uniform = rows.uniforms[name]
        gone = np.isnan(uniform)
        score = np.clip(ndtri(np.clip(np.where(gone, 0.5, uniform), 1e-9, 1 - 1e-9)), -FARTHEST_SCORE, FARTHEST_SCORE)
        parts.append(np.stack([score, gone], axis=1).astype(np.float32))
    parts += [np.log1p(rows.blocks[name].astype(np.float32)) for name in encoder.blocks]
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class VisitRows:
    """Rows on a device.

    Attributes:
        prompt: (n, d).
        visit_start: (n + 1,) where the visits of each row begin.
        gap: (visits,) class of the gap before each visit.
        code_start: (visits + 1,) where the codes of each visit begin.
        code: (codes,) positions, rising within a visit.
        cut: (n,) True where visits after the last one were left out: what comes next is then not known.
    """

    prompt: Tensor
    visit_start: Tensor
    gap: Tensor
    code_start: Tensor
    code: Tensor
    cut: Tensor

    @classmethod
    def of(
        cls,
        prompt: NDArray[np.float32],
        visits: Visits,
        gap: NDArray[np.int64],
        cut: NDArray[np.bool_],
        device: torch.device,
    ) -> VisitRows:
        """The tensors of n rows."""
        arrays = (prompt, visits.visit_start, gap, visits.code_start, visits.code.astype(np.int64), cut)
        return cls(*(torch.as_tensor(a, device=device) for a in arrays))

    def batch(self, at: Tensor) -> VisitBatch:
        """The given rows with their visits and codes put together."""
        first, counts = self.visit_start[at], self.visit_start[at + 1] - self.visit_start[at]
        row = torch.repeat_interleave(torch.arange(len(at), device=at.device), counts)
        place = torch.arange(len(row), device=at.device) - (counts.cumsum(0) - counts)[row]
        visit = first[row] + place
        start = self.code_start[visit]
        return VisitBatch(
            prompt=self.prompt[at],
            counts=counts,
            row=row,
            place=place,
            gap=self.gap[visit],
            start=start,
            size=self.code_start[visit + 1] - start,
            cut=self.cut[at],
        )


@dataclass(frozen=True)
class VisitBatch:
    """Some rows.

    Attributes:
        prompt: (rows, d).
        counts: (rows,) visits of each row.
        row: (visits,) row of each visit.
        place: (visits,) its place in the row, from 0.
        gap: (visits,) class of the gap before it.
        start: (visits,) where its codes begin in `VisitRows.code`.
        size: (visits,) how many it has.
        cut: (rows,) is the end of the row unknown?
    """

    prompt: Tensor
    counts: Tensor
    row: Tensor
    place: Tensor
    gap: Tensor
    start: Tensor
    size: Tensor
    cut: Tensor


def below(tensors: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin so, under the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
