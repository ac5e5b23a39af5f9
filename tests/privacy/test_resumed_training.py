"""A run that is killed in a training, started again: it goes on where it was, and the ledger counts one training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ledger_lab import cell, enlist, features, fit

from pipeline.errors import TrainingError
from pipeline.privacy.ledger import Ledger
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow.compute import Compute
from pipeline.workflow.housekeeping import collect_garbage
from pipeline.workflow.ledger import training_of
from pipeline.workflow.resuming import kept_state, states_left

if TYPE_CHECKING:
    from pipeline.privacy.ledger import Training
    from pipeline.workflow.cell import Cell

SMALL = {"preset": "quick", "epochs": 6, "patience": 0}
KILLED = """
import os, signal, sys
from itertools import count
from ledger_lab import cell
from pipeline.generators import training
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow.compute import Compute
from pipeline.workflow.training import fit_step

training.monotonic = count(0, 3600).__next__  # an hour passes between two looks at the clock
seen = []

def progress(done, total, entry):
    seen.append(done)
    if len(seen) == 9:  # in the second replicate
        os.kill(os.getpid(), signal.SIGKILL)

fit_step(Lake(Home.from_environment()), cell(vae={settings}, replicates=2), "vae", Compute(device="cpu"), progress=progress)
"""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    enlist()
    return Lake(Home(tmp_path / "home").ensure())


def trained(lake: Lake, where: Cell) -> dict[str, str]:
    """Hashes of the replicates' files after another training."""
    version = fit(lake, where, "vae").version
    return {f.file: f.sha256 for f in version.files.values() if f.file.startswith("replicates/")}


def test_a_killed_run_goes_on_and_is_entered_once(lake: Lake, tmp_path: Path) -> None:
    features(lake)
    where = cell(vae=SMALL, replicates=2)
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here.parents[1]), str(here)])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.replace("{settings}", repr(SMALL))],
        env={**os.environ, "PYTHONPATH": path, "COHORTLOOM_HOME": str(lake.home.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = states_left(lake.home)
    assert sorted(p.name for p in left.iterdir()) == ["replicate-0", "replicate-1"]
    (spend,) = Ledger(lake.journal, "lab").spends()
    assert spend.state == "open"

    resumed = trained(lake, where)
    assert states_left(lake.home) == []
    (spend,) = Ledger(lake.journal, "lab").spends()
    assert (spend.state, spend.models) == ("complete", 1)

    whole = Lake(Home(tmp_path / "other").ensure())
    features(whole)
    assert trained(whole, where) == resumed


def diverge(lake: Lake, training: Training) -> None:
    """A training that keeps something and fails."""
    with kept_state(lake.home, training) as state:
        assert state is not None
        (state / "replicate-0").mkdir()
        with kept_state(lake.home, training) as second:
            assert second is None, "two processes at one training would write over each other"
        raise TrainingError("It diverged.")


def test_nothing_is_left_of_a_training_that_ended(lake: Lake) -> None:
    features(lake)
    training = training_of(cell(vae=SMALL), "vae", lake.tables.resolve("features", cell().partition), {}, Compute())
    with pytest.raises(TrainingError):
        diverge(lake, training)
    assert states_left(lake.home) == []


def test_private_trainings_and_those_without_a_state_keep_nothing(lake: Lake) -> None:
    features(lake)
    version = lake.tables.resolve("features", cell().partition)
    for where, name in ((cell(), "spends"), (cell(asked=None, independent={}), "independent")):
        with kept_state(lake.home, training_of(where, name, version, {}, Compute())) as state:
            assert state is None
    assert states_left(lake.home) == []


def test_what_nobody_comes_back_for_is_collected(lake: Lake) -> None:
    (lake.home.root / ".tmp-training-0123").mkdir()
    features(lake)
    training = training_of(cell(vae=SMALL), "vae", lake.tables.resolve("features", cell().partition), {}, Compute())
    with kept_state(lake.home, training) as running:
        collect_garbage(lake, keep=1, grace_seconds=0)
        assert states_left(lake.home) == [running]
