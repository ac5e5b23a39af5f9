"""The schema that is written out to be corrected: what it says of columns, which codes it suspects, that it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import yaml

from pipeline.errors import InputError
from pipeline.features.described import columns_yaml, describe_file, suspected
from pipeline.features.schema import TableSchema
from pipeline.features.spec import ColumnSpec
from pipeline.features.tables import cohort_from_file

if TYPE_CHECKING:
    from pathlib import Path


def edge(*values: float) -> list[tuple[str, int]]:
    """Codes found in a column of these numbers, and how often they stand there."""
    table = pa.table({"x": list(values)})
    return [(s.code, s.cells) for s in suspected(table, pa.table({"y": pa.array([], pa.string())}))]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((1, 2, 3, 4, -9, -9), [("-9", 2)]),
        ((-1.0, 0.0, 12.5), [("-1", 1)]),
        ((-2.0, -1.0, 0.0, 1.0), []),
        ((-9.0, -3.0, 5.0), []),
        ((-9, -8, 0, 1, 4), [("-9", 1), ("-8", 1)]),
        ((0, 1, 1, 0, 9), [("9", 1)]),
        ((1, 2, 3, 4, 5, 6, 7, 8, 9), []),
        ((18, 40, 90, 99), []),
        ((18, 40, 60, 999, 888), [("888", 1), ("999", 1)]),
        ((9, 9, 9), []),
        ((99999, 0, 41310, 5000), [("99999", 1)]),
    ],
)
def test_numbers_that_seem_to_mean_missing(values, found):
    assert edge(*values) == found


def test_texts_that_seem_to_mean_missing_are_named_and_others_are_not_shown():
    texts = {
        "ca": ["0", "1", "2.0", "?"],
        "lab": ["1", "2", "3", "Zebulon"],
        "job": ["clerk", "?", "NA", "unknown"],
        "word": ["a", "b", "unknown", "none"],
    }
    table = pa.table({name: pa.array(cells) for name, cells in texts.items()})
    found = {(s.column, s.code): s.why for s in suspected(table, table)}
    assert found == {
        ("ca", "?"): "the only text among numbers",
        ("lab", ""): "the only text among numbers",
        ("job", "?"): "a common code",
        ("job", "NA"): "missing here and in fit, but not in a delivery",
    }


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """40 rows with an identifier, codes for missing, a grid and an empty column."""
    rows = ["person,age,lab,sex,thal,empty"]
    rows += [
        f"{100 + i % 20},{20 + i},{-9 if i % 10 == 0 else i / 4},{'mf'[i % 2]},{'?' if i % 8 == 0 else 3 + i % 2},"
        for i in range(40)
    ]
    path = tmp_path / "ward.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_file_is_described_column_by_column(ward: Path):
    found = describe_file(ward, subject="person")
    assert found.rows == 40
    assert found.schema.names == ["age", "lab", "sex", "thal"]
    assert list(found.refused) == ["empty"]
    assert [(s.column, s.code, s.cells) for s in found.suspects] == [("lab", "-9", 4), ("thal", "?", 5)]
    assert found.schema.column("thal").kind == "categorical"
    assert found.schema.column("lab").description == (
        "Inferred: continuous, float64, 37 different values, steps of 0.25, none missing. "
        "Missing? '-9' in 4 cells (below numbers that are not negative)."
    )


def test_codes_that_are_declared_are_missing_in_the_schema_and_in_what_is_fitted(ward: Path, tmp_path: Path):
    found = describe_file(ward, subject="person", missing=["?", "-9"])
    assert found.suspects == []
    assert (found.absent["lab"], found.absent["thal"]) == (4, 5)
    assert found.schema.column("thal").kind == "binary"
    file = tmp_path / "s.json"
    file.write_text(found.schema.model_dump_json())
    cohort = cohort_from_file(ward, schema_file=file, subject="person", missing=["?", "-9"])
    assert cohort.schema == TableSchema.model_validate(found.schema.model_dump())
    assert cohort.missing("lab").sum() == 4
    with pytest.raises(InputError, match=r"do not fit the declared type int64.*|column thal"):
        cohort_from_file(ward, schema_file=file, subject="person")


def test_the_section_of_a_cohort_file_is_one_that_a_cohort_takes(ward: Path):
    section = yaml.safe_load(columns_yaml(describe_file(ward, subject="person", missing=["?"]), "ward"))["columns"]
    columns = {name: ColumnSpec(**settings) for name, settings in section.items()}
    assert columns["sex"].levels == ["f", "m"]
    assert columns["age"].source == ["ward.age"]
    assert columns["lab"].bounds is None
