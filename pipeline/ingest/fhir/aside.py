"""Setting records aside that could be read, before the tables are written: used by validation.

A record of a clean file is dropped from it. A file that DuckDB would have read as it came is split instead, and the
lines are left out on the way (`Work.aside`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from pipeline.ingest.fhir.tables import take_out
from pipeline.ingest.fhir.work import split_lines

if TYPE_CHECKING:
    from pipeline.ingest.fhir.state import Work


class Misfit(Protocol):
    """A record to be set aside."""

    @property
    def kind(self) -> str:
        """Its resource type."""

    @property
    def source(self) -> tuple[int, int, int]:
        """Its file among the sources of that type (`Source.order`)."""

    @property
    def line(self) -> int:
        """Its line in that file, 1-based; blank lines count."""


def set_aside(work: Work, misfits: Iterable[Misfit], reason: str) -> None:
    """Set these records aside.

    Args:
        work: The delivery after splitting and before writing.
        misfits: The records.
        reason: A key of `REASONS`.
    """
    chosen: dict[tuple[str, tuple[int, int, int]], list[int]] = defaultdict(list)
    for misfit in misfits:
        chosen[misfit.kind, misfit.source].append(misfit.line)
    stale: set[int] = set()
    for (kind, order), found in sorted(chosen.items()):
        source = next(source for source in work.sources[kind] if source.order == order)
        if source.raw is None:
            work.set_aside(kind, take_out(source, kind, {line - 1 for line in found}, reason))
            continue
        work.aside.setdefault(source.raw, {}).update(dict.fromkeys(found, reason))
        work.sources[kind].remove(source)
        stale.add(source.raw)
    if stale:
        split_lines(work, stale)
