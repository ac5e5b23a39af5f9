"""The catalogue: one file that readers open read-only, swapped in as a whole."""

from __future__ import annotations

import stat
from datetime import date
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from made_up import MONTH, Book, deliver, visits

from assets.definitions import build_defs
from assets.run import ingest, run_cohort
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow.catalog import publish_catalog
from pipeline.workflow.compute import Compute


def publish(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return build_defs().resolve_job_def("publish_catalog").execute_in_process(instance=instance)


def rows(home: Home, query: str) -> list[tuple]:
    with duckdb.connect(str(home.catalog), read_only=True) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.usefixtures("few_metrics")
def test_tables_and_views_of_the_current_versions(
    home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assert ingest(deliver(home, "clinic", visits(tmp_path / "in"), name="one").key, instance).success
    assert run_cohort("tiny", MONTH, instance=instance).success
    assert run_cohort("tiny", "2026-11-01", ["independent"], instance=instance).success
    assert publish(instance).success
    assert stat.S_IMODE(home.catalog.stat().st_mode) == 0o600
    kinds = dict(rows(home, "SELECT table_schema || '.' || table_name, table_type FROM information_schema.tables"))
    assert {name for name, kind in kinds.items() if kind == "VIEW"} == {"raw_table.visits"}
    tables = {"features.tiny", "synthetic.tiny", "metrics.evaluation", "metrics.leaderboard", "metrics.references"}
    assert {name for name, kind in kinds.items() if kind != "VIEW"} == tables
    months = [(date(2026, 10, 1), 240), (date(2026, 11, 1), 240)]
    assert rows(home, "SELECT _month, count(*) FROM features.tiny GROUP BY ALL ORDER BY ALL") == months
    lake = Lake(home)
    stored = lake.tables.read(lake.tables.resolve("features", {"cohort": "tiny", "month": MONTH}))
    beside = lake.tables.read(lake.tables.resolve("features", {"cohort": "tiny", "month": MONTH}), "subjects")
    expected = list(zip(beside.column("subject").to_pylist(), stored.column("age").to_pylist(), strict=True))
    query = f"SELECT _subject, age FROM features.tiny WHERE _month = DATE '{MONTH}' ORDER BY _row"
    assert rows(home, query) == expected, "rows keep their subject"
    drawn = rows(home, "SELECT DISTINCT _generator, _replicate, _draw FROM synthetic.tiny ORDER BY ALL")
    assert drawn == [("gaussian_copula", 0, 0), ("independent", 0, 0)]
    assert rows(home, "SELECT DISTINCT _delivery FROM raw_table.visits") == [("clinic--one",)]
    assert rows(home, "SELECT count(*) FROM raw_table.visits") == [(240,)]
    assert rows(home, "SELECT count(*) FROM metrics.leaderboard WHERE jsd.value IS NOT NULL")[0][0] > 4
    made = instance.fetch_materializations(dg.AssetKey("catalog"), limit=1).records[0].asset_materialization
    assert "features.tiny" in made.metadata["tables"].md_str


def test_an_empty_lake_gives_an_empty_catalogue(home: Home, book: Book, instance: dg.DagsterInstance) -> None:
    assert publish(instance).success
    assert rows(home, "SELECT count(*) FROM information_schema.tables") == [(0,)]


def test_readers_keep_what_they_opened(home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """A notebook that has the file open neither blocks publishing nor sees it change under its hands."""
    import subprocess
    import sys

    assert ingest(deliver(home, "clinic", visits(tmp_path / "in"), name="one").key, instance).success
    first = publish_catalog(Lake(home), Compute())
    code = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); q = 'SELECT count(*) FROM raw_table.visits'\n"
        "print(c.execute(q).fetchall(), flush=True); sys.stdin.readline(); print(c.execute(q).fetchall(), flush=True)"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(home.catalog)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "[(240,)]\n"
    assert ingest(deliver(home, "clinic", visits(tmp_path / "two", seed=3), name="two").key, instance).success
    second = publish_catalog(Lake(home), Compute())
    assert first.sha256 != second.sha256
    assert rows(home, "SELECT count(*) FROM raw_table.visits") == [(480,)]
    out, _ = reader.communicate("\n", timeout=60)
    assert out == "[(240,)]\n"
    assert [p.name for p in home.root.glob(".tmp-catalog*")] == []


def test_a_failed_build_leaves_the_old_one(
    home: Home, book: Book, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    from pipeline.errors import CohortLoomError

    assert ingest(deliver(home, "clinic", visits(tmp_path / "in"), name="one").key, instance).success
    lake = Lake(home)
    publish_catalog(lake, Compute())
    before = home.catalog.read_bytes()
    version = lake.tables.resolve("raw/table", {"delivery": "clinic--one"})
    lake.tables.path(version, "visits").write_bytes(b"damaged")
    with pytest.raises(CohortLoomError):
        publish_catalog(lake, Compute())
    assert home.catalog.read_bytes() == before
    assert [p.name for p in home.root.glob(".tmp-catalog*")] == []
