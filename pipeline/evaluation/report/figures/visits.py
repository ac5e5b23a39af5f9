"""Figures of dated visits: how often people come, with how many codes, after how long, and which code follows which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.protocol import headline
from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, figure, table
from pipeline.evaluation.report.words import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Figure, Table, Tabulate
    from pipeline.evaluation.results import MetricResult

NUMBER, SIZE, GAP, PAIRS = (f"ehr.visit.{name}" for name in ("number_ks", "size_ks", "gap_ks", "bigram"))
TITLES = {
    NUMBER: ("Visits a person", "Share of people by how many visits they have", "visits", "share of people"),
    SIZE: ("Codes a visit", "Share of visits by how many codes they have", "codes", "share of visits"),
    GAP: ("Time between visits", "Share of returns by how long after the visit before", "", "share of returns"),
}
OVERALL = (
    (NUMBER, "Visits a person, largest gap of the curves", "0"),
    (SIZE, "Codes a visit, largest gap of the curves", "0"),
    (GAP, "Days between visits, largest gap of the curves", "0"),
    (PAIRS, "Codes of one visit and the next, mean difference per 1,000 people", "0"),
    ("util.next_visit", "What histories tell of the next visit, AUROC on real people", "the real rows' own"),
    ("priv.mia.visit_auc", "Membership by whole histories, AUC", "0.5"),
)


def bars(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """Bars of the numbers of visits, codes and days, holdout beside synthetic."""
    found = []
    for drawn in details.get("visits", []):
        title, says, across, up = TITLES[drawn["name"]]
        row = headline(results, drawn["name"])
        told = (
            ""
            if row is None
            else f" Largest gap of the curves: {number(row.value, 3)}; two real samples: {number(row.null_value, 3)}."
        )
        found.append(
            figure(
                drawn["name"].replace(".", "-").replace("_", "-"),
                title,
                f"{says}; bars of equal height are right. Bars of fewer than 11 real people are left out.{told}",
                [
                    {"type": "bar", "x": drawn["labels"], "y": drawn[key], "name": name, "marker": {"color": colour},
                     "hovertemplate": "%{x}: %{y:.1%}<extra>" + name + "</extra>"}
                    for key, name, colour in (("real", "holdout", REAL), ("synthetic", "synthetic", SYNTHETIC))
                ],
                {
                    "barmode": "group",
                    "xaxis": {"type": "category", "title": {"text": across}, "automargin": True},
                    "yaxis": {"title": {"text": up}, "rangemode": "tozero", "tickformat": ".0%"},
                },
                260,
            )
        )  # fmt: skip
    return found


def figures(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """All figures of visits with interval and null; of one that has no value, why."""
    rows = []
    for name, title, wanted in OVERALL:
        row = headline(results, name)
        if row is None or row.status == "not_applicable":
            continue
        rows.append([title, row.value, row.ci_lo, row.ci_hi, row.null_value, wanted, row.note])
    return [
        table(
            "visits",
            "Visits in figures",
            "Each with its 95 % interval by people, and what chance alone gives: two real samples of this size, or 0.5 of an AUC.",
            ["what", "value", "from", "to", "by chance", "wanted", "remark"],
            rows,
        )
    ]


def pairs(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """The pairs of codes, one of a visit and one of the next, whose share of people differs most."""
    rows = [
        [r.key1, r.key2, r.value, r.note]
        for r in results
        if r.metric == PAIRS and r.scope == "pair" and r.replicate == 0
    ]
    return [
        table(
            "visit-pairs",
            "Codes of one visit and the next that differ most",
            "Difference of the shares of people, per 1,000. Pairs that fewer than 11 real people have are left out.",
            ["first", "next", "difference per 1,000", "shares"],
            rows,
        )
    ]


FIGURES: tuple[Draw, ...] = (bars,)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (figures, pairs)
