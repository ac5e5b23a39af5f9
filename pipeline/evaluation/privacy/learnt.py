"""What a matched synthetic row teaches about a person: the rules of El Emam et al. 2020 for nominal and numeric values.

A level is learnt if it is right and not what anybody would guess; a number if it lies near the truth, measured by the
spread of the column and by how common the person's range is. How people are matched is in `identity.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.features.schema import Column

MAD_TO_SD = 1.48


def learnt_shares(
    sides: RealSides,
    people: Side,
    rows: NDArray[np.int64],
    synthetic: Side,
    matches: NDArray[np.int64],
    known: list[Column],
) -> NDArray[np.float64]:
    """(rows,) share of the attributes of a person that a match teaches: columns that are not known, and codes carried.

    Args:
        sides: The real sides; how common values are is counted in T.
        people: The side of the people.
        rows: Which of its rows.
        synthetic: The synthetic side.
        matches: (rows,) the row of `synthetic` that each of them is matched to.
        known: Columns that the attacker matches by.
    """
    taught = np.zeros(len(rows))
    attributes = np.zeros(len(rows))
    names = {c.name for c in known}
    for column in sides.encoder.columns:
        if column.name in names:
            continue
        attributes += 1
        if column.discrete:
            taught += _level(sides, column, people.codes[column.name][rows], synthetic.codes[column.name][matches])
        else:
            bins = people.bins(column)[0][rows]
            taught += _number(
                sides, column, people.values[column.name][rows], synthetic.values[column.name][matches], bins
            )
    for block in sides.encoder.blocks:
        carried, made = people.presence[block.name][rows], synthetic.presence[block.name][matches]
        usual = np.asarray(sides.train.presence[block.name].mean(axis=0)).ravel() >= 0.5
        attributes += np.asarray(carried.sum(axis=1)).ravel()
        taught += np.asarray(carried.multiply(made) @ (~usual).astype(np.float64)).ravel()
    return np.divide(taught, attributes, out=np.zeros(len(rows)), where=attributes > 0)


def nominal_learnt(share: NDArray[np.float64], same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(1 - p) * match > sqrt(p (1 - p)), p the share of people with the value: right, and not the usual value."""
    return (1 - share) * same > np.sqrt(share * (1 - share))


def number_learnt(share: NDArray[np.float64], apart: NDArray[np.float64], deviation: float) -> NDArray[np.bool_]:
    """p * |x - y| < 1.48 * MAD, p the share of people in the person's range."""
    return share * apart < MAD_TO_SD * deviation


def _level(sides: RealSides, column: Column, real: NDArray[np.int64], made: NDArray[np.int64]) -> NDArray[np.bool_]:
    codes = sides.train.codes[column.name]
    shares = np.bincount(codes[codes >= 0], minlength=len(column.levels or [0])) / max(int((codes >= 0).sum()), 1)
    share = np.where(real >= 0, shares[np.maximum(real, 0)], 1.0)
    return nominal_learnt(share, (real >= 0) & (real == made))


def _number(
    sides: RealSides, column: Column, real: NDArray[np.float64], made: NDArray[np.float64], bins: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """A column of which more than half is one value has MAD 0: it is then taken as a nominal one."""

    def of_train() -> tuple[NDArray[np.float64], float]:
        number, count = sides.train.bins(column)
        values = sides.train.values[column.name]
        known = values[~np.isnan(values)]
        deviation = float(np.median(np.abs(known - np.median(known)))) if len(known) else 0.0
        return np.bincount(number, minlength=count) / len(number), deviation

    shares, deviation = sides.once(f"disclosure/spread/{column.name}", of_train)
    apart = np.abs(real - made)
    if deviation == 0:
        return nominal_learnt(shares[bins], apart == 0)
    return np.where(np.isnan(apart), False, number_learnt(shares[bins], np.nan_to_num(apart, nan=np.inf), deviation))
