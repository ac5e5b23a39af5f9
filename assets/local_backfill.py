"""Backfills without a UI: one process a cell, several at a time, on this machine.

The plan is a small file beside Dagster's runs (`dagster/backfills/<id>.json`), and every run carries the tag
`cohortloom/backfill`, so that the UI shows them together and what is done is found again. A cell's process reads what
it has to make from its standard input and writes one JSON line for each thing that happened. It stops when that input
is closed, so it does not outlive the command, however that ended. Plans are made in `backfill_plan.py`.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from assets.backfill import PARTITION_TAG
from assets.backfill_plan import BackfillError, Plan, Progress, State, state_of
from assets.instance import close_dead_runs, open_instance
from assets.processes import pid_of, process_name
from assets.run import run_cohort
from pipeline.errors import CohortLoomError, NotFoundError, StoreError, nearest
from pipeline.store.disk import write_over
from pipeline.store.home import Home
from pipeline.workflow.compute import DEFAULT_MEMORY, LEAST_RUN_MEMORY, MEMORY_VARIABLE, Compute, size_of
from pipeline.workflow.housekeeping import operator
from pipeline.workflow.record import words_of

LOCAL_TAG = "cohortloom/backfill"
DEFAULT_JOBS = 2
PATIENCE = 20.0
"""Seconds that a process has to stop by itself before it is killed."""
SHARE = 0.8
"""Of the machine's memory, for all cells together."""
OnChange = Callable[[Progress, str], None]
"""Called with how far it is, and one line about what has just happened (empty if nothing worth a line)."""


@dataclass(frozen=True)
class LocalBackfill:
    """A backfill as it is kept: what it makes, who asked for it, and which process works on it.

    Attributes:
        id: `local-` and eight characters.
        plan: Its cells.
        who: Login name.
        process: The command that works on it, or worked last: `host:pid:start`.
    """

    id: str
    plan: Plan
    who: str
    process: str = ""

    def save(self, home: Home) -> None:
        """Keep it, whole or not at all.

        Raises:
            StoreError: the folder cannot be written.
        """
        file = _file(home, self.id)
        content = {
            "cells": [list(cell) for cell in self.plan.cells],
            "generators": self.plan.generators and list(self.plan.generators),
            "preset": self.plan.preset,
            "who": self.who,
            "process": self.process,
        }
        try:
            file.parent.mkdir(exist_ok=True)
            write_over(file, json.dumps(content, indent=1).encode())
        except OSError as error:
            raise StoreError(f"The backfill cannot be kept ({error.strerror}).", where=str(file.parent)) from error

    @classmethod
    def load(cls, home: Home, id: str) -> "LocalBackfill":
        """The backfill of this id; raises `NotFoundError` with the nearest one."""
        file = _file(home, id)
        known = [path.stem for path in file.parent.glob("local-*.json")] if file.parent.is_dir() else []
        if id not in known:
            raise NotFoundError(f"There is no local backfill '{id}'.", todo=nearest(id, known))
        content = json.loads(file.read_text(encoding="utf-8"))
        generators = content["generators"]
        cells = tuple((cohort, month) for cohort, month in content["cells"])
        plan = Plan(cells, tuple(generators) if generators else None, content["preset"])
        return cls(id, plan, content["who"], content["process"])

    @property
    def working(self) -> int | None:
        """The process that works on it now, None if there is none (on this machine)."""
        return pid_of(self.process)


def begin(home: Home, plan: Plan) -> LocalBackfill:
    """A new backfill of a plan, kept before anything is made."""
    made = LocalBackfill(f"local-{uuid.uuid4().hex[:8]}", plan, operator(), process_name(os.getpid()))
    made.save(home)
    return made


def take_over(home: Home, id: str) -> LocalBackfill:
    """A backfill that another command began, to go on with.

    Raises:
        NotFoundError: there is none of this id.
        BackfillError: another command still works on it.
    """
    found = LocalBackfill.load(home, id)
    if found.working is not None:
        raise BackfillError(
            f"Backfill '{id}' is still being worked on (process {found.working}).",
            todo=f"cohortloom backfill --cancel {id} stops it.",
        )
    taken = LocalBackfill(found.id, found.plan, found.who, process_name(os.getpid()))
    taken.save(home)
    return taken


def cancel(home: Home, id: str) -> bool:
    """Tell the command that works on a backfill to stop; False if none does.

    Raises:
        NotFoundError: there is none of this id.
        BackfillError: it is another user's.
    """
    found = LocalBackfill.load(home, id)
    if found.working is None:
        return False
    try:
        os.kill(found.working, signal.SIGTERM)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise BackfillError(
            f"Process {found.working} of backfill '{id}' belongs to another user.", todo=f"Ask {found.who}."
        ) from error
    return True


def progress(instance: dg.DagsterInstance, backfill: LocalBackfill) -> Progress:
    """The state of every cell, from the runs that carry the backfill's tag."""
    cells: dict[str, State] = dict.fromkeys(backfill.plan.keys, "waiting")
    runs: dict[str, str] = {}
    for run in instance.get_runs(filters=dg.RunsFilter(tags={LOCAL_TAG: backfill.id})):  # newest first
        key = run.tags.get(PARTITION_TAG, "")
        if key in cells and key not in runs:
            runs[key], cells[key] = run.run_id, state_of(run.status.value)
    return Progress("LOCAL", cells, runs)


def work(home: Home, backfill: LocalBackfill, *, jobs: int = DEFAULT_JOBS, on_change: OnChange) -> Progress:
    """Make every cell that is not done yet, `jobs` at a time; gives how it ended.

    A cell that fails, or whose process is killed, is counted and does not stop the others. Stopped by Ctrl-C or
    SIGTERM, the processes of the cells are ended too; what they had not committed is as if it had never been.

    Raises:
        KeyboardInterrupt: it was stopped.
    """
    with open_instance(home) as instance:
        crew = _Crew(backfill, jobs, on_change, instance, progress(instance, backfill))
        try:
            with _terminated_as_interrupted():
                crew.work()
        finally:
            crew.stop()
            close_dead_runs(instance)
            ended = progress(instance, backfill)
            # A process that died before its run began left no trace in Dagster.
            cells = {k: s if s != "waiting" else crew.states[k] for k, s in ended.cells.items()}
            crew.last = Progress("LOCAL", cells, ended.runs)
        return crew.last


@dataclass
class _Crew:
    """The processes of a backfill's cells."""

    backfill: LocalBackfill
    jobs: int
    on_change: OnChange
    instance: dg.DagsterInstance
    last: Progress
    states: dict[str, State] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    processes: dict[str, "subprocess.Popen[str]"] = field(default_factory=dict)
    said: "queue.Queue[tuple[str, dict[str, Any] | None]]" = field(default_factory=queue.Queue)

    def work(self) -> None:
        """Start cells as places come free, until all have ended."""
        self.states = {k: s if s == "done" else "waiting" for k, s in self.last.cells.items()}
        todo = [cell for cell, key in zip(self.backfill.plan.cells, self.backfill.plan.keys, strict=True)
                if self.states[key] != "done"]  # fmt: skip
        self._tell("")
        while todo or self.processes:
            while todo and len(self.processes) < self.jobs:
                self._start(*todo.pop(0))
            key, message = self.said.get()
            if message is None:
                self._ended(key)
            elif "failed" in message:
                self._tell(f"{key}: {message['failed']}")
            else:
                self.runs[key] = message.get("run_id", "")
                self.states[key] = "done" if message["success"] else "failed"
                if not message["success"] and not message.get("run_id"):
                    self._tell(f"{key}: failed: {message['reason']}")

    def stop(self) -> None:
        """End the processes that are left: told to stop first, killed after a while."""
        for process in self.processes.values():
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        for key, process in self.processes.items():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.states[key] = "cancelled"

    def _start(self, cohort: str, month: str) -> None:
        plan = self.backfill.plan
        key = plan.keys[plan.cells.index((cohort, month))]
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "assets.local_backfill"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What native code prints may quote anything; our own errors come as messages.
            stderr=None if os.environ.get("COHORTLOOM_DEBUG") else subprocess.DEVNULL,
            text=True,
            env={**os.environ, **limits(self.jobs)},
            # Ctrl-C reaches the command alone, which then ends its cells one by one.
            start_new_session=True,
        )
        self.processes[key], self.states[key] = process, "running"
        asked = {
            "cohort": cohort,
            "month": month,
            "generators": plan.generators and list(plan.generators),
            "preset": plan.preset,
            "tags": {LOCAL_TAG: self.backfill.id, "who": self.backfill.who},
        }
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()  # and left open: its end means that this command has ended
        except BrokenPipeError:
            pass  # it has died already, which its listener tells
        threading.Thread(target=self._listen, args=(key, process), daemon=True).start()
        self._tell("")

    def _listen(self, key: str, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                self.said.put((key, json.loads(line)))
            except ValueError:
                continue  # a library printed something
        process.wait()
        self.said.put((key, None))

    def _ended(self, key: str) -> None:
        code = self.processes.pop(key).returncode
        if self.states[key] == "running":
            self.states[key] = "failed"
            # Its run would hold its places in pools, and others would wait for them.
            close_dead_runs(self.instance)
            words = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self._tell(f"{key}: failed: its process was {words}; run it again with --resume {self.backfill.id}")
        else:
            self._tell(f"{key}: {self.states[key]}" if self.states[key] == "done" else "")

    def _tell(self, line: str) -> None:
        self.last = Progress("LOCAL", dict(self.states), dict(self.runs))
        self.on_change(self.last, line)


def limits(jobs: int) -> dict[str, str]:
    """Environment of a cell's process when `jobs` share the machine: an equal part of its memory.

    Threads stay what they are (COHORTLOOM_THREADS, default 1): sums of floats depend on their number, and a cell must
    have the same bytes however many are made at once. What the user set stays too.
    """
    usual = Compute.from_environment()
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    part = max(LEAST_RUN_MEMORY, int(pages * size * SHARE / jobs))
    whole = min(size_of(usual.run_memory), part) if usual.run_memory else part
    engine = min(size_of(os.environ.get("COHORTLOOM_MEMORY") or DEFAULT_MEMORY), whole // 2)
    # Whole MiB, of which the least that a run needs is a multiple: rounded down it is never below.
    return {MEMORY_VARIABLE: f"{whole >> 20}MiB", "COHORTLOOM_MEMORY": f"{engine >> 20}MiB"}


def crowded(jobs: int) -> bool:
    """Would so many processes at once have more threads than the machine has cores?"""
    return jobs * Compute.from_environment().threads > (os.cpu_count() or 1)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM stops like Ctrl-C. Signals are the main thread's only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _file(home: Home, id: str) -> Path:
    return home.dagster / "backfills" / f"{id}.json"


def _one_cell() -> None:
    """What a cell's process does: read what is asked, make it, and say how it went."""
    # Ignored by a command that a shell started with `&`, which its children inherit; it is what stops them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What is printed by others goes to stderr; stdout is for messages.
    out, sys.stdout = sys.stdout, sys.stderr

    def send(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    asked = json.loads(sys.stdin.readline())
    try:
        threading.Thread(target=_stop_with_the_command, daemon=True).start()
        compute = Compute.from_environment()
        compute.bind()
        compute.bind_memory()
        outcome = run_cohort(
            asked["cohort"],
            asked["month"],
            asked["generators"],
            preset=asked["preset"],
            tags=asked["tags"],
            on_event=lambda line: send({"failed": line}) if line.startswith("failed: ") else None,
        )
        reason = outcome.reason or ", ".join(outcome.failed_steps)
        send({"success": outcome.success, "run_id": outcome.run_id, "reason": reason})
    except KeyboardInterrupt:
        sys.exit(130)
    except CohortLoomError as error:
        send({"success": False, "reason": str(error)})
    except Exception as error:
        # The text of an unexpected error may quote a patient's values.
        send({"success": False, "reason": f"Unexpected {words_of(error)}."})


def _stop_with_the_command() -> None:
    """End this process when the command that started it is gone, however it ended."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)  # an interrupt within a callback of native code is lost


if __name__ == "__main__":
    _one_cell()
