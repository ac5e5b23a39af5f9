"""How a cohort stands, from versions made by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.store.lake import Lake, Version
from pipeline.workflow.standing import half_made

if TYPE_CHECKING:
    from pipeline.store.home import Home


def test_a_month_whose_making_anew_was_cut_off_is_half_made(home: Home) -> None:
    lake, month = Lake(home), "2026-10-01"

    def commit(asset: str, number: int, *inputs: Version, **info: str) -> Version:
        with lake.tables.draft(asset, {"cohort": "tiny", "month": month}) as draft:
            return draft.commit(info={"n": number, **info}, inputs={v.label: v.sha256 for v in inputs})

    def words() -> str:
        return half_made(lake, "tiny", month)

    gathered = commit("cohort_inputs", 1)
    features = commit("features", 1, gathered)
    references, good = (commit(name, 1, features) for name in ("references", "evaluation/vae"))
    off = commit("evaluation/gan", 1, features, status="not_enabled")
    commit("leaderboard", 1, references, good, off)
    assert words() == ""
    gathered = commit("cohort_inputs", 2)
    assert words() == "inputs were gathered anew, and the features not made of them"
    features = commit("features", 2, gathered)
    assert words() == "features were made anew, and evaluation/vae not from them"
    references, good = (commit(name, 2, features) for name in ("references", "evaluation/vae"))
    assert words() == "the leaderboard does not show the current evaluation/vae"
    commit("leaderboard", 2, references, good, off)
    assert words() == ""
