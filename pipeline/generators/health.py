"""Quick checks of freshly drawn rows against the training rows, run by every `fit` (spec 0.4).

They catch the common failures early: collapsed variance, lost levels and codes, copies of patients. They are no
evaluation: that is `pipeline/evaluation/`, on rows that training never saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

STD_RATIO = (0.8, 1.25)
"""Admissible ratio of standard deviations, synthetic to real (spec 0.4)."""
COVERAGE = 0.9
PREVALENCE = 0.05
EXCESS_COPIES = (1.5, 0.01)
"""Copies that raise a warning: more than this multiple of the natural share, plus this."""


def check_health(real: Cohort, drawn: Cohort) -> tuple[dict[str, float], list[str]]:
    """Compare drawn rows with training rows.

    Returns:
        Numbers: `std_ratio_min` and `std_ratio_max` over numeric columns (columns without variance left out);
        `level_coverage`, the share of real levels and codes, present in at least 1 % of the real rows, that were
        drawn; `max_prevalence_difference` over levels, codes and missing shares; `duplicate_share`, drawn rows that
        equal a training row in every modelled cell; `natural_duplicate_share`, training rows that have a twin.
        Then warnings in words.
    """
    warnings: list[str] = []
    ratios = _std_ratios(real, drawn)
    health: dict[str, float] = {}
    if ratios:
        health["std_ratio_min"], health["std_ratio_max"] = min(ratios.values()), max(ratios.values())
        off = {k: r for k, r in ratios.items() if not STD_RATIO[0] <= r <= STD_RATIO[1]}
        if off:
            worst = max(off, key=lambda k: abs(np.log(max(off[k], 1e-6))))
            collapsed = [k for k, r in off.items() if r < STD_RATIO[0]]
            what = "Variance collapse" if len(collapsed) * 2 > len(ratios) else "Spread is off"
            warnings.append(
                f"{what}: {len(off)} of {len(ratios)} numeric columns lie outside {STD_RATIO[0]} to {STD_RATIO[1]} of "
                f"the real standard deviation; furthest '{worst}' with {off[worst]:.2f}."
            )
    expected, found = _prevalences(real), _prevalences(drawn)
    if expected.size:
        frequent = expected >= 0.01
        if frequent.any():
            health["level_coverage"] = float((found[frequent] > 0).mean())
            if health["level_coverage"] < COVERAGE:
                warnings.append(
                    f"Only {health['level_coverage']:.0%} of the levels and codes that 1 % of the rows have were drawn."
                )
        health["max_prevalence_difference"] = float(np.abs(expected - found).max())
        if health["max_prevalence_difference"] > PREVALENCE:
            warnings.append(
                f"The share of some level, code or missing cell is off by {health['max_prevalence_difference']:.3f}."
            )
    known, twins = _row_keys(real)
    drawn_keys, _ = _row_keys(drawn)
    health["duplicate_share"] = float(np.isin(drawn_keys, known).mean())
    health["natural_duplicate_share"] = twins
    if health["duplicate_share"] > EXCESS_COPIES[0] * twins + EXCESS_COPIES[1]:
        warnings.append(
            f"{health['duplicate_share']:.1%} of the drawn rows equal a training row ({twins:.1%} of the training rows "
            "equal another): the model may have memorised, or the table has very few distinct rows."
        )
    return health, warnings


def _std_ratios(real: Cohort, drawn: Cohort) -> dict[str, float]:
    ratios: dict[str, float] = {}
    for column in real.schema.modelled():
        if not column.numeric:
            continue
        a, b = real.values(column.name), drawn.values(column.name)
        a, b = a[~np.isnan(a)], b[~np.isnan(b)]
        if len(a) >= 20 and a.std() > 0 and len(b) > 1:
            ratios[column.name] = float(b.std() / a.std())
    return ratios


def _prevalences(cohort: Cohort) -> NDArray[np.float64]:
    """Shares of every level, missing cell and code, in schema order."""
    n = cohort.n_rows
    parts: list[NDArray[np.float64]] = []
    for column in cohort.schema.modelled():
        if column.discrete:
            codes = cohort.codes(column.name)
            parts.append(np.bincount(codes[codes >= 0], minlength=len(column.levels or [])) / n)
        if column.nullable:
            parts.append(np.array([cohort.missing(column.name).mean()]))
    parts += [np.asarray((cohort.blocks[b.name] > 0).mean(axis=0)).ravel() for b in cohort.schema.blocks]
    return np.concatenate(parts) if parts else np.empty(0)


def _row_keys(cohort: Cohort) -> tuple[NDArray[np.uint64], float]:
    """A 64-bit hash of every row's modelled cells, and the share of rows that have a twin."""
    import pandas as pd

    cells = {
        str(i): cohort.codes(c.name) if c.discrete else cohort.values(c.name)
        for i, c in enumerate(cohort.schema.modelled())
    }
    frame = pd.DataFrame(cells, index=range(cohort.n_rows))
    keys: NDArray[np.uint64] = np.zeros(cohort.n_rows, dtype=np.uint64)
    if cells:
        keys += pd.util.hash_pandas_object(frame, index=False).to_numpy().astype(np.uint64)
    for i, block in enumerate(cohort.schema.blocks):
        rng = np.random.default_rng(i)
        weight = rng.integers(1, 2**31, len(block.vocabulary)).astype(np.float64)
        # A random weighted sum identifies a row's codes; equal rows have equal sums.
        sums = np.asarray(cohort.blocks[block.name] @ weight).ravel()
        keys = keys * np.uint64(1_000_003) + sums.astype(np.uint64)
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return keys, float((counts[inverse] > 1).mean())
