"""Several FHIR deliveries as one: of every resource the newest statement counts, be it a version or its deletion.

A delivery states one thing of a key: it stands in the table of its type (the primary table) or in `deleted_resources`.
Tables made by a user's view name their primary table in the Parquet file's metadata; of them the rows of the winning
delivery count, even where it has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pipeline.store.connection import identifier

DELETED: Final = "deleted_resources"
_PRIMARY: Final = b"primary"

Views = Sequence[tuple[int, str]]
"""Number of the delivery (in the order in which they count) and name of its view."""


def primary_of(table: str, files: Iterable[Path]) -> str:
    """The table that holds a row for every resource that this one was made from: itself, or what its files name."""
    import pyarrow.parquet as pq

    for file in files:
        if named := (pq.read_schema(file).metadata or {}).get(_PRIMARY):
            return str(named.decode())
    return table


def incomplete(deliveries: Mapping[str, Mapping[str, Path]]) -> dict[str, list[str]]:
    """Tables of a user's views to the deliveries that hold their resources but were not read with them.

    A view that was added later, or that a delivery did not fit at all, would be without those resources in silence.

    Args:
        deliveries: Key of a delivery to its raw tables.
    """
    import pyarrow.parquet as pq

    found: dict[str, list[str]] = {}
    for table in sorted({table for tables in deliveries.values() for table in tables}):
        primary = primary_of(table, [tables[table] for tables in deliveries.values() if table in tables])
        for key, tables in deliveries.items() if primary != table else ():
            if table not in tables and (primary not in tables or pq.read_metadata(tables[primary]).num_rows):
                found.setdefault(table, []).append(key)
    return found


def newest(views: Views, primary: Views, deleted: Views) -> str:
    """SELECT all rows of the newest statement of every resource (a resource may have any number of rows).

    The latest `meta.lastUpdated` wins, so that an old version that comes late changes nothing; of equal ones the later
    delivery. A statement without a time is newer than all that were delivered before it, and older than all after it.

    Args:
        views: The table in each delivery that has it.
        primary: Its primary table in each delivery that has it.
        deleted: The deletions of each delivery.
    """
    if len({number for number, _ in (*views, *primary, *deleted)}) == 1:
        return f"SELECT * FROM {identifier(views[0][1])}"
    rows = " UNION ALL BY NAME ".join(
        f"SELECT *, {number} AS __delivery FROM {identifier(view)}" for number, view in views
    )
    return (
        f"SELECT * EXCLUDE (__delivery) FROM ({rows}) AS r SEMI JOIN ({_winners(primary, deleted)}) AS w "
        "ON r.key = w.key AND r.__delivery = w.delivery"
    )


def gone(primary: Views, deleted: Views) -> str:
    """SELECT the keys of which the newest statement is that the resource was deleted.

    Args:
        primary: The primary table of a type in each delivery that has it.
        deleted: The deletions of each delivery.
    """
    every = " UNION ALL ".join(f"SELECT key, {number} AS delivery FROM {identifier(view)}" for number, view in deleted)
    if not deleted:
        return "SELECT CAST(NULL AS VARCHAR) AS key WHERE FALSE"
    return f"SELECT key FROM ({_winners(primary, deleted)}) SEMI JOIN ({every}) USING (key, delivery)"


def _winners(primary: Views, deleted: Views) -> str:
    """SELECT of every key the delivery with its newest statement."""
    statements = " UNION ALL ".join(
        f"SELECT key, {time} AS told, {number} AS delivery FROM {identifier(view)}"
        for time, some in (("last_updated", primary), ("deleted_at", deleted))
        for number, view in some
    )
    return (
        f"WITH statements AS ({statements}), "
        "untimed AS (SELECT key, max(delivery) AS since FROM statements WHERE told IS NULL GROUP BY key) "
        "SELECT key, arg_max(delivery, (coalesce(told, TIMESTAMP '0001-01-01'), delivery)) AS delivery "
        "FROM statements LEFT JOIN untimed USING (key) WHERE since IS NULL OR delivery >= since GROUP BY key"
    )
