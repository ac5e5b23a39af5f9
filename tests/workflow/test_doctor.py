"""The doctor finds damage that was done by hand, says what to do, and mends only what cannot lose anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from pipeline.features.split import PUBLISHED_KEY, fingerprint, load_key
from pipeline.privacy.ledger import Ledger, Training
from pipeline.store.home import Home
from pipeline.store.lake import Lake, Version, VersionStore
from pipeline.workflow import doctor
from pipeline.workflow.doctor import examine, mend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.store.inspection import Finding

CELL = {"cohort": "tiny", "month": "2026-10-01"}


def commit(store: VersionStore, asset: str, number: int, **info: object) -> Version:
    with store.draft(asset, CELL) as draft:
        draft.add_table("data", pa.table({"n": list(range(number, number + 50))}))
        return draft.commit(info={"number": number, **info})


@pytest.fixture
def lake(home: Home) -> Lake:
    """Two versions of features, one of each other kind, a journal."""
    made = Lake(home)
    for number in (1, 2):
        commit(made.tables, "features", number, split_fingerprint=fingerprint(PUBLISHED_KEY))
    commit(made.models, "external/vae", 3)
    commit(made.reports, "evaluation/vae", 4)
    for number in range(3):
        made.journal.append("holdout_access", {"number": number})
    return made


def folder(lake: Lake) -> Path:
    version = lake.tables.resolve("features", CELL)
    return lake.tables.root / version.label / version.version


def old(path: Path, hours: float = 48) -> Path:
    """Make a file or folder look untouched for so long."""
    for entry in [*path.rglob("*"), path]:
        os.utime(entry, (time.time() - hours * 3600,) * 2)
    return path


def one(lake: Lake, *, deep: bool = False) -> Finding:
    """The only finding."""
    found = examine(lake, deep=deep)
    assert len(found) == 1, found
    return found[0]


def test_a_sound_home_is_in_order(lake: Lake) -> None:
    assert examine(lake, deep=True) == []
    assert not list(lake.home.root.glob(".probe-*"))


def test_no_home_is_one_error(tmp_path: Path) -> None:
    found = one(Lake(Home(tmp_path / "nowhere")))
    assert (found.severity, found.where) == ("error", str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_file(lake: Lake) -> None:
    (folder(lake) / "data.parquet").unlink()
    found = one(lake)
    assert found.severity == "error"
    assert "missing" in found.what
    assert found.where.endswith("data.parquet")
    assert "cohortloom rollback features 'tiny|2026-10-01'" in found.todo


def test_a_file_of_an_old_version_is_a_warning(lake: Lake) -> None:
    before = lake.tables.history("features", CELL)[1]
    (lake.tables.root / before.label / before.version / "data.parquet").unlink()
    assert one(lake).severity == "warning"


def test_a_changed_byte_is_found_by_deep_only(lake: Lake) -> None:
    path = folder(lake) / "data.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))
    assert examine(lake) == []
    found = one(lake, deep=True)
    assert found.severity == "error"
    assert "sha256" in found.what
    path.write_bytes(bytes(data[:-1]))
    assert "bytes and should have" in one(lake).what


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 1, "asset"', b'{"format": 99}', b"\xff\xfe"])
def test_a_broken_pointer(lake: Lake, content: bytes) -> None:
    (folder(lake).parent / "_current.json").write_bytes(content)
    found = one(lake)
    assert found.severity == "error"
    assert "pointer cannot be used" in found.what
    assert "rollback" in found.todo


def test_a_dangling_pointer_and_a_lost_record(lake: Lake) -> None:
    where = folder(lake)
    (where / "_version.json").unlink()
    assert "record _version.json is missing" in one(lake).what
    where.rename(lake.home.root.parent / "away")
    assert "which is not there" in one(lake).what


def test_a_pointer_edited_by_hand_differs_from_the_record(lake: Lake) -> None:
    pointer = folder(lake).parent / "_current.json"
    edited = {**json.loads(pointer.read_bytes()), "run_id": "somebody"}
    pointer.write_text(json.dumps(edited))
    assert "differ" in one(lake).what


def test_a_version_nobody_pointed_to(lake: Lake) -> None:
    where = folder(lake)
    orphan = where.parent / f"v-{'0' * 15}1-{'0' * 12}"
    orphan.mkdir()
    found = one(lake)
    assert found.severity == "warning"
    assert "never pointed to" in found.what
    assert "gc" in found.todo


def test_a_killed_writer_is_told_from_a_living_one(lake: Lake) -> None:
    script = (
        "import sys, time; from pathlib import Path; from pipeline.store.versions import VersionStore\n"
        "with VersionStore(Path(sys.argv[1])).draft('features', {'cohort': 'x', 'month': '2026-10-01'}) as draft:\n"
        "    draft.file('data.txt').write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, lake.tables.root], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert examine(lake) == []
        writer.send_signal(signal.SIGKILL)
    found = one(lake)
    assert found.severity == "warning"
    assert "draft of a writer that was killed" in found.what


def test_a_broken_and_a_missing_journal_entry(lake: Lake) -> None:
    first, second, *_ = sorted((lake.journal.root / "holdout_access").iterdir())
    kept = first.read_bytes()
    first.chmod(0o600)
    first.write_bytes(kept[:20])
    found = one(lake)
    assert found.severity == "error"
    assert first.name in found.where
    first.write_bytes(kept)
    second.unlink()
    assert second.name in one(lake).where


def test_what_killed_writers_left_outside_the_stores(lake: Lake) -> None:
    home = lake.home
    (home.journal / "holdout_access" / ".tmp-dead").write_text("half")
    (home.landing / "clinic" / ".tmp-dead").mkdir(parents=True)
    (home.landing / "clinic" / "unfinished").mkdir()
    (home.spill / "spill-dead").mkdir(parents=True)
    (home.root / ".tmp-catalog-dead.duckdb").write_text("half")
    home.spill.chmod(0o700)
    young = [finding.where for finding in examine(lake)]
    assert young == []
    for path in ("journal/holdout_access/.tmp-dead", "landing/clinic", "spill/spill-dead", ".tmp-catalog-dead.duckdb"):
        old(home.root / path)
    found = examine(lake)
    assert len(found) == 5
    assert {finding.severity for finding in found} == {"warning"}
    assert any("without _SUCCESS" in finding.what for finding in found)


def test_a_mark_of_a_delivery_that_cannot_be_read(lake: Lake) -> None:
    delivered = lake.home.landing / "clinic" / "one"
    delivered.mkdir(parents=True)
    (delivered / "_SUCCESS").touch()
    (delivered / "_DELIVERY.json").write_text("{}")
    assert "_DELIVERY.json" in one(lake).what


def own_key(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Features that were split with the key in split.key."""
    monkeypatch.delenv("COHORTLOOM_SPLIT_KEY")
    commit(lake.tables, "features", 5, split_fingerprint=fingerprint(load_key(lake.home)))
    assert examine(lake) == []
    return lake.home.split_key


def damage_remove(path: Path) -> None:
    path.unlink()


def damage_cut(path: Path) -> None:
    path.write_text("short")


def damage_other(path: Path) -> None:
    path.write_text("another-key-that-is-long-enough\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [(damage_remove, "missing, and 1 feature tables"), (damage_cut, "cut short"), (damage_other, "another key")],
)
def test_a_split_key_that_does_not_fit(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], words: str
) -> None:
    damage(own_key(lake, monkeypatch))
    found = one(lake)
    assert found.severity == "error"
    assert words in found.what
    assert found.mend is None


def test_what_others_can_read_is_closed_by_fix(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    key = own_key(lake, monkeypatch)
    key.chmod(0o644)
    lake.home.root.chmod(0o755)
    lake.home.models.chmod(0o750)
    found = examine(lake)
    assert [finding.severity for finding in found] == ["error", "error", "warning"]
    done, left = mend(found)
    assert left == []
    assert len(done) == 3
    assert [path.stat().st_mode & 0o777 for path in (key, lake.home.root, lake.home.models)] == [0o600, 0o700, 0o700]
    assert examine(lake) == []


def test_a_catalogue_that_cannot_be_opened(lake: Lake) -> None:
    lake.home.catalog.write_bytes(b"no DuckDB file at all")
    lake.home.catalog.chmod(0o600)
    found = one(lake)
    assert found.severity == "warning"
    assert "catalog" in found.todo


def test_an_open_reservation_and_a_broken_ledger(lake: Lake) -> None:
    training = Training.of(
        generator="vae",
        month="2026-10-01",
        features="0" * 64,
        settings={},
        seeds=[1],
        privacy=None,
        code_version="1",
        engine={},
    )
    Ledger(lake.journal, "tiny").reserve(training, None)
    found = one(lake)
    assert found.severity == "warning"
    assert "not settled" in found.what
    assert "cohortloom run tiny --month 2026-10" in found.todo
    lake.journal.append("privacy/tiny", {"step": "nonsense"})
    assert {finding.severity for finding in examine(lake)} == {"error"}


def test_a_file_system_without_locks_and_without_room(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "hold", lambda folder: os.open(folder, os.O_RDONLY))
    assert "no effect" in one(lake).what
    monkeypatch.undo()
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    found = one(lake)
    assert found.severity == "error"
    assert "1 MiB" in found.what
