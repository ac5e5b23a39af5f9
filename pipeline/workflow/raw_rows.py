"""One person in the raw tables of a delivery: whether they are there, and a version of the tables without them.

Used where a person is erased (`erasure.py`). How the tables come about is in `ingest/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.ingest.account import BESIDE_THE_DATA
from pipeline.ingest.erasure.taking_out_files import SUBJECT, is_dictionary
from pipeline.ingest.erasure.taking_out_tables import rows_of
from pipeline.workflow.deliveries import raw_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.features.source import SourceSpec
    from pipeline.ingest.erasure.person import Person
    from pipeline.store.lake import Lake, Version

_FHIR_COLUMNS = ("key", "patient", "unresolved")
_BESIDE_COLUMNS = ("file", "key")
DELETED = "deleted_resources"


def person_rows(lake: Lake, raw: Version, person: Person) -> int:
    """Rows of the raw tables that are the person's, and of what stands beside them: files called by their id, and the
    statement that they were deleted."""
    found = 0
    for name, stored in raw.files.items():
        if stored.rows is not None:
            columns = _columns(name, stored.schema or {}, person)
            for batch in _batches(lake, raw, name, columns):
                found += sum(_mask(name, batch, person).to_pylist())
    return found


def patients(lake: Lake, raw: Version, column: str | None) -> set[str]:
    """The ids of everybody in the raw tables of a delivery.

    Args:
        lake: The lake.
        raw: Version of `raw/<format>`.
        column: The person column (`column_of`); None for FHIR.
    """
    found: set[str] = set()
    for name in raw_tables(lake, raw):
        schema = raw.files[name].schema or {}
        wanted = [c for c in schema if column is not None and c.lower() == column.lower()]
        for batch in _batches(lake, raw, name, wanted if column is not None else [c for c in schema if c == "patient"]):
            for value in batch.column(0).unique().to_pylist():
                if value is not None:
                    whole = isinstance(value, float) and value.is_integer()
                    text = str(int(value) if whole else value)
                    found.add(text.removeprefix("Patient/") if column is None else text.strip())
    return found


def filter_raw(lake: Lake, raw: Version, person: Person, *, run_id: str = "") -> Version:
    """Commit the raw tables again without the person's rows, where the delivery itself is gone from the landing folder.

    The account is put right: what was taken is less by what went.
    """
    import pyarrow.compute as pc

    account = {**raw.info["account"], "taken": dict(raw.info["account"]["taken"])}
    with lake.tables.draft(raw.asset, raw.partition) as draft:
        for name, stored in sorted(raw.files.items()):
            if stored.rows is None:
                draft.file(stored.file).write_bytes(lake.tables.path(raw, name).read_bytes())
                continue
            table = lake.tables.read(raw, name)
            gone = _mask(name, table, person)
            draft.add_table(name, table.filter(pc.invert(gone)))
            if name not in BESIDE_THE_DATA or name == DELETED:
                _take_off(account, name, _records(table, gone))
        return draft.commit(inputs=raw.inputs, info={**raw.info, "account": account}, run_id=run_id)


def _records(table: Any, gone: Any) -> int:
    """Records among the rows that go: of observations, those that are no component."""
    import pyarrow.compute as pc

    if "component" in table.column_names and "parent_code" in table.column_names:
        gone = pc.and_(gone, pc.equal(table.column("component").combine_chunks(), 0))
    return int(pc.sum(gone).as_py() or 0)


def _take_off(account: dict[str, Any], table: str, records: int) -> None:
    """Take the records of a table off the account, under the name that it counts them by."""
    from pipeline.ingest.fhir.pieces import DELETION
    from pipeline.ingest.fhir.user_views import primary_table

    known = DELETION if table == DELETED else table
    kind = next((name for name in account["taken"] if primary_table(name) == table), known)
    if records and kind in account["taken"]:
        account["taken"][kind] -= records
        account["in"] -= records
        if not account["taken"][kind]:
            del account["taken"][kind]


def _columns(table: str, schema: dict[str, str], person: Person) -> list[str]:
    if table in BESIDE_THE_DATA:
        return [name for name in _BESIDE_COLUMNS if name in schema]
    if person.column is not None:
        return [name for name in schema if name.lower() == person.column.lower()]
    return [name for name in _FHIR_COLUMNS if name in schema]


def _batches(lake: Lake, raw: Version, name: str, columns: list[str]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    if not columns:
        return
    with pq.ParquetFile(lake.tables.path(raw, name)) as file:
        yield from file.iter_batches(columns=columns)


def _mask(name: str, table: Any, person: Person) -> Any:
    """Which rows of a table (or batch) are the person's; one bool a row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    gone = pa.array([False] * table.num_rows, pa.bool_())
    schema = dict.fromkeys(table.schema.names, "")
    for column in _columns(name, schema, person):
        values = table.column(column)
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if name in BESIDE_THE_DATA and column == "file":
            traced = [person.distinctive and person.traced((v or "").encode()) for v in values.to_pylist()]
            hits = pa.array(traced, pa.bool_())
        elif person.column is not None:
            hits = rows_of(values, person)
        elif column == "unresolved":
            named = [v for v in values.unique().to_pylist() if v is not None and person.refers(v)]
            hits = pc.is_in(values, value_set=pa.array(named, pa.string()))
        else:
            hits = pc.fill_null(pc.equal(values, f"Patient/{person.id}"), False)
        gone = pc.or_(gone, hits)
    return gone


def anybody_left(raw: Version) -> bool:
    """Does a version of raw tables hold a row of anybody? Dictionaries and what stands beside the data do not count."""
    format = raw.asset.partition("/")[2]
    return any(
        bool(stored.rows) and name not in BESIDE_THE_DATA and not is_dictionary(format, name)
        for name, stored in raw.files.items()
    )


def column_of(source: SourceSpec, person_column: str | None) -> str | None:
    """The person column of a source: None for FHIR, which names its patients in its own way."""
    if source.format == "fhir":
        return None
    return (person_column or source.person) if source.format == "table" else SUBJECT
