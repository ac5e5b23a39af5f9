"""FHIR versions: told apart, rewritten to R4 where the meaning is the same, set aside or refused where not."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest
from fhir_records import bundle, ndjson, observation, patient

from pipeline.errors import InputError
from pipeline.ingest.fhir.upgrade import upgrade
from pipeline.ingest.fhir.version import evidence, prevailing, votes

SNOMED = {"system": "http://snomed.info/sct", "code": "44054006", "display": "Diabetes"}
CODE = {"coding": [SNOMED]}
WHO = {"reference": "Patient/p1"}
STAY = {"reference": "Encounter/e1"}

R4 = {
    "Encounter": {
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "subject": WHO,
        "period": {"start": "2019-01-01", "end": "2019-01-04"},
        "reasonCode": [CODE],
        "hospitalization": {"dischargeDisposition": {"coding": [{"code": "home"}]}},
    },
    "Condition": {
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "verificationStatus": {"coding": [{"code": "confirmed"}]},
        "code": CODE,
        "subject": WHO,
        "encounter": STAY,
        "recordedDate": "2019-01-02",
    },
    "Observation": {"status": "final", "code": CODE, "subject": WHO, "encounter": STAY, "valueInteger": 3},
    "Procedure": {
        "status": "not-done",
        "code": CODE,
        "subject": WHO,
        "encounter": STAY,
        "performedDateTime": "2019-01-03",
    },
    "MedicationRequest": {
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": CODE,
        "subject": WHO,
        "encounter": STAY,
        "authoredOn": "2019-01-03",
    },
    "Immunization": {
        "status": "not-done",
        "vaccineCode": CODE,
        "patient": WHO,
        "encounter": STAY,
        "occurrenceDateTime": "2019-01-03",
    },
    "AllergyIntolerance": {
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "type": "allergy",
        "code": CODE,
        "patient": WHO,
        "recordedDate": "2018",
    },
    "DiagnosticReport": {
        "status": "final",
        "category": [{"coding": [{"code": "LAB"}]}],
        "code": CODE,
        "subject": WHO,
        "encounter": STAY,
    },
}
"""One record a type, as R4 has it; beside it what the other versions call differently."""
OTHER = {
    "STU3": {
        "Encounter": {"reason": [CODE], "reasonCode": None},
        "Condition": {
            "clinicalStatus": "active",
            "verificationStatus": "confirmed",
            "context": STAY,
            "encounter": None,
            "assertedDate": "2019-01-02",
            "recordedDate": None,
        },
        "Observation": {"context": STAY, "encounter": None, "comment": "words", "interpretation": CODE},
        "Procedure": {"status": "completed", "notDone": True, "context": STAY, "encounter": None},
        "MedicationRequest": {
            "context": STAY,
            "encounter": None,
            "requester": {"agent": {"reference": "Practitioner/1"}},
        },
        "Immunization": {
            "status": "completed",
            "notGiven": True,
            "date": "2019-01-03",
            "occurrenceDateTime": None,
            "explanation": {"reasonNotGiven": [CODE]},
        },
        "AllergyIntolerance": {"clinicalStatus": "active", "assertedDate": "2018", "recordedDate": None},
        "DiagnosticReport": {"category": {"coding": [{"code": "LAB"}]}, "context": STAY, "encounter": None},
    },
    "R5": {
        "Encounter": {
            "status": "completed",
            "class": [{"coding": [{"system": R4["Encounter"]["class"]["system"], "code": "IMP"}]}],
            "actualPeriod": R4["Encounter"]["period"],
            "period": None,
            "reason": [{"use": [CODE], "value": [{"concept": CODE}]}],
            "reasonCode": None,
            "admission": R4["Encounter"]["hospitalization"],
            "hospitalization": None,
        },
        "Condition": {"participant": [{"actor": {"reference": "Practitioner/1"}}]},
        "Observation": {"triggeredBy": [{"type": "reflex"}]},
        "Procedure": {"occurrenceDateTime": "2019-01-03", "performedDateTime": None, "reason": [{"concept": CODE}]},
        "MedicationRequest": {"medication": {"concept": CODE}, "medicationCodeableConcept": None},
        "Immunization": {"manufacturer": {"reference": {"reference": "Organization/1"}}, "informationSource": CODE},
        "AllergyIntolerance": {"type": {"coding": [{"code": "allergy"}]}},
    },
}


def as_version(kind: str, version: str) -> dict:
    changed = {**R4[kind], **OTHER.get(version, {}).get(kind, {})}
    return {"resourceType": kind, "id": "x", **{name: value for name, value in changed.items() if value is not None}}


@pytest.mark.parametrize("version", ["STU3", "R5"])
@pytest.mark.parametrize("form", ["lines", "singles", "mixed"])
def test_other_versions_give_the_rows_of_r4(take, version, form):
    """Every column of every type is the same, whichever version the same facts come in."""
    kinds = [kind for kind in R4 if kind in OTHER[version]]

    def files(release: str, records: list[dict]) -> dict:
        if form == "lines":
            return {f"{record['resourceType']}.ndjson": [record] for record in records}
        if form == "mixed":  # other files of the same delivery are R4
            return {
                "old.json": bundle(records),
                "Patient.ndjson": [patient(1)],
                "r4.ndjson": [as_version("Encounter", "R4") | {"id": "y"}],
            }
        return {f"{n}.json": json.dumps(record).encode() for n, record in enumerate(records)}

    taken = take(files(version, [as_version(kind, version) for kind in kinds]))
    wanted = take(files("R4", [as_version(kind, "R4") for kind in kinds]))
    assert taken.account.taken == wanted.account.taken
    assert taken.account.quarantined == {}
    assert taken.account.info["unread"] == {}
    for name in wanted.version.files:
        if name not in ("quarantine", "delivered_files"):
            assert taken.rows(name) == wanted.rows(name), name
    count = taken.account.info["versions"]
    assert count[version] == (len(kinds) if form in ("lines", "singles") else 1)
    assert form != "mixed" or count == {version: 1, "R4": 1, "unspecified": 1}


@pytest.mark.parametrize("version", ["STU3", "R5"])
def test_every_version_is_told_by_its_records(version):
    for kind in OTHER[version]:
        assert evidence(as_version(kind, version)) == version, kind
    whole = {"resourceType": "Bundle", "entry": [{"resource": as_version(kind, version)} for kind in OTHER[version]]}
    assert votes(whole) == Counter({version: len(OTHER[version])})
    assert prevailing(Counter({"R4": 1, version: 1})) == "R4"
    stated = {"resourceType": "CapabilityStatement", "fhirVersion": {"STU3": "3.0.2", "R5": "5.0.0"}[version]}
    assert evidence(stated) == version


@pytest.mark.parametrize(
    ("record", "version", "path"),
    [
        (
            {"resourceType": "Encounter", "id": "x", "status": "discharged", "actualPeriod": {}},
            "R5",
            "Encounter.status",
        ),
        (as_version("MedicationRequest", "R5") | {"status": "ended"}, "R5", "MedicationRequest.status"),
        (as_version("AllergyIntolerance", "R5") | {"type": {"text": "odd"}}, "R5", "AllergyIntolerance.type"),
        (as_version("Condition", "STU3") | {"verificationStatus": "unknown"}, "STU3", "Condition.verificationStatus"),
        (
            as_version("Observation", "STU3") | {"context": {"reference": "EpisodeOfCare/1"}},
            "STU3",
            "Observation.context",
        ),
        (
            as_version("Procedure", "R5") | {"occurrenceDateTime": None, "occurrenceTiming": {}},
            "R5",
            "Procedure.occurrenceTiming",
        ),
    ],
)
def test_what_means_something_else_is_left_out_and_counted(take, record, version, path):
    taken = take({"x.ndjson": [record]})
    assert taken.account.taken == {record["resourceType"]: 1}
    assert taken.account.info["versions"] == {version: 1}
    assert taken.account.info["unread"] == {path: 1}


@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_forms_without_a_column_are_counted(take, form):
    records = [
        {"resourceType": "Condition", "id": "1", "onsetAge": {"value": 3}, "abatementString": "later"},
        {"resourceType": "Condition", "id": "2", "onsetAge": {"value": 4}},
        {"resourceType": "Condition", "id": "3", "onsetDateTime": "2019"},
        {"resourceType": "Procedure", "id": "1", "performedString": "once"},
        {"resourceType": "Immunization", "id": "1", "occurrenceString": "long ago"},
        observation(1, effectiveTiming={}, effectiveDateTime=None),
    ]
    files = {
        f"{r['resourceType']}.ndjson": [o for o in records if o["resourceType"] == r["resourceType"]] for r in records
    }
    taken = take(files if form == "ndjson" else {"x.json": bundle(records)})
    assert taken.account.info["unread"] == {
        "Condition.abatementString": 1,
        "Condition.onsetAge": 2,
        "Immunization.occurrenceString": 1,
        "Observation.effectiveTiming": 1,
        "Procedure.performedString": 1,
    }
    assert taken.account.info["tolerant_files"] == 0, "counting does not send a file the long way"


def test_a_record_of_another_version_far_down_a_file_is_rewritten_too(take):
    """The first look sees 200 records; DuckDB notices the foreign field behind them."""
    records = [as_version("Procedure", "R4") | {"id": f"r{n}"} for n in range(300)]
    taken = take({"Procedure.ndjson": [*records, as_version("Procedure", "R5")]})
    assert taken.account.taken == {"Procedure": 301}
    assert taken.rows("procedure")[300]["performed_start_text"] == "2019-01-03"
    assert taken.account.info["versions"] == {"unspecified": 1}


def test_a_foreign_field_in_a_record_that_says_it_is_r4_is_counted(take):
    profile = {"profile": ["http://hl7.org/fhir/4.0/StructureDefinition/Condition"]}
    taken = take({"c.ndjson": [as_version("Condition", "R4") | {"meta": profile, "context": STAY}]})
    assert taken.account.taken == {"Condition": 1}
    assert taken.account.info["unread"] == {"Condition.context": 1}


def test_references_in_a_bundle_of_another_version_are_resolved(take):
    entries = [
        {"fullUrl": "urn:uuid:aaa", "resource": patient(1)},
        {"fullUrl": "urn:uuid:eee", "resource": as_version("Encounter", "STU3") | {"id": "e7"}},
        {"fullUrl": "urn:uuid:mmm", "resource": {"resourceType": "Medication", "id": "m7", "code": CODE}},
        {
            "resource": as_version("Procedure", "STU3")
            | {"subject": {"reference": "urn:uuid:aaa"}, "context": {"reference": "urn:uuid:eee"}}
        },
        {
            "resource": as_version("MedicationRequest", "R5")
            | {"medication": {"reference": {"reference": "urn:uuid:mmm"}}}
        },
    ]
    taken = take({"x.json": json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()})
    (row,) = taken.rows("procedure")
    assert (row["patient"], row["encounter"]) == ("Patient/p1", "Encounter/e7")
    (row,) = taken.rows("medication_request")
    assert (row["medication"], row["code"]) == ("Medication/m7", SNOMED["code"])


# ---- DSTU2

OLD = {"resourceType": "Condition", "id": "c", "patient": {"reference": "Patient/1"}, "dateRecorded": "2010"}


@pytest.mark.parametrize("files", [{"x.ndjson": [patient(1), OLD]}, {"x.json": bundle([patient(1), OLD])}])
def test_a_delivery_of_dstu2_is_refused_in_one_message(take, files):
    with pytest.raises(InputError, match=r"This is FHIR DSTU2, found in .*supported are R4"):
        take(files)


@pytest.mark.parametrize("form", ["ndjson", "json"])
def test_one_file_of_dstu2_among_good_ones_is_set_aside_whole(take, form):
    old = [OLD, patient(7), {"resourceType": "MedicationOrder", "id": "m"}]
    bad = ndjson(old) if form == "ndjson" else bundle(old)
    good = {f"{kind}.ndjson": [as_version(kind, "R4") | {"id": str(n)} for n in range(20)] for kind in R4}
    taken = take({**good, f"old.{form}": bad}, limit=0.05)
    assert sum(taken.account.taken.values()) == 20 * len(R4)
    assert taken.rejects() == [(f"old.{form}", n, "other_version") for n in (1, 2, 3)]
    assert {row["file"]: row["outcome"] for row in taken.rows("delivered_files")}[f"old.{form}"] == "quarantined"
    with pytest.raises(InputError, match="3 other_version"):
        take({**good, f"old.{form}": bad}, limit=0.01)


def test_records_that_are_no_such_version_do_not_break_the_rewriting():
    """Whatever stands in the fields, `upgrade` gives a record back; the judge finds what is wrong with it."""
    odd: tuple = (None, 1, "x", True, [], {}, [1], ["x"], [{}], [None], {"coding": 1}, {"value": 5}, [{"value": "x"}])
    for version, kinds in OTHER.items():
        for kind in kinds:
            record = as_version(kind, version)
            for name in record.keys() - {"resourceType"}:
                for value in odd:
                    before = json.dumps({**record, name: value})
                    given = json.loads(before)
                    fresh, _ = upgrade(given, version)
                    assert fresh["resourceType"] == kind
                    assert json.dumps(given) == before, "the record that was given is not changed"


# ---- real files


@pytest.mark.realdata
def test_real_dstu2_is_refused(take, real_data):
    with pytest.raises(InputError, match="This is FHIR DSTU2,"):
        take(real_data / "fhir-hl7-examples/dstu2-1.0.2")


@pytest.mark.realdata
def test_synthea_of_stu3_fills_the_columns(take, real_data):
    taken = take(real_data / "synthea-stu3-sample")
    assert taken.account.info["versions"] == {"STU3": 24, "unspecified": 1}
    assert taken.account.taken["Observation"] == 961
    assert taken.account.quarantined == {"no_id": 383}, (
        "Procedure, Immunization and AllergyIntolerance have no id there"
    )
    conditions = taken.table("condition")
    for column in ("encounter", "clinical_status", "verification_status", "recorded"):
        assert conditions[column].null_count == 0, column
    raw = [
        entry["resource"]
        for path in sorted((real_data / "synthea-stu3-sample").rglob("*.gz"))
        for entry in json.loads(gzip.decompress(path.read_bytes()))["entry"]
        if entry["resource"]["resourceType"] == "Condition"
    ]
    assert Counter(conditions["clinical_status"].to_pylist()) == Counter(r["clinicalStatus"] for r in raw)
    assert Counter(conditions["recorded_text"].to_pylist()) == Counter(r["assertedDate"] for r in raw)
    assert taken.table("observation")["encounter"].null_count == 0
    assert taken.account.info["dangling"] == {}
