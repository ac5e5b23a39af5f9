"""Numbers to uniforms and back: the empirical distribution of one numeric column, with its repeated values exact.

A column is cut into cells of known probability. A cell is an atom (one value that many rows share: a heart rate of
80, a cost of 0) or a stretch (a short interval that holds a few rows and is interpolated). A number becomes a uniform
by its place in this order, at random inside an atom; a uniform becomes a number that lies on the column's real grid.
No value is emitted because one or two patients had it: see `QuantileScaler.fit`. Discrete columns are in `encoder.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.features.resolution import on_grid
from pipeline.features.schema import Resolution

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FLOATING_SLACK = 1e-9
"""Relative slack when a mean is rounded inwards onto a grid, so that 3.0000000001 counts as 3."""


@dataclass(frozen=True)
class QuantileScaler:
    """Piecewise-linear inverse distribution function of a numeric column, flat where values repeat.

    Attributes:
        mass: (cells,) probability of each cell; sums to 1. No cell at all if the column has no value.
        low: (cells,) the value at the lower end of a cell.
        high: (cells,) the value at its upper end; equal to `low` for an atom.
        cuts: (cells - 1,) numbers that separate the cells when a value is looked up.
        resolution: the grid on which values lie; None if every float is admissible.
        floor: the smallest value that is ever emitted.
        ceiling: the largest value that is ever emitted.
    """

    mass: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    cuts: NDArray[np.float64]
    resolution: Resolution | None
    floor: float
    ceiling: float

    @classmethod
    def fit(
        cls,
        values: NDArray[np.floating],
        *,
        subject: NDArray[np.integer],
        resolution: Resolution | None,
        bounds: tuple[float, float] | None = None,
        atom_rows: int = 5,
        extreme_rows: int = 5,
        max_cells: int = 1000,
    ) -> QuantileScaler:
        """Learn the distribution of one column from its non-missing values.

        What is protected (spec 0.2, release mode):
        - a value is emitted for its own sake only if at least `atom_rows` subjects have it;
        - rarer values are grouped to stretches of at least `atom_rows` rows, interpolated between borders that lie
          half-way between real values, and put on the grid (`decimals`, `step`). Where the grid is `atoms` there is
          nothing between real values: a group of rarer values then stands at the one nearest to its mean;
        - outwards the column ends at the mean of the `extreme_rows` most extreme subjects, rounded inwards, so that
          no real extreme is reproduced (unless that many subjects share it).

        Args:
            values: (n,) finite numbers.
            subject: (n,) whom each value belongs to; several values of one subject count once.
            resolution: the column's grid.
            bounds: smallest and largest admissible number.
            atom_rows: subjects that a value needs to become an atom, and rows in a stretch.
            extreme_rows: subjects whose mean replaces the smallest and the largest value.
            max_cells: upper limit of the number of stretches (atoms come on top).
        """
        x = np.asarray(values, dtype=np.float64)
        if x.size == 0:
            none = np.empty(0)
            return cls(none, none, none, none, resolution, np.nan, np.nan)
        distinct, inverse, rows = np.unique(x, return_inverse=True, return_counts=True)
        holders = distinct_subjects(inverse, subject, len(distinct))
        floor, ceiling = _ends(x, subject, distinct, holders, resolution, atom_rows, extreme_rows)
        if bounds is not None:
            floor, ceiling = max(floor, bounds[0]), min(ceiling, bounds[1])
            ceiling = max(floor, ceiling)
        atom = holders >= atom_rows
        cell = _cells(atom, rows, max(atom_rows, -(-len(x) // max_cells)))
        first = np.flatnonzero(np.r_[True, np.diff(cell) > 0])
        last = np.r_[first[1:] - 1, len(distinct) - 1]
        count = np.add.reduceat(rows, first)
        flat = atom[first]
        cuts = (distinct[last[:-1]] + distinct[first[1:]]) / 2

        step = _grid_step(resolution)
        before = np.r_[distinct[first[0]], distinct[last[:-1]]]
        after = np.r_[distinct[first[1:]], distinct[last[-1]]]
        low = np.maximum(distinct[first] - step / 2, np.r_[-np.inf, cuts]) if step else np.r_[distinct[0], cuts]
        high = np.minimum(distinct[last] + step / 2, np.r_[cuts, np.inf]) if step else np.r_[cuts, distinct[-1]]
        few = ~flat & (count < atom_rows)
        low, high = np.where(few, before, low), np.where(few, after, high)
        low, high = np.where(flat, distinct[first], low), np.where(flat, distinct[first], high)
        if resolution is not None and resolution.kind == "atoms":
            mean = np.add.reduceat(distinct * rows, first) / count
            offered = distinct[(distinct >= floor) & (distinct <= ceiling)]
            # A group below `atom_rows` joins the nearest atom; a larger one stands at one of its own values.
            stand = np.where(few, _nearest(mean, distinct[atom] if atom.any() else offered), _nearest(mean, offered))
            low = high = np.where(flat, distinct[first], stand)
        low, high = np.clip(low, floor, ceiling), np.clip(high, floor, ceiling)
        # A cell too small to show its values was widened to its neighbours' values: it ends where they begin.
        low[1:] = np.maximum(low[1:], high[:-1])
        high = np.maximum(low, high)
        return cls(count / count.sum(), low, high, cuts, resolution, float(floor), float(ceiling))

    @property
    def empty(self) -> bool:
        """True if the column had no value to learn from."""
        return self.mass.size == 0

    @property
    def step(self) -> float:
        """Distance of neighbouring points of the grid; 0 where there is no regular grid."""
        return _grid_step(self.resolution)

    @property
    def edges(self) -> NDArray[np.float64]:
        """(cells + 1,) cumulative probability at the cells' borders, from exactly 0 to exactly 1."""
        edges = np.concatenate([[0.0], np.cumsum(self.mass)])
        edges[-1] = 1.0
        return edges

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the distribution, uniform inside a stretch; zeros if the column is empty."""
        middle, width = (self.low + self.high) / 2, self.high - self.low
        mean = float((self.mass * middle).sum())
        return mean, float(np.sqrt(max(0.0, (self.mass * (middle**2 + width**2 / 12)).sum() - mean**2)))

    def locate(self, values: NDArray[np.floating]) -> NDArray[np.int64]:
        """(n,) cell of each value; NaN gives the last cell, mask it."""
        return np.searchsorted(self.cuts, np.asarray(values, dtype=np.float64)).astype(np.int64)

    def interval(self, values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) and (n,): the uniforms that stand for each value lie between these two probabilities."""
        edges, cell = self.edges, self.locate(values)
        step = _grid_step(self.resolution)
        low, width = self.low[cell], self.high[cell] - self.low[cell]
        safe = np.where(width > 0, width, 1.0)
        start = np.where(width > 0, (values - step / 2 - low) / safe, 0.0)
        end = np.where(width > 0, (values + step / 2 - low) / safe, 1.0)
        outside = (end <= 0) | (start >= 1)
        start, end = np.where(outside, 0.0, np.clip(start, 0, 1)), np.where(outside, 1.0, np.clip(end, 0, 1))
        span = self.mass[cell]
        return edges[cell] + start * span, edges[cell] + end * span

    def to_uniform(self, values: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.float64]:
        """(n,) uniforms in (0, 1) for (n,) numbers: the place in the order, random among equals; NaN stays NaN."""
        values = np.asarray(values, dtype=np.float64)
        uniform = np.full(values.shape, np.nan)
        seen = np.isfinite(values)
        draw = rng.random(values.shape)
        if seen.any() and not self.empty:
            start, end = self.interval(values[seen])
            uniform[seen] = np.clip(start + draw[seen] * (end - start), 1e-9, 1 - 1e-9)
        return uniform

    def from_uniform(self, uniform: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n,) numbers on the real grid for (n,) uniforms in [0, 1]; NaN stays NaN."""
        uniform = np.asarray(uniform, dtype=np.float64)
        if self.empty:
            return np.full(uniform.shape, np.nan)
        edges = self.edges
        cell = np.clip(np.searchsorted(edges, uniform, side="right") - 1, 0, len(self.mass) - 1)
        with np.errstate(invalid="ignore"):
            inside = np.clip((uniform - edges[cell]) / self.mass[cell], 0, 1)
        numbers = self.low[cell] + inside * (self.high[cell] - self.low[cell])
        return np.where(np.isnan(uniform), np.nan, self.snap(numbers))

    def snap(self, numbers: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n,) nearest admissible numbers between floor and ceiling: on the grid, or an emitted atom."""
        inside: NDArray[np.float64] = np.asarray(np.clip(numbers, self.floor, self.ceiling), dtype=np.float64)
        grid = self.resolution
        if grid is None or self.empty:
            return inside
        return _nearest(inside, np.unique(self.low)) if grid.kind == "atoms" else on_grid(inside, grid)

    def bins(self, wanted: int) -> NDArray[np.float64]:
        """(bins + 1,) cumulative probabilities that cut the column into about `wanted` bins along cell borders.

        An atom with at least 1 / wanted of the mass is a bin by itself (zeros in laboratory values, spikes in vital
        signs), so that a likelihood over bins sees semicontinuous columns as what they are.
        """
        target, edges = 1.0 / wanted, self.edges
        heavy = (self.low == self.high) & (self.mass >= target)
        borders, filled = [0.0], 0.0
        for i, mass in enumerate(self.mass):
            if heavy[i] and filled > 0:
                borders.append(float(edges[i]))
                filled = 0.0
            filled += float(mass)
            if heavy[i] or filled >= target * (1 - 1e-9):
                borders.append(float(edges[i + 1]))
                filled = 0.0
        if borders[-1] < 1.0:
            borders.append(1.0)
        return np.array(borders)

    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """The arrays to be saved."""
        return {"mass": self.mass, "low": self.low, "high": self.high, "cuts": self.cuts}

    def manifest(self) -> dict[str, Any]:
        """The settings to be saved as JSON."""
        return {
            "resolution": None if self.resolution is None else self.resolution.model_dump(),
            "floor": None if self.empty else self.floor,
            "ceiling": None if self.empty else self.ceiling,
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[np.float64]], manifest: Mapping[str, Any]) -> QuantileScaler:
        """The scaler back from what `tensors` and `manifest` gave."""
        grid = manifest["resolution"]
        return cls(
            **{k: np.asarray(tensors[k], dtype=np.float64) for k in ("mass", "low", "high", "cuts")},
            resolution=None if grid is None else Resolution(**grid),
            floor=np.nan if manifest["floor"] is None else float(manifest["floor"]),
            ceiling=np.nan if manifest["ceiling"] is None else float(manifest["ceiling"]),
        )


def _grid_step(grid: Resolution | None) -> float:
    """Distance of neighbouring grid points; 0 where there is no regular grid."""
    if grid is None or grid.kind == "atoms":
        return 0.0
    return 10.0**-grid.digits if grid.kind == "decimals" else grid.step


def distinct_subjects(inverse: NDArray[np.integer], subject: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """(size,) how many distinct subjects hold each value."""
    # One number a pair: many times faster than looking for different pairs.
    people = int(subject.max(initial=0)) + 1
    pairs = np.unique(inverse.astype(np.int64) * people + subject.astype(np.int64))
    return np.bincount(pairs // people, minlength=size)


def _cells(atom: NDArray[np.bool_], rows: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """(distinct values,) cell number of each: an atom alone, runs between atoms in groups of at least `size` rows."""
    fresh = atom | np.r_[True, atom[:-1]]
    run = np.cumsum(fresh) - 1
    start = np.flatnonzero(fresh)
    total = np.add.reduceat(rows, start)
    before = np.cumsum(rows) - rows
    within = before - before[start][run]
    groups = np.maximum(1, total // size)
    group = np.minimum(within // size, groups[run] - 1)
    return np.cumsum(fresh | np.r_[False, np.diff(group) != 0]) - 1


def _ends(
    x: NDArray[np.float64],
    subject: NDArray[np.integer],
    distinct: NDArray[np.float64],
    holders: NDArray[np.integer],
    grid: Resolution | None,
    atom_rows: int,
    extreme_rows: int,
) -> tuple[float, float]:
    """Smallest and largest value that may be emitted: means over the most extreme subjects, rounded inwards."""
    order = np.argsort(x, kind="stable")
    ends: list[float] = []
    for direction in (order, order[::-1]):
        # One value a subject (the most extreme), else one patient's many stays would be the mean by themselves.
        _, where = np.unique(subject[direction], return_index=True)
        extreme = x[direction[np.sort(where)[:extreme_rows]]]
        upper = direction is not order
        outermost = distinct[-1] if upper else distinct[0]
        if (holders[-1] if upper else holders[0]) >= max(atom_rows, min(extreme_rows, len(x))):
            ends.append(float(outermost))
            continue
        mean = float(extreme.mean())
        if grid is not None and grid.kind == "atoms":
            inner = distinct[distinct < extreme.min()] if upper else distinct[distinct > extreme.max()]
            mean = float(inner[-1] if upper else inner[0]) if len(inner) else float(extreme[-1])
        elif grid is not None:
            mean = _inwards(mean, grid, upper=upper)
        ends.append(mean)
    low, high = ends
    if low <= high:
        return low, high
    # Fewer values than the two ends take: the column is its mean, on the grid.
    centre = np.array([x.mean()])
    middle = _nearest(centre, distinct) if grid is not None and grid.kind == "atoms" else centre
    middle = on_grid(middle, grid) if grid is not None else middle
    return float(middle[0]), float(middle[0])


def _inwards(number: float, grid: Resolution, *, upper: bool) -> float:
    """The grid point at or inside `number`: below it for the upper end, above it for the lower one."""
    step, offset = _grid_step(grid), grid.offset if grid.kind == "step" else 0.0
    place = (number - offset) / step
    slack = FLOATING_SLACK * max(1.0, abs(place))
    whole = np.floor(place + slack) if upper else np.ceil(place - slack)
    return float(on_grid(np.array([offset + whole * step]), grid)[0])


def _nearest(numbers: NDArray[np.floating], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) the nearest of the sorted `points` for each number; the lower one of two that are equally near."""
    right = np.clip(np.searchsorted(points, numbers), 1, max(1, len(points) - 1))
    right = np.minimum(right, len(points) - 1)
    left = np.maximum(right - 1, 0)
    closer = np.abs(numbers - points[left]) <= np.abs(points[right] - numbers)
    return np.where(closer, points[left], points[right])
