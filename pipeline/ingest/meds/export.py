"""Events out of the house as a MEDS 0.4 dataset: shards by subject, metadata, and the split only where it is given.

The same events give the same bytes: nothing of when or where the dataset was written stands in it. Which events are
exported is in `workflow/exporting.py`; how a dataset comes in, in `reader.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pipeline
from pipeline.errors import InputError
from pipeline.store.parquet import write_parquet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb
    import pyarrow as pa

SHARD_ROWS: Final = 1_000_000
"""A shard that has so many rows ends with its subject."""
BATCH: Final = 128 * 1024
"""Rows of a row group."""
_COLUMNS: Final = ("subject_id", "time", "code", "numeric_value", "text_value", "unit", "encounter_id")


@dataclass(frozen=True)
class Written:
    """What a dataset holds.

    Attributes:
        events: Rows of all shards.
        subjects: Subjects with at least one event.
        shards: Files below data/.
        codes: Different codes.
        described: Codes with a description.
        split: Subjects in subject_splits.parquet; None where there is none.
    """

    events: int
    subjects: int
    shards: int
    codes: int
    described: int
    split: int | None


def write_dataset(
    connection: duckdb.DuckDBPyConnection,
    folder: Path,
    *,
    name: str,
    version: str,
    descriptions: Sequence[str],
    split: Mapping[int, str] | None = None,
) -> Written:
    """Write the events of a connection as a MEDS dataset.

    Args:
        connection: Has a relation `events` with the columns of MEDS, unit and encounter_id.
        folder: Empty folder for data/ and metadata/.
        name: For dataset_name.
        version: For dataset_version.
        descriptions: SELECTs of `code, description, parent_codes` over what the connection has; of several
            descriptions of a code the one that most rows have is taken.
        split: Subject to the name of its part; only then is there a subject_splits.parquet.

    Raises:
        InputError: There is no event.
        OSError: As the operating system reports it.
    """
    for inner in ("data", "metadata"):
        (folder / inner).mkdir(mode=0o700)
    ordered = connection.sql(f"SELECT {', '.join(_COLUMNS)} FROM events ORDER BY {_order()}")
    shards = _Shards(folder / "data")
    try:
        for batch in ordered.to_arrow_reader(BATCH):
            shards.add(batch)
    finally:
        shards.close()
    if not shards.events:
        raise InputError("There is no event to export.", where=name)
    codes = _codes(connection, descriptions)
    write_parquet(folder / "metadata" / "codes.parquet", codes)
    if split is not None:
        write_parquet(folder / "metadata" / "subject_splits.parquet", _splits(split))
    (folder / "metadata" / "dataset.json").write_text(_described(name, version), encoding="utf-8")
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    described = codes.num_rows - codes.column("description").null_count
    return Written(
        events=shards.events,
        subjects=shards.subjects,
        shards=shards.number,
        codes=codes.num_rows,
        described=described,
        split=None if split is None else len(split),
    )


def _order() -> str:
    """Every column, so that rows that are alike in the first ones do not depend on the query plan."""
    return ", ".join(["subject_id", *(f"{column} NULLS FIRST" for column in _COLUMNS[1:])])


class _Shards:
    """Writes rows that come sorted by subject to data/0.parquet, data/1.parquet, ...; a subject is never cut in two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.number = self.events = self.subjects = 0
        self._writer: Any = None
        self._rows = 0
        self._last: int | None = None
        self._waiting: list[pa.Table] = []

    def add(self, batch: Any) -> None:
        """Append rows."""
        import numpy as np
        import pyarrow as pa

        table = pa.Table.from_batches([batch])
        ids = table.column("subject_id").to_numpy()
        new = np.flatnonzero(np.append(True if self._last is None else ids[0] != self._last, ids[1:] != ids[:-1]))
        self.subjects += len(new)
        start = 0
        for place in new.tolist():
            if self._rows + (place - start) >= SHARD_ROWS:
                self._take(table.slice(start, place - start))
                self._end()
                start = place
        self._take(table.slice(start))
        self._last = int(ids[-1])

    def close(self) -> None:
        """End the last shard."""
        self._end()

    def _take(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._rows += rows.num_rows
        self.events += rows.num_rows
        if sum(table.num_rows for table in self._waiting) >= BATCH:
            self._write(BATCH)

    def _end(self) -> None:
        if self._rows:
            self._write(1)
            self._writer.close()
            self.number += 1
        self._writer, self._rows = None, 0

    def _write(self, least: int) -> None:
        """Write what is waiting in row groups of one size; what is less than `least` rows waits on."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from meds import DataSchema

        schema = pa.schema([*DataSchema.schema(), ("unit", pa.string()), ("encounter_id", pa.string())])
        if self._writer is None:
            path = self.folder / f"{self.number}.parquet"
            self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        rows = pa.concat_tables(self._waiting)
        place = 0
        while rows.num_rows - place >= least:
            table = DataSchema.align(rows.slice(place, BATCH)).cast(schema).combine_chunks()
            DataSchema.validate(table)
            self._writer.write_table(table, row_group_size=BATCH)
            place += table.num_rows
        self._waiting = [rows.slice(place)] if place < rows.num_rows else []


def _codes(connection: duckdb.DuckDBPyConnection, descriptions: Sequence[str]) -> pa.Table:
    """Every code of the events, once, with what the source says of it."""
    import pyarrow as pa
    from meds import CodeMetadataSchema

    nothing = "SELECT CAST(NULL AS VARCHAR) AS code, CAST(NULL AS VARCHAR) AS description, CAST(NULL AS VARCHAR[]) AS parent_codes"
    said = " UNION ALL ".join([nothing, *descriptions])
    table = connection.sql(f"""
        WITH said AS ({said}),
        described AS (
            SELECT code, description FROM said WHERE description IS NOT NULL GROUP BY code, description
            QUALIFY row_number() OVER (PARTITION BY code ORDER BY count(*) DESC, description) = 1),
        below AS (
            SELECT code, parent_codes FROM said WHERE parent_codes IS NOT NULL GROUP BY code, parent_codes
            QUALIFY row_number() OVER (PARTITION BY code ORDER BY count(*) DESC, parent_codes) = 1)
        SELECT code, description, parent_codes
        FROM (SELECT DISTINCT code FROM events) LEFT JOIN described USING (code) LEFT JOIN below USING (code)
        ORDER BY code""").to_arrow_table()
    schema = pa.schema([*CodeMetadataSchema.schema()])
    table = CodeMetadataSchema.align(table.cast(schema))
    CodeMetadataSchema.validate(table)
    return table


def _splits(split: Mapping[int, str]) -> pa.Table:
    import pyarrow as pa
    from meds import SubjectSplitSchema

    rows = sorted(split.items())
    table = pa.table({"subject_id": [s for s, _ in rows], "split": [p for _, p in rows]}, SubjectSplitSchema.schema())
    SubjectSplitSchema.validate(table)
    return table


def _described(name: str, version: str) -> str:
    """`dataset.json`; without the time of the export, so that the same events give the same bytes."""
    import meds

    content = {
        "dataset_name": name,
        "dataset_version": version,
        "etl_name": "cohortloom",
        "etl_version": pipeline.__version__,
        "meds_version": meds.__version__,
        "code_modifier_columns": ["unit"],
        "raw_source_id_columns": ["encounter_id"],
    }
    meds.DatasetMetadataSchema.validate(content)
    return json.dumps(content, indent=2, sort_keys=True) + "\n"
