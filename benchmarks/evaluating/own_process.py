"""What a process says of itself: seconds of a call, its peak of memory, and what it held before the call.

Only the standard library, since the peers' environments import it too.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = ("train", "holdout", "synthetic")
"""Files with the rows, in the order in which figures take them."""


def peak_mib() -> float:
    """The most memory that this process has held, in MiB.

    Linux says it of the program itself; elsewhere (and in `getrusage`) the process that started it counts too.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return float(next(x for x in status.read_text().splitlines() if x.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def tell(call: Callable[[], float]) -> None:
    """Print a figure with what it took, as one JSON line."""
    before, start = peak_mib(), time.perf_counter()
    value = call()
    seconds = time.perf_counter() - start
    print(json.dumps({"value": float(value), "seconds": seconds, "peak_mib": peak_mib(), "before_mib": before}))
