"""Postgres in place of SQLite: a variable is enough, results are the same, and its loss costs no result."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from small_house import House, sentence

from pipeline.errors import ConfigError
from pipeline.privacy.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from postgres_server import PostgresServer

pytestmark = pytest.mark.distributed
RUN = ("run", "tiny", "-g", "independent")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the run leaves in the lake when Dagster keeps its runs in SQLite and nothing happens."""
    house = House(tmp_path_factory.mktemp("sqlite"))
    house.deliver()
    house.well(*RUN)
    return house.hashes()


@pytest.mark.slow
def test_the_variable_is_enough(tmp_path: Path, postgres: PostgresServer, undisturbed: dict[str, str]) -> None:
    house = House(tmp_path, DAGSTER_PG_URL=postgres.url)
    house.deliver()
    house.well(*RUN)
    assert house.hashes() == undisturbed
    configuration = yaml.safe_load((house.root / "dagster" / "dagster.yaml").read_text())
    assert configuration["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_PG_URL"}}}
    assert configuration["concurrency"]  # the rest of the file is still there
    assert not list((house.root / "dagster").rglob("*.db"))  # nothing went to SQLite

    without = house.run(*RUN, DAGSTER_PG_URL="")
    assert "keeps its runs in Postgres, but DAGSTER_PG_URL is not set" in sentence(without)


@pytest.mark.slow
def test_postgres_gone_in_the_middle_of_a_run(
    tmp_path: Path, postgres: PostgresServer, undisturbed: dict[str, str]
) -> None:
    house = House(tmp_path, DAGSTER_PG_URL=postgres.url)
    house.deliver()
    running = house.start(*RUN)
    assert running.stderr is not None
    assert any("features (" in line for line in running.stderr)  # reads up to the line that says so
    postgres.stop()
    try:
        out, err = running.communicate(timeout=300)
        said = sentence(subprocess.CompletedProcess(RUN, running.returncode, out, err))
        assert f"Postgres at 127.0.0.1:{postgres.port}" in said
        refused = sentence(house.run(*RUN))
        assert f"Postgres at 127.0.0.1:{postgres.port} does not answer" in refused
    finally:
        postgres.start()
    kept, spoken = house.hashes(), house.journal()
    assert kept.items() <= undisturbed.items()  # whole versions, and the right ones
    assert any("features" in label for label in kept)

    house.well(*RUN)
    assert house.hashes() == undisturbed
    assert all(entry in house.journal() for entry in spoken)
    spends = Ledger(house.lake.journal, "tiny").spends()
    assert sorted((s.training.generator, s.state, s.models) for s in spends) == [("independent", "complete", 1)]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://someone:secret@db/runs", "no address of a Postgres database"),
        ("postgresql://someone:secret@db:port/runs", "no address of a Postgres database"),
    ],
)
def test_an_address_that_is_none_is_said_without_its_password(
    url: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dagster_postgres")
    from assets.postgres import settle_storage

    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_PG_URL", url)
    with pytest.raises(ConfigError, match=words) as raised:
        settle_storage(tmp_path / "dagster.yaml")
    assert "secret" not in str(raised.value)


def test_a_storage_written_by_hand_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assets.postgres import settle_storage

    own = "storage: {sqlite: {base_dir: /var/lib/runs}}\n"
    (tmp_path / "dagster.yaml").write_text(own)
    monkeypatch.setenv("DAGSTER_PG_URL", "postgresql://db/runs")
    settle_storage(tmp_path / "dagster.yaml")
    assert (tmp_path / "dagster.yaml").read_text() == own


def test_a_missing_package_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assets import postgres

    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_PG_URL", "postgresql://db/runs")
    monkeypatch.setattr(postgres.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="dagster-postgres is not installed"):
        postgres.settle_storage(tmp_path / "dagster.yaml")
