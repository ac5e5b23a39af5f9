"""Seconds to fit and to sample, one line a generator, on a made-up mixed table.

Run: `.venv/bin/python benchmarks/training.py [--rows 10000] [--columns 20] [--device auto] [--generators vae,...]`.
The table has continuous columns with grids and spikes, counts, flags, levels and missing cells, all dependent.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort


def mixed_table(n: int, columns: int, seed: int = 0) -> Cohort:
    """`n` rows and about `columns` columns of all kinds."""
    from pipeline.features.cohort import assemble
    from pipeline.features.schema import Column, Resolution, TableSchema

    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n, 3))
    described: list[Column] = []
    cells: dict[str, np.ndarray] = {}
    for i in range(columns):
        z = factors @ rng.normal(size=3) * 0.6 + rng.standard_normal(n)
        name = f"c{i:02d}"
        match i % 5:
            case 0:
                column = Column(
                    name=name, kind="continuous", dtype="float64", resolution=Resolution(kind="decimals", digits=1)
                )
                cells[name] = np.round(60 + 15 * z, 1)
            case 1:
                column = Column(name=name, kind="continuous", dtype="float64", nullable=True)
                cells[name] = np.where(rng.random(n) < 0.2, np.nan, np.exp(z))
            case 2:
                column = Column(name=name, kind="count", dtype="int64")
                cells[name] = rng.poisson(np.exp(np.clip(z, -3, 2))).astype(float)
            case 3:
                column = Column(name=name, kind="binary", dtype="bool", levels=[False, True])
                cells[name] = (z > 0.8).astype(int)
            case _:
                column = Column(name=name, kind="categorical", dtype="string", levels=["a", "b", "c", "d", "e"])
                cells[name] = np.searchsorted([-1, 0, 1, 2], z)
        described.append(column)
    return assemble(TableSchema(columns=described), cells)


def main() -> None:
    """Print the figures."""
    from pipeline.generators.registry import generator_class, generator_names

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--generators", default=",".join(generator_names()))
    given = parser.parse_args()
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    cohort = mixed_table(given.rows, given.columns)
    print(
        f"{given.rows} rows x {given.columns} columns, device {given.device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {platform.machine()}"
    )
    print(f"{'generator':<18}{'fit s':>8}{'sample s':>10}{'parameters':>12}{'peak MiB':>10}")
    for name in given.generators.split(","):
        model = generator_class(name)()
        began = perf_counter()
        report = model.fit(cohort, seed=0, device=given.device)
        fitted = perf_counter()
        model.sample(given.rows, seed=1)
        sampled = perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{name:<18}{fitted - began:>8.2f}{sampled - fitted:>10.2f}{report.parameters:>12}{peak:>10}", flush=True)


if __name__ == "__main__":
    main()
