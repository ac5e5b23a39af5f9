"""Taking away what nobody can be reading any more: versions beyond their time, and what killed writers left.

Under the lock of a partition no commit and no rollback is under way, so what is in progress can be told from what
was left behind. Nothing is removed in place: it is renamed out of sight first, so that a collector that dies
half-way leaves no half version under a good name.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, StoreError
from pipeline.store.disk import hold, locked, release, remove, storage_errors
from pipeline.store.keys import DRAFT, POINTER, RETIRED, SWAP, TRASH, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.store.lake import VersionStore


def collect(store: VersionStore, *, keep: int, grace_seconds: float) -> int:
    """Remove what `VersionStore.collect` says and give the number of things removed."""
    if keep < 0 or not grace_seconds >= 0:
        raise ConfigError("`keep` and the grace period cannot be negative.")
    cutoff = time.time_ns() - int(grace_seconds * 1e9)
    removed, broken = 0, []
    for key in list(_folders(store, "")):
        with storage_errors(key or str(store.root)):
            if not _may_have_litter(store, key):
                continue
            try:
                with locked(store.root / key, where=key):
                    doomed = _move_to_trash(store, key, keep, cutoff)
            except FileNotFoundError:
                continue  # the folder itself went meanwhile
            except StoreError as error:
                broken.append(str(error))
                continue
            for name in doomed:
                remove(store.root / key / name)
            removed += len(doomed)
    if broken:
        raise StoreError(
            f"{len(broken)} partition(s) could not be collected, all others were. The first: {broken[0]}",
            where=str(store.root),
        )
    return removed


def _folders(store: VersionStore, key: str) -> Iterator[str]:
    """Keys of every folder of an asset or a partition below `key`."""
    for name in store.backend.list(key):
        if name.endswith("/") and not name.startswith((".", "_")) and not VERSION.fullmatch(name[:-1]):
            below = f"{key}/{name[:-1]}".lstrip("/")
            yield below
            yield from _folders(store, below)


def _may_have_litter(store: VersionStore, key: str) -> bool:
    """A look without the lock, so that writers of partitions with nothing to collect are not held up."""
    names = [name.rstrip("/") for name in store.backend.list(key)]
    versions = sum(1 for name in names if VERSION.fullmatch(name))
    return (
        versions > 1
        or any(name.startswith((DRAFT, TRASH, SWAP, RETIRED)) for name in names)
        or (versions == 1 and POINTER not in names)
    )


def _move_to_trash(store: VersionStore, key: str, keep: int, cutoff: int) -> list[str]:
    """Rename everything that has had its time and give the new names. The caller holds the partition's lock."""
    folder = store.root / key
    names = [name.rstrip("/") for name in store.backend.list(key)]
    trash = [name for name in names if name.startswith(TRASH)]
    doomed = [name for name in names if name.startswith((DRAFT, SWAP)) and _left_behind(store, key, name, cutoff)]
    current = store.current_at(key)
    shown = {current.version} if current else set()
    doomed += _old_versions(store, key, names, shown, keep, cutoff)
    for name in doomed:
        hidden = f"{TRASH}{uuid.uuid4().hex}"
        try:
            (folder / name).rename(folder / hidden)
        except FileNotFoundError:
            continue  # a draft was given up by its writer meanwhile
        trash.append(hidden)
    retired = {name for name in names if VERSION.fullmatch(name)} - shown - set(doomed)
    for name in names:
        if name.startswith(RETIRED) and name.removeprefix(RETIRED) not in retired:
            store.backend.delete(f"{key}/{name}")
    return trash


def _old_versions(
    store: VersionStore, key: str, names: list[str], shown: set[str], keep: int, cutoff: int
) -> list[str]:
    """Versions that are neither current (`shown`) nor among the newest `keep`, and were not current since `cutoff`.

    A version without a retirement mark that is not current was never pointed to: its writer died between the
    rename and the pointer. It does not count for `keep`.
    """
    retired: dict[str, int] = {}
    for name in names:
        if name.startswith(RETIRED) and (stored := store.backend.get(f"{key}/{name}")):
            # An unreadable mark keeps its version.
            retired[name.removeprefix(RETIRED)] = int(stored.data) if stored.data.isdigit() else cutoff + 1
    versions = sorted((name for name in names if VERSION.fullmatch(name)), reverse=True)
    kept = {*shown, *[name for name in versions if name in shown or name in retired][:keep]}
    return [name for name in versions if name not in kept and retired.get(name, int(name.split("-")[1], 16)) <= cutoff]


def _left_behind(store: VersionStore, key: str, name: str, cutoff: int) -> bool:
    """A draft or half-made pointer older than the grace that no living process holds."""
    path = store.root / key / name
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
