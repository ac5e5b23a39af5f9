"""`tuning/<g>` in the graph: its study, its best settings in the model, its refusals, and the rows it never sees."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pytest
from made_up import MONTH, Book

from assets.definitions import build_defs
from assets.partitions import cohort_month_key
from assets.run import _execute, tune
from pipeline.errors import NotFoundError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, TableSchema
from pipeline.features.spec import load_book
from pipeline.features.stored import write_cohort
from pipeline.privacy.ledger import Ledger
from pipeline.store.lake import Lake
from pipeline.workflow.cell import Cell
from pipeline.workflow.compute import Compute
from pipeline.workflow.record import Record
from pipeline.workflow.training import fit_step
from pipeline.workflow.tuned import tuned_settings, tuning_moved
from pipeline.workflow.tuning import tune_step

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.home import Home
    from pipeline.store.lake import Version
    from pipeline.workflow.tuning import Tuning

CELL = {"cohort": "tiny", "month": MONTH}
COPULA = {"gaussian_copula": {"calibration_steps": 0}}
TUNED = "tuning: {gaussian_copula: {trials: 4, only: [shrinkage, nominal_order]}}\n"


@pytest.fixture
def lake(home: Home, book: Book) -> Lake:
    """Features of `tiny`: 900 made-up rows, 90 of them tuning rows."""
    book.cohort("tiny", source="clinic", generators=COPULA, extra=TUNED)
    book.cohort("other", source="ward", generators={"gaussian_copula": {}})
    made = Lake(home)
    store(made, made_up(), CELL)
    return made


def made_up(seed: int = 0) -> Cohort:
    """Age, sex, lactate and death with dependence; half of the rows are training rows, and a fifth of those tuning rows."""
    rng = np.random.default_rng(seed)
    n = 900
    age = np.round(rng.normal(60, 12, n), 1)
    lactate = np.round(np.exp(rng.normal(0.3 + 0.02 * (age - 60), 0.4)), 2)
    schema = TableSchema(
        columns=[
            Column(name="age", kind="continuous", dtype="float64"),
            Column(name="sex", kind="binary", dtype="string", levels=["female", "male"]),
            Column(name="lactate", kind="continuous", dtype="float64"),
            Column(name="died", kind="binary", dtype="int64", levels=[0, 1]),
        ]
    )
    cells = {
        "age": age,
        "sex": rng.integers(0, 2, n),
        "lactate": lactate,
        "died": (rng.random(n) < 1 / (1 + np.exp(3 - 2 * lactate))).astype(int),
    }
    split = np.array(["train", "holdout", "train", "reference0"])[np.arange(n) % 4]
    return replace(assemble(schema, cells), split=split, tune=np.arange(n) % 10 == 0)


def store(lake: Lake, cohort: Cohort, cell: dict[str, str]) -> None:
    """As the features of a cell; tuning rows outside of train are none."""
    assert cohort.split is not None
    assert cohort.tune is not None
    whole = replace(cohort, tune=cohort.tune & (cohort.split == "train"))
    with lake.tables.draft("features", cell) as draft:
        write_cohort(whole, draft)
        draft.commit()


def model(lake: Lake) -> Version:
    return fit_step(lake, cell(), "gaussian_copula", Compute(device="cpu")).version


def tuned(lake: Lake, generator: str = "gaussian_copula", cohort: str = "tiny", **overrides: Any) -> Tuning:
    here = Cell.of(load_book(), cohort, MONTH)
    return tune_step(lake, here, generator, Compute(device="cpu"), overrides=overrides)


def cell() -> Cell:
    return Cell.of(load_book(), **CELL)


def trials(lake: Lake) -> list[dict[str, Any]]:
    return lake.tables.read(lake.tables.resolve("tuning/gaussian_copula", CELL)).to_pylist()


def test_a_model_takes_the_best_settings_and_says_whose(lake: Lake, instance: dg.DagsterInstance) -> None:
    said: list[str] = []
    before = model(lake)
    assert Record.of(before).status == "failed"
    assert "there is no tuning of 'tiny'" in before.info["reason"]

    outcome = tune("tiny", MONTH, "gaussian_copula", {}, instance, on_event=said.append)
    assert outcome.success, outcome
    assert [line for line in said if line.startswith("trial 4 of 4: ")]
    version = lake.tables.resolve("tuning/gaussian_copula", CELL)
    rows = trials(lake)
    best = min(rows, key=lambda row: row["value"])
    assert len(rows) == 4
    assert json.loads(rows[0]["settings"]) == {"shrinkage": 0.01, "nominal_order": "ca"}
    assert version.info["best"]["settings"] == json.loads(best["settings"])
    assert version.info["start"] == rows[0]["value"]
    features = lake.tables.resolve("features", CELL)
    assert version.inputs == {features.label: features.sha256}
    record = instance.fetch_materializations(dg.AssetKey(["tuning", "gaussian_copula"]), limit=1).records[0]
    shown = record.asset_materialization.metadata
    assert {"trials", "best_value", "start_value", "floor_value", "best_settings", "best_trials", "history"} <= set(
        shown
    )

    keys = [dg.AssetKey(["model", "gaussian_copula"])]
    assert _execute("cohort_month", cohort_month_key("tiny", MONTH), keys, instance, None).success
    made = lake.models.resolve("model/gaussian_copula", CELL)
    assert Record.of(made).ok
    assert made.inputs[version.label] == version.sha256
    assert made.info["tuned"] == {"from": version.label, "settings": version.info["best"]["settings"]}
    assert made.info["overrides"] == {}
    saved = json.loads(lake.models.path(made, "replicates/replicate-0/model.json").read_text(encoding="utf-8"))
    assert saved["config"]["shrinkage"] == version.info["best"]["settings"]["shrinkage"]
    assert saved["config"]["calibration_steps"] == 0, "what the file sets is never searched"
    assert tuning_moved(lake, cell(), made) == ""
    later = Cell.of(load_book(), "tiny", "2026-11-01")
    assert tuned_settings(lake, later, "gaussian_copula").inputs == {version.label: version.sha256}
    with pytest.raises(NotFoundError, match="no tuning of 'tiny' by 2026-09"):
        tuned_settings(lake, Cell.of(load_book(), "tiny", "2026-09-01"), "gaussian_copula")

    assert tuned(lake, trials=6).kept == 4
    assert [row["value"] for row in trials(lake)][:4] == [row["value"] for row in rows]
    assert tuning_moved(lake, cell(), made) == "there is another tuning since"


def test_a_cohort_that_does_not_ask_is_left_alone(lake: Lake, book: Book) -> None:
    book.cohort("tiny", source="clinic", generators=COPULA)
    plain = model(lake)
    assert tuned(lake, trials=2).record.ok
    assert model(lake).sha256 == plain.sha256
    assert "tuned" not in plain.info
    assert tuning_moved(lake, cell(), plain) == ""
    book.cohort(
        "tiny",
        source="clinic",
        generators={"gaussian_copula": {"shrinkage": 0.2}},
        extra="tuning: {gaussian_copula: {}}\n",
    )
    assert "shrinkage" not in model(lake).info["tuned"]["settings"], "the file wins"


def test_the_holdout_cannot_reach_a_trial(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows but the training ones are replaced: the same trials; one tuning row's values: others. Only train is asked for."""
    asked: list[tuple[str, ...]] = []
    part = Cohort.part

    def watched(self: Cohort, *parts: Any) -> Cohort:
        asked.append(parts)
        return part(self, *parts)

    monkeypatch.setattr(Cohort, "part", watched)

    def tried() -> list[dict[str, Any]]:
        assert tuned(lake).record.ok
        return trials(lake)

    whole = made_up()
    assert whole.split is not None
    assert whole.tune is not None
    inside, outside = np.flatnonzero(whole.split == "train"), np.flatnonzero(whole.split != "train")
    tuning = inside[whole.tune[inside]]

    def swapped(rows: np.ndarray) -> Cohort:
        """All of these rows have the cells of the first of them; ids and split stay."""
        order = np.arange(whole.n_rows)
        order[rows] = rows[0]
        return replace(whole, table=whole.table.take(order))

    first, features = tried(), lake.tables.resolve("features", CELL)
    store(lake, swapped(outside), CELL)
    assert lake.tables.resolve("features", CELL).sha256 != features.sha256
    assert tried() == first
    store(lake, swapped(tuning), CELL)
    assert [row["value"] for row in tried()] != [row["value"] for row in first]
    assert asked == [("train",)] * 3


def test_tuning_is_a_query_that_the_ledger_knows_and_a_budget_refuses(lake: Lake, book: Book) -> None:
    assert tuned(lake).kept == 0
    assert tuned(lake).kept == 4
    (spend,) = Ledger(lake.journal, "tiny").spends()
    assert (spend.training.generator, spend.state, spend.models) == ("tuning/gaussian_copula", "complete", 1)
    assert not spend.loss.finite
    good = lake.tables.resolve("tuning/gaussian_copula", CELL)

    book.cohort(
        "tiny", source="clinic", generators=COPULA, extra=TUNED + "privacy: {budget: {epsilon: 3, delta: 1.0e-5}}\n"
    )
    entries = lake.journal.entries("privacy/tiny")
    refused = tuned(lake).version
    assert Record.of(refused).status == "refused"
    assert "must be private here" in refused.info["reason"]
    assert lake.journal.entries("privacy/tiny") == entries, "nothing was tried, nothing was spent"
    lake.tables.rollback("tuning/gaussian_copula", CELL, good.version)
    asked = model(lake)
    assert Record.of(asked).status == "refused"
    assert "no epsilon accounts for" in asked.info["reason"]


def test_settings_of_a_public_cohort_may_be_taken(lake: Lake, book: Book) -> None:
    """Tuned on `other`, of another source; the model of `tiny` names it among its inputs."""
    store(lake, made_up(1), {"cohort": "other", "month": MONTH})
    assert tuned(lake, cohort="other", trials=2).record.ok
    book.cohort("tiny", source="clinic", generators=COPULA, extra="tuning: {gaussian_copula: {settings_from: other}}\n")
    made = model(lake)
    label = lake.tables.resolve("tuning/gaussian_copula", {"cohort": "other", "month": MONTH}).label
    assert label in made.inputs
    assert "calibration_steps" not in made.info["tuned"]["settings"]


def test_an_epoch_by_epoch_generator_is_tuned_by_a_grid(lake: Lake, book: Book, tmp_path: Path) -> None:
    book.cohort("tiny", source="clinic", generators={"vae": {"preset": "quick", "epochs": 3}})
    study = tmp_path / "grid.yaml"
    study.write_text("title: two\ngenerator: vae\npoints: {small: {latent_dim: 2}, wide: {latent_dim: 8}}\n")
    made = tuned(lake, "vae", grid=str(study))
    assert made.record.ok, made.record
    assert [(t.name, t.settings) for t in made.trials] == [("small", {"latent_dim": 2}), ("wide", {"latent_dim": 8})]
    assert all(t.facts["std_ratio_min"] > 0 for t in made.trials)
    assert made.version.info["search"] == {"sampler": "grid", "title": "two"}
    study.write_text("title: two\ngenerator: vae\npoints: {small: {epochs: 2}, wide: {latent_dim: 8}}\n")
    refused = tuned(lake, "vae", grid=str(study))
    assert refused.record.status == "failed"
    assert "'epochs', and the cohort's file sets it" in refused.record.reason


def test_what_cannot_be_tuned_is_a_record(lake: Lake, book: Book) -> None:
    for generators, words in (
        ({"independent": {}}, "does not enable 'gaussian_copula'"),
        (
            {
                "gaussian_copula": {
                    "shrinkage": 0.1,
                    "pair_shrinkage": True,
                    "nominal_order": "ca",
                    "calibration_steps": 1,
                }
            },
            "nothing to tune",
        ),
    ):
        book.cohort("tiny", source="clinic", generators=generators)
        made = tuned(lake)
        assert words in made.record.reason
        assert made.version.files == {}
    assert Record.of(made.version).status == "refused"


def test_a_tuned_model_has_its_tuning_upstream(book: Book) -> None:
    book.cohort("tiny", source="clinic", generators=COPULA, extra=TUNED)
    graph = build_defs().resolve_asset_graph()
    parents = {key.to_user_string() for key in graph.get(dg.AssetKey(["model", "gaussian_copula"])).parent_keys}
    assert parents == {"features", "tuning/gaussian_copula"}


def test_tuning_stands_apart_from_every_other_job(book: Book) -> None:
    book.cohort("tiny", source="clinic", generators={"gaussian_copula": {}, "independent": {}})
    defs = build_defs()
    assert {k.to_user_string() for k in defs.resolve_job_def("tune").asset_layer.executable_asset_keys} == {
        "tuning/gaussian_copula"
    }
    month = {k.to_user_string() for k in defs.resolve_job_def("cohort_month").asset_layer.executable_asset_keys}
    assert not any(key.startswith("tuning/") for key in month)
    for name in ("tiny", "other"):
        book.cohort(name, source="ward", generators={"independent": {}})
    assert "tune" not in {job.name for job in build_defs().jobs or []}
