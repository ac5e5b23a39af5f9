"""Real events out of the house as a MEDS dataset: of a delivery, of a source in a month, or of a cohort's people.

An export is patient data. That it was made is entered in the journal, with counts and hashes; the real split goes along
only where it is asked for. How a dataset is written is in `ingest/meds/export.py`.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, InputError, NotFoundError
from pipeline.features.build import CohortInputs, deliveries_of, raw_delivery
from pipeline.features.merge import add_events, month_days, open_views
from pipeline.ingest.events import EVENTS, code_descriptions
from pipeline.ingest.meds.export import Written, write_dataset
from pipeline.store.disk import remove, storage_errors
from pipeline.workflow.deliveries import raw_tables
from pipeline.workflow.housekeeping import OPERATIONS, note_operation, operator

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

    from pipeline.features.merge import RawDelivery
    from pipeline.features.source import SourceSpec
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute

OPERATION = "export_meds"
TUNING, TRAIN = "tuning", "train"
PARTS = {"train": TRAIN, "holdout": "held_out"}
"""What MEDS calls the parts of our split; the others keep their names, and the tuning part of train is `tuning`."""


@dataclass(frozen=True)
class Export:
    """What is to be exported.

    Attributes:
        name: Of the dataset.
        version: Of the dataset: a delivery's name, or a month.
        source: Whose events.
        delivery: Key of the one delivery whose events are exported; empty where several are merged.
        deliveries: The raw tables that are merged.
        month: Up to the end of which, 'YYYY-MM-01'; empty for a delivery.
        people: Subject, as the cohort writes it, to the part of the split; None for everybody.
    """

    name: str
    version: str
    source: SourceSpec
    delivery: str = ""
    deliveries: tuple[RawDelivery, ...] = ()
    month: str = ""
    people: Mapping[str, str] | None = None


def export_of_delivery(source: SourceSpec, key: str) -> Export:
    """The events of one delivery, as they were made."""
    return Export(source.name, key.partition("--")[2], source, delivery=key)


def export_of_source(lake: Lake, source: SourceSpec, month: str | None = None) -> Export:
    """The events of all deliveries of a source, as a cohort's SQL sees them in a month.

    Args:
        lake: The lake.
        source: The source.
        month: 'YYYY-MM-01'; default that of the newest delivery.

    Raises:
        NotFoundError: no delivery yet, or none by the end of the month.
    """
    known = deliveries_of(source, lake)
    if not known:
        raise NotFoundError(
            f"Source '{source.name}' has no delivery yet.",
            todo=f"Hand one over: cohortloom deliver {source.name} PATH",
        )
    chosen = month or f"{known[-1][1]:%Y-%m}-01"
    end = month_days(chosen)[1]
    usable = [(version, as_of) for version, as_of in known if as_of <= end]
    if not usable:
        raise NotFoundError(
            f"Source '{source.name}' has no delivery by the end of {chosen[:7]}.",
            todo=f"The first usable month is {known[0][1]:%Y-%m}.",
        )
    if source.accumulate == "replace":
        usable = usable[-1:]
    raw = [raw_delivery(lake, source, v.partition["delivery"], v.sha256, as_of) for v, as_of in usable]
    return Export(source.name, chosen[:7], source, deliveries=tuple(raw), month=chosen)


def newest_month(lake: Lake, cohort: str) -> str:
    """The newest month whose features were made, 'YYYY-MM-01'; raises `NotFoundError` where there is none."""
    months = [p["month"] for p in lake.tables.partitions("features") if p["cohort"] == cohort]
    if not months:
        raise NotFoundError(f"The features of cohort '{cohort}' were not made yet.", todo=f"cohortloom run {cohort}")
    return max(months)


def export_of_cohort(lake: Lake, cell: Cell) -> Export:
    """The events of a cohort's people in a month, from the deliveries that its features were made from.

    Raises:
        NotFoundError: the features of the month were not made.
        ConfigError: the rows of the cohort are not of people.
    """
    if cell.spec.subject == "row":
        raise ConfigError(f"The rows of cohort '{cell.cohort}' have no subjects, so it has no people with events.")
    features = lake.tables.current("features", cell.partition)
    if features is None:
        raise NotFoundError(
            f"The features of {cell.cohort} for {cell.month[:7]} were not made.",
            todo=f"cohortloom run {cell.cohort} --month {cell.month[:7]}",
        )
    gathered = next(
        (v for v in lake.tables.history("cohort_inputs", cell.partition) if features.inputs.get(v.label) == v.sha256),
        None,
    )
    if gathered is None:
        raise NotFoundError(
            "What the features were made from is gone from the lake.",
            where=f"{cell.cohort} {cell.month[:7]}",
            todo=f"cohortloom run {cell.cohort} --month {cell.month[:7]}",
        )
    inputs = CohortInputs.from_dict({**gathered.info["inputs"], "provisional": False})
    raw = [raw_delivery(lake, cell.source, key, sha256, as_of) for key, sha256, as_of in inputs.deliveries]
    beside = lake.tables.read(features, "subjects").select(["subject", "split", "tune"]).to_pylist()
    people = {row["subject"]: TUNING if row["tune"] else PARTS.get(row["split"], row["split"]) for row in beside}
    return Export(cell.cohort, cell.month[:7], cell.source, deliveries=tuple(raw), month=cell.month, people=people)


def export_meds(lake: Lake, export: Export, folder: Path, compute: Compute, *, with_split: bool = False) -> Written:
    """Write the dataset into a new folder, whole or not at all, readable by its owner only.

    Args:
        lake: The lake.
        export: What.
        folder: Must not exist, or be empty.
        compute: What may be used.
        with_split: Write subject_splits.parquet too; only a cohort has a split.

    Raises:
        ConfigError: the source's format has no events, the folder is taken, or there is no split to export.
        InputError: there is no event, or the cohort's subjects are not the people of its source.
        NotFoundError: the events of the delivery were not made.
        StoreError: disk full or not writable.
    """
    if export.source.format not in EVENTS:
        raise ConfigError(
            f"Deliveries of format '{export.source.format}' have no events to export.", where=export.source.name
        )
    if with_split and export.people is None:
        raise ConfigError("Only a cohort has a split.", todo="Export a cohort, or leave --with-split out.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("There is something already; nothing is overwritten.", where=str(folder))
    with storage_errors(str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = folder.with_name(f".tmp-{folder.name}-{uuid.uuid4().hex}")
        work.mkdir(mode=0o700)
        try:
            with _events(lake, export, compute) as connection:
                numbers = _choose(connection, export)
                written = write_dataset(
                    connection,
                    work,
                    name=export.name,
                    version=export.version,
                    descriptions=code_descriptions(connection, export.source.format),
                    split=numbers if with_split else None,
                )
            work.replace(folder)
        finally:
            remove(work)
    note_operation(
        lake,
        OPERATION,
        operator(),
        source=export.source.name,
        **({"delivery": export.delivery} if export.delivery else {"dataset": export.name, "month": export.month}),
        **asdict(written),
    )
    return written


def exports_of(lake: Lake, source: str) -> list[str]:
    """What of a source's real events was ever exported, oldest first, each in words: what, and on which day."""
    entries = [e for e in lake.journal.entries(OPERATIONS) if e.get("operation") == OPERATION and e["source"] == source]
    return [f"{e.get('delivery') or e['dataset'] + ' ' + e['month'][:7]}, {e['at'][:10]}" for e in entries]


def _events(lake: Lake, export: Export, compute: Compute) -> duckdb.DuckDBPyConnection:
    """A connection with `events`, `subjects` and the raw tables."""
    if not export.delivery:
        end = month_days(export.month)[1]
        connection, columns = open_views(
            lake,
            export.source,
            export.deliveries,
            end,
            threads=compute.engine_threads,
            memory_limit=compute.memory_limit,
        )
        try:
            add_events(connection, lake, export.source, columns, memory_limit=compute.memory_limit)
        except BaseException:
            connection.close()
            raise
        return connection
    partition = {"delivery": export.delivery}
    events = lake.tables.current("events", partition)
    if events is None:
        raise NotFoundError(
            "There are no events of this delivery.", where=export.delivery, todo="cohortloom deliveries lists them."
        )
    raw = lake.tables.current(f"raw/{export.source.format}", partition)
    views = {name: [path] for name, path in raw_tables(lake, raw).items()} if raw is not None else {}
    views |= {"events": [lake.tables.path(events, "data")], "subjects": [lake.tables.path(events, "subjects")]}
    return lake.connect(views, threads=compute.engine_threads, memory_limit=compute.memory_limit)


def _choose(connection: duckdb.DuckDBPyConnection, export: Export) -> dict[int, str]:
    """Keep the events of the chosen people alone; gives their numbers and parts of the split."""
    import pyarrow as pa

    if export.people is None:
        return {}
    numbers: dict[int, str] = {}
    for number, source_id in connection.execute("SELECT subject_id, source_id FROM subjects").fetchall():
        names = (source_id, f"Patient/{source_id}", str(number))
        part = next((export.people[name] for name in names if name in export.people), None)
        if part is not None:
            numbers[number] = part
    if not numbers:
        raise InputError(
            f"None of the {len(export.people)} subjects of '{export.name}' is a person of source '{export.source.name}'.",
            todo="The subject column of its SQL must hold the source's ids.",
        )
    connection.register("chosen", pa.table({"subject_id": pa.array(sorted(numbers), pa.int64())}))
    connection.execute("ALTER TABLE events RENAME TO all_events").fetchall()
    connection.execute(
        "CREATE TEMP VIEW events AS SELECT * FROM all_events WHERE subject_id IN (SELECT subject_id FROM chosen)"
    ).fetchall()
    return numbers


__all__ = ["Export", "export_meds", "export_of_cohort", "export_of_delivery", "export_of_source", "exports_of"]
