"""Deletions in a FHIR delivery: which resources are gone at its end, and the table `deleted_resources`.

Of every key a delivery states one thing: a version, in the table of its type, or that it was deleted. Where both came,
the later one counts: by time where both tell one, else by their place in the delivery. What that means for the months
is in `features/merge.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.ingest.fhir.pieces import DELETION, Deletion

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.ingest.fhir.state import Work
    from pipeline.ingest.fhir.tables import RawTables

_SCHEMA = (
    "key VARCHAR, deleted_at TIMESTAMP, form INTEGER, number INTEGER, part INTEGER, place BIGINT, line BIGINT, "
    "file VARCHAR"
)


def apply_deletions(work: Work, tables: RawTables) -> pa.Table:
    """Take deleted resources out of the tables, enter both into the account, and give the table `deleted_resources`.

    Args:
        work: The delivery; its tables are written and hold one version of every resource.
        tables: Those tables.

    Returns:
        key, deleted_at (UTC; NULL where nothing is said), file, line: one row for every resource that is gone.
    """
    tables.run(f"CREATE TEMP TABLE deletions ({_SCHEMA})")
    if work.deletions:
        _load(work, tables)
        for kind in sorted({deletion.key.partition("/")[0] for deletion in work.deletions} & work.kinds.keys()):
            if gone := _drop(kind, work, tables):
                work.account.taken[kind] -= gone
                work.account.superseded[kind] = work.account.superseded.get(kind, 0) + gone
                if not work.account.taken[kind]:
                    del work.account.taken[kind]
    found = tables.connection.sql("SELECT key, deleted_at, file, line FROM deletions ORDER BY key").to_arrow_table()
    if found.num_rows:
        work.account.taken[DELETION] = found.num_rows
    if repeated := len(work.deletions) - found.num_rows:
        work.account.superseded[DELETION] = repeated
    return found


def _load(work: Work, tables: RawTables) -> None:
    """The newest deletion of every key: the one with the latest time, else the last one."""
    import pyarrow as pa

    rows = [_row(deletion, work) for deletion in work.deletions]
    names = ("key", "said", "form", "number", "part", "place", "line", "file")
    told = pa.table({name: [row[index] for row in rows] for index, name in enumerate(names)})
    tables.connection.register("told", told)
    # In two steps: what may raise is not allowed in a window's ORDER BY.
    tables.run("CREATE OR REPLACE TEMP TABLE dated AS SELECT *, _moment(said) AS deleted_at FROM told")
    tables.run("""
        INSERT INTO deletions SELECT key, deleted_at, form, number, part, place, line, file FROM dated
        QUALIFY row_number() OVER (PARTITION BY key
            ORDER BY deleted_at DESC NULLS LAST, form DESC, number DESC, part DESC, place DESC) = 1""")
    tables.connection.unregister("told")


def _row(deletion: Deletion, work: Work) -> tuple[str | int | None, ...]:
    return (deletion.key, deletion.at, *deletion.place, deletion.line, work.names[deletion.place[1]])


def _drop(kind: str, work: Work, tables: RawTables) -> int:
    """Take the deleted resources of a type out of its table, and the deletions that a later version undid out of theirs."""
    table = tables.scan(kind)
    tables.run(f"""
        CREATE OR REPLACE TEMP TABLE met AS
        SELECT DISTINCT key, last_updated, deleted_at, (form, number, part, place) AS deleted_place,
            CASE WHEN deleted_at IS NOT NULL AND last_updated IS NOT NULL THEN deleted_at >= last_updated END AS gone
        FROM {table} JOIN deletions USING (key)""")
    if tables.run("SELECT 1 FROM met WHERE gone IS NULL LIMIT 1"):
        _by_place(kind, work, tables)
    ((gone, undone),) = tables.run("SELECT count(*) FILTER (gone), count(*) FILTER (NOT gone) FROM met")
    if undone:
        tables.run("DELETE FROM deletions WHERE key IN (SELECT key FROM met WHERE NOT gone)")
    if gone:
        tables.rewrite(
            tables.path(kind),
            f"SELECT * EXCLUDE (file_row_number) FROM {tables.scan(kind, rows=True)} "
            "WHERE key NOT IN (SELECT key FROM met WHERE gone) ORDER BY file_row_number",
        )
    return int(gone)


def _by_place(kind: str, work: Work, tables: RawTables) -> None:
    """Decide by place where a time is missing: find where in the delivery the version stood that is kept."""
    tables.run(
        "CREATE OR REPLACE TEMP TABLE stood "
        "(key VARCHAR, place STRUCT(form INTEGER, number INTEGER, part INTEGER, place BIGINT))"
    )
    shape = {"id": "text", "_at": "text", "meta": {"lastUpdated": "moment"}}
    for source in work.sources.get(kind, []):
        if source.raw is None:
            marks = "split(_at, ':')"
            fields = [str(source.order[0]), f"{marks}[1]", f"{marks}[2]", f"{marks}[4]"]
        else:
            fields = ["0", str(source.raw), "0", "0"]
        form, number, part, place = fields
        tables.run(f"""
            INSERT INTO stood SELECT met.key, struct_pack(form := {form}::INTEGER, number := {number}::INTEGER,
                part := {part}::INTEGER, place := {place}::BIGINT)
            FROM {tables.read(source, shape)} JOIN met ON met.key = '{kind}/' || id
            WHERE met.gone IS NULL AND _moment(meta.lastUpdated) IS NOT DISTINCT FROM met.last_updated""")
    tables.run("""
        UPDATE met SET gone = (deleted_place > last.place)
        FROM (SELECT key, max(place) AS place FROM stood GROUP BY key) AS last
        WHERE met.key = last.key AND met.gone IS NULL""")
