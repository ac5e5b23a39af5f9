"""`cohortloom external`: synthetic rows made elsewhere, in the same leaderboard as the generators of the house."""

from pathlib import Path
from typing import Annotated

import typer

from assets.cli.arguments import Json, evaluated_month, home_here
from assets.cli.display import say
from assets.cli.listing import show_leaderboard
from assets.cli.tables import Encoding


def register(app: typer.Typer) -> None:
    """Add the command of this module to the app."""
    app.command()(external)


def external(
    cohort: Annotated[str, typer.Argument(help="Cohort.")],
    name: Annotated[str, typer.Option(help="What to call it on the leaderboard: external.NAME.")],
    file: Annotated[
        Path | None, typer.Argument(help="CSV or Parquet file of synthetic rows in the cohort's columns.")
    ] = None,
    month: Annotated[str | None, typer.Option(help="month as YYYY-MM; default the newest that was evaluated")] = None,
    encoding: Encoding = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the rows of that name off the leaderboard.")] = False,
    as_json: Json = False,
) -> None:
    """Judge synthetic rows made elsewhere beside a cohort's generators. They can never be released."""
    from assets.definitions import generators_in_use
    from assets.external import tell_made
    from assets.instance import open_instance
    from pipeline.errors import ConfigError
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.board import leaderboard_step
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.external import judge_external, remove_external, take_external

    book = load_book()
    book.cohort(cohort)
    lake = Lake(home_here())
    cell = Cell.of(book, cohort, evaluated_month(lake, cohort, month))
    if remove == (file is not None):
        raise ConfigError("Rows are either judged or removed.", todo="Name a file, or say --remove; not both.")
    if file is None:
        remove_external(lake, cell, name)
        say(f"Removed external/{name}, its evaluation and its reports.")
        made, words = [], f"Rows made elsewhere, '{name}', removed from the command line."
    else:
        taken, notes = take_external(lake, cell, name, file, encoding=encoding)
        say(f"Took {taken.info['rows']:,} rows in as external/{name}.")
        for note in notes:
            say(note)
        judged = judge_external(lake, cell, name, device=Compute.from_environment().device)
        made, words = [taken, judged.version], f"Rows made elsewhere, '{name}', judged from the command line."
    board, _ = leaderboard_step(lake, cell, generators_in_use(book))
    with open_instance(lake.home) as instance:
        for version in (*made, board):
            tell_made(instance, version, words)
    show_leaderboard(lake, cohort, cell.month, as_json=as_json)
