"""The public report of a release: written from what is stored, with the waivers that hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from release_ward import Ward

from pipeline.errors import NotFoundError
from pipeline.fairness.words import drawn_under
from pipeline.release.signoff import Waiver
from pipeline.workflow import judging
from pipeline.workflow.reports import CONTENT, PUBLIC_REPORT, REPORT, publish_reports, write_release_report

if TYPE_CHECKING:
    from pathlib import Path

WAIVER = Waiver("privacy_officer", "Ada Moreau", "2026-10-20T08:00:00", "agreed", rule="jsd_mean", until="2027-01-31")


def test_it_is_the_stored_public_report_with_waivers_and_facts(ward: Ward, tmp_path: Path) -> None:
    ward.monkeypatch.setattr(judging, "publish_reports", publish_reports)
    evaluation = ward.judges()
    lake, cell = ward.lake, ward.cell()
    stored = lake.reports.resolve(evaluation.asset, cell.partition)
    assert set(stored.files) == {REPORT, PUBLIC_REPORT, CONTENT}
    assert stored.inputs == evaluation.inputs
    content = json.loads(lake.reports.path(stored, CONTENT).read_text(encoding="utf-8"))
    assert content["facts"]["privacy of the training"] == "no differential privacy"
    assert content["accesses"] == 1
    verdict = judging.verdict_of(lake, evaluation)
    plain = write_release_report(lake, cell, evaluation, verdict, tmp_path / "plain.html").read_bytes()
    assert plain == lake.reports.path(stored, PUBLIC_REPORT).read_bytes()
    facts = {"release": "Ward--2026-10--r1"}
    page = write_release_report(lake, cell, evaluation, verdict, tmp_path / "r.html", waivers=[WAIVER], facts=facts)
    text = page.read_text(encoding="utf-8")
    first = text[: text.index('<section id="headlines"')]
    for words in ("2027-01-31", "Ada Moreau (privacy officer)", "Ward--2026-10--r1", "public report"):
        assert words in first
    assert ward.judges().sha256 == evaluation.sha256
    assert lake.reports.resolve(evaluation.asset, cell.partition).sha256 == stored.sha256, "the same bytes again"


def test_rows_drawn_under_a_notion_of_fairness_say_so_in_the_reports(ward: Ward) -> None:
    ward.asks(extra="fairness: {notion: parity, label: died, protected: [sex]}\n")
    ward.monkeypatch.setattr(judging, "publish_reports", publish_reports)
    ward.makes()
    lake, cell = ward.lake, ward.cell()
    stored = lake.reports.resolve("evaluation/independent", cell.partition)
    told = json.loads(lake.reports.path(stored, CONTENT).read_text(encoding="utf-8"))["facts"]["drawn under"]
    assert told.startswith("parity of 'died' over 'sex', aim labels: gap of its share ")
    assert "chosen out of" in told
    assert "drawn under" in lake.reports.path(stored, PUBLIC_REPORT).read_text(encoding="utf-8")
    rows = lake.tables.resolve("synthetic/independent", cell.partition).info["fairness"]
    assert drawn_under(rows) == told
    assert drawn_under([]) == ""


def test_without_a_stored_report_it_says_what_to_do(ward: Ward, tmp_path: Path) -> None:
    evaluation = ward.current("evaluation/independent")
    for version in ward.lake.reports.history(evaluation.asset, evaluation.partition):
        ward.lake.reports.purge(version)
    with pytest.raises(NotFoundError, match="no report of this evaluation"):
        write_release_report(
            ward.lake, ward.cell(), evaluation, judging.verdict_of(ward.lake, evaluation), tmp_path / "r.html"
        )


def test_the_figures_can_be_joined_to_what_they_are_of(ward: Ward) -> None:
    evaluation = ward.judges()
    runs = ward.lake.tables.read(evaluation, "runs").to_pylist()
    assert [run["replicate"] for run in runs] == [0]
    assert runs[0]["model"] == ward.lake.models.resolve("model/independent", ward.cell().partition).sha256
    assert runs[0]["features"] == ward.current("features").sha256
    assert runs[0]["seed_fit"] == ward.cell().seeds("independent", "fit")[0]
    assert runs[0]["profile"] == "quick"
