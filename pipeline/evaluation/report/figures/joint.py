"""Figures of joint fidelity: detection, projections, clusters, typicality, neighbourhoods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.protocol import headline
from pipeline.evaluation.report.anchors import COLOURS
from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, chance, curve_of, figure, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

FRESH = COLOURS["ref_fresh"]
LEGEND = {
    "showlegend": True,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    "margin": {"l": 52, "r": 12, "t": 34, "b": 44},
}
DETECTORS = {
    "lr": "logistic regression",
    "rf": "random forest",
    "mlp": "neural network",
    "hgb": "gradient boosting",
}
NEIGHBOURHOODS = ("density", "coverage", "precision", "recall")


def detection(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """ROC curve of the detector and the columns that betray."""
    found = details.get("detection")
    if not found:
        return []
    curve = figure(
        "detection-roc",
        "Detection: ROC curve",
        "A classifier that tells synthetic from holdout rows. On the dashed chance line it cannot; the further above, "
        "the easier. First seed.",
        [chance([0, 1]), curve_of(found)],
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
              "marker": {"color": SYNTHETIC}, "width": 0.6 if len(telling) > 2 else 0.3,
              "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}],
            {"xaxis": {"title": {"text": "AUC lost"}}, "yaxis": {"automargin": True, "type": "category"}},
        ),
    ]  # fmt: skip


def detectors(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """AUC of every classifier with its interval, fresh real rows beside it."""
    rows = [(DETECTORS[k], headline(results, "fid.joint.detect_auc_models", key1=k)) for k in DETECTORS]
    known = [(name, r) for name, r in rows if r is not None and r.value is not None]
    if not known:
        return []
    return [
        figure(
            "detectors",
            "Detection by four classifiers",
            "AUC with its 95 % interval; the circle is what fresh real rows get. 0.5 (dashed) is the null, further right is "
            "easier to tell. Where only the linear classifier fails, columns are right one by one and wrong together.",
            [
                _dots("synthetic", [r for _, r in known], [n for n, _ in known]),
                *_fresh([r for _, r in known], [n for n, _ in known]),
            ],
            {
                **LEGEND,
                "xaxis": {"title": {"text": "AUC"}, "range": [0.3, 1.02]},
                "yaxis": {"automargin": True, "type": "category"},
                "shapes": [_line(0.5)],
            },
            240,
        )
    ]


def projections(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Density of holdout and of synthetic rows on the first two components, on one scale."""
    found = details.get("projection")
    seen = [v for line in (found or {}).get("real", []) for v in line if v]
    if not found or not seen:  # every cell holds fewer than 11 real rows: a blank picture says nothing
        return []
    top = max((v for side in ("real", "synthetic") for line in found[side] for v in line if v is not None), default=0.0)
    axes = _component_axes(found["explained"])
    return [
        figure(
            f"projection-{side}",
            f"{title} on two principal components",
            "Share of rows in each cell, both pictures on one scale: they should look alike. Blank cells hold 1 to 10 rows, "
            "or lie beyond what is drawn (training rows' 1st to 99th percentile). The axes show only the share of variance "
            "that they name.",
            [{"type": "heatmap", "x": found["x"], "y": found["y"], "z": found[side], "zmin": 0, "zmax": top,
              "colorscale": [[0, "#FFFFFF"], [1, colour]], "showscale": side == "synthetic",
              "colorbar": {"orientation": "h", "thickness": 8, "y": 1.0, "yanchor": "bottom", "tickformat": ".1%", "nticks": 4},
              "hovertemplate": "%{z:.2%} of rows<extra></extra>"}],
            {**axes, "margin": {"l": 52, "r": 12, "t": 30, "b": 44}},
        )
        for side, title, colour in (("real", "Holdout rows", "#4D4D4D"), ("synthetic", "Synthetic rows", SYNTHETIC))
    ]  # fmt: skip


def clusters(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Shares of both sides in each cluster."""
    found = details.get("clusters")
    if not found:
        return []
    names = [str(i + 1) for i in range(len(found["real"]))]
    return [
        figure(
            "clusters",
            "Who is in which cluster",
            "Rows of both sides were clustered together: in each cluster the two bars should be equally high. A cluster "
            "without a synthetic bar is a kind of patient that was lost. Bars of fewer than 11 real rows are left out.",
            [
                _bars("holdout", names, found["real"], REAL),
                _bars("synthetic", names, found["synthetic"], SYNTHETIC),
            ],
            {
                **LEGEND,
                "barmode": "group",
                "xaxis": {"title": {"text": "cluster, largest first"}, "type": "category"},
                "yaxis": {"title": {"text": "share of rows"}, "tickformat": ".0%", "rangemode": "tozero"},
            },
        )
    ]


def typicality(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Alpha-precision and beta-recall over their levels, fresh real rows or the band of chance beside them."""
    found = details.get("typicality")
    if not found:
        return []
    return [
        figure(
            "alpha-precision",
            "Alpha-precision",
            "Share of synthetic rows inside the ball of the most typical real rows. On the dashed line is the null (grey: "
            "what chance allows); above it rows are too typical, below it too odd.",
            [*_band(found), {**chance([0, 1]), "showlegend": False}, *_curves(found, "precision")],
            {**LEGEND, **_share_axes("share of real rows in the ball", "synthetic rows in it")},
        ),
        figure(
            "beta-recall",
            "Beta-recall",
            "Share of real rows with one of the most typical synthetic rows nearer than any other real row. There is no "
            "closed null: the green dashed curve of fresh real rows, which ends at about one half, is what to meet. Far above "
            "it, synthetic rows sit too near to real ones.",
            _curves(found, "recall"),
            {**LEGEND, **_share_axes("most typical synthetic rows", "real rows met")},
        ),
    ]


def neighbourhoods(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Density, coverage, precision and recall against fresh real rows."""
    rows = [(name, headline(results, f"fid.joint.prdc.{name}")) for name in NEIGHBOURHOODS]
    known = [(name, r) for name, r in rows if r is not None and r.value is not None]
    if not known:
        return []
    names, found = [n for n, _ in known], [r for _, r in known]
    bars: dict[str, Any] = _bars("synthetic", names, [r.value for r in found], SYNTHETIC)
    bars["hovertemplate"] = "%{x}: %{y:.3f}<extra>synthetic</extra>"
    bars["error_y"] = {
        "type": "data",
        "array": [(r.ci_hi if r.ci_hi is not None else r.value or 0.0) - (r.value or 0.0) for r in found],
        "arrayminus": [(r.value or 0.0) - (r.ci_lo if r.ci_lo is not None else r.value or 0.0) for r in found],
        "color": "#333333",
    }
    fresh = [(n, r.ref_fresh) for n, r in known if r.ref_fresh is not None]
    data = [bars]
    if fresh:
        other = _bars("fresh real rows", [n for n, _ in fresh], [v for _, v in fresh], FRESH)
        other["hovertemplate"] = "%{x}: %{y:.3f}<extra>fresh real rows</extra>"
        data.append(other)
    return [
        figure(
            "neighbourhoods",
            "Neighbourhoods",
            "Are synthetic rows where real rows are (density, precision), and wherever real rows are (coverage, recall)? Higher "
            "is better up to what fresh real rows reach (green); density well above 1 is crowding, not quality.",
            data,
            {
                **LEGEND,
                "barmode": "group",
                "xaxis": {"type": "category"},
                "yaxis": {"rangemode": "tozero"},
            },
        )
    ]


def dots(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Single records on two components and by t-SNE; never in the public report."""
    inside = details.get("internal", {})
    figures = []
    for key, title, caption in (
        ("projection", "Rows on two principal components",
         "Every dot is a record, up to 1,000 a side: the two clouds should lie over one another."),
        ("tsne", "Rows by t-SNE",
         "Every dot is a record, up to 1,000 a side, placed so that near rows stay near: colours should be mixed everywhere. "
         "Distances between islands and their sizes mean nothing."),
    ):  # fmt: skip
        found = inside.get(key)
        if not found:
            continue
        axes = _component_axes(found["explained"]) if "explained" in found else _bare_axes()
        data = [
            {"type": "scatter", "mode": "markers", "name": name, "x": [p[0] for p in found[side]],
             "y": [p[1] for p in found[side]], "hoverinfo": "skip",
             "marker": {"color": colour, "size": 5, "opacity": 0.5, "symbol": symbol}}
            for side, name, colour, symbol in (
                ("real", "holdout", REAL, "circle"), ("synthetic", "synthetic", SYNTHETIC, "diamond"))
        ]  # fmt: skip
        figures.append(figure(f"dots-{key}", title, caption, data, {**LEGEND, **axes}, 420))
    return figures


def explained(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """How much of the training rows' variance each component holds."""
    found = details.get("projection")
    if not found:
        return []
    total = 0.0
    rows = []
    for i, share in enumerate(found["explained"]):
        total += share
        rows.append([str(i + 1), share, round(total, 4)])
    return [
        table(
            "explained-variance",
            "Variance that the components hold",
            "Shares of the training rows' variance, components fitted on training rows. Neither high nor low is better: it "
            "says how much of the rows the pictures show.",
            ["component", "share", "together"],
            rows,
        )
    ]


def _dots(name: str, rows: Sequence[MetricResult], labels: list[str]) -> dict[str, Any]:
    values = [r.value or 0.0 for r in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": values,
        "y": labels,
        "marker": {"color": SYNTHETIC, "size": 10},
        "error_x": {
            "type": "data",
            "array": [(r.ci_hi if r.ci_hi is not None else v) - v for r, v in zip(rows, values, strict=True)],
            "arrayminus": [v - (r.ci_lo if r.ci_lo is not None else v) for r, v in zip(rows, values, strict=True)],
        },
        "hovertemplate": "%{y}: %{x:.3f}<extra>" + name + "</extra>",
    }


def _fresh(rows: Sequence[MetricResult], labels: list[str]) -> list[dict[str, Any]]:
    known = [(r.ref_fresh, label) for r, label in zip(rows, labels, strict=True) if r.ref_fresh is not None]
    if not known:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "fresh real rows",
            "x": [v for v, _ in known],
            "y": [label for _, label in known],
            "marker": {"color": FRESH, "size": 10, "symbol": "circle-open", "line": {"width": 2.4}},
            "hovertemplate": "%{y}: %{x:.3f}<extra>fresh real rows</extra>",
        }
    ]


def _bars(name: str, labels: list[str], values: Sequence[float | None], colour: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": labels,
        "y": list(values),
        "marker": {"color": colour},
        "hovertemplate": "%{x}: %{y:.1%}<extra>" + name + "</extra>",
    }


def _curves(found: Mapping[str, Any], which: str) -> list[dict[str, Any]]:
    curves = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "synthetic",
            "x": found["level"],
            "y": found[which],
            "line": {"color": SYNTHETIC, "width": 2.6},
            "hovertemplate": "%{x:.0%}: %{y:.1%}<extra>synthetic</extra>",
        }
    ]
    if f"fresh_{which}" in found:
        curves.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "fresh real rows",
                "x": found["level"],
                "y": found[f"fresh_{which}"],
                "line": {"color": FRESH, "width": 2, "dash": "dash"},
                "hovertemplate": "%{x:.0%}: %{y:.1%}<extra>fresh real rows</extra>",
            }
        )
    return curves


def _band(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    level, half = found["level"], found["band"]
    ends = [round(min(1.0, a + h), 4) for a, h in zip(level, half, strict=True)]
    starts = [round(max(0.0, a - h), 4) for a, h in zip(level, half, strict=True)]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [*level, *level[::-1]],
            "y": [*ends, *starts[::-1]],
            "fill": "toself",
            "fillcolor": "rgba(138,138,138,.25)",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        }
    ]


def _component_axes(shares: Sequence[float]) -> dict[str, Any]:
    return {
        f"{axis}axis": {"title": {"text": f"component {i + 1} ({shares[i]:.1%} of variance)"}, "zeroline": False}
        for i, axis in enumerate("xy")
    }


def _bare_axes() -> dict[str, Any]:
    return {f"{axis}axis": {"showticklabels": False, "zeroline": False} for axis in "xy"}


def _share_axes(x: str, y: str) -> dict[str, Any]:
    return {
        f"{axis}axis": {"title": {"text": text}, "tickformat": ".0%", "range": [0, 1.01]}
        for axis, text in (("x", x), ("y", y))
    }


def _line(at: float) -> dict[str, Any]:
    return {
        "type": "line",
        "x0": at,
        "x1": at,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": REAL, "dash": "dash", "width": 1.4},
    }


FIGURES: tuple[Draw, ...] = (detection, detectors, projections, clusters, typicality, neighbourhoods)
INTERNAL: tuple[Draw, ...] = (dots,)
TABLES: tuple[Tabulate, ...] = (explained,)
