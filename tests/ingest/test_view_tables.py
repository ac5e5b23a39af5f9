"""The user's own views as raw tables of FHIR deliveries, and what a month sees of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from fhir_records import bundle, observation, patient

from pipeline.errors import ConfigError
from pipeline.features.merge import RawDelivery, open_views
from pipeline.features.newest import incomplete
from pipeline.features.source import SourceSpec
from pipeline.features.spec import load_book
from pipeline.ingest.fhir import user_views
from pipeline.ingest.fhir.user_views import kinds_with, load_user_views, primary_table
from pipeline.ingest.viewdefinition.compile import CompiledView, compile_view
from pipeline.ingest.viewdefinition.definition import ViewDefinition
from pipeline.store.home import Home

View = Callable[..., Path]


@pytest.fixture
def own(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> View:
    """Write a view into the user's folder of views."""
    folder = tmp_path / "cohorts" / "views"
    folder.mkdir(parents=True)
    monkeypatch.setenv("COHORTLOOM_COHORTS", str(folder.parent))

    def write(name: str, resource: str = "Claim", select: Any = None, **fields: Any) -> Path:
        select = select or [{"column": [{"name": "status", "path": "status", "type": "code"}]}]
        view = {"resourceType": "ViewDefinition", "name": name, "resource": resource, "select": select, **fields}
        (folder / f"{name}.json").write_text(json.dumps(view))
        return folder.parent

    return write


def claim(number: int, of: str = "Patient/p1", **fields: Any) -> dict[str, Any]:
    return {"resourceType": "Claim", "id": f"c{number}", "status": "active", "patient": {"reference": of}, **fields}


def glucose(**where: Any) -> list[dict[str, Any]]:
    return [{"column": [{"name": "value", "path": "value.ofType(Quantity).value", "type": "decimal"}], **where}]


def test_a_type_without_a_table_is_taken_by_its_view(own: View, take: Any) -> None:
    own("claims")
    lines = [claim(1, meta={"lastUpdated": "2026-01-02T03:04:05Z"}), claim(2, of="Organization/o1")]
    taken = take({"Claim.ndjson": lines, "Coverage.ndjson": [{"resourceType": "Coverage", "id": "x"}]})
    assert taken.account.taken == {"Claim": 2}
    assert taken.account.not_modelled == {"Coverage": 1}
    assert taken.table("claims").column_names == ["key", "patient", "last_updated", "status"]
    assert [row["patient"] for row in taken.rows("claims")] == ["Patient/p1", None]
    primary = taken.table("resource_claim")
    assert primary.column_names == ["key", "id", "patient", "last_updated"]
    assert primary.column("key").to_pylist() == ["Claim/c1", "Claim/c2"]
    assert taken.account.info["views"] == {"claims": {"resource": "Claim", "rows": 2, "left_out": 0}}


def test_bundles_and_untidy_lines_come_to_views_too(own: View, take: Any) -> None:
    own("claims")
    records = [patient(1), claim(1, of="urn:uuid:p1")]
    taken = take({"b.json": bundle(records), "c.ndjson": [claim(2), b"{broken", claim(3, id="")]})
    assert [(row["key"], row["patient"]) for row in taken.rows("claims")] == [
        ("Claim/c2", "Patient/p1"),
        ("Claim/c1", "Patient/p1"),
    ]
    assert sorted(reason for _, _, reason in taken.rejects()) == ["no_id", "not_json"]


def test_a_superseded_or_deleted_resource_gives_no_row(own: View, take: Any) -> None:
    own("levels", "Observation", glucose())
    gone = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [{"request": {"method": "DELETE", "url": "Observation/o2"}}],
    }
    newer = observation(1, meta={"lastUpdated": "2026-02-01"}, valueQuantity={"value": 2})
    older = observation(1, meta={"lastUpdated": "2026-01-01"}, valueQuantity={"value": 1})
    taken = take({"o.ndjson": [newer, older, observation(2), observation(3)], "z.json": json.dumps(gone).encode()})
    assert [(row["key"], row["value"]) for row in taken.rows("levels")] == [
        ("Observation/o1", 2.0),
        ("Observation/o3", 36.69531),
    ]


def test_what_a_view_cannot_take_is_left_out_of_it_alone(own: View, take: Any) -> None:
    own("codes", "Observation", [{"column": [{"name": "code", "path": "code.coding.code", "type": "code"}]}])
    two = {"coding": [{"code": "a"}, {"code": "b"}]}
    lines = [observation(number, code=two) if number in (3, 17) else observation(number) for number in range(20)]
    taken = take({"o.ndjson": lines})
    assert taken.account.taken == {"Observation": 20}
    assert taken.table("codes").num_rows == 18
    assert taken.account.info["views"]["codes"]["left_out"] == 2
    assert taken.table("quarantine").num_rows == 0


def test_a_view_that_takes_nearly_nothing_makes_no_table(own: View, take: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ingest.fhir.views._MOST_TRIALS", 5)
    own("codes", "Observation", [{"column": [{"name": "code", "path": "code.coding.code", "type": "code"}]}])
    two = {"coding": [{"code": "a"}, {"code": "b"}]}
    taken = take({"o.ndjson": [observation(number, code=two) for number in range(20)]})
    assert taken.account.info["views"]["codes"] == {"resource": "Observation", "rows": None, "left_out": None}
    assert "codes" not in taken.version.files
    assert taken.account.taken == {"Observation": 20}


def test_the_newest_version_counts_even_where_it_has_no_row(own: View, take: Any) -> None:
    own("high", "Observation", glucose(), where=[{"path": "value.ofType(Quantity).value > 10"}])
    own("claims")
    first = take({"o.ndjson": [observation(1), observation(2)], "c.ndjson": [claim(1), claim(2)]})
    low = observation(1, valueQuantity={"value": 3})
    second = take({"o.ndjson": [low], "c.ndjson": [claim(1, status="cancelled")]})
    deliveries = [
        RawDelivery(f"test--{n}", date(2026, n, 1), {t: x.lake.tables.path(x.version, t) for t in x.version.files})
        for n, x in ((1, first), (2, second))
    ]
    source = SourceSpec(name="test", format="fhir")
    connection, _ = open_views(first.lake, source, deliveries, date(2026, 12, 31), threads=1, memory_limit="1GB")
    with connection:
        high = connection.execute("SELECT key, value FROM high").fetchall()
        claims = connection.execute("SELECT key, status FROM claims ORDER BY key").fetchall()
    assert high == [("Observation/o2", 36.69531)]
    assert claims == [("Claim/c1", "cancelled"), ("Claim/c2", "active")]


def test_deliveries_that_were_read_without_the_view_are_named(own: View, take: Any) -> None:
    first = take({"a.ndjson": [patient(1)], "o.ndjson": [observation(1)]})
    own("values", resource="Observation", select=glucose())
    second = take({"o.ndjson": [observation(2)]})
    third = take({"a.ndjson": [patient(2)]})
    tables = {
        key: {name: taken.lake.tables.path(taken.version, name) for name in taken.version.files}
        for key, taken in (("d1", first), ("d2", second), ("d3", third))
    }
    assert incomplete(tables) == {"values": ["d1"]}
    assert incomplete({key: tables[key] for key in ("d2", "d3")}) == {}


def test_a_source_chooses_its_views(own: View, take: Any) -> None:
    own("claims")
    own("levels", "Observation", glucose())
    taken = take({"o.ndjson": [observation(1)], "c.ndjson": [claim(1)]}, views=["levels"])
    assert "levels" in taken.version.files
    assert "claims" not in taken.version.files
    assert taken.account.not_modelled == {"Claim": 1}
    with pytest.raises(ConfigError, match="levels"):
        take({"o.ndjson": [observation(1)]}, views=["level"])


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("observation", {}, "table of our own"),
        ("quarantine", {}, "table of our own"),
        ("resource_claim", {}, "table of our own"),
        ("Claims", {}, "lower case"),
        ("claims", {"select": [{"column": [{"name": "key", "path": "id"}]}]}, "'key' is there twice"),
        ("claims", {"select": [{"column": [{"name": "a", "path": "status."}]}]}, "not FHIRPath"),
        ("claims", {"select": [{"column": [{"name": "a", "path": "item[-1].sequence"}]}]}, "whole number"),
        (
            "claims",
            {"select": [{"column": [{"name": "a", "paht": "status"}]}]},
            r"claims.json: select\[0\].column\[0\]",
        ),
    ],
)
def test_a_broken_view_is_told_and_hides_no_other(
    own: View, take: Any, name: str, fields: dict[str, Any], words: str
) -> None:
    folder = own(name, **fields)
    own("levels", "Observation", glucose())
    with pytest.raises(ConfigError, match=words):
        raise ConfigError(load_user_views([folder]).broken[name])
    assert list(load_book().broken) == [f"view:{name}"]
    assert take({"o.ndjson": [observation(1)]}).table("levels").num_rows == 1


def test_a_fault_of_the_compiler_disables_that_view_alone(own: View, monkeypatch: pytest.MonkeyPatch) -> None:
    own("levels", "Observation", glucose())
    folder = own("claims")

    def fail(view: ViewDefinition, **settings: Any) -> CompiledView:
        if view.name == "claims":
            raise RecursionError
        return compile_view(view, **settings)

    monkeypatch.setattr(user_views, "compile_view", fail)
    found = load_user_views([folder])
    assert list(found.views) == ["levels"]
    assert "cannot be compiled" in found.broken["claims"]


def test_two_views_of_one_name_are_refused(own: View) -> None:
    folder = own("claims")
    (folder / "views" / "other.json").write_text((folder / "views" / "claims.json").read_text())
    found = load_user_views([folder])
    assert list(found.views) == ["claims"]
    assert "two views" in found.broken["other"]


def test_primary_tables(own: View) -> None:
    folder = own("eob", "ExplanationOfBenefit")
    assert primary_table("Observation") == "observation"
    kinds = kinds_with(load_user_views([folder]).views.values())
    assert kinds["ExplanationOfBenefit"].table == "resource_explanation_of_benefit"
    assert kinds["ExplanationOfBenefit"].references == ("patient",)
