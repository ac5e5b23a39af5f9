"""`cohortloom tune` as a user runs it: a table, the next step, the same study again, one sentence for a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from made_up import MONTH, Book

from pipeline.errors import CohortLoomError
from pipeline.features.split import PUBLISHED_KEY
from pipeline.store.home import Home
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Callable

COHORTLOOM = Path(sys.executable).with_name("cohortloom")


@pytest.fixture(scope="module")
def cohortloom(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command in a home with features of `tiny`."""
    from test_tuning_asset import made_up, store

    root = tmp_path_factory.mktemp("tune")
    book = Book(root / "cohorts")
    book.sources({"clinic": "table"})
    book.cohort("tiny", source="clinic", generators={"gaussian_copula": {"calibration_steps": 0}, "independent": {}})
    store(Lake(Home(root / "home").ensure()), made_up(), {"cohort": "tiny", "month": MONTH})
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}
    ours = {
        "COHORTLOOM_HOME": str(root / "home"),
        "COHORTLOOM_COHORTS": str(root / "cohorts"),
        "COHORTLOOM_SPLIT_KEY": PUBLISHED_KEY.decode(),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COHORTLOOM, "tune", *arguments],
            env={**kept, **ours},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run


def test_a_search_ends_with_a_table_and_the_next_step(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = cohortloom("tiny", "-g", "gaussian_copula", "--trials", "3", "--only", "shrinkage")
    assert done.returncode == 0, done.stderr
    assert "Best of 3 trials" in done.stdout
    assert "shrinkage=" in done.stdout
    assert "settings as they are: " in done.stdout
    assert "trial 3 of 3: " in done.stderr
    assert "write `tuning: {gaussian_copula: {}}` into" in done.stderr
    assert "cohortloom run tiny --month 2026-10 --generator gaussian_copula --from model" in done.stderr

    more = cohortloom("tiny", "-g", "gaussian_copula", "--trials", "4", "--only", "shrinkage", "--json")
    told = json.loads(more.stdout)
    assert (told["rows"], told["wanted"], told["trials"]["complete"]) == (4, 4, 4)
    assert [line for line in more.stderr.splitlines() if line.startswith("trial ")] == [
        line for line in more.stderr.splitlines() if line.startswith("trial 4 of 4")
    ], "three of them were there"
    assert np.isfinite(told["best"]["value"])


def test_mistakes_are_said_in_one_sentence(
    cohortloom: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """One before the run, and one from within it."""
    for arguments, words in (
        (("tiny", "-g", "independent"), "'independent' has nothing to tune"),
        (("tiny", "-g", "gaussian_copula", "--grid", "nothing"), "There is no such study"),
    ):
        done = cohortloom(*arguments)
        assert done.returncode != 0
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
        assert words in errors[0]


def test_what_is_asked_is_checked_before_the_run(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from assets.cli.tune import tune

    book = Book(tmp_path / "cohorts")
    book.sources({"clinic": "table"})
    book.cohort("tiny", source="clinic", generators={"gaussian_copula": {}})
    monkeypatch.setenv("COHORTLOOM_COHORTS", str(book.folder))
    for cohort, generator, month, words in (
        ("tinny", "gaussian_copula", None, "Did you mean 'tiny'"),
        ("tiny", "vae", None, "does not enable 'vae'"),
        ("tiny", "gaussian_copula", None, "has no features"),
        ("tiny", "gaussian_copula", "2026-09", "has no features for 2026-09"),
    ):
        with pytest.raises(CohortLoomError, match=words):
            tune(cohort, generator, month=month)
