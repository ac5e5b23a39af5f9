"""Figures of the cohort: how many people are in which part, table 1, missing cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.aggregates import SMALL
from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, figure, table
from pipeline.evaluation.report.words import significant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

MOST_COLUMNS = 40
"""Columns with missing cells that are drawn; those that differ most come first."""
INDENT = "\N{EM SPACE}"
PARTS: tuple[tuple[str, str, str, str], ...] = (
    ("train", "training", "#0072B2", ""),
    ("holdout", "holdout", "#8A8A8A", "/"),
    ("reference0", "fresh reference", "#009E73", "\\"),
    ("reference1", "attacker's reference", "#D55E00", "x"),
)


def split(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Who sees what: the real rows by part, as one bar, and the synthetic ones below."""
    sizes = details.get("sizes")
    if not sizes or "reference0" not in sizes:
        return []
    drawn = [part for part in PARTS if sizes[part[0]] >= SMALL]
    unseen = [title for key, title, _, _ in PARTS if 0 < sizes[key] < SMALL]
    few = f" Not drawn, since it has fewer than {SMALL} rows: {', '.join(unseen)}." if unseen else ""
    bars: list[Any] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": f"{title}: {sizes[key]:,}",
            "y": ["real"],
            "x": [sizes[key]],
            "marker": {"color": colour, "pattern": {"shape": pattern, "fillmode": "overlay", "fgopacity": 0.4}},
            "hovertemplate": f"{title}: %{{x:,}} rows<extra></extra>",
        }
        for key, title, colour, pattern in drawn
    ]
    bars.append(
        {
            "type": "bar",
            "orientation": "h",
            "name": f"synthetic: {sizes['synthetic']:,}",
            "y": ["synthetic"],
            "x": [sizes["synthetic"]],
            "marker": {"color": SYNTHETIC, "opacity": 0.55, "pattern": {"shape": "."}},
            "hovertemplate": "synthetic: %{x:,} rows<extra></extra>",
        }
    )
    return [
        figure(
            "split",
            "Who was seen by whom",
            "Rows in each part. The generator saw the training rows only; every figure compares with the holdout; the "
            "fresh reference is the null of every figure, and the attacker's reference is what attackers may use."
            + few,
            bars,
            {
                "barmode": "stack",
                "showlegend": True,
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
                "xaxis": {"title": {"text": "rows"}, "tickformat": ",d", "nticks": 6},
                "yaxis": {"automargin": True, "autorange": "reversed", "type": "category"},
                "margin": {"l": 20, "r": 12, "t": 76, "b": 44},
            },
            270,
        )
    ]


def missing(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Share of missing cells a column, holdout and synthetic."""
    found = sorted(
        details.get("missing", []),
        key=lambda m: (-abs((m["real"] or 0.0) - m["synthetic"]), m["name"]),
    )
    if not found:
        return []
    rows = found[:MOST_COLUMNS]
    names = [m["name"] for m in rows]
    left_out = f" {len(found) - len(rows)} columns that differ less are not drawn." if len(found) > len(rows) else ""
    lines = [
        {"type": "scatter", "mode": "lines", "x": [m["real"], m["synthetic"]], "y": [m["name"]] * 2, "hoverinfo": "skip",
         "line": {"color": REAL, "width": 2}, "showlegend": False}
        for m in rows
        if m["real"] is not None
    ]  # fmt: skip
    dots = [
        {"type": "scatter", "mode": "markers", "name": title, "x": [m[key] for m in rows], "y": names,
         "marker": {"color": colour, "symbol": symbol, "size": 10, "line": {"width": 2, "color": colour}},
         "hovertemplate": "%{y}: %{x:.1%}<extra>" + title + "</extra>"}
        for key, title, colour, symbol in (
            ("real", "holdout", REAL, "square-open"), ("synthetic", "synthetic", SYNTHETIC, "circle"),
        )
    ]  # fmt: skip
    return [
        figure(
            "missing",
            "Missing cells",
            "Share of rows in which the cell is missing. The two marks of a column should meet: too few missing cells are "
            "as wrong as too many. Columns that differ most stand at the top; real counts under 11 are not drawn."
            + left_out,
            [*lines, *dots],
            {
                "showlegend": True,
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "xaxis": {"tickformat": ".2~%", "rangemode": "tozero", "title": {"text": "share missing"}, "nticks": 6},
                "yaxis": {"automargin": True, "type": "category", "autorange": "reversed"},
                "margin": {"l": 20, "r": 16, "t": 36, "b": 44},
            },
            max(210, 110 + 24 * len(rows)),
        )
    ]


def table_one(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """One row a number, one a level: holdout and synthetic side by side, with the standardised difference."""
    values = {(r.key1, r.key2): r.value for r in results if r.metric == "fid.marg.moments" and r.replicate == 0}
    gone = {m["name"]: m for m in details.get("missing", [])}
    rows: list[list[Any]] = []
    for column in details.get("columns", []):
        name, unit = column["name"], f", {column['unit']}" if column["unit"] else ""
        difference = values.get((name, "smd"))
        shown = None if difference is None else float(difference)
        if "levels" in column:
            rows.append([f"{name}, %", "", "", shown])
            rows += [
                [f"{INDENT}{level}", _share(real), _share(made), None]
                for level, real, made in zip(column["levels"], column["real"], column["synthetic"], strict=True)
            ]
            continue
        pair = [
            f"{significant(values.get((name, f'mean_{side}')))} ({significant(values.get((name, f'std_{side}')))})"
            for side in ("real", "synthetic")
        ]
        rows.append([f"{name}{unit}, mean (SD)", *pair, shown])
        if name in gone:
            rows.append([f"{INDENT}missing, %", _share(gone[name]["real"]), _share(gone[name]["synthetic"]), None])
    return [
        table(
            "one",
            "Table 1",
            "The closer the two columns, the better. The standardised difference is the difference of the means in "
            "standard deviations: its null is 0, and beyond 0.1 on either side a difference is usually called relevant.",
            ["Variable", "Real", "Synthetic", "Standardised difference"],
            rows,
        )
    ]


def _share(value: float | None) -> str:
    return "fewer than 11" if value is None else f"{100 * value:.1f}"


FIGURES: tuple[Draw, ...] = (split, missing)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (table_one,)
