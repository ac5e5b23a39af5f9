"""Planted names, ids and values never reach what Dagster keeps: events, metadata, logs, exceptions."""

from __future__ import annotations

import gzip
import json
import logging
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from made_up import MONTH, Book, deliver
from odd_generators import PATHS

from assets.instance import open_instance
from assets.run import ingest, run_cohort
from pipeline.generators.registry import BUILT_IN

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.home import Home

SURNAME = "Qvexxanthe"
GIVEN = "Wimbledorf"
IDENTIFIER = "zz-canary-7781"
VALUE = "Krombulitis"
CANARIES = (SURNAME, GIVEN, IDENTIFIER, VALUE)
PATIENTS = 48


def hospital(folder: Path) -> Path:
    """FHIR with canaries everywhere: names, ids, references, codes, broken lines, and a file named after a patient."""
    folder.mkdir()
    patients, observations = [], []
    for i in range(PATIENTS):
        key = f"{IDENTIFIER}-{i}"
        patients.append(
            {
                "resourceType": "Patient",
                "id": key,
                "name": [{"family": f"{SURNAME}{i}", "given": [GIVEN]}],
                "gender": ["female", "male"][i % 2],
                "birthDate": f"{1940 + i}-01-01",
                "address": [{"city": VALUE, "postalCode": "12345"}],
            }
        )
        observations.append(
            {
                "resourceType": "Observation",
                "id": f"{key}-o",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "8302-2", "display": VALUE}], "text": VALUE},
                "subject": {"reference": f"Patient/{key}"},
                "effectiveDateTime": "2026-09-01T10:00:00Z",
                "valueString": f"{VALUE} {i}",
            }
        )
    lines = [json.dumps(p) for p in patients]
    lines.append('{"resourceType":"Patient","id":"' + IDENTIFIER + '-broken","name":[{"family":"' + SURNAME)
    lines.append(json.dumps({"resourceType": "Patient", "name": [{"family": SURNAME}]}))
    (folder / "Patient.ndjson").write_text("\n".join(lines) + "\n")
    with gzip.open(folder / "Observation.ndjson.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, observations)) + "\n")
    entry = [{"resource": {"resourceType": "Patient", "id": f"{IDENTIFIER}-b", "name": [{"family": SURNAME}]}}]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entry}
    (folder / f"{GIVEN}_{SURNAME}_{IDENTIFIER}.json").write_text(json.dumps(bundle))
    (folder / f"{GIVEN}_{SURNAME}_broken.json").write_text('{"resourceType": "Bundle", ' + SURNAME)
    return folder


SQL = """
SELECT p.key AS subject, p.gender AS sex, date_part('year', p.birth_date) AS born, count(o.key) AS visits{more}
FROM patient p LEFT JOIN observation o ON o.patient = p.key
WHERE p.birth_date IS NOT NULL
GROUP BY ALL
"""


@pytest.mark.usefixtures("few_metrics")
def test_canaries_stay_in_the_lake(
    home: Home,
    book: Book,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Good runs, a generator that quotes a patient, and SQL that fails on a patient's value."""
    caplog.set_level(logging.DEBUG)
    for name, path in PATHS.items():
        monkeypatch.setitem(BUILT_IN, name, path)
    book.sources({"hospital": "fhir"}, extra="max_quarantine_rate: 0.5")
    for name in ("tiny", "other"):
        (book.folder / f"{name}.yaml").unlink()
    words = (
        "title: t\nsource: hospital\nunit: patient\nsubject: subject\nsql: {0}.sql\nevaluation: {{profile: quick}}\n"
    )
    for name, more in (("good", ""), ("bad", ", min(CAST(o.value_text AS INTEGER)) AS level")):
        (book.folder / f"{name}.yaml").write_text(words.format(name) + "generators: {independent: {}, raises: {}}\n")
        (book.folder / f"{name}.sql").write_text(SQL.format(more=more))
    with open_instance(home) as instance:
        lines: list[str] = []
        delivery = deliver(home, "hospital", hospital(tmp_path / "in"), name="one")
        outcomes = [ingest(delivery.key, instance, on_event=lines.append)]
        outcomes += [run_cohort(c, MONTH, instance=instance, on_event=lines.append) for c in ("good", "bad")]
        assert [o.success for o in outcomes] == [True, True, False], outcomes
        assert "bad.sql" in outcomes[2].reason
        told = [str(entry) for o in outcomes for entry in instance.all_logs(o.run_id)]
        assert len(told) > 100
    out, err = capfd.readouterr()
    places = {
        "events": "\n".join(told),
        "progress": "\n".join(lines),
        "outcomes": str(outcomes),
        "logs": caplog.text,
        "stdout": out,
        "stderr": err,
    }
    files = [f for f in home.dagster.rglob("*") if f.is_file()]
    assert any(f.suffix == ".db" for f in files)
    places |= {str(f.relative_to(home.root)): f.read_bytes().decode("utf-8", "replace") for f in files}
    found = [(place, canary) for place, text in places.items() for canary in CANARIES if canary in text]
    assert found == []
    lake = "".join(f.read_bytes().decode("latin-1") for f in home.landing.rglob("*") if f.is_file())
    assert SURNAME in lake, "the canaries were planted"


def test_a_broken_frame_is_told_in_counts(home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """dagster-pandas quotes the offending rows; what is stored says how many there are."""
    import pyarrow.parquet as pq
    from made_up import visits

    from assets.definitions import build_defs
    from assets.partitions import cohort_month_key
    from assets.run import _execute
    from pipeline.store.lake import Lake

    assert ingest(deliver(home, "clinic", visits(tmp_path / "in"), name="one").key, instance).success
    keys = [dg.AssetKey("cohort_inputs"), dg.AssetKey("features")]
    assert _execute("cohort_month", cohort_month_key("tiny", MONTH), keys, instance, None).success
    lake = Lake(home)
    version = lake.tables.resolve("features", {"cohort": "tiny", "month": MONTH})
    table = lake.tables.read(version)
    sexes = [SURNAME if i < 200 else s for i, s in enumerate(table.column("sex").to_pylist())]
    pq.write_table(table.set_column(1, table.schema.field("sex"), [sexes]), lake.tables.path(version, "data"))
    defs = build_defs()
    checks = {k for k in defs.resolve_asset_graph().asset_check_keys if k.asset_key == dg.AssetKey("features")}
    result = (
        defs.resolve_implicit_global_asset_job_def()
        .get_subset(asset_selection=set(), asset_check_selection=checks)
        .execute_in_process(
            instance=instance,
            tags={
                "dagster/partition": str(cohort_month_key("tiny", MONTH)),
                "dagster/partition/cohort": "tiny",
                "dagster/partition/month": MONTH,
            },
            raise_on_error=False,
        )
    )
    found = {c.check_name: c for c in result.get_asset_check_evaluations()}
    assert not found["frame"].passed
    assert "rows no level" in (found["frame"].description or "")
    assert not found["intact"].passed
    assert SURNAME not in "".join(str(e) for e in instance.all_logs(result.run_id))
