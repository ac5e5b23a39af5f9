"""Structural faults of a stored table: what makes it unusable whatever its quality. Only these block what comes after.

Everything is said in counts and column names, never in values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import StoreError
from pipeline.features.schema import TableSchema
from pipeline.features.schema_union import told_anew
from pipeline.features.stored import read_beside
from pipeline.features.tables import read_schema
from pipeline.workflow.record import Record

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.features.cohort import Cohort
    from pipeline.store.lake import Lake, Version

SAMPLE_ROWS = 10_000
"""Rows of a sample that is checked as a data frame."""


@dataclass(frozen=True)
class Structure:
    """What is wrong with a stored cohort; empty texts where nothing is.

    Attributes:
        schema: The columns are not exactly those of the schema.
        rows: Tables beside each other differ in length, or there is no row.
        intact: A file is missing or its hash is another one.
        row_count: Rows found.
    """

    schema: str = ""
    rows: str = ""
    intact: str = ""
    row_count: int = 0


def structure_of(lake: Lake, version: Version, *, like: TableSchema | None = None) -> Structure:
    """Look at a version of `features` or `synthetic/<g>`; a status record has no table and nothing wrong with it.

    Args:
        lake: Where it lies.
        version: What to look at.
        like: The schema that it must have exactly, but for what a private training told anew; default its own.
    """
    import pyarrow.parquet as pq

    if not Record.of(version).ok:
        return Structure()
    try:
        lake.tables.verify(version)
    except StoreError as error:
        return Structure(intact=str(error))
    folder = lake.tables.folder(version)
    own = read_schema(folder / "schema.json")
    stored = version.files["data"]
    fault = (
        "" if pq.read_schema(folder / stored.file).equals(own.arrow()) else "the stored columns are not its schema's"
    )
    if like is not None and not fault and own != like and not told_anew(own, like):
        changed = [c.name for c in like.columns if c.name not in own.names or own.column(c.name) != c]
        fault = f"the schema differs from that of the features ({len(changed)} columns, or order or blocks)"
    beside = read_beside(folder).num_rows
    # A cohort of code blocks alone has no column in its table, and Parquet then no rows: those beside them count.
    count = stored.rows if own.columns else beside
    rows = "" if count and count == beside else f"{count} rows, {beside} beside them"
    return Structure(schema=fault, rows=rows, row_count=count or 0)


def schema_of(lake: Lake, version: Version) -> TableSchema:
    """The schema of a stored cohort."""
    return read_schema(lake.tables.path(version, "schema.json"))


def training_frame(cohort: Cohort, *, limit: int = SAMPLE_ROWS) -> pd.DataFrame:
    """Up to `limit` training rows (evenly spread, not the first ones) with nullable pandas types.

    Levels and bounds are learned on training rows, so only these must keep them.
    """
    import pandas as pd
    import pyarrow as pa

    train = cohort.part("train")
    if train.n_rows > limit:
        train = train.take(np.linspace(0, train.n_rows - 1, limit).astype(np.int64))
    nullable = {
        pa.int64(): pd.Int64Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): pd.StringDtype(),
    }
    return train.table.to_pandas(types_mapper=nullable.get)


def violations(cohort: Cohort) -> dict[str, dict[str, int]]:
    """Column to what its training rows break: {"missing": rows, "no level": rows, "out of bounds": rows}."""
    train = cohort.part("train")
    found: dict[str, dict[str, int]] = {}
    for column in train.schema.modelled():
        counts = {"missing": 0 if column.nullable else int(train.missing(column.name).sum())}
        if column.discrete and column.levels is not None:
            counts["no level"] = int((train.codes(column.name) == -2).sum())
        if column.numeric and column.bounds is not None:
            values = train.values(column.name)
            counts["out of bounds"] = int(((values < column.bounds[0]) | (values > column.bounds[1])).sum())
        if any(counts.values()):
            found[column.name] = {what: n for what, n in counts.items() if n}
    return found
