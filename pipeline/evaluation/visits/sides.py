"""The visits of each side of an evaluation, in the order of the side's rows and under T's vocabulary; made once each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.features.visits import Visits

if TYPE_CHECKING:
    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult, MetricSpec

NO_EVENTS = "the cohort has no events"
NO_VISITS = "the synthetic rows come without visits"


def refusal(ctx: EvaluationContext, spec: MetricSpec) -> list[MetricResult]:
    """What stands in place of figures where there are no visits to compare; empty if there are."""
    if ctx.sides.encoder.schema.events is None:
        return [spec.not_applicable(NO_EVENTS)]
    if ctx.synthetic.cohort.events is None:
        return [spec.result(None, note=NO_VISITS)]
    return []


def visits_of(ctx: EvaluationContext, name: PartName) -> Visits:
    """The visits of a side, its rows in the side's order; of codes that T's vocabulary lacks nothing is left."""
    keeper = ctx if name == "S" else ctx.sides
    vocabulary = ctx.sides.encoder.schema.events
    assert vocabulary is not None
    return keeper.once(f"visits/{name}", lambda: _aligned(ctx.side(name), vocabulary.vocabulary))


def _aligned(side: Side, vocabulary: list[str]) -> Visits:
    known = {code: place for place, code in enumerate(vocabulary)}
    visits = Visits.of(side.cohort)
    place = np.array([known.get(code, -1) for code in visits.vocabulary], dtype=np.int64)
    return visits.recoded(place, vocabulary).take(side.order)
