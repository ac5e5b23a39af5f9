"""Every training of a cell is entered before it begins, settled after it, and refused where the budget says so."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import ledger_lab as lab
import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.privacy.ledger import Ledger
from pipeline.workflow.ledger import abort_by_hand, ledger_step, stored_models, training_of
from pipeline.workflow.settings import moved_on

if TYPE_CHECKING:
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute


def spends(lake: Lake) -> list[tuple[str, str, int, float]]:
    return [(s.training.generator, s.state, s.models, s.loss.epsilon) for s in Ledger(lake.journal, "lab").spends()]


def entries(lake: Lake) -> list[dict[str, Any]]:
    return lake.journal.entries("privacy/lab")


def test_a_private_training_is_entered_and_its_model_says_so(lake: Lake) -> None:
    made = lab.fit(lake, lab.cell(budget=(2.0, 1e-5), replicates=2))
    assert made.record.ok
    assert [e["step"] for e in entries(lake)] == ["reserve", "confirm", "complete"]
    reserve = entries(lake)[0]
    assert (reserve["epsilon"], reserve["delta"], reserve["replicates"]) == (1.0, 1e-6, 2)
    assert reserve["features"] == lake.tables.resolve("features", lab.cell().partition).sha256[:12]
    said = made.version.info["privacy"]
    assert said == {"training": reserve["training"], "epsilon": 1.0, "delta": 1e-6, "replicates": 2}
    assert spends(lake) == [("spends", "complete", 1, 2.0)]


def test_a_training_without_privacy_is_an_entry_too(lake: Lake) -> None:
    made = lab.fit(lake, lab.cell(asked=None))
    assert made.version.info["privacy"]["epsilon"] == "inf"
    assert spends(lake) == [("spends", "complete", 1, math.inf)]
    json.dumps(entries(lake), allow_nan=False)


def test_running_again_costs_nothing_and_gives_the_same_version(lake: Lake) -> None:
    cell = lab.cell(budget=(1.0, 1e-5))
    once, again = lab.fit(lake, cell), lab.fit(lake, cell)
    assert again.record.ok
    assert once.version.sha256 == again.version.sha256
    assert len(entries(lake)) == 3


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        ({"seed": 1}, 2),
        ({"replicates": 2}, 3),
        ({"asked": (0.5, 1e-6)}, 1.5),
        ({"spends": {"marginal": "gaussian"}}, 2),
    ],
)
def test_another_training_costs_again(lake: Lake, change: dict[str, Any], counted: float) -> None:
    lab.fit(lake, lab.cell())
    lab.fit(lake, lab.cell(**change))
    assert Ledger(lake.journal, "lab").total().epsilon == counted


def test_settings_that_mean_the_same_are_the_same_training(lake: Lake) -> None:
    lab.fit(lake, lab.cell())
    written_out = lab.fit(lake, lab.cell(spends={"marginal": "empirical"}))
    assert written_out.record.ok
    assert spends(lake) == [("spends", "complete", 1, 1.0)]


def test_new_features_cost_again(lake: Lake) -> None:
    lab.fit(lake, lab.cell(budget=(1.0, 1e-5)))
    lab.features(lake, seed=1)
    assert lab.fit(lake, lab.cell(budget=(1.0, 1e-5))).record.status == "refused"


def test_other_bytes_of_the_same_training_cost_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.fit(lake, lab.cell())
    monkeypatch.setenv("SPENDS_NOISE", "fresh")
    lab.fit(lake, lab.cell(budget=(2.0, 1e-5)))
    assert spends(lake) == [("spends", "complete", 2, 2.0)]
    monkeypatch.setenv("SPENDS_NOISE", "fresh again")
    refused = lab.fit(lake, lab.cell(budget=(2.0, 1e-5)))
    assert refused.record.status == "refused"
    assert "fresh noise" in refused.record.reason
    assert refused.version.files == {}
    assert Ledger(lake.journal, "lab").total().epsilon == 2.0


def test_the_budget_refuses_and_nothing_is_trained(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDS_FAILS", "yes")  # whoever trains, fails
    made = lab.fit(lake, lab.cell(budget=(0.5, 1e-5)))
    assert made.record.status == "refused"
    assert "costs epsilon 1, delta 1e-06" in made.record.reason
    assert (made.version.files, made.reports) == ({}, [])
    assert entries(lake) == []


def test_a_failed_training_is_aborted_without_a_word_of_a_patient(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDS_FAILS", "yes")
    assert lab.fit(lake, lab.cell()).record.status == "failed"
    assert spends(lake) == [("spends", "aborted", 0, 0.0)]
    monkeypatch.delenv("SPENDS_FAILS")
    assert lab.fit(lake, lab.cell()).record.ok
    assert spends(lake) == [("spends", "complete", 1, 1.0)]
    assert [e["step"] for e in entries(lake)] == ["reserve", "abort", "reserve", "confirm", "complete"]
    assert lab.CANARY not in json.dumps(entries(lake))
    assert str(lake.home.root) not in json.dumps(entries(lake))


def test_a_refusal_and_a_wrong_setting_hold_nothing(lake: Lake) -> None:
    """`bootstrap` cannot train with privacy and says so; a misspelt setting never gets as far as the ledger."""
    cell = lab.cell(bootstrap={})
    cell.spec.privacy.trainings["bootstrap"] = cell.spec.privacy.trainings["spends"]
    assert lab.fit(lake, cell, "bootstrap").record.status == "refused"
    assert spends(lake) == [("bootstrap", "aborted", 0, 0.0)]
    assert lab.fit(lake, lab.cell(spends={"marginals": "gaussian"})).record.status == "failed"
    assert len(entries(lake)) == 2


def test_running_out_of_memory_gives_the_reservation_back(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDS_FAILS", "memory")
    with pytest.raises(MemoryError):
        lab.fit(lake, lab.cell())
    assert spends(lake) == [("spends", "aborted", 0, 0.0)]


def test_a_disk_too_full_to_abort_leaves_the_reservation_open(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StoreError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.workflow.training.fit_cell", full)
        patched.setattr("pipeline.privacy.ledger.Reservation.abort", full)
        with pytest.raises(StoreError, match="disk is full"):
            lab.fit(lake, lab.cell())
    assert spends(lake) == [("spends", "open", 1, 1.0)]
    assert lab.fit(lake, lab.cell(budget=(1.0, 1e-5))).record.ok
    assert spends(lake) == [("spends", "complete", 1, 1.0)]


@pytest.mark.parametrize("report", ["nothing", "inf", "-1"])
def test_a_spend_that_is_not_reported_is_not_believed(lake: Lake, monkeypatch: pytest.MonkeyPatch, report: str) -> None:
    monkeypatch.setenv("SPENDS_REPORT", report)
    made = lab.fit(lake, lab.cell())
    assert made.record.status == "failed"
    assert "does not report what it spent" in made.record.reason
    assert spends(lake) == [("spends", "aborted", 0, 0.0)]


def test_what_was_spent_counts_and_not_what_was_asked(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPENDS_REPORT", "0.75")
    made = lab.fit(lake, lab.cell())
    assert made.version.info["privacy"]["epsilon"] == 0.75
    assert Ledger(lake.journal, "lab").total() == (0.75, 0.0)


def test_a_broken_ledger_stops_the_training(lake: Lake) -> None:
    lab.fit(lake, lab.cell())
    sorted((lake.journal.root / "privacy" / "lab").glob("*.json"))[0].unlink()
    with pytest.raises(StoreError, match="journal entry is missing"):
        lab.fit(lake, lab.cell(seed=1))


def test_asking_for_other_privacy_shows_as_moved_settings(lake: Lake) -> None:
    version = lab.fit(lake, lab.cell()).version
    assert moved_on(version, lab.cell().spec) == ""
    assert "privacy" in moved_on(version, lab.cell(asked=(2.0, 1e-6)).spec)
    assert "privacy" in moved_on(version, lab.cell(asked=None).spec)


def test_the_engine_of_a_generator_that_trains_with_torch_is_part_of_it(lake: Lake, cpu: Compute) -> None:
    features = lake.tables.resolve("features", lab.cell().partition)
    cell = lab.cell(vae={})
    here = training_of(cell, "vae", features, {}, cpu).identity
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("torch.__version__", "9.9")
        assert training_of(cell, "vae", features, {}, cpu).identity != here
        spending = training_of(cell, "spends", features, {}, cpu).identity
    assert training_of(cell, "spends", features, {}, cpu).identity == spending
    assert training_of(cell, "vae", features, {"latent_dim": 3}, cpu).identity != here


# ---- the table


def test_the_table_is_the_same_for_the_same_ledger(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for month in ("2026-09-01", "2026-11-01"):
        lab.features(lake, month)
    months: list[Cell] = [lab.cell(month=m) for m in ("2026-11-01", lab.MONTH, "2026-09-01")]
    for cell in months:
        lab.fit(lake, cell)
    folded = ledger_step(lake, lab.cell(budget=(2.0, 1e-5)))
    assert [row["month"] for row in folded.rows] == ["2026-09-01", "2026-10-01"]
    assert [row["cumulative_epsilon"] for row in folded.rows] == [1.0, 2.0]
    assert (folded.total, folded.within, folded.words) == ((2.0, 2e-6), True, "")
    assert folded.version.info["total"] == {"epsilon": 2.0, "delta": 2e-6}
    assert lake.tables.read(folded.version).to_pylist() == folded.rows
    monkeypatch.setenv("SPENDS_FAILS", "yes")
    lab.fit(lake, lab.cell(month="2026-11-01", seed=5))  # another month's failure does not touch this one
    assert ledger_step(lake, lab.cell(budget=(2.0, 1e-5))).version.sha256 == folded.version.sha256


def test_passing_the_budget_shows_in_words(lake: Lake) -> None:
    lab.fit(lake, lab.cell(asked=None))
    folded = ledger_step(lake, lab.cell(budget=(2.0, 1e-5)))
    assert not folded.within
    assert folded.words == (
        "The trainings up to this month cost epsilon infinite, the cohort may spend epsilon 2, delta 1e-05."
    )
    assert folded.version.info["total"]["epsilon"] == "inf"
    assert ledger_step(lake, lab.cell()).within


def test_a_model_without_an_entry_is_told(lake: Lake) -> None:
    with lake.models.draft("model/spends", lab.cell().partition) as draft:
        draft.file("replicates/replicate-0/model.json").write_text("{}")
        draft.commit(info={"status": "ok"})  # as it was made before there was a ledger
    folded = ledger_step(lake, lab.cell(budget=(2.0, 1e-5)))
    assert (folded.within, folded.unentered) == (False, ["model/spends 2026-10"])
    assert "no entry of these models" in folded.words


# ---- by hand


def test_a_dead_run_is_aborted_by_hand_but_not_if_its_model_is_stored(lake: Lake, cpu: Compute) -> None:
    cell = lab.cell()
    features = lake.tables.resolve("features", cell.partition)
    ledger = Ledger(lake.journal, "lab")
    dead = training_of(cell, "spends", features, {}, cpu)
    ledger.reserve(dead, None)
    told = abort_by_hand(lake, "lab", dead.identity[:12], "the machine is gone", by="officer")
    assert (told.state, told.reason) == ("aborted", "the machine is gone")
    assert entries(lake)[-1]["by"] == "officer"

    with pytest.MonkeyPatch.context() as patched:  # killed between storing the model and saying so
        patched.setattr("pipeline.privacy.ledger.Reservation.complete", lambda *_: None)
        lab.fit(lake, cell)
    assert spends(lake) == [("spends", "open", 1, 1.0)]
    assert len(stored_models(lake, "lab", dead)) == 1
    with pytest.raises(ConfigError, match="is complete"):
        abort_by_hand(lake, "lab", dead.identity, "again", by="officer")
    assert spends(lake) == [("spends", "complete", 1, 1.0)]
