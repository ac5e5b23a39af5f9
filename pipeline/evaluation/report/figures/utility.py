"""Figures of utility."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, figure
from pipeline.evaluation.report.words import tasks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult


def dumbbells(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """AUROC trained on real and on synthetic rows, for each task and model."""
    names = {"hgb": "boosting", "lr": "logistic"}
    labels: list[str] = []
    data: list[Any] = []
    points: dict[str, list[MetricResult]] = {"util.trtr_auroc": [], "util.tstr_auroc": []}
    for task in tasks_of(results):
        for model, title in names.items():
            pair = {
                m: next((r for r in results if (r.metric, r.key1, r.key2, r.replicate) == (m, task, model, -1)), None)
                for m in points
            }
            if any(r is None or r.value is None for r in pair.values()):
                continue
            label = f"{task}, {title}"
            labels.append(label)
            for metric, row in pair.items():
                if row is not None:
                    points[metric].append(row)
            data.append(
                {"type": "scatter", "mode": "lines", "y": [label, label], "hoverinfo": "skip",
                 "x": [r.value for r in pair.values() if r is not None], "line": {"color": REAL, "width": 3},
                 "showlegend": False}
            )  # fmt: skip
    if not labels:
        return []
    for metric, title, colour, symbol in (
        ("util.trtr_auroc", "trained on real", "#009E73", "circle-open"),
        ("util.tstr_auroc", "trained on synthetic", SYNTHETIC, "circle"),
    ):
        rows = points[metric]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": [r.value for r in rows],
                "y": labels,
                "marker": {"color": colour, "size": 12, "symbol": symbol, "line": {"width": 2.5, "color": colour}},
                "showlegend": True,
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [(r.ci_hi or 0.0) - (r.value or 0.0) if r.ci_hi is not None else 0 for r in rows],
                    "arrayminus": [(r.value or 0.0) - (r.ci_lo or 0.0) if r.ci_lo is not None else 0 for r in rows],
                    "color": colour,
                    "thickness": 1.4,
                },
                "hovertemplate": "%{y}<br>AUROC %{x:.3f}<extra>" + title + "</extra>",
            }
        )
    return [
        figure(
            "utility-dumbbell",
            "Trained on real against trained on synthetic",
            "AUROC on real holdout people with 95 % intervals. Further right is better; 0.5 is chance. A short bar between "
            "the two dots means that little is lost.",
            data,
            {
                "showlegend": True,
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "xaxis": {"title": {"text": "AUROC on real people"}},
                "yaxis": {"automargin": True, "type": "category", "autorange": "reversed"},
                "margin": {"l": 20, "r": 12, "t": 36, "b": 44},
            },
            170 + 44 * len(labels),
        )
    ]


FIGURES: tuple[Draw, ...] = (dumbbells,)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = ()
