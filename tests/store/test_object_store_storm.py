"""Many processes on one object store, each with a home and a cache of its own as if on a machine of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import s3_server
import storm_worker as storm

from pipeline.store.address import StoreAddress
from pipeline.store.home import Home
from pipeline.store.lake import Lake, VersionStore
from pipeline.store.object_store import ObjectStore

pytestmark = pytest.mark.distributed
WORKER = Path(storm.__file__)
WRITERS, PARTITIONS, ENTRIES = 3, 9, 20
SCALE = {
    "STORM_WRITERS": str(WRITERS),
    "STORM_PARTITIONS": str(PARTITIONS),
    "STORM_ROUNDS": "4",
    "STORM_ENTRIES": str(ENTRIES),
    "STORM_KILLS": "10",
    "STORM_KILL_WITHIN": "0.4",
    "STORM_GRACE_SECONDS": "6",
    "OMP_NUM_THREADS": "1",
    "ARROW_IO_THREADS": "1",
}


class Machines:
    """Starts processes that share nothing but the object store."""

    def __init__(self, address: StoreAddress, root: Path) -> None:
        self.root, self.environment = root, {**s3_server.environment(address), **SCALE}

    def start(self, role: str, machine: str, *args: object) -> subprocess.Popen[str]:
        home = Home(self.root / machine).ensure()
        command = [sys.executable, str(WORKER), role, str(home.root), *map(str, args)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home.root, env=self.environment
        )


def result(process: subprocess.Popen[str]) -> dict:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-4000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture
def machines(bucket: StoreAddress, tmp_path: Path) -> Machines:
    return Machines(bucket, tmp_path)


@pytest.fixture
def lake(bucket: StoreAddress, tmp_path: Path) -> Lake:
    return Lake(Home(tmp_path / "last").ensure(), bucket)


def current(store: VersionStore, label: str) -> int:
    """Marker of the current version of a partition, after reading all of it."""
    asset, *parts = label.split("/")
    version = store.resolve(asset, dict(part.split("=") for part in parts))
    store.verify(version)
    return storm.check(store, version)


@pytest.mark.slow
def test_storm(machines: Machines, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = [machines.start("read", f"reader{index}", 100 + index) for index in range(2)]
    collector = machines.start("collect", "collector")
    writers = [machines.start("write", f"writer{index}", index, 7 + index) for index in range(WRITERS)]
    diarists = [machines.start("journal", "desk", index) for index in range(storm.JOURNAL_PROCESSES)]
    killer = machines.start("kill", "doomed", 20261031)
    try:
        written = [result(process) for process in writers]
        noted = [result(process) for process in diarists]
        killed = result(killer)
    finally:
        (tmp_path / "over").touch()
    seen = [result(process) for process in readers]
    collected = result(collector)
    print({"commits": sum(w["commits"] for w in written), "reads": seen, "collected": collected["removed"]})

    # No reader met an error or half a write, and all kinds of process really met each other.
    assert [reader["problems"] for reader in seen] == [[], []]
    assert all(reader["reads"] > 0 for reader in seen)
    assert collected["removed"] > 0

    # Every partition stands at the last commit that was acknowledged, and all of it is whole.
    store = lake.tables
    for writer in written:
        for label, marker in writer["acknowledged"].items():
            if "contested" not in label:
                assert current(store, label) == marker
    last = {writer["acknowledged"].get("features/cohort=contested") for writer in written} - {None}
    assert current(store, "features/cohort=contested") in last
    assert len(last) == 2
    for label, marker in killed["acknowledged"].items():
        assert current(store, label) >= marker

    # Nothing that was entered is lost, and no ticket was drawn twice.
    entries = [entry["id"] for entry in lake.journal.entries("privacy/storm")]
    acknowledged = [entry for diary in noted for entry in diary["free"]] + killed["entries"]
    assert len(entries) == len(set(entries))
    assert entries == sorted(entries)
    assert set(acknowledged) <= set(entries)
    assert len(entries) - len(acknowledged) <= killed["kills"]
    tickets = [entry["ticket"] for entry in lake.journal.entries("tickets")]
    assert tickets == list(range(storm.JOURNAL_PROCESSES * ENTRIES // 2))

    # What the killed left counts as alive for a while, then it goes, and nothing else does.
    before = {tuple(key.items()): store.resolve("features", key) for key in store.partitions("features")}
    clock = ObjectStore.clock
    monkeypatch.setattr(ObjectStore, "clock", lambda self: clock(self) + 3600 * 10**9)
    store.collect(keep=1, grace_seconds=0)
    store.collect(keep=1, grace_seconds=0)
    for version in before.values():
        store.verify(version)
        left = set(store.backend.list(version.label)) - {f"_retired-{version.version}"}
        assert left == {"_current.json", f"{version.version}/"}


LEDGER = """
import sys
from pathlib import Path
from pipeline.store.home import Home
from pipeline.store.lake import Lake

journal = Lake(Home(Path(sys.argv[1]))).journal
calls = 0

def reserve(entries):
    global calls
    calls += 1
    return {"spend": 3} if sum(entry["spend"] for entry in entries) + 3 <= 40 else None

made = [journal.transact("privacy/support", reserve) for _ in range(10)]
print(sum(entry is not None for entry in made), calls)
"""


def test_a_budget_is_never_overstepped(machines: Machines, lake: Lake, tmp_path: Path) -> None:
    """Four machines reserve at once what together would be three times the budget."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LEDGER, str(tmp_path / f"desk{number}")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**machines.environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for number in range(4)
    ]
    made, calls = 0, 0
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err[-2000:]
        made, calls = made + int(out.split()[0]), calls + int(out.split()[1])
    print({"reserved": made, "decided": calls})
    assert made == 13
    assert [entry["spend"] for entry in lake.journal.entries("privacy/support")] == [3] * 13
