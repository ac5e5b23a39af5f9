"""The events of a cohort: from their SQL to dated visits with codes of a vocabulary frozen on the training split.

A visit is what its SQL calls one (`visit`), else what a subject has on one day; its day is that of its earliest code.
Codes are written, grouped and chosen as those of a block (`blocks.py`, `codes.py`); what a table of events is, says
`visits.py`. A code of a visit counts once, and a visit none of whose codes is kept is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError, InputError, nearest
from pipeline.features.block_account import TAKEN
from pipeline.features.blocks import about_codes, account, count_cells, freeze
from pipeline.features.codes import group_codes
from pipeline.features.mapping import read_mapping
from pipeline.features.query import place, select_into, sql_text
from pipeline.features.schema import EventCodes
from pipeline.features.visits import event_schema
from pipeline.store.connection import identifier
from pipeline.store.hashing import sha256_bytes

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.features.block_account import BlockAccount
    from pipeline.features.block_spec import EventsSpec
    from pipeline.features.spec import CohortSpec

NAME = "events"
"""How the events are called where blocks have names."""


@dataclass(frozen=True)
class BuiltEvents:
    """The events: their codes, the table (`visits.py`), and the account of the records that they were made from."""

    codes: EventCodes
    table: pa.Table
    account: BlockAccount


def events_text(spec: CohortSpec) -> str:
    """The text of the events' SQL, empty where the cohort has none; raises `ConfigError` if it cannot be read."""
    return sql_text(spec.folder / spec.events.sql) if spec.events is not None else ""


def events_identity(events: EventsSpec, spec: CohortSpec) -> list[Any]:
    """All that the events depend on beside the data; equal lists, equal events."""
    return [
        events.model_dump(mode="json"),
        [sha256_bytes((spec.folder / file).read_bytes()) for file in events.files],
    ]


def build_event_rows(
    asked: EventsSpec,
    spec: CohortSpec,
    text: str,
    subject: NDArray[np.str_],
    train: NDArray[np.bool_],
    connection: duckdb.DuckDBPyConnection,
    tables: list[str],
) -> BuiltEvents:
    """The events of a cohort's rows.

    Args:
        asked: what is asked of them.
        spec: the cohort.
        text: what `events_text` gave.
        subject: (n,) subject of each row, no two the same.
        train: (n,) is the row for training?
        connection: with the raw tables as the cohort's own SQL sees them, confined.
        tables: what the SQL can see, for hints.

    Raises:
        ConfigError: the SQL or a mapping is wrong, or needs more memory than there is.
        InputError: no record belongs to a row, or no code is left for the vocabulary.
    """
    import pyarrow as pa

    file = spec.folder / asked.sql
    where = f"cohort {spec.name}, {NAME}"
    mapping = read_mapping(asked.mapping, spec.folder) if asked.mapping else None
    select_into("__given", file, text, connection, tables)
    version, visit = _columns(connection, spec.subject, where=place(file))
    with about_codes(where):
        there = pa.table(
            {
                "key": pa.array(subject.tolist(), pa.string()),
                "row": np.arange(len(subject), dtype=np.int32),
                "subject": np.arange(len(subject), dtype=np.int32),
                "train": pa.array(train),
            }
        )
        connection.register("__rows", there)
        try:
            # What has no time counts as no occurrence: `count_cells` leaves it out and says how many there are.
            dated = "(CASE WHEN g.time IS NULL THEN 0 ELSE 1 END)"
            records = count_cells(connection, spec.subject, version, dated)
            records["no time"] = records.pop("no count")
            group_codes(connection, asked, mapping, given="__codes", into="__grouped")
            fates = freeze(connection, asked)
            vocabulary = [code for code, fate in fates.items() if fate == TAKEN]
            events = _visits(connection, spec.subject, version, visit, vocabulary)
        finally:
            connection.unregister("__rows")
        found = account(connection, fates, records, (len(subject), len(vocabulary)), events.num_rows)
        for table in ("__given", "__codes", "__cells", "__grouped", "__sums"):
            connection.execute(f"DROP TABLE {identifier(table)}").fetchall()
    if found.records == records["of no row"]:
        raise InputError(
            f"None of the {found.records} events belongs to a row of the cohort.",
            where=f"{place(file)}, column {spec.subject}",
            todo=f"Do both SQL files give the same '{spec.subject}'?",
        )
    if not vocabulary:
        raise InputError(
            f"No code of {found.records} events is left for the vocabulary.",
            where=where,
            todo=f"It needs codes that {asked.min_subjects} training subjects have: lower min_subjects, or look at the SQL.",
        )
    codes = EventCodes(
        vocabulary=vocabulary, inferred=("vocabulary",), description=asked.description, source=list(asked.source)
    )
    return BuiltEvents(codes, events, found)


def _columns(connection: duckdb.DuckDBPyConnection, subject: str, *, where: str) -> tuple[str, str]:
    """SQL for the version of a code and for what a visit is, told from the columns that the events' SQL gives."""
    types = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE __given").fetchall()}
    for wanted in (subject, "time", "code"):
        if wanted not in types:
            raise ConfigError(
                f"The events' SQL does not give column '{wanted}'.", where=where, todo=nearest(wanted, list(types))
            )
    unknown = [n for n in types if n not in (subject, "time", "code", "visit", "version", "system")]
    if unknown or {"version", "system"} <= set(types):
        raise ConfigError(
            f"The events' SQL gives '{subject}', `time`, `code`, `visit`, and `version` or `system`, not "
            f"'{(unknown or ['system'])[0]}' too.",
            where=where,
        )
    if types["time"] != "DATE" and not types["time"].startswith("TIMESTAMP"):
        raise ConfigError(f"`time` is a date or timestamp, not {types['time']}.", where=where, todo="CAST(... AS DATE)")
    system = next((n for n in ("version", "system") if n in types), None)
    day = "'day ' || CAST(CAST(g.time AS DATE) AS VARCHAR)"
    return (
        f"CAST(g.{system} AS VARCHAR)" if system else "CAST(NULL AS VARCHAR)",
        f"coalesce('visit ' || CAST(g.visit AS VARCHAR), {day})" if "visit" in types else day,
    )


def _visits(
    connection: duckdb.DuckDBPyConnection, subject: str, version: str, visit: str, vocabulary: list[str]
) -> pa.Table:
    """The table of events: each code of the vocabulary once a visit, visits numbered by day."""
    import pyarrow as pa

    connection.register("__kept", pa.table({"grouped": pa.array(vocabulary, pa.string())}))
    try:
        found = connection.sql(
            f"""
            WITH dated AS (
                SELECT r."row", {visit} AS visit, CAST(g.time AS DATE) AS day, o.grouped
                FROM __given AS g
                JOIN __rows AS r ON r.key = CAST(g.{identifier(subject)} AS VARCHAR)
                JOIN __grouped AS o ON o.raw IS NOT DISTINCT FROM CAST(g.code AS VARCHAR)
                    AND o.version IS NOT DISTINCT FROM {version}
                WHERE g.time IS NOT NULL AND isfinite(CAST(g.time AS DATE))
            ),
            days AS (SELECT "row", visit, min(day) AS day FROM dated GROUP BY ALL),
            kept AS (SELECT DISTINCT d."row", d.visit, d.grouped FROM dated AS d JOIN __kept USING (grouped))
            SELECT
                CAST(k."row" AS BIGINT) AS "row",
                CAST(dense_rank() OVER (PARTITION BY k."row" ORDER BY d.day, k.visit) - 1 AS INTEGER) AS visit,
                CAST(d.day AS TIMESTAMP) AS time,
                k.grouped AS code
            FROM kept AS k JOIN days AS d ON d."row" = k."row" AND d.visit = k.visit
            ORDER BY ALL
            """
        ).to_arrow_table()
    finally:
        connection.unregister("__kept")
    return found.cast(event_schema()).combine_chunks()
