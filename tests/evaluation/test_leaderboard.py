"""Order, ties and cells of the leaderboard, and rows of generators without figures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluation.leaderboard import COLUMNS, Entry, cells, leaderboard, to_markdown
from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.report.leaderboard_page import (
    LEFT,
    LETTER,
    WIDTH,
    label_places,
    leaderboard_html,
    round_ticks,
)
from pipeline.evaluation.results import MetricResult
from pipeline.release.gate import Verdict


def figures(utility: float, risk: float, se: float = 0.01) -> list[MetricResult]:
    def row(metric: str, value: float, **more: object) -> MetricResult:
        return replace(find_metric(metric).spec.result(value, se=se, n=2000), **more)

    return [
        row("fid.marg.jsd", 0.01),
        row("fid.dep.corr_rmse", 0.05),
        row("fid.joint.detect_auc", 0.7),
        row("util.ratio", utility, scope="task", key1="easy"),
        row("util.ratio", utility - 0.2, scope="task", key1="hard"),
        row("util.tstr_auroc", 0.6, scope="task", key1="hard"),
        row("priv.mia.max_auc", risk),
        find_metric("priv.mia.tpr_at_1pct_fpr").spec.result(None, note="too few"),
        row("priv.exact_unique", 2, replicate=1),
        row("priv.exact_unique", 0, replicate=0),
        row("priv.exact_unique", 1),
    ]


def entry(status: str, utility: float, risk: float, se: float = 0.01) -> Entry:
    return Entry(results=figures(utility, risk, se), verdict=Verdict(status, []), fit_seconds=12.34)


ENTRIES = {
    "refusing": Entry(status="refused", reason="cannot take code blocks"),
    "useful": entry("pass", 0.99, 0.54),
    "private": entry("pass", 0.70, 0.50),
    "beaten": entry("pass", 0.70, 0.60),
    "broken": entry("fail", 1.0, 0.50),
    "unsure": entry("underpowered", 0.9, 0.52),
    "crashed": Entry(status="failed", reason="loss is not finite | step 3"),
    "absent": Entry(status="not_enabled", reason="not in the cohort file"),
}


def test_order_and_rows_without_figures() -> None:
    rows = leaderboard(ENTRIES, {"ref_fresh": figures(1.0, 0.5), "ref_train": figures(1.0, 1.0)})
    assert [r["generator"] for r in rows] == [
        "useful", "private", "beaten", "unsure", "broken", "absent", "crashed", "refusing",
        "fresh real rows", "training rows copied",
    ]  # fmt: skip
    assert [r["layer"] for r in rows[:3]] == [1, 1, 2]
    assert json.loads(json.dumps(rows)) == rows
    by_name = {r["generator"]: cells(r) for r in rows}
    assert all(len(c) == len(COLUMNS) for c in by_name.values())
    assert by_name["crashed"][1] == "failed: loss is not finite | step 3"
    assert "refused: cannot take code blocks" in by_name["refusing"]
    assert by_name["fresh real rows"][1] == "reference"


def test_the_worst_task_and_the_worst_seed_are_shown() -> None:
    row = leaderboard({"useful": ENTRIES["useful"]}, {})[0]
    assert row["task"] == "hard"
    shown = dict(zip(COLUMNS, cells(row), strict=True))
    assert shown["utility ratio ↑"] == "0.79 ± 0.02"
    assert shown["exact copies ↓"] == "2"
    assert shown["TPR at 1 % FPR ↓"] == "n. e."
    assert shown["fit s"] == "12.3"


def test_overlapping_generators_share_a_badge() -> None:
    tied = leaderboard({"a": entry("pass", 0.9, 0.52, 0.02), "b": entry("pass", 0.91, 0.53, 0.02)}, {})
    assert [r["tier"] for r in tied] == ["1a", "1a"]
    apart = leaderboard({"a": entry("pass", 0.7, 0.50), "b": entry("pass", 0.99, 0.6)}, {})
    assert [(r["generator"], r["tier"]) for r in apart] == [("b", "1a"), ("a", "1b")]


def test_markdown_has_one_line_a_row() -> None:
    rows = leaderboard(ENTRIES, {})
    lines = to_markdown(rows).strip().split("\n")
    assert len(lines) == 2 + len(rows)
    assert all(line.replace("\\|", "").count("|") == len(COLUMNS) + 1 for line in lines)


def test_the_page_stands_alone_and_has_every_row() -> None:
    rows = leaderboard(ENTRIES, {"ref_fresh": figures(1.0, 0.5), "ref_train": figures(1.0, 1.0)})
    page = leaderboard_html(rows, title="support <2026-10>")
    assert page == leaderboard_html(rows, title="support <2026-10>")
    assert "support &lt;2026-10&gt;" in page
    assert "src=" not in page
    assert "http" not in page.replace("http-equiv", "")
    for row in rows:
        assert f'<th scope="row">{row["generator"]}</th>' in page
    line = page.index('class="line"')
    assert page.index('<th scope="row">unsure</th>') < line < page.index('<th scope="row">broken</th>')
    assert page.count("<title>") == 1 + 7, "a mark for each of seven rows with both figures"


def test_the_page_without_figures() -> None:
    page = leaderboard_html(leaderboard({"crashed": ENTRIES["crashed"]}, {}), title="x")
    assert "No generator has both figures." in page


def test_labels_keep_off_one_another_and_inside_the_picture() -> None:
    texts = ["gaussian_copula", "fresh real rows", "columns shuffled", "independent", "training rows copied", "x"]
    points = [(300.0, 100.0), (303.0, 104.0), (310.0, 98.0), (120.0, 320.0), (612.0, 60.0), (70.0, 20.0)]
    boxes = []
    for (x, y, anchor), text in zip(label_places(points, texts), texts, strict=True):
        left = x if anchor == "start" else x - LETTER * len(text)
        boxes.append((left, y - 11, left + LETTER * len(text), y + 3))
    assert all(box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 for box in boxes)
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@pytest.mark.parametrize(("low", "high"), [(-2.08, 1.84), (0.467, 0.791), (0.4999, 0.5021), (12.0, 4_300.0)])
def test_ticks_are_round(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert all(low <= t <= high for t in ticks)
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])
    assert all(len(f"{t:g}".strip("-0.").replace(".", "")) <= 5 for t in ticks)
