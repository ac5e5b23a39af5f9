"""A home with deliveries, cohorts and people made by code, for the tests of erasure."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from pipeline.features.spec import load_book
from pipeline.features.split import PUBLISHED_KEY, assign
from pipeline.ingest.account import BESIDE_THE_DATA
from pipeline.ingest.lines import ByteSource
from pipeline.store.lake import Lake
from pipeline.workflow.compute import Compute
from pipeline.workflow.erasure import Way, erase, whom
from pipeline.workflow.holdings import search

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import dagster as dg

    from pipeline.store.home import Home

MONTH = "2026-10-01"
SURNAME = "Qvexxanthe"
SQL = """
SELECT p.key AS subject, p.gender AS sex, date_part('year', p.birth_date)::INTEGER AS born, count(o.key) AS visits
FROM patient p LEFT JOIN observation o ON o.patient = p.key WHERE p.birth_date IS NOT NULL GROUP BY ALL
"""
YAML = """
title: t
source: {source}
unit: patient
subject: subject
sql: {name}.sql
columns: {{sex: {{kind: binary}}}}
evaluation: {{profile: quick}}
generators: {{independent: {{}}}}
"""
SOURCES = """
hospital: {format: fhir, dates: none, split_key: published, description: made up}
clinic: {format: table, dates: none, split_key: published, person: patient_no, description: made up}
bare: {format: table, dates: none, split_key: published, description: made up}
"""


def people(part: str, number: int = 60) -> list[str]:
    """Ids whose FHIR key falls into a part of the split."""
    ids = [f"zz-canary-{1000 + i}" for i in range(number)]
    parts = assign([f"Patient/{i}" for i in ids], PUBLISHED_KEY)[0]
    return [i for i, p in zip(ids, parts, strict=True) if p == part]


EVERYBODY = [f"zz-canary-{1000 + i}" for i in range(60)]
TRAINED, JUDGED = people("train")[3], people("holdout")[2]


class House:
    """A home with two FHIR deliveries, a delivery of a plain table, and cohorts on them."""

    def __init__(self, home: Home, cohorts: Path, instance: dg.DagsterInstance) -> None:
        self.home, self.instance, self.lake = home, instance, Lake(home)
        (cohorts / "sources.yaml").write_text(SOURCES)
        (cohorts / "people.yaml").write_text(YAML.format(name="people", source="hospital"))
        (cohorts / "people.sql").write_text(SQL)
        (cohorts / "rows.yaml").write_text(YAML.format(name="rows", source="clinic"))
        (cohorts / "rows.sql").write_text("SELECT patient_no AS subject, sex, born FROM visits")
        self.book = load_book([cohorts])

    def land(self, source: str, name: str, files: dict[str, bytes]) -> str:
        folder = self.home.landing / source / name
        folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        (folder / "_DELIVERY.json").write_text(json.dumps({"as_of": "2026-10-15"}))
        (folder / "_SUCCESS").touch()
        return f"{source}--{name}"

    def ingest(self, key: str) -> str:
        from assets.run import ingest

        outcome = ingest(key, self.instance)
        return "" if outcome.success else outcome.reason

    def run(self, cohort: str, month: str) -> str:
        from assets.run import run_cohort

        outcome = run_cohort(cohort, month, instance=self.instance)
        return "" if outcome.success else outcome.reason

    def search(self, id: str, source: str = "hospital", column: str | None = None) -> Any:
        spec = self.book.source(source)
        return search(self.lake, spec, self.book, whom(self.lake, spec, id, column))

    def erase(self, id: str, source: str = "hospital", *, rebuild: bool = False, **options: Any) -> dict[str, Any]:
        way = Way(self.ingest, self.run if rebuild else None)
        spec = self.book.source(source)
        return erase(self.lake, spec, self.book, self.search(id, source), way, Compute(), **options)

    def rows(self, *, without: str) -> dict[str, list[dict[str, Any]]]:
        """All current raw rows by delivery and table of data, without those of a person."""
        found = {}
        for asset in ("raw/fhir", "raw/table"):
            for partition in self.lake.tables.partitions(asset):
                raw = self.lake.tables.resolve(asset, partition)
                for name in set(raw.files) - set(BESIDE_THE_DATA):
                    rows = self.lake.tables.read(raw, name).to_pylist()
                    found[f"{partition['delivery']}/{name}"] = [r for r in rows if without not in str(r)]
        return found

    def traces(self, *canaries: str) -> list[str]:
        """Every file in which a canary stands: by bytes, unpacked, and column by column."""
        found = []
        for path in self.home.root.rglob("*"):
            if path.is_file():
                text = b"".join(ByteSource(path).pieces())
                if path.suffix == ".parquet":
                    text += "\n".join(map(str, _cells(path))).encode()
                if any(c.encode() in text or c in path.as_posix() for c in canaries):
                    found.append(path.relative_to(self.home.root).as_posix())
        return found


def _cells(path: Path) -> Iterator[Any]:
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    for column in table.columns:
        yield from column.to_pylist()


def patient(id: str, year: int) -> bytes:
    name = [{"family": f"{SURNAME}-{id}"}]
    made = {"resourceType": "Patient", "id": id, "gender": ["female", "male"][year % 2], "birthDate": f"{year}-01-02"}
    return json.dumps({**made, "name": name}).encode() + b"\n"


def visit(id: str, number: int) -> bytes:
    made = {"resourceType": "Observation", "id": f"o-{id}-{number}", "status": "final"}
    code = {"coding": [{"system": "http://loinc.org", "code": "8302-2"}]}
    subject = {"reference": f"Patient/{id}", "display": f"{SURNAME}-{id}"}
    return json.dumps({**made, "code": code, "subject": subject, "valueString": "x"}).encode() + b"\n"


def claim(id: str) -> bytes:
    return json.dumps({"resourceType": "Claim", "id": f"c-{id}", "patient": {"reference": f"Patient/{id}"}}).encode()
