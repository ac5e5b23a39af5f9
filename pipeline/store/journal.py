"""The journal: what must never be lost or overwritten (privacy spend, signatures, holdout access).

    <root>/<stream>/e-<time>-<uuid>.json        one immutable file an entry

An entry appears whole or not at all and is never replaced; many processes may append at once. Who must read and
then append as one step (reserve a budget) does both under `lock`.
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
from pipeline.store.keys import DRAFT, asset_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ENTRY = re.compile(r"(e-([0-9a-f]{16})-[0-9a-f]{32})\.json")


class Journal:
    """Append-only streams of small JSON entries below one folder; streams are named like assets ("privacy/support")."""

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
            stamp = max([time.time_ns(), *[int(name.split("-")[1], 16) + 1 for name in self._names(folder)]])
            key = f"e-{stamp:016x}-{uuid.uuid4().hex}"
            at = datetime.now(UTC).isoformat(timespec="microseconds")
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
        return self.root / asset_key(stream)

    def _names(self, folder: Path) -> list[str]:
        try:
            return sorted(path.name for path in folder.iterdir() if _ENTRY.fullmatch(path.name))
        except FileNotFoundError:
            return []
