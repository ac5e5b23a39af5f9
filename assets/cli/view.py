"""`view`: a ViewDefinition over FHIR files, without Dagster and without a store. Compiling is in `pipeline/ingest`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assets.cli.display import next_steps, say, show
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

_OUT = (".csv", ".parquet")


def register(app: typer.Typer) -> None:
    """Add the command of this module to the app."""
    app.command()(view)


def view(
    definition: Annotated[Path, typer.Argument(help="ViewDefinition of SQL on FHIR v2, as JSON.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="FHIR files: NDJSON, bundles or single resources, plain or gzipped."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the rows here, .parquet or .csv.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the fields that are read and the SQL.")] = False,
) -> None:
    """Run a ViewDefinition over FHIR files. Shows counts and columns; the rows themselves only go to --out."""
    import tempfile

    from pipeline.ingest.viewdefinition.compile import compile_view
    from pipeline.ingest.viewdefinition.definition import load_view
    from pipeline.ingest.viewdefinition.run import gather, prepare, run_view
    from pipeline.ingest.viewdefinition.shape import duckdb_columns
    from pipeline.store.connection import connect
    from pipeline.workflow.compute import Compute

    compiled = compile_view(load_view(definition), where=definition.name)
    for element in compiled.unknown:
        say(f"not in R4: {element} (read as it comes)")
    if explain:
        print(f"-- {{source}} is read_json(..., columns = {duckdb_columns(compiled.shape)})\n{compiled.select}")
    if out is not None and out.suffix not in _OUT:
        raise ConfigError(f"The file must end in {' or '.join(_OUT)}.", where=str(out))
    if not files:
        if not explain:
            raise ConfigError("Name FHIR files, or give --explain.")
        return
    compute = Compute.from_environment()
    with tempfile.TemporaryDirectory(prefix="cohortloom-view-") as folder:
        ndjson = Path(folder) / "resources.ndjson"
        found = gather(files, compiled.resource, ndjson)
        with connect({}, threads=compute.threads, memory_limit=compute.memory_limit) as connection:
            prepare(connection)
            table = run_view(compiled, ndjson, connection, longest=found.longest)
    others = found.others.total()
    say(
        f"{compiled.name}: {table.num_rows:,} rows from {found.taken:,} {compiled.resource} resources "
        f"({others:,} of other types, {found.unreadable:,} unreadable)."
    )
    columns = [
        {"column": name, "type": column.sql_type, "empty": table.column(name).null_count}
        for name, column in zip(table.column_names, compiled.columns, strict=True)
    ]
    show(columns, title="", as_json=False, empty="")
    if out is None:
        next_steps(["add --out rows.parquet to keep the rows"])
        return
    _write(table, out)
    say(f"written: {out}")


def _write(table: "pa.Table", out: Path) -> None:
    """Write the rows; a list becomes JSON in a CSV."""
    import json

    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    from pipeline.store.disk import storage_errors

    with storage_errors(str(out)):
        if out.suffix == ".parquet":
            pyarrow.parquet.write_table(table, out)
            return
        for index, field in enumerate(table.schema):
            if pa.types.is_list(field.type):
                texts = [json.dumps(value) for value in table.column(index).to_pylist()]
                table = table.set_column(index, field.name, pa.array(texts))
        pyarrow.csv.write_csv(table, out)
