"""Taking away what nobody can be reading any more: versions beyond their time, and what killed writers left.

Who holds a version (`files.holding`) knows that nobody points to it meanwhile, so what is in progress can be told
from what was left behind. Nothing is removed in place: it is put out of sight first, so that a collector that dies
half-way leaves no half version under a good name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, StoreError
from pipeline.store.disk import storage_errors
from pipeline.store.files import Busy
from pipeline.store.keys import DRAFT, POINTER, RETIRED, SWAP, TRASH, VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from pipeline.store.versions import VersionStore

    Take = Callable[[VersionStore, str, list["Removed"], int], list["Removed"]]


@dataclass(frozen=True)
class Removed:
    """One thing that a collector takes away.

    Attributes:
        where: Label of the partition.
        name: What it was called there.
        bytes: What its files took; those of a version that shares them with a running backup are freed later.
    """

    where: str
    name: str
    bytes: int


@dataclass(frozen=True)
class Swept:
    """What a collector did.

    Attributes:
        removed: What went, or would go.
        broken: One sentence for each partition that could not be collected.
    """

    removed: list[Removed] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def collect(store: VersionStore, *, keep: int, grace_seconds: float) -> int:
    """Remove what `VersionStore.collect` says and give the number of things removed."""
    swept = sweep(store, keep=keep, grace_seconds=grace_seconds)
    if swept.broken:
        raise StoreError(
            f"{len(swept.broken)} partition(s) could not be collected, all others were. The first: {swept.broken[0]}",
            where=store.backend.name,
        )
    return len(swept.removed)


def sweep(
    store: VersionStore, *, keep: int, grace_seconds: float, pinned: Collection[tuple[str, str]] = frozenset()
) -> Swept:
    """Remove what has had its time, but no version in `pinned`; say what went.

    Args:
        store: Where to.
        keep: How many versions a partition keeps, `VersionStore.collect` says which.
        grace_seconds: How long ago a version must have retired, a draft been touched.
        pinned: (label, version) of what stays whatever its age.
    """
    swept = _sweep(store, keep, grace_seconds, pinned, _hide, store.files.empty)
    store.files.tidy()
    return swept


def would_sweep(
    store: VersionStore, *, keep: int, grace_seconds: float, pinned: Collection[tuple[str, str]] = frozenset()
) -> Swept:
    """What `sweep` would remove now. Changes nothing."""
    return _sweep(store, keep, grace_seconds, pinned, lambda store, key, found, cutoff: found, lambda key: None)


def _sweep(
    store: VersionStore,
    keep: int,
    grace_seconds: float,
    pinned: Collection[tuple[str, str]],
    take: Take,
    finish: Callable[[str], None],
) -> Swept:
    if keep < 0 or not grace_seconds >= 0:
        raise ConfigError("`keep` and the grace period cannot be negative.")
    cutoff = store.backend.clock() - int(grace_seconds * 1e9)
    swept = Swept()
    listing = store.backend.survey("")
    for key in list(_folders(listing, "")):
        with storage_errors(key):
            if not _may_have_litter(listing(key)):
                continue
            try:
                with store.files.alone(key):
                    doomed = _doomed(store, key, keep, cutoff, pinned)
                    found = [Removed(key, name, store.files.size(key, name)) for name in doomed]
                    swept.removed.extend(take(store, key, found, cutoff))
                finish(key)
            except FileNotFoundError:
                continue  # the folder itself went meanwhile
            except StoreError as error:
                swept.broken.append(str(error))
    return swept


def folders(store: VersionStore, key: str = "") -> Iterator[str]:
    """Keys of every folder of an asset or a partition below `key`."""
    yield from _folders(store.backend.survey(key), key)


def _folders(listing: Callable[[str], list[str]], key: str) -> Iterator[str]:
    for name in listing(key):
        if name.endswith("/") and not name.startswith((".", "_")) and not VERSION.fullmatch(name[:-1]):
            below = f"{key}/{name[:-1]}".lstrip("/")
            yield below
            yield from _folders(listing, below)


def _may_have_litter(listed: list[str]) -> bool:
    """A look without the lock, so that writers of partitions with nothing to collect are not held up."""
    names = [name.rstrip("/") for name in listed]
    versions = sum(1 for name in names if VERSION.fullmatch(name))
    return (
        versions > 1
        or any(name.startswith((DRAFT, TRASH, SWAP, RETIRED)) for name in names)
        or (versions == 1 and POINTER not in names)
    )


def _doomed(store: VersionStore, key: str, keep: int, cutoff: int, pinned: Collection[tuple[str, str]]) -> list[str]:
    """Names of everything in a partition that has had its time. The caller is alone in it, where that can be had."""
    names = [name.rstrip("/") for name in store.backend.list(key)]
    doomed = [name for name in names if name.startswith(TRASH)]
    doomed += [name for name in names if name.startswith((DRAFT, SWAP)) and store.files.left_behind(key, name, cutoff)]
    current = store.current_at(key)
    shown = {current.version} if current else set()
    for name in _old_versions(store, key, names, shown, keep, cutoff):
        if (key, name) not in pinned and f"{TRASH}{name}" not in names and not store.files.busy(key, name, names):
            doomed.append(name)
    return doomed


def _hide(store: VersionStore, key: str, found: list[Removed], cutoff: int) -> list[Removed]:
    """Put out of sight what is doomed, as far as it still is, and say what that was."""
    taken = []
    for thing in found:
        if VERSION.fullmatch(thing.name):
            try:
                with store.files.holding(key, thing.name):
                    gone = _still_old(store, key, thing.name, cutoff) and store.files.hide(key, thing.name)
            except Busy:
                continue
        else:
            gone = thing.name.startswith(TRASH) or store.files.hide(key, thing.name)
        if gone:
            taken.append(thing)
    names = store.backend.list(key)
    for name in names:
        # A mark on the current version stays: its writer may be about to move the pointer.
        if name.startswith(RETIRED) and f"{name.removeprefix(RETIRED)}/" not in names:
            store.backend.delete(f"{key}/{name}")
    return taken


def _still_old(store: VersionStore, key: str, name: str, cutoff: int) -> bool:
    """Whether a version that is held now was not pointed to since it was looked at (no lock may have been there)."""
    current = store.current_at(key)
    if current is not None and current.version == name:
        return False
    retired = _retired_at(store, key, name, cutoff)
    return retired is None or retired <= cutoff


def _retired_at(store: VersionStore, key: str, name: str, cutoff: int) -> int | None:
    """Since when a version is not current; None if it has no mark. An unreadable mark keeps its version."""
    stored = store.backend.get(f"{key}/{RETIRED}{name}")
    if stored is None:
        return None
    return int(stored.data) if stored.data.isdigit() else cutoff + 1


def _old_versions(
    store: VersionStore, key: str, names: list[str], shown: set[str], keep: int, cutoff: int
) -> list[str]:
    """Versions that are neither current (`shown`) nor among the newest `keep`, and were not current since `cutoff`.

    A version without a retirement mark that is not current was never pointed to: its writer died between the
    rename and the pointer. It does not count for `keep`.
    """
    marked = [name.removeprefix(RETIRED) for name in names if name.startswith(RETIRED)]
    found = {name: _retired_at(store, key, name, cutoff) for name in marked}
    retired = {name: stamp for name, stamp in found.items() if stamp is not None}
    versions = sorted((name for name in names if VERSION.fullmatch(name)), reverse=True)
    kept = {*shown, *[name for name in versions if name in shown or name in retired][:keep]}
    return [name for name in versions if name not in kept and retired.get(name, int(name.split("-")[1], 16)) <= cutoff]
