"""FHIR deliveries to raw tables: `read_fhir` and the order of its work.

Line files that look right go through DuckDB's explicit columns straight to Parquet, all files of a type in one COPY.
A file on which that raises, and every bundle, goes through `split` first and then through the very same SELECT.
What is read of each type is in `columns`, duplicates and links between types in `tables`, deletions in
`deleted`, other versions in `version` and `upgrade`, what became of each file in `outcome`.

DuckDB's messages quote the record they choke on: they are never logged, chained or shown.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.ingest.delivered_files import files_by_outcome, files_table
from pipeline.ingest.fhir.aside import set_aside
from pipeline.ingest.fhir.deleted import apply_deletions
from pipeline.ingest.fhir.doubts import note_late_records, note_missing_files
from pipeline.ingest.fhir.files import sort_files, survey_lines
from pipeline.ingest.fhir.outcome import count_in, outcomes, refuse_other_version
from pipeline.ingest.fhir.pieces import Seen
from pipeline.ingest.fhir.state import LineFile, Work
from pipeline.ingest.fhir.tables import RawTables, Source
from pipeline.ingest.fhir.user_views import kinds_with, views_of
from pipeline.ingest.fhir.validation import Validation
from pipeline.ingest.fhir.version import REFUSED, REWRITTEN, prevailing
from pipeline.ingest.fhir.views import write_views
from pipeline.ingest.fhir.work import split_documents, split_lines
from pipeline.ingest.quarantine import check_limit, quarantine_table
from pipeline.store.connection import connect

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.source import ValidationSpec
    from pipeline.ingest.account import Account
    from pipeline.ingest.delivery import Delivery
    from pipeline.ingest.reading import Reading
    from pipeline.store.draft import Draft


def read_fhir(delivery: Delivery, draft: Draft, reading: Reading) -> Account:
    """Read a FHIR delivery (Bulk NDJSON, bundles, single resources; plain or gzipped) into `draft`.

    Writes one table for every modelled type (empty ones too) and for every view of the source's, `quarantine`,
    `deleted_resources` and `delivered_files`.

    Args:
        delivery: The delivery.
        draft: Where the tables go; nothing is committed here.
        reading: The source's settings and what may be used.

    Raises:
        InputError: Empty delivery, a FHIR version that is not read, too many quarantined records.
        StoreError: No space.
    """
    folder = draft.folder("reading")
    views = views_of(reading.source)
    work = Work(folder, reading.threads, kinds=kinds_with(views))
    limit = reading.source.max_quarantine_rate
    try:
        sort_files(delivery, work)
        survey_lines(work)
        with connect({}, threads=reading.threads, memory_limit=reading.memory_limit, spill=reading.spill) as connection:
            tables = RawTables(connection, draft, work.kinds)
            split_lines(work, _plan_lines(work, tables))
            split_documents(work)
            refuse_other_version(work, limit)
            _validate(work, tables, reading.source.validation)
            _write_types(work, tables)
            _settle(work, tables)
            draft.add_table("deleted_resources", apply_deletions(work, tables))
            tables.link(work.account)
            if reading.source.dates == "real":
                note_late_records(work, tables, delivery.as_of)
            write_views(work, tables, views)
        _close_account(work)
        note_missing_files(work)
        files = outcomes(work)
        work.account.info["files_by_outcome"] = files_by_outcome(files)
        draft.add_table("delivered_files", files_table(files))
        draft.add_table("quarantine", quarantine_table(work.rejects))
        check_limit(work.account, work.rejects, limit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return work.account


def _plan_lines(work: Work, tables: RawTables) -> set[int]:
    """Give line files of the expected shape to DuckDB as they are; the numbers of the others, which are to be split."""
    untidy = set()
    to_count: dict[Path, LineFile] = {}
    for file in work.lines:
        plain = file.survey
        version = prevailing(work.versions[file.number])
        tidy = file.kind is not None and not plain.odd and not plain.cut and version not in (*REWRITTEN, REFUSED)
        if tidy and file.kind in work.kinds:
            source = Source((0, file.number, 0), plain.plain, plain.records, raw=file.number)
            work.sources.setdefault(str(file.kind), []).append(source)
        elif tidy and file.kind != "Bundle":
            to_count[plain.plain] = file
        elif plain.records or plain.cut:
            untidy.add(file.number)
    counted = tables.counted({path: (str(file.kind), file.survey.records) for path, file in to_count.items()})
    for path, file in to_count.items():
        if path in counted:
            seen = work.seen[file.number] = Seen(records=file.survey.records)
            seen.not_modelled[str(file.kind)] = file.survey.records
        else:
            untidy.add(file.number)
    return untidy


def _validate(work: Work, tables: RawTables, spec: ValidationSpec) -> None:
    """Validate what there is while the tables are written for the first time, and set aside what is misbuilt.

    A type that DuckDB refuses, or that loses a record here, is written again afterwards.
    """
    with Validation(spec, processes=work.processes, folder=work.folder) as validation:
        validation.start(work.sources)
        for kind in work.kinds:
            tables.write(kind, sorted(work.sources.get(kind, []), key=lambda source: source.order))
        validated = validation.finish()
    work.account.info["validation"] = validated.summary
    set_aside(work, validated.misfits, "fails_validation")
    for kind in {misfit.kind for misfit in validated.misfits}:
        tables.written.pop(kind, None)


def _write_types(work: Work, tables: RawTables) -> None:
    """Write every type's table; splitting a refused file may bring new records of any type, until none is left over."""
    while stale := [kind for kind in work.kinds if tables.written.get(kind) != _places(work.sources.get(kind, []))]:
        split_lines(work, {number for kind in stale for number in _write_type(kind, work, tables)})


def _write_type(kind: str, work: Work, tables: RawTables) -> set[int]:
    """Try to write one type; where DuckDB refuses, drop the files at fault and give their numbers, to be split."""
    sources = sorted(work.sources.get(kind, []), key=lambda source: source.order)
    if tables.write(kind, sources):
        return set()
    raw = [source for source in sources if source.raw is not None]
    if raw:
        # Where each alone is fine and all together are not, a count does not add up: judge them all.
        refused = raw if len(raw) == 1 else [source for source in raw if not tables.reads(kind, source)] or raw
        numbers = {source.raw for source in refused if source.raw is not None}
        work.sources[kind] = [source for source in sources if source.raw not in numbers]
        return numbers
    found = tables.pick_out(kind, sources)
    if not found:
        raise InputError(
            f"{kind} records cannot be read, and no single one is at fault.",
            todo="Nothing was taken. Please report this with the version of DuckDB.",
        )
    work.set_aside(kind, found)
    return set()


def _places(sources: list[Source]) -> list[tuple[int, int, int]]:
    """The order keys of these sources, sorted: what a table was made from."""
    return sorted(source.order for source in sources)


def _settle(work: Work, tables: RawTables) -> None:
    """Keep one version of every resource."""
    for kind in work.kinds:
        taken, superseded = tables.settle(kind)
        if taken:
            work.account.taken[kind] = taken
        if superseded:
            work.account.superseded[kind] = superseded
    work.account.info["unread"] = {path: n for counts in tables.unread.values() for path, n in counts.items()}


def _close_account(work: Work) -> None:
    """Put the account together and hold it against what came in."""
    count_in(work)
    account = work.account
    if account.in_ == 0:
        raise InputError(
            "The delivery is empty: it holds no FHIR resource.",
            where=f"{account.files} FHIR files, {len(work.others)} others",
            todo="Expected are .ndjson, .jsonl or .json files, plain or gzipped; unpack archives first.",
        )
    if not account.balanced:
        raise InputError(
            f"The account does not balance: {account.sentence()}.", todo="Nothing was taken. Please report this."
        )
