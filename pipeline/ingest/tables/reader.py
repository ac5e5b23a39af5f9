"""Plain tables to raw tables: CSV and Parquet, plain, gzipped or in ZIP archives, one or several files a table.

A CSV is first read by DuckDB, strictly and as text; where that raises, `csv_rows` reads it row by row. Types are found
over all rows of a table (or taken from `<stem>.schema.json` beside the file) and cast. A row that does not fit and a
file that cannot be used go to the quarantine; the others are read. FHIR is not read here.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, InputError
from pipeline.ingest.account import Account
from pipeline.ingest.delivered_files import DeliveredFile, files_by_outcome, files_table, outcome_of
from pipeline.ingest.quarantine import Rejected, check_limit, public_kind, public_name, quarantine_table, refuse_many
from pipeline.ingest.tables.csv_rows import DELIMITERS, told
from pipeline.ingest.tables.files import (
    CSV_SUFFIXES,
    PARQUET_SUFFIXES,
    SCHEMA_SUFFIX,
    Assigned,
    TableFile,
    assign_files,
    is_parquet,
    table_name,
)
from pipeline.ingest.tables.parts import CsvPart, ParquetPart, Part, open_csv, open_parquet
from pipeline.ingest.tables.types import Casts, declared_casts, found_casts
from pipeline.ingest.tables.unusable import UnusableFileError
from pipeline.ingest.tables.written_otherwise import forms_of
from pipeline.store.connection import connect, identifier, literal

if TYPE_CHECKING:
    import duckdb

    from pipeline.features.schema import TableSchema
    from pipeline.features.source import TableReading
    from pipeline.ingest.delivery import Delivery
    from pipeline.ingest.reading import Reading
    from pipeline.store.draft import Draft

_PARQUET = "(FORMAT parquet, COMPRESSION zstd)"


@dataclass
class _Work:
    """Everything known so far about one delivery."""

    connection: duckdb.DuckDBPyConnection
    draft: Draft
    scratch: Path
    account: Account = field(default_factory=Account)
    rejects: list[Rejected] = field(default_factory=list)
    files: list[DeliveredFile] = field(default_factory=list)
    unusable: list[UnusableFileError] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)

    def note(self, part: Part, rejects: Sequence[Rejected]) -> None:
        """Enter a file that was read."""
        self.rejects += rejects
        for record in rejects:
            self.account.quarantined[record.reason] = self.account.quarantined.get(record.reason, 0) + 1
        self.account.in_ += part.records
        self.account.files += 1
        self.account.bytes += part.bytes
        taken = part.records - len(rejects)
        outcome = outcome_of(taken=taken, not_modelled=0, not_clinical=0, quarantined=len(rejects))
        reasons = ",".join(sorted({record.reason for record in rejects}))
        name, form = part.file.name, part.form
        self.files.append(DeliveredFile(name, form, part.records, taken, 0, len(rejects), outcome, reasons))

    def set_aside(self, file: TableFile, table: str, error: UnusableFileError) -> None:
        """Quarantine a file as a whole: one record, whatever it holds."""
        size = file.size()
        self.unusable.append(error)
        if not size:  # nothing in it is nothing lost
            self.files.append(DeliveredFile(file.name, "other", 0, 0, 0, 0, "empty"))
            return
        self.rejects.append(Rejected(file.name, 0, table, error.reason, file.sha256(), size))
        account = self.account
        account.quarantined[error.reason] = account.quarantined.get(error.reason, 0) + 1
        account.in_ += 1
        account.files += 1
        account.bytes += size
        account.info.setdefault("unusable_files", {})[public_name(file.name)] = error.what
        self.files.append(DeliveredFile(file.name, "other", 1, 0, 0, 1, "quarantined", error.reason))


def read_tables(delivery: Delivery, draft: Draft, reading: Reading) -> Account:
    """Read the CSV and Parquet files of a delivery into `draft`, with `quarantine` and `delivered_files`.

    Which files are which table, and how they are read, is said by the source's `tables`; else every file is a table
    called by its stem in lower case, other characters than a-z, 0-9 as `_`.

    Args:
        delivery: The delivery.
        draft: Where the tables go; nothing is committed here.
        reading: The source's settings and what may be used.

    Raises:
        InputError: No table that can be used, no row, too many quarantined rows (or bytes of files).
        ConfigError: A schema file that is not a TableSchema.
        StoreError: No space.
    """
    scratch = draft.folder("reading")
    settings = reading.source.tables
    try:
        with connect({}, threads=reading.threads, memory_limit=reading.memory_limit, spill=reading.spill) as connection:
            work = _Work(connection, draft, scratch)
            assigned = assign_files(delivery.files(), settings)
            for file, error in assigned.refused:
                work.set_aside(file, "", error)
            for name, files in assigned.tables.items():
                _read_table(work, name, files, settings.get(name), assigned)
        _note_others(work, assigned, [name for name in settings if name not in work.account.taken])
        _note_doubts(work, reading.source.person)
        _close(work)
        draft.add_table("quarantine", quarantine_table(work.rejects))
        draft.add_table("delivered_files", files_table(work.files))
        check_limit(work.account, work.rejects, reading.source.max_quarantine_rate)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return work.account


def _read_table(
    work: _Work, name: str, files: list[TableFile], settings: TableReading | None, assigned: Assigned
) -> None:
    """All files of one table."""
    folder = work.scratch / name
    folder.mkdir()
    schema = _schema(name, files, assigned, folder)
    parts: list[Part] = []
    for number, file in enumerate(files):
        try:
            parts.append(_open(work, file, folder / str(number), settings, schema))
        except UnusableFileError as error:
            work.set_aside(file, name, error)
    parts = _alike(work, name, parts)
    if parts:
        target = work.draft.file(f"{name}.parquet")
        csv = [part for part in parts if isinstance(part, CsvPart)]
        if not csv:
            _write_parquet(work, [part for part in parts if isinstance(part, ParquetPart)], target)
        elif csv := _loaded(work, name, csv, settings):
            _write_csv(work, name, csv, settings, schema, target)
            _note_columns(work, name, csv, schema)
        if target.exists():
            ((taken,),) = work.connection.execute(f"SELECT count(*) FROM read_parquet({literal(target)})").fetchall()
            work.account.taken[name] = int(taken)
            _note_texts(work, name, target)
    shutil.rmtree(folder)


def _open(
    work: _Work, file: TableFile, scratch: Path, settings: TableReading | None, schema: TableSchema | None
) -> Part:
    scratch.mkdir()
    path = file.unpacked(scratch / "member")
    if is_parquet(file, path):
        return open_parquet(work.connection, file, path, scratch, settings)
    return open_csv(file, path, scratch, settings, schema)


def _alike(work: _Work, name: str, parts: list[Part]) -> list[Part]:
    """The files with the columns that most of them have; the others are set aside, as are those of another form."""
    if len(parts) < 2:
        return parts
    kinds = [(part.form, frozenset(part.kinds.items())) for part in parts]
    chosen = Counter(kinds).most_common(1)[0][0]  # the first of several that are as frequent
    first = parts[kinds.index(chosen)]
    kept: list[Part] = []
    for part, kind in zip(parts, kinds, strict=True):
        if kind == chosen:
            kept.append(part)
            continue
        what = _difference(name, part, first, alone=kinds.count(chosen) == 1)
        work.set_aside(part.file, name, UnusableFileError("other_columns", what, where=part.file.name))
    return kept


def _difference(name: str, part: Part, first: Part, *, alone: bool) -> str:
    """What is other in a file than in most files of its table.

    Only names that several files have are said: what stands in the first line of one file alone may be its first row.
    """
    if part.kinds == first.kinds:
        return f"It is {part.form}, and most files of the table '{name}' are {first.form}."
    other = [column for column, kind in first.kinds.items() if part.kinds.get(column) != kind]
    own = len(part.kinds.keys() - first.kinds.keys())
    said = f"{len(other)} columns" if alone else ", ".join(other[:6]) + " and more" * (len(other) > 6)
    lacks = f": {said or 'none'} of theirs it has not, or in another type, and {own} it has of its own"
    return f"It has other columns than most files of the table '{name}'{lacks}."


def _loaded(work: _Work, name: str, parts: list[CsvPart], settings: TableReading | None) -> list[CsvPart]:
    """The files whose rows could be read as text."""
    names = list(parts[0].kinds)
    loaded = []
    for part in parts:
        try:
            part.load(work.connection, names, settings, name)
        except UnusableFileError as error:
            work.set_aside(part.file, name, error)
        else:
            loaded.append(part)
    return loaded


def _write_csv(
    work: _Work,
    name: str,
    parts: list[CsvPart],
    settings: TableReading | None,
    schema: TableSchema | None,
    target: Path,
) -> None:
    """Types, then the table."""
    run = work.connection.execute
    names = list(parts[0].kinds)
    if schema is not None:
        casts = declared_casts(schema, {column: f"c{place}" for place, column in enumerate(names)})
    else:
        casts = found_casts(work.connection, [part.relation for part in parts], names)
    for part in parts:
        misfits = _misfits(work, name, part, casts, names, settings)  # may read the file anew, and set rows aside
        part.rejects += misfits
        work.note(part, part.rejects)
    if tolerant := sum(part.lined for part in parts):
        work.account.info["tolerant_files"] = work.account.info.get("tolerant_files", 0) + tolerant
    good = " UNION ALL ".join(f"SELECT {casts.select} FROM {part.relation} WHERE {casts.good}" for part in parts)
    run(f"COPY ({good}) TO {literal(target)} {_PARQUET}").fetchall()
    for part in parts:
        run(f"DROP TABLE {part.relation}").fetchall()


def _misfits(
    work: _Work, name: str, part: CsvPart, casts: Casts, names: list[str], settings: TableReading | None
) -> list[Rejected]:
    """The rows of a file that do not fit the declared schema; the file is read again where their lines are not known."""
    wrong = f"FROM {part.relation} WHERE NOT ({casts.good})"
    ((number,),) = work.connection.execute(f"SELECT count(*) {wrong}").fetchall()
    if not number:
        return []
    refuse_many(number, part.file.name)
    if not part.lined:
        part.load_rows(work.connection, names, settings, name)
    rows = work.connection.execute(f"SELECT line, sha256, bytes, {casts.reason} {wrong} ORDER BY line").fetchall()
    return [Rejected(part.file.name, line, name, reason, sha, size) for line, sha, size, reason in rows]


def _write_parquet(work: _Work, parts: list[ParquetPart], target: Path) -> None:
    """The readable copies, one after the other."""
    names = ", ".join(identifier(column) for column in parts[0].kinds)
    every = " UNION ALL ".join(f"SELECT {names} FROM read_parquet({literal(part.copy)})" for part in parts)
    work.connection.execute(f"COPY ({every}) TO {literal(target)} {_PARQUET}").fetchall()
    for part in parts:
        work.note(part, [])


def _schema(table: str, files: list[TableFile], assigned: Assigned, scratch: Path) -> TableSchema | None:
    """The TableSchema beside a file of the table (`<stem>.schema.json` or `<table>.schema.json`), if there is one."""
    wanted = [f"{_stem(file)}{SCHEMA_SUFFIX}" for file in files]
    named = [name for name in assigned.schemas if name.rpartition("/")[2] == f"{table}{SCHEMA_SUFFIX}"]
    there = [name for name in (*wanted, *named) if name in assigned.schemas]
    if not there:
        return None
    from pydantic import ValidationError

    from pipeline.features.schema import TableSchema

    file = assigned.schemas[there[0]]
    try:
        return TableSchema.model_validate_json(file.unpacked(scratch / "schema").read_bytes())
    except ValidationError as error:  # it holds what stands in the file, so it goes no further
        faults = error.error_count()
        place = ".".join(str(part)[:40] for part in error.errors()[0]["loc"])
    raise ConfigError(f"This is not a TableSchema ({faults} faults).", where=f"{file.name}, {place or 'whole file'}")


def _stem(file: TableFile) -> str:
    suffixes = (*CSV_SUFFIXES, *PARQUET_SUFFIXES)
    return next((file.bare.removesuffix(s) for s in suffixes if file.bare.endswith(s)), file.bare)


def _note_columns(work: _Work, name: str, parts: list[CsvPart], schema: TableSchema | None) -> None:
    """What people should know of the columns: names that were given, and columns that the schema does not speak of."""
    renamed = told(column for part in parts for column in part.header.renamed)
    if renamed:
        work.account.info.setdefault("renamed_columns", {})[name] = renamed
    extra = told(c for part in parts for c in part.header.names if schema is not None and c not in schema.names)
    if extra:
        work.account.info.setdefault("columns_not_in_schema", {})[name] = extra


def _note_texts(work: _Work, name: str, written: Path) -> None:
    """The columns of a table, and of its texts those that would be numbers or dates if they were written otherwise."""
    relation = f"read_parquet({literal(written)}, hive_partitioning = false)"
    types = {row[0]: row[1] for row in work.connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}
    work.columns[name] = list(types)
    usual = [column for column, kind in types.items() if kind == "VARCHAR" and told([column]) == [column]]
    if forms := forms_of(work.connection, relation, usual):
        work.account.info.setdefault("written_otherwise", {})[name] = forms


def _note_doubts(work: _Work, person: str | None) -> None:
    """Where the source's settings may be wrong: a person's column that is not there, a delimiter within a name."""
    if lacking := sorted(name for name, there in work.columns.items() if person is not None and person not in there):
        work.account.info["without_person"] = lacking
    single = {name: there[0] for name, there in work.columns.items() if len(there) == 1}
    if doubtful := sorted(name for name, column in single.items() if any(mark in column for mark in DELIMITERS)):
        work.account.info["one_column"] = doubtful


def _note_others(work: _Work, assigned: Assigned, absent: list[str]) -> None:
    """Files that are no tables, and declared tables that were not found."""
    others = Counter(public_kind(file.name) for file in assigned.others)
    for file in (*assigned.others, *assigned.schemas.values()):
        work.files.append(DeliveredFile(file.name, "other", 0, 0, 0, 0, "no data"))
    info = work.account.info
    info["other_files"] = dict(sorted(others.items()))
    info["files_by_outcome"] = files_by_outcome(work.files)
    if absent:
        info["absent_tables"] = absent


def _tables(number: int) -> str:
    return f"{number} table{'s' * (number != 1)}"


def _close(work: _Work) -> None:
    """Hold the account against what came in."""
    account = work.account
    if not account.taken:
        if work.unusable:
            first, number = work.unusable[0], len(work.unusable)
            what = first.what if number == 1 else f"None of {number} files can be used; this one: {first.what}"
            raise InputError(what, where=first.where, todo=first.todo)
        raise InputError(
            "The delivery is empty: it holds no table.",
            todo="Expected are .csv, .tsv or .parquet files (plain, .gz or in a .zip), or what the source's `tables` "
            "in sources.yaml name.",
        )
    if account.in_ == 0:
        others = sum(account.info["other_files"].values())
        beside = f" There are {others:,} files beside that no reader of plain tables takes." if others else ""
        raise InputError(f"The delivery is empty: {_tables(len(account.taken))}, and not one row.{beside}")
    if not account.balanced:
        raise InputError(
            f"The account does not balance: {account.sentence()}.", todo="Nothing was taken. Please report this."
        )


__all__ = ["CSV_SUFFIXES", "PARQUET_SUFFIXES", "read_tables", "table_name"]
