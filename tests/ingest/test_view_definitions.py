"""ViewDefinitions: what is refused and where, and what FHIRPath's odder corners compile to."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from pipeline.errors import InputError
from pipeline.ingest.fhir.columns import VIEWS
from pipeline.ingest.viewdefinition import run
from pipeline.ingest.viewdefinition.compile import compile_view
from pipeline.ingest.viewdefinition.definition import ViewError, load_view, parse_view
from pipeline.ingest.viewdefinition.elements import TABLE, collect, elements
from pipeline.ingest.viewdefinition.functions import FUNCTIONS
from pipeline.ingest.viewdefinition.run import check_view, gather, prepare, run_view
from pipeline.store.connection import connect

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with connect({}, threads=1) as opened:
        prepare(opened)
        yield opened


@pytest.fixture
def rows(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> Callable[..., Rows]:
    """The rows of a view with these selects over resources."""

    def run(resources: list[dict[str, Any]], *select: Any, **fields: Any) -> Rows:
        view = compile_view(parse_view({"resource": resources[0]["resourceType"], "select": list(select), **fields}))
        file, kept = tmp_path / "all.ndjson", tmp_path / "kept.ndjson"
        file.write_text("".join(json.dumps(resource) + "\n" for resource in resources))
        gather([file], view.resource, kept)
        found: Rows = run_view(view, kept, connection).to_pylist()
        return found

    return run


def column(path: str, name: str = "v", **fields: Any) -> dict[str, Any]:
    return {"column": [{"name": name, "path": path, **fields}]}


def moment(kind: str) -> list[dict[str, str]]:
    return [{"name": "cohortloom/moment", "value": kind}]


@pytest.mark.parametrize(
    ("view", "where", "words"),
    [
        ({"resource": "Patient"}, "select", "required"),
        ({"resource": "patient", "select": [column("id")]}, "resource", "pattern"),
        ({"resource": "Patient", "select": [{}]}, r"select\[0\]", "Nothing is selected"),
        ({"resource": "Patient", "select": [column("id") | {"forEeach": "name"}]}, r"select\[0\].forEeach", "not perm"),
        (
            {"resource": "Patient", "select": [column("id") | {"forEach": "name", "forEachOrNull": "name"}]},
            r"select\[0\]",
            "only one|Only one",
        ),
        ({"resource": "Patient", "select": [column("id", "a b")]}, r"select\[0\].column\[0\].name", "pattern"),
        ({"resource": "Patient", "select": [column("name.given +")]}, r"select\[0\].column\[0\].path", "not FHIRPath"),
        ({"resource": "Patient", "select": [column("id id")]}, r"column\[0\].path", "character 4"),
        ({"resource": "Patient", "select": [column("id.lower().uper()")]}, "path", "Did you mean 'upper'"),
        ({"resource": "Patient", "select": [column("id.substring()")]}, "path", "takes 1 to 2"),
        ({"resource": "Patient", "select": [column("%nobody")]}, "path", "not defined"),
        ({"resource": "Patient", "select": [column("active > 1")]}, "path", "cannot compare"),
        ({"resource": "Patient", "select": [column("birthDate + 1")]}, "path", "not supported"),
        ({"resource": "Patient", "select": [column("name[-1].family")]}, "path", "whole number from 0"),
        ({"resource": "Patient", "select": [column("name[1.5].family")]}, "path", "whole number from 0"),
        ({"resource": "Patient", "select": [column("4 'mg'.value")]}, "path", "no element 'value'"),
        ({"resource": "Patient", "select": [column("(-multipleBirth).shoe.first() + (-name)")]}, "path", "A number"),
        ({"resource": "Patient", "select": [column("99999999999999999999")]}, "path", "too large"),
        ({"resource": "Patient", "select": [column("iif(active, 1, 'n')")]}, "path", "different kinds: number and"),
        ({"resource": "Patient", "select": [column("gender.replaceMatches('m', id)")]}, "path", "written out"),
        ({"resource": "Patient", "select": [column("gender.replaceMatches('(m)', '$2')")]}, "path", "it has 1"),
        ({"resource": "Patient", "select": [column("gender.replaceMatches('m', '${n}')")]}, "path", "by number"),
        ({"resource": "Patient", "select": [column('`a"b`')]}, "path", "no element"),
        ({"resource": "Patient", "select": [column("shoe", "a"), column("SHOE", "b")]}, "path", "two spellings"),
        ({"resource": "Patient", "select": [column("$this")]}, "", "as a whole"),
        ({"resource": "Patient", "select": [column("id", type="Nothing")]}, r"column\[0\]", "no FHIR type"),
        ({"resource": "Patient", "select": [column("id", tag=moment("week"))]}, r"column\[0\]", "not 'week'"),
        ({"resource": "Patient", "select": [column("id", tag=moment("date"))]}, r"column\[0\]", "needs a date"),
        (
            {"resource": "Patient", "select": [column("id", tag=[{"name": "ansi/type", "value": "INT; DROP"}])]},
            r"column\[0\]",
            "not known",
        ),
        ({"resource": "Patient", "select": [column("id"), column("id", "V")]}, "", "'v' is there twice"),
        (
            {"resource": "Patient", "select": [column("id")], "where": [{"path": "gender"}]},
            r"where\[0\].path",
            "true or",
        ),
        (
            {"resource": "Patient", "select": [column("id")], "constant": [{"name": "c", "valueInteger": "1"}]},
            r"constant\[0\]",
            "no integer",
        ),
        (
            {"resource": "Patient", "select": [column("id")], "constant": [{"name": "c"}]},
            r"constant\[0\]",
            "xactly one",
        ),
        (
            {"resource": "Patient", "select": [{"unionAll": [column("id"), column("active")]}]},
            r"select\[0\].unionAll",
            "different types",
        ),
        ({"resource": "Patient", "select": [column("(" * 3000 + "id" + ")" * 3000)]}, "path", "longer"),
        ({"resourceType": "Patient", "resource": "Patient", "select": [column("id")]}, "", "no ViewDefinition"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(view: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(ViewError, match=words) as caught:
        compile_view(parse_view(view, where="mine.json"), where="mine.json")
    assert caught.value.where.startswith("mine.json")
    assert not where or re.search(where, caught.value.where)


def test_files_that_are_no_views(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ViewError, match="not JSON"):
        load_view(broken)
    with pytest.raises(ViewError, match="cannot be read"):
        load_view(tmp_path / "absent.json")
    unnamed = tmp_path / "my view.json"
    unnamed.write_text(json.dumps({"resource": "Patient", "select": [column("id")]}))
    with pytest.raises(ViewError, match="needs a name"):
        load_view(unnamed)
    assert load_view(unnamed.rename(tmp_path / "mine.json")).name == "mine"


def test_the_table_of_elements_is_that_of_the_models() -> None:
    assert TABLE.read_text() == collect()
    name = (elements("Patient") or {})["name"]
    assert (name.types, name.many, name.choice) == (("HumanName",), True, False)


def test_extensions_of_primitives(rows: Callable[..., Rows]) -> None:
    person = {
        "resourceType": "Patient",
        "birthDate": "1970",
        "_birthDate": {"extension": [{"url": "t", "valueDateTime": "1970-01-01T10:00:00Z"}]},
        "name": [{"given": ["a", None], "_given": [None, {"extension": [{"url": "q", "valueCode": "x"}]}]}],
    }
    select = [
        column("birthDate.extension('t').value.ofType(dateTime)", "t"),
        column("name.given.extension('q').value.ofType(code)", "q"),
        column("name.given", "given", collection=True),
    ]
    assert rows([person], *select) == [{"t": "1970-01-01T10:00:00Z", "q": "x", "given": ["a"]}]


def test_whole_elements_and_elements_that_nobody_knows_are_json(rows: Callable[..., Rows]) -> None:
    person = {
        "resourceType": "Patient",
        "name": [{"family": "F", "period": {"start": "2001"}}],
        "shoe": {"size": [42, 43]},
    }
    made = rows(
        [person, {"resourceType": "Patient"}],
        column("name.first()", "name"),
        column("name.first().family", "family"),
        column("shoe.size", "size", type="integer", collection=True),
        column("shoe.size.count()", "count"),
        column("shoe.size.first() > 41", "big"),
    )
    assert json.loads(made[0].pop("name")) == person["name"][0]  # type: ignore[index]
    assert made == [
        {"family": "F", "size": [42, 43], "count": 2, "big": True},
        {"name": None, "family": None, "size": [], "count": 0, "big": None},
    ]


def test_a_choice_without_its_type(rows: Callable[..., Rows]) -> None:
    made = rows(
        [{"resourceType": "Observation", "valueInteger": 7}, {"resourceType": "Observation", "valueString": "x"}],
        column("value.exists()", "any"),
        column("value", "text"),
        column("value is integer", "number"),
        column("(value as integer) + 1", "more"),
    )
    assert made == [
        {"any": True, "text": "7", "number": True, "more": 8},
        {"any": True, "text": '"x"', "number": False, "more": None},
    ]


def test_repeat_goes_as_deep_as_the_data(rows: Callable[..., Rows]) -> None:
    item: dict[str, Any] = {"linkId": "30"}
    for depth in range(29, 0, -1):
        item = {"linkId": str(depth), "item": [item, {"linkId": f"{depth}b"}]}
    form = {"resourceType": "QuestionnaireResponse", "item": [item]}
    made = rows([form], {"repeat": ["item"], **column("linkId", "id")})
    assert [row["id"] for row in made] == [str(n) for n in range(1, 31)] + [f"{n}b" for n in range(29, 0, -1)]


def test_repeat_within_each_element(rows: Callable[..., Rows]) -> None:
    form = {
        "resourceType": "Questionnaire",
        "item": [
            {"linkId": "a", "item": [{"linkId": "a1"}]},
            {"linkId": "b", "item": [{"linkId": "b1"}, {"linkId": "b2"}]},
        ],
    }
    made = rows(
        [form],
        {
            "forEach": "item",
            "column": [{"name": "top", "path": "linkId"}],
            "select": [{"repeat": ["item"], **column("linkId", "below")}],
        },
    )
    assert [(row["top"], row["below"]) for row in made] == [("a", "a1"), ("b", "b1"), ("b", "b2")]


def test_types_and_moments(rows: Callable[..., Rows]) -> None:
    report = {"resourceType": "DiagnosticReport", "issued": "2020-02-03T23:00:00-05:00", "effectiveDateTime": "2020-02"}
    made = rows(
        [report],
        column("issued", "a", tag=moment("timestamp")),
        column("issued", "b", tag=moment("date")),
        column("effective.ofType(dateTime)", "c", tag=moment("timestamp")),
        column("effective.ofType(dateTime)", "d", tag=moment("precision")),
        column("issued", "e", tag=[{"name": "ansi/type", "value": "TIMESTAMP"}]),
        column("result.count()", "f", tag=[{"name": "ansi/type", "value": "BIGINT"}]),
        column("issued", "g"),
    )
    late = datetime.fromisoformat("2020-02-04T04:00:00")
    assert made == [
        {
            "a": late,
            "b": date(2020, 2, 4),
            "c": datetime.fromisoformat("2020-02-01T00:00:00"),
            "d": "month",
            "e": late,
            "f": 0,
            "g": report["issued"],
        }
    ]


def test_dates_compare_as_far_as_they_are_known(rows: Callable[..., Rows]) -> None:
    def compared(left: str, path: str) -> Any:
        resource = {"resourceType": "Observation", "effectiveDateTime": left}
        return rows([resource], column(path.replace("E", "effective.ofType(dateTime)")))[0]["v"]

    assert compared("2020-02-03", "E < @2020-03") is True
    assert compared("2020", "E < @2020-03") is None
    assert compared("2020-02-03T10:00:00Z", "E = @2020-02-03T12:00:00+02:00") is True
    assert compared("2020-02-03T10:00:00Z", "E = @2020-02-03T10:00:00.000Z") is True
    assert compared("2020-02-03", "E = @2020-02-03T10:00:00Z") is None


def test_boundaries(rows: Callable[..., Rows]) -> None:
    resources = [
        {"resourceType": "Observation", "valueDateTime": "2010-02"},
        {"resourceType": "Observation", "valueDateTime": "2010-10-10T12:30:00+02:00"},
        {"resourceType": "Observation", "valueQuantity": {"value": 12}},
    ]
    path = "value.ofType({}).{}"
    made = rows(
        resources,
        column(path.format("dateTime", "lowBoundary()"), "low"),
        column(path.format("dateTime", "highBoundary()"), "high"),
        column(path.format("Quantity", "value.lowBoundary()"), "least"),
    )
    assert [(row["low"], row["high"], row["least"]) for row in made] == [
        ("2010-02-01T00:00:00.000+14:00", "2010-02-28T23:59:59.999-12:00", None),
        ("2010-10-10T12:30:00.000+02:00", "2010-10-10T12:30:00.999+02:00", None),
        (None, None, 11.5),
    ]


def test_quantities_compare_in_one_unit_only(rows: Callable[..., Rows]) -> None:
    resource = {"resourceType": "Observation", "valueQuantity": {"value": 5, "code": "mg"}}
    made = rows(
        [resource],
        column("value.ofType(Quantity) > 4 'mg'", "same"),
        column("value.ofType(Quantity) > 4 'g'", "other"),
    )
    assert made == [{"same": True, "other": None}]


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("name.given", {}, "several items"),
        ("name.given.single()", {}, "several items"),
        ("multipleBirth.ofType(integer)", {}, "decimals"),
        ("birthDate", {"tag": moment("date")}, "date or time"),
        ("active", {}, "another kind"),
        ("telecom.rank.first()", {}, "number"),
    ],
)
def test_a_record_that_does_not_fit_ends_the_run_without_its_values(
    rows: Callable[..., Rows], path: str, fields: dict[str, Any], words: str
) -> None:
    person = {
        "resourceType": "Patient",
        "active": "SECRET",
        "birthDate": "SECRET",
        "multipleBirthInteger": 1.5,
        "name": [{"given": ["SECRET", "SECRET"]}],
        "telecom": [{"rank": "SECRET"}],
    }
    with pytest.raises(InputError, match=words) as caught:
        rows([person], column(path, **fields))
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None


def test_text_of_the_view_stays_text(rows: Callable[..., Rows]) -> None:
    made = rows([{"resourceType": "Patient", "gender": "e0"}], column("'{source} e0 \\' -- \"'"), column("gender", "g"))
    assert made == [{"v": "{source} e0 ' -- \"", "g": "e0"}]


def test_an_index_before_the_first_item_and_the_groups_of_a_pattern(rows: Callable[..., Rows]) -> None:
    person = {"resourceType": "Patient", "gender": "male", "name": [{"given": ["A"]}, {"given": ["B"]}]}
    made = rows(
        [person],
        column("name[1 - 3].given", "before", collection=True),
        column("name[3 - 2].given.first()", "second"),
        column(r"gender.replaceMatches('(m)(a)', '$2${1}\\1')", "swapped"),
    )
    assert made == [{"before": [], "second": "B", "swapped": r"am\1le"}]


def test_what_does_not_go_together_is_found_without_data(connection: duckdb.DuckDBPyConnection) -> None:
    for path in sorted(VIEWS.glob("*.json")):
        check_view(compile_view(load_view(path)), connection)
    odd = parse_view({"resource": "Patient", "select": [column("id.matches('(')")]})
    with pytest.raises(ViewError, match="cannot be run"):
        check_view(compile_view(odd), connection)


def test_resources_are_gathered_from_files_of_every_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(data: bytes) -> tuple[int, int, int, list[str]]:
        (tmp_path / "x").write_bytes(data)
        made = gather([tmp_path / "x"], "Patient", tmp_path / "kept")
        kept = [json.loads(line)["id"] for line in (tmp_path / "kept").read_bytes().splitlines()]
        return made.taken, made.others.total(), made.unreadable, kept

    a, b, other = (
        json.dumps({"resourceType": kind, "id": key}).encode()
        for kind, key in (("Patient", "a"), ("Patient", "b"), ("Claim", "c"))
    )
    deep = b'{"resourceType":"Patient","id":"d","extension":%b}' % (b"[" * 400 + b"]" * 400)
    assert found(a) == (1, 0, 0, ["a"])
    assert found(b"\xef\xbb\xbf\n" + a + b"\r\n{broken\n\n" + other + b"\n7\n" + b) == (2, 1, 2, ["a", "b"])
    assert found(b"{broken\n" + a + b"\n" + b) == (2, 0, 1, ["a", "b"])
    assert found(json.dumps(json.loads(a), indent=1).encode()) == (1, 0, 0, ["a"])
    assert found(b"[" + a + b",\n" + b + b", 7]") == (2, 0, 1, ["a", "b"])
    assert found(deep) == (1, 0, 0, ["d"])
    assert found(gzip.compress(a + b"\n") + gzip.compress(b + b"\n")[:-9]) == (2, 0, 1, ["a", "b"])
    monkeypatch.setattr(run, "DOCUMENT_LIMIT", 10)  # lines are not held together, whatever the size of the file
    assert found(a + b"\n" + b) == (2, 0, 0, ["a", "b"])
    assert found(b"[" + a + b",\n" + b + b"]")[0] == 0


def test_the_command_runs_a_view(tmp_path: Path) -> None:
    from assets.cli import app

    view, data, out = tmp_path / "people.json", tmp_path / "data.json", tmp_path / "rows.csv"
    select = [column("id", "id"), column("name.given", "given", collection=True)]
    view.write_text(json.dumps({"resource": "Patient", "select": select}))
    entries = [{"resource": {"resourceType": "Patient", "id": "p", "name": [{"given": ["a", "b"]}]}}, {"resource": {}}]
    data.write_text(json.dumps({"resourceType": "Bundle", "entry": entries}))
    done = CliRunner().invoke(app, ["view", str(view), str(data), "--out", str(out), "--explain"])
    assert done.exit_code == 0, done.output
    assert "1 rows from 1 Patient" in done.output
    assert "read_json" in done.output
    assert out.read_text().splitlines()[1] == '"p","[""a"", ""b""]"'


def test_the_docs_name_every_function_and_their_example_compiles() -> None:
    doc = (VIEWS.parents[1] / "docs" / "views.md").read_text()
    words = set(re.findall(r"`(\w+)(?:\([^`]*\))?`", doc)) | {"ofType", "as", "is"}
    assert FUNCTIONS.keys() <= words, FUNCTIONS.keys() - words
    example = json.loads(doc.partition("```json\n")[2].partition("```")[0])
    assert compile_view(parse_view(example)).unknown == ()
