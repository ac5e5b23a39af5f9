"""How clinical codes are written and grouped: ICD normalisation, roll-up to 3 characters or by a mapping. All in SQL.

Every rule works on the distinct codes of a block, a few ten thousand, and never on its occurrences. What is counted
and stored of the codes is in `blocks.py`; the mapping files are read in `mapping.py`. The rules in words: docs/codes.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pipeline.store.connection import identifier

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from pipeline.features.block_spec import CodesSpec, Normalise

Reason = Literal["no code", "no version", "malformed", "no group"]
"""Why a code could not be written or grouped by the rules."""

SHAPES: Final = {
    "ICD9CM": r"[0-9]{3}[0-9]{0,2}|[0-9]{1,3}\.[0-9]{0,2}|V[0-9]{2}\.?[0-9]{0,2}|E[0-9]{3}\.?[0-9]?",
    "ICD9PROC": r"[0-9]{2}[0-9]{0,2}|[0-9]{1,2}\.[0-9]{0,2}",
    "ICD10CM": r"[A-Z][0-9][0-9A-Z]\.?[0-9A-Z]{0,4}",
    "ICD10PCS": r"[0-9A-HJ-NP-Z]{7}",
}
"""What a code of each system looks like, with its dot or without. The names are those of `events`."""

_BEFORE_THE_DOT: Final = {"ICD9CM": 3, "ICD9PROC": 2}
"""Digits before the dot. Fewer are zeros that a spreadsheet ate: 8.45 is 008.45."""

_ONE_SYSTEM: Final[dict[Normalise, str]] = {
    "icd9": "ICD9CM",
    "icd9_procedures": "ICD9PROC",
    "icd10": "ICD10CM",
    "icd10_procedures": "ICD10PCS",
}
_ANY: Final = "any"
"""System of a mapped code where the mapping tells none: dots and blanks are taken out, no zero is put back."""


def group_codes(
    connection: duckdb.DuckDBPyConnection, block: CodesSpec, mapping: pa.Table | None, *, given: str, into: str
) -> None:
    """Make the temporary table `into` (raw, version, system, code, reason, grouped) from the codes in `given`.

    One row a code and group; `reason` is a `Reason` or null, `grouped` is null where the code is left out. In a block
    of two code systems a code is called `ICD10CM//E11`: E86 is a disease in one of them, an accident in the other.

    Args:
        connection: where `given` is.
        block: how codes are written and grouped.
        mapping: what `read_mapping` gave, where the block is rolled up by one.
        given: table of the distinct codes, `raw` and `version` (both text).
        into: name of the table to make.
    """
    named = "system || '//' || " if block.by_version else ""
    short = named + three_characters_sql("code", "system")
    whole = f"CASE WHEN system IS NULL THEN code ELSE {named}code END"
    faulty = whole if block.malformed == "keep" else "CAST(NULL AS VARCHAR)"
    fine = "CASE WHEN system IS NOT NULL THEN " + fine_sql("bare", "system") + " END"
    faults = (
        "NULL"
        if block.normalise == "none"
        else "CASE WHEN fine IS NULL THEN 'no version' WHEN NOT fine THEN 'malformed' END"
    )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE {identifier(into)} AS
        WITH typed AS (
            SELECT raw, version, {system_sql(block.normalise, "version")} AS system, {bare_sql("raw")} AS bare
            FROM {identifier(given)}
        ),
        judged AS (SELECT *, {fine} AS fine FROM typed),
        written AS (
            SELECT
                raw,
                version,
                system,
                CASE WHEN system IS NULL THEN trim(raw) ELSE {written_sql("bare", "system", "fine")} END AS code,
                CASE WHEN coalesce(bare, '') = '' THEN 'no code' ELSE {faults} END AS reason
            FROM judged
        )
        SELECT
            *,
            CASE
                WHEN reason = 'no code' THEN NULL
                WHEN reason IS NOT NULL THEN {faulty}
                ELSE {short if block.roll_up == "3_characters" else whole}
            END AS grouped
        FROM written
        """
    ).fetchall()
    if mapping is not None:
        connection.register("__mapping", mapping)
        try:
            connection.execute(_mapped_sql(block, into)).fetchall()
        finally:
            connection.unregister("__mapping")


def bare_sql(code: str) -> str:
    """SQL for a code in upper case without blanks (the no-break space of web pages is one)."""
    return f"upper(regexp_replace({code}, '[\\s\\x{{00A0}}]', '', 'g'))"


def system_sql(rule: Normalise, version: str) -> str:
    """SQL for the short name of a code's system under a rule; null where `version` does not tell it, or without rule."""
    if rule == "none":
        return "CAST(NULL AS VARCHAR)"
    if rule in _ONE_SYSTEM:
        return f"'{_ONE_SYSTEM[rule]}'"
    procedure = "true" if rule == "icd_procedures" else _is_procedure_sql(version)
    return (
        f"CASE {version_sql(version)} WHEN 9 THEN CASE WHEN {procedure} THEN 'ICD9PROC' ELSE 'ICD9CM' END "
        f"WHEN 10 THEN CASE WHEN {procedure} THEN 'ICD10PCS' ELSE 'ICD10CM' END END"
    )


def version_sql(text: str) -> str:
    """SQL for the version of ICD (9, 10 or null) that a text names: 9, '09', 'ICD9CM', 'http://.../icd-10-cm'."""
    return (
        f"CASE WHEN regexp_matches({text}, '(^|[^0-9])0?9([^0-9]|$)') THEN 9 "
        f"WHEN regexp_matches({text}, '(^|[^0-9])10([^0-9]|$)') THEN 10 END"
    )


def _is_procedure_sql(text: str) -> str:
    """SQL for whether a code system's name or address is one of procedures (FHIR knows PCS as .../Coding/ICD10)."""
    return f"regexp_matches({text}, '(?i)proc|pcs|/Medicare/Coding/ICD10')"


def fine_sql(bare: str, system: str) -> str:
    """SQL for whether a bare code has the shape of its system."""
    shapes = " ".join(f"WHEN '{name}' THEN '{shape}'" for name, shape in SHAPES.items())
    return f"regexp_full_match({bare}, CASE {system} {shapes} ELSE '.*' END)"


def written_sql(bare: str, system: str, fine: str) -> str:
    """SQL for a bare code in its normal form: no dot, leading zeros as they are or put back; a malformed one as it is."""
    digits = " ".join(f"WHEN '{name}' THEN {number}" for name, number in _BEFORE_THE_DOT.items())
    before = f"length(regexp_extract({bare}, '^([0-9]+)\\.', 1))"
    lost = f"CASE WHEN {before} > 0 THEN greatest(CASE {system} {digits} ELSE 0 END - {before}, 0) ELSE 0 END"
    return f"CASE WHEN {fine} THEN repeat('0', CAST({lost} AS BIGINT)) || replace({bare}, '.', '') ELSE {bare} END"


def three_characters_sql(code: str, system: str) -> str:
    """SQL for a code cut to its first three characters; an E-code of ICD-9-CM to four, as medGAN and ScoEHR do."""
    return f"left({code}, CASE WHEN {system} = 'ICD9CM' AND starts_with({code}, 'E') THEN 4 ELSE 3 END)"


def _mapped_sql(block: CodesSpec, into: str) -> str:
    """The statement that replaces the codes in `into` by their groups; mapped codes are written by the same rules."""
    rule = block.normalise
    if rule == "none":
        pairs = 'SELECT DISTINCT trim(code) AS mapped, CAST(NULL AS INTEGER) AS icd, "group" FROM __mapping'
    else:
        nine, ten = ("ICD9PROC", "ICD10PCS") if rule.endswith("_procedures") else ("ICD9CM", "ICD10CM")
        pairs = f"""
            SELECT DISTINCT {written_sql("bare", "system", fine_sql("bare", "system"))} AS mapped, icd, "group"
            FROM (
                SELECT
                    {bare_sql("code")} AS bare,
                    "group",
                    -- What the line says, else what the header says, else it holds for every system.
                    coalesce({version_sql("system")}, version) AS icd,
                    CASE coalesce({version_sql("system")}, version)
                        WHEN 9 THEN '{nine}' WHEN 10 THEN '{ten}' ELSE '{_ONE_SYSTEM.get(rule, _ANY)}' END AS system
                FROM __mapping
            )
            """
    # What has no group keeps the name of its system, also in a block of one system: 250 could be a group as well.
    ungrouped = "CAST(NULL AS VARCHAR)"
    if block.mapping is not None and block.mapping.ungrouped == "3_characters":
        ungrouped = f"coalesce(system || '//', '') || {three_characters_sql('code', 'system')}"
    return f"""
        CREATE OR REPLACE TEMP TABLE {identifier(into)} AS
        WITH pairs AS ({pairs}),
        written AS (SELECT *, {version_sql("system")} AS of FROM {identifier(into)} WHERE reason IS NULL)
        SELECT
            raw,
            version,
            system,
            code,
            CASE WHEN "group" IS NULL THEN 'no group' END AS reason,
            CASE WHEN "group" IS NULL THEN {ungrouped} ELSE "group" END AS grouped
        FROM written LEFT JOIN pairs ON mapped = code AND (icd IS NULL OR icd = of)
        UNION ALL
        SELECT raw, version, system, code, reason, grouped FROM {identifier(into)} WHERE reason IS NOT NULL
        """
