"""The Cohort: a feature table with its blocks, subjects, split and schema. Generators and metrics take and give it.

How a cohort is asked for (YAML) lives in `spec.py`; how one is built from raw tables in `build.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.features.schema import Column, TableSchema

Part = Literal["train", "holdout", "reference0", "reference1"]
PARTS: tuple[Part, ...] = ("train", "holdout", "reference0", "reference1")
MICROSECONDS_PER_DAY = 86_400_000_000


@dataclass(frozen=True)
class Cohort:
    """Rows in exactly `schema`, with what belongs to them.

    Attributes:
        table: (n rows) Arrow table in `schema.arrow()`; missing cells are nulls.
        schema: What the columns and blocks are.
        subject: (n,) strings, one subject id a row; several rows may share one.
        split: (n,) strings out of `PARTS`, or None (synthetic rows have no split).
        tune: (n,) bool, the part of train that early stopping and tuning may look at, or None.
        blocks: one (n, codes) CSR matrix for each of `schema.blocks`.
        events: the dated visits of the rows (`visits.py`: row, visit, time, code), where the schema has `events`.
    """

    table: pa.Table
    schema: TableSchema
    subject: NDArray[np.str_]
    split: NDArray[np.str_] | None = None
    tune: NDArray[np.bool_] | None = None
    blocks: Mapping[str, csr_matrix] = field(default_factory=dict)
    events: pa.Table | None = None

    def __post_init__(self) -> None:
        if not self.schema.columns:
            # Code blocks alone. Arrow and Parquet lose the rows of a table without columns wherever it is cut or stored.
            object.__setattr__(self, "table", _rows_alone(len(self.subject)))
        n = self.table.num_rows
        if self.table.column_names != self.schema.names:
            raise ConfigError(
                "The table's columns are not those of its schema, in order.", todo="Select the schema's columns."
            )
        for what, values in (("subject", self.subject), ("split", self.split), ("tune", self.tune)):
            if values is not None and len(values) != n:
                raise ConfigError(f"{what} has {len(values)} entries for {n} rows.")
        wanted = {b.name: len(b.vocabulary) for b in self.schema.blocks}
        if {k: m.shape for k, m in self.blocks.items()} != {k: (n, w) for k, w in wanted.items()}:
            raise ConfigError("The code blocks do not have the shapes that the schema says.")

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)

    @property
    def n_subjects(self) -> int:
        """Number of distinct subjects."""
        return len(np.unique(self.subject))

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Cohort:
        """The given rows (indices, repeats allowed, or a mask), in that order."""
        import pyarrow as pa

        from pipeline.features.visits import take_events

        index = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
        return replace(
            self,
            table=self.table.take(pa.array(index)),
            subject=self.subject[index],
            split=None if self.split is None else self.split[index],
            tune=None if self.tune is None else self.tune[index],
            blocks={k: m[index] for k, m in self.blocks.items()},
            events=None if self.events is None else take_events(self.events, index, self.n_rows),
        )

    def part(self, *parts: Part) -> Cohort:
        """The rows of the given parts of the split; raises `ConfigError` when the cohort has none."""
        if self.split is None:
            raise ConfigError("This cohort has no split.", todo="Synthetic rows are never split.")
        return self.take(np.isin(self.split, parts))

    def values(self, name: str) -> NDArray[np.float64]:
        """(n,) float64 of a numeric column; NaN where missing; datetime as days since 1970-01-01."""
        return numbers(self.table.column(name).combine_chunks(), self.schema.column(name))

    def codes(self, name: str) -> NDArray[np.int64]:
        """(n,) positions in the column's `levels`; -1 where missing, -2 where the value is no level."""
        return level_codes(self.table.column(name).combine_chunks(), self.schema.column(name))

    def missing(self, name: str) -> NDArray[np.bool_]:
        """(n,) True where the cell is missing (a NaN counts as missing)."""
        import pyarrow.compute as pc

        return np.asarray(
            pc.is_null(self.table.column(name), nan_is_null=True).to_numpy(zero_copy_only=False), dtype=bool
        )


def _rows_alone(n: int) -> pa.Table:
    """A table of n rows without columns."""
    import pyarrow as pa

    return pa.table({"": pa.nulls(n)}).select([])


def numbers(array: pa.Array, column: Column) -> NDArray[np.float64]:
    """A numeric Arrow column as float64, NaN where missing; dates and timestamps as days since 1970-01-01."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.dtype == "timestamp[us]":
        micros = pc.cast(array, pa.int64()).to_numpy(zero_copy_only=False).astype(np.float64)
        return micros / MICROSECONDS_PER_DAY
    if column.dtype == "date32[day]":
        array = pc.cast(array, pa.int32())
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)


def level_codes(array: pa.Array, column: Column) -> NDArray[np.int64]:
    """Positions of a discrete Arrow column in `column.levels`; -1 missing, -2 not a level."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.features.schema import arrow_type

    if column.levels is None:
        raise ConfigError(f"Column '{column.name}' is {column.kind} but has no levels.", todo="Infer the schema first.")
    levels = pa.array(column.levels, type=arrow_type(column.dtype))
    found = pc.fill_null(pc.index_in(array, value_set=levels), -2).to_numpy(zero_copy_only=False).astype(np.int64)
    found[pc.is_null(array, nan_is_null=True).to_numpy(zero_copy_only=False)] = -1
    return found


def column_from_codes(codes: NDArray[np.integer], column: Column) -> pa.Array:
    """The Arrow array for level positions (-1 becomes missing)."""
    import pyarrow as pa

    from pipeline.features.schema import arrow_type

    levels = pa.array(column.levels, type=arrow_type(column.dtype))
    codes = np.asarray(codes)
    return levels.take(pa.array(codes.astype(np.int64), mask=codes < 0))


def column_from_values(values: NDArray[np.floating], column: Column) -> pa.Array:
    """The Arrow array for float values (NaN becomes missing; whole-number types are rounded; days become dates)."""
    import pyarrow as pa

    from pipeline.features.schema import arrow_type

    values = np.asarray(values, dtype=np.float64)
    mask = np.isnan(values)
    if column.dtype in ("float64", "float32"):
        return pa.array(values.astype(column.dtype), type=arrow_type(column.dtype), mask=mask)
    scaled = values * MICROSECONDS_PER_DAY if column.dtype == "timestamp[us]" else values
    whole = np.where(mask, 0, np.rint(scaled)).astype(np.int64)
    grid = column.resolution
    if column.dtype == "timestamp[us]" and grid is not None and grid.kind == "step" and grid.offset == 0:
        # Far from 1970 a float of days is a microsecond off: the grid's own unit puts it right.
        unit = max(1, round(grid.step * MICROSECONDS_PER_DAY))
        whole = (whole + unit // 2) // unit * unit
    target = arrow_type(column.dtype)
    raw = pa.array(whole, mask=mask)
    return raw.cast(pa.int32()).cast(target) if column.dtype == "date32[day]" else raw.cast(target)


def assemble(
    schema: TableSchema,
    columns: Mapping[str, NDArray[np.generic]],
    *,
    blocks: Mapping[str, csr_matrix] | None = None,
    subject: NDArray[np.str_] | None = None,
) -> Cohort:
    """A cohort from plain arrays: level positions for discrete columns, float64 (NaN = missing) for numeric ones.

    Identifier columns may be left out and are then numbered `synthetic-0000001` and on. `subject` defaults to the
    same running numbers: one subject a row.
    """
    import pyarrow as pa

    n = len(next(iter(columns.values()))) if columns else next(iter((blocks or {}).values())).shape[0]
    numbered = np.array([f"synthetic-{i:07d}" for i in range(1, n + 1)], dtype=str)
    arrays: list[pa.Array] = []
    for c in schema.columns:
        if c.kind == "identifier":
            arrays.append(pa.array(numbered) if c.dtype == "string" else pa.array(np.arange(1, n + 1)).cast(c.dtype))
        elif c.discrete:
            arrays.append(column_from_codes(np.asarray(columns[c.name], dtype=np.int64), c))
        else:
            arrays.append(column_from_values(np.asarray(columns[c.name], dtype=np.float64), c))
    table = pa.Table.from_arrays(arrays, schema=schema.arrow())
    return Cohort(
        table=table, schema=schema, subject=numbered if subject is None else subject, blocks=dict(blocks or {})
    )
