"""Handle of a Ray cluster that runs in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else Ray replaces 127.0.0.1 by the machine's own address, and its parts do not find each other.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
WAIT_SECONDS = 120


class RayServers:
    """A head without cores and workers with one core each, on 127.0.0.1 only."""

    def __init__(self, workers: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        script = Path(__file__).with_name("ray_worker_nodes.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(workers), str(port)],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._wait_for("ready")

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to send work here."""
        return {"RAY_ADDRESS": self.address, **ENVIRONMENT}

    def jobs(self) -> list[dict]:
        """All jobs that were submitted, as the job server tells of them."""
        import json
        import urllib.request

        with urllib.request.urlopen(f"{self.address}/api/jobs/", timeout=30) as answer:
            return json.load(answer)

    def wait_for_running_job(self, known: set[str]) -> str:
        """Wait until a job that is not `known` runs; gives the node on which it does."""
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            for job in self.jobs():
                if job["submission_id"] not in known and job["status"] == "RUNNING" and job.get("driver_node_id"):
                    return job["driver_node_id"]
            time.sleep(0.1)
        raise TimeoutError("no job runs")

    def kill_worker(self, node: str) -> None:
        """Kill a worker with everything that runs on it."""
        self._say(f"kill {node}")

    def add_worker(self) -> None:
        """Let another worker join."""
        self._say("add")

    def close(self) -> None:
        """Stop everything."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        self._wait_for("done")

    def _wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise RuntimeError(f"the Ray cluster ended before it said '{word}'")
