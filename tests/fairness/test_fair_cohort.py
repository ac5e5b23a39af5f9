"""Fairness asked for in a cohort's file and on the command line: read, drawn, recorded, shown, judged."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from biased_people import biased_people

from assets.cli import main
from assets.generation import _fairness_metadata
from pipeline.errors import ConfigError
from pipeline.fairness.sampling import fair_sample
from pipeline.features.fairness_spec import FairnessSpec
from pipeline.features.rows import ordered_rows
from pipeline.features.spec import load_book
from pipeline.features.stored import read_features, write_cohort
from pipeline.generators.registry import generator_class
from pipeline.store.lake import Lake
from pipeline.workflow.cell import Cell
from pipeline.workflow.compute import Compute
from pipeline.workflow.settings import moved_on
from pipeline.workflow.training import fit_step, sample_step

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.home import Home

MONTH = "2026-10-01"
COHORT = """\
source: clinic
unit: row
subject: row
sql: work.sql
tasks: [{name: hiring, label: hired}]
protected: [group]
evaluation: {profile: quick}
generators: {independent: {}, gaussian_copula: {calibration_steps: 0}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "cohorts"
    made.mkdir()
    monkeypatch.setattr("pipeline.features.spec.BUILT_IN_COHORTS", made)
    monkeypatch.delenv("COHORTLOOM_COHORTS", raising=False)
    (made / "sources.yaml").write_text("clinic: {format: table, dates: none, split_key: published}\n")
    (made / "work.sql").write_text("SELECT 1 AS group\n")
    return made


def written(folder: Path, section: str) -> None:
    (folder / "work.yaml").write_text(COHORT + section)


def lake_with_people(home: Home) -> Lake:
    lake = Lake(home)
    people = biased_people(1200)
    split = np.array(["train", "holdout"] * (people.n_rows // 2))
    with lake.tables.draft("features", {"cohort": "work", "month": MONTH}) as draft:
        write_cohort(replace(people, split=split, tune=np.zeros(people.n_rows, dtype=bool)), draft)
        draft.commit(info={"counts": {"subjects/train": people.n_rows // 2}})
    return lake


def test_a_cohort_that_asks_for_it_gets_fair_rows_and_an_account(folder: Path, home: Home) -> None:
    written(folder, "fairness: {notion: parity, generators: [gaussian_copula]}\n")
    lake, cell = lake_with_people(home), Cell.of(load_book(), "work", MONTH)
    versions = {}
    for name in ("independent", "gaussian_copula"):
        assert fit_step(lake, cell, name, Compute(device="cpu")).record.ok
        versions[name] = sample_step(lake, cell, name).version
    assert "fairness" not in versions["independent"].info
    account = versions["gaussian_copula"].info["fairness"][0]
    assert account["rows"] == 600
    assert account["label_gap_before"] > 0.1
    assert account["label_gap_after"] < 0.05
    rows = read_features(lake.tables, versions["gaussian_copula"])
    rate = [np.mean(rows.codes("hired")[rows.codes("group") == g] == 1) for g in (0, 1)]
    assert abs(rate[0] - rate[1]) < 0.02
    shown = _fairness_metadata([account])
    assert shown["fairness/lacking"] == 0
    # What was asked for belongs to what the rows depend on.
    written(folder, "fairness: {notion: none, generators: [gaussian_copula]}\n")
    changed = load_book().cohort("work")
    assert "fairness" in moved_on(versions["gaussian_copula"], changed)
    assert not moved_on(versions["independent"], changed)


def test_rows_of_a_private_model_are_drawn_without_a_look_at_real_ones(
    folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = "privacy: {trainings: {independent: {epsilon: 5.0}}}\nfairness: {generators: [independent]}\n"
    written(folder, section)
    lake, cell = lake_with_people(home), Cell.of(load_book(), "work", MONTH)
    assert fit_step(lake, cell, "independent", Compute(device="cpu")).record.ok

    def looked(*_: object) -> None:
        raise AssertionError("somebody read the real rows")

    monkeypatch.setattr("pipeline.workflow.training.read_whole", looked)
    made = sample_step(lake, cell, "independent")
    assert made.record.ok, made.record.reason
    assert made.version.info["fairness"][0]["shares"] == "model"
    written(folder, section.replace("{generators", "{shares: training, generators"))
    refused = sample_step(lake, Cell.of(load_book(), "work", MONTH), "independent").record
    assert not refused.ok
    assert "private model" in refused.reason


def test_a_group_with_two_members_is_a_record_with_the_reason(folder: Path, home: Home) -> None:
    written(folder, "fairness: {generators: [independent]}\n")
    lake, cell = lake_with_people(home), Cell.of(load_book(), "work", MONTH)
    features = lake.tables.resolve("features", cell.partition)
    whole = read_features(lake.tables, features)
    rare = (whole.codes("group") == 2) & (np.cumsum((whole.codes("group") == 2) & (whole.split == "train")) > 2)
    with lake.tables.draft("features", cell.partition) as draft:
        write_cohort(whole.take(~rare), draft)
        draft.commit(info={"counts": {}})
    assert fit_step(lake, cell, "independent", Compute(device="cpu")).record.ok
    made = sample_step(lake, cell, "independent")
    assert not made.record.ok
    assert "'group = c' has 2 rows among the training rows" in made.record.reason


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("fairness: {notion: paritty}\n", "notion"),
        ("fairness: {protect: [group]}\n", "Did you mean 'protected'"),
        ("fairness: {notion: equal_opportunity}\n", "aim: decisions"),
        ("fairness: {generators: [cart]}\n", "'cart' is named but not enabled"),
        ("fairness: {protected: [hired]}\n", "cannot be protected"),
    ],
)
def test_a_wrong_section_is_named(folder: Path, section: str, words: str) -> None:
    written(folder, section)
    assert words in load_book().broken["work"]


def test_a_column_that_the_sql_does_not_give_is_named(folder: Path) -> None:
    written(folder, "fairness: {protected: [group], strata: [twon]}\n")
    rows = biased_people(20).table
    with pytest.raises(ConfigError, match=r"does not give column 'twon'.*Did you mean 'town'"):
        ordered_rows(load_book().cohort("work"), rows)


def test_no_outcome_is_named(folder: Path) -> None:
    (folder / "work.yaml").write_text(
        COHORT.replace("tasks: [{name: hiring, label: hired}]\n", "") + "fairness: {notion: parity}\n"
    )
    assert "No outcome is named" in load_book().broken["work"]


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["cohortloom", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out + err


def test_the_command_line_from_a_table_to_fair_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    people = biased_people(900)
    pq.write_table(people.table.drop_columns(["person"]), tmp_path / "people.parquet")
    model, fair, out = tmp_path / "model", tmp_path / "fair.yaml", tmp_path / "rows.parquet"
    fair.write_text("fairness: {protected: [group], label: hired, privileged: {group: a}}\n")

    def call(*arguments: Any) -> tuple[int, str]:
        return command(monkeypatch, capsys, *arguments)

    code, said = call("fit", tmp_path / "people.parquet", "--generator", "gaussian_copula", "--out", model)
    assert code == 0, said
    code, said = call("sample", model, "-n", 400, "--fair", fair, "--out", out)
    assert code == 0, said
    assert "group = a" in said
    account = json.loads((tmp_path / "rows.fairness.json").read_text())
    assert account["rows"] == pq.read_table(out).num_rows == 400
    assert account["label_gap_after"] < account["label_gap_before"] / 3
    code, said = call("sample", model, "-n", 10, "--fair", fair, "--where", "group=a", "--out", out)
    assert code != 0
    assert "give one of them" in said
    fair.write_text("fairness: {protected: [score], label: hired}\n")
    code, said = call("sample", model, "-n", 10, "--fair", fair, "--out", out)
    assert code != 0
    assert "bins: {score: [40, 65]}" in said
    fair.write_text("fairness: {notion: parity}\n")
    code, said = call("sample", model, "-n", 10, "--fair", fair, "--out", out)
    assert code != 0
    assert "No outcome is named" in said
    # What a cohort's file says beside the section counts here too.
    fair.write_text("protected: [group]\ntasks: [{name: hiring, label: hired}]\nfairness: {privileged: {group: a}}\n")
    code, said = call("sample", model, "-n", 10, "--fair", fair, "--out", out)
    assert code == 0, said
    for wrong, words in (
        ("fairness: {protectd: [group], label: hired}\n", "Did you mean 'protected'?"),
        ("protected: [group]\n", "There is no section `fairness:`"),
        ("- fairness\n", "There is no section `fairness:`"),
        ("fairness: [\n", "fair.yaml:2: This is not valid YAML"),
        ("fairness: {protected: [group], label: hired, privileged: {group: A}}\n", "'group' has no level 'A'"),
    ):
        fair.write_text(wrong)
        code, said = call("sample", model, "-n", 10, "--fair", fair, "--out", out)
        assert code != 0
        assert words in said.replace("\n", " ")
    fair.write_text("fairness: {protected: [group], label: hired}\n")
    late = tmp_path / "late.parquet"
    code, said = call("sample", model, "-n", 10, "--fair", fair, "--out", late, "--meds", tmp_path / "meds")
    assert code != 0
    assert "come without visits" in said
    assert not late.exists(), "refused before a row is drawn"


def test_a_label_that_is_mostly_missing_is_told() -> None:
    people = biased_people(900)
    hidden = np.arange(people.n_rows) % 5 > 0
    hired = pa.array([None if h else v for h, v in zip(hidden, people.table["hired"].to_pylist(), strict=True)])
    place = people.table.column_names.index("hired")
    model = generator_class("bootstrap")()
    model.fit(replace(people, table=people.table.set_column(place, people.table.schema.field(place), hired)), seed=1)
    made = fair_sample(model, 300, seed=2, fairness=FairnessSpec(protected=["group"], label="hired"))
    assert any("label is missing in 8" in words for words in made.account.warnings)
