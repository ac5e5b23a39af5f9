"""How often the release gate errs: real people who are refused, controls that give patients away and are let through.

Run: `.venv/bin/python benchmarks/gate.py [--cohort support] [--repetitions 20] [--shares 1 0.5] [--generators bootstrap smote]`.
The cohort is built once by the pipeline's own steps (`demo` from its made-up patients, the others from the data that
COHORTLOOM_DATA points to). Each repetition splits its people by another key, so that others train, judge and stand by,
and judges by the cohort's own thresholds in profile `quick`:

- fresh real rows (`ref_fresh`: nobody trained on them). They should pass the privacy part; every other outcome is an
  error of the gate (a fail) or want of power (underpowered). Of the rest of the gate the schema is not asked of them:
  levels and bounds are those of the training rows, which other people may exceed;
- the training rows themselves (`ref_train`) and what the generators draw. `bootstrap` and `smote` give patients away and
  must not pass.

`--shares` repeats all this on a part of the people, to see from how many on the gate has power.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort
    from pipeline.features.spec import CohortSpec
    from pipeline.release.gate import Verdict

FRESH, TRAIN = "fresh real rows", "training rows copied"
ASKED = {FRESH: ("privacy", "fidelity", "utility", "fairness"), TRAIN: ("privacy",)}
"""Groups of rules that are asked of rows that no generator made."""
FILES = {
    "support": ("support", "support/support.csv.gz"),
    "adult": ("adult", "uci-adult"),
    "diabetes130": ("diabetes130", "diabetes-130"),
    "synpuf_codes": ("synpuf", "cms-desynpuf"),
}


def build(name: str, patients: int) -> tuple[Cohort, CohortSpec]:
    """A shipped cohort as `deliver` and `run` make it, in a home of its own."""
    from pipeline.demo.source import write_demo_deliveries
    from pipeline.features.spec import BUILT_IN_COHORTS, load_book
    from pipeline.features.split import ENVIRONMENT, PUBLISHED_KEY
    from pipeline.features.stored import read_features
    from pipeline.ingest.delivery import hand_over
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.deliveries import take_in
    from pipeline.workflow.features import features_step, gather_step

    os.environ[ENVIRONMENT] = PUBLISHED_KEY.decode()
    root = Path(__file__).resolve().parents[1]
    data = Path(os.environ.get("COHORTLOOM_DATA") or root.parent / "shared" / "data")
    with tempfile.TemporaryDirectory(prefix="cohortloom-gate-") as folder:
        home, compute = Home(Path(folder)).ensure(), Compute()
        month = "2026-03-01" if name == "demo" else "2026-10-01"
        lake, cell = Lake(home), Cell.of(load_book([BUILT_IN_COHORTS]), name, month)
        if name == "demo":
            deliveries = write_demo_deliveries(home, patients=patients)
        else:
            source, place = FILES[name]
            deliveries = [hand_over(home, source, data / place, as_of=date(2026, 10, 31))]
        for delivery in deliveries:
            take_in(lake, delivery, cell.source, cell.source.format, compute)
        gather_step(lake, cell)
        version, _ = features_step(lake, cell, compute)
        return read_features(lake.tables, version), cell.spec


def verdicts(
    repetition: int, cohort: Cohort, spec: CohortSpec, generators: list[str], share: float
) -> dict[str, Verdict]:
    """The gate's verdict on both kinds of real rows and on each generator, on the same people."""
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.protocol import Parts, evaluate_references, run_evaluation
    from pipeline.features.split import assign
    from pipeline.generators.registry import generator_class
    from pipeline.generators.seeds import derive_seed
    from pipeline.release.gate import judge
    from pipeline.workflow.compute import Compute

    Compute().bind()
    subjects = np.unique(cohort.subject)
    rng = np.random.default_rng([repetition, round(1000 * share)])
    kept = subjects if share >= 1 else rng.choice(subjects, round(share * len(subjects)), replace=False)
    people = cohort if share >= 1 else cohort.take(np.isin(cohort.subject, kept))
    split, tune = assign(people.subject, f"benchmarks/gate.py, repetition {repetition:06d}".encode())
    parts = Parts.of(replace(people, split=split, tune=tune))
    plan = replace(EvaluationPlan.of(spec), profile="quick")
    references = evaluate_references(parts, plan)
    judged = {FRESH: references["ref_fresh"], TRAIN: references["ref_train"]}
    for name in generators:
        model = generator_class(name)(spec.generators.get(name, {}))
        model.fit(parts.train, seed=derive_seed("gate", name, repetition))
        drawn = model.sample(parts.train.n_rows, seed=derive_seed("gate", name, repetition, "draw"))
        judged[name] = run_evaluation(parts, [drawn], plan, references=references).results
    found = {name: judge(results, spec.gate, plan, references=references) for name, results in judged.items()}
    return {name: verdict.only(*ASKED[name]) if name in ASKED else verdict for name, verdict in found.items()}


def main() -> None:
    """Repeat, judge, print the rates."""
    from pipeline.demo.source import PATIENTS_A_DELIVERY

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", default="demo", choices=["demo", *FILES])
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--patients", type=int, default=PATIENTS_A_DELIVERY, help="of demo: a delivery; there are three"
    )
    parser.add_argument("--shares", nargs="*", type=float, default=[1.0], help="parts of the people to repeat it on")
    parser.add_argument("--generators", nargs="*", default=["bootstrap", "smote", "gaussian_copula"])
    parser.add_argument("--jobs", type=int, default=1, help="repetitions at once")
    given = parser.parse_args()
    cohort, spec = build(given.cohort, given.patients)
    for share in given.shares:
        began = perf_counter()
        one = partial(verdicts, cohort=cohort, spec=spec, generators=given.generators, share=share)
        if given.jobs > 1:
            with ProcessPoolExecutor(given.jobs) as pool:
                found = list(pool.map(one, range(given.repetitions)))
        else:
            found = [one(k) for k in range(given.repetitions)]
        people = round(share * cohort.n_subjects)
        print(
            f"\n{given.cohort}: {people:,} people, {given.repetitions} repetitions, profile quick, "
            f"{perf_counter() - began:.0f} s"
        )
        tell(found)


def tell(found: list[dict[str, Verdict]]) -> None:
    """For each kind of rows: verdicts of the privacy part and of all, and what kept them back."""
    for name in found[0]:
        tally: dict[str, Counter[str]] = defaultdict(Counter)
        for one in found:
            verdict = one[name]
            tally["privacy"][verdict.only("privacy").status] += 1
            tally["all"][verdict.status] += 1
            for rule in verdict.rules:
                if rule.status in ("fail", "underpowered"):
                    tally[rule.status][rule.name] += 1
        print(
            f"{name:22} privacy: "
            + ", ".join(f"{k} {v}" for k, v in sorted(tally["privacy"].items()))
            + "; all: "
            + ", ".join(f"{k} {v}" for k, v in sorted(tally["all"].items()))
        )
        for status in ("fail", "underpowered"):
            if tally[status]:
                print(f"    {status}: " + ", ".join(f"{k} {v}" for k, v in tally[status].most_common()), flush=True)


if __name__ == "__main__":
    main()
