"""Holding FHIR resources against the models of the standard (fhir.resources, R4B for R4), beside the reading.

Validation costs a hundred times what reading does, so by default a sample is drawn, and processes of their own work on
it while DuckDB writes the tables. What the models say of one resource is in `validation_faults`, the draw in
`validation_work`. Here: who works on what, and the summary that goes into the account, without a single value.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import InputError
from pipeline.ingest.fhir.validation_faults import Fault
from pipeline.ingest.fhir.validation_work import ANSWER, QUESTION, Stretch, Verdicts, validate
from pipeline.ingest.lines import CHUNK, spans

if TYPE_CHECKING:
    from types import TracebackType

    from pipeline.features.source import ValidationSpec
    from pipeline.ingest.fhir.tables import Source

ALONE: Final = 1000
"""Records of a delivery up to which a process of its own is not worth its start."""
A_PROCESS: Final = 4000
"""Records of a sample for which one process is enough."""
SPAN: Final = 16 * 1024 * 1024
"""Bytes of a file that are validated in one piece in mode `all`."""
SHOWN: Final = 40
"""Kinds of faults that the summary names, the most frequent first."""


@dataclass(frozen=True, order=True)
class Misfit:
    """A record with a structural fault.

    Attributes:
        kind: Its resource type.
        source: Place of its file among the sources of that type (`Source.order`).
        line: Its line in that file, 1-based.
    """

    kind: str
    source: tuple[int, int, int]
    line: int


@dataclass(frozen=True)
class Validated:
    """The outcome for a delivery.

    Attributes:
        misfits: Records that are not to be used, sorted.
        summary: For the account's `info["validation"]`: mode, checked, failed, structural, counts by type, and the most
            frequent faults. No values, and no names but those of the standard.
    """

    misfits: list[Misfit]
    summary: dict[str, Any]


class Validation:
    """Validates the sources of a delivery; a context, so that no process outlives it.

    Args:
        spec: The source's settings.
        processes: At most so many at a time.
        folder: Where the processes leave their answers.
    """

    def __init__(self, spec: ValidationSpec, *, processes: int, folder: Path) -> None:
        self.spec, self.processes, self.folder = spec, max(1, processes), folder
        self._paths: dict[tuple[str, tuple[int, int, int]], Path] = {}
        self._here: list[Stretch] = []
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def __enter__(self) -> Validation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process, _ in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def start(self, sources: Mapping[str, Sequence[Source]]) -> None:
        """Begin with these sources (by type); the files must stay as they are until `finish`."""
        if self.spec.mode == "off":
            return
        self._paths = {(kind, source.order): source.path for kind, group in sources.items() for source in group}
        stretches = [s for kind, group in sorted(sources.items()) for s in self._stretches(kind, group)]
        costs = [
            stretch.records if stretch.draw is None else min(stretch.draw, stretch.records) for stretch in stretches
        ]
        if sum(source.records for group in sources.values() for source in group) <= ALONE:
            self._here = stretches
            return
        wanted = self.processes if self.spec.mode == "all" else min(self.processes, 1 + sum(costs) // A_PROCESS)
        jobs: list[list[Stretch]] = [[] for _ in range(wanted)]
        loads = [0] * wanted
        for cost, stretch in sorted(zip(costs, stretches, strict=True), key=lambda pair: -pair[0]):
            least = loads.index(min(loads))
            jobs[least].append(stretch)
            loads[least] += cost
        for job in filter(None, jobs):
            self._started.append(_process(job, self.folder / f"validation-{len(self._started)}"))

    def _stretches(self, kind: str, sources: Sequence[Source]) -> list[Stretch]:
        """What is drawn from together: every line file by itself, and all documents of the delivery as if they were one."""
        spec = self.spec
        ordered = sorted((source for source in sources if source.records), key=lambda source: source.order)
        if spec.mode == "all":
            found = []
            for source in ordered:
                ranges = spans(source.path, SPAN)
                share = -(-source.records // len(ranges))
                found += [Stretch(kind, [source.order], [source.path], share, None, "", span) for span in ranges]
            return found
        found = []
        for file, group in groupby(ordered, key=lambda source: source.order[:2] if source.order[0] == 0 else (1, 0)):
            part = list(group)
            seed = f"{spec.seed}:{kind}:{file[0]}:{file[1]}"
            records = sum(source.records for source in part)
            found.append(Stretch(kind, [s.order for s in part], [s.path for s in part], records, spec.sample, seed))
        return found

    def finish(self) -> Validated:
        """Wait for the processes and put together what they found.

        Raises:
            InputError: A process died (killed for memory, for instance).
        """
        verdicts = [validate(self._here)]
        codes = [process.wait() for process, _ in self._started]
        if any(codes):
            raise InputError(
                f"{sum(map(bool, codes))} of {len(codes)} validating processes ended with code "
                f"{next(filter(None, codes))}.",
                todo="If it was killed for memory, set validation.mode to 'off' for this source in sources.yaml.",
            )
        verdicts += [ANSWER.validate_json(answer.read_bytes()) for _, answer in self._started]
        found = [one for verdict in verdicts for one in verdict.structural]
        misfits = []
        for (kind, source), group in groupby(sorted(found), key=lambda one: (one[0], one[1])):
            numbers = _line_numbers(self._paths[kind, source], [offset for _, _, offset in group])
            misfits += [Misfit(kind, source, number) for number in numbers]
        return Validated(misfits, summary(self.spec, verdicts, len(misfits)))


def _process(job: list[Stretch], answer: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a process on these stretches, as `python -m` (see `work`)."""
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    question = answer.with_suffix(".question")
    question.write_bytes(QUESTION.dump_json(job))
    with question.open("rb") as asked:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.ingest.fhir.validation_work", str(answer)],
            stdin=asked,
            env={**os.environ, "PYTHONPATH": path},
        )
    return process, answer


def _line_numbers(path: Path, offsets: list[int]) -> list[int]:
    """The lines (1-based) that begin at these byte offsets, which are sorted."""
    numbers, line, here = [], 1, 0
    with path.open("rb") as file:
        for offset in offsets:
            while here < offset:
                piece = file.read(min(CHUNK, offset - here))
                line += piece.count(b"\n")
                here += len(piece)
            numbers.append(line)
    return numbers


def summary(spec: ValidationSpec, verdicts: Sequence[Verdicts], structural: int) -> dict[str, Any]:
    """What goes into the account; the same for the same records, however the work was divided."""
    checked: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    faults: Counter[tuple[str, Fault]] = Counter()
    for verdict in verdicts:
        checked.update(verdict.checked)
        failed.update(verdict.failed)
        for kind, fault, number in verdict.faults:
            faults[kind, fault] += number
    ranked = sorted(faults.items(), key=lambda item: (-item[1], item[0]))
    return {
        "mode": spec.mode,
        "checked": sum(checked.values()),
        "failed": sum(failed.values()),
        "structural": structural,
        "rewritten": sum(verdict.rewritten for verdict in verdicts),
        "types": {kind: {"checked": checked[kind], "failed": failed[kind]} for kind in sorted(checked)},
        "faults": [
            {"type": kind, "path": fault.path, "error": fault.error, "records": number, "structural": fault.structural}
            for (kind, fault), number in ranked[:SHOWN]
        ],
        "more_faults": max(0, len(ranked) - SHOWN),
    }


def failure_rate(validation: Mapping[str, Any]) -> float:
    """Share of the validated records that failed; `validation` is a summary."""
    return validation["failed"] / validation["checked"] if validation["checked"] else 0.0


def refuse_invalid(account: Mapping[str, Any], spec: ValidationSpec, delivery: str) -> None:
    """Refuse to make anything of a delivery of which more failed validation than its source allows.

    Args:
        account: The delivery's account, as it is stored.
        spec: The source's settings, as they are now.
        delivery: Its key.

    Raises:
        InputError: Says how many failed.
    """
    told = account.get("info", {}).get("validation")
    if told is not None and failure_rate(told) > spec.max_failure_rate:
        raise InputError(
            f"{told['failed']:,} of {told['checked']:,} validated resources failed ({failure_rate(told):.1%}), more than "
            f"the {spec.max_failure_rate:.1%} that the source allows.",
            where=delivery,
            todo=f"See `cohortloom delivery {delivery}`; replace the delivery, or raise validation.max_failure_rate.",
        )
