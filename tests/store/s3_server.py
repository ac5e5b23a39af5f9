"""An S3 server of the test's own on loopback (moto), and what else the tests of the object store share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.store.address import StoreAddress
from pipeline.store.cache import Cache
from pipeline.store.journal import Journal
from pipeline.store.object_store import ObjectStore
from pipeline.store.remote import RemoteFiles
from pipeline.store.version import Version
from pipeline.store.versions import VersionStore

SERVER = """
import logging, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

logging.disable()
moto, gate = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_at_a_time(environ, start_response):
    with gate:  # moto looks whether a condition holds and then writes: two threads of it may both find that it does
        return moto(environ, start_response)

run_simple("127.0.0.1", int(sys.argv[1]), one_at_a_time, threaded=True)
"""
KEY = {"cohort": "support"}
LABEL = "features/cohort=support"
LOGIN = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "tester", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def running_server() -> Iterator[str]:
    """URL of an S3 server in a process of its own, up for as long as the block."""
    pytest.importorskip("moto.server", reason="the extra dist is not installed: pip install -e '.[dist,dev]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            assert server.poll() is None, "the S3 server died"
            assert time.monotonic() < deadline, "the S3 server does not come up"
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def new_bucket(endpoint: str) -> StoreAddress:
    """The address of a new bucket, with a prefix in it."""
    address = StoreAddress.parse(f"s3://test-{uuid.uuid4().hex[:12]}/some/prefix", endpoint)
    ObjectStore(address)._client().create_bucket(Bucket=address.bucket)
    return address


def log_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LOGIN.items():
        monkeypatch.setenv(name, value)


def remote_versions(address: StoreAddress, folder: Path) -> VersionStore:
    """A store on the address with a cache of its own: another machine, as it were, for each folder."""
    return VersionStore(folder / "lake", RemoteFiles(ObjectStore(address).below("lake"), Cache(folder / "cache")))


def remote_journal(address: StoreAddress, folder: Path) -> Journal:
    return Journal(folder / "journal", ObjectStore(address).below("journal"))


def environment(address: StoreAddress) -> dict[str, str]:
    """What a process must know to use the address."""
    return {**os.environ, **LOGIN, "COHORTLOOM_STORE": address.url, "COHORTLOOM_S3_ENDPOINT": address.endpoint}


def objects(store: VersionStore) -> ObjectStore:
    assert isinstance(store.backend, ObjectStore)
    return store.backend


def commit(store: VersionStore, number: int, key: dict[str, str] = KEY, rows: int = 5) -> Version:
    with store.draft("features", key) as draft:
        draft.add_table("data", pa.table({"n": [number] * rows}))
        draft.file("replicate-0/model.json").write_text(f'{{"n": {number}}}\n')
        draft.file("nothing.txt").touch()
        return draft.commit(info={"number": number})


def numbers(store: VersionStore) -> list[int]:
    return [version.info["number"] for version in store.history("features", KEY)]
