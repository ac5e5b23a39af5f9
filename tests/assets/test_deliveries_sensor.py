"""The delivery sensor by real ticks: registers, asks once, waits, and registers again after Dagster's folder is gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from made_up import Book, deliver, visits

from assets.definitions import build_defs
from assets.run import ingest
from resources.lake import LakeResource
from resources.landing import LandingResource

if TYPE_CHECKING:
    from pipeline.store.home import Home


def tick(instance: dg.DagsterInstance) -> dg.SensorResult:
    """One evaluation as the daemon makes it, with the additions of keys carried out."""
    repository = build_defs().get_repository_def()
    context = dg.SensorEvaluationContext(
        instance_ref=instance.get_ref(),  # as the daemon gives it; `build_sensor_context` leaves it out
        last_tick_completion_time=None,
        last_run_key=None,
        cursor=None,
        repository_name=None,
        repository_def=repository,
        instance=instance,
        resources={"lake": LakeResource(), "landing": LandingResource()},
    )
    with context:
        found = repository.get_sensor_def("deliveries").evaluate_tick(context)
    for request in found.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    return found


def test_a_landed_delivery_is_registered_and_asked_for(
    home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    deliver(home, "clinic", visits(tmp_path / "in"), name="one")
    found = tick(instance)
    assert instance.get_dynamic_partitions("delivery") == ["clinic--one"]
    (request,) = found.run_requests
    assert (request.job_name, request.partition_key, request.run_key) == ("ingest_table", "clinic--one", "clinic--one")


def test_fhir_goes_to_its_own_job(home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    (tmp_path / "Patient.ndjson").write_text('{"resourceType":"Patient","id":"a"}\n')
    deliver(home, "hospital", tmp_path / "Patient.ndjson", name="one")
    (request,) = tick(instance).run_requests
    assert request.job_name == "ingest_fhir"


def test_nothing_new_is_a_reason(home: Home, book: Book, instance: dg.DagsterInstance) -> None:
    found = tick(instance)
    assert found.run_requests == []
    assert found.skip_message == "no new delivery"


def test_a_folder_without_success_waits_and_is_named(
    home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    visits(home.landing / "clinic" / "half")
    found = tick(instance)
    assert found.run_requests == []
    assert instance.get_dynamic_partitions("delivery") == []
    assert "clinic--half" in found.skip_message
    assert "_SUCCESS" in found.skip_message
    (home.landing / "clinic" / "half" / "_SUCCESS").touch()
    assert [r.partition_key for r in tick(instance).run_requests] == ["clinic--half"]


def test_a_source_that_nobody_knows_is_named_and_not_asked_for(
    home: Home, book: Book, instance: dg.DagsterInstance
) -> None:
    folder = visits(home.landing / "stranger" / "one")
    (folder / "_SUCCESS").touch()
    found = tick(instance)
    assert found.run_requests == []
    assert "stranger" in found.skip_message


def test_what_the_lake_has_is_not_asked_for_again(
    home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    delivery = deliver(home, "clinic", visits(tmp_path / "in"), name="one")
    assert ingest(delivery.key, instance).success
    assert tick(instance).run_requests == []


def test_deleting_dagsters_folder_loses_no_delivery(
    home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Ingested, and even gone from the landing folder: a fresh instance knows the key again from the lake."""
    import shutil

    delivery = deliver(home, "clinic", visits(tmp_path / "in"), name="one")
    assert ingest(delivery.key, instance).success
    shutil.rmtree(delivery.folder)
    with dg.instance_for_test() as fresh:
        assert fresh.get_dynamic_partitions("delivery") == []
        assert tick(fresh).run_requests == []
        assert fresh.get_dynamic_partitions("delivery") == ["clinic--one"]


def test_opening_the_instance_registers_as_well(home: Home, book: Book, tmp_path: Path, monkeypatch) -> None:
    import shutil

    from assets.instance import open_instance

    monkeypatch.setenv("DAGSTER_HOME", "")
    delivery = deliver(home, "clinic", visits(tmp_path / "in"), name="one")
    assert ingest(delivery.key).success
    assert (home.dagster / "dagster.yaml").is_file()
    shutil.rmtree(home.dagster)
    with open_instance(home) as instance:
        assert instance.get_dynamic_partitions("delivery") == ["clinic--one"]
        assert {p.name: p.limit for p in instance.event_log_storage.get_pool_limits()}["gpu"] == 1
