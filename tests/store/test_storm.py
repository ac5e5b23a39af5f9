"""Many processes on one store: nothing acknowledged is lost, nothing half-written is seen, killed writers leave no trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import storm_worker as storm

from pipeline.store.home import Home
from pipeline.store.lake import Lake

pytestmark = pytest.mark.distributed
WORKER = Path(storm.__file__)


def start(home: Home, role: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), role, str(home.root), *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home.root, env=environment
    )


def result(process: subprocess.Popen[str]) -> dict:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").ensure()


def test_storm(home: Home) -> None:
    readers = [start(home, "read", 100 + index) for index in range(2)]
    collector = start(home, "collect")
    writers = [start(home, "write", index, 7 + index) for index in range(storm.WRITERS)]
    diarists = [start(home, "journal", index) for index in range(storm.JOURNAL_PROCESSES)]
    killer = start(home, "kill", 20261031)
    try:
        written = [result(process) for process in writers]
        noted = [result(process) for process in diarists]
        killed = result(killer)
    finally:
        (home.root / "over").touch()
    seen = [result(process) for process in readers]
    collected = result(collector)
    print({"commits": sum(w["commits"] for w in written), "reads": seen, "collected": collected["removed"]})

    # No reader met an error or half a write, and all three kinds of process really met each other.
    assert [reader["problems"] for reader in seen] == [[], []]
    assert all(reader["reads"] > 0 for reader in seen)
    assert collected["removed"] > 0

    # Every partition stands at the last commit that was acknowledged; all of it is whole.
    store = Lake(home).tables
    for writer in written:
        for label, marker in writer["acknowledged"].items():
            if "contested" not in label:
                assert current(store, label) == marker
    assert sum("contested" not in label for writer in written for label in writer["acknowledged"]) == storm.PARTITIONS
    last = {writer["acknowledged"].get("features/cohort=contested") for writer in written} - {None}
    assert current(store, "features/cohort=contested") in last
    assert len(last) == 2

    # A killed writer may have got one commit further than it could say, never less far.
    for label, marker in killed["acknowledged"].items():
        assert current(store, label) >= marker

    journal = Lake(home).journal
    entries = [entry["id"] for entry in journal.entries("privacy/storm")]
    acknowledged = [entry for diary in noted for entry in diary["free"]] + killed["entries"]
    assert len(entries) == len(set(entries))
    assert set(acknowledged) <= set(entries)
    assert len(entries) - len(acknowledged) <= killed["kills"]
    tickets = [entry["ticket"] for entry in journal.entries("tickets")]
    assert tickets == list(range(storm.JOURNAL_PROCESSES * storm.ENTRIES_EACH // 2))
    for diary in noted:
        assert [e for e in entries if e in set(diary["free"])] == diary["free"], "entries of one writer out of order"

    # What the killed left is taken away, and nothing else.
    before = {tuple(key.items()): store.resolve("features", key) for key in store.partitions("features")}
    store.collect(keep=1, grace_seconds=0)
    journal.collect(grace_seconds=0)
    for version in before.values():
        store.verify(version)
        left = {path.name for path in (store.root / version.label).iterdir()}
        assert left - {f"_retired-{version.version}"} == {"_current.json", version.version}
    assert [entry["id"] for entry in journal.entries("privacy/storm")] == entries
    assert not [path for path in home.root.rglob(".*") if path.name.startswith((".tmp-", ".ptr-", ".trash-"))]


def current(store: object, label: str) -> int:
    """Marker of the current version of a partition, after reading all of it."""
    asset, *parts = label.split("/")
    version = store.resolve(asset, dict(part.split("=") for part in parts))  # type: ignore[attr-defined]
    store.verify(version)  # type: ignore[attr-defined]
    return storm.check(store, version)  # type: ignore[arg-type]


@pytest.mark.parametrize("action", ["commit", "rollback", "collect", "append"])
def test_dying_at_any_step_leaves_the_store_whole(home: Home, action: str) -> None:
    seen = result(start(home, "steps", action))
    print(action, seen)
    assert seen["steps"] > 5
    if action in {"commit", "rollback"}:
        assert seen["old"] > 0
        assert seen["new"] > 0
    if action in {"collect", "append"}:
        assert seen["new"] == 0
    if action == "append":
        assert 0 < seen["entries"] < seen["steps"]
