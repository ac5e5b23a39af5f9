"""The privacy ledger in the graph: a budget refuses before training, and the table and its check say what was spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from made_up import MONTH, Book, deliver, visits

from assets.run import ingest, run_cohort
from pipeline.privacy.ledger import Ledger
from pipeline.store.lake import Lake
from pipeline.workflow.record import Record

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.home import Home

CELL = {"cohort": "tiny", "month": MONTH}


@pytest.fixture
def lake(home: Home, book: Book, instance: dg.DagsterInstance, few_metrics: None, tmp_path: Path) -> Lake:
    assert ingest(deliver(home, "clinic", visits(tmp_path / "in"), name="one").key, instance).success
    return Lake(home)


def facts_and_check(instance: dg.DagsterInstance, run_id: str) -> tuple[dict[str, Any], Any]:
    """Metadata of the ledger's materialisation and its check in a run."""
    record = instance.fetch_materializations(dg.AssetKey("privacy_ledger"), limit=1).records[0]
    logs = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    checks = [entry.dagster_event.asset_check_evaluation_data for entry in logs]
    (check,) = [c for c in checks if c.check_name == "within_budget"]
    return dict(record.asset_materialization.metadata), check


def test_a_budget_refuses_a_training_without_privacy(lake: Lake, book: Book, instance: dg.DagsterInstance) -> None:
    """No `vae` is trained; the run ends well, and the leaderboard says why there is none."""
    budget = "privacy: {budget: {epsilon: 3, delta: 1.0e-5}}\n"
    book.cohort("tiny", source="clinic", generators={"vae": {}}, extra=budget)
    book.cohort("other", source="ward", generators={"vae": {}})
    outcome = run_cohort("tiny", MONTH, instance=instance)
    assert outcome.success, outcome
    model = lake.models.resolve("model/vae", CELL)
    assert (Record.of(model).status, model.files) == ("refused", {})
    (row,) = [r for r in lake.tables.read(lake.tables.resolve("leaderboard", CELL)).to_pylist() if r["key"] == "vae"]
    assert row["status"] == "refused"
    assert "'vae' for 2026-10 would train without differential privacy" in row["reason"]
    assert "may spend epsilon 3, delta 1e-05" in row["reason"]
    assert lake.journal.entries("privacy/tiny") == []
    facts, check = facts_and_check(instance, outcome.run_id)
    assert (facts["epsilon"].value, facts["budget_epsilon"].value, check.passed) == (0.0, 3.0, True)


def test_the_ledger_shows_what_was_spent(lake: Lake, book: Book, instance: dg.DagsterInstance) -> None:
    outcome = run_cohort("tiny", MONTH, instance=instance)
    assert outcome.success, outcome
    facts, check = facts_and_check(instance, outcome.run_id)
    assert facts["epsilon"].value == "inf"
    assert facts["dagster/row_count"].value == 2
    assert "| 2026-10-01 | gaussian_copula | complete |" in facts["trainings"].md_str
    assert check.passed, "no budget is kept by every spend"
    first = lake.tables.resolve("privacy_ledger", CELL)

    generators = {"independent": {}, "gaussian_copula": {"calibration_steps": 0}}
    book.cohort("tiny", source="clinic", generators=generators, extra="privacy: {budget: {epsilon: 3, delta: 0.1}}\n")
    again = run_cohort("tiny", MONTH, instance=instance, start_from="model")
    assert again.success, again
    assert Record.of(lake.models.resolve("model/independent", CELL)).status == "refused"
    assert len(Ledger(lake.journal, "tiny").spends()) == 2
    _, check = facts_and_check(instance, again.run_id)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "cost epsilon infinite, the cohort may spend epsilon 3" in check.description
    second = lake.tables.resolve("privacy_ledger", CELL)
    assert second.files["data"].sha256 == first.files["data"].sha256
