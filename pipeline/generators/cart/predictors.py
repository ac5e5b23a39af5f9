"""Columns as what trees look at (predictors) and as what they are grown for (targets).

A tree sees a numeric column by its place in the order, with all rows of a repeated value at one place, and a missing
cell as NaN. Levels without an order are put into the order of the target's mean, anew for every target: for a target
of two levels or a number, the best split of the levels lies along that order (Breiman et al. 1984, theorem 4.5); for
more levels along the first principal component of the class shares (Coppersmith et al. 1999).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.encoding.scalers import QuantileScaler

NumericTarget = Literal["scores", "numbers"]
SHRINK = 10
"""Rows by which the mean of a level is drawn to the mean of all, so that rare levels do not come first and last."""
HEAVY = 0.1
"""Share of the rows from which a repeated number is a target of its own."""
SCORE_EDGE = 1e-4


def cell_of(scaler: QuantileScaler, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) cell of the scaler in which each uniform lies; NaN gives the last, mask it."""
    return np.clip(np.searchsorted(scaler.edges, uniform, side="right") - 1, 0, max(0, len(scaler.mass) - 1))


def plain_predictor(encoder: TableEncoder, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """(n,) float32 for the states or uniforms of a column: what all trees share, before levels are ordered."""
    if name in encoder.numbers:
        scaler = encoder.numbers[name].scaler
        if scaler.empty:
            return np.full(len(values), np.nan, dtype=np.float32)
        cell, edges = cell_of(scaler, values), scaler.edges
        atom = (scaler.low == scaler.high)[cell]
        place = np.where(atom, (edges[cell] + edges[cell + 1]) / 2, values)
        return np.where(np.isnan(values), np.nan, place).astype(np.float32)
    level = encoder.levels[name]
    place = values.astype(np.float32)
    if not nominal(encoder, name) and level.missing_state is not None:
        place[values == level.missing_state] = np.nan
    return place


def nominal(encoder: TableEncoder, name: str) -> bool:
    """Is this a column of three or more states without an order?"""
    return name in encoder.levels and encoder.levels[name].column.kind != "ordinal" and encoder.levels[name].states > 2


@dataclass(frozen=True)
class Predictors:
    """The columns (or codes) that one target's trees look at.

    Attributes:
        names: In the order of the matrix's columns.
        places: (states,) float32 place of each state, for those that have no order of their own.
    """

    names: tuple[str, ...]
    places: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def ordered_for(
        cls,
        encoder: TableEncoder,
        names: tuple[str, ...],
        plain: Mapping[str, NDArray[np.float32]],
        target: NDArray[np.float64],
    ) -> Predictors:
        """Order the levels of nominal columns for an (n, outputs) target."""
        centred = target - target.mean(axis=0)
        places = {
            name: _places(plain[name].astype(np.int64), encoder.levels[name].states, centred)
            for name in names
            if nominal(encoder, name)
        }
        return cls(names, places)

    def matrix(self, plain: Mapping[str, NDArray[np.float32]], n: int) -> NDArray[np.float32]:
        """(n, predictors) for the plain predictors of n rows."""
        out = np.empty((n, len(self.names)), dtype=np.float32)
        for i, name in enumerate(self.names):
            out[:, i] = self.places[name][plain[name].astype(np.int64)] if name in self.places else plain[name]
        return out


def _places(states: NDArray[np.int64], size: int, centred: NDArray[np.float64]) -> NDArray[np.float32]:
    """(states,) place of each state along the first principal component of the target's means."""
    count = np.bincount(states, minlength=size)
    sums = np.stack([np.bincount(states, weights=column, minlength=size) for column in centred.T], axis=1)
    means = sums / (count + SHRINK)[:, None]
    direction = np.linalg.eigh((means * count[:, None]).T @ means)[1][:, -1]
    # An eigenvector's sign is arbitrary: fixed, so that the bytes are the same everywhere.
    direction = direction * (1 if direction[np.argmax(np.abs(direction))] >= 0 else -1)
    order = np.argsort(means @ direction, kind="stable")
    place = np.empty(size, dtype=np.float32)
    place[order] = np.arange(size)
    return place


def target_of(encoder: TableEncoder, rows: Encoded, name: str, numeric: NumericTarget) -> NDArray[np.float64]:
    """(n, outputs) what a column's trees are grown for.

    A discrete column: an indicator a state. A numeric one: its normal score (or the number itself, standardised), 0
    where missing; whether it is missing; and an indicator for each number that a tenth of the rows share. One tree is
    grown for all of them, so that a leaf knows zeros, missing cells and sizes together.
    """
    if name in encoder.levels:
        return np.eye(encoder.levels[name].states)[rows.states[name]]
    scaler, uniform = encoder.numbers[name].scaler, rows.uniforms[name]
    missing = np.isnan(uniform)
    if scaler.empty:
        return missing[:, None].astype(np.float64)
    cell, edges = cell_of(scaler, uniform), scaler.edges
    if numeric == "numbers":
        score = scaler.from_uniform(uniform)
    else:
        from scipy.special import ndtri

        middle = np.where((scaler.low == scaler.high)[cell], (edges[cell] + edges[cell + 1]) / 2, uniform)
        score = ndtri(np.clip(middle, SCORE_EDGE, 1 - SCORE_EDGE))
    known = score[~missing]
    spread = float(known.std()) or 1.0
    outputs = [np.where(missing, 0.0, (score - known.mean()) / spread)]
    if missing.any():
        outputs.append(2.0 * missing)
    heavy = np.flatnonzero((scaler.low == scaler.high) & (scaler.mass >= HEAVY))
    outputs += [
        ((cell == c) & ~missing).astype(np.float64) for c in heavy[: -1 if len(heavy) == len(edges) - 1 else None]
    ]
    return np.stack(outputs, axis=1)
