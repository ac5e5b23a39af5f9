"""Backup and restore of COHORTLOOM_HOME as one tar file, taken while others read and write.

Versions and journal entries never change once they have their name, and pointers are replaced by renaming; so hard
links made under the lock of a partition are a snapshot of it that costs no space. What depends on something is linked
before what it depends on, and the journal last: a backup may know of a signature or a spend whose files came a moment
too late, never the other way round. The tar file is then written from the links, on whatever disk, without any lock.

Not in it: `catalog.duckdb` and the spill (made again), drafts, logs of runs, another database than SQLite for Dagster.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.store.archive import files_below, make_private, unpack, write_archive
from pipeline.store.collector import folders
from pipeline.store.disk import hold, locked, release, remove, storage_errors, sync_folder
from pipeline.store.files import left_behind
from pipeline.store.home import Home
from pipeline.store.journal import is_entry
from pipeline.store.keys import POINTER, RETIRED, VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.lake import Lake
    from pipeline.store.versions import VersionStore

SNAPSHOT = ".snapshot-"
RESTORING = re.compile(r"\.restore-[0-9a-f]{32}")
_YOUNG_NS = 60 * 10**9
"""A folder this young may be one whose process is about to take its lock."""
COMPLETE = "_SUCCESS"
"""Mark of a delivery that has landed as a whole."""
DOWNSTREAM_FIRST: tuple[str, ...] = (
    "release", "privacy_ledger", "leaderboard", "evaluation", "references", "synthetic", "external", "model",
    "features", "cohort_inputs", "events", "raw",
)  # fmt: skip
"""First parts of asset keys in the order in which they are linked; others come before all of these."""
_NUMBERED = re.compile(r"n-(\d{8})\.json")
_SQLITE = b"SQLite format 3\0"
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP})


@dataclass(frozen=True)
class Archive:
    """What a backup holds.

    Attributes:
        path: The tar file.
        made_at: When the snapshot was taken (UTC, ISO 8601).
        files: Number of files.
        bytes: Their size.
        landing: Are the deliveries in it?
        elsewhere: The object store that holds the lake and the journal, which are then not in it; else empty.
    """

    path: Path
    made_at: str
    files: int
    bytes: int
    landing: bool
    elsewhere: str = ""


def back_up(lake: Lake, target: Path, *, landing: bool = True) -> Archive:
    """Write a backup of the home into a new file, readable by its owner only; writers may go on meanwhile.

    Args:
        lake: The stores of the home.
        target: The tar file; it appears when it is whole. May lie on another disk.
        landing: Take the deliveries, too, as they came.

    Raises:
        ConfigError: there is a file of that name already, or no such folder.
        StoreError: a disk is full or not writable, or a partition's lock was not to be had.
    """
    home, target = lake.home, target.expanduser().absolute()
    if target.exists():
        raise ConfigError("There is a file of that name already.", where=str(target), todo="Name another one.")
    if not target.parent.is_dir():
        raise ConfigError("There is no such folder.", where=str(target.parent))
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    work = home.root / f"{SNAPSHOT}{uuid.uuid4().hex}"
    with storage_errors(str(home.root)):
        work.mkdir(mode=0o700)
        alive = hold(work)  # gc leaves the snapshot of a living process alone, an erasure waits for its end
        if alive is None or not work.is_dir():
            raise StoreError("The snapshot was swept before it began.", where=work.name, todo="Try again.")
    try:
        with storage_errors(str(home.root)):
            _snapshot(lake, work, landing=landing)
        with storage_errors(str(target.parent)):
            elsewhere = lake.address.url if lake.address is not None else ""
            facts = {"made_at": made_at, "landing": landing, "elsewhere": elsewhere}
            return _archive(target, write_archive(work, target, facts))
    finally:
        with storage_errors(str(home.root)):
            remove(work)
        if alive is not None:
            release(alive)


def restore(archive: Path, to: Home) -> Archive:
    """Unpack a backup into an empty or new home, which appears when every byte has been checked.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: the home holds something already.
        StoreError: it is no backup, damaged, changed, or would write outside the home; nothing is then left.
    """
    if not archive.is_file():
        raise NotFoundError("There is no such file.", where=str(archive))
    root = to.root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigError(
            "The home to restore into is not empty.", where=str(root), todo="Name a folder that does not exist yet."
        )
    work = root.parent / f".restore-{uuid.uuid4().hex}"
    with storage_errors(str(root.parent)):
        root.parent.mkdir(parents=True, exist_ok=True)
        for path in half_restored(to):
            remove(path)
        work.mkdir(mode=0o700)
        alive = hold(work)
    try:
        with storage_errors(str(root)):
            manifest = unpack(archive, work)
            Home(work).ensure()
            os.sync()
            work.rename(root)
            sync_folder(root.parent)
    except BaseException:
        remove(work)
        raise
    finally:
        if alive is not None:
            release(alive)
    return _archive(archive, manifest)


def half_restored(home: Home) -> list[Path]:
    """What killed restores left beside a home: a copy of everything, which the next `restore` there removes."""
    cutoff = time.time_ns() - _YOUNG_NS
    found = []
    with suppress(FileNotFoundError, PermissionError):  # others' folder, or another restore sweeps it
        for path in sorted(home.root.parent.iterdir()):
            ours = RESTORING.fullmatch(path.name) and path.is_dir() and path.lstat().st_uid == os.getuid()
            if ours and left_behind(path, cutoff):
                found.append(path)
    return found


def snapshots(home: Home) -> tuple[list[Path], list[Path]]:
    """The snapshots of backups that go on, and those that killed ones left: hard links to all there was."""
    living: list[Path] = []
    dead: list[Path] = []
    for path in sorted(home.root.glob(f"{SNAPSHOT}*")):
        (dead if left_behind(path, time.time_ns()) else living).append(path)
    return [path for path in living if path.exists()], dead


def _archive(path: Path, manifest: dict[str, Any]) -> Archive:
    files = manifest["files"]
    size = sum(entry["bytes"] for entry in files.values())
    return Archive(path, manifest["made_at"], len(files), size, manifest["landing"], manifest["elsewhere"])


# ---- the snapshot


def _snapshot(lake: Lake, work: Path, *, landing: bool) -> None:
    """Link or copy everything that belongs into a backup to where it lies in the home."""
    home = lake.home
    _databases(home, work)  # first: Dagster may know less than the lake, never more
    stores = (lake.reports, lake.tables, lake.models) if lake.address is None else ()
    others = {name[:-1] for store in stores for name in store.backend.list("") if name.endswith("/")}
    for part in [*sorted(others - {*DOWNSTREAM_FIRST}), *DOWNSTREAM_FIRST]:
        for store in stores:
            if not part.startswith("."):
                for key in [part, *folders(store, part)]:
                    _partition(store, key, work / store.root.name / key)
    if landing:
        for mark in sorted(home.landing.glob(f"*/*/{COMPLETE}")):
            if not mark.parent.name.startswith("."):
                _tree(mark.parent, work / mark.parent.relative_to(home.root))
    for path in sorted(home.reports.iterdir()) if home.reports.is_dir() else []:
        if path.is_file() and not path.name.startswith("."):
            _copy(path, work / path.relative_to(home.root))  # written on in place: notices of failures
    known = {part.name for part in (*home.parts, home.spill, home.cache)}
    for path in sorted(home.root.iterdir()):
        if path.name.startswith((".", home.catalog.name)) or path.name in known:
            continue
        for file in files_below(path):
            _copy(path / file, work / path.name / file) if path.is_dir() else _copy(path, work / path.name)
    _journal(home, work)


def _partition(store: VersionStore, key: str, target: Path) -> None:
    """Link the versions, marks and pointer of one partition under its lock, which takes milliseconds."""
    folder = store.root / key
    if not any(VERSION.fullmatch(name[:-1]) for name in store.backend.list(key)):
        return
    try:
        with locked(folder, where=key):
            names = [name.rstrip("/") for name in store.backend.list(key)]
            pointer = (folder / POINTER).read_bytes() if POINTER in names else b""
            for name in names:
                shown = f'"{name}"'.encode() in pointer  # by text: a broken pointer is backed up as it is
                if VERSION.fullmatch(name) and (shown or f"{RETIRED}{name}" in names):
                    _tree(folder / name, target / name)
                elif name == POINTER or name.startswith(RETIRED):
                    _take(folder / name, target / name)
    except FileNotFoundError:
        return  # the partition went meanwhile


def _journal(home: Home, work: Path) -> None:
    """Link every entry. One that came while its folder was listed may be missing from the list, not from the disk."""
    for folder in sorted({path.parent for path in home.journal.rglob("*.json") if is_entry(path.name)}):
        names = {path.name for path in folder.glob("*.json") if is_entry(path.name)}
        highest = max((int(found[1]) for name in names if (found := _NUMBERED.fullmatch(name))), default=-1)
        for name in sorted(names | {f"n-{number:08d}.json" for number in range(highest + 1)}):
            with suppress(FileNotFoundError):  # a number that is missing is `doctor`'s to tell
                _take(folder / name, work / folder.relative_to(home.root) / name)


def _tree(folder: Path, target: Path) -> None:
    for file in files_below(folder):
        _take(folder / file, target / file)


def _take(path: Path, target: Path) -> None:
    """Link a file that nobody changes; copied where links are not to be had (another disk, a symbolic link)."""
    make_private(target.parent)
    try:
        if not path.is_symlink():
            os.link(path, target)
            return
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
    shutil.copy2(path, target)


def _copy(path: Path, target: Path) -> None:
    make_private(target.parent)
    shutil.copy2(path, target)


def _databases(home: Home, work: Path) -> None:
    """Dagster's SQLite files, each as of one moment, and its dagster.yaml. Events before runs: no event without run."""
    found = sorted(home.dagster.rglob("*.db"), key=lambda path: (path.parent.name != "runs", path))
    for path in found:
        target = work / path.relative_to(home.root)
        make_private(target.parent)
        try:
            with path.open("rb") as file:
                whole = file.read(len(_SQLITE)) == _SQLITE
            if whole:
                _database(path, target)
        except FileNotFoundError:
            continue  # a run's own file, purged meanwhile
    if (home.dagster / "dagster.yaml").is_file():
        _copy(home.dagster / "dagster.yaml", work / "dagster" / "dagster.yaml")


def _database(path: Path, target: Path) -> None:
    try:
        source = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60.0)
        copy = sqlite3.connect(target)
        try:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, no -wal beside it
        finally:
            copy.close()
            source.close()
    except sqlite3.Error as error:
        raise StoreError(f"Dagster's database cannot be copied ({error}).", where=path.name) from error
