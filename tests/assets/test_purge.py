"""Old run records go, and nothing that Dagster knows of a partition or a check goes with them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.loader import LoadingContextForTest

from assets.purge import old_runs, purge

if TYPE_CHECKING:
    from collections.abc import Iterator

CELLS = dg.StaticPartitionsDefinition(["a", "b", "c"])
NOW = dt.timedelta(0)
CONTENT: dict[str, str] = {}


@dg.asset(partitions_def=CELLS, code_version="1")
def features(context) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(CONTENT.get(context.partition_key, "1")))


@dg.asset(partitions_def=CELLS, deps=[features], code_version="1")
def model(context) -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion(f"model of {CONTENT.get(context.partition_key, '1')}"))


@dg.asset(partitions_def=CELLS)
def broken() -> None:
    raise ValueError("as it should")


@dg.asset
def whole() -> None:
    """An asset without partitions."""


@dg.asset_check(asset=model, partitions_def=CELLS)
def good(context) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=context.partition_key != "b")


PARTS = [features, model, broken, whole, good]
GRAPH = dg.Definitions(assets=[features, model, broken, whole], asset_checks=[good]).resolve_asset_graph()


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        CONTENT.clear()
        yield made


def make(instance: dg.DagsterInstance, partition: str | None, *names: str) -> str:
    selection = dg.AssetSelection.assets(*names)
    return dg.materialize(
        PARTS, selection=selection, partition_key=partition, instance=instance, raise_on_error=False
    ).run_id


def seen(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the UI shows of every partition: there, stale, failed, checked."""
    resolver = CachingStaleStatusResolver(instance, GRAPH, LoadingContextForTest(instance))
    storage = instance.event_log_storage
    state: dict[str, Any] = {"whole": instance.get_latest_materialization_event(whole.key) is not None}
    failed = storage.get_latest_asset_partition_materialization_attempts_without_materializations(broken.key)
    state["failed"] = {key: run for key, (run, _) in failed.items()}
    for asset in (features, model):
        state[asset.key.to_user_string()] = sorted(instance.get_materialized_partitions(asset.key))
        for cell in CELLS.get_partition_keys():
            state[f"{asset.key.to_user_string()} {cell}"] = resolver.get_status(asset.key, cell).value
    for cell in CELLS.get_partition_keys():
        found = storage.get_latest_asset_check_execution_by_key([good.check_key], PartitionKeyFilter(key=cell))
        state[f"check {cell}"] = found[good.check_key].status.value if found else None
    return state


def test_old_runs_go_and_every_partition_keeps_its_state(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    gone = [make(instance, "a", "features", "model"), make(instance, None, "whole"), make(instance, "a", "broken")]
    kept = [make(instance, "a", "features", "model"), make(instance, None, "whole"), make(instance, "a", "broken")]
    # The model of b was made from features that were made again since, with the same content: it must not look stale.
    kept += [make(instance, "b", "features"), make(instance, "b", "model"), make(instance, "b", "features")]
    kept.append(make(instance, "c", "features", "model"))
    CONTENT["c"] = "2"
    kept.append(make(instance, "c", "features"))
    job = dg.Definitions(assets=[whole]).resolve_implicit_global_asset_job_def()
    open_run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED).run_id
    before = seen(instance)
    assert (before["model a"], before["model b"], before["model c"]) == ("FRESH", "FRESH", "STALE")
    assert (before["check a"], before["check b"]) == ("SUCCEEDED", "FAILED")
    assert before["failed"] == {"a": kept[2]}

    assert old_runs(instance, dt.timedelta(days=1)).removable == []
    found = old_runs(instance, NOW)
    assert sorted(found.removable) == sorted(gone)
    assert found.needed == len(kept)
    assert seen(instance) == before
    assert purge(instance, NOW) == found
    assert {run.run_id for run in instance.get_runs()} == {*kept, open_run}
    assert seen(instance) == before
    assert not [path for path in tmp_path.rglob("*") if any(run in path.name for run in gone)]
    assert purge(instance, NOW).removable == []


def test_the_check_of_a_later_model_run_decides(instance: dg.DagsterInstance) -> None:
    """The run with the latest evaluation stays although a later run made the asset without its checks."""
    checked = make(instance, "a", "features", "model")
    selection = dg.AssetSelection.assets("model", "features").without_checks()
    unchecked = dg.materialize(PARTS, selection=selection, partition_key="a", instance=instance).run_id
    before = seen(instance)
    assert purge(instance, NOW).removable == []
    assert {run.run_id for run in instance.get_runs()} == {checked, unchecked}
    assert seen(instance) == before


def test_an_empty_instance(instance: dg.DagsterInstance) -> None:
    assert purge(instance, NOW).removable == []
