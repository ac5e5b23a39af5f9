"""Tables as they are shown and as CSV: those of the sections, and the one of all figures.

A table's CSV is a link that holds the file itself, so that it can be saved without a network.
"""

from __future__ import annotations

import base64
import csv
import io
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.protocol import key_of
from pipeline.evaluation.references import TITLES
from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.report.words import significant
from pipeline.evaluation.results import REFERENCE_ROWS, stored_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Table
    from pipeline.evaluation.results import MetricResult

    References = Mapping[str, Sequence[MetricResult]]

DIRECTIONS = {1: "higher is better", -1: "lower is better", 0: "closer to the null is better"}
OPEN_ROWS = 12
"""Tables of more rows than this are folded in until somebody opens them."""
LITERAL = "literal"


def shown(table: Table) -> dict[str, Any]:
    """A table ready for the page: texts of cells, which columns are set right, whether it starts open, its CSV."""
    right = [_numeric(row[i] for row in table["rows"]) for i in range(len(table["columns"]))]
    return {
        "id": table["id"],
        "title": table["title"],
        "caption": table["caption"],
        "columns": list(zip(table["columns"], right, strict=True)),
        "rows": [list(zip(map(_text, row), right, strict=True)) for row in table["rows"]],
        "open": len(table["rows"]) <= OPEN_ROWS,
        "file": f"{table['id'].removeprefix('table-')}.csv",
        "csv": csv_link(table["columns"], table["rows"]),
    }


def csv_link(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A data URI of the cells as CSV; what is None is empty, texts that a spreadsheet would run are quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_inert(name) for name in columns])
    writer.writerows([_inert(cell) for cell in row] for row in rows)
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(out.getvalue().encode()).decode()


def results_csv(results: Sequence[MetricResult]) -> str:
    """All pooled results, and those of every seed that are not about a single column; seven digits."""
    names = [name for name in stored_fields() if name not in REFERENCE_ROWS]
    seeds = len({r.replicate for r in results if r.replicate >= 0})
    kept = [r for r in results if r.replicate == -1 or (seeds > 1 and r.scope != "column")]
    return csv_link(names, ([_seven(getattr(r, name)) for name in names] for r in kept))


def _seven(cell: Any) -> Any:
    return float(f"{cell:.7g}") if isinstance(cell, float) else cell


def figures_table(results: Sequence[MetricResult], references: References) -> list[dict[str, Any]]:
    """Every pooled figure that is not about a single column, with direction, null and the reference rows."""
    anchors = {n: {key_of(r): r for r in references.get(n, ())} for n in REFERENCE_ROWS}
    rows: list[dict[str, Any]] = []
    explained: set[str] = set()
    for r in results:
        if r.replicate != -1 or r.scope == "column":
            continue
        spec = find_metric(r.metric).spec
        first = r.metric not in explained
        explained.add(r.metric)
        about = ", ".join(x for x in (r.key1, r.key2) if x)
        beside = [anchors[n].get(key_of(r)) for n in REFERENCE_ROWS]
        rows.append(
            {
                "id": r.metric,
                "title": spec.title + (f" — {about}" if about else ""),
                "caption": f"{spec.caption} {spec.flaw}".strip() if first else "",
                "value": significant(r.value) if r.value is not None else r.status.replace("_", " "),
                "interval": f"{significant(r.ci_lo)} to {significant(r.ci_hi)}" if r.ci_lo is not None else "",
                "direction": "not to be ranked" if r.family == LITERAL else DIRECTIONS[r.direction],
                "null": significant(r.null_value) if r.null_value is not None else "",
                "anchors": [significant(a.value) if a is not None else "—" for a in beside],
                "score": "" if r.score is None else f"{min(max(100 * r.score, -50), 120):.0f} %",
                "note": r.note,
            }
        )
    return rows


def reference_names() -> list[str]:
    """Headings of the reference rows."""
    return [TITLES[n] for n in REFERENCE_ROWS]


def _numeric(cells: Iterable[Any]) -> bool:
    known = [c for c in cells if c is not None]
    return bool(known) and all(isinstance(c, int | float) and not isinstance(c, bool) for c in known)


def _text(cell: Any) -> str:
    if cell is None:
        return "—"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return significant(cell) if isinstance(cell, float) else str(cell)


def _inert(cell: Any) -> Any:
    """A level or a code may begin like a formula; a quote in front keeps spreadsheets from running it."""
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{cell}"
    return cell


__all__ = ["DIRECTIONS", "csv_link", "figures_table", "reference_names", "results_csv", "shown"]
