"""`cohortloom ledger`: what a privacy officer reads, and what may be aborted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import ledger_lab as lab
import pytest

from assets.cli.ledger import ledger as command
from pipeline.errors import ConfigError, NotFoundError
from pipeline.privacy.ledger import Ledger
from pipeline.workflow.ledger import training_of

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.store.lake import Lake
    from pipeline.workflow.compute import Compute


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the cohort `lab`, in a folder of its own."""
    folder = tmp_path / "cohorts"
    folder.mkdir()
    monkeypatch.setattr("pipeline.features.spec.BUILT_IN_COHORTS", folder)
    (folder / "sources.yaml").write_text("clinic: {format: table, dates: none}\n")
    (folder / "lab.sql").write_text("SELECT 1 AS a\n")
    cohort = {"source": "clinic", "unit": "row", "subject": "row", "sql": "lab.sql", "generators": {"independent": {}}}
    (folder / "lab.yaml").write_text(json.dumps(cohort))  # JSON is YAML
    return folder / "lab.yaml"


def set_budget(book: Path, epsilon: float) -> None:
    cohort = json.loads(book.read_text())
    book.write_text(json.dumps({**cohort, "privacy": {"budget": {"epsilon": epsilon, "delta": 1e-4}}}))


def said(capsys: pytest.CaptureFixture[str], **how: Any) -> str:
    command("lab", **how)
    done = capsys.readouterr()
    return " ".join((done.out + done.err).split())


def test_a_cohort_without_trainings_says_so(lake: Lake, book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = said(capsys)
    assert "No training of 'lab' has been entered yet." in words
    assert "Budget: none; nothing is refused" in words


def test_spent_and_remaining(lake: Lake, book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_budget(book, 3.3)
    lab.features(lake, "2026-11-01")
    lab.fit(lake, lab.cell(asked=(0.1, 1e-6)))
    lab.fit(lake, lab.cell(month="2026-11-01", asked=(0.2, 1e-6)))
    words = said(capsys)
    assert "Spent: epsilon 0.3, delta 2e-06, over 2 trainings" in words
    assert "Remains: epsilon 3, delta 9.8e-05." in words
    until = said(capsys, month="2026-10")
    assert "Spent up to 2026-10: epsilon 0.1, delta 1e-06, over 1 training" in until
    assert "Remains: epsilon 3," in until, "the budget is over all months"
    set_budget(book, 0.1)
    assert "Remains: nothing. The budget is passed" in said(capsys)


def test_infinite_is_said_plainly(lake: Lake, book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab.fit(lake, lab.cell(asked=None))
    assert "Spent: infinite. 1 of 1 training not private, so there is no guarantee" in said(capsys)
    command("lab", as_json=True)
    content = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (content["total"], content["remaining"]) == ({"epsilon": "inf", "delta": 0.0}, None)
    assert content["trainings"][0]["cumulative_epsilon"] == "inf"


def test_an_open_training_can_be_aborted(
    lake: Lake, book: Path, cpu: Compute, capsys: pytest.CaptureFixture[str]
) -> None:
    features = lake.tables.resolve("features", lab.cell().partition)
    dead = training_of(lab.cell(), "spends", features, {}, cpu)
    Ledger(lake.journal, "lab").reserve(dead, None)
    words = said(capsys)
    assert "Open: 1, counted until" in words
    assert f"cohortloom ledger lab --abort {dead.identity[:12]} --reason TEXT" in words
    for wrong, error in (({"abort": dead.identity}, ConfigError), ({"reason": "x"}, ConfigError)):
        with pytest.raises(error, match="reason"):
            command("lab", **wrong)
    with pytest.raises(NotFoundError, match="no training 'zz'"):
        command("lab", abort="zz", reason="x")
    words = said(capsys, abort=dead.identity[:12], reason="the machine is gone")
    assert "holds nothing any more" in words
    assert "the machine is gone" in words
