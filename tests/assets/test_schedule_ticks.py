"""The schedule by real ticks over twelve simulated months: downtime, late and corrected deliveries, no news, failures.

What a tick asks for is made for real (inputs, features, leaderboard of tiny tables), so that the next tick reads real
versions. The sequence is the one that `docs/schedule.md` tells.
"""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from made_up import Book, deliver, visits

from assets.definitions import build_defs
from assets.schedules import REGENERATE, cron, decisions, next_tick
from pipeline.errors import ConfigError
from pipeline.features.spec import load_book
from pipeline.ingest.delivery import delivery
from pipeline.store.lake import Lake
from pipeline.workflow.board import leaderboard_step
from pipeline.workflow.cell import Cell
from pipeline.workflow.compute import Compute
from pipeline.workflow.deliveries import take_in
from pipeline.workflow.features import features_step, gather_step
from pipeline.workflow.standing import stale_months
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pipeline.store.home import Home

COMPUTE = Compute()


class House:
    """A home, its schedule, and what the daemon would do with a tick's requests."""

    def __init__(self, home: Home, book: Book, instance: dg.DagsterInstance, folder: Path) -> None:
        self.home, self.book, self.instance, self.folder = home, book, instance, folder
        self.lake = Lake(home)
        self.repository = build_defs().get_repository_def()

    def land(self, source: str, day: str) -> str:
        """A delivery lands; gives its key."""
        folder = visits(self.folder / source / day, rows=60, seed=int(day.replace("-", "")))
        return deliver(self.home, source, folder, as_of=day, name=day).key

    def take_in(self, key: str) -> None:
        """What the delivery sensor asks for."""
        source = load_book().source(key.partition("--")[0])
        take_in(self.lake, delivery(self.home, key), source, "table", COMPUTE)

    def tick(self, day: str) -> tuple[list[str], list[str]]:
        """One evaluation of the real schedule: the run keys that it asks for, and the lines that it says."""
        moment = dt.datetime.fromisoformat(f"{day}T03:00:00+00:00")
        schedule = self.repository.get_schedule_def(REGENERATE)
        context = dg.build_schedule_context(
            instance=self.instance,
            scheduled_execution_time=moment,
            repository_def=self.repository,
            resources={"lake": LakeResource()},
        )
        with context:
            found = schedule.evaluate_tick(context)
        self.requests = found.run_requests
        said = [d.words for d in decisions(self.lake, load_book(), moment, self.instance)]
        assert (found.skip_message is None) == bool(found.run_requests)
        if found.skip_message is not None:
            assert all(words in found.skip_message for words in said)
        return [r.run_key for r in found.run_requests], said

    def enter(self, status: dg.DagsterRunStatus) -> None:
        """Enter the runs of the last tick's requests as the daemon does."""
        for request in self.requests:
            tags = {**request.tags, "dagster/run_key": request.run_key}
            run = dg.DagsterRun(job_name="cohort_month", run_id=str(uuid.uuid4()), status=status, tags=tags)
            self.instance.add_run(run)

    def make(self) -> None:
        """Make what the last tick asked for."""
        for request in self.requests:
            cell = request.partition_key.keys_by_dimension
            self.make_month(cell["cohort"], cell["month"])
        self.enter(dg.DagsterRunStatus.SUCCESS)

    def make_month(self, cohort: str, month: str) -> None:
        cell = Cell.of(load_book(), cohort, month)
        gather_step(self.lake, cell)
        features_step(self.lake, cell, COMPUTE)
        leaderboard_step(self.lake, cell, [])

    def about(self, cohort: str, day: str) -> list[str]:
        """A tick whose requests are made: the lines about one cohort, without its name."""
        _, said = self.tick(day)
        self.make()
        return [line.removeprefix(f"{cohort} ") for line in said if line.startswith(f"{cohort} ")]


@pytest.fixture
def house(home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path) -> House:
    (book.folder / "other.yaml").unlink()
    return House(home, book, instance, tmp_path / "deliveries")


def test_twelve_months(house: House) -> None:
    april = "clinic--2025-04-20"
    new = "delivery clinic--{} (as of {}) is new since {}".format

    assert house.about("tiny", "2025-02-02") == [
        "2025-01: not made: Source 'clinic' has no delivery yet. Hand one over: cohortloom deliver clinic PATH"
    ]
    house.take_in(house.land("clinic", "2025-02-10"))
    assert house.about("tiny", "2025-03-02") == ["2025-02: make: nothing was made before"]
    assert house.about("tiny", "2025-04-02") == ["2025-03: not made: inputs are unchanged since 2025-02"]
    house.take_in(house.land("clinic", "2025-04-20"))
    assert house.about("tiny", "2025-05-02") == [
        "2025-03: not made: inputs are unchanged since 2025-02",
        f"2025-04: make: {new('2025-04-20', '2025-04-20', '2025-02')}",
    ]

    # The machine is down for the ticks of June and July; deliveries keep landing.
    house.take_in(house.land("clinic", "2025-05-15"))
    house.take_in(house.land("clinic", "2025-07-10"))
    assert house.about("tiny", "2025-08-02") == [
        f"2025-05: make: {new('2025-05-15', '2025-05-15', '2025-04')}",
        "2025-06: not made: inputs are unchanged since 2025-05",
        f"2025-07: make: {new('2025-07-10', '2025-07-10', '2025-05')}",
    ]
    assert stale_months(house.lake, load_book(), "tiny") == []

    # A delivery for June comes in August: July was made without it and is not made again unasked.
    house.take_in(house.land("clinic", "2025-06-20"))
    (stale,) = stale_months(house.lake, load_book(), "tiny")
    assert (stale.month, stale.words) == ("2025-07-01", "delivery clinic--2025-06-20 (as of 2025-06-20) is new")
    assert house.about("tiny", "2025-09-02") == [
        f"2025-08: make: {new('2025-06-20', '2025-06-20', '2025-07')}",
    ]
    assert house.about("tiny", "2025-10-02") == ["2025-09: not made: inputs are unchanged since 2025-08"]

    # The delivery of April is corrected: everything that rests on it is named, only the month just closed is made.
    visits(delivery(house.home, april).folder, rows=61, seed=1)
    house.take_in(april)
    assert house.about("tiny", "2025-11-02") == [
        "2025-09: make: delivery clinic--2025-04-20 was taken in again with another content since 2025-08",
        "2025-10: not made: inputs are unchanged since 2025-09",
    ]
    found = stale_months(house.lake, load_book(), "tiny")
    assert [m.month[:7] for m in found] == ["2025-04", "2025-05", "2025-07", "2025-08"]
    assert not any(m.published for m in found)

    late = house.land("clinic", "2025-11-20")
    assert house.about("tiny", "2025-12-02") == [
        "2025-10: not made: inputs are unchanged since 2025-09",
        "2025-11: not made: waiting: clinic--2025-11-20 landed and is not taken in yet",
    ]
    house.take_in(late)
    assert house.about("tiny", "2026-01-02") == [
        "2025-10: not made: inputs are unchanged since 2025-09",
        f"2025-11: make: {new('2025-11-20', '2025-11-20', '2025-09')}",
        "2025-12: not made: inputs are unchanged since 2025-11",
    ]
    made = [p["month"][:7] for p in house.lake.tables.partitions("leaderboard")]
    assert made == [f"2025-{m:02}" for m in (2, 4, 5, 7, 8, 9, 11)]

    # The clock is set back: nothing is asked for twice. A stale month is made when somebody asks, and is fresh then.
    assert house.about("tiny", "2025-08-02") == ["2025-07: not made: made already (the newest month is 2025-11)"]
    house.make_month("tiny", "2025-07-01")
    assert [m.month[:7] for m in stale_months(house.lake, load_book(), "tiny")] == ["2025-04", "2025-05", "2025-08"]


def test_each_cohort_is_decided_alone(house: House) -> None:
    """`always`, retired, paused and broken cohorts beside a usual one; every reason is said."""
    book = house.book
    book.cohort("every", source="clinic", extra="schedule: {always: true}\n")
    book.cohort("paused", source="clinic", extra="schedule: {enabled: false}\n")
    book.cohort("retired", source="clinic", extra="enabled: false\n")
    book.cohort("moved", source="clinic")
    (book.folder / "broken.yaml").write_text("source: clinic\nunit: [patient\n")
    with pytest.warns(UserWarning, match="Disabled: broken"):
        house.repository = build_defs().get_repository_def()
    house.take_in(house.land("clinic", "2025-02-10"))
    keys, said = house.tick("2025-03-02")
    assert keys == [f"2025-02-01:{cohort}" for cohort in ("every", "moved", "tiny")]
    assert {request.job_name for request in house.requests} <= {"cohort_month", None}
    assert all(request.tags["dagster/priority"] == "1" for request in house.requests)
    assert next(line for line in said if "not made" in line).startswith("broken 2025-02: not made: its file is broken:")
    assert "paused 2025-02: not made: the cohort is not scheduled (schedule: enabled: false)" in said
    assert "retired 2025-02: not made: the cohort is retired (enabled: false)" in said
    house.make()
    (book.folder / "moved.sql").write_text("SELECT age, sex, lactate, died FROM visits WHERE age > 0\n")
    keys, said = house.tick("2025-04-02")
    assert keys == ["2025-03-01:every", "2025-03-01:moved"]
    assert "every 2025-03: make: inputs are unchanged since 2025-02, but schedule: always" in said
    assert "moved 2025-03: make: the SQL changed since 2025-02" in said
    assert "tiny 2025-03: not made: inputs are unchanged since 2025-02" in said


def test_no_month_is_asked_for_twice(house: House) -> None:
    """Dagster makes up for missed ticks one by one, and each of ours looks at all months: together still once each.

    Dagster compares run keys within one tick only, so runs that wait in the queue have to be known to the next one.
    """
    house.take_in(house.land("clinic", "2025-01-10"))
    house.make_month("tiny", "2025-01-01")
    for day in ("2025-02-15", "2025-03-15", "2025-04-15"):
        house.take_in(house.land("clinic", day))
    asked = []
    for day in ("2025-03-02", "2025-04-02", "2025-05-02", "2025-05-02"):
        asked += house.tick(day)[0]
        house.enter(dg.DagsterRunStatus.NOT_STARTED)
    assert asked == [f"2025-0{m}-01:tiny" for m in (2, 3, 4)]
    _, said = house.tick("2025-05-02")
    assert all("it is being made (run" in line for line in said)


def test_a_failed_month_is_left_to_a_person(house: House) -> None:
    """A run that really fails: no later tick repeats it, the reason is told, and the next month is not held up."""
    sql = house.book.folder / "tiny.sql"
    sql.write_text("SELECT age, sex, lactate, died FROM visits WHERE age > 1000\n")
    house.take_in(house.land("clinic", "2025-02-10"))
    keys, _ = house.tick("2025-03-02")
    assert keys == ["2025-02-01:tiny"]
    (request,) = house.requests
    result = (
        build_defs()
        .resolve_job_def("cohort_month")
        .execute_in_process(
            instance=house.instance,
            partition_key=request.partition_key,
            tags={**request.tags, "dagster/run_key": request.run_key},
            asset_selection=[dg.AssetKey("cohort_inputs"), dg.AssetKey("features")],
            raise_on_error=False,
        )
    )
    assert not result.success
    keys, (line,) = house.tick("2025-03-02")
    assert keys == []
    assert "failed: " in line
    assert "The cohort's SQL gives no row." in line
    assert line.endswith("Again by hand: cohortloom run tiny --month 2025-02")
    sql.write_text("SELECT age, sex, lactate, died FROM visits\n")
    assert house.tick("2025-04-02")[0] == ["2025-03-01:tiny"]


def test_the_moment_of_the_tick_can_be_chosen(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    now = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
    assert (cron(), next_tick(now)) == ("0 3 2 * *", dt.datetime(2026, 12, 2, 3, tzinfo=dt.UTC))
    monkeypatch.setenv("COHORTLOOM_SCHEDULE", "30 1 * * *")
    assert next_tick(now) == dt.datetime(2026, 11, 22, 1, 30, tzinfo=dt.UTC)
    schedule: Any = build_defs().get_repository_def().get_schedule_def(REGENERATE)
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 1 * * *", "UTC")
    monkeypatch.setenv("COHORTLOOM_SCHEDULE", "monthly")
    with pytest.raises(ConfigError, match="COHORTLOOM_SCHEDULE is 'monthly'"):
        build_defs()
