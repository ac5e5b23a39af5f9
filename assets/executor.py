"""Where the steps of a run are executed: in the run's own process, or each as a job on a Ray cluster.

COHORTLOOM_EXECUTOR chooses. Graph, bodies and results are the same either way. A training alone is sent to a cluster
by `remote_training.py` instead.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from assets.ray_cluster import job_environment, need_cluster
from pipeline.errors import ConfigError, nearest
from pipeline.workflow.compute import Compute

VARIABLE = "COHORTLOOM_EXECUTOR"
IN_PROCESS, RAY = "in_process", "ray"
Listener = Callable[[dg.EventLogEntry], None]


def executor_name() -> str:
    """What COHORTLOOM_EXECUTOR says, "in_process" if it says nothing.

    Raises:
        ConfigError: it names something else.
    """
    name = os.environ.get(VARIABLE) or IN_PROCESS
    if name not in (IN_PROCESS, RAY):
        raise ConfigError(f"{VARIABLE} is '{name}'.", todo=nearest(name, [IN_PROCESS, RAY]))
    return name


def chosen_executor() -> dg.ExecutorDefinition:
    """The executor of all jobs. Ray's packages are imported only if it is asked for.

    Raises:
        ConfigError: COHORTLOOM_EXECUTOR names none, the packages are missing, or RAY_ADDRESS is not set.
    """
    if executor_name() == IN_PROCESS:
        return dg.in_process_executor
    cluster = need_cluster()
    from dagster_ray import ray_executor

    # The executor starts `dagster`, which workers seldom have on their path; Ray fills in their own.
    environment = {**job_environment(), "PATH": f"{Path(sys.executable).parent}:${{PATH}}"}
    settings = {
        "address": cluster,
        # Without a number of cores Ray would put every step onto the head node.
        "num_cpus": float(Compute.from_environment().threads),
        "env_vars": [f"{name}={value}" for name, value in environment.items()],
    }
    return ray_executor.configured({"ray": settings}, name="ray")


def execute(
    job: dg.JobDefinition,
    *,
    partition: str,
    selection: Sequence[dg.AssetKey] | None,
    instance: dg.DagsterInstance,
    run_id: str,
    tags: Mapping[str, str],
    run_config: Mapping[str, Any],
    listener: Listener | None = None,
) -> dg.ExecuteInProcessResult | dg.JobExecutionResult:
    """Execute a run from here with the chosen executor, and wait for it; a failed step is part of the result.

    Args:
        job: Of the code location.
        partition: What it makes.
        selection: Only these assets; None: all of the job.
        instance: Where the run is recorded.
        run_id: Of the new run.
        tags: Beside those of the partition.
        run_config: Of the run.
        listener: Called with every event of the run.
    """
    if executor_name() == IN_PROCESS:
        if listener is not None:
            instance.add_event_listener(run_id, listener)
        return job.execute_in_process(
            instance=instance,
            partition_key=partition,
            asset_selection=list(selection) if selection is not None else None,
            raise_on_error=False,
            run_id=run_id,
            tags=dict(tags),
            run_config=dict(run_config),
        )
    return _execute_elsewhere(job, partition, selection, instance, run_id, tags, run_config, listener)


def job_named(name: str) -> dg.JobDefinition:
    """A job of the code location, as the processes of its steps find it again."""
    from assets.definitions import build_defs

    return build_defs().resolve_job_def(name)


def _execute_elsewhere(
    job: dg.JobDefinition,
    partition: str,
    selection: Sequence[dg.AssetKey] | None,
    instance: dg.DagsterInstance,
    run_id: str,
    tags: Mapping[str, str],
    run_config: Mapping[str, Any],
    listener: Listener | None,
) -> dg.JobExecutionResult:
    """Steps in processes of their own need a job that they can find again, and a run that exists before them."""
    from dagster._core.execution.api import execute_run

    found_again = dg.build_reconstructable_job("assets.executor", "job_named", (job.name,))
    of_partition = job.partitions_def.get_tags_for_partition_key(partition) if job.partitions_def else {}
    run = instance.create_run_for_job(
        job_def=job,
        run_id=run_id,
        run_config=dict(run_config),
        tags={**tags, **of_partition},
        job_code_origin=found_again.get_python_origin(),
        asset_selection=frozenset(selection) if selection is not None else None,
    )
    watching = _watching(listener) if listener is not None else None
    if watching is not None:
        instance.watch_event_logs(run_id, None, watching)
    try:
        return execute_run(found_again, run, instance, raise_on_error=False)
    finally:
        if watching is not None:
            instance.end_watch_event_logs(run_id, watching)


def _watching(listener: Listener) -> Callable[[dg.EventLogEntry, str], None]:
    def watch(entry: dg.EventLogEntry, _cursor: str) -> None:
        listener(entry)

    return watch
