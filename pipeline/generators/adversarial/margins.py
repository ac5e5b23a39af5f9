"""Margins brought back to those of training after a game: a game gets dependence right before it gets frequencies right.

Levels, missing cells, spikes and codes by the bias of the outputs (iterative proportional fitting), places of numbers by their
rank among what the generator draws, counts likewise (`vector.py: AmountMap`). What is wanted is what the encoder knows already,
and, for counts, their quantiles in training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from pipeline.generators.adversarial.numbers import between, spikes_of
from pipeline.generators.adversarial.vector import SHARE_CLIP, AmountMap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.encoding.encoder import Encoded
    from pipeline.generators.adversarial.softmaxes import SoftmaxColumns
    from pipeline.generators.adversarial.vector import RowBlocks

KNOTS = 257
ROUNDS = 12
FLOOR = 1e-4
MOST_SHIFT = 6.0


@dataclass
class Margins:
    """What is done to drawn rows.

    Attributes:
        knots: (KNOTS,) quantiles of each number's uniform, among those that are no spike, as the generator draws them.
        amounts: how counts of a block follow from their coordinate.
    """

    knots: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    amounts: dict[str, AmountMap] = field(default_factory=dict)

    @classmethod
    def fit(cls, blocks: RowBlocks, vectors: Tensor, drawn: Encoded, wanted: Mapping[str, NDArray[np.float64]]) -> Self:
        """Learn from rows as the generator draws them.

        Args:
            blocks: the layout.
            vectors: (n, width) vectors of whole states.
            drawn: the same as rows.
            wanted: quantiles of the counts of each counted block (`counts_of`).
        """
        out, share = cls(), np.linspace(0, 1, KNOTS)
        for name in blocks.placed:
            uniform = drawn.uniforms[name]
            free = uniform[~np.isnan(uniform) & ~_inside(uniform, spikes_of(blocks.numbers[name]))]
            if len(free) >= KNOTS:
                out.knots[name] = np.quantile(free, share)
        parts = vectors.split(blocks.widths, dim=1)[2:]
        for name, part in zip(blocks.common, parts, strict=True):
            if name in wanted:
                shown = AmountMap.quantiles(part.cpu().numpy(), 1.0)
                out.amounts[name] = AmountMap(shown.astype(np.float32), np.rint(wanted[name]).astype(np.int32))
        return out

    def apply(self, blocks: RowBlocks, rows: Encoded) -> None:
        """Put every number where its rank among drawn ones belongs, in place."""
        share = np.linspace(0, 1, KNOTS)
        for name, knots in self.knots.items():
            uniform, spikes = rows.uniforms[name], spikes_of(blocks.numbers[name])
            at = ~np.isnan(uniform) & ~_inside(uniform, spikes)
            # Knots that coincide would give all their rows one rank.
            rank = np.interp(uniform[at], knots + 1e-12 * np.arange(KNOTS), share)
            known, ranks = between(spikes)
            uniform[at] = np.clip(np.interp(rank, ranks, known), 1e-9, 1 - 1e-9)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is to be saved."""
        out: dict[str, NDArray[Any]] = {}
        if self.knots:
            out["margins/knots"] = np.stack(list(self.knots.values()))
        for i, amount in enumerate(self.amounts.values()):
            out |= {f"margins/drawn-{i:05d}": amount.drawn, f"margins/wanted-{i:05d}": amount.wanted}
        return out

    def names(self) -> dict[str, list[str]]:
        """What the arrays are of."""
        return {"knots": list(self.knots), "amounts": list(self.amounts)}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], names: Mapping[str, list[str]]) -> Self:
        """Back from `arrays` and `names`."""
        knots = dict(zip(names["knots"], arrays.get("margins/knots", []), strict=True))
        amounts = {
            name: AmountMap(arrays[f"margins/drawn-{i:05d}"], arrays[f"margins/wanted-{i:05d}"])
            for i, name in enumerate(names["amounts"])
        }
        return cls({k: np.asarray(v, dtype=np.float64) for k, v in knots.items()}, amounts)


def counts_of(blocks: RowBlocks, rows: Encoded) -> dict[str, NDArray[np.float64]]:
    """(codes, knots) quantiles of the counts of each counted block among the rows that have the code."""
    pairs = zip(blocks.common.items(), blocks.counted, strict=True)
    return {k: AmountMap.quantiles(rows.blocks[k][:, at], 1.0) for (k, at), counted in pairs if counted}


def shift(blocks: RowBlocks, outputs: Tensor, free: Tensor | None = None, rounds: int = ROUNDS) -> Tensor:
    """(head_width,) what to add to a generator's outputs so that states and codes are as frequent as the encoder knows.

    Args:
        blocks: the layout.
        outputs: (n, head_width) outputs of rows to be drawn.
        free: (n, one-hot columns) False where a column's state is told and not drawn.
        rounds: of fitting.
    """
    wanted = blocks.start_bias().to(outputs.device)
    out = torch.zeros(blocks.head_width, device=outputs.device)
    first, softmaxes = len(blocks.placed), blocks.softmaxes
    states = slice(first, first + softmaxes.width)
    out[states] = states_shift(softmaxes, outputs[:, states], wanted[states].exp(), free, rounds)
    at = states.stop
    for width, counted in zip(blocks.widths[2:], blocks.counted, strict=True):
        part = slice(at, at + width)
        out[part] = codes_shift(outputs[:, part], wanted[part].sigmoid(), rounds)
        at += width * (1 + counted)
    return out


def states_shift(
    softmaxes: SoftmaxColumns, outputs: Tensor, share: Tensor, free: Tensor | None = None, rounds: int = ROUNDS
) -> Tensor:
    """(width,) what to add to (n, width) outputs of one-hot columns so that states have the (width,) shares wanted."""
    out = torch.zeros(softmaxes.width, device=outputs.device)
    column = torch.repeat_interleave(
        torch.arange(len(softmaxes.sizes)), torch.tensor(softmaxes.sizes, dtype=torch.long)
    )
    column = column.to(outputs.device)
    weight = torch.ones(len(outputs), len(softmaxes.sizes)).to(outputs) if free is None else free.to(outputs)
    each = weight[:, column] / weight.sum(dim=0).clamp_min(1)[column]
    for _ in range(rounds if softmaxes.width else 0):
        found = (softmaxes(outputs + out) * each).sum(dim=0)
        out += ((share + FLOOR) / (found + FLOOR)).log()
    return out.clamp(-MOST_SHIFT, MOST_SHIFT)


def codes_shift(outputs: Tensor, share: Tensor, rounds: int = ROUNDS) -> Tensor:
    """(codes,) what to add to (n, codes) outputs so that codes are present as often as the (codes,) shares say."""
    out = torch.zeros(outputs.shape[1], device=outputs.device)
    for _ in range(rounds):
        found = torch.sigmoid(outputs + out).mean(dim=0).clamp(SHARE_CLIP / 2, 1 - SHARE_CLIP / 2)
        out += share.logit() - found.logit()
    return out.clamp(-MOST_SHIFT, MOST_SHIFT)


def _inside(uniform: NDArray[np.float64], spikes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether each uniform lies in a spike."""
    if not len(spikes):
        return np.zeros(len(uniform), dtype=bool)
    place = np.clip(np.searchsorted(spikes[:, 0], uniform, side="right") - 1, 0, None)
    return (uniform >= spikes[place, 0]) & (uniform < spikes[place, 1])
