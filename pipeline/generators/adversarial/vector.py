"""Rows of a table as the vectors that critics judge, and a generator's outputs as such vectors and as rows.

A vector holds a place a number, then a one-hot a column (spikes and missing cells of numbers are states), then a coordinate a
common code: 0 or 1, or log2(1 + count). Training rows stay as they are stored and become vectors a batch at a time. Rarer
codes are drawn by themselves, as everywhere. Columns of numbers are in `numbers.py`, softmaxes in `softmaxes.py`; bringing
margins to those of training in `margins.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.errors import UnsupportedError
from pipeline.generators.adversarial.softmaxes import SoftmaxColumns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.generators.adversarial.numbers import Number

Squash = Literal["tanh", "linear"]
MOST_STATES = 2_000
"""One-hot coordinates of a table, at most: wider ones make every step slow and learn nothing (spec 1.3)."""
SHARE_CLIP = 1e-4
ALMOST_ONE = 1 - 1e-6
AMOUNT_KNOTS = 65


@dataclass
class RowTensors:
    """Rows on a device as they are stored.

    Attributes:
        places: (n, numbers with a place) float32.
        states: (n, one-hot columns) int16.
        codes: (n, common codes) uint8 or int16 a block.
    """

    places: Tensor
    states: Tensor
    codes: list[Tensor]

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Tensor) -> RowTensors:
        """The given rows."""
        return RowTensors(self.places[rows], self.states[rows], [c[rows] for c in self.codes])


class RowBlocks(nn.Module):
    """The layout of a table's vectors.

    Args:
        encoder: the fitted encoder.
        numbers: its numeric columns that have a value.
        squash: what makes a place of an output.
        forced: take tables with more than 2,000 one-hot coordinates too.

    Attributes:
        width: coordinates of a vector.
        head_width: outputs of a generator; above `width` where codes are counted.
        columns: names of the one-hot columns, in order.
        placed: names of the numbers with a place, in order.
        softmaxes: their one-hots.

    Raises:
        UnsupportedError: too many states, unless `forced`.
    """

    def __init__(
        self, encoder: TableEncoder, numbers: Mapping[str, Number], *, squash: Squash = "tanh", forced: bool = False
    ) -> None:
        super().__init__()
        self.encoder, self.numbers, self.squash = encoder, dict(numbers), squash
        self.placed = [k for k, c in self.numbers.items() if c.scalar]
        sizes = {k: c.states for k, c in self.numbers.items()} | {k: c.states for k, c in encoder.levels.items()}
        # A column of one state says nothing; it is read as that state.
        self.columns = [k for k, size in sizes.items() if size > 1]
        self.softmaxes = SoftmaxColumns([sizes[k] for k in self.columns])
        self.common = {k: np.flatnonzero(b.common) for k, b in encoder.blocks.items()}
        self.counted = [not b.binary for b in encoder.blocks.values()]
        code_widths = [len(at) for at in self.common.values()]
        self.widths = [len(self.placed), self.softmaxes.width, *code_widths]
        self.head_widths = [*self.widths[:2], *(w * (1 + c) for w, c in zip(code_widths, self.counted, strict=True))]
        self.width, self.head_width = sum(self.widths), sum(self.head_widths)
        if self.softmaxes.width > MOST_STATES and not forced:
            widest = sorted(self.columns, key=lambda k: -sizes[k])[:3]
            raise UnsupportedError(
                f"The one-hots of this table take {self.softmaxes.width:,} coordinates, more than {MOST_STATES:,}; widest: "
                + ", ".join(f"'{k}' with {sizes[k]:,} levels" for k in widest)
                + ".",
                todo="Use coarser levels (three characters of an ICD code, CCSR groups), make a code block of them, or set"
                " `force_width`.",
            )

    def start(self, column: str) -> int:
        """First coordinate of a one-hot column."""
        return len(self.placed) + self.softmaxes.starts[self.columns.index(column)]

    # ---- training rows

    def tensors(self, rows: Encoded, device: torch.device | str, rng: np.random.Generator) -> RowTensors:
        """Encoded rows on the device; `rng` places numbers that could be in several modes."""
        places = np.zeros((rows.n, len(self.placed)), dtype=np.float32)
        states = np.zeros((rows.n, len(self.columns)), dtype=np.int16)
        for name, number in self.numbers.items():
            state, place = number.encode(rows.uniforms[name], rng)
            if name in self.columns:
                states[:, self.columns.index(name)] = state
            if name in self.placed:
                places[:, self.placed.index(name)] = place
        for name in self.encoder.levels:
            if name in self.columns:
                states[:, self.columns.index(name)] = rows.states[name]
        codes = [_stored(rows.blocks[k][:, at]) for k, at in self.common.items()]
        return RowTensors(
            torch.as_tensor(places, device=device),
            torch.as_tensor(states, device=device),
            [torch.as_tensor(c, device=device) for c in codes],
        )

    def real(self, batch: RowTensors) -> Tensor:
        """(batch, width) vectors of rows."""
        x = batch.places.new_zeros(len(batch), self.width)
        first = len(self.placed)
        x[:, :first] = batch.places
        x.scatter_(1, batch.states.long() + (self._starts(x.device) + first), 1.0)
        at = first + self.softmaxes.width
        for counts, counted in zip(batch.codes, self.counted, strict=True):
            part = x[:, at : at + counts.shape[1]]
            part.copy_(torch.log2(1.0 + counts) if counted else counts)
            at += counts.shape[1]
        return x

    def _starts(self, device: torch.device) -> Tensor:
        return torch.tensor(self.softmaxes.starts, dtype=torch.long, device=device)

    # ---- a generator's outputs

    def start_bias(self) -> Tensor:
        """(head_width,) bias of outputs that draw the right margins whatever else is put out; from the encoder alone."""
        parts = [torch.zeros(len(self.placed))]
        for name in self.columns:
            share = self.numbers[name].shares() if name in self.numbers else self.encoder.levels[name].frequency
            parts.append(torch.as_tensor(share, dtype=torch.float32).clamp_min(SHARE_CLIP).log())
        for (name, at), counted in zip(self.common.items(), self.counted, strict=True):
            share = self.encoder.blocks[name].prevalence[at]
            parts.append(torch.as_tensor(share, dtype=torch.float32).clamp(SHARE_CLIP, 1 - SHARE_CLIP).logit())
            parts.append(torch.zeros(len(at) * counted))
        return torch.cat(parts)

    def activate(
        self, outputs: Tensor, generator: torch.Generator | None, *, tau: float = 0.2, hard: bool = False
    ) -> Tensor:
        """(batch, width) vectors for (batch, head_width) outputs.

        Args:
            outputs: of a generator.
            generator: draws the noise that decides states and codes; None for shares and probabilities instead.
            tau: temperature of the one-hots and of codes.
            hard: whole states and codes, with the gradient of the soft ones; soft ones show a critic that no row is
                real by their edges alone.
        """
        places, states, *codes = outputs.split(self.head_widths, dim=1)
        parts = [self._place(places), self.softmaxes(states, generator, tau=tau, hard=hard)]
        for part, counted in zip(codes, self.counted, strict=True):
            present, amount = part.chunk(2, dim=1) if counted else (part, None)
            shown = _bernoulli(present, generator, tau, hard=hard)
            parts.append(shown if amount is None else shown * (1 + functional.softplus(amount)))
        return torch.cat(parts, dim=1)

    def _place(self, outputs: Tensor) -> Tensor:
        return torch.tanh(outputs) if self.squash == "tanh" else outputs

    # ---- rows

    def read(
        self, vectors: Tensor, rng: np.random.Generator, amounts: Mapping[str, AmountMap] | None = None
    ) -> Encoded:
        """Encoded rows for (n, width) vectors of whole states: the likeliest state, codes above one half.

        Args:
            vectors: as `activate` gives them with `hard`.
            rng: where in a spike a number is; codes too rare to be learned.
            amounts: how counts of each block follow from their coordinate; None: as they are shown.
        """
        n = len(vectors)
        places, ones, *codes = (p.cpu().numpy() for p in vectors.detach().split(self.widths, dim=1))
        parts = np.split(ones, self.softmaxes.starts[1:], axis=1) if self.columns else []
        states = {k: p.argmax(axis=1) for k, p in zip(self.columns, parts, strict=True)}
        out = Encoded(n=n)
        for name in self.encoder.numbers:
            inside = rng.random(n)
            if name not in self.numbers:
                out.uniforms[name] = np.full(n, np.nan)
                continue
            place = places[:, self.placed.index(name)] if name in self.placed else np.zeros(n)
            state = states.get(name, np.zeros(n, dtype=np.int64))
            out.uniforms[name] = self.numbers[name].decode(state, place, inside)
        for name in self.encoder.levels:
            out.states[name] = states.get(name, np.zeros(n, dtype=np.int64)).astype(np.int64)
        for part, (name, at), counted in zip(codes, self.common.items(), self.counted, strict=True):
            block = self.encoder.blocks[name]
            counts = (rng.random((n, len(block.used))) < block.prevalence).astype(np.int16)
            if counted and amounts is not None and name in amounts:
                counts[:, at] = amounts[name].counts(part)
            else:
                shown = np.exp2(part.astype(np.float64)) - 1 if counted else part > 0.5
                counts[:, at] = np.clip(np.rint(shown), 0, block.cap[at])
            out.blocks[name] = counts
        return out


@dataclass(frozen=True)
class AmountMap:
    """Counts of codes that are present, by the rank of their coordinate among those that a generator draws.

    Attributes:
        drawn: (codes, AMOUNT_KNOTS) quantiles of a code's coordinate where it was drawn as present.
        wanted: (codes, AMOUNT_KNOTS) quantiles of its counts among the training rows that have it.
    """

    drawn: NDArray[np.float32]
    wanted: NDArray[np.int32]

    @staticmethod
    def quantiles(values: NDArray[np.floating] | NDArray[np.integer], fallback: float) -> NDArray[np.float64]:
        """(codes, AMOUNT_KNOTS) quantiles of each column of (n, codes) among what is above 0."""
        out = np.full((values.shape[1], AMOUNT_KNOTS), fallback)
        # Middles of equal shares: every knot stands for as many rows.
        share = (np.arange(AMOUNT_KNOTS) + 0.5) / AMOUNT_KNOTS
        for i, column in enumerate(values.T):
            held = np.sort(column[column > 0])
            if len(held):
                out[i] = held[np.minimum((share * len(held)).astype(np.int64), len(held) - 1)]
        return out

    def counts(self, shown: NDArray[np.floating]) -> NDArray[np.int64]:
        """(n, codes) counts for (n, codes) coordinates, 0 where absent."""
        out = np.zeros(shown.shape, dtype=np.int64)
        for i, column in enumerate(shown.T):
            at = np.flatnonzero(column > 0)
            rank = np.searchsorted(self.drawn[i], column[at])
            out[at, i] = self.wanted[i, np.minimum(rank, AMOUNT_KNOTS - 1)]
        return out


def _bernoulli(logits: Tensor, generator: torch.Generator | None, tau: float, *, hard: bool) -> Tensor:
    """(batch, codes) presence: binary concrete (Maddison et al. 2017), its whole value, or the probability."""
    if generator is None:
        return torch.sigmoid(logits)
    return presence(logits + logistic(logits.shape, generator, logits.device), tau, hard=hard)


def logistic(shape: torch.Size | tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard logistic noise in the given shape."""
    uniform = torch.rand(shape, generator=generator, device=device).clamp_(1e-7, ALMOST_ONE)
    return torch.logit(uniform)


def presence(noisy: Tensor, tau: float, *, hard: bool) -> Tensor:
    """Presence of codes from logits with logistic noise; `hard`: 0 or 1, with the gradient of what is between."""
    soft = torch.sigmoid(noisy / tau)
    return soft + ((noisy > 0).to(soft.dtype) - soft).detach() if hard else soft


def _stored(counts: NDArray[np.int16]) -> NDArray[np.integer]:
    return counts.astype(np.uint8) if counts.max(initial=0) < 256 else counts
