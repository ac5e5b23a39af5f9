"""The lake on an object store: what a disk gave for nothing, and what can go wrong on the way there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import s3_server
from s3_server import KEY, LABEL, commit, numbers, objects

from pipeline.errors import ConfigError, StoreError
from pipeline.store import remote
from pipeline.store.address import StoreAddress
from pipeline.store.backend import ValueChanged
from pipeline.store.cache import Cache
from pipeline.store.home import Home
from pipeline.store.lake import Lake, Version, VersionStore
from pipeline.store.object_store import ObjectStore

pytestmark = pytest.mark.distributed
# ---- the address


@pytest.mark.parametrize(
    "url",
    ["s3:/b/p", "http://b/p", "bucket/p", "s3://", "s3://B/p", "s3://bucket/../p", "s3://bucket//p", "s3://bucket/a b"],
)
def test_a_bad_address_is_refused(url: str, monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("COHORTLOOM_STORE", url)
    with pytest.raises(ConfigError, match=r"COHORTLOOM_STORE: .* Write s3://bucket/prefix"):
        Lake(home)


def test_the_environment_names_the_store(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    assert Lake(home).address is None
    monkeypatch.setenv("COHORTLOOM_STORE", "s3://bucket/a/b/")
    monkeypatch.setenv("COHORTLOOM_S3_ENDPOINT", "http://127.0.0.1:9000/")
    lake = Lake(home)  # asks nobody
    assert lake.address == StoreAddress("bucket", "a/b", "http://127.0.0.1:9000")
    assert lake.tables.backend.name == "s3://bucket/a/b/lake"
    for endpoint in ("127.0.0.1:9000", "ftp://host", "http://me:secret@host"):
        monkeypatch.setenv("COHORTLOOM_S3_ENDPOINT", endpoint)
        with pytest.raises(ConfigError, match="COHORTLOOM_S3_ENDPOINT") as caught:
            Lake(home)
        assert "secret" not in str(caught.value)


def test_the_core_imports_no_boto() -> None:
    script = (
        "import sys, pipeline.store.lake, pipeline.store.remote\n"
        "print([m for m in sys.modules if m.partition('.')[0] in {'boto3', 'botocore', 's3transfer', 'moto'}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_boto_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, quick_to_give_up: None) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match="dist"):
        ObjectStore(StoreAddress("bucket")).get("x")


# ---- conditional writes


def test_the_server_honours_conditions_as_s3_does(bucket: StoreAddress) -> None:
    """What all else rests on: 412 where a value is or is another one, 404 where there is none to match."""
    from botocore.exceptions import ClientError

    put = ObjectStore(bucket)._client().put_object
    where = {"Bucket": bucket.bucket, "Key": "k"}

    def refusal(**how: str) -> int:
        with pytest.raises(ClientError) as caught:
            put(Body=b"2", **{**where, **how})
        return int(caught.value.response["ResponseMetadata"]["HTTPStatusCode"])

    etag = put(Body=b"1", IfNoneMatch="*", **where)["ETag"]
    assert refusal(IfNoneMatch="*") == 412
    assert refusal(IfMatch='"00"') == 412
    assert refusal(IfMatch=etag, Key="absent") == 404
    assert put(Body=b"2", IfMatch=etag, **where)["ETag"] != etag


def test_values_are_replaced_only_as_told(bucket: StoreAddress) -> None:
    store = ObjectStore(bucket).below("x")
    assert store.get("a/b") is None
    first = store.put_if_match("a/b", b"1", None)
    for etag in (None, '"00"'):
        with pytest.raises(ValueChanged):
            store.put_if_match("a/b", b"2", etag)
    second = store.put_if_match("a/b", b"2", first)
    with pytest.raises(ValueChanged):
        store.put_if_match("a/absent", b"3", first)
    with pytest.raises(ValueChanged):
        store.create("a/b", b"3")
    with pytest.raises(ValueChanged):
        store.delete_if_match("a/b", first)
    store.create("a/c/d", b"4")
    assert store.list("a") == ["b", "c/"]
    store.delete_if_match("a/b", second)
    assert store.get("a/b") is None
    assert store.list("a") == ["c/"]
    assert store.put_if_match("a/b", b"5", None)
    assert [s.data if s else None for s in store.get_many(["a/c/d", "a/none", "a/b"])] == [b"4", None, b"5"]
    store.delete("a/b")
    store.delete("a/b")
    assert store.list("") == ["a/"]


def test_one_of_many_creates(bucket: StoreAddress) -> None:
    store = ObjectStore(bucket)

    def attempt(place: tuple[int, int]) -> bool:
        try:
            store.create(f"slot-{place[0]}", str(place[1]).encode())
        except ValueChanged:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        for slot in range(12):
            assert sum(pool.map(attempt, [(slot, who) for who in range(8)])) == 1


def test_a_store_that_ignores_conditions_is_refused(
    bucket: StoreAddress, monkeypatch: pytest.MonkeyPatch, quick_to_give_up: None, tmp_path: Path
) -> None:
    client = ObjectStore(bucket)._client()
    put = client.put_object
    ignoring = lambda IfNoneMatch="", IfMatch="", **rest: put(**rest)  # noqa: E731
    monkeypatch.setattr(client, "put_object", ignoring)
    with pytest.raises(StoreError, match="ignores conditional writes"):
        s3_server.remote_journal(bucket, tmp_path).append("privacy", {"n": 1})
    assert ObjectStore(bucket).below_key("journal") == {}


def test_an_answer_that_was_lost_is_not_taken_for_a_refusal(
    bucket: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt arrives, its answer does not: boto3's second is refused, by our own value."""
    store = ObjectStore(bucket)
    store.create("warm", b"up")
    lost = [0]

    def lose(request: Any, **_: object) -> None:
        import urllib.request

        if request.method == "PUT" and not lost[0]:
            lost[0] += 1
            first = urllib.request.Request(request.url, data=request.body, headers=dict(request.headers), method="PUT")
            urllib.request.urlopen(first).close()
            raise_from_connection()

    def raise_from_connection() -> None:
        from botocore.exceptions import ConnectionClosedError

        raise ConnectionClosedError(endpoint_url=bucket.endpoint)

    events = store._client().meta.events
    events.register("before-send.s3", lose)
    try:
        etag = store.put_if_match("value", b"ours", None)
    finally:
        events.unregister("before-send.s3", lose)
    assert lost == [1]
    found = store.get("value")
    assert found is not None
    assert (found.data, found.etag) == (b"ours", etag)


# ---- copies


def test_another_machine_reads_through_its_cache(here: VersionStore, elsewhere: VersionStore, tmp_path: Path) -> None:
    version = commit(here, 1)
    assert elsewhere.resolve("features", KEY) == version
    assert not list((tmp_path / "there").rglob("data.parquet"))
    path = elsewhere.path(version, "data")
    assert str(tmp_path / "there") in str(path)
    assert path.stat().st_mode & 0o777 == 0o400
    assert elsewhere.read(version)["n"].to_pylist() == [1] * 5
    assert not (path.parent / "replicate-0").exists()
    assert (elsewhere.path(version, "replicate-0") / "model.json").read_text() == '{"n": 1}\n'
    assert sorted(p.name for p in elsewhere.folder(version).iterdir()) == ["data.parquet", "nothing.txt", "replicate-0"]

    again = commit(elsewhere, 1)  # the same bytes under another name take no more space
    assert again.sha256 == version.sha256
    assert elsewhere.path(again, "data").stat().st_ino == path.stat().st_ino

    objects(here).delete(f"{LABEL}/{version.version}/data.parquet")
    assert elsewhere.path(version, "data") == path  # is there
    with pytest.raises(StoreError, match="The file is missing"):
        elsewhere.verify(version)  # looks at the here itself


@pytest.mark.parametrize("in_place", [True, False])
def test_a_swapped_copy_is_fetched_again_after_verify(
    here: VersionStore, elsewhere: VersionStore, in_place: bool
) -> None:
    """A copy of the right size with other bytes, on the machine that wrote it and on another one."""
    version = commit(here, 1)
    for store in (here, elsewhere):
        path = store.path(version, "replicate-0") / "model.json"
        if in_place:  # the blob behind it is the same file
            path.chmod(0o600)
        else:
            path.unlink()
        path.write_text('{"n": 2}\n')
        store.verify(version)
        assert (store.path(version, "replicate-0") / "model.json").read_text() == '{"n": 1}\n'


def test_many_processes_fetch_one_file(here: VersionStore, bucket: StoreAddress, tmp_path: Path) -> None:
    version = commit(here, 7, rows=200_000)
    shared = Home(tmp_path / "shared").ensure()

    def fetch(_: int) -> int:
        lake = Lake(shared, bucket)
        return int(lake.tables.read(version)["n"].to_numpy().sum())

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fetch, range(16))) == {1_400_000}
    assert len(list((shared.cache / "objects").glob("??/*"))) == 1
    assert not list((shared.cache / "objects").glob(".tmp-*"))


def test_the_cache_keeps_to_its_size(here: VersionStore, bucket: StoreAddress, tmp_path: Path) -> None:
    versions = [commit(here, number, {"cohort": f"c{number}"}) for number in range(6)]
    size = sum(file.bytes for file in versions[0].files.values())
    cache = Cache(tmp_path / "small", limit_bytes=3 * size + size // 2)
    reader = VersionStore(tmp_path, remote.RemoteFiles(objects(here), cache))
    for number, version in enumerate(versions):
        folder = reader.folder(version)
        os.utime(folder, (number, number))
    reader.path(versions[0], "data")  # asked for just now
    cache.make_room()
    kept = [v.info["number"] for v in versions if cache.folder("lake", v.label, v.version).exists()]
    assert kept == [0, 4, 5]
    assert reader.read(versions[1])["n"].to_pylist() == [1] * 5  # fetched again


def test_a_silly_cache_size_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text in ("much", "0", "-1", "nan"):
        monkeypatch.setenv("COHORTLOOM_CACHE_GB", text)
        with pytest.raises(ConfigError, match="COHORTLOOM_CACHE_GB"):
            Cache(tmp_path)


def test_what_is_purged_leaves_no_copy_anywhere(here: VersionStore, elsewhere: VersionStore, tmp_path: Path) -> None:
    version = commit(here, 3)
    elsewhere.folder(version)
    assert here.purge(version)
    assert here.current("features", KEY) is None
    assert objects(here).below_key(LABEL) == {"_current.json": 0}  # an empty object is none
    assert not [p for p in (tmp_path / "here").rglob("*") if p.is_file()]
    elsewhere.collect()  # what every machine does now and then
    assert not [p for p in (tmp_path / "there").rglob("*") if p.is_file()]
    assert commit(here, 4) == elsewhere.resolve("features", KEY)


def test_sql_over_what_lies_on_the_store(bucket: StoreAddress, tmp_path: Path) -> None:
    """DuckDB reads the copies: no extension is loaded, none is fetched."""
    writer, reader = (Lake(Home(tmp_path / name).ensure(), bucket) for name in ("one", "two"))
    versions = [commit(writer.tables, number, {"cohort": f"c{number}"}) for number in range(3)]
    files = [reader.tables.path(version, "data") for version in versions]
    with closing(reader.connect({"features": files})) as connection:
        assert connection.execute("SELECT n, count(*) FROM features GROUP BY n ORDER BY n").fetchall() == [
            (0, 5),
            (1, 5),
            (2, 5),
        ]
        loaded = connection.execute("SELECT extension_name FROM duckdb_extensions() WHERE loaded").fetchall()
    assert "httpfs" not in {name for (name,) in loaded}


# ---- who may touch a version


def test_a_slow_writer_is_not_collected(
    here: VersionStore, elsewhere: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(here, 0)
    send, swept = ObjectStore.put_file, []

    def slow(self: ObjectStore, *args: Any, **kwargs: Any) -> None:
        send(self, *args, **kwargs)
        swept.append(elsewhere.collect(keep=1, grace_seconds=0))

    monkeypatch.setattr(ObjectStore, "put_file", slow)
    version = commit(here, 1)
    assert swept == [0, 0, 0]
    here.verify(version)
    assert numbers(elsewhere) == [1, 0]


def test_a_writer_taken_for_dead_commits_nothing(
    here: VersionStore, elsewhere: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asleep for longer than its hold lasts, with the collector at work meanwhile."""
    old = commit(here, 0)
    monkeypatch.setattr(remote, "LEASE_SECONDS", 0.2)
    create = ObjectStore.create

    def sleepy(self: ObjectStore, key: str, data: bytes) -> None:
        create(self, key, data)
        if key.endswith("_version.json"):
            monkeypatch.setattr(ObjectStore, "create", create)
            time.sleep(0.3)
            assert elsewhere.collect(keep=1, grace_seconds=0) >= 1

    monkeypatch.setattr(ObjectStore, "create", sleepy)
    with pytest.raises(StoreError, match=r"silent for more than 0\.2 s and was taken for dead.* run it again"):
        commit(here, 1)
    assert here.resolve("features", KEY) == old
    assert objects(here).list(LABEL) in (
        sorted(["_current.json", f"_retired-{old.version}", f"{old.version}/"]),
        ["_current.json", f"{old.version}/"],
    )


def test_what_is_being_rolled_back_to_is_not_collected(
    here: VersionStore, elsewhere: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = commit(here, 0), commit(here, 1)
    verify = VersionStore.verify

    def slow(self: VersionStore, version: Version) -> None:
        verify(self, version)
        elsewhere.collect(keep=0, grace_seconds=0)

    monkeypatch.setattr(VersionStore, "verify", slow)
    assert here.rollback("features", KEY, first.version) == first
    monkeypatch.undo()
    here.verify(here.resolve("features", KEY))


def test_what_is_being_collected_is_not_rolled_back_to(
    here: VersionStore, elsewhere: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = commit(here, 0), commit(here, 1)
    hide, said = remote.RemoteFiles.hide, []

    def meanwhile(self: remote.RemoteFiles, where: str, name: str) -> bool:
        for _ in range(2):  # before it is hidden and after
            with pytest.raises(StoreError, match="Somebody else is working on this version") as caught:
                elsewhere.rollback("features", KEY, first.version)
            said.append(caught.value)
        return hide(self, where, name)

    monkeypatch.setattr(remote.RemoteFiles, "hide", meanwhile)
    assert here.collect(keep=0, grace_seconds=0) == 1
    assert len(said) == 2
    assert elsewhere.resolve("features", KEY) == second


def test_a_collector_that_died_is_finished_by_the_next(
    here: VersionStore, elsewhere: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = commit(here, 0), commit(here, 1)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(remote.RemoteFiles, "empty", die)
        with pytest.raises(KeyboardInterrupt):
            here.collect(keep=0, grace_seconds=0)
    assert f".trash-{old.version}" in objects(here).list(LABEL)
    assert numbers(elsewhere) == [1]
    elsewhere.collect(keep=0)
    assert objects(here).list(LABEL) == ["_current.json", f"{new.version}/"]


def test_a_pointer_moved_by_two_loses_nobody(
    here: VersionStore, elsewhere: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine commits between our look at the pointer and our move: it retires and stays in history."""
    commit(here, 0)
    sound, once = VersionStore._sound_current, [True]

    def meanwhile(self: VersionStore, where: str) -> Version | None:
        found = sound(self, where)
        if self is here and once:
            once.clear()
            commit(elsewhere, 1)
        return found

    monkeypatch.setattr(VersionStore, "_sound_current", meanwhile)
    commit(here, 2)
    assert sorted(numbers(elsewhere)) == [0, 1, 2]
    assert elsewhere.resolve("features", KEY).info["number"] == 2


def test_a_clock_that_is_wrong_by_hours(bucket: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks, holds and entries carry the store's time, so that a machine whose clock is ahead collects nothing fresh."""
    store = s3_server.remote_versions(bucket, tmp_path)
    commit(store, 0)
    real = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: real() + 5 * 3600 * 10**9)
    commit(store, 1)
    assert abs(objects(store).clock() - real()) < 5e9
    assert store.collect(keep=0, grace_seconds=60) == 0
    journal = s3_server.remote_journal(bucket, tmp_path)
    journal.append("a", {})
    assert abs(journal.now().timestamp() - real() / 1e9) < 5
