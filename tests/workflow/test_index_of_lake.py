"""The index page is gathered from leaderboards, releases and reports on the lake."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.evaluation.leaderboard import FIGURES
from pipeline.evaluation.report.index import index_page
from pipeline.store.home import Home
from pipeline.store.lake import Lake
from pipeline.workflow.board import leaderboard_table
from pipeline.workflow.report_index import index_path, index_rows, publish_index

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Release:
    generator: str | None = "vae"


@dataclass
class Spec:
    title: str = "SUPPORT"
    release: Release = field(default_factory=Release)


@dataclass
class Book:
    """A book with one cohort; others on the lake were taken out of it."""

    cohorts: dict[str, Spec] = field(default_factory=lambda: {"support": Spec()})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(Home(tmp_path / "home").ensure())


def board_row(key: str, status: str = "ok", **more: Any) -> dict[str, Any]:
    figure = {"value": 0.5, "lo": 0.4, "hi": 0.6, "score": None, "note": ""}
    empty = {
        "generator": key, "reference": False, "key": key, "status": status, "reason": "", "verdict": "fail", "why": ["too near"],
        "seeds": 1, "layer": None, "tier": "", "dependence_score": None, "task": "", "exact_copies": None, "epsilon": None,
        "stability": None, "fit_seconds": None, **{f.key: figure for f in FIGURES},
    }  # fmt: skip
    return {**empty, **more}


def month(lake: Lake, cohort: str, name: str, *rows: dict[str, Any]) -> None:
    partition = {"cohort": cohort, "month": name}
    with lake.tables.draft("leaderboard", partition) as draft:
        draft.add_table("data", leaderboard_table(rows))
        draft.commit(inputs={}, info={})
    with lake.reports.draft("evaluation/vae", partition) as draft:
        draft.file("report.html").write_text(f"report of {name}", encoding="utf-8")
        draft.commit(inputs={}, info={})


def test_rows_links_and_releases(lake: Lake) -> None:
    rest = [board_row("medgan", "not_enabled"), board_row("ctgan", "failed", reason="out of memory", verdict="")]
    month(lake, "support", "2026-01-01", board_row("vae"), *rest, board_row("ref_fresh", "reference", reference=True))
    month(lake, "support", "2026-02-01", board_row("vae", verdict="pass", why=[]))
    month(lake, "gone", "2026-02-01", board_row("vae"))
    facts = {"month": "2026-01-01", "generator": "vae", "seal": "s", "sha256": "x", "inputs": {}}
    for number, name in ((1, "r1"), (2, "r2")):
        entry = {"kind": "published", **facts, "seal": f"s{number}", "release_id": f"support--2026-01--{name}"}
        lake.journal.append("release/support", entry)
    taken = {"kind": "withdrawn", "release_id": "support--2026-01--r2", "month": "2026-01-01", "seal": "s2"}
    lake.journal.append("release/support", {**taken, "name": "A", "words": "wrong", "user": "a"})
    rows = index_rows(lake, Book())
    assert [(r.cohort, r.month, r.generator, r.status) for r in rows] == [
        ("gone", "2026-02", "vae", "ok"),
        ("support", "2026-01", "vae", "ok"),
        ("support", "2026-01", "ctgan", "failed"),
        ("support", "2026-02", "vae", "ok"),
    ]
    assert [r.release for r in rows] == ["", "support--2026-01--r1", "", ""]
    assert [r.candidate for r in rows] == [False, True, False, True]
    assert rows[1].figures["fid.marg.jsd"] == (0.5, 0.4, 0.6)
    assert rows[1].why == ("too near",)
    assert (lake.home.reports / rows[1].report.replace("%3D", "=")).read_text(
        encoding="utf-8"
    ) == "report of 2026-01-01"


def test_the_page_is_made_anew_and_disturbs_nobody(lake: Lake) -> None:
    from pipeline.workflow.doctor import examine

    month(lake, "support", "2026-01-01", board_row("vae"))
    page = publish_index(lake, Book())
    assert page == index_path(lake.home)
    assert page.read_text(encoding="utf-8") == index_page(index_rows(lake, Book()))
    month(lake, "support", "2026-02-01", board_row("vae"))
    assert "2026-02" in publish_index(lake, Book()).read_text(encoding="utf-8")
    assert sorted(p.name for p in lake.home.reports.iterdir()) == ["evaluation", "index.html"]
    assert lake.reports.assets() == ["evaluation/vae"]
    assert [f.where for f in examine(lake) if "index" in f.where or "reports" in f.where] == []
