"""Schemas from data: kinds, levels, bounds, what is declared and wrong, and that no message holds a cell."""

from __future__ import annotations

import decimal
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CohortLoomError, ConfigError, InputError
from pipeline.features.infer import conform, infer_schema, normalise
from pipeline.features.schema import Column, Resolution, TableSchema
from pipeline.features.spec import ColumnSpec

CANARY = "Zebulon-Quartermain-4711"


def column(values: object, spec: ColumnSpec | None = None, type: pa.DataType | None = None, train=None) -> Column:
    table = pa.table({"x": values if isinstance(values, pa.Array) else pa.array(values, type)})
    return infer_schema(table, train, {"x": spec} if spec else {}).column("x")


WORDS = ["low", "mid", "high"] * 10
MOMENT = datetime.fromisoformat("2026-10-01T12:30:00.123456")


@pytest.mark.parametrize(
    ("values", "kind", "dtype"),
    [
        (pa.array([True, False, None] * 5), "binary", "bool"),
        (pa.array([True] * 9), "binary", "bool"),
        (pa.array([0, 1] * 9, pa.int8()), "binary", "int32"),
        (pa.array([3, 7] * 9), "binary", "int64"),
        (pa.array([0.0, 1.0, None] * 9), "binary", "float64"),
        (pa.array(["f", "m"] * 9), "binary", "string"),
        (pa.array(WORDS), "categorical", "string"),
        (pa.array(WORDS).dictionary_encode(), "categorical", "string"),
        (pa.array(WORDS, pa.large_string()), "categorical", "string"),
        (pa.array(WORDS, pa.string_view()), "categorical", "string"),
        (pa.array(["same"] * 9), "categorical", "string"),
        (pa.array([f"id-{i}" for i in range(40)]), "identifier", "string"),
        (pa.array([0, 1, 2, 5] * 9, pa.uint8()), "count", "int32"),
        (pa.array(range(300)), "count", "int64"),
        (pa.array(range(100, 130)), "count", "int64"),
        (pa.array(range(100, 300)), "continuous", "int64"),
        (pa.array([-1, 0, 4] * 9), "continuous", "int64"),
        (pa.array([1, 2, 3], pa.uint64()), "count", "int64"),
        (pa.array([1.5, 2.5, 3.0]), "continuous", "float64"),
        (pa.array([1.5, 2.5, 3.0], pa.float32()), "continuous", "float32"),
        (
            pa.array([decimal.Decimal("1.10"), decimal.Decimal("2.25"), decimal.Decimal("3.00")]),
            "continuous",
            "float64",
        ),
        (pa.array([decimal.Decimal(i) for i in range(3)], pa.decimal128(38, 0)), "count", "int64"),
        (pa.array([date(2026, 1, 1), date(2026, 1, 2)]), "datetime", "date32[day]"),
        (pa.array([date(2026, 1, 1), date(2026, 1, 2)], pa.date64()), "datetime", "date32[day]"),
        (pa.array([MOMENT, None]), "datetime", "timestamp[us]"),
        (pa.array([1, 2, 3], pa.timestamp("ns", "Europe/Berlin")), "datetime", "timestamp[us]"),
    ],
)
def test_kinds_and_types(values: pa.Array, kind: str, dtype: str) -> None:
    found = column(values)
    assert (found.kind, found.dtype) == (kind, dtype)


def test_identifiers_get_their_role() -> None:
    assert column([f"id-{i}" for i in range(40)]).role == "id"


@pytest.mark.parametrize(
    ("name", "kind"), [("patient_nbr", "identifier"), ("hadmId", "identifier"), ("platelets", "continuous")]
)
def test_numbers_that_say_who_a_row_is_are_not_learned(name: str, kind: str) -> None:
    """Some people come several times, so by "five rows share it" their numbers would come out as they are."""
    numbers = [927 + 38_119 * (i if i % 3 else 7) for i in range(600)]
    [found] = infer_schema(pa.table({name: numbers})).columns
    assert found.kind == kind


def test_zones_are_dropped_to_utc() -> None:
    berlin = pa.array([datetime(2026, 7, 1, 12, tzinfo=UTC)]).cast(pa.timestamp("us", "Europe/Berlin"))
    table = normalise(pa.table({"t": berlin}))
    assert table.column("t")[0].as_py() == datetime.fromisoformat("2026-07-01T12:00")


def test_nan_is_missing_and_infinity_is_refused() -> None:
    found = column([1.0, float("nan"), 2.5, None, 3.25])
    assert found.nullable
    assert found.bounds == (1.0, 3.25)
    with pytest.raises(ConfigError, match="column x: 2 rows hold an infinite number"):
        column([1.0, float("inf"), float("-inf")])


def test_levels_and_bounds_come_from_train_and_nullability_from_all_rows() -> None:
    train = np.array([True] * 20 + [False] * 2)
    levels = column(["b", "a"] * 10 + ["only in holdout", None], train=train)
    assert levels.levels == ["a", "b"]
    assert levels.nullable
    assert column([1.0, 2.5] * 5 + [3.5] * 10 + [99.0, None], train=train).bounds == (1.0, 3.5)


def test_level_order_is_numeric_or_declared() -> None:
    ordinal = ColumnSpec(kind="ordinal")
    assert column([10, 9, 100] * 9, ordinal).levels == [9, 10, 100]
    with pytest.raises(ConfigError, match="order of text cannot be told"):
        column(WORDS, ordinal)
    declared = ColumnSpec(kind="ordinal", levels=["low", "mid", "high"])
    assert column(WORDS, declared).levels == ["low", "mid", "high"]


def test_whether_cells_may_be_missing_can_be_declared() -> None:
    """A private training pays for what is not: without it, a column learned with others may come out with gaps."""
    never, open_ = ColumnSpec(nullable=False), ColumnSpec(nullable=True)
    assert "nullable" in column(WORDS).inferred
    found = column(WORDS, never)
    assert (found.nullable, "nullable" in found.inferred) == (False, False)
    assert column(WORDS, open_).nullable
    with pytest.raises(ConfigError, match="1 rows hold no value, and it is declared `nullable: false`"):
        column([*WORDS, None], never)


def test_more_levels_may_be_declared_than_occur() -> None:
    found = column(["f", "m"] * 20, ColumnSpec(levels=["f", "m", "unknown"]))
    assert (found.kind, found.levels) == ("categorical", ["f", "m", "unknown"])
    assert column(["f", "m"] * 20, ColumnSpec(levels=["f", "m"])).kind == "binary"


def test_a_flag_that_never_occurs_in_training_still_has_two_levels() -> None:
    binary = ColumnSpec(kind="binary")
    assert column([False] * 9, binary).levels == [False, True]
    assert column([0] * 9, binary).levels == [0, 1]
    assert column([1.0] * 9, binary).levels == [0.0, 1.0]
    assert column([1, 2] * 9, binary).levels == [1, 2]


@pytest.mark.parametrize(
    ("values", "spec", "says"),
    [
        (WORDS, ColumnSpec(levels=["low", "mid"]), "column x: 10 rows hold a value that is not among the 2 declared"),
        (WORDS, ColumnSpec(kind="binary"), "Declared binary, but there are 3 levels"),
        (WORDS, ColumnSpec(kind="count"), "needs numbers, its type is string"),
        (WORDS, ColumnSpec(kind="datetime"), "needs dates or times"),
        (WORDS, ColumnSpec(dtype="int64"), "do not fit the declared type int64"),
        (WORDS, ColumnSpec(bounds=(0, 1)), "A categorical column has no bounds"),
        (WORDS, ColumnSpec(resolution=Resolution(kind="atoms")), "has no resolution"),
        ([1, 2, 3, 4], ColumnSpec(kind="categorical", levels=["1", "2"]), "levels are not of the column's type int64"),
        ([1, 2, 3, 4], ColumnSpec(kind="count", levels=[1, 2]), "A count column has no levels"),
        ([1, 2, -3, -4], ColumnSpec(kind="count"), "2 rows are negative or not whole"),
        ([1.5, 2.5, 3.0], ColumnSpec(kind="count"), "2 rows are negative or not whole"),
        ([1.5, 2.5, 3.0], ColumnSpec(bounds=(2, 3)), "1 rows are outside the declared bounds"),
        ([1.5, 2.5, 3.0], ColumnSpec(resolution=Resolution(kind="decimals")), "would move 2 of the real values"),
        ([1.5, 2.5, 3.25], ColumnSpec(resolution=Resolution(kind="step", step=0.5)), "would move 1 of"),
        ([None, None, None], ColumnSpec(dtype="float64"), "None of the 3 training rows holds a value"),
        ([1, 2], ColumnSpec(kind="identifier", dtype="float64"), "An identifier is text or a whole number"),
        ([date(2026, 1, 1)] * 3, ColumnSpec(kind="categorical"), "cannot be of type date32"),
        ([[1], [2]], ColumnSpec(), "type list.* cannot be modelled"),
        ([{"a": 1}], ColumnSpec(), "type struct.* cannot be modelled"),
    ],
)
def test_declarations_that_the_data_contradict(values: list[object], spec: ColumnSpec, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        column(values, spec)
    assert str(caught.value).startswith("column x: ")


def test_declared_levels_and_bounds_hold_for_the_holdout_too() -> None:
    train = np.array([True, True, True, False])
    with pytest.raises(ConfigError, match="1 rows hold a value that is not among"):
        column(["a", "b", "a", "c"], ColumnSpec(levels=["a", "b"]), train=train)
    with pytest.raises(ConfigError, match="1 rows are outside"):
        column([1.0, 2.0, 1.5, 9.0], ColumnSpec(bounds=(0, 5)), train=train)


def test_declared_wins_where_the_data_agree() -> None:
    found = column(
        [1, 2, 3],
        ColumnSpec(kind="continuous", dtype="float32", bounds=(0, 10), resolution=Resolution(kind="step", step=0.5)),
    )
    assert (found.kind, found.dtype, found.bounds, found.resolution.step) == ("continuous", "float32", (0, 10), 0.5)


def test_text_with_too_many_common_levels_is_refused() -> None:
    many = [f"level {i}" for i in range(257)] * 11
    with pytest.raises(ConfigError, match="257 levels of 11 rows or more"):
        column(many)
    rare = [f"level {i}" for i in range(300)] * 2
    assert column(rare).kind == "categorical"


def test_no_training_rows_and_unknown_columns() -> None:
    table = pa.table({"age": [1, 2]})
    with pytest.raises(InputError, match="None of the 2 rows are for training"):
        infer_schema(table, np.array([False, False]))
    with pytest.raises(ConfigError, match=r"'aeg' is declared.*Did you mean 'age'"):
        infer_schema(table, None, {"aeg": ColumnSpec()})


@pytest.mark.parametrize(
    ("values", "spec"),
    [
        ([CANARY] * 5 + ["b"] * 5, ColumnSpec(levels=["b"])),
        ([CANARY] * 5, ColumnSpec(dtype="int64")),
        ([CANARY] * 5, ColumnSpec(dtype="timestamp[us]")),
        ([CANARY, "b", "c"] * 5, ColumnSpec(kind="binary")),
        ([CANARY, "b", "c"] * 5, ColumnSpec(kind="ordinal")),
    ],
)
def test_no_message_holds_a_cell(values: list[str], spec: ColumnSpec) -> None:
    with pytest.raises(CohortLoomError) as caught:
        column(values, spec)
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in repr(error)
        error = error.__cause__ or error.__context__


def test_conform_refuses_what_does_not_fit() -> None:
    schema = TableSchema(
        columns=[Column(name="a", kind="count", dtype="int64"), Column(name="b", kind="continuous", dtype="float64")]
    )
    assert conform(pa.table({"b": [1, 2], "a": [3, 4], "c": [5, 6]}), schema).schema == schema.arrow()
    with pytest.raises(InputError, match=r"1 columns of the schema are not in the table, the first is 'b'"):
        conform(pa.table({"a": [1]}), schema)
    with pytest.raises(InputError, match="column a: 1 cells are missing"):
        conform(pa.table({"a": [1, None], "b": [1.0, 2.0]}), schema)
    with pytest.raises(InputError, match="column a: The values do not fit"):
        conform(pa.table({"a": [1.5, 2.0], "b": [1.0, 2.0]}), schema)


CELLS = {
    "flag": st.booleans(),
    "whole": st.integers(-(2**53), 2**53),
    "real": st.floats(allow_nan=True, allow_infinity=False),
    "text": st.text(max_size=8),
    "day": st.dates(),
    "moment": st.datetimes(),
}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(*(st.none() | s for s in CELLS.values())), min_size=1, max_size=30),
    seed=st.integers(0, 9),
)
def test_whatever_the_table_rows_come_through_unchanged_or_with_a_clear_error(rows, seed: int) -> None:
    types = [pa.bool_(), pa.int64(), pa.float64(), pa.string(), pa.date32(), pa.timestamp("us")]
    table = pa.table({n: pa.array([r[i] for r in rows], types[i]) for i, n in enumerate(CELLS)})
    train = np.random.default_rng(seed).random(len(rows)) < 0.6
    try:
        schema = infer_schema(table, train)
    except CohortLoomError:
        return
    again = conform(table, schema)
    assert again.equals(normalise(table).cast(schema.arrow()))
    assert TableSchema.model_validate_json(schema.model_dump_json()) == schema
