"""Codecs of columns and blocks from noisy counts: what is kept, pooled, and how often it is drawn.

Only noisy counts come in, so nothing here costs privacy. Which questions were asked is in `private.py`, how the domains
of numbers are found in `private_domains.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.encoding.blocks import BlockCodec
from pipeline.encoding.encoder import LevelCodec, NumberCodec
from pipeline.encoding.private_domains import Grid, public_levels
from pipeline.errors import UnsupportedError
from pipeline.features.schema import RARE_LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.encoding.scalers import QuantileScaler
    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column, Level

LARGEST_PRIVATE_COUNT = 10
"""Counts of codes are cut here: the largest real one would be a patient's."""
CERTAIN_SD = 3.0
"""Standard deviations of the noise from which missing cells, or a code, are taken to be there."""


def named_codec(
    column: Column, levels: list[Level], counts: NDArray[np.float64], missing: float, rows: int, epsilon: float
) -> LevelCodec:
    """A column whose levels were found: those that passed, one state for all others, and missing."""
    scale = np.sqrt(2) / epsilon
    has_missing = bool(missing > CERTAIN_SD * scale)
    if not levels:
        if column.dtype != "string":
            raise UnsupportedError(
                f"No level of column '{column.name}' is common enough to be named at this epsilon.",
                todo="Declare its levels in the schema, or ask for a larger epsilon.",
            )
        levels, counts = [RARE_LEVEL], np.array([max(1.0, rows - missing)])
    has_rare = column.kind == "categorical" and levels != [RARE_LEVEL]
    mass = [np.maximum(counts, 1.0)]
    if has_rare:
        mass.append(np.array([max(0.0, rows - counts.sum() - max(0.0, missing))]))
    if has_missing:
        mass.append(np.array([missing]))
    frequency = np.concatenate(mass)
    told = column.model_copy(update={"levels": levels, "inferred": (), **_nullable(column, has_missing)})
    kept = np.arange(len(levels))
    return LevelCodec(told, kept, kept.copy(), has_rare, has_missing, frequency / frequency.sum())


def declared_codec(column: Column, counts: NDArray[np.float64], rare_rows: int, sd: float) -> LevelCodec:
    """A column of public levels: those with enough noisy rows, the others pooled (of an ordinal column to the nearest)."""
    levels = public_levels(column)
    assert levels is not None
    mass, missing = np.maximum(counts[:-1], 0.0), float(counts[-1])
    enough = counts[:-1] >= (-np.inf if column.kind == "binary" else max(float(rare_rows), sd))
    if len(levels) and not enough.any():
        enough[int(np.argmax(counts[:-1]))] = True
    kept = np.flatnonzero(enough)
    has_missing = _may_miss(column) and missing > CERTAIN_SD * sd
    has_rare = not enough.all() and column.kind != "ordinal"
    to_state = np.full(len(levels), len(kept), dtype=np.int64)
    to_state[kept] = np.arange(len(kept))
    if not has_rare and len(kept):
        to_state = np.abs(np.arange(len(levels))[:, None] - kept[None, :]).argmin(axis=1).astype(np.int64)
    states = len(kept) + int(has_rare) + int(has_missing)
    frequency = np.bincount(to_state, weights=mass, minlength=states)
    if has_missing:
        frequency[-1] = missing
    # No state is without weight: a flag that noise hides can still be drawn.
    frequency = np.maximum(frequency, max(1e-9, 1e-4 * frequency.sum()))
    told = column.model_copy(update={"levels": levels, "inferred": (), **_nullable(column, has_missing)})
    return LevelCodec(told, kept, to_state, has_rare, has_missing, frequency / frequency.sum())


def number_codec(
    column: Column, scaler: QuantileScaler, grid: Grid, counts: NDArray[np.float64], sd: float
) -> NumberCodec:
    """A numeric column from its distribution; `counts` are those of the grid's cells, missing last."""
    missing = float(counts[-1])
    has_missing = _may_miss(column) and missing > CERTAIN_SD * sd
    mass = np.maximum(counts[:-1], 0.0)
    rate = missing / max(1.0, mass.sum() + missing) if has_missing else 0.0
    told: dict[str, object] = {"inferred": (), **_nullable(column, has_missing)}
    if "bounds" in column.inferred:
        told["bounds"] = grid.bounds
    if "resolution" in column.inferred or (column.resolution is not None and column.resolution.kind == "atoms"):
        told["resolution"] = grid.resolution
    return NumberCodec(column.model_copy(update=told), scaler, float(min(rate, 1.0 - 1e-6)))


def block_codec(cohort: Cohort, name: str, counts: NDArray[np.float64], rare_rows: int, sd: float) -> BlockCodec:
    """Codes that noise does not hide are modelled, the others drawn by their noisy prevalence, if that is above 0."""
    binary = next(b.kind == "binary" for b in cohort.schema.blocks if b.name == name)
    used = np.flatnonzero(counts > 0)
    share = np.minimum(1.0, counts[used] / max(1, cohort.n_rows))
    common = counts[used] >= max(float(rare_rows), CERTAIN_SD * sd)
    cap = np.full(len(used), 1 if binary else LARGEST_PRIVATE_COUNT, dtype=np.int64)
    # Half of the codes that nobody has are above 0 by noise alone: those that noise explains are left out.
    sure = common | (counts[used] >= sd)
    return BlockCodec(name, binary, len(counts), used[sure], share[sure], cap[sure], common[sure])


def other_state(codec: LevelCodec, cohort: Cohort, name: str, other: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The state of cells whose level is none of the codec's: pooled, or the nearest level of a column with an order."""
    if codec.rare_state is not None:
        return np.full(int(other.sum()), codec.rare_state, dtype=np.int64)
    levels = codec.column.levels
    assert levels is not None
    if any(isinstance(level, str) for level in levels):
        return np.zeros(int(other.sum()), dtype=np.int64)
    values = np.asarray(cohort.table.column(name).to_numpy(), dtype=np.float64)[other]
    return np.abs(values[:, None] - np.asarray(levels, dtype=np.float64)[None, :]).argmin(axis=1)


def _may_miss(column: Column) -> bool:
    return column.nullable or "nullable" in column.inferred


def _nullable(column: Column, has_missing: bool) -> dict[str, bool]:
    """Whether cells may be missing is said by the noisy count where the data had said it."""
    return {"nullable": bool(has_missing)} if "nullable" in column.inferred else {}
