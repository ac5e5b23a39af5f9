"""Where `model/<generator>` is trained: in the step's own process, or as a job on a Ray cluster.

COHORTLOOM_TRAINING chooses. The job is `train_process.py`, sent and watched by dagster-ray's Pipes client; it commits
the model to the shared lake and reports the version back, from which the asset's body goes on as if it had trained
itself. Sending every step to a cluster is `executor.py`.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.executor import IN_PROCESS, RAY, executor_name
from assets.ray_cluster import ClusterError, job_environment, need_cluster
from pipeline.errors import ConfigError, StoreError, TrainingError, nearest

if TYPE_CHECKING:
    from dagster_ray.core.pipes import SubmitJobParams

    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.train_cell import Trained
    from pipeline.workflow.training import Made

VARIABLE = "COHORTLOOM_TRAINING"


def trained_on_ray() -> bool:
    """Does COHORTLOOM_TRAINING send trainings to a cluster?

    Raises:
        ConfigError: it names something else than "in_process" or "ray", or the whole step is sent already.
    """
    name = os.environ.get(VARIABLE) or IN_PROCESS
    if name not in (IN_PROCESS, RAY):
        raise ConfigError(f"{VARIABLE} is '{name}'.", todo=nearest(name, [IN_PROCESS, RAY]))
    if name == RAY and executor_name() == RAY:
        raise ConfigError(
            f"{VARIABLE} and COHORTLOOM_EXECUTOR both ask for Ray.", todo="The executor sends every step: unset one."
        )
    return name == RAY


def train(
    context: dg.AssetExecutionContext,
    lake: "Lake",
    cell: "Cell",
    generator: str,
    compute: "Compute",
    overrides: Mapping[str, Any],
) -> "Made":
    """Train a generator of a cell where COHORTLOOM_TRAINING says.

    Raises:
        CohortLoomError: as `fit_step` does, and `ClusterError` where a cluster is asked for and fails.
    """
    from pipeline.workflow.training import fit_step

    run_id = context.run.run_id
    if not trained_on_ray():
        return fit_step(lake, cell, generator, compute, overrides=overrides, run_id=run_id)
    from pipeline.workflow.train_cell import fetch_trained

    asked = {
        "cohort": cell.cohort,
        "month": cell.month,
        "generator": generator,
        "overrides": dict(overrides),
        "run_id": run_id,
    }
    return fetch_trained(lake, cell, generator, _train_on_ray(context, asked, compute))


def _train_on_ray(context: dg.AssetExecutionContext, asked: dict[str, Any], compute: "Compute") -> "Trained":
    """Send the training, wait for it, and give what it reported.

    The client's own errors quote the job's output and are dropped: what the job could tell, it reported.
    """
    from dagster_ray import PipesRayJobClient

    from pipeline.workflow.train_cell import Trained

    address = need_cluster()
    job: SubmitJobParams = {
        "entrypoint": f"{sys.executable} -m assets.train_process",
        "entrypoint_num_cpus": float(compute.threads),
        "entrypoint_num_gpus": 1.0 if compute.device.startswith("cuda") else 0.0,
        "runtime_env": {"env_vars": {**job_environment(), "COHORTLOOM_DEVICE": compute.device}},
    }
    client = PipesRayJobClient(address=address)
    fault = ""
    try:
        # The client prints what the job prints, and stdout may be for a program to read.
        with redirect_stdout(sys.stderr):
            told = client.run(context=context, submit_job_params=job, extras=asked).get_custom_messages()
    except OSError:
        fault = f"The Ray cluster at {address} does not answer."
    except RuntimeError:
        fault = f"The Ray job that trained '{asked['generator']}' was lost (its worker was killed, or it was stopped)."
    if fault:
        raise ClusterError(fault, todo="What was committed stays; look at the cluster and run again.")
    if not told:
        raise ClusterError("The Ray job ended without telling how.", todo="Run again.")
    answer = told[-1]
    if "error" in answer:
        raise (StoreError if answer["retry"] else TrainingError)(f"On the cluster: {answer['error']}")
    return Trained(**answer["trained"])
