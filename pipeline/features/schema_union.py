"""Schemas that say the same table in other words: told anew under privacy, or by several private trainings.

A private training may not keep levels, bounds and grids that were told from patients; it finds its own, so its rows come
with a schema of their own. What a schema is, is in `schema.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.features.schema import Column, Level, Resolution, TableSchema

if TYPE_CHECKING:
    from collections.abc import Sequence


def told_anew(own: TableSchema, like: TableSchema) -> bool:
    """Is `own` the same table as `like`, apart from what `like` says was inferred and `own` found in another way?"""
    if own.names != like.names or (own.blocks, own.unit, own.events) != (like.blocks, like.unit, like.events):
        return False
    return all(_told_anew(a, b) for a, b in zip(own.columns, like.columns, strict=True))


def _told_anew(own: Column, like: Column) -> bool:
    free = {*like.inferred} - {"kind"}
    if like.resolution is not None and like.resolution.kind == "atoms":
        free.add("resolution")
    return own.model_dump(exclude={*free, "inferred"}) == like.model_dump(exclude={*free, "inferred"}) and (
        own == like or not own.inferred
    )


def united(schemas: Sequence[TableSchema]) -> TableSchema:
    """One schema that holds the rows of all: every level, the widest bounds, a grid only where it is the same.

    Raises:
        ConfigError: there is none, or they are not of one table.
    """
    if not schemas:
        raise ConfigError("There is no schema to unite.")
    first = schemas[0]
    if all(other == first for other in schemas):
        return first
    if any(
        (o.names, o.blocks, o.unit, o.events) != (first.names, first.blocks, first.unit, first.events) for o in schemas
    ):
        raise ConfigError("The replicates do not share one table.")
    columns = [_united([schema.columns[i] for schema in schemas]) for i in range(len(first.columns))]
    return first.model_copy(update={"columns": columns})


def _united(columns: list[Column]) -> Column:
    first = columns[0]
    told = {"levels", "bounds", "resolution", "nullable"}
    if any(c.model_dump(exclude=told) != first.model_dump(exclude=told) for c in columns):
        raise ConfigError("The replicates do not share one table.", where=f"column '{first.name}'")
    levels: list[Level] = []
    for column in columns:
        levels.extend(level for level in column.levels or [] if level not in levels)
    bounds = [c.bounds for c in columns if c.bounds is not None]
    return first.model_copy(
        update={
            "levels": None if first.levels is None else _ordered(levels, columns),
            "bounds": (min(b[0] for b in bounds), max(b[1] for b in bounds)) if len(bounds) == len(columns) else None,
            "resolution": _finest([c.resolution for c in columns]),
            "nullable": any(c.nullable for c in columns),
        }
    )


def _ordered(levels: list[Level], columns: list[Column]) -> list[Level]:
    """Sorted where the columns were, so that found levels stand as an inferred schema has them."""
    if all(c.levels == levels for c in columns):
        return levels
    return sorted(levels, key=lambda level: (isinstance(level, str), level))


def _finest(grids: list[Resolution | None]) -> Resolution | None:
    """The grid that holds the points of all, None if none of them does."""
    known = [g for g in grids if g is not None]
    if len(known) < len(grids):
        return None
    if all(g == known[0] for g in known):
        return known[0]
    return max(known, key=lambda g: g.digits) if all(g.kind == "decimals" for g in known) else None
