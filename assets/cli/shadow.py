"""The command that runs the shadow-model attack on a release candidate: it trains many times, and keeps no model."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.arguments import Json, evaluated_month, home_here
from assets.cli.display import next_steps, print_json, progress, show

if TYPE_CHECKING:
    from pipeline.evaluation.results import MetricResult


def register(app: typer.Typer) -> None:
    """Add the command of this module to the app."""
    app.command()(shadow)


def shadow(
    cohort: Annotated[str, typer.Argument(help="Cohort; see `cohortloom cohorts`.")],
    generator: Annotated[str, typer.Argument(help="A generator that the cohort enables.")],
    models: Annotated[int, typer.Option(help="Trainings, 8 to 256; 16 to 64 are usual.")] = 16,
    month: Annotated[str | None, typer.Option(help="month as YYYY-MM; default the newest that was evaluated")] = None,
    as_json: Json = False,
) -> None:
    """Attack a generator as somebody would who can retrain it: as many trainings as there are models."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.shadowing import shadow_step

    book = load_book()
    book.cohort(cohort)
    lake = Lake(home_here())
    cell = Cell.of(book, cohort, evaluated_month(lake, cohort, month))
    with progress(f"{models} trainings of {generator}") as update:
        found = shadow_step(
            lake,
            cell,
            generator,
            Compute.from_environment(),
            models=models,
            told=lambda done, all_: update(done, all_, {}),
        )
    if as_json:
        print_json([asdict(row) for row in found.results])
        return
    shown = [_shown(row) for row in found.results if not row.key2]
    show(shown, title=f"{cohort} {cell.month[:7]}: shadow models of {generator}", as_json=False, empty="")
    next_steps([f"every attack: {found.path}", "what it means: docs/metrics/privacy.md"])


def _shown(row: "MetricResult") -> dict[str, Any]:
    """One line: the figure of the training procedure, or of the candidate's own rows."""
    from pipeline.evaluation.privacy.shadow import TITLES

    return {
        "figure": TITLES[row.metric],
        "of": "the candidate's rows" if row.key1 else "the training procedure",
        "value": row.value,
        "from": row.ci_lo,
        "to": row.ci_hi,
        "if nothing leaked": row.null_value,
        "note": row.note,
    }
