"""FHIR of the expected shape: what stands in the tables, and that two ways to it lead to the same bytes."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fhir_records import bundle, ndjson, observation, patient

from pipeline.ingest.account import BESIDE_THE_DATA
from pipeline.ingest.fhir.columns import TYPES
from pipeline.ingest.lines import spans

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"


def test_patient_columns(take):
    race = {
        "url": US_CORE + "race",
        "extension": [
            {"url": "ombCategory", "valueCoding": {"code": "2106-3", "display": "White"}},
            {"url": "text", "valueString": "Caucasian"},
        ],
    }
    ethnicity = {"url": US_CORE + "ethnicity", "extension": [{"url": "text", "valueString": "Not Hispanic"}]}
    known = patient(
        1,
        extension=[race, ethnicity, {"url": US_CORE + "birthsex", "valueCode": "F"}],
        maritalStatus={"coding": [{"code": "M"}]},
        deceasedDateTime="2001-05",
        name=[{"family": "Canary"}],
    )
    first, second = take({"Patient.ndjson": [known, patient(2, deceasedBoolean=False)]}).rows("patient")
    assert (first["race"], first["ethnicity"], first["birth_sex"], first["marital_status"]) == (
        "White",
        "Not Hispanic",
        "F",
        "M",
    )
    assert first["birth_date"] == date(1970, 2, 3)
    assert first["deceased"] is True
    assert (first["deceased_at"], first["deceased_at_text"]) == (
        datetime.fromisoformat("2001-05-01T00:00:00"),
        "2001-05",
    )
    assert second["deceased"] is False
    assert second["race"] is None
    assert "Canary" not in str(first)


def test_observation_values_and_components(take):
    pressure = observation(2, valueQuantity=None, code={"coding": [{"system": "http://loinc.org", "code": "85354-9"}]})
    pressure["component"] = [
        {
            "code": {"coding": [{"system": "http://loinc.org", "code": c}]},
            "valueQuantity": {"value": v, "unit": "mm[Hg]"},
        }
        for c, v in (("8480-6", 120), ("8462-4", 80.5))
    ]
    drop = {"valueQuantity": None}
    records = [
        patient(1),
        observation(1),
        pressure,
        observation(3, **drop, valueCodeableConcept={"coding": [{"system": "s", "code": "c", "display": "d"}]}),
        observation(4, **drop, valueBoolean=False),
        observation(5, **drop, valueString="free text"),
        observation(6, **drop, valueInteger=7),
        observation(7, **drop, valueDateTime="2019-03"),
        observation(8, **drop, valueRange={"low": {"value": 1}}),
        observation(9, **drop, dataAbsentReason={"coding": [{"code": "unknown"}]}),
    ]
    taken = take({"mixed.ndjson": records})
    rows = {(row["id"], row["component"]): row for row in taken.rows("observation")}
    assert rows["o1", 0]["value_number"] == 36.69531
    assert rows["o1", 0]["value_unit"] == "mg/dL"
    assert rows["o1", 0]["effective"] == datetime.fromisoformat("2019-01-01T15:00:00")
    assert [
        (rows["o2", n]["code"], rows["o2", n]["parent_code"], rows["o2", n]["value_number"]) for n in (0, 1, 2)
    ] == [
        ("85354-9", None, None),
        ("8480-6", "85354-9", 120.0),
        ("8462-4", "85354-9", 80.5),
    ]
    assert (rows["o3", 0]["value_code"], rows["o3", 0]["value_text"]) == ("c", "d")
    assert rows["o4", 0]["value_boolean"] is False
    assert rows["o5", 0]["value_text"] == "free text"
    assert rows["o6", 0]["value_number"] == 7
    assert rows["o7", 0]["value_datetime"] == datetime.fromisoformat("2019-03-01T00:00:00")
    assert rows["o8", 0]["value_type"] == "range"
    assert rows["o9", 0]["data_absent_reason"] == "unknown"
    assert taken.account.taken == {"Patient": 1, "Observation": 9}  # resources, not rows


@pytest.mark.parametrize(
    ("text", "moment", "precision"),
    [
        ("2019", datetime.fromisoformat("2019-01-01T00:00:00"), "year"),
        ("2019-03", datetime.fromisoformat("2019-03-01T00:00:00"), "month"),
        ("2019-03-04", datetime.fromisoformat("2019-03-04T00:00:00"), "day"),
        ("2019-03-04T23:30:00-05:00", datetime.fromisoformat("2019-03-05T04:30:00"), "time"),
        ("2019-03-04T10:00:00.123456Z", datetime.fromisoformat("2019-03-04T10:00:00.123456"), "time"),
        ("2019-03-04T10:00:00", datetime.fromisoformat("2019-03-04T10:00:00"), "time"),  # naive: UTC
    ],
)
def test_dates_keep_text_and_precision(take, text, moment, precision):
    (row,) = take({"Observation.ndjson": [observation(1, effectiveDateTime=text)]}).rows("observation")
    assert (row["effective"], row["effective_text"], row["effective_precision"]) == (moment, text, precision)


@pytest.mark.parametrize(
    "reference",
    [
        "Patient/p1",
        "urn:uuid:p1",
        "https://server.example/fhir/Patient/p1",
        "https://server.example/fhir/Patient/p1/_history/3",
        "Patient/p1/_history/2",
    ],
)
def test_references_lead_to_one_key(take, reference):
    taken = take({"a.ndjson": [patient(1)], "b.ndjson": [observation(1, subject={"reference": reference})]})
    assert taken.rows("observation")[0]["patient"] == "Patient/p1"
    assert taken.account.info["dangling"] == {}


def test_conditional_and_dangling_references_are_counted(take):
    taken = take(
        {
            "Observation.ndjson": [
                observation(1, subject={"reference": "Patient?identifier=x|y"}),
                observation(2, of="nobody"),
                observation(3, subject={"reference": "Group/g1"}),
            ]
        }
    )
    assert [row["patient"] for row in taken.rows("observation")] == [None, "Patient/pnobody", None]
    assert taken.account.info["unresolved"] == {"conditional": 1, "contained": 0, "other": 1}
    assert taken.account.info["dangling"] == {"Observation": 1}
    assert taken.account.taken == {"Observation": 3}


def test_full_urls_of_a_bundle_resolve_where_ids_differ(take):
    entries = [
        {"fullUrl": "urn:uuid:aaa", "resource": patient(1)},
        {"fullUrl": "urn:uuid:bbb", "resource": observation(1, subject={"reference": "urn:uuid:aaa"}) | {"id": None}},
    ]
    document = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}).encode()
    (row,) = take({"one.json": document}).rows("observation")
    assert (row["key"], row["patient"]) == ("Observation/bbb", "Patient/p1")


def test_newest_version_is_kept(take):
    def seen(day: str, value: float) -> dict:
        return observation(1, meta={"lastUpdated": f"{day}T00:00:00Z"}, valueQuantity={"value": value})

    records = [
        seen("2020-01-02", 1),
        seen("2020-01-03", 2),
        seen("2020-01-01", 3),
        observation(2),
        observation(2, of=7),
    ]
    records[0]["component"] = [{"code": {"text": "x"}, "valueInteger": 1}]
    taken = take({"Observation.ndjson": records[:3], "Observation.1.ndjson": records[3:]})
    assert [(row["id"], row["patient"], row["value_number"]) for row in taken.rows("observation")] == [
        ("o2", "Patient/p7", 36.69531),
        ("o1", "Patient/p1", 2.0),
    ]  # file order: 'Observation.1.ndjson' sorts first
    assert taken.account.superseded == {"Observation": 3}
    assert taken.account.taken == {"Observation": 2}


def test_medication_requests_find_their_code(take):
    request = {"resourceType": "MedicationRequest", "status": "active", "intent": "order"}
    records = [
        {**request, "id": "m1", "medicationReference": {"reference": "Medication/x"}},
        {
            **request,
            "id": "m2",
            "medicationReference": {"reference": "#in"},
            "contained": [{"resourceType": "Medication", "id": "in", "code": {"coding": [{"code": "inside"}]}}],
        },
        {**request, "id": "m3", "medicationCodeableConcept": {"text": "by name"}},
        {**request, "id": "m4", "medicationReference": {"reference": "Medication/elsewhere"}},
        {"resourceType": "Medication", "id": "x", "code": {"coding": [{"system": "s", "code": "outside"}]}},
    ]
    rows = take({"m.ndjson": records}).rows("medication_request")
    assert [(row["id"], row["code"], row["display"]) for row in rows] == [
        ("m1", "outside", None),
        ("m2", "inside", None),
        ("m3", None, "by name"),
        ("m4", None, None),
    ]


def test_every_type_has_a_table_even_when_nothing_came(take):
    taken = take({"x.ndjson": [patient(1), {"resourceType": "Device", "id": "d"}]})
    assert {kind.table for kind in TYPES.values()} | set(BESIDE_THE_DATA) == set(taken.version.files)
    assert taken.table("procedure").num_rows == 0
    assert taken.account.not_modelled == {"Device": 1}
    full = take({"x.ndjson": [{"resourceType": "Procedure", "id": "q"}]})
    assert full.table("procedure").schema.equals(taken.table("procedure").schema)


@pytest.mark.parametrize("packed", [False, True])
def test_file_names_do_not_matter(take, packed):
    end = ".gz" if packed else ""
    one = take({f"Patient.000.ndjson{end}": [patient(1)], f"zzz.jsonl{end}": [observation(1), observation(2)]})
    other = take({f"b/MimicPatient.ndjson{end}": [patient(1)], f"c/x.ndjson{end}": [observation(1), observation(2)]})
    for name in ("patient", "observation"):
        assert one.version.files[name].sha256 == other.version.files[name].sha256


def test_bundles_and_lines_give_the_same_tables(take):
    resources = [patient(1), *(observation(n) for n in range(20)), {"resourceType": "Claim", "id": "c"}]
    tables = [
        take({"all.ndjson": resources}),
        take({"all.json": bundle(resources)}),
        take({"all.json.gz": bundle(resources, kind="collection")}),
        take({"array.json": json.dumps(resources).encode()}),
        take({f"{n:03}.json": json.dumps(r).encode() for n, r in enumerate(resources)}),
        take({"lines-by-a-wrong-name.json": ndjson(resources)}),
    ]
    assert len({(t.version.files["observation"].sha256, t.version.files["patient"].sha256) for t in tables}) == 1
    assert all(t.account.not_modelled == {"Claim": 1} and t.account.in_ == 22 for t in tables)


def test_same_delivery_gives_the_same_bytes(take):
    files = {f"{n}.ndjson": [observation(100 * n + k) for k in range(100)] for n in range(5)}
    assert take(files).version.sha256 == take(files).version.sha256


def test_spans_cover_a_file_at_line_breaks(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(1000)) + b"no end")
    for size in (1, 7, 100, 10**6):
        ranges = spans(path, size)
        data = path.read_bytes()
        assert b"".join(data[a:b] for a, b in ranges) == data
        assert all(data[b - 1 : b] == b"\n" for _, b in ranges[:-1])


# ---- real data


def independent_count(folder: Path, names: list[str]) -> Counter[str]:
    """Distinct (type, id) and all records, by the json module alone."""
    counts: Counter[str] = Counter()
    for name in names:
        raw = (folder / name).read_bytes()
        text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
        if ".ndjson" in name:
            counts.update(json.loads(line).get("resourceType", "(export log)") for line in text.splitlines() if line)
        else:
            counts.update(entry["resource"]["resourceType"] for entry in json.loads(text)["entry"])
    return counts


@pytest.mark.realdata
def test_bulk_export_of_ten_patients(take, real_data):
    folder = real_data / "fhir-r4-bulk-smart" / "10-patients"
    account = take(folder).account
    counts = independent_count(folder, [p.name for p in folder.iterdir()])
    assert {**account.taken, **account.not_modelled} == dict(counts)
    assert account.superseded == account.quarantined == {}
    assert account.taken["Condition"] == 555


@pytest.mark.realdata
def test_synthea_bundles_against_an_independent_count(take, real_data, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    names = sorted(p.name for p in (real_data / "synthea-r4-smart" / "bundles").iterdir())[::13]
    for name in names:
        (folder / name).write_bytes((real_data / "synthea-r4-smart" / "bundles" / name).read_bytes())
    taken = take(folder)
    assert {**taken.account.taken, **taken.account.not_modelled} == dict(independent_count(folder, names))
    assert taken.account.info["dangling"] == {}
    assert taken.account.quarantined == {}
    patients = taken.table("patient")
    assert patients["race"].null_count == 0
    assert patients["birth_date"].null_count == 0


@pytest.mark.realdata
def test_mimic_on_fhir(take, real_data, tmp_path):
    folder = tmp_path / "mimic"
    folder.mkdir()
    for name in ("Patient", "Encounter", "EncounterED", "ObservationMicroTest", "Procedure", "Medication", "Location"):
        source = real_data / "mimic-iv-demo-fhir-2.1.0" / "fhir" / f"Mimic{name}.ndjson.gz"
        (folder / source.name).write_bytes(source.read_bytes())
    account = take(folder).account
    assert account.taken == {
        "Patient": 100,
        "Encounter": 275 + 222,
        "Observation": 1893,
        "Procedure": 722,
        "Medication": 1480,
    }
    assert account.not_modelled == {"Location": 31}


def test_parquet_columns_are_typed(take):
    taken = take({"x.ndjson": [patient(1), observation(1)]})
    path = taken.lake.tables.path(taken.version, "observation")
    types = {field.name: str(field.type) for field in pq.read_schema(path)}
    assert types["effective"] == "timestamp[us]"
    assert types["value_number"] == "double"
    assert types["component"] == "int32"


@pytest.mark.parametrize("suffix", [".ndjson", ".ndjson.gz", ".json"])
def test_file_names_are_no_patterns(take, suffix):
    names = ["a*", "ab", "[ab]", "b?", "bc", "it's"]
    taken = take({f"{name}{suffix}": ndjson([patient(n)]) for n, name in enumerate(names)})
    assert taken.account.taken == {"Patient": len(names)}
    assert sorted(row["id"] for row in taken.rows("patient")) == [f"p{n}" for n in range(len(names))]


def test_the_documentation_lists_the_columns_of_every_table(take):
    head = {"key", "id", "patient", "encounter", "last_updated", "unresolved"}
    taken = take({"a.ndjson": [patient(1)]})
    tables = {name for name in taken.version.files if name not in BESIDE_THE_DATA}
    there = {name: [c for c in taken.table(name).column_names if c not in head] for name in tables}
    own = {  # `onset_text` and `onset_precision` go with `onset`
        name: [c for c in columns if re.sub("_(text|precision)$", "", c) not in set(columns) - {c}]
        for name, columns in there.items()
    }
    text = (Path(__file__).parents[2] / "docs" / "fhir.md").read_text(encoding="utf-8").partition("## Columns of")[2]
    told = {
        row[1]: re.findall(r"`(\w+)`", row[2]) for row in re.finditer(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE)
    }
    assert told == own
