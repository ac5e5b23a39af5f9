"""Raw tables to events: one MEDS 0.4 `data` table, and `subjects`, the way back from number to patient.

What of a format's tables is an event is in its own module (`EVENTS`).

Codes are `SYSTEM//CODE` with short names of the systems (LOINC, SNOMED, RXNORM, ...). Everything is done in DuckDB
and Arrow; Python sees each patient once, for the number. Features and splits are made elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import InputError
from pipeline.store.connection import connect, literal

if TYPE_CHECKING:
    import duckdb

    from pipeline.features.source import Format
    from pipeline.store.draft import Draft

BATCH: Final = 128 * 1024
"""Rows of a row group."""

SYSTEMS: Final[Mapping[str, str]] = {
    "http://loinc.org": "LOINC",
    "http://snomed.info/sct": "SNOMED",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "RXNORM",
    "http://hl7.org/fhir/sid/cvx": "CVX",
    "http://hl7.org/fhir/sid/icd-10-cm": "ICD10CM",
    "http://hl7.org/fhir/sid/icd-10": "ICD10",
    "http://hl7.org/fhir/sid/icd-10-pcs": "ICD10PCS",
    "http://www.cms.gov/Medicare/Coding/ICD10": "ICD10PCS",
    "http://hl7.org/fhir/sid/icd-9-cm": "ICD9CM",
    "http://hl7.org/fhir/sid/ndc": "NDC",
    "http://www.ama-assn.org/go/cpt": "CPT",
    "http://www.whocc.no/atc": "ATC",
    "https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets": "HCPCS",
    "http://unitsofmeasure.org": "UCUM",
    "urn:oid:2.16.840.1.113883.6.1": "LOINC",
    "urn:oid:2.16.840.1.113883.6.96": "SNOMED",
    "urn:oid:2.16.840.1.113883.6.88": "RXNORM",
    "urn:oid:2.16.840.1.113883.12.292": "CVX",
    "urn:oid:2.16.840.1.113883.6.90": "ICD10CM",
    "urn:oid:2.16.840.1.113883.6.103": "ICD9CM",
    # MIMIC-IV on FHIR has systems of its own, also for codes of known ones.
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-diagnosis-icd9": "ICD9CM",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-diagnosis-icd10": "ICD10CM",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-procedure-icd9": "ICD9PROC",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-procedure-icd10": "ICD10PCS",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-d-items": "ITEM",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-d-labitems": "LAB",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-microbiology-test": "MICRO_TEST",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-microbiology-organism": "MICRO_ORG",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-microbiology-antibiotic": "MICRO_AB",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-medication-ndc": "NDC",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-medication-formulary-drug-cd": "FORMULARY",
    "http://mimic.mit.edu/fhir/mimic/CodeSystem/mimic-medication-name": "DRUG",
}
"""Short names of code systems; of others the last part of their address is taken, in capitals."""

EVENTS: Final[Mapping[Format, str]] = {
    "fhir": "pipeline.ingest.fhir.events",
    "mimic3": "pipeline.ingest.mimic.mimic3_events",
    "mimic4": "pipeline.ingest.mimic.mimic4_events",
    "meds": "pipeline.ingest.meds.events",
}
"""Format to the module that says what of its raw tables is an event: `TABLES`, `persons(there)` (SELECTs of the ids of
all its people, as text, in a column `person`) and `selects(there)` (SELECTs of `person, time, code, numeric_value,
text_value, unit, encounter_id`), with `there` the names of the tables that are there. Macro `_system` gives the short
name of a code system, `_coded` SYSTEM//CODE of a system's address and a code. Formats that are not listed have no events.

A module may have two more: `number_of(person)`, where the format numbers its people itself, and `descriptions(there)`
(SELECTs of `code, description, parent_codes`: what the events' codes mean)."""

_NUMBER: Final = re.compile(r"[1-9]\d{0,17}|0")
_COLUMNS: Final = "subject_id, time, code, numeric_value, text_value, unit, encounter_id"


def build_events(
    tables: Mapping[str, Path],
    draft: Draft,
    *,
    format: Format,
    source: str,
    threads: int = 2,
    memory_limit: str = "2GB",
    spill: Path | None = None,
) -> dict[str, int]:
    """Write `data` (MEDS 0.4) and `subjects` (subject_id int64, source_id string) into a draft.

    `data` has subject_id int64, time timestamp[us] (naive UTC, null for what has no time), code string,
    numeric_value float32, text_value large_string, unit string, encounter_id string (FHIR: 'Encounter/<id>'); sorted by
    subject_id, time (nulls first), code.

    Args:
        tables: Raw table name to its Parquet file; missing tables count as empty.
        draft: Where the tables go.
        format: Of the raw tables.
        source: Source name; part of the hash that numbers a patient.
        threads: Threads of DuckDB.
        memory_limit: DuckDB's memory.
        spill: Where DuckDB puts what does not fit in memory.

    Returns:
        Counts: `events`, `subjects`, `without_subject` (rows that point to no patient and give no event).

    Raises:
        InputError: There is no table to read, two patients would have one number, or MEDS refuses the table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from meds import DataSchema

    kinds = importlib.import_module(EVENTS[format])
    used = {name: [path] for name, path in tables.items() if name in kinds.TABLES}
    if not used:
        raise InputError("None of these tables can be made into events.", where=", ".join(sorted(tables)) or "no table")
    with connect(used, threads=threads, memory_limit=memory_limit, spill=spill) as connection:
        number_of = getattr(kinds, "number_of", partial(subject_number, source))
        subjects = _number_subjects(connection, kinds.persons(set(used)), number_of)
        draft.add_table("subjects", subjects)
        connection.register("subjects", subjects)
        for macro in (_SYSTEM_MACRO, _CODED_MACRO):
            connection.execute(macro).fetchall()
        select = " UNION ALL ".join(kinds.selects(set(used)))
        lost = connection.execute(f"SELECT count(*) FROM ({select}) WHERE person IS NULL").fetchall()[0][0]
        ordered = connection.sql(f"""
            SELECT s.subject_id, time::TIMESTAMP AS time, code, numeric_value, text_value, unit, encounter_id
            FROM ({select}) e JOIN subjects s ON s.source_id = e.person
            ORDER BY subject_id, time NULLS FIRST, code, numeric_value NULLS FIRST, text_value NULLS FIRST,
                unit NULLS FIRST, encounter_id NULLS FIRST""")
        schema = pa.schema([*DataSchema.schema(), ("unit", pa.string()), ("encounter_id", pa.string())])
        events = 0
        with pq.ParquetWriter(draft.file("data.parquet"), schema, compression="zstd") as writer:
            for batch in ordered.to_arrow_reader(BATCH):
                table = DataSchema.align(pa.Table.from_batches([batch]).select(_COLUMNS.split(", ")))
                DataSchema.validate(table)
                writer.write_table(table.cast(schema).combine_chunks(), row_group_size=BATCH)
                events += table.num_rows
    return {"events": events, "subjects": subjects.num_rows, "without_subject": int(lost)}


def code_descriptions(connection: duckdb.DuckDBPyConnection, format: Format) -> list[str]:
    """SELECTs of `code, description, parent_codes` over the raw tables of a connection: what the events' codes mean.

    Empty where the format says nothing of its codes.
    """
    describe = getattr(importlib.import_module(EVENTS[format]), "descriptions", None)
    if describe is None:
        return []
    for macro in (_SYSTEM_MACRO, _CODED_MACRO):
        connection.execute(macro).fetchall()
    there = {row[0] for row in connection.execute("SELECT DISTINCT table_name FROM duckdb_columns()").fetchall()}
    selects: list[str] = describe(there)
    return selects


def subject_number(source: str, source_id: str) -> int:
    """The subject_id of a patient: the source's number where the id is one, else 63 bits of SHA-256."""
    if _NUMBER.fullmatch(source_id):
        return int(source_id)
    digest = hashlib.sha256(f"{source}\x1f{source_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _number_subjects(connection: duckdb.DuckDBPyConnection, persons: list[str], number_of: Callable[[str], int]) -> Any:
    """All patients that are there or are pointed to, with their numbers, sorted by number."""
    import pyarrow as pa

    ids = [row[0] for row in connection.execute(" UNION ".join(persons)).fetchall()]
    numbered = sorted((number_of(source_id), source_id) for source_id in ids)
    clashes = sum(1 for one, two in pairwise(numbered) if one[0] == two[0])
    if clashes:
        raise InputError(
            f"{clashes} pairs of patients would have the same subject number.",
            todo="Rename the source, or give the patients other ids.",
        )
    return pa.table(
        {
            "subject_id": pa.array([number for number, _ in numbered], pa.int64()),
            "source_id": pa.array([source_id for _, source_id in numbered], pa.string()),
        }
    )


def _short_names() -> str:
    cases = " ".join(f"WHEN {literal(system)} THEN {literal(short)}" for system, short in SYSTEMS.items())
    return f"""CREATE OR REPLACE MACRO _system(s) AS CASE s {cases}
        ELSE coalesce(nullif(upper(regexp_extract(s, '([^/:#]+)[/#]?$', 1)), ''), 'UNKNOWN') END"""


_SYSTEM_MACRO: Final = _short_names()
# ICD codes are written with and without their dot, in capitals and not: here in one way, whatever they come from.
_CODED_MACRO: Final = """CREATE OR REPLACE MACRO _coded(s, c) AS _system(s) || '//' ||
    CASE WHEN _system(s) IN ('ICD9CM', 'ICD9PROC', 'ICD10', 'ICD10CM', 'ICD10PCS')
    THEN upper(replace(trim(c), '.', '')) ELSE c END"""
