"""A metric as another package would bring it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricResult, MetricSpec

if TYPE_CHECKING:
    from pipeline.evaluation.context import EvaluationContext

SPEC = MetricSpec("fid.other.rows", "fidelity", 1, (0.0, 1e9), frozenset({"S"}), "1", "Rows", "Number of rows.")


@metric(SPEC)
def rows(ctx: EvaluationContext) -> list[MetricResult]:
    """How many synthetic rows there are."""
    return [SPEC.result(len(ctx.synthetic))]
