"""Round trips through the version store: what is committed is what is read, by name, by history, after a rollback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, InputError, NotFoundError, StoreError
from pipeline.store.connection import literal
from pipeline.store.hashing import canonical_json, sha256_file
from pipeline.store.home import Home
from pipeline.store.keys import file_name, label
from pipeline.store.lake import Draft, Lake, Version, VersionStore

MONTH = {"cohort": "support", "month": "2026-10-01"}


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    """For tests that look behind the store's back, and for what has nothing to do with the place."""
    return VersionStore(tmp_path / "lake")


def table(number: int = 0, rows: int = 5) -> pa.Table:
    return pa.table({"n": pa.array([number] * rows, pa.int64()), "word": [f"w{i}" for i in range(rows)]})


def commit(store: VersionStore, number: int = 0, key: dict[str, str] = MONTH, asset: str = "features") -> Version:
    with store.draft(asset, key) as draft:
        draft.add_table("data", table(number))
        return draft.commit(info={"number": number})


def parquet_bytes() -> bytes:
    stream = pa.BufferOutputStream()
    pq.write_table(table(), stream)
    return stream.getvalue().to_pybytes()


def test_what_is_committed_is_read(any_store: VersionStore) -> None:
    with any_store.draft("model/vae", MONTH) as draft:
        draft.add_table("data", table(3))
        draft.file("report.html").write_text("<p>report</p>")
        (draft.folder("replicate-0") / "model.json").write_text("{}")
        draft.file("replicate-0/shards/part.parquet")
        pq.write_table(table(4, 2), draft.file("replicate-0/shards/part.parquet"))
        version = draft.commit(
            inputs={"features/cohort=support/month=2026-10-01": "ab" * 32},
            info={"status": "ok", "rows": np.int64(5), "pair": (1, 2.5)},
            run_id="run-1",
        )
    assert any_store.resolve("model/vae", {"month": "2026-10-01", "cohort": "support"}) == version
    assert any_store.current("model/vae", MONTH) == version
    assert version.partition == MONTH
    assert version.label == "model/vae/cohort=support/month=2026-10-01"
    assert sorted(version.files) == ["data", "replicate-0/model.json", "replicate-0/shards/part", "report.html"]
    assert version.files["data"].rows == 5
    assert version.files["data"].schema == {"n": "int64", "word": "string"}
    assert version.files["report.html"].rows is None
    assert version.info == {"status": "ok", "rows": 5, "pair": [1, 2.5]}
    assert version.inputs == {"features/cohort=support/month=2026-10-01": "ab" * 32}
    assert version.run_id == "run-1"
    assert any_store.read(version) == table(3)
    assert any_store.read(version, "replicate-0/shards/part") == table(4, 2)
    assert any_store.path(version, "report.html").read_text() == "<p>report</p>"
    assert any_store.path(version, "data").suffix == ".parquet"
    assert (any_store.path(version, "replicate-0") / "model.json").is_file()
    for stored in version.files.values():
        path = any_store.path(version, stored.name)
        assert (stored.sha256, stored.bytes) == (sha256_file(path), path.stat().st_size)
    any_store.verify(version)


def test_an_unpartitioned_asset_and_its_children_keep_apart(any_store: VersionStore) -> None:
    plain = commit(any_store, 1, {}, "model")
    child = commit(any_store, 2, {}, "model/vae")
    assert any_store.resolve("model", {}) == plain
    assert any_store.resolve("model/vae", {}) == child
    assert any_store.assets() == ["model", "model/vae"]
    assert any_store.partitions("model") == [{}]


def test_partitions_and_assets_are_those_with_a_pointer(any_store: VersionStore) -> None:
    for cohort in ("b", "a"):
        for month in ("2026-02-01", "2026-01-01"):
            commit(any_store, 0, {"cohort": cohort, "month": month})
    commit(any_store, 0, {"delivery": "synthea--2026-10-31"}, "raw/fhir")
    with any_store.draft("features", {"cohort": "c", "month": "2026-01-01"}) as draft:
        draft.add_table("data", table())  # never committed
    assert any_store.partitions("features") == [
        {"cohort": c, "month": f"2026-0{m}-01"} for c in ("a", "b") for m in (1, 2)
    ]
    assert any_store.assets() == ["features", "raw/fhir"]
    assert any_store.partitions("nothing") == []
    assert VersionStore(any_store.root / "absent").assets() == []


def test_listing_reads_no_file(store: VersionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(store, 0, {"cohort": "a", "month": "2026-01-01"})

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was read")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    assert store.partitions("features") == [{"cohort": "a", "month": "2026-01-01"}]
    assert store.assets() == ["features"]


def test_a_missing_partition_is_named(any_store: VersionStore) -> None:
    assert any_store.current("features", MONTH) is None
    with pytest.raises(NotFoundError, match=r"'features' for cohort support, month 2026-10-01"):
        any_store.resolve("features", MONTH)
    version = commit(any_store)
    with pytest.raises(NotFoundError, match="Did you mean 'data'"):
        any_store.path(version, "date")
    for name in ("..", "../..", "/etc/passwd", "", "data.parquet/.."):
        with pytest.raises(NotFoundError):
            any_store.path(version, name)


def test_the_same_content_has_the_same_bytes_and_hash(tmp_path: Path) -> None:
    letters = np.random.default_rng(0).integers(97, 123, (150_000, 100), dtype=np.uint8)  # too long for a page of rows
    words = pa.array(letters.view("S100").ravel().astype(str))
    whole = pa.table({"n": np.arange(150_000), "word": words})
    pieces = pa.concat_tables([whole.slice(0, 777), whole.slice(777, 140_000), whole.slice(140_777)])
    from_pandas = pa.Table.from_pandas(whole.to_pandas())
    marked = pa.table(whole.columns, schema=pa.schema([f.with_metadata({"a": "b"}) for f in whole.schema]))
    versions, contents = [], []
    for number, rows in enumerate((whole, pieces, from_pandas, marked)):
        store = VersionStore(tmp_path / f"lake{number}")
        with store.draft("features", {"cohort": f"c{number}"}) as draft:
            draft.add_table("data", rows)
            version = draft.commit(info={"b": 1, "a": 2}, run_id=f"run {number}", inputs={"x": str(number)})
        versions.append(version)
        contents.append(store.path(version, "data").read_bytes())
    assert len(set(contents)) == 1
    assert len({version.sha256 for version in versions}) == 1
    assert len({version.version for version in versions}) == 4
    file = pq.ParquetFile(pa.BufferReader(contents[0]))
    assert file.num_row_groups == 2
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert b"pandas" not in (file.metadata.metadata or {})


def test_the_hash_covers_files_names_and_info(tmp_path: Path) -> None:
    def digest(name: str, number: int, info: dict[str, object]) -> str:
        with VersionStore(tmp_path).draft("features", {}) as draft:
            draft.add_table(name, table(number))
            return draft.commit(info=info).sha256

    base = digest("data", 1, {"a": 1})
    assert base == digest("data", 1, {"a": 1})
    assert len({base, digest("data", 2, {"a": 1}), digest("other", 1, {"a": 1}), digest("data", 1, {"a": 2})}) == 4


def test_an_empty_table_and_a_version_without_files(any_store: VersionStore) -> None:
    with any_store.draft("features", {}) as draft:
        draft.add_table("data", table(rows=0))
        version = draft.commit()
    assert version.files["data"].rows == 0
    assert any_store.read(version).schema.names == ["n", "word"]
    with any_store.draft("model/vae", {}) as draft:
        failed = draft.commit(info={"status": "failed", "reason": "it diverged"})
    assert any_store.resolve("model/vae", {}).info["status"] == "failed"
    assert failed.files == {}
    any_store.verify(failed)


def test_duckdb_writes_into_a_draft(home: Home) -> None:
    lake = Lake(home)
    version = commit(lake.tables, 7)
    connection = lake.connect({"data": [lake.tables.path(version, "data")]})
    with lake.tables.draft("raw/table", {"delivery": "d"}) as draft:
        target = literal(draft.file("copied.parquet"))
        connection.execute(f"COPY (SELECT *, n * 2 AS twice FROM data) TO {target} (FORMAT parquet)").fetchall()
        copied = draft.commit()
    connection.close()
    assert copied.files["copied"].schema == {"n": "int64", "word": "string", "twice": "int64"}
    assert lake.tables.read(copied, "copied")["twice"].to_pylist() == [14] * 5


# ---- drafts


def test_a_draft_that_is_not_committed_disappears(store: VersionStore) -> None:
    with store.draft("features", MONTH) as draft:
        draft.add_table("data", table())
    with pytest.raises(ZeroDivisionError), store.draft("features", MONTH) as draft:
        draft.add_table("data", table(1 // 0))
    assert store.current("features", MONTH) is None
    assert list((store.root / label("features", MONTH)).iterdir()) == []


def test_a_draft_is_committed_once(any_store: VersionStore) -> None:
    with any_store.draft("features", MONTH) as draft:
        draft.add_table("data", table())
        with pytest.raises(ConfigError, match="'data' already"):
            draft.add_table("data", table())
        draft.commit()
        for again in (draft.commit, lambda: draft.file("x"), lambda: draft.folder("x")):
            with pytest.raises(ConfigError, match="committed already"):
                again()
    assert len(any_store.history("features", MONTH)) == 1


@pytest.mark.parametrize(
    ("fill", "error", "words"),
    [
        (lambda draft: draft.file("link").symlink_to("/etc/hostname"), StoreError, "plain files"),
        (lambda draft: draft.file("folder").symlink_to("/etc"), StoreError, "plain files"),
        (lambda draft: os.mkfifo(draft.file("pipe")), StoreError, "plain files"),
        (
            lambda draft: [draft.file(name).write_bytes(parquet_bytes()) for name in ("x", "x.parquet")],
            ConfigError,
            "same key",
        ),
        (lambda draft: draft.file("data.parquet").write_text("none"), StoreError, "not readable as Parquet"),
        (lambda draft: (draft.folder("sub") / ".hidden").write_text(""), ConfigError, r"\.hidden"),
        (lambda draft: draft.commit(info={"loss": float("nan")}), ConfigError, "NaN"),
    ],
)
def test_what_a_draft_refuses(
    store: VersionStore, fill: Callable[[Draft], object], error: type[Exception], words: str
) -> None:
    def try_it() -> None:
        with store.draft("features", MONTH) as draft:
            fill(draft)
            draft.commit()

    with pytest.raises(error, match=words):
        try_it()
    assert list((store.root / label("features", MONTH)).iterdir()) == []


def test_the_schema_is_enforced_without_showing_values(store: VersionStore) -> None:
    schema = pa.schema([pa.field("age", pa.int16(), nullable=False), pa.field("name", pa.string())])

    def refusal(**columns: pa.Array) -> str:
        with store.draft("features", {}) as draft:
            with pytest.raises(InputError) as caught:
                draft.add_table("data", pa.table(columns), schema=schema)
            assert not draft.file("data.parquet").exists()
        seen = caught.value
        assert seen.__cause__ is None
        assert seen.__suppress_context__ or seen.__context__ is None
        return str(seen)

    names = pa.array(["Quixote", None])
    assert "missing: age" in refusal(name=names)
    assert "not in the schema: extra" in refusal(name=names, age=pa.array([1, 2]), extra=pa.array([1, 2]))
    assert "'age' has 1 missing" in refusal(name=names, age=pa.array([1, None]))
    for bad in (pa.array([1, 70_000]), pa.array([1.5, 2.0]), pa.array(["12345", "007"])):
        text = refusal(name=names, age=bad)
        assert "'age' holds" in text
        assert not any(value in text for value in ("70000", "1.5", "12345", "007", "Quixote"))

    with store.draft("features", {}) as draft:
        wide = pa.table({"name": names.dictionary_encode(), "age": pa.array([1.0, 2.0])})
        draft.add_table("data", wide, schema=schema)
        version = draft.commit()
    assert store.read(version).schema.equals(schema)


# ---- history, rollback, verification


def test_history_and_rollback(any_store: VersionStore) -> None:
    versions = [commit(any_store, number) for number in range(3)]
    assert [v.info["number"] for v in any_store.history("features", MONTH)] == [2, 1, 0]
    assert any_store.history("features", MONTH)[1] == versions[1]
    assert [v.version for v in versions] == sorted(v.version for v in versions)

    assert any_store.rollback("features", MONTH, versions[0].version) == versions[0]
    assert any_store.current("features", MONTH) == versions[0]
    assert any_store.read(any_store.resolve("features", MONTH)) == table(0)
    assert len(any_store.history("features", MONTH)) == 3
    any_store.rollback("features", MONTH, versions[2].version)
    assert any_store.current("features", MONTH) == versions[2]
    newest = commit(any_store, 3)
    assert any_store.history("features", MONTH)[0] == newest

    with pytest.raises(NotFoundError, match=r"no version 'v-0'.*Known"):
        any_store.rollback("features", MONTH, "v-0")
    with pytest.raises(NotFoundError, match="no such partition"):
        any_store.rollback("features", {"cohort": "other"}, "v-0")


def test_rollback_refuses_a_damaged_version(store: VersionStore) -> None:
    old, new = commit(store, 0), commit(store, 1)
    store.path(old, "data").unlink()
    with pytest.raises(StoreError, match="missing"):
        store.rollback("features", MONTH, old.version)
    assert store.current("features", MONTH) == new


def test_versions_sort_by_commit_even_if_the_clock_goes_back(
    any_store: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = commit(any_store, 0)
    monkeypatch.setattr("time.time_ns", lambda: 1_000)
    second = commit(any_store, 1)
    assert first.version < second.version
    assert any_store.history("features", MONTH)[0] == second


def test_verify_finds_a_flipped_byte_and_a_missing_file(store: VersionStore) -> None:
    version = commit(store, 1)
    path = store.path(version, "data")
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(StoreError, match=r"data\.parquet: The file's sha256 is"):
        store.verify(version)
    path.write_bytes(whole)
    store.verify(version)
    path.unlink()
    with pytest.raises(StoreError, match="missing"):
        store.verify(version)
    with pytest.raises(StoreError):
        store.read(version)


def test_a_broken_or_foreign_pointer_is_said_and_can_be_mended(store: VersionStore) -> None:
    first, second = commit(store, 0), commit(store, 1)
    pointer = store.root / label("features", MONTH) / "_current.json"
    record = json.loads(pointer.read_text())
    for broken in (b"", b"{", b"[]", b"{}", pointer.read_bytes()[:-20]):
        pointer.write_bytes(broken)
        with pytest.raises(StoreError, match="record of this version is broken"):
            store.resolve("features", MONTH)
    pointer.write_text(canonical_json({**record, "format": 99}))
    with pytest.raises(StoreError, match="format"):
        store.resolve("features", MONTH)
    pointer.write_text(canonical_json({**record, "partition": {"cohort": "other"}}))
    with pytest.raises(StoreError, match="belongs to"):
        store.resolve("features", MONTH)
    assert [v.version for v in store.history("features", MONTH)] == [second.version, first.version]
    store.rollback("features", MONTH, first.version)
    assert store.current("features", MONTH) == first
    pointer.write_bytes(b"")
    third = commit(store, 2)
    assert store.current("features", MONTH) == third


def test_the_record_in_the_folder_is_the_pointer(store: VersionStore) -> None:
    version = commit(store)
    folder = store.root / version.label
    assert (folder / version.version / "_version.json").read_bytes() == (folder / "_current.json").read_bytes()
    text = (folder / "_current.json").read_text()
    assert str(store.root) not in text


# ---- keys

BAD = ["", ".", "..", "../x", "a/b", "a..b", ".tmp", "-x", "a b", "a|b", "a=b", "ä", "a\n", "a\x00", "x" * 101, "_x"]


@pytest.mark.parametrize("value", BAD)
def test_bad_partition_keys_are_refused(store: VersionStore, value: str) -> None:
    for use in (
        lambda: store.current("features", {"cohort": value}),
        lambda: store.draft("features", {"cohort": value}).__enter__(),
        lambda: store.history("features", {"cohort": value}),
        lambda: store.rollback("features", {"cohort": value}, "v"),
        lambda: store.current("features", {value: "a"}),
        lambda: store.partitions(value if value != "a/b" else "a//b"),
    ):
        with pytest.raises(ConfigError, match="refuses"):
            use()
    assert not store.root.exists()


def test_more_bad_names(store: VersionStore) -> None:
    for asset in ("Features", "a/../b", "/a", "a/", "a/v-0123456789abcdef-0123456789ab", "a=b"):
        with pytest.raises(ConfigError):
            label(asset, {})
    for name in ("/x", "a/../b", "../b", ".hidden", "a/.b", "_version.json", "_current.json", "_retired-x", "a b", ""):
        with pytest.raises(ConfigError):
            file_name(name)
    with pytest.raises(ConfigError):
        label("a", {"cohort": 1})  # type: ignore[dict-item]


@given(st.text(max_size=120) | st.from_regex(r"[A-Za-z0-9._/=-]{0,110}", fullmatch=True))
@example("a..b")
@example("A" * 100)
@example("x\n")
def test_a_key_stays_in_its_place_or_is_refused(value: str) -> None:
    root = Path("/lake")
    good = (
        1 <= len(value) <= 100
        and value[0].isascii()
        and value[0].isalnum()
        and all(c.isascii() and (c.isalnum() or c in "._-") for c in value)
        and ".." not in value
    )
    if not good:
        with pytest.raises(ConfigError):
            label("features", {"delivery": value})
        return
    path = root / label("features", {"delivery": value})
    assert path.parent == root / "features"
    assert path.name == f"delivery={value}"


@given(st.text(max_size=60) | st.from_regex(r"[a-z0-9._/-]{0,40}", fullmatch=True))
@example("a/../../b")
@example("a//b")
def test_an_asset_key_stays_below_the_root_or_is_refused(asset: str) -> None:
    try:
        where = label(asset, {})
    except ConfigError:
        return
    root = Path("/lake")
    assert (root / where).parts == (*root.parts, *asset.split("/"))
    assert ".." not in where
    assert where == where.lower()
    assert not any(part.startswith((".", "_")) for part in Path(where).parts)
