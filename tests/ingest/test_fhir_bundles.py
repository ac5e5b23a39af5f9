"""Bundles of every type, deletions, and large ones: what is a record, and what is left at the end of a delivery."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from fhir_records import bundle, ndjson, observation, patient

from pipeline.ingest.fhir import split as fhir_split
from pipeline.ingest.fhir.columns import TYPES


def whole(kind: str, entries: list[Any]) -> bytes:
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}).encode()


def version(day: int, *, at: str = "meta", **fields: Any) -> dict[str, Any]:
    """An entry of a history that says how patient 1 was from a day on."""
    time = f"2020-01-{day:02}T00:00:00Z"
    resource = patient(1, gender=f"g{day}", **fields)
    if at == "meta":
        return {"resource": resource | {"meta": {"lastUpdated": time}}}
    return {"resource": resource, "response": {"lastModified": time}}


def deletion(day: int | None, url: str = "Patient/p1") -> dict[str, Any]:
    entry: dict[str, Any] = {"request": {"method": "DELETE", "url": url}}
    return entry if day is None else entry | {"response": {"lastModified": f"2020-01-{day:02}T00:00:00Z"}}


def test_every_type_of_bundle_is_taken(take):
    kinds = ["transaction", "batch", "collection", "searchset", "history", "document", "message", "odd", None]
    files = {}
    for n, kind in enumerate(kinds):
        entries = [{"resource": patient(n), "search": {"mode": "match"}}, {"resource": observation(n)}]
        files[f"{n}.json"] = json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}).encode()
    taken = take(files)
    assert taken.account.taken == {"Patient": len(kinds), "Observation": len(kinds)}
    assert [row["id"] for row in taken.rows("patient")] == [f"p{n}" for n in range(len(kinds))]


def test_answers_and_questions_are_no_lost_records(take):
    answers = [
        {"response": {"status": "201 Created", "location": "Patient/1"}},
        {"response": {"status": "400", "outcome": {"resourceType": "OperationOutcome"}}},
        {"response": {"status": "200"}, "resource": patient(1)},
        {"request": {"method": "GET", "url": "Patient/7"}},
        {"request": {"method": "PUT", "url": "Patient/7"}},
        {"request": {"method": "PATCH", "url": "Patient/7"}, "resource": {"resourceType": "Binary", "id": "b"}},
    ]
    taken = take({"x.json": whole("batch-response", answers), "y.json": whole("transaction-response", answers[:2])})
    assert taken.account.not_modelled == {"(response)": 4, "(request)": 1, "Binary": 1}
    assert taken.rejects() == [("x.json", 5, "no_resource")]
    assert {row["file"]: row["outcome"] for row in taken.rows("delivered_files")} == {
        "x.json": "partly taken",
        "y.json": "not clinical",
    }


# ---- deletions


@pytest.mark.parametrize("at", ["meta", "response"])
def test_a_history_keeps_the_newest_state(take, at):
    """Newest first, as a server writes it; a version may have its time in the entry only."""
    entries = [version(3, at=at), version(2, at=at), version(1, at=at)]
    taken = take({"x.json": whole("history", entries)})
    assert [row["gender"] for row in taken.rows("patient")] == ["g3"]
    assert taken.account.superseded == {"Patient": 2}

    gone = take({"x.json": whole("history", [deletion(4), *entries])})
    assert gone.rows("patient") == []
    assert gone.account.to_dict()["taken"] == {"(deletion)": 1}
    assert gone.account.superseded == {"Patient": 3}
    (row,) = gone.rows("deleted_resources")
    assert row == {"key": "Patient/p1", "deleted_at": datetime.fromisoformat("2020-01-04"), "file": "x.json", "line": 1}

    back = take({"x.json": whole("history", [version(5, at=at), deletion(4), *entries])})
    assert [row["gender"] for row in back.rows("patient")] == ["g5"]
    assert back.rows("deleted_resources") == []
    assert back.account.superseded == {"Patient": 3, "(deletion)": 1}


def test_a_history_without_any_times_is_read_backwards(take):
    bare = [{"resource": patient(1, gender=f"g{n}")} for n in (3, 2, 1)]
    taken = take({"x.json": whole("history", bare)})
    assert [row["gender"] for row in taken.rows("patient")] == ["g3"]
    assert take({"x.json": whole("history", [deletion(None), *bare])}).rows("patient") == []
    assert len(take({"x.json": whole("history", [bare[0], deletion(None), *bare[1:]])}).rows("patient")) == 1


@pytest.mark.parametrize("form", ["bundle", "lines"])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_times_decide_wherever_versions_and_deletions_stand(take, form, order):
    """Whatever the order of the files, the same is left."""
    said = [("v1", version(1)), ("v3", version(3)), ("d2", deletion(2))]
    files = {}
    for place, n in enumerate(order):
        name, entry = said[n]
        if form == "lines" and name != "d2":
            files[f"{place}.ndjson"] = [entry["resource"]]
        else:
            files[f"{place}.json" if form == "bundle" else f"{place}.ndjson"] = ndjson(
                [json.loads(whole("history", [entry]))]
            )
    taken = take(files)
    assert [row["gender"] for row in taken.rows("patient")] == ["g3"]
    assert taken.account.in_ == 3
    assert taken.account.superseded == {"Patient": 1, "(deletion)": 1}


def test_without_a_time_the_later_one_in_the_delivery_counts(take):
    """The version is read as it came, out of a bundle, or behind a broken line; the deletion has no time."""
    one = patient(1, meta={"lastUpdated": "2020-01-01T00:00:00Z"})
    gone = ndjson([json.loads(whole("transaction", [deletion(None)]))])
    forms = (
        ("a.ndjson", [one]),
        ("a.ndjson", [b"{", patient(2), one]),
        ("a.json", bundle([patient(3), one])),
    )
    for name, body in forms:
        after = "b.ndjson" if name == "a.ndjson" else "b.json"
        before = "0.ndjson" if name == "a.ndjson" else "0.json"
        later = take({name: body, after: gone})
        assert "Patient/p1" not in {row["key"] for row in later.rows("patient")}, name
        assert [row["key"] for row in later.rows("deleted_resources")] == ["Patient/p1"]
        earlier = take({name: body, before: gone})
        assert "Patient/p1" in {row["key"] for row in earlier.rows("patient")}, name
        assert earlier.rows("deleted_resources") == []
    within = take({"x.json": whole("transaction", [deletion(None), {"resource": one}])})
    assert len(within.rows("patient")) == 1


def test_deletions_of_a_bulk_export(take):
    """Transaction bundles as lines, in a file of their own, with the manifest and the error file beside it."""
    manifest = {
        "transactionTime": "2020-01-01T00:00:00Z",
        "request": "https://x/$export",
        "output": [],
        "error": [],
        "deleted": [],
    }
    gone = [
        json.loads(whole("transaction", [deletion(None, f"{kind}/x{n}") for n in range(3)]))
        for kind in ("Patient", "Device")
    ]
    outcome = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "exception"}]}
    files = {
        "manifest.json": json.dumps(manifest).encode(),
        "Patient.ndjson": [patient(1)],
        "errors/OperationOutcome.ndjson": [outcome, outcome],
        "deleted/deleted.ndjson": gone,
        "log.ndjson": [{"exportId": "1", "eventId": "kickoff", "timestamp": "2020"}],
    }
    taken = take(files)
    assert taken.account.taken == {"Patient": 1, "(deletion)": 6}
    assert taken.account.not_modelled == {"OperationOutcome": 2, "(export manifest)": 1, "(export log)": 1}
    assert taken.account.quarantined == {}
    assert [row["deleted_at"] for row in taken.rows("deleted_resources")] == [None] * 6
    assert taken.rows("deleted_resources")[0]["key"] == "Device/x0"
    assert {row["file"]: row["outcome"] for row in taken.rows("delivered_files")} == {
        "manifest.json": "not clinical",
        "Patient.ndjson": "taken",
        "errors/OperationOutcome.ndjson": "not clinical",
        "deleted/deleted.ndjson": "taken",
        "log.ndjson": "not clinical",
    }


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("Patient/p1", "Patient/p1"),
        ("https://x.org/fhir/Patient/p1", "Patient/p1"),
        ("Patient/p1/_history/3", "Patient/p1"),
        ("Patient?identifier=5", None),
        ("Patient", None),
        (7, None),
        ("Patient/../p1", None),
        ("Patient/'; DROP TABLE x --", None),
    ],
)
def test_what_a_deletion_names(take, url, key):
    taken = take({"x.json": whole("batch", [deletion(2, url), {"resource": observation(1)}])})
    assert [row["key"] for row in taken.rows("deleted_resources")] == ([key] if key else [])
    assert taken.account.quarantined == ({} if key else {"deletes_nothing": 1})
    assert taken.account.taken["Observation"] == 1


def test_a_deleted_observation_goes_with_its_components_and_a_deleted_patient_alone(take):
    parts = [{"code": {"text": "x"}, "valueInteger": n} for n in range(3)]
    records = [
        patient(1),
        patient(2),
        observation(1, component=parts),
        observation(2, component=parts),
        observation(3, 2),
    ]
    gone = [
        deletion(2),
        deletion(2, "Observation/o1"),
        deletion(2, "Observation/o1"),
        deletion(None, "Observation/never"),
    ]
    taken = take({"a.json": bundle(records), "b.json": whole("transaction", gone)})
    assert [(row["key"], row["component"]) for row in taken.rows("observation")] == [
        *(("Observation/o2", n) for n in range(4)),
        ("Observation/o3", 0),
    ]
    assert taken.account.to_dict()["taken"] == {"(deletion)": 3, "Observation": 2, "Patient": 1}
    assert taken.account.superseded == {"Patient": 1, "Observation": 1, "(deletion)": 1}
    assert taken.account.info["dangling"] == {"Observation": 1}, "the rows of a deleted patient point to nobody"


def test_the_unit_of_a_time_is_utc_and_a_bad_one_is_none(take):
    entries = [
        deletion(None) | {"response": {"lastModified": "2020-01-02T00:00:00+02:00"}},
        deletion(None, "Patient/p2") | {"response": {"lastModified": "yesterday"}},
    ]
    taken = take({"x.json": whole("history", entries)})
    assert [row["deleted_at"] for row in taken.rows("deleted_resources")] == [
        datetime.fromisoformat("2020-01-01T22:00"),
        None,
    ]


# ---- large


def test_records_larger_than_the_readers_default_are_taken(take):
    """18 MB in one record: DuckDB's limit is 16 MB. As a line, in a bundle, and as a bundle in a line."""
    note = "x" * (18 << 20)
    big = observation(1, note=[{"text": note}])
    for files in (
        {"o.ndjson": [observation(0), big]},
        {"o.json": bundle([big, observation(0)])},
        {"o.jsonl": bundle([observation(0), big])},
    ):
        taken = take(files, validation={"mode": "off"})
        assert taken.account.taken == {"Observation": 2}, list(files)
        assert {row["value_number"] for row in taken.rows("observation")} == {36.69531}


def test_a_document_that_cannot_be_held_is_set_aside_and_counted_by_its_bytes(take, monkeypatch):
    monkeypatch.setattr(fhir_split, "DOCUMENT_LIMIT", 20_000)
    large = bundle([observation(n) for n in range(100)])
    taken = take({"large.json.gz": large, "p.ndjson": [patient(1)]})
    assert taken.rejects() == [("large.json.gz", 0, "too_long")]
    assert taken.rows("quarantine")[0]["bytes"] > 20_000
    assert taken.account.taken == {"Patient": 1}


def test_half_surrogates_and_odd_numbers_in_a_broken_bundle_stop_the_rescue_and_nothing_else(take):
    good = bundle([patient(1), patient(2), patient(3)])
    for odd in (b'"\\ud800"', b"NaN", b"1" * 400):
        broken = good.replace(
            b'{"resourceType": "Patient", "id": "p2"', b'{"x": %s, "resourceType": "Patient", "id": "p2"' % odd
        )
        taken = take({"x.json": broken[:-1]})
        assert taken.account.taken["Patient"] >= 1
        assert taken.account.balanced
        assert taken.account.quarantined == {"not_json": 1}


def test_types_without_a_table_can_be_deleted_too(take):
    assert "Device" not in TYPES
    taken = take(
        {"x.json": whole("history", [deletion(1, "Device/d"), {"resource": {"resourceType": "Device", "id": "d"}}])}
    )
    assert taken.account.to_dict()["taken"] == {"(deletion)": 1}
    assert taken.account.not_modelled == {"Device": 1}
