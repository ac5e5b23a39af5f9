"""Commit and read versions on the disk and on an S3 server on loopback, in one run: what the object store costs.

    python benchmarks/object_store.py [--versions 20] [--rows 20000]

The server is moto's (extra `dist`), in Python and in one process: it shows the number of requests and our own share,
not what AWS or MinIO take. The ratios are what to look at; the figures are medians a version.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet  # loaded before the clock runs

from pipeline.store.address import StoreAddress
from pipeline.store.cache import Cache
from pipeline.store.files import VersionFiles
from pipeline.store.journal import Journal
from pipeline.store.object_store import ObjectStore
from pipeline.store.remote import RemoteFiles
from pipeline.store.versions import Version, VersionStore


def timed(action: Callable[[int], object], times: int) -> float:
    """Median milliseconds of an action."""
    found = []
    for number in range(times):
        started = time.perf_counter()
        action(number)
        found.append(1000 * (time.perf_counter() - started))
    return statistics.median(found)


def measure(root: Path, files: VersionFiles | None, journal: Journal, versions: int, rows: int) -> dict[str, float]:
    """Milliseconds by what was done."""
    store = VersionStore(root / "lake", files)
    table = pa.table({f"x{k}": np.random.default_rng(k).normal(size=rows) for k in range(10)})
    made: list[Version] = []

    def commit(number: int) -> None:
        with store.draft("features", {"cohort": f"c{number:04d}"}) as draft:
            draft.add_table("data", table)
            draft.file("schema.json").write_text(f'{{"number": {number}}}')
            made.append(draft.commit())

    def read(number: int) -> None:
        version = store.resolve("features", {"cohort": f"c{number:04d}"})
        store.folder(version)
        store.read(version)

    commit(versions)  # connects, imports, tries the store out
    made.clear()
    found = {"commit": timed(commit, versions)}
    found["resolve"] = timed(lambda number: store.resolve("features", {"cohort": f"c{number:04d}"}), versions)
    found["read, copy there"] = timed(read, versions)
    if files is not None:
        shutil.rmtree(root / "cache")
    found["read, no copy"] = timed(read, versions)
    found["list all partitions"] = timed(lambda _: store.partitions("features"), 5)
    found["journal: append"] = timed(lambda number: journal.append("a", {"number": number}), versions)
    found[f"journal: read {versions}"] = timed(lambda _: journal.entries("a"), 5)
    return found


def main() -> None:
    """Measure both places and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=20)
    parser.add_argument("--rows", type=int, default=20_000)
    given = parser.parse_args()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        os.environ[name] = "benchmark"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = "import sys, logging; logging.disable(); from moto.server import main; main(sys.argv[1:])"
    server = subprocess.Popen([sys.executable, "-c", script, "-H", "127.0.0.1", "-p", port], stderr=subprocess.DEVNULL)
    folder = Path(tempfile.mkdtemp(prefix="cohortloom-benchmark-"))
    try:
        address = StoreAddress.parse("s3://benchmark/lake", f"http://127.0.0.1:{port}")
        remote = ObjectStore(address)
        for _ in range(200):
            if server.poll() is None and socket.socket().connect_ex(("127.0.0.1", int(port))) == 0:
                break
            time.sleep(0.1)
        remote._client().create_bucket(Bucket=address.bucket)
        disk = measure(folder / "disk", None, Journal(folder / "disk" / "journal"), given.versions, given.rows)
        files = RemoteFiles(remote.below("lake"), Cache(folder / "s3" / "cache"))
        journal = Journal(folder / "s3" / "journal", remote.below("journal"))
        s3 = measure(folder / "s3", files, journal, given.versions, given.rows)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{given.versions} versions of {given.rows} rows x 10 columns and one small file; median milliseconds")
    print(f"{'':24}{'disk':>10}{'S3':>10}{'ratio':>8}")
    for name, value in disk.items():
        print(f"{name:24}{value:10.1f}{s3[name]:10.1f}{s3[name] / value:8.1f}")


if __name__ == "__main__":
    main()
