"""The Parquet files of a MEDS dataset put together as raw tables: streamed, checked, and row by row in its types.

Every file is read twice: once whole, so that a broken one is set aside before a row of it is taken, and once to be
written. How columns are brought to their types is in `columns.py`, which files there are in `layout.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import InputError
from pipeline.ingest.account import Account
from pipeline.ingest.delivered_files import DeliveredFile, outcome_of
from pipeline.ingest.meds.columns import Rows, UnfitError, Wanted, fit, stored_type, together
from pipeline.ingest.meds.layout import OLD_SUBJECT
from pipeline.ingest.quarantine import Rejected, check_limit, rejected
from pipeline.ingest.tables.unusable import UnusableFileError
from pipeline.store.hashing import sha256_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pyarrow as pa

    from pipeline.store.draft import Draft

BATCH: Final = 128 * 1024
"""Rows that are in memory at a time, and rows of a row group."""
_MANY: Final = 100_000
"""Rejected rows from which on a delivery that is lost anyway is read no further."""


@dataclass
class MedsWork:
    """Everything known so far about one delivery.

    Attributes:
        draft: Where the tables go.
        limit: Highest share of quarantined records that the source allows.
        account: Its account.
        rejects: What was set aside.
        files: What became of each file.
        changed: Column to values that its type says less exactly.
        casts: Columns that came in another type than MEDS says.
    """

    draft: Draft
    limit: float
    account: Account = field(default_factory=Account)
    rejects: list[Rejected] = field(default_factory=list)
    files: list[DeliveredFile] = field(default_factory=list)
    changed: Counter[str] = field(default_factory=Counter)
    casts: set[str] = field(default_factory=set)

    def quarantine(self, record: Rejected) -> None:
        """Set a record aside."""
        self.rejects.append(record)
        self.account.quarantined[record.reason] = self.account.quarantined.get(record.reason, 0) + 1

    def set_aside(self, file: str, path: Path, form: str, table: str, reason: str) -> None:
        """Quarantine a whole file, as one record."""
        self.account.in_ += 1
        self.quarantine(Rejected(file, 0, table, reason, sha256_file(path), path.stat().st_size))
        self.files.append(DeliveredFile(file, form, 1, 0, 0, 1, "quarantined", reason))


@dataclass
class Order:
    """Whether the shards keep what MEDS promises: one shard a subject, each subject's rows together and in time."""

    disordered: int = 0
    seen: list[Any] = field(default_factory=list)

    def look(self, table: pa.Table, before: Any) -> Any:
        """Count the rows of a batch that stand before an earlier event of the same subject; gives the last row."""
        import numpy as np

        subject = table.column("subject_id").to_numpy()
        time = table.column("time").to_numpy()
        if before is not None:
            subject, time = np.append(before[0], subject), np.append(before[1], time)
        back = (subject[1:] == subject[:-1]) & (time[1:] < time[:-1])  # nothing is before or after no time
        self.disordered += int(back.sum())
        return (subject[-1:], time[-1:]) if len(subject) else before

    @property
    def scattered(self) -> int:
        """Subjects with events in several shards."""
        import numpy as np

        if not self.seen:
            return 0
        _, shards = np.unique(np.concatenate(self.seen), return_counts=True)
        return int((shards > 1).sum())


@dataclass(frozen=True)
class _Shard:
    """A Parquet file that can be read to its end."""

    file: str
    path: Path
    rows: int
    schema: pa.Schema


def read_shards(
    work: MedsWork, files: Mapping[str, Path], table: str, wanted: Mapping[str, Wanted], order: Order | None
) -> int:
    """Put files of one kind together as one raw table, in the order of their names; gives the rows that were taken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = []
    for file, path in files.items():
        work.account.files += 1
        work.account.bytes += path.stat().st_size
        try:
            shards.append(_checked(file, path, wanted, table))
        except UnusableFileError as error:
            work.set_aside(file, path, "parquet", table, error.reason)
    extra: dict[str, pa.DataType] = {}
    for shard in shards:
        names = set(_renamed(shard.schema).names)
        for column in shard.schema:
            if column.name not in wanted and column.name in names:
                kind = stored_type(column.type)
                extra[column.name] = together(extra[column.name], kind) if column.name in extra else kind
    if table == "labels":
        extra["task"] = pa.string()
    fields = [*((n, w.type) for n, w in wanted.items()), *extra.items()]
    schema = pa.schema([pa.field(name, kind) for name, kind in fields])
    work.account.in_ += sum(shard.rows for shard in shards)
    taken = 0
    with pq.ParquetWriter(work.draft.file(f"{table}.parquet"), schema, compression="zstd") as writer:
        for shard in shards:
            taken += _copy(work, shard, writer, table, wanted, extra, order)
    if taken:
        work.account.taken[table] = taken
    return taken


def _checked(file: str, path: Path, wanted: Mapping[str, Wanted], table: str) -> _Shard:
    """Read a file to its end without keeping anything: can it be used?"""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    schema = None
    try:
        with pq.ParquetFile(path) as source:
            schema = source.schema_arrow
            for batch in source.iter_batches(BATCH):
                batch.validate(full=True)
                rows += batch.num_rows
            if rows != source.metadata.num_rows:
                schema = None
    except (pa.ArrowException, OSError, EOFError):
        schema = None  # Arrow's text may quote a cell, so it goes no further
    if schema is None:
        raise UnusableFileError("not_parquet", "This is not a Parquet file, or it is damaged.", where=file)
    if "events" in schema.names and "code" not in schema.names:
        raise InputError(
            "This is a MEDS dataset of before 0.3: its events are nested, one row a patient.",
            where=f"table {table}",
            todo="Convert it with the tools of MEDS 0.3 to one row an event.",
        )
    names = [*schema.names, *(["subject_id"] if OLD_SUBJECT in schema.names else [])]
    needed = [n for n, w in wanted.items() if w.required] + (["time"] if "time" in wanted else [])
    if len(set(schema.names)) < len(schema.names) or not set(needed) <= set(names):
        raise UnusableFileError("other_columns", "A column that MEDS requires is missing, or one repeats.", where=file)
    try:
        fit(pa.Table.from_batches([], _renamed(schema)), wanted, {})
    except UnfitError:
        schema = None
    if schema is None:
        raise UnusableFileError("wrong_type", "A column has a type from which there is no way.", where=file)
    return _Shard(file, path, rows, schema)


def _copy(
    work: MedsWork,
    shard: _Shard,
    writer: Any,
    table: str,
    wanted: Mapping[str, Wanted],
    extra: Mapping[str, pa.DataType],
    order: Order | None,
) -> int:
    """Append a file's rows that fit to a raw table; gives their number."""
    import numpy as np
    import pyarrow as pa

    start, taken, last, subjects = 0, 0, None, []
    reasons: set[str] = set()
    for batch in _batches(shard):
        rows = fit(batch, wanted, extra)
        _note(work, shard, table, rows, start)
        reasons |= {reason for _, reason, _ in rows.rejected}
        start += batch.num_rows
        taken += rows.table.num_rows
        made = rows.table
        if order is not None and made.num_rows:
            last = order.look(made, last)
            subjects.append(np.unique(made.column("subject_id").to_numpy()))
        if table == "labels":
            task = pa.array([task_of(shard.file)] * made.num_rows, pa.string())
            made = made.set_column(made.column_names.index("task"), "task", task)
        if made.num_rows:
            writer.write_table(
                made.select(writer.schema.names).cast(writer.schema).combine_chunks(), row_group_size=BATCH
            )
    if order is not None and subjects:
        order.seen.append(np.unique(np.concatenate(subjects)))
    away = shard.rows - taken
    outcome = outcome_of(taken=taken, not_modelled=0, not_clinical=0, quarantined=away)
    work.files.append(
        DeliveredFile(shard.file, "parquet", shard.rows, taken, 0, away, outcome, ",".join(sorted(reasons)))
    )
    return taken


def _note(work: MedsWork, shard: _Shard, table: str, rows: Rows, start: int) -> None:
    """Take a batch's rejected rows and changed values down; a delivery that is lost already is read no further."""
    for place, reason, content in rows.rejected:
        work.quarantine(rejected(shard.file, start + place + 1, table, reason, content))
    work.changed.update(rows.changed)
    work.casts |= {f"{table}.{column}" for column in rows.casts}
    if len(work.rejects) > _MANY and work.account.quarantine_rate > work.limit:
        check_limit(work.account, work.rejects, work.limit)


def _batches(shard: _Shard) -> Iterator[pa.Table]:
    """A file's rows as tables, the subject under its name of today."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard.path) as source:
        for batch in source.iter_batches(BATCH):
            yield pa.Table.from_batches([batch]).rename_columns(_renamed(shard.schema).names)


def _renamed(schema: pa.Schema) -> pa.Schema:
    """The schema with `patient_id`, as MEDS 0.3.0 called it, as `subject_id`."""
    import pyarrow as pa

    if "subject_id" in schema.names:
        return schema
    return pa.schema([f.with_name("subject_id") if f.name == OLD_SUBJECT else f for f in schema])


def task_of(file: str) -> str:
    """What a label is of: the first part of its path below `labels/`."""
    return f"/{file}".rpartition("/labels/")[2].partition("/")[0].removesuffix(".parquet")
