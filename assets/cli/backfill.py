"""`cohortloom backfill`: many cells at once, through a running UI or as processes of this command."""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.display import next_steps, print_json, say, show
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from assets.backfill import RunningUI
    from assets.backfill_plan import Plan, Progress
    from assets.local_backfill import LocalBackfill
    from pipeline.features.spec import CohortBook
    from pipeline.store.home import Home

URL = "http://127.0.0.1:3000"
POLL_SECONDS = 2.0
LOCAL = "local-"


def register(app: typer.Typer) -> None:
    """Add the command of this module to the app."""
    app.command()(backfill)


def backfill(
    cohort: Annotated[list[str] | None, typer.Argument(help="Cohorts; see `cohortloom cohorts`.")] = None,
    months: Annotated[str | None, typer.Option(help="2026-01..2026-10, or one month.")] = None,
    generator: Annotated[
        list[str] | None, typer.Option("--generator", "-g", help="Only these generators; repeat for more.")
    ] = None,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale",
            help="Only months whose inputs have changed since or whose making was cut off, and that are not published.",
        ),
    ] = False,
    preset: Annotated[
        str | None, typer.Option(help="Settings that every training starts from: quick, paper, ...")
    ] = None,
    url: Annotated[str, typer.Option(help="Where the UI of this home runs.")] = URL,
    wait: Annotated[bool, typer.Option("--wait", help="Stay and show how far it is.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Without a UI: processes of this command.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="With --local: cells at a time.")] = 2,
    resume: Annotated[str | None, typer.Option(metavar="ID", help="Make what this backfill has not made.")] = None,
    cancel: Annotated[str | None, typer.Option(metavar="ID", help="Stop this backfill.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Make many months of one or more cohorts: over a running UI, or with --local without one."""
    from pipeline.store.home import Home

    named = bool(cohort or months or generator or stale or preset)
    if sum((named, resume is not None, cancel is not None)) != 1:
        raise ConfigError(
            "Name cohorts and --months, or a backfill to --resume or to --cancel.",
            todo="For example: cohortloom backfill demo --months 2026-01..2026-03",
        )
    home = Home.from_environment().ensure()
    if cancel is not None:
        _cancel(home, cancel, url)
    elif resume is not None:
        if resume.startswith(LOCAL):
            _resume_here(home, resume, jobs, as_json=as_json)
        else:
            _resume_there(home, resume, url, wait=wait, as_json=as_json)
    else:
        plan = _plan(home, cohort or [], months, generator, preset, only_stale=stale)
        if plan is None:
            say("Nothing is stale: there is nothing to make.")
        elif local:
            _begin_here(home, plan, jobs, as_json=as_json)
        else:
            _begin_there(home, plan, url, wait=wait, as_json=as_json)


def _plan(
    home: "Home",
    cohorts: list[str],
    months: str | None,
    generators: list[str] | None,
    preset: str | None,
    *,
    only_stale: bool,
) -> "Plan | None":
    """What is asked for; None if only stale cells are wanted and there is none."""
    from assets.instance import prepare_dagster_home

    prepare_dagster_home(home)
    from assets.backfill_plan import Plan, check_deliveries, months_of, plan_backfill, require_generators
    from assets.partitions import months as calendar
    from pipeline.features.spec import load_book
    from pipeline.generators.registry import generator_names
    from pipeline.store.lake import Lake

    book = load_book()
    require_generators(generators or (), generator_names())
    if months is None and not only_stale:
        raise ConfigError("Which months?", todo="Say --months 2026-01..2026-10, or --stale.")
    wanted = months_of(months) if months else calendar().get_partition_keys()
    plan = plan_backfill(book, cohorts, wanted, generators=generators, preset=preset)
    if not only_stale:
        check_deliveries(plan, book, Lake(home))
        return plan
    stale = {name: _stale_months(home, book, name) for name in dict.fromkeys(cohorts)}
    cells = tuple((name, month) for name, month in plan.cells if month in stale[name])
    return Plan(cells, plan.generators, plan.preset) if cells else None


def _stale_months(home: "Home", book: "CohortBook", cohort: str) -> set[str]:
    """Months whose inputs have changed since and that may be made again; says which are published and stay."""
    from pipeline.store.lake import Lake
    from pipeline.workflow.standing import stale_months

    found = stale_months(Lake(home), book, cohort)
    kept = sorted(m.month[:7] for m in found if m.published)
    if kept:
        say(f"{cohort}: published, so left as they are: {', '.join(kept)}")
    return {m.month for m in found if not m.published}


def _begin_there(home: "Home", plan: "Plan", url: str, *, wait: bool, as_json: bool) -> None:
    ui = _ui(home, url)
    id = ui.launch(plan)
    say(f"Backfill {id}: {plan.title}, {_cells(len(plan.cells))}.")
    _watch_there(ui, id, wait=wait, as_json=as_json)


def _resume_there(home: "Home", id: str, url: str, *, wait: bool, as_json: bool) -> None:
    ui = _ui(home, url)
    new = ui.resume(id)
    say(f"Backfill {new}: what {id} had not made.")
    _watch_there(ui, new, wait=wait, as_json=as_json)


def _watch_there(ui: "RunningUI", id: str, *, wait: bool, as_json: bool) -> None:
    import time

    if not wait:
        if as_json:
            print_json({"backfill": id, "page": ui.page(id)})
        # Dagster's daemon looks at backfills every thirty seconds, and must have looked twice.
        say("The first runs begin within half a minute; Dagster reports a backfill complete after a minute at least.")
        next_steps([f"watch it: {ui.page(id)}", f"stop it:  cohortloom backfill --cancel {id} --url {ui.url}"])
        return
    with _display("backfill") as update:
        now = ui.progress(id)
        while not now.over:
            update(now, "")
            # Every answer lists all runs: the more there are, the less often it is asked for.
            time.sleep(max(POLL_SECONDS, len(now.cells) / 100))
            now = ui.progress(id)
        update(now, "")
    _finish(id, now, again=f"cohortloom backfill --resume {id} --url {ui.url}", as_json=as_json)


def _begin_here(home: "Home", plan: "Plan", jobs: int, *, as_json: bool) -> None:
    from assets.local_backfill import begin

    _work_here(home, begin(home, plan), jobs, as_json=as_json)


def _resume_here(home: "Home", id: str, jobs: int, *, as_json: bool) -> None:
    from assets.instance import prepare_dagster_home

    prepare_dagster_home(home)
    from assets.local_backfill import take_over

    _work_here(home, take_over(home, id), jobs, as_json=as_json)


def _work_here(home: "Home", backfill: "LocalBackfill", jobs: int, *, as_json: bool) -> None:
    from assets.local_backfill import crowded, limits, work

    bounds = limits(jobs)["COHORTLOOM_RUN_MEMORY"]
    say(f"Backfill {backfill.id}: {backfill.plan.title}, {_cells(len(backfill.plan.cells))}.")
    say(f"{jobs} at a time, each in a process of its own with at most {bounds}. Ctrl-C stops it.")
    if crowded(jobs):
        say("That is more threads than the machine has cores; fewer --jobs may be faster.")
    again = f"cohortloom backfill --resume {backfill.id}"
    try:
        with _display("backfill") as update:
            ended = work(home, backfill, jobs=jobs, on_change=update)
    except KeyboardInterrupt:
        say(f"Stopped; what was made stays. To go on: {again}")
        raise
    _finish(backfill.id, ended, again=again, as_json=as_json)


def _cancel(home: "Home", id: str, url: str) -> None:
    if not id.startswith(LOCAL):
        _ui(home, url).cancel(id)
        say(f"Backfill {id} is being cancelled: queued cells are dropped, running ones are told to stop.")
        return
    from assets.instance import prepare_dagster_home

    prepare_dagster_home(home)
    from assets.local_backfill import cancel

    if cancel(home, id):
        say(f"Backfill {id} was told to stop; what was made stays.")
    else:
        say(f"Nobody works on backfill {id}; there is nothing to stop.")
    next_steps([f"go on: cohortloom backfill --resume {id}"])


def _ui(home: "Home", url: str) -> "RunningUI":
    from assets.instance import prepare_dagster_home

    prepare_dagster_home(home)
    from assets.backfill import RunningUI

    ui = RunningUI(url.rstrip("/"))
    ui.check_serves(home)
    return ui


@contextmanager
def _display(label: str) -> Any:
    """Yields `update(progress, line)`: a bar with counts on a terminal, else one line for each change of the counts."""
    from assets.backfill_plan import STATES
    from assets.cli.display import errors, progress

    last = ""
    with progress(label) as bar:

        def update(now: "Progress", line: str) -> None:
            nonlocal last
            counts = {state: now.count(state) for state in STATES if now.count(state)}
            words = ", ".join(f"{n} {state}" for state, n in counts.items())
            if line:
                say(f"{line} ({words})" if not errors.is_terminal else line)
            elif words != last and not errors.is_terminal:
                say(words)
            last = words
            bar(now.count("done") + now.count("failed"), len(now.cells), counts)

        yield update


def _finish(id: str, ended: "Progress", *, again: str, as_json: bool) -> None:
    """The table of cells, and a non-zero end if some are not there."""
    cells = {key: ended.cells[key] for key in sorted(ended.cells)}
    if as_json:
        print_json({"backfill": id, "status": ended.status, "cells": _rows(cells, ended.runs)})
    else:
        show(_rows(cells, ended.runs), title=f"Backfill {id}", as_json=False, empty="It had no cell.")
    lacking = [key for key, state in cells.items() if state != "done"]
    if lacking:
        reason = f" {ended.reason}" if ended.reason else ""
        raise ConfigError(f"{len(lacking)} of {_cells(len(cells))} were not made.{reason}", todo=f"Go on with: {again}")
    say(f"{_cells(len(cells))}: all there.")
    next_steps([f"cohortloom leaderboard {cohort}" for cohort in sorted({key.partition("|")[0] for key in cells})])


def _rows(cells: Mapping[str, str], runs: Mapping[str, str]) -> list[dict[str, str]]:
    rows = []
    for key, state in cells.items():
        cohort, _, month = key.partition("|")
        rows.append({"cohort": cohort, "month": month[:7], "state": state, "run": runs.get(key, "")})
    return rows


def _cells(n: int) -> str:
    return f"{n} cell{'' if n == 1 else 's'}"
