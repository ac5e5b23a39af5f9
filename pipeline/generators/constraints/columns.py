"""The columns that are learned in place of real ones: distances, flags, merged levels, and the ends of real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.features.resolution import infer_resolution
from pipeline.features.schema import TOLD, Column, Resolution, TableSchema
from pipeline.generators.constraints.steps import Ends, grid_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

_WHOLE = ("int64", "int32", "date32[day]")
_NOISE = 9
"""Decimals to which a distance is rounded before its grid is told: below them is rounding error."""


def gap_column(
    name: str,
    column: Column,
    anchors: list[Column],
    values: NDArray[np.float64],
    sign: int,
    *,
    nullable: bool,
    private: bool,
) -> Column:
    """The column of the distance between `column` and the first of `anchors` that is there.

    Args:
        name: Of the new column.
        column: The column that is learned as a distance.
        anchors: What it is measured from.
        values: (n,) the distances of the training rows; looked at only where no grid follows from the schema.
        sign: 1 where `column` is the larger.
        nullable: May a distance be missing?
        private: Tell nothing from `values`; bounds that the schema declares then give those of the distance.
    """
    kinds = {column.kind, *(a.kind for a in anchors)}
    whole = all(c.dtype in _WHOLE for c in (column, *anchors))
    grid = _common_grid([column, *anchors])
    if grid is None and not private:
        grid = infer_resolution(np.round(values, _NOISE), "continuous")
    bounds = None
    ends = [column.bounds, *(a.bounds for a in anchors)]
    if private and all(end is not None for end in ends):
        own, others = ends[0], [end for end in ends[1:] if end is not None]
        assert own is not None
        far = max(own[1] - low if sign == 1 else high - own[0] for low, high in others)
        bounds = (0.0, max(0.0, far))
    made = Column(
        name=name,
        kind="count" if kinds == {"count"} else "continuous",
        dtype="int64" if whole else "float64",
        nullable=nullable,
        bounds=bounds,
        unit="d" if "datetime" in kinds else column.unit,
        resolution=grid,
        description=f"Distance between {column.name} and {anchors[0].name}, learned in place of {column.name}.",
        source=list(dict.fromkeys(s for c in (column, *anchors) for s in c.source)),
    )
    return _told(made, [column, *anchors])


def _common_grid(columns: list[Column]) -> Resolution | None:
    """The grid on which all differences lie; None where it does not follow from the columns' own."""
    grids = [
        Resolution(kind="decimals") if c.resolution is None and c.dtype in _WHOLE else c.resolution for c in columns
    ]
    if any(grid is None or grid.kind == "atoms" for grid in grids):
        return None
    known = [grid for grid in grids if grid is not None]
    if all(grid.kind == "decimals" for grid in known):
        return max(known, key=lambda grid: grid.digits)
    steps = [grid_step(c) for c in columns]
    finest = min(steps)
    offsets = [grid.offset if grid.kind == "step" else 0.0 for grid in known]
    fits = all(abs(step / finest - round(step / finest)) < 1e-6 for step in steps)
    level = all(abs((o - offsets[0]) / finest - round((o - offsets[0]) / finest)) < 1e-6 for o in offsets)
    return Resolution(kind="step", step=finest) if fits and level else None


def flag_column(name: str, column: Column) -> Column:
    """A binary column: is the cell of `column` there?"""
    return Column(
        name=name,
        kind="binary",
        dtype="int64",
        levels=[0, 1],
        description=f"Is there a {column.name}?",
        source=column.source,
    )


def derived_column(name: str, column: Column, *, nullable: bool) -> Column:
    """`column` under another name, for the rows in which it cannot be computed."""
    return column.model_copy(update={"name": name, "nullable": nullable, "role": "feature"})


def merged_column(name: str, columns: list[Column], combinations: NDArray[np.int64]) -> Column:
    """One categorical column whose levels are combinations of the levels of several."""
    roles = [c.role for c in columns if c.role != "feature"]
    return Column(
        name=name,
        kind="categorical",
        dtype="string",
        levels=["|".join("-" if code < 0 else str(code) for code in row) for row in combinations.tolist()],
        role=roles[0] if roles else "feature",
        description=f"Combination of {', '.join(c.name for c in columns)} (positions of their levels).",
        source=list(dict.fromkeys(s for c in columns for s in c.source)),
    )


def public_part(schema: TableSchema) -> TableSchema:
    """The schema without bounds that were told from patients, and with missing cells wherever that was."""

    def public(column: Column) -> Column:
        bounds = None if "bounds" in column.inferred else column.bounds
        return column.model_copy(
            update={"bounds": bounds, "nullable": column.nullable or "nullable" in column.inferred}
        )

    return schema.model_copy(update={"columns": [public(c) for c in schema.columns]})


def protected_ends(column: Column, cohort: Cohort) -> Ends:
    """The smallest and largest number that a generator would emit of a column: not a patient's own extreme."""
    from pipeline.encoding.scalers import QuantileScaler

    values = cohort.values(column.name)
    seen = ~np.isnan(values)
    if not seen.any():
        return Ends()
    people = np.unique(cohort.subject, return_inverse=True)[1]
    grid = column.resolution
    if grid is None and column.dtype in _WHOLE:
        grid = Resolution(kind="decimals")
    scaler = QuantileScaler.fit(values[seen], subject=people[seen], resolution=grid, bounds=column.bounds)
    return Ends(low=scaler.floor, high=scaler.ceiling)


def _told(made: Column, sources: list[Column]) -> Column:
    """`made`, marked with what the schema says of its sources only because the training rows do."""
    told = {part for c in sources for part in c.inferred}
    return made.model_copy(update={"inferred": tuple(part for part in TOLD if part in told)})
