"""Where a cell's training keeps its state while it runs, so that a killed run goes on when it is started again.

The folder lives as long as the reservation in the privacy ledger: it is removed when the training ends, well or not,
and only a process that was killed leaves both behind. The same training finds its own again; what nobody comes back
for is collected like other litter. A training with differential privacy keeps nothing: it starts anew with the same
key, which gives the same bytes and is charged once.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.generators.registry import generator_class
from pipeline.store.disk import hold, make_folders, release, remove, storage_errors
from pipeline.store.keys import DRAFT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.privacy.ledger import Training
    from pipeline.store.home import Home

STATE = f"{DRAFT}training-"
"""Beginning of the folders' names, directly below COHORTLOOM_HOME."""


@contextmanager
def kept_state(home: Home, training: Training) -> Iterator[Path | None]:
    """The folder for the state of a training, locked while its process lives.

    None where there is nothing to keep: the generator does not resume, the training is private, or another process is
    at the same training now.

    Args:
        home: COHORTLOOM_HOME.
        training: The training, as the ledger knows it.

    Raises:
        StoreError: the folder cannot be made or removed.
    """
    if training.asked.finite or not generator_class(training.generator).resumes:
        yield None
        return
    folder = home.root / f"{STATE}{training.identity[:32]}"
    with storage_errors(folder.name):
        make_folders(folder)
        lock = hold(folder)
    if lock is None:
        yield None
        return
    try:
        os.utime(folder)  # to the collector it is new again
        yield folder
    finally:
        with storage_errors(folder.name):
            remove(folder)
        release(lock)


def states_left(home: Home) -> list[Path]:
    """Folders of trainings that run or were killed."""
    return sorted(home.root.glob(f"{STATE}*"))
