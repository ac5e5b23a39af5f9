"""`inventory`: the state of every cell as a table, daily. Unpartitioned, with a job of its own.

Also what only Dagster knows and others ask for as plain values: runs under way or failed (`known_runs`), what the
schedule asked for (`asked_runs`), versions of code (`known_code`). What the states mean: `pipeline/workflow/`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import dagster as dg
from dagster._core.definitions.data_version import CODE_VERSION_TAG

from assets.guard import guarded
from assets.ingest import OWNERS, RETRY
from assets.notices import PARTITION_TAG, failed_steps
from assets.partitions import cohort_month_key
from assets.reporting import markdown_table, plain
from pipeline.features.spec import load_book
from resources.lake import LakeResource

if TYPE_CHECKING:
    from pipeline.workflow.calendar import RunFact
    from pipeline.workflow.inventory import Code

GROUP = "operations"
RUN_KEY_TAG = "dagster/run_key"
SCHEDULE_TAG = "dagster/schedule_name"
LAST_ASSET = "leaderboard"
MOST_FAILURES = 500
"""Failed runs that are looked at, newest first."""
OPEN = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def build_inventory(code_now: Mapping[str, str]) -> dg.AssetsDefinition:
    """The inventory; `code_now` gives the version of code of every asset of the graph."""

    @dg.asset(
        key="inventory",
        group_name=GROUP,
        kinds={"parquet"},
        owners=OWNERS,
        tags={"phi": "false"},
        description="One row an asset of a cohort-month: ok, waiting, stale, missing, failed or run failed, and why.",
        code_version="1",
        retry_policy=RETRY,
        check_specs=[
            dg.AssetCheckSpec(
                "no_failed_partitions",
                asset="inventory",
                description="No asset of any cohort-month failed, and no run failed that was not made good since.",
            ),
            dg.AssetCheckSpec(
                "nothing_stale",
                asset="inventory",
                description="Nothing that was made rests on other inputs, settings or code than those of today.",
            ),
        ],
    )
    @guarded
    def inventory(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from pipeline.workflow.inventory import failures, inventory_step, staleness
        from pipeline.workflow.inventory import inventory as take

        instance, store = context.instance, lake.open()
        cells = take(store, load_book(), known_runs(instance), code=known_code(instance, code_now))
        version = inventory_step(store, cells, run_id=context.run.run_id)
        shown = [
            {"cohort": c.cohort, "month": c.month[:7], "state": c.state, "why": c.words, "what to do": c.todo}
            for c in cells
            if c.state != "ok"
        ]
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(version.sha256),
            metadata=plain({"cells": len(cells), "ok": len(cells) - len(shown), "not ok": markdown_table(shown)}),
        )
        for name, bad, severity in (
            ("no_failed_partitions", failures(cells), dg.AssetCheckSeverity.ERROR),
            ("nothing_stale", staleness(cells), dg.AssetCheckSeverity.WARN),
        ):
            words = ", ".join(f"{c.cohort} {c.month[:7]}" for c in bad)
            yield dg.AssetCheckResult(
                check_name=name,
                passed=not bad,
                severity=severity,
                description=f"{len(bad)} cells: {words}. See `cohortloom status`." if bad else None,
            )

    return inventory


def code_versions(assets: Iterable[dg.AssetsDefinition]) -> dict[str, str]:
    """Asset key to its version of code, for the steps that everything else rests on.

    A generator's drawing and judging share the version of its training, so the training says it for all three.
    """
    specs = [spec for asset in assets for spec in asset.specs]
    return {
        spec.key.to_user_string(): spec.code_version
        for spec in specs
        if spec.code_version and spec.key.path[0] in ("features", "model", "references")
    }


def known_runs(instance: dg.DagsterInstance) -> "list[RunFact]":
    """Runs under way, and failed ones of which nothing was made good since; those of partitions only, oldest first."""
    found = [_fact(run, "running") for run in instance.get_runs(filters=dg.RunsFilter(statuses=OPEN)) if _place(run)]
    failed = instance.get_run_records(
        filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), limit=MOST_FAILURES
    )
    for record in failed:
        run = record.dagster_run
        if not _place(run):
            continue
        steps, reason = failed_steps(instance, run.run_id)
        ended = record.end_time or record.update_timestamp.timestamp()
        bad = tuple(step for step in steps if not _made_since(instance, step, run, ended))
        if bad or (not steps and not _made_since(instance, LAST_ASSET, run, ended)):
            found.append(_fact(run, "failed", steps=bad, reason=reason))
    return found[::-1]


def asked_runs(instance: dg.DagsterInstance, schedule: str, keys: Iterable[str]) -> "list[RunFact]":
    """The newest run that a schedule asked for under each of these keys.

    Dagster compares run keys only within one tick, so whoever must ask once for all time has to look himself.
    """
    found = []
    for key in keys:
        tags = {RUN_KEY_TAG: key, SCHEDULE_TAG: schedule}
        for run in instance.get_runs(filters=dg.RunsFilter(tags=tags), limit=1):
            if run.status == dg.DagsterRunStatus.FAILURE:
                steps, reason = failed_steps(instance, run.run_id)
                found.append(_fact(run, "failed", asked_as=key, steps=steps, reason=reason))
            elif run.status == dg.DagsterRunStatus.CANCELED:
                found.append(_fact(run, "failed", asked_as=key, reason="It was cancelled."))
            else:
                found.append(_fact(run, "running" if run.status in OPEN else "ended", asked_as=key))
    return found


def known_code(instance: dg.DagsterInstance, code_now: Mapping[str, str]) -> "Code":
    """Versions of code: of the graph, and of what made each cell, as the newest materialisations say."""
    from pipeline.workflow.inventory import Code

    made: dict[str, dict[tuple[str, str], str]] = {}
    for asset in code_now:
        key, kind = dg.AssetKey(asset.split("/")), dg.DagsterEventType.ASSET_MATERIALIZATION
        newest = list(instance.get_latest_storage_id_by_partition(key, kind).values())
        if newest:
            records = dg.AssetRecordsFilter(key, storage_ids=newest)
            events = instance.fetch_materializations(records, limit=len(newest)).records
            made[asset] = dict(_code_of(event) for event in events)
    return Code(dict(code_now), made)


def _code_of(record: dg.EventLogRecord) -> tuple[tuple[str, str], str]:
    """Cell and version of code of a materialisation."""
    made = record.asset_materialization
    cohort, _, month = ((made.partition if made is not None else None) or "").partition("|")
    return (cohort, month), ((made.tags if made is not None else None) or {}).get(CODE_VERSION_TAG, "")


def _place(run: dg.DagsterRun) -> tuple[str, str, str] | None:
    """Cohort, month and delivery that a run is about; None for a run without partition."""
    key = run.tags.get(PARTITION_TAG, "")
    cohort, divided, month = key.partition("|")
    if divided:
        return cohort, month, ""
    return ("", "", key) if key else None


def _fact(
    run: dg.DagsterRun,
    state: Literal["running", "failed", "ended"],
    *,
    asked_as: str = "",
    steps: tuple[str, ...] = (),
    reason: str = "",
) -> "RunFact":
    from pipeline.workflow.calendar import RunFact

    cohort, month, delivery = _place(run) or ("", "", "")
    return RunFact(run.run_id, state, cohort, month, delivery, asked_as, steps, reason)


def _made_since(instance: dg.DagsterInstance, asset: str, run: dg.DagsterRun, moment: float) -> bool:
    """Was an asset (or, for the step of a check, the leaderboard) of the run's cell made after a moment?"""
    cohort, month, _ = _place(run) or ("", "", "")
    if not month:
        return False
    key = dg.AssetKey(asset.split("/"))
    key = key if instance.has_asset_key(key) else dg.AssetKey(LAST_ASSET)
    partition = str(cohort_month_key(cohort, month))
    records = dg.AssetRecordsFilter(key, asset_partitions=[partition], after_timestamp=moment)
    return bool(instance.fetch_materializations(records, limit=1).records)
