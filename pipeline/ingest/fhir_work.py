"""Running `fhir_split` over many parts: inside this process when it is little, else in processes of their own.

The processes are started as `python -m`, not by fork (Dagster has threads) nor by multiprocessing (a script without
a main guard would start itself again).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.errors import InputError
from pipeline.ingest.fhir_split import FilePart, Pieces, split

ALONE = 48 * 1024 * 1024
"""Bytes up to which a process of its own is not worth its start."""


QUESTION: TypeAdapter[tuple[list[FilePart], Path, int]] = TypeAdapter(tuple[list[FilePart], Path, int])
"""What a process is asked, as JSON: its parts, the folder of the clean files, the number of the job."""
ANSWER = TypeAdapter(Pieces)
"""What it answers, as JSON."""


def split_all(parts: list[FilePart], sizes: list[int], folder: Path, *, processes: int) -> list[Pieces]:
    """Split these parts in up to `processes` jobs of neighbouring parts with about the same number of bytes.

    Args:
        parts: Files or spans, in delivery order.
        sizes: Bytes of each, as far as they are known.
        folder: Where the clean files go.
        processes: At most so many at a time.

    Raises:
        InputError: A process died (killed for memory, for instance).
    """
    total = sum(sizes)
    if processes < 2 or len(parts) < 2 or total < ALONE:
        return [split(parts, folder, 0)]
    jobs: list[list[FilePart]] = [[] for _ in range(processes)]
    seen = 0
    for part, size in zip(parts, sizes, strict=True):
        jobs[min(processes - 1, seen * processes // total)].append(part)
        seen += size
    jobs = [job for job in jobs if job]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    started = []
    for number, job in enumerate(jobs):
        answer = folder / f"answer-{number}"
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.ingest.fhir_split", str(answer)],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        started.append((process, answer, QUESTION.dump_json((job, folder, number))))
    try:
        for process, _, question in started:
            assert process.stdin is not None
            process.stdin.write(question)
            process.stdin.close()
        codes = [process.wait() for process, _, _ in started]
    finally:
        for process, _, _ in started:
            if process.poll() is None:
                process.kill()
                process.wait()
    if any(codes):
        raise InputError(
            f"{sum(map(bool, codes))} of {len(codes)} reading processes ended with code {next(filter(None, codes))}.",
            todo="If it was killed for memory, deliver large bundles in smaller files or as NDJSON.",
        )
    return [ANSWER.validate_json(answer.read_bytes()) for _, answer, _ in started]
