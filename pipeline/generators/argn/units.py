"""A table as the autoregressive network sees it: columns of two digits, and groups of codes.

The first digit of a number is one of a few pieces along its repeated numbers (missing last), the second says where inside
the piece; a level or a constant has a first digit only. Common codes stand in groups, the commonest first. The network is
in `network.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.generators.column_states import bin_edges

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.generators.conditions import Fixed

GROUP = 16
"""Codes that are drawn in one step (spec 6.4)."""
MOST_SECOND = 64
"""Second digits of a piece, at most."""


@dataclass(frozen=True)
class UnitColumn:
    """One column.

    Attributes:
        name: Column.
        numeric: Is it a number?
        edges: (parts + 1,) uniforms that cut a number into its finest parts; empty for levels.
        first: (parts,) first digit of each part, missing and levels included.
        second: (parts,) second digit.
        width: (parts,) share of the column's order that a part spans; 1 for levels and missing.
        features: (parts, 2) what the network is told of a part beside its first digit: the normal score of its middle and
            its place inside the piece.
        frequency: (parts,) share of the rows, as the encoder knows it.
        missing: Is the last part a missing cell?
    """

    name: str
    numeric: bool
    edges: NDArray[np.float64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    width: NDArray[np.float64]
    features: NDArray[np.float32]
    frequency: NDArray[np.float64]
    missing: bool

    @property
    def size(self) -> int:
        """Number of first digits."""
        return int(self.first[-1]) + 1

    @property
    def seconds(self) -> int:
        """Largest number of second digits of a piece."""
        return int(self.second.max()) + 1

    def log_inside(self) -> NDArray[np.float64]:
        """(first digits, second digits) log share of each second digit in its piece; minus infinity where there is none."""
        out = np.full((self.size, self.seconds), -np.inf)
        whole = np.bincount(self.first, weights=self.frequency)
        shares = np.where(whole[self.first] > 0, self.frequency / np.maximum(whole[self.first], 1e-300), 1.0)
        out[self.first, self.second] = np.log(np.maximum(shares, 1e-12))
        return out

    def parts(self) -> NDArray[np.int64]:
        """(first digits, second digits) the part with these digits; that of the nearest where there is none."""
        out = np.zeros((self.size, self.seconds), dtype=np.int64)
        for part in range(len(self.first)):
            out[self.first[part], self.second[part] :] = part
        return out

    def of(self, rows: Encoded) -> NDArray[np.int64]:
        """(n,) part of each row."""
        if not self.numeric:
            return rows.states[self.name]
        return self._cut(rows.uniforms[self.name])

    def fixed(self, encoder: TableEncoder, fixed: Fixed) -> NDArray[np.int64] | None:
        """(n,) part that is asked for in each row, -1 for what training never had; None if the column is not fixed."""
        if not self.numeric:
            if self.name not in fixed.codes:
                return None
            states = encoder.levels[self.name].encode(fixed.codes[self.name])
            return np.where(states < len(self.first), states, -1)
        if self.name not in fixed.values:
            return None
        values = fixed.values[self.name]
        start, end = encoder.numbers[self.name].scaler.interval(np.nan_to_num(values))
        return self._cut(np.where(np.isnan(values), np.nan, (start + end) / 2))

    def _cut(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        last = len(self.edges) - 2
        part = np.clip(np.searchsorted(self.edges, uniform, side="right") - 1, 0, last)
        return np.where(np.isnan(uniform), last + 1 if self.missing else -1, part).astype(np.int64)

    def uniform(self, part: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        """(n,) uniforms drawn inside (n,) parts of a number, NaN where missing."""
        gone = part >= len(self.edges) - 1
        at = np.where(gone, 0, part)
        inside = self.edges[at] + rng.random(len(part)) * np.diff(self.edges)[at]
        return np.where(gone, np.nan, np.clip(inside, 1e-9, 1 - 1e-9))


@dataclass(frozen=True)
class CodeGroup:
    """Up to 16 codes of one block that are drawn in one step.

    Attributes:
        block: Name of the block.
        binary: Does the block say presence only?
        places: (codes,) positions among the used codes of the block, the commonest first.
        prevalence: (codes,) share of rows with each code.
    """

    block: str
    binary: bool
    places: NDArray[np.int64]
    prevalence: NDArray[np.float64]


def unit_columns(encoder: TableEncoder, pieces: int, seconds: int) -> list[UnitColumn]:
    """All columns with more than one state, in the schema's order.

    Args:
        encoder: the fitted encoder.
        pieces: about how many first digits a number has.
        seconds: about how many second digits a piece has.
    """
    out: list[UnitColumn] = []
    for column in encoder.schema.modelled():
        if column.name in encoder.levels:
            codec = encoder.levels[column.name]
            states = np.arange(codec.states)
            if codec.states > 1:
                out.append(
                    UnitColumn(
                        name=column.name,
                        numeric=False,
                        edges=np.empty(0),
                        first=states,
                        second=np.zeros_like(states),
                        width=np.ones(codec.states),
                        features=np.zeros((codec.states, 2), dtype=np.float32),
                        frequency=codec.frequency,
                        missing=codec.has_missing,
                    )
                )
        elif not encoder.numbers[column.name].scaler.empty:
            number = _number(encoder, column.name, pieces, seconds)
            if len(number.first) > 1:
                out.append(number)
    return out


def _number(encoder: TableEncoder, name: str, pieces: int, seconds: int) -> UnitColumn:
    from scipy.special import ndtri

    codec = encoder.numbers[name]
    coarse = bin_edges(codec.scaler, pieces)
    edges = np.unique(np.concatenate([coarse, bin_edges(codec.scaler, pieces * seconds)])) if seconds > 1 else coarse
    first = np.clip(np.searchsorted(coarse, edges[:-1], side="right") - 1, 0, len(coarse) - 2)
    second = np.arange(len(first)) - np.searchsorted(first, first)
    keep = np.r_[second < MOST_SECOND, True]
    edges, first, second = edges[keep], first[keep[:-1]], second[keep[:-1]]
    middle, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    inside = (middle - coarse[first]) / np.diff(coarse)[first] - 0.5
    features = np.stack([ndtri(np.clip(middle, 1e-4, 1 - 1e-4)), inside], axis=1)
    share = width * (1 - codec.missing_rate)
    if codec.has_missing:
        first, second = np.r_[first, first[-1] + 1], np.r_[second, 0]
        width, share = np.r_[width, 1.0], np.r_[share, codec.missing_rate]
        features = np.concatenate([features, np.zeros((1, 2))])
    return UnitColumn(
        name, True, edges, first, second, width, features.astype(np.float32), share, missing=codec.has_missing
    )


def code_groups(encoder: TableEncoder) -> list[CodeGroup]:
    """The common codes of all blocks in groups of 16, the commonest of a block first."""
    out: list[CodeGroup] = []
    for name, codec in encoder.blocks.items():
        common = np.flatnonzero(codec.common)
        common = common[np.argsort(-codec.prevalence[common], kind="stable")]
        for start in range(0, len(common), GROUP):
            places = common[start : start + GROUP]
            out.append(CodeGroup(name, codec.binary, places, codec.prevalence[places]))
    return out


@dataclass
class UnitRows:
    """Rows on a device.

    Attributes:
        parts: (n, columns) int64.
        codes: (n, groups, 16) int16 counts; 0 where a group has fewer codes.
    """

    parts: Tensor
    codes: Tensor

    @classmethod
    def of(cls, rows: Encoded, columns: list[UnitColumn], groups: list[CodeGroup], device: torch.device) -> UnitRows:
        """Encoded rows on the device."""
        parts = np.stack([c.of(rows) for c in columns], axis=1) if columns else np.zeros((rows.n, 0), dtype=np.int64)
        codes = np.zeros((rows.n, len(groups), GROUP), dtype=np.int16)
        for i, group in enumerate(groups):
            codes[:, i, : len(group.places)] = rows.blocks[group.block][:, group.places]
        return cls(torch.as_tensor(parts, device=device), torch.as_tensor(codes, device=device))

    def take(self, at: Tensor) -> UnitRows:
        """The given rows."""
        return UnitRows(self.parts[at], self.codes[at])
