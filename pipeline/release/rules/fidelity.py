"""Schema and fidelity: the form of the rows, and whether they look like real ones. Judged on the mean over seeds."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from pipeline.evaluation.fidelity.moments import COLLAPSED_SHARE
from pipeline.evaluation.protocol import headline, key_of, score_ends
from pipeline.release.rules.held import (
    Question,
    Rule,
    at_most,
    compared,
    each,
    exactly,
    mean,
    missing,
    passed,
    percent,
    three,
    warned_above,
    within,
    worst,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.evaluation_spec import GateSpec
    from pipeline.release.rules.held import References

ADHERENCE = Question("schema_adherence", "schema", "schema.adherence", "rows that keep to the schema", percent)
RARE = Question(
    "rare_levels", "schema", "priv.rare_level", "levels and codes of fewer than 11 training people that come out", percent
)  # fmt: skip
CLINICAL = Question(
    "clinical_violations", "schema", "ehr.ckv", "broken clinical rules beyond what real rows break", percent
)
DIVERGENCE = Question("jsd_mean", "fidelity", "fid.marg.jsd", "mean divergence of the columns", three)
COLLAPSE = Question(
    "variance_collapse", "fidelity", "fid.marg.variance_collapse", "columns that lost over half of their spread", percent
)  # fmt: skip
DEPENDENCE = Question(
    "dependence_score", "fidelity", "fid.dep.corr_rmse", "share of the dependence between columns that is kept", percent
)  # fmt: skip
CODES = Question("code_total_ratio", "fidelity", "ehr.code_freq.total_ratio", "codes a row, synthetic over real", three)
ABUNDANCE = Question(
    "code_abundance", "fidelity", "ehr.abundance", "difference in the number of distinct codes a row", three
)
MOST_NAMED = 3
"""Columns that a rule names."""
DETECTION = Question("detect_auc", "fidelity", "fid.joint.detect_auc", "detection by a classifier (AUC)", three)


def schema_rules(results: Sequence[MetricResult], gate: GateSpec) -> list[Rule]:
    """The form of the rows: the schema, rare levels, clinical rules."""
    rare = worst(results, RARE.metric)
    count = 0.0 if rare is None or rare.value is None else rare.value
    return [
        _adherence(results),
        *exactly(RARE, rare, 0.0, f"{RARE.what}: {count:g}, none may"),
        *_clinical(results, gate.clinical_violations_max),
    ]


def rules(results: Sequence[MetricResult], gate: GateSpec, references: References) -> list[Rule]:
    """Columns alone and together, codes, detection."""
    return [
        *_above_chance(DIVERGENCE, results, gate.jsd_mean_max),
        *_collapse(results, gate),
        *_dependence(results, gate, references),
        *within(CODES, mean(results, CODES.metric), gate.code_total_ratio),
        *_above_chance(ABUNDANCE, results, gate.code_abundance_max),
        *warned_above(DETECTION, mean(results, DETECTION.metric), gate.detect_auc_warn),
    ]


def _clinical(results: Sequence[MetricResult], limit: float) -> list[Rule]:
    """Broken clinical rules; where too many are, the one that is broken most beyond real rows is named."""
    found = at_most(CLINICAL, mean(results, CLINICAL.metric), limit)
    most = headline(results, CLINICAL.metric, key1="worst")
    if not found or found[0].status == "pass" or most is None or not most.note or not most.value:
        return found
    return [replace(found[0], words=f"{found[0].words}; most of all: {most.note}, {percent(most.value)}")]


def _adherence(results: Sequence[MetricResult]) -> Rule:
    rows = each(results, ADHERENCE.metric)
    if not rows:
        return missing(ADHERENCE, 1.0)
    lowest = min(rows, key=lambda r: -1.0 if r.value is None else r.value)
    if lowest.value is None:
        return missing(ADHERENCE, 1.0, lowest.note)
    good = lowest.value >= 1.0
    shown = percent(lowest.value) if good else f"{lowest.value:.3%}".replace("%", " %")
    words = f"{ADHERENCE.what}: {shown}, all must"
    columns = [r for r in results if r.metric == ADHERENCE.metric and r.scope == "column"]
    broken = {r.key1: None for r in columns if r.value is not None and r.value < 1}
    if not good and broken:
        first = ", ".join(f"'{name}'" for name in list(broken)[:MOST_NAMED])
        more = f" and {len(broken) - MOST_NAMED} more" if len(broken) > MOST_NAMED else ""
        words += f"; cells of {first}{more} are missing where they must not be, of another type, out of bounds or no level of the schema"
    return Rule(ADHERENCE.name, "schema", lowest.value, 1.0, None, passed(good), None, words, ADHERENCE.metric)


def _above_chance(question: Question, results: Sequence[MetricResult], limit: float) -> list[Rule]:
    """A distance between distributions; what two real samples of this size differ by is no failure of the generator."""
    row = mean(results, question.metric)
    found = at_most(question, row, limit)
    if not found or found[0].status != "fail" or row is None or row.value is None or row.null_value is None:
        return found
    if row.value - row.null_value > limit:
        return found
    needed = ceil(row.n * row.value / limit) if row.n else None
    words = (
        f"{found[0].words}: two real samples of this size differ by {three(row.null_value)} by chance alone"
        + (f", about {needed:,} a side are needed" if needed else "")
    )  # fmt: skip
    return [replace(found[0], status="underpowered", n_needed=needed, words=words)]


def _collapse(results: Sequence[MetricResult], gate: GateSpec) -> list[Rule]:
    if gate.variance_collapse:
        return []
    row = worst(results, COLLAPSE.metric)
    value = 0.0 if row is None or row.value is None else row.value
    words = f"{COLLAPSE.what}: {percent(value)}, at most {percent(COLLAPSED_SHARE)} allowed"
    return exactly(COLLAPSE, row, COLLAPSED_SHARE, words)


def _dependence(results: Sequence[MetricResult], gate: GateSpec, references: References) -> list[Rule]:
    """Normalised score of the correlation error: 0 where columns are shuffled, 1 at fresh real rows."""
    limit, row = gate.dependence_score_min, mean(results, DEPENDENCE.metric)
    if row is not None and row.status == "not_applicable":
        return []
    if row is None or row.value is None:
        return [missing(DEPENDENCE, limit, row.note if row else "")]
    found = {k: next((r for r in rows if key_of(r) == key_of(row)), None) for k, rows in references.items()}
    floor, fresh = found.get("ref_marginal"), found.get("ref_fresh")
    if floor is None or fresh is None or floor.value is None or fresh.value is None:
        return [missing(DEPENDENCE, limit, "reference rows are missing")]
    ends = score_ends(row, found)
    if ends is None:
        apart = floor.value - fresh.value
        error = 3 * ((floor.se or 0.0) ** 2 + (fresh.se or 0.0) ** 2) ** 0.5
        needed = ceil((row.n or 0) * (error / apart) ** 2) if apart > 0 else None
        words = (
            f"{DEPENDENCE.what}: not estimable, shuffled columns and fresh real rows cannot be told apart"
            + (f"; about {needed:,} people a side are needed" if needed else "")
        )  # fmt: skip
        return [Rule(DEPENDENCE.name, "fidelity", None, limit, None, "underpowered", needed, words, DEPENDENCE.metric)]

    def score(x: float) -> float:
        return (x - ends[0]) / (ends[1] - ends[0])

    end = score(row.value if row.ci_hi is None else row.ci_hi)
    return [compared(DEPENDENCE, score(row.value), end, limit, row.n, lower=True)]
