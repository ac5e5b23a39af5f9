"""Figures of representation: which groups are out of proportion, and where within which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.anchors import COLOURS
from pipeline.evaluation.report.figures.base import REAL, Figure, figure, name_ticks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

FRESH = COLOURS["ref_fresh"]
LEVELS: dict[str, tuple[str, str, str]] = {
    "absent": ("absent", "#000000", "triangle-left"),
    "strongly_under": ("strongly under-represented", "#D55E00", "diamond"),
    "under": ("under-represented", "#E69F00", "square"),
    "adequate": ("adequate", "#009E73", "circle"),
    "over": ("over-represented", "#56B4E9", "square-open"),
    "strongly_over": ("strongly over-represented", "#0072B2", "diamond-open"),
    "inconclusive": ("inconclusive: too few people", "#8A8A8A", "circle-open"),
}
REACH = 0.9
"""Log disparities beyond this are drawn at the edge."""
MOST_GROUPS = 40
MOST_LETTERS = 30


def representation(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Log disparity of the groups that are furthest out of proportion, with bands of the levels."""
    groups = sorted(details.get("representation", []), key=lambda g: (-abs(g["lds"]), g["group"]))
    if not groups:
        return []
    shown = sorted(groups[:MOST_GROUPS], key=lambda g: (-g["lds"], g["group"]))
    left_out = (
        f" {len(groups) - len(shown)} groups that are nearer to 0 are not drawn." if len(groups) > len(shown) else ""
    )
    names = [g["group"] for g in shown]
    data: list[Any] = []
    for level, (title, colour, symbol) in LEVELS.items():
        chosen = [(n, g) for n, g in zip(names, shown, strict=True) if g["level"] == level]
        if not chosen:
            continue
        at = [min(max(g["lds"], -REACH), REACH) for _, g in chosen]
        ends = [[min(max(g[k], -REACH), REACH) for _, g in chosen] for k in ("lo", "hi")]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title,
                "x": at,
                "y": [n for n, _ in chosen],
                "customdata": [[g["lds"], g["real"], g["synthetic"]] for _, g in chosen],
                "marker": {"color": colour, "symbol": symbol, "size": 10, "line": {"width": 2, "color": colour}},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [hi - x for hi, x in zip(ends[1], at, strict=True)],
                    "arrayminus": [x - lo for lo, x in zip(ends[0], at, strict=True)],
                    "color": colour,
                    "thickness": 1.4,
                },
                "hovertemplate": "%{y}<br>log disparity %{customdata[0]:.2f}<br>real %{customdata[1]:.1%}, synthetic "
                "%{customdata[2]:.1%}<extra></extra>",
            }
        )
    layout = rows_layout(names, "log disparity", zero=True)
    layout["xaxis"] |= {"range": [-REACH - 0.03, REACH + 0.03], "nticks": 4, "tickangle": 0}
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": names, "autorange": True, "tickfont": {"size": 10}}
    layout["yaxis"] |= name_ticks(names, MOST_LETTERS)
    layout["shapes"] += [
        {"type": "rect", "xref": "x", "yref": "paper", "x0": -x, "x1": x, "y0": 0, "y1": 1, "layer": "below",
         "line": {"width": 0}, "fillcolor": FRESH, "opacity": 0.08}
        for x in (0.223, 0.105)
    ]  # fmt: skip
    return [
        figure(
            "fairness-representation",
            "Who is represented",
            "Each group's odds among synthetic people against its odds among real (holdout) people, 95 % intervals. On 0 the "
            "group is as large a share as in reality, to the left it is under-represented. A level is given only where the "
            "whole interval lies in it: the bands are a log disparity of ±0.105 and ±0.223 (the 90 % and 80 % rules). What "
            f"is further out is drawn at the edge.{left_out} First seed.",
            data,
            layout,
            170 + 20 * len(names),
        )
    ]


def nested(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Groups within groups, at most three deep, coloured by how far they are out of proportion."""
    groups = {tuple(map(tuple, g["path"])): g for g in details.get("representation", []) if g["path"]}
    chain = _chain(groups)
    if len(chain) < 2:
        return []
    chosen = {path: g for path, g in groups.items() if tuple(c for c, _ in path) == chain[: len(path)]}
    sizes: dict[tuple[Any, ...], float] = {}
    for path in sorted(chosen, key=len, reverse=True):
        inner = sum(size for child, size in sizes.items() if child[:-1] == path)
        # A parent drawn smaller than its parts (shares are rounded) would not be drawn at all.
        sizes[path] = max(chosen[path]["real"], inner)
    paths = sorted((p for p in chosen if all(p[:k] in chosen for k in range(1, len(p)))), key=lambda p: (len(p), p))
    return [
        figure(
            "fairness-nested",
            "Groups within groups",
            f"Real (holdout) people by {', then '.join(chain)}; the area is their share. Orange groups are under-represented "
            "among the synthetic people, blue ones over-represented, white is the same share; the darkest colours stand for "
            "a log disparity of 0.45 and beyond. Uncertain ones are coloured too: see the intervals in 'Who is represented'.",
            [
                {
                    "type": "sunburst",
                    "ids": [_id(p) for p in paths],
                    "parents": [_id(p[:-1]) for p in paths],
                    "labels": [p[-1][1] for p in paths],
                    "values": [sizes[p] for p in paths],
                    "branchvalues": "total",
                    "customdata": [[chosen[p]["group"], chosen[p]["lds"], chosen[p]["real"], chosen[p]["synthetic"]] for p in paths],
                    "marker": {
                        "colors": [chosen[p]["lds"] for p in paths],
                        "colorscale": [[0, "#D55E00"], [0.5, "#FFFFFF"], [1, "#0072B2"]],
                        "cmin": -0.45,
                        "cmax": 0.45,
                        "line": {"color": REAL, "width": 1},
                    },
                    "insidetextorientation": "auto",
                    "hovertemplate": "%{customdata[0]}<br>real %{customdata[2]:.1%}, synthetic %{customdata[3]:.1%}<br>log "
                    "disparity %{customdata[1]:.2f}<extra></extra>",
                }
            ],
            {"margin": {"l": 8, "r": 8, "t": 8, "b": 8}},
            420,
        )
    ]  # fmt: skip


def rows_layout(labels: Sequence[str], title: str, *, zero: bool) -> dict[str, Any]:
    """A legend above, one line a label, and a line at 0."""
    line = {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "layer": "below",
            "line": {"color": REAL, "dash": "dash", "width": 1.4}}  # fmt: skip
    return {
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {"title": {"text": title}, "zeroline": False, "nticks": 7},
        "yaxis": {"automargin": True, "type": "category", "autorange": "reversed"},
        "shapes": [line] if zero else [],
        "margin": {"l": 20, "r": 12, "t": 60, "b": 48},
    }


def _chain(groups: Mapping[tuple[Any, ...], Any]) -> tuple[str, ...]:
    """The columns of the deepest crossing, in the order of declaration; the first declared ones where several are."""
    chains = [tuple(column for column, _ in path) for path in groups]
    deepest = max((len(c) for c in chains), default=0)
    for size in range(deepest, 1, -1):
        for chain in dict.fromkeys(c for c in chains if len(c) == size):
            if all(chain[:k] in chains for k in range(1, size)):
                return chain
    return ()


def _id(path: tuple[Any, ...]) -> str:
    return " | ".join(f"{column} = {level}" for column, level in path)


FIGURES: tuple[Draw, ...] = (representation, nested)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = ()
