"""A cohort's rules from its file through training, drawing, checks and command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pytest
import typer
from rule_ward import MONTH, PARTITION, RULES, ward_in_store

from assets.cli.constraints import check, suggest
from assets.definitions import build_defs
from assets.partitions import cohort_month_key
from pipeline.errors import ConfigError, NotFoundError
from pipeline.features.spec import load_book
from pipeline.features.stored import read_features, write_cohort
from pipeline.store.lake import Lake
from pipeline.workflow.cell import Cell
from pipeline.workflow.compute import Compute
from pipeline.workflow.constraints import kept_by_synthetic
from pipeline.workflow.settings import moved_on
from pipeline.workflow.training import fit_step, sample_step

if TYPE_CHECKING:
    from pathlib import Path

    from made_up import Book

    from pipeline.store.home import Home
    from pipeline.store.lake import Version


def written(rules: list[dict[str, object]]) -> str:
    """The section of a cohort's file; JSON is YAML."""
    return f"constraints: {json.dumps(rules)}\n"


@pytest.fixture
def lake(home: Home, book: Book) -> Lake:
    book.cohort("tiny", source="clinic", generators={"independent": {}}, extra=written(RULES))
    made = Lake(home)
    ward_in_store(made)
    return made


def drawn(lake: Lake) -> Version:
    cell = Cell.of(load_book(), "tiny", MONTH)
    assert fit_step(lake, cell, "independent", Compute(device="cpu")).record.ok
    return sample_step(lake, cell, "independent").version


def spoil(lake: Lake, version: Version) -> None:
    """Store synthetic rows one of which breaks a rule, as if they had been drawn under it."""
    cohort = read_features(lake.tables, version)
    total = cohort.values("total")
    total[0] += 1
    place = cohort.schema.names.index("total")
    from dataclasses import replace

    import pyarrow as pa

    table = cohort.table.set_column(place, cohort.table.schema.field(place), pa.array(total.astype(np.int64)))
    with lake.tables.draft(version.asset, version.partition) as draft:
        write_cohort(
            replace(cohort, table=table), draft, extra={"_replicate": pa.array(np.zeros(len(total), np.int32))}
        )
        draft.commit(inputs=version.inputs, info=version.info)


def checked(instance: dg.DagsterInstance, name: str) -> dict[str, dg.AssetCheckEvaluation]:
    """The checks of one name, run alone for the cell."""
    defs = build_defs()
    keys = {k for k in defs.resolve_asset_graph().asset_check_keys if k.name == name}
    job = defs.resolve_implicit_global_asset_job_def()
    tags = {"dagster/partition": str(cohort_month_key("tiny", MONTH))}
    tags |= {"dagster/partition/cohort": "tiny", "dagster/partition/month": MONTH}
    run = job.get_subset(asset_selection=set(), asset_check_selection=keys)
    result = run.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    return {c.asset_key.to_user_string(): c for c in result.get_asset_check_evaluations()}


def test_rules_are_kept_from_the_file_to_the_store(lake: Lake) -> None:
    version = drawn(lake)
    found = kept_by_synthetic(lake, version)
    assert {kept.broken for kept in found} == {0}
    assert len(found) == len(RULES)
    replicate = lake.models.path(lake.models.resolve("model/independent", PARTITION), "replicates") / "replicate-0"
    assert (replicate / "constraints.json").is_file()


def test_a_rule_that_is_learned_under_belongs_to_the_model(lake: Lake, book: Book) -> None:
    """One that is redrawn belongs to the rows alone."""
    synthetic = drawn(lake)
    model = lake.models.resolve("model/independent", PARTITION)
    limit = {"left": "age", "op": "<=", "right": 99}
    book.cohort("tiny", source="clinic", generators={"independent": {}}, extra=written([*RULES, limit]))
    spec = load_book().cohorts["tiny"]
    assert moved_on(model, spec) == ""
    assert "constraints" in moved_on(synthetic, spec)
    book.cohort("tiny", source="clinic", generators={"independent": {}}, extra=written(RULES[1:]))
    assert "constraints" in moved_on(model, load_book().cohorts["tiny"])


def test_checks_on_real_and_synthetic_rows(lake: Lake, book: Book, instance: dg.DagsterInstance) -> None:
    version = drawn(lake)
    (held,) = checked(instance, "constraints_hold").values()
    assert held.passed
    assert held.blocking
    spoil(lake, version)
    (held,) = checked(instance, "constraints_hold").values()
    assert not held.passed
    assert held.description == "'total = drugs + tests + scans' is broken by 1 of 600 rows (0.17 %)"
    wrong = {"left": "age", "op": ">=", "right": 60}
    book.cohort("tiny", source="clinic", generators={"independent": {}}, extra=written([*RULES, wrong]))
    (kept,) = checked(instance, "constraints_kept").values()
    assert not kept.passed
    assert not kept.blocking
    assert "'age >= 60.0' is broken by" in str(kept.description)
    book.cohort("tiny", source="clinic", generators={"independent": {}}, extra=written([{"order": "ag <= height"}]))
    (kept,) = checked(instance, "constraints_kept").values()
    assert "Did you mean 'age'" in str(kept.description)


def test_the_commands(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    version = drawn(lake)
    check("tiny", as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["rows"] for row in rows] == ["real"] * len(RULES) + ["synthetic/independent"] * len(RULES)
    assert {row["broken"] for row in rows} == {0}
    spoil(lake, version)
    with pytest.raises(typer.Exit):
        check("tiny")
    assert "total = drugs + tests + scans" in capsys.readouterr().out
    suggest("tiny")
    assert '- {"sum": "total = drugs + tests + scans"}' in capsys.readouterr().out
    with pytest.raises(NotFoundError, match="no features"):
        check("other")


def test_suggestions_from_a_table(book: Book, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rule_tables import ward_cohort

    table = tmp_path / "ward.csv"
    frame = ward_cohort(400).table.to_pandas()
    frame[["drugs", "tests", "scans", "total"]].to_csv(table, index=False)
    suggest(str(table))
    assert '- {"sum": "total = drugs + tests + scans"}' in capsys.readouterr().out


def test_a_model_of_a_table_keeps_the_rules_of_a_file(book: Book, tmp_path: Path) -> None:
    """`suggest` prints what `fit` reads, and `sample` keeps it."""
    import pandas as pd
    from rule_tables import ward_cohort
    from typer.testing import CliRunner

    from assets.cli import app

    table, rules, model, out = (str(tmp_path / n) for n in ("ward.csv", "rules.yaml", "model", "drawn.csv"))
    frame = ward_cohort(400).table.to_pandas()[["drugs", "tests", "scans", "total", "age"]]
    frame.to_csv(table, index=False)
    asked = 'constraints: [{"sum": "total = drugs + tests + scans"}, {"left": "age", "op": ">=", "right": 40}]\n'
    (tmp_path / "rules.yaml").write_text(asked)
    done = CliRunner().invoke(app, ["fit", table, "-g", "independent", "--out", model, "--constraints", rules])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(app, ["sample", model, "-n", "300", "--out", out]).exit_code == 0
    drawn = pd.read_csv(out)
    assert (drawn["total"] == drawn["drugs"] + drawn["tests"] + drawn["scans"]).all()
    assert (drawn["age"] >= 40).all()
    (tmp_path / "rules.yaml").write_text("constraints: [{lft: a}]\n")
    wrong = CliRunner().invoke(app, ["fit", table, "-g", "independent", "--out", model, "--constraints", rules])
    assert isinstance(wrong.exception, ConfigError)
    assert "one of the keys" in str(wrong.exception)
