"""Commands on a cohort's rules: mine suggestions from training rows, and count how often real and synthetic rows break them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assets.cli.arguments import Json, home_here, month_start
from assets.cli.display import next_steps, print_json, say, show
from assets.cli.tables import Encoding
from pipeline.errors import NotFoundError

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort
    from pipeline.store.lake import Lake

constraints = typer.Typer(help="Rules that every synthetic row keeps.", no_args_is_help=True)
Month = Annotated[str | None, typer.Option(help="month as YYYY-MM; default the newest with features")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the app."""
    app.add_typer(constraints, name="constraints")


@constraints.command()
def suggest(
    rows: Annotated[
        str, typer.Argument(help="A cohort with features, or a CSV or Parquet file.", metavar="COHORT|TABLE")
    ],
    month: Month = None,
    schema: Annotated[Path | None, typer.Option(help="TableSchema JSON, for a table.")] = None,
    subject: Annotated[str | None, typer.Option(help="Column that identifies the subject, for a table.")] = None,
    missing: Annotated[list[str] | None, typer.Option(help="A text that means 'missing', for a table.")] = None,
    encoding: Encoding = None,
    as_json: Json = False,
) -> None:
    """Mine rules that the training rows keep without exception; prints YAML to paste, with no patient's value."""
    from pipeline.features.constraint_spec import plain_rules
    from pipeline.features.tables import cohort_from_file
    from pipeline.generators.constraints.suggest import as_yaml, suggestions

    if Path(rows).is_file():
        train = cohort_from_file(
            Path(rows), schema_file=schema, subject=subject, drop=[], missing=missing or [], encoding=encoding
        )
    else:
        train = training_rows_of(rows, month)
    found = suggestions(train)
    if as_json:
        print_json([{"rule": plain_rules([s.rule])[0], "people": s.people, "why": s.why} for s in found])
        return
    print(as_yaml(found), end="")
    say(f"{len(found)} suggestions from {train.n_rows:,} training rows. Take over what must hold for anybody.")
    if not Path(rows).is_file():
        next_steps([f"paste what is true into the file of '{rows}', then: cohortloom constraints check {rows}"])


@constraints.command()
def check(
    cohort: Annotated[str, typer.Argument(help="Cohort; see `cohortloom cohorts`.")],
    month: Month = None,
    as_json: Json = False,
) -> None:
    """Count how often training rows and each synthetic version break each rule; exits with 1 where a synthetic row does."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.constraints import kept_by_real, kept_by_synthetic

    spec = load_book().cohort(cohort)
    lake = Lake(home_here())
    partition = {"cohort": cohort, "month": _month(lake, cohort, month)}
    counted = [("real", kept) for kept in kept_by_real(lake, partition, spec.constraints)]
    for asset in lake.tables.assets():
        version = lake.tables.current(asset, partition) if asset.startswith("synthetic/") else None
        if version is not None:
            counted += [(asset, kept) for kept in kept_by_synthetic(lake, version)]
    found: list[dict[str, Any]] = [
        {"rows": where, "broken": kept.broken, "of": kept.rows, "share": kept.rate, "rule": kept.rule}
        for where, kept in counted
    ]
    title = f"{cohort} {partition['month'][:7]}: rows that break a rule"
    show(found, title=title, as_json=as_json, empty=f"'{cohort}' declares no rules.")
    if any(row["broken"] for row in found if row["rows"] != "real"):
        raise typer.Exit(1)


def training_rows_of(cohort: str, month: str | None) -> "Cohort":
    """The training rows of a cohort in a month (`YYYY-MM`; None: the newest); raises `NotFoundError` if it has no features."""
    from pipeline.features.spec import load_book
    from pipeline.store.lake import Lake
    from pipeline.workflow.constraints import training_rows

    load_book().cohort(cohort)
    lake = Lake(home_here())
    return training_rows(lake, {"cohort": cohort, "month": _month(lake, cohort, month)})


def _month(lake: "Lake", cohort: str, month: str | None) -> str:
    """The month asked for, or the newest with features; raises `NotFoundError` if there are none."""
    months = [p["month"] for p in lake.tables.partitions("features") if p["cohort"] == cohort]
    chosen = month_start(month) if month else (max(months) if months else None)
    if chosen is None or chosen not in months:
        raise NotFoundError(
            f"Cohort '{cohort}' has no features{f' for {chosen[:7]}' if chosen else ''}.",
            todo=f"cohortloom run {cohort}",
        )
    return chosen
