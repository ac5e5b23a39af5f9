"""A backup taken in a storm of writers is whole; a restore checks every byte and writes nowhere else."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.store.archive import MANIFEST
from pipeline.store.backup import back_up, half_restored, restore
from pipeline.store.disk import hold, release
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.store.versions import VersionStore

CELL = {"cohort": "tiny", "month": "2026-10-01"}
WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from pipeline.store.home import Home
from pipeline.store.lake import Lake

lake, cohort = Lake(Home(Path(sys.argv[1]))), sys.argv[2]
key = {"cohort": cohort}
for number in range(10_000):
    with lake.tables.draft("features", key) as draft:
        draft.add_table("data", pa.table({"n": [number]}))
        features = draft.commit(info={"number": number})
    lake.journal.append(f"privacy/{cohort}", {"number": number})
    with lake.models.draft("model/vae", key) as draft:
        draft.file("model.json").write_text(str(number))
        draft.commit(info={"number": number}, inputs={features.label: features.sha256})
    if number == 2:
        print("ready", flush=True)
"""


def commit(store: VersionStore, asset: str, number: int) -> None:
    with store.draft(asset, CELL) as draft:
        draft.add_table("data", pa.table({"n": [number]}))
        draft.commit(info={"number": number})


@pytest.fixture
def lake(home: Home) -> Lake:
    """A home with a little of everything."""
    made = Lake(home)
    for number in range(2):
        commit(made.tables, "features", number)
    commit(made.models, "model/vae", 1)
    commit(made.reports, "evaluation/vae", 1)
    made.journal.append("release/Tiny", {"step": "sign"})
    landed = home.landing / "clinic" / "one"
    landed.mkdir(parents=True)
    (landed / "visits.csv").write_text("age\n60\n")
    (landed / "_SUCCESS").touch()
    os.utime(landed / "_SUCCESS", (1_700_000_000, 1_700_000_000))
    (home.landing / "clinic" / "unfinished").mkdir()
    (home.landing / "clinic" / "unfinished" / "visits.csv").write_text("half")
    home.split_key.write_text("secret" * 8 + "\n")
    home.catalog.write_text("made again")
    (home.reports / "failures.jsonl").write_text("{}\n")
    (home.dagster / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return made


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def test_everything_comes_back_as_it_was(lake: Lake, tmp_path: Path) -> None:
    made = back_up(lake, tmp_path / "b.tar")
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    held = names(made.path)
    assert held[-1] == MANIFEST
    assert {"split.key", "reports/failures.jsonl", "dagster/dagster.yaml", "landing/clinic/one/visits.csv"} <= set(held)
    assert not [name for name in held if "unfinished" in name or "catalog" in name]
    assert not list(lake.home.root.glob(".snapshot-*"))
    again = Home(tmp_path / "again")
    back = restore(made.path, again)
    assert (back.files, back.bytes, back.landing) == (made.files, made.bytes, True)
    for path in sorted(path for path in again.root.rglob("*") if path.is_file()):
        original = lake.home.root / path.relative_to(again.root)
        assert path.read_bytes() == original.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in [again.root, *again.root.rglob("*")] if path.is_dir())
    there = Lake(again)
    assert there.tables.history("features", CELL) == lake.tables.history("features", CELL)
    assert there.journal.entries("release/Tiny") == lake.journal.entries("release/Tiny")
    there.journal.append("release/Tiny", {"step": "published"})
    assert (again.landing / "clinic" / "one" / "_SUCCESS").stat().st_mtime == 1_700_000_000


def test_without_landing(lake: Lake, tmp_path: Path) -> None:
    made = back_up(lake, tmp_path / "b.tar", landing=False)
    assert not [name for name in names(made.path) if name.startswith("landing")]
    assert not restore(made.path, Home(tmp_path / "again")).landing


@pytest.mark.distributed
def test_a_backup_in_a_storm_is_whole(lake: Lake, tmp_path: Path) -> None:
    """Writers are killed half-way while backups are taken: each holds whole versions, and nothing without its origin."""
    command = [sys.executable, "-c", WRITER, str(lake.home.root)]
    writers = [subprocess.Popen([*command, f"c{k}"], stdout=subprocess.PIPE) for k in range(3)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        for number in range(3):
            back_up(lake, tmp_path / f"{number}.tar")
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
    newest = 0
    for number in range(3):
        again = Lake(restore_to(tmp_path / f"{number}.tar", tmp_path / str(number)))
        for k in range(3):
            key = {"cohort": f"c{k}"}
            model = again.models.resolve("model/vae", key)
            features = again.tables.history("features", key)
            for version in features:
                again.tables.verify(version)
            again.models.verify(model)
            origins = {version.sha256 for version in features}
            assert set(model.inputs.values()) <= origins, "a model without the features it was made from"
            entries = [entry["number"] for entry in again.journal.entries(f"privacy/c{k}")]
            assert entries == list(range(len(entries)))
            assert model.info["number"] in entries, "a model whose spend is not in the journal"
            newest = max(newest, model.info["number"])
    assert newest > 3, "the writers went on meanwhile"


def restore_to(archive: Path, folder: Path) -> Home:
    home = Home(folder)
    restore(archive, home)
    return home


def test_a_database_that_is_written_to_is_copied_as_of_one_moment(lake: Lake, tmp_path: Path) -> None:
    path = lake.home.dagster / "history" / "runs.db"
    path.parent.mkdir()
    begun, over = threading.Event(), threading.Event()

    def write() -> None:
        with sqlite3.connect(path, timeout=30) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE pairs (a INTEGER, b INTEGER)")
            connection.commit()
            number = 0
            while not over.is_set():
                number += 1
                connection.execute("INSERT INTO pairs VALUES (?, 0)", [number])
                connection.execute("UPDATE pairs SET b = a WHERE a = ?", [number])
                connection.commit()
                begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(30)
        back_up(lake, tmp_path / "b.tar")
    finally:
        over.set()
        writer.join()
    again = restore_to(tmp_path / "b.tar", tmp_path / "again")
    with sqlite3.connect(again.dagster / "history" / "runs.db") as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert copy.execute("SELECT count(*) FROM pairs WHERE a <> b").fetchall() == [(0,)]


def test_a_changed_byte_is_refused_and_leaves_nothing(lake: Lake, tmp_path: Path) -> None:
    archive = back_up(lake, tmp_path / "b.tar").path
    data = archive.read_bytes()
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.size]
    places = [(member.name, member.offset_data + member.size // 2) for member in members]
    places += [("a header", members[1].offset + 150), ("a name", members[2].offset + 3)]
    for name, place in places:
        archive.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(StoreError, match="no sound backup"):
            restore(archive, Home(tmp_path / "again"))
        assert not (tmp_path / "again").exists(), name
    for cut in (0, 100, len(data) // 2, data.rindex(b'"format"')):
        archive.write_bytes(data[:cut])
        with pytest.raises(StoreError, match="no sound backup"):
            restore(archive, Home(tmp_path / "again"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "home"]


def evil(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        evil("../outside"),
        evil("/tmp/outside"),
        evil("lake/../../outside"),
        evil("./lake/x"),
        evil(".hidden/x"),
        evil("lake/link", tarfile.SYMTYPE, "/etc"),
        evil("lake/link", tarfile.LNKTYPE, "split.key"),
        evil("lake/pipe", tarfile.FIFOTYPE),
        evil("lake/folder", tarfile.DIRTYPE),
        evil("lake/disk", tarfile.CHRTYPE),
        evil("split.key"),
        evil("lake/not-in-the-list"),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}",
)
def test_unsafe_members_are_refused(lake: Lake, tmp_path: Path, member: tarfile.TarInfo) -> None:
    archive = back_up(lake, tmp_path / "b.tar").path
    with tarfile.open(archive, "a") as tar:
        tar.addfile(member, io.BytesIO())
    with pytest.raises(StoreError, match="no sound backup"):
        restore(archive, Home(tmp_path / "again"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "home"]


def test_what_stands_there_is_never_overwritten(lake: Lake, tmp_path: Path) -> None:
    archive = back_up(lake, tmp_path / "b.tar").path
    with pytest.raises(ConfigError, match="file of that name"):
        back_up(lake, archive)
    with pytest.raises(ConfigError, match="no such folder"):
        back_up(lake, tmp_path / "nowhere" / "b.tar")
    with pytest.raises(ConfigError, match="not empty"):
        restore(archive, lake.home)
    with pytest.raises(NotFoundError):
        restore(tmp_path / "other.tar", Home(tmp_path / "again"))
    empty = Home(tmp_path / "empty")
    empty.root.mkdir()
    assert restore(archive, empty).files > 0


def test_what_killed_processes_left_is_no_harm(lake: Lake, tmp_path: Path) -> None:
    """What a killed restore left beside the home goes with the next; that of a living one stays."""
    archive = back_up(lake, tmp_path / "b.tar").path
    dead, living, young, other = (tmp_path / f".restore-{name}" for name in ("0" * 32, "1" * 32, "2" * 32, "mine"))
    for path in (dead, living, young, other):
        path.mkdir()
        if path != young:
            os.utime(path, (0, 0))
    held = hold(living)
    assert held is not None
    assert half_restored(lake.home) == [dead]
    restore(archive, Home(tmp_path / "again"))
    assert [path.exists() for path in (dead, living, young, other)] == [False, True, True, True]
    release(held)


def test_the_archive_may_lie_on_another_disk(lake: Lake, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    folder = other / f"cohortloom-{os.getpid()}"
    folder.mkdir()
    try:
        archive = back_up(lake, folder / "b.tar").path
        back = restore(archive, Home(folder / "again"))
        assert back.files == len(names(archive)) - 1
    finally:
        shutil.rmtree(folder)


def test_a_disk_that_fails_leaves_neither_archive_nor_snapshot(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(StoreError, match="disk is full"):
        back_up(lake, tmp_path / "b.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]
    assert not list(lake.home.root.glob(".snapshot-*"))
