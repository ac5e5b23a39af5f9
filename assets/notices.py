"""Failed runs are noticed: `failure_notices` for those of the UI's daemon, `note_failed_run` for those of a command.

Reads from Dagster which steps failed and what they said (words of `guarded`, never Dagster's own text, which quotes
errors). Where a notice goes, and that each run gets one, is in `pipeline/workflow/notices.py`.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg

from assets.guard import guarded
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pipeline.store.home import Home
    from pipeline.workflow.notices import Notice

PARTITION_TAG = "dagster/partition"
NO_STEP = "No step failed: the run's process was killed, or it could not be started."


def build_notices() -> list[dg.SensorDefinition]:
    """The sensor that looks at every failed run, whoever started it."""

    @dg.run_failure_sensor(
        name="failure_notices",
        minimum_interval_seconds=30,
        # Runs of the command line belong to no code location, and one that was killed could not tell it itself.
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Writes one line a failed run to `reports/failures.jsonl` and tells the webhook COHORTLOOM_WEBHOOK, "
        "names only. Runs that a command noticed already are not noticed again.",
    )
    @guarded
    def failure_notices(context: dg.RunFailureSensorContext, lake: LakeResource) -> None:
        note_failed_run(context.instance, context.dagster_run.run_id, lake.folder(), context.log.warning)

    return [failure_notices]


def note_failed_run(
    instance: dg.DagsterInstance, run_id: str, home: "Home", log: Callable[[str], None] | None = None
) -> None:
    """Leave the notice of a run that failed, once; what cannot be written or told is logged and raises nothing.

    Args:
        instance: Where the run is.
        run_id: Its id; an unknown one is passed over.
        home: Where the notices are.
        log: Takes one line about what could not be done; default the log of this process.
    """
    from pipeline.errors import CohortLoomError
    from pipeline.workflow.notices import notify

    say = log or logging.getLogger("cohortloom").warning
    run = instance.get_run_by_id(run_id)
    if run is None:
        return
    try:
        told = notify(home, notice_of(instance, run))
    except CohortLoomError as error:
        say(f"Run {run_id[:8]} failed, and its notice could not be written: {error}")
        return
    if told.problem:
        say(f"Run {run_id[:8]} failed, and nobody was told: {told.problem}")


def notice_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> "Notice":
    """What there is to tell of a failed run."""
    from pipeline.workflow.notices import Notice

    steps, reason = failed_steps(instance, run.run_id)
    return Notice(run.run_id, run.job_name, run.tags.get(PARTITION_TAG, ""), steps, reason or NO_STEP)


def failed_steps(instance: dg.DagsterInstance, run_id: str) -> tuple[tuple[str, ...], str]:
    """The assets whose step failed in a run, and what the first of them said."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    events = [entry.dagster_event for entry in entries if entry.dagster_event is not None]
    return tuple(asset_of(event) for event in events), reason_of(events[0]) if events else ""


def asset_of(event: dg.DagsterEvent) -> str:
    """The asset (or check) that the step of an event makes."""
    return (event.step_key or "").replace("__", "/")


def reason_of(event: dg.DagsterEvent) -> str:
    """What a failed step said: our words, else the class of its error."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description
    if data.error is not None and data.error.cls_name:
        return f"Unexpected {data.error.cls_name}."
    return "Its process ended without saying why (killed, or out of memory?)."
