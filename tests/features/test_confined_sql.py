"""A cohort's SQL sees the raw tables of its source and nothing else of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "Zebulon-Quartermain-4711"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.csv"
    path.write_text(f"name\n{SECRET}\n")
    return path


@pytest.mark.parametrize(
    "reach",
    [
        "read_csv('{secret}')",
        "'{secret}'",
        "read_text('{secret}')",
        "read_blob('{secret}')",
        "read_json_auto('{secret}')",
        "glob('{folder}/*')",
        "read_csv('http://127.0.0.1:9/x.csv')",
    ],
)
def test_reaching_for_a_file_is_refused_with_its_line(bench, secret: Path, reach: str) -> None:
    bench.deliver("a", "2026-09-17", patient=bench.patients(range(20)))
    source = reach.format(secret=secret, folder=secret.parent)
    sql = f"SELECT p.key AS subject, p.gender,\n  (SELECT count(*) FROM {source}) AS n\nFROM patient p\n"
    with pytest.raises(ConfigError) as error:
        bench.build(spec=bench.spec(sql))
    assert "ward.sql" in str(error.value)
    assert SECRET not in str(error.value)
    if not reach.startswith("read_csv('http"):
        assert "reaches for a file" in str(error.value)


@pytest.mark.parametrize(
    "statement", ["SET lock_configuration = false", "COPY patient TO '{folder}/out.csv'", "ATTACH '{folder}/x.db'"]
)
def test_statements_that_are_no_select_are_refused(bench, secret: Path, statement: str) -> None:
    bench.deliver("a", "2026-09-17", patient=bench.patients(range(20)))
    with pytest.raises(ConfigError, match="exactly one SELECT"):
        bench.build(spec=bench.spec(statement.format(folder=secret.parent)))
    assert [p.name for p in secret.parent.glob("out.csv")] == []


def test_what_it_may_see_it_sees(bench) -> None:
    bench.deliver("a", "2026-09-17", patient=bench.patients(range(20)))
    sql = "SELECT p.key AS subject, p.gender, (SELECT count(*) FROM events) AS n FROM patient p"
    assert bench.build(spec=bench.spec(sql)).cohort.n_rows == 20
