"""A cohort with dated visits through the graph: features, model, synthetic people, figures, catalogue, release, MEDS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up import MONTH, Book, deliver
from meds import DataSchema

from assets.run import ingest, run_cohort
from pipeline.features.stored import read_features
from pipeline.features.visits import Visits
from pipeline.ingest.meds.synthetic import write_synthetic
from pipeline.release.payload import read_visits, released_rows, write_rows
from pipeline.store.lake import Lake
from pipeline.workflow.catalog import publish_catalog
from pipeline.workflow.compute import Compute
from pipeline.workflow.training import synthetic_replicates

if TYPE_CHECKING:
    from pipeline.store.home import Home

CELL = {"cohort": "visits", "month": MONTH}
PEOPLE = 400
FIGURES = ("schema.adherence", "ehr.visit.number_ks", "ehr.visit.size_ks", "ehr.visit.gap_ks", "ehr.visit.bigram",
           "util.next_visit", "priv.mia.visit_auc")  # fmt: skip


@pytest.fixture
def visits(book: Book, tmp_path: Path) -> Path:
    """The cohort's files and a delivery: up to five visits, one without a date, one of nobody, and a rare code."""
    (book.folder / "visits.yaml").write_text(
        "source: clinic\nunit: patient\nsubject: patient\nsql: visits.sql\n"
        "generators:\n  halo_small: {preset: quick, columns: independent, columns_preset: default, epochs: 3}\n"
        "  independent: {}\n"
        "events: {sql: visits.events.sql, normalise: icd9, roll_up: 3_characters, source: [diagnoses.day, diagnoses.code]}\n"
        "replicates: 2\nevaluation: {profile: quick}\nrelease: {generator: halo_small}\n"
    )
    (book.folder / "visits.sql").write_text("SELECT patient, sex FROM people")
    (book.folder / "visits.events.sql").write_text(
        "SELECT patient, CAST(day AS DATE) AS time, stay AS visit, code FROM diagnoses"
    )
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(3)
    people, lines = ["patient,sex"], ["patient,day,stay,code"]
    for i in range(PEOPLE):
        people.append(f"p{i},{'mf'[i % 2]}")
        day = np.datetime64("2020-01-01") + int(rng.integers(0, 300))
        for k in range(int(rng.integers(0, 6))):
            day = day + int(rng.choice([2, 9, 40, 200]))
            codes = sorted({250 + int(c) for c in rng.integers(0, 12, int(rng.integers(1, 5)))})
            lines += [f"p{i},{day},s{k},{c}.{i % 2}" for c in codes]
    lines += ["p0,,s9,250.1", "nobody,2020-01-01,s1,250.1", "p1,2020-01-01,s9,042"]
    (folder / "people.csv").write_text("\n".join(people) + "\n")
    (folder / "diagnoses.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def made(home: Home, visits: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Lake:
    from pipeline.evaluation import registry

    monkeypatch.setattr(registry, "BUILT_IN", {name: registry.BUILT_IN[name] for name in FIGURES})
    assert ingest(deliver(home, "clinic", visits, name="one").key, instance).success
    said: list[str] = []
    outcome = run_cohort("visits", MONTH, instance=instance, on_event=said.append)
    assert outcome.success, outcome
    assert any(line.strip().startswith("block events: ") and "1 left out (no time)" in line for line in said)
    return Lake(home)


@pytest.mark.slow
def test_people_with_visits_reach_the_leaderboard_the_catalogue_and_a_meds_dataset(made: Lake, tmp_path: Path) -> None:
    board = {r["key"]: r for r in made.tables.read(made.tables.resolve("leaderboard", CELL)).to_pylist()}
    assert board["halo_small"]["status"] == "ok"
    assert board["independent"]["status"] == "refused"
    assert "sequences" in board["independent"]["reason"]

    real = read_features(made.tables, made.tables.resolve("features", CELL))
    given = Visits.of(real)
    assert given.vocabulary == [str(250 + k) for k in range(12)], "042 is rare"
    first = int(np.flatnonzero(real.subject == "p1")[0])
    assert given.counts[first] <= 5

    version = made.tables.resolve("synthetic/halo_small", CELL)
    replicates = synthetic_replicates(made, version)
    assert len(replicates) == 2
    for drawn in replicates:
        people = Visits.of(drawn)
        assert people.n == drawn.n_rows == len(real.part("train").subject)
        assert 0.7 < people.counts.mean() / given.counts.mean() < 1.4
        assert people.day.min() > given.day.max()
    assert not replicates[0].events.equals(replicates[1].events)

    results = made.tables.read(made.tables.resolve("evaluation/halo_small", CELL)).to_pylist()
    heads = {r["metric"]: r for r in results if r["replicate"] == -1 and not r["key1"] and not r["key2"]}
    for name in FIGURES[1:]:
        assert heads[name]["value"] is not None, (name, heads[name]["note"])
        assert heads[name]["ref_fresh"] is not None, name
    assert heads["priv.mia.visit_auc"]["ref_train"] > 0.8

    tables = publish_catalog(made, Compute()).tables
    assert tables["features.visits__events"] == real.events.num_rows
    with duckdb.connect(str(made.home.catalog), read_only=True) as catalog:
        query = "SELECT count(*) FROM features.visits JOIN features.visits__events USING (_row) WHERE _subject = 'p1'"
        assert catalog.execute(query).fetchall()[0][0] == int(given.sizes[given.row_of_visit == first].sum())

    rows = released_rows(replicates[0], 50)
    with made.tables.draft("release", CELL) as draft:
        names = write_rows(rows, ["csv", "parquet"], draft)
        released = draft.commit(info={"release_id": "visits--2026-10--r1"})
    assert {"events.csv", "events.parquet"} <= set(names)
    back = read_visits(made.tables.folder(released))
    assert back.events.equals(rows.events)
    written = write_synthetic(back, tmp_path / "meds", name="visits", version="1")
    data = pq.read_table(tmp_path / "meds" / "data" / "0.parquet")
    DataSchema.validate(data.select(["subject_id", "time", "code", "numeric_value", "text_value"]))
    assert written.subjects == 50
    assert set(data.column("subject_id").to_pylist()) == set(range(1, 51))
