"""Figures of single columns and codes: distributions one over the other, prevalences, totals, codes a record."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.intervals import wilson
from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, figure, table
from pipeline.evaluation.report.words import number

MOST_MARGINALS = 9
MOST_CODES = 20
HEAPED = 0.5
"""Share of real values in one bar above which cumulative curves are drawn instead: the other bars would be flat."""
BAND = 0.2

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
        caption = f"Divergence {number(row.value, 4)} bits, lower is better; two real samples differ by {number(row.null_value, 4)}."
        unit = f" ({column['unit']})" if column["unit"] else ""
        curve = details.get("curves", {}).get(name)
        heaped = curve is not None and max((s or 0.0 for s in column["real"]), default=0.0) > HEAPED
        if "levels" in column:
            data = _bars(column, details.get("sizes", {}))
            caption += " Whiskers: 95 % intervals of the shares."
        elif heaped:
            data = _curves(curve)
            caption += " Cumulative share of values up to x, since most lie close together."
        else:
            data = _steps(column)
        if not data:
            continue
        hidden = sum(s is None for s in column["real"]) if not heaped else 0
        if hidden:
            caption += f" {hidden} grey bar{' is' if hidden == 1 else 's are'} left out: 1 to 10 real rows each."
        found.append(
            figure(
                f"marginal-{i}",
                name + unit,
                caption,
                data,
                {
                    "barmode": "group",
                    "bargap": 0.25,
                    "yaxis": {
                        "title": {"text": "share up to x" if heaped else "share"},
                        "rangemode": "tozero",
                        "tickformat": ".0%",
                    },
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
        edges = [{"type": "scatter", "mode": "lines", "x": [least, 1], "y": [least * f, f], "hoverinfo": "skip",
                  "line": {"color": REAL, "dash": dash, "width": 1}}
                 for f, dash in ((1.0, "dash"), (1 + BAND, "dot"), (1 - BAND, "dot"))]  # fmt: skip
        data = [
            *edges,
            {"type": "scatter", "mode": "markers", "x": block["real"], "y": made, "text": block["codes"],
             "hovertemplate": "%{text}<br>real %{x:.2%}<br>synthetic %{y:.2%}<extra></extra>",
             "marker": {"color": SYNTHETIC, "size": 7, "opacity": 0.7}},
        ]  # fmt: skip
        axis = {"type": "log", "tickformat": ".2~%"}
        found.append(
            figure(
                f"block-{i}",
                f"Codes of '{block['name']}'",
                "Share of rows with each code. On the dashed line the shares are equal; between the dotted ones they "
                "differ by at most 20 %. Rare codes stray from the line in real samples too. Codes with fewer than 11 "
                f"real rows are left out ({block['left_out']} codes).",
                data,
                {"xaxis": {**axis, "title": {"text": "holdout"}}, "yaxis": {**axis, "title": {"text": "synthetic"}}},
            )
        )
    return found


def code_totals(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """How many codes are how common, on a logarithmic scale that begins at 1."""
    return [
        figure(
            f"code-totals-{i}",
            f"How often the codes of '{block['name']}' occur",
            "Number of codes by how many times they occur in all rows (synthetic counts brought to the size of the "
            "holdout). The bars should be of equal height; codes pile up on the left where a generator loses the rare "
            f"ones. All cells together, synthetic over real: {_total(results, block['name'])} (1 is right).",
            _pairs(block, "%{x} times: %{y} codes"),
            {
                "barmode": "group",
                "xaxis": {"type": "category", "title": {"text": "occurrences"}, "automargin": True},
                "yaxis": {"title": {"text": "codes"}, "rangemode": "tozero"},
            },
            260,
        )
        for i, block in enumerate(details.get("code_totals", []))
    ]


def codes_a_record(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """How many distinct codes a record has."""
    return [
        figure(
            f"codes-a-record-{i}",
            f"Distinct codes of '{block['name']}' a record",
            "Share of records by their number of distinct codes; bars of equal height are right. Counts of fewer than 11 "
            f"real records are left out. Total variation: {_abundance(results, block['name'])}.",
            _pairs(block, "%{x} codes: %{y:.1%}"),
            {
                "barmode": "group",
                "xaxis": {"type": "category", "title": {"text": "distinct codes"}, "automargin": True},
                "yaxis": {"title": {"text": "share of records"}, "rangemode": "tozero", "tickformat": ".0%"},
            },
            260,
        )
        for i, block in enumerate(details.get("code_abundance", []))
    ]


def moments(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Mean, spread, quantiles, differences of each number; smallest and largest values in the internal report alone."""
    statistics: dict[str, dict[str, float | None]] = {}
    for r in results:
        if r.metric == "fid.marg.moments" and r.replicate == 0:
            statistics.setdefault(r.key1, {})[r.key2] = r.value
    coverage = {
        r.key1: r.value for r in results if r.metric == "fid.coverage" and r.replicate == 0 and r.scope == "column"
    }
    extremes = details.get("internal", {}).get("extremes", {})
    both = [("mean", "mean"), ("SD", "std"), ("5 %", "q05"), ("median", "q50"), ("95 %", "q95")]
    header = ["column", *(f"{title}, {side}" for title, _ in both for side in ("real", "synthetic"))]
    header += ["SMD", "log variance ratio", "overlap of intervals", "range covered"]
    if extremes:
        header += ["smallest, real", "smallest, synthetic", "largest, real", "largest, synthetic"]
    rows = []
    for column in details.get("columns", []):
        name, given = column["name"], statistics.get(column["name"], {})
        if "q50_real" not in given:
            continue
        row: list[Any] = [name, *(given.get(f"{key}_{side}") for _, key in both for side in ("real", "synthetic"))]
        row += [given.get(key) for key in ("smd", "log_variance_ratio", "interval_overlap")]
        row.append(coverage.get(name))
        if extremes:
            ends = extremes.get(name, {"real": [None, None], "synthetic": [None, None]})
            row += [ends[side][k] for k in (0, 1) for side in ("real", "synthetic")]
        rows.append(row)
    caption = (
        "Real is the holdout. Standardised mean difference and log variance ratio are 0, overlap of the 95 % intervals of "
        "the mean (of large samples small differences undo it) and the part of the 1-99 % range that is reached are 1 "
        "where nothing is wrong."
    )
    if extremes:
        caption += " Smallest and largest values are single people's and stand in the internal report only."
    return [table("moments", "Numbers: moments and quantiles", caption, header, rows)]


def worst_codes(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """The codes whose prevalence is furthest off."""
    found = [r for r in results if r.metric == "ehr.prev.apd" and r.scope == "pair" and r.replicate == 0]
    found.sort(key=lambda r: (-(r.value or 0.0), r.key1, r.key2))
    rows = [[r.key1, r.key2, r.value, r.null_value, r.note] for r in found[:MOST_CODES]]
    caption = (
        "Difference in carriers per 1,000 records, largest first, beside what two real samples differ by. Only codes that "
        "11 training rows and 11 holdout rows carry are named."
    )
    header = ["block", "code", "difference per 1,000", "by chance", "carriers"]
    return [table("worst-codes", "Codes whose prevalence is furthest off", caption, header, rows)]


def _total(results: Sequence[MetricResult], block: str) -> str:
    return _value(results, "ehr.code_freq.total_ratio", block)


def _abundance(results: Sequence[MetricResult], block: str) -> str:
    return _value(results, "ehr.abundance", block)


def _value(results: Sequence[MetricResult], metric: str, block: str) -> str:
    for r in results:
        if (r.metric, r.key1, r.key2, r.replicate) == (metric, block, "", 0):
            null = f"; two real samples give {number(r.null_value, 3)}" if r.null_value not in (None, 1.0) else ""
            return number(r.value, 3) + null
    return "not estimable"


def _pairs(block: Mapping[str, Any], hover: str) -> list[Any]:
    """Two bars a label."""
    return [
        {"type": "bar", "x": block["labels"], "y": block[key], "name": name, "marker": {"color": colour},
         "hovertemplate": hover + f"<extra>{name}</extra>"}
        for key, name, colour in (("real", "holdout", REAL), ("synthetic", "synthetic", SYNTHETIC))
    ]  # fmt: skip


def _curves(curve: Mapping[str, Any]) -> list[Any]:
    """Both cumulative curves."""
    return [
        {"type": "scatter", "mode": "lines", "x": curve["x"], "y": curve[key], "name": name,
         "line": {"shape": "hv", "color": colour, "width": width, "dash": dash},
         "hovertemplate": "up to %{x}: %{y:.1%}<extra>" + name + "</extra>"}
        for key, name, colour, width, dash in (
            ("real", "holdout", REAL, 3.2, "solid"), ("synthetic", "synthetic", SYNTHETIC, 2.2, "dash"))
    ]  # fmt: skip


def _bars(column: Mapping[str, Any], sizes: Mapping[str, int]) -> list[Any]:
    """Two bars a level with Wilson's intervals, as if rows were people."""
    found = []
    for key, size, name, colour in (
        ("real", "holdout", "holdout", REAL),
        ("synthetic", "synthetic", "synthetic", SYNTHETIC),
    ):
        shares, n = column[key], sizes.get(size, 0)
        bar = {"type": "bar", "x": column["levels"], "y": shares, "name": name, "marker": {"color": colour},
               "hovertemplate": "%{x}: %{y:.1%}<extra>" + name + "</extra>"}  # fmt: skip
        if n:
            ends = [(None, None) if s is None else wilson(s, n) for s in shares]
            reach = [(None, None) if s is None or lo is None or hi is None else (round(hi - s, 5), round(s - lo, 5))
                     for s, (lo, hi) in zip(shares, ends, strict=True)]  # fmt: skip
            bar["error_y"] = {
                "type": "data", "symmetric": False, "array": [r[0] for r in reach], "arrayminus": [r[1] for r in reach],
                "thickness": 1.2, "width": 2,
            }  # fmt: skip
        found.append(bar)
    return found


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
    code_totals,
    codes_a_record,
)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (
    moments,
    worst_codes,
)
