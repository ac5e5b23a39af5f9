"""Copies on this machine of what lies on an object store: fetched once, checked once, shared by all processes.

    <root>/objects/<2 digits>/<sha256>                  the bytes, read-only; on a name means whole and checked
    <root>/<store>/<label>/<version>/<file>             links to them, under the names that readers expect
    <root>/drafts/.tmp-<uuid>/                          versions in the making

Files are written aside and renamed, so that any number of processes may fetch the same one. What has not been asked
for the longest goes first when the copies take more than the limit (COHORTLOOM_CACHE_GB, default 20); what was asked
for within the last hour stays, so the limit is soft. Holds patient data, like everything below COHORTLOOM_HOME.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, StoreError
from pipeline.store.disk import hold, make_folders, release, remove, storage_errors
from pipeline.store.files import left_behind, working_folder
from pipeline.store.keys import DRAFT, VERSION

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from pipeline.store.version import StoredFile

LIMIT = "COHORTLOOM_CACHE_GB"
KEEP_SECONDS = 3600.0
"""How long a copy stays after it was last asked for, whatever the limit says."""
_CHECK_EVERY = 20
"""The limit is looked at whenever a process has fetched one such part of it."""


class Cache:
    """The copies below one folder.

    Args:
        root: The folder; made when needed.
        limit_bytes: How much the copies may take; by default what COHORTLOOM_CACHE_GB says.

    Raises:
        ConfigError: COHORTLOOM_CACHE_GB is no positive number.
    """

    def __init__(self, root: Path, limit_bytes: int | None = None) -> None:
        self.root = Path(root)
        self.limit_bytes = _limit() if limit_bytes is None else limit_bytes
        self._fetched = 0

    def draft(self, where: str) -> AbstractContextManager[Path]:
        """A new folder for a version in the making, gone when the block ends."""
        return working_folder(self.root / "drafts", where)

    def folder(self, store: str, where: str, name: str) -> Path:
        """Where the copies of a version lie."""
        return self.root / store / where / name

    def fetch(self, folder: Path, stored: StoredFile, download: Callable[[Path], None]) -> None:
        """See to it that the file lies in a version's folder.

        Args:
            folder: What `folder` gave.
            stored: Which file; its size and hash.
            download: Writes the bytes, already checked, to the path it is given.

        Raises:
            StoreError: disk full or not writable.
        """
        target, blob = folder / stored.file, self._blob(stored.sha256)
        with storage_errors(str(target)):
            for _ in range(5):
                if _whole(target, stored):
                    _touch(folder)
                    return
                target.unlink(missing_ok=True)
                if not _whole(blob, stored):
                    self._download(blob, download)
                make_folders(target.parent)
                try:
                    os.link(blob, target)
                    _touch(folder)
                    self._count(stored.bytes)
                    return
                except (FileExistsError, FileNotFoundError):
                    continue  # another process was as fast, or took the copy away to make room
        raise StoreError("The local copy disappears as fast as it is made.", where=str(target), todo=f"Raise {LIMIT}.")

    def recheck(self, folder: Path, stored: StoredFile) -> None:
        """Hash the copy of a file again and remove it if it is not what was committed: `fetch` looks at sizes only.

        Raises:
            StoreError: it cannot be read or removed.
        """
        from pipeline.store.hashing import sha256_file

        for copy in (folder / stored.file, self._blob(stored.sha256)):
            with storage_errors(str(copy)), suppress(FileNotFoundError, NotADirectoryError):
                if sha256_file(copy) != stored.sha256:
                    copy.unlink()

    def adopt(self, folder: Path, work: Path, files: list[StoredFile]) -> None:
        """Keep the files of a draft that has been committed, so that nobody here has to fetch them."""
        with storage_errors(str(folder)):
            for stored in files:
                blob, target = self._blob(stored.sha256), folder / stored.file
                make_folders(blob.parent)
                make_folders(target.parent)
                (work / stored.file).chmod(0o400)
                with suppress(FileExistsError):
                    os.link(work / stored.file, blob)
                with suppress(FileExistsError, FileNotFoundError):  # what is gone again is fetched when needed
                    os.link(blob, target)
            _touch(folder)
        self._count(sum(stored.bytes for stored in files))

    def drop(self, folder: Path) -> None:
        """Remove the copies of a version, also the bytes if no other version has them."""
        with storage_errors(str(folder)):
            blobs = [self._blob_of(Path(at) / file) for at, _, files in os.walk(folder) for file in files]
            remove(folder)
            for blob in filter(None, blobs):
                _remove_unlinked(blob)

    def versions(self, store: str) -> Iterator[tuple[str, str]]:
        """(label, version) of everything of one store that has copies here."""
        root = self.root / store
        for folder in sorted(_versions(root)):
            yield folder.parent.relative_to(root).as_posix(), folder.name

    def make_room(self) -> int:
        """Remove drafts of processes that are gone, and copies until the rest keeps to the limit; gives bytes freed."""
        if not self.root.is_dir():
            return 0
        with storage_errors(str(self.root)):
            descriptor = hold(self.root)
            if descriptor is None:
                return 0  # another process is at it
            try:
                return self._make_room()
            finally:
                release(descriptor)

    def _make_room(self) -> int:
        old = time.time_ns() - int(KEEP_SECONDS * 1e9)
        for draft in (self.root / "drafts").glob(f"{DRAFT}*"):
            if left_behind(draft, old):
                remove(draft)
        for litter in (self.root / "objects").glob(f"{DRAFT}*"):
            if left_behind(litter, old):
                litter.unlink(missing_ok=True)
        before = used = self._used()
        for stamp, folder in sorted(_by_use(self.root)):
            if used <= self.limit_bytes or stamp > old:
                break
            with suppress(FileNotFoundError):  # dropped by another process
                hidden = self.root / "drafts" / f"{DRAFT}{uuid.uuid4().hex}"
                make_folders(hidden.parent)
                folder.rename(hidden)  # no reader finds half of it
                remove(hidden)
            used = self._used()
        return before - used

    def _used(self) -> int:
        """Bytes of all copies, after removing those that no version links to any more."""
        total = 0
        for blob in (self.root / "objects").glob("??/*"):
            _remove_unlinked(blob)
            try:
                total += blob.stat().st_size
            except FileNotFoundError:
                continue
        return total

    def _download(self, blob: Path, download: Callable[[Path], None]) -> None:
        make_folders(blob.parent)
        aside = self.root / "objects" / f"{DRAFT}{uuid.uuid4().hex}"
        try:
            download(aside)
            aside.chmod(0o400)
            aside.replace(blob)
        finally:
            aside.unlink(missing_ok=True)

    def _count(self, size: int) -> None:
        self._fetched += size
        if self._fetched > self.limit_bytes / _CHECK_EVERY:
            self._fetched = 0
            self.make_room()

    def _blob(self, sha256: str) -> Path:
        return self.root / "objects" / sha256[:2] / sha256

    def _blob_of(self, path: Path) -> Path | None:
        """The copy that a link is one of, found by its bytes."""
        from pipeline.store.hashing import sha256_file

        try:
            return self._blob(sha256_file(path))
        except FileNotFoundError:
            return None


def _limit() -> int:
    text = os.environ.get(LIMIT) or "20"
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 < gigabytes < 1e6:
        raise ConfigError("The size of the local cache must be a positive number of gigabytes.", where=LIMIT)
    return int(gigabytes * 1e9)


def _whole(path: Path, stored: StoredFile) -> bool:
    try:
        return path.stat().st_size == stored.bytes
    except (FileNotFoundError, NotADirectoryError):
        return False


def _touch(folder: Path) -> None:
    """Note that a version was asked for; somebody else may just be removing it."""
    try:
        os.utime(folder)
    except FileNotFoundError:
        return


def _remove_unlinked(blob: Path) -> None:
    try:
        if blob.stat().st_nlink == 1:
            blob.unlink()
    except FileNotFoundError:
        return


def _versions(root: Path) -> Iterator[Path]:
    """Folders of versions; what goes meanwhile is no error."""
    for at, names, _ in os.walk(root):
        yield from (Path(at) / name for name in names if VERSION.fullmatch(name))
        names[:] = [name for name in names if not VERSION.fullmatch(name)]


def _by_use(root: Path) -> Iterator[tuple[int, Path]]:
    """Folders of versions with the time when they were last asked for."""
    for folder in _versions(root):
        with suppress(FileNotFoundError):
            yield folder.stat().st_mtime_ns, folder
