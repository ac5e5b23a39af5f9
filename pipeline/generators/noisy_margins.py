"""Margins measured again under privacy: the distribution of every column, once a generator's own budget is there.

The private encoder knows the columns from a small part of the budget. Generators that keep the margins exactly as the
encoder has them (`independent`, `gaussian_copula`) put noisy histograms of their own in their place; the result is an
encoder of the same kind, so that everything else works on it unchanged. MST has histograms of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.encoding.scalers import QuantileScaler
from pipeline.generators.column_states import StateColumn, state_columns, states_of
from pipeline.privacy.marginals import Measurer, gaussian_sd, measure_histograms

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_BINS, MOST_BINS = 16, 128
NOISE_A_BIN = 0.1
"""Noise of a bin, in those of equal bins' rows: with more bins it would drown what they show."""
MOST_COUNT_STATES = 16
LEAST = 1e-9
"""Least share of a state: what is asked for under a condition can then be drawn."""


@dataclass(frozen=True)
class NoisyMargins:
    """Margins measured under privacy.

    Attributes:
        encoder: With these margins.
        rows: The training rows in terms of this encoder.
        code_shares: A block: (codes used, largest count + 1) share of rows with each count.
    """

    encoder: TableEncoder
    rows: Encoded
    code_shares: dict[str, NDArray[np.float64]]


def noisy_margins(
    encoder: TableEncoder, rows: Encoded, measurer: Measurer, *, rho: float, rows_per_subject: int
) -> NoisyMargins:
    """Measure every column and every code with noise (spec 1.1: `rho` in equal parts).

    Where there are code blocks, half of `rho` is for the columns and half for the codes: there may be a thousand.

    Args:
        encoder: the private encoder; its bins and caps are where counting begins.
        rows: the training rows in its terms.
        measurer: draws the noise and keeps the account.
        rho: zCDP of all histograms together.
        rows_per_subject: rows that one subject may have.
    """
    every = {name: np.arange(len(block.used)) for name, block in encoder.blocks.items() if len(block.used)}
    plain = max(1, len(encoder.levels) + len(encoder.numbers)) if encoder.levels or encoder.numbers else 0
    share = 1.0 if not every else 0.5 if plain else 0.0
    columns: list[StateColumn] = []
    shares: list[NDArray[np.float64]] = []
    if share > 0:
        bins = _bins(rows.n, gaussian_sd(rows_per_subject, share * rho / plain))
        columns = state_columns(encoder, bins=bins, codes={})
        shares = _measured(columns, rows, measurer, share * rho, rows_per_subject)
    found = {column.name: (column, part) for column, part in zip(columns, shares, strict=True)}
    numbers, levels = dict(encoder.numbers), dict(encoder.levels)
    moved = replace(rows, uniforms=dict(rows.uniforms))
    for name, (column, part) in found.items():
        if column.kind == "level":
            levels[name] = replace(encoder.levels[name], frequency=part)
            continue
        missing_rate = float(part[-1]) if column.missing else 0.0
        inner = part[:-1] if column.missing else part
        scaler, borders = _sharpened(encoder.numbers[name].scaler, column.edges, inner)
        numbers[name] = replace(encoder.numbers[name], scaler=scaler, missing_rate=missing_rate)
        moved.uniforms[name] = np.interp(rows.uniforms[name], borders, scaler.edges)
    code_shares: dict[str, NDArray[np.float64]] = {}
    if every:
        only = replace(encoder, levels={}, numbers={})
        codes = state_columns(only, bins=MOST_COUNT_STATES, codes=every)
        parts = _measured(codes, rows, measurer, (1 - share) * rho, rows_per_subject)
        code_shares = {name: _count_shares(encoder, name, codes, parts) for name in encoder.blocks}
    return NoisyMargins(replace(encoder, levels=levels, numbers=numbers), moved, code_shares)


def _bins(rows: int, noise: float) -> int:
    """Bins of a numeric column: as many as keep the noise of each below a tenth of what it holds."""
    return MOST_BINS if noise == 0 else int(np.clip(NOISE_A_BIN * rows / noise, FEWEST_BINS, MOST_BINS))


def _measured(
    columns: list[StateColumn], rows: Encoded, measurer: Measurer, rho: float, rows_per_subject: int
) -> list[NDArray[np.float64]]:
    """(states,) noisy probabilities of each column, all above 0."""
    if not columns:
        return []
    states = [states_of(column, rows) for column in columns]
    sizes = [column.size for column in columns]
    found = measure_histograms(measurer, states, sizes, rho=rho, rows_per_subject=rows_per_subject)
    return [np.maximum(part, LEAST) / np.maximum(part, LEAST).sum() for part in found.shares()]


def _sharpened(
    scaler: QuantileScaler, bins: NDArray[np.float64], shares: NDArray[np.float64]
) -> tuple[QuantileScaler, NDArray[np.float64]]:
    """The scaler with the mass of each bin as measured, and where its cells lie among the old uniforms.

    Args:
        scaler: of the encoder.
        bins: (bins + 1,) borders, as uniforms of that scaler; cells are cut where a border lies inside them.
        shares: (bins,) measured probabilities.
    """
    old = scaler.edges
    borders = np.unique(np.concatenate([old, bins]))
    middle, width = (borders[:-1] + borders[1:]) / 2, np.diff(borders)
    cell = np.clip(np.searchsorted(old, middle, side="right") - 1, 0, len(old) - 2)
    bin_ = np.clip(np.searchsorted(bins, middle, side="right") - 1, 0, len(bins) - 2)
    span = scaler.high[cell] - scaler.low[cell]
    start, end = ((edge - old[cell]) / (old[cell + 1] - old[cell]) for edge in (borders[:-1], borders[1:]))
    low, high = scaler.low[cell] + start * span, scaler.low[cell] + end * span
    inside = cell[:-1] == cell[1:]
    cuts = np.where(inside, high[:-1], scaler.cuts[np.maximum(cell[1:] - 1, 0)] if len(scaler.cuts) else high[:-1])
    mass = np.maximum(shares[bin_] * width / np.diff(bins)[bin_], LEAST)
    return replace(scaler, mass=mass / mass.sum(), low=low, high=high, cuts=cuts), borders


def _count_shares(
    encoder: TableEncoder, name: str, columns: list[StateColumn], parts: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """(codes used, largest count + 1) probabilities of each count of a block's codes; a state's are alike."""
    block = encoder.blocks[name]
    out = np.zeros((len(block.used), int(block.cap.max(initial=0)) + 1))
    out[:, 0] = 1.0
    for column, part in zip(columns, parts, strict=True):
        if column.name == name:
            width = np.diff(column.edges).astype(np.int64)
            spread = np.repeat(part / width, width)
            out[column.code] = 0.0
            out[column.code, : len(spread)] = spread
    return out
