"""The figures of `benchmarks/codes.py`: one synthetic code table against the holdout, by the system's own evaluation.

What each means, its null and its source are in `pipeline/evaluation`; here is only which are asked for and how they
are called in the table.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coded.rows import Split
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

METRICS = {
    "prevalence": "ehr.prev.apd",
    "pcd": "lit.scoehr.pcd",
    "clusters": "fid.joint.log_cluster",
    "frequency": "ehr.code_freq.total_ratio",
    "prediction": "util.dwpred",
    "members": "priv.mia.tpr_at_1pct_fpr",
}
CORRELATION = "fid.dep.pcd_excess"


@dataclass(frozen=True)
class Figures:
    """One synthetic table; None where a figure cannot be told of so few rows.

    Attributes:
        prevalence: Mean absolute difference of the codes' prevalences, per 1,000 people; lower is better.
        pcd: ScoEHR's pairwise correlation difference, all codes; lower is better, two real samples are far from 0.
        excess: Correlation error above that of fresh real rows; lower is better, 0 is none.
        clusters: True log-cluster U; lower is better, -1.4 is complete separation.
        frequency: Codes a person, synthetic over real; 1 is right.
        prediction: Mean difference of AUROCs of codes predicted from the others, trained on synthetic rows and on real.
        members: Share of training people found at 1 % false alarms; 0.01 is chance.
    """

    prevalence: float | None
    pcd: float | None
    excess: float | None
    clusters: float | None
    frequency: float | None
    prediction: float | None
    members: float | None

    @classmethod
    def names(cls) -> list[str]:
        """The figures, in order."""
        return [f.name for f in fields(cls)]


def figures(split: Split, synthetic: Cohort) -> tuple[Figures, dict[str, float]]:
    """All figures of one synthetic table, and the nulls of those that have one."""
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.protocol import Parts, run_evaluation

    asked = {**METRICS, "excess": CORRELATION}
    parts = Parts.of_two(split.train, split.holdout)
    rows = run_evaluation(parts, [synthetic], EvaluationPlan(), metrics=list(asked.values())).results
    found = {name: _headline(rows, metric) for name, metric in asked.items()}
    values = {name: None if row is None else row.value for name, row in found.items()}
    nulls = {name: row.null_value for name, row in found.items() if row is not None and row.null_value is not None}
    return Figures(**values), nulls


def _headline(rows: list[MetricResult], metric: str) -> MetricResult | None:
    from pipeline.evaluation.protocol import headline

    return headline(rows, metric)
