"""Portraits of a variational autoencoder: what each latent does to the columns, and what of each column gets through it.

Both are aggregates: of rows drawn along a latent, and of all training rows against their reconstructions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.generators.portrait import Portrait

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder

STEPS = np.linspace(-2.5, 2.5, 11)
ROWS = 200
MOST_LATENTS = 6
MOST_LINES = 6


def traversals(
    encoder: TableEncoder,
    decode: Callable[[NDArray[np.float64]], Encoded],
    spread: NDArray[np.float64],
    typical: NDArray[np.float64],
) -> dict[str, Portrait]:
    """One portrait for each of the most used latents: it moves from -2.5 to 2.5 where the others stay typical.

    Args:
        encoder: the fitted encoder.
        decode: rows for (n, latents) latents, with the same randomness at every call.
        spread: (latents,) variance of the posterior means.
        typical: (rows, latents) latents that the others are kept at.
    """
    out: dict[str, Portrait] = {}
    for k in np.argsort(-spread, kind="stable")[:MOST_LATENTS]:
        table: list[dict[str, float]] = []
        for step in STEPS:
            latents = typical.copy()
            latents[:, k] = step
            table.append(_figures(encoder, decode(latents)))
        curves = {name: [row[name] for row in table] for name in table[0]}
        moved = sorted(curves, key=lambda name: (-float(np.ptp(curves[name])), name))[:MOST_LINES]
        out[f"latent {k + 1}"] = Portrait(
            title=f"Latent {k + 1} (posterior variance {spread[k]:.2f}): means and shares along it",
            axis=f"latent {k + 1}",
            lines={name: [(float(x), y) for x, y in zip(STEPS, curves[name], strict=True)] for name in sorted(moved)},
            numbers={"at": [float(x) for x in STEPS], **curves},
        )
    return out


def reconstruction(shares: Mapping[str, float]) -> Portrait:
    """How much of each column the latents carry, as `agreement` gives it."""
    order = sorted(shares, key=lambda name: (-shares[name], name))
    return Portrait(
        title="Reconstruction: agreement of rows with themselves through the latents",
        bars={name: shares[name] for name in order},
    )


def agreement(encoder: TableEncoder, rows: Encoded, again: Encoded) -> dict[str, float]:
    """For each column how well reconstructed rows agree with the real ones, 0 (as by chance) to 1 (the same).

    Numbers: the correlation of their places in the distribution, where both are seen. Levels: agreement beyond chance
    (Cohen 1960).
    """
    out: dict[str, float] = {}
    for name in encoder.numbers:
        both = ~np.isnan(rows.uniforms[name]) & ~np.isnan(again.uniforms[name])
        if both.sum() > 2:
            found = np.corrcoef(rows.uniforms[name][both], again.uniforms[name][both])[0, 1]
            out[name] = float(np.clip(np.nan_to_num(found), 0, 1))
    for name, level in encoder.levels.items():
        size = max(1, level.states)
        real, drawn = (np.bincount(x.states[name], minlength=size) / max(1, x.n) for x in (rows, again))
        chance = float(real @ drawn)
        same = float(np.mean(rows.states[name] == again.states[name]))
        out[name] = float(np.clip((same - chance) / (1 - chance), 0, 1)) if chance < 1 else 0.0
    return out


def _figures(encoder: TableEncoder, rows: Encoded) -> dict[str, float]:
    """Of each number its mean place in the distribution and of each level its share, all between 0 and 1."""
    out: dict[str, float] = {}
    for name, number in encoder.numbers.items():
        seen = rows.uniforms[name][~np.isnan(rows.uniforms[name])]
        if len(seen):
            out[name] = float(seen.mean())
        if number.has_missing:
            out[f"{name} missing"] = float(np.isnan(rows.uniforms[name]).mean())
    for name, level in encoder.levels.items():
        shares = np.bincount(rows.states[name], minlength=max(1, level.states)) / rows.n
        assert level.column.levels is not None
        for state, position in enumerate(level.kept):
            if level.states != 2 or state == 1:
                out[f"{name} = {level.column.levels[position]}"] = float(shares[state])
    for name, counts in rows.blocks.items():
        out[f"{name} per row"] = float((counts > 0).mean())
    return out
