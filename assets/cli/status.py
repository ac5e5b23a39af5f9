"""`cohortloom status`: what failed, is missing, stale or waits, and what the schedule does next. Changes nothing."""

from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.display import next_steps, print_json, say, show

if TYPE_CHECKING:
    import dagster as dg

    from pipeline.features.spec import CohortBook
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.calendar import Decision
    from pipeline.workflow.inventory import CellState

MOST_STEPS = 8
"""Commands that are named at the end."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(status)


def status(
    cohort: Annotated[str | None, typer.Argument(help="Only this cohort.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """What is stale, missing, failed or waits, what the schedule does next, and what to type next."""
    from assets.instance import open_instance, prepare_dagster_home
    from pipeline.features.spec import load_book
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

    home = Home.from_environment().ensure()
    prepare_dagster_home(home)
    from assets.inventory import known_code, known_runs
    from assets.schedules import decisions, next_tick
    from pipeline.workflow.inventory import inventory

    book, lake, now = load_book(), Lake(home), datetime.now(UTC)
    if cohort is not None and cohort not in book.broken:
        book.cohort(cohort)
    tick = next_tick(now)
    with open_instance(home) as instance:
        cells = inventory(lake, book, known_runs(instance), now=now, code=known_code(instance, _code_now()))
        planned = decisions(lake, book, tick, instance)
        ticking = _ticking(instance)
    cells = [c for c in cells if cohort in (None, c.cohort)]
    planned = [d for d in planned if cohort in (None, d.cohort)]
    if as_json:
        print_json(_as_json(home, cells, planned, tick, ticking))
        return
    idle = _without_delivery(lake, book) if cohort is None else []
    _print(home, cells, planned, idle, tick, ticking)
    for name, reason in book.broken.items():
        if name.startswith("view:"):
            say(f"disabled: {name}: {reason}")


def _code_now() -> dict[str, str]:
    """The versions of code of the graph as it is now."""
    import dagster as dg

    from assets.definitions import defs
    from assets.inventory import code_versions

    return code_versions(a for a in defs.assets or [] if isinstance(a, dg.AssetsDefinition))


def _without_delivery(lake: "Lake", book: "CohortBook") -> list[str]:
    """The shipped cohorts of whose source nothing has come: most of them, in most houses."""
    from pipeline.features.build import deliveries_of
    from pipeline.features.spec import BUILT_IN_COHORTS
    from pipeline.ingest.delivery import landed, waiting

    came = {delivery.source for delivery in landed(lake.home)} | {key.partition("--")[0] for key in waiting(lake.home)}
    shipped = {name: spec for name, spec in book.cohorts.items() if spec.folder == BUILT_IN_COHORTS and spec.enabled}
    silent = {s for s in {c.source for c in shipped.values()} - came if not deliveries_of(book.source(s), lake)}
    return sorted(name for name, spec in shipped.items() if spec.source in silent)


def _ticking(instance: "dg.DagsterInstance") -> bool:
    """Is a daemon at work that lets the schedule tick?"""
    return instance.get_daemon_statuses(["SCHEDULER"])["SCHEDULER"].healthy is True


def _print(
    home: "Home", cells: "list[CellState]", planned: "list[Decision]", idle: list[str], tick: datetime, ticking: bool
) -> None:
    """All for people; cohorts without a delivery (`idle`) in one line."""
    from pipeline.workflow.inventory import STATES
    from pipeline.workflow.notices import FILE, notices
    from pipeline.workflow.report_index import index_path

    bad = sorted((c for c in cells if c.state != "ok"), key=lambda c: (-STATES.index(c.state), c.cohort, c.month))
    rows = [
        {
            "cohort": c.cohort,
            "month": c.month[:7],
            "state": c.state,
            "published": "yes" if c.published else "",
            "why": c.words,
        }
        for c in bad
    ]
    fine = len(cells) - len(bad)
    nothing = f"Cohort-months in order: {fine}, all of them." if fine else "Nothing was made yet."
    show(rows, title=f"{len(bad)} cohort-months to look at, {fine} in order", as_json=False, empty=nothing)
    say("")
    plan = _plan([decision for decision in planned if decision.cohort not in idle])
    when = f"{tick:%Y-%m-%d %H:%M} UTC"
    title = f"The schedule's next tick, {when}, as things stand" if ticking else f"The schedule would tick on {when}"
    show(plan, title=title, as_json=False, empty="There is no cohort to schedule.")
    if idle:
        say(f"Without a delivery so far: {', '.join(idle)} (cohortloom deliver SOURCE PATH).")
    if not ticking:
        say("No scheduler is at work: it runs while the UI does (cohortloom ui).")
    failed = len(notices(home))
    if failed:
        say(f"{failed} failed run{'s' * (failed > 1)} noted in {home.reports / FILE}")
    if index_path(home).is_file():
        say(f"All evaluations: {index_path(home)}")
    next_steps(_steps(bad, ticking))


def _plan(planned: "list[Decision]") -> list[dict[str, str]]:
    """The decisions as rows; months one after the other with the same answer are one row."""
    rows = []
    for (cohort, make, reason), alike in groupby(planned, key=lambda d: (d.cohort, d.make, d.reason)):
        months = [decision.month[:7] for decision in alike]
        span = months[0] if len(months) == 1 else f"{months[0]}..{months[-1]}"
        rows.append({"cohort": cohort, "month": span, "schedule": "makes it" if make else "leaves it", "why": reason})
    return rows


def _todo(cell: "CellState", ticking: bool) -> str:
    """The command that mends a cell; a backfill goes over the UI only where one is at work."""
    return cell.todo if ticking or not cell.todo.startswith("cohortloom backfill") else f"{cell.todo} --local"


def _steps(bad: "list[CellState]", ticking: bool) -> list[str]:
    """The commands to type next, the worst cell first, each once."""
    found = dict.fromkeys(_todo(cell, ticking) for cell in bad if cell.todo)
    shown = list(found)[:MOST_STEPS]
    more = len(found) - len(shown)
    return [*shown, *([f"... and {more} more: cohortloom status --json"] if more else [])] or ["nothing to do"]


def _as_json(
    home: "Home", cells: "list[CellState]", planned: "list[Decision]", tick: datetime, ticking: bool
) -> dict[str, Any]:
    from pipeline.workflow.notices import notices

    return {
        "cells": [
            {
                "cohort": c.cohort,
                "month": c.month[:7],
                "state": c.state,
                "published": c.published,
                "why": c.words,
                "todo": _todo(c, ticking),
                "assets": [{"asset": a.asset, "state": a.state, "why": a.words} for a in c.assets],
            }
            for c in cells
        ],
        "next_tick": {
            "at": tick.isoformat(),
            "scheduler_running": ticking,
            "decisions": [{"cohort": d.cohort, "month": d.month[:7], "make": d.make, "why": d.reason} for d in planned],
        },
        "failures": notices(home),
    }
