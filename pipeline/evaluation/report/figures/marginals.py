"""Figures of single columns and codes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, figure
from pipeline.evaluation.report.words import number

MOST_MARGINALS = 9

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult


def marginals(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """The columns with the largest divergence, worst first, holdout and synthetic over one another."""
    divergence = {r.key1: r for r in results if r.metric == "fid.marg.jsd" and r.scope == "column" and r.replicate == 0}
    described = {c["name"]: c for c in details.get("columns", [])}
    worst = sorted((n for n in divergence if n in described), key=lambda n: (-(divergence[n].value or 0.0), n))[
        :MOST_MARGINALS
    ]
    found = []
    for i, name in enumerate(worst):
        column, row = described[name], divergence[name]
        caption = f"Divergence {number(row.value, 4)} bits; two real samples differ by {number(row.null_value, 4)}."
        unit = f" ({column['unit']})" if column["unit"] else ""
        data = _bars(column) if "levels" in column else _steps(column)
        if not data:
            continue
        found.append(
            figure(
                f"marginal-{i}",
                name + unit,
                caption,
                data,
                {
                    "barmode": "group",
                    "bargap": 0.25,
                    "yaxis": {"title": {"text": "share"}, "rangemode": "tozero", "tickformat": ".0%"},
                    "xaxis": {"type": "category", "automargin": True} if "levels" in column else {},
                    "margin": {"l": 52, "r": 8, "t": 8, "b": 36},
                },
                230,
            )
        )
    return found


def code_blocks(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Prevalence of each common code, holdout against synthetic, on logarithmic axes."""
    found = []
    for i, block in enumerate(details.get("blocks", [])):
        least = min([0.001, *(s for s in block["real"] if s > 0)])
        made = [max(s, least / 2) for s in block["synthetic"]]
        data = [
            {"type": "scatter", "mode": "lines", "x": [least, 1], "y": [least, 1], "hoverinfo": "skip",
             "line": {"color": REAL, "dash": "dash", "width": 1}},
            {"type": "scatter", "mode": "markers", "x": block["real"], "y": made, "text": block["codes"],
             "hovertemplate": "%{text}<br>real %{x:.2%}<br>synthetic %{y:.2%}<extra></extra>",
             "marker": {"color": SYNTHETIC, "size": 7, "opacity": 0.7}},
        ]  # fmt: skip
        axis = {"type": "log", "tickformat": ".2~%"}
        found.append(
            figure(
                f"block-{i}",
                f"Codes of '{block['name']}'",
                "Share of rows with each code. On the dashed line the shares are equal. Codes with fewer than 11 real "
                f"rows are left out ({block['left_out']} codes).",
                data,
                {"xaxis": {**axis, "title": {"text": "holdout"}}, "yaxis": {**axis, "title": {"text": "synthetic"}}},
            )
        )
    return found


def _bars(column: Mapping[str, Any]) -> list[Any]:
    return [
        {"type": "bar", "x": column["levels"], "y": column[key], "name": name, "marker": {"color": colour},
         "hovertemplate": "%{x}: %{y:.1%}<extra>" + name + "</extra>"}
        for key, name, colour in (("real", "holdout", REAL), ("synthetic", "synthetic", SYNTHETIC))
    ]  # fmt: skip


def _steps(column: Mapping[str, Any]) -> list[Any]:
    edges = column["edges"]
    if not edges:
        return []
    middle = [float(f"{(a + b) / 2:.6g}") for a, b in pairwise(edges)]
    width = edges[1] - edges[0]
    hover = "%{x}: %{y:.1%}<extra>"
    return [
        {"type": "bar", "x": middle, "y": column["real"], "width": width, "marker": {"color": REAL, "opacity": 0.55},
         "hovertemplate": hover + "holdout</extra>"},
        {"type": "scatter", "mode": "lines", "x": edges, "y": [*column["synthetic"], column["synthetic"][-1]],
         "line": {"shape": "hv", "color": SYNTHETIC, "width": 2.4},
         "hovertemplate": hover + "synthetic</extra>"},
    ]  # fmt: skip


FIGURES: tuple[Draw, ...] = (
    marginals,
    code_blocks,
)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = ()
