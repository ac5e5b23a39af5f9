"""Latent normals of a table for the Gaussian copula: which there are, their scores, and the scores' moments (spec 1.2).

How they are correlated and drawn is in `gaussian_copula.py`; matrix repair and conditioning in `latent_gaussian.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.encoding.encoder import Encoded, LevelCodec, TableEncoder

if TYPE_CHECKING:
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


def latents_of(encoder: TableEncoder, rows: Encoded, nominal_order: str) -> list[Latent]:
    """The latents of a table, in table order; constant columns and masks need none."""
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
            order = _level_order(encoder, name, level, rows, nominal_order)[: level.states - masked]
            share = level.frequency[order] / level.frequency[order].sum()
            edges = np.concatenate([[0.0], np.cumsum(share)])
            edges[-1] = 1.0
            out.append(Latent("level", name, 0, edges, order))
        if masked and level.states > 1:
            out.append(Latent("missing", name, 0, np.array([0.0, 1 - level.frequency[-1], 1.0]), none))
    for name, block in encoder.blocks.items():
        counts = rows.blocks[name]
        for code in range(len(block.used)):
            shares = np.bincount(counts[:, code], minlength=2) / rows.n
            if shares.max() < 1.0:
                edges = np.concatenate([[0.0], np.cumsum(shares)])
                edges[-1] = 1.0
                out.append(Latent("code", name, code, edges, none))
    return out


def _masked(level: LevelCodec) -> bool:
    """Is missing a latent of its own? In ordered columns; where levels have no order it is one of them."""
    return level.has_missing and level.column.kind != "categorical"


def _gone(encoder: TableEncoder, name: str, rows: Encoded) -> NDArray[np.bool_]:
    """(n,) True where a column is missing."""
    if name in encoder.numbers:
        return np.isnan(rows.uniforms[name])
    return rows.states[name] == encoder.levels[name].missing_state


def _level_order(
    encoder: TableEncoder, name: str, level: LevelCodec, rows: Encoded, nominal_order: str
) -> NDArray[np.int64]:
    """(states,) the states in their order along the latent."""
    plain = np.arange(level.states)
    if level.column.kind != "categorical" or level.states <= 2:
        return plain
    if nominal_order == "frequency":
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


def pair_shrinkage(
    target: NDArray[np.float64], pairs: NDArray[np.float64], variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(d, d) factor max(0, 1 - 1 / t^2), where t is the pair's moment over its standard error under independence."""
    t2 = target**2 * pairs / np.maximum(np.outer(variance, variance), 1e-12)
    return np.maximum(0.0, 1.0 - 1.0 / np.maximum(t2, 1e-12))
