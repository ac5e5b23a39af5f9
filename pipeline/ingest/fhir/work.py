"""Running `split` over many files: inside this process when it is little, else in processes of their own.

The processes are started as `python -m`, not by fork (Dagster has threads) nor by multiprocessing (a script without
a main guard would start itself again).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.errors import InputError
from pipeline.ingest.fhir.columns import TYPES, ResourceType
from pipeline.ingest.fhir.files import line_parts
from pipeline.ingest.fhir.pieces import FilePart, Pieces
from pipeline.ingest.fhir.split import split
from pipeline.ingest.fhir.state import Work

SPAN = 32 * 1024 * 1024
"""Bytes of a line file that are judged in one piece."""
ALONE = 48 * 1024 * 1024
"""Bytes up to which a process of its own is not worth its start."""


Question = tuple[list[FilePart], Path, int, list[ResourceType]]
QUESTION: TypeAdapter[Question] = TypeAdapter(Question)
"""What a process is asked, as JSON: its parts, the folder of the clean files, the number of the job, the types taken."""
ANSWER = TypeAdapter(Pieces)
"""What it answers, as JSON."""


def split_documents(work: Work) -> None:
    """Take apart the JSON documents of a delivery."""
    sizes = [part.path.stat().st_size * (8 if part.file.lower().endswith(".gz") else 1) for part in work.documents]
    for piece in _split(work, work.documents, sizes):
        work.account.bytes += piece.bytes


def split_lines(work: Work, numbers: Iterable[int]) -> None:
    """Judge these line files (by number) one line at a time."""
    chosen = set(numbers)
    files = [file for file in work.lines if file.number in chosen]
    parts = [
        part
        for file in files
        for part in line_parts(file, SPAN, work.versions[file.number], work.aside.get(file.number, {}))
    ]
    _split(work, parts, [part.span[1] - part.span[0] if part.span else 0 for part in parts])
    work.account.info["tolerant_files"] = work.account.info.get("tolerant_files", 0) + len(files)


def _split(work: Work, parts: list[FilePart], sizes: list[int]) -> list[Pieces]:
    """Split these parts and enter what was found."""
    if not parts:
        return []
    folder = work.folder / f"clean-{work.splits}"
    folder.mkdir()
    work.splits += 1
    pieces = split_all(parts, sizes, folder, processes=work.processes, kinds=work.kinds)
    work.enter(pieces)
    return pieces


def split_all(
    parts: list[FilePart],
    sizes: list[int],
    folder: Path,
    *,
    processes: int,
    kinds: Mapping[str, ResourceType] = TYPES,
) -> list[Pieces]:
    """Split these parts in up to `processes` jobs of neighbouring parts with about the same number of bytes.

    Args:
        parts: Files or spans, in delivery order.
        sizes: Bytes of each, as far as they are known.
        folder: Where the clean files go.
        processes: At most so many at a time.
        kinds: The resource types that are taken.

    Raises:
        InputError: A process died (killed for memory, for instance).
    """
    total = sum(sizes)
    if processes < 2 or len(parts) < 2 or total < ALONE:
        return [split(parts, folder, 0, kinds)]
    jobs: list[list[FilePart]] = [[] for _ in range(processes)]
    seen = 0
    for part, size in zip(parts, sizes, strict=True):
        jobs[min(processes - 1, seen * processes // total)].append(part)
        seen += size
    jobs = [job for job in jobs if job]
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    started = []
    for number, job in enumerate(jobs):
        answer = folder / f"answer-{number}"
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.ingest.fhir.split", str(answer)],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        started.append((process, answer, QUESTION.dump_json((job, folder, number, list(kinds.values())))))
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
