"""Many processes on one ledger, and processes that die at every step of a training: nothing is lost or counted twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import ledger_lab as lab
import ledger_worker as worker
import pytest

from pipeline.privacy.ledger import Ledger
from pipeline.store.lake import Lake
from pipeline.workflow.ledger import ledger_step

if TYPE_CHECKING:
    from pipeline.store.home import Home
    from pipeline.store.version import Version

pytestmark = pytest.mark.distributed
AFFORDABLE = 25


def start(home: Home, role: str, argument: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(worker.__file__)), role, str(home.root), argument]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_parallel_trainings_lose_no_entry_and_never_pass_the_budget(lake: Lake, home: Home) -> None:
    """41 cells at 0.1 each and a budget of 2.5: exactly 25 are trained; the one that all train at once counts once."""
    months = {worker.SHARED, *(month for p in range(worker.PROCESSES) for month in worker.own_months(p))}
    for month in months:
        lab.features(lake, month)
    outcomes = []
    for process in [start(home, "storm", str(number)) for number in range(worker.PROCESSES)]:
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        outcomes.append(json.loads(out))
    trained = {month for outcome in outcomes for month in outcome["ok"]}
    refused = {month for outcome in outcomes for month in outcome["refused"]} - trained
    assert (trained | refused, len(trained)) == (months, AFFORDABLE)

    ledger = Ledger(lake.journal, "lab")
    assert ledger.total() == (2.5, 2.5e-6)
    assert {s.training.month for s in ledger.spends()} == trained
    assert {(s.state, s.models) for s in ledger.spends()} == {("complete", 1)}
    steps = [entry["step"] for entry in lake.journal.entries("privacy/lab")]
    assert sorted(steps) == sorted(["reserve", "confirm", "complete"] * AFFORDABLE)
    stored = {m for m in months if lake.models.resolve("model/spends", {"cohort": "lab", "month": m}).files}
    assert stored == trained


@pytest.mark.parametrize("step", list(worker.STEPS))
def test_killed_at_every_step_and_run_again(lake: Lake, home: Home, tmp_path: Path, step: str) -> None:
    """The spend counts once, with a budget for exactly one; model and table are those of an undisturbed run."""
    process = start(home, "die", step)
    _, err = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL, err
    cell = lab.cell(budget=(1.0, 1e-5))
    ledger = Ledger(lake.journal, "lab")
    (open_,) = ledger.spends()
    assert (open_.state, open_.loss.epsilon) == ("open", 1.0)
    other = lab.fit(lake, lab.cell(budget=(1.0, 1e-5), seed=1))
    assert other.record.status == "refused", "what a dead run holds counts"
    if step == "committed":
        (killed,) = [v for v in lake.models.history("model/spends", cell.partition) if v.files]
        settled = ledger_step(lake, cell)
        assert [row["state"] for row in settled.rows] == ["complete"], "its model is in the store, so it is settled"
        assert made(lake, cell) == [killed.sha256, settled.version.sha256]
    found = made(lake, cell)
    assert [(s.state, s.models, s.loss.epsilon) for s in ledger.spends()] == [("complete", 1, 1.0)]

    undisturbed = Lake(type(home)(tmp_path / "undisturbed").ensure())
    lab.features(undisturbed)
    assert made(undisturbed, cell) == found


def made(lake: Lake, cell: lab.Cell) -> list[str]:
    """Train and fold; the hashes of what was made."""
    fitted = lab.fit(lake, cell)
    assert fitted.record.ok, fitted.record
    versions: list[Version] = [fitted.version, ledger_step(lake, cell).version]
    return [version.sha256 for version in versions]
