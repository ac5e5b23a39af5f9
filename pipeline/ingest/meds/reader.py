"""A MEDS dataset to raw tables: `meds` (the events as delivered), `codes`, and `labels` where there are any.

The dataset's own split is counted and never used. How the rows of its shards are read is in `shards.py`; which
files of a delivery are what, in `layout.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import InputError
from pipeline.ingest.delivered_files import DeliveredFile, Outcome, files_by_outcome, files_table, outcome_of
from pipeline.ingest.meds.columns import (
    Wanted,
    row_bytes,
    stored_type,
    to_code,
    to_exactly,
    to_float32,
    to_subject,
    to_text,
    to_time,
)
from pipeline.ingest.meds.layout import Layout, read_layout
from pipeline.ingest.meds.shards import MedsWork, Order, read_shards
from pipeline.ingest.quarantine import check_limit, public_kind, quarantine_table, rejected

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from pipeline.ingest.account import Account
    from pipeline.ingest.delivery import Delivery
    from pipeline.ingest.reading import Reading
    from pipeline.store.draft import Draft

_SPLITS: Final = ("train", "tuning", "held_out")


def read_meds(delivery: Delivery, draft: Draft, reading: Reading) -> Account:
    """Read a MEDS dataset (0.3 or 0.4) into `draft`: `meds`, `codes`, `labels`, `quarantine` and `delivered_files`.

    `meds` has subject_id, time, code, numeric_value, text_value, unit, encounter_id (the last two null where the
    dataset does not have them) and every further column of the shards.

    Args:
        delivery: The delivery.
        draft: Where the tables go; nothing is committed here.
        reading: The source's settings; memory and threads are not needed, as everything is streamed.

    Raises:
        InputError: No MEDS dataset, several, one of another version, no event, or too many quarantined records.
        StoreError: No space.
    """
    layout = read_layout(delivery)
    work = MedsWork(draft, reading.source.max_quarantine_rate)
    _read_metadata(work, layout)
    order = Order()
    rows = read_shards(work, layout.shards, "meds", _events(), order)
    if layout.labels:
        read_shards(work, layout.labels, "labels", _labels(), None)
    _read_codes(work, layout)
    _read_splits(work, layout)
    others: Counter[str] = Counter(public_kind(file) for file, _ in layout.others)
    work.files += [DeliveredFile(file, "other", 0, 0, 0, 0, "no data") for file, _ in layout.others]
    account = work.account
    account.info |= {
        "other_files": dict(sorted(others.items())),
        "files_by_outcome": files_by_outcome(work.files),
        "values_changed": dict(sorted(work.changed.items())),
        "columns_cast": sorted(work.casts),
        "subjects_in_several_shards": order.scattered,
        "rows_out_of_order": order.disordered,
    }
    draft.add_table("quarantine", quarantine_table(work.rejects))
    draft.add_table("delivered_files", files_table(work.files))
    if not account.balanced:
        raise InputError(
            f"The account does not balance: {account.sentence()}.", todo="Nothing was taken. Please report this."
        )
    check_limit(account, work.rejects, work.limit)
    if not rows:
        raise InputError("The dataset holds no event that can be used.", todo="Expected are rows in data/**/*.parquet.")
    return account


def _events() -> dict[str, Wanted]:
    import pyarrow as pa

    text = pa.string()
    return {
        "subject_id": Wanted(to_subject, pa.int64(), required=True),
        "time": Wanted(to_time, pa.timestamp("us"), reason="invalid_date"),
        "code": Wanted(to_code, pa.string(), required=True),
        "numeric_value": Wanted(to_float32, pa.float32(), reason="value_not_a_number"),
        "text_value": Wanted(to_text, pa.large_string()),
        "unit": Wanted(to_exactly(text), text),
        "encounter_id": Wanted(to_exactly(text), text),
    }


def _labels() -> dict[str, Wanted]:
    import pyarrow as pa

    return {
        "subject_id": Wanted(to_subject, pa.int64(), required=True),
        "prediction_time": Wanted(to_time, pa.timestamp("us"), required=True, reason="invalid_date"),
        "boolean_value": Wanted(to_exactly(pa.bool_()), pa.bool_()),
        "integer_value": Wanted(to_exactly(pa.int64()), pa.int64()),
        "float_value": Wanted(to_float32, pa.float32(), reason="value_not_a_number"),
        "categorical_value": Wanted(to_exactly(pa.string()), pa.string()),
    }


def _read_metadata(work: MedsWork, layout: Layout) -> None:
    """`metadata/dataset.json`: its version was looked at before; here it is counted."""
    work.account.info["dataset"] = layout.described
    work.account.info["missing_metadata"] = layout.missing
    if layout.dataset is None:
        return
    file, path = layout.dataset
    work.account.files += 1
    work.account.bytes += path.stat().st_size
    if layout.fault:
        work.set_aside(file, path, "json", "dataset", layout.fault)
        return
    work.account.in_ += 1
    work.account.not_modelled["dataset.json"] = 1
    work.files.append(DeliveredFile(file, "json", 1, 0, 1, 0, "not clinical"))


def _read_codes(work: MedsWork, layout: Layout) -> None:
    """`metadata/codes.parquet` as the table `codes`: code, description, parent_codes and what else it says."""
    import pyarrow as pa

    schema = pa.schema([("code", pa.string()), ("description", pa.string()), ("parent_codes", pa.list_(pa.string()))])
    table = _whole(work, layout.codes, "codes") if layout.codes else None
    if table is None or layout.codes is None:
        work.draft.add_table("codes", schema.empty_table())
        return
    file, path = layout.codes
    try:
        found = _codes(table, schema)
    except pa.ArrowException:
        found = None
    if found is None:
        work.set_aside(file, path, "parquet", "codes", "wrong_type")
        work.draft.add_table("codes", schema.empty_table())
        return
    import pyarrow.compute as pc

    first: dict[str, int] = {}
    for place, code in enumerate(found.column("code").to_pylist()):
        if code is not None:
            first.setdefault(code, place)
    nameless = found.column("code").null_count
    again = found.num_rows - nameless - len(first)
    for place in pc.indices_nonzero(pc.is_null(found.column("code"))).to_pylist():
        work.quarantine(rejected(file, place + 1, "codes", "missing_value", row_bytes(found, place)))
    kept = found.take(pa.array(sorted(first.values()), pa.int64()))
    work.draft.add_table("codes", kept)
    work.account.in_ += found.num_rows
    if kept.num_rows:
        work.account.taken["codes"] = kept.num_rows
    if again:
        work.account.superseded["codes"] = again
    outcome = outcome_of(taken=kept.num_rows, not_modelled=0, not_clinical=0, quarantined=nameless)
    reason = "missing_value" if nameless else ""
    work.files.append(
        DeliveredFile(file, "parquet", found.num_rows, found.num_rows - nameless, 0, nameless, outcome, reason)
    )


def _codes(table: pa.Table, schema: pa.Schema) -> pa.Table | None:
    import pyarrow as pa

    if "code" not in table.column_names:
        return None
    made: dict[str, Any] = {}
    for column in schema:
        there = column.name in table.column_names
        made[column.name] = (
            table.column(column.name).cast(column.type) if there else pa.nulls(table.num_rows, column.type)
        )
    for name in table.column_names:
        if name not in made:
            kind = table.schema.field(name).type
            made[name] = table.column(name).cast(stored_type(kind))
    return pa.table(made)


def _read_splits(work: MedsWork, layout: Layout) -> None:
    """`metadata/subject_splits.parquet`: how many subjects each part has, for the account; the house has its own split."""
    if layout.splits is None:
        return
    file, path = layout.splits
    table = _whole(work, layout.splits, "subject_splits")
    if table is None:
        return
    if "split" not in table.column_names:
        work.set_aside(file, path, "parquet", "subject_splits", "other_columns")
        return
    counts = Counter(s if s in _SPLITS else "other" for s in table.column("split").to_pylist())
    work.account.info["subject_splits"] = dict(sorted(counts.items()))
    work.account.in_ += table.num_rows
    if table.num_rows:
        work.account.not_modelled["subject_splits"] = table.num_rows
    outcome: Outcome = "not modelled" if table.num_rows else "empty"
    work.files.append(DeliveredFile(file, "parquet", table.num_rows, 0, table.num_rows, 0, outcome))


def _whole(work: MedsWork, found: tuple[str, Path], table: str) -> pa.Table | None:
    """A small Parquet file as a whole; None if it cannot be read, and set aside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, path = found
    work.account.files += 1
    work.account.bytes += path.stat().st_size
    try:
        with pq.ParquetFile(path) as source:
            read = source.read()
        read.validate(full=True)
    except (pa.ArrowException, OSError, EOFError):
        read = None
    if read is None or len(set(read.column_names)) < read.num_columns:
        work.set_aside(file, path, "parquet", table, "not_parquet" if read is None else "other_columns")
        return None
    return read
