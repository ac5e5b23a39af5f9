"""What tuning minimises: how far drawn rows are from the tuning rows, column by column and pair by pair.

Mean Jensen-Shannon divergence of the columns plus mean absolute difference of their pairwise associations (likelihoods
of different models cannot be compared, these can). A generator learns from the training rows without the tuning rows;
the holdout and the reference rows cannot be handed over at all. How settings are tried is in `study.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.features.cohort import Cohort

VERSION = "1"
"""Raise it when the same rows would score otherwise: studies of another objective are not continued."""
FEWEST_TUNING = 30
"""Tuning rows below which the best of many trials is the luckiest one."""
MOST_ROWS = 10_000
LEAST_DRAWN = 2_000


@dataclass(frozen=True)
class Score:
    """How far rows are from the tuning rows; smaller is better.

    Attributes:
        jsd: Mean over columns and blocks of the Jensen-Shannon divergence in bits (20 quantile bins of a number, its
            frequent values and missing in bins of their own; presence of each code of a block).
        association: Mean over pairs of columns of the absolute difference of their associations (correlation,
            correlation ratio, Cramér's V).
    """

    jsd: float
    association: float

    @property
    def value(self) -> float:
        """What is minimised."""
        return self.jsd + self.association


class Objective:
    """The training rows of a cohort, cut into those to learn from and those to be judged by.

    Args:
        train: The training part of a cohort, with its tuning rows marked.

    Attributes:
        learning: Rows to fit a generator on: training rows that are no tuning rows.
        draws: Rows to draw from it.
        tuning_rows: How many rows it is judged by.

    Raises:
        ConfigError: there are rows of another part of the split among them, or no tuning rows are marked.
        InputError: fewer than 30 tuning rows.
    """

    def __init__(self, train: Cohort) -> None:
        from pipeline.evaluation.context import Parts, RealSides
        from pipeline.evaluation.plan import EvaluationPlan

        if train.split is not None and (train.split != "train").any():
            raise ConfigError("Only training rows may be tuned on: the holdout judges what comes of it.")
        if train.tune is None:
            raise ConfigError("No tuning rows are marked.", todo="Make the features again.")
        self.tuning_rows = int(train.tune.sum())
        if self.tuning_rows < FEWEST_TUNING or self.tuning_rows == train.n_rows:
            raise InputError(
                f"{self.tuning_rows} of {train.n_rows} training rows are tuning rows; at least {FEWEST_TUNING} are needed.",
                todo="With so few, the best of many trials is the luckiest one: keep the default settings.",
            )
        self.learning = train.take(~train.tune)
        self.draws = int(np.clip(4 * self.tuning_rows, LEAST_DRAWN, MOST_ROWS))
        self._sides = RealSides(Parts.of_two(self.learning, train.take(train.tune)), EvaluationPlan(profile="quick"))
        self._real = _Figures.of(self._sides.holdout, self._sides)
        self._varied = np.flatnonzero(_Figures.varied(self._sides.train, self._sides))

    def score(self, drawn: Cohort) -> Score:
        """How far drawn rows, in exactly the training schema, are from the tuning rows."""
        return self._between(_Figures.of(self._sides.encoder.side(drawn), self._sides))

    def floor(self) -> Score:
        """What the rows to learn from would score themselves: about the best that any generator can reach."""
        return self._between(_Figures.of(self._sides.train, self._sides))

    def _between(self, made: _Figures) -> Score:
        from pipeline.evaluation.fidelity.marginal import jensen_shannon

        gaps = [float(np.mean(jensen_shannon(p, q))) for p, q in zip(self._real.shares, made.shares, strict=True)]
        i, j = np.triu_indices(len(self._varied), k=1)
        pairs = self._varied[i], self._varied[j]
        apart = np.abs(self._real.associations[pairs] - made.associations[pairs])
        return Score(float(np.mean(gaps)), float(apart.mean()) if len(i) else 0.0)


@dataclass(frozen=True)
class _Figures:
    """What is compared of some rows.

    Attributes:
        shares: One array a column, (bins,), and a block, (codes, 2).
        associations: (d, d) matrix.
    """

    shares: list[NDArray[np.float64]]
    associations: NDArray[np.float64]

    @classmethod
    def of(cls, side: Side, sides: RealSides) -> _Figures:
        """Those of a side: of at most 10,000 rows, in the order of their hashes, which is as good as random."""
        from pipeline.evaluation.fidelity.association import Associations, columns_of

        rows = np.arange(min(len(side), MOST_ROWS))
        shares: list[NDArray[np.float64]] = []
        for column in side.encoder.columns:
            number, bins = side.bins(column)
            shares.append(np.bincount(number[rows], minlength=bins) / len(rows))
        for block in side.encoder.blocks:
            present = np.asarray(side.presence[block.name][rows].mean(axis=0), dtype=np.float64).ravel()
            shares.append(np.stack([present, 1 - present], axis=1))
        return cls(shares, Associations(columns_of(sides, side, rows)).matrix)

    @staticmethod
    def varied(side: Side, sides: RealSides) -> NDArray[np.bool_]:
        """(d,) True for the rows of the matrix whose column has more than one value."""
        from pipeline.evaluation.fidelity.association import columns_of

        columns = columns_of(sides, side, np.arange(len(side)))
        numbers = [len(np.unique(x[k])) > 1 for x, k in zip(columns.numbers.T, columns.known.T, strict=True)]
        return np.array([*numbers, *(len(np.unique(x)) > 1 for x in columns.levels.T)], dtype=bool)
