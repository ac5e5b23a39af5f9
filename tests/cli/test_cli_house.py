"""The commands that keep the house, as a user runs them: damage done by hand, then words and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from pipeline.store.home import Home
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.store.versions import VersionStore

    Run = Callable[..., subprocess.CompletedProcess[str]]

COHORTLOOM = Path(sys.executable).with_name("cohortloom")
CELL = {"cohort": "tiny", "month": "2026-10-01"}


@pytest.fixture
def cohortloom(home: Home) -> Run:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}

    def run(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COHORTLOOM, *map(str, arguments)],
            env={**kept, "COHORTLOOM_HOME": str(home.root), "DAGSTER_DISABLE_TELEMETRY": "1", **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def commit(store: VersionStore, asset: str, number: int, inputs: dict[str, str] | None = None) -> str:
    with store.draft(asset, CELL) as draft:
        draft.add_table("data", pa.table({"n": list(range(number, number + 9))}))
        version = draft.commit(info={"number": number}, inputs=inputs or {})
    return version.sha256


@pytest.fixture
def lake(home: Home) -> Lake:
    made = Lake(home)
    label = "features/cohort=tiny/month=2026-10-01"
    for number in range(3):
        commit(made.models, "external/vae", number, {label: commit(made.tables, "features", number)})
    return made


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a command that failed as it should: non-zero, one line, no traceback."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_doctor(lake: Lake, cohortloom: Run) -> None:
    done = cohortloom("doctor", "--deep")
    assert (done.returncode, done.stderr) == (0, "")
    assert "is in order (every file was read)" in done.stdout

    lake.tables.path(lake.tables.resolve("features", CELL), "data").unlink()
    lake.home.root.chmod(0o755)
    lake.home.models.chmod(0o755)
    done = cohortloom("doctor")
    assert done.returncode == 1
    assert "error: The file is missing." in done.stdout
    assert "2 errors, 1 warnings" in done.stdout
    assert "cohortloom doctor --fix" in done.stderr
    assert "doctor --fix" in cohortloom("deliveries").stderr, "every command warns of an open home, once"

    done = cohortloom("doctor", "--fix", "--json")
    assert done.returncode == 1, "what cannot be mended without a loss remains"
    told = json.loads(done.stdout)
    assert (told["errors"], len(told["mended"])) == (1, 2)
    assert [finding["fixable"] for finding in told["findings"]] == [False]
    assert lake.home.root.stat().st_mode & 0o777 == 0o700

    assert cohortloom("rollback", "features", "tiny", "2026-10").returncode == 0
    assert cohortloom("doctor").returncode == 0, "an old version's file is a warning"
    assert cohortloom("doctor", COHORTLOOM_HOME=str(lake.home.root / "nowhere")).returncode == 1
    assert not (lake.home.root / "nowhere").exists()


def test_rollback(lake: Lake, cohortloom: Run) -> None:
    listed = json.loads(cohortloom("rollback", "features", "tiny|2026-10-01", "--list", "--json").stdout)
    assert [row["current"] for row in listed] == ["current", "", ""]
    done = cohortloom("rollback", "features", "tiny", "2026-10", "--as", "Ada")
    assert done.returncode == 0
    assert f"is at {listed[1]['version']} (was {listed[0]['version']})" in done.stderr
    assert "by Ada" in done.stderr
    assert "external/vae/cohort=tiny/month=2026-10-01" in done.stderr
    assert "cohortloom run tiny --month 2026-10 --from model" in done.stderr
    assert lake.tables.resolve("features", CELL).version == listed[1]["version"]
    told = json.loads(cohortloom("rollback", "features", "tiny|2026-10", "--to", listed[2]["version"], "--json").stdout)
    assert told["now"] == listed[2]["version"]
    assert lake.journal.entries("operations")[0]["by"] == "Ada"
    assert "no version before" in one_sentence(cohortloom("rollback", "features", "tiny", "2026-10"))
    assert "cohortloom withdraw" in one_sentence(cohortloom("rollback", "release", "tiny", "2026-10"))
    assert "Did you mean 'features'?" in one_sentence(cohortloom("rollback", "feature", "tiny", "2026-10"))


def test_gc(lake: Lake, cohortloom: Run) -> None:
    commit(
        lake.tables,
        "release",
        1,
        {"features/cohort=tiny/month=2026-10-01": lake.tables.history("features", CELL)[1].sha256},
    )
    done = cohortloom("gc", "--keep", "1", "--older-than", "0s", "--dry-run")
    assert done.returncode == 0
    assert done.stdout.count("old version: ") == 3
    assert "Would remove 3 old versions" in done.stderr
    assert "2 versions stay in any case" in done.stderr
    assert cohortloom("gc", "--keep", "1").returncode == 0, "all of it is younger than an hour"
    assert len(lake.tables.history("features", CELL)) == 3
    told = json.loads(
        cohortloom("gc", "--keep", "1", "--older-than", "0s", "--runs-older-than", "90d", "--json").stdout
    )
    assert (told["removed"], told["runs"]) == ({"old version": 3}, 0)
    assert len(lake.tables.history("features", CELL)) == 2, "the release's features stay"
    assert "is no length of time" in one_sentence(cohortloom("gc", "--keep", "1", "--older-than", "soon"))
    assert cohortloom("gc").returncode == 2
    assert cohortloom("gc", "--keep", "0").returncode == 2


def test_backup_and_restore(lake: Lake, cohortloom: Run, tmp_path: Path) -> None:
    (lake.home.split_key).write_text("secret" * 8 + "\n")
    lake.home.split_key.chmod(0o600)
    archive, again = tmp_path / "b.tar", tmp_path / "again"
    done = cohortloom("backup", archive, "--without-landing")
    assert done.returncode == 0
    assert "split.key" in done.stderr
    assert archive.stat().st_mode & 0o777 == 0o600
    assert "file of that name" in one_sentence(cohortloom("backup", archive))
    live = "postgresql://dagster@127.0.0.1:9/live"
    done = cohortloom("restore", archive, "--to", again, DAGSTER_PG_URL=live)
    assert done.returncode == 0, done.stderr
    assert "no database was opened" in done.stderr
    assert "only to try it out" in done.stderr
    assert "every byte is as it was" in done.stderr
    assert "not in this backup" in done.stderr
    assert "not empty" in one_sentence(cohortloom("restore", archive, "--to", again))
    done = cohortloom("doctor", "--deep", COHORTLOOM_HOME=str(again))
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stdout
    assert Lake(Home(again)).journal.entries("operations")[-1]["operation"] == "restore"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(bytes(data))
    assert "no sound backup" in one_sentence(cohortloom("restore", archive, "--to", tmp_path / "third"))
    assert not (tmp_path / "third").exists()
