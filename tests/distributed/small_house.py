"""A home with one tiny cohort, and the command line as a user runs it, for the tests that start several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.store.home import Home
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Mapping

COHORTLOOM = Path(sys.executable).with_name("cohortloom")
COHORT = """\
title: A tiny cohort
source: clinic
unit: row
subject: row
sql: tiny.sql
columns:
  age: {kind: continuous}
  sex: {kind: binary, role: protected}
  died: {kind: binary, role: label}
tasks: [{name: mortality, label: died}]
protected: [sex]
evaluation: {profile: quick}
generators: {independent: {}, gaussian_copula: {preset: quick}, vae: {preset: quick}}
"""


class House:
    """A home, its cohorts, and commands in it."""

    def __init__(self, root: Path, **environment: str) -> None:
        self.root, self.cohorts = root / "home", root / "cohorts"
        self.cohorts.mkdir(parents=True)
        (self.cohorts / "sources.yaml").write_text(
            "clinic: {format: table, dates: none, split_key: published, description: made up}\n"
        )
        (self.cohorts / "tiny.yaml").write_text(COHORT)
        (self.cohorts / "tiny.sql").write_text("SELECT age, sex, lactate, died FROM visits\n")
        _visits(root / "visits.csv")
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_", "RAY_"))},
            "COHORTLOOM_HOME": str(self.root),
            "COHORTLOOM_COHORTS": str(self.cohorts),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            **environment,
        }
        self.visits = root / "visits.csv"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command and go on."""
        return subprocess.Popen(
            [COHORTLOOM, *arguments],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def well(self, *arguments: str, **environment: str) -> str:
        """Run a command that must end well; gives what it printed."""
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def deliver(self) -> None:
        """Hand over the visits."""
        self.well("deliver", "clinic", str(self.visits), "--as", "2026-10-15")

    @property
    def lake(self) -> Lake:
        """The stores of the home."""
        return Lake(Home(self.root))

    def hashes(self) -> dict[str, str]:
        """Label and content hash of all current versions; each is verified."""
        found = {}
        for store in (self.lake.tables, self.lake.models, self.lake.reports):
            for asset in store.assets():
                for partition in store.partitions(asset):
                    version = store.current(asset, partition)
                    if version is not None:
                        store.verify(version)
                        found[f"{store.root.name}/{version.label}"] = version.sha256
        return found

    def makers(self, asset: str) -> set[str]:
        """Ids of the runs that made the current versions of an asset."""
        store = self.lake.models if asset.startswith("model/") else self.lake.tables
        versions = [store.current(asset, partition) for partition in store.partitions(asset)]
        return {version.run_id for version in versions if version is not None}

    def journal(self) -> list[Mapping[str, object]]:
        """All entries of all streams of the journal."""
        journal = self.lake.journal
        return [entry for stream in journal.streams() for entry in journal.entries(stream)]


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The error that a failed command ended with, after looking that it is one and no traceback."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


def _visits(path: Path, rows: int = 240) -> None:
    rng = np.random.default_rng(0)
    age = np.round(rng.normal(60, 12, rows), 1)
    sex = rng.choice(["female", "male"], rows)
    lactate = np.round(np.exp(rng.normal(0.3 + 0.01 * (age - 60), 0.4)), 2)
    died = (rng.random(rows) < 1 / (1 + np.exp(-(lactate - 1.8) * 2))).astype(int)
    lines = ["age,sex,lactate,died", *(f"{a},{s},{v},{d}" for a, s, v, d in zip(age, sex, lactate, died, strict=True))]
    path.write_text("\n".join(lines) + "\n")
