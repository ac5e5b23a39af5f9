"""Bounding what one subject contributes, so that the subject is the unit of privacy and not the row.

Where a subject has several rows, adding or removing one person changes all of them at once; at most `rows_per_subject`
are used. How noise grows with that number is in `run.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort


def bounded(cohort: Cohort, rows_per_subject: int, rng: np.random.Generator) -> Cohort:
    """The cohort with at most so many rows of each subject, in their order.

    Which rows stay is drawn for each subject by itself: what becomes of one subject's rows depends on no other's.

    Args:
        cohort: Rows; several may share a subject.
        rows_per_subject: Rows that stay of each subject at most.
        rng: Secret random numbers.
    """
    _, subject = np.unique(cohort.subject, return_inverse=True)
    order = np.lexsort((rng.random(cohort.n_rows), subject))
    first = np.flatnonzero(np.r_[True, np.diff(subject[order]) > 0]) if cohort.n_rows else np.empty(0, dtype=np.int64)
    place = np.arange(cohort.n_rows) - np.repeat(first, np.diff(np.r_[first, cohort.n_rows]))
    kept = np.sort(order[place < rows_per_subject])
    return cohort if len(kept) == cohort.n_rows else cohort.take(kept)
