"""The raw tables as one cohort sees them: several deliveries as one table each, cut at the end of a month.

Raw tables are DuckDB views over the deliveries' Parquet files; `events` is made from those views only where it is
asked for. What is selected from all this is the cohort's own SQL (`build.py`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline.errors import InputError
from pipeline.features.newest import DELETED, gone, newest, primary_of
from pipeline.ingest.account import BESIDE_THE_DATA
from pipeline.store.connection import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import duckdb

    from pipeline.features.source import SourceSpec
    from pipeline.store.draft import Draft
    from pipeline.store.lake import Lake

OWN_VIEWS = ("month_end", "events", "subjects")
"""Names that the cohort's SQL sees beside the raw tables."""

_GONE = "__gone"
"""View of the keys of deleted patients (and other resources)."""

WHEN: dict[str, str] = {
    "patient": "birth_date",
    "encounter": '"start"',
    "condition": "coalesce(onset, recorded)",
    "observation": "coalesce(effective, issued)",
    "procedure": "coalesce(performed_start, performed_end)",
    "medication_request": "authored",
    "immunization": "occurrence",
    "allergy_intolerance": "recorded",
    "diagnostic_report": "coalesce(effective, issued)",
    "meds": "time",
    "labels": "prediction_time",
}
"""When a row of a FHIR or MEDS table happened. A row without a date is seen in every month: nothing says it is later."""

ENDS: dict[str, tuple[str, ...]] = {
    "patient": ("deceased_at",),
    "encounter": ("end",),
    "condition": ("abatement",),
    "procedure": ("performed_end",),
}
"""Dates of a visible row that are not known yet if they are after the end of the month."""

STATES: dict[str, dict[str, str]] = {
    "patient": {"deceased": "CASE WHEN deceased_at >= {after} THEN false ELSE deceased END"},
    "condition": {
        "clinical_status": "CASE WHEN abatement >= {after} AND clinical_status IN ('resolved', 'inactive', 'remission')"
        " THEN 'active' ELSE clinical_status END"
    },
}
"""States that follow from those dates, as they were at the end of the month."""


@dataclass(frozen=True)
class RawDelivery:
    """The committed raw tables of one delivery: table name to Parquet file."""

    key: str
    as_of: date
    tables: Mapping[str, Path]


def month_days(month: str) -> tuple[date, date]:
    """First and last day of the month of a partition key 'YYYY-MM-01'."""
    first = date.fromisoformat(month)
    return first, (first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


def open_views(
    lake: Lake,
    source: SourceSpec,
    deliveries: Sequence[RawDelivery],
    end: date,
    *,
    threads: int,
    memory_limit: str,
) -> tuple[duckdb.DuckDBPyConnection, dict[str, dict[str, str]]]:
    """A connection with one view a raw table as the cohort sees it, and the one-row view `month_end(at, day)`.

    Of a FHIR resource that several deliveries hold, the newest statement wins, be it a version or that it was deleted
    (`newest.py`); rows of plain tables are put one after the other. Where the source's dates are real, FHIR rows after
    `end` are invisible and what ended later has not ended yet.

    Returns:
        The connection, and the visible columns: table to column to DuckDB type.
    """
    ranked = sorted(deliveries, key=lambda d: (d.as_of, d.key))
    files: dict[str, list[Path]] = {}
    parts: dict[str, list[tuple[int, str]]] = {}
    for number, delivery in enumerate(ranked):
        for table, path in delivery.tables.items():
            if table in OWN_VIEWS:
                raise InputError(
                    f"A delivered table is called '{table}', which is a name of our own.",
                    where=f"delivery {delivery.key}",
                    todo="Rename the file.",
                )
            if table not in BESIDE_THE_DATA or table == DELETED:
                files[f"__{number}__{table}"] = [path]
                parts.setdefault(table, []).append((number, f"__{number}__{table}"))
    connection = lake.connect(files, threads=threads, memory_limit=memory_limit)
    try:
        deleted = parts.pop(DELETED, [])
        primary = {table: _primary(source.format, table, ranked) for table in parts}
        for table, views in sorted(parts.items()):
            if source.format == "fhir":
                merged = newest(views, parts.get(primary[table], views), deleted)
            else:
                merged = _merged(source.format, table, views)
            if table == "medication_request" and source.format == "fhir" and len(parts.get("medication", [])) > 1:
                merged = _coded(merged)
            connection.execute(f"CREATE TEMP VIEW {identifier('__merged__' + table)} AS {merged}").fetchall()
        if source.format == "fhir":
            keys = gone(parts.get("patient", []), deleted)
            connection.execute(f"CREATE TEMP VIEW {_GONE} AS {keys}").fetchall()
        columns = _columns(connection, "__merged__")
        cut = source.format in ("fhir", "meds") and source.dates == "real"
        for table in sorted(parts, key=lambda table: (primary[table] != table, table)):
            seen = f"SELECT * FROM {identifier('__merged__' + table)}"
            if cut and primary[table] in parts and primary[table] != table:
                seen += f" SEMI JOIN {identifier(primary[table])} USING (key)"
            elif cut:
                seen = _visible(table, columns[table], end)
            connection.execute(f"CREATE TEMP VIEW {identifier(table)} AS {seen}").fetchall()
        connection.execute(
            f'CREATE TEMP VIEW month_end AS SELECT {_after(end)} - INTERVAL 1 MICROSECOND AS "at", DATE \'{end}\' AS "day"'
        ).fetchall()
    except BaseException:
        connection.close()
        raise
    return connection, columns


def add_events(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    source: SourceSpec,
    tables: Mapping[str, Mapping[str, str]],
    *,
    memory_limit: str,
) -> None:
    """Add `events` (MEDS) and `subjects` (subject_id, source_id) of exactly the visible rows to the connection.

    They are made anew from the views and not read from the events of the single deliveries, which hold superseded
    versions and what comes after the end of the month. A patient who was deleted is no subject, whatever of theirs is left.
    """
    from pipeline.features.stored import FolderTarget
    from pipeline.ingest.events import build_events

    lake.home.spill.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="events-", dir=lake.home.spill) as temporary:
        folder = Path(temporary)
        files = {table: folder / f"{table}.parquet" for table in tables}
        for table, file in files.items():
            theirs = source.format == "fhir" and "patient" in tables[table]
            left = f" WHERE patient IS NULL OR patient NOT IN (SELECT key FROM {_GONE})" if theirs else ""
            rows = f"SELECT * FROM {identifier(table)}{left}"
            connection.execute(f"COPY ({rows}) TO {literal(file)} (FORMAT parquet)").fetchall()
        made = FolderTarget(folder / "made")
        # A folder has all of a draft that the events are written with.
        build_events(
            files,
            cast("Draft", made),
            format=source.format,
            source=source.name,
            threads=1,
            memory_limit=memory_limit,
            spill=lake.home.spill,
        )
        for name, file in (("events", made.file("data.parquet")), ("subjects", made.file("subjects.parquet"))):
            # A table, not a view: the folder with patients' data goes at once, and not only when all is done.
            path = literal(file)
            connection.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM read_parquet({path})").fetchall()


def _primary(format: str, table: str, deliveries: Iterable[RawDelivery]) -> str:
    """The table that holds the resources of a table of a user's view; for all others the table itself."""
    if format != "fhir":
        return table
    return primary_of(table, [d.tables[table] for d in deliveries if table in d.tables])


def _coded(requests: str) -> str:
    """Medication requests with the code of a Medication that another delivery brought (as `link` does within one)."""
    columns = ", ".join(f"coalesce(r.{name}, m.{name}) AS {name}" for name in ("code_system", "code", "display"))
    return (
        f"SELECT r.* REPLACE ({columns}) FROM ({requests}) AS r LEFT JOIN {identifier('__merged__medication')} AS m "
        "ON r.code IS NULL AND r.display IS NULL AND r.medication = m.key"
    )


def _merged(format: str, table: str, views: list[tuple[int, str]]) -> str:
    """How the deliveries' rows of a table become one table, where they have no keys."""
    if len(views) == 1:
        return f"SELECT * FROM {identifier(views[0][1])}"
    if format == "meds":
        return _newest_codes(views) if table == "codes" else _without_repeats(views)
    return _together(views)


def _without_repeats(views: list[tuple[int, str]]) -> str:
    """All rows of all deliveries, where a row that several deliveries hold stands as often as in the one that has it most.

    An event has no key, so one that is the same in every column is taken for the same event, delivered again.
    """
    numbered = " UNION ALL BY NAME ".join(
        f"SELECT *, {number} AS __delivery FROM {identifier(view)}" for number, view in views
    )
    counted = f"SELECT *, count(*) AS __copies FROM ({numbered}) GROUP BY ALL"
    most = f"SELECT * EXCLUDE (__delivery, __copies), max(__copies) AS __copies FROM ({counted}) GROUP BY ALL"
    return f"SELECT * EXCLUDE (__copies, __copy) FROM (SELECT *, unnest(range(__copies)) AS __copy FROM ({most}))"


def _newest_codes(views: list[tuple[int, str]]) -> str:
    """What the newest delivery that knows a code says of it."""
    numbered = " UNION ALL BY NAME ".join(
        f"SELECT *, {number} AS __delivery FROM {identifier(view)}" for number, view in views
    )
    return (
        f"SELECT * EXCLUDE (__delivery) FROM ({numbered}) "
        "QUALIFY row_number() OVER (PARTITION BY code ORDER BY __delivery DESC) = 1"
    )


def _together(views: list[tuple[int, str]]) -> str:
    return " UNION ALL BY NAME ".join(f"SELECT * FROM {identifier(view)}" for _, view in views)


def _columns(connection: duckdb.DuckDBPyConnection, prefix: str) -> dict[str, dict[str, str]]:
    """Columns and types of the views whose names start with `prefix`, by the rest of the name."""
    rows = connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE starts_with(table_name, ?) ORDER BY table_name, column_index",
        [prefix],
    ).fetchall()
    columns: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        columns.setdefault(table.removeprefix(prefix), {})[column] = kind
    return columns


def _visible(table: str, columns: Mapping[str, str], end: date) -> str:
    """What was known of a FHIR table at the end of the day `end`."""
    whole = identifier(f"__merged__{table}")
    if table not in WHEN:
        return f"SELECT * FROM {whole}"
    after = _after(end)
    changes = {
        name: expression.format(after=after) for name, expression in STATES.get(table, {}).items() if name in columns
    }
    for name in ENDS.get(table, ()):
        for column in (name, f"{name}_text", f"{name}_precision"):
            if column in columns:
                changes[column] = f"CASE WHEN {identifier(name)} >= {after} THEN NULL ELSE {identifier(column)} END"
    replaced = ", ".join(f"{sql} AS {identifier(name)}" for name, sql in changes.items())
    return (
        f"SELECT *{f' REPLACE ({replaced})' if replaced else ''} FROM {whole} "
        f"WHERE {WHEN[table]} IS NULL OR {WHEN[table]} < {after}"
    )


def _after(end: date) -> str:
    """The first moment after the day, as SQL."""
    return f"TIMESTAMP '{(end + timedelta(days=1)).isoformat()}'"
