"""The papers' formulas, to the letter, beside what the papers print and what is wrong with each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.protocol import headline
from pipeline.evaluation.registry import find_metric
from pipeline.evaluation.report.anchors import COLOURS
from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, figure, table
from pipeline.evaluation.report.words import significant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult, MetricSpec

ENOUGH_TO_DRAW = 3
"""A figure with at least so many published values is drawn; the others stand in the table."""


def beside_papers(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """For each formula with several published values: the papers' systems, this cohort and fresh real rows on one axis."""
    found = []
    for i, (spec, row) in enumerate(_computed(results)):
        if len(spec.published) < ENOUGH_TO_DRAW or row.value is None:
            continue
        labels = [f"{p.system}, {p.data}" for p in spec.published]
        papers = ", ".join(dict.fromkeys(p.paper for p in spec.published))
        ours: list[tuple[str, float, str, str]] = [("this cohort", row.value, SYNTHETIC, "circle")]
        if row.ref_fresh is not None:
            ours.append(("fresh real rows here", row.ref_fresh, COLOURS["ref_fresh"], "circle-open"))
        data: list[Any] = [
            {"type": "scatter", "mode": "markers", "x": [p.value for p in spec.published], "y": labels,
             "marker": {"color": REAL, "symbol": "diamond", "size": 9},
             "hovertemplate": "%{y}: %{x}<extra>as printed</extra>"},
            *(
                {"type": "scatter", "mode": "markers", "x": [value], "y": [name],
                 "marker": {"color": colour, "symbol": symbol, "size": 12, "line": {"width": 2.4, "color": colour}},
                 "hovertemplate": "%{y}: %{x:.4g}<extra></extra>"}
                for name, value, colour, symbol in ours
            ),
        ]  # fmt: skip
        found.append(
            figure(
                f"literal-{i}",
                spec.title,
                f"Printed by {papers} (diamonds), and the same formula here. {_direction(spec)} Other data and other "
                f"samples: the axis compares formulas, not systems. {spec.flaw}",
                data,
                {
                    "xaxis": {"nticks": 6},
                    "yaxis": {
                        "automargin": True,
                        "type": "category",
                        "categoryorder": "array",
                        "categoryarray": [*labels, *(o[0] for o in ours[::-1])],
                        "tickfont": {"size": 10},
                    },
                    "margin": {"l": 20, "r": 12, "t": 8, "b": 36},
                },
                110 + 22 * (len(set(labels)) + len(ours)),
            )
        )
    return found


def flaws(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Every literal figure with its value here, the reference rows, and its flaw."""
    rows = [
        [
            spec.title,
            spec.id,
            row.value if row.value is not None else row.status.replace("_", " "),
            *(significant(v) for v in (row.ref_fresh, row.ref_train, row.ref_marginal)),
            spec.flaw,
            spec.source,
        ]
        for spec, row in _computed(results)
    ]
    return [
        table(
            "literal",
            "The papers' formulas on this cohort",
            "Never gated, never ranked. Where a cohort without value (training rows copied, columns shuffled) scores as "
            "well as fresh real rows, the formula cannot tell good from bad.",
            ["Figure", "Id", "Here", "Fresh real rows", "Training rows", "Shuffled columns", "What is wrong with it", "Source"],
            rows,
        )
    ]  # fmt: skip


def printed(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """What the papers print, row by row, beside the value here."""
    rows = [
        [spec.title, p.paper, p.data, p.system, float(p.value), None if row.value is None else float(row.value)]
        for spec, row in _computed(results)
        for p in spec.published
    ]
    return [
        table(
            "published",
            "What the papers print",
            "As printed, in the formula's own units; the direction and null of each are in its definition under Methods.",
            ["Figure", "Paper", "Data", "System", "Printed", "Here"],
            rows,
        )
    ]


def _computed(results: Sequence[MetricResult]) -> list[tuple[MetricSpec, MetricResult]]:
    """The literal metrics of these results with their headline rows, in order."""
    names = dict.fromkeys(r.metric for r in results if r.family == "literal")
    found = []
    for name in names:
        row = headline(results, name)
        if row is None:
            row = next((r for r in results if r.metric == name and r.replicate == -1), None)
        if row is not None and row.status != "not_applicable":
            found.append((find_metric(name).spec, row))
    return found


def _direction(spec: MetricSpec) -> str:
    said = {1: "The paper reads higher as better.", -1: "The paper reads lower as better.", 0: "It has no direction."}
    return said[spec.direction]


FIGURES: tuple[Draw, ...] = (beside_papers,)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (flaws, printed)
