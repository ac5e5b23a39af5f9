"""Groups of people: the levels of protected attributes and of the tasks' labels, and their crossings.

A group is named only if at least 11 training rows and 11 holdout rows belong to it; smaller ones are pooled as "rare
groups" of their crossing, so that no result, figure or table ever names them. What is measured of the groups is in the
other modules of this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.cells import MISSING
from pipeline.features.schema import RARE_LEVEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.evaluation.context import RealSides
    from pipeline.evaluation.encoding import Side
    from pipeline.features.schema import Column

SMALL = 11
"""Rows of T, and of H, that a group needs to be named."""
THREE_WAY = 200
"""Holdout rows that a crossing of three attributes needs."""
QUARTILES = (0.25, 0.5, 0.75)
NOBODY = "no protected column is declared"


@dataclass(frozen=True)
class Attribute:
    """A column cut into groups: the levels of a discrete one, T's quartiles of a numeric one; missing is a group.

    Attributes:
        column: The column.
        names: Name of each group within the column, "missing" last.
        edges: Upper ends of the quartiles but the last; empty for a discrete column.
        label: Whether it is a task's label rather than protected.
    """

    column: Column
    names: tuple[str, ...]
    edges: NDArray[np.float64]
    label: bool

    def of(self, side: Side) -> NDArray[np.int64]:
        """(n,) group numbers of a side's rows; -1 where the cell holds no level of T."""
        last = len(self.names) - 1
        if self.column.discrete:
            code = side.codes[self.column.name]
            return np.where(code == MISSING, last, np.where(code < 0, -1, code))
        value = side.values[self.column.name]
        missing = np.isnan(value)
        return np.where(missing, last, np.searchsorted(self.edges, np.where(missing, 0.0, value), side="left"))


@dataclass(frozen=True)
class Group:
    """A group that may be named.

    Attributes:
        name: For people, e.g. "sex = female, race = White".
        path: (column, level) of each attribute; empty for pooled rare groups.
        number: Its number within its crossing.
        train: Its training rows.
        holdout: Its holdout rows.
    """

    name: str
    path: tuple[tuple[str, str], ...]
    number: int
    train: int
    holdout: int


@dataclass(frozen=True)
class Crossing:
    """One or more attributes crossed, with the groups that come of it; a row belongs to at most one of them.

    Attributes:
        attributes: What is crossed, in the order of declaration, labels last.
        groups: The named groups, by number.
        cells: (combinations,) numbers of the combinations of levels that belong to a group, ascending.
        places: (combinations,) number of the group of each.
    """

    attributes: tuple[Attribute, ...]
    groups: tuple[Group, ...]
    cells: NDArray[np.int64]
    places: NDArray[np.int64]

    @property
    def name(self) -> str:
        """The columns, e.g. "sex x race"."""
        return " x ".join(a.column.name for a in self.attributes)

    @property
    def with_label(self) -> bool:
        """Whether a task's label is among the attributes."""
        return any(a.label for a in self.attributes)

    def of(self, side: Side) -> NDArray[np.int64]:
        """(n,) group numbers of a side's rows; -1 where a row belongs to no group."""
        held = _cells(self.attributes, side)
        found = np.minimum(np.searchsorted(self.cells, held), len(self.cells) - 1)
        return np.where(self.cells[found] == held, self.places[found], -1)


def crossings(sides: RealSides) -> list[Crossing]:
    """All crossings: each attribute and label alone, pairs, and triples with large groups; no two labels together."""
    return sides.once("fair/crossings", lambda: list(_crossings(sides)))


def protected_crossings(sides: RealSides, most: int = 2) -> list[Crossing]:
    """The crossings of at most `most` protected attributes, without labels."""
    return [c for c in crossings(sides) if not c.with_label and len(c.attributes) <= most]


def members(sides: RealSides, crossing: Crossing) -> NDArray[np.int64]:
    """(n,) group numbers of the holdout rows, found once."""
    return sides.once(f"fair/members/{crossing.name}", lambda: crossing.of(sides.holdout))


def _crossings(sides: RealSides) -> Iterator[Crossing]:
    protected = _attributes(sides)
    labels = _attributes(sides, labels=True)
    if not protected:
        return
    for ways in (1, 2, 3):
        chosen = [
            *combinations(protected, ways),
            *((*some, y) for y in labels for some in combinations(protected, ways - 1)),
        ]
        for attributes in chosen:
            made = _cross(sides, attributes, THREE_WAY if ways == 3 else SMALL)
            if made.groups:
                yield made


def _attributes(sides: RealSides, *, labels: bool = False) -> list[Attribute]:
    """The protected attributes, or the labels of tasks that are discrete and not protected themselves."""
    columns = {c.name: c for c in sides.encoder.columns}
    names = dict.fromkeys(sides.plan.protected)
    if labels:
        names = dict.fromkeys(t.label for t in sides.plan.tasks if t.label not in names and columns[t.label].discrete)
    return [_attribute(sides.train, columns[name], label=labels) for name in names if name in columns]


def _attribute(train: Side, column: Column, *, label: bool) -> Attribute:
    if column.discrete:
        levels = tuple(_level_name(level) for level in column.levels or [])
        return Attribute(column, (*levels, "missing"), np.array([]), label)
    known = train.values[column.name]
    known = known[~np.isnan(known)]
    if column.kind == "datetime":
        edges = np.unique(np.floor(np.quantile(known, QUARTILES))) if len(known) else known
        shown = [str(np.datetime64(int(e), "D")) for e in edges]
    else:
        # Cut where the name says, not at the exact quartile.
        edges = _coarse(np.quantile(known, QUARTILES)) if len(known) else known
        shown = [f"{e:.4g}" for e in edges]
    names = [f"up to {shown[0]}", *(f"over {a} to {b}" for a, b in pairwise(shown)), f"over {shown[-1]}"] if shown else ["any"]  # fmt: skip
    return Attribute(column, (*names, "missing"), np.asarray(edges, dtype=np.float64), label)


def _coarse(quartiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quartiles with the fewest digits (2 to 4) that tell them apart: no name of a group is a person's own value."""
    for digits in (2, 3, 4):
        edges = np.unique([float(f"{q:.{digits}g}") for q in quartiles])
        if len(edges) == len(np.unique(quartiles)):
            break
    return edges


def _level_name(level: object) -> str:
    if isinstance(level, bool):
        return "yes" if level else "no"
    return "other, rare" if level == RARE_LEVEL else str(level)


def _cells(attributes: tuple[Attribute, ...], side: Side) -> NDArray[np.int64]:
    """(n,) number of the combination that each row holds; -1 where an attribute has no group."""
    cell = np.zeros(len(side), dtype=np.int64)
    nowhere = np.zeros(len(side), dtype=bool)
    for attribute in attributes:
        number = attribute.of(side)
        nowhere |= number < 0
        cell = cell * len(attribute.names) + number
    return np.where(nowhere, -1, cell)


def _cross(sides: RealSides, attributes: tuple[Attribute, ...], least: int) -> Crossing:
    held = [_cells(attributes, side) for side in (sides.train, sides.holdout)]
    # Only combinations that occur: the product of two long columns would not fit into memory.
    cells = np.unique(np.concatenate([h[h >= 0] for h in held]))
    train, holdout = (np.bincount(np.searchsorted(cells, h[h >= 0]), minlength=len(cells)) for h in held)
    places = np.full(len(cells), -1, dtype=np.int64)
    groups: list[Group] = []
    for k in np.flatnonzero((train >= SMALL) & (holdout >= least)):
        where = np.unravel_index(cells[k], [len(a.names) for a in attributes])
        path = tuple((a.column.name, a.names[i]) for a, i in zip(attributes, where, strict=True))
        missing = [i == len(a.names) - 1 for a, i in zip(attributes, where, strict=True)]
        name = ", ".join(f"{c} {'' if gone else '= '}{level}" for (c, level), gone in zip(path, missing, strict=True))
        places[k] = len(groups)
        groups.append(Group(name, path, len(groups), int(train[k]), int(holdout[k])))
    rare = (train < SMALL) | (holdout < SMALL)
    n_train, n_holdout = int(train[rare].sum()), int(holdout[rare].sum())
    if min(n_train, n_holdout) >= least:
        places[rare] = len(groups)
        columns = " x ".join(a.column.name for a in attributes)
        groups.append(Group(f"rare groups of {columns}", (), len(groups), n_train, n_holdout))
    kept = places >= 0
    return Crossing(attributes, tuple(groups), cells[kept], places[kept])
