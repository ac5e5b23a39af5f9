"""Taking in a delivery on the lake: its raw tables with the account, and its events. How formats are read: `ingest/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, StoreError
from pipeline.ingest.account import BESIDE_THE_DATA
from pipeline.ingest.events import EVENTS

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.source import SourceSpec
    from pipeline.ingest.account import Account
    from pipeline.ingest.delivery import Delivery
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.compute import Compute

FORMATS_WITH_EVENTS: tuple[str, ...] = tuple(EVENTS)
"""Plain tables say nothing of subjects and times, so no events are made of them."""


def take_in(
    lake: Lake, delivery: Delivery, source: SourceSpec, format: str, compute: Compute, *, run_id: str = ""
) -> tuple[Version, Account]:
    """Read a delivery into `raw/<format>` and give the committed version and the balanced account.

    Raises:
        ConfigError: the delivery's source has another format.
        InputError: the delivery cannot be used as a whole.
        StoreError: it was replaced while it was read.
    """
    if source.format != format:
        raise ConfigError(
            f"Deliveries of '{source.name}' are of format {source.format}, not {format}.",
            where=delivery.key,
            todo=f"Materialise raw/{source.format} for this key.",
        )
    from pipeline.ingest.readers import read_delivery

    folder = delivery.folder.stat().st_ino
    with lake.tables.draft(f"raw/{format}", {"delivery": delivery.key}) as draft:
        account = read_delivery(
            delivery, draft, source, threads=compute.engine_threads, memory_limit=compute.memory_limit
        )
        if not delivery.folder.exists() or delivery.folder.stat().st_ino != folder:
            raise StoreError(
                "The delivery was replaced while it was read.", where=delivery.key, todo="Take it in again."
            )
        info = {"source": delivery.source, "as_of": delivery.as_of.isoformat(), "account": account.to_dict()}
        return draft.commit(inputs=_landed(delivery), info=info, run_id=run_id), account


def _landed(delivery: Delivery) -> dict[str, str]:
    """What a raw version is made from, where that is known: the bytes that were handed over."""
    return {f"landing/{delivery.source}/{delivery.name}": delivery.content} if delivery.content else {}


def taken_in(lake: Lake, delivery: Delivery, source: SourceSpec) -> bool:
    """Is the current raw version, with its events, that of exactly these bytes and this day?"""
    partition = {"delivery": delivery.key}
    raw = lake.tables.current(f"raw/{source.format}", partition)
    same = raw is not None and bool(delivery.content) and raw.inputs == _landed(delivery)
    if raw is None or not same or raw.info["as_of"] != delivery.as_of.isoformat():
        return False
    return source.format not in EVENTS or current_events(lake, raw) is not None


def current_events(lake: Lake, raw: Version) -> Version | None:
    """The events of a delivery, if they were made from this version of its raw tables."""
    events = lake.tables.current("events", raw.partition)
    return events if events is not None and events.inputs.get(raw.label) == raw.sha256 else None


def raw_tables(lake: Lake, raw: Version) -> dict[str, Path]:
    """The Parquet files of a raw version by table name, without what stands beside the data."""
    return {
        name: lake.tables.path(raw, name)
        for name, stored in raw.files.items()
        if stored.rows is not None and name not in BESIDE_THE_DATA
    }


def make_events(lake: Lake, source: SourceSpec, key: str, compute: Compute, *, run_id: str = "") -> Version:
    """Write the MEDS events of a delivery from its raw tables into `events`.

    Raises:
        ConfigError: deliveries of this format have no events.
        NotFoundError: the delivery was not taken in.
    """
    if source.format not in EVENTS:
        raise ConfigError(f"Deliveries of format '{source.format}' have no events.", where=key)
    from pipeline.ingest.events import build_events

    raw = lake.tables.resolve(f"raw/{source.format}", {"delivery": key})
    with lake.tables.draft("events", {"delivery": key}) as draft:
        counts = build_events(
            raw_tables(lake, raw),
            draft,
            format=source.format,
            source=source.name,
            threads=compute.engine_threads,
            memory_limit=compute.memory_limit,
            spill=lake.home.spill,
        )
        info = {"as_of": raw.info["as_of"], "counts": counts}
        return draft.commit(inputs={raw.label: raw.sha256}, info=info, run_id=run_id)
