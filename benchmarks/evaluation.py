"""Seconds and peak memory of an evaluation: `python benchmarks/evaluation.py [--rows 10000] [--codes 0] [--profile quick]`.

Makes a seeded population of 20 mixed columns (and, with --codes, a sparse block), splits it 50/25/12.5/12.5, and
evaluates one synthetic cohort of as many rows as there are in training, with and without the four reference rows.
Every measurement runs in a process of its own, so that the peak is its own. CPU seconds stand beside the wall time
because boosting waits for its threads: on a busy machine set OMP_NUM_THREADS=1. Rows are those of the whole population,
in thousands as in the budget: 10k x 20 mixed under 1 min, 10k x 1,000 codes under 3 min, both under 2 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np


def population(n: int, codes: int, seed: int):
    """n rows of 20 mixed columns driven by three hidden factors, 5 % of the cells of four columns missing."""
    from scipy.sparse import csr_matrix

    from pipeline.features.cohort import assemble
    from pipeline.features.schema import CodeBlock, Column, TableSchema

    shape = np.random.default_rng(0)
    loads = shape.normal(size=(20, 3))
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 3))
    latent = hidden @ loads.T + rng.normal(size=(n, 20))
    columns, values = [], {}
    for i in range(20):
        name, x = f"c{i:02d}", latent[:, i]
        if i < 8:
            x = np.round(np.exp(x / 4) * 40 if i % 2 else x * 10 + 60, 3)
            values[name] = np.where(rng.random(n) < 0.05, np.nan, x) if i < 4 else x
            columns.append(Column(name=name, kind="continuous", dtype="float64", nullable=i < 4))
        elif i < 10:
            values[name] = rng.poisson(np.exp(np.clip(x / 3, -2, 3))).astype(float)
            columns.append(Column(name=name, kind="count", dtype="int64"))
        elif i < 15:
            values[name] = (x > i - 12).astype(int)
            columns.append(Column(name=name, kind="binary", dtype="bool", levels=[False, True]))
        else:
            k = 3 + i - 14
            values[name] = np.clip(np.round(x + k / 2), 0, k - 1).astype(int)
            levels = [f"level {j}" for j in range(k)]
            kind = "ordinal" if i == 15 else "categorical"
            columns.append(Column(name=name, kind=kind, dtype="string", levels=levels))
    blocks, described = {}, []
    if codes:
        rate = shape.gamma(0.15, 0.06, size=(3, codes))
        chance = np.clip((hidden > 0) @ rate + 0.001, 0, 0.8)
        blocks["codes"] = csr_matrix((rng.random((n, codes)) < chance).astype(np.float32))
        described = [CodeBlock(name="codes", kind="binary", vocabulary=[f"K{i:04d}" for i in range(codes)])]
    return assemble(TableSchema(columns=columns, blocks=described), values, blocks=blocks)


def measure(rows: int, codes: int, profile: str, references: bool) -> None:
    """Print one JSON line: seconds of the evaluation and the peak of this process in MiB."""
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.protocol import Parts, evaluate_references, run_evaluation
    from pipeline.features.evaluation_spec import TaskSpec

    cohort = population(rows, codes, 1)
    ends = np.cumsum([rows // 2, rows // 4, rows // 8, rows - rows // 2 - rows // 4 - rows // 8])
    parts = Parts(*(cohort.take(np.arange(b - a, b)) for a, b in zip(np.diff(ends, prepend=0), ends, strict=True)))
    made = population(parts.train.n_rows, codes, 2)
    plan = EvaluationPlan((TaskSpec(name="task", label="c12"),), profile=profile)
    start, worked = time.perf_counter(), time.process_time()
    found = evaluate_references(parts, plan) if references else {}
    run_evaluation(parts, [made], plan, references=found)
    seconds, busy = time.perf_counter() - start, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(seconds, 1), "cpu": round(busy, 1), "peak_mib": round(peak)}))


def main() -> None:
    """Measure both ways, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--codes", type=int, default=0)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--measure", choices=["alone", "references"])
    given = parser.parse_args()
    if given.measure:
        measure(given.rows, given.codes, given.profile, given.measure == "references")
        return
    size = f"{given.rows:,} x 20 mixed" + (f" + {given.codes:,} codes" if given.codes else "")
    print(f"{size}, profile {given.profile}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}")
    for how, title in (("alone", "one synthetic cohort"), ("references", "the same and four reference rows")):
        command = [sys.executable, __file__, "--rows", str(given.rows), "--codes", str(given.codes)]
        out = subprocess.run(
            [*command, "--profile", given.profile, "--measure", how], capture_output=True, text=True, check=True
        )
        figures = json.loads(out.stdout.strip().splitlines()[-1])
        print(f"  {title}: {figures['seconds']} s wall, {figures['cpu']} s CPU, peak {figures['peak_mib']} MiB")


if __name__ == "__main__":
    main()
