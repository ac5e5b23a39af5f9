"""Cells as numbers: how one column or code block of a cohort is read, and what the training rows say of a column.

Nothing fails here: a column of another type is cast, and what cannot be cast is missing or no level of the schema.
How whole cohorts are encoded with this is in `encoding.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import Column

MISSING, UNSEEN = -1, -2
QUANTILE_BINS = 20
ATOM_SHARE = 0.05
FARTHEST = 1e9
"""Widths of T's range: a number beyond is cut there."""
MOST_TIMES = 1_000_000
"""Largest count of a code that is read as it is."""
LARGEST = 1e100
"""Largest number that is read as it is; the square of a larger one may be no number."""
WIDE = 200
"""Of each code block the codes of highest variance in T that enter classifiers."""


@dataclass(frozen=True)
class NumericRule:
    """What T says of a numeric column: scale for distances, bins for divergences, moments for linear features."""

    lo: float
    hi: float
    atoms: NDArray[np.float64]
    edges: NDArray[np.float64]
    mean: float
    std: float

    def cut(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) values, those further than `FARTHEST` widths from T's range put there; NaN stays.

        What is so far off is equally wrong wherever it lies, and its square would be no number.
        """
        far = FARTHEST * (self.hi - self.lo)
        return np.clip(values, self.lo - far, self.hi + far)


def finite(cohort: Cohort, column: Column) -> NDArray[np.float64]:
    """(n,) float64 of a numeric column; missing and infinite cells as NaN, beyond `LARGEST` cut. A column of another type is cast."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.features.cohort import numbers
    from pipeline.features.schema import arrow_type

    array = cohort.table.column(column.name).combine_chunks()
    if array.type != arrow_type(column.dtype):
        try:
            array = pc.cast(array, pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return np.full(len(array), np.nan)
        values = np.array(array.to_numpy(zero_copy_only=False), dtype=np.float64)
    else:
        values = np.array(numbers(array, column), dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return np.clip(values, -LARGEST, LARGEST)


def discrete_codes(cohort: Cohort, column: Column) -> NDArray[np.int64]:
    """(n,) positions in T's levels; -1 missing, -2 no level. A column of another type is cast, else all -2."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.features.cohort import level_codes
    from pipeline.features.schema import arrow_type

    array = cohort.table.column(column.name).combine_chunks()
    wanted = arrow_type(column.dtype)
    if array.type != wanted:
        try:
            array = pc.cast(array, wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return np.where(np.asarray(array.is_null()), MISSING, UNSEEN).astype(np.int64)
    return level_codes(array, column)


def aligned(cohort: Cohort, name: str, wanted: Sequence[str]) -> csr_matrix:
    """A block's (n, codes) matrix with its codes in the order of `wanted`; other codes are left out, zeros not stored.

    A number that is no count (missing or below 0) is read as 0, one beyond `MOST_TIMES` as that.
    """
    from scipy.sparse import csr_matrix

    given = next(b.vocabulary for b in cohort.schema.blocks if b.name == name)
    matrix = csr_matrix(cohort.blocks[name]).copy()
    if matrix.dtype != bool:
        matrix.data = np.clip(np.nan_to_num(matrix.data, nan=0), 0, MOST_TIMES)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if list(given) == list(wanted):
        return matrix
    place = {code: i for i, code in enumerate(wanted)}
    column = np.array([place.get(code, -1) for code in given], dtype=np.int64)[matrix.indices]
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    known = column >= 0
    return csr_matrix((matrix.data[known], (row[known], column[known])), shape=(matrix.shape[0], len(wanted)))


def numeric_rule(values: NDArray[np.float64]) -> NumericRule:
    """What (n,) training values, NaN where missing, say of their column."""
    known = values[~np.isnan(values)]
    if not len(known):
        empty = np.array([], dtype=np.float64)
        return NumericRule(0.0, 1.0, empty, empty, 0.0, 1.0)
    lo, hi = np.quantile(known, [0.005, 0.995])
    if hi <= lo:
        lo, hi = known.min(), known.max()
    if hi <= lo:
        hi = lo + max(1.0, 1e-9 * abs(lo))
    distinct, counts = np.unique(known, return_counts=True)
    atoms = distinct[counts > ATOM_SHARE * len(known)]
    rest = known[~np.isin(known, atoms)]
    edges = np.unique(np.quantile(rest, np.linspace(0, 1, QUANTILE_BINS + 1)[1:-1])) if len(rest) else rest
    return NumericRule(float(lo), float(hi), atoms, edges, float(known.mean()), float(known.std()))


def widest(matrix: csr_matrix) -> NDArray[np.int64]:
    """The codes of highest variance of presence (at most WIDE), in vocabulary order; codes without spread left out."""
    share = np.asarray((matrix != 0).mean(axis=0)).ravel()
    variance = share * (1 - share)
    best = np.argsort(-variance, kind="stable")[:WIDE]
    return np.sort(best[variance[best] > 0]).astype(np.int64)
