"""The index page of all reports: gathered from the leaderboards on the lake, kept beside the reports.

It is made anew after every leaderboard, so it is never part of a version: it may be deleted, and the next leaderboard
brings it back. What it shows is in `evaluation/report/index.py`.
"""

from __future__ import annotations

from os.path import relpath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.evaluation.leaderboard import FIGURES
from pipeline.evaluation.report.index import IndexRow, index_page
from pipeline.store.disk import storage_errors, write_over
from pipeline.workflow.board import BOARD
from pipeline.workflow.released import all_issues
from pipeline.workflow.reports import REPORT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.evaluation.report.index import Span
    from pipeline.features.spec import CohortBook
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake

PAGE = "index.html"
SHOWN = ("ok", "refused", "failed")
"""Statuses that are worth a line over all months; who is not enabled or was not run is in the leaderboard."""


def index_path(home: Home) -> Path:
    """Where the page lies."""
    return home.reports / PAGE


def publish_index(lake: Lake, book: CohortBook) -> Path:
    """Write the page from what the lake has now; gives where it lies.

    Readers see the old page or the new one, never half of one. Reports on an object store are not linked: they would
    have to be fetched, every one.
    """
    path = index_path(lake.home)
    with storage_errors(PAGE):
        write_over(path, index_page(index_rows(lake, book)).encode())
    return path


def index_rows(lake: Lake, book: CohortBook) -> list[IndexRow]:
    """One row a generator, cohort and month, by cohort and month, in the order of the leaderboards."""
    released = _released(lake)
    found = []
    for partition in sorted(lake.tables.partitions("leaderboard"), key=lambda p: (p["cohort"], p["month"])):
        version = lake.tables.current("leaderboard", partition)
        if version is None:
            continue
        cohort, month = partition["cohort"], partition["month"]
        spec = book.cohorts.get(cohort)
        named = spec.release.generator if spec is not None else None
        for row in lake.tables.read(version).to_pylist():
            if row["reference"] or row["status"] not in SHOWN:
                continue
            found.append(
                IndexRow(
                    cohort,
                    spec.title if spec is not None else "",
                    month[:7],
                    row["key"],
                    status=row["status"],
                    reason=row["reason"] or "",
                    verdict=row["verdict"] or "",
                    why=tuple(row.get("why") or ()),
                    figures=_figures(row),
                    report=_link(lake, f"evaluation/{row['key']}", partition, REPORT),
                    board=_link(lake, "leaderboard", partition, BOARD),
                    candidate=row["key"] == named,
                    release=released.get((cohort, month, row["key"]), ""),
                )
            )
    return found


def _figures(row: Mapping[str, Any]) -> dict[str, Span]:
    """Metric id to value and interval, of the leaderboard's cells that hold one."""
    cells = {shown.metric: row.get(shown.key) for shown in FIGURES}
    return {m: (c["value"], c["lo"], c["hi"]) for m, c in cells.items() if isinstance(c, dict)}


def _link(lake: Lake, asset: str, partition: Mapping[str, str], name: str) -> str:
    """From the index page to a file of the current version in the store of reports; "" if there is none."""
    if lake.address is not None:
        return ""
    version = lake.reports.current(asset, partition)
    if version is None or name not in version.files:
        return ""
    return quote(relpath(lake.reports.path(version, name), lake.home.reports))


def _released(lake: Lake) -> dict[tuple[str, str, str], str]:
    """(cohort, month, generator) to the id of the newest release that stands."""
    return {
        (cohort, issue.month, issue.generator): issue.release_id
        for cohort, issues in all_issues(lake).items()
        for issue in issues
        if issue.withdrawn is None
    }
