"""Taking away what is no longer needed, in all of COHORTLOOM_HOME: old versions and what killed processes left.

Never goes: the current version of a partition, every version of `release`, and the evidence behind a release, also a
withdrawn one (the synthetic rows, model, evaluation, report and features that it was made from, by the hashes in
`inputs`). Deliveries are nobody's litter. How a store is swept is in `store/collector.py`; the run records of Dagster
in `assets/purge.py`.
"""

from __future__ import annotations

import getpass
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import StoreError
from pipeline.store.backup import SNAPSHOT
from pipeline.store.collector import Swept, sweep, would_sweep
from pipeline.store.disk import hold, locked, release, remove, size, storage_errors
from pipeline.store.files import left_behind
from pipeline.store.home import PROBE
from pipeline.store.keys import DRAFT, RECORD, VERSION
from pipeline.store.version import Version
from pipeline.workflow.ledger import settle_open

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.store.versions import VersionStore

OPERATIONS = "operations"
"""Journal stream: who rolled back, collected, purged or restored what."""
RELEASE = "release"
REBUILT_FROM_LANDING = ("raw/", "events/")
"""Where the evidence behind a release ends: these come again, byte by byte, from what was delivered."""
LITTER = (DRAFT, PROBE, SNAPSHOT)
"""Beginnings of names of half-made things directly below COHORTLOOM_HOME."""


@dataclass(frozen=True)
class Gone:
    """One thing that was taken away, or would be.

    Attributes:
        kind: "old version", "half-made", "landing", "spill", "journal draft" or "litter".
        where: Path relative to COHORTLOOM_HOME.
        bytes: What it took.
    """

    kind: str
    where: str
    bytes: int


@dataclass(frozen=True)
class Collected:
    """What a collection did.

    Attributes:
        gone: What went.
        pinned: How many versions stayed only because of a release.
        broken: One sentence for each place that could not be collected.
    """

    gone: list[Gone] = field(default_factory=list)
    pinned: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What all of it took."""
        return sum(one.bytes for one in self.gone)

    def counts(self) -> dict[str, int]:
        """Kind to number of things."""
        kinds = sorted({one.kind for one in self.gone})
        return {kind: sum(one.kind == kind for one in self.gone) for kind in kinds}


def operator() -> str:
    """Who is at the keyboard, as the operating system says."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def note_operation(lake: Lake, operation: str, by: str, **facts: Any) -> None:
    """Enter in the journal that somebody did something to the house."""
    lake.journal.append(OPERATIONS, {"operation": operation, "by": by, **facts})


def collect_garbage(lake: Lake, *, keep: int, grace_seconds: float) -> Collected:
    """Remove old versions and litter; readers and writers are never held up for more than a rename.

    Args:
        lake: All stores.
        keep: How many versions a partition keeps, the current one among them.
        grace_seconds: How long ago a version must have retired and anything half-made been touched.

    Raises:
        ConfigError: a negative argument.
        StoreError: a pinned release cannot be read, or the disk fails.
    """
    for stream in lake.journal.streams():
        if stream.startswith("privacy/"):
            # A model that a killed run stored is entered first: once it is collected, its cost could be taken back.
            settle_open(lake, stream.partition("/")[2])
    pinned = evidence(lake)
    found = _collection(lake, pinned, lambda store: sweep(store, keep=keep, grace_seconds=grace_seconds, pinned=pinned))
    for one in _litter(lake.home, grace_seconds):
        path = lake.home.root / one.where
        with storage_errors(one.where):
            if one.kind == "spill":
                _remove_held(path)
            else:
                remove(path)
        found.gone.append(one)
    drafts = _journal_drafts(lake, grace_seconds)
    lake.journal.collect(grace_seconds=grace_seconds)
    found.gone.extend(drafts)
    if found.gone:
        note_operation(
            lake, "gc", operator(), keep=keep, grace_seconds=grace_seconds, removed=found.counts(), bytes=found.bytes
        )
    return found


def would_collect(lake: Lake, *, keep: int, grace_seconds: float) -> Collected:
    """What `collect_garbage` would remove now. Changes nothing."""
    pinned = evidence(lake)
    found = _collection(
        lake, pinned, lambda store: would_sweep(store, keep=keep, grace_seconds=grace_seconds, pinned=pinned)
    )
    found.gone.extend(_litter(lake.home, grace_seconds))
    found.gone.extend(_journal_drafts(lake, grace_seconds))
    return found


def _collection(lake: Lake, pinned: set[tuple[str, str]], swept: Callable[[VersionStore], Swept]) -> Collected:
    """What a sweep of all three stores gives, in one list."""
    found = Collected(pinned=len(pinned))
    for store in (lake.tables, lake.models, lake.reports):
        result = swept(store)
        for one in result.removed:
            kind = "old version" if VERSION.fullmatch(one.name) else "half-made"
            found.gone.append(Gone(kind, f"{store.root.name}/{one.where}/{one.name}", one.bytes))
        found.broken.extend(result.broken)
    return found


def evidence(lake: Lake) -> set[tuple[str, str]]:
    """(label, version) of every version of `release`, and of what each was made from, as far as the deliveries.

    Also what belongs to a withdrawn release: its rows have left the house, and somebody may have to answer for them.
    Its own files are gone; the journal knows what they were made from.
    """
    from pipeline.workflow.released import all_issues

    # Every folder counts, not only those with a pointer: a release whose pointer was purged is still evidence.
    waiting = [v for key in _cells_of(lake.tables, RELEASE) for v in _stored(lake.tables, key)]
    seen: dict[tuple[str, str], Version] = {(v.label, v.version): v for v in waiting}
    for known in all_issues(lake).values():
        for issue in known:
            waiting.extend(_new(seen, _made_from(lake, issue.inputs)))
    while waiting:
        version = waiting.pop()
        waiting.extend(_new(seen, _made_from(lake, version.inputs)))
        if version.asset.startswith("evaluation/"):
            # The report has the same inputs under the same label in a store of its own.
            made = [v for v in _stored(lake.reports, version.label) if v.inputs == version.inputs]
            waiting.extend(_new(seen, made[:1]))
    return set(seen)


def _made_from(lake: Lake, inputs: Mapping[str, str]) -> list[Version]:
    """The stored versions that these labels and hashes name, but for what comes again from the deliveries."""
    found = []
    for label, sha256 in inputs.items():
        if label.startswith(REBUILT_FROM_LANDING):
            continue
        for store in (lake.tables, lake.models, lake.reports):
            found.extend([v for v in _stored(store, label) if v.sha256 == sha256][:1])
    return found


def _new(seen: dict[tuple[str, str], Version], versions: list[Version]) -> list[Version]:
    """Those not seen before, which are entered as seen."""
    fresh = [v for v in versions if (v.label, v.version) not in seen]
    seen.update({(v.label, v.version): v for v in fresh})
    return fresh


def _cells_of(store: VersionStore, key: str) -> Iterator[str]:
    """Labels below an asset that hold versions."""
    names = store.backend.list(key)
    if any(VERSION.fullmatch(name[:-1]) for name in names):
        yield key
    for name in names:
        if name.endswith("/") and "=" in name:
            yield from _cells_of(store, f"{key}/{name[:-1]}")


def _stored(store: VersionStore, label: str) -> list[Version]:
    """Every readable version under a label, newest first."""
    found = []
    names = [name[:-1] for name in store.backend.list(label) if VERSION.fullmatch(name[:-1])]
    for name in sorted(names, reverse=True):
        stored = store.backend.get(f"{label}/{name}/{RECORD}")
        try:
            if stored is not None:
                found.append(Version.from_bytes(stored.data, where=label))
        except StoreError:
            continue  # a broken record is `doctor`'s to tell; it cannot say what it was made from
    return found


def _litter(home: Home, grace_seconds: float) -> Iterator[Gone]:
    """What killed processes left outside the stores."""
    for path in sorted(home.landing.glob(f"*/{DRAFT}*")):
        if _untouched(path, grace_seconds):
            yield Gone("landing", path.relative_to(home.root).as_posix(), size(path))
    for path in sorted(home.spill.glob("spill-*")) if home.spill.is_dir() else []:
        if path.is_dir() and _untouched(path, grace_seconds) and left_behind(path, time.time_ns()):
            yield Gone("spill", path.relative_to(home.root).as_posix(), size(path))
    for path in sorted(home.root.iterdir()):
        if path.name.startswith(LITTER) and _untouched(path, grace_seconds) and left_behind(path, time.time_ns()):
            yield Gone("litter", path.name, size(path))


def _journal_drafts(lake: Lake, grace_seconds: float) -> list[Gone]:
    root = lake.home.root
    return [
        Gone("journal draft", path.relative_to(root).as_posix(), size(path))
        for path in sorted(lake.journal.root.rglob(f"{DRAFT}*"))
        if _untouched(path, grace_seconds)
    ]


def _untouched(path: Path, seconds: float) -> bool:
    """Has nothing in it changed for so long? A copy of many hours keeps touching its newest file."""
    cutoff = time.time() - seconds
    try:
        return all(entry.lstat().st_mtime <= cutoff for entry in [path, *path.rglob("*")])
    except FileNotFoundError:
        return False


def _remove_held(folder: Path) -> None:
    """Remove a spill folder the way DuckDB's processes sweep them: alone among them, and only if nobody has it."""
    with locked(folder.parent, where=folder.parent.name):
        descriptor = hold(folder)
        if descriptor is not None:
            remove(folder)
            release(descriptor)
