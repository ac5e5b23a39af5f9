"""MIMIC-III and MIMIC-IV deliveries (CSV, plain or gzipped) to raw tables, one a declared table.

Which tables there are and how they hang together is declared in `mimic3_tables.py` and `mimic4_tables.py`; one file is
read in `rows.py`. Here: which file is which table, what is absent, what points to nothing, and the account. What
of it is an event is in `mimic3_events.py` and `mimic4_events.py`.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from pipeline.errors import InputError
from pipeline.ingest.account import Account
from pipeline.ingest.delivered_files import DeliveredFile, files_by_outcome, files_table, outcome_of
from pipeline.ingest.lines import ByteSource, lines, survey
from pipeline.ingest.mimic.mimic3_tables import MIMIC3
from pipeline.ingest.mimic.mimic4_tables import MIMIC4
from pipeline.ingest.mimic.rows import ReadTable, read_table
from pipeline.ingest.mimic.tables import MimicRelease
from pipeline.ingest.quarantine import Rejected, check_limit, public_kind, quarantine_table
from pipeline.ingest.tables.archives import is_packed, most_unpacked
from pipeline.ingest.tables.csv_rows import count_rows, told
from pipeline.store.connection import connect, identifier, literal
from pipeline.store.hashing import sha256_file

if TYPE_CHECKING:
    import duckdb

    from pipeline.ingest.delivery import Delivery
    from pipeline.ingest.reading import Reading
    from pipeline.store.draft import Draft

_FORMAT: Final = {MIMIC3.generation: "mimic3", MIMIC4.generation: "mimic4"}


def read_mimic3(delivery: Delivery, draft: Draft, reading: Reading) -> Account:
    """Read a delivery of MIMIC-III 1.4 into `draft`: one table a file, `quarantine` and `delivered_files`.

    Files are known by their stem, in any case and any folder; columns by their name, in any case. A file that is no
    such table (no header, columns missing) is set aside as a whole. Absent tables, absent and undeclared columns and
    links that lead nowhere are named in the account.

    Args:
        delivery: The delivery.
        draft: Where the tables go; nothing is committed here.
        reading: The source's settings and what may be used.

    Raises:
        InputError: No patients or no admissions, tables of MIMIC-IV, two files for one table, too many quarantined rows.
        StoreError: No space.
    """
    return _read(delivery, draft, reading, MIMIC3, MIMIC4)


def read_mimic4(delivery: Delivery, draft: Draft, reading: Reading) -> Account:
    """Read a delivery of MIMIC-IV 2.2 or 3.1 (modules hosp and icu) as `read_mimic3` does one of MIMIC-III.

    Args:
        delivery: The delivery.
        draft: Where the tables go; nothing is committed here.
        reading: The source's settings and what may be used.

    Raises:
        InputError: No patients or no admissions, tables of MIMIC-III, two files for one table, too many quarantined
            rows.
        StoreError: No space.
    """
    return _read(delivery, draft, reading, MIMIC4, MIMIC3)


@dataclass
class _Work:
    """Everything known so far about one delivery."""

    connection: duckdb.DuckDBPyConnection
    draft: Draft
    scratch: Path
    release: MimicRelease
    account: Account = field(default_factory=Account)
    rejects: list[Rejected] = field(default_factory=list)
    files: list[DeliveredFile] = field(default_factory=list)
    tables: dict[str, Path] = field(default_factory=dict)
    columns: dict[str, set[str]] = field(default_factory=dict)


def _read(
    delivery: Delivery, draft: Draft, reading: Reading, release: MimicRelease, other_release: MimicRelease
) -> Account:
    tables, unknown, others = _sort_files(delivery, release)
    _refuse_other_generation(tables, release, other_release)
    scratch = draft.folder("reading")
    try:
        with connect({}, threads=reading.threads, memory_limit=reading.memory_limit, spill=reading.spill) as connection:
            work = _Work(connection, draft, scratch, release)
            for name, (file, path) in sorted(tables.items()):
                _take(work, name, file, path)
            for file, path in unknown.items():
                _not_modelled(work, file, path)
            work.files += [DeliveredFile(file, "other", 0, 0, 0, 0, "no data") for file in others]
            account = work.account
            _say_what_is_there(work, others)
            _refuse_incomplete(work)
            account.info["dangling"] = _dangling(work)
        if not account.balanced:
            raise InputError(
                f"The account does not balance: {account.sentence()}.", todo="Nothing was taken. Please report this."
            )
        draft.add_table("quarantine", quarantine_table(work.rejects))
        draft.add_table("delivered_files", files_table(work.files))
        check_limit(account, work.rejects, reading.source.max_quarantine_rate)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return account


def _sort_files(
    delivery: Delivery, release: MimicRelease
) -> tuple[dict[str, tuple[str, Path]], dict[str, Path], list[str]]:
    """The files by table, the CSV files that are none of the tables, and all others."""
    tables: dict[str, tuple[str, Path]] = {}
    unknown: dict[str, Path] = {}
    others: list[str] = []
    for file, path in delivery.files():
        found = re.fullmatch(r"(.+)\.csv(\.gz)?", PurePosixPath(file).name.lower())
        if found is None:
            others.append(file)
        elif found[1] not in release.tables:
            unknown[file] = path
        elif found[1] in tables:
            raise InputError(
                f"Two files of the delivery are the table '{found[1]}'.",
                where=f"{tables[found[1]][0]}, {file}",
                todo="Leave one of them out.",
            )
        else:
            tables[found[1]] = (file, path)
    return tables, unknown, others


def _refuse_other_generation(
    tables: Mapping[str, tuple[str, Path]], release: MimicRelease, other_release: MimicRelease
) -> None:
    """Raise where the table that tells the generations apart is that of the other one."""
    table, column = release.mark
    if table not in tables:
        return
    file, path = tables[table]
    first = next(lines(ByteSource(path, most_unpacked(path)).chunks()), None)
    names = (first.data or b"").decode("utf-8", "replace").lower() if first is not None else ""
    header = {name.strip().strip('"') for name in names.split(",")}
    if column not in header and other_release.mark[1] in header:
        theirs, ours = other_release.generation, release.generation
        raise InputError(
            f"These are tables of {theirs}, but the source takes {ours} (format {_FORMAT[ours]}).",
            where=file,
            todo=f"Hand them over to a source of format {_FORMAT[theirs]}.",
        )


def _take(work: _Work, name: str, file: str, path: Path) -> None:
    """One file that is called like a table."""
    target = work.draft.file(f"{name}.parquet")
    read = read_table(work.connection, work.release.tables[name], file, path, target, work.scratch)
    account = work.account
    account.files += 1
    account.bytes += read.bytes
    account.in_ += read.records
    for record in read.rejects:
        account.quarantined[record.reason] = account.quarantined.get(record.reason, 0) + 1
    work.rejects += read.rejects
    if read.superseded:
        account.superseded[name] = read.superseded
    if read.taken is not None:
        account.taken[name] = read.taken
        work.tables[name] = target
        work.columns[name] = (work.release.tables[name].columns.keys() - set(read.absent)) | set(read.extra)
    if read.tolerant:
        account.info["tolerant_files"] = account.info.get("tolerant_files", 0) + 1
    for key, columns in (("absent_columns", read.absent), ("undeclared_columns", read.extra)):
        if columns:
            account.info.setdefault(key, {})[name] = told(columns)
    work.files.append(_delivered(file, read))


def _delivered(file: str, read: ReadTable) -> DeliveredFile:
    quarantined = len(read.rejects)
    taken = (read.taken or 0) + read.superseded
    return DeliveredFile(
        file,
        "csv",
        read.records,
        taken,
        0,
        quarantined,
        outcome_of(taken=taken, not_modelled=0, not_clinical=0, quarantined=quarantined),
        ", ".join(sorted({record.reason for record in read.rejects})),
    )


def _not_modelled(work: _Work, file: str, path: Path) -> None:
    """A CSV that is none of the tables: its rows are counted."""
    plain = work.scratch / "unknown.csv"
    found = survey(path, plain)
    if found.swollen:
        _set_aside(work, file, path)
        return
    rows = max(0, count_rows(found.plain, found.records) - 1)
    plain.unlink(missing_ok=True)
    kind = re.sub(r"\.csv(\.gz)?$", "", PurePosixPath(file).name.lower())
    work.account.files += 1
    work.account.bytes += found.bytes
    work.account.in_ += rows
    work.account.not_modelled[kind] = work.account.not_modelled.get(kind, 0) + rows
    outcome = outcome_of(taken=0, not_modelled=rows, not_clinical=0, quarantined=0)
    work.files.append(DeliveredFile(file, "csv", rows, 0, rows, 0, outcome))


def _set_aside(work: _Work, file: str, path: Path) -> None:
    """A CSV of an unknown name that was not unpacked for its size."""
    size, reason = path.stat().st_size, "too_large"
    work.account.files += 1
    work.account.bytes += size
    work.account.in_ += 1
    work.account.quarantined[reason] = work.account.quarantined.get(reason, 0) + 1
    work.rejects.append(Rejected(file, 0, "", reason, sha256_file(path), size))
    work.files.append(DeliveredFile(file, "csv", 1, 0, 0, 1, "quarantined", reason))


def _say_what_is_there(work: _Work, others: list[str]) -> None:
    info = work.account.info
    info["absent_tables"] = sorted(work.release.tables.keys() - work.tables.keys())
    info["other_files"] = dict(sorted(Counter(map(public_kind, others)).items()))
    info["files_by_outcome"] = files_by_outcome(work.files)


def _refuse_incomplete(work: _Work) -> None:
    """Raise where a table that all others hang on is not there; say the version where they are."""
    needed = [table.name for table in work.release.tables.values() if table.required]
    lacking = [name for name in needed if not work.account.taken.get(name)]
    if lacking:
        set_aside = {record.resource_type: record.reason for record in work.rejects if record.line == 0}
        archives = sum(is_packed(file.file) for file in work.files)
        if archives and not work.account.taken:
            raise InputError(
                "The delivery is an archive, and the files in it are not looked at.",
                todo="Nothing was taken. Unpack it, and hand over the folder with --replace.",
            )
        named = [f"{name} ({set_aside[name]})" if name in set_aside else name for name in lacking]
        raise InputError(
            f"The delivery has no {' and no '.join(named)}, or they have no row; {work.release.generation} cannot be "
            f"read without {' and '.join(needed)}.",
            todo="Nothing was taken. Add them, and hand the delivery over again with --replace.",
        )
    work.account.info["version"] = _version(work)


def _version(work: _Work) -> str:
    """The release as far as columns and years tell it."""
    admissions = work.columns["admissions"]
    if work.release is MIMIC3:
        return "MIMIC-III 1.3 or older" if "has_ioevents_data" in admissions else "MIMIC-III 1.4"
    newer = work.connection.execute(
        f"SELECT count(*) FROM read_parquet({literal(work.tables['patients'])}) WHERE anchor_year_group = '2020 - 2022'"
    ).fetchall()[0][0]
    if newer:
        return "MIMIC-IV 3.x"
    if "admit_provider_id" in admissions:
        return "MIMIC-IV 2.2"
    return "MIMIC-IV 2.1 or older"


def _dangling(work: _Work) -> dict[str, int]:
    """Rows that point to no row, by 'table.column'; links into absent tables are not looked at."""
    found = {}
    for name, path in sorted(work.tables.items()):
        for column, link in work.release.tables[name].links.items():
            parent, _, key = link.partition(".")
            if parent not in work.tables or column not in work.columns[name]:
                continue
            ((lost,),) = work.connection.execute(
                f"""SELECT coalesce(sum(_rows), 0) FROM (
                    SELECT {identifier(column)} AS _to, count(*) AS _rows FROM read_parquet({literal(path)})
                    WHERE {identifier(column)} IS NOT NULL GROUP BY ALL
                ) WHERE _to NOT IN (SELECT {identifier(key)} FROM read_parquet({literal(work.tables[parent])}))"""
            ).fetchall()
            if lost:
                found[f"{name}.{column}"] = int(lost)
    return found
