"""The lake: everything a COHORTLOOM_HOME stores in versions, and the journal, on the disk or on an object store.

What a version is and how it is committed is in `versions.py`; here stands only what belongs together and where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.store.address import StoreAddress
from pipeline.store.connection import connect
from pipeline.store.draft import Draft
from pipeline.store.journal import Journal
from pipeline.store.keys import PartitionKey
from pipeline.store.version import StoredFile, Version
from pipeline.store.versions import VersionStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import duckdb

    from pipeline.store.home import Home

__all__ = ["Draft", "Lake", "PartitionKey", "StoredFile", "Version", "VersionStore"]


class Lake:
    """Tables, models, reports and the journal. Touches no disk and no network when made.

    Args:
        home: COHORTLOOM_HOME.
        address: The object store that holds them; by default the one that COHORTLOOM_STORE names, and the folder
            itself if it names none.

    Raises:
        ConfigError: COHORTLOOM_STORE is no such address.
    """

    def __init__(self, home: Home, address: StoreAddress | None = None) -> None:
        self.home = home
        self.address = address or StoreAddress.from_environment()
        if self.address is None:
            self.tables = VersionStore(home.lake)
            self.models = VersionStore(home.models)
            self.reports = VersionStore(home.reports)
            self.journal = Journal(home.journal)
            return
        from pipeline.store.cache import Cache
        from pipeline.store.object_store import ObjectStore
        from pipeline.store.remote import RemoteFiles

        store, cache = ObjectStore(self.address), Cache(home.cache)
        self.tables = VersionStore(home.lake, RemoteFiles(store.below("lake"), cache))
        self.models = VersionStore(home.models, RemoteFiles(store.below("models"), cache))
        self.reports = VersionStore(home.reports, RemoteFiles(store.below("reports"), cache))
        self.journal = Journal(home.journal, store.below("journal"))

    def connect(
        self, views: Mapping[str, Sequence[Path]], *, threads: int = 1, memory_limit: str = "2GB"
    ) -> duckdb.DuckDBPyConnection:
        """DuckDB in memory with one view a name over exactly these Parquet files (`connection.connect`)."""
        return connect(views, threads=threads, memory_limit=memory_limit, spill=self.home.spill)
