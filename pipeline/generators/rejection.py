"""Conditions by rejection, for generators that cannot do better: draw, keep the rows that fit, give up in words.

The rung below exact conditioning on the ladder of spec 0.4. A fixed number counts as met by a row whose number falls
into the same thirty-second of the column's distribution; `TabularGenerator.sample` then puts the exact number there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.encoding.encoder import Encoded, TableEncoder
from pipeline.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pipeline.generators.conditions import Fixed

TRIES = 50
"""Candidates a row, at most (spec 0.4)."""
SMALLEST_DRAW = 256
NUMBER_BINS = 32


def draw_matching(draw: Callable[[int], Encoded], encoder: TableEncoder, n: int, fixed: Fixed) -> Encoded:
    """`n` rows, row i fitting the conditions of row i.

    Candidates are drawn in pools and handed to rows that ask for the same states and bins, each candidate once.

    Raises:
        UnsupportedError: after 50 candidates a row some rows are still open; names the acceptance rate.
    """
    wanted = _keys_wanted(encoder, fixed, n)
    size = max(n, SMALLEST_DRAW)
    chosen: list[Encoded] = []
    owner: list[NDArray[np.int64]] = []
    open_rows = np.arange(n)
    drawn = 0
    while len(open_rows) and drawn < TRIES * size:
        pool = draw(size)
        drawn += size
        offered = _keys_offered(encoder, pool, fixed)
        rows, candidates = _pair(wanted[open_rows], offered)
        chosen.append(pool.take(candidates))
        owner.append(open_rows[rows])
        open_rows = np.setdiff1d(open_rows, open_rows[rows])
    if len(open_rows):
        met = sum(len(o) for o in owner)
        names = ", ".join(sorted([*fixed.codes, *fixed.values]))
        raise UnsupportedError(
            f"The conditions on {names} are too rare to be met by rejection: {met} of {n} rows were filled from {drawn} "
            f"candidates (acceptance rate {met / drawn:.4%}).",
            todo="Fix fewer columns, or use gaussian_copula, which draws conditions exactly.",
        )
    return Encoded.concatenate(chosen).take(np.argsort(np.concatenate(owner), kind="stable"))


def _keys_wanted(encoder: TableEncoder, fixed: Fixed, n: int) -> NDArray[np.int64]:
    """(n, fixed columns) the state or bin that each row asks for."""
    columns = [encoder.levels[k].encode(v) for k, v in fixed.codes.items()]
    for name, values in fixed.values.items():
        middle = np.full(n, np.nan)
        seen = ~np.isnan(values)
        if seen.any() and not encoder.numbers[name].scaler.empty:
            start, end = encoder.numbers[name].scaler.interval(values[seen])
            middle[seen] = (start + end) / 2
        elif seen.any():
            middle[seen] = -1.0  # no value was ever seen: nothing can be offered
        columns.append(_bin(encoder, name, middle))
    return np.stack(columns, axis=1)


def _keys_offered(encoder: TableEncoder, pool: Encoded, fixed: Fixed) -> NDArray[np.int64]:
    columns = [pool.states[k] for k in fixed.codes]
    columns += [_bin(encoder, k, pool.uniforms[k]) for k in fixed.values]
    return np.stack(columns, axis=1)


def _bin(encoder: TableEncoder, name: str, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    scaler = encoder.numbers[name].scaler
    edges = scaler.bins(NUMBER_BINS) if not scaler.empty else np.array([0.0, 1.0])
    piece = np.searchsorted(edges, uniform, side="right") - 1
    piece = np.where(uniform < 0, -2, np.clip(piece, 0, len(edges) - 2))
    return np.where(np.isnan(uniform), -1, piece).astype(np.int64)


def _pair(wanted: NDArray[np.int64], offered: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and candidates with equal keys, each at most once, in order of appearance."""
    both = np.concatenate([wanted, offered])
    _, key = np.unique(both, axis=0, return_inverse=True)
    key = np.ravel(key)
    mine, theirs = key[: len(wanted)], key[len(wanted) :]
    rows: list[NDArray[np.int64]] = []
    candidates: list[NDArray[np.int64]] = []
    for k in np.unique(mine):
        a, b = np.flatnonzero(mine == k), np.flatnonzero(theirs == k)
        m = min(len(a), len(b))
        rows.append(a[:m])
        candidates.append(b[:m])
    return np.concatenate(rows), np.concatenate(candidates)
