"""Domains of columns under differential privacy: bounds, grids and histograms from noisy counts (spec 8.5).

Each question here is a histogram that a row is in once; who adds the noise and splits the budget is `private.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.encoding.scalers import QuantileScaler
from pipeline.features.resolution import on_grid
from pipeline.features.schema import Resolution
from pipeline.privacy.marginals import to_simplex

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.schema import Column, Level

FAILURE = 1e-8
"""Chance that noise alone passes for an occupied bin of the bounds (spec 8.5)."""
LOWEST_POWER, HIGHEST_POWER = -24, 40
CALENDAR = (-719_162.0, 2_932_896.0)
"""Days from 1970-01-01 to the first day of year 1 and to the last of year 9999."""
MOST_DIGITS = 6
FEWEST_CELLS, MOST_CELLS = 8, 32
"""Cells of equal width that a numeric column is counted in first."""
MOST_PARTS = 16
"""Parts into which a full cell is cut for the second count."""
WORTH_CELL, WORTH_PART, WORTH_CUT = 8.0, 4.0, 8.0
"""Noise standard deviations that a cell and a part hold on average, and that a cell must hold to be cut."""
_CLOCK = (1, 24, 24 * 60, 24 * 3600)
"""Days, hours, minutes, seconds: grids of times, as parts of a day."""
LEAST_MASS = 1e-9
_WHOLE = ("int64", "int32", "date32[day]")


# ---- levels


def public_levels(column: Column) -> list[Level] | None:
    """The levels of a discrete column as far as they are public: declared, or those of every flag; None if private.

    A binary column of numbers or bools is taken to hold 0 and 1; where it does not, its levels are private.
    """
    if column.levels is None or "levels" not in column.inferred:
        return column.levels
    flags = {"bool": [False, True], "int32": [0, 1], "int64": [0, 1], "float64": [0.0, 1.0], "float32": [0.0, 1.0]}
    pair = flags.get(column.dtype)
    return list(pair) if column.kind == "binary" and pair == column.levels else None


# ---- bounds


def _powers() -> NDArray[np.float64]:
    """Outer edges of the bins on one side: 2^LOWEST .. 2^HIGHEST."""
    return np.exp2(np.arange(LOWEST_POWER, HIGHEST_POWER + 1, dtype=np.float64))


def bounds_histogram(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts in base-2 bins of both signs, from the most negative one over zero to the largest; missing is nowhere.

    A bin on the positive side is [2^(k-1), 2^k); what lies beyond the last power is in the last bin, what is nearer to 0
    than the first power is zero.
    """
    powers = _powers()
    x = values[~np.isnan(values)]
    side = np.minimum(np.searchsorted(powers, np.abs(x), side="right"), len(powers) - 1)
    place = len(powers) - 1 + np.where(x < 0, -side, side)
    return np.bincount(place, minlength=2 * len(powers) - 1).astype(np.float64)


def bounds_from(noisy: NDArray[np.float64], sd: float, *, gaussian: bool) -> tuple[float, float] | None:
    """Edges of the outermost bins that noise does not explain; None with no such bin (see `fullest_bin`).

    The threshold is what the largest of all bins' noises stays below but with chance 1e-8: for Laplace noise of scale b,
    -b ln(2 - 2 (1 - p)^(1 / (B - 1))); for Gaussian noise the quantile.
    """
    from scipy.special import ndtri

    chance = -np.expm1(np.log1p(-FAILURE) / (len(noisy) - 1))
    limit = sd * -float(ndtri(chance)) if gaussian else -sd / np.sqrt(2) * np.log(2 * chance)
    sure = np.flatnonzero(noisy > limit)
    return _edges(int(sure[0]), int(sure[-1])) if len(sure) else None


def fullest_bin(noisy: NDArray[np.float64]) -> tuple[float, float]:
    """Edges of the fullest bin, which may be noise alone."""
    place = int(np.argmax(noisy))
    return _edges(place, place)


def _edges(first: int, last: int) -> tuple[float, float]:
    """Lower edge of one bin of the bounds' histogram, and upper edge of another."""
    powers = _powers()
    zero = len(powers) - 1

    def edge(place: int, *, upper: bool) -> float:
        step = place - zero
        if step == 0:
            return 0.0
        outer, inner = powers[abs(step)], powers[abs(step) - 1]
        return float(outer if upper else inner) if step > 0 else float(-inner if upper else -outer)

    low, high = edge(first, upper=False), edge(last, upper=True)
    return (low, high) if low < high else (low, low + 1.0)


def within_type(bounds: tuple[float, float], column: Column) -> tuple[float, float]:
    """The bounds inside what the column's type can hold, which is public: years 1 to 9999, 32 bits, no other limit.

    Where noise alone chose the bin, it may lie beyond.
    """
    least, most = (
        CALENDAR
        if column.kind == "datetime"
        else (-(2.0**31), 2.0**31 - 1)
        if column.dtype == "int32"
        else (-np.inf, np.inf)
    )
    low, high = max(bounds[0], least), min(bounds[1], most)
    return (low, high) if low < high else (least, most)


# ---- grids


@dataclass(frozen=True)
class Declared:
    """A grid that is known without a look at the data; `resolution` is None where every float is admissible."""

    resolution: Resolution | None


def declared_grid(column: Column) -> Declared | None:
    """The grid as far as it is public: declared, or that of a type of whole numbers or days; None if private.

    Atoms are values seen in training: declared or not, they are never used.
    """
    if column.dtype in _WHOLE or column.kind == "count":
        grid = None if "resolution" in column.inferred else column.resolution
        whole = Resolution(kind="decimals", digits=0)
        return Declared(whole if grid is None or grid.kind == "atoms" else grid)
    if "resolution" in column.inferred:
        return None
    atoms = column.resolution is not None and column.resolution.kind == "atoms"
    return None if atoms else Declared(column.resolution)


def _candidates(column: Column) -> list[Resolution]:
    if column.kind == "datetime":
        return [Resolution(kind="step", step=1 / parts) for parts in _CLOCK]
    return [Resolution(kind="decimals", digits=digits) for digits in range(MOST_DIGITS + 1)]


def grid_histogram(values: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    """Counts of rows by the coarsest grid that does not move their value; the last cell is none of them."""
    x = values[~np.isnan(values)]
    grids = _candidates(column)
    place = np.full(len(x), len(grids))
    kind = np.float32 if column.dtype == "float32" else np.float64
    for i in range(len(grids) - 1, -1, -1):
        place[on_grid(x, grids[i]).astype(kind) == x.astype(kind)] = i
    return np.bincount(place, minlength=len(grids) + 1).astype(np.float64)


def grid_from(noisy: NDArray[np.float64], column: Column, sd: float) -> Resolution | None:
    """The coarsest grid that moves no more rows than noise could hide, and at most one in a hundred otherwise."""
    total = max(float(noisy.sum()), 1.0)
    beyond = total - np.cumsum(noisy)
    few = max(0.01 * total, 3 * sd * np.sqrt(len(noisy)))
    for grid, moved in zip(_candidates(column), beyond, strict=False):
        if moved <= few:
            return grid
    return None


# ---- histograms and scalers


@dataclass(frozen=True)
class Grid:
    """Cells between the bounds of a numeric column, fixed before its values are counted.

    Attributes:
        bounds: Smallest and largest number, on the grid.
        resolution: The grid; None if every float is admissible.
        edges: (cells + 1,) borders, half-way between points of the grid where there is one.
    """

    bounds: tuple[float, float]
    resolution: Resolution | None
    edges: NDArray[np.float64]

    @classmethod
    def over(cls, bounds: tuple[float, float], resolution: Resolution | None, *, rows: int, sd: float) -> Grid:
        """Cells of equal width, as many as the noise allows if the rows were spread evenly."""
        low, high = (float(b) for b in bounds)
        step = _step(resolution)
        if step:
            inner = on_grid(np.array([low, high]), resolution)
            low, high = float(inner[0]), float(inner[1])
        elif high <= low:
            high = low + 1.0
        wanted = int(np.clip(rows / (WORTH_CELL * max(sd, 1e-9)), FEWEST_CELLS, MOST_CELLS))
        return cls((low, high), resolution, _cut(low - step / 2, high + step / 2, wanted, step))

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.edges) - 1

    @property
    def step(self) -> float:
        """Distance of the grid's points; 0 without a grid."""
        return _step(self.resolution)

    def place(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """(n,) cell of each value, those outside in the outermost; -1 where missing."""
        cell = np.clip(np.searchsorted(self.edges, values, side="right") - 1, 0, self.cells - 1)
        return np.where(np.isnan(values), -1, cell)

    def refined(self, noisy: NDArray[np.float64], sd: float) -> Grid:
        """Full cells cut into parts that still stand out of the noise; the others as they are.

        Most columns of a hospital are heaped at one end of their range, where one cell would hold everybody.
        """
        edges = [self.edges[:1]]
        for low, high, count in zip(self.edges[:-1], self.edges[1:], noisy, strict=True):
            parts = int(min(MOST_PARTS, count // max(WORTH_PART * sd, 1e-9))) if count >= WORTH_CUT * sd else 1
            edges.append(_cut(float(low), float(high), max(1, parts), self.step)[1:])
        return Grid(self.bounds, self.resolution, np.concatenate(edges))


def _step(resolution: Resolution | None) -> float:
    if resolution is None:
        return 0.0
    return resolution.step if resolution.kind == "step" else 10.0**-resolution.digits


def _cut(low: float, high: float, parts: int, step: float) -> NDArray[np.float64]:
    """Borders of at most so many equal parts; with a grid each holds whole points of it."""
    if not step:
        return np.linspace(low, high, parts + 1)
    points = max(1, round((high - low) / step))
    return low + step * np.unique(np.rint(np.linspace(0, points, min(parts, points) + 1)))


def scaler_from(coarse: Grid, counts: NDArray[np.float64], fine: Grid, parts: NDArray[np.float64]) -> QuantileScaler:
    """The distribution behind two noisy histograms: how full the cells are by the first, and within them by the second.

    Counts become probabilities by projection onto the simplex, which takes noise away where nothing is. A cell that is a
    single point of the grid is an atom.
    """
    cell = np.searchsorted(coarse.edges, (fine.edges[:-1] + fine.edges[1:]) / 2, side="right") - 1
    mass = np.zeros(fine.cells)
    for i, share in enumerate(to_simplex(counts / max(1.0, np.maximum(counts, 0.0).sum()))):
        inside = np.flatnonzero(cell == i)
        within = parts[inside]
        # What is no larger than its noise is spread evenly by the projection, as it should be.
        mass[inside] = share * (to_simplex(within / max(1.0, within.sum())) if len(inside) > 1 else 1.0)
    mass = np.maximum(mass, LEAST_MASS)
    low, high = fine.edges[:-1], fine.edges[1:]
    single = (high - low) < 1.5 * fine.step
    middle = (low + high) / 2 if not fine.step else on_grid((low + high) / 2, fine.resolution)
    low, high = np.where(single, middle, low), np.where(single, middle, high)
    return QuantileScaler(
        mass=mass / mass.sum(),
        low=low,
        high=high,
        cuts=fine.edges[1:-1],
        resolution=fine.resolution,
        floor=fine.bounds[0],
        ceiling=fine.bounds[1],
    )
