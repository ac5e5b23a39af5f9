"""Does each cell keep to the schema, and is every row's id its own? Rules between columns are in `plausibility.py`.

Foreign keys do not occur: a cohort is one table, whose code blocks share its rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.cells import UNSEEN
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.schema import CodeBlock

ADHERENCE = MetricSpec(
    id="schema.adherence",
    family="schema",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"S"}),
    version="1",
    title="Rows that keep to the schema",
    caption="Share of synthetic rows whose every cell has the right type, an admissible level, a number within "
    "bounds, and is missing only where it may be. Must be 100 %.",
    source="SDMetrics DiagnosticReport, re-implemented",
)
KEYS = MetricSpec(
    id="schema.keys",
    family="schema",
    direction=1,
    range=(0.0, 1.0),
    needs=frozenset({"T", "S"}),
    version="1",
    title="Rows with an id of their own",
    caption="Share of synthetic rows whose id is there and on no other row, for id columns that are unique in the "
    "training rows. Must be 100 %.",
    source="SDMetrics KeyUniqueness, re-implemented",
)


@metric(ADHERENCE, floor="")
def adherence(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of rows and, for each column, of cells that the schema admits."""
    from pipeline.features.schema import arrow_type

    side = ctx.synthetic
    whole = np.ones(len(side), dtype=bool)
    rows: list[MetricResult] = []
    for column in ctx.sides.encoder.columns:
        array = side.cohort.table.column(column.name)
        missing = _missing(array)[side.order]
        good = np.full(len(side), array.type == arrow_type(column.dtype))
        if column.discrete:
            good &= side.codes[column.name] != UNSEEN
        else:
            value = side.values[column.name]
            good &= missing | ~np.isnan(value)
            if column.bounds is not None:
                slack = 1e-9 * max(1.0, *map(abs, column.bounds))
                good &= ~(value < column.bounds[0] - slack) & ~(value > column.bounds[1] + slack)
        if not column.nullable:
            good &= ~missing
        whole &= good
        rows.append(_exact(ADHERENCE, good, scope="column", key1=column.name))
    for block in ctx.sides.encoder.blocks:
        good = _block(ctx, block)
        whole &= good
        rows.append(_exact(ADHERENCE, good, scope="column", key1=block.name))
    return [_exact(ADHERENCE, whole), *rows]


@metric(KEYS, floor="")
def keys(ctx: EvaluationContext) -> list[MetricResult]:
    """Share of rows with an id of their own, for each id column that is unique in T; the headline is the worst."""
    schema = ctx.sides.encoder.schema
    rows = []
    for column in schema.columns:
        if column.kind != "identifier" or not _own(ctx.sides.parts.train.table.column(column.name)).all():
            continue
        given = ctx.synthetic.cohort.table
        if column.name not in given.column_names:
            rows.append(KEYS.result(None, scope="column", key1=column.name, note="the synthetic rows have no such id"))
            continue
        rows.append(_exact(KEYS, _own(given.column(column.name)), scope="column", key1=column.name))
    known = [r.value for r in rows if r.value is not None]
    if not rows:
        return [KEYS.not_applicable("no id column is unique in the training rows")]
    if not known:
        return [KEYS.result(None, null=1.0, note=rows[0].note), *rows]
    return [KEYS.result(min(known), n=len(ctx.synthetic), null=1.0), *rows]


def _exact(spec: MetricSpec, good: NDArray[np.bool_], **about: str) -> MetricResult:
    return spec.result(float(good.mean()), n=len(good), null=1.0, **about)  # type: ignore[arg-type]


def _own(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """(n,) True where the cell is there and no other row has it."""
    known = ~_missing(column)
    number = np.unique(np.array(column.to_pylist(), dtype=str), return_inverse=True)[1]
    return known & (np.bincount(number)[number] == 1) if len(number) else known


def _block(ctx: EvaluationContext, block: CodeBlock) -> NDArray[np.bool_]:
    """(n,) True where a row has no code outside the vocabulary, none below 0, and in a binary block none above 1."""
    side = ctx.synthetic
    given = next(b for b in side.cohort.schema.blocks if b.name == block.name)
    known = set(block.vocabulary)
    strange = np.array([code not in known for code in given.vocabulary], dtype=bool)
    matrix = side.cohort.blocks[block.name][side.order]
    if not matrix.shape[1]:
        return np.ones(len(side), dtype=bool)
    # A sum is no number where one of its terms is none.
    bad = ~np.isfinite(np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel())
    bad |= np.asarray(matrix.min(axis=1).todense()).ravel() < 0
    if strange.any():
        bad |= np.asarray((matrix[:, strange] != 0).sum(axis=1)).ravel() > 0
    if block.kind == "binary":
        bad |= np.asarray(matrix.max(axis=1).todense()).ravel() > 1
    return ~bad


def _missing(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    import pyarrow as pa
    import pyarrow.compute as pc

    nan = pa.types.is_floating(column.type)
    return np.asarray(pc.is_null(column, nan_is_null=nan).to_numpy(zero_copy_only=False), dtype=bool)
