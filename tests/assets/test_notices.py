"""Failed runs are noticed once, whoever ran them: a command in its own process, the daemon, or one that was killed."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.definitions.run_status_sensor_definition import RunStatusSensorCursor
from made_up import MONTH, Book, deliver, visits

from assets.definitions import build_defs
from assets.instance import PROCESS_TAG, close_dead_runs
from assets.notices import NO_STEP, note_failed_run
from assets.partitions import cohort_month_key
from assets.run import ingest, run_cohort
from pipeline.workflow.notices import FILE, notices
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.home import Home


@pytest.fixture(autouse=True)
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COHORTLOOM_WEBHOOK", raising=False)


@pytest.fixture
def broken(home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """`tiny` has a delivery, and a SQL that gives no row."""
    assert ingest(deliver(home, "clinic", visits(tmp_path / "in"), name="one").key, instance).success
    (book.folder / "tiny.sql").write_text("SELECT age, sex, lactate, died FROM visits WHERE age > 1000\n")


def look(instance: dg.DagsterInstance) -> int:
    """One tick of the sensor from the beginning of the event log; gives how many failed runs it looked at."""
    repository = build_defs().get_repository_def()
    context = dg.SensorEvaluationContext(
        instance_ref=instance.get_ref(),
        last_tick_completion_time=None,
        last_run_key=None,
        cursor=RunStatusSensorCursor(record_id=-1).to_json(),
        repository_name=None,
        repository_def=repository,
        instance=instance,
        resources={"lake": LakeResource()},
    )
    looked = 0
    sensor = repository.get_sensor_def("failure_notices")
    with context:
        while True:  # one run a tick
            found = sensor.evaluate_tick(context)
            looked += len(found.dagster_run_reactions or [])
            assert all(reaction.error is None for reaction in found.dagster_run_reactions or [])
            if not found.dagster_run_reactions:
                return looked
            context._cursor = found.cursor


def test_a_run_of_a_command_is_noticed_at_once_and_not_again_by_the_sensor(
    home: Home, instance: dg.DagsterInstance, broken: None
) -> None:
    outcome = run_cohort("tiny", MONTH, instance=instance)
    assert not outcome.success
    (notice,) = notices(home)
    assert (notice["run_id"], notice["job"]) == (outcome.run_id, "cohort_month")
    assert (notice["partition"], notice["steps"]) == (f"tiny|{MONTH}", ["features"])
    assert "The cohort's SQL gives no row." in notice["sentence"]
    assert look(instance) == 1
    assert len(notices(home)) == 1


def test_a_run_of_the_daemon_is_noticed_by_the_sensor(home: Home, instance: dg.DagsterInstance, broken: None) -> None:
    job = build_defs().resolve_job_def("cohort_month")
    selection = [dg.AssetKey("cohort_inputs"), dg.AssetKey("features")]
    for _ in range(2):
        job.execute_in_process(
            instance=instance,
            partition_key=cohort_month_key("tiny", MONTH),
            asset_selection=selection,
            raise_on_error=False,
        )
    assert notices(home) == []
    assert look(instance) == 2
    assert [n["steps"] for n in notices(home)] == [["features"], ["features"]]
    assert look(instance) == 2
    assert len(notices(home)) == 2


def test_a_killed_command_is_noticed_by_whoever_finds_it(home: Home, book: Book, instance: dg.DagsterInstance) -> None:
    run_id = "11111111-2222-3333-4444-555555555555"
    nobody = 2**22 + 1  # above any process id
    tags = {PROCESS_TAG: f"{run_id}:{socket.gethostname()}:{nobody}:1", "dagster/partition": f"tiny|{MONTH}"}
    assert not os.path.exists(f"/proc/{nobody}")  # noqa: PTH110
    instance.add_run(dg.DagsterRun("cohort_month", run_id=run_id, status=dg.DagsterRunStatus.STARTED, tags=tags))
    assert close_dead_runs(instance) == [run_id]
    (notice,) = notices(home)
    assert (notice["run_id"], notice["steps"], notice["sentence"]) == (run_id, [], NO_STEP)


def test_a_notice_that_cannot_be_written_fails_no_run(
    home: Home, instance: dg.DagsterInstance, broken: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.reports / FILE).mkdir()
    outcome = run_cohort("tiny", MONTH, instance=instance)
    assert outcome.failed_steps == ["features"]
    said: list[str] = []
    note_failed_run(instance, outcome.run_id, home, said.append)
    note_failed_run(instance, "nothing", home, said.append)
    assert len(said) == 1
    assert "its notice could not be written" in said[0]
    (home.reports / FILE).rmdir()
    monkeypatch.setenv("COHORTLOOM_WEBHOOK", "http://example.org/")
    note_failed_run(instance, outcome.run_id, home, said.append)
    assert "nobody was told: COHORTLOOM_WEBHOOK leads to another machine" in said[1]
