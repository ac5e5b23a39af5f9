"""Metadata of materialisations: plain numbers, tables, column schema and lineage, small pictures. Never patient rows.

The event log keeps metadata for ever, so pictures stay under 100 kB and everything larger goes to the store and is
named by its path. How the numbers come about is in `pipeline/`.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from pipeline.features.schema import Column, TableSchema

PICTURE_LIMIT = 100_000

BLOCKS_SAID = "code_blocks_in_words"
"""Metadata of `features`: one line a code block, which the command line prints."""


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata that Dagster can store: numpy's numbers become Python's, what is not finite becomes text.

    A numpy scalar in metadata fails the step after its work is done.
    """
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return dg.MetadataValue.text(str(value))
    return value


def markdown_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> dg.MarkdownMetadataValue:
    """Rows as a markdown table; numbers to four significant digits."""
    names = list(columns or (rows[0] if rows else []))
    lines = [_line(names), _line(["---"] * len(names)), *(_line([_cell(row.get(n)) for n in names]) for row in rows)]
    return dg.MetadataValue.md("\n".join(lines) if rows else "nothing")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def picture(svg: str, *, words: str) -> dg.MarkdownMetadataValue:
    """An SVG as a picture that the UI shows; `words` stand where pictures are not shown."""
    return embedded(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", words=words)


def embedded(uri: str, *, words: str) -> dg.MarkdownMetadataValue:
    """A picture given as a data URI; one that is too large for the event log is left to the report."""
    if len(uri) > PICTURE_LIMIT:
        return dg.MetadataValue.md(f"{words}: too large to be shown here ({len(uri):,} bytes)")
    return dg.MetadataValue.md(f"![{words}]({uri})")


def column_schema(schema: "TableSchema") -> dg.TableSchema:
    """Dagster's column schema of a feature table."""
    columns = [_table_column(c) for c in schema.columns]
    blocks = [
        dg.TableColumn(
            b.name,
            f"code block ({b.kind}, {len(b.vocabulary)} codes)",
            description=b.description or None,
            tags={"kind": "code"},
        )
        for b in schema.blocks
    ]
    return dg.TableSchema(columns=[*columns, *blocks])


def _table_column(column: "Column") -> dg.TableColumn:
    facts = [
        f"unit {column.unit}" if column.unit else "",
        f"resolution {column.resolution.kind}" if column.resolution else "",
    ]
    text = "; ".join(part for part in (column.description, *facts) if part)
    return dg.TableColumn(
        column.name,
        column.dtype,
        description=text or None,
        constraints=dg.TableColumnConstraints(nullable=column.nullable),
        tags={"kind": column.kind, "role": column.role},
    )


def column_lineage(schema: "TableSchema", raw: dg.AssetKey) -> dg.TableColumnLineage:
    """Which columns of the raw tables each column comes from; the raw asset's columns are called `table.column`."""
    named = [*((c.name, c.source) for c in schema.columns), *((b.name, b.source) for b in schema.blocks)]
    return dg.TableColumnLineage(
        {name: [dg.TableColumnDep(asset_key=raw, column_name=s) for s in source] for name, source in named if source}
    )


def raw_column_schema(tables: Mapping[str, Mapping[str, str]]) -> dg.TableSchema:
    """Dagster's column schema of several raw tables at once: columns are called `table.column`."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(f"{t}.{c}", kind) for t, columns in sorted(tables.items()) for c, kind in columns.items()
        ]
    )
