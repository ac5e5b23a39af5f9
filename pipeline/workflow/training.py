"""Training a cell's generators and drawing from them: models and synthetic rows on the lake, or a status record.

A generator that is not enabled, refuses the schema or raises leaves a version that says so and holds nothing else, so
an earlier good one does not stay current behind a failed rerun. What fails for another reason than the generator (the
store, no memory) is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.errors import StoreError
from pipeline.features.cohort import Cohort
from pipeline.features.schema_union import united
from pipeline.features.split import load_key
from pipeline.features.stored import read_features, write_cohort
from pipeline.features.visits import stacked_events
from pipeline.generators.memory import out_of_memory
from pipeline.generators.replicates import PREFIX
from pipeline.privacy.composition import INFINITE
from pipeline.privacy.secrets import training_key
from pipeline.store.disk import full_disk
from pipeline.store.hashing import canonical_json
from pipeline.workflow.ledger import REPLICATES, entered, model_hash, privacy_info, spent_of, training_of
from pipeline.workflow.portraits import PORTRAITS, write_portraits
from pipeline.workflow.record import OK, Record
from pipeline.workflow.resuming import kept_state
from pipeline.workflow.settings import drawing_settings, model_settings
from pipeline.workflow.tuned import tuned_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.generators.base import FitReport, Progress
    from pipeline.privacy.ledger import Training
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute

T = TypeVar("T")
CANDIDATE = 0
"""The replicate that would be published."""


@dataclass(frozen=True)
class Made:
    """What a step left in the lake.

    Attributes:
        version: The committed version.
        record: How it ended.
        reports: Of a training: one report a replicate.
        seconds: Of a training: wall time of all replicates.
    """

    version: Version
    record: Record
    reports: list[FitReport] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Wall time of all trainings."""
        return sum(report.seconds for report in self.reports)


def attempted(lake: Lake, work: Callable[[], T]) -> tuple[Record, T | None]:
    """Do what a generator may fail at; gives how it ended and what it gave.

    Raises:
        StoreError, MemoryError: the machine failed (disk, memory), not the generator.
    """
    try:
        return OK, work()
    except StoreError:
        raise
    except Exception as error:
        if out_of_memory(error) or full_disk(error, str(lake.home.root)) is not None:
            raise
        return Record.of_error(error, hide={str(lake.home.root): "COHORTLOOM_HOME"}), None


def fit_step(
    lake: Lake,
    cell: Cell,
    generator: str,
    compute: Compute,
    *,
    overrides: Mapping[str, Any] | None = None,
    run_id: str = "",
    progress: Progress | None = None,
) -> Made:
    """Train the replicates of a generator on the cell's training rows into `model/<generator>`.

    Files: `replicates/replicate-<k>/` (the models), `fit.json` (what the trainings reported, without times),
    `portraits/` (what the candidate shows of itself, where the generator has such). What it
    costs is held in the privacy ledger before the first gradient, and settled after the model is stored. One that was
    killed goes on where it was.

    Raises:
        NotFoundError: the cell has no features.
        StoreError: the store fails, or the privacy ledger is broken.
    """
    features = lake.tables.resolve("features", cell.partition)
    given = dict(overrides or {})
    settings = model_settings(cell.spec, generator)
    info = {"generator": generator, "settings": settings, "overrides": given}
    asset = f"model/{generator}"
    inputs = {features.label: features.sha256}
    if settings is None:
        record = Record("not_enabled", f"'{cell.cohort}' does not enable '{generator}'.")
        return _status(lake.models.draft(asset, cell.partition), record, info, inputs, run_id)
    record, tuned = attempted(lake, lambda: tuned_settings(lake, cell, generator))
    if tuned is None:
        return _status(lake.models.draft(asset, cell.partition), record, info, inputs, run_id)
    inputs, info, applied = inputs | tuned.inputs, info | tuned.info, {**tuned.settings, **given}
    train = read_whole(lake, features).part("train")

    def train_all() -> Made:
        training = training_of(cell, generator, features, applied, compute)
        with (
            entered(lake, cell, training) as held,
            kept_state(lake.home, training) as state,
            lake.models.draft(asset, cell.partition) as draft,
        ):
            folder = draft.folder(REPLICATES)
            reports = fit_cell(lake, cell, training, train, folder, compute, applied, progress=progress, state=state)
            write_portraits(folder / f"{PREFIX}{CANDIDATE}", draft.folder(PORTRAITS))
            model, spent = model_hash(folder), spent_of(training, reports)
            held.confirm(model, spent)
            draft.file("fit.json").write_text(canonical_json([_facts(r) for r in reports]) + "\n", encoding="utf-8")
            facts = {**OK.to_info(), "rows": train.n_rows, "privacy": privacy_info(training, spent)}
            version = draft.commit(inputs=inputs, info={**info, **facts}, run_id=run_id)
        held.complete(model, spent)
        return Made(version, OK, reports)

    record, made = attempted(lake, train_all)
    return made or _status(lake.models.draft(asset, cell.partition), record, info, inputs, run_id)


def fit_cell(
    lake: Lake,
    cell: Cell,
    training: Training,
    train: Cohort,
    folder: Path,
    compute: Compute,
    settings: Mapping[str, Any],
    *,
    progress: Progress | None = None,
    state: Path | None = None,
) -> list[FitReport]:
    """Train the replicates that a training entered in the ledger is about, into a folder.

    Args:
        lake: Where the house's key lies, from which the noise of a private training comes.
        cell: Cohort and month; its seeds, rules and what it asks of privacy.
        training: As it was entered.
        train: The training rows.
        folder: Where the replicates go; must exist.
        compute: Device.
        settings: Over those of the cohort's file.
        progress: Called with (steps done, steps in all, losses).
        state: Where a training that may be killed keeps its state.
    """
    from pipeline.generators.replicates import fit_replicates

    key = training_key(load_key(lake.home), training.identity) if training.asked.finite else None
    return fit_replicates(
        training.generator,
        {**cell.spec.generators[training.generator], **settings},
        train,
        seeds=cell.seeds(training.generator, "fit"),
        folder=folder,
        device=compute.device,
        privacy=cell.spec.privacy.trainings.get(training.generator),
        progress=progress,
        checkpoint=state,
        noise_key=key,
        constraints=cell.spec.constraints,
    )


def sample_step(lake: Lake, cell: Cell, generator: str, *, run_id: str = "") -> Made:
    """Draw as many synthetic rows as there are training rows from every replicate into `synthetic/<generator>`.

    The rows are in exactly the real schema; `_replicate` and `_draw` stand beside them. Where the cohort's file asks for
    fairness they are drawn under it, and `info["fairness"]` says what became of it; of a private model only its own rows
    are looked at for that.

    Raises:
        NotFoundError: the cell has no model of this generator, or no features.
        StoreError: the model's files are not what was trained.
    """
    from pipeline.generators.replicates import sample_replicates

    features = lake.tables.resolve("features", cell.partition)
    model = lake.models.resolve(f"model/{generator}", cell.partition)
    info: dict[str, Any] = {"generator": generator, "settings": drawing_settings(cell.spec, generator)}
    asset, inputs = f"synthetic/{generator}", {model.label: model.sha256}
    record = carried(model, {features.label: features.sha256})
    if not record.ok:
        return _status(lake.tables.draft(asset, cell.partition), record, info, inputs, run_id)
    lake.models.verify(model)  # else rows of another model would be drawn, and judged, under this one's name
    replicates = lake.models.path(model, REPLICATES)

    def draw() -> tuple[list[Cohort], dict[str, Any]]:
        seeds = cell.seeds(generator, "sample")[: model.info["settings"]["replicates"]]
        asked = cell.spec.fairness_of(generator)
        if asked is not None:
            from pipeline.fairness.sampling import fair_replicates

            # What is promised of a private model holds for rows that are chosen by a look at its own rows alone.
            private = model.info.get("privacy", {}).get("epsilon") != INFINITE
            training = None if private else read_whole(lake, features).part("train")
            rules = cell.spec.constraints
            drawn, counts, info["fairness"] = fair_replicates(
                replicates, model.info["rows"], seeds=seeds, fairness=asked, constraints=rules, training=training
            )
            return drawn, counts
        return sample_replicates(replicates, model.info["rows"], seeds=seeds, constraints=cell.spec.constraints)

    record, drawn = attempted(lake, draw)
    if drawn is None:
        return _status(lake.tables.draft(asset, cell.partition), record, info, inputs, run_id)
    cohorts, counts = drawn
    with lake.tables.draft(asset, cell.partition) as draft:
        write_cohort(together(cohorts), draft, extra=_beside(cohorts))
        rows = sum(c.n_rows for c in cohorts)
        info |= {**record.to_info(), "rows": rows, "replicates": len(cohorts), "counts": counts}
        return Made(draft.commit(inputs=inputs, info=info, run_id=run_id), record)


def synthetic_replicates(lake: Lake, version: Version) -> list[Cohort]:
    """The synthetic cohorts of a version, one a replicate, in order."""
    from pipeline.features.stored import read_beside

    whole = read_whole(lake, version)
    beside = read_beside(lake.tables.folder(version))
    replicate = beside.column("_replicate").to_numpy()
    return [whole.take(replicate == k) for k in np.unique(replicate)]


def read_whole(lake: Lake, version: Version) -> Cohort:
    """A stored cohort, after checking that its files are what was committed; raises `StoreError` if they are not.

    The structural checks of a run say the same, but only in the run that made it.
    """
    lake.tables.verify(version)
    return read_features(lake.tables, version)


def together(cohorts: Sequence[Cohort]) -> Cohort:
    """Cohorts of one table, one after the other; replicates of a private training may differ in what they found.

    Raises:
        ConfigError: there is none, or they are not of one table.
    """
    import pyarrow as pa
    from scipy.sparse import vstack

    schema = united([c.schema for c in cohorts])
    return Cohort(
        table=pa.concat_tables([c.table.cast(schema.arrow()) for c in cohorts]),
        schema=schema,
        subject=np.concatenate([c.subject for c in cohorts]),
        blocks={name: vstack([c.blocks[name] for c in cohorts], format="csr") for name in cohorts[0].blocks},
        events=stacked_events([c.events for c in cohorts if c.events is not None], [c.n_rows for c in cohorts])
        if schema.events is not None
        else None,
    )


def _beside(cohorts: Sequence[Cohort]) -> dict[str, Any]:
    import pyarrow as pa

    replicate = np.repeat(np.arange(len(cohorts), dtype=np.int32), [c.n_rows for c in cohorts])
    return {"_replicate": pa.array(replicate), "_draw": pa.array(np.zeros(len(replicate), dtype=np.int32))}


def carried(upstream: Version, made_of: Mapping[str, str]) -> Record:
    """The record that a step takes over from the one before it; failed if that was made of other inputs.

    Args:
        upstream: What the step works on.
        made_of: Label to sha256 of what `upstream` must have been made from.
    """
    record = Record.of(upstream)
    if record.ok and any(upstream.inputs.get(label) != sha256 for label, sha256 in made_of.items()):
        names = ", ".join(label.split("/cohort=")[0] for label in made_of)
        return Record("failed", f"{upstream.asset} was made from another version of {names}; make it again first.")
    return record


def _status(drafting: Any, record: Record, info: Mapping[str, Any], inputs: Mapping[str, str], run_id: str) -> Made:
    """Commit a version that holds the record and no file."""
    with drafting as draft:
        return Made(draft.commit(inputs=inputs, info={**info, **record.to_info()}, run_id=run_id), record)


def _facts(report: FitReport) -> dict[str, Any]:
    """A report without its wall time: times are never part of a version."""
    return {
        "rows": report.rows,
        "parameters": report.parameters,
        "losses": report.losses,
        "health": report.health,
        "warnings": report.warnings,
        "privacy": report.privacy,
    }
