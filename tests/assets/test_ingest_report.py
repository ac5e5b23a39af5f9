"""What Dagster is told of a delivery: the report as Markdown, where its page lies, files and validation as checks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from made_up import Book, deliver, visits

from assets.cli.listing import accounts_of
from assets.run import ingest
from pipeline.errors import InputError
from pipeline.features.build import gather_inputs
from pipeline.features.spec import load_book
from pipeline.store.lake import Lake
from pipeline.workflow.delivery_report import ASSET, PAGE, facts_of
from pipeline.workflow.inventory import inventory
from pipeline.workflow.redelivering import replace
from pipeline.workflow.rollback import find, roll_back
from pipeline.workflow.standing import stale_months

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.home import Home

CHECKED = dg.DagsterEventType.ASSET_CHECK_EVALUATION
CANARY = "Qvexxanthe"


def hospital(folder: Path, *, wrong: int) -> Path:
    """Twenty observations, some of them with a time without its zone, and a file of a patient that is no JSON."""
    folder.mkdir(exist_ok=True)
    records = [
        {
            "resourceType": "Observation",
            "id": f"o{n}",
            "status": "final",
            "code": {"text": CANARY},
            "subject": {"reference": "Patient/1"},
            "effectiveDateTime": "2026-01-01T10:00:00" if n < wrong else "2026-01-01",
        }
        for n in range(20)
    ]
    (folder / "Observation.ndjson").write_text("\n".join(map(json.dumps, records)) + "\n")
    (folder / f"{CANARY}.json").write_text(CANARY)
    return folder


def told(instance: dg.DagsterInstance, asset: str) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset.split("/")))
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    return {name: value.value for name, value in shown.items() if name != "dagster/column_schema"}


def checks(instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    (run,) = instance.get_runs()
    found = [entry.dagster_event for entry in instance.all_logs(run.run_id, of_type=CHECKED)]
    given = [event.asset_check_evaluation_data for event in found if event is not None]
    return {check.check_name: check for check in given}


@pytest.fixture
def limits(book: Book) -> None:
    book.sources(
        {"hospital": "fhir", "clinic": "table"},
        extra="max_quarantine_rate: 0.5, validation: {max_failure_rate: 0.3}",
    )


def test_the_report_goes_with_the_raw_tables(
    home: Home, book: Book, limits: None, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    key = deliver(home, "hospital", hospital(tmp_path / "in", wrong=5), name="one").key
    assert ingest(key, instance).success
    metadata, found, lake = told(instance, "raw/fhir"), checks(instance), Lake(home)
    assert {"account", "records_in", "records_quarantined", "quarantine", "files", "bytes", "as_of"} <= metadata.keys()
    assert "**Taken in; 1 record set aside.**" in metadata["report"]
    assert (
        "| Observation | effectiveDateTime | no FHIR date or time (a time needs its zone) | 5 |" in metadata["report"]
    )
    assert found["validation"].passed
    assert found["validation"].description == (
        "5 of 20 validated resources failed (25.0%), within the 30.0% that the source allows."
    )
    assert found["quarantine_rate"].description == (
        "Of 2 files 1 could not be used and 0 only in part; all others were taken."
    )
    facts, page = facts_of(lake, key)
    assert page is not None
    assert (page.name, facts.events["events"]) == (PAGE, 20)
    raw = lake.reports.history(ASSET, {"delivery": key})
    assert [len(version.inputs) for version in raw] == [2, 1]  # of the raw tables alone, then with the events
    assert CANARY not in page.read_text() + json.dumps(metadata, default=str)
    before = lake.reports.resolve(ASSET, {"delivery": key}).sha256
    assert ingest(key, instance).success
    assert lake.reports.resolve(ASSET, {"delivery": key}).sha256 == before


def test_a_failing_validation_blocks_events_and_cohorts(
    home: Home, book: Book, limits: None, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    key = deliver(home, "hospital", hospital(tmp_path / "in", wrong=7), name="one").key
    outcome = ingest(key, instance)
    assert not outcome.success
    assert "The check validation does not pass: 7 of 20 validated resources failed (35.0%)" in outcome.reason
    assert Lake(home).tables.current("events", {"delivery": key}) is None
    book.cohort("sick", source="hospital")
    spec = load_book().cohort("sick")
    with pytest.raises(InputError, match=r"hospital--one: 7 of 20 validated"):
        gather_inputs(spec, load_book().source("hospital"), "2026-10-01", Lake(home), home)


def test_a_replaced_delivery_makes_months_stale_and_a_rollback_takes_the_report_along(
    home: Home, book: Book, limits: None, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    from assets.partitions import cohort_month_key
    from assets.run import _execute

    lake = Lake(home)
    key = deliver(home, "clinic", visits(tmp_path / "in"), name="one").key
    assert ingest(key, instance).success
    made = _execute(
        "cohort_month",
        cohort_month_key("tiny", "2026-10-01"),
        [dg.AssetKey("cohort_inputs"), dg.AssetKey("features"), dg.AssetKey("leaderboard")],
        instance,
        None,
    )
    assert made.success, made.reason
    assert stale_months(lake, load_book(), "tiny") == []
    first = facts_of(lake, key)
    replace(lake, "clinic", visits(tmp_path / "in", seed=1), as_of=None, name="one")
    assert ingest(key, instance).success
    (stale,) = stale_months(lake, load_book(), "tiny")
    assert stale.month == "2026-10-01"
    assert "clinic--one" in stale.words
    states = {(cell.month, asset.asset): asset.state for cell in inventory(lake, load_book()) for asset in cell.assets}
    assert states["2026-10-01", "cohort_inputs"] == "stale"  # as `cohortloom status` shows it
    assert facts_of(lake, key)[0].raw != first[0].raw
    store, partition = find(lake, "raw/table", [key])
    assert [v.asset for v in roll_back(lake, store, "raw/table", partition, to=None, by="me").also] == [ASSET]
    assert facts_of(lake, key) == first
    assert accounts_of(home)[key].in_ == 240
