"""How often fresh real rows pass the gate at the demo's size, and whether the bootstrap is caught every time.

Run: `.venv/bin/python benchmarks/gate.py [--repetitions 20] [--patients 1600] [--generators bootstrap gaussian_copula]`.
The patients of `cohortloom demo` (three deliveries) are taken in and the cohort `demo` is built by the pipeline's own
steps, once. Each repetition splits them by another key, so that other people train, judge and stand by. What is judged as if it were synthetic is `ref_fresh`: real rows
that nobody has trained on. A gate that refuses them at this size would say nothing about a generator. One rule is not
asked of them: levels and bounds of the schema are those of the training rows, which other people may exceed. The other
generators are trained and judged on the same rows, so that their rate stands beside that limit.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort
    from pipeline.features.spec import CohortSpec
    from pipeline.release.gate import Verdict

FRESH = "fresh real rows"


def demo_cohort(patients: int) -> tuple[Cohort, CohortSpec]:
    """The cohort `demo` with this many patients a delivery, in a home of its own."""
    from pipeline.demo.source import write_demo_deliveries
    from pipeline.features.spec import BUILT_IN_COHORTS, load_book
    from pipeline.features.stored import read_features
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.deliveries import take_in
    from pipeline.workflow.features import features_step, gather_step

    with tempfile.TemporaryDirectory(prefix="cohortloom-gate-") as folder:
        home, compute = Home(Path(folder)).ensure(), Compute()
        lake, cell = Lake(home), Cell.of(load_book([BUILT_IN_COHORTS]), "demo", "2026-03-01")
        for delivery in write_demo_deliveries(home, patients=patients):
            take_in(lake, delivery, cell.source, "fhir", compute)
        gather_step(lake, cell)
        version, _ = features_step(lake, cell, compute)
        return read_features(lake.tables, version), cell.spec


def verdicts(cohort: Cohort, spec: CohortSpec, generators: list[str], repetition: int) -> dict[str, Verdict]:
    """The gate's verdict on fresh real rows and on each generator, on the same real rows."""
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.protocol import Parts, evaluate_references, run_evaluation
    from pipeline.features.split import assign
    from pipeline.generators.registry import generator_class
    from pipeline.generators.seeds import derive_seed
    from pipeline.release.gate import judge

    split, tune = assign(cohort.subject, f"benchmarks/gate.py, repetition {repetition:06d}".encode())
    parts = Parts.of(replace(cohort, split=split, tune=tune))
    plan = EvaluationPlan.of(spec)
    references = evaluate_references(parts, plan)
    fresh = replace(parts.reference0, split=None, tune=None)
    judged = {FRESH: fresh}
    for name in generators:
        model = generator_class(name)(spec.generators.get(name, {}))
        model.fit(parts.train, seed=derive_seed("gate", name, repetition))
        judged[name] = model.sample(parts.train.n_rows, seed=derive_seed("gate", name, repetition, "draw"))
    found = {}
    for name, rows in judged.items():
        results = run_evaluation(parts, [rows], plan, references=references).results
        found[name] = judge(results, spec.gate, plan, references=references)
    found[FRESH] = without_schema(found[FRESH])
    return found


def without_schema(verdict: Verdict) -> Verdict:
    """The verdict of all rules but the schema's."""
    rules = [rule for rule in verdict.rules if rule.group != "schema"]
    given = {rule.status for rule in rules}
    return replace(
        verdict,
        rules=rules,
        status="fail" if "fail" in given else "underpowered" if "underpowered" in given else "pass",
    )


def main() -> None:
    """Repeat, judge, print the rates."""
    from pipeline.demo.source import PATIENTS_A_DELIVERY
    from pipeline.workflow.compute import Compute

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument(
        "--patients", type=int, default=PATIENTS_A_DELIVERY, help="patients a delivery; there are three"
    )
    parser.add_argument("--generators", nargs="*", default=["bootstrap", "gaussian_copula"])
    given = parser.parse_args()
    Compute().bind()
    passed: Counter[str] = Counter()
    reasons: dict[str, Counter[str]] = {}
    cohort, spec = demo_cohort(given.patients)
    for repetition in range(given.repetitions):
        began = perf_counter()
        found = verdicts(cohort, spec, given.generators, repetition)
        shown = []
        for name, verdict in found.items():
            passed[name] += verdict.status == "pass"
            short = [rule.name for rule in verdict.rules if rule.status in ("fail", "underpowered")]
            reasons.setdefault(name, Counter()).update(short)
            shown.append(f"{name}: {verdict.status}" + (f" ({', '.join(short)})" if short else ""))
        print(
            f"{repetition + 1:3} {cohort.n_rows:,} rows, {perf_counter() - began:.0f} s  {'; '.join(shown)}", flush=True
        )
    print(f"\npatients a delivery: {given.patients:,}, three deliveries, profile {spec.evaluation.profile}")
    for name, count in reasons.items():
        kept = ", ".join(f"{rule} {n}" for rule, n in count.most_common()) or "nothing"
        print(f"{name:20} passes in {passed[name]} of {given.repetitions}   kept back by: {kept}")


if __name__ == "__main__":
    main()
