"""What a caller fixes in the rows to be drawn: checked against the schema and turned into level positions or numbers.

How a generator makes the other columns fit the fixed ones is its own business; that the fixed cells come out exactly
as asked is `TabularGenerator.sample`'s.
"""

from __future__ import annotations

import datetime as dt
import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError, nearest
from pipeline.features.resolution import on_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.schema import Column, TableSchema
    from pipeline.generators.base import Conditions

GRID_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Fixed:
    """Fixed columns of n rows.

    Attributes:
        codes: (n,) level positions a discrete column, -1 for missing.
        values: (n,) float64 a numeric column (days for dates), NaN for missing.
    """

    codes: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Is anything fixed?"""
        return bool(self.codes or self.values)

    def take(self, rows: NDArray[np.integer]) -> Fixed:
        """The given rows."""
        return Fixed({k: v[rows] for k, v in self.codes.items()}, {k: v[rows] for k, v in self.values.items()})


def parse_conditions(conditions: Conditions | None, schema: TableSchema, n: int) -> Fixed:
    """Check conditions for `n` rows against the schema.

    Args:
        conditions: None, one mapping for all rows, or a data frame with one row a row to draw.
        schema: the training schema.
        n: number of rows to draw.

    Raises:
        ConfigError: an unknown column or level (with the nearest name), a number outside the bounds or off the grid,
            a missing cell in a column that has none, a data frame of another length.
    """
    if conditions is None:
        return Fixed()
    fixed = Fixed()
    for name, cells in _columns(conditions, n).items():
        column = _column(schema, name)
        known: dict[Any, int | float] = {}
        out = np.empty(n, dtype=np.float64)
        for i, cell in enumerate(cells):
            key = (type(cell), cell)
            if cell is not None and cell == cell:
                if key not in known:
                    known[key] = _level(column, cell) if column.discrete else _number(column, cell)
                out[i] = known[key]
            elif not column.nullable:
                raise ConfigError("A missing cell was asked for, but the column has none.", where=f"column '{name}'")
            else:
                out[i] = -1 if column.discrete else np.nan
        if column.discrete:
            fixed.codes[name] = out.astype(np.int64)
        else:
            fixed.values[name] = out
    return fixed


def _columns(conditions: Conditions, n: int) -> dict[str, list[Any]]:
    """Column name to n plain Python cells; missing cells are None or NaN."""
    from collections.abc import Mapping

    if isinstance(conditions, Mapping):
        return {str(k): [v] * n for k, v in conditions.items()}
    if len(conditions) != n:
        raise ConfigError(
            f"The conditions have {len(conditions)} rows for {n} rows to draw.",
            todo="Give one row a row, or a mapping.",
        )
    frame = conditions.astype(object).where(conditions.notna(), None)
    return {str(k): frame[k].tolist() for k in frame.columns}


def _column(schema: TableSchema, name: str) -> Column:
    names = [c.name for c in schema.modelled()]
    if name in names:
        return schema.column(name)
    if name in schema.names:
        raise ConfigError(f"Column '{name}' is an identifier and cannot be fixed.")
    if name in [b.name for b in schema.blocks]:
        raise ConfigError(f"'{name}' is a code block; only columns can be fixed.")
    raise ConfigError(f"There is no column '{name}'.", todo=nearest(name, names))


def _level(column: Column, cell: Any) -> int:
    levels = list(column.levels or [])
    for i, level in enumerate(levels):
        if type(level) is type(cell) and level == cell:
            return i
    as_text = str(cell).strip().lower()
    for i, level in enumerate(levels):
        if level == cell or str(level).lower() == as_text:
            return i
    number = _as_number(as_text)
    for i, level in enumerate(levels):
        if isinstance(level, (int, float)) and not isinstance(level, bool) and level == number:
            return i
    # Only the level that was nearly typed is named: a list would show levels that a single patient has.
    close = difflib.get_close_matches(str(cell), [str(level) for level in levels], n=1, cutoff=0.6)
    raise ConfigError(
        f"None of the column's {len(levels)} levels is the one asked for.",
        where=f"column '{column.name}'",
        todo=f"Did you mean '{close[0]}'?" if close else "They are in the model's schema.",
    )


def _as_number(text: str) -> float | None:
    """The number that a text stands for: `1` asks for the level 1.0."""
    try:
        return float(text)
    except ValueError:
        return None


def _number(column: Column, cell: Any) -> float:
    where = f"column '{column.name}'"
    try:
        number = _days(cell) if column.kind == "datetime" else float(cell)
    except (TypeError, ValueError) as error:
        what = "date" if column.kind == "datetime" else "number"
        raise ConfigError(f"A condition on this column must be a {what}.", where=where) from error
    if not np.isfinite(number):
        raise ConfigError("A condition on this column must be a finite number.", where=where)
    if column.bounds is not None and not column.bounds[0] <= number <= column.bounds[1]:
        raise ConfigError(
            "The number asked for lies outside the column's bounds.",
            where=where,
            todo="They are in the model's schema: the smallest and largest training value, unless declared.",
        )
    if column.resolution is not None and column.resolution.kind != "atoms":
        snapped = float(on_grid(np.array([number]), column.resolution)[0])
        if abs(snapped - number) > GRID_TOLERANCE * max(1.0, abs(number)):
            raise ConfigError(
                "The number asked for does not lie on the column's grid.",
                where=where,
                todo=f"The nearest is {snapped:g}.",
            )
        return snapped
    return number


def _days(cell: Any) -> float:
    """Days since 1970-01-01 of a date, time, ISO text or number of days."""
    if isinstance(cell, (int, float)):
        return float(cell)
    if isinstance(cell, str):
        cell = dt.datetime.fromisoformat(cell)
    if isinstance(cell, dt.datetime):
        utc = cell.astimezone(dt.UTC).replace(tzinfo=None) if cell.tzinfo else cell
        return (utc - dt.datetime(1970, 1, 1)) / dt.timedelta(days=1)  # noqa: DTZ001 (naive UTC is the house rule)
    if isinstance(cell, dt.date):
        return float((cell - dt.date(1970, 1, 1)).days)
    return float(np.datetime64(cell, "us").astype(np.int64)) / 86_400_000_000
