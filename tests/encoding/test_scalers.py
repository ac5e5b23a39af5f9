"""One numeric column: exact values out, no patient's own value out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.encoding.scalers import QuantileScaler
from pipeline.features.resolution import moved
from pipeline.features.schema import Resolution

INTEGERS = Resolution(kind="decimals", digits=0)
TENTHS = Resolution(kind="decimals", digits=1)


def fit(values: np.ndarray, resolution: Resolution | None = None, **options: int) -> QuantileScaler:
    return QuantileScaler.fit(values, subject=np.arange(len(values)), resolution=resolution, **options)


def interior(values: np.ndarray, k: int = 5) -> np.ndarray:
    """True for values that are not among the k most extreme ones of either end."""
    order = np.sort(values)
    return (values > order[k]) & (values < order[-k - 1])


@pytest.mark.parametrize(
    ("values", "resolution"),
    [
        (np.random.default_rng(0).poisson(80, 3000).astype(float), INTEGERS),
        (np.round(np.random.default_rng(1).normal(37, 1, 3000), 1), TENTHS),
        (np.round(np.random.default_rng(2).lognormal(3, 1, 3000) * 4) / 4, Resolution(kind="step", step=0.25)),
        (1 + 0.5 * np.random.default_rng(3).poisson(9, 3000), Resolution(kind="step", step=0.5, offset=1.0)),
    ],
)
def test_round_trip_on_a_grid_is_exact(values: np.ndarray, resolution: Resolution) -> None:
    scaler = fit(values, resolution)
    back = scaler.from_uniform(scaler.to_uniform(values, np.random.default_rng(9)))
    inside = interior(values)
    np.testing.assert_array_equal(back[inside], values[inside])
    assert moved(back, resolution) == 0


def test_round_trip_without_a_grid_is_close() -> None:
    values = np.random.default_rng(0).lognormal(2, 0.7, 3000)
    scaler = fit(values)
    back = scaler.from_uniform(scaler.to_uniform(values, np.random.default_rng(9)))
    inside = interior(values, 10)
    np.testing.assert_allclose(back[inside], values[inside], rtol=1e-4)


def test_frequent_atoms_come_back_exactly_and_as_often() -> None:
    rng = np.random.default_rng(0)
    kinds = np.array([36.09375, 36.39844, 37.1, 38.0, 41.69531])
    values = rng.choice(kinds, 4000, p=[0.3, 0.3, 0.2, 0.15, 0.05])
    scaler = fit(values, Resolution(kind="atoms"))
    drawn = scaler.from_uniform(rng.random(20_000))
    for kind in kinds:
        assert abs((drawn == kind).mean() - (values == kind).mean()) < 0.015
    assert np.isin(drawn, kinds).all()


def test_the_uniforms_are_uniform_and_random_among_equals() -> None:
    values = np.repeat([0.0, 1.0, 2.0], [700, 200, 100])
    u = fit(values, INTEGERS).to_uniform(values, np.random.default_rng(0))
    assert np.abs(np.sort(u) - (np.arange(1000) + 0.5) / 1000).max() < 0.04
    assert len(np.unique(u)) == 1000


def test_extremes_are_means_of_five() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(100, 5, 1000), [500.0, 400, 300, 200, 199]])
    scaler = fit(values)
    assert scaler.ceiling == pytest.approx(np.sort(values)[-5:].mean())
    assert scaler.from_uniform(np.array([0.0, 1.0]))[1] < 500


def test_a_patients_many_rows_count_once_at_the_ends_and_as_an_atom() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(100, 5, 1000), np.full(30, 500.0)])
    subject = np.concatenate([np.arange(1000), np.full(30, 1000)])
    scaler = QuantileScaler.fit(values, subject=subject, resolution=None)
    assert scaler.ceiling < 250, "500 is one patient's own value, however many stays had it"
    assert not (scaler.from_uniform(np.random.default_rng(1).random(5000)) == 500).any()


def test_rare_values_between_atoms_are_interpolated_not_emitted_for_their_own_sake() -> None:
    values = np.concatenate([np.full(500, 80.0), np.full(500, 90.0), [84.37]])
    drawn = fit(values).from_uniform(np.linspace(0, 1, 200_001))
    assert set(np.unique(drawn)) > {80.0, 90.0}
    assert (drawn == 84.37).mean() < 1e-4


def test_rare_atoms_join_the_nearest_where_there_is_nothing_between() -> None:
    values = np.concatenate([np.full(500, 80.0), np.full(500, 90.0), [84.37]])
    drawn = fit(values, Resolution(kind="atoms")).from_uniform(np.linspace(0, 1, 20_001))
    assert set(np.unique(drawn)) == {80.0, 90.0}


def test_bounds_hold() -> None:
    values = np.random.default_rng(0).normal(0, 1, 500)
    scaler = QuantileScaler.fit(values, subject=np.arange(500), resolution=None, bounds=(-0.5, 0.5))
    drawn = scaler.from_uniform(np.random.default_rng(1).random(1000))
    assert drawn.min() >= -0.5
    assert drawn.max() <= 0.5


def test_bins_put_a_spike_alone() -> None:
    values = np.concatenate([np.zeros(400), np.random.default_rng(0).normal(50, 5, 600)])
    scaler = fit(values)
    edges = scaler.bins(20)
    zero = scaler.edges[np.searchsorted(scaler.low, 0.0) : np.searchsorted(scaler.low, 0.0) + 2]
    assert zero[0] in edges
    assert zero[1] in edges
    assert np.isclose(zero[1] - zero[0], 0.4)
    assert 10 <= len(edges) <= 24


def test_nothing_to_learn_from() -> None:
    scaler = fit(np.empty(0))
    assert scaler.empty
    assert np.isnan(scaler.from_uniform(np.array([0.5]))).all()


@settings(max_examples=60, deadline=None)
@example([0, 0, 1, 1, -1, -1], None, 3)
@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=120),
    st.sampled_from([None, INTEGERS, Resolution(kind="step", step=1.0), Resolution(kind="atoms")]),
    st.integers(1, 6),
)
def test_any_column(numbers: list[int], resolution: Resolution | None, k: int) -> None:
    values = np.array(numbers, dtype=float)
    scaler = fit(values, resolution, atom_rows=k, extreme_rows=k)
    assert np.isclose(scaler.mass.sum(), 1)
    assert (scaler.low <= scaler.high).all()
    drawn = scaler.from_uniform(np.linspace(0, 1, 501))
    assert (np.diff(drawn) >= -1e-12).all(), "the inverse distribution function rises"
    assert drawn.min() >= values.min()
    assert drawn.max() <= values.max()
    if resolution is not None and resolution.kind == "atoms":
        assert np.isin(drawn, values).all()
    elif resolution is not None:
        assert moved(drawn, resolution) == 0
    u = scaler.to_uniform(values, np.random.default_rng(0))
    assert ((u > 0) & (u < 1)).all()
    again = QuantileScaler.restore(scaler.tensors(), scaler.manifest())
    np.testing.assert_array_equal(again.from_uniform(u), scaler.from_uniform(u))
