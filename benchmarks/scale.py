"""What each part costs, at three sizes, and what that comes to at 1, 10 and 100 million patients.

Every measurement is one library step of the demo cohort in a process of its own: seconds of a core (its own and those
of processes that it starts; wall time would tell how busy the machine is), what it wrote, peak memory.
From the three sizes come a fixed cost, a cost that grows with the size, and the exponent of that growth; larger sizes
are extrapolated with it (never with one below 1: that would be noise or a warm cache) and marked `~`. The evaluation
draws at most a fixed number of rows: it is extrapolated to its last cap and carried as it is from there.

Run: python benchmarks/scale.py [--patients 1000 3000 9000] [--threads 1] [--cells 3] [--keep FOLDER]
Prints the tables of docs/scale.md. Wants the extra `demo`; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
MONTH = "2026-01-01"
DRAWN = 500
"""Patients that are drawn; more are copies of them with ids of their own."""
TARGETS = (1_000_000, 10_000_000, 100_000_000)
EPOCHS = 20
SEEN_MB = 0.0005
"""Growth of peak memory a patient under which it drowns in what the libraries take."""
CAPPED_AT = 100_000
"""Patients at which the last cap of the evaluation's profile `standard` (50,000 rows) is reached."""
UUID = re.compile(r"[0-9a-f]{4}(?=[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")


@dataclass(frozen=True)
class Part:
    """One row of the table.

    Attributes:
        step: What is measured.
        title: In words.
        of_patients: Units for a patient: training rows are half of the patients.
        unit: What a unit is called.
        capped: Does it stop growing?
        engine: What carries it, and what comes next.
    """

    step: str
    title: str
    unit: str
    of_patients: float
    engine: str
    capped: bool = False


PARTS = (
    Part("ingest", "FHIR to raw tables", "patient", 1, "DuckDB and validating processes, a delivery at a time"),
    Part("features", "features in SQL, split, schema", "patient", 1, "DuckDB, spills to disk; then Arrow in memory"),
    Part("copula", "training `gaussian_copula`", "training row", 0.5, "NumPy in memory"),
    Part("vae", f"training `vae`, {EPOCHS} epochs", "training row", 0.5, "PyTorch; a GPU or Ray from there on"),
    Part("sample", "drawing as many rows from `vae`", "row", 0.5, "PyTorch in memory"),
    Part("references", "reference rows, profile standard", "row", 0.5, "NumPy, scikit-learn", capped=True),
    Part("evaluation", "evaluation of `vae`, standard", "row", 0.5, "NumPy, scikit-learn", capped=True),
)


@dataclass(frozen=True)
class Law:
    """`fixed + growth * n ** exponent` through three measurements.

    Attributes:
        measured: The exponent as measured, NaN where the differences are too small to tell.
        exponent: The one that is used: at least 1.
    """

    measured: float
    exponent: float
    fixed: float
    growth: float

    @classmethod
    def through(cls, sizes: list[float], values: list[float]) -> Law:
        """Through three sizes of which each is the same multiple of the one before."""
        first, second = values[1] - values[0], values[2] - values[1]
        told = first > 0 and second > 0
        measured = math.log(second / first) / math.log(sizes[2] / sizes[1]) if told else math.nan
        exponent = max(1.0, measured) if told else 1.0
        growth = max(second, 0.0) / (sizes[2] ** exponent - sizes[1] ** exponent)
        return cls(measured, exponent, max(values[2] - growth * sizes[2] ** exponent, 0.0), growth)

    def at(self, size: float) -> float:
        """The value at a size."""
        return self.fixed + self.growth * size**self.exponent


def draw(folder: Path, patients: int) -> dict[str, int]:
    """NDJSON of so many made-up patients, one file a type and copy; gives resources and bytes."""
    from pipeline.demo.source import PLANS, draw_ndjson

    folder.mkdir()
    told = {"resources": 0, "bytes": 0}
    drawn = draw_ndjson(PLANS[0], min(DRAWN, patients))
    for copy in range(max(1, patients // DRAWN)):
        for kind, text in drawn.items():
            own = UUID.sub(f"{copy:04x}", text)
            (folder / f"{kind}.{copy:04}.ndjson").write_text(own, encoding="utf-8")
            told["resources"] += own.count("\n")
            told["bytes"] += len(own)
    return told


def measure(step: str) -> dict[str, float]:
    """One step, in this process, in the home that the environment names."""
    from pipeline.features.spec import load_book
    from pipeline.ingest.delivery import landed
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow import deliveries, features, judging, training
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute

    compute = Compute.from_environment()
    compute.bind()
    book, home = load_book(), Home.from_environment().ensure()
    lake, cell = Lake(home), Cell.of(book, "scale", MONTH)
    if step in ("copula", "vae", "sample", "references", "evaluation"):
        import torch  # noqa: F401 (not a part of what the step costs)
    began = _core_seconds()
    match step:
        case "ingest":
            version, _ = deliveries.take_in(lake, landed(home)[0], cell.source, "fhir", compute)
        case "features":
            features.gather_step(lake, cell)
            version, _ = features.features_step(lake, cell, compute)
        case "copula":
            version = training.fit_step(lake, cell, "gaussian_copula", compute).version
        case "vae":
            version = training.fit_step(lake, cell, "vae", compute).version
        case "sample":
            version = training.sample_step(lake, cell, "vae").version
        case "references":
            version, _ = judging.references_step(lake, cell)
        case _:
            version = judging.evaluate_step(lake, cell, "vae").version
    seconds = _core_seconds() - began
    if version.info.get("status", "ok") != "ok":
        raise SystemExit(f"{step}: {version.info['reason']}")
    written = sum(file.bytes for file in version.files.values())
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"seconds": seconds, "bytes": written, "peak_mb": peak / 1024}


def _core_seconds() -> float:
    """Seconds of a core that this process and its ended children have taken."""
    taken = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in taken)


def disk_bytes(folder: Path, threads: int) -> dict[str, float]:
    """Bytes a patient of raw tables and features, of patients that are all different: copies compress too well."""
    written: dict[str, list[float]] = {"ingest": [], "features": []}
    sizes = (DRAWN // 2, DRAWN)
    for patients in sizes:
        place = folder / f"disk{patients}"
        settings = environment(place, threads)
        draw(place / "ndjson", patients)
        land(settings, place / "ndjson")
        for step, found in written.items():
            found.append(apart(settings, step)["bytes"])
    return {step: (found[1] - found[0]) / (sizes[1] - sizes[0]) for step, found in written.items()}


def measure_pointers(partitions: int) -> float:
    """Seconds to list so many partitions of an asset and to read the pointer of each."""
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

    lake = Lake(Home.from_environment().ensure())
    asset = f"listing{partitions}"
    for k in range(partitions):
        key = {"cohort": f"c{k // 100:04}", "month": f"{2000 + k % 100}-01-01"}
        with lake.tables.draft(asset, key) as draft:
            draft.file("one.json").write_text("{}")
            draft.commit()
    began = _core_seconds()
    for key in lake.tables.partitions(asset):
        lake.tables.current(asset, key)
    return _core_seconds() - began


def measure_cells(cells: int) -> list[float]:
    """Seconds of whole runs through Dagster that find next to nothing to do: what a backfill pays for each cell."""
    from assets.run import run_cohort

    found = []
    for _ in range(cells):
        began = _core_seconds()
        outcome = run_cohort("scale", MONTH, generators=["independent"])
        assert outcome.success, outcome
        found.append(_core_seconds() - began)
    return found


def environment(folder: Path, threads: int) -> dict[str, str]:
    """Of a home with the cohort `scale`: the demo's table with the generators that are measured."""
    cohorts = folder / "cohorts"
    cohorts.mkdir(parents=True, exist_ok=True)
    demo = (ROOT / "cohorts" / "demo.yaml").read_text(encoding="utf-8")
    kept = [
        block
        for block in re.split(r"(?m)^(?=[a-z_]+:)", demo)
        if block.split(":")[0] in ("unit", "subject", "columns", "tasks", "protected", "constraints")
    ]
    (cohorts / "scale.yaml").write_text(
        "title: Demo patients, many\nsource: scale\nsql: scale.sql\nevaluation: {profile: standard}\n"
        "generators:\n  independent: {}\n  gaussian_copula: {}\n"
        f"  vae: {{epochs: {EPOCHS}, patience: 0}}\n" + "".join(kept)
    )
    (cohorts / "scale.sql").write_text((ROOT / "cohorts" / "demo.sql").read_text(encoding="utf-8"))
    (cohorts / "sources.yaml").write_text(
        "scale: {format: fhir, dates: real, accumulate: merge, split_key: published}\n"
    )
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("COHORTLOOM_", "DAGSTER_", "RAY_"))}
    return {
        **mine,
        "COHORTLOOM_HOME": str(folder / "home"),
        "COHORTLOOM_COHORTS": str(cohorts),
        "COHORTLOOM_THREADS": str(threads),
        "DAGSTER_HOME": str(folder / "home" / "dagster"),
        "PYTHONWARNINGS": "ignore",
    }


def apart(settings: dict[str, str], *arguments: str) -> Any:
    """Run this file in a process of its own and give what it measured."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", *arguments], env=settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def land(settings: dict[str, str], source: Path) -> None:
    """Hand the drawn patients over, so that they can be taken in."""
    code = (
        "import sys, datetime as dt; from pathlib import Path; from pipeline.store.home import Home\n"
        "from pipeline.ingest.delivery import hand_over\n"
        "hand_over(Home.from_environment().ensure(), 'scale', Path(sys.argv[1]), as_of=dt.date(2026, 1, 31))"
    )
    subprocess.run([sys.executable, "-c", code, str(source)], env=settings, cwd=ROOT, check=True)


def main() -> None:
    """Measure, extrapolate, print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--patients", type=int, nargs=3, default=[1000, 3000, 9000])
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--cells", type=int, default=3)
    words.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.measure:
        what, *rest = asked.measure
        told: Any = (
            measure_pointers(int(rest[0]))
            if what == "pointers"
            else measure_cells(int(rest[0]))
            if what == "cells"
            else measure(what)
        )
        print(json.dumps(told))
        return
    found: dict[str, list[dict[str, float]]] = {part.step: [] for part in PARTS}
    with tempfile.TemporaryDirectory(prefix="cohortloom-scale-") as temporary:
        for patients in asked.patients:
            folder = Path(temporary) / str(patients)
            settings = environment(folder, asked.threads)
            size = draw(folder / "ndjson", patients)
            land(settings, folder / "ndjson")
            for part in PARTS:
                found[part.step].append(apart(settings, part.step))
                print(f"# {patients:>7,} patients  {part.step:<11}{found[part.step][-1]}", file=sys.stderr, flush=True)
        each = disk_bytes(Path(temporary), asked.threads)
        small = environment(Path(temporary) / str(asked.patients[0]), asked.threads)
        counts = [250, 1000, 4000]
        pointers = [apart(small, "pointers", str(n)) for n in counts]
        cells = apart(small, "cells", str(asked.cells))
    more = asked.patients[2] - asked.patients[1]
    each["sample"] = (found["sample"][2]["bytes"] - found["sample"][1]["bytes"]) / more
    report(asked.patients, size, found, each, counts, pointers, cells)


def report(
    sizes: list[int],
    size: dict[str, int],
    found: dict[str, list[dict[str, float]]],
    each: dict[str, float],
    counts: list[int],
    pointers: list[float],
    cells: list[float],
) -> None:
    """The tables of the document."""
    import torch

    loads = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(
        f"Measured {dt.datetime.now(dt.UTC):%d %B %Y}: {os.cpu_count()} cores ({platform.machine()}), one thread a step, "
        f"torch {torch.__version__}, Python {platform.python_version()}; load average at the end {loads}."
    )
    print(
        f"A patient of the demo has {size['resources'] / sizes[2]:.0f} resources of "
        f"{size['bytes'] / size['resources']:.0f} bytes.\n"
    )
    print(f"| part | {' | '.join(f'{n:,}' for n in sizes)} patients | exponent | per unit | 1 M | 10 M | 100 M |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for part in PARTS:
        law = Law.through(list(map(float, sizes)), [run["seconds"] for run in found[part.step]])
        measured = [f"{run['seconds']:.1f} s" for run in found[part.step]]
        if part.capped:
            told = [f"~{_time(law.at(CAPPED_AT))} at most"] * 3
        else:
            told = [f"~{_time(law.at(n))}" for n in TARGETS]
        unit = law.growth * sizes[2] ** (law.exponent - 1) / part.of_patients
        print(
            f"| {part.title} | {' | '.join(measured)} | {_exponent(law)} | "
            f"{'-' if part.capped else f'{unit * 1e6:.0f} µs a {part.unit}'} | {' | '.join(told)} |"
        )
    print(
        f"\n| part | {' | '.join(f'{n:,}' for n in sizes)} patients, peak MB | a patient | 1 M | 10 M | 100 M | engine |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for part in PARTS:
        peaks = [run["peak_mb"] for run in found[part.step]]
        line = Law(1.0, 1.0, peaks[2] - (peaks[2] - peaks[1]) * sizes[2] / (sizes[2] - sizes[1]),
                   max(0.0, (peaks[2] - peaks[1]) / (sizes[2] - sizes[1])))  # fmt: skip
        told = [f"~{_size(line.at(min(n, CAPPED_AT) if part.capped else n) * 1e6)}" for n in TARGETS]
        if line.growth < SEEN_MB:
            told = ["not to be seen"] * 3
        print(
            f"| {part.title} | {' | '.join(f'{p:.0f}' for p in peaks)} | {line.growth * 1e3:.1f} kB | "
            f"{' | '.join(told)} | {part.engine} |"
        )
    print("\n| on disk | bytes a patient | 1 M | 10 M | 100 M |\n| --- | --- | --- | --- | --- |")
    print(_disk("NDJSON as delivered", size["bytes"] / sizes[2]))
    for step, title in (("ingest", "raw tables (Parquet)"), ("features", "features"), ("sample", "synthetic rows")):
        print(_disk(title, each[step]))
    law = Law.through(list(map(float, counts)), pointers)
    print(
        f"\nPointers: {', '.join(f'{n:,} partitions {s:.2f} s' for n, s in zip(counts, pointers, strict=True))}; "
        f"exponent {_exponent(law)}, {pointers[2] / counts[2] * 1e6:.0f} µs each; ~{law.at(20_000):.1f} s for 20,000."
    )
    print(
        f"Whole cells through Dagster ({sizes[0]:,} patients, generator `independent`): "
        f"{', '.join(f'{s:.1f}' for s in cells)} s, the first with the start of the libraries."
    )


def _disk(title: str, each: float) -> str:
    return f"| {title} | {each:,.0f} | {' | '.join(f'~{_size(each * n)}' for n in TARGETS)} |"


def _exponent(law: Law) -> str:
    return "-" if math.isnan(law.measured) else f"{law.measured:.2f}"


def _time(seconds: float) -> str:
    for limit, divisor, word in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {word}"
    return f"{seconds / 86_400:.0f} d"


def _size(count: float) -> str:
    for limit, divisor, word in ((1e9, 1e6, "MB"), (1e12, 1e9, "GB")):
        if count < limit:
            return f"{count / divisor:.0f} {word}"
    return f"{count / 1e12:.1f} TB"


if __name__ == "__main__":
    main()
