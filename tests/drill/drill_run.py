"""A cohort-month run in a process of its own that dies, or meets a full disk, at one step: `drill_run.py ASSET POINT`.

POINT is `commit` (the step's work is done, nothing is committed), `pointer` (the files have their name, nobody points
to them) or `full` (the disk is full from the step's draft on); anything else disturbs nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

COHORT, MONTH = "tiny", "2026-10-01"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill(folder: Path) -> None:
    """Take every byte that is left, in ever smaller pieces."""
    size = 1 << 20
    with (folder / "filler").open("ab", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 4


def disturb(asset: str, point: str) -> None:
    from pipeline.store.draft import Draft
    from pipeline.store.versions import VersionStore

    commit, draft, point_to = Draft.commit, VersionStore.draft, VersionStore._point_to

    def committing(self: Draft, **given: Any) -> Any:
        if self._where.startswith(f"{asset}/cohort="):
            die()
        return commit(self, **given)

    def pointing(self: VersionStore, version: Any, *rest: Any) -> None:
        if version.asset == asset:
            die()
        point_to(self, version, *rest)

    def drafting(self: VersionStore, key: str, partition: Any) -> Any:
        if key == asset:
            fill(Path(os.environ["COHORTLOOM_HOME"]).parent)
        return draft(self, key, partition)

    if point == "commit":
        Draft.commit = committing  # type: ignore[method-assign]
    elif point == "pointer":
        VersionStore._point_to = pointing  # type: ignore[method-assign]
    elif point == "full":
        VersionStore.draft = drafting  # type: ignore[method-assign]


def main() -> None:
    asset, point = sys.argv[1:]
    from pipeline.workflow.compute import Compute

    Compute.from_environment().bind()
    disturb(asset, point)
    from assets.run import run_cohort

    outcome = run_cohort(COHORT, MONTH)
    print(outcome.reason)
    sys.exit(0 if outcome.success else 3)


if __name__ == "__main__":
    main()
