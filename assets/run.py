"""Running the graph from the command line: in this process, against this home's Dagster instance.

What is run here shows in the UI like any other run. What the steps do is in `pipeline/`; what the command line prints
is in `cli/`.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.definitions import build_defs, generators_in_use
from assets.executor import execute
from assets.instance import known_deliveries, open_instance, process_tag, register
from assets.jobs import COHORT_MONTH_JOB, RELEASE_JOB, SWEEP_JOB, TUNE_JOB, ingest_job_name
from assets.notices import asset_of, note_failed_run, reason_of
from assets.partitions import DELIVERY, cohort_month_key, months, start_month
from assets.postgres import kept_in_storage
from assets.reporting import BLOCKS_SAID
from assets.sweep import SAID as SWEEP_SAID
from assets.tuning import SAID as TUNING_SAID
from pipeline.errors import ConfigError, NotFoundError, nearest
from pipeline.features.source import SourceSpec
from pipeline.features.spec import CohortSpec, load_book
from pipeline.store.home import Home

if TYPE_CHECKING:
    from pipeline.store.lake import Lake

STAGES = ("features", "model", "synthetic", "evaluation", "release")
"""Where a run may start; each includes what comes after it."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        success: Did every step end? A generator that failed as a row does not count against it.
        run_id: In Dagster.
        failed_steps: Assets whose step failed (skipped ones are not listed).
        seconds: Wall time.
        reason: What the first failed step said; no patient data.
        assets: Asset keys that were materialised, in order.
    """

    success: bool
    run_id: str
    failed_steps: list[str] = field(default_factory=list)
    seconds: float = 0.0
    reason: str = ""
    assets: list[str] = field(default_factory=list)


def ingest(
    delivery_key: str, instance: dg.DagsterInstance | None = None, *, on_event: Progress | None = None
) -> RunOutcome:
    """Take in a delivery that has landed: its raw tables, and its events where the format has them.

    Raises:
        NotFoundError: there is no such delivery, or its source is not in sources.yaml.
    """
    from pipeline.ingest.delivery import delivery

    home = Home.from_environment().ensure()
    source = load_book().source(delivery(home, delivery_key).source)
    with nullcontext(instance) if instance is not None else open_instance(home) as chosen:
        register(chosen, [delivery_key])
        return _execute(ingest_job_name(source.format), delivery_key, None, chosen, on_event)


def run_cohort(
    cohort: str,
    month: str,
    generators: Sequence[str] | None = None,
    start_from: str | None = None,
    new_split: bool = False,
    preset: str | None = None,
    tags: Mapping[str, str] | None = None,
    instance: dg.DagsterInstance | None = None,
    on_event: Progress | None = None,
) -> RunOutcome:
    """Make a cohort of a month, up to its leaderboard and its release.

    Args:
        cohort: Name of the cohort.
        month: `YYYY-MM-01`.
        generators: Only these, which the cohort must enable; default every generator of the graph (those that the
            cohort does not enable leave their row).
        start_from: One of `STAGES`; what comes before is taken from the lake.
        new_split: Accept a split key other than the one that the cohort was built with.
        preset: Settings that every training of this run starts from, as if filled into the launchpad.
        tags: Of the run, beside the usual ones.
        instance: Dagster's instance; default this home's.
        on_event: Called with one line for each asset that is finished, and for each check that fails.

    Raises:
        NotFoundError: unknown cohort.
        ConfigError: its file is broken, the month is outside the calendar, or an unknown stage or generator.
    """
    from pipeline.store.lake import Lake

    book = load_book()
    spec = book.cohort(cohort)
    check_month(month)
    if start_from is not None and start_from not in STAGES:
        raise ConfigError(f"A run cannot start from '{start_from}'.", todo=nearest(start_from, list(STAGES)))
    if new_split and start_from not in (None, "features"):
        raise ConfigError("A new split needs new features.", todo="Leave out --from.")
    if preset is not None and start_from not in (None, "features", "model"):
        raise ConfigError("A preset needs a training.", todo="Leave out --from, or start from model.")
    for name in generators or ():
        if name not in spec.generators:
            raise ConfigError(f"Cohort '{cohort}' does not enable '{name}'.", todo=nearest(name, list(spec.generators)))
    home = Home.from_environment().ensure()
    names = sorted(set(generators)) if generators else generators_in_use(book)
    selection = _selection(Lake(home), spec, book.source(spec.source), month, names, start_from or "features")
    key = cohort_month_key(cohort, month)
    config = preset_config(selection, preset) if preset is not None else {"ops": {}}
    if new_split:
        config["ops"]["cohort_inputs"] = {"config": {"new_split": True}}
    with nullcontext(instance) if instance is not None else open_instance(home) as chosen:
        return _execute(COHORT_MONTH_JOB, key, selection, chosen, on_event, config, tags)


def assets_of(generators: Sequence[str] | None = None) -> list[dg.AssetKey]:
    """The assets of a whole cohort-month, or without those of all other generators."""
    names = sorted(set(generators)) if generators else generators_in_use(load_book())
    return _keys(names, STAGES, with_references=True)


def preset_config(assets: Iterable[dg.AssetKey], preset: str) -> dict[str, Any]:
    """Run config with which every training among `assets` starts from a preset, as the launchpad would fill it in."""
    trainings = ["__".join(key.path) for key in assets if key.path[0] == "model"]
    return {"ops": {name: {"config": {"preset": preset}} for name in trainings}}


def publish(
    cohort: str, month: str, instance: dg.DagsterInstance | None = None, *, on_event: Progress | None = None
) -> RunOutcome:
    """Publish the candidate of a cohort's month if it may be; the run succeeds also where it waits for something.

    Raises:
        ConfigError: the month is outside the calendar.
    """
    check_month(month)
    key = cohort_month_key(cohort, month)
    with nullcontext(instance) if instance is not None else open_instance(Home.from_environment().ensure()) as chosen:
        return _execute(RELEASE_JOB, key, None, chosen, on_event)


def tune(
    cohort: str,
    month: str,
    generator: str,
    asked: Mapping[str, Any],
    instance: dg.DagsterInstance | None = None,
    *,
    on_event: Progress | None = None,
) -> RunOutcome:
    """Search a generator's settings on a cohort's month, or go on where an earlier search of the same was stopped.

    Args:
        cohort: Name of the cohort.
        month: `YYYY-MM-01`.
        generator: One with something to tune.
        asked: Fields of `TuningLaunchpad`; None is as the cohort's file says.
        instance: Dagster's instance; default this home's.
        on_event: Called with one line for each trial.

    Raises:
        ConfigError: the month is outside the calendar.
    """
    return _branch(TUNE_JOB, "tuning", cohort, month, generator, asked, instance, on_event)


def sweep(
    cohort: str,
    month: str,
    generator: str,
    asked: Mapping[str, Any],
    instance: dg.DagsterInstance | None = None,
    *,
    on_event: Progress | None = None,
) -> RunOutcome:
    """Train a generator at several epsilons on a cohort's month, or go on where an earlier sweep was stopped.

    Args:
        cohort: Name of the cohort.
        month: `YYYY-MM-01`.
        generator: One that can train with differential privacy.
        asked: Fields of `SweepLaunchpad`.
        instance: Dagster's instance; default this home's.
        on_event: Called with one line for each epsilon.

    Raises:
        ConfigError: the month is outside the calendar.
    """
    return _branch(SWEEP_JOB, "sweep", cohort, month, generator, asked, instance, on_event)


def _branch(
    job: str,
    asset: str,
    cohort: str,
    month: str,
    generator: str,
    asked: Mapping[str, Any],
    instance: dg.DagsterInstance | None,
    on_event: Progress | None,
) -> RunOutcome:
    """Materialise `<asset>/<generator>` of a cell, configured with what is asked; None is left as it is."""
    check_month(month)
    config = {"ops": {f"{asset}__{generator}": {"config": {k: v for k, v in asked.items() if v is not None}}}}
    key, selection = cohort_month_key(cohort, month), [dg.AssetKey([asset, generator])]
    with nullcontext(instance) if instance is not None else open_instance(Home.from_environment().ensure()) as chosen:
        return _execute(job, key, selection, chosen, on_event, config)


def default_month(spec: CohortSpec, lake: "Lake") -> str:
    """The month of the newest delivery of the cohort's source that the lake or the landing folder has.

    Raises:
        NotFoundError: there is no delivery of this source.
    """
    return f"{max(delivery_days(spec, lake)):%Y-%m}-01"


def delivery_days(spec: CohortSpec, lake: "Lake") -> list[date]:
    """The days of all deliveries of the cohort's source that the lake or the landing folder has.

    Raises:
        NotFoundError: there is none.
    """
    from pipeline.ingest.delivery import landed

    source = load_book().source(spec.source)
    days = [d.as_of for d in landed(lake.home) if d.source == source.name]
    for partition in lake.tables.partitions(f"raw/{source.format}"):
        version = lake.tables.current(f"raw/{source.format}", partition)
        if version is not None and version.info.get("source") == source.name:
            days.append(date.fromisoformat(version.info["as_of"]))
    if not days:
        raise NotFoundError(
            f"Source '{source.name}' has no delivery yet.", todo=f"Hand one over: cohortloom deliver {source.name} PATH"
        )
    return days


def check_month(month: str) -> None:
    """Raise `ConfigError` if a month (`YYYY-MM-01`) is outside the calendar."""
    known = months().get_partition_keys()
    if month not in known:
        todo = "Set COHORTLOOM_START_MONTH to an earlier month." if month < start_month() else "It has not begun yet."
        raise ConfigError(f"The calendar goes from {known[0][:7]} to {known[-1][:7]}, without {month[:7]}.", todo=todo)


def _selection(
    lake: "Lake", spec: CohortSpec, source: SourceSpec, month: str, generators: list[str], stage: str
) -> list[dg.AssetKey]:
    """The assets of a run: the stage and what comes after it, and reference rows where they are no longer current."""
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.judging import references_current

    wanted = STAGES[STAGES.index(stage) :]
    stale = "features" in wanted or not references_current(lake, Cell(spec, source, month))
    return _keys(generators, wanted, with_references=stale)


def _keys(generators: list[str], wanted: Sequence[str], *, with_references: bool) -> list[dg.AssetKey]:
    """The assets of these stages, in the order in which they are made."""
    if wanted == ("release",):
        return [dg.AssetKey("release")]
    keys = [["cohort_inputs"], ["features"]] if "features" in wanted else []
    if with_references:
        keys.append(["references"])
    keys += [[s, name] for s in ("model", "synthetic", "evaluation") if s in wanted for name in generators]
    return [dg.AssetKey(key) for key in [*keys, ["leaderboard"], ["privacy_ledger"], ["release"]]]


def _execute(
    job: str,
    partition: str,
    selection: Iterable[dg.AssetKey] | None,
    instance: dg.DagsterInstance,
    on_event: Progress | None,
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> RunOutcome:
    """Run a job from this process; an error of a step is part of the outcome, not raised."""
    run_id = str(uuid.uuid4())
    began = time.perf_counter()
    with kept_in_storage():
        result = execute(
            build_defs().resolve_job_def(job),
            partition=partition,
            selection=list(selection) if selection is not None else None,
            instance=instance,
            run_id=run_id,
            tags={**process_tag(run_id), **(tags or {})},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(config or {})},
            listener=_listener(on_event) if on_event is not None else None,
        )
    if not result.success:
        note_failed_run(instance, run_id, Home.from_environment())
    failures = [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_FAILURE]
    made = [e.asset_key for e in result.all_events if e.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION]
    return RunOutcome(
        success=result.success,
        run_id=run_id,
        failed_steps=[asset_of(e) for e in failures],
        seconds=time.perf_counter() - began,
        reason=_blocked(result.all_events) or reason_of(failures[0]) if failures else "",
        assets=[key.to_user_string() for key in made if key is not None],
    )


def _blocked(events: Iterable[dg.DagsterEvent]) -> str:
    """What the blocking checks say that did not pass; "" where none failed."""
    found = [
        e.asset_check_evaluation_data for e in events if e.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    failed = [check for check in found if not check.passed and check.blocking]
    return " ".join(
        f"The check {check.check_name} does not pass: {check.description or ''}".strip() for check in failed
    )


def _listener(on_event: Progress) -> Callable[[dg.EventLogEntry], None]:
    """One line for each asset that is finished or failed, and for each check that does not pass."""
    started: dict[str, float] = {}

    def listen(entry: dg.EventLogEntry) -> None:
        event = entry.dagster_event
        if event is None and entry.user_message.startswith((TUNING_SAID, SWEEP_SAID)):
            on_event(entry.user_message)
        if event is None or event.step_key is None:
            return
        if event.event_type == dg.DagsterEventType.STEP_START:
            started[event.step_key] = entry.timestamp
        elif event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION and event.asset_key is not None:
            if _not_asked_for(event.step_materialization_data.materialization.metadata):
                return
            took = entry.timestamp - started.get(event.step_key, entry.timestamp)
            on_event(f"{event.asset_key.to_user_string()} ({took:.1f} s)")
            if (said := event.step_materialization_data.materialization.metadata.get(BLOCKS_SAID)) is not None:
                for line in str(said.value).splitlines():
                    on_event(f"  {line}")
        elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
            on_event(f"failed: {asset_of(event)}: {reason_of(event)}")
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and not _not_asked_for(check.metadata):
                words = f": {check.description}" if check.description else ""
                on_event(f"check {check.check_name} of {check.asset_key.to_user_string()} does not pass{words}")

    return listen


def _not_asked_for(metadata: Mapping[str, dg.MetadataValue]) -> bool:
    """Is it about a generator of the graph that this cohort does not enable? Its row of the leaderboard says so."""
    return any(metadata[name].value == "not_enabled" for name in ("status", "verdict") if name in metadata)


__all__ = [
    "DELIVERY",
    "STAGES",
    "RunOutcome",
    "default_month",
    "ingest",
    "known_deliveries",
    "publish",
    "register",
    "run_cohort",
    "sweep",
    "tune",
]
