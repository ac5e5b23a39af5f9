"""Figures of what models go by: the order of the columns, in all people and in each group."""

from __future__ import annotations

from dataclasses import replace
from math import log10
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, figure, table
from pipeline.evaluation.report.figures.fairness import MOST_ROWS, cell_words, dots, pooled_rows
from pipeline.evaluation.report.figures.representation import FRESH, rows_layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

FAR_BEHIND = 24
RANK = "/rank"
EVERYBODY = "everybody"


def what_models_go_by(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Ranks of the columns that matter most, trained on real and on synthetic rows, protected ones marked."""
    found: list[Figure] = []
    for task, explained in details.get("explanations", {}).items():
        ranks = explained["ranks"]
        if not ranks:
            continue
        data = [
            {
                "type": "scatter",
                "mode": "lines+markers+text",
                "x": ["trained on real", "trained on synthetic"],
                "y": [r["real"], r["synthetic"]],
                "text": [r["column"], r["column"]],
                "textposition": ["middle left", "middle right"],
                "textfont": {"size": 11},
                "cliponaxis": False,
                "line": {"color": "#D55E00" if r["protected"] else REAL, "width": 3.4 if r["protected"] else 1.6},
                "marker": {
                    "color": "#D55E00" if r["protected"] else REAL,
                    "symbol": "diamond" if r["protected"] else "circle",
                    "size": 10 if r["protected"] else 7,
                },
                "hovertemplate": f"{r['column']}: %{{y}} of {explained['columns']}<extra>%{{x}}</extra>",
            }
            for r in ranks
        ]
        lowest = max(max(r["real"], r["synthetic"]) for r in ranks)
        found.append(
            figure(
                f"fairness-ranks-{len(found)}",
                f"What models go by: {task}",
                "Columns in the order of their weight (mean size of Shapley values) in logistic models that explain the same "
                "real people; 1 moves predictions most. Protected attributes are orange diamonds. Level lines mean that "
                "both models go by the same things; a protected attribute that climbs to the right has gained weight. "
                "First seed.",
                data,
                {
                    "xaxis": {"type": "category", "range": [-0.75, 1.75], "showgrid": False},
                    "yaxis": {
                        "title": {"text": "rank"},
                        "zeroline": False,
                        "showgrid": False,
                        **_rank_range(lowest),
                    },
                },
                150 + 26 * min(lowest, FAR_BEHIND),
            )
        )
    return found


def _rank_range(lowest: int) -> dict[str, Any]:
    """First rank on top; logarithmic where a protected attribute lies far behind."""
    if lowest <= FAR_BEHIND:
        return {"range": [lowest + 0.6, 0.4]}
    return {
        "type": "log",
        "range": [log10(1.3 * lowest), log10(0.75)],
        "tickvals": [1, 2, 5, 10, 20, 50, 100, 200, 500],
    }


def ranks_in_groups(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Rank of each protected attribute in its own groups, trained on real and on synthetic rows: a figure a task."""
    rows = {key: r for key, r in pooled_rows(results, "xai.shap_subgroup").items() if key[1].endswith(RANK)}
    found: list[Figure] = []
    for task in dict.fromkeys(task for task, _ in rows):
        known = [(_group(key), r) for (name, key), r in rows.items() if name == task and r.value is not None]
        changed = sorted(
            range(len(known)), key=lambda k: -abs((known[k][1].value or 0.0) - (known[k][1].null_value or 0.0))
        )
        known = [known[k] for k in sorted(changed[:MOST_ROWS])]
        if not known:
            continue
        labels = [label for label, _ in known]
        real = [(label, replace(r, value=r.null_value, ci_lo=None, ci_hi=None)) for label, r in known]
        data: list[Any] = [
            {"type": "scatter", "mode": "lines", "x": [r.null_value, r.value], "y": [label, label], "hoverinfo": "skip",
             "line": {"color": REAL, "width": 3}, "showlegend": False}
            for label, r in known
        ]  # fmt: skip
        data.append(dots(real, "trained on real", FRESH, "circle-open", "rank %{x:.3~g}"))
        data.append(dots(known, "trained on synthetic", SYNTHETIC, "circle", "rank %{x:.3~g}"))
        layout = rows_layout(labels, "rank among all columns", zero=False)
        layout["xaxis"] = {**layout["xaxis"], "rangemode": "tozero"}
        found.append(
            figure(
                f"fairness-group-ranks-{len(found)}",
                f"Protected attributes in each group: {task}",
                "Place of a protected attribute among all columns by what moves a logistic model's predictions in each of its "
                "groups of real people; 1 moves them most. Open: trained on real rows, filled: on synthetic ones, with its "
                "95 % interval. A filled dot left of the open one: the attribute has gained weight in that group. Groups of "
                "fewer than 50 people are left out, and named in the table.",
                data,
                layout,
                150 + 36 * len(labels),
            )
        )
    return found


def top_table(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """What models go by in each group: agreement of the two orders, and the columns on top of each."""
    order, top = pooled_rows(results, "xai.shap_rank"), pooled_rows(results, "xai.shap_top")
    rows: list[list[Any]] = []
    for task, explained in details.get("explanations", {}).items():
        for shown in explained.get("groups", []):
            key = (task, "" if shown["group"] == EVERYBODY else shown["group"])
            rows.append(
                [
                    task,
                    shown["group"],
                    shown["rows"],
                    cell_words(order.get(key)),
                    cell_words(top.get(key)),
                    ", ".join(shown["real"]),
                    ", ".join(shown["synthetic"]),
                ]
            )
        rows += [[task, name, "too few", "", "", "", ""] for name in explained.get("left_out", [])]
    return [
        table(
            "fairness-tops",
            "What models go by in each group",
            "Logistic models trained on real and on synthetic rows, explaining the same real people of a group: rank "
            "correlation of their columns' weights (mean size of Shapley values; 1 is the same order), share of the top five "
            "that they have in common (1 is all), each with its 95 % interval, and both top fives in their order, first "
            "seed. Intervals are those of other people, not of another training. Groups of fewer than 50 people are too few to "
            "judge.",
            ["task", "group", "people", "same order", "same top five", "on top, trained on real", "on top, trained on synthetic"],
            rows,
        )
    ]  # fmt: skip


def _group(key: str) -> str:
    """ "race/race = white/rank" as "race = white", "race/rank" as "race: everybody"."""
    attribute, _, group = key.removesuffix(RANK).partition("/")
    return group or f"{attribute}: {EVERYBODY}"


FIGURES: tuple[Draw, ...] = (what_models_go_by, ranks_in_groups)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (top_table,)
