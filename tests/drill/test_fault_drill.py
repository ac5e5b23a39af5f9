"""Killed, or out of disk, in every step of a cohort-month run and then run again: the same bytes as if nothing had been.

One home is disturbed at every step in turn, each run beginning anew where the one before died; the last run is left
alone. What stands then is compared with a home in which one run was never disturbed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from drill_run import COHORT, MONTH

from pipeline.features.spec import load_book
from pipeline.privacy.ledger import Ledger
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow.cell import Cell
from pipeline.workflow.releasing import release_state

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
GENERATOR = "gaussian_copula"
STEPS = (
    "cohort_inputs",
    "features",
    "references",
    f"model/{GENERATOR}",
    f"synthetic/{GENERATOR}",
    f"evaluation/{GENERATOR}",
    "leaderboard",
    "privacy_ledger",
    "release",
)
COHORT_FILE = f"""\
title: A tiny cohort
source: clinic
unit: row
subject: row
sql: tiny.sql
columns:
  age: {{kind: continuous}}
  sex: {{kind: binary}}
  died: {{kind: binary}}
evaluation: {{profile: quick}}
generators: {{{GENERATOR}: {{}}}}
privacy: {{trainings: {{}}}}
release: {{generator: {GENERATOR}, mode: auto}}
"""
Stored = dict[str, dict[str, str]]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}
    return {
        **kept,
        "COHORTLOOM_HOME": str(home),
        "COHORTLOOM_COHORTS": os.environ["COHORTLOOM_COHORTS"],
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


def run(home: Path, asset: str = "-", point: str = "-") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("drill_run.py")), asset, point],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with one delivery, and waivers for what so few rows cannot show: the candidate will be published."""
    root = tmp_path_factory.mktemp("drill")
    cohorts, home = root / "cohorts", root / "home"
    cohorts.mkdir()
    (cohorts / "sources.yaml").write_text("clinic: {format: table, dates: none, split_key: published}\n")
    (cohorts / "tiny.yaml").write_text(COHORT_FILE)
    (cohorts / "tiny.sql").write_text("SELECT age, sex, lactate, died FROM visits\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COHORTLOOM_COHORTS", str(cohorts))
        hand_over_visits(root, home)
        scout = root / "scout"
        shutil.copytree(home, scout)
        first = run(scout)
        assert first.returncode == 0, first.stderr[-2000:]
        state = release_state(Lake(Home(scout)), Cell.of(load_book(), COHORT, MONTH))
        assert state.verdict is not None
        for rule in state.verdict.rules:
            if rule.status in ("fail", "underpowered"):
                words = {"role": "privacy_officer", "name": "Ada", "words": "so few rows", "user": "drill"}
                entry = {"kind": "waive", "month": MONTH, "seal": state.seal, "rule": rule.name, "until": "2126-01-01"}
                Lake(Home(home)).journal.append(f"release/{COHORT}", {**entry, **words})
        yield home


def hand_over_visits(root: Path, home: Path) -> None:
    from datetime import date

    from pipeline.ingest.delivery import hand_over
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.deliveries import take_in

    rng = np.random.default_rng(0)
    age = np.round(rng.normal(60, 12, 300), 1)
    lactate = np.round(np.exp(rng.normal(0.3 + 0.01 * (age - 60), 0.4)), 2)
    died = (rng.random(300) < 1 / (1 + np.exp(-(lactate - 1.8) * 2))).astype(int)
    lines = [
        f"{a},{'female' if i % 2 else 'male'},{v},{d}"
        for i, (a, v, d) in enumerate(zip(age, lactate, died, strict=True))
    ]
    (root / "visits.csv").write_text("\n".join(["age,sex,lactate,died", *lines]) + "\n")
    made = Home(home).ensure()
    delivery = hand_over(made, "clinic", root / "visits.csv", as_of=date(2026, 10, 31))
    take_in(Lake(made), delivery, load_book().source("clinic"), "table", Compute())


def stored(home: Path) -> Stored:
    """What every pointer of the cell leads to: label to file to the sha256 of the bytes that lie on the disk."""
    lake, found = Lake(Home(home)), {}
    for name, store in (("lake", lake.tables), ("models", lake.models), ("reports", lake.reports)):
        for asset in store.assets():
            for partition in store.partitions(asset):
                version = store.resolve(asset, partition)
                store.verify(version)
                files = {f: hashlib.sha256(store.path(version, f).read_bytes()).hexdigest() for f in version.files}
                found[f"{name}/{version.label}"] = {**files, "version": version.sha256}
    return found


def entries(home: Path) -> dict[str, list[str]]:
    """The kinds of all entries of the journal, stream by stream."""
    journal = Lake(Home(home)).journal
    return {s: sorted(str(e.get("kind", "")) for e in journal.entries(s)) for s in journal.streams()}


@pytest.fixture(scope="module")
def undisturbed(begun: Path) -> Path:
    home = begun.with_name("undisturbed")
    shutil.copytree(begun, home)
    done = run(home)
    assert done.returncode == 0, done.stderr[-2000:]
    assert release_state(Lake(Home(home)), Cell.of(load_book(), COHORT, MONTH)).state == "published"
    return home


def assert_nothing_shows(home: Path, undisturbed: Path) -> None:
    assert stored(home) == stored(undisturbed)
    assert set(stored(home)) >= {f"lake/{step}/cohort={COHORT}/month={MONTH}" for step in STEPS if "model" not in step}
    assert entries(home) == entries(undisturbed)
    spends = Ledger(Lake(Home(home)).journal, COHORT).spends()
    assert len(spends) == 1, "the training was counted more than once"


@pytest.mark.parametrize("point", ["commit", "pointer"])
def test_killed_in_every_step(begun: Path, undisturbed: Path, point: str) -> None:
    home = begun.with_name(f"killed-{point}")
    shutil.copytree(begun, home)
    for step in STEPS:
        killed = run(home, step, point)
        assert killed.returncode == -signal.SIGKILL, f"{step} was not reached: {killed.stdout} {killed.stderr[-2000:]}"
    done = run(home)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_nothing_shows(home, undisturbed)


def test_the_disk_is_full_in_every_step(begun: Path, undisturbed: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m,mode=0700", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk can be mounted by root only")
    try:
        home = disk / "home"
        shutil.copytree(begun, home)
        for step in STEPS:
            failed = run(home, step, "full")
            assert failed.returncode > 0, f"{step} did not notice that the disk is full: {failed.stdout}"
            said = f"{failed.stdout}\n{failed.stderr}".lower()
            assert "disk is full" in said, said[-2000:]
            (disk / "filler").unlink()
        done = run(home)
        assert done.returncode == 0, done.stderr[-2000:]
        assert_nothing_shows(home, undisturbed)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
