"""Raw FHIR tables to events: one MEDS 0.4 `data` table, and `subjects`, the way back from number to patient.

Codes are `SYSTEM//CODE` with short names of the systems (LOINC, SNOMED, RXNORM, ...). Everything is done in DuckDB
and Arrow; Python sees each patient once, for the number. Features and splits are made elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import InputError
from pipeline.store.connection import connect, literal

if TYPE_CHECKING:
    import duckdb

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
}
"""Short names of code systems; of others the last part of their address is taken, in capitals."""

_NUMBER: Final = re.compile(r"[1-9]\d{0,17}|0")
_COLUMNS: Final = "subject_id, time, code, numeric_value, text_value, unit, encounter_id"

# (table, time, what stands for a missing code, value columns)
_CODED: Final = (
    ("condition", "coalesce(onset, recorded)", "CONDITION"),
    ("procedure", "performed_start", "PROCEDURE"),
    ("medication_request", "authored", "MEDICATION_REQUEST"),
    ("immunization", "occurrence", "IMMUNIZATION"),
    ("allergy_intolerance", "recorded", "ALLERGY"),
    ("diagnostic_report", "coalesce(effective, issued)", "DIAGNOSTIC_REPORT"),
)
_STATIC: Final = ("gender", "race", "ethnicity", "marital_status", "language")


def build_events(
    tables: Mapping[str, Path],
    draft: Draft,
    *,
    source: str,
    threads: int = 2,
    memory_limit: str = "2GB",
    spill: Path | None = None,
) -> dict[str, int]:
    """Write `data` (MEDS 0.4) and `subjects` (subject_id int64, source_id string) into a draft.

    `data` has subject_id int64, time timestamp[us] (naive UTC, null for what has no time), code string,
    numeric_value float32, text_value large_string, unit string, encounter_id string ('Encounter/<id>'); sorted by
    subject_id, time (nulls first), code.

    Args:
        tables: Raw table name to its Parquet file; missing tables count as empty.
        draft: Where the tables go.
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

    used = {name: [path] for name, path in tables.items() if name in _known()}
    if not used:
        raise InputError("None of these tables can be made into events.", where=", ".join(sorted(tables)) or "no table")
    with connect(used, threads=threads, memory_limit=memory_limit, spill=spill) as connection:
        subjects = _number_subjects(connection, sorted(used), source)
        draft.add_table("subjects", subjects)
        connection.register("subjects", subjects)
        connection.execute(_SYSTEM_MACRO).fetchall()
        select = " UNION ALL ".join(_selects(set(used)))
        lost = connection.execute(f"SELECT count(*) FROM ({select}) WHERE patient IS NULL").fetchall()[0][0]
        ordered = connection.sql(f"""
            SELECT s.subject_id, time::TIMESTAMP AS time, code, numeric_value, text_value, unit, encounter_id
            FROM ({select}) e JOIN subjects s ON s.source_id = substr(e.patient, 9)
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


def _known() -> set[str]:
    return {"patient", "encounter", "observation", *(name for name, _, _ in _CODED)}


def subject_number(source: str, source_id: str) -> int:
    """The subject_id of a patient: the source's number where the id is one, else 63 bits of SHA-256."""
    if _NUMBER.fullmatch(source_id):
        return int(source_id)
    digest = hashlib.sha256(f"{source}\x1f{source_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _number_subjects(connection: duckdb.DuckDBPyConnection, tables: list[str], source: str) -> Any:
    """All patients that are there or are pointed to, with their numbers, sorted by number."""
    import pyarrow as pa

    every = " UNION ".join(f"SELECT substr(patient, 9) AS id FROM {name} WHERE patient IS NOT NULL" for name in tables)
    ids = [row[0] for row in connection.execute(every).fetchall()]
    numbered = sorted((subject_number(source, source_id), source_id) for source_id in ids)
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


def _code(missing: str) -> str:
    """SYSTEM//CODE, else the text, else what says that there is none."""
    return (
        f"CASE WHEN code IS NOT NULL THEN _system(code_system) || '//' || code "
        f"ELSE coalesce('TEXT//' || display, '{missing}//UNKNOWN') END"
    )


def _event(
    table: str,
    time: str,
    code: str,
    *,
    number: str = "NULL",
    text: str = "NULL",
    unit: str = "NULL",
    encounter: str = "encounter",
    where: str = "TRUE",
) -> str:
    return (
        f"SELECT patient, {time} AS time, {code} AS code, CAST({number} AS FLOAT) AS numeric_value, "
        f"CAST({text} AS VARCHAR) AS text_value, CAST({unit} AS VARCHAR) AS unit, {encounter} AS encounter_id "
        f"FROM {table} WHERE {where}"
    )


def _selects(there: set[str]) -> list[str]:
    """One SELECT a kind of event, over the tables that are there."""
    found = []
    if "patient" in there:
        nobody = "CAST(NULL AS VARCHAR)"
        never = "CAST(NULL AS TIMESTAMP)"
        found += [
            _event("patient", "birth_date", "'MEDS_BIRTH'", encounter=nobody, where="birth_date IS NOT NULL"),
            _event("patient", "deceased_at", "'MEDS_DEATH'", encounter=nobody, where="deceased_at IS NOT NULL"),
            _event(
                "patient", never, "'DECEASED//TIME_UNKNOWN'", encounter=nobody, where="deceased AND deceased_at IS NULL"
            ),
            *(
                _event("patient", never, f"'{c.upper()}//' || {c}", encounter=nobody, where=f"{c} IS NOT NULL")
                for c in _STATIC
            ),
        ]
    if "encounter" in there:
        kind = "coalesce(class, 'UNKNOWN')"
        found += [
            _event("encounter", "start", f"'ENCOUNTER_START//' || {kind}", text="type_display", encounter="key"),
            _event("encounter", '"end"', f"'ENCOUNTER_END//' || {kind}", encounter="key", where='"end" IS NOT NULL'),
        ]
    if "observation" in there:
        # A panel has no value of its own: its components speak for it.
        found.append(
            _event(
                "observation",
                "coalesce(effective, issued)",
                _code("OBSERVATION"),
                number="TRY_CAST(value_number AS FLOAT)",
                text="coalesce(value_text, value_code, CAST(value_boolean AS VARCHAR), "
                "strftime(value_datetime, '%Y-%m-%dT%H:%M:%SZ'), "
                "CASE WHEN TRY_CAST(value_number AS FLOAT) IS NULL THEN CAST(value_number AS VARCHAR) END)",
                unit="value_unit",
                where="value_type IS NOT NULL OR component > 0 "
                "OR key NOT IN (SELECT key FROM observation WHERE component > 0)",
            )
        )
    for table, time, name in _CODED:
        if table in there:
            found.append(_event(table, time, _code(name)))
    if "condition" in there:
        found.append(
            _event(
                "condition",
                "abatement",
                f"'CONDITION_END//' || {_code('CONDITION')}",
                where="abatement IS NOT NULL",
            )
        )
    return found
