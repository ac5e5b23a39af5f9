"""`export-meds`: what goes out is MEDS 0.4, comes back in as the same events, and carries no split unless asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from meds import CodeMetadataSchema, DataSchema, DatasetMetadataSchema, SubjectSplitSchema

from pipeline.errors import ConfigError, InputError, NotFoundError
from pipeline.features.spec import load_book
from pipeline.features.split import PUBLISHED_KEY
from pipeline.ingest.delivery import hand_over
from pipeline.ingest.meds import export as meds_export
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow.cell import Cell
from pipeline.workflow.compute import Compute
from pipeline.workflow.deliveries import make_events, take_in
from pipeline.workflow.exporting import export_meds, export_of_cohort, export_of_delivery, export_of_source
from pipeline.workflow.features import features_step, gather_step

if TYPE_CHECKING:
    from collections.abc import Iterator

COHORTLOOM = Path(sys.executable).with_name("cohortloom")
MONTH = "2026-10-01"
SOURCES = """
hospital: {format: fhir, dates: real, split_key: published, validation: {mode: "off"}}
back: {format: meds, dates: real, split_key: published}
ward: {format: table, dates: none, split_key: published}
"""
YAML = """
title: t
source: hospital
unit: {unit}
subject: {subject}
sql: {name}.sql
columns: {{sex: {{kind: binary}}}}
evaluation: {{profile: quick}}
generators: {{independent: {{}}}}
"""
SQL = "SELECT key AS subject, gender AS sex FROM patient WHERE gender IS NOT NULL"


def people(number: int) -> list[dict[str, Any]]:
    """Patients with visits; a tenth have no gender, and every other one a number as id."""
    made: list[dict[str, Any]] = []
    for i in range(number):
        id = str(700 + i) if i % 2 else f"p-{i}"
        gender = {} if i % 10 == 9 else {"gender": ["female", "male"][i // 2 % 2]}
        made.append({"resourceType": "Patient", "id": id, "birthDate": f"19{40 + i % 50}-01-02", **gender})
        for k in range(i % 4):
            code = {"coding": [{"system": "http://loinc.org", "code": f"8302-{k}", "display": f"Measure {k}"}]}
            made.append(
                {
                    "resourceType": "Observation",
                    "id": f"o-{i}-{k}",
                    "status": "final",
                    "code": code,
                    "subject": {"reference": f"Patient/{id}"},
                    "effectiveDateTime": f"2026-0{k + 1}-01T10:00:00Z",
                    "valueQuantity": {"value": 1.1 * i + k, "unit": "cm"},
                }
            )
    return made


class House:
    """A home with two deliveries of a hospital, taken in without an orchestrator."""

    def __init__(self, home: Home, folder: Path) -> None:
        cohorts = folder / "cohorts"
        cohorts.mkdir()
        (cohorts / "sources.yaml").write_text(SOURCES)
        for name, unit, subject in (("people", "patient", "subject"), ("rows", "row", "row")):
            (cohorts / f"{name}.yaml").write_text(YAML.format(name=name, unit=unit, subject=subject))
            (cohorts / f"{name}.sql").write_text(SQL)
        self.home, self.lake, self.folder, self.book = home, Lake(home), folder, load_book([cohorts])
        records = people(80)
        for name, part in (("2026-09-30", records[:90]), ("2026-10-31", records[60:])):
            export = folder / name
            export.mkdir()
            (export / "all.ndjson").write_text("".join(json.dumps(record) + "\n" for record in part))
            self.deliver("hospital", export, name)

    def deliver(self, source: str, path: Path, name: str) -> str:
        spec = self.book.source(source)
        came = hand_over(self.home, source, path, as_of=None, name=name)
        take_in(self.lake, came, spec, spec.format, Compute())
        make_events(self.lake, spec, came.key, Compute())
        return came.key

    def events(self, key: str) -> Any:
        return self.lake.tables.resolve("events", {"delivery": key})

    def export(self, what: Any, name: str, **options: Any) -> Path:
        out = self.folder / name
        export_meds(self.lake, what, out, Compute(), **options)
        return out


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One for all tests: an export changes nothing in it but the journal."""
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COHORTLOOM_SPLIT_KEY", PUBLISHED_KEY.decode())
        patch.setenv("COHORTLOOM_HOME", str(folder / "home"))
        patch.delenv("COHORTLOOM_COHORTS", raising=False)
        yield House(Home(folder / "home").ensure(), folder)


def shards(out: Path) -> list[pa.Table]:
    """The shards in order, each a valid MEDS table, with every subject in one place of one of them."""
    files = sorted((out / "data").iterdir(), key=lambda path: int(path.stem))
    tables = [pq.read_table(path) for path in files]
    seen: list[int] = []
    for table in tables:
        DataSchema.validate(table)
        ids = table.column("subject_id").to_pylist()
        seen += [one for i, one in enumerate(ids) if not i or one != ids[i - 1]]
    assert len(seen) == len(set(seen))
    return tables


def metadata(out: Path) -> dict[str, Any]:
    codes = pq.read_table(out / "metadata" / "codes.parquet")
    CodeMetadataSchema.validate(codes)
    content = json.loads((out / "metadata" / "dataset.json").read_text())
    DatasetMetadataSchema.validate(content)
    used = {code for table in shards(out) for code in table.column("code").to_pylist()}
    assert codes.column("code").to_pylist() == sorted(used)
    return {**content, "codes": {row["code"]: row["description"] for row in codes.to_pylist()}}


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_delivery_goes_out_and_comes_back_as_the_same_events(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meds_export, "SHARD_ROWS", 20)
    monkeypatch.setattr(meds_export, "BATCH", 7)
    key = "hospital--2026-09-30"
    out = house.export(export_of_delivery(house.book.source("hospital"), key), "out")
    tables = shards(out)
    assert len(tables) > 3
    assert all(table.num_rows >= 20 for table in tables[:-1])
    assert pa.concat_tables(tables).equals(house.lake.tables.read(house.events(key), "data"))
    said = metadata(out)
    assert (said["dataset_name"], said["dataset_version"]) == ("hospital", "2026-09-30")
    assert said["codes"]["LOINC//8302-1"] == "Measure 1"
    assert said["codes"]["MEDS_BIRTH"] is None
    assert sorted(contents(out))[-2:] == ["metadata/codes.parquet", "metadata/dataset.json"]
    back = house.deliver("back", out, "one")
    assert house.events(back).files["data"].sha256 == house.events(key).files["data"].sha256
    again = house.export(export_of_delivery(house.book.source("back"), back), "again")
    assert metadata(again)["codes"] == said["codes"]
    assert {n: b for n, b in contents(again).items() if n != "metadata/dataset.json"} == {
        n: b for n, b in contents(out).items() if n != "metadata/dataset.json"
    }
    assert contents(house.export(export_of_delivery(house.book.source("hospital"), key), "third")) == contents(out)


def test_only_its_owner_can_read_an_export_and_the_journal_knows_of_it(house: House) -> None:
    before = len(house.lake.journal.entries("operations"))
    out = house.export(export_of_delivery(house.book.source("hospital"), "hospital--2026-09-30"), "private")
    assert out.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*") if path.is_dir()} == {0o700}
    (entry,) = house.lake.journal.entries("operations")[before:]
    assert (entry["operation"], entry["delivery"]) == ("export_meds", "hospital--2026-09-30")
    assert entry["split"] is None
    assert entry["events"] == sum(table.num_rows for table in shards(out))
    assert not list(house.folder.glob(".tmp-*"))


def test_a_source_is_exported_as_a_month_sees_it(house: House) -> None:
    hospital = house.book.source("hospital")
    september = shards(house.export(export_of_source(house.lake, hospital, "2026-09-01"), "september"))
    october = shards(house.export(export_of_source(house.lake, hospital), "october"))
    first = house.events("hospital--2026-09-30").files["data"].rows
    assert sum(table.num_rows for table in september) == first
    born = [code for table in october for code in table.column("code").to_pylist() if code == "MEDS_BIRTH"]
    assert len(born) == 80  # those in both deliveries once
    with pytest.raises(NotFoundError, match="no delivery by the end of 2026-08"):
        export_of_source(house.lake, hospital, "2026-08-01")
    with pytest.raises(NotFoundError, match="no delivery yet"):
        export_of_source(house.lake, house.book.source("ward"))


def test_a_cohort_is_exported_with_its_people_and_its_split_only_if_asked(house: House) -> None:
    cell = Cell.of(house.book, "people", MONTH)
    with pytest.raises(NotFoundError, match="were not made"):
        export_of_cohort(house.lake, cell)
    gather_step(house.lake, cell)
    features, built = features_step(house.lake, cell, Compute())
    what = export_of_cohort(house.lake, cell)
    bare = house.export(what, "bare")
    assert "metadata/subject_splits.parquet" not in contents(bare)
    ids = {one for table in shards(bare) for one in table.column("subject_id").to_pylist()}
    assert len(ids) == 72  # who has no gender is not in the cohort
    asked = house.export(what, "asked", with_split=True)
    rest = {n: b for n, b in contents(asked).items() if n != "metadata/subject_splits.parquet"}
    assert rest == contents(bare)
    split = pq.read_table(asked / "metadata" / "subject_splits.parquet")
    SubjectSplitSchema.validate(split)
    parts = dict(zip(*(split.column(c).to_pylist() for c in ("subject_id", "split")), strict=True))
    assert parts.keys() == ids
    beside = house.lake.tables.read(features, "subjects").to_pylist()
    assert built.cohort.n_subjects == 72
    names = {"holdout": "held_out"}
    for row in beside:
        id = row["subject"].removeprefix("Patient/")
        if id.isdigit():
            assert parts[int(id)] == ("tuning" if row["tune"] else names.get(row["split"], row["split"]))
    assert {"train", "tuning", "held_out"} <= set(parts.values())
    # The split of an export never becomes ours: it is counted and left.
    back = house.deliver("back", asked, "split")
    raw = house.lake.tables.resolve("raw/meds", {"delivery": back})
    assert sum(raw.info["account"]["info"]["subject_splits"].values()) == 72
    assert not any("split" in name for name in raw.files)


def test_what_cannot_be_exported_is_refused_in_a_sentence(house: House) -> None:
    hospital = house.book.source("hospital")
    what = export_of_delivery(hospital, "hospital--2026-09-30")
    (house.folder / "taken").mkdir()
    (house.folder / "taken" / "x").touch()
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        house.export(what, "taken")
    with pytest.raises(ConfigError, match="Only a cohort has a split"):
        house.export(what, "never", with_split=True)
    with pytest.raises(ConfigError, match="no people with events"):
        export_of_cohort(house.lake, Cell.of(house.book, "rows", MONTH))
    with pytest.raises(ConfigError, match="have no events to export"):
        house.export(export_of_delivery(house.book.source("ward"), "ward--1"), "never")
    with pytest.raises(NotFoundError, match="no events of this delivery"):
        house.export(export_of_delivery(hospital, "hospital--none"), "never")
    assert not (house.folder / "never").exists()
    assert not list(house.folder.glob(".tmp-*"))


def test_a_cohort_of_strangers_is_refused(house: House) -> None:
    import dataclasses

    what = export_of_source(house.lake, house.book.source("hospital"))
    with pytest.raises(InputError, match="None of the 1 subjects"):
        house.export(dataclasses.replace(what, people={"zz-canary": "train"}), "never")


def test_the_command_warns_that_this_is_patient_data(house: House) -> None:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DAGSTER_", "COHORTLOOM_"))}
    own = {"COHORTLOOM_HOME": str(house.home.root), "COHORTLOOM_COHORTS": str(house.folder / "cohorts")}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**kept, **own, "DAGSTER_DISABLE_TELEMETRY": "1"}
        return subprocess.run(
            [COHORTLOOM, *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    out = house.folder / "by-command"
    done = run("export-meds", "hospital--2026-09-30", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "holds real patients' events" in done.stderr
    assert "DAGSTER_HOME" not in done.stderr
    assert "the export is entered in the journal" in done.stderr
    assert metadata(out)["dataset_version"] == "2026-09-30"
    neither = run("export-meds", "--out", str(house.folder / "x"))
    assert neither.returncode == 1
    assert neither.stderr.strip() == "error: Name a delivery or a cohort, or give --source."
