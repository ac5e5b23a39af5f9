"""The four reference rows: cohorts whose place on every scale is known, scored by the same code as a generator.

`ref_fresh` is a real sample that nobody has seen (the ceiling, and the null of privacy), `ref_train` the training
rows themselves (the worst privacy), `ref_marginal` the training columns shuffled independently (no dependence),
`ref_mode` one training row repeated (no variety).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.results import REFERENCE_ROWS

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.evaluation.context import RealSides
    from pipeline.features.cohort import Cohort

TITLES: dict[str, str] = {
    "ref_fresh": "fresh real rows",
    "ref_train": "training rows copied",
    "ref_marginal": "columns shuffled",
    "ref_mode": "one row repeated",
}


def reference_cohort(sides: RealSides, name: str) -> Cohort | None:
    """The cohort of a reference row; None for `ref_fresh` when there is no reference part."""
    if name not in REFERENCE_ROWS:
        raise ValueError(f"no reference row is called {name!r}")
    train = sides.parts.train
    if name == "ref_fresh":
        return sides.parts.reference0 if sides.parts.reference0.n_rows else None
    if name == "ref_train":
        return train
    if name == "ref_marginal":
        return _shuffled(sides)
    repeated = train.take(np.full(train.n_rows, _typical_row(sides)))
    return replace(repeated, subject=_numbered("repeated", train.n_rows), split=None, tune=None)


def _shuffled(sides: RealSides) -> Cohort:
    """Every column and every code of T in an order of its own."""
    import pyarrow as pa
    from scipy.sparse import csc_matrix, csr_matrix

    train = sides.parts.train.take(sides.train.order)
    n = train.n_rows
    columns = [
        train.table.column(c.name).take(pa.array(sides.rng("ref_marginal", c.name).permutation(n)))
        for c in train.schema.columns
    ]
    blocks = {}
    for block in train.schema.blocks:
        rng = sides.rng("ref_marginal", block.name)
        matrix = csc_matrix(train.blocks[block.name])
        rows = np.concatenate([rng.permutation(n)[:size] for size in np.diff(matrix.indptr)] or [np.array([], int)])
        blocks[block.name] = csr_matrix(csc_matrix((matrix.data, rows, matrix.indptr), shape=matrix.shape))
    return replace(
        train,
        table=pa.Table.from_arrays(columns, schema=train.table.schema),
        subject=_numbered("shuffled", n),
        split=None,
        tune=None,
        blocks=blocks,
        events=None if train.events is None else _shuffled_codes(train, sides),
    )


def _shuffled_codes(train: Cohort, sides: RealSides) -> pa.Table:
    """The visits of T with all codes exchanged: who comes when, with how many codes, but whose codes is chance.

    A code that comes twice into a visit is there once.
    """
    from pipeline.features.visits import Visits

    visits = Visits.of(train)
    width = max(len(visits.vocabulary), 1)
    code = visits.code[sides.rng("ref_marginal", "events").permutation(len(visits.code))]
    pairs = np.unique(visits.visit_of_code * width + code)
    sizes = np.bincount(pairs // width, minlength=len(visits.day))
    start = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    return replace(visits, code_start=start, code=(pairs % width).astype(np.int32)).events()


def _numbered(what: str, n: int) -> NDArray[np.str_]:
    """Subjects of made-up rows: every row is one of its own."""
    return np.array([f"{what}-{i:07d}" for i in range(n)], dtype=str)


def _typical_row(sides: RealSides) -> int:
    """Position in T of the row that is nearest to the median of numbers and the commonest levels and codes."""
    points = sides.train.points
    distance = np.zeros(len(points))
    if points.columns:
        centre = np.median(points.dense, axis=0)
        distance += ((points.dense - centre) ** 2).sum(axis=1) / points.columns
    for presence in points.presence:
        common = np.asarray(presence.mean(axis=0)).ravel() >= 0.5
        carried = np.asarray(presence.sum(axis=1)).ravel()
        distance += (carried + common.sum() - 2 * (presence @ common.astype(np.float32))) / max(presence.shape[1], 1)
    return int(sides.train.order[int(np.argmin(distance))])
