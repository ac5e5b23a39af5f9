"""The ledger adds up whatever the order, takes over what dead runs left, refuses in time and notices what is missing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BudgetError, ConfigError, NotFoundError, StoreError
from pipeline.privacy.accounts import Training, read_accounts
from pipeline.privacy.composition import NOT_PRIVATE, NOTHING, Loss, compose, running
from pipeline.privacy.ledger import Ledger
from pipeline.privacy.spec import PrivacySpec
from pipeline.store.hashing import sha256_json
from pipeline.store.journal import Journal

EACH = PrivacySpec(epsilon=0.1, delta=1e-7)
SPENT = Loss.asked(EACH)
LOSSES = st.builds(Loss, st.floats(0, 50) | st.just(math.inf), st.floats(0, 0.1))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Journal(tmp_path / "journal"), "lab")


def training(name: str, month: str = "2026-10-01") -> Training:
    """A made-up training; same name, same training."""
    return Training.of(
        generator="vae",
        month=month,
        features=sha256_json(name),
        settings={},
        seeds=[1],
        privacy=EACH,
        code_version="1",
        engine={},
    )


def done(ledger: Ledger, asked: Training, model: str = "m", budget: PrivacySpec | None = None) -> None:
    held = ledger.reserve(asked, budget)
    held.confirm(model, asked.asked)
    held.complete(model, asked.asked)


def states(ledger: Ledger) -> list[tuple[str, int, float]]:
    return [(s.state, s.models, s.loss.epsilon) for s in ledger.spends()]


# ---- adding up


@given(st.lists(LOSSES, max_size=20), st.randoms())
def test_losses_add_up_in_any_order(losses: list[Loss], chance: Any) -> None:
    together = compose(losses)
    shuffled = list(losses)
    chance.shuffle(shuffled)
    assert compose(shuffled) == together
    assert together.epsilon == pytest.approx(math.fsum(loss.epsilon for loss in losses))
    assert list(running(losses))[-1:] in ([], [together])


def test_tenths_are_tenths() -> None:
    assert compose([Loss(0.1, 1e-7)] * 3) == Loss(0.3, 3e-7)
    assert sum([0.1] * 3) != 0.3
    assert compose([]) == NOTHING
    assert compose([Loss(1, 0.5), NOT_PRIVATE]) == Loss(math.inf, 0.5)


@given(LOSSES)
def test_losses_come_back_from_json(loss: Loss) -> None:
    assert Loss.from_json(json.loads(json.dumps(loss.to_json(), allow_nan=False))) == loss


@settings(max_examples=60)
@given(st.data())
def test_the_fold_is_the_same_whatever_came_first(data: st.DataObject) -> None:
    """Trainings interleave in any order: each one's own steps decide what it costs."""
    histories = []
    for name in range(data.draw(st.integers(1, 4))):
        asked = training(str(name), month=f"2026-{name + 1:02d}-01")
        steps: list[dict[str, Any]] = [{"step": "reserve", **asked.to_entry()}]
        end = data.draw(st.sampled_from(["open", "confirm", "complete", "abort", "again"]))
        if end == "abort":
            steps.append({"step": "abort", "training": asked.identity, "models": [], "reason": "x"})
        for model in {"confirm": ["a"], "complete": ["a"], "again": ["a", "b"]}.get(end, []):
            said = {"training": asked.identity, "model": model, **SPENT.to_json()}
            steps += [{"step": s, **said} for s in (["confirm"] if end == "confirm" else ["confirm", "complete"])]
        histories.append(steps)

    def folded(queues: list[list[dict[str, Any]]], chosen: Any) -> set[Any]:
        queues, entries = [list(q) for q in queues], []
        while any(queues):
            entries.append(chosen([q for q in queues if q]).pop(0))
        return {a.spend() for a in read_accounts(entries, "privacy/lab").values()}

    one_by_one = folded(histories, lambda queues: queues[0])
    assert folded(histories, lambda queues: data.draw(st.sampled_from(queues))) == one_by_one


# ---- settling


def test_a_training_counts_from_its_reservation_on(ledger: Ledger) -> None:
    held = ledger.reserve(training("a"), None)
    assert states(ledger) == [("open", 1, 0.1)]
    held.confirm("m", Loss(0.05, 1e-8))
    assert states(ledger) == [("open", 1, 0.05)]
    held.complete("m", Loss(0.05, 1e-8))
    assert states(ledger) == [("complete", 1, 0.05)]
    epsilon, delta = ledger.total()
    assert (epsilon, delta) == (0.05, 1e-8)
    steps = [entry["step"] for entry in ledger.journal.entries("privacy/lab")]
    assert steps == ["reserve", "confirm", "complete"]


def test_the_same_bytes_again_cost_nothing_and_other_bytes_cost_again(ledger: Ledger) -> None:
    for _ in range(3):
        done(ledger, training("a"))
    assert len(ledger.journal.entries("privacy/lab")) == 3, "a rerun that gives the same model enters nothing"
    done(ledger, training("a"), model="fresh")
    assert states(ledger) == [("complete", 2, 0.2)]


@given(takeovers=st.integers(1, 5))
@settings(max_examples=5)
def test_taking_over_counts_once_however_often(tmp_path_factory: pytest.TempPathFactory, takeovers: int) -> None:
    ledger = Ledger(Journal(tmp_path_factory.mktemp("journal")), "lab")
    for _ in range(takeovers):
        ledger.reserve(training("a"), EACH)  # exactly one fits
    assert states(ledger) == [("open", 1, 0.1)]
    done(ledger, training("a"), budget=EACH)
    assert states(ledger) == [("complete", 1, 0.1)]


def test_an_abort_gives_back_what_was_held_and_nothing_more(ledger: Ledger) -> None:
    held = ledger.reserve(training("a"), None)
    held.abort("it failed")
    held.abort("twice is once")
    assert states(ledger) == [("aborted", 0, 0.0)]
    assert ledger.spends()[0].reason == "it failed"
    done(ledger, training("a"))
    held.abort("too late")
    assert states(ledger) == [("complete", 1, 0.1)]
    confirmed = ledger.reserve(training("b"), None)
    confirmed.confirm("m", SPENT)
    confirmed.abort("its model may be stored")
    assert [s.state for s in ledger.spends()] == ["complete", "open"]
    ledger.abort_whole(training("b").identity, "  looked:\n no model ", by="officer")
    assert [(s.state, s.reason) for s in ledger.spends()] == [("complete", ""), ("aborted", "looked: no model")]


def test_only_what_is_open_is_aborted_by_hand(ledger: Ledger) -> None:
    done(ledger, training("a"))
    with pytest.raises(ConfigError, match="is complete"):
        ledger.abort_whole(training("a").identity, "no", by="officer")
    with pytest.raises(ConfigError, match="needs a reason"):
        ledger.abort_whole(training("a").identity, " ", by="officer")
    with pytest.raises(NotFoundError, match="no training"):
        ledger.abort_whole("f" * 64, "no", by="officer")


def test_months_add_up_to_the_month_asked_for(ledger: Ledger) -> None:
    for month in (3, 1, 2):
        done(ledger, training(str(month), month=f"2026-{month:02d}-01"))
    assert [s.training.month[5:7] for s in ledger.spends()] == ["01", "02", "03"]
    assert ledger.total("2026-02-01") == Loss(0.2, 2e-7)
    assert ledger.total() == Loss(0.3, 3e-7)


# ---- the budget


def test_the_budget_refuses_before_anything_is_held(ledger: Ledger) -> None:
    budget = PrivacySpec(epsilon=0.3, delta=1e-3)
    for name in "abc":
        done(ledger, training(name), budget=budget)
    with pytest.raises(BudgetError, match=r"costs epsilon 0.1, .* the others cost epsilon 0.3") as refused:
        ledger.reserve(training("d"), budget)
    assert isinstance(refused.value, ConfigError)
    assert len(ledger.journal.entries("privacy/lab")) == 9
    done(ledger, training("a"), budget=budget)  # the same bytes again cost nothing


def test_delta_is_a_budget_too(ledger: Ledger) -> None:
    with pytest.raises(BudgetError, match="delta 1e-08"):
        ledger.reserve(training("a"), PrivacySpec(epsilon=9, delta=1e-8))


def test_replicates_are_counted(ledger: Ledger) -> None:
    five = replace(training("a"), replicates=5)
    with pytest.raises(BudgetError, match=r"costs epsilon 0.5, delta 5e-07 \(5 replicates\)"):
        ledger.reserve(five, PrivacySpec(epsilon=0.4, delta=0.5))
    done(ledger, five)
    assert ledger.total() == Loss(0.5, 5e-7)


def test_a_finite_budget_takes_no_training_without_privacy(ledger: Ledger) -> None:
    public = replace(training("a"), asked=NOT_PRIVATE)
    with pytest.raises(BudgetError, match="would train without differential privacy"):
        ledger.reserve(public, EACH)
    done(ledger, public)
    assert ledger.total() == Loss(math.inf, 0)
    with pytest.raises(BudgetError, match="would train without differential privacy"):
        ledger.reserve(public, EACH)
    with pytest.raises(BudgetError, match="infinite already"):
        ledger.reserve(training("b"), EACH)


def test_fresh_noise_beyond_the_budget_may_not_be_kept(ledger: Ledger) -> None:
    done(ledger, training("a"), budget=EACH)
    again = ledger.reserve(training("a"), EACH)
    with pytest.raises(BudgetError, match="fresh noise"):
        again.confirm("other", SPENT)
    assert states(ledger) == [("complete", 1, 0.1)]


def test_a_twin_that_ends_otherwise_is_counted_and_checked(ledger: Ledger) -> None:
    """Two runs of one training at once, with other bytes each: one reservation covers one model only."""
    one, two = ledger.reserve(training("a"), EACH), ledger.reserve(training("a"), EACH)
    one.confirm("x", SPENT)
    with pytest.raises(BudgetError):
        two.confirm("y", SPENT)
    one.complete("x", SPENT)
    assert states(ledger) == [("complete", 1, 0.1)]


def test_a_twin_whose_reservation_was_given_back_must_ask_again(ledger: Ledger) -> None:
    one, two = ledger.reserve(training("a"), EACH), ledger.reserve(training("a"), EACH)
    one.abort("failed")
    done(ledger, training("b"), budget=EACH)
    with pytest.raises(BudgetError):
        two.confirm("x", SPENT)


def test_a_training_that_cost_more_than_it_said_is_checked_again(ledger: Ledger) -> None:
    held = ledger.reserve(training("a"), EACH)
    with pytest.raises(BudgetError):
        held.confirm("m", Loss(0.2, 1e-7))


# ---- identity


def test_everything_that_decides_the_bytes_is_part_of_the_identity() -> None:
    base: dict[str, Any] = {
        "generator": "vae",
        "month": "2026-10-01",
        "features": "0" * 64,
        "settings": {"latent_dim": 3},
        "seeds": [1, 2],
        "privacy": EACH,
        "code_version": "1",
        "engine": {"torch": "2.13.0", "device": "cpu"},
    }
    others: dict[str, Any] = {
        "generator": "cvae",
        "month": "2026-11-01",
        "features": "1" * 64,
        "settings": {"latent_dim": 4},
        "seeds": [1, 3],
        "privacy": None,
        "code_version": "2",
        "engine": {"torch": "2.13.0", "device": "cuda"},
    }
    identities = {Training.of(**base).identity, *(Training.of(**{**base, k: v}).identity for k, v in others.items())}
    assert len(identities) == len(others) + 1
    assert Training.of(**base) == Training.of(**base)


# ---- damage


def entry_files(ledger: Ledger) -> list[Path]:
    return sorted((ledger.journal.root / "privacy" / "lab").glob("*.json"))


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_a_removed_entry_is_noticed(ledger: Ledger, gone: int) -> None:
    done(ledger, training("a"))
    done(ledger, training("b"))
    entry_files(ledger)[gone].unlink()
    for use in (ledger.spends, ledger.total, lambda: ledger.reserve(training("c"), None)):
        with pytest.raises(StoreError, match=r"A journal entry is missing.*backup"):
            use()


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": -1.0},
        {"epsilon": "none"},
        {"epsilon": None},
        {"replicates": 0},
        {"replicates": True},
        {"step": "pay"},
        {"training": "0" * 64, "step": "complete"},
        {"generator": None, "step": "abort"},
    ],
)
def test_an_entry_that_says_what_cannot_be_is_noticed(ledger: Ledger, change: dict[str, Any]) -> None:
    done(ledger, training("a"))
    path = entry_files(ledger)[0]
    entry = {**json.loads(path.read_text()), **change}
    path.chmod(0o600)
    path.write_text(json.dumps(entry))
    with pytest.raises(StoreError, match="Entry 0 of the privacy ledger is broken"):
        ledger.total()
    path.write_text("{")
    with pytest.raises(StoreError, match="broken"):
        ledger.total()


def test_a_ledger_that_lost_its_beginning_is_noticed() -> None:
    said = {"training": training("a").identity, "model": "m", **SPENT.to_json()}
    with pytest.raises(StoreError, match=r"Entry 0 of the privacy ledger is broken.*backup"):
        read_accounts([{"step": "complete", **said}], "privacy/lab")
