"""Commands on the causal graph of a cohort: learn a proposal from training rows, to be reviewed and pasted."""

from pathlib import Path
from typing import Annotated

import typer

from assets.cli.arguments import Json
from assets.cli.constraints import Month, training_rows_of
from assets.cli.display import next_steps, print_json, say
from assets.cli.tables import Encoding

graph = typer.Typer(help="Causes between columns, for generators that draw by them.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the app."""
    app.add_typer(graph, name="graph")


@graph.command()
def suggest(
    rows: Annotated[
        str, typer.Argument(help="A cohort with features, or a CSV or Parquet file.", metavar="COHORT|TABLE")
    ],
    month: Month = None,
    schema: Annotated[Path | None, typer.Option(help="TableSchema JSON, for a table.")] = None,
    subject: Annotated[str | None, typer.Option(help="Column that identifies the subject, for a table.")] = None,
    missing: Annotated[list[str] | None, typer.Option(help="A text that means 'missing', for a table.")] = None,
    most_parents: Annotated[int, typer.Option(min=1, max=8, help="Direct causes of a column, at most.")] = 4,
    encoding: Encoding = None,
    as_json: Json = False,
) -> None:
    """Learn a causal graph within the tiers of the cohort's `causal:`, or of the columns' roles; prints YAML to review."""
    from pipeline.features.spec import load_book
    from pipeline.features.tables import cohort_from_file
    from pipeline.generators.adversarial.structure import as_yaml, suggested_graph

    tiers: list[list[str]] = []
    if Path(rows).is_file():
        train = cohort_from_file(
            Path(rows), schema_file=schema, subject=subject, drop=[], missing=missing or [], encoding=encoding
        )
    else:
        train = training_rows_of(rows, month)
        causal = load_book().cohort(rows).causal
        tiers = [] if causal is None else causal.tiers
    found = suggested_graph(train, tiers, most_parents)
    if as_json:
        print_json(found.to_json())
        return
    print(as_yaml(found), end="")
    say(
        f"{len(found.edges)} edges from {train.n_rows:,} training rows. Rows do not tell the direction of causes: turn round what is "
        "the wrong way, and take out what you do not believe."
    )
    if not Path(rows).is_file():
        next_steps([f"paste what you reviewed into the file of '{rows}', with `decaf` under `generators:`"])
