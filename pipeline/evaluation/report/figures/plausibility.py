"""Figures and tables of clinical rules: how often each is broken by synthetic and by real rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, figure, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult


def broken_rules(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """The rules that synthetic rows break most often, with the real rate beside each."""
    found = details.get("plausibility", {})
    rules = found.get("rules", [])
    if not rules:
        return []
    names = [r["name"] for r in rules][::-1]
    shown = rules[::-1]
    real = [r["real"] for r in shown]
    data = [
        {"type": "scatter", "mode": "markers", "name": "synthetic", "x": [r["synthetic"] for r in shown], "y": names,
         "error_x": {"type": "data", "symmetric": False,
                     "array": [round(r["hi"] - r["synthetic"], 6) for r in shown],
                     "arrayminus": [round(r["synthetic"] - r["lo"], 6) for r in shown], "thickness": 1.4, "width": 3},
         "marker": {"color": SYNTHETIC, "size": 9, "symbol": "circle"}, "cliponaxis": False,
         "text": [f"{r['broken']:,} of {r['rows']:,} rows, {r['origin']} rule" for r in shown],
         "hovertemplate": "%{y}<br>%{x:.2%} (%{text})<extra>synthetic</extra>"},
        {"type": "scatter", "mode": "markers", "name": "holdout", "x": real, "y": names,
         "marker": {"color": REAL, "size": 11, "symbol": "diamond-open", "line": {"width": 2}}, "cliponaxis": False,
         "hovertemplate": "%{y}<br>%{x:.2%}<extra>holdout</extra>"},
    ]  # fmt: skip
    left_out = f" {found['left_out']} more rules are broken less often." if found["left_out"] else ""
    hidden = (
        " Where no diamond stands, fewer than 11 real rows break the rule or could break it."
        if any(r["real"] is None for r in rules)
        else ""
    )
    return [
        figure(
            "broken-rules",
            "Broken clinical rules",
            f"Share of the rows in which a rule can be broken that break it: synthetic (dots, with 95 % intervals) and "
            f"real ones (diamonds). Further left is better; the null is where the diamond stands. "
            f"{found['rows_broken']:,} of {found['rows']:,} synthetic rows break at least one of {found['curated']} curated "
            f"and {found['mined']} mined rules.{left_out}{hidden}",
            data,
            {
                "xaxis": {"tickformat": ".1~%", "rangemode": "tozero", "title": {"text": "rows that break the rule"}},
                # Ticks keep the names away from the marks at 0.
                "yaxis": {
                    "automargin": True,
                    "type": "category",
                    "tickfont": {"size": 11},
                    "ticks": "outside",
                    "ticklen": 8,
                    "tickcolor": "rgba(0,0,0,0)",
                },
                "margin": {"l": 20, "r": 16, "t": 36, "b": 44},
                "showlegend": True,
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            },
            130 + 26 * len(rules),
        )
    ]


def rules(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Every rule with its rates."""
    rates: dict[str, dict[str, MetricResult]] = {}
    for r in results:
        if r.metric == "ehr.ckv" and r.replicate == 0 and r.scope == "column":
            rates.setdefault(r.key1, {})[r.key2] = r
    rows: list[list[Any]] = []
    for name, given in rates.items():
        synthetic, real, excess = given.get("synthetic"), given.get("real"), given.get("")
        rows.append(
            [
                name,
                None if synthetic is None else synthetic.n,
                None if synthetic is None else synthetic.value,
                None if real is None else real.value,
                None if excess is None else excess.value,
                "" if excess is None or excess.value is not None else excess.note,
            ]
        )
    rows.sort(key=lambda r: (-(r[2] or 0.0), r[0]))
    header = ["rule", "synthetic rows", "synthetic share", "real share", "excess", "note"]
    caption = (
        "Of the rows in which a rule can be broken, the share that break it; the excess of synthetic over real rows should "
        "be 0. A dash stands for a small real count."
    )
    return [table("rules", "All clinical rules", caption, header, rows)]


def examples(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Synthetic rows that break a rule, as far as the rule looks at them; in the internal report alone."""
    found = details.get("internal", {}).get("violations", [])
    caption = (
        "A few synthetic rows for each rule that is broken most often: the cells that the rule looks at. They are made up, "
        "and show whether the rule or the generator is at fault."
    )
    rows = [[x["rule"], x["cells"]] for x in found]
    return [
        table("violations", "Examples of broken rules (synthetic rows)", caption, ["rule", "what the row says"], rows)
    ]


FIGURES: tuple[Draw, ...] = (broken_rules,)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (
    rules,
    examples,
)
