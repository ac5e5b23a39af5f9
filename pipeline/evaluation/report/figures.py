"""The plotly figures of the report, as plain dictionaries made of aggregates.

Each figure is {"id", "title", "caption", "height", "data", "layout"}. Colours that depend on light or dark mode are
set in the browser (`page.js`), ids here, so that the same inputs give the same bytes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.anchors import COLOURS
from pipeline.evaluation.report.words import number, tasks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import MetricResult

Figure = dict[str, Any]
REAL, SYNTHETIC = "#8A8A8A", COLOURS["synthetic"]
MOST_MARGINALS = 9


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


def code_blocks(details: Mapping[str, Any]) -> list[Figure]:
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


def heatmaps(details: Mapping[str, Any]) -> list[Figure]:
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


def detection(details: Mapping[str, Any]) -> list[Figure]:
    """ROC curve of the detector and the columns that betray."""
    found = details.get("detection")
    if not found:
        return []
    curve = figure(
        "detection-roc",
        "Detection: ROC curve",
        "A classifier that tells synthetic from holdout rows. On the dashed chance line it cannot; the further above, "
        "the easier. First seed.",
        [_chance([0, 1]), _curve(found)],
        {
            "xaxis": {"title": {"text": "real rows called synthetic"}, "tickformat": ".0%", "range": [0, 1]},
            "yaxis": {"title": {"text": "synthetic rows found"}, "tickformat": ".0%", "range": [0, 1.01]},
        },
    )
    telling = [(n, v) for n, v in found["importance"] if v > 0.001][:12][::-1]
    if not telling:
        return [curve]
    return [
        curve,
        figure(
            "detection-importance",
            "What betrays the synthetic rows",
            "AUC that the classifier loses when a column is shuffled: long bars are where the generator should be mended. "
            "0 is the null.",
            [{"type": "bar", "orientation": "h", "x": [v for _, v in telling], "y": [n for n, _ in telling],
              "marker": {"color": SYNTHETIC}, "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}],
            {"xaxis": {"title": {"text": "AUC lost"}}, "yaxis": {"automargin": True, "type": "category"}},
        ),
    ]  # fmt: skip


def membership(details: Mapping[str, Any]) -> list[Figure]:
    """ROC curve of the best membership attack on logarithmic axes."""
    found = details.get("membership")
    if not found:
        return []
    ticks = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1]
    axis = {"type": "log", "tickformat": ".1~%", "range": [-3, 0.02], "tickvals": ticks}
    return [
        figure(
            "membership-roc",
            "Membership inference: ROC curve",
            f"Best attack ({found['attack']}), {found['members']:,} people in training against {found['others']:,} others, "
            "both axes logarithmic. The dashed line is guessing: a safe cohort lies on it, above all at its left end, "
            "where the attacker is sure. The dotted line marks 1 % false alarms. First seed.",
            [
                _chance([0.001, 1]),
                {"type": "scatter", "mode": "lines", "x": [0.01, 0.01], "y": [0.001, 1], "hoverinfo": "skip",
                 "line": {"color": REAL, "dash": "dot", "width": 1}},
                {**_curve(found), "y": [max(v, 0.001) for v in found["tpr"]]},
            ],
            {
                "xaxis": {**axis, "title": {"text": "others wrongly flagged"}},
                "yaxis": {**axis, "title": {"text": "members flagged"}},
            },
            380,
        )
    ]  # fmt: skip


def dumbbells(results: Sequence[MetricResult]) -> list[Figure]:
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


def _chance(ends: list[float]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "hoverinfo": "skip",
        "line": {"color": REAL, "dash": "dash", "width": 1.4},
    }


def _curve(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": found["fpr"],
        "y": found["tpr"],
        "line": {"color": SYNTHETIC, "width": 2.6},
        "hovertemplate": "false alarms %{x:.1%}<br>found %{y:.1%}<extra></extra>",
    }


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
