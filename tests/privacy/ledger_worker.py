"""One process of the ledger's storm, or one that dies at a step of a training: run as a script."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ledger_lab as lab

from pipeline.store.home import Home
from pipeline.store.lake import Lake

PARALLEL = 10
PROCESSES = 4
EACH = (0.1, 1e-7)
BUDGET = (2.5, 1e-3)
SHARED = "2030-01-01"
STEPS = {
    "reserved": "pipeline.workflow.training.fit_cell",
    "trained": "pipeline.privacy.ledger.Reservation.confirm",
    "confirmed": "pipeline.store.draft.Draft.commit",
    "committed": "pipeline.privacy.ledger.Reservation.complete",
}
"""Where a training is killed: before this function is called."""


def storm(home: Home, process: int) -> dict[str, list[str]]:
    """Ten parallel trainings of this process's own, and one that all processes do at once."""
    lab.enlist()
    lake = Lake(home)
    months = [SHARED, *own_months(process)]
    cells = [lab.cell(month=month, asked=EACH, budget=BUDGET) for month in months]
    (home.root / f"ready-{process}").touch()
    while len(list(home.root.glob("ready-*"))) < PROCESSES:
        time.sleep(0.01)
    with ThreadPoolExecutor(PARALLEL + 1) as pool:
        statuses = [made.record.status for made in pool.map(lambda cell: lab.fit(lake, cell), cells)]
    return {word: [m for m, s in zip(months, statuses, strict=True) if s == word] for word in ("ok", "refused")}


def own_months(process: int) -> list[str]:
    """The months that only this process trains."""
    return [f"{2020 + process}-{number + 1:02d}-01" for number in range(PARALLEL)]


def die(home: Home, step: str) -> None:
    """Train a cell and be killed at a step."""

    def killed(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    lab.enlist()
    with patch(STEPS[step], killed):
        lab.fit(Lake(home), lab.cell(budget=(1.0, 1e-5)))


if __name__ == "__main__":
    role, root, argument = sys.argv[1:]
    if role == "storm":
        print(json.dumps(storm(Home(Path(root)), int(argument))))
    else:
        die(Home(Path(root)), argument)
