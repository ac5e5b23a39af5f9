"""Where pointers and records are kept: a few small values behind four operations, so that the place can change.

Only small values (pointers, version records, retirement marks) go through a backend. Big files are plain local
files now, written and read by path; a backend for an object store adds `put_file` and `get_file` for them, maps
`put_if_match` to a conditional PUT (If-Match, If-None-Match) and `list` to a listing with "/" as delimiter.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.store.disk import locked, make_folders, storage_errors, sync_folder, write_new
from pipeline.store.hashing import sha256_bytes
from pipeline.store.keys import SWAP


@dataclass(frozen=True)
class Stored:
    """A small value and the tag that changes whenever the value does."""

    data: bytes
    etag: str


class ValueChanged(Exception):  # noqa: N818 - an event to act on, not an error that reaches a user
    """The value is no longer the one whose tag was given: read again, then decide again."""


class Backend(Protocol):
    """Small values under keys like "features/cohort=support/_current.json"."""

    def get(self, key: str) -> Stored | None:
        """The value, whole as some writer put it, or None."""
        ...

    def put_if_match(self, key: str, data: bytes, etag: str | None) -> str:
        """Replace the value atomically and durably and give its new tag; `etag` None means: there is none yet.

        Raises:
            ValueChanged: the value is not the one tagged `etag`.
        """
        ...

    def list(self, prefix: str) -> list[str]:
        """Sorted names directly below `prefix`, those of folders with a "/" at the end; [] if there is nothing."""
        ...

    def delete(self, key: str) -> None:
        """Remove the value; no error if there is none."""
        ...


class LocalBackend:
    """Values as files below `root` on a local file system (rename is atomic, flock works)."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def get(self, key: str) -> Stored | None:
        """The value, whole as some writer put it, or None. Raises `StoreError` if it cannot be read."""
        with storage_errors(key):
            try:
                data = (self.root / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Stored(data, sha256_bytes(data))

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

    def list(self, prefix: str) -> list[str]:
        """Sorted names directly below `prefix`, those of folders with a "/" at the end; [] if there is nothing."""
        with storage_errors(prefix):
            try:
                with os.scandir(self.root / prefix) as entries:
                    return sorted(f"{e.name}/" if e.is_dir(follow_symlinks=False) else e.name for e in entries)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def delete(self, key: str) -> None:
        """Remove the value; no error if there is none. Raises `StoreError` if it cannot be removed."""
        with storage_errors(key):
            (self.root / key).unlink(missing_ok=True)
