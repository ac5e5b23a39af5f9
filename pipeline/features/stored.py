"""Cohorts to files and back.

A cohort is a folder: `data.parquet` (exactly the schema), `subjects.parquet` (subject, split, tune and whatever else
belongs beside a row), one `block_<name>.parquet` a code block (row, code, value), `events.parquet` where there
are visits (row, visit, time, code), `schema.json`. Same cohort, same bytes. How a cohort is built from raw tables lives in `build.py`, how plain tables become one in `tables.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError, InputError, NotFoundError
from pipeline.features.cohort import Cohort
from pipeline.features.infer import conform
from pipeline.features.schema import TableSchema
from pipeline.features.visits import event_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        cohort: what to write.
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
        into.add_table(f"block_{block.name}", block_table(cohort.blocks[block.name], block.vocabulary))
    if cohort.events is not None:
        into.add_table("events", cohort.events, schema=event_schema())
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
    return Cohort(
        table=read_parquet(data).cast(schema.arrow()),
        schema=schema,
        subject=_strings(beside, "subject"),
        split=_strings(beside, "split") if "split" in beside.column_names else None,
        tune=np.asarray(beside.column("tune").to_numpy(), dtype=bool) if "tune" in beside.column_names else None,
        blocks={
            b.name: _sparse(read_parquet(folder / f"block_{b.name}.parquet"), b.vocabulary, beside.num_rows)
            for b in schema.blocks
        },
        events=None if schema.events is None else read_parquet(folder / "events.parquet").cast(event_schema()),
    )


def read_beside(folder: Path) -> pa.Table:
    """What stands beside the rows of a written cohort: subject, split and tune if it has them, extra columns."""
    return read_parquet(folder / "subjects.parquet")


def read_features(store: VersionStore, version: Version) -> Cohort:
    """The cohort in a committed version of `features` or `synthetic/<generator>`."""
    return read_cohort(store.folder(version))


def schema_json(schema: TableSchema) -> str:
    """The schema as indented JSON, the same text for the same schema."""
    return schema.model_dump_json(indent=1) + "\n"


def read_parquet(source: Path | object) -> pa.Table:
    """A Parquet file or buffer as a table, without columns made of the folders above it."""
    import pyarrow.parquet as pq

    # ParquetFile, not read_table: a folder called `month=...` above the file must not become a column.
    with pq.ParquetFile(source) as file:
        return file.read()


def block_table(matrix: csr_matrix, vocabulary: list[str]) -> pa.Table:
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


def _strings(table: pa.Table, name: str) -> np.ndarray:
    return np.array(table.column(name).to_pylist(), dtype=str)


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
