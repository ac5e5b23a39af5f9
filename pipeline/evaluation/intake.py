"""Rows made elsewhere, brought under the training rows' schema so that they can be judged, whatever is wrong with them.

Nothing is refused that can be compared in part: a column that is lacking is missing in every row, one too many is left
out, cells that do not fit stand as they are, for `schema.adherence` to count them. Every liberty is told in words, with
counts and names of columns only. Reading files is in `features/tables.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError, InputError
from pipeline.features.cohort import Cohort
from pipeline.features.infer import normalise
from pipeline.features.schema import arrow_type
from pipeline.features.spec import ColumnSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_matrix

    from pipeline.features.schema import Column, TableSchema

NAMED = 3


@dataclass(frozen=True)
class TakenIn:
    """Rows that can be judged.

    Attributes:
        cohort: They, each a subject of its own.
        notes: What had to be done to them, one sentence each; empty if nothing.
    """

    cohort: Cohort
    notes: list[str]


def take_in_rows(table: pa.Table, schema: TableSchema, *, blocks: dict[str, csr_matrix] | None = None) -> TakenIn:
    """Any table as a cohort that can be held against one of `schema`.

    Args:
        table: The rows, as read.
        schema: Of the training rows.
        blocks: Code blocks in the schema's vocabulary, if the rows have any; else every block is empty.

    Raises:
        InputError: there is no row, or not a single column of the schema.
    """
    import pyarrow as pa

    if not table.num_rows:
        raise InputError("The table has no rows.", todo="Draw at least one row.")
    wanted = [c.name for c in schema.columns]
    if wanted and not set(wanted) & set(table.column_names):
        raise InputError("The table has none of the columns of the training rows.", todo="Is it the right file?")
    notes: list[str] = []
    lacking = [c.name for c in schema.modelled() if c.name not in table.column_names]
    there = len(schema.modelled()) - len(lacking)
    if there < len(lacking):
        notes.append(
            f"Only {there} of the {there + len(lacking)} columns of the training rows are there: is it the right file?"
        )
    extra = [name for name in dict.fromkeys(table.column_names) if name not in wanted]
    twice = [name for name in dict.fromkeys(table.column_names) if table.column_names.count(name) > 1]
    for names, words in (
        (lacking, "lacking, so missing in every row"),
        (extra, "not in the training rows, so left out"),
        (twice, "there more than once, the first is used"),
    ):
        if names:
            notes.append(f"{_columns(names)} {words}.")
    arrays, fields = [], []
    for column in schema.columns:
        places = [i for i, name in enumerate(table.column_names) if name == column.name]
        array = table.column(places[0]) if places else pa.nulls(table.num_rows, arrow_type(column.dtype))
        fitted, note = _fitted(array, column)
        notes += [note] if note else []
        strange = _unseen(fitted, column)
        if strange:
            notes.append(f"Column '{column.name}': {strange:,} cells hold a level that no training row has.")
        arrays.append(fitted)
        fields.append(pa.field(column.name, fitted.type))
    loose = schema.model_copy(update={"columns": [c.model_copy(update={"nullable": True}) for c in schema.columns]})
    subject = np.array([f"row-{i:08d}" for i in range(table.num_rows)], dtype=str)
    cells = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    return TakenIn(Cohort(cells, loose, subject, blocks=blocks or _empty(schema, table.num_rows)), notes)


def _fitted(array: pa.ChunkedArray | pa.Array, column: Column) -> tuple[pa.Array, str]:
    """The cells in the column's type where they all fit it; else as they are, and why."""
    import pyarrow as pa

    try:
        one = pa.table({column.name: array})
        return normalise(one, {column.name: ColumnSpec(dtype=column.dtype)}).column(0).combine_chunks(), ""
    except ConfigError:
        return _as_they_are(array, column)


def _unseen(cells: pa.Array, column: Column) -> int:
    """How many cells hold a level that the schema does not know; 0 where the type already did not fit."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not column.levels or cells.type != arrow_type(column.dtype):
        return 0
    known = pc.is_in(cells, value_set=pa.array(column.levels, cells.type))
    return int(pc.sum(pc.and_(pc.is_valid(cells), pc.invert(known))).as_py() or 0)


def _as_they_are(array: pa.ChunkedArray | pa.Array, column: Column) -> tuple[pa.Array, str]:
    """Cells of which some do not fit the column's type: numbers or texts as far as they mean anything, and why."""
    import pandas as pd
    import pyarrow as pa

    whole = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if column.numeric and not pa.types.is_nested(whole.type):
        given = whole.to_pandas()
        numbers = pd.to_numeric(given, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        lost = int((~np.isfinite(numbers) & given.notna().to_numpy()).sum())
        fitted = pa.array(numbers, pa.float64(), mask=np.isnan(numbers))
        return fitted, f"Column '{column.name}': {lost:,} cells are no number of its type." if lost else (
            f"Column '{column.name}' has numbers of another type."
        )
    if pa.types.is_nested(whole.type):
        return pa.nulls(len(whole), arrow_type(column.dtype)), f"Column '{column.name}' holds no single values."
    return whole.cast(pa.string()), f"Column '{column.name}' has values of another type."


def _empty(schema: TableSchema, rows: int) -> dict[str, csr_matrix]:
    from scipy.sparse import csr_matrix

    return {b.name: csr_matrix((rows, len(b.vocabulary)), dtype=np.float32) for b in schema.blocks}


def _columns(names: list[str]) -> str:
    """Some names and how many more."""
    shown = ", ".join(f"'{name}'" for name in names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{'Columns' if len(names) > 1 else 'Column'} {shown}{more} {'are' if len(names) > 1 else 'is'}"
