"""Figures of privacy: membership inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.figures.base import REAL, Figure, chance, curve_of, figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult


def membership(results: Sequence[MetricResult], details: Mapping[str, Any]) -> list[Figure]:
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
                chance([0.001, 1]),
                {"type": "scatter", "mode": "lines", "x": [0.01, 0.01], "y": [0.001, 1], "hoverinfo": "skip",
                 "line": {"color": REAL, "dash": "dot", "width": 1}},
                {**curve_of(found), "y": [max(v, 0.001) for v in found["tpr"]]},
            ],
            {
                "xaxis": {**axis, "title": {"text": "others wrongly flagged"}},
                "yaxis": {**axis, "title": {"text": "members flagged"}},
            },
            380,
        )
    ]  # fmt: skip


FIGURES: tuple[Draw, ...] = (membership,)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = ()
