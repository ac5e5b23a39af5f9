"""Looking over what is stored: broken pointers, files that are gone, versions nobody points to, half-made things.

Changes nothing. A finding says what, where, how serious and what to do; some can be mended without losing anything
and carry how. What else belongs to a healthy home is in `workflow/doctor.py`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pipeline.errors import StoreError
from pipeline.store.collector import folders
from pipeline.store.files import LocalFiles
from pipeline.store.keys import DRAFT, RECORD, RETIRED, SWAP, TRASH, VERSION
from pipeline.store.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.store.journal import Journal
    from pipeline.store.versions import VersionStore

Severity = Literal["error", "warning"]
COLLECT = "cohortloom gc takes it away."
AGAIN = "Materialise the partition again"
FRESH_SECONDS = 60.0
"""What is younger may belong to somebody who is at work on it."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        severity: "error": data is lost, wrong or exposed. "warning": nothing is lost, somebody should look.
        what: One sentence.
        where: Path or label, as the user knows it.
        todo: What to do about it.
        mend: Mends it without losing anything and says in words what it did; None where a person must decide.
    """

    severity: Severity
    what: str
    where: str
    todo: str
    mend: Callable[[], str] | None = field(default=None, compare=False)


def inspect_store(store: VersionStore, *, deep: bool = False) -> Iterator[Finding]:
    """What is wrong in a version store.

    Args:
        store: The lake's tables, the models or the reports.
        deep: Read every file of every version and compare its hash, too.
    """
    place = store.root.name
    for key in folders(store):
        where = f"{place}/{key}"
        names = [name.rstrip("/") for name in store.backend.list(key)]
        try:
            current = store.current_at(key)
        except StoreError as error:
            yield Finding("error", f"The pointer cannot be used: {error.what}", where, _back(key))
            current = None
        if current is not None and current.version not in names:
            # Looked at again: a writer may have moved the pointer and a collector taken the version meanwhile.
            current = store.current_at(key)
            if current is not None and not _there(store, key, current.version):
                yield Finding("error", f"The pointer names {current.version}, which is not there.", where, _back(key))
                current = None
        yield from _versions(store, key, names, current, deep)
        if any(name.startswith((DRAFT, SWAP, TRASH)) for name in names):
            yield from _half_made(store, key)


def _back(key: str) -> str:
    """How to get a partition back whose pointer or current version is damaged."""
    asset = "/".join(part for part in key.split("/") if "=" not in part)
    partition = "|".join(part.partition("=")[2] for part in key.split("/") if "=" in part)
    return f"{AGAIN}, or: cohortloom rollback {asset} '{partition}'"


def _versions(
    store: VersionStore, key: str, names: list[str], current: Version | None, deep: bool
) -> Iterator[Finding]:
    """Findings about each version of a partition."""
    place = f"{store.root.name}/{key}"
    for name in sorted(name for name in names if VERSION.fullmatch(name)):
        where = f"{place}/{name}"
        is_current = current is not None and current.version == name
        if not is_current and f"{RETIRED}{name}" not in names:
            if _never_pointed_to(store, key, name):
                yield Finding("warning", "A version that was never pointed to: its writer was killed.", where, COLLECT)
            continue
        severity: Severity = "error" if is_current else "warning"
        todo = _back(key) if is_current else f"Nothing needs it but a rollback; {COLLECT}"
        try:
            stored = store.backend.get(f"{key}/{name}/{RECORD}")
            if stored is None:
                if _there(store, key, name):
                    yield Finding(severity, f"Its record {RECORD} is missing.", where, todo)
                continue
            version = Version.from_bytes(stored.data, where=key)
            if is_current and version != current:
                yield Finding(severity, "The pointer and the record of the version differ.", where, todo)
            if version.version != name:
                yield Finding(severity, f"Its record says it is {version.version}.", where, todo)
                continue
            yield from _files(store, version, severity, todo, deep)
        except StoreError as error:
            yield Finding(severity, error.what, where, todo)


def _never_pointed_to(store: VersionStore, key: str, name: str) -> bool:
    """Looked at afresh: the version may have retired, or gone, since the partition was listed."""
    if time.time() - int(name.split("-")[1], 16) / 1e9 < FRESH_SECONDS:
        return False
    try:
        current = store.current_at(key)
    except StoreError:
        return False  # nobody can tell while the pointer is broken
    names = store.backend.list(key)
    return f"{name}/" in names and f"{RETIRED}{name}" not in names and (current is None or current.version != name)


def _there(store: VersionStore, key: str, name: str) -> bool:
    return f"{name}/" in store.backend.list(key)


def _files(store: VersionStore, version: Version, severity: Severity, todo: str, deep: bool) -> Iterator[Finding]:
    """Findings about the files of a version: there, of the right size, and if `deep` of the right hash."""
    where = f"{store.root.name}/{version.label}/{version.version}"
    found = list(_lengths(store, version))
    if not found and deep:
        try:
            store.verify(version)
        except StoreError as error:
            found.append((f"{store.root.name}/{error.where}", error.what))
    if found and _there(store, version.label, version.version):  # not collected meanwhile
        for file, what in found:
            yield Finding(severity, what, file if file.startswith(where) else f"{where}/{file}", todo)


def _lengths(store: VersionStore, version: Version) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) of files that are missing or cut short; an object store keeps whole objects or none."""
    if not isinstance(store.files, LocalFiles):
        return
    folder = store.root / version.label / version.version
    for stored in version.files.values():
        try:
            length = (folder / stored.file).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            yield stored.file, "The file is missing."
            continue
        if length != stored.bytes:
            yield stored.file, f"The file has {length:,} bytes and should have {stored.bytes:,}."


def _half_made(store: VersionStore, key: str) -> Iterator[Finding]:
    """Drafts and swaps that no living process holds; looked at under the partition's lock, as the collector does."""
    place = f"{store.root.name}/{key}"
    try:
        with store.files.alone(key):
            for name in [name.rstrip("/") for name in store.backend.list(key)]:
                if not name.startswith((DRAFT, SWAP, TRASH)):
                    continue
                if name.startswith(TRASH) or store.files.left_behind(key, name, store.backend.clock()):
                    words = {DRAFT: "A draft of a writer that was killed", TRASH: "What a collector left half removed"}
                    what = next(
                        (text for start, text in words.items() if name.startswith(start)), "A half-made pointer"
                    )
                    what = f"{what} ({store.files.size(key, name):,} bytes)."
                    yield Finding("warning", what, f"{place}/{name}", COLLECT)
    except FileNotFoundError:
        return  # gone meanwhile
    except StoreError as error:
        yield Finding("warning", error.what, place, error.todo)


def inspect_journal(journal: Journal) -> Iterator[Finding]:
    """Streams with an entry that is missing or cannot be read, and what killed writers left half-made."""
    for stream in journal.streams():
        try:
            journal.entries(stream)
        except StoreError as error:
            yield Finding(
                "error",
                f"{error.what} Nobody can read or append to '{stream}' any more.",
                f"journal/{error.where}",
                "Restore this file from a backup; never delete or edit entries.",
            )
    for path in sorted(journal.root.rglob(f"{DRAFT}*")) if journal.root.is_dir() else []:
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            continue  # its writer has finished
        if age > FRESH_SECONDS:
            where = f"journal/{path.relative_to(journal.root).as_posix()}"
            yield Finding("warning", "A journal entry of a writer that was killed: it was never valid.", where, COLLECT)
