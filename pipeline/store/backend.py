"""Where pointers, records, marks and journal entries are kept: small values behind a few operations.

What the store promises rests on these operations alone, so that they may be files below a folder (`LocalBackend`)
or objects below a prefix (`object_store.ObjectStore`). The files of versions are the business of `files.py`.
"""

from __future__ import annotations

import builtins
import os
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.store.disk import locked, make_folders, storage_errors, sync_folder, write_new
from pipeline.store.hashing import sha256_bytes
from pipeline.store.keys import DRAFT, SWAP


@dataclass(frozen=True)
class Stored:
    """A small value and the tag that changes whenever the value does."""

    data: bytes
    etag: str


class ValueChanged(Exception):  # noqa: N818 - an event to act on, not an error that reaches a user
    """The value is no longer the one whose tag was given: read again, then decide again."""


class Backend(Protocol):
    """Small values under keys like "features/cohort=support/_current.json"; none of them is empty."""

    name: str
    """What people call the place: a folder, or "s3://bucket/prefix"."""

    def clock(self) -> int:
        """Nanoseconds since 1970 by the clock that all users of the place share."""
        ...

    def get(self, key: str) -> Stored | None:
        """The value, whole as some writer put it, or None."""
        ...

    def get_many(self, keys: Iterable[str]) -> list[Stored | None]:
        """`get` for each key, in their order."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Put a value that is not there yet and never changes, atomically and durably.

        Raises:
            ValueChanged: there is one already.
        """
        ...

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> str:
        """Replace the value atomically and durably and give its new tag; `etag` None means: there is none yet.

        Raises:
            ValueChanged: the value is not the one tagged `etag`.
        """
        ...

    def delete_if_match(self, key: str, etag: str) -> None:
        """Remove the value atomically.

        Raises:
            ValueChanged: the value is not the one tagged `etag`.
        """
        ...

    def list(self, prefix: str) -> list[str]:
        """Sorted names directly below `prefix`, those of folders with a "/" at the end; [] if there is nothing."""
        ...

    def survey(self, prefix: str) -> Callable[[str], builtins.list[str]]:
        """`list` for many keys at or below `prefix`, by as few requests as the place needs for all of them."""
        ...

    def delete(self, key: str) -> None:
        """Remove the value; no error if there is none."""
        ...


class LocalBackend:
    """Values as files below `root` on a local file system (rename is atomic, flock works)."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.name = str(root)

    def clock(self) -> int:
        """Nanoseconds since 1970 by the clock of this machine."""
        return time.time_ns()

    def get(self, key: str) -> Stored | None:
        """The value, whole as some writer put it, or None. Raises `StoreError` if it cannot be read."""
        with storage_errors(key):
            try:
                data = (self.root / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Stored(data, sha256_bytes(data))

    def get_many(self, keys: Iterable[str]) -> list[Stored | None]:
        """`get` for each key, in their order."""
        return [self.get(key) for key in keys]

    def create(self, key: str, data: bytes) -> None:
        """Put a value that is not there yet: written and synced under another name, then linked; read-only.

        Raises:
            ValueChanged: there is one already.
            StoreError: disk full or no permission; the value is then not there.
        """
        path = self.root / key
        draft = path.parent / f"{DRAFT}{uuid.uuid4().hex}"
        with storage_errors(key):
            make_folders(path.parent)
            try:
                write_new(draft, data, mode=0o400)
                os.link(draft, path)  # fails if the name is taken: nothing is ever overwritten
            except FileExistsError:
                raise ValueChanged(key) from None
            finally:
                draft.unlink(missing_ok=True)
            sync_folder(path.parent)

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> str:
        """Replace the value: written and synced under another name, compared and renamed under the root's lock.

        Raises:
            ValueChanged: the value is not the one tagged `etag`.
            StoreError: disk full, no permission, or the lock is held for too long.
        """
        path = self.root / key
        swap = path.parent / f"{SWAP}{uuid.uuid4().hex}"
        with storage_errors(key):
            make_folders(path.parent)
            try:
                write_new(swap, data)
                with locked(self.root, where=str(self.root)):
                    found = self.get(key)
                    if (found.etag if found else None) != etag:
                        raise ValueChanged(key)
                    swap.replace(path)
            except BaseException:
                swap.unlink(missing_ok=True)
                raise
            sync_folder(path.parent)
        return sha256_bytes(data)

    def delete_if_match(self, key: str, etag: str) -> None:
        """Remove the value if it is the one tagged `etag`, compared under the root's lock.

        Raises:
            ValueChanged: it is not.
            StoreError: it cannot be removed, or the lock is held for too long.
        """
        with storage_errors(key):
            if self.get(key) is None:
                raise ValueChanged(key)
            with locked(self.root, where=str(self.root)):
                found = self.get(key)
                if found is None or found.etag != etag:
                    raise ValueChanged(key)
                (self.root / key).unlink()
            sync_folder((self.root / key).parent)

    def list(self, prefix: str) -> list[str]:
        """Sorted names directly below `prefix`, those of folders with a "/" at the end; [] if there is nothing."""
        with storage_errors(prefix):
            try:
                with os.scandir(self.root / prefix) as entries:
                    return sorted(f"{e.name}/" if e.is_dir(follow_symlinks=False) else e.name for e in entries)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def survey(self, prefix: str) -> Callable[[str], builtins.list[str]]:
        """`list` itself: a folder is looked at when it is asked for."""
        return self.list

    def delete(self, key: str) -> None:
        """Remove the value; no error if there is none. Raises `StoreError` if it cannot be removed."""
        with storage_errors(key):
            (self.root / key).unlink(missing_ok=True)
