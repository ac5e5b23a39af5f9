"""Utility and fairness: what analyses of the rows come to, for everybody and for each group. Mean over seeds."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from pipeline.evaluation.protocol import headline
from pipeline.release.rules.held import (
    Question,
    Rule,
    at_least,
    at_most,
    exactly,
    mean,
    missing,
    percent,
    three,
    within,
    worst,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import GateSpec

SIGNS = Question(
    "inference_sign_agreement", "utility", "util.inference.sign_agreement", "effects of the analyses that keep their sign", percent
)  # fmt: skip
ABSENT = Question("groups_absent", "fairness", "fair.absent", "groups of at least 1 % of people without a row", three)
SHIFTED = Question(
    "groups_shifted", "fairness", "fair.ldss", "largest certain shift of a group's share (log odds)", three
)
GAP = Question(
    "delta_auroc_gap", "fairness", "fair.delta_auroc_gap", "gap between groups (AUROC) that synthetic rows add", three
)
WORST_GROUP = Question(
    "worst_group_ratio", "fairness", "fair.worst_group", "skill kept in the group that keeps least", percent
)
STRONG_SHIFT = 0.223
"""-ln 0.8: beyond it a group counts as strongly over- or under-represented (Bhanot et al.)."""


def utility_rules(results: Sequence[MetricResult], gate: GateSpec, tasks: Sequence[str]) -> list[Rule]:
    """Skill and calibration on each task, and the signs of the prespecified analyses."""
    found: list[Rule] = []
    for task in tasks:
        found += _ratio(results, gate, task)
        found += _slope(results, gate, task)
    return [*found, *_signs(results, gate)]


def fairness_rules(results: Sequence[MetricResult], gate: GateSpec) -> list[Rule]:
    """Groups that are absent, shifted or served worse."""
    absent, shifted = worst(results, ABSENT.metric), worst(results, SHIFTED.metric)
    count = 0.0 if absent is None or absent.value is None else absent.value
    size = 0.0 if shifted is None or shifted.value is None else shifted.value
    return [
        *exactly(ABSENT, absent, float(gate.groups_absent_max), f"{ABSENT.what}: {count:g}, at most "
                 f"{gate.groups_absent_max} allowed"),
        *exactly(SHIFTED, shifted, STRONG_SHIFT, f"{SHIFTED.what}: {three(size)}, at most {STRONG_SHIFT} allowed"
                 + (f" ({shifted.note})" if shifted is not None and shifted.note and size else "")),
        *at_most(GAP, mean(results, GAP.metric), gate.delta_auroc_gap_max),
        *at_least(WORST_GROUP, mean(results, WORST_GROUP.metric), gate.worst_group_ratio_min),
    ]  # fmt: skip


def _slope(results: Sequence[MetricResult], gate: GateSpec, task: str) -> list[Rule]:
    """Calibration; where the model is miscalibrated even if real rows train it, its slope is held against that one."""
    metric, (low, high) = "util.calibration_slope", gate.calibration_slope
    question = Question(f"calibration_slope[{task}]", "utility", metric, f"calibration slope on '{task}'", three)
    real = headline(results, metric, key1=task, key2="trtr")
    row = mean(results, metric, key1=task)
    if real is None or real.value is None or real.value <= 0 or low <= real.value <= high:
        return within(question, row, gate.calibration_slope)
    what = f"{question.what} (trained on real rows {three(real.value)})"
    return within(replace(question, what=what), row, (min(low, low * real.value), max(high, high * real.value)))


def _signs(results: Sequence[MetricResult], gate: GateSpec) -> list[Rule]:
    """Signs of effects; where even another real sample is expected to miss the limit, only a certain loss fails."""
    row, limit = mean(results, SIGNS.metric), gate.inference_sign_agreement_min
    # Its n counts effects: more people would narrow it, more of the same effects would not.
    found = at_least(SIGNS, row and replace(row, n=None), limit)
    if not found or row is None or row.value is None or row.null_value is None or row.null_value >= limit:
        return found
    upper = row.value if row.ci_hi is None else row.ci_hi
    if found[0].status == "pass" or upper < row.null_value:
        return found
    words = f"{found[0].words}; of so many real people {percent(row.null_value)} would be expected"
    return [replace(found[0], status="underpowered", words=words)]


def _ratio(results: Sequence[MetricResult], gate: GateSpec, task: str) -> list[Rule]:
    """Skill kept; where the real model's own skill is in doubt, about how many people would tell."""
    question = Question(f"utility_ratio[{task}]", "utility", "util.ratio", f"skill kept on '{task}'", percent)
    limit, row = gate.utility_ratio_min, mean(results, "util.ratio", key1=task)
    if row is None or row.value is not None or row.n_needed is not None:
        return at_least(question, row, limit)
    real = headline(results, "util.trtr_auroc", key1=task)
    if real is None or real.value is None or real.se is None or real.value <= 0.5 or not real.n:
        return [missing(question, limit, row.note)]
    needed = ceil(real.n * (3 * real.se / (real.value - 0.5)) ** 2)
    words = f"{question.what}: not estimable, {row.note}; about {needed:,} holdout people would tell"
    return [Rule(question.name, "utility", None, limit, None, "underpowered", needed, words, question.metric)]
