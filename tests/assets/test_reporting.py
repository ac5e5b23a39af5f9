"""Metadata that Dagster can store and people can read."""

from __future__ import annotations

import base64
import re

import dagster as dg
import numpy as np
import pytest

from assets.reporting import column_lineage, column_schema, markdown_table, picture, plain, raw_column_schema
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.workflow.sketch import WIDTH, line_chart


def test_numpy_and_infinite_numbers_can_be_stored() -> None:
    made = plain({"a": np.float64(1.5), "b": np.int64(3), "c": float("nan"), "d": None, "e": np.bool_(True)})
    assert made == {"a": 1.5, "b": 3, "c": dg.MetadataValue.text("nan"), "e": True}
    assert [type(made[k]) for k in "abe"] == [float, int, bool]

    @dg.asset
    def asset() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=made)

    assert dg.materialize([asset]).success


def test_tables_survive_what_is_in_cells() -> None:
    table = markdown_table([{"a": "x|y\nz", "b": 0.123456789}, {"a": None, "b": 2}])
    assert table.md_str.splitlines() == ["| a | b |", "| --- | --- |", "| x\\|y z | 0.1235 |", "|  | 2 |"]
    assert markdown_table([]).md_str == "nothing"


def test_schema_and_lineage_come_from_the_table_schema() -> None:
    schema = TableSchema(
        columns=[
            Column(
                name="age",
                kind="continuous",
                dtype="float64",
                unit="a",
                description="Age.",
                source=["patient.birth_date"],
            ),
            Column(name="sex", kind="binary", dtype="string", nullable=True, levels=["f", "m"]),
        ],
        blocks=[CodeBlock(name="drugs", kind="binary", vocabulary=["x", "y"], source=["medication_request.code"])],
    )
    made = column_schema(schema)
    assert [c.name for c in made.columns] == ["age", "sex", "drugs"]
    assert made.columns[0].description == "Age.; unit a"
    assert [c.constraints.nullable for c in made.columns[:2]] == [False, True]
    raw = dg.AssetKey(["raw", "fhir"])
    lineage = column_lineage(schema, raw)
    assert dict(lineage.deps_by_column) == {
        "age": [dg.TableColumnDep(asset_key=raw, column_name="patient.birth_date")],
        "drugs": [dg.TableColumnDep(asset_key=raw, column_name="medication_request.code")],
    }
    named = {c.name for c in raw_column_schema({"patient": {"birth_date": "date32[day]"}}).columns}
    assert lineage.deps_by_column["age"][0].column_name in named


def test_pictures_are_small_and_safe() -> None:
    many = [(float(i), float(np.sin(i / 50))) for i in range(5000)]
    chart = line_chart({"train <&>": many, "tune": [(0.0, 1.0), (1.0, float("nan"))]}, title="loss")
    assert "<&>" not in chart
    assert "nan" not in chart
    made = picture(chart, words="loss")
    assert len(made.md_str) < 20_000
    encoded = made.md_str.split("base64,")[1].rstrip(")")
    assert base64.b64decode(encoded).decode().startswith("<svg xmlns=")
    assert picture("x" * 80_000, words="huge").md_str.startswith("huge: too large")


def test_long_names_of_lines_lie_beside_each_other() -> None:
    names = ["exercise_angina = True", "resting_ecg = left ventricular hypertrophy", "sex = male", "vessels", "x" * 200]
    chart = line_chart({name: [(0.0, float(i)), (1.0, 2.0)] for i, name in enumerate(names)}, title="t")
    found = re.findall(r'<text x="(\d+)" y="(\d+)" text-anchor="start" fill="#(?!333)\w+">([^<]+)<', chart)
    assert len(found) == len(names)
    ends: dict[str, int] = {}
    for x, y, words in found:
        assert int(x) > ends.get(y, 0), words
        ends[y] = int(x) + 6 * len(words)
        assert ends[y] <= WIDTH


@pytest.mark.parametrize("points", [{}, {"a": []}, {"a": [(0.0, 1.0)]}, {"a": [(1.0, 2.0), (1.0, 2.0)]}])
def test_line_charts_of_nearly_nothing(points: dict) -> None:
    assert line_chart(points, title="t").endswith("</svg>")
