"""Deliveries: folders `landing/<source>/<delivery>/` that are complete once they hold `_SUCCESS`.

Handing over copies aside and renames, so a delivery is there as a whole or not at all. What the files hold is not
looked into here.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError, InputError, NotFoundError, StoreError, nearest
from pipeline.store.hashing import sha256_file, sha256_json
from pipeline.store.home import Home

SUCCESS = "_SUCCESS"
MANIFEST = "_DELIVERY.json"

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]{0,39}")
_DATED = re.compile(r"(\d{4}-\d{2}-\d{2})(?!\d)")


@dataclass(frozen=True)
class Delivery:
    """One delivery in the landing folder.

    Attributes:
        source: Source name (first part of the key).
        name: Delivery name (second part).
        folder: Where its files lie.
        as_of: The day up to which the delivery knows.
        content: Hash over the names and bytes that were handed over; empty where somebody put the folder there.
    """

    source: str
    name: str
    folder: Path
    as_of: date
    content: str = ""

    @property
    def key(self) -> str:
        """Partition key `<source>--<delivery>`."""
        return f"{self.source}--{self.name}"

    def files(self) -> list[tuple[str, Path]]:
        """Data files as (path relative to the delivery with '/', path), in order of their relative path."""
        return list(content(self.folder))


def content(folder: Path) -> Iterator[tuple[str, Path]]:
    """The data files below a folder, sorted; hidden ones and the delivery's own marks are no content.

    Raises:
        InputError: A file name that is not UTF-8, or a link that leads to no file.
    """
    found = []
    misnamed = astray = 0
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or str(relative) in (SUCCESS, MANIFEST):
            continue
        if path.is_file():
            misnamed += not _is_text(relative.as_posix())
            found.append((relative.as_posix(), path))
        elif path.is_symlink():
            astray += 1
    # Passing over these would lose what they stand for without a word.
    if misnamed:
        raise InputError(f"{misnamed} file names are not UTF-8.", where=str(folder), todo="Rename the files.")
    if astray:
        raise InputError(
            f"{astray} links lead to no file (or to a folder).",
            where=str(folder),
            todo="Put the files themselves there.",
        )
    yield from sorted(found)


def _is_text(name: str) -> bool:
    """Can the name be written as UTF-8, which tables and readers need?"""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def delivery_key(source: str, name: str) -> str:
    """The partition key of a source and a delivery's name; raises `ConfigError` where the store would refuse it."""
    key = f"{source}--{name}"
    if not _SOURCE.fullmatch(source) or not name or not _KEY.fullmatch(key) or ".." in key:
        raise ConfigError(
            "A delivery key is '<source>--<delivery>': at most 100 letters, digits and . _ -, a letter or digit first, "
            "without '..'; the source has at most 40 and no hyphen.",
            where=f"source '{source[:60]}', delivery '{name[:60]}'",
        )
    return key


def hand_over(home: Home, source: str, path: Path, *, as_of: date | None, name: str | None = None) -> Delivery:
    """Copy a file or folder into the landing folder, whole or not at all.

    Args:
        home: Where the landing folder is.
        source: Source name.
        path: File or folder; hidden files, `_SUCCESS` and `_DELIVERY.json` are left behind.
        as_of: Day up to which it knows; default the ISO date at the start of its name, else today (UTC).
        name: Delivery name; default the file's or folder's name if it starts with an ISO date, else the day.

    Returns:
        The delivery; if the same content stands there already under that name, that one.

    Raises:
        InputError: Nothing there, not readable, empty, or another content stands there under that name.
        ConfigError: A name that the store would refuse.
        StoreError: The landing folder cannot be written.
    """
    asked = look_at(source, path, as_of=as_of, name=name)
    target = home.landing / source / asked.name
    # In this order: a delivery comes whole, so one that appears between the two looks is not taken for half of one.
    if target.exists() and not (target / SUCCESS).exists():
        raise InputError(
            "A delivery of this name is still being written (it has no _SUCCESS).",
            where=f"{source}--{asked.name}",
            todo="Wait for it, or choose another name.",
        )
    if (target / SUCCESS).exists():
        return _same_or_refuse(target, asked)
    with copied_aside(home, asked) as made:
        try:
            made.folder.rename(target)
        except OSError:
            if not (target / SUCCESS).exists():
                raise
            return _same_or_refuse(target, asked)  # someone else handed it over meanwhile
    return _read(source, target)


@dataclass(frozen=True)
class HandingOver:
    """What somebody wants to hand over.

    Attributes:
        source: Source name.
        name: Delivery name.
        files: The files, as (path relative to the delivery, path).
        day: Day up to which it knows.
        dated: Was the day asked for? Else it follows from the name or the calendar.
    """

    source: str
    name: str
    files: list[tuple[str, Path]]
    day: date
    dated: bool

    def same_as(self, there: Delivery) -> Literal["same", "content", "date"]:
        """Is it what stands there, and if not, what differs?"""
        have = dict(content(there.folder))
        same = have.keys() == {relative for relative, _ in self.files} and all(
            filecmp.cmp(file, have[relative], shallow=False) for relative, file in self.files
        )
        if not same:
            return "content"
        return "date" if self.dated and self.day != there.as_of else "same"


def look_at(source: str, path: Path, *, as_of: date | None, name: str | None) -> HandingOver:
    """What handing over a file or folder would mean; raises as `hand_over` does where it cannot be."""
    path = Path(path)
    if not path.exists():
        raise InputError("There is no such file or folder.", where=str(path))
    stem = path.resolve().name.split(".")[0] if path.is_file() else path.resolve().name
    dated = _leading_date(name) or (_leading_date(stem) if name is None else None)
    day = as_of or dated or datetime.now(UTC).date()
    if name is None:
        name = stem if _leading_date(stem) and (as_of is None or as_of == dated) else day.isoformat()
    delivery_key(source, name)
    files = [(path.name, path)] if path.is_file() else list(content(path))
    if not files or all(file.stat().st_size == 0 for _, file in files):
        raise InputError("The delivery is empty: it holds no file with content.", where=str(path))
    unreadable = sum(1 for _, file in files if not os.access(file, os.R_OK))
    if unreadable:
        raise InputError(f"{unreadable} of {len(files)} files cannot be read.", where=str(path), todo="Permissions?")
    return HandingOver(source, name, files, day, as_of is not None)


@contextmanager
def copied_aside(home: Home, asked: HandingOver) -> Iterator[Delivery]:
    """A whole delivery in a folder beside the deliveries of its source; what that folder holds in the end is removed.

    Raises:
        StoreError: The landing folder cannot be written (also where the block fails to move the folder).
    """
    work = home.landing / asked.source / f".tmp-{uuid.uuid4().hex}"
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        work.mkdir(mode=0o700)
        hashes = {}
        for relative, file in asked.files:
            (work / relative).parent.mkdir(parents=True, exist_ok=True)
            hashes[relative] = _copy(file, work / relative)
        made = Delivery(asked.source, asked.name, work, asked.day, sha256_json(hashes))
        manifest = {"source": made.source, "as_of": made.as_of.isoformat(), "content": made.content}
        (work / MANIFEST).write_text(json.dumps(manifest, sort_keys=True) + "\n")
        (work / SUCCESS).touch()
        yield made
    except OSError as error:
        raise StoreError(
            f"The delivery cannot be written ({error.strerror}).", where=str(home.landing / asked.source)
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def content_hash(folder: Path) -> str:
    """The hash over the names and bytes of a delivery's files as they are now: what `Delivery.content` is made like."""
    return sha256_json({relative: sha256_file(path) for relative, path in content(folder)})


def renew_content(folder: Path, aside: Path) -> None:
    """Enter in `_DELIVERY.json` what the files of a delivery are now, after records were taken out of them.

    Args:
        folder: The delivery.
        aside: A path on the same file system to write to first.
    """
    manifest = folder / MANIFEST
    try:
        told = json.loads(manifest.read_text()) if manifest.is_file() else {}
    except ValueError:  # who reads the delivery says so
        return
    if isinstance(told, dict) and "content" in told:
        aside.write_text(json.dumps({**told, "content": content_hash(folder)}, sort_keys=True) + "\n")
        aside.replace(manifest)


def _copy(source: Path, target: Path) -> str:
    """Copy a file; gives its SHA-256."""
    digest = hashlib.sha256()
    with source.open("rb") as file, target.open("wb") as out:
        while piece := file.read(1 << 20):
            digest.update(piece)
            out.write(piece)
    return digest.hexdigest()


def _same_or_refuse(target: Path, asked: HandingOver) -> Delivery:
    """The delivery that stands there, if it has the same files (and day, where one was asked for)."""
    there = _read(asked.source, target)
    differs = asked.same_as(there)
    if differs != "same":
        raise InputError(
            f"A delivery of this name is there already with other {differs}; nothing was changed.",
            where=there.key,
            todo="Hand it over under another name, or put it in the place of the old one with --replace.",
        )
    return there


def _leading_date(name: str | None) -> date | None:
    """The ISO date a name starts with, if any."""
    found = _DATED.match(name or "")
    try:
        return date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def _read(source: str, folder: Path) -> Delivery:
    """The delivery in a landing folder that holds `_SUCCESS`; raises `InputError` on a broken `_DELIVERY.json`."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return _unlabelled(source, folder)
    try:
        told = json.loads(manifest.read_text())
        day, content_hash = date.fromisoformat(told["as_of"]), str(told.get("content", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{MANIFEST} must be JSON with a date 'as_of' (YYYY-MM-DD).", where=f"{source}--{folder.name}"
        ) from None
    return Delivery(source, folder.name, folder, day, content_hash)


def _unlabelled(source: str, folder: Path) -> Delivery:
    """A delivery dated by its name, else by the day (UTC) on which it was complete."""
    day = _leading_date(folder.name)
    if day is None:
        day = datetime.fromtimestamp((folder / SUCCESS).stat().st_mtime, tz=UTC).date()
    return Delivery(source, folder.name, folder, day)


def _folders(home: Home, *, complete: bool) -> Iterator[tuple[str, Path]]:
    """Delivery folders with or without `_SUCCESS`, whose names the store would take, sorted."""
    if not home.landing.is_dir():
        return
    for source in sorted(p for p in home.landing.iterdir() if p.is_dir() and _SOURCE.fullmatch(p.name)):
        for folder in sorted(p for p in source.iterdir() if p.is_dir()):
            key = f"{source.name}--{folder.name}"
            good = _KEY.fullmatch(key) and ".." not in key and not folder.name.startswith(".")
            if good and (folder / SUCCESS).exists() == complete:
                yield source.name, folder


def landed(home: Home) -> list[Delivery]:
    """The complete deliveries, sorted by source and name.

    One with a broken `_DELIVERY.json` is listed too, dated by its name; reading it by `delivery` says what is wrong.
    """
    found = []
    for source, folder in _folders(home, complete=True):
        try:
            found.append(_read(source, folder))
        except InputError:
            found.append(_unlabelled(source, folder))
    return found


def waiting(home: Home) -> list[str]:
    """Keys of delivery folders that are still being written (no `_SUCCESS` yet), sorted."""
    return [f"{source}--{folder.name}" for source, folder in _folders(home, complete=False)]


def delivery(home: Home, key: str) -> Delivery:
    """The complete delivery with this key.

    Raises:
        NotFoundError: There is none, or it is still being written.
    """
    source, _, name = key.partition("--")
    if name and _SOURCE.fullmatch(source) and _KEY.fullmatch(key) and ".." not in key:
        folder = home.landing / source / name
        if (folder / SUCCESS).exists():
            return _read(source, folder)
        if folder.is_dir():
            raise NotFoundError(
                "The delivery is still being written (it has no _SUCCESS).",
                where=key,
                todo="Wait, or create an empty file _SUCCESS in it when all files are there.",
            )
    known = [f"{source}--{folder.name}" for source, folder in _folders(home, complete=True)]
    raise NotFoundError(f"There is no delivery '{key}'.", todo=nearest(key, known))
