"""Backfills: the plan, what is asked of a UI, and cells made by processes of this command (killed, twice at once)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import dagster as dg
import pytest
from made_up import Book, deliver, visits

from assets import train_process
from assets.backfill import RunningUI
from assets.backfill_plan import BackfillError, Plan, Progress, months_of, plan_backfill
from assets.instance import GRPC_INFO_TAG, PROCESS_TAG, close_dead_runs, open_instance, process_tag
from assets.local_backfill import LOCAL_TAG, LocalBackfill, begin, cancel, limits, progress, take_over, work
from assets.processes import alive, pid_of, process_name
from assets.run import assets_of, ingest, preset_config, run_cohort
from assets.sensors import build_sensors
from pipeline.errors import ConfigError, NotFoundError
from pipeline.features.spec import load_book
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow import train_cell
from pipeline.workflow.compute import Compute, has_gpu, size_of
from resources.compute import ComputeResource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CELLS = (("tiny", "2026-01-01"), ("tiny", "2026-02-01"), ("other", "2026-01-01"), ("other", "2026-02-01"))


# --- the plan -------------------------------------------------------------------------------------------------------


def test_months_are_read_in_words_that_people_write() -> None:
    assert months_of("2026-01..2026-03") == ["2026-01-01", "2026-02-01", "2026-03-01"]
    assert months_of("2026-02") == ["2026-02-01"]
    for text, words in (
        ("2026-3", "no range of months"),
        ("2026-01..", "no range of months"),
        ("2026-03..2026-01", "ends before it begins"),
        ("2026-01..2999-01", "has not begun"),
        ("2019-01..2026-01", "COHORTLOOM_START_MONTH"),
    ):
        with pytest.raises(ConfigError, match=words):
            months_of(text)


def test_a_plan_is_every_month_of_every_cohort(book: Book) -> None:
    plan = plan_backfill(load_book(), ["tiny", "other", "tiny"], ["2026-02-01", "2026-01-01"])
    assert plan.cells == CELLS
    assert plan.keys[0] == "tiny|2026-01-01"
    assert plan.title == "other, tiny: 2026-01 to 2026-02"
    with pytest.raises(NotFoundError, match="Did you mean 'tiny'"):
        plan_backfill(load_book(), ["tinny"], ["2026-01-01"])
    with pytest.raises(ConfigError, match="'other' does not enable 'gaussian_copula'"):
        plan_backfill(load_book(), ["tiny", "other"], ["2026-01-01"], generators=["gaussian_copula"])
    with pytest.raises(ConfigError, match="Did you mean 'quick'"):
        plan_backfill(load_book(), ["tiny"], ["2026-01-01"], preset="quik")
    with pytest.raises(ConfigError, match="nothing to make"):
        plan_backfill(load_book(), ["tiny"], [])


def test_the_assets_are_the_chain_or_what_the_generators_need(book: Book) -> None:
    whole = {key.to_user_string() for key in assets_of()}
    assert {"cohort_inputs", "features", "references", "model/gaussian_copula", "leaderboard"} <= whole
    chain = {a.to_user_string() for a in _cohort_month_assets()}
    assert whole == chain, "a backfill makes what the job cohort_month makes"
    only = {key.to_user_string() for key in assets_of(["independent"])}
    assert whole - only == {f"{s}/gaussian_copula" for s in ("model", "synthetic", "evaluation")}
    config = preset_config(assets_of(["independent"]), "quick")
    assert config == {"ops": {"model__independent": {"config": {"preset": "quick"}}}}


def _cohort_month_assets() -> set[dg.AssetKey]:
    from assets.definitions import build_defs

    return set(build_defs().resolve_job_def("cohort_month").asset_layer.selected_asset_keys)


# --- a UI -----------------------------------------------------------------------------------------------------------


class FakeUI(BaseHTTPRequestHandler):
    """Answers questions by their first known word."""

    answers: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(question)
        found = next((a for word, a in self.answers.items() if word in question["query"]), "<html>hello</html>")
        body = (found if isinstance(found, str) else json.dumps(found)).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def fake() -> Iterator[RunningUI]:
    FakeUI.answers, FakeUI.asked = {}, []
    server = HTTPServer(("127.0.0.1", 0), FakeUI)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield RunningUI(f"http://127.0.0.1:{server.server_port}", timeout=10)
    server.shutdown()
    server.server_close()


def test_a_ui_of_another_home_or_without_daemon_is_named(fake: RunningUI, home: Home) -> None:
    def instance(folder: Path | None, *, healthy: bool = True) -> None:
        info = f"local_artifact_storage:\n  config:\n    base_dir: {folder}\n" if folder else None
        health = {"daemonStatus": {"healthy": healthy}}
        FakeUI.answers["instance"] = {"data": {"instance": {"info": info, "daemonHealth": health}}}

    with pytest.raises(BackfillError, match="is no Dagster"):
        fake.check_serves(home)
    instance(home.root.parent / "other" / "dagster")
    with pytest.raises(BackfillError, match=f"other, not {home.root}"):
        fake.check_serves(home)
    instance(None)
    with pytest.raises(BackfillError, match="does not say which"):
        fake.check_serves(home)
    instance(home.dagster, healthy=False)
    with pytest.raises(BackfillError, match="daemon does not run"):
        fake.check_serves(home)
    instance(home.dagster)
    fake.check_serves(home)
    with pytest.raises(BackfillError, match="No UI answers"):
        RunningUI("http://127.0.0.1:9", timeout=5).check_serves(home)
    with pytest.raises(ConfigError, match="is no address"):
        RunningUI("127.0.0.1:3000").check_serves(home)


def test_a_ui_that_has_not_read_a_new_cohort_is_told_to_reload(fake: RunningUI, book: Book) -> None:
    dimensions = [{"name": "cohort", "partitionKeys": ["tiny"]}, {"name": "month", "partitionKeys": ["2026-01-01"]}]
    FakeUI.answers["assetNodeOrError"] = {"data": {"assetNodeOrError": {"partitionKeysByDimension": dimensions}}}
    keys = [{"assetKey": {"path": list(key.path)}} for key in assets_of()]
    FakeUI.answers["assetNodes "] = {"data": {"assetNodes": keys}}
    FakeUI.answers["launchPartitionBackfill"] = {
        "data": {"launchPartitionBackfill": {"__typename": "LaunchBackfillSuccess", "backfillId": "abc"}}
    }
    with pytest.raises(BackfillError, match=r"no cohort 'other'\. Press Reload"):
        fake.launch(Plan(CELLS))
    with pytest.raises(BackfillError, match="no month '2026-02-01'"):
        fake.launch(Plan(CELLS[:2]))
    assert fake.launch(Plan(CELLS[:1], preset="quick"), who="ada") == "abc"
    asked = FakeUI.asked[-1]["variables"]["p"]
    assert asked["partitionNames"] == ["tiny|2026-01-01"]
    assert asked["tags"] == [{"key": "who", "value": "ada"}]
    assert asked["runConfigData"]["ops"]["model__independent"] == {"config": {"preset": "quick"}}
    FakeUI.answers["launchPartitionBackfill"] = {
        "data": {"launchPartitionBackfill": {"__typename": "PythonError", "message": "no such thing\nand more"}}
    }
    with pytest.raises(BackfillError, match=r"refused the backfill: no such thing$"):
        fake.launch(Plan(CELLS[:1]))


def test_the_newest_run_of_a_cell_counts(fake: RunningUI) -> None:
    def run(id: str, status: str, key: str) -> dict[str, Any]:
        return {"id": id, "status": status, "tags": [{"key": "dagster/partition", "value": key}]}

    keys = ["a|2026-01-01", "b|2026-01-01", "c|2026-01-01"]
    found = {"__typename": "PartitionBackfill", "status": "REQUESTED", "partitionNames": keys, "error": None}
    FakeUI.answers["partitionBackfillOrError"] = {"data": {"partitionBackfillOrError": found}}
    results = [run("2", "SUCCESS", keys[0]), run("1", "FAILURE", keys[0]), run("3", "QUEUED", keys[1])]
    FakeUI.answers["runsOrError"] = {"data": {"runsOrError": {"results": results}}}
    now = fake.progress("abc")
    assert dict(now.cells) == {keys[0]: "done", keys[1]: "waiting", keys[2]: "waiting"}
    assert now.runs[keys[0]] == "2"
    assert not now.over
    assert Progress("COMPLETED_FAILED", now.cells).over
    assert Progress("REQUESTED", dict.fromkeys(keys, "done")).over
    found |= {"partitionNames": keys[:1], "tags": [{"key": "dagster/parent_backfill_id", "value": "abb"}]}
    found["partitionsTargetedForAssetKey"] = {"partitionKeys": keys[:2]}
    FakeUI.answers["runsOrError"] = {"data": {"runsOrError": {"results": [run("2", "SUCCESS", k) for k in keys[:2]]}}}
    rest = fake.progress("abc")
    assert set(rest.cells) == set(keys[:2])
    assert not rest.over, "what is left of another backfill may take several runs a cell"
    FakeUI.answers["partitionBackfillOrError"] = {
        "data": {"partitionBackfillOrError": {"__typename": "BackfillNotFoundError"}}
    }
    with pytest.raises(BackfillError, match="no backfill 'abc'"):
        fake.progress("abc")


def test_a_ui_on_this_machine_is_not_asked_for_through_a_proxy(
    fake: RunningUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    FakeUI.answers["partitionBackfillOrError"] = {"data": {"partitionBackfillOrError": {"__typename": "None"}}}
    with pytest.raises(BackfillError, match="has no backfill 'b'"):
        fake.progress("b")


# --- processes of this command --------------------------------------------------------------------------------------


@pytest.fixture
def ready(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a delivery of January for `tiny` and `other`, cohorts that child processes see too."""
    made = Book(tmp_path / "cohorts")
    made.sources({"clinic": "table", "ward": "table"})
    made.cohort("tiny", source="clinic", generators={"independent": {}})
    made.cohort("other", source="ward", generators={"independent": {}})
    monkeypatch.setenv("COHORTLOOM_COHORTS", str(made.folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with open_instance(home) as instance:
        for k, source in enumerate(("clinic", "ward")):
            folder = visits(tmp_path / source, seed=k)
            assert ingest(deliver(home, source, folder, as_of="2026-01-15", name="one").key, instance).success
    return home


def quiet(now: Progress, line: str) -> None:
    """Shows nothing."""


def versions(home: Home) -> dict[str, str]:
    """Every current version of the cells: what it holds, by a hash."""
    lake = Lake(home)
    found = {}
    for name, store in (("tables", lake.tables), ("models", lake.models), ("reports", lake.reports)):
        for asset in store.assets():
            for partition in store.partitions(asset):
                if "month" in partition:
                    found[f"{name}/{asset}/{partition}"] = store.resolve(asset, partition).sha256
    return found


def running_children(seconds: float = 120) -> list[int]:
    """Processes of cells that this one has started, once there is one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                ours = b"assets.local_backfill" in (entry / "cmdline").read_bytes()
            except (OSError, ValueError):
                continue
            if parent == os.getpid() and ours:
                found.append(int(entry.name))
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("no cell was begun")


def when(reached: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    """Do something as soon as something else has happened."""

    def watch() -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not reached():
            time.sleep(0.1)
        then()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_cell_is_counted_and_made_when_resumed(ready: Home) -> None:
    backfill = begin(ready, Plan(CELLS[:2], ("independent",), "quick"))
    lines: list[str] = []
    lake = Lake(ready)
    killer = when(
        lambda: lake.tables.current("features", {"cohort": "tiny", "month": "2026-01-01"}) is not None,
        lambda: os.kill(running_children()[0], signal.SIGKILL),
    )
    ended = work(ready, backfill, jobs=1, on_change=lambda now, line: lines.append(line))
    killer.join()
    assert dict(ended.cells) == {"tiny|2026-01-01": "failed", "tiny|2026-02-01": "done"}
    assert any("killed by SIGKILL" in line and backfill.id in line for line in lines)
    with open_instance(ready) as instance:
        tagged = instance.get_runs(filters=dg.RunsFilter(tags={LOCAL_TAG: backfill.id}))
        assert {r.status for r in tagged} == {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS}

    first = versions(ready)
    again = work(ready, backfill, jobs=1, on_change=quiet)
    assert set(again.cells.values()) == {"done"}
    assert again.runs["tiny|2026-02-01"] == ended.runs["tiny|2026-02-01"], "what was done is left alone"
    assert {k: v for k, v in versions(ready).items() if k in first} == first
    assert dict(work(ready, backfill, jobs=1, on_change=quiet).runs) == dict(again.runs), "nothing was left to make"
    model = Lake(ready).models.resolve("model/independent", {"cohort": "tiny", "month": "2026-01-01"})
    assert model.info["overrides"] == {"preset": "quick"}


@pytest.mark.slow
@pytest.mark.distributed
def test_two_backfills_of_the_same_cells_at_once_give_the_same_bytes(ready: Home) -> None:
    """Four processes share Dagster's SQLite and the lake: nobody finds a database locked, and all bytes are equal."""
    plan = Plan((CELLS[0], CELLS[2]), ("independent",))
    both = [begin(ready, plan), begin(ready, plan)]
    ended: dict[str, Progress] = {}
    lines: list[str] = []

    def one(backfill: LocalBackfill) -> None:
        ended[backfill.id] = work(ready, backfill, jobs=2, on_change=lambda now, line: lines.append(line))

    threads = [threading.Thread(target=one, args=(b,)) for b in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [set(ended[b.id].cells.values()) for b in both] == [{"done"}, {"done"}], lines
    together = versions(ready)
    with open_instance(ready) as instance:
        for cohort, month in CELLS[:1]:
            assert run_cohort(cohort, month, generators=["independent"], instance=instance).success
        assert progress(instance, both[0]).cells == progress(instance, both[1]).cells
        for run in instance.get_runs():
            assert run.status == dg.DagsterRunStatus.SUCCESS
            for entry in instance.all_logs(run.run_id):
                assert "database is locked" not in (entry.user_message or "")
    assert versions(ready) == together


def test_a_backfill_is_found_again_by_its_id(home: Home) -> None:
    backfill = begin(home, Plan(CELLS, ("independent",), "quick"))
    assert LocalBackfill.load(home, backfill.id) == backfill
    with pytest.raises(NotFoundError, match=f"Did you mean '{backfill.id}'"):
        LocalBackfill.load(home, backfill.id[:-1])
    with pytest.raises(BackfillError, match="still being worked on"):
        take_over(home, backfill.id)
    dead = LocalBackfill(backfill.id, backfill.plan, backfill.who, "elsewhere:1:2")
    dead.save(home)
    assert cancel(home, backfill.id) is False
    assert take_over(home, backfill.id).plan == backfill.plan


def test_a_user_without_a_name_has_a_number(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert begin(home, Plan(CELLS)).who == f"uid {os.getuid()}"


def test_cells_share_the_memory_and_keep_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COHORTLOOM_RUN_MEMORY", raising=False)
    monkeypatch.delenv("COHORTLOOM_MEMORY", raising=False)
    one, four = limits(1), limits(4)
    assert set(one) == {"COHORTLOOM_RUN_MEMORY", "COHORTLOOM_MEMORY"}, "the number of threads decides the bytes"
    assert size_of(one["COHORTLOOM_RUN_MEMORY"]) >= size_of(four["COHORTLOOM_RUN_MEMORY"])
    monkeypatch.setenv("COHORTLOOM_RUN_MEMORY", "1GiB")
    assert size_of(limits(1)["COHORTLOOM_MEMORY"]) <= 2**29
    for jobs in (1, 1000):  # many share so little that each has the least
        for name, text in limits(jobs).items():
            monkeypatch.setenv(name, text)
        assert size_of(Compute.from_environment().run_memory) == 2**30


WHILE_INTERRUPTS_ARE_IGNORED = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
import assets.local_backfill as cell
def made(*asked, on_event, **more):
    on_event("failed: begun")
    time.sleep(60)
cell.run_cohort = made
cell._one_cell()
"""


def test_a_cell_of_a_command_in_the_background_stops_with_it() -> None:
    """A shell's `&` has interrupts ignored, and children inherit it."""
    asked = json.dumps({"cohort": "", "month": "", "generators": None, "preset": None, "tags": {}})
    command = [sys.executable, "-W", "ignore", "-c", WHILE_INTERRUPTS_ARE_IGNORED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cell:
        assert cell.stdin is not None
        assert cell.stdout is not None
        cell.stdin.write(asked + "\n")
        cell.stdin.flush()
        assert "begun" in cell.stdout.readline()
        cell.stdin.close()
    assert cell.returncode == 130


# --- limits and dead runs -------------------------------------------------------------------------------------------


def test_an_amount_of_memory_is_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [size_of(t) for t in ("4GB", "512 MB", "1.5GiB", "2048")] == [4 * 10**9, 512 * 10**6, 3 * 2**29, 2048]
    with pytest.raises(ConfigError, match="no amount of memory"):
        size_of("much")
    monkeypatch.setenv("COHORTLOOM_RUN_MEMORY", "200MB")
    with pytest.raises(ConfigError, match="at least 1GiB"):
        Compute.from_environment()


OVER_THE_BOUND = """
import sys, warnings
import dagster as dg
from assets.guard import guarded
from pipeline.workflow.compute import Compute
compute = Compute.from_environment()
compute.bind()
compute.bind_memory()
@guarded
def body(): import torch; torch.ones(10**10)
try:
    body()
except dg.Failure as failure:
    print(failure.description, failure.allow_retries)
"""


@pytest.mark.skipif(sys.platform != "linux" or has_gpu("auto"), reason="the bound is Linux's, and not for GPUs")
def test_a_run_over_its_bound_ends_with_a_sentence_and_is_not_tried_again() -> None:
    environment = {**os.environ, "COHORTLOOM_RUN_MEMORY": "1GiB", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", OVER_THE_BOUND], env=environment, capture_output=True, text=True, check=True
    )
    said = done.stdout.strip()
    assert said.startswith("Out of memory: RuntimeError at ")
    assert said.endswith("A run may take 1GiB here (COHORTLOOM_RUN_MEMORY). False")


@pytest.mark.skipif(sys.platform != "linux", reason="the bound is Linux's")
def test_the_bound_is_never_on_a_test_session_or_a_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setenv("COHORTLOOM_RUN_MEMORY", "4GB")
    assert ComputeResource().bound().run_memory == "4GB"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_training_in_a_process_of_its_own_is_bound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bound: list[str] = []

    def too_much(*asked: Any, **more: Any) -> None:
        assert bound
        raise MemoryError

    monkeypatch.setenv("COHORTLOOM_RUN_MEMORY", "3GB")
    monkeypatch.setattr(Compute, "bind_memory", lambda self: bound.append(self.run_memory))
    monkeypatch.setattr(train_cell, "train_cell", too_much)
    monkeypatch.setattr(train_process, "train_cell", too_much)
    assert train_cell.main(["tiny", "2026-01", "vae"]) == 1
    assert capsys.readouterr().err.startswith("error: Out of memory: MemoryError")
    asked = {"cohort": "tiny", "month": "2026-01-01", "generator": "vae", "overrides": {}, "run_id": "r"}
    said = train_process._train(cast("Any", SimpleNamespace(extras=asked)))
    assert said["error"].startswith("Out of memory")
    assert bound == ["3GB", "3GB"]


def test_a_run_whose_server_is_gone_is_closed_and_others_are_not(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """What a killed UI leaves: runs that are started for ever, found by the address of their code server."""

    @dg.job
    def nothing() -> None: ...

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "alive"))
    listening.listen()

    def started(tags: dict[str, str]) -> str:
        run = instance.create_run_for_job(nothing, tags=tags, status=dg.DagsterRunStatus.STARTED)
        return run.run_id

    gone = started({GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": str(tmp_path / "gone")})})
    alive = started({GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": str(tmp_path / "alive")})})
    elsewhere = started({})
    # A second attempt carries the tags of the first, whose process is gone.
    second = started({PROCESS_TAG: f"another-run:{socket.gethostname()}:999999999:1"})
    assert close_dead_runs(instance) == [], "a command may run where the sockets of a living server are not"
    assert close_dead_runs(instance, of_ui=True) == [gone]
    for run_id in (alive, elsewhere, second):
        assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.STARTED
    # The number of this process, given to another one before it.
    instance.add_run_tags(second, {PROCESS_TAG: process_tag(second)[PROCESS_TAG].rpartition(":")[0] + ":1"})
    assert close_dead_runs(instance) == [second]
    listening.close()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="only /proc tells when a process began")
def test_a_process_is_named_by_its_start_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = process_name(os.getpid())
    reused = name.rpartition(":")[0] + ":1"
    assert (alive(name), pid_of(name)) == (True, os.getpid())
    assert (alive(reused), pid_of(reused)) == (False, None)
    assert (alive(f"elsewhere:{os.getpid()}:1"), alive("")) == (None, None), "nobody here can say"

    def not_ours(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_ours)
    assert alive(name), "another user's process lives"
    assert process_name(os.getpid()) == name


def test_lost_runs_are_closed_while_the_ui_runs(home: Home, instance: dg.DagsterInstance) -> None:
    """A command that was killed would else keep the queued runs of its partition waiting."""
    (sensor,) = [s for s in build_sensors([]) if s.name == "lost_runs"]
    tags = {PROCESS_TAG: f"lost:{socket.gethostname()}:{2**22 + 1}:1"}
    instance.add_run(dg.DagsterRun("cohort_month", run_id="lost", status=dg.DagsterRunStatus.STARTED, tags=tags))
    with dg.build_sensor_context(instance=instance) as context:
        assert sensor(context).skip_message == "closed: lost"
        assert sensor(context).skip_message == "no run was lost"
    assert instance.get_run_by_id("lost").status == dg.DagsterRunStatus.FAILURE
