"""The index over all cohorts and months: trends, limits, drift, links, and the same bytes again."""

from __future__ import annotations

import re

import pytest

from pipeline.evaluation.report.control import Point, alarm, limits, said
from pipeline.evaluation.report.headlines import HEADLINES
from pipeline.evaluation.report.index import IndexRow, drift, index_page

JSD, UTILITY = HEADLINES[0], next(h for h in HEADLINES if h.metric == "util.ratio")


def months(*values: float | None) -> list[Point]:
    return [Point(f"2026-{i + 1:02d}", v) for i, v in enumerate(values)]


def row(month: str, jsd: float, **more: object) -> IndexRow:
    given = {"verdict": "pass", "candidate": True, "figures": {"fid.marg.jsd": (jsd, jsd - 0.002, jsd + 0.002)}, **more}
    return IndexRow("support", "SUPPORT & <others>", month, "vae", **given)


def test_limits_are_those_of_an_individuals_chart() -> None:
    # Moving ranges 2, 1, 3: mean 2, so the limits are the mean 10.25 +- 2.66 * 2. The newest month is not part of them.
    found = limits(months(10, 12, 11, 8, 99))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((10.25, 10.25 - 5.32, 10.25 + 5.32))
    assert limits(months(10, 12, None, 11, 99)) is None


def test_an_alarm_is_a_change_for_the_worse() -> None:
    steady = (0.010, 0.011, 0.010, 0.012)
    assert "within the limits" in said(JSD, months(*steady, 0.011))
    assert not alarm(JSD, months(*steady, 0.011))
    assert "worse than the limits" in said(JSD, months(*steady, 0.03))
    assert alarm(JSD, months(*steady, 0.03))
    assert "better than the limits" in said(JSD, months(*steady, 0.001))
    assert not alarm(JSD, months(*steady, 0.001))
    assert alarm(UTILITY, months(0.95, 0.94, 0.95, 0.96, 0.6))
    assert "4 earlier months are needed for limits, there are 1" in said(JSD, months(0.01, 0.02))


def test_drift_counts_beyond_both_intervals() -> None:
    released = row("2026-01", 0.010, release="support--2026-01--r1")
    same, near, far = row("2026-01", 0.01, release="support--2026-01--r1"), row("2026-02", 0.0125), row("2026-02", 0.02)
    assert drift(near, [row("2026-01", 0.01), near]) is None
    assert drift(same, [released, same])["same"]
    (line,) = drift(near, [released, near])["rows"]
    assert (line["judged"], line["change"]) == ("no change beyond the intervals", "+0.0025")
    (line,) = drift(far, [released, far])["rows"]
    assert line["judged"] == "worse"
    (line,) = drift(row("2026-02", 0.001), [released])["rows"]
    assert line["judged"] == "better"


def test_the_page_needs_nothing_else_and_is_the_same_again() -> None:
    rows = [row(f"2026-{i:02d}", 0.01 + i / 1000, report=f"evaluation/vae/{i}/report.html") for i in range(1, 7)]
    rows[2] = row("2026-03", 0.013, release="support--2026-03--r1")
    rows.append(IndexRow("support", "", "2026-06", "medgan", status="refused", reason="needs <binary> columns"))
    rows.append(IndexRow("demo", "Demo", "2026-06", "vae", verdict="fail", why=("too few",) * 5))
    page = index_page(rows)
    assert page == index_page(rows)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|<script|<link|@import", page)
    assert page.index('id="demo"') < page.index('id="support"')
    assert 'href="evaluation/vae/6/report.html"' in page
    assert "SUPPORT &amp; &lt;others&gt;" in page
    assert "needs &lt;binary&gt; columns" in page
    assert page.count("support--2026-03--r1") >= 2
    assert "(and 2 more)" in page
    assert "2026-03: 0.0130, released" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_an_empty_house_has_a_page_too() -> None:
    assert "No cohort was evaluated yet" in index_page([])
