"""What the report on a delivery is made of: one section, and the order in which outcomes of files are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

Cell = str | int
ORDER: Final = ("quarantined", "partly taken", "taken", "not modelled", "not clinical", "empty", "no data")
"""Outcomes of files, what needs looking at first."""


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Attributes:
        name: Short name, for links.
        title: Heading.
        words: Sentences before the table.
        columns: Its columns.
        rows: Its rows; none where there is no table.
        folded: Long and for looking things up: the page shows it on demand, Dagster and the terminal do not.
        names_files: Its rows are files by their names, so Dagster does not keep it.
    """

    name: str
    title: str
    words: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()
    rows: list[tuple[Cell, ...]] = field(default_factory=list)
    folded: bool = False
    names_files: bool = False


def place_of(outcome: str) -> int:
    """Where an outcome stands among the others; first where it is not known."""
    return ORDER.index(outcome) if outcome in ORDER else 0


def count(number: int, what: str) -> str:
    """A number with its noun, as `1 file` and `2 files`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
