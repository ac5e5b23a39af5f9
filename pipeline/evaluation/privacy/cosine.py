"""Cosine similarity of code counts: are training people's codes met more closely than others'?

Only for tables with code blocks; all blocks of a row are one vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.privacy.nearness import standard_error
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext, PartName
    from pipeline.evaluation.encoding import Side
    from pipeline.evaluation.results import MetricResult

COSINE = MetricSpec(
    id="priv.cosine_nn",
    family="privacy",
    direction=-1,
    range=(-1.0, 1.0),
    needs=frozenset({"T", "H", "S"}),
    version="1",
    title="Likeness of codes (cosine, excess over holdout)",
    caption="Mean cosine similarity of a training person's codes to the most similar synthetic row, minus that of "
    "holdout people. Lower is better; the null is 0. The level itself says nothing: fresh real people are alike too.",
    source="ScoEHR (Naseer 2023), privacy, with the nearest row instead of a paired one and a control group",
    cost="B",
)


@metric(COSINE, floor="ref_train")
def cosine_nn(ctx: EvaluationContext) -> list[MetricResult]:
    """Mean over people with at least one code; whose rows have none in common with anybody count 0."""
    if not ctx.synthetic.counts:
        return [COSINE.not_applicable("the table has no code block", null=0.0)]
    means, errors, n = {}, {}, 0
    for name in ("T", "H"):
        side: PartName = name
        rows = ctx.rows(side)
        found = ctx.near(side, "S", k=1, distance="cosine")
        some = carries(ctx.side(side), rows)
        if not some.any():
            return [COSINE.result(None, n=0, null=0.0, note="no person carries a code")]
        best, where = 1.0 - found.distance[some, 0], found.index[some, 0]
        people = ctx.side(side).clusters[rows][some]
        means[name], errors[name], n = float(best.mean()), standard_error(best, people, where), len(best)
    return [
        COSINE.result(
            means["T"] - means["H"],
            se=float(np.hypot(errors["T"], errors["H"])),
            n=n,
            null=0.0,
            note=f"training {means['T']:.3f}, others {means['H']:.3f}",
        )
    ]


def carries(side: Side, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
    """(n,) whether the row has at least one code."""
    return np.asarray(np.diff(side.count_rows.unit.indptr)[rows] > 0)
