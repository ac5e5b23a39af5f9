"""Figures of columns together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.figures.base import Figure, figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult


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
    left_out = f" {matrix['left_out']} columns with smaller differences are not shown." if matrix["left_out"] else ""
    shown = [
        ("real", "Holdout", "Correlations of the real holdout rows: what should be met.", matrix["real"], 1.0),
        ("synthetic", "Synthetic", "Correlations of the synthetic rows.", matrix["synthetic"], 1.0),
        ("difference", "Synthetic minus holdout", "0 everywhere would be perfect; note the narrower scale." + left_out, gap,
         max(0.1, round(largest, 2))),
    ]  # fmt: skip
    size = 300 + 6 * len(names)
    names_axis = {"automargin": True, "tickfont": {"size": 9}, "type": "category", "dtick": 1}
    return [
        figure(
            f"correlation-{key}",
            title,
            caption,
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
                "xaxis": {**names_axis, "tickangle": -90},
                "yaxis": {**names_axis, "autorange": "reversed"},
                "margin": {"l": 20, "r": 16, "t": 24, "b": 20},
            },
            size,
        )
        for key, title, caption, values, limit in shown
    ]


FIGURES: tuple[Draw, ...] = (heatmaps,)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = ()
