"""Which reader takes which format: `read_delivery`, the one way from a delivery to raw tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import NotFoundError, nearest
from pipeline.store.home import Home

if TYPE_CHECKING:
    from pipeline.ingest.account import Account
    from pipeline.ingest.delivery import Delivery
    from pipeline.store.draft import Draft

FORMATS = ("fhir", "table")


def read_delivery(
    format: str,
    delivery: Delivery,
    draft: Draft,
    *,
    threads: int = 2,
    memory_limit: str = "2GB",
    quarantine_limit: float = 0.05,
) -> Account:
    """Read a delivery into the raw tables and the `quarantine` table of a draft; commits nothing.

    Args:
        format: "fhir" or "table".
        delivery: The delivery.
        draft: Where the tables go.
        threads: Threads of DuckDB, and processes beside it where files have to be taken apart.
        memory_limit: DuckDB's memory, e.g. "2GB".
        quarantine_limit: Highest admissible share of quarantined records, 0 to 1.

    Returns:
        The balanced account.

    Raises:
        NotFoundError: No such format.
        InputError: Empty delivery, another FHIR version, a table that cannot be read, too many quarantined records.
        StoreError: No space.
    """
    root = delivery.folder.parents[2]
    spill = Home(root).spill if delivery.folder == Home(root).landing / delivery.source / delivery.name else None
    if format == "fhir":
        from pipeline.ingest.fhir import read_fhir as read
    elif format == "table":
        from pipeline.ingest.tables import read_tables as read
    else:
        raise NotFoundError(f"There is no reader for '{format}'.", todo=nearest(format, list(FORMATS)))
    return read(
        delivery, draft, threads=threads, memory_limit=memory_limit, quarantine_limit=quarantine_limit, spill=spill
    )
