"""Use-case lenses over the leaderboard: weighted means of ranks, as in the benchmark of Yan et al. 2022.

A lens is an optional second opinion. Averages of ranks hide failures, so it never changes the order of the leaderboard,
and a generator that fails the gate is not ranked at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.evaluation.protocol import headline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.evaluation.results import MetricResult

METRICS: dict[str, tuple[str, ...]] = {
    "dim": ("ehr.prev.apd", "fid.marg.jsd"),
    "corr": ("fid.dep.corr_rmse",),
    "cluster": ("fid.joint.log_cluster",),
    "pred": ("util.ratio",),
    "feat": ("util.feature_overlap",),
    "ckv": ("ehr.ckv",),
    "mca": ("ehr.abundance",),
    "attr": ("priv.aia.excess",),
    "memb": ("priv.mia.max_auc",),
    "ident": ("priv.identity_disclosure",),
    "nnaa": ("priv.nnaa_loss",),
}
"""Each of Yan's metrics to ours; the first that a generator has counts."""
_NAMES = tuple(METRICS)
WEIGHTS: dict[str, dict[str, float]] = {
    "education": dict(zip(_NAMES, (0.25, 0.15, 0.05, 0.05, 0.05, 0.15, 0.10, 0.05, 0.05, 0.05, 0.05), strict=True)),
    "medical_ai": dict(
        zip(_NAMES, (0.04, 0.04, 0.04, 0.35, 0.15, 0.04, 0.04, 0.075, 0.075, 0.075, 0.075), strict=True)
    ),
    "system_development": dict(
        zip(_NAMES, (0.15, 0.04, 0.04, 0.04, 0.04, 0.04, 0.15, 0.125, 0.125, 0.125, 0.125), strict=True)
    ),
}
"""Weights of the use cases (Yan et al. 2022, table of use cases; each sums to one)."""


def ranked(results: Mapping[str, Sequence[MetricResult]], lens: str) -> dict[str, float]:
    """Weighted mean rank of each generator, 1 is best; ties share the mean of their ranks.

    Args:
        results: Generator to its results; those that failed the gate should be left out by the caller.
        lens: Name of a use case.

    Returns:
        Generator to mean rank over the metrics that all of them have; the weights of the others are shared out. Empty
        where there is no such metric.

    Raises:
        KeyError: there is no such lens.
    """
    from scipy.stats import rankdata

    weights = WEIGHTS[lens]
    names = sorted(results)
    total, found = 0.0, dict.fromkeys(names, 0.0)
    for part, metrics in METRICS.items():
        values = [_badness(results[name], metrics) for name in names]
        known = [v for v in values if v is not None]
        if len(known) < len(names) or not known:
            continue
        total += weights[part]
        for name, rank in zip(names, rankdata(known), strict=True):
            found[name] += weights[part] * float(rank)
    return {name: value / total for name, value in found.items()} if total else {}


def _badness(results: Sequence[MetricResult], metrics: Sequence[str]) -> float | None:
    """The first of the metrics that has a value, turned so that lower is better; of a task's metric the worst task."""
    for metric in metrics:
        row = headline(results, metric)
        rows = (
            [row]
            if row is not None
            else [r for r in results if r.metric == metric and r.replicate == -1 and not r.key2]
        )
        turned = [
            -r.value if r.direction > 0 else (r.value if r.direction < 0 else abs(r.value - (r.null_value or 0.0)))
            for r in rows
            if r.value is not None
        ]
        if turned:
            return max(turned)
    return None
