"""The command line as a user runs it, in a home of its own, and the UI that it starts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

COHORTLOOM = Path(sys.executable).with_name("cohortloom")


def environment(root: Path) -> dict[str, str]:
    """The environment of a user whose home is `root`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}
    return {**kept, "COHORTLOOM_HOME": str(root), "DAGSTER_DISABLE_TELEMETRY": "1"}


def cohortloom(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would."""
    return subprocess.run(
        [COHORTLOOM, *arguments], env=environment(root), capture_output=True, text=True, timeout=600, check=False
    )


@dataclass
class DagsterUI:
    """`cohortloom ui` on a free port of 127.0.0.1, with all of its processes in one group."""

    root: Path
    variables: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    url: str = ""

    def start(self) -> str:
        """Start it, and wait until it answers; gives its address."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [COHORTLOOM, "ui", "--port", str(port)],
                env={**environment(self.root), **self.variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"{self.url}/server_info", timeout=5):
                    return self.url
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)
        raise AssertionError(f"the UI did not answer:\n{self.log.read_text()[-3000:]}")

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.root.with_name("ui.log")

    def stop(self) -> None:
        """As Ctrl-C does; killed if that does not help."""
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL for the webserver, the daemon, the code server and every run."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
