"""`sweep/<g>` in the graph: every epsilon judged and charged, kept where it was stopped, refused where it must be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from made_up import MONTH, Book

from assets.cli import sweep as cli
from assets.cli.display import show
from assets.run import sweep
from assets.sweep import rows_of
from pipeline.errors import ConfigError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, TableSchema
from pipeline.features.spec import load_book
from pipeline.features.stored import write_cohort
from pipeline.privacy.ledger import Ledger
from pipeline.store.lake import Lake
from pipeline.workflow.cell import Cell
from pipeline.workflow.compute import Compute
from pipeline.workflow.judging import HOLDOUT_ACCESS, references_step
from pipeline.workflow.sweep import POINT, at_epsilon, sweep_step
from pipeline.workflow.training import fit_step

if TYPE_CHECKING:
    import dagster as dg

    from pipeline.store.home import Home
    from pipeline.workflow.sweep import Swept

CELL = {"cohort": "tiny", "month": MONTH}
GENERATORS = {"independent": {}, "bootstrap": {}}


def made_up(n: int = 1200) -> Cohort:
    """Age, sex and death; half of the rows are training rows."""
    rng = np.random.default_rng(0)
    schema = TableSchema(
        columns=[
            Column(name="age", kind="continuous", dtype="float64", bounds=(0, 120)),
            Column(name="sex", kind="binary", dtype="string", levels=["female", "male"]),
            Column(name="died", kind="binary", dtype="int64", levels=[0, 1]),
        ]
    )
    age = np.round(rng.normal(60, 12, n), 1)
    cells = {"age": age, "sex": rng.integers(0, 2, n), "died": (rng.random(n) < age / 150).astype(int)}
    cohort = assemble(schema, cells)
    return replace(cohort, split=np.array(["train", "holdout", "train", "reference0"])[np.arange(n) % 4])


@pytest.fixture
def lake(home: Home, book: Book, few_metrics: None) -> Lake:
    book.cohort("tiny", source="clinic", generators=GENERATORS)
    made = Lake(home)
    with made.tables.draft("features", CELL) as draft:
        write_cohort(made_up(), draft)
        draft.commit(info={"counts": {"subjects/train": 600}})
    references_step(made, cell(), device="cpu")
    return made


def cell() -> Cell:
    return Cell.of(load_book(), **CELL)


def swept(lake: Lake, *epsilons: float, seeds: int = 2, here: Cell | None = None) -> Swept:
    return sweep_step(lake, here or cell(), "independent", Compute(device="cpu"), epsilons=epsilons, seeds=seeds)


def charged(lake: Lake) -> float:
    return Ledger(lake.journal, "tiny").total().epsilon


def test_the_asset_judges_every_epsilon_and_leaves_a_page(lake: Lake, instance: dg.DagsterInstance) -> None:
    said: list[str] = []
    asked = {"epsilons": ["0.05", "5", "inf"], "seeds": 2}
    outcome = sweep("tiny", MONTH, "independent", asked, instance, on_event=said.append)
    assert outcome.success, outcome
    assert [line for line in said if line.startswith("epsilon 0.05 (1 of 3): done")]
    version = lake.tables.resolve("sweep/independent", CELL)
    table = lake.tables.read(version)
    rows = rows_of(table, version.info)
    assert [row["epsilon"] for row in rows] == ["0.05", "5", "inf"]
    jsd = [row["JSD of columns"] for row in rows]
    assert jsd[0] > 1.5 * jsd[2], "noise must cost something"
    assert set(table.column("replicate").to_pylist()) == {-1, 0, 1}
    spent = dict(zip(table.column("epsilon").to_pylist(), table.column("spent_epsilon").to_pylist(), strict=True))
    assert spent[math.inf] == math.inf
    assert 0 < spent[0.05] <= 0.05
    page = lake.reports.path(lake.reports.resolve("sweep/independent", CELL), "sweep.html").read_text()
    assert "epsilon ∞" in page
    assert "2 trainings an epsilon" in page


def test_every_point_is_charged_once_and_kept(lake: Lake) -> None:
    first = swept(lake, 1.0, 2.0)
    assert [point.record.reason for point in first.points] == ["", ""]
    assert charged(lake) == pytest.approx(2 * (1.0 + 2.0))
    again = swept(lake, 1.0, 2.0, 4.0)
    assert [point.kept for point in again.points] == [True, True, False]
    assert charged(lake) == pytest.approx(2 * (1.0 + 2.0 + 4.0))
    assert again.points[0].results == first.points[0].results
    looks = [entry for entry in lake.journal.entries(HOLDOUT_ACCESS) if "sweep_epsilon" in entry]
    assert sorted(entry["sweep_epsilon"] for entry in looks) == ["1.0", "2.0", "4.0"]
    assert not list(lake.home.spill.glob("spill-sweep-*")), "no model of a sweep is kept"


def test_the_point_that_the_cohort_asks_for_anyway_costs_nothing_more(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a key that nobody else knows gives the same noise again; with the published one it is fresh, and costs.
    monkeypatch.setenv("COHORTLOOM_SPLIT_KEY", "a key of this house alone")
    here = at_epsilon(cell(), "independent", 3.0, 2)
    assert fit_step(lake, here, "independent", Compute(device="cpu")).record.ok
    assert charged(lake) == pytest.approx(6.0)
    swept(lake, 3.0, here=here)
    assert charged(lake) == pytest.approx(6.0)


def test_a_budget_stops_the_points_that_are_beyond_it(lake: Lake, book: Book) -> None:
    book.cohort("tiny", source="clinic", generators=GENERATORS, extra="privacy: {budget: {epsilon: 3, delta: 0.001}}\n")
    found = swept(lake, 1.0, 2.0, math.inf)
    assert [point.record.ok for point in found.points] == [True, False, False]
    assert "may spend" in found.points[1].record.reason
    assert charged(lake) == pytest.approx(2.0)
    assert list(found.version.info["failed"]) == ["2.0", "inf"]
    table = lake.tables.read(found.version)
    rows = rows_of(table, found.version.info)
    assert [row["gave nothing"] for row in rows] == [None, found.points[1].record.reason, found.points[2].record.reason]
    assert rows[0].keys() == rows[1].keys(), "a table has one head"
    show(rows, title="", as_json=False, empty="")


def test_trainings_whose_rows_cannot_be_drawn_are_paid_for(lake: Lake, book: Book) -> None:
    rule = "constraints: [{where: 'age > 119'}]\n"
    book.cohort("tiny", source="clinic", generators=GENERATORS, extra=rule)
    (point,) = swept(lake, 1.0).points
    assert "still break a rule" in point.record.reason
    assert charged(lake) == pytest.approx(2.0), "the models were made, and their failure says something of people"
    assert [spend.state for spend in Ledger(lake.journal, "tiny").spends()] == ["complete"]


def test_new_features_make_every_point_anew(lake: Lake) -> None:
    swept(lake, 1.0)
    with lake.tables.draft("features", CELL) as draft:
        write_cohort(made_up(1600), draft)
        draft.commit(info={"counts": {"subjects/train": 800}})
    references_step(lake, cell(), device="cpu")
    assert [point.kept for point in swept(lake, 1.0).points] == [False]
    assert len(lake.tables.history(f"{POINT}/independent", {**CELL, "epsilon": "1.0"})) == 2


@pytest.mark.parametrize(
    ("generator", "epsilons", "words"),
    [
        ("bootstrap", [1.0], "cannot train with differential privacy"),
        ("vae", [1.0], "does not enable"),
        ("independent", [0.0], "above 0"),
        ("independent", [math.nan], "above 0"),
        ("independent", [], "above 0"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_words(
    lake: Lake, generator: str, epsilons: list[float], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        sweep_step(lake, cell(), generator, Compute(device="cpu"), epsilons=epsilons)


def test_the_command_refuses_before_a_run_begins(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "evaluated_month", lambda *_: MONTH)
    for generator, epsilons, words in (
        ("bootstrap", "1", "cannot train with differential privacy"),
        ("independent", "1,-1", "above 0"),
        ("independent", "one", "is no number"),
    ):
        with pytest.raises(ConfigError, match=words):
            cli.sweep("tiny", generator, epsilons)
