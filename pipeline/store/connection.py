"""DuckDB as the engine over files that the store has resolved: in memory, no lock, nothing fetched from the network.

A connection sees exactly the Parquet files it was given. What does not fit into its memory spills into a folder of
its process, which is gone when the process ends; if it was killed, the next process with that spill folder sweeps it.

For callers: `execute(...)` streams and an open result owns the connection, so call `.fetchall()` even after DDL;
`con.sql(q).to_arrow_table()` gives Arrow.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.store.disk import hold, locked, make_folders, release, remove, storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import duckdb

_spills: dict[tuple[int, Path | None], Path] = {}


def connect(
    views: Mapping[str, Sequence[Path]], *, threads: int = 1, memory_limit: str = "2GB", spill: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection in memory with one view a name.

    Files of one view may differ in columns (missing ones are null); partition folders in their paths add no column.
    The session's TimeZone is UTC; extensions are neither installed nor loaded by themselves.

    Args:
        views: Name of the view to the Parquet files it reads, all of them and nothing else.
        threads: Threads that DuckDB may use.
        memory_limit: Memory that DuckDB may use before it spills, e.g. "2GB".
        spill: Folder for what does not fit; a private temporary folder by default.

    Raises:
        NotFoundError: a view without files.
        StoreError: a file is gone or no Parquet, or the spill folder cannot be made.
        ConfigError: DuckDB refuses `threads` or `memory_limit`.
    """
    import duckdb

    for name, paths in views.items():
        if not paths:
            raise NotFoundError(f"There are no files for the table '{name}'.", todo="Materialise what it comes from.")
        for path in paths:
            if not Path(path).is_file():
                raise StoreError("The file is gone.", where=f"{name}: {Path(path).name}", todo="Resolve again.")
    try:
        connection = duckdb.connect(
            ":memory:",
            config={
                "threads": threads,
                "memory_limit": memory_limit,
                "temp_directory": str(_spill_folder(spill) / uuid.uuid4().hex),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
    except duckdb.Error as error:
        raise ConfigError(f"DuckDB refuses threads={threads}, memory_limit='{memory_limit}': {error}") from error
    try:
        connection.execute("SET TimeZone = 'UTC'").fetchall()
        # It would print to standard output, even into a pipe, whenever a query takes longer than two seconds.
        connection.execute("SET enable_progress_bar = false").fetchall()
        for name, paths in views.items():
            # a path that exists means itself, also where it holds * ? [ (a test holds this)
            files = ", ".join(literal(path) for path in paths)
            try:
                connection.execute(
                    f"CREATE VIEW {identifier(name)} AS "
                    f"SELECT * FROM read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
                ).fetchall()
            except duckdb.Error as error:
                raise StoreError("A file of the table cannot be read as Parquet.", where=name) from error
    except BaseException:
        connection.close()
        raise
    return connection


def confine(connection: duckdb.DuckDBPyConnection, files: Iterable[Path]) -> None:
    """From here on the connection reads these files, writes none but its spill, and lets nobody change a setting.

    For SQL that others wrote: it can read no other file, attach no database and load no extension.
    """
    allowed = ", ".join(literal(path) for path in files)
    connection.execute(f"SET allowed_paths = [{allowed}]").fetchall()
    connection.execute("SET enable_external_access = false").fetchall()
    connection.execute("SET lock_configuration = true").fetchall()


def engine_fault(error: duckdb.Error, where: str) -> StoreError | None:
    """DuckDB's error in our words, where it ran out of memory or disk; None for others.

    To be raised outside the handler: DuckDB's own text may quote rows.

    Args:
        error: The error.
        where: What was worked on, for the message.
    """
    import duckdb

    if isinstance(error, duckdb.OutOfMemoryException):
        todo = "Raise the memory limit (COHORTLOOM_MEMORY)."
        return StoreError("DuckDB needs more memory than it may use.", where=where, todo=todo)
    if isinstance(error, duckdb.IOException):
        todo = "Is the disk full, or was a file changed meanwhile?"
        return StoreError("DuckDB cannot read or write a file.", where=where, todo=todo)
    return None


def literal(text: str | Path) -> str:
    """Text as an SQL literal, quotes doubled."""
    return "'" + str(text).replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as an SQL identifier, quotes doubled."""
    return '"' + name.replace('"', '""') + '"'


def _spill_folder(base: Path | None) -> Path:
    """The folder below `base` that belongs to this process, locked for as long as the process lives."""
    key = (os.getpid(), base)  # a forked child must not share its parent's
    if key not in _spills or not _spills[key].is_dir():
        with storage_errors(str(base or tempfile.gettempdir())):
            parent = Path(tempfile.mkdtemp(prefix="cohortloom-")) if base is None else base
            make_folders(parent)
            own = parent / f"spill-{uuid.uuid4().hex}"
            with locked(parent, where=str(parent)):
                _sweep(parent)
                own.mkdir(mode=0o700)
                hold(own)  # never released: the kernel does when the process ends
            atexit.register(_forget, os.getpid(), parent if base is None else own)
            _spills[key] = own
    return _spills[key]


def _sweep(parent: Path) -> None:
    """Remove the spill folders of processes that are gone."""
    for folder in parent.glob("spill-*"):
        descriptor = hold(folder)
        if descriptor is not None:
            remove(folder)
            release(descriptor)


def _forget(owner: int, folder: Path) -> None:
    if os.getpid() == owner:
        remove(folder)
