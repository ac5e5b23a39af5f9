"""The command that attacks a generator by shadow models: what it prints, keeps and enters."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from release_ward import COHORT, MONTH, Ward

from assets.cli import main
from pipeline.workflow.board import leaderboard_step
from pipeline.workflow.judging import HOLDOUT_ACCESS

if TYPE_CHECKING:
    from collections.abc import Callable

    Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(ward: Ward, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    leaderboard_step(ward.lake, ward.cell(), ["independent"])

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cohortloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


def test_shadow_models_of_a_candidate(cli: Cli, ward: Ward) -> None:
    status, out, err = cli("shadow", COHORT, "independent", "--models", 8, "--json")
    assert status == 0, err
    rows = {(r["metric"], r["key1"], r["key2"]): r for r in json.loads(out)}
    assert rows["priv.mia.shadow_auc", "", ""]["value"] < 0.65
    assert rows["priv.mia.shadow_auc", "released", ""]["value"] is not None
    assert rows["priv.mia.shadow_tpr_at_1pct_fpr", "released", ""]["n_needed"] == 1000
    lake = ward.lake
    version = lake.reports.resolve("shadow/independent", {"cohort": COHORT, "month": MONTH})
    kept = json.loads(lake.reports.path(version, "shadow.json").read_text())
    assert [r["metric"] for r in kept] == [r["metric"] for r in json.loads(out)]
    assert "MRN-" not in out + err + json.dumps(kept)
    entered = [e for e in lake.journal.entries(HOLDOUT_ACCESS) if e.get("shadow_models") == 8]
    assert len(entered) == 1


def test_shadow_says_what_is_wrong(cli: Cli) -> None:
    status, _, err = cli("shadow", COHORT, "gausian_copula")
    assert status != 0
    assert "gaussian_copula" in err
    status, _, err = cli("shadow", COHORT, "independent", "--models", 3)
    assert status != 0
    assert "Train 8 to 256" in err
