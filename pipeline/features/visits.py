"""Visits: each row of a cohort as a sequence of dated sets of codes, ragged; and the table of events that holds them.

The table (`Cohort.events`) has one row a code of a visit: `row` (of the cohort), `visit` (0, 1, .. within the row),
`time` (the day of the visit), `code`; sorted by row, visit and code. How one is made of raw tables is in
`event_rows.py`, how a model learns visits in `generators/sequences/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from pipeline.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

EVENT_COLUMNS: Final = ("row", "visit", "time", "code")
MICROSECONDS_PER_DAY: Final = 86_400_000_000


def event_schema() -> pa.Schema:
    """The Arrow schema of a table of events."""
    import pyarrow as pa

    kinds = (pa.int64(), pa.int32(), pa.timestamp("us"), pa.string())
    return pa.schema([pa.field(n, k, nullable=False) for n, k in zip(EVENT_COLUMNS, kinds, strict=True)])


@dataclass(frozen=True)
class CutOff:
    """What a limit on the number of visits or codes left out."""

    visits: int = 0
    codes: int = 0


@dataclass(frozen=True)
class Visits:
    """The visits of n rows.

    Attributes:
        vocabulary: the codes.
        visit_start: (n + 1,) int64; the visits of row i are those from `visit_start[i]` to `visit_start[i + 1]`.
        day: (visits,) int64 days since 1970-01-01, never falling within a row.
        code_start: (visits + 1,) int64; where the codes of each visit begin. A visit has at least one code.
        code: (codes,) int32 positions in the vocabulary, rising within a visit.
    """

    vocabulary: Sequence[str]
    visit_start: NDArray[np.int64]
    day: NDArray[np.int64]
    code_start: NDArray[np.int64]
    code: NDArray[np.int32]

    @classmethod
    def of(cls, cohort: Cohort) -> Visits:
        """The visits of a cohort's rows.

        Raises:
            InputError: the cohort has no events, or its table of events is none.
        """
        if cohort.schema.events is None or cohort.events is None:
            raise InputError(
                "This cohort has no events.",
                todo="Declare `events` in the cohort's file: a SELECT of the subject, `time` and `code`.",
            )
        return cls.from_events(cohort.events, cohort.n_rows, cohort.schema.events.vocabulary)

    @classmethod
    def from_events(cls, events: pa.Table, rows: int, vocabulary: Sequence[str]) -> Visits:
        """The visits in a table of events.

        Args:
            events: see the module's docstring.
            rows: rows of the cohort.
            vocabulary: the codes.

        Raises:
            InputError: a column is missing, a row or code does not exist, or the order is another one.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if list(events.column_names) != list(EVENT_COLUMNS):
            raise InputError("A table of events has the columns row, visit, time and code.")
        place = pc.index_in(events.column("code"), value_set=pa.array(list(vocabulary), pa.string()))
        if place.null_count:
            raise InputError(f"{place.null_count} events have a code that is not in the vocabulary.")
        row = events.column("row").to_numpy().astype(np.int64)
        visit = events.column("visit").to_numpy().astype(np.int64)
        day = pc.cast(events.column("time"), pa.int64()).to_numpy().astype(np.int64) // MICROSECONDS_PER_DAY
        code = place.to_numpy().astype(np.int32)
        new = np.ones(len(row), dtype=bool)
        new[1:] = (row[1:] != row[:-1]) | (visit[1:] != visit[:-1])
        first = np.flatnonzero(new)
        back = (np.diff(row) < 0) | ((np.diff(row) == 0) & ((np.diff(visit) < 0) | (np.diff(day) < 0)))
        within = ~new[1:] & ((np.diff(code) <= 0) | (np.diff(day) != 0))
        if len(row) and (row[0] < 0 or row[-1] >= rows or back.any() or within.any()):
            raise InputError("The events are not sorted by row, visit and code, or a row does not exist.")
        return cls(
            vocabulary=vocabulary,
            visit_start=np.searchsorted(row[first], np.arange(rows + 1)).astype(np.int64),
            day=day[first],
            code_start=np.r_[first, len(row)].astype(np.int64),
            code=code,
        )

    @property
    def n(self) -> int:
        """Rows."""
        return len(self.visit_start) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        """(n,) visits of each row."""
        return np.diff(self.visit_start)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(visits,) codes of each visit."""
        return np.diff(self.code_start)

    @property
    def row_of_visit(self) -> NDArray[np.int64]:
        """(visits,) row of each visit."""
        return np.repeat(np.arange(self.n), self.counts)

    @property
    def place_of_visit(self) -> NDArray[np.int64]:
        """(visits,) 0 for a row's first visit, 1 for the second, ..."""
        return np.arange(len(self.day)) - np.repeat(self.visit_start[:-1], self.counts)

    @property
    def visit_of_code(self) -> NDArray[np.int64]:
        """(codes,) visit of each code."""
        return np.repeat(np.arange(len(self.day)), self.sizes)

    def gaps(self) -> NDArray[np.int64]:
        """(visits,) days since the row's visit before; -1 for a first visit."""
        gap = np.diff(self.day, prepend=0)
        gap[self.place_of_visit == 0] = -1
        return gap

    def take(self, rows: NDArray[np.integer]) -> Visits:
        """The visits of the given rows, in that order; repeats are allowed."""
        index = np.asarray(rows, dtype=np.int64)
        visit_start, visits = _gathered(self.visit_start, index)
        code_start, codes = _gathered(self.code_start, visits)
        return Visits(self.vocabulary, visit_start, self.day[visits], code_start, self.code[codes])

    def cut(self, *, visits: int, codes: int) -> tuple[Visits, CutOff]:
        """At most so many first visits a row and first codes a visit (in the vocabulary's order), and what was left out."""
        kept = np.flatnonzero(self.place_of_visit < visits)
        visit_start = np.r_[0, np.cumsum(np.minimum(self.counts, visits))].astype(np.int64)
        code_start, all_codes = _gathered(self.code_start, kept)
        place = np.arange(len(all_codes)) - np.repeat(code_start[:-1], np.diff(code_start))
        short = all_codes[place < codes]
        sizes = np.minimum(np.diff(code_start), codes)
        found = Visits(
            self.vocabulary, visit_start, self.day[kept], np.r_[0, np.cumsum(sizes)].astype(np.int64), self.code[short]
        )
        return found, CutOff(len(self.day) - len(kept), len(all_codes) - len(short))

    def recoded(self, place: NDArray[np.integer], vocabulary: Sequence[str]) -> Visits:
        """The same visits under another vocabulary, without the codes and the visits that then have none.

        Args:
            place: (codes of this vocabulary,) position in the new one, -1 for a code that is left out.
            vocabulary: the new one.
        """
        moved, visit = np.asarray(place)[self.code].astype(np.int64), self.visit_of_code
        kept = moved >= 0
        order = np.lexsort((moved[kept], visit[kept]))
        code, visit = moved[kept][order], visit[kept][order]
        there = np.unique(visit)
        sizes = np.bincount(visit, minlength=len(self.day))[there]
        counts = np.bincount(self.row_of_visit[there], minlength=self.n)
        return Visits(
            vocabulary,
            np.r_[0, np.cumsum(counts)].astype(np.int64),
            self.day[there],
            np.r_[0, np.cumsum(sizes)].astype(np.int64),
            code.astype(np.int32),
        )

    def presence(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(pairs,) rows and codes of every pair of a row and a code that it ever has, each once."""
        row = self.row_of_visit[self.visit_of_code]
        pairs = np.unique(row * max(len(self.vocabulary), 1) + self.code)
        return pairs // max(len(self.vocabulary), 1), (pairs % max(len(self.vocabulary), 1)).astype(np.int32)

    def subjects_with(self) -> NDArray[np.int64]:
        """(vocabulary,) rows that ever have each code."""
        return np.bincount(self.presence()[1], minlength=len(self.vocabulary)).astype(np.int64)

    def events(self) -> pa.Table:
        """The table of events of these visits."""
        import pyarrow as pa

        visit = self.visit_of_code
        codes = pa.DictionaryArray.from_arrays(pa.array(self.code), pa.array(list(self.vocabulary), pa.string()))
        columns = [
            pa.array(self.row_of_visit[visit]),
            pa.array(self.place_of_visit[visit].astype(np.int32)),
            pa.array(self.day[visit] * MICROSECONDS_PER_DAY).cast(pa.timestamp("us")),
            codes.cast(pa.string()),
        ]
        return pa.Table.from_arrays(columns, schema=event_schema())

    @classmethod
    def concatenated(cls, parts: Sequence[Visits]) -> Visits:
        """The rows of all parts, one after the other; all have the first one's vocabulary."""
        return cls(
            parts[0].vocabulary,
            _chained([p.visit_start for p in parts]),
            np.concatenate([p.day for p in parts]),
            _chained([p.code_start for p in parts]),
            np.concatenate([p.code for p in parts]),
        )


def take_events(events: pa.Table, rows: NDArray[np.integer], n: int) -> pa.Table:
    """The events of the given rows of n, renumbered; a repeated row has its events again."""
    import pyarrow as pa

    start = np.searchsorted(events.column("row").to_numpy(), np.arange(n + 1))
    offsets, index = _gathered(start, np.asarray(rows, dtype=np.int64))
    taken = events.take(pa.array(index)).combine_chunks()
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return taken.set_column(0, taken.schema.field("row"), pa.array(row.astype(np.int64)))


def stacked_events(events: Sequence[pa.Table], sizes: Sequence[int]) -> pa.Table:
    """The events of cohorts that are put one after the other, each of so many rows."""
    import pyarrow as pa

    starts = np.r_[0, np.cumsum(sizes)[:-1]].astype(np.int64)
    parts = [
        table.set_column(0, table.schema.field("row"), pa.array(table.column("row").to_numpy() + start))
        for table, start in zip(events, starts, strict=True)
    ]
    return pa.concat_tables(parts)


def _gathered(start: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets of the given ragged rows put together, and the positions of their members."""
    sizes = start[rows + 1] - start[rows]
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    members = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes) + np.repeat(start[rows], sizes)
    return offsets, members


def _chained(starts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Offsets of ragged arrays put one after the other."""
    ends = np.r_[0, np.cumsum([s[-1] for s in starts])]
    return np.concatenate([starts[0][:1], *(s[1:] + e for s, e in zip(starts, ends[:-1], strict=True))]).astype(
        np.int64
    )
