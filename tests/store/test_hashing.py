"""Canonical JSON is one text for one content, and refuses what has no such text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.store.hashing import canonical_json, sha256_file, sha256_json

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=15,
)


@given(PLAIN)
def test_it_reads_back_and_is_canonical(obj: object) -> None:
    text = canonical_json(obj)
    assert json.loads(text) == obj
    assert canonical_json(json.loads(text)) == text


def test_order_and_kind_of_number_do_not_matter() -> None:
    assert canonical_json({"b": (1, np.float64(0.1)), "a": np.int32(2)}) == '{"a":2,"b":[1,0.1]}'
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1}) != sha256_json({"a": 1, "b": 3})
    assert canonical_json({"ü": np.bool_(True)}) == '{"ü":true}'


@pytest.mark.parametrize("bad", [float("nan"), np.float64("inf"), {1: 2}, {"a"}, b"bytes", np.arange(2), Path("x")])
def test_what_is_no_json_is_refused_without_its_value(bad: object) -> None:
    with pytest.raises(ConfigError) as caught:
        canonical_json({"outer": [0, bad]})
    assert caught.value.where == "$.outer[1]"


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert sha256_file(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
