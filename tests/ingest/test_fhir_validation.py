"""Validation by fhir.resources: what is drawn, what counts as structural, what becomes of it, and what never leaks."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from fhir_records import bundle, ndjson, observation, patient

from pipeline.errors import InputError
from pipeline.features.source import ValidationSpec
from pipeline.ingest.fhir import validation as fhir_validation
from pipeline.ingest.fhir.columns import TYPES
from pipeline.ingest.fhir.tables import Source
from pipeline.ingest.fhir.validation import Validation, failure_rate, refuse_invalid
from pipeline.ingest.fhir.validation_faults import Fault, faults_of
from pipeline.ingest.fhir.validation_work import Stretch, drawn

CANARY = "Quackenbush"
NAIVE = {"effectiveDateTime": "2019-01-01T10:00:00"}
TEXT, NUMBER, FLAG, LIST, OBJECT = CANARY, 5, True, [1], {"text": CANARY}


@pytest.mark.parametrize(
    ("wrong", "path", "error", "structural"),
    [
        # another kind of JSON than the standard has there
        ({"category": OBJECT}, "category", "list_type", True),
        ({"category": TEXT}, "category", "list_type", True),
        ({"category": [TEXT]}, "category", "json_invalid", True),
        ({"code": [OBJECT]}, "code", "model_validation_format", True),
        ({"code": TEXT}, "code", "json_invalid", True),
        ({"code": "5"}, "code", "model_type", True),
        ({"code": NUMBER}, "code", "model_validation_format", True),
        ({"code": {"text": NUMBER}}, "code.text", "string_type", True),
        ({"code": {"coding": [{"code": OBJECT}]}}, "code.coding.code", "string_type", True),
        ({"status": LIST}, "status", "string_type", True),
        ({"subject": TEXT}, "subject", "json_invalid", True),
        ({"meta": LIST}, "meta", "model_validation_format", True),
        ({"effectiveDateTime": OBJECT}, "effectiveDateTime", "datetime_type", True),
        ({"effectiveDateTime": FLAG}, "effectiveDateTime", "datetime_type", True),
        ({"valueQuantity": {"value": FLAG}}, "valueQuantity.value", "value_error.decimal", True),
        ({"valueQuantity": {"value": TEXT}}, "valueQuantity.value", "value_error.decimal", True),
        ({"valueQuantity": {"value": OBJECT}}, "valueQuantity.value", "value_error.decimal", True),
        ({"valueQuantity": None, "valueBoolean": TEXT}, "valueBoolean", "bool_parsing", True),
        ({"valueQuantity": None, "valueBoolean": NUMBER}, "valueBoolean", "bool_parsing", True),
        ({"valueQuantity": None, "valueInteger": TEXT}, "valueInteger", "int_parsing", True),
        ({"valueQuantity": None, "valueInteger": OBJECT}, "valueInteger", "int_type", True),
        ({"valueQuantity": None, "valueTime": LIST}, "valueTime", "time_type", True),
        ({"contained": [TEXT]}, "contained", "json_invalid", True),
        ({"extension": OBJECT}, "extension", "list_type", True),
        # everything else is only reported
        ({"status": None}, "status", "model_field_validation.missing", False),
        (NAIVE, "effectiveDateTime", "value_error.datetime", False),
        ({"effectiveDateTime": "2019-99"}, "effectiveDateTime", "value_error.datetime", False),
        ({"issued": "2019-01-01"}, "issued", "value_error.instant", False),
        ({"id": "a b"}, "id", "string_pattern_mismatch", False),
        ({"code": {"text": ""}}, "code.text", "string_pattern_mismatch", False),
        ({"valueString": "x"}, "", "value_error.one_of_many", False),
        ({"valueQuantity": None, "valueInteger": 3.5}, "valueInteger", "int_from_float", False),
        ({"category": [None]}, "category", "list_type", False),
        ({"context": {"reference": "Encounter/1"}}, "context", "extra_forbidden", False),
        ({CANARY: 1}, "(unknown)", "extra_forbidden", False),
        ({"code": {CANARY: {CANARY: 1}}}, "code.(unknown)", "extra_forbidden", False),
        # what the models themselves fail on is no verdict
        ({"contained": [{"resourceType": "Foo"}]}, "", "not_judged", False),
        ({"extension": [{"url": "x", "valueUrl": NUMBER}]}, "", "not_judged", False),
    ],
)
def test_which_faults_are_structural(wrong, path, error, structural):
    assert faults_of("Observation", observation(1, **wrong)) == {Fault(path, error, structural)}


def test_what_passes_although_the_standard_forbids_it():
    for allowed in ({"status": "nonsense"}, {"code": None}, {"valueQuantity": {"value": "5"}}, {"category": []}):
        assert faults_of("Observation", observation(1, **allowed)) == set()
    assert faults_of("Patient", patient(1, birthDate="1970", gender="x")) == set()


def test_nesting_without_end_is_no_verdict():
    nested = {"url": "x", "valueString": "a"}
    for _ in range(900):
        nested = {"url": "x", "extension": [nested]}
    assert faults_of("Observation", observation(1, extension=[nested])) == {Fault("", "too_deep", False)}


def write(path: Path, records: list) -> Path:
    path.write_bytes(ndjson(records))
    return path


@pytest.mark.parametrize(("records", "draw"), [(50, 50), (50, 80), (150, 50), (3000, 50)])
def test_the_draw_is_the_same_however_the_files_were_cut(tmp_path, records, draw):
    made = [observation(n) for n in range(records)]
    whole = Stretch("Observation", [(0, 0, 0)], [write(tmp_path / "whole", made)], records, draw, "seed")
    ends = (0, records // 3, records // 2, records)
    cut = [write(tmp_path / f"part{n}", made[a:b]) for n, (a, b) in enumerate(pairwise(ends))]
    parts = Stretch("Observation", [(0, 0, n) for n in range(3)], cut, records, draw, "seed")
    first, second = ([line for _, _, line in drawn(stretch)] for stretch in (whole, parts))
    assert first == second
    assert len(set(first)) == len(first) == min(draw, records)
    if records > draw:
        other = Stretch("Observation", [(0, 0, 0)], [tmp_path / "whole"], records, draw, "another seed")
        assert [line for _, _, line in drawn(other)] != first
    for _, offset, line in drawn(whole):
        assert (tmp_path / "whole").read_bytes()[offset:].startswith(line)


def found(tmp_path, files, processes, **settings):
    """What validating these files (name to records, all observations) says."""
    sources = [
        Source((0, n, 0), write(tmp_path / name, records), sum(1 for r in records if r != b""), raw=n)
        for n, (name, records) in enumerate(files.items())
    ]
    with Validation(ValidationSpec(**settings), processes=processes, folder=tmp_path) as validation:
        validation.start({"Observation": sources})
        return validation.finish()


def test_processes_and_pieces_change_nothing(tmp_path, monkeypatch):
    files = {
        f"f{f}": [
            observation(n, **({"category": {}} if n % 7 == f else NAIVE if n % 11 == 0 else {})) for n in range(60)
        ]
        for f in range(3)
    }
    alone = found(tmp_path, files, 1, mode="all")
    monkeypatch.setattr(fhir_validation, "ALONE", 0)
    monkeypatch.setattr(fhir_validation, "SPAN", 2000)
    many = found(tmp_path, files, 3, mode="all")
    assert alone == many
    assert alone.summary["checked"] == 180
    assert alone.summary["structural"] == len(alone.misfits) == sum(n % 7 == f for f in range(3) for n in range(60))
    assert [m.line - 1 for m in alone.misfits if m.source == (0, 1, 0)] == [n for n in range(60) if n % 7 == 1]
    sample = [found(tmp_path, files, processes, sample=20, seed=1) for processes in (1, 2)]
    assert sample[0] == sample[1]
    assert sample[0].summary["checked"] == 60
    assert set(sample[0].misfits) <= set(alone.misfits)
    assert found(tmp_path, files, 1, mode="off").summary["checked"] == 0


def test_a_killed_process_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(fhir_validation, "ALONE", 0)
    with Validation(ValidationSpec(), processes=1, folder=tmp_path) as validation:
        path = write(tmp_path / "x", [observation(1)])
        validation.start({"Observation": [Source((0, 0, 0), path, 1, raw=0)]})
        validation._started[0][0].kill()
        with pytest.raises(InputError, match="1 of 1 validating processes ended with code -9"):
            validation.finish()


def misbuilt(number: int) -> dict:
    """Fine for the reader, which does not read `performer`, and misbuilt for the standard."""
    return observation(number, performer={"display": CANARY})


def test_misbuilt_resources_are_set_aside_and_the_others_taken(take):
    lines = [patient(n) for n in range(1, 4)]
    files = {
        "Patient.ndjson": lines,
        "Observation.ndjson": [observation(1), misbuilt(2), b"", observation(3, **NAIVE)],
        "bundle.json": bundle([observation(4), misbuilt(5)]),
        "mixed.ndjson.gz": [patient(9), misbuilt(6), observation(7), b"{broken"],
    }
    taken = take(files)
    assert taken.account.balanced
    assert taken.account.taken == {"Observation": 4, "Patient": 4}
    assert taken.rejects() == [
        ("Observation.ndjson", 2, "fails_validation"),
        ("bundle.json", 2, "fails_validation"),
        ("mixed.ndjson.gz", 2, "fails_validation"),
        ("mixed.ndjson.gz", 4, "not_json"),
    ]
    assert sorted(row["key"] for row in taken.rows("observation")) == [f"Observation/o{n}" for n in (1, 3, 4, 7)]
    told = taken.account.info["validation"]
    assert (told["checked"], told["failed"], told["structural"], told["mode"]) == (11, 4, 3, "sample")
    assert told["types"] == {"Observation": {"checked": 7, "failed": 4}, "Patient": {"checked": 4, "failed": 0}}
    assert told["faults"][0] == {
        "type": "Observation", "path": "performer", "error": "list_type", "records": 3, "structural": True
    }  # fmt: skip
    assert CANARY not in json.dumps(taken.account.to_dict())
    outcomes = {row["file"]: (row["outcome"], row["reason"]) for row in taken.rows("delivered_files")}
    assert outcomes["Observation.ndjson"] == ("partly taken", "fails_validation")


def test_the_same_bytes_give_the_same_version_whatever_the_threads(take, land):
    files = {"Observation.ndjson": [misbuilt(n) if n % 50 == 0 else observation(n) for n in range(1200)]}
    one, two = (take(files, threads=threads, validation={"sample": 200}) for threads in (1, 4))
    assert one.account.info["validation"] == two.account.info["validation"]
    assert one.account.info["validation"]["checked"] == 200
    assert one.rows("quarantine") == two.rows("quarantine")
    assert 0 < len(one.rejects()) < 24
    everything = take(files, validation={"mode": "all"})
    assert len(everything.rejects()) == 24
    off = take(files, validation={"mode": "off"})
    assert off.rejects() == []
    assert off.account.info["validation"]["checked"] == 0


def test_a_record_that_the_reader_refuses_keeps_the_readers_reason(take):
    taken = take({"Observation.ndjson": [observation(1), observation(2, code=CANARY), misbuilt(3)]})
    assert [reason for _, _, reason in taken.rejects()] == ["wrong_type", "fails_validation"]


def test_too_many_failures_stop_what_is_made_of_the_delivery(take):
    account = take({"Observation.ndjson": [observation(1), observation(2, **NAIVE)]}).account
    assert failure_rate(account.info["validation"]) == 0.5
    refuse_invalid(account.to_dict(), ValidationSpec(max_failure_rate=0.5), "test--d1")
    with pytest.raises(InputError, match=r"test--d1: 1 of 2 validated resources failed \(50.0%\), more than the 40.0%"):
        refuse_invalid(account.to_dict(), ValidationSpec(max_failure_rate=0.4), "test--d1")
    refuse_invalid({}, ValidationSpec(max_failure_rate=0.0), "of another format")


def resources(path: Path):
    """The modelled resources of a file, taken out of bundles."""
    data = path.read_bytes()
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    waiting = [json.loads(data)] if path.name.endswith((".json", ".json.gz")) else map(json.loads, data.splitlines())
    for one in waiting:
        entries = [e.get("resource") for e in one.get("entry", [])] if one.get("resourceType") == "Bundle" else [one]
        yield from (r for r in entries if isinstance(r, dict) and r.get("resourceType") in TYPES)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("folder", "least"),
    [("fhir-hl7-examples/r4-4.0.1", 380), ("fhir-r4-nimbus-anonymised", 2500), ("fhir-r4-bulk-smart", 9000)],
)
def test_no_good_real_resource_is_misbuilt(real_data, folder, least):
    files = [p for p in sorted((real_data / folder).rglob("*")) if ".json" in p.name or ".ndjson" in p.name]
    seen: Counter[str] = Counter()
    for path in files:
        for record in resources(path):
            faults = faults_of(record["resourceType"], record)
            seen["all"] += 1
            seen["failed"] += bool(faults)
            assert not [fault for fault in faults if fault.structural], path.name
    assert seen["all"] > least
    # Nimbus leaves out required elements of 56 resources; the examples of HL7 and the bulk export have no fault at all.
    assert seen["failed"] == (56 if "nimbus" in folder else 0)
