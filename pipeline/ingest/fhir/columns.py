"""What is read of each FHIR R4 resource type, and how it becomes the rows of a raw table.

Both come from the ViewDefinitions in `cohorts/views/`, one a type, which `viewdefinition` compiles: the shape serves
`read_json` as explicit columns, and `judge` to say of a single record why it does not fit. The SELECTs are strict:
on any record that does not fit they raise, so a file that comes through is whole. Names, addresses, telecoms and
identifiers of patients are never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.ingest.viewdefinition.compile import compile_view
from pipeline.ingest.viewdefinition.definition import load_view
from pipeline.ingest.viewdefinition.macros import DAY_PATTERN, MACROS, MONTH_PATTERN, TIME_PATTERN, YEAR_PATTERN
from pipeline.ingest.viewdefinition.shape import (
    FLAG,
    MOMENT,
    NUMBER,
    TEXT,
    TOKEN,
    Shape,
    duckdb_columns,
    duckdb_type,
)

__all__ = [
    "DAY_PATTERN",
    "FLAG",
    "MACROS",
    "MOMENT",
    "MONTH_PATTERN",
    "NUMBER",
    "TEXT",
    "TIME_PATTERN",
    "TOKEN",
    "TYPES",
    "YEAR_PATTERN",
    "ResourceType",
    "Shape",
    "duckdb_columns",
    "duckdb_type",
]

VIEWS: Final = Path(__file__).resolve().parents[3] / "cohorts" / "views"
"""Where the ViewDefinitions of the built-in tables are."""

_TABLES: Final = (
    "patient",
    "encounter",
    "condition",
    "observation",
    "procedure",
    "medication_request",
    "immunization",
    "allergy_intolerance",
    "diagnostic_report",
    "medication",
)


@dataclass(frozen=True)
class ResourceType:
    """One modelled resource type.

    Attributes:
        name: FHIR name, as in `resourceType`.
        table: Name of its raw table.
        shape: The fields that are read.
        select: SELECT over `{source}` (the explicit columns) giving the table; raises where a record does not fit.
        references: Reference fields that bundles may write as `urn:uuid:`.
    """

    name: str
    table: str
    shape: dict[str, Any]
    select: str
    references: tuple[str, ...]


def _built_in(table: str) -> ResourceType:
    view = compile_view(load_view(VIEWS / f"{table}.json"), where=f"{table}.json")
    return ResourceType(view.resource, table, view.shape, view.select, view.references)


TYPES: Final[dict[str, ResourceType]] = {known.name: known for known in map(_built_in, _TABLES)}
