"""Keeping house where Dagster is concerned: what the doctor sees and mends, rolling back, a restored home."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from made_up import MONTH, Book, deliver, visits

from assets.definitions import build_defs
from assets.doctor import close_open_runs, examine_dagster, lacking_settings, records_are_here
from assets.instance import CONFIGURATION, open_instance, process_tag
from assets.partitions import cohort_month_key
from assets.rollback import report_rollback
from assets.run import ingest, run_cohort
from pipeline.store.backup import back_up, restore
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow.doctor import examine, mend
from pipeline.workflow.rollback import find, roll_back

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CELL = {"cohort": "tiny", "month": MONTH}
KEY = cohort_month_key("tiny", MONTH)


@pytest.fixture
def own(home: Home, book: Book) -> Iterator[dg.DagsterInstance]:
    """The instance of the home itself."""
    with open_instance(home) as made:
        yield made


def status(instance: dg.DagsterInstance, *key: str) -> str:
    graph = build_defs().resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return resolver.get_status(dg.AssetKey(list(key)), str(KEY)).value


def test_deliveries_and_dead_runs_are_found_and_mended(home: Home, book: Book, tmp_path: Path) -> None:
    lake = Lake(home)
    assert list(examine_dagster(lake)) == []
    deliver(home, "clinic", visits(tmp_path / "in"), name="one")
    (found,) = examine_dagster(lake)
    assert "no records here, although there are 1 deliveries" in found.what
    with open_instance(home) as instance:
        assert list(examine_dagster(lake)) == []
        deliver(home, "clinic", visits(tmp_path / "in"), name="two")
        dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        job = build_defs().resolve_job_def("cohort_month")
        run_id = "0" * 8 + "-0000-4000-8000-000000000000"
        tags = {
            name: text.replace(str(os.getpid()), dead.stdout.decode().strip())
            for name, text in process_tag(run_id).items()
        }
        instance.create_run_for_job(job, run_id=run_id, status=dg.DagsterRunStatus.STARTED, tags=tags)
        living = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        found = list(examine_dagster(lake))
        assert [finding.severity for finding in found] == ["warning", "warning"]
        assert "clinic--two" in found[0].what
        assert "00000000 (cohort_month)" in found[1].what
        done, left = mend(found)
        assert left == []
        assert done == ["registered 1 deliveries with Dagster", "closed 1 runs whose process is gone"]
        assert list(examine_dagster(lake)) == []
        assert instance.get_run_by_id(living.run_id).status == dg.DagsterRunStatus.STARTED
        assert close_open_runs(instance, "restored") == [living.run_id]
        assert instance.get_run_by_id(living.run_id).status == dg.DagsterRunStatus.FAILURE


def test_a_dagster_yaml_that_lacks_settings_or_is_broken(home: Home, book: Book, own: dg.DagsterInstance) -> None:
    lake, path = Lake(home), home.dagster / "dagster.yaml"
    settings = yaml.safe_load(CONFIGURATION.read_text())
    settings["concurrency"]["runs"]["max_concurrent_runs"] = 9  # theirs to choose
    path.write_text(yaml.safe_dump(settings))
    assert list(examine_dagster(lake)) == []
    del settings["run_monitoring"]["free_slots_after_run_end_seconds"]
    settings["concurrency"]["runs"]["tag_concurrency_limits"] = []
    path.write_text(yaml.safe_dump(settings))
    (found,) = examine_dagster(lake)
    assert "run_monitoring.free_slots_after_run_end_seconds" in found.what
    assert "tag_concurrency_limits[dagster/backfill]" in found.what
    path.write_text("telemetry: [")
    (found,) = examine_dagster(lake)
    assert found.severity == "error"
    assert lacking_settings({"a": {"b": 1}}, {"a": None}) == ["a"]


def test_records_in_a_database_of_another_home_are_left_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `restore` asks before it opens them: a trial must not close the runs of the home in use."""
    assert not records_are_here(home)
    with open_instance(home):
        assert records_are_here(home)
    monkeypatch.setenv("DAGSTER_PG_URL", "postgresql://dagster@db.internal/live")
    assert not records_are_here(home)
    monkeypatch.delenv("DAGSTER_PG_URL")
    path = home.dagster / "dagster.yaml"
    path.write_text(
        path.read_text() + "\nstorage: {postgres: {postgres_url: 'postgresql://dagster@db.internal/live'}}\n"
    )
    assert not records_are_here(home), "a block of their own, beside the files of before"


def test_records_that_cannot_be_opened(home: Home, book: Book) -> None:
    with open_instance(home):
        pass
    (home.dagster / "history" / "runs.db").write_bytes(b"no database, and longer than a header of one" * 90)
    (found,) = examine_dagster(Lake(home))
    assert found.severity == "error"
    assert "cannot be opened" in found.what


@pytest.mark.slow
def test_rollback_is_told_to_dagster_and_a_backup_brings_all_of_it_back(
    home: Home, book: Book, own: dg.DagsterInstance, tmp_path: Path, few_metrics: None
) -> None:
    lake = Lake(home)
    book.cohort("tiny", source="clinic", generators={"independent": {}})
    for name, seed in (("one", 1), ("two", 2)):
        assert ingest(deliver(home, "clinic", visits(tmp_path / name, seed=seed), name=name).key, own).success
        assert run_cohort("tiny", MONTH, instance=own).success
    assert examine(lake, deep=True) == []
    first = lake.tables.history("features", CELL)[-1]
    assert status(own, "features") == status(own, "model", "independent") == "FRESH"

    store, key = find(lake, "features", ["tiny", MONTH])
    done = roll_back(lake, store, "features", key, to=None, by="Ada")
    assert report_rollback(own, done.version, "Ada")
    event = own.fetch_materializations(dg.AssetKey("features"), limit=1).records[0].asset_materialization
    assert event is not None
    assert event.partition == str(KEY)
    assert (event.tags or {})["dagster/data_version"] == first.sha256
    assert event.metadata["rolled_back_to"].value == first.version
    assert event.metadata["subjects"].value == 240
    assert status(own, "model", "independent") == "STALE"
    assert status(own, "features") == "STALE", "cohort_inputs knows a later delivery than these features were made from"
    back = roll_back(lake, store, "features", key, to=lake.tables.history("features", CELL)[0].version, by="Ada")
    report_rollback(own, back.version, "Ada")
    assert status(own, "features") == status(own, "model", "independent") == "FRESH"

    archive = back_up(lake, tmp_path / "b.tar").path
    again = Home(tmp_path / "again")
    restore(archive, again)
    restored = Lake(again)
    with open_instance(again) as instance:
        assert status(instance, "leaderboard") == status(own, "leaderboard")
        assert instance.get_materialized_partitions(dg.AssetKey("leaderboard")) == {str(KEY)}
        assert {"clinic--one", "clinic--two"} <= set(instance.get_dynamic_partitions("delivery"))
    assert [*examine(restored, deep=True), *examine_dagster(restored)] == []
    for store_name in ("tables", "models", "reports"):
        before, after = getattr(lake, store_name), getattr(restored, store_name)
        assert after.assets() == before.assets()
        for asset in before.assets():
            for partition in before.partitions(asset):
                assert after.current(asset, partition) == before.current(asset, partition)
    board = restored.tables.read(restored.tables.resolve("leaderboard", CELL)).to_pylist()
    assert "independent" in {row["key"] for row in board}
