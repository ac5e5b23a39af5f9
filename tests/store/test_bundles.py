"""Bundles give back what was saved, byte for byte the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import ConfigError, NotFoundError, StoreError
from pipeline.store.bundles import load_bundle, save_bundle

TENSORS = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scalar": np.array(3.5),
    "empty": np.zeros((0, 4), dtype=np.int64),
    "mask": np.array([True, False]),
    "big_endian": np.array([1, 2, 3], dtype=">i4"),
    "strided": np.arange(10, dtype=np.uint8)[::3],
}


def test_round_trip(tmp_path: Path) -> None:
    manifest = {"generator": "vae", "settings": {"beta": 0.5, "layers": [1, 2]}, "note": "größer"}
    save_bundle(tmp_path / "model", TENSORS, manifest)
    tensors, found = load_bundle(tmp_path / "model")
    assert found == manifest
    assert set(tensors) == set(TENSORS)
    for name, array in TENSORS.items():
        assert tensors[name].shape == array.shape
        assert tensors[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].flags.writeable
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]


def test_same_content_same_bytes(tmp_path: Path) -> None:
    save_bundle(tmp_path / "a", TENSORS, {"a": 1, "b": 2})
    shuffled = {name: np.array(TENSORS[name], order="F") for name in reversed(TENSORS)}
    save_bundle(tmp_path / "b", shuffled, {"b": 2, "a": 1})
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        dtype=st.sampled_from([np.float64, np.float32, np.int16, np.uint64, np.bool_]),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    st.permutations(range(4)),
)
def test_any_array_in_any_layout(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, order: list[int]) -> None:
    array = array.transpose([axis for axis in order if axis < array.ndim])
    folder = tmp_path_factory.getbasetemp() / "any-array"
    save_bundle(folder, {"x": array}, {})
    found = load_bundle(folder)[0]["x"]
    assert found.tobytes() == np.asarray(array, order="C").tobytes()
    assert found.shape == array.shape


def test_what_a_bundle_cannot_hold(tmp_path: Path) -> None:
    for array in (np.array(["text"]), np.array([object()]), np.array([1j]), np.array(["2026-01-01"], "datetime64[D]")):
        with pytest.raises(ConfigError, match="'x' has dtype"):
            save_bundle(tmp_path, {"x": array}, {})
    with pytest.raises(ConfigError, match=r"\$\.loss"):
        save_bundle(tmp_path, {}, {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_bundles(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"needs model\.json"):
        load_bundle(tmp_path)
    save_bundle(tmp_path, TENSORS, {"a": 1})
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-3])
    with pytest.raises(StoreError, match="damaged"):
        load_bundle(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        load_bundle(tmp_path)
