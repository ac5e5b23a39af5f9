"""The files of a released cohort: the synthetic rows as Parquet and CSV, their schema, checksums over everything.

Nothing in them comes from real rows but by way of the synthetic ones: bounds, levels and vocabularies are told from
the rows that leave, since the schema that a generator learned from holds the real extremes and the real rare levels.
The same rows give the same bytes. What a card says is in `cards.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pipeline.features.cohort import Cohort
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.features.stored import block_table, schema_json
from pipeline.store.hashing import sha256_file
from pipeline.store.parquet import write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

SCHEMA = "schema.json"
CHECKSUMS = "SHA256SUMS"


class Folder(Protocol):
    """Where a release is written to: a draft of the store."""

    def file(self, name: str) -> Path:
        """A path for the caller to write."""


def released_rows(replicate: Cohort, rows: int | None) -> Cohort:
    """The first `rows` rows (all by default) with the schema that they themselves show, numbered anew as subjects."""
    import numpy as np

    taken = replicate.take(np.arange(replicate.n_rows if rows is None else rows))
    columns = [_as_seen(column, taken) for column in taken.schema.columns]
    used = {b.name: np.flatnonzero(np.diff(taken.blocks[b.name].tocsc().indptr)) for b in taken.schema.blocks}
    blocks = [_with_codes(block, [block.vocabulary[i] for i in used[block.name]]) for block in taken.schema.blocks]
    schema = TableSchema(columns=columns, blocks=blocks, unit=taken.schema.unit)
    return Cohort(
        table=taken.table.cast(schema.arrow()),
        schema=schema,
        subject=np.array([str(i) for i in range(taken.n_rows)], dtype=str),
        blocks={name: taken.blocks[name][:, used[name]] for name in taken.blocks},
    )


def write_rows(cohort: Cohort, formats: Sequence[str], folder: Folder) -> list[str]:
    """Write data, code blocks (row, code, value) and schema into `folder`; gives the names of the files.

    In CSV a missing cell is empty and an empty text is `""`; numbers come back bit by bit.
    """
    # Without columns (code blocks alone) the number of rows is on the card.
    tables = {"data": cohort.table} if cohort.schema.columns else {}
    tables |= {f"block_{b.name}": block_table(cohort.blocks[b.name], b.vocabulary) for b in cohort.schema.blocks}
    names = []
    for name, table in tables.items():
        for form in sorted(formats):
            names.append(f"{name}.{form}")
            _WRITERS[form](folder.file(names[-1]), table)
    folder.file(SCHEMA).write_text(schema_json(cohort.schema), encoding="utf-8")
    return [*names, SCHEMA]


def write_checksums(names: Sequence[str], folder: Folder) -> None:
    """Write the file that `sha256sum --check` reads, over the named files."""
    lines = [f"{sha256_file(folder.file(name))}  {name}\n" for name in sorted(names)]
    folder.file(CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def _csv(path: Path, table: pa.Table) -> None:
    from pyarrow.csv import write_csv

    write_csv(table, path)


_WRITERS = {"csv": _csv, "parquet": write_parquet}


def _as_seen(column: Column, cohort: Cohort) -> Column:
    """The column with the levels, bounds, grid origin and completeness that the rows show."""
    import numpy as np

    seen: dict[str, Any] = {"nullable": bool(cohort.missing(column.name).any()), "levels": None, "bounds": None}
    if column.discrete and column.levels is not None:
        present = set(cohort.codes(column.name).tolist())
        seen["levels"] = [level for place, level in enumerate(column.levels) if place in present]
    if column.numeric:
        values = cohort.values(column.name)
        known = values[~np.isnan(values)]
        seen["bounds"] = (float(known.min()), float(known.max())) if len(known) else None
        grid = column.resolution
        if grid is not None and grid.kind == "step" and grid.offset and len(known):
            seen["resolution"] = grid.model_copy(update={"offset": float(known.min())})
    return column.model_copy(update=seen)


def _with_codes(block: CodeBlock, codes: list[str]) -> CodeBlock:
    return block.model_copy(update={"vocabulary": codes})
