"""One generator of one cell, trained by a process of its own: what a Slurm job, a pod or a Ray worker starts.

    python -m pipeline.workflow.train_cell COHORT YYYY-MM GENERATOR [--overrides JSON] [--run-id ID]

It reads the cell's features from the lake and commits `model/<generator>` as a run in one process does: where a training
runs is a matter of deployment, the bytes are the same. It needs COHORTLOOM_HOME on storage that the run sees too, and
no Dagster. The last line on stdout is JSON. Choosing where to train is in `assets/`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.errors import CohortLoomError, ConfigError, StoreError
from pipeline.workflow.compute import Compute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.training import Made


@dataclass(frozen=True)
class Trained:
    """What a training tells those who asked for it; everything else stands in the version.

    Attributes:
        sha256: Of the committed version of `model/<generator>`.
        status: How it ended: ok, not_enabled, refused or failed.
        reason: In words, where it did not end well.
        seconds: Wall time of each replicate; times are never part of a version.
    """

    sha256: str
    status: str
    reason: str = ""
    seconds: list[float] = field(default_factory=list)


def train_cell(
    cohort: str, month: str, generator: str, *, overrides: Mapping[str, Any] | None = None, run_id: str = ""
) -> Trained:
    """Train a generator on a cell's training rows, in this process, into this home's lake.

    Args:
        cohort: Name of the cohort.
        month: First day of the month, `YYYY-MM-01`.
        generator: Standard name.
        overrides: Settings over those of the cohort's file.
        run_id: Recorded with the version's pointer.

    Raises:
        CohortLoomError: the cell has no features, the store fails, a limit is no number.
    """
    compute = Compute.from_environment()
    compute.bind()
    from pipeline.features.spec import load_book
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.training import fit_step

    cell = Cell.of(load_book(), cohort, month)
    made = fit_step(Lake(Home.from_environment()), cell, generator, compute, overrides=overrides, run_id=run_id)
    seconds = [report.seconds for report in made.reports]
    return Trained(made.version.sha256, made.record.status, made.record.reason, seconds)


def fetch_trained(lake: Lake, cell: Cell, generator: str, trained: Trained) -> Made:
    """The result of a training that another process did, as if it had been done here.

    Raises:
        StoreError: the lake does not hold what the other process says that it committed.
    """
    from pipeline.generators.base import FitReport
    from pipeline.workflow.record import Record
    from pipeline.workflow.training import Made

    version = lake.models.current(f"model/{generator}", cell.partition)
    if version is None or version.sha256 != trained.sha256:
        raise StoreError(
            f"The trained model {trained.sha256[:12]} of '{generator}' is not in this lake.",
            where=f"{cell.cohort} {cell.month[:7]}",
            todo="COHORTLOOM_HOME must be the same shared storage for the run and for the process that trains.",
        )
    record = Record.of(version)
    if not record.ok:
        return Made(version, record)
    facts = json.loads(lake.models.path(version, "fit.json").read_text(encoding="utf-8"))
    timed = zip(facts, trained.seconds, strict=True)
    return Made(version, record, [FitReport(seconds=seconds, **fact) for fact, seconds in timed])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit code: 0 if the model or the record of a refusal was committed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.workflow.train_cell", description="Train one generator.")
    parser.add_argument("cohort", help="name of the cohort")
    parser.add_argument("month", help="YYYY-MM")
    parser.add_argument("generator", help="standard name of the generator")
    parser.add_argument("--overrides", default="{}", help="settings over those of the cohort's file, as JSON")
    parser.add_argument("--run-id", default="", help="recorded with the version's pointer")
    given = parser.parse_args(arguments)
    try:
        Compute.from_environment().bind_memory()  # this process is one training and nothing else
        trained = train_cell(
            given.cohort,
            f"{given.month[:7]}-01",
            given.generator,
            overrides=_overrides(given.overrides),
            run_id=given.run_id,
        )
    except CohortLoomError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except Exception as error:
        from pipeline.generators.memory import out_of_memory
        from pipeline.workflow.record import words_of

        # The text of an unexpected error may quote a patient's values.
        words = "Out of memory" if out_of_memory(error) else "Unexpected"
        sys.stderr.write(f"error: {words}: {words_of(error)}.\n")
        return 1
    sys.stdout.write(json.dumps(asdict(trained)) + "\n")
    return 0


def _overrides(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError("The overrides are no JSON object.", todo="Write them like '{\"epochs\": 10}'.")
    return found


if __name__ == "__main__":
    sys.exit(main())
