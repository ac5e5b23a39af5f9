"""Versions on an object store: written on this machine, sent file by file, read through the local cache.

    <prefix>/<store>/<label>/<version>/<files>, _version.json     the record comes last
                             _current.json, _retired-<version>    as on a disk
                             .tmp-<version>                       the hold: who works on the version, and when last
                             .trash-<version>                     being removed; nobody may point to it any more

There is no lock here that dies with its process. Instead whoever writes, points to or removes a version first puts a
hold on its name by a conditional PUT and renews it while working. A hold that was not renewed for its time may be
taken over, and its holder finds out before it moves a pointer.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import StoreError
from pipeline.store.backend import Backend, Stored, ValueChanged
from pipeline.store.cache import Cache
from pipeline.store.files import Busy, Hold
from pipeline.store.keys import DRAFT, RECORD, RETIRED, TRASH, VERSION
from pipeline.store.object_store import ATTEMPTS, ObjectStore

if TYPE_CHECKING:
    from pipeline.store.version import StoredFile, Version

LEASE_SECONDS = 900.0
"""How long the holder of a version counts as alive after it last said so."""
_REMEDY = "Materialise the partition again, or roll back to a version that is whole."


class RemoteFiles:
    """Versions below one prefix of an object store.

    Args:
        store: The prefix.
        cache: Where the copies on this machine lie; the last part of the prefix names this store's share of it.
    """

    def __init__(self, store: ObjectStore, cache: Cache) -> None:
        self.store = store
        self.backend: Backend = store
        self.cache = cache
        self.place = store.part or "store"

    def draft(self, where: str) -> AbstractContextManager[Path]:
        """A folder on this machine: nothing is sent before the commit."""
        return self.cache.draft(where)

    def alone(self, where: str) -> AbstractContextManager[None]:
        """Nobody is alone here; commits to one partition at once are ordered by the moves of its pointer."""
        return nullcontext()

    @contextmanager
    def holding(self, where: str, name: str) -> Iterator[Hold]:
        """Put a hold on the version, and take it away when the block ends. Raises `Busy`."""
        held = _Hold(self.store, f"{where}/{DRAFT}{name}")
        try:
            yield held
        finally:
            held.release()

    def put(self, version: Version, work: Path, held: Hold) -> None:
        """Send all files, see that they have arrived whole, send the record, and keep the files in the cache."""
        folder = f"{version.label}/{version.version}"
        for stored in version.files.values():
            held.renew()
            self.store.put_file(f"{folder}/{stored.file}", work / stored.file, alive=held.renew)
        arrived = self.store.below_key(folder)
        for stored in version.files.values():
            if arrived.get(stored.file) != stored.bytes:
                raise StoreError(
                    f"The store has {arrived.get(stored.file, 0)} of the file's {stored.bytes} bytes.",
                    where=f"{self.store.name}/{folder}/{stored.file}",
                    todo="Nothing was committed: run it again.",
                )
        self.store.create(f"{folder}/{RECORD}", version.to_bytes())
        self.cache.adopt(self._copies(version), work, list(version.files.values()))

    def withdraw(self, version: Version) -> None:
        """Remove what was sent, the record first."""
        self._remove(version.label, version.version)
        self.cache.drop(self._copies(version))

    def fetch(self, version: Version, files: Sequence[StoredFile]) -> Path:
        """The folder of the cache that has these files, fetched now if need be, each with its sha256 checked."""
        folder = self._copies(version)
        for stored in files:
            self.cache.fetch(folder, stored, partial(self._download, version, stored))
        return folder

    def digest(self, version: Version, stored: StoredFile) -> str | None:
        """SHA-256 of a file as it lies in the store, not of a copy; None if it is missing."""
        pieces = self.store.pieces(f"{version.label}/{version.version}/{stored.file}")
        if pieces is None:
            return None
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        return digest.hexdigest()

    def recheck(self, version: Version) -> None:
        """Hash the copies on this machine again; what is not what was committed goes, and is fetched when needed."""
        folder = self._copies(version)
        for stored in version.files.values():
            self.cache.recheck(folder, stored)

    def size(self, where: str, name: str) -> int:
        """Bytes of a version; what is no version counts nothing."""
        return sum(self.store.below_key(f"{where}/{name}").values()) if VERSION.fullmatch(name) else 0

    def busy(self, where: str, name: str, names: Sequence[str]) -> bool:
        """Whether the hold on a version was renewed in its time."""
        if f"{DRAFT}{name}" not in names:
            return False
        found = self.store.get(f"{where}/{DRAFT}{name}")
        return found is not None and not _expired(found, self.store.clock())

    def left_behind(self, where: str, name: str, cutoff: int) -> bool:
        """Whether this is a hold that was not renewed in its time, nor since the cutoff."""
        found = self.store.get(f"{where}/{name}")
        return found is not None and _expired(found, self.store.clock()) and _renewed_at(found) <= cutoff

    def hide(self, where: str, name: str) -> bool:
        """Mark a held version as being removed, and remove the copy; or take an expired hold away."""
        if VERSION.fullmatch(name):
            with suppress(ValueChanged):  # then somebody died over it
                self.store.create(f"{where}/{TRASH}{name}", b"being removed\n")
            self.cache.drop(self.cache.folder(self.place, where, name))
            return True
        try:
            _Hold(self.store, f"{where}/{name}").release()
        except Busy:
            return False
        return True

    def empty(self, where: str) -> None:
        """Remove what was marked, the record first and the mark last."""
        for name in self.store.list(where):
            if name.startswith(TRASH):
                version = name.removeprefix(TRASH)
                self._remove(where, version)
                self.store.delete(f"{where}/{RETIRED}{version}")
                self.store.delete(f"{where}/{name}")

    def tidy(self) -> None:
        """Remove copies of versions that the store has no more (removed by another machine), and make room."""
        kept: dict[str, list[str]] = {}
        for where, name in list(self.cache.versions(self.place)):
            if where not in kept:
                kept[where] = self.store.list(where)
            if f"{name}/" not in kept[where] and f"{DRAFT}{name}" not in kept[where]:
                self.cache.drop(self.cache.folder(self.place, where, name))
        self.cache.make_room()

    def _copies(self, version: Version) -> Path:
        return self.cache.folder(self.place, version.label, version.version)

    def _remove(self, where: str, name: str) -> None:
        folder = f"{where}/{name}"
        self.store.delete(f"{folder}/{RECORD}")
        for file in self.store.below_key(folder):
            self.store.delete(f"{folder}/{file}")

    def _download(self, version: Version, stored: StoredFile, target: Path) -> None:
        key = f"{version.label}/{version.version}/{stored.file}"
        for attempt in range(1, ATTEMPTS + 1):
            pieces = self.store.pieces(key)
            if pieces is None:
                raise StoreError("The file is missing.", where=f"{self.store.name}/{key}", todo=_REMEDY)
            digest = hashlib.sha256()
            try:
                with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                    for piece in pieces:
                        digest.update(piece)
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
                break
            except StoreError:  # the connection broke off in the middle
                if attempt == ATTEMPTS:
                    raise
        if digest.hexdigest() != stored.sha256:
            raise StoreError(
                f"The file's sha256 is {digest.hexdigest()[:12]} and should be {stored.sha256[:12]}.",
                where=f"{self.store.name}/{key}",
                todo=_REMEDY,
            )


class _Hold:
    """A hold on a version's name; made by taking it."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key, self._who = store, key, uuid.uuid4().hex
        found = store.get(key)
        if found is not None and not _expired(found, store.clock()):
            raise Busy(key)
        try:
            self._put(found.etag if found else None)
        except ValueChanged:
            raise Busy(key) from None

    def renew(self) -> None:
        """Say that the holder is alive, if it has not done so for a while.

        Raises:
            StoreError: somebody took over; nothing may be pointed to or removed any more.
        """
        if time.monotonic() - self._renewed < LEASE_SECONDS / 4:
            return
        try:
            self._put(self._etag)
        except ValueChanged:
            raise StoreError(
                f"This process was silent for more than {LEASE_SECONDS:g} s and was taken for dead.",
                where=self._key,
                todo="Nothing was committed: run it again.",
            ) from None

    def release(self) -> None:
        """Take the hold away, unless so much time has gone by that it may be another's."""
        if time.monotonic() - self._renewed < LEASE_SECONDS:
            self._store.delete(self._key)

    def _put(self, etag: str | None) -> None:
        text = json.dumps({"by": self._who, "at": self._store.clock(), "for": LEASE_SECONDS})
        started = time.monotonic()
        self._etag = self._store.put_if_match(self._key, text.encode(), etag)
        self._renewed = started


def _renewed_at(found: Stored) -> int:
    """When a hold was last renewed; an unreadable one never was."""
    try:
        return int(json.loads(found.data)["at"])
    except (ValueError, KeyError, TypeError):
        return 0


def _expired(found: Stored, now: int) -> bool:
    try:
        lease = float(json.loads(found.data)["for"])
    except (ValueError, KeyError, TypeError):
        lease = 0.0
    return now - _renewed_at(found) > lease * 1e9
