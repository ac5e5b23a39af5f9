"""Visits: ragged rows to a table of events and back, cut, recoded, taken, stored."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import InputError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, EventCodes, TableSchema
from pipeline.features.stored import read_cohort, schema_json, write_cohort
from pipeline.features.visits import CutOff, Visits, stacked_events, take_events

if TYPE_CHECKING:
    from pathlib import Path

CODES = ["a", "b", "c", "d"]
DAY = 86_400_000_000


def made() -> Visits:
    """Four rows: two visits, none, one, three; the last row has a visit of all codes."""
    return Visits(
        CODES,
        np.array([0, 2, 2, 3, 6]),
        np.array([10, 12, 5, 7, 7, 400]),
        np.array([0, 2, 3, 4, 8, 9, 10]),
        np.array([0, 2, 1, 3, 0, 1, 2, 3, 1, 0], dtype=np.int32),
    )


def cohort() -> Cohort:
    schema = TableSchema(
        columns=[Column(name="age", kind="count", dtype="int64")], unit="patient", events=EventCodes(vocabulary=CODES)
    )
    return replace(assemble(schema, {"age": np.arange(4.0)}), events=made().events())


def same(a: Visits, b: Visits) -> bool:
    names = ("visit_start", "day", "code_start", "code")
    return list(a.vocabulary) == list(b.vocabulary) and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in names)


def test_events_say_what_the_visits_are_and_come_back() -> None:
    events = made().events()
    assert events.slice(0, 4).to_pylist() == [
        {"row": 0, "visit": 0, "time": pa.scalar(10 * DAY, pa.timestamp("us")).as_py(), "code": "a"},
        {"row": 0, "visit": 0, "time": pa.scalar(10 * DAY, pa.timestamp("us")).as_py(), "code": "c"},
        {"row": 0, "visit": 1, "time": pa.scalar(12 * DAY, pa.timestamp("us")).as_py(), "code": "b"},
        {"row": 2, "visit": 0, "time": pa.scalar(5 * DAY, pa.timestamp("us")).as_py(), "code": "d"},
    ]
    assert same(Visits.of(cohort()), made())
    assert made().gaps().tolist() == [-1, 2, -1, -1, 0, 393]
    assert made().counts.tolist() == [2, 0, 1, 3]
    assert made().subjects_with().tolist() == [2, 2, 2, 2]


def test_rows_are_taken_again_and_again() -> None:
    rows = np.array([3, 1, 3, 0])
    taken = made().take(rows)
    assert taken.counts.tolist() == [3, 0, 3, 2]
    assert same(Visits.of(cohort().take(rows)), taken)
    mask = np.array([False, True, False, True])
    assert same(Visits.of(cohort().take(mask)), made().take(np.array([1, 3])))
    nobody = cohort().take(np.array([], dtype=np.int64))
    assert nobody.events.num_rows == 0
    assert Visits.of(nobody).n == 0
    stacked = stacked_events([cohort().events, nobody.events, cohort().events], [4, 0, 4])
    assert same(Visits.from_events(stacked, 8, CODES), Visits.concatenated([made(), made()]))
    assert take_events(stacked, np.arange(8), 8).equals(stacked)


def test_what_is_cut_is_counted() -> None:
    short, off = made().cut(visits=2, codes=3)
    assert off == CutOff(visits=1, codes=1)
    assert short.counts.tolist() == [2, 0, 1, 2]
    assert short.code[short.visit_of_code == 3].tolist() == [0, 1, 2]
    whole, nothing = made().cut(visits=9, codes=9)
    assert same(whole, made())
    assert nothing == CutOff()


def test_codes_that_are_left_out_take_their_visits_along() -> None:
    found = made().recoded(np.array([1, -1, 0, -1]), ["c", "a"])
    assert found.counts.tolist() == [1, 0, 0, 2]
    assert found.day.tolist() == [10, 7, 400]
    assert [found.code[s:e].tolist() for s, e in zip(found.code_start, found.code_start[1:], strict=False)] == [
        [0, 1],
        [0, 1],
        [1],
    ]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("row", [0, 0, 0, 2, 3, 3, 3, 3, 3, 4]),
        ("row", [0, 0, 0, 2, 1, 3, 3, 3, 3, 3]),
        ("visit", [0, 0, 1, 0, 2, 2, 2, 2, 1, 0]),
        ("code", ["c", "a", "b", "d", "a", "b", "c", "d", "b", "a"]),
        ("code", ["a", "z", "b", "d", "a", "b", "c", "d", "b", "a"]),
    ],
)
def test_a_table_in_disorder_is_refused(column: str, values: list[object]) -> None:
    events = made().events()
    at = events.column_names.index(column)
    with pytest.raises(InputError):
        Visits.from_events(events.set_column(at, column, pa.array(values, events.schema.field(at).type)), 4, CODES)


def test_a_cohort_without_events_says_what_to_do() -> None:
    bare = assemble(TableSchema(columns=[Column(name="age", kind="count", dtype="int64")]), {"age": np.arange(3.0)})
    with pytest.raises(InputError, match=r"no events.*\n?.*Declare `events`"):
        Visits.of(bare)
    assert "events" not in schema_json(bare.schema), "tables without visits are written as they always were"


def test_stored_and_read_again(tmp_path: Path) -> None:
    write_cohort(cohort(), tmp_path)
    back = read_cohort(tmp_path)
    assert back.schema == cohort().schema
    assert back.events.equals(cohort().events)
