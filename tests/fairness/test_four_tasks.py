"""The benchmarks of several tasks and of proxies (`benchmarks/four_tasks.py`, `proxies.py`) on made-up people."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from biased_people import biased_people
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, mutual_info_score

from pipeline.errors import NotFoundError
from pipeline.features.evaluation_spec import TaskSpec
from pipeline.features.schema import Column

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import four_tasks
import proxies
from supporting.btgan_paper import TABLE_2, TABLE_4, printed
from supporting.fair_figures import People, figures, of_rows
from supporting.fair_systems import Bench, check_systems, drawn, settings_of
from supporting.proxy_figures import PROXY, information, natural_proxies, proxy_figures, with_proxy
from supporting.tables import Table
from supporting.task_rows import TaskStudy, TaskTable, read_studies, task_splits, task_table

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort

STUDY = TaskStudy(
    protected="group",
    groups=("a", "b"),
    subgroups=("group", "town"),
    derived={"long": "days > 5"},
    tasks={"staying": {"label": "long"}},
    paper={"promotion": "LOS > 7 days"},
)
DECLARED = [
    TaskSpec(name="promotion", label="promoted", positive=True, leak=["hired", "note", "days"]),
    TaskSpec(name="hiring", label="hired", positive=True, leak=["promoted", "note", "days"]),
]


def people(n: int = 1500, seed: int = 0) -> Cohort:
    """Two rows a person; who is hired is promoted, and a note that no task may see says so, as it has the days."""
    found = biased_people(n, seed)
    hired = np.array([x is True for x in found.table.column("hired").to_pylist()])
    table = found.table.append_column("promoted", pa.array(hired)).append_column("note", pa.array(hired))
    table = table.append_column("days", pa.array(np.random.default_rng(seed).poisson(5, n)))
    more = [Column(name=name, kind="binary", dtype="bool", levels=[False, True]) for name in ("promoted", "note")]
    more.append(Column(name="days", kind="count", dtype="int64", bounds=(0, 100)))
    schema = found.schema.model_copy(update={"columns": [*found.schema.columns, *more]})
    kept = [name for name in table.column_names if name != "person"]
    columns = [schema.column(name) for name in kept]
    subject = np.array([f"p{i // 2}" for i in range(n)])
    return replace(
        found, table=table.select(kept), schema=schema.model_copy(update={"columns": columns}), subject=subject
    )


@pytest.fixture(scope="module")
def whole() -> TaskTable:
    return task_table("made_up", STUDY, Table(people(), {}, "visit"), DECLARED)


def test_no_task_sees_another_outcome_and_the_table_has_nothing_that_none_may_see(whole: TaskTable) -> None:
    assert "note" not in whole.table.cohort.schema.names
    assert "days" not in whole.table.cohort.schema.names
    assert {"score", "town"} <= set(whole.table.cohort.schema.names)
    assert {t.name: (t.label, sorted(t.leak)) for t in whole.tasks} == {
        "promotion": ("promoted", ["hired", "long"]),
        "hiring": ("hired", ["long", "promoted"]),
        "staying": ("long", ["hired", "promoted"]),
    }
    before = people()
    assert set(whole.table.cohort.table.column("group").to_pylist()) == {"a", "b"}
    kept = [i for i, g in enumerate(before.table.column("group").to_pylist()) if g in ("a", "b")]
    days = np.array(before.table.column("days").to_pylist())[kept]
    assert whole.table.cohort.table.column("long").to_pylist() == (days > 5).tolist()
    assert whole.table.cohort.subject.tolist() == before.subject[kept].tolist()


def test_an_outcome_made_of_a_column_that_tasks_see_is_refused() -> None:
    seen = [t.model_copy(update={"leak": [n for n in t.leak if n != "days"]}) for t in DECLARED]
    with pytest.raises(ValueError, match="'long' is made of 'days'"):
        task_table("made_up", STUDY, Table(people(100), {}, "visit"), seen)


def test_patients_are_on_one_side_and_whoever_is_not_learned_from_is_tested(whole: TaskTable) -> None:
    all_of_them = whole.table.cohort.n_rows
    for most, share in ((None, 0.7), (300, 300 / all_of_them)):
        splits = task_splits(whole, 3, most)
        assert [s.task.name for s in splits] == ["promotion", "hiring", "staying"]
        train, holdout = splits[0].train, splits[0].holdout
        assert not set(train.subject) & set(holdout.subject)
        assert train.n_rows + holdout.n_rows == all_of_them
        assert train.n_rows == pytest.approx(share * all_of_them, rel=0.05)
        assert all(s.train is train for s in splits)
    other = task_splits(whole, 4, 300)[0]
    assert set(other.train.subject) != set(train.subject)


def test_a_model_of_one_task_gains_nothing_from_another_outcome(whole: TaskTable) -> None:
    """Who is hired is promoted: a model that saw it would be right of everybody."""
    split = next(s for s in task_splits(whole, 0) if s.task.name == "promotion")
    for model in ("lr", "hgb"):
        assert figures(*_scored(split, model))["auroc"] < 0.92
    open_split = replace(split, task=split.task.model_copy(update={"leak": []}))
    assert figures(*_scored(open_split, "hgb"))["auroc"] > 0.97


def _scored(split: object, model: str) -> tuple[People, np.ndarray]:
    bench = Bench(split, 0, model)
    return bench.people, bench.scores(split.train)


def test_figures_at_a_half_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, group, scores = rng.random(400) < 0.3, rng.integers(0, 2, 400), rng.random(400)
    scores = np.clip(scores + 0.3 * truth, 0, 1)
    found = figures(People(np.arange(400), truth, group), scores)
    assert found["accuracy_half"] == pytest.approx(accuracy_score(truth, scores >= 0.5))
    assert found["f1_half"] == pytest.approx(f1_score(truth, scores >= 0.5))
    assert found["auprc"] == pytest.approx(average_precision_score(truth, scores))
    assert found["precision"] == pytest.approx(found["recall"])


def test_what_cannot_be_told_of_a_group_is_left_out() -> None:
    truth, group = np.array([True, False, True, False, False]), np.array([0, 0, 0, 0, 1])
    found = figures(People(np.arange(5), truth, group), np.array([0.9, 0.2, 0.6, 0.4, 0.1]))
    assert {"auroc_gap", "opportunity_gap", "odds_gap"}.isdisjoint(found)
    assert found["auroc"] == found["f1_half"] == 1.0
    nobody = figures(People(np.arange(4), np.zeros(4, dtype=bool), group[:4]), np.full(4, 0.1))
    assert "auroc" not in nobody
    assert nobody["accuracy_half"] == 1.0


def test_cells_hold_every_model_and_fair_labels_do_not_leak(whole: TaskTable) -> None:
    split = next(s for s in task_splits(whole, 0) if s.task.name == "hiring")
    bench = Bench(split, 0, "lr")
    plain, fair = (four_tasks.cell_of(bench, system, ("lr", "hgb")) for system in ("cart", "cart+labels"))
    assert {"lr", "hgb", "rows", "people", "cpu_s"} == set(plain)
    assert fair["rows"]["leak_data"] < 0.51
    assert plain["rows"]["leak_data"] > 0.55
    assert abs(fair["lr"]["parity_gap"]) < abs(plain["lr"]["parity_gap"])
    assert sum(map(sum, plain["people"]["test"])) == len(bench.people.rows)
    assert plain["people"]["train"] == split.train.n_rows


def test_a_generator_that_needs_no_label_is_trained_once_for_all_tasks(whole: TaskTable) -> None:
    fitted: dict[tuple[str, str], object] = {}
    settings = {"bt_gan": {"preset": "quick", "steps": 4}}
    for split in task_splits(whole, 0, 300)[:2]:
        bench = Bench(split, 0, "lr", fitted, settings)
        for name in ("cart", "bt_gan"):
            assert bench.generator(name) is bench.generator(name)
    assert set(fitted) == {("cart", ""), ("bt_gan", "promoted"), ("bt_gan", "hired")}
    assert fitted["bt_gan", "hired"].config.label == "hired"
    assert tuple(fitted["bt_gan", "hired"].config.protected) == ("group",)


def test_systems_are_checked_before_anything_is_computed() -> None:
    check_systems(["real", "cart", "cart+labels", "bt_gan"])
    with pytest.raises(NotFoundError, match="bt_gam"):
        check_systems(["real", "bt_gam"])
    with pytest.raises(ValueError, match="labells"):
        check_systems(["cart+labells"])
    assert settings_of(["real", "cart+labels", "bt_gan"], 7) == {"bt_gan": {"steps": 7}}
    assert settings_of(["bt_gan"], None) == {}


def test_a_refusal_is_kept_in_words_and_printed_under_the_table(whole: TaskTable) -> None:
    """One group alone is left to learn from: there is nobody to be fair to."""
    split = next(s for s in task_splits(whole, 0) if s.task.name == "promotion")
    alone = np.flatnonzero(np.array(split.train.table.column("group").to_pylist()) == "a")
    bench = Bench(replace(split, train=split.train.take(alone)), 0, "lr")
    found = {system: [four_tasks.cell_of(bench, system, ("lr",))] for system in ("real", "cart+labels")}
    assert "one group only" in found["cart+labels"][0]["refused"]
    lines = four_tasks.table_lines(STUDY, "promotion", "lr", found)
    assert "one group only" in lines[-1]
    (row,) = (line for line in lines if line.startswith("| `cart+labels`"))
    assert row.count(" - |") == len(four_tasks.SHOWN)
    assert any(line.startswith("| paper, Bt-GAN | - | 0.884 ") for line in lines)


def test_too_few_people_are_said_and_no_gap_of_theirs_is_shown(whole: TaskTable) -> None:
    few = replace(whole, table=replace(whole.table, cohort=whole.table.cohort.take(np.arange(120))))
    bench = Bench(next(s for s in task_splits(few, 0) if s.task.name == "hiring"), 0, "lr")
    found = {"real": [four_tasks.cell_of(bench, "real", ("lr",))]}
    text = "\n".join(four_tasks.table_lines(STUDY, "hiring", "lr", found))
    assert "Underpowered" in text
    assert "fewer than 11" in text
    row = text.splitlines()[-1].split(" | ")
    shown = dict(zip(four_tasks.SHOWN, (cell.strip(" |") for cell in row[2:]), strict=True))
    assert shown["auroc"] != "-"
    assert {shown[key] for key in four_tasks.OF_GROUPS} == {"-"}


def test_what_is_kept_is_not_computed_again(
    whole: TaskTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = tuple(t.model_copy(update={"name": new}) for t, new in zip(whole.tasks, ("death", "x", "y"), strict=True))
    table = replace(whole, tasks=named)
    monkeypatch.setattr(four_tasks, "read_task_table", lambda name: table)
    cells = tmp_path / "cells.jsonl"
    arguments = ["four_tasks.py", "--data", "support2", "--tasks", "death", "--systems", "real", "--models", "lr"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--seeds", "2", "--cells", str(cells)])
    four_tasks.main()
    first = capsys.readouterr().out
    assert "| `real` | 2 |" in first
    assert len(cells.read_text().splitlines()) == 2
    monkeypatch.setattr(four_tasks, "read_task_table", lambda name: pytest.fail("read again"))
    four_tasks.main()
    assert capsys.readouterr().out == first


def test_the_papers_figures_are_under_the_names_of_ours() -> None:
    assert set(TABLE_2) == set(TABLE_4)
    found = printed("in-ICU mortality", "lr")
    assert found["Bt-GAN"] == pytest.approx(
        {"accuracy_half": 0.915, "f1_half": 0.347, "auroc_gap": 0.012, "parity_gap_half": 0.0, "leak_data": 0.499, "leak_model": 0.4831}
    )  # fmt: skip
    assert set(found["Bt-GAN-"]) == {"leak_data", "leak_model"}
    assert set(printed("LOS > 7 days", "rf")["real"]) == {"accuracy_half", "f1_half"}
    assert printed("LOS > 7 days", "hgb") == {}
    assert {paper for study in read_studies().values() for paper in study.paper.values()} <= set(TABLE_2)


def test_the_made_up_proxy_agrees_and_its_information_is_counted(whole: TaskTable) -> None:
    split = with_proxy(next(s for s in task_splits(whole, 0) if s.task.name == "hiring"), 0)
    for cohort in (split.train, split.holdout):
        people_ = People.of(split, cohort)
        assert (cohort.codes(PROXY)[people_.rows] == people_.group).mean() == pytest.approx(0.95, abs=0.03)
    natural = natural_proxies(split, 1)
    assert natural == ["town"]
    found = proxy_figures(split, split.train, natural)
    people_ = People.of(split, split.train)
    proxy = split.train.codes(PROXY)[people_.rows]
    bits = mutual_info_score(people_.group, proxy) / np.log(2)
    assert found["bits_group_proxy"] == pytest.approx(bits, abs=0.002)
    assert found["corr_group_proxy"] == pytest.approx(np.corrcoef(people_.group, proxy)[0, 1])
    assert found["corr_group_proxy"] > 0.8
    assert found["bits_group_natural"] > 0.1
    a, b = np.random.default_rng(0).integers(0, 4, (2, 20_000))
    assert abs(information(a, b)) < 0.001
    assert information(a, a) == pytest.approx(2, abs=0.01)


def test_fair_labels_keep_the_proxy_and_cut_it_from_the_outcome(whole: TaskTable) -> None:
    split = with_proxy(next(s for s in task_splits(whole, 0) if s.task.name == "hiring"), 0)
    bench = Bench(split, 0, "hgb")
    real, fair = (proxies.cell_of(bench, system, ["town"]) for system in ("real", "cart+labels"))
    assert abs(real["corr_proxy_outcome"]) > 0.15
    assert abs(fair["corr_proxy_outcome"]) < 0.06
    assert abs(fair["corr_group_proxy"]) > 0.8
    assert set(proxies.SHOWN) <= set(fair)
    weighted = proxy_figures(split, drawn(bench, "kamiran_calders").as_often, [])
    assert abs(weighted["corr_group_outcome"]) < 0.02 < abs(of_rows(split, split.train)["label_gap"])
    text = "\n".join(proxies.table_lines("made up", {"real": [real], "cart+labels": [fair]}, 300))
    assert "| `cart+labels` | 1 | " in text
    assert "Real proxies, 3 a seed: town." in text


def test_a_data_set_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="support2/TASK"):
        proxies.split_of("atlantis", 0, None)
