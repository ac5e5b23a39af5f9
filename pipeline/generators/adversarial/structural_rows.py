"""What is done to rows while a structural generator draws them: margins fitted, cut causes exchanged, columns held.

The network that asks for it is in `structural.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.encoding.encoder import Encoded
from pipeline.generators.adversarial.margins import codes_shift, states_shift
from pipeline.generators.adversarial.structural import slots_of
from pipeline.generators.seeds import stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.generators.adversarial.structural import Step, Swap
    from pipeline.generators.adversarial.vector import RowBlocks
    from pipeline.generators.conditions import Fixed


class Fitting:
    """What is to be added to the outputs of each step so that its columns have the margins that the encoder knows.

    Later steps see columns whose margins are right already.

    Args:
        blocks: the layout.
        rounds: of fitting.
        only: the outputs that may change; None for all.

    Attributes:
        total: (head_width,) what was added.
    """

    def __init__(self, blocks: RowBlocks, rounds: int, only: Tensor | None = None) -> None:
        self.wanted, self.rounds = blocks.start_bias(), rounds
        self.free = (
            torch.ones(blocks.head_width) if only is None else torch.zeros(blocks.head_width).index_fill(0, only, 1)
        )
        self.total = torch.zeros(blocks.head_width)

    def __call__(self, step: Step, outputs: Tensor) -> Tensor:
        """(outputs,) to be added, for (n, outputs) of a step."""
        wanted = self.wanted.to(outputs.device)[step.outputs]
        out = torch.zeros_like(wanted)
        states, present = step.states, step.present
        out[states] = states_shift(step.softmaxes, outputs[:, states], wanted[states].exp(), rounds=self.rounds)
        out[present] = codes_shift(outputs[:, present], wanted[present].sigmoid(), self.rounds)
        out = out * self.free.to(outputs.device)[step.outputs]
        self.total[step.outputs.cpu()] = out.cpu()
        return out


@dataclass(frozen=True)
class Exchange:
    """Rows with some coordinates as other rows have them.

    Attributes:
        moved: Coordinates, and for each row the row that they are taken of.
        others: (n, width) rows that they are taken of; None: the drawn rows themselves, as far as they are drawn.
    """

    moved: Sequence[tuple[Tensor, Tensor]]
    others: Tensor | None = None

    def __call__(self, vector: Tensor) -> Tensor:
        """(n, width) for (n, width) drawn rows."""
        source, out = vector if self.others is None else self.others, vector
        for at, whose in self.moved:
            out = out.index_copy(1, at, source.index_select(1, at).index_select(0, whose))
        return out


def exchanges(
    blocks: RowBlocks,
    cuts: Mapping[str, Sequence[str]],
    how: str,
    n: int,
    order: torch.Generator,
    others: Tensor | None = None,
) -> dict[str, Swap]:
    """Column to what makes of drawn rows those that it is shown: its cut causes as another row has them.

    Args:
        blocks: the layout.
        cuts: column to the direct causes that it is cut from.
        how: 'together': all causes of one other row; 'each': each of a row of its own.
        n: rows.
        order: who is shown as whom.
        others: see `Exchange`.
    """
    slots = slots_of(blocks)
    out: dict[str, Swap] = {}
    for effect, causes in cuts.items():
        groups = [list(causes)] if how == "together" else [[c] for c in causes]
        moved = []
        for group in groups:
            at = [i for c in group if c in slots for i in slots[c].vector]
            moved.append((torch.tensor(at, dtype=torch.long), torch.randperm(n, generator=order)))
        out[effect] = Exchange(moved, others)
    return out


@dataclass(frozen=True)
class Held:
    """Columns that a caller fixes, as encoded rows.

    Attributes:
        rows: Of which the named columns are meant.
        names: The fixed columns.
    """

    rows: Encoded
    names: frozenset[str]

    @classmethod
    def of(cls, blocks: RowBlocks, fixed: Fixed, n: int) -> Held:
        """Fixed columns of `n` rows; a number stands in the middle of those that are rounded to it."""
        encoder = blocks.encoder
        rows = Encoded(n=n)
        rows.states = {k: np.zeros(n, dtype=np.int64) for k in encoder.levels}
        rows.states |= {k: encoder.levels[k].encode(v) for k, v in fixed.codes.items()}
        rows.uniforms = {k: np.full(n, np.nan if k not in blocks.numbers else 0.5) for k in encoder.numbers}
        rows.blocks = {k: np.zeros((n, len(b.used)), dtype=np.int16) for k, b in encoder.blocks.items()}
        for name, values in fixed.values.items():
            seen = ~np.isnan(values)
            uniform = np.full(n, np.nan)
            if name in blocks.numbers and seen.any():
                start, end = encoder.numbers[name].scaler.interval(values[seen])
                uniform[seen] = (start + end) / 2
            rows.uniforms[name] = uniform
        return cls(rows, frozenset([*fixed.codes, *fixed.values]))

    def clamp(self, blocks: RowBlocks) -> tuple[Tensor, Tensor]:
        """(width,) which coordinates are fixed, and (n, width) at what."""
        fixed = torch.zeros(blocks.width, dtype=torch.bool)
        for name, slot in slots_of(blocks).items():
            if name in self.names:
                fixed[slot.vector] = True
        return fixed, blocks.real(blocks.tensors(self.rows, "cpu", stream(0, "held")))

    def into(self, rows: Encoded) -> None:
        """Put the fixed columns into as many of these rows as there are, in place."""
        rows.states |= {k: v[: rows.n] for k, v in self.rows.states.items() if k in self.names}
        rows.uniforms |= {k: v[: rows.n] for k, v in self.rows.uniforms.items() if k in self.names}
