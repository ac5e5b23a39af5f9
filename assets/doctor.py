"""What only Dagster knows of the health of the house; everything else is looked over in `pipeline/workflow/doctor.py`."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.instance import (
    CONFIGURATION,
    close_dead_runs,
    dead_runs,
    known_deliveries,
    open_instance,
    register,
)
from assets.partitions import DELIVERY
from pipeline.store.inspection import Finding

if TYPE_CHECKING:
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake


def examine_dagster(lake: "Lake") -> Iterator[Finding]:
    """What is wrong between the lake and Dagster's own records. Changes nothing."""
    import yaml

    home = lake.home
    own = home.dagster / "dagster.yaml"
    deliveries = known_deliveries(lake, home)
    if not own.is_file():
        if deliveries:
            what = f"Dagster has no records here, although there are {len(deliveries)} deliveries."
            todo = "--fix, or any command that runs something. Its history of runs is gone."
            yield Finding("warning", what, str(home.dagster), todo, lambda: _make(home))
        return
    try:
        settings = yaml.safe_load(own.read_text(encoding="utf-8")) or {}
        shipped = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        yield Finding("error", "dagster.yaml is not readable as YAML.", str(own), f"Mend it, or copy {CONFIGURATION}.")
        return
    if lacking := lacking_settings(shipped, settings):
        what = f"It lacks settings of the shipped one: {', '.join(lacking)}."
        yield Finding(
            "warning", what, str(own), f"Add them from {CONFIGURATION}, or remove the file: it is copied anew."
        )
    try:
        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            yield from _records(home, instance, deliveries)
    except Exception as error:
        # SQLAlchemy, Postgres and Dagster have a class each for "cannot be opened"; all end here.
        what = f"Dagster's records cannot be opened ({type(error).__name__})."
        todo = "Is Postgres there? Else restore `dagster/` from a backup, or move it away: the lake is the truth."
        yield Finding("error", what, str(home.dagster), todo)


def lacking_settings(shipped: Any, own: Any, path: str = "") -> list[str]:
    """Dotted names of settings that the shipped file has and the home's does not; values may differ as they like."""
    if isinstance(shipped, Mapping):
        if not isinstance(own, Mapping):
            return [path]
        found = []
        for name, value in shipped.items():
            below = f"{path}.{name}".lstrip(".")
            found += lacking_settings(value, own[name], below) if name in own else [below]
        return found
    if isinstance(shipped, list):
        # Limits a tag: told apart by their key.
        have = (
            {entry.get("key") for entry in own or [] if isinstance(entry, Mapping)} if isinstance(own, list) else set()
        )
        keys = [entry["key"] for entry in shipped if isinstance(entry, Mapping) and "key" in entry]
        return [f"{path}[{key}]" for key in keys if key not in have]
    return []


def _records(home: "Home", instance: dg.DagsterInstance, deliveries: list[str]) -> Iterator[Finding]:
    known = set(instance.get_dynamic_partitions(str(DELIVERY.name)))
    missing = sorted(set(deliveries) - known)
    if missing:
        what = f"{len(missing)} deliveries are in the lake or the landing folder, but not in Dagster: {missing[0]}"
        what += ", ..." if len(missing) > 1 else "."
        todo = "--fix; any run does it too."
        yield Finding("warning", what, str(home.dagster), todo, lambda: _register(home, missing))
    dead = [f"{run.run_id[:8]} ({run.job_name})" for run in dead_runs(instance)]
    if dead:
        what = f"{len(dead)} runs are open, but their processes were killed: {', '.join(dead[:3])}"
        what += ", ..." if len(dead) > 3 else "."
        todo = "--fix closes them, and lets go of their places in pools."
        yield Finding("warning", what, str(home.dagster), todo, lambda: _close(home))


def _make(home: "Home") -> str:
    with open_instance(home):
        return f"made {home.dagster} and registered the deliveries"


def _register(home: "Home", missing: list[str]) -> str:
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        return f"registered {len(register(instance, missing))} deliveries with Dagster"


def _close(home: "Home") -> str:
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        return f"closed {len(close_dead_runs(instance))} runs whose process is gone"


def close_open_runs(instance: dg.DagsterInstance, reason: str) -> list[str]:
    """Mark every run that is open as failed, whoever started it, and give their ids: after a restore none can be alive."""
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING]
    closed = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=statuses)):
        instance.report_run_failed(run, reason)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        closed.append(run.run_id)
    return closed


def records_are_here(home: "Home") -> bool:
    """Are Dagster's records files of this home? If not, opening it may open the database of a home in use."""
    import yaml

    from assets.postgres import URL_VARIABLE

    try:
        settings = yaml.safe_load((home.dagster / "dagster.yaml").read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        settings = {}
    elsewhere = {"storage", "run_storage", "event_log_storage", "schedule_storage"} & set(settings)
    return bool(database_files(home)) and not elsewhere and not os.environ.get(URL_VARIABLE)


def database_files(home: "Home") -> list[Path]:
    """Dagster's SQLite files; empty where its records are in Postgres."""
    return sorted(home.dagster.rglob("*.db"))
