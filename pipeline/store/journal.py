"""The journal: what must never be lost or overwritten (privacy spend, signatures, holdout access).

    <stream>/n-<number>.json        one immutable entry each, numbered without gaps

An entry appears whole or not at all and is never replaced. Nobody waits for a lock, on a disk as on an object
store: the next number can be taken by one writer only, and who comes second reads again and decides again. So
reading and appending are one step (`transact`) among any number of machines. Entries of the first version of
CohortLoom (`e-<time>-<uuid>.json`) stand before the numbered ones.
"""

from __future__ import annotations

import copy
import json
import random
import re
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, StoreError
from pipeline.store.backend import Backend, LocalBackend, ValueChanged
from pipeline.store.disk import storage_errors
from pipeline.store.hashing import canonical_json
from pipeline.store.keys import DRAFT, stream_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_ENTRY = re.compile(r"n-([0-9]{8})\.json|e-[0-9a-f]{16}-[0-9a-f]{32}\.json")
_ID = re.compile(r"e-[0-9a-f]{16}-[0-9a-f]{32}")
_BUSY_SECONDS = 120.0


class Journal:
    """Append-only streams of small JSON entries, named like "privacy/support" (`keys.stream_key`).

    Args:
        root: The folder that holds them.
        backend: Another place for them; then nothing lies in `root`.
    """

    def __init__(self, root: Path, backend: Backend | None = None) -> None:
        self.root = Path(root)
        self.backend: Backend = backend or LocalBackend(self.root)

    def append(self, stream: str, entry: Mapping[str, Any]) -> str:
        """Add an entry and give its id. When it returns, the entry survives a crash.

        Ids sort by time: an entry appended after another was visible sorts after it, even if the clock went back.

        Raises:
            ConfigError: a bad stream name, an entry that is no JSON mapping or has a key "id" or "at" of its own.
            StoreError: disk full or not writable, or the last entry is broken; the entry is then not there. Only
                an object store that fails without answering leaves open whether it is.
        """

        def attempt(names: Sequence[str]) -> dict[str, Any] | None:
            return self._create(stream, names, self._read(stream, names[-1:]), entry)

        return str(self._until_first(stream, attempt)["id"])

    def entries(self, stream: str) -> list[dict[str, Any]]:
        """All entries of a stream, sorted by time and id, each with its `id` and `at` (UTC, ISO 8601).

        Raises:
            StoreError: an entry is missing, broken or cannot be read.
        """
        return self._read(stream, self._names(stream))

    def transact(
        self, stream: str, decide: Callable[[list[dict[str, Any]]], Mapping[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Read a stream and append what follows from it as one step: no entry can come in between.

        Args:
            stream: Name of the stream.
            decide: Given all entries, what to append, or None for nothing; what it raises is raised. It is called
                again whenever another writer was faster, so it must change nothing itself.

        Returns:
            The entry that was appended, with `id` and `at`; None if there was nothing to append.

        Raises:
            ConfigError: as `append`.
            StoreError: as `append`; or other writers were faster for two minutes on end.
        """

        known: list[dict[str, Any]] = []

        def attempt(names: Sequence[str]) -> dict[str, Any] | None:
            known.extend(self._read(stream, names[len(known) :]))  # what was read once never changes
            entry = decide(copy.deepcopy(known))
            return {} if entry is None else self._create(stream, names, known[-1:], entry)

        return self._until_first(stream, attempt) or None

    def now(self) -> datetime:
        """The present (UTC), but never before the newest entry of any stream: a clock set back revives no waiver."""
        newest = [self._read(stream, self._names(stream)[-1:])[0]["id"] for stream in self.streams()]
        return max(_moment(self.backend.clock()), *(_moment(_stamp(key)) for key in newest), _moment(0))

    def streams(self) -> list[str]:
        """The streams that have at least one entry, sorted."""
        return sorted(_streams(self.backend.survey(""), ""))

    def collect(self, *, grace_seconds: float = 3600.0) -> int:
        """Remove what killed writers left half-made on a disk (an object store keeps nothing half-made).

        Entries are never removed. Gives the number of files.
        """
        cutoff, removed = time.time() - grace_seconds, 0
        with storage_errors("journal"):
            for path in self.root.rglob(f"{DRAFT}*"):
                try:
                    if path.stat().st_mtime <= cutoff:
                        path.unlink()
                        removed += 1
                except FileNotFoundError:
                    continue  # its writer has finished meanwhile
        return removed

    # ---- one step at a time

    def _until_first(self, stream: str, attempt: Callable[[Sequence[str]], dict[str, Any] | None]) -> dict[str, Any]:
        """Let `attempt` append after the names it is given until nobody else is faster."""
        deadline, pause = time.monotonic() + _BUSY_SECONDS, 0.002
        while (made := attempt(self._names(stream))) is None:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"Other writers were faster for {_BUSY_SECONDS:g} s on end.",
                    where=f"journal {stream}",
                    todo="Look which processes append to it without pause.",
                )
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 0.25)
        return made

    def _create(
        self, stream: str, names: Sequence[str], last: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Append as the entry after `names`, the `last` of which is known; None if somebody else took the number."""
        if reserved := {"id", "at"} & set(entry):
            raise ConfigError(f"The journal sets '{min(reserved)}' itself.", where=stream)
        number = 1 + max((_number(name) for name in names[-1:]), default=-1)
        stamp = max([self.backend.clock(), *[_stamp(before["id"]) + 1 for before in last]])
        key = f"e-{stamp:016x}-{number:08x}{uuid.uuid4().hex[:24]}"
        text = canonical_json({**entry, "id": key, "at": _moment(stamp).isoformat(timespec="microseconds")})
        try:
            self.backend.create(f"{stream}/n-{number:08d}.json", f"{text}\n".encode())
        except ValueChanged:
            return None
        whole: dict[str, Any] = json.loads(text)
        return whole

    def _read(self, stream: str, names: Sequence[str]) -> list[dict[str, Any]]:
        todo = "Restore a backup."
        found = []
        for name, stored in zip(names, self.backend.get_many(f"{stream}/{name}" for name in names), strict=True):
            if stored is None:
                raise StoreError("A journal entry is missing.", where=f"{stream}/{name}", todo=todo)
            entry = parse_entry(name, stored.data)
            if entry is None:
                raise StoreError("A journal entry is broken.", where=f"{stream}/{name}", todo=todo)
            found.append(entry)
        return found

    def _names(self, stream: str) -> list[str]:
        """Names of all entries in order: the numbered ones up to the highest, whether or not they were listed."""
        listed = [name for name in self.backend.list(stream_key(stream)) if _ENTRY.fullmatch(name)]
        highest = max((_number(name) for name in listed), default=-1)
        old = [name for name in listed if _number(name) < 0]
        # A listing taken while entries come in may lack one that is there; a number below the highest never is free.
        return sorted(old) + [f"n-{number:08d}.json" for number in range(highest + 1)]


def _streams(listing: Callable[[str], list[str]], key: str) -> Iterator[str]:
    names = listing(key)
    if any(_ENTRY.fullmatch(name) for name in names):
        yield key
    for name in names:
        if name.endswith("/") and not name.startswith("."):
            yield from _streams(listing, f"{key}/{name[:-1]}".lstrip("/"))


def is_entry(name: str) -> bool:
    """Whether this is the file name of a journal entry."""
    return _ENTRY.fullmatch(name) is not None


def parse_entry(name: str, data: bytes) -> dict[str, Any] | None:
    """The entry in the file of this name; None if it is broken or another one."""
    try:
        entry: dict[str, Any] = json.loads(data)
        key = entry["id"]
        # its own number stands in the id, so that a copy under another number is found
        own = int(key[19:27], 16) == _number(name) if name.startswith("n-") else f"{key}.json" == name
        return entry if own and _ID.fullmatch(key) else None
    except (ValueError, KeyError, TypeError):
        return None


def _number(name: str) -> int:
    """The number in an entry's name; -1 for one of the first version of CohortLoom."""
    return int(name[2:10]) if name.startswith("n-") else -1


def _stamp(key: str) -> int:
    """Nanoseconds since 1970 in an entry's id."""
    return int(key.split("-")[1], 16)


def _moment(stamp: int) -> datetime:
    return datetime.fromtimestamp(stamp // 1000 / 1e6, tz=UTC)
