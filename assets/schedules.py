"""The calendar: `regenerate_monthly` asks for the months that are due, `inventory_daily` looks whether all is well.

What is due is decided in `pipeline/workflow/calendar.py`; here Dagster is asked what runs and what was asked for
before. `docs/schedule.md` says in words what a tick does.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._utils.schedules import get_next_cron_tick, is_valid_cron_schedule

from assets.guard import guarded
from assets.inventory import asked_runs, known_runs
from assets.jobs import COHORT_MONTH_JOB, INVENTORY_JOB
from assets.partitions import cohort_month_key, start_month
from pipeline.errors import CohortLoomError, ConfigError
from pipeline.features.spec import CohortBook, load_book
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pipeline.store.lake import Lake
    from pipeline.workflow.calendar import Decision

REGENERATE = "regenerate_monthly"
VARIABLE = "COHORTLOOM_SCHEDULE"
DEFAULT_CRON = "0 3 2 * *"
"""At 03:00 UTC on the second: a day for the deliveries of the month's last day to land."""
INVENTORY_CRON = "0 4 * * *"
WHY_TAG = "cohortloom/why"


def cron() -> str:
    """When the schedule ticks (UTC): COHORTLOOM_SCHEDULE, or the default.

    Raises:
        ConfigError: the variable is no cron expression.
    """
    text = os.environ.get(VARIABLE) or DEFAULT_CRON
    if not is_valid_cron_schedule(text):
        raise ConfigError(
            f"{VARIABLE} is '{text}', which is no cron expression.", todo=f"Write five fields, e.g. '{DEFAULT_CRON}'."
        )
    return text


def next_tick(now: datetime) -> datetime:
    """The next moment at which the schedule ticks."""
    return get_next_cron_tick(cron(), now.astimezone(UTC), "UTC")


def build_schedules(jobs: Mapping[str, UnresolvedAssetJobDefinition]) -> list[dg.ScheduleDefinition]:
    """The schedules; `jobs` are all jobs by name.

    Both are on: the calendar is a promise, and a promise that waits for somebody to press a switch is none. Nothing
    that it does leaves the house (a release is signed by people), a cohort without new deliveries is not made again,
    and it only runs while the UI's daemon does.
    """

    @dg.schedule(
        name=REGENERATE,
        cron_schedule=cron(),
        job=jobs[COHORT_MONTH_JOB],
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Makes the month just closed of every scheduled cohort, and closed months that were missed. A month is "
        "asked for once, and skipped, with the reason, where its inputs are those of the month made before.",
    )
    @guarded
    def regenerate_monthly(
        context: dg.ScheduleEvaluationContext, lake: LakeResource
    ) -> list[dg.RunRequest] | dg.SkipReason:
        from pipeline.workflow.standing import snapshot

        book, seen = load_book(), snapshot(lake.open())
        found = decisions(seen, book, context.scheduled_execution_time, context.instance)
        lines = [decision.words for decision in found] + stale_lines(seen, book)
        for line in lines:
            context.log.info(line)
        requests = [_request(decision) for decision in found if decision.make]
        return requests or dg.SkipReason("; ".join(lines) or "there is no cohort")

    daily = dg.ScheduleDefinition(
        name="inventory_daily",
        job=jobs[INVENTORY_JOB],
        cron_schedule=INVENTORY_CRON,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Looks over every cohort-month; its checks fail where something failed or went stale.",
    )
    return [regenerate_monthly, daily]


def decisions(lake: "Lake", book: CohortBook, moment: datetime, instance: dg.DagsterInstance) -> "list[Decision]":
    """What a tick at this moment does about every cohort; a cohort that cannot be read stops no other."""
    from pipeline.workflow.calendar import Decision, closed_month, decide, due_months, run_key
    from pipeline.workflow.standing import published_months, snapshot, standing

    seen, closed = snapshot(lake), closed_month(moment)
    published, runs = published_months(lake), known_runs(instance)
    broken = {name: words for name, words in book.broken.items() if not name.startswith(("source:", "view:"))}
    found = [Decision(name, closed, "skip", f"its file is broken: {words}") for name, words in broken.items()]
    for spec in book.cohorts.values():
        try:
            stand = standing(seen, book, spec, start_month(), published.get(spec.name, frozenset()), runs)
            keys = [run_key(spec.name, month) for month in due_months(stand.made, closed)]
            found += decide(stand, closed, [*runs, *asked_runs(instance, REGENERATE, keys)])
        except CohortLoomError as error:
            found.append(Decision(spec.name, closed, "skip", str(error)))
    return sorted(found, key=lambda decision: (decision.cohort, decision.month))


def stale_lines(lake: "Lake", book: CohortBook) -> list[str]:
    """One line a month that was made and whose inputs have changed since: nobody makes it again unasked."""
    from pipeline.workflow.standing import published_months, snapshot, stale_of

    seen, published = snapshot(lake), published_months(lake)
    found = []
    for spec in book.cohorts.values():
        if spec.enabled:
            for month in stale_of(seen, book, spec.name, published.get(spec.name, frozenset())):
                todo = "it is published and stays" if month.published else f"cohortloom backfill {spec.name} --stale"
                found.append(f"{spec.name} {month.month[:7]}: stale: {month.words} ({todo})")
    return found


def _request(decision: "Decision") -> dg.RunRequest:
    return dg.RunRequest(
        run_key=decision.run_key,
        partition_key=cohort_month_key(decision.cohort, decision.month),
        tags={"dagster/priority": "1", WHY_TAG: decision.reason[:200]},
    )
