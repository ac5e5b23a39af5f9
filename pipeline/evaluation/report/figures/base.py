"""What all figures of the report share: colours, layout, curves.

A figure is {"id", "title", "caption", "height", "data", "layout"}. Colours that depend on light or dark mode are set in
the browser (`page.js`), ids here, so that the same inputs give the same bytes.

Each section's figures are in the module of its name, which ends with three tuples of functions of (results, details):
`FIGURES` are drawn in both reports, `INTERNAL` (from `details["internal"]`) in the internal one alone, `TABLES` are
shown as HTML tables that can be fetched as CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.evaluation.report.anchors import COLOURS
from pipeline.evaluation.results import MetricResult

Figure = dict[str, Any]
Table = dict[str, Any]
Draw = Callable[[Sequence[MetricResult], Mapping[str, Any]], list[Figure]]
Tabulate = Callable[[Sequence[MetricResult], Mapping[str, Any]], list[Table]]
REAL, SYNTHETIC = "#8A8A8A", COLOURS["synthetic"]


def figure(name: str, title: str, caption: str, data: list[Any], layout: dict[str, Any], height: int = 320) -> Figure:
    """A figure with the layout that all share."""
    base = {"margin": {"l": 52, "r": 12, "t": 8, "b": 44}, "height": height, "showlegend": False}
    return {
        "id": f"figure-{name}",
        "title": title,
        "caption": caption,
        "height": height,
        "data": data,
        "layout": {**base, **layout},
    }


def table(name: str, title: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table: cells are texts, numbers (shown with four significant digits) or None (shown as "—").

    Columns whose cells are numbers are set right. The CSV has the numbers as they are.
    """
    return {
        "id": f"table-{name}",
        "title": title,
        "caption": caption,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
    }


def name_ticks(names: Sequence[str], most: int) -> dict[str, Any]:
    """Settings of an axis of names, long ones cut in the middle; hovering and the CSV still have them in full.

    Args:
        names: Of the axis' categories.
        most: Letters that are written; a third of a desktop's width, or a phone's, has room for about 30.
    """
    half = most // 2 - 1
    written = [name if len(name) <= most else f"{name[:half]}…{name[-half:]}" for name in names]
    return {"tickmode": "array", "tickvals": list(names), "ticktext": written}


def chance(ends: list[float]) -> dict[str, Any]:
    """A dashed diagonal between two ends."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "hoverinfo": "skip",
        "line": {"color": REAL, "dash": "dash", "width": 1.4},
    }


def curve_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """A ROC curve from {"fpr", "tpr"}."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": found["fpr"],
        "y": found["tpr"],
        "line": {"color": SYNTHETIC, "width": 2.6},
        "hovertemplate": "false alarms %{x:.1%}<br>found %{y:.1%}<extra></extra>",
    }
