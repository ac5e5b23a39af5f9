"""The index: one page over all cohorts, months and generators, with trends and drift against the last release.

A pure function of plain rows; where they come from is in `workflow/report_index.py`. The page needs neither scripts
nor a network, and the same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.control import Point, alarm, chart, said
from pipeline.evaluation.report.headlines import HEADLINES, Headline
from pipeline.evaluation.report.words import number

if TYPE_CHECKING:
    from collections.abc import Sequence

Span = tuple[float | None, float | None, float | None]
"""Value and both ends of its interval."""
VERDICTS = {"pass": "✓ pass", "fail": "✗ fail", "underpowered": "? too few", "": "– not judged"}


@dataclass(frozen=True)
class IndexRow:
    """One generator in one cohort-month.

    Attributes:
        cohort: Name of the cohort.
        title: What the cohort is, for people.
        month: YYYY-MM.
        generator: Name of the generator.
        status: "ok", or why there is no figure: "not_run", "refused", "failed".
        reason: In words, where it is not ok.
        verdict: "pass", "fail", "underpowered", or "" where none was given.
        why: Words of the rules that keep it from passing, the gravest first.
        figures: Metric id to value and interval; utility under "util.ratio", of the worst task.
        report: Where the report lies, relative to the index; "" if there is none.
        board: Where the leaderboard of the month lies, the same way.
        candidate: Is it the generator that the cohort's file names for release?
        release: Id of the release that stands for this month and generator; "" if there is none.
    """

    cohort: str
    title: str
    month: str
    generator: str
    status: str = "ok"
    reason: str = ""
    verdict: str = ""
    why: tuple[str, ...] = ()
    figures: Mapping[str, Span] = field(default_factory=dict)
    report: str = ""
    board: str = ""
    candidate: bool = False
    release: str = ""


def index_page(rows: Sequence[IndexRow]) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = files("pipeline.evaluation.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((source / "index.html.j2").read_text(encoding="utf-8"))
    names = sorted({r.cohort for r in rows})
    cohorts = [_cohort([r for r in rows if r.cohort == name]) for name in names]
    return template.render(
        cohorts=cohorts,
        headings=[h.title for h in HEADLINES if any(h.metric in r.figures for r in rows)],
        style=Markup((source / "style.css").read_text(encoding="utf-8")),
    )


def _cohort(rows: Sequence[IndexRow]) -> dict[str, Any]:
    """Everything that the page says of one cohort."""
    months = sorted({r.month for r in rows}, reverse=True)
    watched = _watched(rows)
    lines = {name: sorted((r for r in rows if r.generator == name), key=lambda r: r.month) for name in _names(rows)}
    own = lines[watched]
    charts = [c for c in (_chart(item, watched, lines) for item in HEADLINES) if c is not None]
    return {
        "name": rows[0].cohort,
        "title": next((r.title for r in rows if r.title), ""),
        "watched": watched,
        "is_candidate": own[-1].candidate,
        "state": own[-1].verdict if own[-1].status == "ok" else "",
        "said": VERDICTS[own[-1].verdict] if own[-1].status == "ok" else own[-1].status.replace("_", " "),
        "newest": own[-1].month,
        "why": own[-1].reason or "; ".join(own[-1].why[:3]),
        "more": max(0, len(own[-1].why) - 3),
        "release": next((r for r in sorted(rows, key=lambda r: r.month, reverse=True) if r.release), None),
        "alarms": [c["title"] for c in charts if c["alarm"]],
        "charts": charts,
        "drift": drift(own[-1], rows),
        "months": [_month(m, [r for r in rows if r.month == m]) for m in months],
    }


def _names(rows: Sequence[IndexRow]) -> list[str]:
    return list(dict.fromkeys(r.generator for r in rows))


def _watched(rows: Sequence[IndexRow]) -> str:
    """The generator whose trend is drawn: the one named for release, else the one with most judged months."""
    newest = max(r.month for r in rows)
    named = [r.generator for r in rows if r.candidate and r.month == newest]
    if named:
        return named[0]
    return max(_names(rows), key=lambda n: sum(r.generator == n and r.status == "ok" for r in rows))


def _points(line: Sequence[IndexRow], metric: str) -> list[Point]:
    found = []
    for row in line:
        if metric in row.figures:
            value, lo, hi = row.figures[metric]
            found.append(Point(row.month, value, lo, hi, bool(row.release)))
    return found


def _chart(item: Headline, watched: str, lines: Mapping[str, Sequence[IndexRow]]) -> dict[str, Any] | None:
    from markupsafe import Markup

    own = _points(lines[watched], item.metric)
    others = [_points(line, item.metric) for name, line in lines.items() if name != watched]
    drawn = chart(item, own, others)
    if not drawn:
        return None
    return {
        "title": item.title,
        "question": f"{item.question} {'Higher' if item.better == 'right' else 'Lower'} is better.",
        "said": said(item, own),
        "alarm": alarm(item, own),
        "plot": Markup(drawn),
    }


def drift(now: IndexRow, rows: Sequence[IndexRow]) -> dict[str, Any] | None:
    """The newest month of a generator beside the last release that stands; None without a release.

    A difference counts where it exceeds the root of the summed squares of both half intervals.
    """
    releases = [r for r in rows if r.release]
    if not releases:
        return None
    last = max(releases, key=lambda r: (r.month, r.release))
    if (last.month, last.generator) == (now.month, now.generator):
        return {"release": last.release, "same": True, "rows": []}
    found = []
    for item in HEADLINES:
        if item.metric not in last.figures or item.metric not in now.figures:
            continue
        then, today = last.figures[item.metric], now.figures[item.metric]
        found.append({"title": item.title, **_change(item, then, today)})
    return {"release": last.release, "same": False, "rows": found, "then": last, "now": now}


def _change(item: Headline, then: Span, today: Span) -> dict[str, str]:
    def text(value: float | None) -> str:
        return number(value, item.digits, percent=item.percent)

    if then[0] is None or today[0] is None:
        return {"then": text(then[0]), "now": text(today[0]), "change": "—", "judged": "not estimable", "state": ""}
    change = today[0] - then[0]
    ends = [(s[1], s[2]) for s in (then, today)]
    shown = {"then": text(then[0]), "now": text(today[0]), "change": ("+" if change > 0 else "") + text(change)}
    halves = [(hi - lo) / 2 for lo, hi in ends if lo is not None and hi is not None]
    if len(halves) < len(ends):
        return {**shown, "judged": "no interval", "state": ""}
    if abs(change) <= sum(h * h for h in halves) ** 0.5:
        return {**shown, "judged": "no change beyond the intervals", "state": "pass"}
    better = (change > 0) == (item.better == "right")
    return {**shown, "judged": "better" if better else "worse", "state": "pass" if better else "fail"}


def _month(month: str, rows: Sequence[IndexRow]) -> dict[str, Any]:
    return {"month": month, "board": next((r.board for r in rows if r.board), ""), "rows": [_line(r) for r in rows]}


def _line(row: IndexRow) -> dict[str, Any]:
    cells = []
    for item in HEADLINES:
        value, lo, hi = row.figures.get(item.metric, (None, None, None))
        text = number(value, item.digits, percent=item.percent) if item.metric in row.figures else ""
        span = "" if lo is None or hi is None else f"{number(lo, item.digits)} to {number(hi, item.digits)}"
        cells.append({"heading": item.title, "text": text, "span": span})
    return {
        "row": row,
        "state": row.verdict if row.status == "ok" else "none",
        "said": VERDICTS[row.verdict] if row.status == "ok" else row.status.replace("_", " "),
        "cells": cells,
    }
