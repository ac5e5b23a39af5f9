"""A headless Chromium and a running Dagster UI for the tests marked e2e."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from e2e_home import COHORTLOOM, cohortloom, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Headless Chromium with a fresh profile; skips and says what to install where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("Chromium is missing: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1600,1200",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(flag)
    made = webdriver.Chrome(options=options, service=Service(driver))
    made.set_page_load_timeout(60)
    yield made
    made.quit()


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COHORTLOOM_HOME in which the demo's three deliveries were ingested, through the command line as a user does it."""
    from pipeline.demo.source import write_demo_deliveries
    from pipeline.store.home import Home

    root = tmp_path_factory.mktemp("e2e") / "home"
    home = Home(root).ensure()
    for delivery in write_demo_deliveries(home, patients=120):
        # Handed over already: the same content again is the same delivery, which is then taken in.
        done = cohortloom(
            root, "deliver", delivery.source, str(delivery.folder), "--as", f"{delivery.as_of}", "--name", delivery.name
        )
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="session")
def ui(demo_home: Path) -> Iterator[str]:
    """`cohortloom ui` on a free port of 127.0.0.1; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (demo_home / "ui.log").open("w")
    process = subprocess.Popen(
        [COHORTLOOM, "ui", "--port", str(port)],
        env=environment(demo_home),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/server_info", process, demo_home / "ui.log")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the UI stopped with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"the UI did not answer:\n{log.read_text()[-3000:]}")
