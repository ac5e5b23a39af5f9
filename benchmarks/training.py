"""Seconds and peak memory of trainings: `python benchmarks/training.py [--case vae tvae private million codes]`.

Every case runs in a process of its own, so that the peak is its own; the budgets stand beside it. CPU seconds stand
beside the wall time because a busy machine stretches the latter; set OMP_NUM_THREADS=1 for the same reason. The table
has continuous columns with grids, counts, flags, levels and missing cells, all dependent.

    vae       10,000 x 60, the defaults
    tvae      10,000 x 20, the defaults
    plain     10,000 x 60, 20 epochs in batches of 512 without privacy: what `private` is held against
    private   the same under DP-SGD (epsilon 3)
    million   1,000,000 x 60, one epoch: peak of memory
    codes     10,000 x 20 and a block of 1,000 codes, five epochs

`--equal-epochs 60 300` fits SDV's TVAE and our vae to SUPPORT's training rows, as many epochs each, early stopping off, and
prints how many times as long the peer takes, its fit over ours, in CPU seconds. SDV's environment is what
COHORTLOOM_SDV_PYTHON names (benchmarks/peers/sdv.txt).

`--generators vae,tvae [--rows 10000] [--columns 20] [--device auto]` times any generators instead, one line each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from evaluating.own_process import peak_mib
from evaluating.population import population

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort

PRIVATE_MOST = 3.0
"""How many times as long a step may take under privacy."""
EPOCHS_LEAST = 5.0
"""How many times as long SDV's TVAE should take as our vae at equal epochs."""


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        generator: Its standard name.
        rows: Rows of the table.
        columns: Columns of the table.
        codes: Codes of a block beside them.
        settings: Settings over the defaults.
        epsilon: Asked of the training; None without privacy.
        seconds: Budget in CPU seconds.
        gib: Budget in GiB.
    """

    generator: str
    rows: int
    columns: int
    codes: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    epsilon: float | None = None
    seconds: float | None = None
    gib: float | None = None


_STEPS: dict[str, Any] = {"hidden": (128, 64), "latent_dim": 8, "linked": False, "dropout": 0.0, "numeric_bins": 20}
CASES = {
    "vae": Case("vae", 10_000, 60, seconds=60),
    "tvae": Case("tvae", 10_000, 20, seconds=90),
    "plain": Case("vae", 10_000, 60, settings={**_STEPS, "epochs": 20, "batch_size": 512, "patience": 0}),
    "private": Case("vae", 10_000, 60, settings={"private_epochs": 20, "private_batch_size": 512}, epsilon=3.0),
    "million": Case("vae", 1_000_000, 60, settings={"epochs": 1, "batch_size": 1024}, gib=8),
    "codes": Case("vae", 10_000, 20, codes=1_000, settings={"epochs": 5}),
}


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


def measure(case: Case) -> None:
    """Fit in this process and print one JSON line."""
    from pipeline.generators.registry import generator_class
    from pipeline.privacy.spec import TrainingPrivacy

    cohort = population(case.rows, case.codes, 0) if case.codes else mixed_table(case.rows, case.columns)
    before = peak_mib()
    privacy = None if case.epsilon is None else TrainingPrivacy(epsilon=case.epsilon)
    model = generator_class(case.generator)(case.settings)
    steps: list[float] = []
    began, worked = perf_counter(), process_time()
    report = model.fit(cohort, seed=0, device="cpu", privacy=privacy, progress=lambda *_: steps.append(process_time()))
    wall, busy = perf_counter() - began, process_time() - worked
    model.sample(10_000, seed=1)
    loop = (steps[-1] - steps[0]) * len(steps) / (len(steps) - 1) if len(steps) > 1 else busy
    said = {"wall": wall, "cpu": busy, "loop": loop, "peak": peak_mib(), "before": before, "epochs": len(report.losses)}
    print(json.dumps({**said, "parameters": report.parameters}))


def compare(names: list[str]) -> None:
    """Run the cases, each in a process of its own, and print a table."""
    print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, {os.cpu_count()} cores, {platform.machine()}")
    print(f"{'case':10}{'wall, s':>9}{'CPU, s':>9}{'budget':>8}{'ratio':>7}{'loop, s':>9}{'peak, MiB':>11}{'ratio':>7}")
    loops: dict[str, float] = {}
    for name in names:
        command = [sys.executable, "-W", "ignore", __file__, "--measure", name]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            print(f"{name:10}failed: {found.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        said, case = json.loads(found.stdout.splitlines()[-1]), CASES[name]
        loops[name] = said["loop"]
        budget = f"{case.seconds:>8.0f}{said['cpu'] / case.seconds:>7.2f}" if case.seconds else f"{'':15}"
        memory = f"{said['peak'] / 1024 / case.gib:>7.2f}" if case.gib else ""
        print(
            f"{name:10}{said['wall']:>9.1f}{said['cpu']:>9.1f}{budget}{said['loop']:>9.1f}{said['peak']:>11,.0f}{memory}",
            flush=True,
        )
    if {"plain", "private"} <= loops.keys():
        ratio = loops["private"] / loops["plain"]
        print(f"private / plain, steps alone, as many rows: {ratio:.2f} (at most {PRIVATE_MOST:g})")


def equal_epochs(several: list[int]) -> None:
    """Whole fits of SDV's TVAE and our vae on SUPPORT with as many epochs each, and their ratio."""
    from supporting.rows import split_support
    from supporting.systems import SDV, System

    train = split_support().frames[0]
    peers = [System(f"sdv tvae {k} epochs", "sdv", "tvae", epochs=k) for k in several]
    ours = [System(f"vae {k} epochs", "cohortloom", "vae", {"epochs": k, "patience": 0}) for k in several]
    if peers[0].python is None:
        sys.exit(f"{SDV} names no environment")
    print(f"vae against TVAE at equal epochs: support, {len(train):,} rows, early stopping off, whole fit, CPU s")
    with tempfile.TemporaryDirectory() as aside:
        rows = Path(aside) / "train.parquet"
        train.to_parquet(rows)
        took = [system.run(0, rows, Path(aside))[1]["fit_cpu_s"] for system in (*peers, *ours)]
    for epochs, theirs, own in zip(several, took, took[len(several) :], strict=False):
        ratio = f"ratio {theirs / own:.2f} (at least {EPOCHS_LEAST:g})"
        print(f"{epochs:>5} epochs: sdv tvae {theirs:.1f}, vae {own:.1f}, {ratio}")


def time_generators(names: list[str], rows: int, columns: int, device: str) -> None:
    """Fit and sample any generators on one table, in this process, one line each."""
    from pipeline.generators.registry import generator_class

    cohort = mixed_table(rows, columns)
    print(f"{rows} rows x {columns} columns, device {device}, {platform.machine()}")
    print(f"{'generator':<18}{'fit s':>8}{'sample s':>10}{'parameters':>12}{'peak MiB':>10}")
    for name in names:
        model = generator_class(name)()
        began = perf_counter()
        report = model.fit(cohort, seed=0, device=device)
        fitted = perf_counter()
        model.sample(rows, seed=1)
        sampled = perf_counter()
        took = f"{fitted - began:>8.2f}{sampled - fitted:>10.2f}"
        print(f"{name:<18}{took}{report.parameters:>12}{peak_mib():>10.0f}", flush=True)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--equal-epochs", nargs="+", type=int, default=[])
    parser.add_argument("--generators", default="")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--measure", choices=list(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(CASES[given.measure])
    elif given.equal_epochs:
        equal_epochs(given.equal_epochs)
    elif given.generators:
        time_generators(given.generators.split(","), given.rows, given.columns, given.device)
    else:
        compare(given.case)


if __name__ == "__main__":
    main()
