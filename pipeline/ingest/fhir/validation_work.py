"""Validating stretches of NDJSON: which records are drawn, and what fhir.resources says of them.

Runs inside the ingest process where it is little, else as `python -m pipeline.ingest.fhir.validation_work`. Who asks
for what, and what becomes of the answers, is in `validation`.
"""

from __future__ import annotations

import random
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Final

import orjson
from pydantic import TypeAdapter

from pipeline.ingest.fhir.validation_faults import Fault, faults_of
from pipeline.ingest.lines import LINE_LIMIT

WHOLE: Final = 4
"""A stretch with up to this many times the records that are drawn is read whole, so that the number drawn is exact."""


@dataclass(frozen=True)
class Stretch:
    """NDJSON of one resource type that is validated in one go: files one after the other, or a span of one file.

    Attributes:
        kind: Resource type.
        sources: Places of the files among the sources of that type, in the order of `paths`.
        paths: The files.
        records: Records in them (an estimate for a span).
        draw: How many are validated; None for all.
        seed: Of the draw; says the same for the same bytes, however the files were cut.
        span: Byte range, for a stretch of one file.
    """

    kind: str
    sources: list[tuple[int, int, int]]
    paths: list[Path]
    records: int
    draw: int | None
    seed: str
    span: tuple[int, int] | None = None


@dataclass
class Verdicts:
    """What came of some stretches.

    Attributes:
        checked: Records validated, by type.
        failed: Of these, the ones with any fault.
        rewritten: Records that were drawn and not validated, since they were rewritten from another FHIR version.
        faults: (type, fault) and the number of records that have it.
        structural: (type, source, byte offset) of the records with a structural fault.
    """

    checked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    rewritten: int = 0
    faults: list[tuple[str, Fault, int]] = field(default_factory=list)
    structural: list[tuple[str, tuple[int, int, int], int]] = field(default_factory=list)


QUESTION: TypeAdapter[list[Stretch]] = TypeAdapter(list[Stretch])
"""What a process is asked, as JSON."""
ANSWER = TypeAdapter(Verdicts)
"""What it answers, as JSON."""


def validate(stretches: list[Stretch]) -> Verdicts:
    """Validate the records that are drawn from these stretches."""
    verdicts = Verdicts()
    counts: Counter[tuple[str, Fault]] = Counter()
    for stretch in stretches:
        for source, offset, line in drawn(stretch):
            record = _record(line, stretch.kind)
            if record is None:
                continue  # not for the models to judge: the reader sets it aside
            record.pop("_at", None)  # `split` puts it in front
            if "_from" in record:  # and this, where it rewrote what is read; the rest of the record is as it was
                verdicts.rewritten += 1
                continue
            verdicts.checked[stretch.kind] += 1
            faults = faults_of(stretch.kind, record)
            if faults:
                verdicts.failed[stretch.kind] += 1
                counts.update((stretch.kind, fault) for fault in faults)
            if any(fault.structural for fault in faults):
                verdicts.structural.append((stretch.kind, source, offset))
    verdicts.faults = [(kind, fault, number) for (kind, fault), number in sorted(counts.items())]
    return verdicts


def _record(line: bytes, kind: str) -> dict[str, Any] | None:
    """The resource of a line; None where it is none of this type."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or record.get("resourceType") != kind:
        return None
    return record


def drawn(stretch: Stretch) -> Iterator[tuple[tuple[int, int, int], int, bytes]]:
    """The records that are validated, as (source, byte offset in its file, line), in order."""
    if stretch.draw is None or stretch.records <= stretch.draw:
        yield from _all(stretch)
    elif stretch.records <= WHOLE * stretch.draw:
        chosen = set(random.Random(stretch.seed).sample(range(stretch.records), stretch.draw))
        yield from (one for number, one in enumerate(_all(stretch)) if number in chosen)
    else:
        yield from _somewhere(stretch, stretch.draw)


def _all(stretch: Stretch) -> Iterator[tuple[tuple[int, int, int], int, bytes]]:
    """Every line that is not blank."""
    for source, path in zip(stretch.sources, stretch.paths, strict=True):
        with path.open("rb") as file:
            begin, end = stretch.span or (0, path.stat().st_size)
            file.seek(begin)
            while begin < end:
                line, size = _line(file)
                if line.strip():
                    yield source, begin, line
                begin += size


def _somewhere(stretch: Stretch, number: int) -> Iterator[tuple[tuple[int, int, int], int, bytes]]:
    """About `number` lines of large files: those that begin after places drawn at random, without reading the rest.

    How likely a line is drawn depends on the length of the line before it, not on its own.
    """
    sizes = [path.stat().st_size for path in stretch.paths]
    ends = list(accumulate(sizes))
    draw = random.Random(stretch.seed)
    found: set[tuple[int, int]] = set()
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in stretch.paths]
        for _ in range(2 * number):
            if len(found) == number:
                break
            place = draw.randrange(ends[-1])
            index = bisect_right(ends, place)
            files[index].seek(place - (ends[index] - sizes[index]))
            _skip(files[index])
            offset = files[index].tell()
            while offset == sizes[index]:  # after the last line comes the first one of the next file
                index, offset = (index + 1) % len(files), 0
            found.add((index, offset))
        for index, offset in sorted(found):
            files[index].seek(offset)
            line, _ = _line(files[index])
            if line.strip():
                yield stretch.sources[index], offset, line


def _line(file: IO[bytes]) -> tuple[bytes, int]:
    """The next line and its size with the line break; one that is too long for a record comes back empty."""
    line = file.readline(LINE_LIMIT)
    if line.endswith(b"\n") or len(line) < LINE_LIMIT:
        return line, len(line)
    return b"", len(line) + _skip(file)


def _skip(file: IO[bytes]) -> int:
    """Go to the begin of the next line; gives the bytes passed over."""
    size = 0
    while piece := file.readline(LINE_LIMIT):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def main(answer: str) -> None:
    """Take a question as JSON from stdin, leave the `Verdicts` as JSON in the file `answer`."""
    stretches = QUESTION.validate_json(sys.stdin.buffer.read())
    Path(answer).write_bytes(ANSWER.dump_json(validate(stretches)))


if __name__ == "__main__":
    # Under its own name, so that the answer's classes are those of the reading process.
    from pipeline.ingest.fhir import validation_work as fhir_validation_work

    fhir_validation_work.main(sys.argv[1])
