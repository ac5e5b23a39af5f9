"""A backfill of two cohorts by twelve months: through a running UI, with `--local`, and the bare library beside it.

One delivery of each source, known from the first month on, so that every month is made of the same rows: made-up FHIR
patients (carebundle), and a made-up plain table. Preset `quick`, from
`cohort_inputs` to the end of the chain. Printed: cells there, wall seconds, seconds a cell, and the peak of the
resident memory of all processes together. The bare library makes the same cells one after the other in one process:
what a backfill takes longer than that (on as many cores) is what orchestration costs.
Usage: python benchmarks/backfill.py [--months 12] [--patients 300] [--rows 1000] [--jobs 2] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COHORTLOOM = Path(sys.executable).with_name("cohortloom")
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
BARE = """
import json, sys, time
from pipeline.features.spec import load_book
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow.cell import Cell
from pipeline.workflow.compute import Compute
from pipeline.workflow.features import features_step, gather_step
from pipeline.workflow.board import leaderboard_step
from pipeline.workflow.judging import evaluate_step, references_step
from pipeline.workflow.training import fit_step, sample_step
cohorts, months, preset = json.loads(sys.argv[1])
compute = Compute.from_environment()
compute.bind()
lake, book = Lake(Home.from_environment().ensure()), load_book()
began = time.perf_counter()
for cohort in cohorts:
    for month in months:
        cell = Cell.of(book, cohort, month)
        gather_step(lake, cell)
        features_step(lake, cell, compute)
        references_step(lake, cell)
        for name in cell.spec.generators:
            fit_step(lake, cell, name, compute, overrides={"preset": preset})
            sample_step(lake, cell, name)
            evaluate_step(lake, cell, name)
        leaderboard_step(lake, cell, list(cell.spec.generators))
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Figures:
    """What one way of making the cells took."""

    name: str
    cells: int
    of: int
    seconds: float
    peak: int

    def line(self) -> str:
        """As it is printed."""
        each = self.seconds / max(self.cells, 1)
        return f"{self.name:34}{self.cells:4}/{self.of:<4}{self.seconds:9.1f}{each:12.2f}{self.peak / 2**30:14.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--rows", type=int, default=1000, help="of the made-up table")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--keep", type=Path, help="work here, and leave everything as it is")
    given = parser.parse_args()
    months = last_months(given.months)
    with contextlib.ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cohortloom-bench-")))
        folder.mkdir(exist_ok=True)
        prepare_table(folder, given.rows)
        cohorts = ["demo", "bench"]
        print(
            f"{given.patients} FHIR patients and a table of {given.rows:,} rows, {months[0][:7]} to {months[-1][:7]}; ",
            end="",
        )
        print(f"preset {given.preset}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
        print(f"{'':34}{'cells':>8}{'seconds':>10}{'a cell':>12}{'peak, GiB':>14}")
        span = f"{months[0][:7]}..{months[-1][:7]}"
        there = home(folder / "ui", folder, given.patients, months[0])
        ui = measure_ui(there, cohorts, months, span, given.preset)
        print(ui.line(), flush=True)
        here = home(folder / "local", folder, given.patients, months[0])
        local = measure_local(here, cohorts, months, span, given.preset, given.jobs)
        print(local.line(), flush=True)
        bare = measure_bare(home(folder / "bare", folder, given.patients, months[0]), cohorts, months, given.preset)
        print(bare.line(), f" load {os.getloadavg()[0]:.1f} at the end", flush=True)
    for figures in (local, ui):
        print(f"{figures.name.strip()}: {figures.seconds / bare.seconds:.2f} times the bare library's wall time")


def last_months(n: int) -> list[str]:
    """The last months of the calendar, the running one included."""
    day, found = dt.datetime.now(tz=dt.UTC).date().replace(day=1), []
    for _ in range(n):
        found.append(f"{day:%Y-%m-%d}")
        day = (day - dt.timedelta(days=1)).replace(day=1)
    return found[::-1]


def prepare_table(folder: Path, rows: int) -> None:
    """The second cohort's table and files."""
    (folder / "cohorts").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    age = np.round(rng.normal(60, 12, rows), 1)
    lactate = np.round(np.exp(rng.normal(0.3, 0.4, rows)), 2)
    died = (rng.random(rows) < 1 / (1 + np.exp(2 - lactate))).astype(int)
    lines = [f"{a},{v},{d}" for a, v, d in zip(age, lactate, died, strict=True)]
    (folder / "visits.csv").write_text("\n".join(["age,lactate,died", *lines]) + "\n")
    (folder / "cohorts" / "sources.yaml").write_text("bench: {format: table, dates: none, split_key: published}\n")
    (folder / "cohorts" / "bench.sql").write_text("SELECT age, lactate, died FROM visits\n")
    (folder / "cohorts" / "bench.yaml").write_text(
        "source: bench\nunit: row\nsubject: row\nsql: bench.sql\ncolumns: {died: {kind: binary}}\n"
        "tasks: [{name: mortality, label: died}]\nevaluation: {profile: quick}\n"
        "generators: {independent: {}, gaussian_copula: {}, vae: {}}\n"
    )


def home(root: Path, folder: Path, patients: int, first: str) -> dict[str, str]:
    """A home in which both deliveries, known since the first month, were taken in; gives its environment."""
    from pipeline.features.split import ENVIRONMENT, PUBLISHED_KEY

    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COHORTLOOM_", "DAGSTER_"))}
    environment = {
        **kept,
        "COHORTLOOM_HOME": str(root),
        "COHORTLOOM_COHORTS": str(folder / "cohorts"),
        "COHORTLOOM_START_MONTH": first[:7],
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PYTHONWARNINGS": "ignore",
        ENVIRONMENT: PUBLISHED_KEY.decode(),
    }
    people = folder / "people"
    if not people.is_dir():
        from pipeline.demo.source import Plan, draw_ndjson

        people.mkdir()
        day = dt.date.fromisoformat(first)
        for kind, lines in draw_ndjson(Plan(as_of=day, visits=day, seed=101), patients).items():
            (people / f"{kind}.ndjson").write_text(lines)
    for name, path in (("demo", people), ("bench", folder / "visits.csv")):
        command(environment, "deliver", name, str(path), "--as", first, "--name", "one")
    return environment


def measure_bare(environment: dict[str, str], cohorts: list[str], months: list[str], preset: str) -> Figures:
    """The same steps without Dagster, one after the other in one process."""
    process = subprocess.Popen(
        [sys.executable, "-c", BARE, json.dumps([cohorts, months, preset])],
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with Memory(process.pid) as memory:
        said, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit("the bare library failed")
    there = count(environment, cohorts, months)
    return Figures("bare library, one process", there, len(cohorts) * len(months), float(said), memory.peak)


def measure_local(
    environment: dict[str, str], cohorts: list[str], months: list[str], span: str, preset: str, jobs: int
) -> Figures:
    """`cohortloom backfill --local`."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [COHORTLOOM, "backfill", *cohorts, "--months", span, "--preset", preset, "--local", "--jobs", str(jobs)],
        env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with Memory(process.pid) as memory:
        process.wait()
    seconds = time.perf_counter() - began
    there = count(environment, cohorts, months)
    return Figures(f"--local --jobs {jobs}", there, len(cohorts) * len(months), seconds, memory.peak)


def measure_ui(environment: dict[str, str], cohorts: list[str], months: list[str], span: str, preset: str) -> Figures:
    """`cohortloom backfill` to a UI that has been started before the clock."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [COHORTLOOM, "ui", "--port", str(port)],
        env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        until_healthy(url, environment)
        began = time.perf_counter()
        with Memory(process.pid) as memory:
            arguments = ("backfill", *cohorts, "--months", span, "--preset", preset, "--url", url, "--wait")
            command(environment, *arguments, check=False)
        seconds = time.perf_counter() - began
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    there = count(environment, cohorts, months)
    return Figures("running UI (3 runs at a time)", there, len(cohorts) * len(months), seconds, memory.peak)


def until_healthy(url: str, environment: dict[str, str]) -> None:
    """Wait for webserver and daemon."""
    from assets.backfill import RunningUI
    from assets.backfill_plan import BackfillError
    from pipeline.store.home import Home

    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=5):
                RunningUI(url).check_serves(Home(Path(environment["COHORTLOOM_HOME"])))
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError, BackfillError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def count(environment: dict[str, str], cohorts: list[str], months: list[str]) -> int:
    """Cells that have a leaderboard in the lake."""
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

    made = Lake(Home(Path(environment["COHORTLOOM_HOME"]))).tables.partitions("leaderboard")
    return sum(p["cohort"] in cohorts and p["month"] in months for p in made)


def command(environment: dict[str, str], *arguments: str, check: bool = True) -> None:
    """Run the command line, quietly."""
    done = subprocess.run(
        [COHORTLOOM, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    if done.returncode != 0:
        print(done.stderr.splitlines()[-1] if done.stderr else "failed", file=sys.stderr)


class Memory:
    """The peak of the resident memory of a process and all of its descendants together, looked at five times a second.

    Pages that several of them share (libraries) are counted for each.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.peak, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        parents, resident = {}, {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)], resident[int(entry.name)] = int(fields[1]), int(fields[21]) * PAGE
        total = 0
        for pid, size in resident.items():
            at = pid
            while at not in (self.pid, 0, 1) and at in parents:
                at = parents[at]
            total += size if at == self.pid else 0
        return total


if __name__ == "__main__":
    main()
