"""Versions and pointers: every asset partition is a row of immutable versions, one of which is the current one.

    <root>/<asset key>/<dimension>=<key>/.../v-<time>-<hash>/<files>, _version.json     never changed once named
                                             _current.json                             replaced atomically
                                             _retired-<version>                        since when it is not current

Readers resolve a pointer first and then read files that nobody changes: they never see half a write, take no lock
and hold up nobody. The last commit of a partition wins as a whole. A killed writer leaves a `.tmp-*` folder (or a
version nobody points to), which `collect` takes away. How names are checked is in `keys.py`, writing in `draft.py`.
"""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import NotFoundError, StoreError, nearest
from pipeline.store.backend import Backend, LocalBackend, ValueChanged
from pipeline.store.connection import connect
from pipeline.store.disk import (
    full_disk,
    hold,
    locked,
    make_folders,
    release,
    remove,
    storage_errors,
    sync_folder,
    write_new,
)
from pipeline.store.draft import Draft
from pipeline.store.hashing import sha256_file
from pipeline.store.journal import Journal
from pipeline.store.keys import (
    DRAFT,
    POINTER,
    RECORD,
    RETIRED,
    TRASH,
    VERSION,
    PartitionKey,
    asset_key,
    file_name,
    label,
    partition_key,
)
from pipeline.store.version import StoredFile, Version, content_hash

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import duckdb
    import pyarrow as pa

    from pipeline.store.home import Home

__all__ = ["Draft", "Lake", "PartitionKey", "StoredFile", "Version", "VersionStore"]


class VersionStore:
    """Versioned partitions of assets below one folder: the lake, the models or the reports."""

    def __init__(self, root: Path, backend: Backend | None = None) -> None:
        self.root = Path(root)
        self.backend: Backend = backend or LocalBackend(self.root)

    # ---- reading

    def current(self, asset: str, partition: PartitionKey) -> Version | None:
        """The version that the partition's pointer names, or None. Reads the pointer, no data.

        Raises:
            ConfigError: the store takes no such asset or partition key.
            StoreError: the pointer is broken or cannot be read.
        """
        return self.current_at(label(asset, partition))

    def current_at(self, where: str) -> Version | None:
        """`current` by label."""
        stored = self.backend.get(f"{where}/{POINTER}")
        return None if stored is None else Version.from_bytes(stored.data, where=where)

    def resolve(self, asset: str, partition: PartitionKey) -> Version:
        """`current`, or `NotFoundError` that names asset and partition."""
        version = self.current(asset, partition)
        if version is None:
            words = ", ".join(f"{k} {v}" for k, v in partition_key(partition).items()) or "the whole asset"
            raise NotFoundError(f"There is no version of '{asset}' for {words}.", todo="Materialise it first.")
        return version

    def partitions(self, asset: str) -> list[dict[str, str]]:
        """The partitions of an asset that have a pointer, sorted. Lists folders, opens no file."""
        return sorted(self._partitions(asset_key(asset), {}), key=lambda partition: sorted(partition.items()))

    def _partitions(self, key: str, partition: dict[str, str]) -> Iterator[dict[str, str]]:
        names = self.backend.list(key)
        if POINTER in names:
            yield partition
        for name in names:
            if name.endswith("/") and "=" in name:
                dimension, _, value = name[:-1].partition("=")
                yield from self._partitions(f"{key}/{name[:-1]}", {**partition, dimension: value})

    def assets(self) -> list[str]:
        """The asset keys that have at least one partition with a pointer, sorted."""
        return sorted(self._assets(""))

    def _assets(self, key: str) -> Iterator[str]:
        if key and next(self._partitions(key, {}), None) is not None:
            yield key
        for name in self.backend.list(key):
            if name.endswith("/") and "=" not in name and name[0] not in "._" and not VERSION.fullmatch(name[:-1]):
                yield from self._assets(f"{key}/{name[:-1]}".lstrip("/"))

    def history(self, asset: str, partition: PartitionKey) -> list[Version]:
        """The versions of a partition that are or were current and have not been collected, newest first.

        Where the pointer is broken nobody knows which one was current: then all whole versions are given.
        """
        where = label(asset, partition)
        names = self.backend.list(where)
        current = self._sound_current(where)
        versions = []
        for name in sorted((name[:-1] for name in names if VERSION.fullmatch(name[:-1])), reverse=True):
            was_current = f"{RETIRED}{name}" in names or (current is not None and current.version == name)
            if was_current or (current is None and POINTER in names):
                stored = self.backend.get(f"{where}/{name}/{RECORD}")
                if stored is not None:  # collected meanwhile
                    versions.append(Version.from_bytes(stored.data, where=where))
        return versions

    def path(self, version: Version, name: str) -> Path:
        """Where a file or folder of a version lies: by its key ("data"), its path, or a folder ("replicate-0").

        Raises:
            NotFoundError: the version has no such file or folder.
        """
        folder = self.root / version.label / version.version
        stored = version.files.get(name)
        if stored is not None:
            return folder / stored.file
        files = [file.file for file in version.files.values()]
        if name in files or any(file.startswith(f"{name}/") for file in files):
            return folder / file_name(name)
        raise NotFoundError(
            f"There is no '{name}' in this version.", where=version.label, todo=nearest(name, list(version.files))
        )

    def read(self, version: Version, name: str = "data") -> pa.Table:
        """A Parquet file of a version as a table. Checks no hash: `verify` does.

        Raises:
            NotFoundError: the version has no such file.
            StoreError: the file is gone or broken.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path(version, name)
        try:
            with storage_errors(f"{version.label}/{name}"), pq.ParquetFile(path) as file:
                return file.read()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise StoreError("The file is not readable as Parquet.", where=f"{version.label}/{name}") from None

    def verify(self, version: Version) -> None:
        """Read every file of the version again.

        Raises:
            StoreError: a file is missing, its hash is another one, or the record does not belong to its files.
        """
        folder = self.root / version.label / version.version
        todo = "Roll back to a version that is whole, or materialise the partition again."
        for stored in version.files.values():
            where = f"{version.label}/{version.version}/{stored.file}"
            with storage_errors(where):
                try:
                    digest = sha256_file(folder / stored.file)
                except (FileNotFoundError, NotADirectoryError):
                    raise StoreError("The file is missing.", where=where, todo=todo) from None
            if digest != stored.sha256:
                raise StoreError(
                    f"The file's sha256 is {digest[:12]} and should be {stored.sha256[:12]}.", where=where, todo=todo
                )
        if content_hash(version.files, version.info) != version.sha256:
            raise StoreError("The record's hash does not belong to its files.", where=version.label, todo=todo)

    # ---- writing

    @contextmanager
    def draft(self, asset: str, partition: PartitionKey) -> Iterator[Draft]:
        """A draft of a new version; what is not committed when the block ends is removed.

        Raises:
            ConfigError: the store takes no such asset or partition key.
            StoreError: disk full or not writable, also when the block itself ran into a full disk.
        """
        where = label(asset, partition)
        folder = self.root / where
        work = folder / f"{DRAFT}{uuid.uuid4().hex}"
        with storage_errors(where):
            make_folders(folder)
            with locked(folder, where=where):  # the collector must not meet the folder before its lock is taken
                work.mkdir(mode=0o700)
                try:
                    alive = hold(work)
                except BaseException:
                    work.rmdir()
                    raise
        try:
            yield Draft(work, where, partial(self._publish, asset, partition_key(partition)))
        except BaseException as error:
            if (full := full_disk(error, where)) is not None:
                raise full from error
            raise
        finally:
            try:
                with storage_errors(where):
                    remove(work)
            finally:
                if alive is not None:
                    release(alive)

    def _publish(
        self,
        asset: str,
        partition: dict[str, str],
        work: Path,
        files: dict[str, StoredFile],
        inputs: dict[str, str],
        info: dict[str, Any],
        run_id: str,
    ) -> Version:
        """Give the draft in `work` its name and point to it, alone in this partition for these milliseconds."""
        where = label(asset, partition)
        folder = self.root / where
        digest = content_hash(files, info)
        with storage_errors(where), locked(folder, where=where):
            version = Version(
                asset=asset,
                partition=partition,
                version=f"v-{self._next_stamp(where):016x}-{digest[:12]}",
                sha256=digest,
                files=files,
                inputs=inputs,
                info=info,
                run_id=run_id,
                written_at=datetime.now(UTC).isoformat(timespec="microseconds"),
            )
            target = folder / version.version
            try:
                write_new(work / RECORD, version.to_bytes())
                sync_folder(work)
                work.rename(target)
                sync_folder(folder)
                self._point_to(version)
            except BaseException:
                if not self._points_to(version):
                    remove(target)
                raise
        return version

    def _next_stamp(self, where: str) -> int:
        """Nanoseconds since 1970, later than every version of the partition even where the clock went back."""
        stamps = [int(name.split("-")[1], 16) for name in self.backend.list(where) if VERSION.fullmatch(name[:-1])]
        return max([time.time_ns(), *[stamp + 1 for stamp in stamps]])

    def _point_to(self, version: Version) -> None:
        """Replace the partition's pointer; the caller holds the partition's lock."""
        where = version.label
        before = self._sound_current(where)
        if before is not None and f"{before.version}/" in self.backend.list(where):
            # Marked before the pointer moves: a kill in between leaves a mark on the current version, which is
            # renewed when it really retires. The other way round it would leave a version without history.
            self._put(f"{where}/{RETIRED}{before.version}", str(time.time_ns()).encode())
        self._put(f"{where}/{POINTER}", version.to_bytes())

    def _put(self, key: str, data: bytes) -> None:
        """The last one to write wins, also against a writer on another machine that our lock does not reach."""
        while True:
            found = self.backend.get(key)
            try:
                self.backend.put_if_match(key, data, found.etag if found else None)
                return
            except ValueChanged:
                continue

    def _sound_current(self, where: str) -> Version | None:
        """The current version, None also where the pointer is broken: replacing the pointer mends it."""
        try:
            return self.current_at(where)
        except StoreError:
            return None

    def _points_to(self, version: Version) -> bool:
        try:
            current = self.current_at(version.label)
        except StoreError:
            return True  # cannot be told: rather leave a version too many than a pointer to nothing
        return current is not None and current.version == version.version

    # ---- maintenance

    def rollback(self, asset: str, partition: PartitionKey, version: str) -> Version:
        """Make an earlier version of the partition the current one again, after checking that it is whole.

        Args:
            asset: Asset key.
            partition: Partition.
            version: Name of the version (`Version.version`), one of `history`.

        Raises:
            NotFoundError: the partition has no such version, or it has been collected.
            StoreError: the version is damaged (the pointer then stays), or the disk fails.
        """
        where = label(asset, partition)
        if not (self.root / where).is_dir():
            raise NotFoundError("There is no such partition.", where=where)
        with storage_errors(where), locked(self.root / where, where=where):
            known = {entry.version: entry for entry in self.history(asset, partition)}
            if version not in known:
                raise NotFoundError(
                    f"There is no version '{version}'.", where=where, todo=nearest(version, list(known))
                )
            self.verify(known[version])
            if self._sound_current(where) != known[version]:
                self._point_to(known[version])
        return known[version]

    def purge(self, version: Version) -> bool:
        """Remove a version for good, also if it is the current one (the partition then has none); was it there?

        For data that must go (an erased person, a withdrawn release), not for saving space: `collect` does that.

        Raises:
            StoreError: the disk fails, or somebody holds the partition's lock for too long.
        """
        where = version.label
        folder = self.root / where
        if not folder.is_dir():
            return False
        with storage_errors(where), locked(folder, where=where):
            current = self._sound_current(where)
            if current is not None and current.version == version.version:
                self.backend.delete(f"{where}/{POINTER}")
                sync_folder(folder)
            self.backend.delete(f"{where}/{RETIRED}{version.version}")
            target = folder / version.version
            there = target.is_dir()
            if there:
                hidden = folder / f"{TRASH}{uuid.uuid4().hex}"
                target.rename(hidden)
                sync_folder(folder)
                remove(hidden)
        return there

    def collect(self, *, keep: int = 1, grace_seconds: float = 3600.0) -> int:
        """Remove old versions and what killed writers left; gives the number of things removed.

        The current version always stays, and so do the newest `keep` that are or were current. Everything else
        goes when it has not been current for `grace_seconds`: a reader that resolves a pointer has that long to
        read. Drafts of living processes stay, however old.

        Raises:
            ConfigError: a negative argument.
            StoreError: a pointer is broken or a lock was not to be had (all other partitions were collected).
        """
        from pipeline.store.collector import collect

        return collect(self, keep=keep, grace_seconds=grace_seconds)


class Lake:
    """Everything below COHORTLOOM_HOME that is stored in versions, and the journal. Touches no disk when made."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.tables = VersionStore(home.lake)
        self.models = VersionStore(home.models)
        self.reports = VersionStore(home.reports)
        self.journal = Journal(home.journal)

    def connect(
        self, views: Mapping[str, Sequence[Path]], *, threads: int = 1, memory_limit: str = "2GB"
    ) -> duckdb.DuckDBPyConnection:
        """DuckDB in memory with one view a name over exactly these Parquet files (`connection.connect`)."""
        return connect(views, threads=threads, memory_limit=memory_limit, spill=self.home.spill)
