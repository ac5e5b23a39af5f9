"""The account of a code block: what became of every record that its SQL gave. How it is made is in `blocks.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

TAKEN: Final = "taken"


@dataclass(frozen=True)
class Tally:
    """How many codes, and how many records (rows of the block's SQL) with them."""

    codes: int
    records: int


@dataclass(frozen=True)
class BlockAccount:
    """What became of every record of a block's SQL: records = taken + all that was left out.

    Attributes:
        rows: rows of the cohort.
        codes: codes in the vocabulary.
        cells: stored cells, one a row and code that occurs in it.
        records: rows of the block's SQL.
        taken: of these, those that stand in the block.
        left_out: reason to codes and records that do not.
        as_they_are: reason to codes and records that could not be written or grouped by the rules and were kept
            nevertheless; they are also taken or left out.
    """

    rows: int
    codes: int
    cells: int
    records: int
    taken: int
    left_out: dict[str, Tally] = field(default_factory=dict)
    as_they_are: dict[str, Tally] = field(default_factory=dict)

    @property
    def density(self) -> float:
        """Share of the block's cells that are not zero."""
        return self.cells / max(1, self.rows * self.codes)

    def sentence(self, name: str) -> str:
        """What became of the block's records, in one line."""
        out = "".join(f" + {tally.records:,} left out ({reason})" for reason, tally in self.left_out.items())
        kept = "".join(f"; {tally.records:,} kept as they are ({reason})" for reason, tally in self.as_they_are.items())
        return f"block {name}: {self.records:,} records = {self.taken:,} taken{out}; {self.codes:,} codes{kept}"

    def counts(self) -> dict[str, int]:
        """Everything as flat numbers, for the version's info and for tables."""
        flat = {"codes": self.codes, "cells": self.cells, "records": self.records, TAKEN: self.taken}
        for what, tallies in (("left out", self.left_out), ("kept as they are", self.as_they_are)):
            for reason, tally in tallies.items():
                flat |= {f"{what}, {reason}: codes": tally.codes, f"{what}, {reason}: records": tally.records}
        return flat
