"""What a tick decides, from plain values: no lake, no orchestrator, no clock."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.errors import NotFoundError
from pipeline.features.build import CohortInputs
from pipeline.features.spec import CohortSpec
from pipeline.workflow.calendar import (
    Landed,
    MonthMade,
    RunFact,
    Standing,
    closed_month,
    decide,
    due_months,
    moved,
    run_key,
)

if TYPE_CHECKING:
    from collections.abc import Callable

DAYS = {"src--a": "2026-01-10", "src--b": "2026-03-10", "src--c": "2026-05-10"}


def inputs(month: str, deliveries: dict[str, str] | None = None, **other: str) -> CohortInputs:
    """The inputs of a month: of all deliveries, those that are dated in it or before."""
    known = DAYS if deliveries is None else deliveries
    usable = tuple((k, f"hash of {k}", date.fromisoformat(d)) for k, d in known.items() if d[:7] <= month[:7])
    if not usable:
        raise NotFoundError("Source 'src' has no delivery by the end of this month.", todo="The first usable is later.")
    hashes = {"sql_sha256": "sql", "spec_sha256": "columns", "split_fingerprint": "key"} | other
    return CohortInputs("c", month, date.fromisoformat(month), usable, provisional=False, **hashes)


def made(*months: str, early: str = "") -> list[MonthMade]:
    return [MonthMade(f"{m}-01", inputs(f"{m}-01"), early=m == early) for m in months]


def stand(
    months: list[MonthMade], *, now: Callable[[str], CohortInputs] = inputs, schedule: Any = None, **other: Any
) -> Standing:
    spec = CohortSpec(
        name="c", source="src", subject="row", unit="row", sql="c.sql", generators={}, schedule=schedule or {}
    )
    return Standing(**{"spec": spec, "first": "2026-01-01", "made": months, "inputs": now, **other})


def said(standing: Standing, closed: str, *runs: RunFact) -> list[tuple[str, bool, str]]:
    return [(d.month[:7], d.make, d.reason) for d in decide(standing, f"{closed}-01", runs)]


@pytest.mark.parametrize(
    ("moment", "month"),
    [
        (datetime(2026, 3, 2, 3, tzinfo=UTC), "2026-02-01"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2025-12-01"),
        (datetime(2026, 2, 28, 23, 59, tzinfo=UTC), "2026-01-01"),
    ],
)
def test_the_month_just_closed(moment: datetime, month: str) -> None:
    assert closed_month(moment) == month


def test_a_cohort_that_was_never_made_begins_with_the_month_just_closed() -> None:
    assert said(stand([]), "2026-06") == [("2026-06", True, "nothing was made before")]
    (decision,) = said(stand([]), "2025-12")
    assert decision == ("2025-12", False, "the calendar begins with 2026-01 (COHORTLOOM_START_MONTH)")
    late = stand([], first="2025-01-01")
    assert said(late, "2025-12")[0][2].startswith("Source 'src' has no delivery by the end of this month. The first")


def test_after_downtime_every_month_since_the_newest_one_is_looked_at_and_compared_with_the_one_before() -> None:
    assert said(stand(made("2026-02")), "2026-06") == [
        ("2026-03", True, "delivery src--b (as of 2026-03-10) is new since 2026-02"),
        ("2026-04", False, "inputs are unchanged since 2026-03"),
        ("2026-05", True, "delivery src--c (as of 2026-05-10) is new since 2026-03"),
        ("2026-06", False, "inputs are unchanged since 2026-05"),
    ]


def test_always_makes_what_is_unchanged() -> None:
    (decision,) = said(stand(made("2026-05"), schedule={"always": True}), "2026-06")
    assert decision == ("2026-06", True, "inputs are unchanged since 2026-05, but schedule: always")


def test_made_already_is_a_reason_also_when_the_clock_was_set_back() -> None:
    assert said(stand(made("2026-04", "2026-05")), "2026-05")[0][1:] == (
        False,
        "made already (the newest month is 2026-05)",
    )
    assert said(stand(made("2026-04", "2026-05")), "2026-02")[0][1] is False


def test_a_month_made_before_it_was_over_is_made_again_only_if_more_is_known() -> None:
    early = made("2026-02", "2026-03", early="2026-03")
    assert said(stand(early), "2026-03") == [
        ("2026-03", False, "made before it was over, and its inputs are unchanged since")
    ]

    def more(month: str) -> CohortInputs:
        return inputs(month, {**DAYS, "src--late": "2026-03-29"})

    words = "delivery src--late (as of 2026-03-29) is new since"
    assert said(stand(early, now=more), "2026-03") == [("2026-03", True, f"made before it was over; {words}")]
    out = stand(early, now=more, published=frozenset({"2026-03-01"}))
    assert said(out, "2026-03") == [("2026-03", False, f"published before it was over; {words}")]
    only = made("2026-03", early="2026-03")
    assert [m for m, _, _ in said(stand(only), "2026-05")] == ["2026-03", "2026-04", "2026-05"]
    assert due_months(made("2026-06", early="2026-06"), "2026-05-01") == ["2026-05-01"]


def test_a_month_is_asked_for_once() -> None:
    key = run_key("c", "2026-03-01")
    cell = {"cohort": "c", "month": "2026-03-01"}
    running = RunFact("12345678-9", "running", **cell)
    failed = RunFact("12345678-9", "failed", **cell, asked_as=key, reason="The SQL gives no row.")
    gone = RunFact("12345678-9", "ended", **cell, asked_as=key)
    by_hand = "Again by hand: cohortloom run c --month 2026-03"
    standing = stand(made("2026-02"))
    assert said(standing, "2026-03", running)[0] == ("2026-03", False, "it is being made (run 12345678)")
    assert said(standing, "2026-03", failed)[0][2] == f"its run 12345678 failed: The SQL gives no row. {by_hand}"
    assert said(standing, "2026-03", gone)[0][2] == f"it was made (run 12345678) and is no longer there. {by_hand}"
    # Somebody else's failed run is no reason to leave it: the schedule has not asked yet.
    assert said(standing, "2026-03", RunFact("1", "failed", **cell))[0][1] is True
    # What comes after a month that is being made is compared with it, after one that failed with what was made.
    assert said(standing, "2026-04", running)[1] == ("2026-04", False, "inputs are unchanged since 2026-03")
    assert said(standing, "2026-04", failed)[1][1] is True


def test_a_delivery_that_landed_is_waited_for_and_a_refused_one_is_not() -> None:
    waits = Landed("src--x", date(2026, 3, 20))
    refused = Landed("src--x", date(2026, 3, 20), refused="Too many records are in quarantine.")
    assert said(stand(made("2026-02"), landed=[waits]), "2026-03") == [
        ("2026-03", False, "waiting: src--x landed and is not taken in yet")
    ]
    (decision,) = said(stand(made("2026-02"), landed=[refused]), "2026-03")
    assert decision[1:] == (
        True,
        "delivery src--b (as of 2026-03-10) is new since 2026-02 (src--x was refused)",
    )
    assert said(stand(made("2026-01"), landed=[waits]), "2026-02")[0][2] == "inputs are unchanged since 2026-01"


def test_where_the_newest_delivery_replaces_the_others_an_older_one_is_neither_waited_for_nor_named() -> None:
    landed = [
        Landed("src--w", date(2026, 3, 1)),
        *(Landed(f"src--r{day}", date(2026, 3, day), refused="Too many.") for day in range(2, 6)),
    ]
    there = {key: date.fromisoformat(day) for key, day in DAYS.items()}
    march = stand(made("2026-02"), landed=landed, there=there, accumulate="replace")
    assert said(march, "2026-03")[0][1:] == (True, "delivery src--b (as of 2026-03-10) is new since 2026-02")
    # Before the newer one is there they would count, and so they would where deliveries add up.
    del there["src--b"]
    alone = stand(made("2026-02"), landed=landed[1:], there=there, accumulate="replace")
    words = "(src--r2, src--r3, src--r4 and 1 more were refused)"
    assert said(alone, "2026-03")[0][2].endswith(words)
    merged = stand(made("2026-02"), landed=landed, there={key: date.fromisoformat(d) for key, d in DAYS.items()})
    assert said(merged, "2026-03")[0][2] == "waiting: src--w landed and is not taken in yet"


def test_cohorts_that_are_not_scheduled_say_so() -> None:
    assert "schedule: enabled: false" in said(stand([], schedule={"enabled": False}), "2026-03")[0][2]
    retired = stand([])
    retired = Standing(**{**vars(retired), "spec": retired.spec.model_copy(update={"enabled": False})})
    assert said(retired, "2026-03")[0][2] == "the cohort is retired (enabled: false)"


def test_what_moved_is_said_in_words() -> None:
    then = inputs("2026-03-01")
    corrected = CohortInputs.from_dict(then.to_dict() | {"month": "2026-04-01"})
    assert moved(then, corrected, {}) == []
    other = then.to_dict()
    other["deliveries"] = [{**other["deliveries"][0], "sha256": "another"}]
    assert moved(then, CohortInputs.from_dict(other), {}) == [
        "delivery src--a was taken in again with another content",
        "delivery src--b is gone from the lake",
    ]
    newer = CohortInputs.from_dict(then.to_dict() | {"deliveries": then.to_dict()["deliveries"][1:]})
    for day, why in (("2026-01-10", "a newer one replaced it"), ("2026-04-01", "it is as of 2026-04-01 now")):
        words = moved(then, newer, {"src--a": date.fromisoformat(day)})
        assert words == [f"delivery src--a no longer counts: {why}"]
    assert moved(then, inputs("2026-03-01", sql_sha256="x", spec_sha256="y", split_fingerprint="z"), {}) == [
        "the SQL changed",
        "the columns changed",
        "the split key changed",
    ]
