"""Damage deliveries in every way that comes to mind and see that the account holds: nothing lost, nothing NULL in silence.

Every run takes a small delivery (made up, or cut from the data that COHORTLOOM_DATA points to), damages it, and takes it
in, in a process of its own with a time and a memory limit. It must end in a refusal that is one clear sentence, or in a
balanced account whose rows are what plain Python reads in the files; no message, account or report may hold a patient's
value, and nothing may be written outside the home.

Run: python benchmarks/fuzz.py --format fhir [--runs 500] [--seed 0] [--made-up]
One run again, with its folder kept: python benchmarks/fuzz.py --format fhir --only 17
The exit code is 1 if anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from fuzzing.cases import Case, make, undamaged  # noqa: E402
from fuzzing.deliveries import Seed, seeds  # noqa: E402
from fuzzing.trial import Outcome, attempt  # noqa: E402

FORMATS = ("fhir", "table", "mimic3", "mimic4", "meds")


def load_readers() -> None:
    """Import what every run needs, so that the processes are born with it."""
    import importlib

    for name in (
        "duckdb",
        "jinja2",
        "meds",
        "pandas",
        "pyarrow.parquet",
        "fuzzing.oracle_csv",
        "fuzzing.oracle_fhir",
        "fuzzing.oracle_meds",
        "pipeline.features.source",
        "pipeline.ingest.delivery",
        "pipeline.ingest.events",
        "pipeline.ingest.fhir.reader",
        "pipeline.ingest.fhir.events",
        "pipeline.ingest.meds.reader",
        "pipeline.ingest.meds.events",
        "pipeline.ingest.mimic.reader",
        "pipeline.ingest.mimic.mimic3_events",
        "pipeline.ingest.mimic.mimic4_events",
        "pipeline.ingest.readers",
        "pipeline.ingest.tables.reader",
        "pipeline.store.lake",
        "pipeline.workflow.compute",
        "pipeline.workflow.delivery_report",
    ):
        importlib.import_module(name)


class Fuzzer:
    """Runs cases of one format in folders below one folder.

    Args:
        format: Of the deliveries.
        folder: Where the runs work.
        found: The seed deliveries.
    """

    def __init__(self, format: str, folder: Path, found: list[Seed]) -> None:
        self.format, self.folder, self.seeds = format, folder, found
        self.baselines: dict[str, Path] = {}

    def baseline(self, seed: Seed) -> Path:
        """The tables of an undamaged delivery; it must be without fault itself."""
        if seed.name not in self.baselines:
            sandbox = self.folder / f"seed-{len(self.baselines)}"
            sandbox.mkdir()
            outcome = attempt(undamaged(self.format, seed), sandbox, None)
            if outcome.state != "taken" or outcome.findings:
                raise SystemExit(f"The undamaged delivery '{seed.name}' fails: {outcome}")
            self.baselines[seed.name] = sandbox / "baseline"
        return self.baselines[seed.name]

    def case(self, number: int) -> Case:
        """The case of this number."""
        return make(self.format, number, self.seeds)

    def run(self, case: Case, *, keep: bool = False) -> Outcome:
        """Run a case."""
        baseline = self.baseline(case.seed)
        sandbox = self.folder / f"run-{case.number}"
        sandbox.mkdir()
        try:
            return attempt(case, sandbox, baseline)
        finally:
            if not keep:
                shutil.rmtree(sandbox, ignore_errors=True)


def sort_of(text: str) -> str:
    """A message or finding without its numbers, names and values, to count its kind."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", text)
    return re.sub(r"[\w./*%-]*\d[\w./*%-]*", "N", text)[:150]


def main() -> int:
    """Run the fuzzer from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="number of the first run")
    parser.add_argument("--only", type=int, help="one run, whose folder is kept")
    parser.add_argument("--made-up", action="store_true", help="made-up deliveries only")
    parser.add_argument("--out", type=Path, help="write every finding as a line of JSON")
    asked = parser.parse_args()
    data = Path(os.environ.get("COHORTLOOM_DATA") or ROOT.parent / "shared" / "data")
    load_readers()
    folder = Path(tempfile.mkdtemp(prefix="cohortloom-fuzz-"))
    try:
        fuzzer = Fuzzer(
            asked.format, folder, seeds(asked.format, data if data.is_dir() and not asked.made_up else None)
        )
        if asked.only is not None:
            return _one(fuzzer, asked.only)
        return _many(fuzzer, range(asked.seed, asked.seed + asked.runs), asked.out)
    finally:
        if asked.only is None:
            shutil.rmtree(folder, ignore_errors=True)


def _one(fuzzer: Fuzzer, number: int) -> int:
    case = fuzzer.case(number)
    print(f"{case.seed.name}, {case.threads} threads, limit {case.limit}\n" + "\n".join(case.story))
    outcome = fuzzer.run(case, keep=True)
    print(f"{outcome.state} in {outcome.seconds:.1f} s, {outcome.peak} MiB: {outcome.message}")
    print("\n".join(outcome.findings) or "nothing found")
    print(f"folder: {fuzzer.folder / f'run-{number}'}")
    return bool(outcome.findings)


def _many(fuzzer: Fuzzer, numbers: range, out: Path | None) -> int:
    states: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    found: list[Outcome] = []
    slowest = biggest = Outcome(-1, "")
    for number in numbers:
        outcome = fuzzer.run(fuzzer.case(number))
        states[outcome.state] += 1
        slowest = max(slowest, outcome, key=lambda one: one.seconds)
        biggest = max(biggest, outcome, key=lambda one: one.peak)
        if outcome.state == "refused":
            refusals[sort_of(outcome.message)] += 1
        if outcome.findings:
            found.append(outcome)
            print(
                f"#{number} {outcome.state}: {'; '.join(outcome.findings)[:400]}\n    {' + '.join(outcome.story)[:300]}",
                flush=True,
            )
            if out is not None:
                with out.open("a") as file:
                    file.write(json.dumps({"format": fuzzer.format, **outcome.__dict__}) + "\n")
    counts = ", ".join(f"{n:,} {state}" for state, n in sorted(states.items()))
    print(f"\n{fuzzer.format}: runs {numbers.start} to {numbers.stop - 1}: {counts}; {len(found)} with findings")
    print(f"slowest {slowest.seconds:.1f} s (#{slowest.number}), most memory {biggest.peak} MiB (#{biggest.number})")
    for kind, number in Counter(sort_of(f) for one in found for f in one.findings).most_common(20):
        print(f"  found {number:5,} x {kind}")
    for kind, number in refusals.most_common(25):
        print(f"  refused {number:5,} x {kind}")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
