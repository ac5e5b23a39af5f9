"""Versions and pointers: every asset partition is a row of immutable versions, one of which is the current one.

    <asset key>/<dimension>=<key>/.../v-<time>-<hash>/<files>, _version.json     never changed once named
                                      _current.json                             replaced atomically
                                      _retired-<version>                        since when it is not current

Readers resolve a pointer first and then read files that nobody changes: they never see half a write, take no lock
and hold up nobody. The last commit of a partition wins as a whole. What a killed writer leaves nobody points to, and
`collect` takes it away. Where all this lies, and who may touch a version, is in `files.py` and `remote.py`; how names
are checked in `keys.py`, writing in `draft.py`.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import NotFoundError, StoreError, nearest
from pipeline.store.backend import ValueChanged
from pipeline.store.disk import full_disk, storage_errors
from pipeline.store.draft import Draft
from pipeline.store.files import Busy, Hold, LocalFiles, VersionFiles
from pipeline.store.keys import (
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
    from collections.abc import Callable, Iterator

    import pyarrow as pa


class VersionStore:
    """Versioned partitions of assets in one place: the lake, the models or the reports.

    Args:
        root: The folder that holds them.
        files: Another place for them; then nothing lies in `root`.
    """

    def __init__(self, root: Path, files: VersionFiles | None = None) -> None:
        self.root = Path(root)
        self.files: VersionFiles = files or LocalFiles(self.root)
        self.backend = self.files.backend

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
        found = _partitions(self.backend.survey(asset_key(asset)), asset, {})
        return sorted(found, key=lambda partition: sorted(partition.items()))

    def assets(self) -> list[str]:
        """The asset keys that have at least one partition with a pointer, sorted."""
        return sorted(_assets(self.backend.survey(""), ""))

    def history(self, asset: str, partition: PartitionKey) -> list[Version]:
        """The versions of a partition that are or were current and have not been collected, newest first.

        Where the pointer is broken nobody knows which one was current: then all whole versions are given.
        """
        where = label(asset, partition)
        names = self.backend.list(where)
        current = self._sound_current(where)
        versions = []
        for name in sorted((name[:-1] for name in names if VERSION.fullmatch(name[:-1])), reverse=True):
            if f"{TRASH}{name}" in names:
                continue  # being removed
            was_current = f"{RETIRED}{name}" in names or (current is not None and current.version == name)
            if was_current or (current is None and POINTER in names):
                stored = self.backend.get(f"{where}/{name}/{RECORD}")
                if stored is not None:  # collected meanwhile
                    versions.append(Version.from_bytes(stored.data, where=where))
        return versions

    def path(self, version: Version, name: str) -> Path:
        """Where a file or folder of a version lies: by its key ("data"), its path, or a folder ("replicate-0").

        On an object store that is a copy on this machine, fetched now if need be; what stands beside it may be
        missing (`folder` fetches all).

        Raises:
            NotFoundError: the version has no such file or folder.
            StoreError: the copy cannot be fetched, or is not what was committed.
        """
        stored = version.files.get(name)
        if stored is not None:
            return self.files.fetch(version, [stored]) / stored.file
        inside = [file for file in version.files.values() if file.file == name or file.file.startswith(f"{name}/")]
        if inside:
            return self.files.fetch(version, inside) / file_name(name)
        raise NotFoundError(
            f"There is no '{name}' in this version.", where=version.label, todo=nearest(name, list(version.files))
        )

    def folder(self, version: Version) -> Path:
        """Where all files of a version lie together, on this machine. Raises as `path`."""
        return self.files.fetch(version, list(version.files.values()))

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
        """Read every file of the version again where it lies; a copy on this machine that is another one is dropped.

        So what is read from now on is what was verified, on an object store, too.

        Raises:
            StoreError: a file is missing, its hash is another one, or the record does not belong to its files.
        """
        todo = "Roll back to a version that is whole, or materialise the partition again."
        for stored in version.files.values():
            where = f"{version.label}/{version.version}/{stored.file}"
            with storage_errors(where):
                digest = self.files.digest(version, stored)
            if digest is None:
                raise StoreError("The file is missing.", where=where, todo=todo)
            if digest != stored.sha256:
                raise StoreError(
                    f"The file's sha256 is {digest[:12]} and should be {stored.sha256[:12]}.", where=where, todo=todo
                )
        if content_hash(version.files, version.info) != version.sha256:
            raise StoreError("The record's hash does not belong to its files.", where=version.label, todo=todo)
        self.files.recheck(version)

    # ---- writing

    @contextmanager
    def draft(self, asset: str, partition: PartitionKey) -> Iterator[Draft]:
        """A draft of a new version; what is not committed when the block ends is removed.

        Raises:
            ConfigError: the store takes no such asset or partition key.
            StoreError: disk full or not writable, also when the block itself ran into a full disk.
        """
        where = label(asset, partition)
        with self.files.draft(where) as work:
            try:
                yield Draft(work, where, partial(self._publish, asset, partition_key(partition)))
            except BaseException as error:
                if (full := full_disk(error, where)) is not None:
                    raise full from error
                raise

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
        """Give the draft in `work` its name and point to it."""
        where = label(asset, partition)
        digest = content_hash(files, info)
        with storage_errors(where), self.files.alone(where):
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
            with self._holding(version) as held:
                try:
                    self.files.put(version, work, held)
                    self._point_to(version, held)
                except BaseException:
                    if not self._points_to(version):
                        self.files.withdraw(version)
                    raise
        return version

    @contextmanager
    def _holding(self, version: Version) -> Iterator[Hold]:
        try:
            with self.files.holding(version.label, version.version) as held:
                yield held
        except Busy:
            raise StoreError(
                "Somebody else is working on this version.",
                where=f"{version.label}/{version.version}",
                todo="Wait until it is done. Who was killed over it counts as alive for a quarter of an hour.",
            ) from None

    def _next_stamp(self, where: str) -> int:
        """Nanoseconds since 1970, later than every version of the partition even where the clock went back.

        By how much is left to chance: two machines whose clocks are behind must not come to the same name.
        """
        stamps = [int(name.split("-")[1], 16) for name in self.backend.list(where) if VERSION.fullmatch(name[:-1])]
        return max([self.backend.clock(), *[stamp + random.randrange(1, 1000) for stamp in stamps]])

    def _point_to(self, version: Version, held: Hold) -> None:
        """Replace the partition's pointer by one to a version that the caller holds."""
        where = version.label
        data = version.to_bytes()
        while True:
            found = self.backend.get(f"{where}/{POINTER}")
            before = self._sound_current(where)
            if before is not None and f"{before.version}/" in self.backend.list(where):
                # Marked before the pointer moves: a kill in between leaves a mark on the current version, which is
                # renewed when it really retires. The other way round it would leave a version without history.
                self._mark(f"{where}/{RETIRED}{before.version}")
            held.renew()  # whoever took us for dead may have removed the version
            try:
                self.backend.put_if_match(f"{where}/{POINTER}", data, found.etag if found else None)
                return
            except ValueChanged:  # a writer whom no lock of ours reaches was faster: it retires, we come last
                continue

    def _mark(self, key: str) -> None:
        """Note the present as the time since when a version is not current."""
        while True:
            found = self.backend.get(key)
            try:
                self.backend.put_if_match(key, str(self.backend.clock()).encode(), found.etag if found else None)
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
        if not self.backend.list(where):
            raise NotFoundError("There is no such partition.", where=where)
        with storage_errors(where), self.files.alone(where):
            known = {entry.version: entry for entry in self.history(asset, partition)}
            if version not in known:
                raise NotFoundError(
                    f"There is no version '{version}'.", where=where, todo=nearest(version, list(known))
                )
            with self._holding(known[version]) as held:
                if known[version] not in self.history(asset, partition):  # until now it could be collected
                    raise NotFoundError(f"The version '{version}' has just been collected.", where=where)
                self.verify(known[version])
                if self._sound_current(where) != known[version]:
                    self._point_to(known[version], held)
        return known[version]

    def purge(self, version: Version) -> bool:
        """Remove a version for good, also if it is the current one (the partition then has none); was it there?

        For data that must go (an erased person, a withdrawn release), not for saving space: `collect` does that.

        Raises:
            StoreError: the disk fails, or somebody else works on the partition or the version for too long.
        """
        where = version.label
        if not self.backend.list(where):
            return False
        with storage_errors(where), self.files.alone(where), self._holding(version):
            self._point_away(version)
            self.backend.delete(f"{where}/{RETIRED}{version.version}")
            there = f"{version.version}/" in self.backend.list(where)
            if there:
                self.files.hide(where, version.version)
                self.files.empty(where)
        return there

    def _point_away(self, version: Version) -> None:
        """Take the pointer away if it names this version. Who holds a version is the only one to point to it."""
        key = f"{version.label}/{POINTER}"
        while (found := self.backend.get(key)) is not None:
            current = self._sound_current(version.label)
            if current is None or current.version != version.version:
                return
            try:
                self.backend.delete_if_match(key, found.etag)
            except ValueChanged:
                continue

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


def _partitions(listing: Callable[[str], list[str]], key: str, partition: dict[str, str]) -> Iterator[dict[str, str]]:
    names = listing(key)
    if POINTER in names:
        yield partition
    for name in names:
        if name.endswith("/") and "=" in name:
            dimension, _, value = name[:-1].partition("=")
            yield from _partitions(listing, f"{key}/{name[:-1]}", {**partition, dimension: value})


def _assets(listing: Callable[[str], list[str]], key: str) -> Iterator[str]:
    if key and next(_partitions(listing, key, {}), None) is not None:
        yield key
    for name in listing(key):
        if name.endswith("/") and "=" not in name and name[0] not in "._" and not VERSION.fullmatch(name[:-1]):
            yield from _assets(listing, f"{key}/{name[:-1]}".lstrip("/"))
