"""Rows of a table as plain real numbers, and back: what the published diffusion models of health records work on.

A number stands on its column's scale (from 0 to 1, or a normal score), a level as a one-hot block, a missing cell as a
bit, a code as its presence or count. Back again by the nearest row, as published, or by drawing, which keeps rare
levels and codes. The likelihoods that our own models use instead are in `row_vector.py` and `encoding/mixed.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.mixed import LARGEST_SCORE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

LARGEST_LOG = 11.0
"""log1p of more than any count that is stored."""
MOST_COUNTS = 64
KNOWN_POINTS = 1024
NumberScale = Literal["minmax", "score"]
CountScale = Literal["plain", "log1p"]


@dataclass
class RealRows:
    """Rows on a device.

    Attributes:
        columns: (n, numbers, bits and one-hot levels) float32.
        blocks: (n, common codes) int16 a block: a float matrix of all codes is made a batch at a time.
    """

    columns: Tensor
    blocks: list[Tensor]

    def __len__(self) -> int:
        return len(self.columns)


class RealVector:
    """The places of a vector, and both ways through it.

    Args:
        encoder: the fitted encoder of the table.
        numbers: "minmax": from 0 to 1 between the column's ends; "score": normal score of the rank.
        counts: of count blocks, as they are or as log(1 + count).

    Attributes:
        width: length of the vector, at least 1.
        bits: (width,) True where a value is 0 or 1.
        counted: (width,) True where it is a count.
    """

    def __init__(self, encoder: TableEncoder, *, numbers: NumberScale, counts: CountScale) -> None:
        self.encoder = encoder
        self.numbers, self.counts = numbers, counts
        self.common = {k: np.flatnonzero(b.common) for k, b in encoder.blocks.items()}
        kinds: list[str] = []
        for number in encoder.numbers.values():
            kinds += ["number", "bit"] if number.has_missing else ["number"]
        for level in encoder.levels.values():
            kinds += ["bit"] * max(1, level.states)
        self.columns = len(kinds)
        for name, block in encoder.blocks.items():
            kinds += ["bit" if block.binary else "count"] * len(self.common[name])
        # A table may say nothing at all: an empty vector is no input of a network.
        kinds = kinds or ["number"]
        self.width = len(kinds)
        self.bits = np.array([k == "bit" for k in kinds])
        self.counted = np.array([k == "count" for k in kinds])

    def rows(self, rows: Encoded, device: torch.device | str) -> RealRows:
        """Encoded rows on the device."""
        parts: list[NDArray[np.float32]] = []
        for name, number in self.encoder.numbers.items():
            uniform = rows.uniforms[name]
            parts.append(np.nan_to_num(self._scaled(name, uniform)).astype(np.float32)[:, None])
            if number.has_missing:
                parts.append(np.isnan(uniform).astype(np.float32)[:, None])
        for name, level in self.encoder.levels.items():
            parts.append((rows.states[name][:, None] == np.arange(max(1, level.states))).astype(np.float32))
        if not parts:
            parts = [np.zeros((rows.n, int(not any(map(len, self.common.values())))), dtype=np.float32)]
        blocks = [torch.as_tensor(rows.blocks[k][:, at], device=device) for k, at in self.common.items()]
        return RealRows(torch.as_tensor(np.concatenate(parts, axis=1), device=device), blocks)

    def take(self, rows: RealRows, at: Tensor) -> Tensor:
        """(batch, width) vectors of some rows."""
        parts = [rows.columns[at], *(block[at].to(torch.float32) for block in rows.blocks)]
        if self.counts == "log1p":
            parts[1:] = [
                part if block.binary else part.log1p()
                for part, block in zip(parts[1:], self.encoder.blocks.values(), strict=True)
            ]
        return torch.cat(parts, dim=1)

    def moments(self, rows: RealRows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(width,) means and standard deviations, 1 where a value never changes."""
        total, square = np.zeros(self.width), np.zeros(self.width)
        for part in torch.arange(len(rows), device=rows.columns.device).split(8192):
            batch = self.take(rows, part).double()
            total += batch.sum(dim=0).cpu().numpy()
            square += (batch**2).sum(dim=0).cpu().numpy()
        mean = total / len(rows)
        spread = np.sqrt(np.maximum(square / len(rows) - mean**2, 0))
        return mean, np.where(spread > 1e-6, spread, 1.0)

    def known_moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(width,) the same from what the encoder knows, no row looked at: for trainings whose encoder is private."""
        mean: list[NDArray[np.float64]] = []
        square: list[NDArray[np.float64]] = []
        middle = (np.arange(KNOWN_POINTS) + 0.5) / KNOWN_POINTS
        for name, number in self.encoder.numbers.items():
            values = np.nan_to_num(self._scaled(name, middle)) * float(not number.scaler.empty)
            seen = 1 - number.missing_rate if number.has_missing else 1.0
            mean.append(np.array([seen * values.mean()]))
            square.append(np.array([seen * (values**2).mean()]))
            if number.has_missing:
                mean.append(np.array([number.missing_rate]))
                square.append(mean[-1])
        for level in self.encoder.levels.values():
            share = np.asarray(level.frequency if level.states else np.ones(1), dtype=np.float64)
            mean.append(share)
            square.append(share)
        for name, places in self.common.items():
            block = self.encoder.blocks[name]
            for power, into in ((1, mean), (2, square)):
                into.append(block.prevalence[places] * (1 if block.binary else self._usual_count(name, power)))
        if not mean:
            return np.zeros(self.width), np.ones(self.width)
        first, second = np.concatenate(mean), np.concatenate(square)
        if len(first) < self.width:  # the empty vector's one place
            return np.zeros(self.width), np.ones(self.width)
        spread = np.sqrt(np.maximum(second - first**2, 0))
        return first, np.where(spread > 1e-6, spread, 1.0)

    def known_means(self) -> dict[str, NDArray[np.float64]]:
        """Block to (common codes,) mean counts as far as the encoder knows them: of counts it knows presence alone."""
        plain = {k: self._shares_of_counts(k) @ np.arange(1, 1 + self._most(k)) for k in self.common}
        return {k: self.encoder.blocks[k].prevalence[at] * plain[k] for k, at in self.common.items()}

    def _usual_count(self, name: str, power: int) -> NDArray[np.float64]:
        """(common codes,) mean of a power of what the vector says of a code that is there."""
        counts = np.arange(1, 1 + self._most(name), dtype=np.float64)
        return self._shares_of_counts(name) @ ((np.log1p(counts) if self.counts == "log1p" else counts) ** power)

    def _most(self, name: str) -> int:
        return min(MOST_COUNTS, int(self.encoder.blocks[name].cap[self.common[name]].max(initial=1)))

    def _shares_of_counts(self, name: str) -> NDArray[np.float64]:
        """(common codes, counts) of a code that is there: half as many for each one more, up to its cap."""
        counts = np.arange(1, 1 + self._most(name))
        shares = np.where(counts <= self.encoder.blocks[name].cap[self.common[name], None], 0.5**counts, 0.0)
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def nearest(self, values: NDArray[np.float64], rng: np.random.Generator) -> Encoded:
        """(n, width) values to the rows nearest to them, as published: bits from one half on, rounded counts.

        Codes that are too rare to be in the vector are drawn by themselves.
        """
        return self._rows(
            values,
            rng,
            bit=lambda v: v >= 0.5,
            level=lambda v: v.argmax(axis=1).astype(np.int64),
            count=np.rint,
        )

    def drawn(self, values: NDArray[np.float64], rng: np.random.Generator) -> Encoded:
        """(n, width) values, taken as expectations, to rows drawn with them: bits, levels and counts by chance."""

        def level(v: NDArray[np.float64]) -> NDArray[np.int64]:
            edges = np.cumsum(np.maximum(v, 1e-6), axis=1)
            return (rng.random((len(v), 1)) * edges[:, -1:] >= edges[:, :-1]).sum(axis=1).astype(np.int64)

        return self._rows(
            values,
            rng,
            bit=lambda v: rng.random(v.shape) < v,
            level=level,
            count=lambda v: np.floor(v + rng.random(v.shape)),
        )

    def _rows(
        self,
        values: NDArray[np.float64],
        rng: np.random.Generator,
        *,
        bit: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
        level: Callable[[NDArray[np.float64]], NDArray[np.int64]],
        count: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    ) -> Encoded:
        n, at = len(values), 0
        out = Encoded(n=n)
        for name, number in self.encoder.numbers.items():
            out.uniforms[name] = self._unscaled(name, values[:, at], rng)
            at += 1
            if number.has_missing:
                out.uniforms[name][bit(values[:, at])] = np.nan
                at += 1
        for name, codec in self.encoder.levels.items():
            size = max(1, codec.states)
            out.states[name] = level(values[:, at : at + size])
            at += size
        for name, places in self.common.items():
            block = self.encoder.blocks[name]
            counts = (rng.random((n, len(block.used))) < block.prevalence).astype(np.int16)
            part = values[:, at : at + len(places)]
            if block.binary:
                counts[:, places] = bit(part)
            else:
                counts[:, places] = np.clip(count(self.plain_counts(part)), 0, block.cap[places])
            at += len(places)
            out.blocks[name] = counts
        return out

    def plain_counts(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, codes) values of a count block as expected counts, none below 0."""
        plain = np.expm1(np.minimum(values, LARGEST_LOG)) if self.counts == "log1p" else values
        return np.maximum(plain, 0)

    def _scaled(self, name: str, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        scaler = self.encoder.numbers[name].scaler
        if self.numbers == "score":
            from scipy.special import ndtri

            return np.clip(ndtri(uniform), -LARGEST_SCORE, LARGEST_SCORE)
        low, high = self._ends(name)
        return np.asarray((scaler.from_uniform(uniform) - low) / (high - low))

    def _unscaled(self, name: str, values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        scaler = self.encoder.numbers[name].scaler
        if scaler.empty:
            return np.full(len(values), np.nan)
        if self.numbers == "score":
            from scipy.special import ndtr

            return np.clip(ndtr(values), 1e-9, 1 - 1e-9)
        low, high = self._ends(name)
        return scaler.to_uniform(scaler.snap(low + np.clip(values, 0, 1) * (high - low)), rng)

    def _ends(self, name: str) -> tuple[float, float]:
        """The ends of a column, apart enough to divide by."""
        scaler = self.encoder.numbers[name].scaler
        if scaler.empty:
            return 0.0, 1.0
        return scaler.floor, scaler.ceiling if scaler.ceiling > scaler.floor else scaler.floor + 1.0
