"""One process of the storm, or the one that dies at every step: run as a script, prints one JSON line of what it saw.

Every table that is written carries one marker in all its rows, the marker's own number of rows, and the same marker
in a second file: whoever reads anything else has seen half a write.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from pipeline.store.home import Home
from pipeline.store.lake import Lake, Version, VersionStore

PARTITIONS = int(os.environ.get("STORM_PARTITIONS", "50"))
WRITERS = int(os.environ.get("STORM_WRITERS", "8"))
ROUNDS = int(os.environ.get("STORM_ROUNDS", "6"))
CONTESTED = {"cohort": "contested"}
GRACE_SECONDS = float(os.environ.get("STORM_GRACE_SECONDS", "1.5"))
JOURNAL_PROCESSES = 4
ENTRIES_EACH = int(os.environ.get("STORM_ENTRIES", "40"))
KILLS = int(os.environ.get("STORM_KILLS", "40"))
KILL_WITHIN_SECONDS = float(os.environ.get("STORM_KILL_WITHIN", "0.06"))


def over(home: Home) -> bool:
    """Whether the storm is over; processes with homes of their own look beside them."""
    return any((folder / "over").exists() for folder in (home.root, home.root.parent))


def partition(index: int) -> dict[str, str]:
    return {"cohort": f"c{index:02d}", "month": "2026-10-01"}


def rows_of(marker: int) -> int:
    return 50 + marker % 977


def table_of(marker: int, rows: int) -> pa.Table:
    """`rows` rows of the marker and a running number (from buffers: lists would make pyarrow import pandas)."""
    values = pa.py_buffer(array.array("q", range(rows)).tobytes())
    running = pa.Array.from_buffers(pa.int64(), rows, [None, values])
    return pa.Table.from_arrays([pa.repeat(pa.scalar(marker, pa.int64()), rows), running], names=["marker", "running"])


def commit(store: VersionStore, key: dict[str, str], marker: int) -> Version:
    with store.draft("features", key) as draft:
        draft.add_table("data", table_of(marker, rows_of(marker)))
        draft.add_table("side", table_of(marker, 7))
        return draft.commit(info={"marker": marker}, inputs={"raw/fhir/delivery=d": f"{marker:064x}"})


def check(store: VersionStore, version: Version) -> int:
    """Read a version and give its marker; AssertionError if it is not one whole commit."""
    marker = version.info["marker"]
    for name, rows in (("data", rows_of(marker)), ("side", 7)):
        table = store.read(version, name)
        assert table["marker"].unique().to_pylist() == [marker], "mixed markers"
        assert table["running"].to_pylist() == list(range(rows)), "rows missing"
        assert version.files[name].rows == rows, "the record counts otherwise"
    return marker


def write(home: Home, index: int, seed: int) -> dict[str, object]:
    """Write its share of the partitions several times over, and every other writer the contested one too."""
    store, chance = Lake(home).tables, random.Random(seed)
    mine = [partition(k) for k in range(index, PARTITIONS, WRITERS)]
    acknowledged: dict[str, int] = {}
    marker, commits = index * 1_000_000, 0
    for _ in range(ROUNDS):
        for key in chance.sample(mine, len(mine)):
            marker += 1
            version = commit(store, key, marker)
            assert store.current("features", key) == version, "an acknowledged commit is not the current version"
            acknowledged[version.label] = marker
            commits += 1
        if index < 2:
            marker += 1
            acknowledged[commit(store, CONTESTED, marker).label] = marker
            commits += 1
    return {"acknowledged": acknowledged, "commits": commits}


def read(home: Home, seed: int) -> dict[str, object]:
    """Read single versions, and all current ones through DuckDB, until the storm is over."""
    lake, chance = Lake(home), random.Random(seed)
    reads, late, problems = 0, 0, []
    while not over(home):
        time.sleep(0.02)
        started = time.monotonic()
        try:
            keys = lake.tables.partitions("features")
            versions = [lake.tables.resolve("features", key) for key in keys]
            for version in chance.sample(versions, min(10, len(versions))):
                check(lake.tables, version)
            if len(versions) == 0:
                continue
            if reads % 3 == 0:
                through_duckdb(lake, versions)
            reads += 1
        except Exception:  # what went wrong is the result
            if time.monotonic() - started < GRACE_SECONDS:
                problems.append(traceback.format_exc(limit=3))
            else:
                late += 1  # slower than the grace period: this the store does not promise
    return {"reads": reads, "late": late, "problems": problems}


def through_duckdb(lake: Lake, versions: list[Version]) -> None:
    connection = lake.connect({"data": [lake.tables.path(version, "data") for version in versions]})
    with contextlib.closing(connection):
        found = connection.execute("SELECT marker, count(*), max(running) FROM data GROUP BY marker").fetchall()
    expected = {version.info["marker"] for version in versions}
    assert {row[0] for row in found} == expected, "DuckDB sees other versions than were resolved"
    wrong = [row for row in found if not row[1] == rows_of(row[0]) == row[2] + 1]
    assert not wrong, f"(marker, rows, last) in DuckDB: {wrong}"


def collect(home: Home) -> dict[str, object]:
    store, removed = Lake(home).tables, 0
    while not over(home):
        removed += store.collect(keep=1, grace_seconds=GRACE_SECONDS)
        time.sleep(0.05)
    return {"removed": removed}


def journal(home: Home, index: int) -> dict[str, object]:
    """Append freely, and draw tickets: count those drawn and add the next as one step."""
    diary, free, tickets = Lake(home).journal, [], []
    for number in range(ENTRIES_EACH // 2):
        free.append(diary.append("privacy/storm", {"writer": index, "number": number}))
        drawn = diary.transact("tickets", lambda entries: {"ticket": len(entries)})
        assert drawn is not None
        tickets.append(drawn["ticket"])
    return {"free": free, "tickets": tickets}


def kill(home: Home, seed: int) -> dict[str, object]:
    """Start writers and kill each at a random moment; what they acknowledged before is read from a pipe."""
    chance = random.Random(seed)
    acknowledged: dict[str, int] = {}
    entries: list[str] = []
    commit(Lake(home).tables, {"cohort": "warm"}, 40_000_000)  # imports what the children then need not import each
    for number in range(KILLS):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            victim(home, number, writer)
        os.close(writer)
        with os.fdopen(reader) as lines:
            first = lines.readline()
            time.sleep(chance.uniform(0, KILL_WITHIN_SECONDS))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            for line in [first, *lines]:
                if line.endswith("\n"):
                    kind, label, value = line.split()
                    if kind == "commit":
                        acknowledged[label] = int(value)
                    else:
                        entries.append(value)
    return {"acknowledged": acknowledged, "entries": entries, "kills": KILLS}


def victim(home: Home, number: int, pipe: int) -> None:
    lake, marker = Lake(home), 50_000_000 + number * 100_000
    while True:
        marker += 1
        version = commit(lake.tables, {"cohort": f"victim{number % 6}"}, marker)
        os.write(pipe, f"commit {version.label} {marker}\n".encode())
        entry = lake.journal.append("privacy/storm", {"writer": "victim", "marker": marker})
        os.write(pipe, f"entry privacy/storm {entry}\n".encode())


# ---- dying at every step


def die_at_call(number: int) -> None:
    """Let this process die by SIGKILL just before its n-th call that changes the disk."""
    left = [number]

    def doomed(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "rename", "replace", "link", "unlink", "mkdir", "rmdir", "open", "fdopen"):
        setattr(os, name, doomed(getattr(os, name)))


def steps(home: Home, action: str) -> dict[str, object]:
    """Do `action` again and again, dying one step later each time, until it lives; the store must be whole each time."""
    lake = Lake(home)
    store, key = lake.tables, {"cohort": "steps"}
    seen, entries = {"old": 0, "new": 0}, 0
    for number in range(1, 1000):
        old = commit(store, key, 2 * number)
        earlier = store.history("features", key)[-1]
        if action in {"rollback", "collect"}:
            old = commit(store, key, 2 * number)
        child = os.fork()
        if child == 0:
            die_at_call(number)
            act(lake, action, key, 2 * number + 1, earlier.version)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"{action} failed at step {number}"
        current = store.resolve("features", key)
        store.verify(current)
        check(store, current)
        for version in store.history("features", key):
            store.verify(version)
        seen["old" if current.version == old.version else "new"] += 1
        found = lake.journal.entries("steps")
        assert all(entry["text"] == "x" * 5000 for entry in found)
        assert len(found) - entries in (0, 1)
        entries = len(found)
        after = commit(store, key, 2 * number)
        store.collect(keep=1, grace_seconds=0)
        lake.journal.collect(grace_seconds=0)
        left = sorted(path.name for path in (store.root / after.label).iterdir())
        assert left == ["_current.json", after.version], f"{action}, step {number} leaves {left}"
        assert not [path for path in home.journal.rglob("*") if path.name.startswith(".")]
        if not os.WIFSIGNALED(status):
            return {"steps": number, **seen, "entries": entries}
    raise AssertionError(f"{action} does not end")


def act(lake: Lake, action: str, key: dict[str, str], marker: int, earlier: str) -> None:
    if action == "commit":
        commit(lake.tables, key, marker)
    elif action == "rollback":
        lake.tables.rollback("features", key, earlier)
    elif action == "collect":
        lake.tables.collect(keep=1, grace_seconds=0)
    else:
        lake.journal.append("steps", {"text": "x" * 5000})


def main(role: str, root: str, *args: str) -> None:
    home = Home(Path(root))
    roles: dict[str, Callable[..., dict[str, object]]] = {
        "write": lambda: write(home, int(args[0]), int(args[1])),
        "read": lambda: read(home, int(args[0])),
        "collect": lambda: collect(home),
        "journal": lambda: journal(home, int(args[0])),
        "kill": lambda: kill(home, int(args[0])),
        "steps": lambda: steps(home, args[0]),
    }
    print(json.dumps(roles[role]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
