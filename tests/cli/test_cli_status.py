"""`cohortloom status` as a user types it: in ten seconds what is wrong, and what to type next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

COHORTLOOM = Path(sys.executable).with_name("cohortloom")
YAML = """\
title: A tiny cohort
source: clinic
unit: row
subject: row
sql: tiny.sql
generators: {independent: {}}
"""


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts")
    (folder / "sources.yaml").write_text("clinic: {format: table, dates: none, split_key: published}\n")
    (folder / "tiny.yaml").write_text(YAML)
    (folder / "old.yaml").write_text(YAML.replace("tiny.sql", "old.sql") + "enabled: false\n")
    (folder / "broken.yaml").write_text("source: clinic\nunit: [row\n")
    for name in ("tiny", "old"):
        (folder / f"{name}.sql").write_text("SELECT age FROM visits WHERE age > 0\n")
    return folder


@pytest.fixture(scope="module")
def cohortloom(cohorts: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}
    variables = {
        "COHORTLOOM_HOME": str(tmp_path_factory.mktemp("status") / "home"),
        "COHORTLOOM_COHORTS": str(cohorts),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [COHORTLOOM, *arguments]
        return subprocess.run(
            command, env={**kept, **variables}, capture_output=True, text=True, timeout=600, check=False
        )

    return run


def table(folder: Path, ages: range) -> Path:
    folder.mkdir()
    (folder / "visits.csv").write_text("age\n" + "\n".join(str(age) for age in ages) + "\n")
    return folder


@pytest.mark.slow
def test_from_an_empty_home_to_a_stale_month(cohortloom: Callable[..., Any], cohorts: Path, tmp_path: Path) -> None:
    done = cohortloom("status")
    assert done.returncode == 0, done.stderr
    assert "Nothing was made yet." in done.stdout
    assert "Source 'clinic' has no delivery yet." in done.stdout
    assert "adult" not in done.stdout  # shipped cohorts that nobody uses are one line
    assert "Without a delivery so far: adult, " in done.stderr
    assert "the cohort is retired (enabled: false)" in done.stdout
    assert "its file is broken" in done.stdout
    assert "No scheduler is at work" in done.stderr

    # A run that fails is in the list, in the notices, and the command that mends it is the first to type.
    assert (
        cohortloom("deliver", "clinic", str(table(tmp_path / "one", range(20, 80))), "--as", "2026-01-15").returncode
        == 0
    )
    (cohorts / "tiny.sql").write_text("SELECT age FROM visits WHERE age < 0\n")
    assert cohortloom("run", "tiny").returncode != 0
    done = cohortloom("status", "tiny")
    assert done.returncode == 0
    assert "run failed" in done.stdout
    assert "1 failed run noted in" in done.stderr
    assert "  cohortloom run tiny --month 2026-01" in done.stderr.splitlines()
    found = json.loads(cohortloom("status", "--json").stdout)
    assert found["cells"][0]["state"] == "run failed"
    assert found["failures"][0]["steps"] == ["features"]
    assert found["next_tick"]["scheduler_running"] is False
    assert {d["cohort"] for d in found["next_tick"]["decisions"]} >= {"tiny", "old", "broken"}

    # Made good, then a late delivery: `deliver` names the month, `status` too.
    (cohorts / "tiny.sql").write_text("SELECT age FROM visits WHERE age > 0\n")
    made = cohortloom("run", "tiny", "--month", "2026-01")
    assert made.returncode == 0, made.stderr
    assert json.loads(cohortloom("status", "tiny", "--json").stdout)["cells"][0]["state"] == "ok"
    late = cohortloom("deliver", "clinic", str(table(tmp_path / "two", range(30, 90))), "--as", "2026-01-10")
    words = "delivery clinic--2026-01-10 (as of 2026-01-10) is new"
    assert f"tiny 2026-01 is stale: {words}" in late.stderr
    assert "\n  cohortloom backfill tiny --stale" in late.stderr
    done = cohortloom("status", "tiny")
    assert f"cohort_inputs: {words}" in done.stdout
    # February has it too and was never made; in the months after nothing is new.
    assert done.stderr.splitlines()[-2:] == [
        "  cohortloom run tiny --month 2026-02",
        "  cohortloom backfill tiny --stale --local",  # no UI is at work
    ]
    assert "makes it" in done.stdout
    assert "2026-03..20" in done.stdout  # one row, up to the month before the next tick


def test_mistakes_get_one_sentence(cohortloom: Callable[..., Any]) -> None:
    done = cohortloom("status", "tinny")
    assert done.returncode != 0
    assert "Did you mean 'tiny'?" in done.stderr
    assert "its file is broken" in cohortloom("status", "broken").stdout


def test_a_retired_cohort_can_be_run_with_a_warning(cohortloom: Callable[..., Any]) -> None:
    done = cohortloom("run", "old", "--month", "2025-01")
    assert "warning: 'old' is retired (enabled: false)" in done.stderr
