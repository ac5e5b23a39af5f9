"""Cohorts to files and back, and plain tables to cohorts (for work without Dagster).

A cohort is a folder: `data.parquet` (exactly the schema), `subjects.parquet` (subject, split, tune and whatever else
belongs beside a row), one `block_<name>.parquet` a code block (row, code, value), `schema.json`. Same cohort, same
bytes. How a cohort is built from raw tables lives in `build.py`.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError, InputError, NotFoundError, StoreError, nearest
from pipeline.features.cohort import Cohort
from pipeline.features.infer import conform, infer_schema, normalise
from pipeline.features.schema import TableSchema
from pipeline.features.split import row_subjects

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.store.lake import Version, VersionStore

_SUBJECT_COLUMNS = ("subject", "split", "tune")


class TableTarget(Protocol):
    """Where a cohort is written to: a draft of the store."""

    def add_table(self, name: str, table: pa.Table, *, schema: pa.Schema | None = None) -> None:
        """Write `<name>.parquet`."""

    def file(self, name: str) -> Path:
        """A path for the caller to write."""


class FolderTarget:
    """A plain folder as the target of a cohort; made if it does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add_table(self, name: str, table: pa.Table, *, schema: pa.Schema | None = None) -> None:
        """Write `<name>.parquet`, with the bytes that the store would write."""
        from pipeline.store.parquet import write_parquet

        write_parquet(self.folder / f"{name}.parquet", table, schema=schema)

    def file(self, name: str) -> Path:
        """A path inside the folder."""
        return self.folder / name


def write_cohort(cohort: Cohort, target: TableTarget | Path, extra: Mapping[str, pa.Array] | None = None) -> None:
    """Write a cohort into a draft or a folder.

    Args:
        cohort: what to write; its events are not written, they have a partition of their own.
        target: an open draft of the store, or a folder.
        extra: (n rows) arrays that belong beside the rows, such as `_replicate` and `_draw`; not in the schema.

    Raises:
        InputError: a cell is missing in a column that the schema says is complete.
        ConfigError: an extra column takes a name that is in use, or a block's name cannot be a file name.
    """
    into = FolderTarget(target) if isinstance(target, Path) else target
    arrow = cohort.schema.arrow()
    into.add_table("data", conform(cohort.table, cohort.schema), schema=arrow)
    beside: dict[str, pa.Array] = {"subject": pa.array(cohort.subject.tolist(), pa.string())}
    if cohort.split is not None:
        beside["split"] = pa.array(cohort.split.tolist(), pa.string())
    if cohort.tune is not None:
        beside["tune"] = pa.array(cohort.tune)
    for name, values in (extra or {}).items():
        if name in _SUBJECT_COLUMNS:
            raise ConfigError(f"'{name}' cannot be an extra column: the name is in use.")
        beside[name] = values
    into.add_table("subjects", pa.table(beside))
    for block in cohort.schema.blocks:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", block.name):
            raise ConfigError("A code block's name must be usable as a file name.", where=f"block {block.name}")
        into.add_table(f"block_{block.name}", _long(cohort.blocks[block.name], block.vocabulary))
    into.file("schema.json").write_text(schema_json(cohort.schema), encoding="utf-8")


def read_cohort(folder: Path) -> Cohort:
    """The cohort that `write_cohort` wrote into a folder.

    Raises:
        NotFoundError: the folder holds no cohort.
    """
    data = folder / "data.parquet"
    if not data.is_file():
        raise NotFoundError("This folder holds no cohort: data.parquet is missing.", where=str(folder))
    schema = TableSchema.model_validate_json((folder / "schema.json").read_text(encoding="utf-8"))
    beside = read_beside(folder)
    table = _read_parquet(data)
    return Cohort(
        table=table.cast(schema.arrow()),
        schema=schema,
        subject=_strings(beside, "subject"),
        split=_strings(beside, "split") if "split" in beside.column_names else None,
        tune=np.asarray(beside.column("tune").to_numpy(), dtype=bool) if "tune" in beside.column_names else None,
        blocks={
            b.name: _sparse(_read_parquet(folder / f"block_{b.name}.parquet"), b.vocabulary, table.num_rows)
            for b in schema.blocks
        },
    )


def read_beside(folder: Path) -> pa.Table:
    """What stands beside the rows of a written cohort: subject, split and tune if it has them, extra columns."""
    return _read_parquet(folder / "subjects.parquet")


def read_features(store: VersionStore, version: Version) -> Cohort:
    """The cohort in a committed version of `features` or `synthetic/<generator>`."""
    return read_cohort(store.path(version, "schema.json").parent)


def read_table(path: Path, schema_path: Path | None = None) -> pa.Table:
    """A table from a CSV or Parquet file (`.csv .tsv .parquet`, also `.gz`), for the command line.

    Args:
        path: the file.
        schema_path: a TableSchema as JSON; the table is then in exactly its columns and types.

    Raises:
        NotFoundError: there is no such file.
        InputError: the file is not of these formats, cannot be parsed, or does not fit the schema.
    """
    if schema_path is None:
        return normalise(_read_file(path, None))
    schema = read_schema(schema_path)
    return conform(_read_file(path, schema), schema)


def cohort_from_file(path: Path, *, schema_file: Path | None = None, subject: str | None = None) -> Cohort:
    """A cohort without a split from a CSV or Parquet file, for the command line.

    Args:
        path: the file, as for `read_table`.
        schema_file: a TableSchema as JSON; inferred from all rows if left out.
        subject: column that identifies the subject (taken out of the table); a row is a subject if left out.

    Raises:
        NotFoundError, InputError, ConfigError: as `read_table` and `infer_schema` raise them; no subject column, or
            rows without a subject.
    """
    schema = None if schema_file is None else read_schema(schema_file)
    table = _read_file(path, schema)
    try:
        return as_cohort(table, schema, subject=subject)
    except (InputError, ConfigError) as error:
        raise type(error)(error.what, where=f"{path}: {error.where}".rstrip(": "), todo=error.todo) from None


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as `.parquet`, `.csv` or `.csv.gz`, by the name's ending; the same bytes for the same rows.

    Raises:
        ConfigError: another ending.
        StoreError: the file cannot be written.
    """
    import gzip

    from pyarrow import csv

    from pipeline.store.parquet import write_parquet

    name = path.name.lower()
    if not name.endswith((".parquet", ".csv", ".csv.gz")):
        raise ConfigError("The file's name must end in .parquet, .csv or .csv.gz.", where=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            write_parquet(path, table)
            return
        text = pa.BufferOutputStream()
        csv.write_csv(table, text)
        raw = text.getvalue().to_pybytes()
        path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    except OSError as error:
        raise StoreError(f"The file cannot be written ({error.strerror}).", where=str(path)) from None


def read_schema(path: Path) -> TableSchema:
    """A TableSchema from its JSON file; raises `NotFoundError` or `ConfigError` (what is wrong and where in it)."""
    from pydantic import ValidationError

    if not path.is_file():
        raise NotFoundError("There is no such schema file.", where=str(path))
    try:
        return TableSchema.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"This is not a valid schema: {where or 'file'}: {first['msg']}.", where=str(path)) from None


def schema_json(schema: TableSchema) -> str:
    """The schema as indented JSON, the same text for the same schema."""
    return schema.model_dump_json(indent=1) + "\n"


def as_cohort(table: pa.Table, schema: TableSchema | None = None, *, subject: str | None = None) -> Cohort:
    """A cohort without a split from a plain table; the schema is inferred from all rows if not given.

    For `cohortloom fit` and `evaluate`, where the caller has split the data already.

    Args:
        table: the rows.
        schema: their schema, without the subject column.
        subject: column that identifies the subject, taken out of the rows; a row is a subject if left out.
    """
    ids = None if subject is None else take_subject(table, subject)[0]
    features = table if subject is None else table.drop_columns([subject])
    schema = infer_schema(features) if schema is None else schema
    rows = conform(features, schema)
    return Cohort(table=rows, schema=schema, subject=row_subjects(normalise(rows)) if ids is None else ids)


def take_subject(table: pa.Table, name: str) -> tuple[NDArray[np.str_], pa.Table]:
    """The subject ids in column `name` as text, and the table without that column.

    Raises:
        ConfigError: there is no such column, or it is neither text nor a whole number.
        InputError: rows have no subject (empty text is none).
    """
    import pyarrow.compute as pc

    if name not in table.column_names:
        raise ConfigError(f"There is no subject column '{name}'.", todo=nearest(name, table.column_names))
    ids = normalise(table.select([name])).column(0)
    if not (pa.types.is_string(ids.type) or pa.types.is_integer(ids.type)):
        raise ConfigError(f"The subject column '{name}' is neither text nor a whole number.")
    ids = pc.cast(ids, pa.string())
    missing = ids.null_count + int(pc.sum(pc.equal(ids, "")).as_py() or 0)
    if missing:
        raise InputError(f"{missing} rows have no subject.", where=f"column {name}")
    return np.array(ids.to_pylist(), dtype=str), table.drop_columns([name])


def _read_file(path: Path, schema: TableSchema | None) -> pa.Table:
    """All columns of a file; those of the schema are read in its types where the format has none (CSV)."""
    import gzip
    import io

    if not path.is_file():
        raise NotFoundError("There is no such file.", where=str(path))
    zipped = path.name.lower().endswith(".gz")
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith((".parquet", ".csv", ".tsv", ".txt")):
        raise InputError(
            "The file's name ends neither in .csv, .tsv nor .parquet (with or without .gz).", where=str(path)
        )
    problem = ""
    try:
        raw = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
        if name.endswith(".parquet"):
            return _read_parquet(io.BytesIO(raw))
        return _read_csv(raw, schema, tabs=name.endswith(".tsv"))
    except (OSError, EOFError, zlib.error) as error:
        problem = f"The file cannot be read ({type(error).__name__})."
    except pa.ArrowException as error:
        line = re.search(r"(?:[Rr]ow|line) #?(\d+)", str(error))
        problem = f"The file is not a valid table{f' (row {line[1]})' if line else ''}."
    raise InputError(problem, where=str(path))  # outside the handlers: Arrow's messages hold cells


def _read_csv(raw: bytes, schema: TableSchema | None, *, tabs: bool) -> pa.Table:
    import io

    from pyarrow import csv

    types = None if schema is None else {f.name: f.type for f in schema.arrow()}
    return csv.read_csv(
        io.BytesIO(raw),
        parse_options=csv.ParseOptions(delimiter="\t" if tabs else ",", newlines_in_values=True),
        convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=["", "NA", "NaN"]),
    )


def _read_parquet(source: Path | object) -> pa.Table:
    import pyarrow.parquet as pq

    # ParquetFile, not read_table: a folder called `month=...` above the file must not become a column.
    with pq.ParquetFile(source) as file:
        return file.read()


def _strings(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table.column(name).to_pylist(), dtype=str)


def _long(matrix: csr_matrix, vocabulary: list[str]) -> pa.Table:
    """A sparse block as (row, code, value), by row and then by place in the vocabulary; zeros are left out."""
    whole = matrix.tocoo(copy=True)
    whole.sum_duplicates()
    order = np.lexsort((whole.col, whole.row))
    keep = order[whole.data[order] != 0]
    codes = pa.DictionaryArray.from_arrays(
        pa.array(whole.col[keep].astype(np.int32)), pa.array(vocabulary, pa.string())
    )
    return pa.table(
        {
            "row": pa.array(whole.row[keep].astype(np.int64)),
            "code": codes.cast(pa.string()),
            "value": pa.array(whole.data[keep].astype(np.int32)),
        }
    )


def _sparse(long: pa.Table, vocabulary: list[str], rows: int) -> csr_matrix:
    import pyarrow.compute as pc
    from scipy.sparse import csr_matrix

    place = pc.index_in(long.column("code"), value_set=pa.array(vocabulary, pa.string()))
    if place.null_count:
        raise InputError(f"{place.null_count} cells of a code block are not in its vocabulary.")
    return csr_matrix(
        (long.column("value").to_numpy(), (long.column("row").to_numpy(), place.to_numpy())),
        shape=(rows, len(vocabulary)),
    )


__all__ = [
    "FolderTarget",
    "as_cohort",
    "cohort_from_file",
    "read_beside",
    "read_cohort",
    "read_features",
    "read_schema",
    "read_table",
    "schema_json",
    "take_subject",
    "write_cohort",
    "write_table",
]
