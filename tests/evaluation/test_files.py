"""Any two or three files: bad synthetic tables give values or reasons, never a traceback and never NaN."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from toy_people import people

from pipeline.errors import ConfigError, InputError, NotFoundError
from pipeline.evaluation.files import JudgedFiles, PlanFile, evaluate_files, read_plan
from pipeline.evaluation.intake import take_in_rows
from pipeline.evaluation.protocol import headline
from pipeline.features.evaluation_spec import EvaluationSpec, TaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ASKED = PlanFile(
    tasks=[TaskSpec(name="died", label="died", leak=["discharge"])],
    protected=["sex"],
    evaluation=EvaluationSpec(profile="quick"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    for name, n, seed in (("train", 320, 1), ("holdout", 260, 2), ("synthetic", 300, 3)):
        frame(people(n, seed)).to_csv(made / f"{name}.csv", index=False)
    return made


def frame(cohort: object) -> pd.DataFrame:
    return cohort.table.drop_columns(["id"]).to_pandas()


def judge(
    folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], asked: PlanFile = ASKED, **more: object
) -> JudgedFiles:
    changed = folder / "changed.csv"
    change(pd.read_csv(folder / "synthetic.csv")).to_csv(changed, index=False)
    given = {"train": folder / "train.csv", "holdout": folder / "holdout.csv", **more}
    judged = evaluate_files(**given, synthetic=[changed], out=folder / "out", asked=asked)
    for row in judged.results:
        for value in (row.value, row.ci_lo, row.ci_hi, row.se, row.null_value, row.score):
            assert value is None or math.isfinite(value) or abs(value) == math.inf, row
            assert value is None or not math.isnan(value), row
        assert row.value is not None or row.note, f"{row.metric} has neither a value nor a reason"
    for rule in judged.verdict.rules:
        assert rule.value is None or not math.isnan(rule.value), rule
    return judged


def untidy(d: pd.DataFrame) -> pd.DataFrame:
    """Missing, extra and reordered columns, other types, unseen levels, constant and empty columns, infinities."""
    d = d.drop(columns=["stage"])
    d["extra"] = 1
    d["age"] = d["age"].astype(str)
    d.loc[:4, "age"] = "ninety"
    d.loc[:9, "ward"] = "an unseen ward"
    d["lab_c"] = np.nan
    d["visits"] = 3
    d.loc[3, "pressure"] = np.inf
    return d[d.columns[::-1]]


def test_an_untidy_table_is_judged_and_told(folder: Path) -> None:
    judged = judge(folder, untidy)
    told = " ".join(judged.notes)
    assert "'stage' is lacking" in told
    assert "'extra' is not in the training rows" in told
    assert "'age': 5 cells are no number" in told
    assert "'pressure': 1 cells are no number" in told
    assert "ninety" not in told, "no cell is told"
    assert headline(judged.results, "schema.adherence").value == 0
    assert headline(judged.results, "fid.marg.jsd").value > 0.1
    assert judged.verdict.status == "fail"
    assert judged.report.is_file()
    assert judged.public_report.is_file()


def test_a_label_with_one_class(folder: Path) -> None:
    judged = judge(folder, lambda d: d.assign(died=True))
    row = headline(judged.results, "util.tstr_auroc", key1="died")
    assert row.value == 0.5
    assert "one class" in row.note


def test_one_row(folder: Path) -> None:
    assert judge(folder, lambda d: d.head(1)).verdict.status == "fail"


def test_a_group_of_three(folder: Path) -> None:
    def three(d: pd.DataFrame) -> pd.DataFrame:
        d["sex"] = "male"
        d.loc[:2, "sex"] = "female"
        return d

    assert judge(folder, three).verdict.status == "fail"


def test_without_a_holdout_privacy_is_not_judged(folder: Path) -> None:
    judged = judge(folder, lambda d: d, holdout=None)
    assert headline(judged.results, "fid.marg.jsd").value < 0.1
    row = headline(judged.results, "priv.mia.max_auc")
    assert row.value is None
    assert "no holdout" in row.note
    assert judged.verdict.only("privacy").status == "fail"
    assert [r.name for r in judged.verdict.rules if "no figure" in r.words] == []
    assert "privacy cannot be judged" in judged.notes[0]


def test_what_cannot_be_judged_is_said_in_words(folder: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        judge(folder, lambda d: d.head(0))
    with pytest.raises(InputError, match="none of the columns"):
        judge(folder, lambda d: d.rename(columns=lambda name: f"{name}2"))
    with pytest.raises(NotFoundError):
        evaluate_files(
            train=folder / "train.csv",
            holdout=folder / "holdout.csv",
            synthetic=[folder / "none.csv"],
            out=folder / "out",
        )
    pd.read_csv(folder / "holdout.csv").drop(columns=["age"]).to_csv(folder / "short.csv", index=False)
    with pytest.raises(InputError, match="lacks 1 columns"):
        judge(folder, lambda d: d, holdout=folder / "short.csv")
    with pytest.raises(ConfigError, match="two values"):
        judge(folder, lambda d: d, PlanFile(tasks=[TaskSpec(name="stage", label="stage")]))


def test_duplicate_names_take_the_first() -> None:
    import pyarrow as pa

    schema = people(50, 1).schema
    table = frame(people(50, 2))
    twice = pa.Table.from_arrays(
        [*(pa.array(table[c]) for c in table.columns), pa.array(["x"] * 50)], names=[*table.columns, "age"]
    )
    taken = take_in_rows(twice, schema)
    assert any("more than once" in note for note in taken.notes)
    assert taken.cohort.table.column("age").to_pylist() == table["age"].tolist()


def test_a_table_of_other_columns_may_be_the_wrong_file() -> None:
    cohort = people(30, 1)
    assert "is it the right file?" in take_in_rows(cohort.table.select(["age", "sex"]), cohort.schema).notes[0]
    most = cohort.table.drop_columns(["id", "age"])
    assert not any("right file" in note for note in take_in_rows(most, cohort.schema).notes)


def test_a_plan_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("protected: [sex]\nevaluation: {profile: quick, secrets: [lab_a]}\ngate: {mia_auc_max: 0.52}\n")
    plan = read_plan(path)
    assert plan.evaluation.secrets == ["lab_a"]
    assert plan.gate.mia_auc_max == 0.52
    path.write_text("gate: {mia_auc: 0.5}\n")
    with pytest.raises(ConfigError, match=r"gate\.mia_auc"):
        read_plan(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="not a valid plan"):
        read_plan(path)
    with pytest.raises(NotFoundError):
        read_plan(tmp_path / "no.yaml")


def test_a_holdout_of_training_people_is_no_holdout(folder: Path) -> None:
    with pytest.raises(InputError, match="nobody there is a stranger"):
        judge(folder, lambda d: d, holdout=folder / "train.csv")


def test_people_of_both_files_are_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    for name, first in (("train", 0), ("holdout", 280)):
        rows = pd.read_csv(folder / f"{name}.csv")
        rows.insert(0, "pid", [f"P{first + i:04d}" for i in range(len(rows))])
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    asked = PlanFile(evaluation=EvaluationSpec(profile="quick"))
    judged = evaluate_files(
        train=tmp_path / "train.csv",
        holdout=tmp_path / "holdout.csv",
        synthetic=[folder / "synthetic.csv"],
        out=tmp_path / "out",
        asked=asked,
        subject="pid",
    )
    assert "40 holdout subjects (40 rows) were in training too and are left out." in judged.notes
