"""A directed acyclic graph over columns: who causes whom, in which order columns can be drawn, and what is separated from what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

Way = Literal["up", "down"]


@dataclass(frozen=True)
class CausalGraph:
    """Columns and their direct causes.

    Attributes:
        parents: Every column to its direct causes; the order of the columns is that of the table.
    """

    parents: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, parents: Mapping[str, Sequence[str]], columns: Sequence[str], where: str = "graph") -> CausalGraph:
        """The graph over all `columns`; those that `parents` does not name have neither causes nor effects.

        Args:
            parents: column to its direct causes.
            columns: of the table, in order.
            where: for messages.

        Raises:
            ConfigError: an unknown column (with the nearest name), or what `check` refuses.
        """
        for name in [*parents, *(p for given in parents.values() for p in given)]:
            if name not in columns:
                raise ConfigError(f"There is no column '{name}'.", where=where, todo=nearest(name, list(columns)))
        try:
            check(parents)
        except ValueError as error:
            raise ConfigError(f"{str(error)[:1].upper()}{str(error)[1:]}.", where=where) from None
        rank = {name: i for i, name in enumerate(columns)}
        return cls({name: tuple(sorted(parents.get(name, ()), key=rank.__getitem__)) for name in columns})

    @property
    def columns(self) -> list[str]:
        """All columns, in the order of the table."""
        return list(self.parents)

    @property
    def edges(self) -> list[tuple[str, str]]:
        """(cause, effect) of every edge."""
        return [(cause, effect) for effect, causes in self.parents.items() for cause in causes]

    def children(self, name: str) -> list[str]:
        """The direct effects of a column."""
        return [effect for effect, causes in self.parents.items() if name in causes]

    def levels(self) -> list[list[str]]:
        """Columns by the length of the longest path that ends in them: all of a level can be drawn at once."""
        depth: dict[str, int] = {}
        while len(depth) < len(self.parents):
            for name, causes in self.parents.items():
                if name not in depth and all(c in depth for c in causes):
                    depth[name] = max((depth[c] + 1 for c in causes), default=0)
        return [[n for n in self.parents if depth[n] == i] for i in range(max(depth.values(), default=-1) + 1)]

    def ancestors(self, names: Iterable[str]) -> set[str]:
        """The given columns and all their causes, direct or not."""
        return self.reached(names, "up")

    def descendants(self, names: Iterable[str]) -> set[str]:
        """The given columns and all their effects, direct or not."""
        return self.reached(names, "down")

    def reached(self, names: Iterable[str], way: Way, but: Collection[str] = ()) -> set[str]:
        """The given columns and what is reached from them along edges in one direction, never entering `but`."""
        effects = {n: self.children(n) for n in self.parents} if way == "down" else {}
        out: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in out:
                out.add(name)
                following = effects[name] if way == "down" else self.parents[name]
                waiting += [n for n in following if n not in but]
        return out

    def boundary(self, name: str) -> set[str]:
        """The Markov boundary: direct causes, direct effects, and the other direct causes of these (Pearl 1988, 3.3)."""
        effects = self.children(name)
        return ({*self.parents[name], *effects} | {c for e in effects for c in self.parents[e]}) - {name}

    def separated(self, one: str, other: str, given: Collection[str] = ()) -> bool:
        """Are two columns d-separated by `given`? By reachability along active trails (Koller and Friedman 2009, 3.3.3).

        A column that is given is separated from every other.
        """
        if one in given or other in given:
            return True
        evidence = self.ancestors(given)
        effects = {n: self.children(n) for n in self.parents}
        waiting: list[tuple[str, Way]] = [(one, "up")]
        seen: set[tuple[str, Way]] = set()
        while waiting:
            name, way = waiting.pop()
            if (name, way) in seen:
                continue
            seen.add((name, way))
            if name == other:
                return False
            # "up": the trail comes from an effect; "down": from a cause.
            if way == "up" and name not in given:
                waiting += [(c, "up") for c in self.parents[name]] + [(e, "down") for e in effects[name]]
            elif way == "down":
                waiting += [(e, "down") for e in effects[name] if name not in given]
                # Two causes meet here: the trail is open where their common effect, or an effect of it, is given.
                waiting += [(c, "up") for c in self.parents[name] if name in evidence]
        return True

    def words(self) -> str:
        """The graph in one line: `effect <- cause, cause; ...`, columns without causes left out."""
        return "; ".join(f"{effect} <- {', '.join(causes)}" for effect, causes in self.parents.items() if causes)

    def to_json(self) -> dict[str, list[str]]:
        """Column to its direct causes, all columns in order."""
        return {name: list(causes) for name, causes in self.parents.items()}


def check(parents: Mapping[str, Sequence[str]]) -> None:
    """Raise `ValueError` for a column that causes itself, one named twice among the causes of another, or a cycle."""
    for effect, causes in parents.items():
        if effect in causes:
            raise ValueError(f"'{effect}' is named as its own cause")
        twice = [c for i, c in enumerate(causes) if c in causes[:i]]
        if twice:
            raise ValueError(f"'{twice[0]}' is named twice among the causes of '{effect}'")
    found = cycle(parents)
    if found:
        raise ValueError(f"the graph has a cycle: {' -> '.join(found)}; leave one of these edges out")


def cycle(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns of a cycle from cause to effect, the first one repeated at the end; empty if there is none."""
    done: set[str] = set()
    for start in parents:
        # A walk from effects to causes; what is on it when it comes back to itself is the cycle.
        walk: list[str] = [start]
        left = [list(parents.get(start, ()))]
        while walk:
            if walk[-1] in done or not left[-1]:
                done.add(walk.pop())
                left.pop()
                continue
            cause = left[-1].pop(0)
            if cause in walk:
                return [cause, *reversed(walk[walk.index(cause) :])]
            walk.append(cause)
            left.append(list(parents.get(cause, ())))
    return []
