"""The collector takes what nobody can be reading, and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.store.lake import Version, VersionStore

KEY = {"cohort": "support"}


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "lake")


def commit(store: VersionStore, number: int, key: dict[str, str] = KEY) -> Version:
    with store.draft("features", key) as draft:
        draft.add_table("data", pa.table({"n": [number]}))
        return draft.commit(info={"number": number})


def numbers(store: VersionStore) -> list[int]:
    return [version.info["number"] for version in store.history("features", KEY)]


def folder(store: VersionStore) -> Path:
    return store.root / "features" / "cohort=support"


def names(store: VersionStore) -> list[str]:
    return store.backend.list("features/cohort=support")


def test_the_newest_stay(any_store: VersionStore) -> None:
    for number in range(5):
        commit(any_store, number)
    other = commit(any_store, 9, {"cohort": "other"})
    assert any_store.collect(keep=3, grace_seconds=0) == 2
    assert numbers(any_store) == [4, 3, 2]
    assert any_store.collect(keep=3, grace_seconds=0) == 0
    assert any_store.collect(keep=1, grace_seconds=0) == 2
    assert numbers(any_store) == [4]
    assert any_store.collect(keep=0, grace_seconds=0) == 0
    any_store.verify(any_store.resolve("features", KEY))
    any_store.verify(other)
    assert names(any_store) == ["_current.json", f"{any_store.resolve('features', KEY).version}/"]


def test_the_current_version_stays_after_a_rollback(any_store: VersionStore) -> None:
    versions = [commit(any_store, number) for number in range(4)]
    any_store.rollback("features", KEY, versions[0].version)
    assert any_store.collect(keep=1, grace_seconds=0) == 2
    assert numbers(any_store) == [3, 0]
    assert any_store.resolve("features", KEY) == versions[0]


def test_a_reader_has_the_grace_from_the_moment_the_pointer_moved(store: VersionStore) -> None:
    """The age of a version says nothing: one written long ago may have been resolved a moment ago."""
    old = commit(store, 0)
    long_ago = time.time() - 1e6
    for path in [*folder(store).rglob("*"), folder(store)]:
        os.utime(path, (long_ago, long_ago))
    aged = folder(store) / f"v-{int(long_ago * 1e9):016x}{old.version[18:]}"
    assert aged.name != old.version
    commit(store, 1)
    assert store.collect(keep=1, grace_seconds=60) == 0
    assert store.read(old)["n"].to_pylist() == [0]
    assert store.collect(keep=1, grace_seconds=0) == 1


def test_a_version_nobody_pointed_to_is_litter(store: VersionStore) -> None:
    """A writer that died between the rename and the pointer: no part of history, does not count for `keep`."""
    commit(store, 0)
    current = commit(store, 1)
    orphan = folder(store) / f"v-{int(current.version[2:18], 16) + 1:016x}-{'0' * 12}"
    orphan.mkdir()
    (orphan / "_version.json").write_text("{}")
    assert numbers(store) == [1, 0]
    assert store.collect(keep=2, grace_seconds=3600) == 0
    assert store.collect(keep=2, grace_seconds=0) == 1
    assert not orphan.exists()
    assert numbers(store) == [1, 0]


def test_what_the_killed_left(store: VersionStore) -> None:
    current = commit(store, 0)
    (folder(store) / ".tmp-dead" / "sub").mkdir(parents=True)
    (folder(store) / ".tmp-dead" / "sub" / "data.parquet").write_text("half")
    (folder(store) / ".ptr-dead").write_text("half")
    (folder(store) / ".trash-dead").mkdir()
    (folder(store) / f"_retired-v-{'0' * 16}-{'0' * 12}").write_text("1")
    first_write_died = store.root / "synthetic" / "vae" / "cohort=x" / ".tmp-dead"
    first_write_died.mkdir(parents=True)
    assert store.collect(grace_seconds=3600) == 1  # the trash
    assert first_write_died.exists()
    assert store.collect(grace_seconds=0) == 3
    assert not first_write_died.exists()
    assert sorted(path.name for path in folder(store).iterdir()) == ["_current.json", current.version]


def test_a_draft_of_a_living_process_stays_however_old(store: VersionStore) -> None:
    commit(store, 0)
    with store.draft("features", KEY) as draft:
        path = draft.file("data.txt")
        path.write_text("a training of many hours")
        os.utime(path.parent, (0, 0))
        assert store.collect(grace_seconds=0) == 0
        assert path.exists()
        draft.commit(info={"number": 1})
    assert numbers(store) == [1, 0]


def test_one_broken_pointer_does_not_stop_the_rest(store: VersionStore) -> None:
    for number in range(2):
        commit(store, number)
        commit(store, number, {"cohort": "a-first"})
    (store.root / "features" / "cohort=a-first" / "_current.json").write_text("broken")
    with pytest.raises(StoreError, match=r"1 partition\(s\) could not be collected"):
        store.collect(grace_seconds=0)
    assert numbers(store) == [1]
    assert len(store.history("features", {"cohort": "a-first"})) == 2


def test_nonsense_is_refused(any_store: VersionStore) -> None:
    for wrong in ({"keep": -1}, {"grace_seconds": -1.0}, {"grace_seconds": float("nan")}):
        with pytest.raises(ConfigError):
            any_store.collect(**wrong)  # type: ignore[arg-type]
    assert any_store.collect() == 0


def test_a_purged_version_is_gone_with_its_pointer(any_store: VersionStore) -> None:
    first, second = commit(any_store, 1), commit(any_store, 2)
    assert any_store.purge(second)
    assert any_store.current(second.asset, second.partition) is None
    assert f"{second.version}/" not in names(any_store)
    assert any_store.purge(first)
    assert not any_store.purge(first)
    assert names(any_store) == []
    assert any_store.partitions("features") == []
    assert any_store.purge(commit(any_store, 3))


def test_purging_an_old_version_leaves_the_current_one(any_store: VersionStore) -> None:
    first, second = commit(any_store, 1), commit(any_store, 2)
    assert any_store.purge(first)
    assert any_store.current(second.asset, second.partition) == second
    assert any_store.history(second.asset, second.partition) == [second]
