"""The calendar's decisions: which months of a cohort a tick of the schedule makes, and in words why not the others.

Decides only, from plain values: what was made and from which inputs, which inputs would count now, what is running
or was asked for before. Where these come from: `standing.py` reads the lake, `assets/schedules.py` asks Dagster. No
clock is read here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

from pipeline.errors import CohortLoomError

if TYPE_CHECKING:
    from pipeline.features.build import CohortInputs
    from pipeline.features.spec import CohortSpec

MOST_KEYS = 3
"""Deliveries that a sentence names; `cohortloom deliveries` names all."""


@dataclass(frozen=True)
class RunFact:
    """What the orchestrator knows of one run of a cohort-month or of a delivery.

    Attributes:
        run_id: Its id.
        state: "running" also while it waits in the queue.
        cohort: Empty for a run that takes in a delivery.
        month: `YYYY-MM-01`, or empty.
        delivery: Delivery key, or empty.
        asked_as: The key under which the schedule asked for it, else empty.
        steps: Assets whose step failed.
        reason: Why it failed, in words without patient data.
    """

    run_id: str
    state: Literal["running", "failed", "ended"]
    cohort: str = ""
    month: str = ""
    delivery: str = ""
    asked_as: str = ""
    steps: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class MonthMade:
    """A month that has a leaderboard.

    Attributes:
        month: `YYYY-MM-01`.
        inputs: What it was made from; None where that record is gone.
        early: It was made before it was over, so it may lack deliveries.
    """

    month: str
    inputs: CohortInputs | None
    early: bool = False


@dataclass(frozen=True)
class Landed:
    """A delivery that is complete in the landing folder and not in the lake.

    Attributes:
        key: Delivery key.
        as_of: Its day.
        refused: Why it could not be taken in; empty while it waits.
    """

    key: str
    as_of: date
    refused: str = ""


@dataclass(frozen=True)
class Standing:
    """How a cohort stands.

    Attributes:
        spec: The cohort.
        first: First month of the calendar.
        made: The months that were made, in any order.
        inputs: The inputs that would count now for a month; raises `CohortLoomError` where there are none.
        landed: Deliveries of its source that wait or were refused.
        published: Months with a published release.
        there: The deliveries of its source that are in the lake, with the day each knows up to.
        accumulate: Do the source's deliveries add up, or does the newest one replace the others?
    """

    spec: CohortSpec
    first: str
    made: Sequence[MonthMade]
    inputs: Callable[[str], CohortInputs]
    landed: Sequence[Landed] = ()
    published: frozenset[str] = field(default_factory=frozenset)
    there: Mapping[str, date] = field(default_factory=dict)
    accumulate: Literal["merge", "replace"] = "merge"


@dataclass(frozen=True)
class Decision:
    """What a tick does about one month of one cohort: "make" it, leave it as it is "running", or "skip" it."""

    cohort: str
    month: str
    does: Literal["make", "running", "skip"]
    reason: str

    @property
    def make(self) -> bool:
        """Is a run asked for?"""
        return self.does == "make"

    @property
    def run_key(self) -> str:
        """Under which the schedule asks for it; once for all time."""
        return run_key(self.cohort, self.month)

    @property
    def words(self) -> str:
        """One line for a log."""
        return f"{self.cohort} {self.month[:7]}: {'make' if self.make else 'not made'}: {self.reason}"


def would_count(
    landed: Iterable[Landed], there: Mapping[str, date], month: str, accumulate: Literal["merge", "replace"]
) -> list[Landed]:
    """Of the deliveries that are not in the lake, those that a month would hold if they were.

    Where the newest delivery replaces the others, one that is older than what is in the lake changes nothing.
    """
    end = date.fromisoformat(month_after(month))
    known = [as_of for as_of in there.values() if as_of < end] if accumulate == "replace" else []
    newest = max(known, default=date.min)
    return [delivery for delivery in landed if newest <= delivery.as_of < end]


def lacking(
    landed: Iterable[Landed], there: Mapping[str, date], month: str, accumulate: Literal["merge", "replace"]
) -> list[tuple[Literal["refused", "waiting"], str]]:
    """What is said of the month's own deliveries that are not in the lake and would count if they were."""
    own = would_count((d for d in landed if f"{d.as_of:%Y-%m}-01" == month), there, month, accumulate)
    found: list[tuple[Literal["refused", "waiting"], str]] = []
    if refused := refused_words(own):
        found.append(("refused", f"{refused} (why: cohortloom deliveries)"))
    if waiting := waiting_words(own):
        found.append(("waiting", waiting))
    return found


def waiting_words(landed: Iterable[Landed]) -> str:
    """Which of them are still to be taken in; empty where none is."""
    keys = [delivery.key for delivery in landed if not delivery.refused]
    return f"{_together(keys)} landed and {'is' if len(keys) == 1 else 'are'} not taken in yet" if keys else ""


def refused_words(landed: Iterable[Landed]) -> str:
    """Which of them were refused, without the reasons, which may be long; empty where none was."""
    keys = [delivery.key for delivery in landed if delivery.refused]
    return f"{_together(keys)} {'was' if len(keys) == 1 else 'were'} refused" if keys else ""


def _together(keys: Sequence[str]) -> str:
    more = len(keys) - MOST_KEYS
    return ", ".join(keys[:MOST_KEYS]) + (f" and {more} more" if more > 0 else "")


def run_key(cohort: str, month: str) -> str:
    """The key under which the schedule asks for a month of a cohort: `<month>:<cohort>`."""
    return f"{month}:{cohort}"


def closed_month(moment: datetime) -> str:
    """The newest month that is over at a moment (UTC), as `YYYY-MM-01`."""
    return f"{moment.astimezone(UTC).date().replace(day=1) - timedelta(days=1):%Y-%m}-01"


def month_after(month: str) -> str:
    """The month that follows."""
    return f"{date.fromisoformat(month) + timedelta(days=31):%Y-%m}-01"


def months_between(first: str, last: str) -> list[str]:
    """All months from `first` to `last`, both included; none if `last` is earlier."""
    found = []
    while first <= last:
        found.append(first)
        first = month_after(first)
    return found


def due_months(made: Sequence[MonthMade], closed: str) -> list[str]:
    """The closed months that are looked at: all after the newest one that was made when it was over.

    A cohort of which nothing was made yet begins with the month just closed: what happened before the house was
    there is a backfill, which a person asks for, since every training costs time and may cost privacy budget.
    """
    final = [m.month for m in made if not m.early]
    if final:
        return months_between(month_after(max(final)), closed)
    begun = [m.month for m in made if m.month <= closed]
    return months_between(min(begun, default=closed), closed)


def decide(standing: Standing, closed: str, runs: Sequence[RunFact] = ()) -> list[Decision]:
    """What a tick does about the cohort when `closed` is the month just closed; at least one decision.

    Args:
        standing: How the cohort stands.
        closed: The month just closed.
        runs: Runs of the cohort that are under way, and those that the schedule asked for before.
    """
    spec = standing.spec
    if not spec.enabled:
        return [Decision(spec.name, closed, "skip", "the cohort is retired (enabled: false)")]
    if not spec.schedule.enabled:
        return [Decision(spec.name, closed, "skip", "the cohort is not scheduled (schedule: enabled: false)")]
    due = due_months(standing.made, closed)
    if not due:
        newest = max(m.month for m in standing.made)
        return [Decision(spec.name, closed, "skip", f"made already (the newest month is {newest[:7]})")]
    known = {m.month: m.inputs for m in standing.made if m.inputs is not None}
    found = []
    for month in due:
        before = max((m for m in known if m < month), default=None)
        own = _runs_of(runs, spec.name, month)
        decision = _about(standing, month, None if before is None else (before, known[before]), own)
        found.append(decision)
        if decision.does != "skip":  # what comes after is compared with it as if it were made already
            with suppress(CohortLoomError):
                known[month] = standing.inputs(month)
    return found


def moved(then: CohortInputs, now: CohortInputs, there: Mapping[str, date]) -> list[str]:
    """In words, where `now` differs from `then` in what counts: deliveries, SQL, columns, split. Empty if nowhere.

    The month and its end are no difference: the next month with the same deliveries knows no more of anybody.

    Args:
        then: What something was made from.
        now: What would count.
        there: The deliveries in the lake, with their days: tells those that count no longer from those that are gone.
    """
    old, new = ({key: rest for key, *rest in inputs.deliveries} for inputs in (then, now))
    words = [f"delivery {key} (as of {new[key][1]}) is new" for key in new if key not in old]
    words += [
        f"delivery {key} was taken in again with another content" for key in new if new[key] != old.get(key, new[key])
    ]
    words += [f"delivery {key} {_left_out(there.get(key), now)}" for key in old if key not in new]
    others = (("sql_sha256", "the SQL"), ("spec_sha256", "the columns"), ("split_fingerprint", "the split key"))
    return words + [f"{what} changed" for name, what in others if getattr(then, name) != getattr(now, name)]


def _left_out(as_of: date | None, now: CohortInputs) -> str:
    """Why a delivery that counted once does not count now; its day is None where the lake has it no more."""
    if as_of is None:
        return "is gone from the lake"
    if as_of > now.as_of_end:
        return f"no longer counts: it is as of {as_of} now"
    return "no longer counts: a newer one replaced it"


def _about(
    standing: Standing, month: str, before: tuple[str, CohortInputs] | None, runs: Mapping[str, RunFact]
) -> Decision:
    """Is this month made, and why (not)?"""
    spec = standing.spec
    skip = partial(Decision, spec.name, month, "skip")
    if month < standing.first:
        return skip(f"the calendar begins with {standing.first[:7]} (COHORTLOOM_START_MONTH)")
    if "running" in runs:
        return Decision(spec.name, month, "running", f"it is being made (run {runs['running'].run_id[:8]})")
    own = next((m for m in standing.made if m.month == month), None)
    if own is None and "asked" in runs:
        return skip(_asked_before(spec.name, month, runs["asked"]))
    landed = would_count(standing.landed, standing.there, month, standing.accumulate)
    if waiting := waiting_words(landed):
        return skip(f"waiting: {waiting}")
    refused = refused_words(landed)
    without = f" ({refused})" if refused else ""
    try:
        now = standing.inputs(month)
    except CohortLoomError as error:
        return skip(f"{error.what} {error.todo}".strip() + without)
    if own is not None:
        return _again(standing, own, now, runs, without)
    make = partial(Decision, spec.name, month, "make")
    if before is None:
        return make(f"nothing was made before{without}")
    since = f"since {before[0][:7]}"
    differences = moved(before[1], now, standing.there)
    if differences:
        return make(f"{'; '.join(differences)} {since}{without}")
    if spec.schedule.always:
        return make(f"inputs are unchanged {since}, but schedule: always{without}")
    return skip(f"inputs are unchanged {since}{without}")


def _again(
    standing: Standing, own: MonthMade, now: CohortInputs, runs: Mapping[str, RunFact], without: str
) -> Decision:
    """A month that was made before it was over: once more if more is known at its end."""
    cohort = standing.spec.name
    differences = moved(own.inputs, now, standing.there) if own.inputs is not None else ["its inputs are not known"]
    if not differences:
        return Decision(
            cohort, own.month, "skip", f"made before it was over, and its inputs are unchanged since{without}"
        )
    words = f"{'; '.join(differences)} since{without}"
    if own.month in standing.published:
        return Decision(cohort, own.month, "skip", f"published before it was over; {words}")
    if "asked" in runs:
        return Decision(cohort, own.month, "skip", _asked_before(cohort, own.month, runs["asked"]))
    return Decision(cohort, own.month, "make", f"made before it was over; {words}")


def _asked_before(cohort: str, month: str, run: RunFact) -> str:
    """The schedule asks for a month once: repeating a failure, or undoing a removal, is for a person to decide."""
    by_hand = f"Again by hand: cohortloom run {cohort} --month {month[:7]}"
    if run.state == "failed":
        return f"its run {run.run_id[:8]} failed: {run.reason or 'no step says why.'} {by_hand}"
    return f"it was made (run {run.run_id[:8]}) and is no longer there. {by_hand}"


def _runs_of(runs: Sequence[RunFact], cohort: str, month: str) -> dict[str, RunFact]:
    """Of this month: the run that is "running", and the one that the schedule "asked" for."""
    found = {}
    for run in runs:
        if (run.cohort, run.month) == (cohort, month):
            if run.asked_as == run_key(cohort, month):
                found["asked"] = run
            if run.state == "running":
                found["running"] = run
    return found
