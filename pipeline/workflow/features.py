"""The inputs and the feature table of a cell on the lake. How features are built: `features/build.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.features.build import Built, CohortInputs, build_features, gather_inputs, write_features
from pipeline.features.split import split_key

if TYPE_CHECKING:
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute

ONE_THREAD = 1
"""Of the cohort's SQL: sums of floats differ in their last bits when several threads add them up."""


def gather_step(lake: Lake, cell: Cell, *, new_split: bool = False, run_id: str = "") -> tuple[Version, CohortInputs]:
    """Write which deliveries count for the cell, with the hashes of its SQL and columns, into `cohort_inputs`.

    The version's hash changes only when one of these does: not with the deliveries of other sources, not with the
    settings of generators, and not when the month stops being provisional.

    Args:
        lake: The lake.
        cell: Cohort and month.
        new_split: Accept a split key other than the one that the cohort was built with.
        run_id: The run.
    """
    inputs = gather_inputs(cell.spec, cell.source, cell.month, lake, lake.home, new_split=new_split)
    identity = {k: v for k, v in inputs.to_dict().items() if k != "provisional"}
    raw = {f"raw/{cell.source.format}/delivery={key}": sha256 for key, sha256, _ in inputs.deliveries}
    with lake.tables.draft("cohort_inputs", cell.partition) as draft:
        return draft.commit(inputs=raw, info={"inputs": identity}, run_id=run_id), inputs


def features_step(lake: Lake, cell: Cell, compute: Compute, *, run_id: str = "") -> tuple[Version, Built]:
    """Build the feature table of the cell from exactly the deliveries that `cohort_inputs` names, into `features`.

    Raises:
        NotFoundError: `cohort_inputs` was not made for the cell.
    """
    gathered = lake.tables.resolve("cohort_inputs", cell.partition)
    inputs = CohortInputs.from_dict({**gathered.info["inputs"], "provisional": False})
    key = split_key(cell.source, lake.home)
    built = build_features(
        cell.spec, cell.source, inputs, lake, key, threads=ONE_THREAD, memory_limit=compute.memory_limit
    )
    info = {"counts": built.counts, "split_fingerprint": inputs.split_fingerprint}
    with lake.tables.draft("features", cell.partition) as draft:
        write_features(built, draft)
        return draft.commit(inputs={gathered.label: gathered.sha256}, info=info, run_id=run_id), built
