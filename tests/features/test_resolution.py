"""Grids of numeric columns: no real value may move, and a grid that the values do not fill is not believed."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv

from pipeline.features.cohort import column_from_values, numbers
from pipeline.features.infer import infer_schema
from pipeline.features.resolution import infer_resolution, moved, on_grid
from pipeline.features.schema import Resolution

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(7)
SMOOTH = RNG.normal(70.0, 12.0, 2000)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.round(SMOOTH), Resolution(kind="decimals", digits=0)),
        (np.round(SMOOTH, 1), Resolution(kind="decimals", digits=1)),
        (np.round(SMOOTH, 4), Resolution(kind="decimals", digits=4)),
        (np.round(SMOOTH / 5) * 5, Resolution(kind="step", step=5.0)),
        (np.round(SMOOTH / 5) * 5 + 2, Resolution(kind="step", step=5.0, offset=2.0)),
        (np.round(SMOOTH * 4) / 4, Resolution(kind="step", step=0.25)),
        (np.round(SMOOTH * 128) / 128, Resolution(kind="step", step=1 / 128)),
        (np.round(SMOOTH * 4096) / 4096, Resolution(kind="step", step=1 / 4096)),
        (SMOOTH, None),
        (np.array([1.0, np.nan, 2.0]), Resolution(kind="decimals", digits=0)),
        (np.array([np.nan, np.nan]), None),
        (np.array([3.14159]), Resolution(kind="decimals", digits=5)),
    ],
)
def test_grids(values: np.ndarray, expected: Resolution | None) -> None:
    assert infer_resolution(values, "continuous") == expected


def test_a_grid_that_is_not_filled_is_atoms() -> None:
    tenths = np.floor(np.round(SMOOTH, 1) * 1024) / 1024  # tenths cut to binary fractions, printed with 5 decimals
    assert infer_resolution(np.round(tenths, 5), "continuous") == Resolution(kind="atoms")
    atoms = RNG.choice(RNG.normal(size=100), 2000)
    assert infer_resolution(atoms, "continuous") == Resolution(kind="atoms")


def test_heaps_are_atoms_but_a_spike_is_not_a_heap() -> None:
    halves = np.where(RNG.random(2000) < 0.9, np.round(SMOOTH), np.round(SMOOTH * 2) / 2)
    assert infer_resolution(halves, "continuous") == Resolution(kind="atoms")
    tens = np.where(RNG.random(2000) < 0.5, np.round(SMOOTH, -1), np.round(SMOOTH))
    assert infer_resolution(tens, "continuous") == Resolution(kind="atoms")
    zeros = np.where(RNG.random(2000) < 0.6, 0.0, np.round(SMOOTH, 1))
    assert infer_resolution(zeros, "continuous") == Resolution(kind="decimals", digits=1)


def test_skew_alone_is_neither_a_heap_nor_a_gap() -> None:
    for scale in (5.0, 40.0, 1000.0):
        assert infer_resolution(np.round(RNG.exponential(scale, 3000)), "continuous") == Resolution(kind="decimals")
        assert infer_resolution(np.round(RNG.lognormal(3, 1, 3000), 1), "continuous") == Resolution(
            kind="decimals", digits=1
        )


def test_counts_stay_whole_numbers() -> None:
    even = np.arange(0, 100, 2.0)
    assert infer_resolution(even, "count") == Resolution(kind="decimals")
    assert infer_resolution(np.array([100.123456789, 3.0]), "datetime") is None
    assert infer_resolution(np.array([100.25, 3.0]), "datetime") == Resolution(kind="step", step=1 / 24)
    assert infer_resolution(np.array([100.0, 3.0]), "datetime") == Resolution(kind="decimals")


def test_round_trip_is_exact_in_the_columns_own_type() -> None:
    single = np.round(SMOOTH, 2).astype(np.float32)
    grid = infer_resolution(single, "continuous", "float32")
    assert grid == Resolution(kind="decimals", digits=2)
    assert moved(single, grid, "float32") == 0
    assert moved(single, grid, "float64") > 0


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(
        st.one_of(
            st.integers(-(10**6), 10**6).map(float),
            st.decimals(-1000, 1000, places=3).map(float),
            st.floats(-1e9, 1e9),
            st.integers(-4096, 4096).map(lambda i: i / 1024),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_no_grid_ever_moves_a_training_value(values: list[float]) -> None:
    x = np.array(values)
    grid = infer_resolution(x, "continuous")
    if grid is not None:
        assert moved(x, grid) == 0
        if grid.kind != "atoms":
            assert (on_grid(x, grid) == x).all()


@pytest.mark.realdata
def test_support_columns(real_data: Path) -> None:
    with gzip.open(real_data / "support" / "support.csv.gz") as file:
        table = csv.read_csv(file)
    train = np.random.default_rng(0).random(table.num_rows) < 0.5
    kinds = {}
    for name in table.column_names:
        x = table.column(name).to_numpy().astype(np.float64)
        grid = infer_resolution(x[train], "continuous")
        assert grid is not None
        assert moved(x[train], grid) == 0
        kinds[name] = (grid.kind, grid.digits) if grid.kind == "decimals" else (grid.kind, None)
    # Values such as 38.19531 and 1.0998535 are tenths cut to a binary fraction: no grid has only those.
    for name in ("temperature", "wbc", "creatinine", "heart_rate", "resp_rate"):
        assert kinds[name] == ("atoms", None), name
    assert kinds["age"] == ("decimals", 5)
    assert kinds["sodium"] == kinds["duration"] == ("decimals", 0)


@pytest.mark.parametrize("parts", [24, 1440, 86_400, 86_400_000])
def test_times_keep_their_clock(parts: int) -> None:
    """Whole hours to milliseconds come back to the microsecond, also in years far from 1970 (shifted dates)."""
    unit = 86_400_000_000 // parts
    micros = RNG.integers(0, 6_900_000_000_000_000 // unit, 500) * unit
    times = pa.table({"at": pa.array(micros).cast(pa.timestamp("us"))})
    column = infer_schema(times).column("at")
    assert column.resolution == Resolution(kind="step", step=1 / parts)
    learned = numbers(times.column("at").combine_chunks(), column)
    assert moved(learned, column.resolution, column.dtype) == 0
    beside = column_from_values(on_grid(learned + 0.3 / parts, column.resolution), column)
    assert beside.equals(times.column("at").combine_chunks())
