"""Latent normals of a table for the Gaussian copula: which there are, their scores, and the scores' moments (spec 1.2).

How they are correlated and drawn is in `gaussian_copula.py`; matrix repair and conditioning in `latent_gaussian.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.encoding.encoder import Encoded, LevelCodec, TableEncoder
from pipeline.privacy.second_moments import clipped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CHUNK = 8_192


@dataclass(frozen=True)
class Latent:
    """One latent normal and what it stands for.

    Attributes:
        kind: "value" (numeric column), "level" (discrete column), "missing" (mask of a numeric, binary or ordinal
            column; in a categorical one missing is a level) or "code" (of a block).
        name: Column or block.
        code: Position among the block's used codes (kind "code").
        edges: (states + 1,) cumulative probability; state k is drawn where the uniform lies between edges k and k + 1.
            For kind "value" the edges of the scaler's cells.
        order: (states,) which state stands at which place along the latent (kind "level").
    """

    kind: Literal["value", "missing", "level", "code"]
    name: str
    code: int
    edges: NDArray[np.float64]
    order: NDArray[np.int64]


def latents_of(
    encoder: TableEncoder, code_shares: Mapping[str, NDArray[np.float64]], orders: Mapping[str, NDArray[np.int64]]
) -> list[Latent]:
    """The latents of a table, in table order; constant columns and masks need none.

    Args:
        encoder: knows the margins of the columns.
        code_shares: a block: (codes used, largest count + 1) share of rows with each count.
        orders: a discrete column: (states,) its states in their order along the latent (`level_orders`).
    """
    none = np.empty(0, dtype=np.int64)
    out: list[Latent] = []
    for name, number in encoder.numbers.items():
        if not number.scaler.empty:
            out.append(Latent("value", name, 0, number.scaler.edges, none))
            if number.has_missing:
                out.append(Latent("missing", name, 0, np.array([0.0, 1 - number.missing_rate, 1.0]), none))
    for name, level in encoder.levels.items():
        masked = _masked(level)
        if level.states - masked > 1:
            order = orders[name][: level.states - masked]
            share = level.frequency[order] / level.frequency[order].sum()
            edges = np.concatenate([[0.0], np.cumsum(share)])
            edges[-1] = 1.0
            out.append(Latent("level", name, 0, edges, order))
        if masked and level.states > 1:
            out.append(Latent("missing", name, 0, np.array([0.0, 1 - level.frequency[-1], 1.0]), none))
    for name in encoder.blocks:
        for code, row in enumerate(code_shares[name]):
            shares = row[: max(2, int(np.flatnonzero(row).max(initial=0)) + 1)]
            if shares.max() < 1.0:
                edges = np.concatenate([[0.0], np.cumsum(shares)])
                edges[-1] = 1.0
                out.append(Latent("code", name, code, edges, none))
    return out


def observed_share(encoder: TableEncoder, latent: Latent) -> float:
    """Share of rows in which a latent is seen, by the encoder's margins; a mask and a code always are."""
    if latent.kind == "value":
        return 1 - encoder.numbers[latent.name].missing_rate
    if latent.kind == "level" and _masked(encoder.levels[latent.name]):
        return 1 - float(encoder.levels[latent.name].frequency[-1])
    return 1.0


def _masked(level: LevelCodec) -> bool:
    """Is missing a latent of its own? In ordered columns; where levels have no order it is one of them."""
    return level.has_missing and level.column.kind != "categorical"


def _gone(encoder: TableEncoder, name: str, rows: Encoded) -> NDArray[np.bool_]:
    """(n,) True where a column is missing."""
    if name in encoder.numbers:
        return np.isnan(rows.uniforms[name])
    return rows.states[name] == encoder.levels[name].missing_state


def level_orders(encoder: TableEncoder, rows: Encoded | None, nominal_order: str) -> dict[str, NDArray[np.int64]]:
    """A discrete column: (states,) its states in their order along the latent.

    Args:
        encoder: knows states and frequencies.
        rows: what the correspondence analysis looks at; None where it may not look (privacy).
        nominal_order: of nominal columns: "ca" or "frequency".
    """
    return {name: _level_order(encoder, name, level, rows, nominal_order) for name, level in encoder.levels.items()}


def _level_order(
    encoder: TableEncoder, name: str, level: LevelCodec, rows: Encoded | None, nominal_order: str
) -> NDArray[np.int64]:
    plain = np.arange(level.states)
    if level.column.kind != "categorical" or level.states <= 2:
        return plain
    if rows is None or nominal_order == "frequency":
        return np.argsort(-level.frequency, kind="stable")
    table = _association_table(encoder, name, rows)
    if table.shape[1] == 0:
        return plain
    mass = table / table.sum()
    r, c = mass.sum(axis=1), mass.sum(axis=0)
    residual = (mass - np.outer(r, c)) / np.sqrt(np.outer(np.maximum(r, 1e-12), np.maximum(c, 1e-12)))
    left, _, _ = np.linalg.svd(residual, full_matrices=False)
    axis = left[:, 0] / np.sqrt(np.maximum(r, 1e-12))
    axis *= np.sign(axis[np.argmax(np.abs(axis))]) or 1.0
    return np.argsort(axis, kind="stable")


def _association_table(encoder: TableEncoder, name: str, rows: Encoded, number_bins: int = 4) -> NDArray[np.float64]:
    """(states, states of all other columns) counts; numeric columns in quarters, missing as its own bin."""
    own = rows.states[name]
    size = encoder.levels[name].states
    parts: list[NDArray[np.float64]] = []
    for other, level in encoder.levels.items():
        if other != name and level.states > 1:
            flat = np.bincount(own * level.states + rows.states[other], minlength=size * level.states)
            parts.append(flat.reshape(size, level.states).astype(np.float64))
    for other, number in encoder.numbers.items():
        if not number.scaler.empty:
            u = rows.uniforms[other]
            place = np.where(np.isnan(u), number_bins, np.floor(np.nan_to_num(u) * number_bins)).astype(np.int64)
            flat = np.bincount(own * (number_bins + 1) + place, minlength=size * (number_bins + 1))
            parts.append(flat.reshape(size, number_bins + 1).astype(np.float64))
    table = np.concatenate(parts, axis=1) if parts else np.empty((size, 0))
    return table[:, table.sum(axis=0) > 0]


def _cell_scores(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """(cells,) mean of a standard normal within each cell of the uniform: (phi(a) - phi(b)) / p."""
    from scipy.special import ndtri

    density = np.exp(-0.5 * ndtri(edges) ** 2) / np.sqrt(2 * np.pi)
    return (density[:-1] - density[1:]) / np.maximum(np.diff(edges), 1e-300)


def score_variance(edges: NDArray[np.float64]) -> float:
    """Variance of the scores: 1 for a continuous column, less the coarser it is cut."""
    return float((np.diff(edges) * _cell_scores(edges) ** 2).sum())


def scores_of(
    encoder: TableEncoder, latents: list[Latent], rows: Encoded
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(n, latents) conditional means of the latents, 0 where missing; and (n, latents) 1 where observed."""
    scores = np.zeros((rows.n, len(latents)), dtype=np.float32)
    kept = np.ones_like(scores)
    for i, latent in enumerate(latents):
        table = _cell_scores(latent.edges)
        if latent.kind == "value":
            u = rows.uniforms[latent.name]
            seen = ~np.isnan(u)
            cell = np.clip(np.searchsorted(latent.edges, u[seen], side="right") - 1, 0, len(table) - 1)
            scores[seen, i], kept[:, i] = table[cell], seen
        elif latent.kind == "missing":
            scores[:, i] = table[_gone(encoder, latent.name, rows).astype(int)]
        elif latent.kind == "level":
            states = rows.states[latent.name]
            if _masked(encoder.levels[latent.name]):
                kept[:, i] = ~_gone(encoder, latent.name, rows)
            states = np.minimum(states, len(table) - 1)
            scores[:, i] = table[np.argsort(latent.order)][states] * kept[:, i]
        else:
            scores[:, i] = table[np.minimum(rows.blocks[latent.name][:, latent.code], len(table) - 1)]
    return scores, kept


def moments_of(
    encoder: TableEncoder, latents: list[Latent], rows: Encoded
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(d, d) mean products of scores over the rows in which both are observed, and the number of such rows."""
    d = len(latents)
    gram, pairs = np.zeros((d, d)), np.zeros((d, d))
    for start in range(0, rows.n, CHUNK):
        scores, kept = scores_of(encoder, latents, rows.take(np.arange(start, min(start + CHUNK, rows.n))))
        gram += scores.T @ scores
        pairs += float(len(scores)) if kept.all() else kept.T @ kept
    return gram / np.maximum(pairs, 1.0), pairs


def clipped_products(encoder: TableEncoder, latents: list[Latent], rows: Encoded, norm: float) -> NDArray[np.float64]:
    """(d, d) sum over rows of the products of scores, each row's scores shortened to length `norm` at most."""
    products = np.zeros((len(latents), len(latents)))
    for start in range(0, rows.n, CHUNK):
        scores, _ = scores_of(encoder, latents, rows.take(np.arange(start, min(start + CHUNK, rows.n))))
        short = clipped(scores, norm)
        products += short.T @ short
    return products


def pair_shrinkage(
    target: NDArray[np.float64], pairs: NDArray[np.float64], variance: NDArray[np.float64], noise: float = 0.0
) -> NDArray[np.float64]:
    """(d, d) factor max(0, 1 - 1 / t^2), where t is the pair's moment over its standard error under independence.

    Args:
        target: (d, d) mean products of scores.
        pairs: (d, d) rows behind each.
        variance: (d,) of the scores.
        noise: standard deviation of the noise in each sum of products (privacy).
    """
    chance = np.maximum(np.outer(variance, variance), 1e-12)
    # Both errors as a share of chance, so that without noise this is target^2 pairs / chance to the last digit.
    t2 = target**2 * pairs / chance / (1.0 + noise**2 / (np.maximum(pairs, 1e-12) * chance))
    return np.maximum(0.0, 1.0 - 1.0 / np.maximum(t2, 1e-12))
