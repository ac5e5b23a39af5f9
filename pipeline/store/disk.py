"""What the store asks of a local POSIX file system: durable writes, locks that die with their process, clear errors.

Locks are `flock` on the folder itself: no lock file is left behind, the kernel lets go when the holder dies, and
readers take none. Everything that can fail for want of space or permission becomes a `StoreError` here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import stat
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
SPARE_BYTES = 1 << 16
"""Less than this is a full disk: not even a journal's page fits."""
_NEED_SPACE = "Free some space or point COHORTLOOM_HOME at a larger disk; nothing half-written is kept."
_NEED_ACCESS = "Give the user that runs this write access, or point COHORTLOOM_HOME somewhere else."
_WORDS = {
    errno.ENOSPC: ("The disk is full.", _NEED_SPACE),
    errno.EDQUOT: ("The disk quota is used up.", _NEED_SPACE),
    errno.EFBIG: ("A file would grow beyond what this process may write.", "Raise the limit (`ulimit -f`)."),
    errno.EACCES: ("Permission denied.", _NEED_ACCESS),
    errno.EPERM: ("Permission denied.", _NEED_ACCESS),
    errno.EROFS: ("The file system is read-only.", _NEED_ACCESS),
}


def store_error(error: OSError, where: str) -> StoreError:
    """The `StoreError` that says in words what the operating system said in numbers."""
    what, todo = _WORDS.get(error.errno or 0, (f"The store cannot be read or written ({error.strerror or error}).", ""))
    return StoreError(what, where=where, todo=todo)


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn every OSError of the block into a `StoreError` that names `where`."""
    try:
        yield
    except OSError as error:
        raise store_error(error, where) from error


def full_disk(error: BaseException, where: str) -> StoreError | None:
    """The `StoreError` for a full disk if that is what `error` reports, else None.

    DuckDB reports a full disk by text only, hence the look at its message.
    """
    if isinstance(error, OSError):
        return store_error(error, where) if error.errno in _FULL else None
    if type(error).__module__ in {"duckdb", "_duckdb"}:
        for number in _FULL:
            if os.strerror(number) in str(error):
                return store_error(OSError(number, os.strerror(number)), where)
    return None


def check_space(folder: Path) -> None:
    """Raise `StoreError` if the disk of `folder` is full: for errors that hide it."""
    if shutil.disk_usage(folder).free < SPARE_BYTES:
        raise store_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), str(folder))


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Force a folder's entries to the disk: without it a crash may forget a rename."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file that must not exist yet and force it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_over(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a small file as a whole, not synced; several threads and processes may do so at once: the last one wins.

    For what can be made again; what must survive a power cut is written by the stores.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folders(path: Path) -> None:
    """Make a folder and its missing parents, readable by the owner only, each one durable."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds; what another process removed meanwhile is no error."""

    def tolerate(
        _function: object, _path: str, problem: tuple[type[BaseException], BaseException, TracebackType]
    ) -> None:
        if not isinstance(problem[1], FileNotFoundError):
            raise problem[1]

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=tolerate)
    else:
        path.unlink(missing_ok=True)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what goes meanwhile does not count."""
    total = 0
    for entry in [path, *path.rglob("*")]:
        try:
            found = entry.lstat()
        except FileNotFoundError:
            continue
        total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def hold(folder: Path) -> int | None:
    """Take the lock of a folder without waiting: a descriptor for `release`, or None if somebody has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def release(descriptor: int) -> None:
    """Let go of a lock that `hold` took, also where a forked child still has a copy of the descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, *, where: str, timeout_seconds: float = 60.0) -> Iterator[None]:
    """Hold the lock of a folder, alone among all processes and threads of this machine. Not re-entrant.

    Raises:
        StoreError: another process holds it for longer than `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = 0.001
    while (descriptor := hold(folder)) is None:
        if time.monotonic() > deadline:
            raise StoreError(
                f"Another process has held the lock for more than {timeout_seconds:g} s.",
                where=where,
                todo="Wait until it has finished, or end it (`fuser -v` on the folder shows which one it is).",
            )
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, 0.05)
    try:
        yield
    finally:
        release(descriptor)
