"""Columns of every kind as small numbers of states, and back: what generators of counting tables work on.

A numeric column is cut into bins along the cells of its scaler (its atoms and stretches), with missing as the last
state; a discrete column has the states of its codec; a common code of a block is a column of counts. Where bins and
caps lie comes from the encoder alone, so a private encoder makes private states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.encoding.encoder import Encoded, TableEncoder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.scalers import QuantileScaler
    from pipeline.generators.conditions import Fixed


@dataclass(frozen=True)
class StateColumn:
    """One column of states.

    Attributes:
        kind: "value" (numeric column), "level" (discrete column) or "code" (of a block).
        name: Column or block.
        code: Position among the block's used codes (kind "code").
        edges: Borders of the states: (bins + 1,) uniforms of a numeric column, (states + 1,) counts of a code, whose
            state k stands for edges[k] <= count < edges[k + 1]; empty for a discrete column.
        size: Number of states, missing included.
        ordered: Do neighbouring states mean like things?
        missing: Is the last state a missing cell?
    """

    kind: Literal["value", "level", "code"]
    name: str
    code: int
    edges: NDArray[np.float64]
    size: int
    ordered: bool
    missing: bool


def state_columns(encoder: TableEncoder, *, bins: int, codes: Mapping[str, NDArray[np.integer]]) -> list[StateColumn]:
    """The columns of states of a table, in table order; a column with a single state needs none.

    Args:
        encoder: the fitted encoder.
        bins: wanted number of bins of a numeric column, and most states of a code.
        codes: positions among the used codes of each block that become columns.
    """
    none = np.empty(0)
    out: list[StateColumn] = []
    for name, number in encoder.numbers.items():
        if not number.scaler.empty:
            edges = bin_edges(number.scaler, bins)
            size = len(edges) - 1 + int(number.has_missing)
            out.append(StateColumn("value", name, 0, edges, size, ordered=True, missing=number.has_missing))
    for name, level in encoder.levels.items():
        ordered = level.column.kind == "ordinal"
        out.append(StateColumn("level", name, 0, none, level.states, ordered=ordered, missing=level.has_missing))
    for name, positions in codes.items():
        for code in positions:
            edges = _count_edges(int(encoder.blocks[name].cap[code]), bins)
            out.append(StateColumn("code", name, int(code), edges, len(edges) - 1, ordered=True, missing=False))
    return [column for column in out if column.size > 1]


def bin_edges(scaler: QuantileScaler, wanted: int) -> NDArray[np.float64]:
    """(bins + 1,) uniforms that cut a numeric column into bins of about equal mass.

    Along the cells of the scaler, as `QuantileScaler.bins`; a stretch that holds more than its share (a private
    histogram of a skewed column has one cell for most of the rows) is cut inside, between points of its grid.
    """
    coarse = scaler.bins(wanted)
    cells, step = scaler.edges, scaler.step
    extra: list[float] = []
    for start, end, low, high in zip(cells[:-1], cells[1:], scaler.low, scaler.high, strict=True):
        parts = round(float(end - start) * wanted)
        if high > low and parts > 1:
            points = round(float(high - low) / step) if step > 0 else parts
            parts = min(parts, points)
            at = np.arange(1, parts) / parts
            at = np.round(at * points) / points if step > 0 else at
            extra.extend(start + (end - start) * at)
    return np.unique(np.concatenate([coarse, extra]))


def _count_edges(cap: int, most: int) -> NDArray[np.float64]:
    """(states + 1,) counts 0 .. cap one by one, or in equal steps where that would be more than `most` states."""
    if cap + 1 <= most:
        return np.arange(cap + 2, dtype=np.float64)
    return np.concatenate([[0.0], np.unique(np.floor(np.linspace(1, cap + 1, most)))])


def states_of(column: StateColumn, rows: Encoded) -> NDArray[np.int64]:
    """(n,) states of one column."""
    if column.kind == "level":
        return rows.states[column.name]
    if column.kind == "code":
        return _place(column.edges, rows.blocks[column.name][:, column.code])
    uniform = rows.uniforms[column.name]
    return np.where(np.isnan(uniform), column.size - 1, _place(column.edges, np.nan_to_num(uniform)))


def _place(edges: NDArray[np.float64], values: NDArray[Any]) -> NDArray[np.int64]:
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2).astype(np.int64)


def encoded_from(
    encoder: TableEncoder, columns: list[StateColumn], states: NDArray[np.int64], rng: np.random.Generator
) -> Encoded:
    """Encoded rows for (n, columns) states: uniform inside a bin; columns without states are as they always are."""
    n = len(states)
    out = Encoded(
        n=n,
        states={k: np.zeros(n, dtype=np.int64) for k in encoder.levels},
        uniforms={k: np.full(n, np.nan) if c.scaler.empty else rng.random(n) for k, c in encoder.numbers.items()},
        blocks={k: np.zeros((n, len(c.used)), dtype=np.int16) for k, c in encoder.blocks.items()},
    )
    for i, column in enumerate(columns):
        state = states[:, i]
        if column.kind == "level":
            out.states[column.name] = state
            continue
        gone = state == column.size - 1 if column.missing else np.zeros(n, dtype=bool)
        bin_ = np.where(gone, 0, state)
        low, width = column.edges[bin_], np.diff(column.edges)[bin_]
        within = low + rng.random(n) * width
        if column.kind == "value":
            out.uniforms[column.name] = np.where(gone, np.nan, np.clip(within, 1e-9, 1 - 1e-9))
        else:
            out.blocks[column.name][:, column.code] = np.floor(within).astype(np.int16)
    return out


def likelihood_of(encoder: TableEncoder, column: StateColumn, fixed: Fixed) -> NDArray[np.float64] | None:
    """(n, states) how well each state agrees with what is fixed of a column; None if nothing is.

    A level or a missing cell is one state. A number stands for an interval of uniforms: the share of each bin that
    lies inside it. What training never had says nothing (ones).
    """
    if column.kind == "level" and column.name in fixed.codes:
        states = encoder.levels[column.name].encode(fixed.codes[column.name])
        return _indicator(states, column.size)
    if column.kind != "value" or column.name not in fixed.values:
        return None
    values = fixed.values[column.name]
    seen = ~np.isnan(values)
    out = _indicator(np.full(len(values), column.size - 1 if column.missing else -1), column.size)
    start, end = encoder.numbers[column.name].scaler.interval(values[seen])
    low, high = column.edges[:-1], column.edges[1:]
    inside = np.minimum(end[:, None], high) - np.maximum(start[:, None], low)
    share = np.maximum(inside, 0.0) / (high - low)
    nowhere = share.sum(axis=1) <= 0
    share[nowhere] = _indicator(_place(column.edges, (start + end)[nowhere] / 2), len(low))
    out[seen] = 0.0
    out[np.ix_(seen, np.arange(len(low)))] = share
    return out


def _indicator(states: NDArray[np.integer], size: int) -> NDArray[np.float64]:
    """(n, size) 1 at the given state; all ones for state -1."""
    out = (states[:, None] == np.arange(size)).astype(np.float64)
    out[states < 0] = 1.0
    return out
