"""Cells of outcome, group and stratum: which cell each row is in, told from its hard decoded values.

A cell's number is (stratum * groups + group) * outcomes + outcome. Missing is an outcome, a group and a stratum of its
own. What shares the cells are to have is in `targets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.fairness_spec import FairnessSpec
    from pipeline.features.schema import Column, Level, TableSchema

MOST_CELLS = 20_000
SMALL = 11
"""Rows below which a group is too small to be balanced: its outcomes would be single people's."""
MOSTLY_MISSING = 0.9
NO_LEVEL = -2
WHERE = "fairness"
MISSING = "missing"


@dataclass(frozen=True)
class Axis:
    """One column cut into parts.

    Attributes:
        column: The column.
        names: Name of each part; the last one is "missing".
        cuts: Of a numeric column.
    """

    column: Column
    names: tuple[str, ...]
    cuts: tuple[float, ...] = ()

    @classmethod
    def of(cls, column: Column, spec: FairnessSpec) -> Axis:
        """The parts of a column.

        Raises:
            ConfigError: it is numeric without cuts, or the other way round, or has no levels.
        """
        cuts = spec.bins.get(column.name)
        if column.numeric:
            if cuts is None:
                raise ConfigError(
                    f"'{column.name}' is a number: every value would be a group of its own.",
                    where=WHERE,
                    todo=f"Say where to cut it: `bins: {{{column.name}: [40, 65]}}`.",
                )
            shown = [f"{c:g}" for c in cuts]
            names = [f"below {shown[0]}", *(f"{a} to below {b}" for a, b in pairwise(shown))]
            return cls(column, (*names, f"{shown[-1]} and above", MISSING), tuple(cuts))
        if cuts is not None:
            raise ConfigError(f"'{column.name}' has levels: bins are for numbers.", where=WHERE)
        if column.levels is None:
            raise ConfigError(f"'{column.name}' is {column.kind} and makes no groups.", where=WHERE)
        return cls(column, (*map(level_name, column.levels), MISSING))

    @property
    def title(self) -> str:
        """The column's name."""
        return self.column.name

    def of_rows(self, rows: Cohort) -> NDArray[np.int64]:
        """(n,) the part of each row; -2 where the cell holds no level."""
        last = len(self.names) - 1
        if self.column.discrete:
            code = rows.codes(self.column.name)
            return np.where(code == -1, last, code)
        value = rows.values(self.column.name)
        return np.where(np.isnan(value), last, np.searchsorted(np.array(self.cuts), np.nan_to_num(value), side="right"))

    def place(self, level: Level | None) -> int:
        """The part that a line of the table names, or `privileged`; raises `ConfigError` with the nearest name."""
        wanted = MISSING if level is None else level_name(level)
        if wanted not in self.names:
            raise ConfigError(
                f"'{self.column.name}' has no {'level' if self.column.discrete else 'piece'} '{wanted}'.",
                where=WHERE,
                todo=nearest(wanted, list(self.names)),
            )
        return self.names.index(wanted)


@dataclass(frozen=True)
class Cells:
    """The cells of a notion of fairness.

    Attributes:
        spec: What was asked, complete.
        label: The outcome.
        protected: The protected columns.
        strata: The columns that may rightly decide.
        positive: Number of the positive outcome.
        pooled: Numbers of the crossed groups that are taken together as the group after the last.
    """

    spec: FairnessSpec
    label: Axis
    protected: tuple[Axis, ...]
    strata: tuple[Axis, ...]
    positive: int
    pooled: tuple[int, ...] = ()

    @classmethod
    def of(cls, spec: FairnessSpec, schema: TableSchema) -> Cells:
        """The cells in rows of a schema.

        Args:
            spec: Complete (`FairnessSpec.resolved`).
            schema: The training schema.

        Raises:
            ConfigError: a column is unknown or makes no groups, the outcome is not discrete or has no such level, or there
                would be more cells than can be filled.
        """
        assert spec.label is not None
        used = [spec.label, *spec.protected, *spec.strata, *spec.bins, *spec.privileged]
        for name in [*used, *(n for line in spec.table for n in line.levels)]:
            if name not in [c.name for c in schema.modelled()]:
                raise ConfigError(
                    f"There is no column '{name}'.",
                    where=WHERE,
                    todo=nearest(name, [c.name for c in schema.modelled()]),
                )
        outcome = schema.column(spec.label)
        if not outcome.discrete:
            raise ConfigError(
                f"The label '{spec.label}' is a number, not an outcome.",
                where=WHERE,
                todo="Make a yes or no of it in the SQL.",
            )
        axes = {n: Axis.of(schema.column(n), spec) for n in [*spec.protected, *spec.strata]}
        label = Axis.of(outcome, spec)
        made = cls(
            spec,
            label,
            tuple(axes[n] for n in spec.protected),
            tuple(axes[n] for n in spec.strata),
            _positive(label, spec),
        )
        for name, level in spec.privileged.items():
            if name not in spec.protected:
                raise ConfigError(f"'{name}' is privileged but not protected.", where=WHERE)
            axes[name].place(level)
        idle = sorted(set(spec.bins) - set(axes))
        if idle:
            raise ConfigError(f"Bins are given for '{idle[0]}', which is neither protected nor a stratum.", where=WHERE)
        if made.size > MOST_CELLS:
            raise ConfigError(
                f"{made.size:,} combinations of group, stratum and outcome cannot all be filled.", where=WHERE, todo="Name fewer columns, or columns with fewer levels."
            )  # fmt: skip
        return made

    @property
    def outcomes(self) -> int:
        """Number of outcomes, missing included."""
        return len(self.label.names)

    @property
    def groups(self) -> int:
        """Number of groups, the pool included."""
        return _product(self.protected) + bool(self.pooled)

    @property
    def places(self) -> int:
        """Number of strata."""
        return _product(self.strata)

    @property
    def size(self) -> int:
        """Number of cells."""
        return self.places * self.groups * self.outcomes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(strata, groups, outcomes)."""
        return self.places, self.groups, self.outcomes

    @cached_property
    def group_names(self) -> list[str]:
        """Name of each group, e.g. "sex = Female, race = Black"."""
        names = _crossed_names(self.protected)
        return [*names, "rare groups"] if self.pooled else names

    @cached_property
    def stratum_names(self) -> list[str]:
        """Name of each stratum; one empty name where there is none."""
        return _crossed_names(self.strata)

    def group_of(self, rows: Cohort) -> NDArray[np.int64]:
        """(n,) group numbers; -2 where a cell holds no level."""
        found = _crossed(self.protected, rows)
        return np.where(np.isin(found, self.pooled), self.groups - 1, found) if self.pooled else found

    def cell_of(self, rows: Cohort) -> NDArray[np.int64]:
        """(n,) cell numbers; -2 where a cell of the table holds no level."""
        parts = [_crossed(self.strata, rows), self.group_of(rows), self.label.of_rows(rows)]
        number = (parts[0] * self.groups + parts[1]) * self.outcomes + parts[2]
        return np.where(np.minimum.reduce(parts) < 0, NO_LEVEL, number)

    def counts(self, rows: Iterable[Cohort]) -> NDArray[np.float64]:
        """(strata, groups, outcomes) rows in each cell."""
        total = np.zeros(self.size)
        for part in rows:
            number = self.cell_of(part)
            total += np.bincount(number[number >= 0], minlength=self.size)
        return total.reshape(self.shape)

    def checked(self, counts: NDArray[np.float64], whose: str) -> Cells:
        """The cells with rare groups pooled where that is asked for.

        Args:
            counts: (strata, groups, outcomes) rows that are there.
            whose: Where they come from, for the message.

        Raises:
            ConfigError: the outcome is nearly always missing or never differs, a group is too small, or there is one only.
        """
        outcomes, people = counts.sum(axis=(0, 1)), counts.sum(axis=(0, 2))
        total = max(float(counts.sum()), 1.0)
        if outcomes[-1] / total >= MOSTLY_MISSING:
            raise ConfigError(
                f"The label '{self.label.title}' is missing in {outcomes[-1] / total:.0%} of {whose}.",
                where=WHERE,
                todo="What is hardly ever known cannot be balanced: choose another label.",
            )
        if outcomes[self.positive] == 0 or outcomes[:-1].sum() == outcomes[self.positive]:
            raise ConfigError(f"The label '{self.label.title}' has one level only in {whose}.", where=WHERE)
        small = np.flatnonzero((people > 0) & (people < SMALL))
        pooled = replace(self, pooled=tuple(int(g) for g in small)) if len(small) else self
        if len(small) and (self.spec.rare == "refuse" or people[small].sum() < SMALL):
            first = small[np.argmin(people[small])]
            raise ConfigError(
                f"The group '{self.group_names[first]}' has {int(people[first])} rows among {whose}, and {SMALL} are needed to "
                "balance its outcomes without copying its people.",
                where=WHERE,
                todo="Join levels in the SQL, name fewer protected columns, or write `rare: pool` (the pool needs 11 rows too).",
            )
        if np.count_nonzero(people) - len(small) + bool(len(small)) < 2:
            named = " and ".join(f"'{name}'" for name in self.spec.protected)
            raise ConfigError(f"There is one group only of {named} among {whose}.", where=WHERE)
        return pooled

    def table_counts(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Counts scaled to the shares of the user's table; the same where there is none.

        Raises:
            ConfigError: the table names a column that is no part of the cells, or asks for what is never drawn.
        """
        if not self.spec.table:
            return counts
        axes = {a.title: a for a in (*self.strata, *self.protected, self.label)}
        unknown = sorted({n for line in self.spec.table for n in line.levels} - set(axes))
        if unknown:
            raise ConfigError(
                f"'{unknown[0]}' is neither protected, nor a stratum, nor the label.", where=f"{WHERE}, table"
            )
        if self.pooled:
            raise ConfigError("A table of shares needs every group as it is: leave `rare: pool` out.", where=WHERE)
        named = set(self.spec.table[0].levels)
        if self.label.title in named and named & set(self.spec.protected) and self.spec.notion != "none":
            raise ConfigError(
                "A table of outcomes within groups leaves nothing to a notion.", where=f"{WHERE}, table", todo="Write `notion: none`, or take the label out of the table."
            )  # fmt: skip
        spread = counts.reshape(*(len(a.names) for a in (*self.strata, *self.protected, self.label)))
        order = list(axes)
        wanted = np.zeros_like(spread)
        for line in self.spec.table:
            place = tuple(axes[n].place(line.levels[n]) if n in line.levels else slice(None) for n in order)
            part = spread[place]
            if line.share and not part.sum():
                raise ConfigError(
                    f"The table asks for {line.share:.1%} of a group that the model never draws.",
                    where=f"{WHERE}, table",
                )
            wanted[place] = part * (line.share / part.sum() if line.share else 0.0)
        return wanted.reshape(self.shape) * counts.sum()


def level_name(level: object) -> str:
    """A level as people read it."""
    return {True: "yes", False: "no"}[level] if isinstance(level, bool) else str(level)


def _positive(label: Axis, spec: FairnessSpec) -> int:
    if spec.positive is None:
        return len(label.names) - 2
    names = list(label.names[:-1])
    wanted = level_name(spec.positive)
    if wanted not in names:
        raise ConfigError(
            f"The label '{label.title}' has no such positive level.", where=WHERE, todo=nearest(wanted, names)
        )
    return names.index(wanted)


def _product(axes: tuple[Axis, ...]) -> int:
    return int(np.prod([len(a.names) for a in axes], dtype=np.int64)) if axes else 1


def _crossed(axes: tuple[Axis, ...], rows: Cohort) -> NDArray[np.int64]:
    number, lost = np.zeros(rows.n_rows, dtype=np.int64), np.zeros(rows.n_rows, dtype=bool)
    for axis in axes:
        part = axis.of_rows(rows)
        lost |= part < 0
        number = number * len(axis.names) + part
    return np.where(lost, NO_LEVEL, number)


def _crossed_names(axes: tuple[Axis, ...]) -> list[str]:
    names = [""]
    for axis in axes:
        parts = [f"{axis.title} {'' if p == MISSING else '= '}{p}" for p in axis.names]
        names = [", ".join(filter(None, [name, part])) for name in names for part in parts]
    return names
