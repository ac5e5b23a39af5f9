"""The files of a released cohort: the synthetic rows as Parquet and CSV, with codes and visits beside them, their schema,
checksums over everything.

Nothing in them comes from real rows but by way of the synthetic ones: bounds, levels and vocabularies are told from
the rows that leave, since the schema that a generator learned from holds the real extremes and the real rare levels.
The same rows give the same bytes. What a card says is in `cards.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.features.cohort import Cohort
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.features.stored import block_table, read_parquet, schema_json
from pipeline.features.visits import event_schema
from pipeline.store.hashing import sha256_file
from pipeline.store.parquet import write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCHEMA = "schema.json"
EVENTS = "events"
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
    events = taken.schema.events
    if events is not None and taken.events is not None:
        drawn = set(taken.events.column("code").unique().to_pylist())
        events = events.model_copy(update={"vocabulary": [code for code in events.vocabulary if code in drawn]})
    schema = TableSchema(columns=columns, blocks=blocks, unit=taken.schema.unit, events=events)
    return Cohort(
        table=taken.table.cast(schema.arrow()),
        schema=schema,
        subject=np.array([str(i) for i in range(taken.n_rows)], dtype=str),
        blocks={name: taken.blocks[name][:, used[name]] for name in taken.blocks},
        events=taken.events,
    )


def write_rows(cohort: Cohort, formats: Sequence[str], folder: Folder) -> list[str]:
    """Write data, code blocks (row, code, value), visits (row, visit, time, code) and schema; gives the files' names.

    In CSV a missing cell is empty and an empty text is `""`; numbers come back bit by bit.
    """
    # Without columns (code blocks alone) the number of rows is on the card.
    tables = {"data": cohort.table} if cohort.schema.columns else {}
    tables |= {f"block_{b.name}": block_table(cohort.blocks[b.name], b.vocabulary) for b in cohort.schema.blocks}
    tables |= {EVENTS: cohort.events} if cohort.events is not None else {}
    names = []
    for name, table in tables.items():
        for form in sorted(formats):
            names.append(f"{name}.{form}")
            _WRITERS[form](folder.file(names[-1]), table)
    folder.file(SCHEMA).write_text(schema_json(cohort.schema), encoding="utf-8")
    return [*names, SCHEMA]


def read_visits(folder: Path) -> Cohort:
    """The released rows with their visits, without code blocks, back from their Parquet files.

    Raises:
        ConfigError: the release has no visits, or was not published as Parquet.
    """
    import numpy as np

    schema = TableSchema.model_validate_json((folder / SCHEMA).read_text(encoding="utf-8"))
    if schema.events is None:
        raise ConfigError("This release has no visits, so there are no events to export.")
    wanted = {name: folder / f"{name}.parquet" for name in [*(["data"] if schema.columns else []), EVENTS]}
    if not all(path.is_file() for path in wanted.values()):
        raise ConfigError("This release was not published as Parquet.", todo="Name it under release.formats.")
    events = read_parquet(wanted[EVENTS]).cast(event_schema())
    n = int(events.column("row").to_numpy().max(initial=-1)) + 1
    data = read_parquet(wanted["data"]) if "data" in wanted else None
    rows = n if data is None else data.num_rows
    return Cohort(
        table=pa.table({}) if data is None else data.cast(schema.arrow()),
        schema=schema.model_copy(update={"blocks": []}),
        subject=np.array([str(i) for i in range(rows)], dtype=str),
        events=events,
    )


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
