"""A whole table for a neural model: its input tensors, its targets, and the heads that fit its columns.

Numeric columns become bins (a categorical over about 32 pieces of the empirical distribution, uniform inside a
piece) or numbers on a normal scale; discrete columns become states; common codes of blocks become a dense matrix.
Codes too rare to model are drawn by themselves. Networks around it (encoders, decoders) live with their generators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.heads import BernoulliHead, CategoricalHead, CountHead, NumericHead

if TYPE_CHECKING:
    from numpy.typing import NDArray

NumericLikelihood = Literal["binned", "gaussian", "student_t"]
LARGEST_SCORE = 4.0
"""Normal scores are clipped here: 3 in 100,000 rows lie beyond."""


@dataclass
class TableTensors:
    """Rows on a device.

    Attributes:
        table: (n, width) float32 inputs made of columns.
        states: (n, categorical columns) int64 targets.
        numbers: (n, numeric columns) float32 targets, 0 where missing; no column if numbers are binned.
        weight: the same shape, 0 where missing.
        blocks: (n, common codes) int16 a block.
    """

    table: Tensor
    states: Tensor
    numbers: Tensor
    weight: Tensor
    blocks: list[Tensor]

    def inputs(self, rows: Tensor) -> Tensor:
        """(batch, inputs) float32: columns, then codes (counts as log(1 + count))."""
        return torch.cat([self.table[rows], *[b[rows].to(torch.float32).log1p() / np.log(2) for b in self.blocks]], 1)


class MixedTable(nn.Module):
    """Likelihood of a table's rows given the outputs of a network (spec 0.3), and rows drawn from them.

    Args:
        encoder: the fitted encoder of the table.
        numeric: likelihood of numeric columns.
        bins: about how many bins a numeric column gets ("binned").

    Attributes:
        inputs: width of the network's input.
        width: width of the network's output.
    """

    def __init__(self, encoder: TableEncoder, *, numeric: NumericLikelihood, bins: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.numeric = numeric
        self.edges = {k: c.scaler.bins(bins) for k, c in encoder.numbers.items() if not c.scaler.empty}
        sizes: list[int] = []
        for name, number in encoder.numbers.items():
            pieces = len(self.edges[name]) - 1 if numeric == "binned" and name in self.edges else 1
            sizes.append(pieces + int(number.has_missing and not number.scaler.empty))
        sizes += [max(1, c.states) for c in encoder.levels.values()]
        self.categorical = CategoricalHead(sizes)
        self.gaussian = NumericHead(0 if numeric == "binned" else len(self.edges), student=numeric == "student_t")
        self.common = {k: np.flatnonzero(b.common) for k, b in encoder.blocks.items()}
        heads = [
            BernoulliHead(len(self.common[k])) if b.binary else CountHead(len(self.common[k]))
            for k, b in encoder.blocks.items()
        ]
        self.block_heads = nn.ModuleList(heads)
        self.widths = [
            self.categorical.width,
            self.gaussian.width,
            *[h.width for h in heads],
        ]
        self.width = sum(self.widths)
        self.inputs = self._table(Encoded(n=0, **_no_rows(encoder))).shape[1] + sum(map(len, self.common.values()))

    def tensors(self, rows: Encoded, device: torch.device | str) -> TableTensors:
        """Inputs and targets of encoded rows."""
        scores = {k: _scores(rows.uniforms[k]) for k in self.edges}
        targets = list(scores.values()) if self.numeric != "binned" else []
        numbers = np.stack([np.nan_to_num(z) for z in targets], axis=1) if targets else np.zeros((rows.n, 0))
        weight = np.stack([~np.isnan(z) for z in targets], axis=1) if targets else np.zeros((rows.n, 0))
        return TableTensors(
            table=torch.as_tensor(self._table(rows), device=device),
            states=torch.as_tensor(self._states(rows), device=device),
            numbers=torch.as_tensor(numbers.astype(np.float32), device=device),
            weight=torch.as_tensor(weight.astype(np.float32), device=device),
            blocks=[torch.as_tensor(rows.blocks[k][:, at], device=device) for k, at in self.common.items()],
        )

    def start_bias(self, rows: Encoded) -> Tensor:
        """(width,) output bias that makes an untrained network draw the right margins."""
        states = self._states(rows)
        shares = [
            np.bincount(states[:, i], minlength=size) / max(1, rows.n) for i, size in enumerate(self.categorical.sizes)
        ]
        parts = [self.categorical.start_bias(shares), torch.zeros(self.gaussian.width)]
        for head, (name, at) in zip(self.block_heads, self.common.items(), strict=True):
            counts = rows.blocks[name][:, at]
            if isinstance(head, CountHead):
                parts.append(head.start_bias(counts))
            else:
                assert isinstance(head, BernoulliHead)
                parts.append(head.start_bias(counts.mean(axis=0)))
        return torch.cat(parts)

    def loss(self, outputs: Tensor, data: TableTensors, rows: Tensor) -> Tensor:
        """(batch,) negative log-likelihood of the rows."""
        discrete, numeric, *codes = outputs.split(self.widths, dim=1)
        total = self.categorical.loss(discrete, data.states[rows])
        if self.gaussian.width:
            total = total + self.gaussian.loss(numeric, data.numbers[rows], data.weight[rows])
        for head, part, block in zip(self.block_heads, codes, data.blocks, strict=True):
            assert isinstance(head, (BernoulliHead, CountHead))
            total = total + head.loss(part, block[rows].to(torch.float32))
        return total

    def draw(self, outputs: Tensor, generator: torch.Generator, rng: np.random.Generator) -> Encoded:
        """Encoded rows drawn from the likelihoods (never their means)."""
        discrete, numeric, *codes = outputs.split(self.widths, dim=1)
        states = self.categorical.draw(discrete, generator).cpu().numpy()
        n = len(states)
        out = Encoded(n=n)
        scores = (
            self.gaussian.draw(numeric, generator).cpu().numpy().astype(np.float64) if self.gaussian.width else None
        )
        at = 0
        for i, (name, number) in enumerate(self.encoder.numbers.items()):
            inside = rng.random(n)
            if name not in self.edges:
                out.uniforms[name] = np.full(n, np.nan)
                continue
            edges = self.edges[name]
            if scores is None:
                piece = np.minimum(states[:, i], len(edges) - 2)
                uniform = edges[piece] + inside * (edges[piece + 1] - edges[piece])
            else:
                uniform = _from_scores(scores[:, at])
                at += 1
            gone = states[:, i] == self.categorical.sizes[i] - 1 if number.has_missing else np.zeros(n, dtype=bool)
            out.uniforms[name] = np.where(gone, np.nan, uniform)
        first = len(self.encoder.numbers)
        for i, name in enumerate(self.encoder.levels):
            out.states[name] = states[:, first + i].astype(np.int64)
        for head, part, (name, places) in zip(self.block_heads, codes, self.common.items(), strict=True):
            block = self.encoder.blocks[name]
            counts = (rng.random((n, len(block.used))) < block.prevalence).astype(np.int16)
            if isinstance(head, CountHead):
                drawn = head.draw(part, generator, int(block.cap[places].max(initial=1)))
            else:
                assert isinstance(head, BernoulliHead)
                drawn = head.draw(part, generator)
            counts[:, places] = drawn.cpu().numpy()
            out.blocks[name] = counts
        return out

    def _table(self, rows: Encoded) -> NDArray[np.float32]:
        """(n, width) inputs: normal scores (0 where missing), one-hot bins, missing flags, one-hot states."""
        parts: list[NDArray[Any]] = [np.zeros((rows.n, 0))]
        for name, number in self.encoder.numbers.items():
            if name not in self.edges:
                continue
            parts.append(np.nan_to_num(_scores(rows.uniforms[name]))[:, None])
            if self.numeric == "binned":
                parts.append(_one_hot(self._pieces(name, rows), len(self.edges[name]) - 1))
            if number.has_missing:
                parts.append(np.isnan(rows.uniforms[name])[:, None])
        for name, level in self.encoder.levels.items():
            hot = _one_hot(rows.states[name], max(1, level.states))
            parts.append(hot[:, 1:] if level.states <= 2 else hot)
        table = np.concatenate(parts, axis=1).astype(np.float32)
        # A network needs an input even where no column says anything.
        return table if table.shape[1] else np.zeros((rows.n, 1), dtype=np.float32)

    def _states(self, rows: Encoded) -> NDArray[np.int64]:
        """(n, columns) targets of the categorical head: numeric columns first, then discrete ones."""
        out = np.zeros((rows.n, len(self.categorical.sizes)), dtype=np.int64)
        for i, (name, number) in enumerate(self.encoder.numbers.items()):
            if name not in self.edges:
                continue
            if self.numeric == "binned":
                out[:, i] = np.maximum(self._pieces(name, rows), 0)
            if number.has_missing:
                out[np.isnan(rows.uniforms[name]), i] = self.categorical.sizes[i] - 1
        for i, name in enumerate(self.encoder.levels):
            out[:, len(self.encoder.numbers) + i] = rows.states[name]
        return out

    def _pieces(self, name: str, rows: Encoded) -> NDArray[np.int64]:
        """(n,) bin of each row, -1 where missing."""
        return piece_of(rows.uniforms[name], self.edges[name])


def piece_of(uniform: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) index of the piece between `edges` in which each uniform lies; -1 where NaN."""
    piece = np.clip(np.searchsorted(edges, uniform, side="right") - 1, 0, len(edges) - 2)
    return np.where(np.isnan(uniform), -1, piece)


def _one_hot(index: NDArray[np.integer], size: int) -> NDArray[np.float32]:
    """(n, size) rows of the identity; a row of zeros where the index is -1."""
    return (np.asarray(index)[:, None] == np.arange(size)[None, :]).astype(np.float32)


def _scores(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtri

    return np.clip(ndtri(uniform), -LARGEST_SCORE, LARGEST_SCORE)


def _from_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtr

    return np.clip(ndtr(scores), 0.0, 1.0)


def _no_rows(encoder: TableEncoder) -> dict[str, Any]:
    return {
        "states": {k: np.empty(0, dtype=np.int64) for k in encoder.levels},
        "uniforms": {k: np.empty(0) for k in encoder.numbers},
        "blocks": {k: np.empty((0, len(b.used)), dtype=np.int16) for k, b in encoder.blocks.items()},
    }
