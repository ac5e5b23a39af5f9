"""Rows made elsewhere stand on the leaderboard beside the generators, are told what is wrong with them, and never leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.errors import ConfigError, InputError, NotFoundError
from pipeline.features.stored import read_features
from pipeline.workflow.board import leaderboard_step
from pipeline.workflow.external import external_generators, judge_external, remove_external, take_external

if TYPE_CHECKING:
    from pathlib import Path

    from release_ward import Ward


def test_rows_made_elsewhere_are_judged_beside_the_generators(ward: Ward, tmp_path: Path) -> None:
    lake, cell = ward.lake, ward.cell()
    rows = read_features(lake.tables, ward.current("features")).table.to_pandas().head(120)
    rows.drop(columns=["sex"]).assign(extra=1).to_csv(tmp_path / "peer.csv", index=False)
    taken, notes = take_external(lake, cell, "peer", tmp_path / "peer.csv")
    assert taken.info["rows"] == 120
    assert any("'sex' is lacking" in note for note in notes)
    assert any("'extra' is not in the training rows" in note for note in notes)
    assert external_generators(lake, cell) == ["external.peer"]
    judged = judge_external(lake, cell, "peer")
    assert judged.verdict is not None
    assert lake.tables.current("evaluation/external.peer", cell.partition) is not None
    _, board = leaderboard_step(lake, cell, ["independent"])
    row = {r["generator"]: r for r in board}["external.peer"]
    assert row["status"] == "ok"
    assert row["verdict"] == judged.verdict.status
    assert {r["generator"] for r in board} >= {"independent", "external.peer"}


def test_replaced_rows_have_to_be_judged_again(ward: Ward, tmp_path: Path) -> None:
    lake, cell = ward.lake, ward.cell()
    rows = read_features(lake.tables, ward.current("features")).table.to_pandas()
    for n in (100, 90):
        rows.head(n).to_csv(tmp_path / "peer.csv", index=False)
        take_external(lake, cell, "peer", tmp_path / "peer.csv")
        if n == 100:
            judge_external(lake, cell, "peer")
    _, board = leaderboard_step(lake, cell, ["independent"])
    row = {r["generator"]: r for r in board}["external.peer"]
    assert (row["status"], row["verdict"]) == ("failed", "")
    assert "replaced since" in row["reason"]


def test_removed_rows_leave_the_leaderboard_and_the_store(ward: Ward, tmp_path: Path) -> None:
    lake, cell = ward.lake, ward.cell()
    rows = read_features(lake.tables, ward.current("features")).table.to_pandas().head(100)
    rows.to_csv(tmp_path / "peer.csv", index=False)
    take_external(lake, cell, "peer", tmp_path / "peer.csv")
    with pytest.raises(NotFoundError, match="no rows 'pear'"):
        remove_external(lake, cell, "pear")
    judge_external(lake, cell, "peer")
    assert remove_external(lake, cell, "peer") >= 2
    assert external_generators(lake, cell) == []
    for store, asset in ((lake.tables, "external/peer"), (lake.tables, "evaluation/external.peer")):
        assert store.history(asset, cell.partition) == []
    assert lake.reports.history("evaluation/external.peer", cell.partition) == []
    _, board = leaderboard_step(lake, cell, ["independent"])
    assert "external.peer" not in {r["generator"] for r in board}


def test_what_is_no_table_of_the_cohort_is_refused(ward: Ward, tmp_path: Path) -> None:
    lake, cell = ward.lake, ward.cell()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="none of the columns"):
        take_external(lake, cell, "peer", tmp_path / "other.csv")
    with pytest.raises(NotFoundError):
        take_external(lake, cell, "peer", tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="is no name"):
        take_external(lake, cell, "../peer", tmp_path / "other.csv")
    with pytest.raises(NotFoundError):
        judge_external(lake, cell, "peer")
    assert external_generators(lake, cell) == []
