"""What a reader of a format is given beside the delivery and the draft: the source's settings and what it may use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.features.source import SourceSpec


@dataclass(frozen=True)
class Reading:
    """How to read a delivery.

    Attributes:
        source: The source's settings.
        threads: Threads of DuckDB, and processes beside it where files have to be taken apart.
        memory_limit: DuckDB's memory, e.g. "2GB".
        spill: Where DuckDB puts what does not fit in memory; None for a temporary folder.
    """

    source: SourceSpec
    threads: int = 2
    memory_limit: str = "2GB"
    spill: Path | None = None
