"""The report: one file, the same bytes, no network, and nothing of a single person in it."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from toy_people import TASK, coded, edited, people

from pipeline.evaluation.context import Parts
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import Evaluation, evaluate_references, headline, run_evaluation
from pipeline.evaluation.report import headline_svg, markdown_summary, write_report
from pipeline.features.evaluation_spec import GateSpec
from pipeline.release.gate import judge

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

CANARY = 73.1649
SUBJECT = "Canary-Quillfeather-0042"


def planted(cohort: Cohort) -> Cohort:
    """One person with an id and values that nobody else has."""

    def change(name: str, x: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        if name == "id":
            return pa.array([SUBJECT, *x.to_pylist()[1:]])
        return pa.array([CANARY, *x.to_pylist()[1:]]) if x.type == pa.float64() else x

    subject = np.array([SUBJECT, *cohort.subject[1:]])
    return replace(edited(cohort, change), subject=subject)


@pytest.fixture(scope="module")
def judged() -> tuple[Evaluation, dict[str, list[MetricResult]]]:
    parts = Parts(*(planted(people(n, s)) for n, s in ((500, 1), (400, 2), (250, 3), (250, 4))))
    references = evaluate_references(parts, EvaluationPlan((TASK,), profile="quick"))
    made = [people(500, 8), people(500, 9)]
    return run_evaluation(parts, made, EvaluationPlan((TASK,), profile="quick"), references=references), references


def written(folder: Path, evaluation: Evaluation, references: dict[str, list[MetricResult]], **more: object) -> str:
    verdict = judge(evaluation.results, GateSpec(), EvaluationPlan((TASK,)), references=references)
    given = {
        "title": "toy: <vae> & friends",
        "facts": {"Cohort": "toy"},
        "results": evaluation.results,
        "references": references,
        "verdict": verdict,
        "details": evaluation.details,
        **more,
    }
    return write_report(folder / "report.html", **given).read_text()


def without_plotly(html: str) -> str:
    return re.sub(r"<script>/\*\*.*?</script>", "", html, flags=re.S)


def test_same_inputs_same_bytes(tmp_path: Path, judged: tuple[Evaluation, dict[str, list[MetricResult]]]) -> None:
    (tmp_path / "other").mkdir()
    assert written(tmp_path, *judged) == written(tmp_path / "other", *judged)


def test_one_file_without_network(tmp_path: Path, judged: tuple[Evaluation, dict[str, list[MetricResult]]]) -> None:
    html = written(tmp_path, *judged)
    assert html.count("plotly.js v") == 1
    page = without_plotly(html)
    assert len(page) < 400_000
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", page)
    assert not re.findall(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", page)
    assert "default-src 'none'" in page
    assert str(tmp_path) not in page
    assert "toy: &lt;vae&gt; &amp; friends" in page


def test_nothing_of_a_single_person(tmp_path: Path, judged: tuple[Evaluation, dict[str, list[MetricResult]]]) -> None:
    evaluation, references = judged
    html = written(tmp_path, evaluation, references) + markdown_summary(evaluation.results, references, None)
    html += str(evaluation.details) + str(evaluation.results)
    page = without_plotly(html)
    csv = base64.b64decode(re.search(r"text/csv;base64,([^\"]+)", page).group(1)).decode()
    for text in (page, csv):
        for secret in ("73.1649", "73.165", SUBJECT, "Quillfeather", "person-1-", "person-2-"):
            assert secret not in text


def test_small_counts_are_suppressed(judged: tuple[Evaluation, dict[str, list[MetricResult]]]) -> None:
    for column in judged[0].details["columns"]:
        for share in column["real"]:
            assert share is None or share == 0 or share * 400 > 10.5
    hidden = [s for c in judged[0].details["columns"] for s in c["real"] if s is None]
    assert hidden


def test_the_verdict_comes_first_in_plain_words(
    tmp_path: Path, judged: tuple[Evaluation, dict[str, list[MetricResult]]]
) -> None:
    page = without_plotly(written(tmp_path, *judged))
    assert page.index('id="verdict"') < page.index('id="headlines"') < page.index('id="methods"')
    assert "Cannot be judged" in page
    assert "1,000 are needed" in page
    assert "Rule by rule" in page
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_an_attackers_success_is_told_in_people(sides: object, variant: object) -> None:
    from pipeline.evaluation.protocol import evaluate
    from pipeline.evaluation.report.words import findings

    results = evaluate(sides.parts, [variant("copy_10pct")], EvaluationPlan(profile="quick"))
    row = headline(results, "priv.mia.tpr_at_1pct_fpr")
    text = findings(results, {})[0][1]
    assert f"Of 1,000 people in training, an attacker would correctly flag {round(1000 * row.value)}" in text
    assert "wrongly flagging 10 of 1,000" in text


def test_report_without_gate_references_or_tasks(tmp_path: Path) -> None:
    parts = Parts.of_two(people(60, 1), people(50, 2))
    evaluation = run_evaluation(parts, [people(30, 3)], EvaluationPlan(profile="quick"))
    page = without_plotly(written(tmp_path, evaluation, {}, verdict=None))
    assert "Not judged" in page
    assert "declares no task" in page
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower().replace("finance", "")
    assert headline_svg(evaluation.results, {}).startswith("data:image/svg+xml;base64,")


def test_report_of_code_blocks_and_of_one_row(tmp_path: Path) -> None:
    parts = Parts(coded(200, 1, 30), coded(150, 2, 30), coded(80, 3, 30), coded(80, 4, 30))
    for n in (150, 1):
        evaluation = run_evaluation(parts, [coded(n, 9, 30)], EvaluationPlan(profile="quick"))
        page = written(tmp_path, evaluation, {}, verdict=None)
        assert "Codes of &#39;diagnoses&#39;" in page


def test_short_forms(judged: tuple[Evaluation, dict[str, list[MetricResult]]]) -> None:
    evaluation, references = judged
    verdict = judge(evaluation.results, GateSpec(), EvaluationPlan((TASK,)), references=references)
    text = markdown_summary(evaluation.results, references, verdict)
    assert text.startswith("**Cannot be judged.**")
    assert "| Detection |" in text
    assert "fresh real rows" in text
    uri = headline_svg(evaluation.results, references)
    assert len(uri) < 50_000
    svg = base64.b64decode(uri.split(",")[1]).decode()
    assert svg.count("<svg") == svg.count("</svg>") == 1
    import xml.etree.ElementTree as ElementTree

    assert ElementTree.fromstring(svg).tag.endswith("svg")
