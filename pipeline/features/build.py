"""From committed raw tables to a cohort: which deliveries count, the SQL, the split, the schema, the lineage.

How several deliveries become one table lives in `merge.py`, what becomes of the SQL's rows in `rows.py`, what the
columns are in `infer.py`, the code blocks in `blocks.py`, how the result is stored in `stored.py`. The same deliveries,
SQL, columns and key give the same rows in the same order; errors name the SQL file and line and never hold a cell's
value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError, InputError, NotFoundError, nearest
from pipeline.features.blocks import BlockRows, block_texts, blocks_identity, build_blocks
from pipeline.features.cohort import PARTS, Cohort
from pipeline.features.event_rows import NAME, build_event_rows, events_identity, events_text
from pipeline.features.infer import conform, infer_schema
from pipeline.features.merge import RawDelivery, add_events, month_days, open_views
from pipeline.features.newest import incomplete
from pipeline.features.query import run_sql, sql_text
from pipeline.features.rows import ordered_rows
from pipeline.features.schema import TableSchema
from pipeline.features.spec import ColumnSpec
from pipeline.features.split import assign, check_key, fingerprint, split_key
from pipeline.features.stored import TableTarget, write_cohort
from pipeline.ingest.events import EVENTS
from pipeline.ingest.fhir.validation import refuse_invalid
from pipeline.store.connection import confine, identifier
from pipeline.store.hashing import sha256_bytes, sha256_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb

    from pipeline.features.block_account import BlockAccount
    from pipeline.features.source import SourceSpec
    from pipeline.features.spec import CohortSpec
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake, Version


@dataclass(frozen=True)
class CohortInputs:
    """What the features of a cohort-month are made from; equal inputs give equal features.

    Attributes:
        cohort: cohort name.
        month: partition key, 'YYYY-MM-01'.
        as_of_end: last day of the month.
        deliveries: (delivery key, hash of its raw tables, date) of every delivery that counts, oldest first.
        sql_sha256: hash of the SQL file.
        spec_sha256: hash of what of the cohort and its source the features depend on (not the generators).
        split_fingerprint: fingerprint of the split key.
        provisional: the month was not over when this was gathered, so deliveries may still come.
    """

    cohort: str
    month: str
    as_of_end: date
    deliveries: tuple[tuple[str, str, date], ...]
    sql_sha256: str
    spec_sha256: str
    split_fingerprint: str
    provisional: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "cohort": self.cohort,
            "month": self.month,
            "as_of_end": self.as_of_end.isoformat(),
            "deliveries": [
                {"key": key, "sha256": sha256, "as_of": as_of.isoformat()} for key, sha256, as_of in self.deliveries
            ],
            "sql_sha256": self.sql_sha256,
            "spec_sha256": self.spec_sha256,
            "split_fingerprint": self.split_fingerprint,
            "provisional": self.provisional,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CohortInputs:
        """The inverse of `to_dict`."""
        return cls(
            **{
                **content,
                "as_of_end": date.fromisoformat(content["as_of_end"]),
                "deliveries": tuple(
                    (d["key"], d["sha256"], date.fromisoformat(d["as_of"])) for d in content["deliveries"]
                ),
            }
        )


@dataclass(frozen=True)
class Built:
    """A built cohort.

    Attributes:
        cohort: rows with split and schema.
        lineage: column to the raw columns it comes from, as 'table.column' (empty where the YAML does not say).
        counts: rows, subjects, subjects of each part, deliveries, visible rows of each raw table the SQL can see, and
            what became of the records of each block.
        blocks: the account of each code block, and of the events under their name.
    """

    cohort: Cohort
    lineage: dict[str, list[str]]
    counts: dict[str, int]
    blocks: dict[str, BlockAccount] = field(default_factory=dict)


def gather_inputs(
    spec: CohortSpec,
    source: SourceSpec,
    month: str,
    lake: Lake,
    home: Home,
    *,
    today: date | None = None,
    new_split: bool = False,
) -> CohortInputs:
    """Which committed deliveries count for a month of a cohort, with the hashes of everything else it depends on.

    Args:
        spec: the cohort.
        source: the cohort's source.
        month: 'YYYY-MM-01'.
        lake: where the raw tables are.
        home: where the split key is.
        today: the date by which the month is over or provisional; default today in UTC.
        new_split: accept a split key other than the one that earlier months were built with.

    Raises:
        ConfigError: `month` is no month, or the split key has changed.
        NotFoundError: the source has no delivery yet, or none by the end of the month (names the first usable month).
    """
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])-01", month) or month.startswith("0000"):
        raise ConfigError(f"'{month[:40]}' is not a month.", todo="Write it as YYYY-MM-01, for example 2026-10-01.")
    end = month_days(month)[1]
    known = deliveries_of(source, lake)
    where = f"cohort {spec.name}, month {month}"
    if not known:
        raise NotFoundError(
            f"Source '{source.name}' has no delivery yet.",
            where=where,
            todo=f"Hand one over: cohortloom deliver {source.name} PATH",
        )
    usable = [(v, as_of) for v, as_of in known if as_of <= end]
    if not usable:
        first = min(as_of for _, as_of in known)
        raise NotFoundError(
            f"Source '{source.name}' has no delivery by the end of this month.",
            where=where,
            todo=f"The first usable month is {first:%Y-%m}-01.",
        )
    if source.accumulate == "replace":
        usable = usable[-1:]
    for version, _ in usable:
        refuse_invalid(version.info.get("account", {}), source.validation, version.partition["delivery"])
    key = split_key(source, home)
    check_key(lake.tables, spec.name, key, new_split=new_split)
    return CohortInputs(
        cohort=spec.name,
        month=month,
        as_of_end=end,
        deliveries=tuple((v.partition["delivery"], v.sha256, as_of) for v, as_of in usable),
        sql_sha256=sha256_bytes(spec.sql_file.read_bytes()),
        spec_sha256=_spec_hash(spec, source),
        split_fingerprint=fingerprint(key),
        provisional=end >= (today or datetime.now(UTC).date()),
    )


def build_features(
    spec: CohortSpec,
    source: SourceSpec,
    inputs: CohortInputs,
    lake: Lake,
    key: bytes,
    *,
    threads: int = 1,
    memory_limit: str = "2GB",
) -> Built:
    """Build the cohort of a month.

    Args:
        spec: the cohort.
        source: its source.
        inputs: what `gather_inputs` found.
        lake: where the raw tables are.
        key: the split key; its fingerprint must be that of `inputs`.
        threads: of the query; with more than one, the last bits of float sums may differ from run to run.
        memory_limit: of the query, as DuckDB writes it.

    Raises:
        ConfigError: the SQL, a declared column or a lineage name is wrong, or the key is another one.
        InputError: the SQL gives no row, no training row, or a subject that is missing or repeated.
        NotFoundError: a delivery of `inputs` is gone from the lake.
    """
    if fingerprint(key) != inputs.split_fingerprint:
        raise ConfigError(
            "The split key is not the one that the inputs were gathered with.", where=f"cohort {spec.name}"
        )
    deliveries = [raw_delivery(lake, source, name, sha256, as_of) for name, sha256, as_of in inputs.deliveries]
    connection, raw_columns = open_views(
        lake, source, deliveries, inputs.as_of_end, threads=threads, memory_limit=memory_limit
    )
    try:
        lineage = _lineage(spec, raw_columns)
        text, texts = sql_text(spec.sql_file), block_texts(spec)
        asked, dated = spec.events, events_text(spec)
        _refuse_incomplete(spec, [text, dated, *texts.values()], deliveries)
        own = ["month_end"]
        if source.format in EVENTS:
            own += ["events", "subjects"]
            if any(re.search(r"\b(events|subjects)\b", t, flags=re.IGNORECASE) for t in (text, dated, *texts.values())):
                add_events(connection, lake, source, raw_columns, memory_limit=memory_limit)
        confine(connection, [path for delivery in deliveries for path in delivery.tables.values()])
        seen = sorted([*raw_columns, *own])
        rows, subject, keys = ordered_rows(spec, run_sql(spec.sql_file, text, connection, seen))
        split, tune = assign(subject, key)
        where = f"cohort {spec.name}, month {inputs.month}"
        if not np.any(split == "train"):
            raise InputError(
                f"None of the {len(np.unique(subject))} subjects falls into the training half of the split.",
                where=where,
                todo="More subjects are needed.",
            )
        blocks = build_blocks(spec, texts, BlockRows(keys, subject, split == "train"), connection, seen)
        events = asked and build_event_rows(asked, spec, dated, subject, split == "train", connection, seen)
        counts = {f"raw/{t}": _count(connection, t) for t in raw_columns}
    finally:
        connection.close()
    try:
        schema = infer_schema(rows, split == "train", _columns_with_roles(spec), spec.unit)
    except (ConfigError, InputError) as error:
        raise type(error)(error.what, where=f"{where}, {error.where}".rstrip(", "), todo=error.todo) from None
    schema = TableSchema(
        columns=schema.columns,
        blocks=[b.block for b in blocks.values()],
        unit=schema.unit,
        events=events.codes if events else None,
    )
    cohort = Cohort(
        table=conform(rows, schema),
        schema=schema,
        subject=subject,
        split=split,
        tune=tune,
        blocks={name: b.matrix for name, b in blocks.items()},
        events=events.table if events else None,
    )
    counts |= {"deliveries": len(deliveries), "rows": cohort.n_rows, "subjects": cohort.n_subjects}
    counts |= {f"subjects/{part}": len(np.unique(subject[split == part])) for part in PARTS}
    accounts = {name: b.account for name, b in blocks.items()} | ({NAME: events.account} if events else {})
    counts |= {f"block/{name}/{what}": n for name, b in accounts.items() for what, n in b.counts().items()}
    return Built(
        cohort=cohort,
        lineage={name: lineage.get(name, []) for name in [*schema.names, *accounts]},
        counts=counts,
        blocks=accounts,
    )


def _refuse_incomplete(spec: CohortSpec, texts: Sequence[str], deliveries: Sequence[RawDelivery]) -> None:
    """Raise `InputError` where the SQL names the table of a user's view that not every delivery was read with."""
    for table, keys in incomplete({delivery.key: delivery.tables for delivery in deliveries}).items():
        if any(re.search(rf"\b{re.escape(table)}\b", text, flags=re.IGNORECASE) for text in texts):
            raise InputError(
                f"The view '{table}' has no table in {len(keys)} of {len(deliveries)} deliveries (the first: {keys[0]}), so "
                "their resources would be missing.",
                where=f"cohort {spec.name}",
                todo="Read them again with the view: cohortloom deliver SOURCE PATH --as DATE --replace",
            )


def write_features(built: Built, draft: TableTarget) -> None:
    """Write a built cohort into a draft of the store."""
    write_cohort(built.cohort, draft)


def deliveries_of(source: SourceSpec, lake: Lake) -> list[tuple[Version, date]]:
    """Current raw versions of the source's deliveries with their dates, oldest first."""
    found = []
    for partition in lake.tables.partitions(f"raw/{source.format}"):
        if not partition.get("delivery", "").startswith(f"{source.name}--"):
            continue
        version = lake.tables.current(f"raw/{source.format}", partition)
        if version is not None and version.info.get("source", source.name) == source.name:
            found.append((version, date.fromisoformat(str(version.info["as_of"])[:10])))
    return sorted(found, key=lambda pair: (pair[1], pair[0].partition["delivery"]))


def raw_delivery(lake: Lake, source: SourceSpec, key: str, sha256: str, as_of: date) -> RawDelivery:
    """The raw tables of a delivery in exactly the version that the inputs name, even if a newer one came since."""
    versions = lake.tables.history(f"raw/{source.format}", {"delivery": key})
    version = next((v for v in versions if v.sha256 == sha256), None)
    if version is None:
        raise NotFoundError(
            "The raw tables that the inputs were gathered from are gone from the lake.",
            where=f"raw/{source.format}, delivery {key}",
            todo="Gather the inputs again (materialise cohort_inputs).",
        )
    tables = {name: lake.tables.path(version, name) for name, file in version.files.items() if file.schema is not None}
    return RawDelivery(key=key, as_of=as_of, tables=tables)


def _spec_hash(spec: CohortSpec, source: SourceSpec) -> str:
    return sha256_json(
        {
            # What was added later stays out while it is not used, so that features made before are still the same.
            "columns": [
                [n, c.model_dump(mode="json", exclude={"nullable"} if c.nullable is None else None)]
                for n, c in spec.columns.items()
            ],
            "unit": spec.unit,
            "subject": spec.subject,
            "labels": [t.label for t in spec.tasks],
            "protected": spec.protected,
            "source": [source.name, source.format, source.dates, source.accumulate],
            # Only where there are any: what was hashed before there were blocks keeps its hash.
            **({"blocks": blocks_identity(spec)} if spec.blocks else {}),
            **({"events": events_identity(spec.events, spec)} if spec.events else {}),
        }
    )


def _columns_with_roles(spec: CohortSpec) -> dict[str, ColumnSpec]:
    """The declared columns; labels of tasks and protected attributes get that role unless another one is declared."""
    columns = dict(spec.columns)
    roles = dict.fromkeys(spec.protected, "protected") | {task.label: "label" for task in spec.tasks}
    for name, role in roles.items():
        declared = columns.get(name)
        if declared is None or declared.role == "feature":
            columns[name] = (declared or ColumnSpec()).model_copy(update={"role": role})
    return columns


def _lineage(spec: CohortSpec, raw_columns: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """Column to sources, every one of which must be a column of a raw table."""
    where = f"cohort {spec.name}"
    sources = {name: column.source for name, column in spec.columns.items()}
    sources |= {name: block.source for name, block in spec.blocks.items()}
    sources |= {NAME: spec.events.source} if spec.events else {}
    for name, entries in sources.items():
        for entry in entries:
            table, _, field = entry.partition(".")
            if table not in raw_columns:
                raise ConfigError(
                    f"The source '{entry}' names no raw table.",
                    where=f"{where}, column {name}",
                    todo=nearest(table, list(raw_columns)),
                )
            if field not in raw_columns[table]:
                raise ConfigError(
                    f"The source '{entry}' names no column of '{table}'.",
                    where=f"{where}, column {name}",
                    todo=nearest(field, list(raw_columns[table])),
                )
    return {name: list(entries) for name, entries in sources.items()}


def _count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {identifier(table)}").fetchall()[0][0])
