"""Where the files of versions lie, and who may touch them: what `VersionStore` asks of a place, and a local folder.

A place is a `Backend` for small values and the operations below for whole versions. `LocalFiles` keeps versions as
folders and lets `flock` say who works on a partition; `remote.RemoteFiles` keeps them on an object store, where a
hold on the version's name says who works on it. The rules of pointers, marks and history stand in `versions.py`
and `collector.py`, once for both.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.store.backend import Backend, LocalBackend
from pipeline.store.disk import (
    hold,
    locked,
    make_folders,
    release,
    remove,
    size,
    storage_errors,
    sync_folder,
    write_new,
)
from pipeline.store.hashing import sha256_file
from pipeline.store.keys import DRAFT, RECORD, TRASH

if TYPE_CHECKING:
    from pipeline.store.version import StoredFile, Version


class Busy(Exception):  # noqa: N818 - an event to act on, not an error that reaches a user
    """Somebody else, still alive, is writing, pointing to or removing this version."""


class Hold(Protocol):
    """Being the only one that may point to a version, retire it to history or remove it."""

    def renew(self) -> None:
        """Say that the holder is alive. Raises `StoreError` if it was taken for dead meanwhile."""
        ...


class VersionFiles(Protocol):
    """A place for versions; `where` is always a partition's label, `name` a version's name."""

    backend: Backend

    def draft(self, where: str) -> AbstractContextManager[Path]:
        """A new local folder to write a version's files into, gone when the block ends."""
        ...

    def alone(self, where: str) -> AbstractContextManager[None]:
        """Keep others off the partition as far as the place can; what must be right rests on `holding`."""
        ...

    def holding(self, where: str, name: str) -> AbstractContextManager[Hold]:
        """Hold a version (inside `alone`). Raises `Busy`."""
        ...

    def put(self, version: Version, work: Path, held: Hold) -> None:
        """Store the files of the draft in `work`, and the record last, under the version's name."""
        ...

    def withdraw(self, version: Version) -> None:
        """Take back what `put` has stored of a version that nobody points to."""
        ...

    def fetch(self, version: Version, files: Sequence[StoredFile]) -> Path:
        """The local folder of the version in which at least these files lie now."""
        ...

    def digest(self, version: Version, stored: StoredFile) -> str | None:
        """SHA-256 of a file as it lies in the place, read again; None if it is missing."""
        ...

    def recheck(self, version: Version) -> None:
        """Drop what this machine has of the version, beside the place itself, and is not what was committed."""
        ...

    def size(self, where: str, name: str) -> int:
        """Bytes of whatever is called `name` in the partition."""
        ...

    def busy(self, where: str, name: str, names: Sequence[str]) -> bool:
        """Whether a living process holds this version; `names` is what stands in the partition."""
        ...

    def left_behind(self, where: str, name: str, cutoff: int) -> bool:
        """Whether a thing with a draft's name was left by a process that is gone, and not touched since `cutoff`."""
        ...

    def hide(self, where: str, name: str) -> bool:
        """Put a held version, or what was left behind, out of sight in one step; False if it is gone already."""
        ...

    def empty(self, where: str) -> None:
        """Remove for good what was hidden in the partition, also by somebody who died over it."""
        ...

    def tidy(self) -> None:
        """Put in order what the place keeps on this machine."""
        ...


@contextmanager
def working_folder(parent: Path, where: str) -> Iterator[Path]:
    """A new folder in `parent`, locked for as long as its process lives and removed when the block ends."""
    work = parent / f"{DRAFT}{uuid.uuid4().hex}"
    with storage_errors(where):
        make_folders(parent)
        with locked(parent, where=where):  # the collector must not meet the folder before its lock is taken
            work.mkdir(mode=0o700)
            try:
                alive = hold(work)
            except BaseException:
                work.rmdir()
                raise
    try:
        yield work
    finally:
        try:
            with storage_errors(where):
                remove(work)
        finally:
            if alive is not None:
                release(alive)


def left_behind(path: Path, cutoff: int) -> bool:
    """Whether a draft or half-made pointer is older than the cutoff and no living process holds it."""
    try:
        if path.stat().st_mtime_ns > cutoff:
            return False
        if not path.is_dir():
            return True
        descriptor = hold(path)
    except FileNotFoundError:
        return False
    if descriptor is None:
        return False
    release(descriptor)
    return True


class _Alone:
    """The hold of who is alone in the partition anyway."""

    def renew(self) -> None:
        """Nothing to do: the kernel keeps the lock for as long as the process lives."""


class LocalFiles:
    """Versions as folders below `root` on a local file system: `flock` on a partition's folder, rename to publish."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.backend: Backend = LocalBackend(self.root)

    def draft(self, where: str) -> AbstractContextManager[Path]:
        """A hidden folder in the partition itself, so that publishing is one rename."""
        return working_folder(self.root / where, where)

    def alone(self, where: str) -> AbstractContextManager[None]:
        """The lock of the partition's folder, which the kernel lets go when its holder dies."""
        return locked(self.root / where, where=where)

    def holding(self, where: str, name: str) -> AbstractContextManager[Hold]:
        """Who is alone in the partition holds all its versions."""
        return nullcontext(_Alone())

    def put(self, version: Version, work: Path, held: Hold) -> None:
        """Write the record into the draft and give the folder its name."""
        folder = self.root / version.label
        write_new(work / RECORD, version.to_bytes())
        sync_folder(work)
        work.rename(folder / version.version)
        sync_folder(folder)

    def withdraw(self, version: Version) -> None:
        """Remove the version's folder."""
        remove(self.root / version.label / version.version)

    def fetch(self, version: Version, files: Sequence[StoredFile]) -> Path:
        """The version's folder: the files lie there already."""
        return self.root / version.label / version.version

    def digest(self, version: Version, stored: StoredFile) -> str | None:
        """SHA-256 of a file, read again; None if it is missing."""
        try:
            return sha256_file(self.root / version.label / version.version / stored.file)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def recheck(self, version: Version) -> None:
        """Nothing to do: what is read here is what `digest` hashed."""

    def size(self, where: str, name: str) -> int:
        """Bytes of a file, or of all files in a folder."""
        return size(self.root / where / name)

    def busy(self, where: str, name: str, names: Sequence[str]) -> bool:
        """No: the lock of the partition is held by whoever asks."""
        return False

    def left_behind(self, where: str, name: str, cutoff: int) -> bool:
        """A draft or half-made pointer older than the cutoff that no living process holds."""
        return left_behind(self.root / where / name, cutoff)

    def hide(self, where: str, name: str) -> bool:
        """Rename it to something that nobody reads."""
        folder = self.root / where
        try:
            (folder / name).rename(folder / f"{TRASH}{uuid.uuid4().hex}")
        except FileNotFoundError:
            return False  # a draft was given up by its writer meanwhile
        return True

    def empty(self, where: str) -> None:
        """Remove the partition's trash."""
        for name in self.backend.list(where):
            if name.startswith(TRASH):
                remove(self.root / where / name.rstrip("/"))

    def tidy(self) -> None:
        """Nothing to do: nothing is kept twice."""
