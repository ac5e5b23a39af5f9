"""Events: MEDS holds, nothing of a value is lost, numbers of patients are stable."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
import pytest
from fhir_records import observation, patient
from meds import DataSchema

from pipeline.errors import InputError
from pipeline.ingest import events
from pipeline.ingest.events import build_events, subject_number


def made(taken, source="test"):
    tables = {n: taken.lake.tables.path(taken.version, n) for n in taken.version.files if n != "quarantine"}
    with taken.lake.tables.draft("events", {"delivery": "d"}) as draft:
        counts = build_events(tables, draft, format="fhir", source=source)
        version = draft.commit(info=counts)
    read = taken.lake.tables.read
    return counts, read(version, "data"), read(version, "subjects"), version


def records():
    panel = observation(
        "panel", of=2, valueQuantity=None, code={"coding": [{"system": "http://loinc.org", "code": "85354-9"}]}
    )
    panel["component"] = [
        {"code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]}, "valueQuantity": {"value": 120}}
    ]
    return [
        patient(1, id="42", deceasedDateTime="2020-01-01", maritalStatus={"coding": [{"code": "M"}]}),
        patient(2),
        observation(1, subject={"reference": "Patient/42"}, encounter={"reference": "Encounter/e"}),
        observation(2, of=2, valueQuantity=None, valueString="words"),
        observation(3, of=2, valueQuantity={"value": 1e300}),
        observation(4, of=2, code={"text": "home made"}),
        observation(5, of=2, code={"coding": [{"system": "http://x.org/CodeSystem/mine", "code": "c"}]}),
        observation(6, subject={"reference": "Patient?name=x"}),
        panel,
        {"resourceType": "Encounter", "id": "e", "class": {"code": "AMB"}, "subject": {"reference": "Patient/42"}},
        {
            "resourceType": "Condition",
            "id": "c",
            "subject": {"reference": "Patient/42"},
            "code": {"coding": [{"system": "http://snomed.info/sct", "code": "44054006"}]},
            "onsetDateTime": "2001",
            "abatementDateTime": "2002-02",
        },
    ]


def test_events_of_a_small_delivery(take):
    counts, data, subjects, _ = made(take({"x.ndjson": records()}))
    DataSchema.validate(data)
    assert data.column_names == events._COLUMNS.split(", ")
    assert data.schema.field("numeric_value").type == pa.float32()
    assert data.schema.field("text_value").type == pa.large_string()
    mine = [row for row in data.to_pylist() if row["subject_id"] == 42]
    assert [(row["time"] and row["time"].isoformat()[:10], row["code"]) for row in mine] == [
        (None, "ENCOUNTER_START//AMB"),
        (None, "GENDER//female"),
        (None, "MARITAL_STATUS//M"),
        ("1970-02-03", "MEDS_BIRTH"),
        ("2001-01-01", "SNOMED//44054006"),
        ("2002-02-01", "CONDITION_END//SNOMED//44054006"),
        ("2019-01-01", "LOINC//2339-0"),
        ("2020-01-01", "MEDS_DEATH"),
    ]
    glucose = mine[-2]
    assert glucose["time"] == datetime.fromisoformat("2019-01-01T15:00:00")
    assert (glucose["unit"], glucose["encounter_id"]) == ("mg/dL", "Encounter/e")
    assert glucose["numeric_value"] == pytest.approx(36.69531, abs=1e-5)
    other = [row for row in data.to_pylist() if row["subject_id"] != 42 and row["time"]]
    assert {row["code"] for row in other} == {
        "MEDS_BIRTH",
        "LOINC//2339-0",
        "LOINC//8480-6",
        "TEXT//home made",
        "MINE//c",
    }
    assert {row["text_value"] for row in other} >= {"words", "1e+300"}  # too large for float32: kept as text
    assert subjects.to_pylist() == [
        {"subject_id": 42, "source_id": "42"},
        {"subject_id": subject_number("test", "p2"), "source_id": "p2"},
    ]
    assert counts == {"events": data.num_rows, "subjects": 2, "without_subject": 1}


def test_events_are_sorted_and_the_same_twice(take):
    taken = take({"x.ndjson": records()})
    _, data, _, first = made(taken)
    never = datetime.fromisoformat("0001-01-01")
    keys = [(row["subject_id"], row["time"] or never, row["code"]) for row in data.to_pylist()]
    assert keys == sorted(keys)
    assert made(taken)[3].sha256 == first.sha256


def test_subject_numbers():
    assert subject_number("a", "10007795") == 10007795
    assert subject_number("a", "007") != 7  # a number with leading zeros is another id
    assert subject_number("a", "x") != subject_number("b", "x")
    assert all(0 <= subject_number("s", f"{n}x") < 2**63 for n in range(1000))
    assert subject_number("s", "9" * 30) < 2**63


def test_a_collision_is_refused_without_naming_anyone(take, monkeypatch):
    taken = take({"x.ndjson": [patient("CANARY1"), patient("CANARY2")]})
    monkeypatch.setattr(events, "subject_number", lambda source, source_id: 1)
    with pytest.raises(InputError, match="1 pairs of patients") as refused:
        made(taken)
    assert "CANARY" not in str(refused.value)


def test_tables_that_are_no_fhir_are_refused(take):
    taken = take({"a.csv": b"x\n1\n"}, format="table")
    with pytest.raises(InputError, match="events"):
        made(taken)


@pytest.mark.realdata
def test_events_of_a_bulk_export(take, real_data):
    taken = take(real_data / "fhir-r4-bulk-smart" / "10-patients")
    counts, data, subjects, _ = made(taken, "synthea")
    DataSchema.validate(data)
    codes = data["code"].to_pylist()
    assert codes.count("MEDS_BIRTH") == 13
    assert codes.count("MEDS_DEATH") == 3
    assert sum(code.startswith("RXNORM//") for code in codes) == 1745 + 2  # two allergies are coded so as well
    assert sum(code.startswith("CVX//") for code in codes) == 161
    assert counts["subjects"] == subjects.num_rows == 13
