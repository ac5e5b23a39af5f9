"""What a run may use of the machine, as a resource."""

import multiprocessing

import dagster as dg
from pydantic import Field

from pipeline.workflow.compute import Compute


class ComputeResource(dg.ConfigurableResource):
    """Device, threads and memory of one run; what is left empty comes from the environment or the defaults."""

    device: str = Field(default="", description="auto, cpu, cuda or cuda:<i>; empty: COHORTLOOM_DEVICE or auto.")
    threads: int = Field(default=0, ge=0, description="Threads of a run; 0: COHORTLOOM_THREADS or 1.")
    memory_limit: str = Field(default="", description="DuckDB's limit, e.g. 2GB; empty: COHORTLOOM_MEMORY or 2GB.")

    def bound(self) -> Compute:
        """The limits, already applied to this process.

        The bound on all of its memory only where Dagster made the process for this run (it starts a run, or a step, in
        a child made by `multiprocessing`): never in the UI, a command of several runs or a test session.
        """
        usual = Compute.from_environment()
        compute = Compute(
            device=self.device or usual.device,
            threads=self.threads or usual.threads,
            memory_limit=self.memory_limit or usual.memory_limit,
            run_memory=usual.run_memory,
        )
        compute.bind()
        if multiprocessing.parent_process() is not None:
            compute.bind_memory()
        return compute
