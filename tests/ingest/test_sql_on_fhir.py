"""The official conformance tests of SQL on FHIR v2, and that docs/views.md says how many of them pass."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline.errors import CohortLoomError
from pipeline.ingest.viewdefinition.compile import compile_view
from pipeline.ingest.viewdefinition.definition import parse_view
from pipeline.ingest.viewdefinition.run import gather, prepare, run_view
from pipeline.store.connection import connect

DOC = Path(__file__).resolve().parents[2] / "docs" / "views.md"

pytestmark = pytest.mark.realdata


@dataclass(frozen=True)
class Outcome:
    """One official test and why it does not pass; empty if it does."""

    title: str
    tags: tuple[str, ...]
    failure: str


@pytest.fixture(scope="module")
def outcomes(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder = tmp_path_factory.mktemp("conformance")
    files = sorted((real_data / "sql-on-fhir-tests").glob("*.json"))
    with connect({}, threads=1) as connection:
        prepare(connection)
        return [outcome for file in files for outcome in _of_file(file, folder, connection)]


def _of_file(file: Path, folder: Path, connection: duckdb.DuckDBPyConnection) -> Iterator[Outcome]:
    suite = json.loads(file.read_text())
    resources = folder / f"{file.stem}.ndjson"
    resources.write_text("".join(json.dumps(resource) + "\n" for resource in suite.get("resources", [])))
    for test in suite.get("tests", []):
        title = f"{suite['title']}: {test['title']}"
        yield Outcome(title, tuple(test.get("tags", ())), _failure(test, resources, folder, connection))


def _failure(test: dict[str, Any], resources: Path, folder: Path, connection: duckdb.DuckDBPyConnection) -> str:
    try:
        view = compile_view(parse_view(test["view"]))
        gather([resources], view.resource, folder / "of_type.ndjson")
        table = run_view(view, folder / "of_type.ndjson", connection)
    except CohortLoomError as error:
        return "" if test.get("expectError") else str(error)
    if test.get("expectError"):
        return "an error was expected"
    rows = table.to_pylist()
    if "expectCount" in test and len(rows) != test["expectCount"]:
        return f"{len(rows)} rows"
    if "expect" in test and _bag(rows) != _bag(test["expect"]):
        return "other rows"
    if "expectColumns" in test and table.column_names != test["expectColumns"]:
        return "other columns"
    return ""


def _bag(rows: list[dict[str, Any]]) -> list[str]:
    """Rows without their order; 5 and 5.0 are one number, as in JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    return sorted(json.dumps({name: plain(value) for name, value in row.items()}, sort_keys=True) for row in rows)


def test_conformance(outcomes: list[Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    passed = [outcome for outcome in outcomes if not outcome.failure]
    shareable = [outcome for outcome in outcomes if "shareable" in outcome.tags]
    shared = [outcome for outcome in shareable if not outcome.failure]
    sentence = f"{len(passed)} of {len(outcomes)} tests pass; {len(shared)} of {len(shareable)} tagged shareable"
    with capsys.disabled():
        print(f"\nSQL on FHIR v2 conformance: {sentence}.")
    assert len(shareable) > 100
    assert shared == shareable, [(outcome.title, outcome.failure) for outcome in shareable if outcome.failure]
    assert sentence in re.sub(r"\s+", " ", DOC.read_text())


def test_the_docs_list_what_does_not_pass(outcomes: list[Outcome]) -> None:
    listed = re.findall(r"^- `([^`]+)`: .{10,}$", DOC.read_text().partition("## Tests that do not pass")[2], re.M)
    assert sorted(listed) == sorted(outcome.title for outcome in outcomes if outcome.failure)
