"""A full, forbidden or failing disk: one clear error, and nothing half-written remains."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import StoreError
from pipeline.store.backend import LocalBackend, ValueChanged
from pipeline.store.journal import Journal
from pipeline.store.lake import VersionStore

KEY = {"cohort": "support"}
TABLE = pa.table({"n": [1, 2, 3]})


def commit(store: VersionStore, number: int) -> str:
    with store.draft("features", KEY) as draft:
        draft.add_table("data", TABLE)
        return draft.commit(info={"number": number}).version


def left_in(store: VersionStore) -> list[str]:
    return sorted(p.name for p in (store.root / "features/cohort=support").iterdir())


def failing(number: int, at_call: int, only: Callable[..., bool]) -> Callable[[Callable], Callable]:
    """Wrap a function of `os` so that its n-th call that `only` picks fails with this error number."""
    calls = [0]

    def wrap(function: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            if only(*args):
                calls[0] += 1
                if calls[0] == at_call:
                    raise OSError(number, os.strerror(number))
            return function(*args, **kwargs)

        return call

    return wrap


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "Permission denied"), (errno.EROFS, "read-only")],
)
@pytest.mark.parametrize("function", ["fsync", "rename", "replace", "mkdir", "open"])
def test_a_failing_commit_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, function: str
) -> None:
    store = VersionStore(tmp_path)
    commit(store, 0)
    for at_call in range(1, 40):
        was = store.resolve("features", KEY)
        before = [name for name in left_in(store) if name != f"_retired-{was.version}"]
        with monkeypatch.context() as patch:
            patch.setattr(os, function, failing(number, at_call, lambda *_: True)(getattr(os, function)))
            try:
                commit(store, at_call)
            except StoreError as error:
                assert words in str(error)  # noqa: PT017 - the loop ends with the first commit that meets no error
            else:
                assert at_call > 1
                return
        current = store.resolve("features", KEY)
        store.verify(current)
        if current == was:
            store.collect(keep=9)  # no grace has passed: removes nothing that was there
            # a mark on what is still current says nothing, and is renewed when it retires
            assert [name for name in left_in(store) if name != f"_retired-{current.version}"] == before
        else:  # the folder's last sync failed after the pointer had moved: the new version is whole
            assert current.info == {"number": at_call}
    raise AssertionError("the commit never got through")


def test_a_full_disk_within_the_block_is_said(tmp_path: Path) -> None:
    """With a real limit on file size, through Arrow and through DuckDB."""
    script = """
import resource, signal, sys
from pathlib import Path
import duckdb, numpy as np, pyarrow as pa
from pipeline.errors import StoreError
from pipeline.store.lake import VersionStore
store = VersionStore(Path(sys.argv[1]))
noise = pa.table({"x": np.random.default_rng(0).normal(size=100_000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for way in ("arrow", "duckdb", "file"):
    try:
        with store.draft("features", {}) as draft:
            if way == "arrow":
                draft.add_table("data", noise)
            elif way == "duckdb":
                target = draft.file("data.parquet")
                duckdb.sql(f"COPY (SELECT random() FROM range(200000)) TO '{target}' (FORMAT parquet)")
            else:
                draft.file("report.html").write_bytes(bytes(100_000))
            draft.commit()
    except StoreError as error:
        print(way, error)
    print(way, sorted(p.name for p in (store.root / "features").iterdir()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for way in ("arrow", "duckdb", "file"):
        assert any(
            line.startswith(f"{way} features") and "beyond what this process may write" in line for line in lines
        )
        assert f"{way} []" in lines


def test_other_errors_of_the_block_are_left_alone(tmp_path: Path) -> None:
    store = VersionStore(tmp_path)
    with pytest.raises(FileNotFoundError), store.draft("features", KEY):
        (tmp_path / "landing" / "absent").read_text()


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = VersionStore(tmp_path / "file" / "lake")
    with pytest.raises(StoreError), store.draft("features", KEY):
        raise AssertionError("there is no draft")
    with pytest.raises(StoreError):
        Journal(tmp_path / "file" / "journal").append("privacy", {})
    assert store.current("features", KEY) is None
    assert store.partitions("features") == []


def test_a_journal_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.append("privacy", {"n": 1})
    for function in ("open", "fsync", "link"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, failing(errno.ENOSPC, 1, lambda *_: True)(getattr(os, function)))
            with pytest.raises(StoreError, match="disk is full"):
                journal.append("privacy", {"n": 2})
        assert [entry["n"] for entry in journal.entries("privacy")] == [1]
        assert len(list((tmp_path / "privacy").iterdir())) == 1


def test_the_local_backend_replaces_only_what_it_was_told(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    assert backend.get("a/b") is None
    assert backend.list("a") == []
    first = backend.put_if_match("a/b", b"1", None)
    with pytest.raises(ValueChanged):
        backend.put_if_match("a/b", b"2", None)
    second = backend.put_if_match("a/b", b"2", first)
    with pytest.raises(ValueChanged):
        backend.put_if_match("a/b", b"3", first)
    with pytest.raises(ValueChanged):
        backend.put_if_match("a/absent", b"3", first)
    stored = backend.get("a/b")
    assert stored is not None
    assert (stored.data, stored.etag) == (b"2", second)
    backend.put_if_match("a/c/d", b"", None)
    assert backend.list("a") == ["b", "c/"]
    backend.delete("a/b")
    backend.delete("a/b")
    assert backend.list("a") == ["c/"]
