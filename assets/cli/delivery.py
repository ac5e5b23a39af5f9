"""`cohortloom delivery`: the report on one delivery, in the terminal, and where its page lies. Changes nothing."""

from typing import Annotated

import typer

from assets.cli.arguments import Json, home_here
from assets.cli.display import print_json, show, tell


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(delivery)


def delivery(
    delivery: Annotated[str, typer.Argument(help="Delivery key; see `cohortloom deliveries`.")],
    open_path: Annotated[
        bool, typer.Option("--open-path", help="Print only where the page lies, for a browser to open.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The report on a delivery: what became of its files and records, and what to do next. No patient data."""
    from pipeline.errors import NotFoundError
    from pipeline.ingest.report import headline, sections
    from pipeline.ingest.report import next_steps as steps_of
    from pipeline.ingest.tables.written_otherwise import hint
    from pipeline.store.lake import Lake
    from pipeline.workflow.delivery_report import facts_of

    facts, page = facts_of(Lake(home_here()), delivery)
    if open_path:
        if page is None:
            raise NotFoundError(
                "There is no page of what is in the lake now.",
                where=delivery,
                todo="Taking the delivery in again makes one (deliver ... --replace).",
            )
        print(page)
        return
    _, name, sentence = headline(facts)
    parts = sections(facts)
    if as_json:
        print_json(
            {
                "delivery": facts.key,
                "format": facts.format,
                "as_of": facts.as_of,
                "outcome": name,
                **facts.account.to_dict(),
                "events": facts.events,
                "files_by_outcome": facts.files_by_outcome,
                "columns": facts.columns,
                "hints": {
                    table: {column: hint(column, forms) for column, forms in columns.items()}
                    for table, columns in facts.account.info.get("written_otherwise", {}).items()
                },
                "next": steps_of(facts),
                "page": str(page) if page is not None else None,
            }
        )
        return
    tell(f"{facts.key} ({facts.format}, as of {facts.as_of}): {name}. {sentence}")
    for part in parts:
        if part.folded:
            continue
        tell("")
        rows = [dict(zip(part.columns, row, strict=True)) for row in part.rows]
        show(rows, title=part.title, as_json=False, empty=part.title)
        for words in part.words:
            tell(words)
    tell("")
    for step in (*steps_of(facts), *([f"page: {page}"] if page is not None else [])):
        tell(f"  {step}")
