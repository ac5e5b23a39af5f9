"""How tables become Parquet: the same rows in the same order give the same bytes, and a declared schema holds.

Callers sort; this module fixes everything else that bytes depend on (row groups, compression, no metadata of
pandas, no chunk boundaries).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import InputError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

ROW_GROUP = 128 * 1024


def write_parquet(path: Path, table: pa.Table, *, schema: pa.Schema | None = None) -> None:
    """Write a table, zstd, in row groups of 131,072 rows, without schema or column metadata.

    Args:
        path: File to write; a partial file is removed on failure.
        table: Rows in the order in which they are to be stored.
        schema: If given, the table is brought to it by `conform` first.

    Raises:
        InputError: the table does not have the schema.
        OSError: as the operating system reports it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if schema is not None:
        table = conform(table, schema)
    plain = pa.schema([column.remove_metadata() for column in table.schema])
    table = pa.Table.from_arrays(table.columns, schema=plain)
    try:
        with pq.ParquetWriter(path, plain, compression="zstd", compression_level=3, version="2.6") as writer:
            for start in range(0, table.num_rows, ROW_GROUP):
                rows = table.slice(start, ROW_GROUP).combine_chunks()  # page boundaries follow chunks
                writer.write_table(rows, row_group_size=ROW_GROUP)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly the columns, order and types of `schema`; casts within a kind of type only.

    Numbers stay numbers, text stays text; a value that overflows or would lose a fraction or a time of day is
    refused (float64 to float32 rounds).

    Raises:
        InputError: columns missing, unknown or twice, a type or value that does not fit, or missing values where
            none may be; names columns and counts, never a value.
    """
    import pyarrow as pa

    if len(set(table.column_names)) < table.num_columns:
        raise InputError("The table has two columns of the same name.")
    missing = [name for name in schema.names if name not in table.column_names]
    unknown = [name for name in table.column_names if name not in schema.names]
    if missing or unknown:
        raise InputError(
            f"The table does not have the columns of its schema (missing: {', '.join(missing) or 'none'}; "
            f"not in the schema: {', '.join(unknown) or 'none'})."
        )
    columns = []
    for column in schema:
        values = table[column.name]
        if values.type != column.type:
            values = _cast(values, column)
        if not column.nullable and values.null_count:
            raise InputError(f"Column '{column.name}' has {values.null_count} missing values and may have none.")
        columns.append(values)
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(values: pa.ChunkedArray, column: pa.Field) -> pa.ChunkedArray:
    import pyarrow as pa

    refusal = InputError(f"Column '{column.name}' holds {values.type}, which does not fit {column.type}.")
    if values.null_count < len(values) and _kind(values.type) != _kind(column.type):
        raise refusal
    try:
        return values.cast(column.type, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        raise refusal from None  # Arrow's own message quotes the value


def _kind(dtype: pa.DataType) -> str:
    """Casts are made inside one of these only: "007" is no number, and a number is no text."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(dtype):
        return _kind(dtype.value_type)
    if types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype):
        return "number"
    if types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype):
        return "text"
    if types.is_date(dtype) or types.is_timestamp(dtype):
        return "time"
    if types.is_list(dtype) or types.is_large_list(dtype):
        return f"list of {_kind(dtype.value_type)}"
    return str(dtype)


def describe_parquet(path: Path, name: str) -> tuple[int, dict[str, str]]:
    """Number of rows, and Arrow type in words by column, from the footer alone.

    Raises:
        StoreError: the file is not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.metadata.num_rows, {column.name: str(column.type) for column in file.schema_arrow}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise StoreError("The file is not readable as Parquet.", where=name) from None
