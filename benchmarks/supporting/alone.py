"""What a training says of itself from a process of its own: seconds of the fit and the draw, CPU seconds, peak memory.

Only the standard library, since the peers' environments import it too.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluating.own_process import peak_mib

if TYPE_CHECKING:
    from collections.abc import Callable


def told(fit: Callable[[], object], draw: Callable[[], object]) -> None:
    """Fit, draw, and print one JSON line: `fit_s draw_s fit_cpu_s peak_mib`."""
    start, busy = time.perf_counter(), time.process_time()
    fit()
    fitted, fit_cpu = time.perf_counter(), time.process_time() - busy
    draw()
    drawn = time.perf_counter()
    facts = {"fit_s": fitted - start, "draw_s": drawn - fitted, "fit_cpu_s": fit_cpu, "peak_mib": peak_mib()}
    sys.stdout.write(json.dumps(facts) + "\n")
