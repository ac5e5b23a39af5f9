"""`export-meds`: real events out of the house as a MEDS dataset. What is exported is in `pipeline/workflow/exporting.py`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assets.cli.arguments import Json, home_here, month_start
from assets.cli.display import next_steps, print_json, say
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.features.spec import CohortBook
    from pipeline.store.lake import Lake
    from pipeline.workflow.exporting import Export


def register(app: typer.Typer) -> None:
    """Add the command of this module to the app."""
    app.command("export-meds")(export_meds)


def export_meds(
    out: Annotated[Path, typer.Option(help="Folder for the dataset; must not exist, or be empty.")],
    name: Annotated[
        str | None,
        typer.Argument(help="A delivery (`<source>--<delivery>`), or a cohort: the events of its people."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="In place of a name: all deliveries of this source, as a month sees them.")
    ] = None,
    month: Annotated[
        str | None, typer.Option(help="Of a cohort or source, as YYYY-MM; default the newest month.")
    ] = None,
    with_split: Annotated[
        bool, typer.Option("--with-split", help="Of a cohort: write metadata/subject_splits.parquet too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export real events as a MEDS 0.4 dataset. This is patient data; the real split stays here unless asked for."""
    from dataclasses import asdict

    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.exporting import export_meds as write

    if (name is None) == (source is None):
        raise ConfigError("Name a delivery or a cohort, or give --source.")
    lake = Lake(home_here())
    export = _what(lake, load_book(), name, source, month)
    written = write(lake, export, out, Compute.from_environment(), with_split=with_split)
    if as_json:
        print_json({"out": str(out), "dataset": export.name, "version": export.version, **asdict(written)})
    else:
        say(
            f"{export.name} {export.version}: {written.events:,} events of {written.subjects:,} people in "
            f"{written.shards:,} {'shard' if written.shards == 1 else 'shards'}; {written.codes:,} codes, {written.described:,} of them described."
        )
    say(
        f"warning: {out} holds real patients' events. Only you can read it; who gets a copy must be allowed to, and an "
        "erasure here does not reach it."
    )
    if written.split is not None:
        say(
            "warning: subject_splits.parquet shows who is in the holdout: a model that is trained on them cannot be judged "
            "here any more."
        )
    next_steps([f"a dataset of MEDS 0.4: {out}/data, {out}/metadata", "the export is entered in the journal"])


def _what(lake: "Lake", book: "CohortBook", name: str | None, source: str | None, month: str | None) -> "Export":
    """What the arguments name."""
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.exporting import export_of_cohort, export_of_delivery, export_of_source, newest_month

    if name is not None and "--" in name:
        if month is not None:
            raise ConfigError("A delivery has no month.", todo="Leave --month out, or name a cohort or --source.")
        return export_of_delivery(book.source(name.partition("--")[0]), name)
    if name is not None:
        book.cohort(name)  # first of all: is there such a cohort?
        return export_of_cohort(lake, Cell.of(book, name, month_start(month) if month else newest_month(lake, name)))
    return export_of_source(lake, book.source(source or ""), month_start(month) if month else None)
