"""Taking in a delivery on the lake: its raw tables with the account, and its events. How formats are read: `ingest/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
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
    """
    if source.format != format:
        raise ConfigError(
            f"Deliveries of '{source.name}' are of format {source.format}, not {format}.",
            where=delivery.key,
            todo=f"Materialise raw/{source.format} for this key.",
        )
    from pipeline.ingest.readers import read_delivery

    with lake.tables.draft(f"raw/{format}", {"delivery": delivery.key}) as draft:
        account = read_delivery(
            delivery, draft, source, threads=compute.engine_threads, memory_limit=compute.memory_limit
        )
        info = {"source": delivery.source, "as_of": delivery.as_of.isoformat(), "account": account.to_dict()}
        return draft.commit(info=info, run_id=run_id), account


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
