"""How fast deliveries become raw tables, and how much memory that takes.

Makes NDJSON from the Synthea bundles of COHORTLOOM_DATA (untimed), then measures, each in a process of its own and
several times, the best run counting:

  copy            COPY (SELECT * FROM read_json(files, explicit columns)) TO parquet: the yardstick
  clean           the same files to committed raw tables
  1 % bad         the same with one line in a hundred broken
  bundles         the 502 gzipped bundles to committed raw tables
  events          MEDS events from the raw tables

The budget: clean at least half the rate of copy (ratio >= 0.50), same files, columns and threads.
Run: python benchmarks/ingest.py [--repeats 5] [--threads 2] [--copies 4]
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
from datetime import date
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def make_lines(bundles: list[Path], folder: Path, copies: int) -> dict[str, int]:
    """One NDJSON file a type and copy from the bundles; copies get ids of their own. Gives records and bytes."""
    from pipeline.ingest.fhir_columns import TYPES

    counts = {"records": 0, "bytes": 0}
    for copy in range(copies):
        files: dict[str, Any] = {}
        for path in bundles:
            for entry in orjson.loads(gzip.decompress(path.read_bytes()))["entry"]:
                record = entry["resource"]
                kind = record["resourceType"]
                if kind not in TYPES:
                    continue
                record["id"] = f"{record['id']}-{copy}"
                if kind not in files:
                    files[kind] = (folder / f"{kind}.{copy:03}.ndjson").open("wb")
                counts["bytes"] += files[kind].write(orjson.dumps(record) + b"\n")
                counts["records"] += 1
        for file in files.values():
            file.close()
    return counts


def spoil(source: Path, target: Path) -> None:
    """A copy of the NDJSON with one line in a hundred broken (seeded), in the ways that lines break."""
    draw = random.Random(0)
    for path in sorted(source.iterdir()):
        with path.open("rb") as lines, (target / path.name).open("wb") as out:
            for line in lines:
                if draw.random() < 0.01:
                    body = line[:-1]
                    line = (
                        draw.choice([body[: len(body) // 2], b"\xff" + body, body.replace(b'"id":', b'"no":')]) + b"\n"
                    )
                out.write(line)


def copy_all(folder: Path, out: Path, threads: int) -> None:
    """The yardstick: every type's files by explicit columns into one Parquet file, nothing else."""
    from pipeline.ingest.fhir_columns import TYPES, duckdb_columns
    from pipeline.store.connection import connect

    with connect({}, threads=threads, memory_limit="2GB", spill=out) as connection:
        for kind, known in TYPES.items():
            files = sorted(str(path) for path in folder.glob(f"{kind}.*.ndjson"))
            if files:
                connection.execute(
                    f"COPY (SELECT * FROM read_json({files}, format = 'newline_delimited', "
                    f"columns = {duckdb_columns(known.shape)})) TO '{out / kind}.parquet' "
                    "(FORMAT parquet, COMPRESSION zstd)"
                ).fetchall()


def run_step(step: str, folder: Path, work: Path, threads: int) -> dict[str, Any]:
    """One measurement, in this process."""
    from pipeline.features.source import SourceSpec
    from pipeline.ingest.delivery import Delivery
    from pipeline.ingest.events import build_events
    from pipeline.ingest.readers import read_delivery
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

    home = Home(work).ensure()
    lake = Lake(home)
    key = {"delivery": "bench--2026-10-31"}
    told: dict[str, Any] = {}
    if step == "events":
        raw = lake.tables.resolve("raw/fhir", key)
        tables = {name: lake.tables.path(raw, name) for name in raw.files if name != "quarantine"}
    start = time.perf_counter()
    if step == "copy":
        copy_all(folder, work, threads)
    elif step == "events":
        with lake.tables.draft("events", key) as draft:
            told = build_events(tables, draft, format="fhir", source="bench", threads=threads)
            draft.commit()
    else:
        came = Delivery("bench", "2026-10-31", folder, date(2026, 10, 31))
        with lake.tables.draft("raw/fhir", key) as draft:
            account = read_delivery(came, draft, SourceSpec(name="bench", format="fhir"), threads=threads)
            draft.commit(info={"account": account.to_dict()})
        told = account.to_dict()
    told["seconds"] = time.perf_counter() - start
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    told["own_mb"], told["child_mb"] = own / 1024, children / 1024
    return told


def measure(step: str, folder: Path, work: Path, threads: int, repeats: int) -> dict[str, Any]:
    """The best of several runs, each in a fresh process; peak memory is the highest of all."""
    runs = []
    for _ in range(repeats):
        if step != "events":
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
        command = [sys.executable, __file__, "--step", step, str(folder), str(work), "--threads", str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    best = min(runs, key=lambda run: run["seconds"])
    for name in ("own_mb", "child_mb"):
        best[name] = max(run[name] for run in runs)
    return best


def main() -> None:
    """Make the data, measure, print the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--repeats", type=int, default=5)
    words.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    words.add_argument("--copies", type=int, default=4, help="How often the Synthea resources stand in the NDJSON.")
    words.add_argument("--step", nargs=3, metavar=("STEP", "FOLDER", "WORK"), help=argparse.SUPPRESS)
    asked = words.parse_args()
    if asked.step:
        step, folder, work = asked.step
        print(json.dumps(run_step(step, Path(folder), Path(work), asked.threads)))
        return
    data = Path(os.environ.get("COHORTLOOM_DATA") or ROOT.parent / "shared" / "data")
    source = data / "synthea-r4-smart" / "bundles"
    bundles = sorted(source.glob("*.json.gz"))
    if not bundles:
        sys.exit(f"no Synthea bundles at {source}: set COHORTLOOM_DATA")
    with tempfile.TemporaryDirectory(prefix="cohortloom-bench-") as temporary:
        base = Path(temporary)
        for name in ("clean", "bad"):
            (base / name).mkdir()
        size = make_lines(bundles, base / "clean", asked.copies)
        spoil(base / "clean", base / "bad")
        unpacked = sum(len(gzip.decompress(path.read_bytes())) for path in bundles)
        print(
            f"NDJSON: {size['bytes'] / 1e6:.0f} MB, {size['records']:,} resources ({asked.copies} copies of the modelled types); "
            f"bundles: {len(bundles)} files, {unpacked / 1e6:.0f} MB unpacked; {asked.threads} threads, "
            f"best of {asked.repeats}"
        )
        yardstick = measure("copy", base / "clean", base / "w0", asked.threads, asked.repeats)
        clean = measure("clean", base / "clean", base / "w1", asked.threads, asked.repeats)
        bad = measure("bad", base / "bad", base / "w2", asked.threads, max(2, asked.repeats - 2))
        packed = measure("bundles", source, base / "w3", asked.threads, max(2, asked.repeats - 2))
        events = measure("events", base, base / "w1", asked.threads, max(2, asked.repeats - 2))
        print(f"{'':28}{'seconds':>9}{'MB/s':>8}{'per s':>12}{'ratio':>8}{'peak MB':>9}{'+ child':>9}")
        for name, run, volume, count in (
            ("copy (yardstick)", yardstick, size["bytes"], size["records"]),
            ("NDJSON, clean", clean, size["bytes"], size["records"]),
            ("NDJSON, 1 % bad lines", bad, size["bytes"], size["records"]),
            ("bundles", packed, unpacked, packed["in"]),
            ("events from raw tables", events, 0, events["events"]),
        ):
            ratio = f"{yardstick['seconds'] / run['seconds']:8.2f}" if "NDJSON" in name or "copy" in name else " " * 8
            rate = f"{volume / 1e6 / run['seconds']:8.0f}" if volume else " " * 8
            print(
                f"{name:28}{run['seconds']:9.2f}{rate}{count / run['seconds']:12,.0f}{ratio}"
                f"{run['own_mb']:9.0f}{run['child_mb']:9.0f}"
            )
        print(f"quarantined of the bad delivery: {bad['quarantined']}")
        met = yardstick["seconds"] / clean["seconds"] >= 0.5
        print(f"budget (clean at least 0.50 of copy): {'met' if met else 'NOT MET'}")


if __name__ == "__main__":
    main()
