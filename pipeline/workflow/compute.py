"""What a run may use of the machine: device, threads and memory.

The number of threads is a constant, not what the machine has: sums of floats depend on it, and the same inputs must
give the same bytes on every machine. It is one, because several runs share a machine and the many small trainings of
an evaluation lose far more to waiting for each other than they gain (measured: 2 s with one thread, 23 s with two on
two busy cores). Raise COHORTLOOM_THREADS for large tables on a machine of your own.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

DEFAULT_THREADS = 1
ENGINE_THREADS = 2
"""Of DuckDB while it takes in deliveries: files are scanned, nothing is summed up, and waiting costs nothing there."""
DEFAULT_MEMORY = "2GB"
MEMORY_VARIABLE = "COHORTLOOM_RUN_MEMORY"
LEAST_RUN_MEMORY = 1 << 30
"""What the libraries alone take of a run's memory is about half of it."""
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Compute:
    """Limits of one run.

    Attributes:
        device: "auto", "cpu", "cuda" or "cuda:<i>", as PyTorch names them.
        threads: threads of BLAS, OpenMP and PyTorch.
        memory_limit: DuckDB's memory limit, e.g. "2GB"; beyond it DuckDB spills to disk.
        run_memory: all that the process of a run may take, e.g. "4GB"; empty: no bound.
    """

    device: str = "auto"
    threads: int = DEFAULT_THREADS
    memory_limit: str = DEFAULT_MEMORY
    run_memory: str = ""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigError(f"A run needs at least one thread, not {self.threads}.", todo="Mend COHORTLOOM_THREADS.")
        if self.device not in ("auto", "cpu", "cuda") and not self.device.startswith("cuda:"):
            raise ConfigError(f"There is no device '{self.device}'.", todo="Use auto, cpu, cuda or cuda:0.")
        if self.run_memory and size_of(self.run_memory) < LEAST_RUN_MEMORY:
            raise ConfigError(
                f"{MEMORY_VARIABLE} is {self.run_memory}; the libraries alone need half a gigabyte.",
                todo="Give a run at least 1GiB.",
            )

    @classmethod
    def from_environment(cls) -> Compute:
        """COHORTLOOM_DEVICE, COHORTLOOM_THREADS, COHORTLOOM_MEMORY and COHORTLOOM_RUN_MEMORY over the defaults."""
        threads = os.environ.get("COHORTLOOM_THREADS") or str(DEFAULT_THREADS)
        if not threads.isdigit():
            raise ConfigError(f"COHORTLOOM_THREADS is '{threads}', which is no number.")
        return cls(
            device=os.environ.get("COHORTLOOM_DEVICE") or "auto",
            threads=int(threads),
            memory_limit=os.environ.get("COHORTLOOM_MEMORY") or DEFAULT_MEMORY,
            run_memory=os.environ.get(MEMORY_VARIABLE, ""),
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

    def bind_memory(self) -> None:
        """Bound what this process may take, so that one run ends with a sentence instead of taking the machine along.

        Only for a process that is one run and nothing else: the bound cannot be taken back, and a UI or a test session
        would die of it. The bound is on private writable memory (RLIMIT_DATA), not on addresses: PyTorch, Arrow and
        DuckDB reserve far more of those than they use. Without effect where no bound is asked for, where the system has
        none (macOS), and on a GPU: CUDA maps host memory in ways that the bound has not been tried with, and the pool
        `gpu` lets one training at a time run there anyway.
        """
        if not self.run_memory:
            return
        if sys.platform != "linux" or has_gpu(self.device):
            warnings.warn(f"{MEMORY_VARIABLE} has no effect here (it needs Linux, and no GPU).", stacklevel=2)
            return
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = size_of(self.run_memory)
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def size_of(text: str) -> int:
    """Bytes of "4GB", "512MB" or "2GiB".

    Raises:
        ConfigError: it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?|)B?", text.strip().upper())
    if not found:
        raise ConfigError(f"'{text}' is no amount of memory.", todo="Write it like 4GB or 512MB.")
    return int(float(found[1]) * _UNITS[found[2]])


def has_gpu(device: str) -> bool:
    """Would a training on `device` use a GPU? Asked while the code location loads, hence without PyTorch."""
    if device == "auto":
        return Path("/dev/nvidia0").exists()
    return device.startswith("cuda")
