"""A small FHIR source in the lake, and cohorts written on the spot."""

from __future__ import annotations

from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest

from pipeline.features.build import Built, build_features, gather_inputs
from pipeline.features.source import SourceSpec
from pipeline.features.spec import CohortSpec
from pipeline.features.split import split_key
from pipeline.ingest.fhir.columns import MACROS, TYPES, duckdb_type
from pipeline.store.connection import identifier
from pipeline.store.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.store.home import Home

Rows = list[dict[str, Any]]

SQL = """SELECT
    p.key AS subject,
    p.gender,
    p.deceased,
    (SELECT count(*) FROM condition AS c WHERE c.patient = p.key) AS conditions
FROM patient AS p
"""


@cache
def empty_tables() -> dict[str, pa.Table]:
    """Every FHIR table without rows: what the reader's own SELECT gives for no record."""
    with duckdb.connect(":memory:", config={"threads": 1}) as reader:
        for macro in MACROS:
            reader.execute(f"CREATE MACRO {macro}").fetchall()
        empty = {}
        for kind in TYPES.values():
            fields = ", ".join(f"CAST(NULL AS {duckdb_type(s)}) AS {identifier(n)}" for n, s in kind.shape.items())
            empty[kind.table] = reader.sql(
                kind.select.replace("{source}", f"(SELECT {fields} WHERE false)")
            ).to_arrow_table()
    return empty


@pytest.fixture
def lake(home: Home) -> Lake:
    return Lake(home)


class Workbench:
    """Writes deliveries and cohorts and builds them."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake, self.folder = lake, folder
        self.source = SourceSpec(name="clinic", format="fhir")

    def deliver(self, name: str, as_of: str, **tables: Rows) -> None:
        """Commit raw FHIR tables, all types as the reader does; rows are mappings, what they leave out is null."""
        with self.lake.tables.draft("raw/fhir", {"delivery": f"{self.source.name}--{name}"}) as draft:
            for table, empty in empty_tables().items():
                draft.add_table(table, pa.Table.from_pylist(tables.get(table, []), schema=empty.schema))
            draft.commit(info={"source": self.source.name, "as_of": as_of})

    def deliver_table(self, name: str, as_of: str, **tables: pa.Table) -> None:
        """Commit plain raw tables."""
        with self.lake.tables.draft("raw/table", {"delivery": f"{self.source.name}--{name}"}) as draft:
            for table, rows in tables.items():
                draft.add_table(table, rows)
            draft.commit(info={"source": self.source.name, "as_of": as_of})

    def spec(self, sql: str = SQL, **settings: Any) -> CohortSpec:
        """A cohort over the source with this SQL."""
        (self.folder / "ward.sql").write_text(sql)
        base: Mapping[str, Any] = {
            "name": "ward",
            "source": self.source.name,
            "subject": "subject",
            "sql": "ward.sql",
            "generators": {},
            "folder": self.folder,
        }
        return CohortSpec(**{**base, **settings})

    def build(self, month: str = "2026-10-01", spec: CohortSpec | None = None) -> Built:
        """Gather and build."""
        spec = spec or self.spec()
        inputs = gather_inputs(spec, self.source, month, self.lake, self.lake.home, today=date(2026, 11, 22))
        return build_features(spec, self.source, inputs, self.lake, split_key(self.source, self.lake.home))

    @staticmethod
    def patients(numbers: range, **fields: Any) -> Rows:
        """Patients with ids p0, p1, ..."""
        return [
            {"key": f"Patient/p{i}", "id": f"p{i}", "patient": f"Patient/p{i}", "gender": ("female", "male")[i % 2]}
            | {"birth_date": date(1950 + i % 50, 1, 1), "deceased": False}
            | fields
            for i in numbers
        ]

    @staticmethod
    def conditions(of: range, onset: datetime | None, **fields: Any) -> Rows:
        """One condition for each patient."""
        return [
            {"key": f"Condition/c{i}", "id": f"c{i}", "patient": f"Patient/p{i}", "code": "44054006", "onset": onset}
            | fields
            for i in of
        ]


@pytest.fixture
def bench(lake: Lake, tmp_path: Path) -> Workbench:
    folder = tmp_path / "cohorts"
    folder.mkdir()
    return Workbench(lake, folder)
