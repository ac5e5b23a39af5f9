"""Deliveries one after the other: of a resource the newest statement counts, and an older month sees the older state."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fhir_records import observation, patient

from pipeline.features.merge import RawDelivery, add_events, open_views
from pipeline.features.newest import primary_of
from pipeline.features.source import SourceSpec


def at(day: int | None, **fields: Any) -> dict[str, Any]:
    meta = {} if day is None else {"meta": {"lastUpdated": f"2026-01-{day:02}T00:00:00Z"}}
    return patient(1, **meta, **fields)


def gone(*keys: str, day: int | None = None) -> bytes:
    said = {} if day is None else {"response": {"lastModified": f"2026-01-{day:02}T00:00:00Z"}}
    entries = [{"request": {"method": "DELETE", "url": key}, **said} for key in keys]
    return json.dumps({"resourceType": "Bundle", "type": "history", "entry": entries}).encode()


@pytest.fixture
def months(take):
    """Deliveries at the end of months (the same month where a number repeats), and what a query sees in each month."""

    def build(deliveries: list[tuple[int, dict[str, Any]]]) -> Any:
        raw = []
        for n, (month, files) in enumerate(deliveries):
            taken = take(files)
            tables = {name: taken.lake.tables.path(taken.version, name) for name in taken.version.files}
            raw.append((RawDelivery(f"test--{n}", date(2026, month, 28), tables), taken.lake))

        def seen(month: int, sql: str, *, dates: str = "none", events: bool = False) -> list[tuple[Any, ...]]:
            source = SourceSpec(name="test", format="fhir", dates=dates)
            known = [delivery for delivery, _ in raw if delivery.as_of.month <= month]
            lake = raw[0][1]
            end = date(2026, month, 28)
            connection, columns = open_views(lake, source, known, end, threads=1, memory_limit="1GB")
            with connection:
                if events:
                    add_events(connection, lake, source, columns, memory_limit="1GB")
                return connection.execute(sql).fetchall()

        seen.raw = [delivery for delivery, _ in raw]
        return seen

    return build


def test_a_deletion_removes_from_the_month_on_in_which_it_came(months):
    seen = months(
        [
            (
                1,
                {"a.ndjson": [patient(1), patient(2)], "o.ndjson": [observation(1), observation(2, 2), observation(3)]},
            ),
            (2, {"gone.json": gone("Patient/p2", "Observation/o1")}),
            (
                3,
                {
                    "o.ndjson": [observation(1, valueQuantity={"value": 9})],
                    "more.json": gone("Observation/o3", "Device/x"),
                },
            ),
        ]
    )
    keys = "SELECT key FROM {} ORDER BY 1"
    assert seen(1, keys.format("patient")) == [("Patient/p1",), ("Patient/p2",)]
    assert [key for (key,) in seen(1, keys.format("observation"))] == [f"Observation/o{n}" for n in (1, 2, 3)]
    assert seen(2, keys.format("patient")) == [("Patient/p1",)]
    assert [key for (key,) in seen(2, keys.format("observation"))] == ["Observation/o2", "Observation/o3"]
    assert seen(3, "SELECT key, value_number FROM observation ORDER BY 1") == [
        ("Observation/o1", 9.0),  # deleted, and there again
        ("Observation/o2", 36.69531),  # its patient is gone, it is not
    ]
    codes = "SELECT code, count(*) FROM events GROUP BY 1 ORDER BY 1"
    assert seen(2, codes, events=True) == [
        ("GENDER//female", 1),
        ("LOINC//2339-0", 1),  # what is left of the patient who was deleted is nobody's event
        ("MEDS_BIRTH", 1),
    ]
    assert seen(2, "SELECT source_id FROM subjects", events=True) == [("p1",)]
    assert seen(1, "SELECT source_id FROM subjects ORDER BY 1", events=True) == [("p1",), ("p2",)]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        # the time of the statement counts, whenever it was delivered
        ((1, {"a.ndjson": [at(20, gender="new")]}), (2, {"b.ndjson": [at(10, gender="old")]}), ["new"]),
        ((1, {"a.ndjson": [at(20, gender="new")]}), (2, {"b.json": gone("Patient/p1", day=10)}), ["new"]),
        ((1, {"b.json": gone("Patient/p1", day=20)}), (2, {"a.ndjson": [at(10)]}), []),
        ((1, {"b.json": gone("Patient/p1", day=10)}), (2, {"a.ndjson": [at(20, gender="new")]}), ["new"]),
        # of equal times the later delivery
        ((1, {"a.ndjson": [at(20, gender="0")]}), (2, {"b.ndjson": [at(20, gender="1")]}), ["1"]),
        ((1, {"a.ndjson": [at(20, gender="0")]}), (1, {"b.ndjson": [at(20, gender="1")]}), ["1"]),
        # without a time: newer than all that came before it, older than all after it
        ((1, {"a.ndjson": [at(20)]}), (1, {"b.ndjson": [at(None, gender="untimed")]}), ["untimed"]),
        ((1, {"a.ndjson": [at(20)]}), (1, {"b.json": gone("Patient/p1")}), []),
        ((1, {"a.ndjson": [at(None)]}), (2, {"b.ndjson": [at(10, gender="timed")]}), ["timed"]),
        ((1, {"a.ndjson": [at(None, gender="0")]}), (1, {"b.ndjson": [at(None, gender="1")]}), ["1"]),
        ((1, {"a.ndjson": [at(None, gender="0")]}), (1, {"b.json": gone("Patient/p1")}), []),
        ((1, {"b.json": gone("Patient/p1")}), (1, {"a.ndjson": [at(None, gender="1")]}), ["1"]),
    ],
)
def test_which_statement_counts(months, first, second, kept):
    seen = months([first, second])
    assert [gender for (gender,) in seen(3, "SELECT gender FROM patient")] == kept


def test_an_untimed_statement_divides_what_was_delivered(months):
    """A later old version does not win by a time that an untimed one in between has made past."""
    seen = months(
        [
            (1, {"a.ndjson": [at(20, gender="first")]}),
            (2, {"b.ndjson": [at(None, gender="untimed")]}),
            (3, {"c.ndjson": [at(12, gender="third")]}),
            (4, {"d.ndjson": [at(10, gender="fourth")]}),
        ]
    )
    assert [seen(month, "SELECT gender FROM patient") for month in (1, 2, 3, 4)] == [
        [("first",)],
        [("untimed",)],
        [("third",)],
        [("third",)],
    ]


def test_a_request_takes_its_code_from_a_medication_of_another_delivery(months):
    def request(number: int) -> dict[str, Any]:
        return {
            "resourceType": "MedicationRequest",
            "id": f"r{number}",
            "status": "active",
            "intent": "order",
            "subject": {"reference": "Patient/p1"},
            "medicationReference": {"reference": "Medication/m1"},
        }

    code = {"coding": [{"system": "http://www.nlm.nih.gov/research/umls/rxnorm", "code": "123"}]}
    medication = {"resourceType": "Medication", "id": "m1", "code": code}
    seen = months([(1, {"a.ndjson": [patient(1), medication, request(1)]}), (2, {"b.ndjson": [request(2)]})])
    assert seen(2, "SELECT id, code FROM medication_request ORDER BY id") == [("r1", "123"), ("r2", "123")]
    codes = seen(2, "SELECT code, count(*) FROM events WHERE code LIKE 'RXNORM%' GROUP BY 1", events=True)
    assert codes == [("RXNORM//123", 2)]


def test_all_rows_of_the_newest_version_and_only_those(months):
    """A new version with fewer components leaves none of the old ones behind."""
    parts = [{"code": {"text": f"c{n}"}, "valueInteger": n} for n in range(3)]
    seen = months(
        [
            (1, {"o.ndjson": [observation(1, component=parts), observation(2, component=parts)]}),
            (2, {"o.ndjson": [observation(1, component=parts[:1])]}),
        ]
    )
    count = "SELECT key, count(*) FROM observation GROUP BY 1 ORDER BY 1"
    assert seen(1, count) == [("Observation/o1", 4), ("Observation/o2", 4)]
    assert seen(2, count) == [("Observation/o1", 2), ("Observation/o2", 4)]


def test_an_empty_month_of_deletions_alone_leaves_typed_empty_tables(months):
    seen = months([(1, {"a.ndjson": [patient(1)]}), (2, {"x.json": gone("Patient/p1")})])
    assert seen(2, "SELECT count(*), count(birth_date) FROM patient") == [(0, 0)]


def test_rows_of_a_users_view_follow_their_resource(months, tmp_path):
    """A view's table names its primary table; a newer version without rows in the view takes the old rows away."""
    later = {"effectiveDateTime": "2026-05-01"}
    seen = months(
        [
            (1, {"o.ndjson": [observation(n) for n in range(4)]}),
            (2, {"o.ndjson": [observation(0), observation(1)], "x.json": gone("Observation/o2")}),
            (3, {"o.ndjson": [observation(5, **later)]}),
        ]
    )
    rows = [[("o0", 1), ("o0", 2), ("o1", 3), ("o2", 4), ("o3", 5)], [("o0", 6)], [("o5", 7)]]
    for n, (delivery, some) in enumerate(zip(seen.raw, rows, strict=True)):
        table = pa.table({"key": [f"Observation/{k}" for k, _ in some], "n": [v for _, v in some]})
        path = tmp_path / f"{n}.parquet"
        pq.write_table(table.replace_schema_metadata({"primary": "observation"}), path)
        delivery.tables["lab"] = path
        assert primary_of("lab", [path]) == "observation"
        assert primary_of("observation", [delivery.tables["observation"]]) == "observation"
    query = "SELECT n FROM lab ORDER BY 1"
    assert seen(1, query) == [(n,) for n in (1, 2, 3, 4, 5)]
    assert seen(2, query) == [(5,), (6,)]
    assert seen(3, query) == [(5,), (6,), (7,)]
    assert seen(3, query, dates="real") == [(5,), (6,)], "what is not seen of the resource is not seen of the view"
