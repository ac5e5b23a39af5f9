"""Figures of columns together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.anchors import COLOURS
from pipeline.evaluation.report.figures.base import SYNTHETIC, Figure, Table, figure, name_ticks, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

MOST_BELOW = 20
"""Columns whose names are written below a heat map as well as beside it."""
MOST_LETTERS = 24


def heatmaps(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Correlations real, synthetic, and their difference."""
    matrix = details.get("correlation")
    if not matrix:
        return []
    names = matrix["names"]
    gap = [
        [round(s - r, 3) for r, s in zip(a, b, strict=True)]
        for a, b in zip(matrix["real"], matrix["synthetic"], strict=True)
    ]
    largest = max((abs(v) for line in gap for v in line), default=0.0)
    others = matrix["left_out"]
    left_out = f" {others} other column{' is' if others == 1 else 's are'} not shown." if others else ""
    shown = [
        ("real", "Holdout", "Correlations of the real holdout rows: what should be met. Columns that belong together "
         "in the training rows stand side by side.", matrix["real"], 1.0),
        ("synthetic", "Synthetic", "Correlations of the synthetic rows: the same pattern as the holdout's is good, paler "
         "squares are lost dependence.", matrix["synthetic"], 1.0),
        ("difference", "Synthetic minus holdout", "0 everywhere (white) would be perfect, and two real samples differ a "
         "little; note the narrower scale." + left_out, gap, max(0.1, round(largest, 2))),
    ]  # fmt: skip
    many = len(names) > MOST_BELOW
    size = 200 + 9 * len(names) if many else 300 + 6 * len(names)
    ticks = name_ticks(names, MOST_LETTERS)
    names_axis = {"automargin": True, "tickfont": {"size": 9}, "type": "category", **ticks}
    order = " From left to right the columns stand in the same order as from top to bottom." if many else ""
    return [
        figure(
            f"correlation-{key}",
            title,
            caption + order,
            [
                {
                    "type": "heatmap",
                    "z": values,
                    "x": names,
                    "y": names,
                    "zmin": -limit,
                    "zmax": limit,
                    "colorscale": [[0, "#D55E00"], [0.5, "#F7F7F7"], [1, "#0072B2"]],
                    "colorbar": {
                        "orientation": "h",
                        "thickness": 8,
                        "y": 1.0,
                        "yanchor": "bottom",
                        "ypad": 4,
                        "nticks": 5,
                    },
                    "hovertemplate": "%{y}<br>%{x}<br>%{z:.2f}<extra></extra>",
                }
            ],
            {
                "xaxis": {
                    **names_axis,
                    "tickangle": -90,
                    "showticklabels": not many,
                    "ticks": "" if many else "outside",
                },
                "yaxis": {**names_axis, "autorange": "reversed"},
                "margin": {"l": 20, "r": 16, "t": 24, "b": 20},
            },
            size,
        )
        for key, title, caption, values, limit in shown
    ]


def associations(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Error of associations by kinds of columns, beside fresh real rows and shuffled columns."""
    found = [r for r in results if r.metric == "fid.dep.assoc" and r.replicate == -1 and r.key1 and r.value is not None]
    if not found:
        return []
    names = [r.key1.replace("level", "category") for r in found]
    shown = [
        ("synthetic", SYNTHETIC, "circle", [r.value for r in found]),
        ("fresh real rows", COLOURS["ref_fresh"], "diamond", [r.ref_fresh for r in found]),
        ("columns shuffled", COLOURS["ref_marginal"], "x", [r.ref_marginal for r in found]),
    ]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": values,
            "y": names,
            "marker": {"color": colour, "symbol": symbol, "size": 11},
            "hovertemplate": f"{name}<br>%{{y}}: %{{x:.3f}}<extra></extra>",
        }
        for name, colour, symbol, values in shown
    ]
    data[0]["error_x"] = {
        "type": "data",
        "symmetric": False,
        "array": [None if r.ci_hi is None or r.value is None else r.ci_hi - r.value for r in found],
        "arrayminus": [None if r.ci_lo is None or r.value is None else r.value - r.ci_lo for r in found],
        "color": SYNTHETIC,
    }
    return [
        figure(
            "associations",
            "Association error by kinds of columns",
            "How far associations of pairs of columns lie from the holdout's, by what the two columns are (root mean "
            "squared difference, 95 % interval). Further left is better; fresh real rows are the null, shuffled columns "
            "are what a generator reaches that keeps no dependence at all.",
            data,
            {
                "showlegend": True,
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "xaxis": {"title": {"text": "association error"}, "rangemode": "tozero"},
                "yaxis": {"automargin": True, "autorange": "reversed", "type": "category"},
                "margin": {"l": 20, "r": 16, "t": 56, "b": 44},
            },
            136 + 46 * len(found),
        )
    ]


def broken_pairs(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """The pairs of columns whose correlation differs most."""
    rows = (details.get("correlation") or {}).get("broken") or []
    if not rows:
        return []
    return [
        table(
            "broken-pairs",
            "Pairs whose correlation differs most",
            "The 20 pairs of columns whose correlation in the synthetic rows lies furthest from the holdout's. A difference "
            "of 0 is perfect; that the largest of many pairs differ is expected even of fresh real rows.",
            ["column", "and column", "holdout", "synthetic", "difference"],
            [[a, b, real, made, round(made - real, 3)] for a, b, real, made in rows],
        )
    ]


def two_way_tables(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """The pairs of columns whose two-way tables overlap least."""
    rows = details.get("two_way") or []
    if not rows:
        return []
    return [
        table(
            "two-way",
            "Two-way tables that overlap least",
            "The 20 pairs of columns whose two-way tables have least in common with the holdout's (1 is the same, 0 has "
            "nothing in common). Tables of many cells overlap less even between two real samples.",
            ["column", "and column", "overlap"],
            rows,
        )
    ]


FIGURES: tuple[Draw, ...] = (heatmaps, associations)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (broken_pairs, two_way_tables)
