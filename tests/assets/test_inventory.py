"""The inventory over real runs: what failed, what is stale and why, what waits, and when it is good again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from made_up import MONTH, Book, deliver, visits

from assets.definitions import build_defs
from assets.inventory import code_versions, known_code, known_runs
from assets.partitions import cohort_month_key
from assets.run import RunOutcome, ingest, run_cohort
from pipeline.features.spec import load_book
from pipeline.privacy.ledger import Ledger
from pipeline.store.lake import Lake
from pipeline.workflow.calendar import RunFact
from pipeline.workflow.cell import Cell
from pipeline.workflow.features import gather_step
from pipeline.workflow.inventory import AssetState, CellState, failures, inventory, staleness
from pipeline.workflow.standing import stale_months

if TYPE_CHECKING:
    from pipeline.store.home import Home

SQL = "SELECT age, sex, lactate, died FROM visits\n"
NOW = datetime(2026, 11, 2, 3, tzinfo=UTC)
"""A moment at which October 2026, the month of the deliveries, is the month just closed."""


@pytest.fixture(autouse=True)
def quick(few_metrics: None, book: Book) -> None:
    """Few metrics, one generator a cohort, and only `tiny` to begin with."""
    book.cohort("tiny", source="clinic", generators={"independent": {}})
    (book.folder / "other.yaml").unlink()


@pytest.fixture
def lake(home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path) -> Lake:
    assert ingest(deliver(home, "clinic", visits(tmp_path / "in"), name="one").key, instance).success
    return Lake(home)


def run(instance: dg.DagsterInstance, **how: Any) -> RunOutcome:
    return run_cohort("tiny", MONTH, instance=instance, **how)


def take(lake: Lake, instance: dg.DagsterInstance, now: datetime = NOW) -> list[CellState]:
    versions = code_versions(a for a in build_defs().assets or [] if isinstance(a, dg.AssetsDefinition))
    return inventory(lake, load_book(), known_runs(instance), now=now, code=known_code(instance, versions))


def only(lake: Lake, instance: dg.DagsterInstance) -> CellState:
    (cell,) = take(lake, instance)
    return cell


def test_a_month_that_is_due_is_missing_until_it_is_made(lake: Lake, instance: dg.DagsterInstance) -> None:
    cell = only(lake, instance)
    assert (cell.state, cell.words, cell.todo) == (
        "missing",
        "leaderboard: never made",
        "cohortloom run tiny --month 2026-10",
    )
    assert run(instance).success
    cell = only(lake, instance)
    assert (cell.state, cell.words, cell.todo) == ("ok", "", "")
    assert [a.asset for a in cell.assets][:3] == ["cohort_inputs", "features", "references"]
    # November has no delivery of its own, so there is nothing to miss when it is over.
    assert [c.state for c in take(lake, instance, datetime(2026, 12, 2, tzinfo=UTC))] == ["ok"]


def test_a_failed_run_is_named_until_somebody_makes_it_good(
    lake: Lake, book: Book, instance: dg.DagsterInstance
) -> None:
    sql = book.folder / "tiny.sql"
    sql.write_text("SELECT age, sex, lactate, died FROM visits WHERE age > 1000\n")
    failed = run(instance)
    assert failed.failed_steps == ["features"]
    cell = only(lake, instance)
    assert cell.state == "run failed"
    assert cell.words.startswith(f"features: run {failed.run_id[:8]} failed: ")
    assert "The cohort's SQL gives no row." in cell.words
    assert "model" not in cell.words  # everything behind it is missing, which is said once
    assert failures([cell]) == [cell]
    assert not take_inventory(instance)["no_failed_partitions"].passed
    sql.write_text(SQL)
    assert run(instance).success
    assert only(lake, instance).state == "ok"
    assert all(check.passed for check in take_inventory(instance).values())


def test_a_run_that_was_killed_is_named(lake: Lake, instance: dg.DagsterInstance) -> None:
    tags = {"dagster/partition": str(cohort_month_key("tiny", MONTH))}
    killed = dg.DagsterRun("cohort_month", status=dg.DagsterRunStatus.STARTED, tags=tags)
    instance.add_run(killed)
    instance.report_run_failed(killed)
    cell = only(lake, instance)
    assert cell.state == "run failed"
    assert cell.words == f"run: run {killed.run_id[:8]} failed: it ended without a failed step (killed?)"
    assert run(instance).success
    assert only(lake, instance).state == "ok"


def test_a_generator_that_fails_is_a_failed_asset(lake: Lake, book: Book, instance: dg.DagsterInstance) -> None:
    book.cohort("tiny", source="clinic", generators={"gaussian_copula": {"calibration_step": 1}})
    assert run(instance).success
    cell = only(lake, instance)
    assert cell.state == "failed"
    assert "model+synthetic+evaluation" not in cell.words
    assert "model/gaussian_copula, synthetic/gaussian_copula, evaluation/gaussian_copula: failed: " in cell.words
    assert cell.todo == "cohortloom leaderboard tiny --month 2026-10"


def test_what_was_made_of_something_older_is_stale_and_says_why(
    lake: Lake, home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assert run(instance).success
    more = deliver(home, "clinic", visits(tmp_path / "more", seed=5), as_of="2026-10-20", name="two")
    cell = only(lake, instance)
    assert (cell.state, cell.words) == ("waiting", "raw/table: clinic--two landed and is not taken in yet")
    assert ingest(more.key, instance).success
    cell = only(lake, instance)
    assert (cell.state, cell.words) == ("stale", "cohort_inputs: delivery clinic--two (as of 2026-10-20) is new")
    assert cell.todo == "cohortloom backfill tiny --stale"
    assert staleness([cell]) == [cell]
    assert {a.state for a in cell.assets if a.asset != "cohort_inputs"} == {"stale"}  # all that follows
    checks = take_inventory(instance)
    assert (checks["no_failed_partitions"].passed, checks["nothing_stale"].passed) == (True, False)
    assert checks["nothing_stale"].description == "1 cells: tiny 2026-10. See `cohortloom status`."
    # Gathered anew and then cut off: the features still belong to the old inputs.
    gather_step(lake, Cell.of(load_book(), "tiny", MONTH))
    assert only(lake, instance).words == "features: made from another version of cohort_inputs"
    assert run(instance).success
    assert only(lake, instance).state == "ok"


def test_settings_and_code_that_moved_on_make_stale(lake: Lake, book: Book, instance: dg.DagsterInstance) -> None:
    assert run(instance).success
    book.cohort("tiny", source="clinic", generators={"independent": {"atom_rows": 7}, "gaussian_copula": {}})
    cell = only(lake, instance)
    assert cell.state == "missing"
    assert "model/gaussian_copula: not made" in cell.words
    assert "model/independent: The cohort's file has changed since: atom_rows" in cell.words
    book.cohort("tiny", source="clinic", generators={"independent": {}})
    assert only(lake, instance).state == "ok"
    versions = {"features": "1", "model/independent": "another"}
    (cell,) = inventory(lake, load_book(), now=NOW, code=known_code(instance, versions))
    assert cell.state == "stale"
    assert cell.words.startswith("model/independent: its code has changed (1-")


def test_a_delivery_that_was_refused_is_named_and_a_newer_one_makes_it_good(
    lake: Lake, home: Home, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assert run(instance).success
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "visits.csv").write_text("age,sex\n\x00\n")
    bad = deliver(home, "clinic", folder, as_of="2026-10-25", name="bad")
    outcome = ingest(bad.key, instance)
    assert not outcome.success
    cell = only(lake, instance)
    assert (cell.state, cell.todo) == ("refused", "cohortloom deliveries")
    assert cell.words == "raw/table: clinic--bad was refused (why: cohortloom deliveries)"


def test_a_refused_delivery_hides_no_missing_month(lake: Lake, home: Home, tmp_path: Path) -> None:
    now, refused = datetime(2027, 1, 2, 3, tzinfo=UTC), []
    for name in ("2026-11-25", "2026-12-25"):
        key = deliver(home, "clinic", visits(tmp_path / name), as_of=name, name=name).key
        refused.append(RunFact(name, "failed", delivery=key, reason="Too few columns."))
    november, december = inventory(lake, load_book(), refused, now=now)
    # Nobody misses November: only the month just closed is due where nothing was made.
    assert (november.state, november.todo) == ("refused", "cohortloom deliveries")
    assert (december.state, december.todo) == ("missing", "cohortloom run tiny --month 2026-12")
    assert december.words == (
        "leaderboard: never made; raw/table: clinic--2026-12-25 was refused (why: cohortloom deliveries)"
    )


def test_a_failed_run_of_a_month_before_the_first_delivery_is_no_cell(lake: Lake) -> None:
    early, due = (
        RunFact(month, "failed", "tiny", month, steps=("cohort_inputs",), reason="No delivery.")
        for month in ("2026-09-01", MONTH)
    )
    (cell,) = inventory(lake, load_book(), [early, due], now=NOW)
    assert (cell.month, cell.state) == (MONTH, "run failed")


def test_every_month_that_an_erasure_purged_is_missed_until_it_is_made(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    months = ("2026-09-01", MONTH, "2026-11-01")  # nothing is left to make September of
    purged = [[f"leaderboard/cohort=tiny/month={month}", "v", "0"] for month in months]
    lake.journal.append("erasures/clinic", {"kind": "erased", "purged": purged})

    def stale() -> list[tuple[str, str]]:
        return [(m.month[:7], m.words) for m in stale_months(lake, load_book(), "tiny")]

    october, november = take(lake, instance, datetime(2026, 12, 2, tzinfo=UTC))
    for cell in (october, november):
        assert (cell.state, cell.words) == ("missing", "leaderboard: made, then erased")
        assert cell.todo == "cohortloom backfill tiny --stale"
    assert stale() == [("2026-10", "made, then erased"), ("2026-11", "made, then erased")]
    gather_step(lake, Cell.of(load_book(), "tiny", MONTH))  # begun again and cut off
    assert take(lake, instance)[0].todo == "cohortloom backfill tiny --stale"
    assert run(instance).success
    assert stale() == [("2026-11", "made, then erased")]
    assert [c.state for c in take(lake, instance)] == ["ok", "missing"]


def test_one_sentence_is_said_once() -> None:
    failed = AssetState("release", "run failed", "run 12345678 failed: The key is gone.")
    cell = CellState("tiny", MONTH, (AssetState("release", "failed", "The key is gone."), failed))
    assert cell.words == "release: run 12345678 failed: The key is gone."


def test_an_open_reservation_waits(lake: Lake, instance: dg.DagsterInstance) -> None:
    from pipeline.privacy.accounts import Training

    assert run(instance).success
    training = Training.of(
        generator="independent",
        month=MONTH,
        features="0" * 64,
        settings={},
        seeds=[1],
        privacy=None,
        code_version="1",
        engine={},
    )
    Ledger(lake.journal, "tiny").reserve(training, None)
    cell = only(lake, instance)
    assert cell.state == "waiting"
    assert "holds its reservation in the privacy ledger" in cell.words


def test_a_broken_pointer_does_not_hide_the_rest(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert run(instance).success
    pointer = lake.tables.root / "features" / "cohort=tiny" / f"month={MONTH}" / "_current.json"
    pointer.chmod(0o600)
    pointer.write_text("{")
    cell = only(lake, instance)
    assert cell.state == "failed"
    assert "features: " in cell.words
    assert "cohortloom doctor" in cell.words


def test_the_same_inventory_is_not_written_twice(lake: Lake, instance: dg.DagsterInstance) -> None:
    assert run(instance).success
    take_inventory(instance)
    first = lake.tables.resolve("inventory", {})
    take_inventory(instance)
    assert lake.tables.resolve("inventory", {}) == first
    rows = lake.tables.read(first).to_pylist()
    assert {row["state"] for row in rows} == {"ok"}
    assert list(rows[0]) == ["cohort", "month", "asset", "state", "words", "published"]
    assert "seconds" not in str(first.info)


def take_inventory(instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    """Run the job as its schedule does; gives its checks."""
    result = build_defs().resolve_job_def("take_inventory").execute_in_process(instance=instance)
    assert result.success
    return {check.check_name: check for check in result.get_asset_check_evaluations()}
