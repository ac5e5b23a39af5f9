"""Dagster's own folder: made ready, opened, and brought back in line with the lake.

The lake is the truth. Whatever Dagster knows of it (delivery keys, runs that a killed process left open) is restored
at every start, so deleting COHORTLOOM_HOME/dagster loses history but no delivery.
"""

import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.tags import GRPC_INFO_TAG

from assets.notices import note_failed_run
from assets.partitions import DELIVERY, cohort_month_key
from assets.postgres import settle_storage
from assets.processes import alive, process_name
from pipeline.errors import StoreError
from pipeline.store.disk import write_over
from pipeline.store.home import Home

if TYPE_CHECKING:
    from pipeline.store.lake import Lake

CONFIGURATION = Path(__file__).resolve().parents[1] / "dagster.yaml"
PROCESS_TAG = "cohortloom/process"
GPU_POOL = "gpu"
PUBLISH_POOL = "publish"
"""Releases are published one after the other."""


def prepare_dagster_home(home: Home) -> Path:
    """Make `home.dagster` with a copy of dagster.yaml (kept if it is there), and export DAGSTER_HOME to it.

    Raises:
        StoreError: the folder cannot be written.
        ConfigError, InstanceError: Postgres is asked for (DAGSTER_PG_URL) and cannot be used.
    """
    home.ensure()
    target = home.dagster / "dagster.yaml"
    try:
        if not target.exists():
            write_over(target, CONFIGURATION.read_bytes())
        settle_storage(target)
    except OSError as error:
        raise StoreError(f"dagster.yaml cannot be written ({error.strerror}).", where=str(home.dagster)) from error
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    return home.dagster


def open_instance(home: Home) -> dg.DagsterInstance:
    """The instance of this home: deliveries registered, runs of killed commands closed, pools limited to one."""
    from pipeline.store.lake import Lake

    instance = dg.DagsterInstance.from_config(str(prepare_dagster_home(home)))
    register(instance, known_deliveries(Lake(home), home))
    close_dead_runs(instance)
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits:
        limited = {pool.name for pool in storage.get_pool_limits()}
        for name in {GPU_POOL, PUBLISH_POOL} - limited:
            storage.set_concurrency_slots(name, 1)
    return instance


def known_deliveries(lake: "Lake", home: Home) -> list[str]:
    """Keys of all deliveries that were ingested or have landed, sorted."""
    from pipeline.ingest.delivery import landed

    ingested = {p["delivery"] for a in lake.tables.assets() if a.startswith("raw/") for p in lake.tables.partitions(a)}
    return sorted(ingested | {d.key for d in landed(home)})


def register(instance: dg.DagsterInstance, keys: Iterable[str]) -> list[str]:
    """Make delivery keys known to Dagster; gives the ones that were new."""
    known = set(instance.get_dynamic_partitions(str(DELIVERY.name)))
    new = sorted(set(keys) - known)
    if new:
        instance.add_dynamic_partitions(str(DELIVERY.name), new)
    return new


def process_tag(run_id: str) -> dict[str, str]:
    """Tag of a run that is executed in this process.

    It names the run too: Dagster copies tags to a second attempt, which is executed elsewhere.
    """
    return {PROCESS_TAG: f"{run_id}:{process_name(os.getpid())}"}


def close_dead_runs(instance: dg.DagsterInstance, *, of_ui: bool = False) -> list[str]:
    """Mark runs as failed whose process on this machine is gone (killed half-way); gives their ids.

    Nobody else does, and they would hold their pool slots, keep others of the same partition waiting, and show as
    running for ever. Runs inside a command are watched by no launcher. Runs of the UI are watched by the process that
    started them, and are lost when that is killed too: Dagster's monitoring asks launchers, and the default one cannot
    say. What the UI's daemon finds failed so is tried once more (`run_retries`).

    Args:
        instance: Where the runs are.
        of_ui: Also runs of the UI, told by the socket of the server that started them. That name says neither machine
            nor container, so only the UI itself may ask: where others look, a live server's socket may not be there.
    """
    closed = []
    for run in dead_runs(instance, of_ui=of_ui):
        instance.report_run_failed(run, "The process of this run was killed; what it had committed stays.")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        note_failed_run(instance, run.run_id, Home.from_environment())
        closed.append(run.run_id)
    return closed


def dead_runs(instance: dg.DagsterInstance, *, of_ui: bool = False) -> list[dg.DagsterRun]:
    """Runs that are open although their process on this machine is gone. Changes nothing."""
    open_runs = instance.get_runs(
        filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
    )
    return [run for run in open_runs if _command_killed(run) or (of_ui and _server_gone(run))]


def _command_killed(run: dg.DagsterRun) -> bool:
    """Was the command that executed this open run killed, on this machine?"""
    owner, _, process = run.tags.get(PROCESS_TAG, "").partition(":")
    return owner == run.run_id and alive(process) is False


def _server_gone(run: dg.DagsterRun) -> bool:
    """Is the server that started this open run gone?"""
    if run.tags.get(PROCESS_TAG, "").partition(":")[0] == run.run_id:
        return False
    # A second attempt carries the address of the first one's server until it has one of its own.
    if run.status == dg.DagsterRunStatus.STARTING and run.parent_run_id is not None:
        return False
    address = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    return bool(address.get("socket")) and not _answers(address["socket"])


def _answers(path: str) -> bool:
    """Does a server listen on this socket of this machine?"""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True


def training_seconds(
    instance: dg.DagsterInstance, cohort: str, month: str, generators: Iterable[str]
) -> dict[str, float]:
    """Wall time of the newest training of each generator, where Dagster knows one.

    Times are in Dagster only: a version in the lake holds none, so that the same inputs give the same bytes.
    """
    found = {}
    for name in generators:
        key = dg.AssetKey(["model", name])
        records = dg.AssetRecordsFilter(key, asset_partitions=[str(cohort_month_key(cohort, month))])
        made = instance.fetch_materializations(records, limit=1).records
        event = made[0].asset_materialization if made else None
        value = event.metadata.get("training_seconds") if event is not None else None
        if isinstance(value, dg.FloatMetadataValue) and value.value is not None:
            found[name] = value.value
    return found
