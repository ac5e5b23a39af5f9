"""Figures of copies, distances and membership inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.privacy.attacks import TITLES
from pipeline.evaluation.report.figures.base import REAL, SYNTHETIC, Figure, Table, chance, curve_of, figure, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult

FRESH = "#009E73"
CAVEAT = "Passing it does not bound what leaks (Yao et al. 2025): membership inference decides."
RATES = (("priv.mia.tpr_at_1pct_fpr", "at 1 % false alarms"), ("priv.mia.tpr_at_01pct_fpr", "at 0.1 %"))


def membership(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """ROC curves of all membership attacks on logarithmic axes, the best one bold."""
    found = details.get("membership")
    if not found:
        return []
    ticks = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1]
    axis = {"type": "log", "tickformat": ".1~%", "range": [-3, 0.02], "tickvals": ticks}
    best = found["attack"]
    others = [
        {**curve_of(curve), "line": {"color": REAL, "width": 1}, "hoverinfo": "text", "text": TITLES.get(name, name)}
        for name, curve in found.get("curves", {}).items()
        if name != best
    ]
    marks = [
        {"type": "scatter", "mode": "lines", "x": [rate, rate], "y": [0.001, 1], "hoverinfo": "skip",
         "line": {"color": REAL, "dash": "dot", "width": 1}}
        for rate in (0.01, 0.001)
    ]  # fmt: skip
    for curve in others:
        curve.pop("hovertemplate")
    return [
        figure(
            "membership-roc",
            "Membership inference: ROC curves",
            f"The best attack ({TITLES.get(best, best)}) in colour, the others thin; {found['members']:,} people in training "
            f"against {found['others']:,} others, both axes logarithmic. The dashed line is guessing: a safe cohort lies on "
            "it, above all at its left end, where the attacker is sure; above it is worse. Dotted: 1 % and 0.1 % false "
            "alarms. Curves begin where they stand for 11 people. First seed.",
            [chance([0.001, 1]), *marks, *others, curve_of(found)],
            {
                "xaxis": {**axis, "title": {"text": "others wrongly flagged"}},
                "yaxis": {**axis, "title": {"text": "members flagged"}},
            },
            380,
        )
    ]


def unusual(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """AUC of the best attack by how unusual people are."""
    found = details.get("outlierness")
    if not found or not found["deciles"]:
        return []
    rows = found["deciles"]
    x = [r["decile"] for r in rows]
    return [
        figure(
            "risk-by-decile",
            "Risk by how unusual a person is",
            f"Membership inference ({found['attack']}) within each tenth of people, from those in the crowd (1) to those who "
            "lie farthest from everybody else (10), with 95 % intervals. 0.5 is guessing; higher is worse. A rise to the "
            "right means that those who can be recognised are given away. First seed.",
            [
                {"type": "scatter", "mode": "lines", "x": [0.5, 10.5], "y": [0.5, 0.5], "hoverinfo": "skip",
                 "line": {"color": REAL, "dash": "dash", "width": 1.4}},
                {"type": "scatter", "mode": "markers", "x": x, "y": [r["auc"] for r in rows],
                 "marker": {"color": SYNTHETIC, "size": 10},
                 "error_y": {"type": "data", "symmetric": False, "color": SYNTHETIC, "thickness": 1.4,
                             "array": [r["hi"] - r["auc"] for r in rows],
                             "arrayminus": [r["auc"] - r["lo"] for r in rows]},
                 "hovertemplate": "tenth %{x}<br>AUC %{y:.3f}<extra></extra>"},
            ],
            {
                "xaxis": {"title": {"text": "tenth of people, the most unusual last"}, "dtick": 1, "range": [0.5, 10.5]},
                "yaxis": {"title": {"text": "AUC"}},
            },
        )
    ]  # fmt: skip


def distances(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
    """How near the nearest real row is: synthetic rows to training and holdout, fresh people to training."""
    found = details.get("distances")
    if not found:
        return []
    styles = {
        "synthetic to training": {"color": SYNTHETIC, "width": 2.6},
        "synthetic to holdout": {"color": SYNTHETIC, "width": 2, "dash": "dash"},
        "fresh people to training": {"color": FRESH, "width": 2, "dash": "dot"},
    }
    return [
        figure(
            "nearest-distances",
            "Distance to the nearest real row",
            f"Share of rows that have a real row within a distance, among {found['rows']:,} rows of each part, in steps of at "
            "least 11. The two lines of the synthetic rows should lie on one another: where the one to training is higher, "
            f"rows are drawn towards training people. The line of fresh people is what chance gives. {CAVEAT} First seed.",
            [
                {"type": "scatter", "mode": "lines", "name": name, "x": found["distance"], "y": share,
                 "line": {"shape": "hv", **styles[name]}, "showlegend": True,
                 "hovertemplate": "%{y:.1%} within %{x:.3f}<extra>" + name + "</extra>"}
                for name, share in found["share"].items()
            ],
            {
                "showlegend": True,
                "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "xaxis": {"title": {"text": "distance"}},
                "yaxis": {"title": {"text": "share of rows"}, "tickformat": ".0%"},
                "margin": {"l": 52, "r": 12, "t": 36, "b": 44},
            },
        )
    ]  # fmt: skip


def attacks(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Every attack: AUC, advantage, members found at few false alarms."""
    pooled = {(r.metric, r.key1): r for r in results if r.replicate == -1 and not r.key2}

    def shown(metric: str, key: str = "") -> str | None:
        row = pooled.get((metric, key))
        if row is None or row.value is None:
            return None
        inside = "" if row.ci_lo is None or row.ci_hi is None else f" ({row.ci_lo:.3f} to {row.ci_hi:.3f})"
        return f"{row.value:.3f}{inside}"

    rows: list[list[Any]] = []
    for name, title in TITLES.items():
        auc = shown(f"priv.mia.{name}_auc")
        if auc is not None:
            rates = [shown(metric, name) for metric, _ in RATES]
            rows.append([title, auc, shown("priv.mia.advantage", name), *rates])
    if not rows:
        return []
    rates = [shown(metric) for metric, _ in RATES]
    rows.append(["best, with the choice allowed for", shown("priv.mia.max_auc"), shown("priv.mia.advantage"), *rates])
    guessing = ["guessing", "0.500", "0.000", "0.010", "0.001"]
    columns = ["attack", "AUC", "advantage", *(f"members found {when}" for _, when in RATES)]
    return [
        table(
            "membership-attacks",
            "Membership attacks",
            "Each attack with 95 % intervals, the mean over seeds. Lower is better in every column; the last row is what "
            "guessing gives. Empty cells need more people outside training: 1,000 at 1 % false alarms, 10,000 at 0.1 %.",
            columns,
            [*rows, guessing],
        )
    ]


def nearness(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Copies and distances, each beside what fresh real rows and copied training rows score."""
    wanted = {
        "priv.exact": "rows equal to a training row, beyond holdout",
        "priv.dcr_share": "nearer to training than to others",
        "priv.dcr_q05": "small distances, training over others",
        "priv.nndr": "distance ratios, training over others",
        "priv.nnaa_loss": "closeness to training over others (NNAA loss)",
        "priv.identifiability": "identifiability, beyond holdout",
        "priv.authenticity": "authenticity",
        "priv.cosine_nn": "likeness of codes, beyond holdout",
        "priv.mia.epsilon_lower": "epsilon that the attacks prove",
    }
    pooled = {r.metric: r for r in results if r.replicate == -1 and not r.key1 and not r.key2}
    rows = [
        [title, r.value, r.ci_lo, r.ci_hi, r.null_value, r.ref_fresh, r.ref_train]
        for metric, title in wanted.items()
        if (r := pooled.get(metric)) is not None and r.value is not None
    ]
    if not rows:
        return []
    columns = ["figure", "value", "from", "to", "if nothing leaked", "fresh real rows", "training rows copied"]
    return [
        table(
            "nearness",
            "Copies and distances",
            "Each figure with its 95 % interval beside what it would be if nothing leaked, what fresh real rows score and "
            f"what copied training rows score: the nearer to the last, the worse. {CAVEAT}",
            columns,
            rows,
        )
    ]


def copies(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Table]:
    """Which training people come back: keyed hashes, in the internal report alone."""
    found = details.get("internal", {}).get("copies")
    if not found:
        return []
    return [
        table(
            "copies",
            "Training rows that come back (internal)",
            "Training rows that equal synthetic rows in every cell, the most repeated first, at most 50. There should be none "
            "that is recognisable. The person is a keyed hash: whoever holds the training data can make it again.",
            ["person", "synthetic rows", "recognisable"],
            [[row["person"], row["times"], "yes" if row["recognisable"] else "no"] for row in found],
        )
    ]


FIGURES: tuple[Draw, ...] = (membership, unusual, distances)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = (attacks, nearness, copies)
