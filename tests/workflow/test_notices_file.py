"""Notices of failed runs: one line a run, and a webhook that hears names only and stays on this machine."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import StoreError
from pipeline.workflow.notices import FILE, Notice, notices, notify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.store.home import Home

NOTICE = Notice("run-1", "cohort_month", "tiny|2026-10-01", ("features",), "tiny.sql: The cohort's SQL gives no row.")


class Hook(HTTPServer):
    """A webhook that remembers what it heard and answers with `status`."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.status, self.location = 200, ""

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                length = int(handler.headers["Content-Length"])
                self.heard.append(json.loads(handler.rfile.read(length)))
                handler.send_response(self.status)
                if self.location:
                    handler.send_header("Location", self.location)
                handler.end_headers()

            def do_GET(handler) -> None:  # noqa: N805
                self.heard.append({"followed": handler.path})
                handler.send_response(200)
                handler.end_headers()

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}/notices?token=secret"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.delenv("COHORTLOOM_WEBHOOK_REMOTE", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # this machine is reached without a proxy
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("COHORTLOOM_WEBHOOK", server.address)
        yield server
        server.shutdown()


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COHORTLOOM_WEBHOOK", raising=False)


def test_a_run_leaves_one_line_however_often_it_is_noticed(home: Home, deaf: None) -> None:
    assert notices(home) == []
    assert notify(home, NOTICE).written
    assert not notify(home, NOTICE).written
    assert notify(home, Notice("run-2", "publish_catalog")).written
    first, second = notices(home)
    assert {k: first[k] for k in ("run_id", "job", "partition", "steps", "sentence")} == {
        "run_id": "run-1",
        "job": "cohort_month",
        "partition": "tiny|2026-10-01",
        "steps": ["features"],
        "sentence": NOTICE.sentence,
    }
    assert first["at"].endswith("+00:00")
    assert second["run_id"] == "run-2"
    assert (home.reports / FILE).stat().st_mode & 0o077 == 0


def test_many_at_once_leave_one_line_a_run(home: Home, deaf: None) -> None:
    found = [Notice(f"run-{i % 10}", "cohort_month", sentence="x" * 500) for i in range(80)]
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda n: notify(home, n).written, found))
    assert sum(written) == 10
    assert sorted(entry["run_id"] for entry in notices(home)) == [f"run-{i}" for i in range(10)]


def test_a_line_that_was_cut_off_spoils_no_other(home: Home, deaf: None) -> None:
    notify(home, NOTICE)
    with (home.reports / FILE).open("a") as file:
        file.write('{"run_id": "run-2", "jo')
    assert notify(home, Notice("run-2", "cohort_month")).written
    assert [entry["run_id"] for entry in notices(home)] == ["run-1", "run-2"]


def test_the_webhook_hears_names_and_no_sentence(home: Home, hook: Hook) -> None:
    told = notify(home, NOTICE)
    assert (told.written, told.sent, told.problem) == (True, True, "")
    assert not notify(home, NOTICE).sent
    assert hook.heard == [
        {"run_id": "run-1", "job": "cohort_month", "partition": "tiny|2026-10-01", "steps": ["features"]}
    ]


@pytest.mark.parametrize("status", [500, 404, 302])
def test_a_webhook_that_does_not_take_it_harms_nothing(home: Home, hook: Hook, status: int) -> None:
    hook.status, hook.location = status, "/elsewhere" if status == 302 else ""
    told = notify(home, NOTICE)
    assert (told.written, told.sent) == (True, False)
    assert told.problem == "The webhook was not reached (HTTPError)."
    assert len(hook.heard) == 1  # no redirect was followed
    assert len(notices(home)) == 1


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://example.org/hook?token=secret", "leads to another machine"),
        ("http://127.0.0.1.example.org/hook", "leads to another machine"),
        ("http://127.0.0.1@example.org/hook", "leads to another machine"),
        ("http://10.0.0.1/hook", "leads to another machine"),
        ("file:///etc/passwd", "is no http(s) address"),
        ("notices", "is no http(s) address"),
        ("http://[half", "was not reached (ValueError)"),
        ("http://127.0.0.1:9/hook", "was not reached (URLError)"),
        ("http://[::1]:9/hook", "was not reached (URLError)"),
    ],
)
def test_other_machines_are_not_called_unasked(
    home: Home, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    monkeypatch.delenv("COHORTLOOM_WEBHOOK_REMOTE", raising=False)
    monkeypatch.setenv("COHORTLOOM_WEBHOOK", address)
    told = notify(home, NOTICE)
    assert told.written
    assert words in told.problem
    assert "secret" not in told.problem


def test_a_file_that_cannot_be_written_is_an_error_of_the_store(home: Home, deaf: None) -> None:
    (home.reports / FILE).mkdir()
    with pytest.raises(StoreError):
        notify(home, NOTICE)
