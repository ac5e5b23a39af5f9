"""`cohortloom backfill` as a user runs it: mistakes, a local backfill that is cancelled and gone on with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from made_up import Book, deliver, visits

from assets.instance import open_instance
from assets.local_backfill import LOCAL_TAG
from pipeline.store.home import Home
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    pass

COHORTLOOM = Path(sys.executable).with_name("cohortloom")
Command = "Callable[..., subprocess.CompletedProcess[str]]"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    made = Book(tmp_path / "cohorts")
    made.sources({"clinic": "table"})
    made.cohort("tiny", source="clinic", generators={"independent": {}})
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}
    return {
        **kept,
        "COHORTLOOM_HOME": str(tmp_path / "home"),
        "COHORTLOOM_COHORTS": str(made.folder),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def cohortloom(environment: dict[str, str]) -> Command:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COHORTLOOM, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Name cohorts and --months"),
        (("tiny", "--months", "2026-01", "--resume", "abc"), "Name cohorts and --months"),
        (("tinny", "--months", "2026-01", "--local"), "Did you mean 'tiny'?"),
        (("tiny", "--months", "January"), "no range of months"),
        (("tiny", "--months", "2026-01", "--preset", "quik", "--local"), "Did you mean 'quick'?"),
        (("tiny", "--months", "2026-01", "--local"), "has no delivery yet"),
        (("--resume", "local-nothing"), "There is no local backfill"),
    ],
)
def test_a_mistake_gets_one_sentence(cohortloom: Command, arguments: tuple[str, ...], words: str) -> None:
    done = cohortloom("backfill", *arguments)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert words in errors[0]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_cancelled_local_backfill_leaves_nothing_half_made_and_is_gone_on_with(
    cohortloom: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    root = Path(environment["COHORTLOOM_HOME"])
    home = Home(root).ensure()
    folder = deliver(home, "clinic", visits(tmp_path / "in"), as_of="2026-01-15", name="one").folder
    assert cohortloom("deliver", "clinic", str(folder), "--as", "2026-01-15", "--name", "one").returncode == 0
    early = cohortloom("backfill", "tiny", "--months", "2025-11..2026-01", "--local")
    assert "The first usable month is 2026-01" in early.stderr
    assert early.returncode == 1

    asked = ["backfill", "tiny", "--months", "2026-01..2026-02", "--local", "--preset", "quick"]
    process = subprocess.Popen([COHORTLOOM, *asked], env=environment, stderr=subprocess.PIPE, text=True)
    folder = home.dagster / "backfills"
    with open_instance(home) as instance:

        def runs() -> list[dg.DagsterRun]:
            # Every local backfill's; there is one only.
            return [r for r in instance.get_runs() if LOCAL_TAG in r.tags]

        while not any(r.status == dg.DagsterRunStatus.STARTED for r in runs()):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.1)
        (id,) = [file.stem for file in folder.glob("local-*.json")]
        told = cohortloom("backfill", "--cancel", id)
        assert told.returncode == 0, told.stderr
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130, said
        assert f"--resume {id}" in said
        assert not [r for r in runs() if not r.is_finished]
    lake = Lake(home)
    for store in (lake.tables, lake.models, lake.reports):
        assert list(store.root.rglob(".tmp-*")) == []
        for asset in store.assets():
            for partition in store.partitions(asset):
                store.verify(store.resolve(asset, partition))

    again = cohortloom("backfill", "--resume", id, "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert {(c["month"], c["state"]) for c in found["cells"]} == {("2026-01", "done"), ("2026-02", "done")}
    assert "Nobody works on" in cohortloom("backfill", "--cancel", id).stderr
