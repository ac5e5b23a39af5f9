"""The report on a delivery: what it says in which case, the same bytes for the same facts, nothing that is not escaped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.ingest.account import Account
from pipeline.ingest.delivered_files import DeliveredFile
from pipeline.ingest.report import DeliveryFacts, headline, markdown, next_steps, sections, write_page
from pipeline.ingest.report.words import FILES_SHOWN

VALIDATION = {
    "mode": "sample", "checked": 20, "failed": 3, "structural": 1, "rewritten": 0, "more_faults": 0,
    "types": {"Patient": {"checked": 20, "failed": 3}},
    "faults": [
        {"type": "Patient", "path": "name", "error": "list_type", "records": 1, "structural": True},
        {"type": "Patient", "path": "", "error": "an_error_of_tomorrow", "records": 2, "structural": False},
    ],
}  # fmt: skip


@pytest.fixture
def whole() -> DeliveryFacts:
    """Everything taken, nothing to remark."""
    account = Account(in_=5, taken={"visits": 5}, files=1, bytes=2_000)
    files = [DeliveredFile("visits.csv", "csv", 5, 5, 0, 0, "taken")]
    return DeliveryFacts("ward--one", "table", "2026-10-31", account, files)


@pytest.fixture
def odd() -> DeliveryFacts:
    """Something of everything."""
    account = Account(
        in_=9,
        taken={"Patient": 4},
        not_modelled={"<script>alert(1)</script>": 1, "a|b": 1},
        superseded={"Patient": 1},
        quarantined={"not_json": 1, "fails_validation": 1},
        files=3,
        info={
            "validation": VALIDATION,
            "dangling": {"Observation": 2},
            "unresolved": {"contained": 1, "other": 0},
            "versions": {"R4": 3},
            "unread": {"Condition.onsetAge": 2},
            "absent_tables": ["chartevents"],
        },
    )
    files = [
        DeliveredFile("Patient.ndjson", "ndjson", 8, 7, 2, 1, "partly taken", "fails_validation"),
        DeliveredFile("bundle 0123456789ab", "json", 1, 0, 0, 1, "quarantined", "not_json"),
        DeliveredFile("README.md", "other", 0, 0, 0, 0, "no data"),
    ]
    first = {"not_json": ("bundle 0123456789ab", 0), "fails_validation": ("Patient.ndjson", 3)}
    types = {("", "not_json"): 1, ("Patient", "fails_validation"): 1}
    events = {"events": 12, "without_subject": 1}
    return DeliveryFacts(
        "ward--two",
        "fhir",
        "2026-10-31",
        account,
        files,
        first,
        types,
        events,
        ("raw/fhir/delivery=ward--two", "ab" * 32),
    )


def test_nothing_to_remark(whole, tmp_path):
    assert headline(whole)[:2] == ("pass", "Taken in whole")
    assert next_steps(whole) == ["Nothing: go on with the cohorts of this source."]
    assert [section.name for section in sections(whole)] == ["records", "files", "each"]
    html = write_page(tmp_path / "a.html", whole).read_text()
    assert 'class="verdict pass"' in html


def test_every_part_has_its_place(odd):
    assert headline(odd) == (
        "look",
        "Taken in; 2 records set aside",
        "9 records in = 4 taken + 2 not modelled + 1 superseded + 2 quarantined.",
    )
    found = {section.name: section for section in sections(odd)}
    assert list(found) == [
        "records", "files", "quarantine", "validation", "links", "versions", "absent", "unread", "events", "each"
    ]  # fmt: skip
    assert found["records"].rows[0] == ("Patient", 4, 0, 1, 1)
    assert ("(unknown)", 0, 0, 0, 1) in found["records"].rows
    assert [row[:2] for row in found["files"].rows] == [("quarantined", 1), ("partly taken", 1), ("no data", 1)]
    assert found["quarantine"].rows[1][3] == "bundle 0123456789ab:0"
    assert found["validation"].rows == [
        ("Patient", "name", "no list (or a null in one)", 1, "set aside"),
        ("Patient", "(the resource)", "an_error_of_tomorrow", 2, "reported"),
    ]
    assert [step.split(" ")[0] for step in next_steps(odd)] == ["See", "1", "Only", "Tell", "2"]
    thorough = {**VALIDATION, "mode": "all"}
    account = dataclasses.replace(odd.account, info={**odd.account.info, "validation": thorough})
    assert "Only" not in [step.split(" ")[0] for step in next_steps(dataclasses.replace(odd, account=account))]


def test_files_that_may_hold_data_and_that_no_reader_took_are_a_step(whole):
    account = dataclasses.replace(whole.account, info={"other_files": {".md": 3, ".zip": 1, ".xlsx": 2}})
    (step,) = next_steps(dataclasses.replace(whole, account=account))
    assert step.startswith("3 files (2 .xlsx, 1 .zip) of a kind that the reader of format table does not take")
    readme = dataclasses.replace(whole.account, info={"other_files": {".md": 3, "(other)": 1}})
    assert next_steps(dataclasses.replace(whole, account=readme)) == next_steps(whole)


def test_a_link_that_leads_nowhere_means_another_thing_in_mimic(odd):
    def said(form: str) -> str:
        return next_steps(dataclasses.replace(odd, format=form))[-1]

    assert "mostly a patient" in said("fhir")
    assert "a code that its dictionary lacks" in said("mimic3")
    assert "patient" not in said("mimic4")
    assert {s.name: s.title for s in sections(odd)}["absent"] == "Tables"


def test_a_half_export_and_records_of_the_future_are_steps(odd):
    info = {
        "manifest_missing": {"files": 21, "names": ["Condition.000.ndjson"]},
        "after_the_delivery": {"Encounter": 1},
    }
    facts = dataclasses.replace(odd, account=Account(in_=1, taken={"Encounter": 1}, info=info), files=[])
    half, late = next_steps(facts)
    assert half.startswith("21 files that the manifest of the export names did not come.")
    assert late.startswith("1 record of a day after 2026-10-31")
    assert headline(facts)[:2] == ("look", "Taken in, with remarks")
    (missing,) = (section for section in sections(facts) if section.name == "missing")
    assert (missing.words, missing.rows) == (
        ["The manifest of the export names them.", "1 of 21."],
        [("Condition.000.ndjson",)],
    )
    assert "Condition.000" not in markdown(facts)


def test_what_dagster_keeps_names_no_file(odd):
    text = markdown(odd)
    assert "| not_json | 1 | the line, entry or file is not valid JSON |\n" in text
    assert "a\\|b" in text
    for name in ("ndjson:", "bundle 0", "README"):
        assert name not in text


def test_the_page_is_one_file_that_loads_nothing_and_the_same_each_time(odd, tmp_path):
    pages = [write_page(tmp_path / name, odd).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]
    html = pages[0].decode()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    for foreign in ("http://", "https://", " src=", "url("):
        assert foreign not in html
    assert len(html) < 40_000


def test_a_delivery_of_many_files_lists_the_ones_with_remarks_first(whole, tmp_path: Path):
    many = [DeliveredFile(f"bundle {n:012x}", "bundle", 1, 1, 0, 0, "taken") for n in range(FILES_SHOWN + 5)]
    last = DeliveredFile("zzz.ndjson", "ndjson", 1, 0, 0, 1, "quarantined", "not_json")
    each = sections(dataclasses.replace(whole, files=[*many, last]))[-1]
    assert (len(each.rows), each.rows[0][0]) == (FILES_SHOWN, "zzz.ndjson")
    assert any("500 of 506 files" in words for words in each.words)
