"""What the report says of the tables of a delivery: their columns and types, what came otherwise, what gave no table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipeline.ingest.report.facts import DeliveryFacts
from pipeline.ingest.report.section import Cell, Section, count, place_of
from pipeline.ingest.tables.written_otherwise import hint

COLUMNS_SHOWN: Final = 300
"""Columns of plain tables that are listed, those with a hint first."""
BESIDE_SHOWN: Final = 50
"""Files without data, or set aside, that are listed by their names."""
_TYPES: Final[Mapping[str, str]] = {
    "int64": "whole number",
    "int32": "whole number",
    "double": "number",
    "float": "number",
    "string": "text",
    "large_string": "text",
    "bool": "true or false",
    "date32[day]": "date",
    "timestamp[us]": "time",
}


def doubts(facts: DeliveryFacts) -> list[str]:
    """What may have been meant otherwise in plain tables: their texts, the settings of the source."""
    info, found = facts.account.info, []
    if texts := sum(len(columns) for columns in info.get("written_otherwise", {}).values()):
        found.append(
            f"{count(texts, 'text column')} would be numbers or dates if they were written another way. As text each "
            "value is a level of its own, so read them in the cohort's SQL; what to write stands with the columns."
        )
    if tables := info.get("without_person"):
        found.append(
            f"The column that the source names as its `person` is not in {', '.join(tables)}: nobody can be erased from "
            "there. Mend the source in sources.yaml, or have the column delivered."
        )
    if tables := info.get("one_column"):
        found.append(
            f"{', '.join(tables)}: one column only, and in its name stands what delimits others. Look at `delimiter` of "
            "the table in sources.yaml, and hand the delivery over again with --replace."
        )
    return found


def beside(facts: DeliveryFacts) -> Section | None:
    """The files that are no tables, by name; FHIR's are often called by a patient."""
    rows: list[tuple[Cell, ...]] = [
        (file.file, file.outcome, file.reason)
        for file in sorted(facts.files, key=lambda file: (place_of(str(file.outcome)), file.file))
        if facts.format != "fhir" and file.outcome not in ("taken", "partly taken")
    ]
    words = [f"{BESIDE_SHOWN} of {len(rows):,}; the page lists more."] if len(rows) > BESIDE_SHOWN else []
    columns = ("file", "outcome", "reasons")
    shown = rows[:BESIDE_SHOWN]
    return Section("beside", "Files that gave no table", words, columns, shown, names_files=True) if rows else None


def column_types(facts: DeliveryFacts) -> Section | None:
    """The columns of plain tables; those that may be read wrongly first."""
    otherwise = facts.account.info.get("written_otherwise", {})
    rows: list[tuple[Cell, ...]] = [
        (table, column, _TYPES.get(kind, kind), hint(column, otherwise.get(table, {}).get(column, ())))
        for table, columns in facts.columns.items()
        for column, kind in columns.items()
    ]
    if not rows:
        return None
    words = []
    if len(rows) > COLUMNS_SHOWN:
        words = [f"{COLUMNS_SHOWN} of {len(rows):,} columns, those with a hint first."]
        rows = sorted(rows, key=lambda row: not row[3])[:COLUMNS_SHOWN]
    return Section("types", "Columns and their types", words, ("table", "column", "type", "hint"), rows)


def columns_changed(facts: DeliveryFacts) -> Section | None:
    """The columns that are not as they came, or did not come."""
    info = facts.account.info
    told = {
        "renamed_columns": "named so, as another column has the name",
        "columns_not_in_schema": "left out, as the declared schema does not speak of it",
        "absent_columns": "empty, as the file does not have it",
        "undeclared_columns": "kept as text, as the release does not declare it",
    }
    rows: list[tuple[Cell, ...]] = [
        (table, column, what)
        for key, what in told.items()
        for table, columns in sorted(info.get(key, {}).items())
        for column in columns
    ]
    columns = ("table", "column", "what was done")
    return Section("columns", "Columns that came otherwise", [], columns, rows) if rows else None


def absent(facts: DeliveryFacts) -> Section | None:
    """Which release it was read as, and which of its tables did not come."""
    names, release = facts.account.info.get("absent_tables"), facts.account.info.get("version")
    if names is None:
        return None
    words = [f"Read as {release}."] if release else []
    words.append(f"Not in this delivery: {', '.join(sorted(names))}." if names else "Every declared table came.")
    return Section("absent", "Tables", words)
