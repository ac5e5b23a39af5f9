"""A verdict counts for its own partition only (kept as a regression: an unpartitioned check lets the last one through)."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from made_up import MONTH, Book, deliver, visits

from assets.definitions import build_defs
from assets.partitions import cohort_month_key
from assets.run import ingest
from pipeline.store.home import Home
from pipeline.store.lake import Lake, Version, VersionStore

COHORTS = ("tiny", "other")


def prepare(home: Home, instance: dg.DagsterInstance, tmp_path: Path) -> Lake:
    for source in ("clinic", "ward"):
        assert ingest(deliver(home, source, visits(tmp_path / source), name="one").key, instance).success
    return Lake(home)


def materialise(instance: dg.DagsterInstance, cohort: str, *keys: str) -> dg.ExecuteInProcessResult:
    job = build_defs().resolve_job_def("cohort_month")
    selection = [dg.AssetKey(key.split("/")) for key in keys]
    partition = cohort_month_key(cohort, MONTH)
    return job.execute_in_process(
        instance=instance, partition_key=partition, asset_selection=selection, raise_on_error=False
    )


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of `tiny` are damaged on the disk between being written and being checked."""
    honest = VersionStore.verify

    def verify(store: VersionStore, version: Version) -> None:
        if (version.asset, version.partition.get("cohort")) == ("features", "tiny"):
            damage(store, version)
        honest(store, version)

    monkeypatch.setattr(VersionStore, "verify", verify)


def damage(store: VersionStore, version: Version) -> None:
    store.path(version, "data").write_bytes(b"PAR1 this is no longer what was committed PAR1")


def test_a_structural_failure_stops_its_own_partition_only(
    home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path, spoiled: None
) -> None:
    """Nothing is trained on the damaged features, the other cohort goes on."""
    prepare(home, instance, tmp_path)
    results = {c: materialise(instance, c, "cohort_inputs", "features", "model/independent") for c in COHORTS}
    made = {c: {e.asset_key.to_user_string() for e in r.get_asset_materialization_events()} for c, r in results.items()}
    assert made["tiny"] == {"cohort_inputs", "features"}
    assert made["other"] == {"cohort_inputs", "features", "model/independent"}
    found = {c: {k.check_name: k.passed for k in r.get_asset_check_evaluations()} for c, r in results.items()}
    assert {cohort: checks["intact"] for cohort, checks in found.items()} == {"tiny": False, "other": True}


def test_automation_sees_each_partitions_own_verdict(
    home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path, spoiled: None
) -> None:
    """The damaged cohort is found out first, the good one passes last: what waits for checks runs for the good one only."""
    prepare(home, instance, tmp_path)
    defs = build_defs()
    cells = next(a for a in defs.assets or [] if a.key == dg.AssetKey("features")).partitions_def
    on = dg.AutomationCondition

    @dg.asset(
        partitions_def=cells,
        deps=[dg.AssetDep("features", partition_mapping=dg.IdentityPartitionMapping())],
        automation_condition=on.any_deps_updated() & on.all_deps_blocking_checks_passed(),
    )
    def downstream() -> None: ...

    watched = dg.Definitions(
        assets=[*(defs.assets or []), downstream], asset_checks=defs.asset_checks, resources=defs.resources
    )
    before = dg.evaluate_automation_conditions(defs=watched, instance=instance)
    assert [materialise(instance, c, "cohort_inputs", "features").success for c in COHORTS] == [False, True]
    after = dg.evaluate_automation_conditions(defs=watched, instance=instance, cursor=before.cursor)
    assert after.get_requested_partitions(dg.AssetKey("downstream")) == {str(cohort_month_key("other", MONTH))}


def test_steps_refuse_what_was_changed_behind_the_stores_back(
    home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Also in a later run, where no check of the features runs."""
    lake = prepare(home, instance, tmp_path)
    assert materialise(instance, "tiny", "cohort_inputs", "features").success
    damage(lake.tables, lake.tables.resolve("features", {"cohort": "tiny", "month": MONTH}))
    result = materialise(instance, "tiny", "model/independent")
    assert not result.success
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "sha256" in failure.step_failure_data.user_failure_data.description
