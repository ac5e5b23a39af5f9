"""Tuning a generator of a cell: trials on the training rows into `tuning/<generator>`, or a status record.

A trial learns from the training rows that are no tuning rows and is scored on the tuning rows; no other row of the
cohort is ever handed on. The trials are kept in a study under `COHORTLOOM_HOME/studies` as they end, so a killed tuning
goes on when it is started again. Who uses the best settings is in `tuned.py`.

Looking at private rows forty times is a query on private rows: it stands in the privacy ledger before the first trial,
and is refused where models must be private.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, UnsupportedError
from pipeline.features.spec import BUILT_IN_COHORTS
from pipeline.features.tuning_spec import TuningSpec
from pipeline.generators.seeds import derive_seed
from pipeline.privacy.composition import NOT_PRIVATE
from pipeline.store.hashing import sha256_json
from pipeline.tuning.grid import GridStudy, read_grid
from pipeline.tuning.objective import VERSION, Objective
from pipeline.tuning.proposals import GridProposals, Proposals, SpaceProposals
from pipeline.tuning.spaces import including, search_space
from pipeline.tuning.study import Measured, PrunedError, Trial, TrialError, best_of, open_study
from pipeline.workflow.ledger import REPLICATES, entered, training_of
from pipeline.workflow.record import OK, Record
from pipeline.workflow.training import attempted, read_whole
from pipeline.workflow.tuned import PRESET, TUNING, is_private

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.generators.base import Generator, Progress
    from pipeline.privacy.ledger import Training
    from pipeline.store.lake import Lake, Version
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute

STUDIES = "studies"
"""Folder, beside a cohort's file, of studies that are written down."""


@dataclass(frozen=True)
class Tuning:
    """What a tuning left in the lake.

    Attributes:
        version: The committed version.
        record: How it ended.
        trials: All trials of the study, in order.
        kept: How many of them were there before.
    """

    version: Version
    record: Record
    trials: list[Trial] = field(default_factory=list)
    kept: int = 0

    @property
    def best(self) -> Trial | None:
        """The trial of least value."""
        return best_of(self.trials)


@dataclass(frozen=True)
class _Plan:
    """What a tuning does: fixed before the first trial."""

    generator: str
    kind: type[Generator]
    base: dict[str, Any]
    spec: TuningSpec
    proposals: Proposals
    title: str
    entry: Training


def tune_step(
    lake: Lake,
    cell: Cell,
    generator: str,
    compute: Compute,
    *,
    overrides: Mapping[str, Any] | None = None,
    minutes: float | None = None,
    run_id: str = "",
    told: Callable[[Trial, int, Trial | None], None] | None = None,
) -> Tuning:
    """Try settings of a generator on the cell's training rows, and commit all trials and the best.

    Args:
        lake: The lake.
        cell: The cell; its features must be there.
        generator: One that the cohort enables.
        compute: Device of the trainings.
        overrides: Fields of `TuningSpec` over those of the cohort's file.
        minutes: After so many no trial is begun; what there is then is committed.
        run_id: Recorded with the version's pointer.
        told: Called after each trial with it, how many are wanted, and the best so far.

    Raises:
        NotFoundError: the cell has no features.
        ConfigError: another process tunes the same; `overrides` are none of a tuning.
        StoreError: the store or the study fails.
    """
    features = lake.tables.resolve("features", cell.partition)
    asset, inputs = f"{TUNING}/{generator}", {features.label: features.sha256}
    info: dict[str, Any] = {"generator": generator, "source": cell.source.name}

    def status(record: Record) -> Tuning:
        with lake.tables.draft(asset, cell.partition) as draft:
            version = draft.commit(inputs=inputs, info={**info, **record.to_info()}, run_id=run_id)
        return Tuning(version, record)

    if generator not in cell.spec.generators:
        return status(Record("not_enabled", f"'{cell.cohort}' does not enable '{generator}'."))
    record, plan = attempted(lake, lambda: _plan(cell, generator, features, overrides or {}, compute))
    if plan is None:
        return status(record)
    record, objective = attempted(lake, lambda: _objective(lake, plan, features))
    if objective is None:
        return status(record)
    with open_study(
        lake.home.studies / cell.cohort / cell.month[:7], plan.entry.identity[:32], plan.proposals
    ) as study:
        # Held and settled at once: what a trial has seen is kept even if the tuning is killed.
        with entered(lake, cell, plan.entry) as held:
            held.confirm(plan.entry.identity, NOT_PRIVATE)
            held.complete(plan.entry.identity, NOT_PRIVATE)
        kept = len(study.trials())
        trials = study.run(
            lambda settings, report: _measure(lake, cell, plan, objective, compute, settings, report),
            trials=plan.spec.trials,
            seconds=None if minutes is None else 60 * minutes,
            told=told,
        )
        importance = study.importance()
    best = best_of(trials)
    if best is None:
        reasons = sorted({trial.reason for trial in trials if trial.reason})
        words = f"No trial gave rows: {reasons[0]}" if reasons else "No trial was completed in the time given."
        return status(Record("failed", words))
    info |= {**OK.to_info(), **_facts(plan, objective, trials, best), "importance": importance}
    with lake.tables.draft(asset, cell.partition) as draft:
        draft.add_table("data", trials_table(trials))
        version = draft.commit(inputs=inputs, info=info, run_id=run_id)
    return Tuning(version, OK, trials, kept)


def tuning_seed(cell: Cell, generator: str, purpose: str) -> int:
    """The seed of a purpose of a cell's tuning: every trial trains and draws with the same ones."""
    return derive_seed(cell.spec.seed, cell.cohort, cell.month, generator, TUNING, purpose)


def trials_table(trials: list[Trial]) -> pa.Table:
    """One row a trial; settings and further numbers as JSON."""
    import json

    import pyarrow as pa

    schema = pa.schema(
        [
            ("number", pa.int64()),
            ("name", pa.string()),
            ("state", pa.string()),
            ("value", pa.float64()),
            ("jsd", pa.float64()),
            ("association", pa.float64()),
            ("settings", pa.string()),
            ("facts", pa.string()),
            ("reason", pa.string()),
        ]
    )
    rows = [
        {
            "number": t.number,
            "name": t.name,
            "state": t.state,
            "value": t.value,
            "jsd": t.jsd,
            "association": t.association,
            "settings": json.dumps(t.settings, sort_keys=True),
            "facts": json.dumps(t.facts, sort_keys=True),
            "reason": t.reason,
        }
        for t in trials
    ]
    return pa.Table.from_pylist(rows, schema=schema)


# ---- before the first trial


def _plan(cell: Cell, generator: str, features: Version, overrides: Mapping[str, Any], compute: Compute) -> _Plan:
    """What is tried; raises `UnsupportedError` or `BudgetError` where nothing may be."""
    from pipeline.generators.registry import generator_class

    kind, base = generator_class(generator), dict(cell.spec.generators[generator])
    if is_private(cell.spec, generator):
        raise UnsupportedError(
            f"Models of '{generator}' must be private here, and tuning looks at the cohort's own rows without privacy.",
            todo="Tune on a cohort of public rows and name it: `tuning: {" + generator + ": {settings_from: COHORT}}`.",
        )
    spec = _asked(cell, generator, overrides)
    grid = find_grid(cell, spec.grid) if spec.grid is not None else None
    proposals = _grid_proposals(kind, base, grid) if grid is not None else _space_proposals(cell, kind, base, spec)
    training = training_of(cell, generator, features, {}, compute)
    decisive = {
        "training": training.identity,
        "objective": VERSION,
        "proposals": proposals.to_json(),
        "seeds": [tuning_seed(cell, generator, purpose) for purpose in ("fit", "draw")],
        "constraints": [c.model_dump(mode="json") for c in cell.spec.constraints],
    }
    entry = replace(
        training, identity=sha256_json(decisive), generator=f"{TUNING}/{generator}", replicates=1, asked=NOT_PRIVATE
    )
    return _Plan(generator, kind, base, spec, proposals, grid.title if grid is not None else "", entry)


def _asked(cell: Cell, generator: str, overrides: Mapping[str, Any]) -> TuningSpec:
    """The cohort's file, and over it what this run asks for."""
    from pydantic import ValidationError

    filed = cell.spec.tuning.get(generator, TuningSpec())
    given = dict(overrides)
    if "sampler" in given or "only" in given:
        given = {"grid": None, **given}  # a search that is asked for by hand takes the place of the file's grid
    if given.get("grid") is not None:
        given = {"only": [], **given}
    try:
        return TuningSpec(**{**filed.model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"Tuning: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from error


def find_grid(cell: Cell, name: str) -> GridStudy:
    """The study of a path, of a file beside the cohort's, or of a name in a folder `studies`."""
    from pathlib import Path

    given = Path(name)
    folders = [cell.spec.folder, cell.spec.folder / STUDIES, BUILT_IN_COHORTS / STUDIES]
    places = [given] if given.is_absolute() else [f / n for f in folders for n in (given, given.with_suffix(".yaml"))]
    return read_grid(next((place for place in places if place.is_file()), given))


def _grid_proposals(kind: type[Generator], base: Mapping[str, Any], grid: GridStudy) -> GridProposals:
    if grid.generator != kind.name:
        raise ConfigError(f"The study '{grid.title}' is about '{grid.generator}', not '{kind.name}'.")
    grid.check(kind.Config)
    points = grid.all_points()
    fixed = sorted({name for point in points.values() for name in point if name in base and name != PRESET})
    if fixed:
        raise ConfigError(
            f"The study varies '{fixed[0]}', and the cohort's file sets it.", todo="Take it out of `generators:`."
        )
    return GridProposals(points)


def _space_proposals(cell: Cell, kind: type[Generator], base: Mapping[str, Any], spec: TuningSpec) -> SpaceProposals:
    space = search_space(kind, pinned=set(base) - {PRESET}, only=spec.only)
    if not space:
        raise UnsupportedError(
            f"'{kind.name}' has nothing to tune"
            + (" that the cohort's file does not set." if search_space(kind) else ": no setting of it is searched."),
        )
    start = kind.Config.build(base).model_dump(mode="json")
    return SpaceProposals(including(space, start), start, spec.sampler, tuning_seed(cell, kind.name, "search"))


def _objective(lake: Lake, plan: _Plan, features: Version) -> Objective:
    """The training rows, cut; nothing else of the cohort leaves this function."""
    objective = Objective(read_whole(lake, features).part("train"))
    support = plan.kind.supports(objective.learning.schema)
    if not support.ok:
        raise UnsupportedError(f"'{plan.generator}' refuses this table: {support.reason}")
    return objective


# ---- a trial, and what is told of all


def _measure(
    lake: Lake,
    cell: Cell,
    plan: _Plan,
    objective: Objective,
    compute: Compute,
    settings: Mapping[str, Any],
    report: Progress,
) -> Measured:
    """Train, draw and score; the model lies in a draft that is never committed."""
    from pipeline.generators.replicates import fit_replicates, sample_replicates

    def try_it() -> Measured | None:
        with lake.models.draft(f"{TUNING}/{plan.generator}", cell.partition) as scratch:
            folder = scratch.folder(REPLICATES)
            try:
                (fitted,) = fit_replicates(
                    plan.generator,
                    {**plan.base, **settings},
                    objective.learning,
                    seeds=[tuning_seed(cell, plan.generator, "fit")],
                    folder=folder,
                    device=compute.device,
                    progress=report,
                    constraints=cell.spec.constraints,
                )
            except PrunedError:
                return None
            (drawn,), _ = sample_replicates(
                folder,
                objective.draws,
                seeds=[tuning_seed(cell, plan.generator, "draw")],
                constraints=cell.spec.constraints,
            )
        last = {f"loss_{name}": value for name, value in (fitted.losses[-1] if fitted.losses else {}).items()}
        return Measured(objective.score(drawn), {**fitted.health, **last})

    record, measured = attempted(lake, try_it)
    if not record.ok:
        raise TrialError(record.reason)
    if measured is None:
        raise PrunedError
    return measured


def _facts(plan: _Plan, objective: Objective, trials: list[Trial], best: Trial) -> dict[str, Any]:
    """What the version records: counts, figures, settings; no times."""
    floor = objective.floor()
    asked = plan.proposals.to_json()
    start = trials[0] if isinstance(plan.proposals, SpaceProposals) and plan.proposals.starts_as_is else None
    return {
        "study": plan.entry.identity,
        "search": asked if "space" in asked else {"sampler": "grid", "title": plan.title},
        "file_settings": plan.base,
        "wanted": plan.spec.trials if plan.proposals.most is None else plan.proposals.most,
        "trials": {s: sum(t.state == s for t in trials) for s in ("complete", "pruned", "failed")},
        "rows": {"learning": objective.learning.n_rows, "tuning": objective.tuning_rows, "drawn": objective.draws},
        "best": {
            "number": best.number,
            "name": best.name,
            "value": best.value,
            "jsd": best.jsd,
            "association": best.association,
            "settings": best.settings,
        },
        "start": None if start is None else start.value,
        "floor": floor.value,
    }
