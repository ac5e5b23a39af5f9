"""The figures that everybody sees: which they are, and their dot plots among the reference rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.evaluation.protocol import headline
from pipeline.evaluation.report.words import tasks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.evaluation.results import MetricResult

Better = Literal["left", "right"]


@dataclass(frozen=True)
class Headline:
    """One headline figure.

    Attributes:
        metric: Its id.
        title: One or two words.
        question: What it answers, and what is measured.
        better: Which end of the axis is good.
        digits: After the point.
        percent: Written as a percentage.
        rule: The gate's rule whose threshold is drawn across it; "" if none is in the same unit.
    """

    metric: str
    title: str
    question: str
    better: Better
    digits: int
    percent: bool = False
    rule: str = ""

    @property
    def direction(self) -> str:
        """In words, for captions."""
        return "Further right is better." if self.better == "right" else "Further left is better."


HEADLINES: tuple[Headline, ...] = (
    Headline("fid.marg.jsd", "Columns", "Do single columns look real? Mean Jensen-Shannon divergence in bits.", "left", 4, rule="jsd_mean"),
    Headline("fid.dep.corr_rmse", "Dependence", "Do columns move together as in reality? Error of the correlations (RMSE).", "left", 4),
    Headline("fid.joint.detect_auc", "Detection", "Can a classifier tell the rows from real ones? AUC, 0.5 is chance.", "left", 3, rule="detect_auc"),
    Headline("util.ratio", "Utility", "How much of the skill of a model trained on real rows is kept?", "right", 2, rule="utility_ratio"),
    Headline("priv.mia.max_auc", "Membership", "Can an attacker tell who was in training? AUC of the best attack, 0.5 is chance.", "left", 3, rule="mia_max_auc"),
    Headline(
        "priv.mia.tpr_at_1pct_fpr", "Members found", "Share of training people flagged while 1 % of others are flagged wrongly.", "left", 1, percent=True,
        rule="mia_tpr_at_1pct_fpr",
    ),
    Headline(
        "priv.aia.excess", "Secrets learnt", "How much better are secrets of people in training guessed than those of others? 0 is nothing.", "left", 3,
        rule="aia_excess",
    ),
    Headline(
        "priv.identity_disclosure", "Identity disclosure", "Chance that a row leads to a person and tells something new about them.", "left", 2,
        percent=True, rule="identity_disclosure",
    ),
    Headline(
        "fair.worst_group", "Worst group", "Skill kept in the group where least is kept, as a share of the real model's.", "right", 2,
        rule="worst_group_ratio",
    ),
)  # fmt: skip


def headline_rows(results: Sequence[MetricResult]) -> list[tuple[Headline, str, MetricResult]]:
    """The headline figures that exist: (what, task or "", pooled row); utility once a task."""
    found = []
    for item in HEADLINES:
        for key in tasks_of(results) if item.metric.startswith("util.") else [""]:
            row = headline(results, item.metric, key1=key)
            if row is not None:
                found.append((item, key, row))
    return found
