"""In which order columns are drawn, and which earlier columns each one looks at; both from training rows only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder

BINS = 8
SAMPLE = 5_000
"""Rows that the association of columns is told from."""
MOST_STATES = 64
"""States of a column that count one by one; those beyond share one."""


def indicators(encoder: TableEncoder, rows: Encoded, name: str) -> NDArray[np.float32]:
    """(n, pieces) one indicator a state, or a piece of a numeric column's distribution; missing is one."""
    if name in encoder.levels:
        place = np.minimum(rows.states[name], MOST_STATES - 1)
    else:
        scaler, uniform = encoder.numbers[name].scaler, rows.uniforms[name]
        edges = np.array([0.0, 1.0]) if scaler.empty else scaler.bins(BINS)
        place = np.clip(np.searchsorted(edges, uniform, side="right") - 1, 0, len(edges) - 2)
        place = np.where(np.isnan(uniform), len(edges) - 1, place)
    _, place = np.unique(place, return_inverse=True)
    return (place[:, None] == np.arange(int(place.max(initial=0)) + 1)).astype(np.float32)


def association(encoder: TableEncoder, rows: Encoded, names: Sequence[str]) -> NDArray[np.float64]:
    """(d, d) mutual information of columns in nats, less what chance gives (Miller 1955), 0 on the diagonal.

    Args:
        encoder: the fitted encoder.
        rows: encoded rows; the first 5,000 are looked at.
        names: d columns.
    """
    part = rows.take(np.arange(min(rows.n, SAMPLE)))
    pieces = [indicators(encoder, part, name) for name in names]
    all_pieces = np.concatenate(pieces, axis=1)
    start = np.r_[0, np.cumsum([p.shape[1] for p in pieces])]
    joint = (all_pieces.T @ all_pieces).astype(np.float64) / part.n
    share = np.diag(joint)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(joint > 0, joint * np.log(joint / np.outer(share, share)), 0.0)
    total = np.add.reduceat(np.add.reduceat(each, start[:-1], axis=0), start[:-1], axis=1)
    free = np.array([p.shape[1] - 1 for p in pieces])
    out = np.maximum(total - np.outer(free, free) / (2 * part.n), 0.0)
    np.fill_diagonal(out, 0.0)
    return out


def visit_order(
    names: Sequence[str], related: NDArray[np.float64], order: str | Sequence[str], first: Sequence[str]
) -> list[int]:
    """Positions of columns in the order of drawing.

    Args:
        names: the columns, in table order.
        related: (d, d) association.
        order: "association" (the column that says most about all others first), "table", or names; those not named
            follow by association.
        first: columns that are drawn first, in this order (condition columns).

    Raises:
        ConfigError: a name that is no column.
    """
    chosen = [*first, *([] if isinstance(order, str) else order)]
    for name in chosen:
        if name not in names:
            raise ConfigError(f"There is no column '{name}' to draw early.", todo=nearest(name, list(names)))
    rest = np.argsort(-related.sum(axis=1), kind="stable") if order != "table" else np.arange(len(names))
    out: list[int] = []
    for place in [*(names.index(name) for name in chosen), *rest.tolist()]:
        if place not in out:
            out.append(int(place))
    return out


def earlier_columns(order: Sequence[int], related: NDArray[np.float64], most: int) -> list[list[int]]:
    """For each column in the order of drawing, the earlier ones that it looks at: the `most` most associated."""
    out: list[list[int]] = []
    for i, column in enumerate(order):
        before = np.array(order[:i], dtype=np.int64)
        if len(before) > most:
            keep = np.argsort(-related[column, before], kind="stable")[:most]
            before = before[np.sort(keep)]
        out.append(before.tolist())
    return out
