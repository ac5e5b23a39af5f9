"""A cohort of nothing but code blocks through the graph, to its leaderboard, its release's files and the catalogue."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import numpy as np
import pyarrow as pa
import pytest
from made_up import MONTH, Book, deliver
from scipy.sparse import csr_matrix

from assets.run import ingest, run_cohort
from pipeline.features.cohort import assemble
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.features.stored import read_features
from pipeline.release.payload import released_rows, write_rows
from pipeline.store.lake import Lake
from pipeline.workflow.catalog import publish_catalog
from pipeline.workflow.compute import Compute

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort
    from pipeline.store.home import Home

ONLY_CODES = TableSchema(columns=[], blocks=[CodeBlock(name="dx", kind="count", vocabulary=["250", "401"])])
CELL = {"cohort": "codes", "month": MONTH}
PATIENTS = 240


@pytest.fixture
def codes(book: Book, tmp_path: Path) -> Path:
    """The cohort's files and a delivery: a third of the patients have each of ten codes, nobody anything else."""
    (book.folder / "codes.yaml").write_text(
        "source: clinic\nsubject: patient\nsql: codes.sql\ngenerators: {independent: {}}\n"
        "blocks: {dx: {sql: codes.dx.sql, kind: count, normalise: icd9, roll_up: 3_characters, source: [diagnoses.code]}}\n"
        "evaluation: {profile: quick}\nrelease: {generator: independent}\n"
    )
    (book.folder / "codes.sql").write_text("SELECT patient FROM people")
    (book.folder / "codes.dx.sql").write_text("SELECT patient, code FROM diagnoses")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "people.csv").write_text("\n".join(["patient", *(f"p{i}" for i in range(PATIENTS))]) + "\n")
    rng = np.random.default_rng(3)
    lines = [f"p{i},{250 + k}.{k}" for i in range(PATIENTS) for k in range(10) if rng.random() < 1 / 3]
    (folder / "diagnoses.csv").write_text("\n".join(["patient,code", *lines, "p0,042", "nobody,250.0"]) + "\n")
    return folder


@pytest.fixture
def made(home: Home, codes: Path, few_metrics: None, instance: dg.DagsterInstance) -> Lake:
    assert ingest(deliver(home, "clinic", codes, name="one").key, instance).success
    said: list[str] = []
    outcome = run_cohort("codes", MONTH, instance=instance, on_event=said.append)
    assert outcome.success, outcome
    line = next(place for place, words in enumerate(said) if words.startswith("features ("))
    assert re.fullmatch(
        r"  block dx: [\d,]+ records = [\d,]+ taken( \+ 1 left out \([^)]+\)){2}; 10 codes", said[line + 1]
    )
    return Lake(home)


def test_codes_alone_reach_the_leaderboard_and_the_catalogue(made: Lake, instance: dg.DagsterInstance) -> None:
    board = {r["key"]: r for r in made.tables.read(made.tables.resolve("leaderboard", CELL)).to_pylist()}
    assert board["independent"]["status"] == "ok"
    found = instance.fetch_materializations(dg.AssetKey("features"), limit=1).records[0]
    facts: dict[str, Any] = dict(found.asset_materialization.metadata)
    assert (facts["dagster/row_count"].value, facts["columns"].value, facts["dx_codes"].value) == (PATIENTS, 0, 10)
    assert facts["dx_density"].value == pytest.approx(1 / 3, abs=0.05)
    assert "| dx | left out | rare in training | 1 | 1 |" in facts["codes_left_out"].value.replace("not in", "rare in")
    assert "| dx | left out | of no row | 0 | 1 |" in facts["codes_left_out"].value
    assert "dx" in facts["dagster/column_lineage"].lineage.deps_by_column
    real = read_features(made.tables, made.tables.resolve("features", CELL))
    assert real.n_rows == PATIENTS
    tables = publish_catalog(made, Compute()).tables
    assert tables["features.codes"] == PATIENTS
    assert tables["features.codes__dx"] == real.blocks["dx"].nnz
    assert tables["synthetic.codes__dx"]
    with duckdb.connect(str(made.home.catalog), read_only=True) as catalog:
        query = (
            "SELECT count(*), sum(value) FROM features.codes JOIN features.codes__dx USING (_row) WHERE _subject = 'p0'"
        )
        row = real.blocks["dx"][int(np.flatnonzero(real.subject == "p0")[0])]
        assert catalog.execute(query).fetchall() == [(row.nnz, row.sum())]


def test_released_codes_are_long_tables_and_stand_in_the_catalogue(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, rows = Lake(home), replace(_rows_with_a_column(), table=pa.table({}), schema=ONLY_CODES)
    with lake.tables.draft("release", CELL) as draft:
        names = write_rows(rows, ["csv", "parquet"], draft)
        version = draft.commit(info={"release_id": "codes--r1"})
    assert names == ["block_dx.csv", "block_dx.parquet", "schema.json"]
    text = lake.tables.path(version, "block_dx.csv").read_text().splitlines()
    assert text == ['"row","code","value"', '0,"401",1', '2,"250",2']
    monkeypatch.setattr("pipeline.workflow.released.published_versions", lambda lake: [version])
    tables = publish_catalog(lake, Compute()).tables
    assert tables["released.codes__dx"] == 2
    assert "released.codes" not in tables


def test_released_rows_carry_the_number_that_their_codes_speak_of(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, rows = Lake(home), _rows_with_a_column()
    with lake.tables.draft("release", CELL) as draft:
        write_rows(rows, ["parquet"], draft)
        version = draft.commit(info={"release_id": "codes--r1"})
    monkeypatch.setattr("pipeline.workflow.released.published_versions", lambda lake: [version])
    publish_catalog(lake, Compute())
    with duckdb.connect(str(home.catalog), read_only=True) as catalog:
        query = (
            "SELECT age, code, value FROM released.codes JOIN released.codes__dx USING (_row, _release) ORDER BY ALL"
        )
        assert catalog.execute(query).fetchall() == [(40.0, "250", 2), (60.0, "401", 1)]


def _rows_with_a_column() -> Cohort:
    age = Column(name="age", kind="continuous", dtype="float64")
    schema = TableSchema(columns=[age], blocks=ONLY_CODES.blocks)
    blocks = {"dx": csr_matrix(np.array([[0, 1], [0, 0], [2, 0]]))}
    return released_rows(assemble(schema, {"age": np.array([60.0, 50.0, 40.0])}, blocks=blocks), None)
