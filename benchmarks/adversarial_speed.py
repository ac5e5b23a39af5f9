"""CPU seconds of an epoch of `ctgan` beside SDV's CTGAN: `python benchmarks/adversarial_speed.py [--epochs 10 60]`.

The same rows (SUPPORT's training part), batch (500), packs (10), networks (256, 256) and number of steps; ours in the preset
`paper`, with its products rounded to bfloat16 as in the default and without. Each system is fitted with few and with more
epochs: what an epoch takes is the difference over the difference, so that encoding and imports do not count. Runs alternate,
so that a busy machine stretches both. OMP_NUM_THREADS=1 gives one thread to each; unset, SDV takes as many as there are cores.

    COHORTLOOM_SDV_PYTHON=... OMP_NUM_THREADS=1 python benchmarks/adversarial_speed.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from supporting.rows import split_support
from supporting.systems import System

GOAL = 3.0


def systems(epochs: int) -> list[System]:
    """Who is timed, with so many epochs; in both an epoch has as many steps as whole batches fit into the rows."""
    ours = {"ctgan": {"preset": "paper"}, "ctgan float32": {"preset": "paper", "bfloat16_products": False}}
    out = [System("sdv ctgan", "sdv", "ctgan", epochs=epochs)]
    return out + [System(k, "cohortloom", "ctgan", {**v, "epochs": epochs}) for k, v in ours.items()]


def main() -> None:
    """Time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs=2, default=(10, 60))
    given = parser.parse_args()
    few, many = given.epochs
    took: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as aside:
        train, _ = split_support().frames
        rows = Path(aside) / "train.parquet"
        train.to_parquet(rows)
        for epochs in (few, many):
            for system in systems(epochs):
                if system.python is None:
                    print(f"{system.name}: left out, COHORTLOOM_SDV_PYTHON names no environment")
                    continue
                folder = Path(aside) / f"{epochs}"
                folder.mkdir(exist_ok=True)
                took.setdefault(system.name, []).append(system.run(0, rows, folder)[1])
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    print(f"support: {len(train):,} rows, epochs {few} and {many}, OMP_NUM_THREADS={threads}, {os.cpu_count()} cores")
    print(f"{'':16}{'CPU s an epoch':>16}{'wall s an epoch':>17}")
    cost: dict[str, float] = {}
    for name, (short, long) in took.items():
        cpu, wall = ((long[k] - short[k]) / (many - few) for k in ("fit_cpu_s", "fit_s"))
        cost[name] = cpu
        print(f"{name:16}{cpu:>16.3f}{wall:>17.3f}")
    for name in ("ctgan", "ctgan float32"):
        if "sdv ctgan" in cost:
            print(f"sdv ctgan / {name}: {cost['sdv ctgan'] / cost[name]:.2f} (goal: at least {GOAL:g})")


if __name__ == "__main__":
    main()
