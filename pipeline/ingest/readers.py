"""Which reader takes which format: `read_delivery`, the one way from a delivery to raw tables."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from pipeline.ingest.reading import Reading
from pipeline.store.connection import engine_fault
from pipeline.store.home import Home

if TYPE_CHECKING:
    from pipeline.features.source import Format, SourceSpec
    from pipeline.ingest.account import Account
    from pipeline.ingest.delivery import Delivery
    from pipeline.store.draft import Draft

    Reader = Callable[[Delivery, Draft, Reading], Account]

READERS: Final[Mapping[Format, str]] = {
    "fhir": "pipeline.ingest.fhir.reader:read_fhir",
    "mimic3": "pipeline.ingest.mimic.reader:read_mimic3",
    "mimic4": "pipeline.ingest.mimic.reader:read_mimic4",
    "meds": "pipeline.ingest.meds.reader:read_meds",
    "table": "pipeline.ingest.tables.reader:read_tables",
}
"""Format to module and function; imported when first used."""


def read_delivery(
    delivery: Delivery, draft: Draft, source: SourceSpec, *, threads: int = 2, memory_limit: str = "2GB"
) -> Account:
    """Read a delivery into the raw tables of a draft and what stands beside them; commits nothing.

    Beside the tables: `quarantine` (every record set aside), `delivered_files` (what became of each file), and for FHIR
    `deleted_resources`.

    Args:
        delivery: The delivery.
        draft: Where the tables go.
        source: Its source, which says the format and how to read it.
        threads: Threads of DuckDB, and processes beside it where files have to be taken apart.
        memory_limit: DuckDB's memory, e.g. "2GB".

    Returns:
        The balanced account.

    Raises:
        InputError: Empty delivery, another FHIR version, no table that can be read, too many quarantined records.
        StoreError: No space.
    """
    import duckdb

    root = delivery.folder.parents[2]
    spill = Home(root).spill if delivery.folder == Home(root).landing / delivery.source / delivery.name else None
    module, _, name = READERS[source.format].partition(":")
    read: Reader = getattr(importlib.import_module(module), name)
    try:
        return read(delivery, draft, Reading(source, threads, memory_limit, spill))
    except duckdb.Error as error:
        fault = engine_fault(error, delivery.key)
        if fault is None:
            raise
    raise fault
