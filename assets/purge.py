"""Taking away old run records without losing what Dagster knows: `retention` in dagster.yaml prunes ticks only.

Deleting a run deletes its materialisations, so these runs stay, however old: the latest materialisation of each
partition, the runs that these took their inputs from (else they would look stale), the latest attempt of a partition
that failed, the latest evaluation of each check and partition, and every run that is not finished.
"""

import contextlib
import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.definitions.data_version import extract_data_provenance_from_entry
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
_EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
_AT_ONCE = 500


@dataclass(frozen=True)
class OldRuns:
    """Finished runs older than the limit.

    Attributes:
        removable: Ids of those that nothing needs any more.
        needed: How many stay because a partition or check would forget its state.
    """

    removable: list[str]
    needed: int


def old_runs(instance: dg.DagsterInstance, older_than: dt.timedelta) -> OldRuns:
    """Which runs could go. Changes nothing."""
    cutoff = dt.datetime.now(dt.UTC) - older_than
    records = instance.get_run_records(filters=dg.RunsFilter(statuses=FINISHED, created_before=cutoff))
    ended = [record for record in records if (record.end_time or 0) < cutoff.timestamp()]
    if not ended:
        return OldRuns([], 0)
    needed = {run for key in instance.all_asset_keys() for run in _needed(instance, key)}
    checks = _CheckRuns(instance)
    removable = []
    for record in ended:
        run_id = record.dagster_run.run_id
        if run_id not in needed and not checks.latest_in(run_id):
            removable.append(run_id)
    return OldRuns(removable, len(ended) - len(removable))


def purge(instance: dg.DagsterInstance, older_than: dt.timedelta) -> OldRuns:
    """Delete the records, events and captured logs of the runs that `old_runs` names, and give them."""
    found = old_runs(instance, older_than)
    for run_id in found.removable:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        _remove_file(instance, run_id)
    return found


def _needed(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterable[str]:
    """Runs without which Dagster would take a partition of this asset for missing, stale or never tried."""
    storage = instance.event_log_storage
    latest = storage.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    records = _materializations(instance, key, list(latest.values()))
    records += instance.fetch_materializations(key, limit=1).records  # of an asset without partitions
    inputs: dict[dg.AssetKey, set[int]] = {}
    for record in records:
        yield record.run_id
        provenance = extract_data_provenance_from_entry(record.event_log_entry)
        for upstream, storage_id in (provenance.input_storage_ids if provenance else {}).items():
            if storage_id is not None:
                inputs.setdefault(upstream, set()).add(storage_id)
    for upstream, storage_ids in inputs.items():
        for record in _materializations(instance, upstream, sorted(storage_ids)):
            yield record.run_id
    attempts = storage.get_latest_asset_partition_materialization_attempts_without_materializations(key)
    for run_id, _ in attempts.values():
        yield run_id


def _materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, storage_ids: list[int]
) -> list[dg.EventLogRecord]:
    found: list[dg.EventLogRecord] = []
    for start in range(0, len(storage_ids), _AT_ONCE):
        some = storage_ids[start : start + _AT_ONCE]
        records = dg.AssetRecordsFilter(key, storage_ids=some)
        found += instance.fetch_materializations(records, limit=len(some)).records
    return found


class _CheckRuns:
    """Remembers which run evaluated a check last."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._latest: dict[tuple[dg.AssetCheckKey, str | None], str] = {}

    def latest_in(self, run_id: str) -> bool:
        """Does the run hold the latest evaluation of some check of some partition?"""
        for entry in self._instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            if entry.dagster_event is not None:
                evaluation = entry.dagster_event.asset_check_evaluation_data
                if self._run_of(evaluation.asset_check_key, evaluation.partition) == run_id:
                    return True
        return False

    def _run_of(self, key: dg.AssetCheckKey, partition: str | None) -> str:
        if (key, partition) not in self._latest:
            found = self._instance.event_log_storage.get_asset_check_execution_history(
                key, limit=1, status=_EVALUATED, partition_filter=PartitionKeyFilter(key=partition)
            )
            self._latest[key, partition] = found[0].run_id if found else ""
        return self._latest[key, partition]


def _remove_file(instance: dg.DagsterInstance, run_id: str) -> None:
    """SQLite keeps a file a run, which `delete_run` only empties."""
    storage = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        path = Path(storage.path_for_shard(run_id))
        for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            with contextlib.suppress(FileNotFoundError):
                file.unlink()
