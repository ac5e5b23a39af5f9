"""Compiled views against fhirpathpy's evaluator: the built-in views on real resources, and made-up expressions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import fhirpathpy
import pytest
from fhirpathpy.engine.nodes import ResourceNode
from fhirpathpy.models import models
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.ingest.fhir.columns import VIEWS
from pipeline.ingest.fhir.judge import judge
from pipeline.ingest.viewdefinition.columns import MOMENT_TAG
from pipeline.ingest.viewdefinition.compile import compile_view
from pipeline.ingest.viewdefinition.definition import Select, ViewDefinition, load_view, parse_view
from pipeline.ingest.viewdefinition.run import gather, prepare, run_view
from pipeline.store.connection import connect

Row = dict[str, Any]
EACH = 60
"""Resources of a type that each source gives to the comparison."""


# The oracle: SQL on FHIR's selects over fhirpathpy's evaluator


@cache
def _expression(path: str) -> Any:
    return fhirpathpy.compile(path, models["r4"], {"userInvocationTable": _OWN_FUNCTIONS, "returnRawData": True})


def _nodes(path: str, focus: Any, resource: Row, number: int) -> list[Any]:
    found = _expression(path)(focus, {"resource": resource, "rowIndex": number})
    return [item for item in found if _data(item) is not None]


def _items(path: str, focus: Any, resource: Row, number: int = 0) -> list[Any]:
    return [_data(node) for node in _nodes(path, focus, resource, number)]


def _data(node: Any) -> Any:
    return node.data if isinstance(node, ResourceNode) else node


def _resource_key(inputs: list[Any]) -> list[str]:
    return [f"{_data(node)['resourceType']}/{_data(node)['id']}" for node in inputs]


def _reference_key(inputs: list[Any], *kind: Any) -> list[str]:
    keys = []
    for node in inputs:
        reference = _data(node).get("reference", "")
        wanted = kind[0].name if kind else None
        if reference.startswith("urn:uuid:") and wanted:  # within a bundle
            reference = f"{wanted}/{reference.removeprefix('urn:uuid:')}"
        parts = reference.partition("/_history/")[0].split("/")
        if len(parts) > 1 and "?" not in parts[-1] and wanted in (None, parts[-2]):
            keys.append("/".join(parts[-2:]))
    return keys


_OWN_FUNCTIONS = {
    "getResourceKey": {"fn": _resource_key, "arity": {0: []}, "internalStructures": True},
    "getReferenceKey": {"fn": _reference_key, "arity": {0: [], 1: ["TypeSpecifier"]}, "internalStructures": True},
}


def _rows(select: Select, focus: Any, resource: Row, number: int = 0) -> Iterator[Row]:
    """The rows of a select, by the definition."""
    path = select.for_each or select.for_each_or_null
    if path is None:
        elements = [(focus, number)]
    else:
        elements = [(item, place) for place, item in enumerate(_nodes(path, focus, resource, number))]
    for element, place in elements:
        own = {column.name: _value(column, element, resource, place) for column in select.column}
        parts = [list(_rows(part, element, resource, place)) for part in select.select]
        if select.union_all:
            parts.append([row for part in select.union_all for row in _rows(part, element, resource, place)])
        for rows in product(*parts):
            yield {name: value for row in (own, *rows) for name, value in row.items()}


def _value(column: Any, focus: Any, resource: Row, number: int) -> Any:
    found = _items(column.path, focus, resource, number)
    assert len(found) <= 1, column.path
    value = found[0] if found else None
    tagged = column.tagged(MOMENT_TAG)
    if tagged is None or value is None:
        return str(value) if column.type in ("string", "code", "uri", "id") and value is not None else value
    if tagged == "precision":
        return {4: "year", 7: "month", 10: "day"}.get(len(value), "time")
    moment = datetime.fromisoformat(value + {4: "-01-01", 7: "-01"}.get(len(value), ""))
    moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return moment.date() if tagged == "date" else moment


# Real resources


@pytest.fixture(scope="module")
def resources(real_data: Path) -> list[Row]:
    """Some of every type of the built-in views that fit, with other ids where they are not unique."""
    bundles = sorted((real_data / "synthea-r4-smart").rglob("*.json.gz"))[:4]
    synthea = [entry["resource"] for b in bundles for entry in json.loads(gzip.decompress(b.read_bytes()))["entry"]]
    examples = [
        json.loads(path.read_bytes()) for path in sorted((real_data / "fhir-hl7-examples/r4-4.0.1").glob("*.json"))
    ]
    contained = [part for example in examples for part in example.get("contained", ())]
    chosen: list[Row] = []
    for source in (synthea, examples, contained):
        for kind in (path.stem.title().replace("_", "") for path in VIEWS.glob("*.json")):
            fitting = [r for r in source if r["resourceType"] == kind and "id" in r and judge(r) == (kind, None)]
            chosen += fitting[:EACH]
    return chosen


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with connect({}, threads=1) as opened:
        prepare(opened)
        yield opened


def _compiled_rows(
    view: ViewDefinition, resources: list[Row], folder: Path, connection: duckdb.DuckDBPyConnection
) -> list[Row]:
    file, kept = folder / "all.ndjson", folder / "kept.ndjson"
    file.write_text("".join(json.dumps(resource) + "\n" for resource in resources))
    gather([file], view.resource, kept)
    rows: list[Row] = run_view(compile_view(view), kept, connection).to_pylist()
    return rows


@pytest.mark.realdata
@pytest.mark.parametrize("table", sorted(path.stem for path in VIEWS.glob("*.json")))
def test_a_built_in_view_gives_what_the_evaluator_gives(
    table: str, resources: list[Row], tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    view = load_view(VIEWS / f"{table}.json")
    chosen = [resource for resource in resources if resource["resourceType"] == view.resource]
    assert len(chosen) >= 4
    whole = Select.model_construct(
        column=[], select=view.select, for_each=None, for_each_or_null=None, repeat=[], union_all=[]
    )
    expected = [row for resource in chosen for row in _rows(whole, resource, resource)]
    assert [_plain(row) for row in _compiled_rows(view, chosen, tmp_path, connection)] == [_plain(r) for r in expected]


def _plain(value: Any) -> Any:
    """Values without their Python types: numbers as floats, days as text."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return round(float(value), 9)
    return str(value) if isinstance(value, date) else value


# Made-up expressions

_PEOPLE: list[Row] = [
    {
        "resourceType": "Patient",
        "id": "a",
        "active": True,
        "birthDate": "1970-02-03",
        "gender": "female",
        "multipleBirthInteger": 2,
        "name": [
            {"use": "official", "family": "Ash", "given": ["Ann", "Bea"]},
            {"use": "usual", "given": ["Ann"], "period": {"start": "2001"}},
            {"family": "Elm"},
        ],
        "address": [{"city": "X", "line": ["1", "2"], "period": {"start": "2010-01-01", "end": "2012-05-01"}}],
        "telecom": [{"system": "phone", "rank": 1}, {"system": "email", "rank": 3}, {"system": "phone"}],
        "extension": [{"url": "u", "valueCode": "F"}, {"url": "v", "extension": [{"url": "u", "valueString": "w"}]}],
    },
    {"resourceType": "Patient", "id": "b", "active": False, "birthDate": "1970-02", "name": [{"given": ["it's"]}]},
    {"resourceType": "Patient", "id": "c", "deceasedBoolean": False, "telecom": [{"rank": 2}], "name": [{}]},
    {"resourceType": "Patient", "id": "d", "deceasedDateTime": "2001-01-01T10:00:00Z", "gender": "male"},
]

_LISTS = st.sampled_from(
    [
        "name",
        "name.given",
        "name.family",
        "telecom",
        "telecom.rank",
        "telecom.system",
        "address.line",
        "name.period",
        "name.where(use = 'official')",
        "telecom.where(rank > 1)",
        "name.where(given.exists())",
        "address",
        "identifier",
        "name.select(given.first())",
        "extension('u')",
        "extension('v').extension('u')",
        "name.given.where($this = 'Ann')",
    ]
)
_PARTS = st.sampled_from(["", ".first()", ".last()", "[0]", "[1]", ".tail()", ".skip(1)", ".take(2)", ".distinct()"])
_TEXTS = st.sampled_from(
    [
        "gender",
        "name.family.first()",
        "name.given.first()",
        "birthDate",
        "id",
        "'Ann'",
        "{}",
        "name.use.last()",
        "telecom.system.last()",
        "extension('u').value.ofType(code).first()",
        "address.city.first()",
        "'it\\'s'",
    ]
)
_ELEMENTS = _TEXTS.filter(lambda path: not path.startswith("'"))  # fhirpathpy's union keeps 'x' beside an element x
_NUMBERS = st.sampled_from(
    [
        "telecom.rank.first()",
        "telecom.rank.last()",
        "name.count()",
        "2",
        "1.5",
        "multipleBirth.ofType(integer)",
        "name.given.count()",
        "name.given.first().length()",
        "(3 - telecom.rank.first())",
        "{}",
    ]
)
_TESTS = st.one_of(
    st.tuples(_LISTS, st.sampled_from([".exists()", ".empty()", ".isDistinct()", ".exists().not()"])).map("".join),
    st.tuples(_TEXTS, st.sampled_from([" = ", " != ", " ~ "]), _TEXTS).map("".join),
    st.tuples(_NUMBERS, st.sampled_from([" = ", " != ", " < ", " > ", " <= ", " >= "]), _NUMBERS).map("".join),
    st.sampled_from(
        [
            "active",
            "deceased.ofType(boolean)",
            "deceased.exists()",
            "true",
            "'Ann' in name.given",
            "active.empty()",
            "name.all(given.exists())",
            "name.exists(use = 'usual')",
            "name.given contains 'Bea'",
            "birthDate < @1970-03",
            "birthDate = @1970-02-03",
            "deceased is boolean",
            "name.given.first().startsWith('A')",
            "active.not()",
        ]
    ),
)
_LOGIC = st.tuples(_TESTS, st.sampled_from([" and ", " or ", " xor ", " implies "]), _TESTS).map(
    lambda parts: f"({parts[0]}){parts[1]}({parts[2]})"
)
_VALUES = st.one_of(
    st.tuples(_LISTS, _PARTS, _PARTS).map("".join),
    _TESTS,
    _LOGIC,
    _TEXTS,
    _NUMBERS,
    st.tuples(_NUMBERS, st.sampled_from([" + ", " - ", " * ", " / ", " mod ", " div "]), _NUMBERS).map("".join),
    st.tuples(_TEXTS, _TEXTS).map(" & ".join),
    st.tuples(_ELEMENTS, _ELEMENTS).map(" | ".join),
    st.tuples(_TESTS, _TEXTS, _TEXTS).map(lambda parts: f"iif({parts[0]}, {parts[1]}, {parts[2]})"),
    st.tuples(_TEXTS, _TEXTS).map(lambda parts: f"({parts[0]} | {parts[1]}).first()"),
    st.tuples(_TEXTS, st.sampled_from([".upper()", ".length()", ".substring(1)", ".toString()"])).map("".join),
)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("people") / "people.ndjson"
    file.write_text("".join(json.dumps(person) + "\n" for person in _PEOPLE))
    return file


@settings(max_examples=150, deadline=None, derandomize=True)
@given(path=_VALUES)
def test_made_up_expressions_give_what_the_evaluator_gives(
    path: str, people: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    column = {"name": "v", "path": path, "collection": True}
    view = compile_view(parse_view({"resource": "Patient", "name": "made_up", "select": [{"column": [column]}]}))
    rows = run_view(view, people, connection).to_pylist()
    expected = [[_as_column(item) for item in _items(path, person, person)] for person in _PEOPLE]
    assert [[_as_column(item) for item in row["v"]] for row in rows] == expected, path


def _as_column(item: Any) -> Any:
    """An object as its JSON, sorted; the evaluator's dates as text."""
    if isinstance(item, str) and item.startswith("{"):
        item = json.loads(item)
    if isinstance(item, dict):
        return json.dumps(item, sort_keys=True)
    return _plain(item) if isinstance(item, bool | int | float | Decimal) else str(item)


def test_several_items_in_a_single_column_are_an_error(tmp_path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    view = parse_view({"resource": "Patient", "select": [{"column": [{"name": "v", "path": "name.given"}]}]})
    with pytest.raises(InputError, match="several items"):
        _compiled_rows(view, _PEOPLE, tmp_path, connection)
