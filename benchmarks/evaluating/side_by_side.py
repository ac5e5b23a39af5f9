"""Our figures beside syntheval's and SDMetrics': the same rows, the same run, each figure in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from evaluating.shared import SAME, SHARED, Shared
from evaluating.shared_rows import shared_rows, write

HERE = Path(__file__).resolve().parent
PYTHONS = {"syntheval": "COHORTLOOM_SYNTHEVAL_PYTHON", "sdmetrics": "COHORTLOOM_SDMETRICS_PYTHON"}
ROWS = 2_000
SECONDS = 1_800


def compare(rows: int | None) -> None:
    """Print a table: values, seconds and memory of each shared figure by us and by each peer, and ratios."""
    pythons = {peer: os.environ[name] for peer, name in PYTHONS.items() if os.environ.get(name)}
    for peer, name in PYTHONS.items():
        if peer not in pythons:
            print(
                f"{peer} is left out: set {name} to the python of an environment made from benchmarks/peers/{peer}.txt"
            )
    if not pythons:
        return
    n = rows or ROWS
    print(
        f"{n:,} training, holdout and synthetic rows x 20 mixed columns; ours with 1,000 bootstrap draws, theirs without"
    )
    print("s and MiB beyond what the process held when it had read its rows; ratio = theirs / ours")
    print(
        f"{'':26}{'peer':12}{'ours':>11}{'theirs':>11}{'s':>8}{'theirs':>8}{'ratio':>7}{'MiB':>6}{'theirs':>8}{'ratio':>7}"
    )
    with TemporaryDirectory(prefix="cohortloom-peers-") as place:
        folder = Path(place)
        write(shared_rows(n), folder)
        for shared in SHARED:
            asked = [peer for peer in shared.peers if peer in pythons]
            if not asked:
                continue
            ours = told([sys.executable, str(HERE / "by_us.py"), str(n), shared.name])
            for peer in asked:
                theirs = told([pythons[peer], str(HERE / f"by_{peer}.py"), str(folder), shared.name])
                show(shared, peer, ours, theirs)


def told(command: list[str]) -> dict | str:
    """What a process printed last, or why there is nothing."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return f"not done after {SECONDS:,} s"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1][:100] if done.stderr.strip() else f"exit {done.returncode}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def show(shared: Shared, peer: str, ours: dict | str, theirs: dict | str) -> None:
    """One line."""
    if isinstance(ours, str) or isinstance(theirs, str):
        said = ours if isinstance(ours, str) else theirs
        print(f"{shared.name:26}{peer:12}{'ours' if isinstance(ours, str) else 'theirs'} failed: {said}", flush=True)
        return
    extra = [max(x["peak_mib"] - x["before_mib"], 1.0) for x in (ours, theirs)]
    same = abs(ours["value"] - theirs["value"]) <= SAME
    verdict = "same" if same and not shared.why else shared.why or "DIFFERENT, unexpectedly"
    print(
        f"{shared.name:26}{peer:12}{ours['value']:11.5f}{theirs['value']:11.5f}"
        f"{ours['seconds']:8.2f}{theirs['seconds']:8.2f}{theirs['seconds'] / max(ours['seconds'], 1e-3):7.1f}"
        f"{extra[0]:6,.0f}{extra[1]:8,.0f}{extra[1] / extra[0]:7.1f}  {verdict}",
        flush=True,
    )
