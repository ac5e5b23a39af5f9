"""A synthetic cohort with visits as a MEDS 0.4 dataset: made-up people, numbered from 1, on made-up days.

Events are the codes of the visits, with the number of the visit as `encounter_id`; what the columns say of a person
stands before them without a time, as MEDS has it: `SEX//female`, or `AGE` with a number. How a dataset is written is in
`export.py`.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError
from pipeline.features.visits import Visits
from pipeline.ingest.meds.export import write_dataset
from pipeline.store.connection import connect
from pipeline.store.disk import remove

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column, TableSchema
    from pipeline.ingest.meds.export import Written


def write_synthetic(
    cohort: Cohort, folder: Path, *, name: str, version: str, threads: int = 1, memory_limit: str = "2GB"
) -> Written:
    """Write a synthetic cohort as a MEDS dataset; the same cohort gives the same bytes.

    Args:
        cohort: rows without a split, with visits.
        folder: for data/ and metadata/; new or empty. Written beside it first, so that it is there whole or not at all.
        name: for dataset_name.
        version: for dataset_version.
        threads: of DuckDB.
        memory_limit: of DuckDB.

    Raises:
        ConfigError: the cohort has no visits, or is a real one; the folder is taken.
        InputError: there is no event.
    """
    if cohort.split is not None:
        raise ConfigError("These rows have a split: they are real ones.", where=name)
    check_target(cohort.schema, folder)
    events = event_table(cohort)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".tmp-{folder.name}-{uuid.uuid4().hex}")
    work.mkdir(mode=0o700)
    try:
        with connect({}, threads=threads, memory_limit=memory_limit) as connection:
            connection.register("events", events)
            written = write_dataset(connection, work, name=name, version=version, descriptions=[])
        work.replace(folder)
    finally:
        remove(work)
    return written


def check_target(schema: TableSchema, folder: Path) -> None:
    """Raise `ConfigError` where rows of this schema have no visits, or the folder for them is taken: before any is drawn."""
    if schema.events is None:
        raise ConfigError(
            "These rows come without visits, so there are no events to export.",
            todo="Generators of sequences draw them (halo_small); rows alone are handed out with `cohortloom export`.",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("There is something already; nothing is overwritten.", where=str(folder))


def event_table(cohort: Cohort) -> pa.Table:
    """The columns of MEDS with `unit` and `encounter_id`: a row a cell of a person's columns, then one a code of a visit.

    Raises:
        ConfigError: the cohort has no visits.
    """
    import pyarrow as pa

    if cohort.schema.events is None or cohort.events is None:
        raise ConfigError(
            "These rows come without visits, so there are no events to export.",
            todo="Generators of sequences draw them (halo_small); rows alone are handed out with `cohortloom export`.",
        )
    visits = Visits.of(cohort)
    row = visits.row_of_visit[visits.visit_of_code]
    place = visits.place_of_visit[visits.visit_of_code]
    of_visits = _table(
        row,
        cohort.events.column("code").combine_chunks(),
        time=cohort.events.column("time").combine_chunks(),
        encounter=pa.array(
            [f"{r + 1}-{p + 1}" for r, p in zip(row.tolist(), place.tolist(), strict=True)], pa.string()
        ),
    )
    return pa.concat_tables([*(_of_column(cohort, c) for c in cohort.schema.modelled()), of_visits])


def _of_column(cohort: Cohort, column: Column) -> pa.Table:
    """What a column says of each person: a level in the code, a number beside it, a date in words; missing cells not."""
    import pyarrow as pa

    there = np.flatnonzero(~cohort.missing(column.name))
    code = column.name.upper()
    if column.discrete:
        levels = pa.array([f"{code}//{_said(level)}" for level in column.levels or []], pa.string())
        return _table(there, levels.take(pa.array(cohort.codes(column.name)[there])))
    values = cohort.values(column.name)[there]
    names = pa.array([code] * len(there), pa.string())
    if column.kind == "datetime":
        cells = cohort.table.column(column.name).combine_chunks().take(pa.array(there)).to_pylist()
        return _table(there, names, text=pa.array([cell.isoformat() for cell in cells], pa.large_string()))
    units = pa.array([column.unit] * len(there), pa.string())
    return _table(there, names, number=pa.array(values.astype(np.float32)), unit=units)


def _said(level: object) -> str:
    return str(level).lower() if isinstance(level, bool) else str(level)


def _table(
    row: NDArray[np.int64],
    code: pa.Array,
    *,
    time: pa.Array | None = None,
    number: pa.Array | None = None,
    text: pa.Array | None = None,
    unit: pa.Array | None = None,
    encounter: pa.Array | None = None,
) -> pa.Table:
    import pyarrow as pa

    n = len(row)
    columns = {
        "subject_id": (pa.int64(), pa.array(row + 1, pa.int64())),
        "time": (pa.timestamp("us"), time),
        "code": (pa.string(), code),
        "numeric_value": (pa.float32(), number),
        "text_value": (pa.large_string(), text),
        "unit": (pa.string(), unit),
        "encounter_id": (pa.string(), encounter),
    }
    return pa.table({k: pa.nulls(n, kind) if given is None else given for k, (kind, given) in columns.items()})
