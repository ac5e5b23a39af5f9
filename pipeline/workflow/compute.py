"""What a run may use of the machine: device, threads and memory.

The number of threads is a constant, not what the machine has: sums of floats depend on it, and the same inputs must
give the same bytes on every machine. It is one, because several runs share a machine and the many small trainings of
an evaluation lose far more to waiting for each other than they gain (measured: 2 s with one thread, 23 s with two on
two busy cores). Raise COHORTLOOM_THREADS for large tables on a machine of your own.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

DEFAULT_THREADS = 1
ENGINE_THREADS = 2
"""Of DuckDB while it takes in deliveries: files are scanned, nothing is summed up, and waiting costs nothing there."""
DEFAULT_MEMORY = "2GB"
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Compute:
    """Limits of one run.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:<i>", as PyTorch names them.
        threads: threads of BLAS, OpenMP and PyTorch.
        memory_limit: DuckDB's memory limit, e.g. "2GB"; beyond it DuckDB spills to disk.
    """

    device: str = "auto"
    threads: int = DEFAULT_THREADS
    memory_limit: str = DEFAULT_MEMORY

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigError(f"A run needs at least one thread, not {self.threads}.", todo="Mend COHORTLOOM_THREADS.")
        if self.device not in ("auto", "cpu", "cuda") and not self.device.startswith("cuda:"):
            raise ConfigError(f"There is no device '{self.device}'.", todo="Use auto, cpu, cuda or cuda:0.")

    @classmethod
    def from_environment(cls) -> Compute:
        """COHORTLOOM_DEVICE, COHORTLOOM_THREADS and COHORTLOOM_MEMORY over the defaults."""
        threads = os.environ.get("COHORTLOOM_THREADS") or str(DEFAULT_THREADS)
        if not threads.isdigit():
            raise ConfigError(f"COHORTLOOM_THREADS is '{threads}', which is no number.")
        return cls(
            device=os.environ.get("COHORTLOOM_DEVICE") or "auto",
            threads=int(threads),
            memory_limit=os.environ.get("COHORTLOOM_MEMORY") or DEFAULT_MEMORY,
        )

    @property
    def engine_threads(self) -> int:
        """Threads of DuckDB where the order of work does not matter."""
        return max(self.threads, ENGINE_THREADS)

    def bind(self) -> None:
        """Bound the threads of numeric libraries in this process; those not yet imported read the environment."""
        for name in _POOLS:
            os.environ[name] = str(self.threads)
        # Threads that wait must not spin: runs side by side would take each other's cores.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.threads)
        if "sklearn" in sys.modules:
            from threadpoolctl import threadpool_limits

            threadpool_limits(self.threads)


def has_gpu(device: str) -> bool:
    """Would a training on `device` use a GPU? Asked while the code location loads, hence without PyTorch."""
    if device == "auto":
        return Path("/dev/nvidia0").exists()
    return device.startswith("cuda")
