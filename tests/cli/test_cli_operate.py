"""The commands that operate the house, as a user runs them: what they print, where they fail, and how they say it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

COHORTLOOM = Path(sys.executable).with_name("cohortloom")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operate") / "home"


@pytest.fixture(scope="module")
def cohortloom(root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COHORTLOOM, *arguments],
            env={**kept, "COHORTLOOM_HOME": str(root), "DAGSTER_DISABLE_TELEMETRY": "1", **variables},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The error of a command that failed as it should: non-zero, one line, no traceback."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def test_cohorts_and_generators_are_listed_for_people_and_programs(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    listed = cohortloom("cohorts")
    assert listed.returncode == 0
    assert {"demo", "support", "synthea"} <= {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}
    known = {row["generator"]: row for row in json.loads(cohortloom("generators", "--json").stdout)}
    assert set(known) >= {"independent", "gaussian_copula", "vae"}
    assert "paper" in known["vae"]["presets"]
    assert known["ctgan"]["dp"] is True
    assert "BUSL" in known["ctgan"]["licence"]
    assert "one discrete column" in known["ctgan"]["conditions"]
    one = cohortloom("generators", "halo_small").stdout
    assert "Theodorou" in one
    assert "visits" in one
    assert "Did you mean 'vae'?" in cohortloom("generators", "vea").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "suport"), "Did you mean 'support'?"),
        (("run", "support", "--generator", "vea"), "Did you mean 'vae'?"),
        (("run", "support", "--month", "October"), "is not a month"),
        (("run", "support", "--month", "2031-01"), "has not begun"),
        (("run", "support"), "has no delivery yet"),
        (("leaderboard", "support"), "has no leaderboard"),
        (("deliver", "wards", "."), "There is no source 'wards'"),
        (("quarantine", "support--2026-10-31"), "was not ingested"),
    ],
)
def test_a_mistake_gets_one_sentence_that_says_what_to_do(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...], words: str
) -> None:
    assert words in one_sentence(cohortloom(*arguments))


def test_a_broken_cohort_file_disables_itself_only(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "broken.yaml").write_text("source: support\nsubject: [row\n", encoding="utf-8")
    listed = cohortloom("cohorts", COHORTLOOM_COHORTS=str(tmp_path))
    assert listed.returncode == 0
    assert "disabled: broken" in listed.stderr
    assert "broken.yaml:" in listed.stderr
    assert "support" in listed.stdout
    assert "broken.yaml" in one_sentence(cohortloom("run", "broken", COHORTLOOM_COHORTS=str(tmp_path)))


def test_a_home_that_cannot_be_written_is_named(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("not a folder", encoding="utf-8")
    sentence = one_sentence(cohortloom("deliveries", COHORTLOOM_HOME=str(blocked)))
    assert "COHORTLOOM_HOME cannot be written" in sentence
    assert str(blocked) in sentence


@pytest.mark.slow
def test_the_demo_ends_with_the_leaderboard_and_where_to_look_next(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]], root: Path
) -> None:
    done = cohortloom("demo", "--patients", "80")
    assert done.returncode == 0, done.stderr
    for name in (
        "independent",
        "gaussian_copula",
        "vae",
        "bootstrap",
        "fresh real rows",
        "training rows copied",
        "columns shuffled",
    ):
        assert name in done.stdout
    reports = [Path(line.split(": ", 1)[1]) for line in done.stderr.splitlines() if "report of" in line]
    assert len(reports) == 4
    assert "bootstrap: fail: recognisable training rows reproduced beyond chance" in done.stderr
    assert "Release, candidate gaussian_copula: withheld" in done.stderr, "80 patients are too few for the gate"
    assert "cohortloom review demo --month 2026-03" in done.stderr
    assert all(report.is_file() and report.is_relative_to(root) for report in reports)
    assert "http://127.0.0.1:3000" in done.stderr

    listed = json.loads(cohortloom("deliveries", "--json").stdout)
    assert [row["delivery"] for row in listed] == ["demo--2026-01-31", "demo--2026-02-28", "demo--2026-03-31"]
    assert all(
        row["in"] == row["taken"] + row["not modelled"] + row["superseded"] + row["quarantined"] for row in listed
    )
    board = json.loads(cohortloom("leaderboard", "demo", "--json").stdout)
    # A generator that only another cohort enables (of visits) is a row that says so.
    assert {row["key"] for row in board} == {
        "independent", "gaussian_copula", "vae", "bootstrap", "halo_small",
        "ref_fresh", "ref_train", "ref_marginal", "ref_mode",
    }  # fmt: skip
    before = one_sentence(cohortloom("run", "demo", "--month", "2025-12"))
    assert "2026-01" in before


def test_a_misspelt_key_of_a_cohort_file_is_named(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "typo.sql").write_text("SELECT 1 AS age\n", encoding="utf-8")
    (tmp_path / "typo.yaml").write_text(
        "source: support\nsubject: row\nunit: row\nsql: typo.sql\ngeneratorss: {independent: {}}\n", encoding="utf-8"
    )
    listed = cohortloom("cohorts", COHORTLOOM_COHORTS=str(tmp_path))
    assert "There is no key 'generatorss'. Did you mean 'generators'?" in listed.stderr
