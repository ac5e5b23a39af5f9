"""`catalog.duckdb`: one read-only DuckDB file over the current versions of the lake, for notebooks and BI.

Feature tables, synthetic rows, releases and metrics are real tables in it; raw tables and events are views over the
lake's files.
It is built aside and swapped in, so readers are never blocked: those who have it open keep the old one. Columns that
are not data (month, subject, split ...) start with an underscore.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.store.connection import identifier, literal
from pipeline.store.disk import storage_errors
from pipeline.store.hashing import sha256_json
from pipeline.workflow.deliveries import raw_tables
from pipeline.workflow.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import duckdb

    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.compute import Compute

BLOCK = "block_"
EVENTS = "events"


@dataclass(frozen=True)
class Published:
    """What a catalogue holds.

    Attributes:
        path: The file.
        tables: "schema.table" to rows; views have None.
        inputs: Label to sha256 of every version in it.
    """

    path: Path
    tables: dict[str, int | None] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash of what it was made from; the file's own bytes differ from build to build."""
        return sha256_json(self.inputs)


def publish_catalog(lake: Lake, compute: Compute) -> Published:
    """Build the catalogue from the current versions and swap it in.

    Raises:
        StoreError: disk full or not writable, or a file of the lake is gone.
    """
    import duckdb

    parts, inputs = _parts(lake)
    target = lake.home.catalog
    work = target.with_name(f".tmp-catalog-{uuid.uuid4().hex}.duckdb")
    problem: ConfigError | None = None
    tables: dict[str, int | None] = {}
    try:
        with storage_errors("catalog"):
            connection = duckdb.connect(
                str(work),
                config={
                    "threads": compute.engine_threads,
                    "memory_limit": compute.memory_limit,
                    "autoinstall_known_extensions": False,
                    "autoload_known_extensions": False,
                },
            )
            try:
                tables = _fill(connection, parts)
            except duckdb.Error as error:
                if isinstance(error, duckdb.IOException):
                    raise
                # DuckDB's text may quote cells.
                problem = ConfigError(f"The catalogue could not be built ({type(error).__name__}).", where=target.name)
            finally:
                connection.close()
            if problem is None:
                work.chmod(0o600)
                with work.open("rb") as file:
                    os.fsync(file.fileno())
                work.replace(target)
    finally:
        work.unlink(missing_ok=True)
        work.with_name(f"{work.name}.wal").unlink(missing_ok=True)
    if problem is not None:
        raise problem
    return Published(target, tables, inputs)


Parts = dict[tuple[str, str, bool], list[str]]
"""(schema, table, is it a view?) to the SELECTs that are put one below the other."""


def _parts(lake: Lake) -> tuple[Parts, dict[str, str]]:
    parts: Parts = {}
    inputs: dict[str, str] = {}

    def add(schema: str, table: str, select: str, version: Version, *, view: bool = False) -> None:
        parts.setdefault((schema, table, view), []).append(select)
        inputs[version.label] = version.sha256

    for version in _current(lake, lambda asset: asset == "features"):
        month = _literals({"_month": version.partition["month"]})
        beside = "_row, _subject, _split, _tune"
        for table, select in _cohort(lake, version, month, beside):
            add("features", table, select, version)
    for version in _current(lake, lambda asset: asset.startswith("synthetic/")):
        if Record.of(version).ok:
            marks = {"_month": version.partition["month"], "_generator": version.asset.partition("/")[2]}
            for table, select in _cohort(lake, version, _literals(marks), "_row, _replicate, _draw"):
                add("synthetic", table, select, version)
    for version in _current(
        lake, lambda asset: asset in ("references", "leaderboard") or asset.startswith("evaluation/")
    ):
        if "data" in version.files:
            stage, _, generator = version.asset.partition("/")
            marks = {"_cohort": version.partition["cohort"], "_month": version.partition["month"]}
            select = f"SELECT {_literals({**marks, **({'_generator': generator} if generator else {})})}, * FROM {_file(lake, version, 'data')}"
            add("metrics", stage, select, version)
    for row, version in _released(lake):
        told = _literals({"_month": version.partition["month"], "_release": row})
        blocks = list(_blocks(lake, version, told))
        if "data" in version.files:
            number = ", file_row_number AS _row, * EXCLUDE (file_row_number)" if blocks else ", *"
            select = f"SELECT {told}{number} FROM {_file(lake, version, 'data', numbered=bool(blocks))}"
            add("released", version.partition["cohort"], select, version)
        for table, select in blocks:
            add("released", table, select, version)
    for version in _current(lake, lambda asset: asset.startswith("raw/") or asset == "events"):
        schema = version.asset.replace("/", "_")
        for table in raw_tables(lake, version):
            marks = {"_delivery": version.partition["delivery"]}
            add(schema, table, f"SELECT {_literals(marks)}, * FROM {_file(lake, version, table)}", version, view=True)
    return parts, inputs


def _released(lake: Lake) -> Iterable[tuple[str, Version]]:
    """Every release that was not withdrawn, as (id, payload); one without Parquet is read by nobody but people."""
    from pipeline.workflow.released import published_versions

    for version in published_versions(lake):
        if any(name in ("data", EVENTS) or name.startswith(BLOCK) for name in version.files):
            yield str(version.info["release_id"]), version


def _cohort(lake: Lake, version: Version, marks: str, beside: str) -> Iterable[tuple[str, str]]:
    """The rows of a stored cohort with what stands beside them, and its code blocks, as (table, SELECT)."""
    cohort = version.partition["cohort"]
    known = version.files["subjects"].schema or {}
    renamed = {"subject": "_subject", "split": "_split", "tune": "_tune", "_replicate": "_replicate", "_draw": "_draw"}
    wanted = beside.split(", ")
    columns = [
        f"s.{identifier(have)} AS {identifier(name)}"
        for have, name in renamed.items()
        if name in wanted and have in known
    ]
    subjects = f"{_file(lake, version, 'subjects', numbered=True)} s"
    data = f" JOIN {_file(lake, version, 'data', numbered=True)} d USING (file_row_number)"
    # A cohort of code blocks alone: DuckDB reads no Parquet file without columns.
    told = ", d.* EXCLUDE (file_row_number)" if version.files["data"].schema else ""
    yield (
        cohort,
        f"SELECT {marks}, s.file_row_number AS _row, {', '.join(columns)}{told} "
        f"FROM {subjects}{data if told else ''} ORDER BY _row",
    )
    yield from _blocks(lake, version, marks)


def _blocks(lake: Lake, version: Version, marks: str) -> Iterable[tuple[str, str]]:
    """The code blocks of a stored cohort as long tables (row, code, value), and its visits (row, visit, time, code)."""
    for name in version.files:
        if name.startswith(BLOCK) and version.files[name].schema is not None:
            table = f"{version.partition['cohort']}__{name.removeprefix(BLOCK)}"
            yield table, f'SELECT {marks}, "row" AS _row, code, value FROM {_file(lake, version, name)}'
    if EVENTS in version.files and version.files[EVENTS].schema is not None:
        table = f"{version.partition['cohort']}__{EVENTS}"
        yield table, f'SELECT {marks}, "row" AS _row, visit, time, code FROM {_file(lake, version, EVENTS)}'


def _current(lake: Lake, wanted: Callable[[str], bool]) -> Iterable[Version]:
    for asset in lake.tables.assets():
        if wanted(asset):
            for partition in lake.tables.partitions(asset):
                version = lake.tables.current(asset, partition)
                if version is not None:
                    yield version


def _fill(connection: duckdb.DuckDBPyConnection, parts: Parts) -> dict[str, int | None]:
    rows: dict[str, int | None] = {}
    for schema in sorted({schema for schema, _, _ in parts}):
        connection.execute(f"CREATE SCHEMA {identifier(schema)}").fetchall()
    for (schema, table, view), selects in sorted(parts.items()):
        name = f"{identifier(schema)}.{identifier(table)}"
        body = " UNION ALL BY NAME ".join(f"({select})" for select in selects)
        connection.execute(f"CREATE {'VIEW' if view else 'TABLE'} {name} AS {body}").fetchall()
        count = None if view else int(connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0])
        rows[f"{schema}.{table}"] = count
    connection.execute("CHECKPOINT").fetchall()
    return rows


def _file(lake: Lake, version: Version, name: str, *, numbered: bool = False) -> str:
    path = literal(lake.tables.path(version, name))
    return f"read_parquet({path}, hive_partitioning = false{', file_row_number = true' if numbered else ''})"


def _literals(marks: Mapping[str, str]) -> str:
    """Constant columns; months become dates."""
    made = []
    for name, text in marks.items():
        made.append(f"{'DATE ' if name == '_month' else ''}{literal(text)} AS {identifier(name)}")
    return ", ".join(made)
