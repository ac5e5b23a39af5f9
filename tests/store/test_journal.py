"""The journal keeps every entry, in order, and never overwrites one."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.store.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def test_entries_come_back_in_order(journal: Journal) -> None:
    assert journal.entries("privacy/support") == []
    ids = [journal.append("privacy/support", {"epsilon": number / 10}) for number in range(20)]
    journal.append("signatures", {"by": "reviewer"})
    entries = journal.entries("privacy/support")
    assert [entry["id"] for entry in entries] == ids
    assert [entry["epsilon"] for entry in entries] == [number / 10 for number in range(20)]
    assert all(entry["at"].endswith("+00:00") for entry in entries)
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    assert journal.streams() == ["privacy/support", "signatures"]
    assert journal.entries("privacy") == []


def test_order_holds_when_the_clock_goes_back(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    first = journal.append("privacy", {"step": "reserve"})
    monkeypatch.setattr("time.time_ns", lambda: 5)
    second = journal.append("privacy", {"step": "complete"})
    assert [entry["id"] for entry in journal.entries("privacy")] == [first, second]


def test_an_entry_is_never_overwritten(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    key = journal.append("privacy", {"n": 1})
    path = journal.root / "privacy" / f"{key}.json"
    before = path.read_bytes()
    assert path.stat().st_mode & 0o222 == 0

    class Same:
        hex = key[-32:]

    monkeypatch.setattr("uuid.uuid4", Same)
    monkeypatch.setattr(Journal, "_names", lambda *_: [])
    monkeypatch.setattr("time.time_ns", lambda: int(key.split("-")[1], 16))
    with pytest.raises(StoreError, match="File exists"):
        journal.append("privacy", {"n": 2})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_bad_streams_and_entries_are_refused(journal: Journal) -> None:
    for stream in ("", "..", "../x", "a b", "a/../b", "/etc"):
        with pytest.raises(ConfigError):
            journal.append(stream, {})
    for entry in ({"id": "mine"}, {"at": "now"}, {"loss": float("inf")}, {"x": object()}):
        with pytest.raises(ConfigError):
            journal.append("privacy", entry)
    assert journal.entries("privacy") == []


def test_a_damaged_entry_is_said(journal: Journal) -> None:
    key = journal.append("privacy", {"n": 1})
    path = journal.root / "privacy" / f"{key}.json"
    path.chmod(0o600)
    for damage in (path.read_bytes()[:-5], b"", b"[]", b'{"id": "other"}'):
        path.write_bytes(damage)
        with pytest.raises(StoreError, match="entry is broken"):
            journal.entries("privacy")


def test_collect_removes_drafts_only(journal: Journal) -> None:
    journal.append("privacy", {"n": 1})
    draft = journal.root / "privacy" / ".tmp-dead"
    draft.write_text("half")
    assert [entry["n"] for entry in journal.entries("privacy")] == [1]
    assert journal.collect(grace_seconds=3600) == 0
    os.utime(draft, (0, 0))
    assert journal.collect(grace_seconds=3600) == 1
    assert len(journal.entries("privacy")) == 1


def test_the_lock_holds_others_off_and_says_so(journal: Journal) -> None:
    inside, leave = threading.Event(), threading.Event()

    def holder() -> None:
        with journal.lock("privacy"):
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=holder)
    thread.start()
    try:
        assert inside.wait(30)
        message = r"journal privacy: Another process has held the lock for more than 0\.05 s\. Wait"
        with pytest.raises(StoreError, match=message), journal.lock("privacy", timeout_seconds=0.05):
            raise AssertionError("two hold the lock")
        with journal.lock("other"):
            journal.append("privacy", {"n": 1})  # appending needs no lock
    finally:
        leave.set()
        thread.join()
    with journal.lock("privacy", timeout_seconds=5):
        assert len(journal.entries("privacy")) == 1


def test_an_error_within_the_lock_is_the_callers(journal: Journal) -> None:
    with pytest.raises(FileNotFoundError), journal.lock("privacy"):
        raise FileNotFoundError("the caller's")
    with journal.lock("privacy", timeout_seconds=5):
        assert journal.entries("privacy") == []


def test_reading_and_appending_is_one_step(journal: Journal) -> None:

    def count_up(entries: list[dict[str, Any]]) -> dict[str, int] | None:
        return {"n": len(entries)} if len(entries) < 20 else None

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: journal.transact("Privacy/Support", count_up), range(40)))
    assert sorted(entry["n"] for entry in made if entry) == list(range(20))
    assert [entry["n"] for entry in journal.entries("Privacy/Support")] == list(range(20))


def test_what_decides_may_refuse_and_leaves_nothing(journal: Journal) -> None:

    def refuse(_: list[dict[str, Any]]) -> None:
        raise ConfigError("No.")

    with pytest.raises(ConfigError, match="No"):
        journal.transact("a", refuse)
    assert journal.streams() == []


def test_a_clock_set_back_turns_no_time_back(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append("a", {"n": 1})
    ahead = time.time_ns() + 40 * 86400 * 10**9
    monkeypatch.setattr("pipeline.store.journal.time.time_ns", lambda: ahead)
    journal.append("b", {"n": 2})
    monkeypatch.undo()
    assert journal.now() > datetime.now(UTC) + timedelta(days=39)
    journal.append("b", {"n": 3})
    before, after = journal.entries("b")
    assert before["at"] <= after["at"]
