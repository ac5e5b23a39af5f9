"""A table whose rows are drawn from likelihoods: columns as in `encoding/mixed.py`, codes as tilted states.

Counts of codes are drawn from their own distribution in training, tilted (`denoising/code_states.py`): a code that is
nearly always counted once cannot be said by a negative binomial. Networks around it are in `spaces.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.mixed import MixedTable, TableTensors
from pipeline.generators.denoising.code_states import CodeStates

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_CELLS = 12_000_000
"""States of codes that are held at once while drawing: 2,000 rows of 1,000 codes with six states each."""
HALVINGS = 14
CODE_ROUNDS = 2
MOST_SHIFT, MOST_BURDEN = 8.0, 3.0


@dataclass
class CodedRows:
    """Rows on a device: columns where there are any, and (n, common codes) int16 a block."""

    n: int
    columns: TableTensors | None
    blocks: list[Tensor]

    def take(self, at: Tensor) -> CodedRows:
        """The given rows."""
        columns = None if self.columns is None else self.columns.take(at)
        return CodedRows(len(at), columns, [b[at] for b in self.blocks])


class CodedTable(nn.Module):
    """Likelihood of a table's rows given the outputs of a network, and rows drawn from it.

    Args:
        encoder: the fitted encoder of the table.
        bins: about how many pieces a numeric column gets.
        linked: let each column also depend on the columns before it.

    Attributes:
        inputs: width of the network's input.
        width: width of the network's output.
        latents: how many latents may be of use: four a column and one a code.
    """

    def __init__(self, encoder: TableEncoder, *, bins: int, linked: bool) -> None:
        super().__init__()
        self.encoder = encoder
        plain = TableEncoder(encoder.schema, encoder.levels, encoder.numbers, {})
        names = [*encoder.numbers, *encoder.levels]
        self.columns = MixedTable(plain, numeric="binned", bins=bins, linked=linked) if names else None
        self.common = {k: np.flatnonzero(b.common) for k, b in encoder.blocks.items()}
        self.code_states = nn.ModuleList(
            CodeStates(b.cap[self.common[k]], binary=b.binary) for k, b in encoder.blocks.items()
        )
        self.column_width = self.columns.width if self.columns is not None else 0
        self.widths = [self.column_width, *(c.width for c in self._codes())]
        self.width = sum(self.widths)
        codes = sum(map(len, self.common.values()))
        self.inputs = max(1, (self.columns.inputs if self.columns is not None else 0) + codes)
        self.latents = max(1, 4 * len(names) + codes)

    def _codes(self) -> list[CodeStates]:
        return [c for c in self.code_states if isinstance(c, CodeStates)]

    def tensors(self, rows: Encoded, device: torch.device | str) -> CodedRows:
        """Encoded rows on the device."""
        columns = None if self.columns is None else self.columns.tensors(rows, device)
        blocks = [torch.as_tensor(rows.blocks[k][:, at], device=device) for k, at in self.common.items()]
        return CodedRows(rows.n, columns, blocks)

    def start_bias(self, rows: Encoded) -> Tensor:
        """(width,) output bias of an untrained network that draws the right margins; takes the codes' shares over."""
        for codes, (name, places) in zip(self._codes(), self.common.items(), strict=True):
            codes.learn(rows.blocks[name][:, places])
        bias = torch.zeros(self.width)
        if self.columns is not None:
            found = self.columns.start_bias(rows)
            assert found is not None
            bias[: self.column_width] = found
        return bias

    def seen(self, batch: CodedRows) -> Tensor:
        """(batch, inputs) what a network is shown of rows: columns, then log2(1 + count)."""
        parts = [b.to(torch.float32).log1p() / np.log(2) for b in batch.blocks]
        if self.columns is not None and batch.columns is not None:
            parts.insert(0, self.columns.batch(batch.columns).inputs())
        shown = torch.cat(parts, dim=1)
        return shown if shown.shape[1] else shown.new_zeros(batch.n, 1)

    def loss(self, outputs: Tensor, batch: CodedRows) -> Tensor:
        """(batch,) negative log-likelihood of rows."""
        first, *parts = outputs.split(self.widths, dim=1)
        total = outputs.new_zeros(len(outputs))
        if self.columns is not None and batch.columns is not None:
            total = total + self.columns.loss(first, self.columns.batch(batch.columns))
        for codes, part, counts in zip(self._codes(), parts, batch.blocks, strict=True):
            total = total + codes.loss(codes.log_odds(part, None, None, None), counts)
        return total

    def draw(self, outputs: Tensor, generator: torch.Generator, rng: np.random.Generator) -> Encoded:
        """Encoded rows drawn from the likelihoods; codes too rare to model by themselves."""
        states = max((c.codes * c.log_share.shape[1] for c in self._codes()), default=1)
        pieces = outputs.split(max(1, MOST_CELLS // max(1, states)))
        return Encoded.concatenate([self._draw(piece, generator, rng) for piece in pieces])

    def _draw(self, outputs: Tensor, generator: torch.Generator, rng: np.random.Generator) -> Encoded:
        first, *parts = outputs.split(self.widths, dim=1)
        out = Encoded(n=len(outputs)) if self.columns is None else self.columns.draw(first, generator, rng)
        for codes, part, (name, places) in zip(self._codes(), parts, self.common.items(), strict=True):
            block = self.encoder.blocks[name]
            counts = (rng.random((out.n, len(block.used))) < block.prevalence).astype(np.int16)
            counts[:, places] = codes.draw(codes.log_odds(part, None, None, None), generator, rng)
            out.blocks[name] = counts
        return out

    def correction(self, drawn: Encoded) -> Tensor:
        """(width,) what to add to the bias so that columns are drawn as often as the encoder knows them."""
        out = torch.zeros(self.width)
        if self.columns is not None:
            out[: self.column_width] = self.columns.correction(drawn)
        return out

    def code_shift(self, outputs: Tensor) -> Tensor:
        """(width,) what to add to the bias so that codes are as often present, and as often counted, as in training.

        Drawn latents are not quite where those of real rows are, and a rare code's logit falls steeply: without this rare
        codes are too rare or too common by some tenths (spec 5.2). By bisection of means over (rows, width) outputs.
        """
        shift, start = torch.zeros(self.width), self.column_width
        for codes, part, (name, places) in zip(
            self._codes(), outputs.split(self.widths, dim=1)[1:], self.common.items(), strict=True
        ):
            target = self.encoder.blocks[name].prevalence[places]
            cells = max(1, codes.codes * codes.log_share.shape[1])
            own = torch.zeros(codes.width)
            for _ in range(CODE_ROUNDS):
                if not codes.binary:
                    own[codes.codes :] += _burden_shift(codes, part[: max(200, MOST_CELLS // (12 * cells))] + own)
                pieces = (part + own).split(max(1, MOST_CELLS // cells))
                own[: codes.codes] += _presence_shift(torch.cat([_presence(codes, p) for p in pieces]), target)
            shift[start : start + codes.width] = own
            start += codes.width
        return shift

    def free_scales(self) -> list[Tensor]:
        """Parameters that are no weights."""
        return self.columns.free_scales() if self.columns is not None else []


def _presence(codes: CodeStates, outputs: Tensor) -> Tensor:
    """(rows, codes) logits of a count above 0."""
    odds = codes.log_odds(outputs, None, None, None)
    return odds[:, :, 1:].logsumexp(dim=2) - odds[:, :, 0]


def _presence_shift(logit: Tensor, target: NDArray[np.float64]) -> Tensor:
    """(codes,) the shift of (rows, codes) logits at which mean probabilities meet their targets."""
    wanted = torch.as_tensor(target, dtype=torch.float32)
    low, high = torch.full_like(wanted, -MOST_SHIFT), torch.full_like(wanted, MOST_SHIFT)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        more = torch.sigmoid(logit + middle).mean(dim=0) < wanted
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    return (low + high) / 2


def _burden_shift(codes: CodeStates, outputs: Tensor) -> Tensor:
    """(codes,) the shift of how much larger counts are at which their means are those of training."""
    # A state's counts are drawn evenly from its first to the one before the next state's first, or to the cap.
    caps = torch.as_tensor(codes.caps)[:, None]
    after = torch.cat([codes.first[:, 1:], codes.first.new_full((codes.codes, 1), torch.iinfo(torch.int64).max)], dim=1)
    usual = (codes.first + torch.minimum(after - 1, caps)).float() / 2
    usual = torch.where(codes.first <= caps, usual, 0.0)
    shares = codes.log_share.exp()
    # Among those who have the code: a larger burden also changes how many have it, which is shifted by itself.
    wanted = (shares * usual).sum(dim=1) / shares[:, 1:].sum(dim=1).clamp_min(1e-9)
    low, high = torch.full_like(wanted, -MOST_BURDEN), torch.full_like(wanted, MOST_BURDEN)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        moved = torch.cat([outputs[:, : codes.codes], outputs[:, codes.codes :] + middle], dim=1)
        chance = codes.log_odds(moved, None, None, None).softmax(dim=2).mean(dim=0)
        more = (chance * usual).sum(dim=1) < wanted * chance[:, 1:].sum(dim=1)
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    # A code that is only ever counted once has nothing to shift.
    several = (codes.place != 0).any(dim=1)
    return torch.where(several, (low + high) / 2, torch.zeros(codes.codes))
