"""How an evaluation is run: every replicate through every metric, pooled over seeds, set beside the reference rows.

The rows it gives: one a replicate (replicate = 0, 1, ...) and one pooled (replicate = -1), both with the value of the
four reference rows and, pooled and headline, the normalised score (0 = floor, 1 = fresh real rows). What is measured
is in the metric modules, how numbers are combined in `intervals.py`.
"""

from __future__ import annotations

import gc
import traceback
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import InputError
from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.intervals import pool_seeds
from pipeline.evaluation.references import reference_cohort
from pipeline.evaluation.registry import BUILT_IN, Metric, find_metric, metric_ids
from pipeline.evaluation.results import REFERENCE_ROWS, MetricResult, results_from_table, results_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.features.cohort import Cohort

    References = Mapping[str, Sequence[MetricResult]]

Key = tuple[str, str, str, str]
SEPARATION = 3.0
"""Floor and ceiling must lie this many standard errors apart for a normalised score."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gives.

    Attributes:
        results: Rows of every replicate and pooled rows.
        details: JSON-able aggregates of the first replicate for the report's figures: shares of bins with counts
            under 11 suppressed, curves, correlations. Never a row, a subject id, a minimum or a maximum, but under
            "internal", which only the internal report may draw.
    """

    results: list[MetricResult]
    details: dict[str, Any] = field(default_factory=dict)


def evaluate(
    parts: Parts,
    synthetic: Sequence[Cohort],
    plan: EvaluationPlan | None = None,
    *,
    references: References | None = None,
) -> list[MetricResult]:
    """The results of `run_evaluation` without the details."""
    return run_evaluation(parts, synthetic, plan, references=references).results


def run_evaluation(
    parts: Parts,
    synthetic: Sequence[Cohort],
    plan: EvaluationPlan | None = None,
    *,
    references: References | None = None,
    metrics: Sequence[str] | None = None,
    sides: RealSides | None = None,
) -> Evaluation:
    """Judge the cohorts that one generator gave, one for each trained seed.

    Args:
        parts: The real rows.
        synthetic: One cohort a replicate; the first is the candidate and the one that is drawn in the report.
        plan: What is asked; nothing beside the rows themselves if None.
        references: What `evaluate_references` gave for the same parts and plan.
        metrics: Ids to compute; all that the profile allows if None.
        sides: The same parts under the same plan, as `evaluate_references` has used them: what was made of the real rows
            (a fifth of the work) is not made again.

    Raises:
        InputError: no cohort, an empty one, or one that lacks a column.
        ConfigError: the plan names an unknown column or profile.
    """
    from pipeline.evaluation.aggregates import aggregates, rare_names

    if not synthetic:
        raise InputError("There is no synthetic cohort to evaluate.", todo="Pass one cohort a replicate.")
    sides = sides or RealSides(parts, plan)
    rows: list[MetricResult] = []
    details: dict[str, Any] = {}
    for k, cohort in enumerate(synthetic):
        context = EvaluationContext(sides, synthetic_side(sides, cohort), replicate=k, with_plots=k == 0)
        rows += compute(context, metrics)
        if k == 0:
            internal = {**context.internal, "rare": rare_names(sides)}
            details = {**context.plots, **aggregates(context), "internal": internal}
        del context
        gc.collect()
    return Evaluation(with_references([*rows, *pooled(rows)], references or {}), details)


def evaluate_references(
    parts: Parts,
    plan: EvaluationPlan | None = None,
    *,
    metrics: Sequence[str] | None = None,
    sides: RealSides | None = None,
) -> dict[str, list[MetricResult]]:
    """The four reference rows by exactly the code that judges generators; without a reference part no `ref_fresh`.

    The arguments are those of `run_evaluation`.
    """
    sides = sides or RealSides(parts, plan)
    found: dict[str, list[MetricResult]] = {}
    for name in REFERENCE_ROWS:
        cohort = reference_cohort(sides, name)
        if cohort is not None:
            found[name] = [
                replace(row, replicate=-1)
                for row in compute(EvaluationContext(sides, synthetic_side(sides, cohort)), metrics)
            ]
            # What metrics remember refers back to its context: a cycle of few objects and much memory.
            gc.collect()
    return {name: with_references(rows, found) for name, rows in found.items()}


def compute(context: EvaluationContext, metrics: Sequence[str] | None = None) -> list[MetricResult]:
    """The metrics on one context, in registry order; without `metrics` those whose cost the profile allows."""
    found = [find_metric(name) for name in (metric_ids() if metrics is None else metrics)]
    if metrics is None:
        found = [m for m in found if m.spec.cost in context.sides.profile.costs]
    with warnings.catch_warnings():
        # A model that has not converged is judged as it stands; which library says so is nothing for a terminal.
        warnings.filterwarnings("ignore", message=".*(converge|Maximum iterations|iterations reached).*")
        return [replace(row, replicate=context.replicate) for m in found for row in _computed(m, context)]


def _computed(metric: Metric, context: EvaluationContext) -> list[MetricResult]:
    """A metric's results; one that fails is a result without a value, and takes no other down with it."""
    try:
        return metric.compute(context)
    except Exception as error:  # its text may hold a patient's values
        return [metric.spec.result(None, note=failure_note(metric.spec.id, error))]


def failure_note(name: str, error: Exception) -> str:
    """What a report says of a metric that raised: the kind of error and the line, never its text."""
    kind = type(error).__name__
    if name not in BUILT_IN:
        return f"the metric failed with {kind}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"the metric failed with {kind} at {Path(last.filename).name}:{last.lineno}; this is a fault of ours"


def key_of(row: MetricResult) -> Key:
    """What a row is about, whatever the replicate."""
    return row.metric, row.scope, row.key1, row.key2


def pooled(rows: Iterable[MetricResult]) -> list[MetricResult]:
    """One row a figure: the mean over replicates with the interval of `pool_seeds`."""
    by_key: dict[Key, list[MetricResult]] = {}
    for row in rows:
        by_key.setdefault(key_of(row), []).append(row)
    return [_pool(same) for same in by_key.values()]


def _pool(rows: list[MetricResult]) -> MetricResult:
    if len(rows) == 1:
        return replace(rows[0], replicate=-1)
    known = [r for r in rows if r.value is not None]
    notes = list(dict.fromkeys(r.note for r in rows if r.note))
    if not known:
        # One reason stands for all: what is broken before what is too small, and the most that is needed.
        broken = [r for r in rows if r.status == "not_estimable"]
        return replace(broken[0] if broken else max(rows, key=lambda r: r.n_needed or 0), replicate=-1)
    together = pool_seeds([float(r.value) for r in known if r.value is not None], [r.se for r in known])
    low, high = find_metric(rows[0].metric).spec.range
    # A statistic beside the headline may have a range of its own; it is cut where its replicates are.
    low = min(low, *(r.ci_lo for r in known if r.ci_lo is not None), together.value)
    high = max(high, *(r.ci_hi for r in known if r.ci_hi is not None), together.value)
    nulls = [r.null_value for r in known if r.null_value is not None]
    draws = [r.draws for r in known if r.draws is not None]
    if len(known) < len(rows):
        notes.insert(0, f"not estimable for {len(rows) - len(known)} of {len(rows)} seeds")
    return replace(
        rows[0],
        value=together.value,
        se=together.se,
        ci_lo=None if together.lo is None else max(low, together.lo),
        ci_hi=None if together.hi is None else min(high, together.hi),
        n=None if known[0].n is None else min(r.n for r in known if r.n is not None),
        null_value=float(np.mean(nulls)) if nulls else None,
        replicate=-1,
        n_needed=None,
        note="; ".join(notes[:2]),
        draws=tuple(np.mean(draws, axis=0).tolist()) if len(draws) == len(rows) else None,
    )


def with_references(rows: Iterable[MetricResult], references: References) -> list[MetricResult]:
    """The rows with the values of the reference rows beside them, and the normalised score of pooled rows."""
    found = {name: {key_of(r): r for r in given} for name, given in references.items()}
    result = []
    for row in rows:
        values = {name: found[name].get(key_of(row)) if name in found else None for name in REFERENCE_ROWS}
        result.append(
            replace(
                row,
                ref_fresh=_value(values["ref_fresh"]),
                ref_train=_value(values["ref_train"]),
                ref_marginal=_value(values["ref_marginal"]),
                ref_mode=_value(values["ref_mode"]),
                score=_score(row, values) if row.replicate == -1 else None,
            )
        )
    return result


def _value(row: MetricResult | None) -> float | None:
    return None if row is None else row.value


def _score(row: MetricResult, references: Mapping[str, MetricResult | None]) -> float | None:
    """(value - floor) / (ceiling - floor); None where floor and ceiling cannot be told apart."""
    ends = score_ends(row, references)
    return None if ends is None or row.value is None else (row.value - ends[0]) / (ends[1] - ends[0])


def score_ends(row: MetricResult, references: Mapping[str, MetricResult | None]) -> tuple[float, float] | None:
    """Floor and ceiling of a row's normalised score; None where one is lacking or they lie within 3 errors."""
    floor, ceiling = references.get(find_metric(row.metric).floor), references.get("ref_fresh")
    if floor is None or ceiling is None or floor.value is None or ceiling.value is None:
        return None
    apart = abs(ceiling.value - floor.value)
    error = float(np.hypot(floor.se or 0.0, ceiling.se or 0.0))
    return None if apart == 0 or apart < SEPARATION * error else (floor.value, ceiling.value)


def headline(rows: Iterable[MetricResult], metric: str, *, key1: str = "", key2: str = "") -> MetricResult | None:
    """The pooled row of a metric (a task's with `key1`), if there is one."""
    return next(
        (r for r in rows if r.metric == metric and r.replicate == -1 and r.key1 == key1 and r.key2 == key2), None
    )


def replicates(rows: Iterable[MetricResult], metric: str, *, key1: str = "", key2: str = "") -> list[MetricResult]:
    """The rows of each replicate of a metric, in order."""
    found = [r for r in rows if r.metric == metric and r.replicate >= 0 and r.key1 == key1 and r.key2 == key2]
    return sorted(found, key=lambda r: r.replicate)


def references_table(references: References) -> pa.Table:
    """All reference rows as one Arrow table with the column `reference`."""
    import pyarrow as pa

    tables = []
    for name in REFERENCE_ROWS:
        if name in references:
            table = results_table(references[name])
            tables.append(table.append_column("reference", pa.array([name] * table.num_rows, type=pa.string())))
    if not tables:
        empty = results_table([])
        return empty.append_column("reference", pa.array([], type=pa.string()))
    return pa.concat_tables(tables)


def references_from_table(table: pa.Table) -> dict[str, list[MetricResult]]:
    """The reference rows back from the table that `references_table` made."""
    import pyarrow.compute as pc

    found = {}
    for name in REFERENCE_ROWS:
        part = table.filter(pc.equal(table.column("reference"), name)).drop_columns(["reference"])
        if part.num_rows:
            found[name] = results_from_table(part)
    return found


__all__ = [
    "Evaluation",
    "Parts",
    "compute",
    "evaluate",
    "evaluate_references",
    "headline",
    "key_of",
    "pooled",
    "references_from_table",
    "references_table",
    "replicates",
    "run_evaluation",
    "with_references",
]
