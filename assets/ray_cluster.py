"""What is asked of a Ray cluster: an address, the packages, and the environment of the jobs that are sent there.

Workers need this checkout installed at the same path, and COHORTLOOM_HOME on storage that they share. What is secret
(split key, passwords, keys of an object store) is never sent: Ray shows the environment of a job to whoever reaches
its dashboard. It belongs into the environment in which the workers are started.
"""

import importlib.util
import os

from pipeline.errors import CohortLoomError, ConfigError
from pipeline.store.home import Home

ADDRESS_VARIABLE = "RAY_ADDRESS"
SENT = (
    "COHORTLOOM_COHORTS",
    "COHORTLOOM_DEVICE",
    "COHORTLOOM_MEMORY",
    "COHORTLOOM_RUN_MEMORY",
    "COHORTLOOM_S3_ENDPOINT",
    "COHORTLOOM_START_MONTH",
    "COHORTLOOM_STORE",
    "COHORTLOOM_THREADS",
    "DAGSTER_HOME",
)
"""What a job is told of our environment, beside COHORTLOOM_HOME."""


class ClusterError(CohortLoomError):
    """The Ray cluster does not answer, or has lost what was sent to it."""


def need_cluster() -> str:
    """The address of the cluster's job server, from RAY_ADDRESS.

    Raises:
        ConfigError: the packages of the extra `dist` are missing, or RAY_ADDRESS is not set.
    """
    if importlib.util.find_spec("dagster_ray") is None or importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "Ray is asked for, but its packages are not installed.",
            todo="Install the extra: pip install -e '.[dist]'.",
        )
    address = os.environ.get(ADDRESS_VARIABLE)
    if not address:
        raise ConfigError(
            f"Ray is asked for, but {ADDRESS_VARIABLE} is not set.",
            todo="Set it to the cluster's job server, e.g. http://ray-head:8265.",
        )
    return address


def job_environment() -> dict[str, str]:
    """The environment that a job gets; nothing secret."""
    told = {name: os.environ[name] for name in SENT if os.environ.get(name)}
    # Ray sets the threads of numeric libraries by the cores that it gives; ours are what makes bytes the same.
    return {"COHORTLOOM_HOME": str(Home.from_environment().root), "COHORTLOOM_EXECUTOR": "", **told}
