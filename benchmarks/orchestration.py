"""What Dagster costs: loading the code location, and a cohort-month run beyond the time spent inside library steps.

Budgets (2 cores): code location under 1 s beyond `import dagster`; under 6 s a run. Everything happens in a throw-away
home on a made-up table. Usage: python benchmarks/orchestration.py [--rows 1000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MONTH = "2026-10-01"
STEPS = {
    "pipeline.workflow.deliveries": ("take_in", "make_events"),
    "pipeline.workflow.features": ("gather_step", "features_step"),
    "pipeline.workflow.training": ("fit_step", "sample_step"),
    "pipeline.workflow.judging": ("references_step", "evaluate_step"),
    "pipeline.workflow.board": ("leaderboard_step",),
    "pipeline.workflow.structure": ("structure_of", "schema_of", "training_frame", "violations"),
    "pipeline.workflow.settings": ("moved_on",),
}
"""What counts as inside the library; the rest of a run's wall time is the orchestration's."""

LOAD = """
import sys, time, warnings
warnings.simplefilter("ignore")
began = time.perf_counter(); import dagster; middle = time.perf_counter(); import assets.definitions
print(middle - began, time.perf_counter() - middle)
"""
RUN = """
import importlib, json, sys, time, warnings
began = time.perf_counter()
warnings.simplefilter("ignore")
steps, month = json.loads(sys.argv[1]), sys.argv[2]
inside, depth = [0.0], [0]
def timed(function):
    def call(*args, **kwargs):
        depth[0] += 1
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            depth[0] -= 1
            if depth[0] == 0:
                inside[0] += time.perf_counter() - start
    return call
from assets.run import run_cohort
imported = time.perf_counter()
for module, names in steps.items():
    loaded = importlib.import_module(module)
    for name in names:
        setattr(loaded, name, timed(getattr(loaded, name)))
libraries = time.perf_counter() - imported
outcome = run_cohort("bench", month)
assert outcome.success, outcome
print(json.dumps({"process": time.perf_counter() - began, "run": outcome.seconds, "inside": inside[0],
                  "imports": libraries, "assets": len(outcome.assets)}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cohortloom-bench-") as folder:
        environment = prepare(Path(folder), arguments.rows)
        python(LOAD, environment)  # makes the cards of the generators once, as a first start does
        loads = [[float(x) for x in python(LOAD, environment).split()] for _ in range(arguments.repeats)]
        runs = [json.loads(python(RUN, environment, json.dumps(STEPS), MONTH)) for _ in range(arguments.repeats)]
    dagster, location = (statistics.median(column) for column in zip(*loads, strict=True))
    print(f"import dagster                       {dagster:6.2f} s")
    print(f"code location beyond it              {location:6.2f} s   budget 1 s")
    facts = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    steps, inside = int(facts["assets"]), facts["inside"]
    print(f"run of a cohort-month, {steps} assets      {facts['run']:6.2f} s   ({arguments.rows:,} rows, 2 generators)")
    print(f"  inside library steps               {inside:6.2f} s")
    print(f"  orchestration of the run           {facts['run'] - inside:6.2f} s   budget 6 s")
    whole = facts["process"] - inside - facts["imports"]
    print(
        f"  with start of the process          {whole:6.2f} s   (without {facts['imports']:.2f} s importing the library)"
    )


def prepare(folder: Path, rows: int) -> dict[str, str]:
    """A home with one delivery taken in, and a cohort with two generators; gives the environment to use them."""
    rng = np.random.default_rng(0)
    age = np.round(rng.normal(60, 12, rows), 1)
    lactate = np.round(np.exp(rng.normal(0.3, 0.4, rows)), 2)
    died = (rng.random(rows) < 1 / (1 + np.exp(2 - lactate))).astype(int)
    cohorts, table = folder / "cohorts", folder / "visits.csv"
    cohorts.mkdir()
    lines = [f"{a},{v},{d}" for a, v, d in zip(age, lactate, died, strict=True)]
    table.write_text("\n".join(["age,lactate,died", *lines]) + "\n")
    (cohorts / "sources.yaml").write_text("bench: {format: table, dates: none, split_key: published}\n")
    (cohorts / "bench.sql").write_text("SELECT age, lactate, died FROM visits\n")
    (cohorts / "bench.yaml").write_text(
        "source: bench\nunit: row\nsubject: row\nsql: bench.sql\ncolumns: {died: {kind: binary}}\n"
        "tasks: [{name: mortality, label: died}]\nevaluation: {profile: quick}\n"
        "generators: {independent: {}, gaussian_copula: {}}\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COHORTLOOM_", "DAGSTER_"))}
    environment |= {"COHORTLOOM_HOME": str(folder / "home"), "COHORTLOOM_COHORTS": str(cohorts)}
    environment |= {"DAGSTER_HOME": str(folder / "home" / "dagster"), "PYTHONWARNINGS": "ignore"}
    deliver = (
        "import sys, datetime as dt; from pathlib import Path; from pipeline.store.home import Home\n"
        "from pipeline.ingest.delivery import hand_over; from assets.run import ingest\n"
        "home = Home.from_environment().ensure()\n"
        "key = hand_over(home, 'bench', Path(sys.argv[1]), as_of=dt.date(2026, 10, 15), name='one').key\n"
        "assert ingest(key).success"
    )
    python(deliver, environment, str(table))
    return environment


def python(code: str, environment: dict[str, str], *arguments: Any) -> str:
    """Run code in a process of its own and give what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    return done.stdout.strip()


if __name__ == "__main__":
    main()
