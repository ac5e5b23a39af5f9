"""The trees of one column: fitted on real rows alone, so that all columns can be fitted side by side, and drawn from.

Every column has a few trees, each grown on a part of the subjects; a drawn row takes its value from one of them at
random. Values come from donors in the leaf. A number is not handed over as it is: it is drawn anew among the rows next
to it in the column's order, or between its neighbours in the leaf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.generators.cart.predictors import NumericTarget, Predictors, cell_of, target_of
from pipeline.generators.cart.trees import DonorTree, Growth, grow, with_donors
from pipeline.generators.seeds import derive_seed, stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import Encoded, TableEncoder
    from pipeline.encoding.scalers import QuantileScaler

SmoothingKind = Literal["none", "window", "leaf"]
SPIKE = 0.02
"""A number that this share of the rows has stays as it is: between zero and the next cost there is nothing."""
WIDEST_WINDOW = 0.05
"""Largest part of a column that a window covers, so that small tables keep their dependence."""


@dataclass(frozen=True)
class Smoothing:
    """What becomes of a donor's number: its kind, and the rows of a window; see `CartConfig`."""

    kind: SmoothingKind
    rows: int


@dataclass(frozen=True)
class TreeSettings:
    """How the trees of columns are made; the fields are those of `CartConfig`."""

    leaf: int
    gain: float
    trees: int
    share: float
    most_rows: int
    numeric_target: NumericTarget
    smoothing: SmoothingKind


@dataclass(frozen=True)
class ColumnModel:
    """The trees of one column and what they look at."""

    name: str
    predictors: Predictors
    trees: tuple[DonorTree, ...]


@dataclass(frozen=True)
class TrainingRows:
    """What all trees are fitted on: encoded rows, their plain predictors and (n,) subjects as numbers from 0."""

    encoder: TableEncoder
    rows: Encoded
    plain: Mapping[str, NDArray[np.float32]]
    subject: NDArray[np.int64]

    def chosen(
        self, share: float, most_rows: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows that give donors (of all subjects, or of so many that they are about `most_rows`), and those among them
        that a tree is grown on (of the share of these subjects)."""
        part = min(1.0, most_rows / max(1, self.rows.n))
        subjects = int(self.subject.max(initial=0)) + 1
        place = rng.permutation(subjects)[self.subject]
        held = np.flatnonzero(place < max(1, round(part * subjects)))
        return held, held[place[held] < max(1, round(part * share * subjects))]


def fit_column(
    data: TrainingRows, name: str, earlier: tuple[str, ...], settings: TreeSettings, seed: int
) -> ColumnModel:
    """The trees of one column on the columns drawn before it; the same whichever other columns are fitted beside it."""
    encoder, rows = data.encoder, data.rows
    target = target_of(encoder, rows, name, settings.numeric_target)
    predictors = Predictors.ordered_for(encoder, earlier, data.plain, target)
    matrix = predictors.matrix(data.plain, rows.n)
    donors = _donors(encoder, rows, name, settings.smoothing)
    goal = rows.states[name] if name in encoder.levels else target
    # Several rows a subject: leaves large enough that they seldom have to be joined for want of subjects.
    leaf = -(-settings.leaf * rows.n // (int(data.subject.max(initial=0)) + 1))
    constant = bool((target == target[:1]).all())
    trees: list[DonorTree] = []
    for number in range(settings.trees if earlier and not constant else 1):
        rng = stream(seed, "tree", name, number)
        held, grown_on = data.chosen(settings.share, settings.most_rows, rng)
        growth = Growth(leaf, derive_seed(seed, "ties", name, number) % 2**32, settings.gain)
        tree = grow(matrix[grown_on, : 0 if constant else None], goal[grown_on], growth)
        trees.append(with_donors(tree, matrix[held], donors[held], data.subject[held], settings.leaf))
    return ColumnModel(name, predictors, tuple(trees))


def draw_column(
    model: ColumnModel,
    encoder: TableEncoder,
    plain: Mapping[str, NDArray[np.float32]],
    n: int,
    rng: np.random.Generator,
    smoothing: Smoothing,
) -> NDArray[Any]:
    """(n,) states or uniforms for rows whose earlier columns are in `plain`."""
    number = encoder.numbers.get(model.name)
    out: NDArray[Any] = np.empty(n, dtype=np.int64 if number is None else np.float64)
    matrix = model.predictors.matrix(plain, n)
    which = rng.integers(0, len(model.trees), n)
    for i, tree in enumerate(model.trees):
        rows = np.flatnonzero(which == i)
        leaf, place = tree.draw(matrix[rows], rng)
        values = tree.donors[place]
        if number is not None and smoothing.kind != "none" and not number.scaler.empty:
            held = int(tree.size.sum())
            values = _within_window(number.scaler, values, min(smoothing.rows / held, WIDEST_WINDOW), rng)
            if smoothing.kind == "leaf":
                values = _between_neighbours(number.scaler, tree, leaf, place, values, rng)
        out[rows] = values
    return out


def _donors(encoder: TableEncoder, rows: Encoded, name: str, smoothing: SmoothingKind) -> NDArray[Any]:
    """(n,) what leaves hold: states, or uniforms; the middle of the cell unless donors are taken as they are."""
    if name in encoder.levels:
        return rows.states[name].astype(np.int16)
    uniform, scaler = rows.uniforms[name], encoder.numbers[name].scaler
    if smoothing == "none" or scaler.empty:
        return uniform
    cell, edges = cell_of(scaler, uniform), scaler.edges
    return np.where(np.isnan(uniform), np.nan, (edges[cell] + edges[cell + 1]) / 2).astype(np.float32)


def _within_window(
    scaler: QuantileScaler, values: NDArray[np.floating], width: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(n,) uniforms anywhere in the cells of the given ones, then anywhere in a window of probability `width` around.

    Which of the rows in the window was the donor cannot be told. The window is reflected at both ends of the column, so
    that the distribution stays; numbers that many rows share (a cost of zero) stay what they are.
    """
    edges, cell = scaler.edges, cell_of(scaler, np.asarray(values, dtype=np.float64))
    drawn = edges[cell] + rng.random(len(values)) * (edges[cell + 1] - edges[cell])
    moved = _reflected(drawn + width * (rng.random(len(values)) - 0.5))
    kept = np.where(_spiked(scaler, cell), drawn, moved)
    return np.where(np.isnan(values), np.nan, np.clip(kept, 1e-9, 1 - 1e-9))


def _between_neighbours(
    scaler: QuantileScaler,
    tree: DonorTree,
    leaf: NDArray[np.int64],
    place: NDArray[np.int64],
    values: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """(n,) uniforms moved at random towards the next lower or higher donor of the leaf.

    The outermost donors move outwards as far as they would inwards, so that leaves keep their spread; numbers that
    many rows share (a cost of zero) stay.
    """
    towards = np.where(rng.random(len(values)) < 0.5, -1, 1)
    step = rng.random(len(values))
    last = tree.start[leaf + 1] - 1
    other = place + towards
    outside = (other < tree.start[leaf]) | (other > last)
    other = np.clip(np.where(outside, place - towards, other), tree.start[leaf], last)
    gap = tree.donors[other].astype(np.float64) - tree.donors[place]
    moved = _reflected(values + step * np.where(outside, -gap, gap))
    stays = _spiked(scaler, cell_of(scaler, values)) | np.isnan(moved)
    return np.where(stays, values, np.clip(moved, 1e-9, 1 - 1e-9))


def _spiked(scaler: QuantileScaler, cell: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) Is the cell a number that many rows share?"""
    return (scaler.low == scaler.high)[cell] & (scaler.mass[cell] >= SPIKE)


def _reflected(uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) folded back into [0, 1] at both ends."""
    inside = np.abs(uniform)
    return np.where(inside > 1, 2 - inside, inside)
