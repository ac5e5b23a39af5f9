"""What the results of an evaluation give to a card: figures with intervals, the worst distortions, attacks tried.

Names of columns and groups and numbers only; groups and levels of fewer than 11 real people never get this far, since
the metrics do not name them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.evaluation.registry import find_metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.evaluation.results import MetricResult

WORST = 3
ATTACKS: dict[str, str] = {
    "priv.mia.nn_auc": "membership: nearest synthetic row",
    "priv.mia.mc_auc": "membership: synthetic rows within a radius",
    "priv.mia.domias_knn_auc": "membership: density ratio by neighbours (DOMIAS)",
    "priv.mia.domias_kde_auc": "membership: density ratio by kernels (DOMIAS)",
    "priv.mia.domias_clf_auc": "membership: boosting between synthetic and reference rows",
    "priv.mia.logan_auc": "membership: logistic model between synthetic and reference rows (LOGAN)",
    "priv.mia.ganleaks_cal_auc": "membership: calibrated nearest distance (GAN-leaks)",
    "priv.mia.shadow": "membership: shadow models (LiRA)",
    "priv.aia.excess": "inference of attributes from known ones, excess over people outside training",
    "priv.tcap": "secrets read off uniform groups",
    "priv.identity_disclosure": "meaningful identity disclosure",
    "priv.giomi.so_uni": "singling out (anonymeter)",
    "priv.giomi.link": "linkability (anonymeter)",
    "priv.giomi.inf": "inference (anonymeter)",
}
"""Attacks that a card lists as tried or not tried."""


@dataclass(frozen=True)
class Evidence:
    """What was measured, ready for cards.

    Attributes:
        figures: Headline figures with interval, null and reference rows.
        distortions: The columns and groups that fit worst.
        tried: Attacks that were run.
        not_tried: Attacks that were not.
        unsettled: Figures that could not be estimated, with the reason.
    """

    figures: list[dict[str, Any]] = field(default_factory=list)
    distortions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    not_tried: list[str] = field(default_factory=list)
    unsettled: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-able."""
        return asdict(self)


def evidence(results: Sequence[MetricResult]) -> Evidence:
    """The evidence of stored results (pooled rows; the papers' literal figures are no evidence)."""
    rows = [r for r in results if r.replicate == -1 and not r.metric.startswith("lit.")]
    heads = [r for r in rows if not r.key2 and (r.scope == "task" or (r.scope == "table" and not r.key1))]
    with_value = {r.metric for r in heads if r.value is not None}
    return Evidence(
        figures=[_figure(r) for r in heads if r.value is not None],
        distortions={
            "columns": _worst(r for r in rows if r.metric == "fid.marg.jsd_debiased" and r.scope == "column"),
            "groups": _worst(r for r in rows if r.metric == "fair.ldss" and r.scope == "subgroup"),
        },
        tried=[words for metric, words in ATTACKS.items() if metric in with_value],
        not_tried=[words for metric, words in ATTACKS.items() if metric not in with_value],
        unsettled=[
            {"figure": _title(r), "why": r.note}
            for r in heads
            if r.value is None and r.status in ("underpowered", "not_estimable")
        ],
    )


def _figure(row: MetricResult) -> dict[str, Any]:
    return {
        "metric": row.metric,
        "title": _title(row),
        "family": row.family,
        "value": row.value,
        "low": row.ci_lo,
        "high": row.ci_hi,
        "null": row.null_value,
        "fresh": row.ref_fresh,
        "train": row.ref_train,
        "passed": row.passed,
    }


def _title(row: MetricResult) -> str:
    return find_metric(row.metric).spec.title + (f" ({row.key1})" if row.key1 else "")


def _worst(rows: Iterable[MetricResult]) -> list[dict[str, Any]]:
    """The rows of largest absolute value."""
    known = [r for r in rows if r.value is not None]
    known.sort(key=lambda r: (-abs(r.value or 0.0), r.key1, r.key2))
    return [{"name": " and ".join(filter(None, (r.key1, r.key2))), "value": r.value} for r in known[:WORST]]
