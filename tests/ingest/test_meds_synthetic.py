"""A synthetic cohort with visits as MEDS: column by column, checked by the `meds` package, and read back as a delivery."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from meds import CodeMetadataSchema, DataSchema, DatasetMetadataSchema

from pipeline.errors import ConfigError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, EventCodes, TableSchema
from pipeline.features.visits import Visits
from pipeline.ingest.meds.synthetic import write_synthetic

SCHEMA = TableSchema(
    columns=[
        Column(name="key", kind="identifier", dtype="string", role="id"),
        Column(name="sex", kind="binary", dtype="string", levels=["f", "m"]),
        Column(name="died", kind="binary", dtype="bool", levels=[False, True]),
        Column(name="age", kind="count", dtype="int64", nullable=True, unit="a"),
        Column(name="born", kind="datetime", dtype="date32[day]"),
    ],
    unit="patient",
    events=EventCodes(vocabulary=["250", "401"]),
)


def three() -> Cohort:
    """Two visits, none, one."""
    visits = Visits(
        ["250", "401"], np.array([0, 2, 2, 3]), np.array([47_482, 47_490, 47_500]), np.array([0, 2, 3, 4]),
        np.array([0, 1, 1, 0], dtype=np.int32),
    )  # fmt: skip
    cells = {
        "sex": np.array([0, 1, 0]),
        "died": np.array([1, 0, 0]),
        "age": np.array([70, np.nan, 50]),
        "born": np.arange(3.0),
    }
    return replace(assemble(SCHEMA, cells), events=visits.events())


def test_every_column_is_what_meds_asks_for(tmp_path: Path) -> None:
    written = write_synthetic(three(), tmp_path / "out", name="made-up", version="1")
    assert (written.events, written.subjects, written.shards, written.split) == (15, 3, 1, None)
    data = pq.read_table(tmp_path / "out" / "data" / "0.parquet")
    DataSchema.validate(data.select(["subject_id", "time", "code", "numeric_value", "text_value"]))
    assert data.schema.types == [
        pa.int64(), pa.timestamp("us"), pa.string(), pa.float32(), pa.large_string(), pa.string(), pa.string()
    ]  # fmt: skip
    rows = [tuple(r.values()) for r in data.to_pylist() if r["subject_id"] == 1]
    day = dt.datetime(2100, 1, 1, tzinfo=dt.UTC).replace(tzinfo=None)
    later = day + dt.timedelta(days=8)
    assert rows == [
        (1, None, "AGE", 70.0, None, "a", None),
        (1, None, "BORN", None, "1970-01-01", None, None),
        (1, None, "DIED//true", None, None, None, None),
        (1, None, "SEX//f", None, None, None, None),
        (1, day, "250", None, None, None, "1-1"),
        (1, day, "401", None, None, None, "1-1"),
        (1, later, "401", None, None, None, "1-2"),
    ]
    assert [r["code"] for r in data.to_pylist() if r["subject_id"] == 2] == ["BORN", "DIED//false", "SEX//m"]
    codes = pq.read_table(tmp_path / "out" / "metadata" / "codes.parquet")
    CodeMetadataSchema.validate(codes)
    assert set(codes.column("code").to_pylist()) == set(data.column("code").to_pylist())
    DatasetMetadataSchema.validate(json.loads((tmp_path / "out" / "metadata" / "dataset.json").read_text()))
    assert not (tmp_path / "out" / "metadata" / "subject_splits.parquet").exists()


def test_same_people_same_bytes_and_nothing_is_overwritten(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_synthetic(three(), tmp_path / name, name="made-up", version="1")
    files = [p.relative_to(tmp_path / "one") for p in sorted((tmp_path / "one").rglob("*")) if p.is_file()]
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        write_synthetic(three(), tmp_path / "one", name="made-up", version="1")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tmp")] == []


def test_real_rows_and_rows_without_visits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="real ones"):
        write_synthetic(replace(three(), split=np.array(["train"] * 3)), tmp_path / "a", name="x", version="1")
    bare = replace(three(), schema=SCHEMA.model_copy(update={"events": None}), events=None)
    with pytest.raises(ConfigError, match="without visits"):
        write_synthetic(bare, tmp_path / "b", name="x", version="1")
