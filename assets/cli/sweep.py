"""The command that shows what privacy costs: `cohortloom sweep`. What it does is in `pipeline/workflow/sweep.py`."""

from typing import Annotated

import typer

from assets.cli.arguments import Json, evaluated_month, home_here
from assets.cli.display import next_steps, print_json, say, show
from pipeline.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command of this module to the app."""
    app.command()(sweep)


def sweep(
    cohort: Annotated[str, typer.Argument(help="Cohort; see `cohortloom cohorts`.")],
    generator: Annotated[str, typer.Option("--generator", "-g", help="Generator that can train privately.")],
    epsilons: Annotated[str, typer.Option(help="With commas; inf trains without privacy.")] = "1,2,5,10,20,inf",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings an epsilon; each is charged to the ledger.")] = 5,
    month: Annotated[str | None, typer.Option(help="Month as YYYY-MM; default the newest that was evaluated.")] = None,
    as_json: Json = False,
) -> None:
    """Train a generator at several epsilons and set every figure of the evaluation against each.

    Given again, it goes on where it was stopped; more epsilons add to what is there.
    """
    from assets.instance import prepare_dagster_home

    home = home_here()
    prepare_dagster_home(home)
    from assets import run
    from assets.sweep import epsilons_of, rows_of
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.sweep import PAGE, SWEEP, checked_epsilons

    Compute.from_environment().bind_memory()
    lake = Lake(home)
    book = load_book()
    book.cohort(cohort)
    chosen = evaluated_month(lake, cohort, month)
    asked = [text.strip() for text in epsilons.split(",") if text.strip()]
    checked_epsilons(Cell.of(book, cohort, chosen), generator, epsilons_of(asked), seeds)
    say(
        f"{generator} on {cohort}, {chosen[:7]}, at epsilon {', '.join(asked)}, {seeds} seeds each. What is done is kept."
    )
    outcome = run.sweep(cohort, chosen, generator, {"epsilons": asked, "seeds": seeds}, on_event=say)
    if not outcome.success:
        raise ConfigError(outcome.reason or "The sweep failed.", where=f"{cohort} {chosen[:7]}")
    partition = {"cohort": cohort, "month": chosen}
    version = lake.tables.resolve(f"{SWEEP}/{generator}", partition)
    if version.info["status"] != "ok":
        raise ConfigError(version.info["reason"], where=f"{cohort} {chosen[:7]}")
    rows = rows_of(lake.tables.read(version), version.info)
    if as_json:
        print_json({"sweep": version.label, "sha256": version.sha256, **version.info, "rows": rows})
        return
    show(rows, title=f"{generator} on {cohort}, {chosen[:7]}: what privacy costs", as_json=False, empty="")
    report = lake.reports.path(lake.reports.resolve(f"{SWEEP}/{generator}", partition), PAGE)
    next_steps([f"every figure, with intervals: {report}", f"what was spent: cohortloom ledger {cohort}"])
