"""One run in a process of its own: the delivery is handed over, read, committed, reported and made into events.

The process has a time limit and a memory limit, a sandbox folder as its home and its working directory, and everything
that it prints is caught. What is wrong with the outcome is said by `checks`.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuzzing.cases import Case
from fuzzing.checks import Ingested, check, check_refusal, say

TIME_LIMIT = 60
"""Seconds after which a run counts as hanging."""
MEMORY_LIMIT = 6 << 30
"""Address space of a run (DuckDB and Arrow reserve far more than they use)."""
PEAK_LIMIT = 2 << 30
"""Memory in use above which a run is a finding."""


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        number: The run.
        state: taken, refused, or what went wrong: crash, killed, hang.
        story: What was done to the delivery.
        message: The refusal, or the crash.
        findings: Everything that must not be.
        seconds: How long it took.
        peak: Most memory that was in use while reading (MiB).
    """

    number: int
    state: str
    story: tuple[str, ...] = ()
    message: str = ""
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0


def attempt(case: Case, sandbox: Path, baseline: Path | None) -> Outcome:
    """Run a case in a process of its own.

    Args:
        case: The case.
        sandbox: An empty folder.
        baseline: Folder with the tables of the undamaged delivery; None while it is made.
    """
    began = time.monotonic()
    answer = sandbox / "answer.json"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            # Threads may hang where no signal is seen, so the parent watches the clock.
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            made = _run(case, sandbox, baseline)
            answer.write_text(json.dumps(asdict(made)))
            code = 0
        except BaseException:
            (sandbox / "broken.txt").write_text(traceback.format_exc())
        finally:
            os._exit(code)
    status = _wait(child, began)
    if status is None:
        outcome = Outcome(case.number, "hang", case.story, "", [f"no end after {TIME_LIMIT} s"])
        printed = sandbox / "printed.txt"
        if printed.exists():
            outcome.message = printed.read_text(errors="replace")[-3000:]
    elif answer.exists():
        outcome = Outcome(**json.loads(answer.read_text()))
    else:
        broken = sandbox / "broken.txt"
        said = broken.read_text() if broken.exists() else ""
        outcome = Outcome(case.number, "killed", case.story, said, [f"the process ended with status {status}"])
    outcome.story = case.story
    outcome.seconds = time.monotonic() - began
    return outcome


def _wait(child: int, began: float) -> int | None:
    """The exit status; None where the time is up (the process and its own are ended then)."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        if time.monotonic() - began > TIME_LIMIT:
            os.killpg(child, signal.SIGUSR1)  # says where it stands
            time.sleep(1)
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.01)


def _run(case: Case, sandbox: Path, baseline: Path | None) -> Outcome:
    from pipeline.errors import CohortLoomError

    _catch_output(sandbox)
    for name in ("home", "incoming", "outside", "tmp", "cwd"):
        (sandbox / name).mkdir(mode=0o700)
    os.chdir(sandbox / "cwd")
    os.environ.update(TMPDIR=str(sandbox / "tmp"), COHORTLOOM_HOME=str(sandbox / "home"))
    before = _tree(sandbox)
    outcome = Outcome(case.number, "taken")
    ingested: Ingested | None = None
    error: BaseException | None = None
    try:
        ingested = _ingest(case, sandbox)
    except BaseException as caught:
        error = caught
    outcome.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if outcome.peak > PEAK_LIMIT >> 20:
        outcome.findings.append(f"memory: {outcome.peak} MiB")
    if isinstance(error, CohortLoomError):
        outcome.state, outcome.message = "refused", str(error)
        outcome.findings += check_refusal(case, error)
    elif error is not None:
        outcome.state = "crash"
        outcome.message = "".join(traceback.format_exception(error))[-6000:]
        outcome.findings.append(f"crash: {type(error).__name__}")
    elif ingested is not None:
        outcome.message = ingested.sentence
        if baseline is None:
            _keep(ingested, sandbox)
        outcome.findings += check(case, ingested, baseline)
    outcome.findings += _strays(before, _tree(sandbox))
    sys.stdout.flush()
    sys.stderr.flush()
    outcome.findings += say("what was printed", (sandbox / "printed.txt").read_text(errors="replace"), case)
    return outcome


def _catch_output(sandbox: Path) -> None:
    out = os.open(sandbox / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    logging.basicConfig(level=logging.DEBUG, force=True)
    warnings.simplefilter("always")


def _ingest(case: Case, sandbox: Path) -> Ingested:
    """From files to committed tables, events and the report."""
    from pipeline.features.source import SourceSpec
    from pipeline.ingest.delivery import hand_over
    from pipeline.ingest.fhir import work as fhir_work
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.deliveries import FORMATS_WITH_EVENTS, make_events, take_in
    from pipeline.workflow.delivery_report import publish_report

    incoming = sandbox / "incoming"
    for name, data in case.files.items():
        path = incoming / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    home = Home(sandbox / "home").ensure()
    lake = Lake(home)
    source = SourceSpec.model_validate(
        {"name": "fuzz", "format": case.format, "max_quarantine_rate": case.limit, **case.settings}
    )
    if case.span:
        fhir_work.SPAN = case.span
    compute = Compute(threads=case.threads, memory_limit="1GB")
    came = hand_over(home, source.name, incoming, as_of=None, name="d1")
    version, account = take_in(lake, came, source, case.format, compute)
    events = None
    if case.format in FORMATS_WITH_EVENTS:
        events = make_events(lake, source, came.key, compute).info["counts"]
    tables = {name: lake.tables.path(version, name) for name in version.files}
    page = publish_report(lake, version).read_text()
    return Ingested(account.to_dict(), tables, events, page, account.sentence())


def _keep(ingested: Ingested, sandbox: Path) -> None:
    """Leave the tables of the undamaged delivery for the runs that follow."""
    kept = sandbox / "baseline"
    kept.mkdir()
    for name, path in ingested.tables.items():
        shutil.copyfile(path, kept / f"{name}.parquet")


def _tree(sandbox: Path) -> dict[str, int]:
    """Every file outside the home and the incoming files, with its size."""
    watched = (path for path in sandbox.rglob("*") if path.is_file() and not path.is_symlink())
    relative = ((path.relative_to(sandbox).as_posix(), path.stat().st_size) for path in watched)
    own = ("home/", "incoming/", "baseline/", "printed.txt", "answer.json")
    return {name: size for name, size in relative if not name.startswith(own)}


def _strays(before: dict[str, int], after: dict[str, int]) -> list[str]:
    fresh = sorted(name for name in after if before.get(name) != after[name] and not name.startswith("tmp/"))
    return [f"written outside the home: {fresh[:3]}"] if fresh else []
