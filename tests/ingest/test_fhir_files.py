"""What became of each file of a delivery; on real files held against counts by the json module alone."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fhir_records import bundle, ndjson, observation, patient

from pipeline.ingest.fhir.columns import TYPES
from pipeline.ingest.fhir.files import line_parts
from pipeline.ingest.fhir.outcome import NOT_CLINICAL
from pipeline.ingest.fhir.state import LineFile
from pipeline.ingest.lines import Survey


def test_every_file_has_one_outcome(take):
    value_set = {"resourceType": "ValueSet", "id": "v"}
    claim = {"resourceType": "Claim", "id": "c"}
    files: dict[str, Any] = {
        "good.ndjson": [patient(1), patient(2)],
        "good.json": bundle([patient(3), claim]),
        "one.json": json.dumps(patient(4)).encode(),
        "several.json": json.dumps([patient(5), patient(6)]).encode(),
        "half.ndjson": [patient(7), b"{", {"resourceType": "Patient"}],
        "half.json": bundle([patient(8), {"id": "x"}, claim]),
        "claims.ndjson": [claim, claim],
        "claims.json": bundle([claim, value_set]),
        "broken.json": b'{"resourceType":',
        "bad.ndjson": [b"\xff", b"[]"],
        "definitions.ndjson": [value_set],
        "definitions.json": bundle([value_set, {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}]),
        "blank.ndjson": b"\n \n",
        "blank.json": b"  \n",
        "none.json": b'{"resourceType":"Bundle","type":"searchset"}',
        "README.md": b"words",
        "data.bin": b"\x00\x01",
    }
    taken = take(files)
    found = {
        row["file"]: tuple(
            row[name] for name in ("form", "records", "taken", "not_modelled", "quarantined", "outcome", "reason")
        )
        for row in taken.rows("delivered_files")
    }
    assert found == {
        "good.ndjson": ("ndjson", 2, 2, 0, 0, "taken", ""),
        "good.json": ("bundle", 2, 1, 1, 0, "taken", ""),
        "one.json": ("json", 1, 1, 0, 0, "taken", ""),
        "several.json": ("json", 2, 2, 0, 0, "taken", ""),
        "half.ndjson": ("ndjson", 3, 1, 0, 2, "partly taken", "no_id, not_json"),
        "half.json": ("bundle", 3, 1, 1, 1, "partly taken", "no_resource_type"),
        "claims.ndjson": ("ndjson", 2, 0, 2, 0, "not modelled", ""),
        "claims.json": ("bundle", 2, 0, 2, 0, "not modelled", ""),
        "broken.json": ("json", 1, 0, 0, 1, "quarantined", "not_json"),
        "bad.ndjson": ("ndjson", 2, 0, 0, 2, "quarantined", "invalid_utf8, not_a_resource"),
        "definitions.ndjson": ("ndjson", 1, 0, 1, 0, "not clinical", ""),
        "definitions.json": ("bundle", 2, 0, 2, 0, "not clinical", ""),
        "blank.ndjson": ("ndjson", 0, 0, 0, 0, "empty", ""),
        "blank.json": ("json", 0, 0, 0, 0, "empty", ""),
        "none.json": ("bundle", 0, 0, 0, 0, "empty", ""),
        "README.md": ("other", 0, 0, 0, 0, "no data", ""),
        "data.bin": ("other", 0, 0, 0, 0, "no data", ""),
    }
    assert taken.account.info["files_by_outcome"] == Counter(row[5] for row in found.values())
    assert sum(row[1] for row in found.values()) == taken.account.in_


def test_one_bad_file_holds_nobody_back(take):
    """Files of every kind of fault beside good ones: the good ones are whole, the bad ones are named."""
    good = {f"{n}.ndjson": [observation(100 * n + k) for k in range(30)] for n in range(4)}
    packed = gzip.compress(ndjson([observation(n) for n in range(1000, 1100)]))
    bad = {
        "cut.ndjson.gz": packed[:-20],
        "no.ndjson.gz": b"\x1f\x8b" + b"x" * 40,
        "utf16.ndjson": '{"resourceType":"Patient","id":"a"}\n'.encode("utf-16"),
        "broken.json": b"{",
        "half.json": bundle([patient(1)])[:-30],
    }
    taken = take({**good, **bad})
    found = {row["file"]: row["outcome"] for row in taken.rows("delivered_files")}
    assert all(found[name] == "taken" for name in good)
    assert all(found[name] in ("quarantined", "partly taken") for name in bad)
    assert taken.account.taken["Observation"] >= 120


def test_a_record_that_only_duckdb_minds_is_counted_in_its_file(take):
    """A key twice: found after the split, when the table is written."""
    taken = take({"x.ndjson": [patient(1), b'{"resourceType":"Patient","id":"a","id":"b"}'], "y.ndjson": [patient(2)]})
    rows = {
        row["file"]: (row["records"], row["taken"], row["quarantined"], row["outcome"])
        for row in taken.rows("delivered_files")
    }
    assert rows == {"x.ndjson": (2, 1, 1, "partly taken"), "y.ndjson": (1, 1, 0, "taken")}


# ---- real files


def resources(path: Path) -> tuple[Counter[str], int] | None:
    """Resources by type and entries that hold none, by the json module alone; None where it is no JSON."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    try:
        documents = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if ".ndjson" in path.name
            else [json.loads(text)]
        )
    except ValueError:
        return None
    found: Counter[str] = Counter()
    bare = 0
    queue = [r for d in documents for r in (d if isinstance(d, list) else [d])]
    while queue:
        record = queue.pop()
        if record.get("resourceType") != "Bundle":
            found[record.get("resourceType", "(export log)")] += 1
            continue
        for entry in record.get("entry", []):
            if "resource" in entry:
                queue.append(entry["resource"])
            else:
                bare += 1
    return found, bare


REAL = [
    "fhir-hl7-examples/r4-4.0.1",
    "fhir-hl7-examples/stu3-3.0.1",
    "fhir-ms-testfiles",
    "fhir-r4-nimbus-anonymised",
    "fhir-r4-bulk-smart/10-patients",
    "synthea-stu3-sample",
]


@pytest.mark.realdata
@pytest.mark.parametrize("folder", REAL)
def test_real_files_are_accounted_for_to_the_record(take, real_data, folder):
    taken = take(real_data / folder)
    account = taken.account
    assert account.balanced
    rows = {row["file"]: row for row in taken.rows("delivered_files")}
    paths = {str(p.relative_to(real_data / folder)): p for p in (real_data / folder).rglob("*") if p.is_file()}
    assert rows.keys() == paths.keys()
    total: Counter[str] = Counter()
    entries = 0
    for name, path in paths.items():
        row = rows[name]
        if ".json" not in name and ".ndjson" not in name:
            assert (row["outcome"], row["records"]) == ("no data", 0), name
            continue
        counted = resources(path)
        if counted is None:
            assert row["quarantined"] == 1, name
            continue
        found, bare = counted
        total.update(found)
        entries += bare
        assert row["records"] == found.total() + bare, name
        assert row["records"] == row["taken"] + row["not_modelled"] + row["quarantined"], name
        others = {kind for kind in found if kind not in TYPES}
        if row["outcome"] == "not clinical":
            assert set(found) <= NOT_CLINICAL, name
        elif row["outcome"] == "taken":
            assert set(found) - others or bare, name
        elif row["outcome"] == "empty":
            assert found.total() + bare == 0, name
        assert (row["reason"] != "") == (row["quarantined"] > 0), name
    quarantine = Counter(row["resource_type"] for row in taken.rows("quarantine"))
    for kind in TYPES:
        kept = account.taken.get(kind, 0) + account.superseded.get(kind, 0) + quarantine[kind]
        assert kept == total[kind], kind
    for kind in total.keys() - TYPES.keys():
        assert account.not_modelled.get(kind, 0) + quarantine[kind] == total[kind], kind
    answers = sum(account.not_modelled.get(name, 0) for name in ("(request)", "(response)"))
    deleted = account.taken.get("(deletion)", 0) + account.superseded.get("(deletion)", 0)
    assert answers + deleted + quarantine[""] >= entries
    if folder in ("fhir-hl7-examples/r4-4.0.1", "fhir-r4-bulk-smart/10-patients"):
        assert account.quarantined.keys() <= {"deletes_nothing"}


@pytest.mark.realdata
def test_real_files_with_a_byte_order_mark_and_malformed_ones(take, real_data):
    folder = real_data / "fhir-ms-testfiles"
    marked = [p for p in folder.rglob("*.json") if p.read_bytes().startswith(b"\xef\xbb\xbf")]
    assert len(marked) > 90
    rows = {row["file"]: row for row in take(folder).rows("delivered_files")}
    unread = [str(p.relative_to(folder)) for p in marked if "not_json" in rows[str(p.relative_to(folder))]["reason"]]
    assert unread == [name for name in rows if "MALFORMED" in name]
    assert rows[unread[0]]["quarantined"] == 1


def test_lines_set_aside_are_found_in_their_span(tmp_path):
    """Line numbers of the whole file become those of the span that DuckDB never saw."""
    path = tmp_path / "x.ndjson"
    path.write_bytes(b"".join(b"%d\n" % n for n in range(1, 100)) + b"100")
    file = LineFile(0, "x.ndjson", Survey(path, 100, path.stat().st_size, False, False), None)
    chosen = {1: "no_id", 50: "not_json", 100: "no_id"}
    parts = line_parts(file, 60, Counter({"R5": 2}), chosen)
    assert len(parts) > 3
    found = {}
    for part in parts:
        assert part.span is not None
        here = path.read_bytes()[slice(*part.span)].splitlines()
        found |= {int(here[line - 1]): reason for line, reason in part.aside.items()}
        assert part.version == "R5"
    assert found == chosen


def test_files_that_the_manifest_names_and_that_did_not_come(take):
    def manifest(*urls: str, **fields: Any) -> bytes:
        output = [{"type": "X", "url": f"https://server.example/files/{url}"} for url in urls]
        told = {"transactionTime": "2026-09-30T00:00:00Z", "request": "$export", "output": output, **fields}
        return json.dumps(told).encode()

    gone = {"deleted": [{"type": "Bundle", "url": "deleted.000.ndjson"}], "error": [{"url": "errors.ndjson"}]}
    named = ("Patient.000.ndjson", "Observation%2E000.ndjson?sig=a.b", "Condition.000.ndjson", "4711")
    half = {"manifest.json": manifest(*named, **gone), "export/Patient.000.ndjson.gz": [patient(1)]}
    whole = {**half, "Condition.000.ndjson": [], "deleted.000.ndjson": [], "Observation.000.ndjson": [observation(1)]}
    missing = ["Condition.000.ndjson", "Observation.000.ndjson", "deleted.000.ndjson"]
    assert take(half).account.info["manifest_missing"] == {"files": 3, "names": missing}
    assert "manifest_missing" not in take(whole).account.info
    renamed = {"manifest.json": manifest(*named), "all.ndjson": [patient(1)]}
    assert "manifest_missing" not in take(renamed).account.info, "then the names say nothing"
    odd = {"manifest.json": manifest("Patient.000.ndjson", output="odd"), "Patient.000.ndjson": [patient(1)]}
    assert "manifest_missing" not in take(odd).account.info


def test_records_dated_after_the_delivery_are_counted(take):
    late = {"effectiveDateTime": "2031-01-01T10:00:00Z"}
    files = {
        "o.ndjson": [
            observation(1, component=[{"code": observation(1)["code"], "valueString": "x"}], **late),
            observation(2, effectiveDateTime="2026-10-31T23:59:00-11:00"),
            observation(3, effectiveDateTime="2031"),
        ],
        "p.ndjson": [patient(1, deceasedDateTime="2031-01-01", birthDate="2030-05-05"), patient(2)],
    }
    assert take(files).account.info["after_the_delivery"] == {"Observation": 2, "Patient": 1}
    assert "after_the_delivery" not in take(files, dates="shifted").account.info
