"""What a caller fixed in real columns, said in the columns that are learned, and what cannot be said in them.

A column that is learned as it is, is handed on. A distance is fixed where both its columns are, a combination where
all its columns are, or drawn among those that fit where nothing else is fixed. The rest is left open: rows are drawn
and kept where they fit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.features.cohort import column_from_codes
from pipeline.generators.conditions import Fixed
from pipeline.generators.constraints.steps import YES, Computed, Difference, Merged, positions, snapped

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.generators.constraints.reexpress import Reexpression

PIECES = 32
"""A number fits where it falls into the same of so many equally filled pieces of what is drawn."""


@dataclass
class Asked:
    """Conditions of n rows, in both schemas.

    Attributes:
        fixed: All of them, in real columns.
        inner: Cells of learned columns, by column: what a data frame of conditions holds.
        among: Merged columns that are drawn among the combinations that fit the fixed part, and that part.
        open_names: Real columns whose conditions cannot be said in learned ones.
    """

    fixed: Fixed
    change: Reexpression
    inner: dict[str, NDArray[Any]] = field(default_factory=dict)
    among: list[tuple[Merged, dict[str, NDArray[np.int64]]]] = field(default_factory=list)
    open_names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, fixed: Fixed, change: Reexpression, n: int) -> Asked:
        """Translate conditions.

        Raises:
            ConfigError: they contradict a rule.
        """
        asked = cls(fixed, change)
        given: dict[str, NDArray[Any]] = {**fixed.codes, **fixed.values}
        for name, cells in given.items():
            if name not in change.taken:
                asked.inner[name] = cells
        for step in change.steps:
            mine = [name for name in step.gives if name in given]
            if not mine:
                continue
            if isinstance(step, Difference):
                asked._distance(step, given)
            elif isinstance(step, Merged):
                asked._combination(step, given, alone=len(given) == len(mine))
            elif isinstance(step, Computed):
                asked.open_names += mine
        return asked

    @property
    def closed(self) -> Fixed:
        """The conditions that learned columns say."""
        return Fixed(
            {k: v for k, v in self.fixed.codes.items() if k not in self.open_names},
            {k: v for k, v in self.fixed.values.items() if k not in self.open_names},
        )

    def open_of(self, rows: NDArray[np.int64]) -> Fixed:
        """The conditions that they do not, of some rows."""
        return Fixed(
            {k: v[rows] for k, v in self.fixed.codes.items() if k in self.open_names},
            {k: v[rows] for k, v in self.fixed.values.items() if k in self.open_names},
        )

    def inner_of(self, rows: NDArray[np.int64], rng: np.random.Generator) -> pd.DataFrame | None:
        """Conditions for the inner generator, of some rows; None if there are none."""
        import pandas as pd

        if not self.inner and not self.among:
            return None
        schema = self.change.inner
        cells: dict[str, list[Any]] = {}
        for name, values in self.inner.items():
            column = schema.column(name)
            if column.discrete:
                cells[name] = column_from_codes(values[rows], column).to_pylist()
            else:
                cells[name] = [None if np.isnan(v) else float(v) for v in values[rows]]
        for step, part in self.among:
            chosen = _drawn(step, {k: v[rows] for k, v in part.items()}, rng)
            cells[step.name] = column_from_codes(chosen, schema.column(step.name)).to_pylist()
        return pd.DataFrame(cells, index=range(len(rows)), dtype=object)

    def _distance(self, step: Difference, given: dict[str, NDArray[Any]]) -> None:
        values, anchor = given[step.dependent], given.get(step.anchors[0])
        if anchor is None and np.isnan(values).all() and not step.always:
            # Nothing is there: said by the flag, or by a missing distance.
            if step.present is not None:
                self.inner[step.present] = np.zeros(len(values), dtype=np.int64)
            else:
                self.inner[step.gap] = values
            return
        if anchor is None or np.isnan(values).any() or np.isnan(anchor).any():
            self.open_names.append(step.dependent)
            return
        gap = step.sign * (values - anchor)
        if ((gap <= 0) if step.strict else (gap < 0)).any():
            raise ConfigError(f"The conditions contradict the rule '{step.rule}'.", todo="Mend one of them.")
        self.inner[step.gap] = snapped(gap, self.change.inner.column(step.gap))
        if step.present is not None:
            self.inner[step.present] = np.full(len(values), YES)

    def _combination(self, step: Merged, given: dict[str, NDArray[Any]], *, alone: bool) -> None:
        part = {name: given[name] for name in step.columns if name in given}
        table = np.array(step.combinations)
        places = [step.columns.index(name) for name in part]
        rows = np.stack(list(part.values()), axis=1)
        if (positions(np.unique(table[:, places], axis=0), rows) < 0).any():
            raise ConfigError(
                f"No combination of {', '.join(step.columns)} that the rules allow, or that was seen, fits the conditions.",
                where=f"constraint '{step.rule}'",
            )
        if len(part) == len(step.columns):
            self.inner[step.name] = positions(table[:, places], rows)
        elif alone and step.shares is not None:
            self.among.append((step, part))
        else:
            self.open_names += list(part)


def fits(cohort: Cohort, wanted: Fixed) -> NDArray[np.bool_]:
    """(n,) True where drawn rows are near what is asked of them: the same level, a number in the same piece."""
    near = np.ones(cohort.n_rows, dtype=bool)
    for name, codes in wanted.codes.items():
        near &= cohort.codes(name) == codes
    for name, values in wanted.values.items():
        drawn = cohort.values(name)
        there = drawn[~np.isnan(drawn)]
        edges = np.unique(np.quantile(there, np.linspace(0, 1, PIECES + 1)[1:-1])) if len(there) else np.empty(0)
        same = np.searchsorted(edges, drawn) == np.searchsorted(edges, values)
        near &= np.where(np.isnan(values), np.isnan(drawn), same & ~np.isnan(drawn))
    return near


def _drawn(step: Merged, part: dict[str, NDArray[np.int64]], rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,) levels of the merged column that fit each row's fixed part, by their shares among the training rows."""
    table, shares = np.array(step.combinations), np.array(step.shares)
    rows = np.stack(list(part.values()), axis=1)
    places = [step.columns.index(name) for name in part]
    chosen = np.zeros(len(rows), dtype=np.int64)
    kinds, key = np.unique(rows, axis=0, return_inverse=True)
    for i, kind in enumerate(kinds):
        mine, fitting = key.ravel() == i, np.flatnonzero((table[:, places] == kind).all(axis=1))
        weight = shares[fitting] / shares[fitting].sum()
        chosen[mine] = rng.choice(fitting, size=int(mine.sum()), p=weight)
    return chosen
