"""Trainings and whole steps on a Ray cluster: the same bytes, and a lost worker costs a rerun and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from small_house import House, sentence

from pipeline.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from ray_servers import RayServers

pytestmark = pytest.mark.distributed
RUN = ("run", "tiny", "-g", "vae")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A home whose cell was made in one process."""
    made = House(tmp_path_factory.mktemp("house"))
    made.deliver()
    made.well(*RUN)
    return made


@pytest.mark.slow
def test_trainings_sent_to_a_cluster(house: House, cluster: RayServers) -> None:
    before, makers, known = house.hashes(), house.makers("model/vae"), _ids(cluster)
    said = house.well(*RUN, "--from", "model", COHORTLOOM_TRAINING="ray", **cluster.environment)
    assert "model/vae" in said
    assert house.hashes() == before  # models, and all that is made of them
    assert house.makers("model/vae").isdisjoint(makers)  # made anew, by the second run
    jobs = [job for job in cluster.jobs() if job["submission_id"] not in known]
    assert [job["status"] for job in jobs] == ["SUCCEEDED"]
    assert not any("SPLIT_KEY" in json.dumps(job) for job in jobs)


@pytest.mark.slow
def test_a_worker_is_killed_in_the_middle_of_a_training(house: House, cluster: RayServers) -> None:
    before, known = house.hashes(), _ids(cluster)
    again = (*RUN, "--from", "model")
    running = house.start(*again, COHORTLOOM_TRAINING="ray", **cluster.environment)
    cluster.kill_worker(cluster.wait_for_running_job(known))
    cluster.add_worker()
    out, err = running.communicate(timeout=300)
    said = sentence(subprocess.CompletedProcess(again, running.returncode, out, err))
    assert "failed at model/vae" in said
    assert "was lost" in said
    assert house.hashes() == before  # nothing half-done, what was there is still there

    house.well(*again, COHORTLOOM_TRAINING="ray", **cluster.environment)
    assert house.hashes() == before


@pytest.mark.slow
def test_every_step_as_a_job_of_the_cluster(house: House, cluster: RayServers) -> None:
    before, known = house.hashes(), _ids(cluster)
    said = house.well(*RUN, "--from", "synthetic", COHORTLOOM_EXECUTOR="ray", **cluster.environment)
    assert "synthetic/vae" in said  # what happens far away is told here
    assert house.hashes() == before
    jobs = [job for job in cluster.jobs() if job["submission_id"] not in known]
    steps = {job["metadata"]["dagster/op"] for job in jobs}
    assert {"synthetic__vae", "evaluation__vae", "leaderboard"} <= steps
    assert {job["status"] for job in jobs} == {"SUCCEEDED"}


def test_a_cluster_that_does_not_answer_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    house = House(tmp_path, COHORTLOOM_TRAINING="ray")
    house.deliver()
    nobody = house.run("run", "tiny", "-g", "independent", RAY_ADDRESS="http://127.0.0.1:9")
    assert "The Ray cluster at http://127.0.0.1:9 does not answer" in sentence(nobody)
    nowhere = house.run("run", "tiny", "-g", "independent")
    assert "RAY_ADDRESS is not set" in sentence(nowhere)


def test_the_training_as_a_command(tmp_path: Path) -> None:
    """What a Slurm job or a pod starts, without Dagster and without Ray."""
    house = House(tmp_path)
    house.deliver()
    house.well("run", "tiny", "-g", "independent")
    before = house.hashes()
    done = _train(house, "tiny", "2026-10", "independent", "--run-id", "slurm-7")
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == "ok"
    assert told["sha256"] in house.hashes().values()
    assert house.hashes() == before
    assert house.makers("model/independent") == {"slurm-7"}
    missing = _train(house, "tiny", "2026-09", "independent")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")
    assert "Traceback" not in missing.stderr
    assert "no JSON object" in _train(house, "tiny", "2026-10", "independent", "--overrides", "[1]").stderr


def test_a_model_that_is_not_in_this_lake_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.features.spec import load_book
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.train_cell import Trained, fetch_trained

    house = House(tmp_path)
    monkeypatch.setenv("COHORTLOOM_COHORTS", str(house.cohorts))
    cell = Cell.of(load_book(), "tiny", "2026-10-01")
    with pytest.raises(StoreError, match="shared storage"):
        fetch_trained(house.lake, cell, "vae", Trained("0" * 64, "ok"))


def test_what_is_asked_for_is_named_right(monkeypatch: pytest.MonkeyPatch) -> None:
    from assets.executor import chosen_executor
    from assets.ray_cluster import job_environment
    from assets.remote_training import trained_on_ray

    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", "a secret of more than 16 characters")
    assert "COHORTLOOM_SPLIT_KEY" not in job_environment()
    monkeypatch.setenv("COHORTLOOM_EXECUTOR", "rai")
    with pytest.raises(ConfigError, match="Did you mean 'ray'"):
        chosen_executor()
    monkeypatch.setenv("COHORTLOOM_EXECUTOR", "ray")
    monkeypatch.setenv("COHORTLOOM_TRAINING", "ray")
    with pytest.raises(ConfigError, match="both ask for Ray"):
        trained_on_ray()


def _ids(cluster: RayServers) -> set[str]:
    return {job["submission_id"] for job in cluster.jobs()}


def _train(house: House, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.workflow.train_cell", *arguments],
        env=house.environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
