"""The journal keeps every entry, in order, and never overwrites one."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.store.hashing import canonical_json
from pipeline.store.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def test_entries_come_back_in_order(any_journal: Journal) -> None:
    assert any_journal.entries("privacy/support") == []
    ids = [any_journal.append("privacy/support", {"epsilon": number / 10}) for number in range(20)]
    any_journal.append("signatures", {"by": "reviewer"})
    entries = any_journal.entries("privacy/support")
    assert [entry["id"] for entry in entries] == ids
    assert [entry["epsilon"] for entry in entries] == [number / 10 for number in range(20)]
    assert all(entry["at"].endswith("+00:00") for entry in entries)
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    assert any_journal.streams() == ["privacy/support", "signatures"]
    assert any_journal.entries("privacy") == []


def test_order_holds_when_the_clock_goes_back(any_journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    first = any_journal.append("privacy", {"step": "reserve"})
    monkeypatch.setattr("time.time_ns", lambda: 5)
    second = any_journal.append("privacy", {"step": "complete"})
    assert [entry["id"] for entry in any_journal.entries("privacy")] == [first, second]


def test_an_entry_is_never_overwritten(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append("privacy", {"n": 1})
    path = journal.root / "privacy" / "n-00000000.json"
    before = path.read_bytes()
    assert path.stat().st_mode & 0o222 == 0
    listed = [[], ["n-00000000.json"]]  # as if the first entry had come in just after the stream was listed
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_names", lambda *_: listed.pop(0))
        journal.append("privacy", {"n": 2})
    assert path.read_bytes() == before
    assert [entry["n"] for entry in journal.entries("privacy")] == [1, 2]
    assert sorted(p.name for p in path.parent.iterdir()) == ["n-00000000.json", "n-00000001.json"]


def test_entries_of_the_first_version_come_before_the_numbered(journal: Journal) -> None:
    """Version 0.1 named its entries by time and chance; a home that has some goes on."""
    old = [f"e-{stamp:016x}-{'0' * 31}{stamp % 10}" for stamp in (time.time_ns() - 5, time.time_ns() + 10**15)]
    (journal.root / "privacy").mkdir(parents=True)
    for number, key in enumerate(old):
        text = canonical_json({"n": number, "id": key, "at": "2026-01-01T00:00:00+00:00"})
        (journal.root / "privacy" / f"{key}.json").write_text(text)
    assert journal.streams() == ["privacy"]
    new = [journal.append("privacy", {"n": number}) for number in (2, 3)]
    entries = journal.entries("privacy")
    assert [entry["n"] for entry in entries] == [0, 1, 2, 3]
    assert [entry["id"] for entry in entries] == sorted([*old, *new])


def test_bad_streams_and_entries_are_refused(any_journal: Journal) -> None:
    for stream in ("", "..", "../x", "a b", "a/../b", "/etc"):
        with pytest.raises(ConfigError):
            any_journal.append(stream, {})
    for entry in ({"id": "mine"}, {"at": "now"}, {"loss": float("inf")}, {"x": object()}):
        with pytest.raises(ConfigError):
            any_journal.append("privacy", entry)
    assert any_journal.entries("privacy") == []


def test_a_damaged_or_missing_entry_is_said(journal: Journal) -> None:
    for number in range(3):
        journal.append("privacy", {"n": number})
    path, other = (journal.root / "privacy" / f"n-0000000{number}.json" for number in (1, 2))
    path.chmod(0o600)
    whole = path.read_bytes()
    for damage in (whole[:-5], b"", b"[]", b'{"id": "other"}', b'{"id": 7}', other.read_bytes()):
        path.write_bytes(damage)
        with pytest.raises(StoreError, match="entry is broken"):
            journal.entries("privacy")
    path.unlink()
    with pytest.raises(StoreError, match=r"n-00000001\.json: A journal entry is missing"):
        journal.entries("privacy")
    path.write_bytes(whole)
    assert len(journal.entries("privacy")) == 3


def test_collect_removes_drafts_only(journal: Journal) -> None:
    journal.append("privacy", {"n": 1})
    draft = journal.root / "privacy" / ".tmp-dead"
    draft.write_text("half")
    assert [entry["n"] for entry in journal.entries("privacy")] == [1]
    assert journal.collect(grace_seconds=3600) == 0
    os.utime(draft, (0, 0))
    assert journal.collect(grace_seconds=3600) == 1
    assert len(journal.entries("privacy")) == 1


def test_reading_and_appending_is_one_step(any_journal: Journal) -> None:

    def count_up(entries: list[dict[str, Any]]) -> dict[str, int] | None:
        return {"n": len(entries)} if len(entries) < 20 else None

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: any_journal.transact("Privacy/Support", count_up), range(40)))
    assert sorted(entry["n"] for entry in made if entry) == list(range(20))
    assert [entry["n"] for entry in any_journal.entries("Privacy/Support")] == list(range(20))


def test_what_decides_may_refuse_and_leaves_nothing(any_journal: Journal) -> None:

    def refuse(_: list[dict[str, Any]]) -> None:
        raise ConfigError("No.")

    with pytest.raises(ConfigError, match="No"):
        any_journal.transact("a", refuse)
    assert any_journal.streams() == []


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
