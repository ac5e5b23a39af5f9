"""Seconds and peak memory of an evaluation: `python benchmarks/evaluation.py [--case mixed codes] [--profile quick]`.

Makes a seeded population of 20 mixed columns (and a sparse block of codes or counts), splits it 50/25/12.5/12.5, and
evaluates one synthetic cohort of as many rows as there are in training: alone, and with the four reference rows as a
release has it. Every measurement runs in a process of its own, so that the peak is its own; the budgets stand beside it.
CPU seconds stand beside the wall time because threads that wait for one another look busy: on a busy machine set
OMP_NUM_THREADS=1. Rows are those of the whole population.

`--families` shows where the time goes: seconds by family and the ten slowest metrics.
`--peers` sets the metrics that syntheval and SDMetrics share with us side by side, see docs/metrics/peers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from evaluating.population import CASES, GIB, Case, population

__all__ = ["population"]
WAYS = {"alone": "one synthetic cohort", "references": "with four reference rows"}
TOP = 10


def main() -> None:
    """Measure what is asked, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=["mixed", "codes"])
    parser.add_argument("--profile", nargs="+", choices=["quick", "standard", "full"], default=["quick"])
    parser.add_argument("--way", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--rows", type=int, help="another number of rows than the case's own (no budget then)")
    parser.add_argument("--families", action="store_true", help="seconds by family, and the slowest metrics")
    parser.add_argument("--loud", action="store_true", help="say every metric on stderr as it is done")
    parser.add_argument("--peers", action="store_true", help="the metrics shared with syntheval and SDMetrics instead")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    cases = [
        CASES[name] if given.rows is None else replace(CASES[name], rows=given.rows, seconds={}) for name in given.case
    ]
    if given.measure:
        from evaluating.watch import measure

        measure(cases[0], given.profile[0], given.way[0] == "references", given.loud)
        return
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, {os.cpu_count()} cores")
    if given.peers:
        from evaluating.side_by_side import compare

        compare(given.rows)
        return
    print(f"{'':33}{'':10}{'':26}{'wall, s':>9}{'CPU, s':>9}{'budget':>8}{'ratio':>7}{'peak, MiB':>11}{'ratio':>7}")
    for case in cases:
        for profile in given.profile:
            for way in given.way:
                found = run(case, profile, way, given.rows, given.loud)
                show(case, profile, way, found)
                if given.families:
                    show_metrics(found)


def run(case: Case, profile: str, way: str, rows: int | None, loud: bool) -> dict:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", "--case", case.name, "--profile", profile, "--way", way]
    command += ["--rows", str(rows)] if rows is not None else []
    command += ["--loud"] if loud else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def show(case: Case, profile: str, way: str, found: dict) -> None:
    """One line of the table."""
    budget = case.seconds.get(profile)
    told = f"{budget:8,.0f}{found['seconds'] / budget:7.2f}" if budget else f"{'-':>8}{'-':>7}"
    print(
        f"{case.title:33}{profile:10}{WAYS[way]:26}{found['seconds']:9,.1f}{found['cpu']:9,.1f}{told}"
        f"{found['peak_mib']:11,.0f}{found['peak_mib'] / 1024 / GIB:7.2f}",
        flush=True,
    )


def show_metrics(found: dict) -> None:
    """Seconds by family and the slowest metrics; what several share is charged to the one that asks first."""
    spent, busy = (in_all(found[what]) for what in ("metrics", "busy"))
    families: dict[str, float] = {}
    for name, seconds in spent.items():
        families[name.split(".")[0]] = families.get(name.split(".")[0], 0.0) + seconds
    print("    by family: " + ", ".join(f"{k} {v:,.1f} s" for k, v in sorted(families.items(), key=lambda x: -x[1])))
    print(f"    outside the metrics (encoding, what figures show): {found['seconds'] - sum(spent.values()):,.1f} s")
    print(f"    {'':36}{'wall, s':>9}{'CPU, s':>9}{'synthetic':>11}{'raised the peak by, MiB':>25}")
    for name, seconds in sorted(spent.items(), key=lambda x: -x[1])[:TOP]:
        own = found["metrics"]["synthetic"].get(name, 0.0)
        print(f"    {name:36}{seconds:9.1f}{busy[name]:9.1f}{own:11.1f}{found['raised'][name]:25,.0f}")


def in_all(phases: dict[str, dict[str, float]]) -> dict[str, float]:
    """Seconds of each metric, references and synthetic together."""
    spent: dict[str, float] = {}
    for by_metric in phases.values():
        for name, seconds in by_metric.items():
            spent[name] = spent.get(name, 0.0) + seconds
    return spent


if __name__ == "__main__":
    main()
