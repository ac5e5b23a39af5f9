"""Figures of joint fidelity: detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluation.report.figures.base import SYNTHETIC, Figure, chance, curve_of, figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.report.figures.base import Draw, Tabulate
    from pipeline.evaluation.results import MetricResult


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
              "marker": {"color": SYNTHETIC}, "hovertemplate": "%{y}: %{x:.3f}<extra></extra>"}],
            {"xaxis": {"title": {"text": "AUC lost"}}, "yaxis": {"automargin": True, "type": "category"}},
        ),
    ]  # fmt: skip


FIGURES: tuple[Draw, ...] = (detection,)
INTERNAL: tuple[Draw, ...] = ()
TABLES: tuple[Tabulate, ...] = ()
