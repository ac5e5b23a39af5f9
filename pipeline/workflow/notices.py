"""Notices of failed runs: one line a run in `reports/failures.jsonl`, and a webhook that is told without any data.

The file holds the sentence that the failure left (ours, free of patient data) and stays in the house. The webhook gets
names only: job, partition, steps, run id. It may go to this machine only, unless COHORTLOOM_WEBHOOK_REMOTE=1 says that
another one is meant. Whoever notices a run first writes its line; a second notice of the same run changes nothing.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.errors import ConfigError
from pipeline.store.disk import storage_errors
from pipeline.store.hashing import canonical_json

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.home import Home

FILE = "failures.jsonl"
WEBHOOK = "COHORTLOOM_WEBHOOK"
REMOTE = "COHORTLOOM_WEBHOOK_REMOTE"
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Notice:
    """One failed run.

    Attributes:
        run_id: Its id.
        job: Name of the job.
        partition: Partition key, empty for a job without partitions.
        steps: Assets whose step failed; empty if the run itself did.
        sentence: Why, without patient data.
    """

    run_id: str
    job: str
    partition: str = ""
    steps: tuple[str, ...] = ()
    sentence: str = ""


@dataclass(frozen=True)
class Told:
    """What became of a notice.

    Attributes:
        written: It was new and stands in the file now.
        sent: The webhook took it.
        problem: Why the webhook did not; empty if there is none or it did.
    """

    written: bool
    sent: bool = False
    problem: str = ""


def notify(home: Home, notice: Notice) -> Told:
    """Write the line of a failed run, once, and tell the webhook if there is one. A deaf webhook raises nothing.

    Raises:
        StoreError: the file cannot be written.
    """
    if not _append_once(home.reports / FILE, notice):
        return Told(written=False)
    address = os.environ.get(WEBHOOK)
    if not address:
        return Told(written=True)
    try:
        send(address, notice)
    except ConfigError as error:
        return Told(written=True, problem=str(error))
    except (OSError, HTTPException, ValueError) as error:  # the address may hold a secret: only the class is told
        return Told(written=True, problem=f"The webhook was not reached ({type(error).__name__}).")
    return Told(written=True, sent=True)


def notices(home: Home) -> list[dict[str, Any]]:
    """The lines of the file, oldest first; none if there is no file. A line cut off by a full disk is left out."""
    path = home.reports / FILE
    if not path.exists():
        return []
    with storage_errors(FILE):
        entries = [_entry(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if entry is not None]


def send(address: str, notice: Notice) -> None:
    """POST the notice as JSON: names only, no sentence.

    Raises:
        ConfigError: the address is none, or leads to another machine without leave.
        OSError, HTTPException: it was not reached, or did not answer with success.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{WEBHOOK} is no http(s) address.", todo="Write it as http://127.0.0.1:PORT/PATH.")
    here = _this_machine(parts.hostname)
    if not here and os.environ.get(REMOTE) != "1":
        raise ConfigError(
            f"{WEBHOOK} leads to another machine, so it was not called.", todo=f"Set {REMOTE}=1 if that is meant."
        )
    body = {"run_id": notice.run_id, "job": notice.job, "partition": notice.partition, "steps": list(notice.steps)}
    request = urllib.request.Request(
        address, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    # No redirect is followed (it could lead off this machine), and nothing for this machine goes through a proxy.
    handlers: list[Any] = [_NoRedirect(), *([urllib.request.ProxyHandler({})] if here else [])]
    with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_SECONDS):
        pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: urllib then raises the answer as an HTTPError."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _append_once(path: Path, notice: Notice) -> bool:
    """Append the notice's line unless its run has one; was it appended?"""
    with storage_errors(FILE):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "rb+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file is closed
            file.seek(0)
            before = file.read()
            if any(_is_of(line, notice.run_id) for line in before.splitlines()):
                return False
            entry = {
                **asdict(notice),
                "steps": list(notice.steps),
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            # A line that was cut off stays alone: the next one begins a new line, in one write.
            start = b"\n" if before and not before.endswith(b"\n") else b""
            os.write(file.fileno(), start + canonical_json(entry).encode() + b"\n")
            os.fsync(file.fileno())
    return True


def _is_of(line: bytes, run_id: str) -> bool:
    entry = _entry(line) if run_id.encode() in line else None
    return entry is not None and entry.get("run_id") == run_id


def _entry(line: str | bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
