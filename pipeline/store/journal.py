"""The journal: what must never be lost or overwritten (privacy spend, signatures, holdout access).

    <root>/<stream>/e-<time>-<uuid>.json        one immutable file an entry

An entry appears whole or not at all and is never replaced; many processes may append at once. Who must read and
then append as one step (reserve a budget, sign what was reviewed) uses `transact`.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, StoreError
from pipeline.store.disk import locked, make_folders, storage_errors, sync_folder, write_new
from pipeline.store.hashing import canonical_json
from pipeline.store.keys import DRAFT, stream_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_ENTRY = re.compile(r"(e-([0-9a-f]{16})-[0-9a-f]{32})\.json")


class Journal:
    """Append-only streams of small JSON entries below one folder, named like "privacy/support" (`keys.stream_key`)."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def append(self, stream: str, entry: Mapping[str, Any]) -> str:
        """Add an entry and give its id. When it returns, the entry survives a crash.

        Ids sort by time: an entry appended after another was visible sorts after it, even if the clock went back.

        Raises:
            ConfigError: a bad stream name, an entry that is no JSON mapping or has a key "id" or "at" of its own.
            StoreError: disk full or not writable; the entry is then not there.
        """
        if reserved := {"id", "at"} & set(entry):
            raise ConfigError(f"The journal sets '{min(reserved)}' itself.", where=stream)
        folder = self._folder(stream)
        with storage_errors(f"journal {stream}"):
            make_folders(folder)
            stamp = max([time.time_ns(), *[_stamp(name) + 1 for name in self._names(folder)]])
            key = f"e-{stamp:016x}-{uuid.uuid4().hex}"
            at = _moment(stamp).isoformat(timespec="microseconds")
            draft = folder / f"{DRAFT}{key}"
            try:
                write_new(draft, (canonical_json({**entry, "id": key, "at": at}) + "\n").encode(), mode=0o400)
                os.link(draft, folder / f"{key}.json")  # fails if the name is taken: nothing is ever overwritten
            finally:
                draft.unlink(missing_ok=True)
            sync_folder(folder)
        return key

    def entries(self, stream: str) -> list[dict[str, Any]]:
        """All entries of a stream, sorted by time and id, each with its `id` and `at` (UTC, ISO 8601).

        Raises:
            StoreError: an entry is broken or cannot be read.
        """
        folder = self._folder(stream)
        found = []
        with storage_errors(f"journal {stream}"):
            for name in self._names(folder):
                try:
                    entry = json.loads((folder / name).read_bytes())
                    whole = f"{entry['id']}.json" == name
                except (ValueError, KeyError, TypeError):
                    whole = False
                if not whole:
                    raise StoreError("A journal entry is broken.", where=f"{stream}/{name}", todo="Restore a backup.")
                found.append(entry)
        return found

    def transact(
        self, stream: str, decide: Callable[[list[dict[str, Any]]], Mapping[str, Any] | None]
    ) -> dict[str, Any] | None:
        """Read a stream and append what follows from it as one step: no entry can come in between.

        Args:
            stream: Name of the stream.
            decide: Given all entries, what to append, or None for nothing; what it raises is raised. It may be
                called again if another writer was faster, so it must change nothing itself.

        Returns:
            The entry that was appended, with `id` and `at`; None if there was nothing to append.
        """
        with self.lock(stream):
            entry = decide(self.entries(stream))
            if entry is None:
                return None
            key = self.append(stream, entry)
            return next(e for e in self.entries(stream) if e["id"] == key)

    def now(self) -> datetime:
        """The present (UTC), but never before the newest entry of any stream: a clock set back revives no waiver."""
        newest = max((_stamp(path.name) for path in self.root.rglob("e-*.json")), default=0)
        return max(datetime.now(UTC), _moment(newest))

    def streams(self) -> list[str]:
        """The streams that have at least one entry, sorted."""
        return sorted({path.parent.relative_to(self.root).as_posix() for path in self.root.rglob("e-*.json")})

    @contextmanager
    def lock(self, stream: str, *, timeout_seconds: float = 60.0) -> Iterator[None]:
        """Hold a stream for oneself among all that take its lock; `append` and `entries` take none. Not re-entrant.

        Raises:
            StoreError: somebody else holds it for longer than `timeout_seconds`.
        """
        folder = self._folder(stream)
        with ExitStack() as stack:
            with storage_errors(f"journal {stream}"):  # errors of the lock, not of the caller's block
                make_folders(folder)
                stack.enter_context(locked(folder, where=f"journal {stream}", timeout_seconds=timeout_seconds))
            yield

    def collect(self, *, grace_seconds: float = 3600.0) -> int:
        """Remove what killed writers left half-made; entries are never removed. Gives the number of files."""
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

    def _folder(self, stream: str) -> Path:
        return self.root / stream_key(stream)

    def _names(self, folder: Path) -> list[str]:
        try:
            return sorted(path.name for path in folder.iterdir() if _ENTRY.fullmatch(path.name))
        except FileNotFoundError:
            return []


def _stamp(name: str) -> int:
    """Nanoseconds since 1970 in an entry's name."""
    return int(name.split("-")[1], 16)


def _moment(stamp: int) -> datetime:
    return datetime.fromtimestamp(stamp // 1000 / 1e6, tz=UTC)
