"""How fast deliveries become raw tables, against the limits in the same run, and how much memory that takes.

Modules are loaded before the clock starts, as in a process that takes in deliveries; what the ingest starts itself (the
processes that validate) counts. Three deliveries, made before anything is timed: the Synthea bundles of COHORTLOOM_DATA
as they are, the MIMIC-on-FHIR NDJSON as it is (unpacked), and NDJSON generated from the Synthea resources up to --gb. For
each, every step in a process of its own and several times, the best run counting:

  copy         COPY (SELECT * FROM read_json(files, explicit columns)) TO parquet: the yardstick
  orjson       every line parsed by orjson, nothing else (one core: Python)
  ingest       the same files to committed raw tables, as delivered (a sample is validated)
  unvalidated  the same with validation off
  1 % bad      the generated NDJSON with one line in a hundred broken
  bundles      the gzipped Synthea bundles to committed raw tables
  events       MEDS events from the raw tables of the generated NDJSON
  validation   fhir.resources on a seeded sample of lines: what validating everything would cost (one core)

The budget: ingest at least half the rate of copy (ratio >= 0.50), same files, columns and threads, on the generated
NDJSON; the MIMIC one is so small that what is done once a delivery (about half a second) is most of it.
Run: python benchmarks/ingest.py [--gb 2] [--repeats 3] [--threads 2] [--memory 1GB]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
VALIDATED = 3_000
"""Lines that the cost of full validation is measured on."""


@dataclass(frozen=True)
class Lines:
    """NDJSON in a folder: one resource type a file, told by the file's first line."""

    title: str
    folder: Path
    records: int
    bytes: int


def generate(bundles: list[Path], folder: Path, target: float) -> Lines:
    """One NDJSON file a type and copy from the bundles until `target` bytes; copies get ids of their own."""
    from pipeline.ingest.fhir.columns import TYPES

    folder.mkdir()
    records = written = copy = 0
    once = [
        entry["resource"]
        for path in bundles
        for entry in orjson.loads(gzip.decompress(path.read_bytes()))["entry"]
        if entry["resource"]["resourceType"] in TYPES
    ]
    ids = [record["id"] for record in once]
    while written < target:
        files: dict[str, Any] = {}
        for record, own in zip(once, ids, strict=True):
            kind = record["resourceType"]
            record["id"] = f"{own}-{copy}"
            if kind not in files:
                files[kind] = (folder / f"{kind}.{copy:03}.ndjson").open("wb")
            written += files[kind].write(orjson.dumps(record) + b"\n")
            records += 1
        for file in files.values():
            file.close()
        copy += 1
    return Lines(f"generated, {copy} copies", folder, records, written)


def unpack(source: Path, folder: Path) -> Lines:
    """The gzipped NDJSON of a folder, unpacked."""
    folder.mkdir()
    records = size = 0
    for path in sorted(source.rglob("*.ndjson.gz")):
        data = gzip.decompress(path.read_bytes())
        (folder / path.name.removesuffix(".gz")).write_bytes(data)
        records += data.count(b"\n")
        size += len(data)
    return Lines("MIMIC-on-FHIR", folder, records, size)


def spoil(source: Path, target: Path) -> None:
    """A copy of the NDJSON with one line in a hundred broken (seeded), in the ways that lines break."""
    draw = random.Random(0)
    target.mkdir()
    for path in sorted(source.iterdir()):
        with path.open("rb") as lines, (target / path.name).open("wb") as out:
            for line in lines:
                if draw.random() < 0.01:
                    body = line[:-1]
                    line = (
                        draw.choice([body[: len(body) // 2], b"\xff" + body, body.replace(b'"id":', b'"no":')]) + b"\n"
                    )
                out.write(line)


def by_type(folder: Path) -> dict[str, list[str]]:
    """The files of each type."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.ndjson")):
        with path.open("rb") as file:
            found.setdefault(orjson.loads(file.readline())["resourceType"], []).append(str(path))
    return found


def copy_all(folder: Path, out: Path, threads: int, memory: str) -> None:
    """The yardstick: every type's files by explicit columns into one Parquet file, nothing else.

    Of types without a raw table type and id alone.
    """
    from pipeline.ingest.fhir.columns import TYPES, duckdb_columns
    from pipeline.store.connection import connect

    with connect({}, threads=threads, memory_limit=memory, spill=out) as connection:
        for kind, files in by_type(folder).items():
            shape = TYPES[kind].shape if kind in TYPES else {"resourceType": "text", "id": "text"}
            connection.execute(
                f"COPY (SELECT * FROM read_json({files}, format = 'newline_delimited', "
                f"columns = {duckdb_columns(shape)})) TO '{out / kind}.parquet' "
                "(FORMAT parquet, COMPRESSION zstd)"
            ).fetchall()


def every_line(folder: Path) -> Iterator[bytes]:
    """All lines."""
    for files in by_type(folder).values():
        for name in files:
            with Path(name).open("rb") as file:
                yield from file


def validate(folder: Path) -> dict[str, Any]:
    """fhir.resources on every n-th line: seconds and lines."""
    from fhir.resources.R4B import get_fhir_model_class
    from pydantic import ValidationError

    lines = list(every_line(folder))
    draw = random.Random(0)
    picked = [orjson.loads(line) for line in draw.sample(lines, min(VALIDATED, len(lines)))]
    for kind in {record["resourceType"] for record in picked}:
        get_fhir_model_class(kind)
    failed = 0
    start = time.perf_counter()
    for record in picked:
        try:
            get_fhir_model_class(record["resourceType"]).model_validate(record)
        except ValidationError:
            failed += 1
    return {"seconds": time.perf_counter() - start, "lines": len(picked), "failed": failed}


def peak_mb() -> float:
    """Peak resident memory of this process since its program started (getrusage counts the parent's before exec too)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def run_step(step: str, folder: Path, work: Path, threads: int, memory: str) -> dict[str, Any]:
    """One measurement, in this process."""
    import duckdb  # noqa: F401
    import pandas  # noqa: F401  (pyarrow asks for it)
    import pyarrow.parquet  # noqa: F401

    from pipeline.features.source import SourceSpec, ValidationSpec
    from pipeline.ingest.delivery import Delivery
    from pipeline.ingest.events import build_events
    from pipeline.ingest.fhir import reader  # noqa: F401
    from pipeline.ingest.readers import read_delivery
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

    lake = Lake(Home(work).ensure())
    key = {"delivery": "bench--2026-10-31"}
    told: dict[str, Any] = {}
    if step == "events":
        from pipeline.workflow.deliveries import raw_tables

        tables = raw_tables(lake, lake.tables.resolve("raw/fhir", key))
    start = time.perf_counter()
    if step == "copy":
        copy_all(folder, work, threads, memory)
    elif step == "orjson":
        for line in every_line(folder):
            orjson.loads(line)
    elif step == "validation":
        told = validate(folder)
    elif step == "events":
        with lake.tables.draft("events", key) as draft:
            told = build_events(
                tables, draft, format="fhir", source="bench", threads=threads, memory_limit=memory, spill=work / "spill"
            )
            draft.commit()
    else:
        came = Delivery("bench", "2026-10-31", folder, date(2026, 10, 31))
        checked = ValidationSpec(mode="off") if step == "unvalidated" else ValidationSpec()
        source = SourceSpec(name="bench", format="fhir", validation=checked)
        with lake.tables.draft("raw/fhir", key) as draft:
            account = read_delivery(came, draft, source, threads=threads, memory_limit=memory)
            draft.commit(info={"account": account.to_dict()})
        told = account.to_dict()
    told.setdefault("seconds", time.perf_counter() - start)
    told["own_mb"] = peak_mb()
    told["child_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return told


def measure(step: str, folder: Path, work: Path, asked: argparse.Namespace, repeats: int) -> dict[str, Any]:
    """The best of several runs, each in a fresh process; peak memory is the highest of all."""
    runs = []
    for _ in range(repeats):
        if step != "events":
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
        command = [sys.executable, __file__, "--step", step, str(folder), str(work)]
        command += ["--threads", str(asked.threads), "--memory", asked.memory]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    best = min(runs, key=lambda run: run["seconds"])
    for name in ("own_mb", "child_mb"):
        best[name] = max(run[name] for run in runs)
    return best


def row(name: str, run: dict[str, Any], records: int, size: int, ratio: str = "") -> None:
    """One line of the table."""
    seconds = run["seconds"]
    rate = f"{size / 1e6 / seconds:8.0f}" if size else " " * 8
    print(
        f"  {name:22}{seconds:9.2f}{rate}{records / seconds:12,.0f}{ratio:>9}{run['own_mb']:9.0f}{run['child_mb']:9.0f}",
        flush=True,
    )


def judge_lines(lines: Lines, base: Path, asked: argparse.Namespace) -> bool:
    """All steps on one NDJSON delivery; is the ratio the budget's?"""
    print(f"\n{lines.title}: {lines.bytes / 1e6:,.0f} MB, {lines.records:,} resources")
    print(f"  {'':22}{'seconds':>9}{'MB/s':>8}{'per s':>12}{'of copy':>9}{'peak MB':>9}{'+ child':>9}")
    work = base / "work"
    yardstick = measure("copy", lines.folder, work, asked, asked.repeats)
    row("copy (yardstick)", yardstick, lines.records, lines.bytes, "1.00")

    def against(name: str, step: str, repeats: int) -> dict[str, Any]:
        run = measure(step, lines.folder, work, asked, repeats)
        row(name, run, lines.records, lines.bytes, f"{yardstick['seconds'] / run['seconds']:.2f}")
        return run

    against("unvalidated", "unvalidated", asked.repeats)
    ingest = against("ingest", "ingest", asked.repeats)
    parsed = against("orjson (limit, 1 core)", "orjson", 1)
    told = measure("validation", lines.folder, base / "validated", asked, 1)
    full = told["seconds"] / told["lines"] * lines.records
    print(
        f"  ingest is {parsed['seconds'] / ingest['seconds']:.1f} times as fast as parsing by orjson alone, and "
        f"{full / ingest['seconds']:.0f} times as fast as validating all of it by fhir.resources would be "
        f"({told['lines'] / told['seconds']:,.0f} per s on one core; {told['failed']} of {told['lines']} fail)",
        flush=True,
    )
    return yardstick["seconds"] / ingest["seconds"] >= 0.5


def main() -> None:
    """Make the data, measure, print the tables."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--repeats", type=int, default=3)
    words.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    words.add_argument("--gb", type=float, default=2.0, help="Gigabytes of generated NDJSON.")
    words.add_argument("--memory", default="1GB", help="DuckDB's memory; peak memory of the processes is measured.")
    words.add_argument("--only", choices=("bundles", "mimic", "generated"), help="One delivery only.")
    words.add_argument("--step", nargs=3, metavar=("STEP", "FOLDER", "WORK"), help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.step:
        step, folder, work = asked.step
        print(json.dumps(run_step(step, Path(folder), Path(work), asked.threads, asked.memory)))
        return
    data = Path(os.environ.get("COHORTLOOM_DATA") or ROOT.parent / "shared" / "data")
    source = data / "synthea-r4-smart" / "bundles"
    bundles = sorted(source.glob("*.json.gz"))
    if not bundles:
        sys.exit(f"no Synthea bundles at {source}: set COHORTLOOM_DATA")
    print(f"{asked.threads} threads, DuckDB's memory {asked.memory}, best of {asked.repeats}")
    met = None
    with tempfile.TemporaryDirectory(prefix="cohortloom-bench-") as temporary:
        base = Path(temporary)
        if asked.only in (None, "bundles"):
            unpacked = sum(len(gzip.decompress(path.read_bytes())) for path in bundles)
            packed = measure("bundles", source, base / "work", asked, asked.repeats)
            print(f"\nSynthea, {len(bundles)} gzipped bundles: {unpacked / 1e6:,.0f} MB unpacked")
            row("bundles", packed, packed["in"], unpacked)
        if asked.only in (None, "mimic"):
            judge_lines(unpack(data / "mimic-iv-demo-fhir-2.1.0", base / "mimic"), base, asked)
        if asked.only in (None, "generated"):
            lines = generate(bundles, base / "generated", asked.gb * 1e9)
            met = judge_lines(lines, base, asked)
            spoil(lines.folder, base / "bad")
            bad = measure("bad", base / "bad", base / "work", asked, 1)
            row("1 % bad lines", bad, lines.records, lines.bytes)
            print(f"  quarantined of the bad delivery: {bad['quarantined']}")
            shutil.rmtree(base / "bad")
            row("events", (run := measure("events", base, base / "work", asked, 1)), run["events"], 0)
    if met is not None:
        print(f"\nbudget (ingest at least 0.50 of copy, generated NDJSON): {'met' if met else 'NOT MET'}")
        sys.exit(not met)


if __name__ == "__main__":
    main()
