"""A causal graph learned within tiers: greedy hill climbing by BIC on columns of few bins.

No data tell the direction of most edges: tiers do. Edges run from lower to higher tiers, or within a tier where that raises
the score without a cycle; moves are an edge more, an edge less, and an edge turned round, the best first, ties in the order of
the columns (Koller and Friedman 2009, 18.3.5 and 18.4.3). What is learned is a proposal to be reviewed, no proof of causes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pipeline.causal.graph import CausalGraph
from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MOST_PARENTS = 4
MOST_BINS = 5
MOST_ROWS = 20_000
"""Rows, evenly spaced, that decide: more would add edges that no one could draw by eye."""
GAIN = 1e-6
MOST_PARTS = 500
Move = tuple[str, str, str]


class Bic:
    """Scores of a column given its causes: log-likelihood less half the log of the rows for each free share (Schwarz 1978).

    Args:
        bins: column to (n,) small numbers.
    """

    def __init__(self, bins: Mapping[str, NDArray[np.int64]]) -> None:
        n = len(next(iter(bins.values()))) if bins else 0
        at = np.linspace(0, n - 1, min(n, MOST_ROWS)).astype(np.int64)
        self.bins = {k: np.unique(v[at], return_inverse=True)[1].ravel() for k, v in bins.items()}
        self.sizes = {k: int(v.max(initial=0)) + 1 for k, v in self.bins.items()}
        self.rows = len(at)
        self._known: dict[tuple[str, frozenset[str]], float] = {}

    def __call__(self, name: str, causes: frozenset[str]) -> float:
        """The score in nats."""
        key = (name, causes)
        if key not in self._known:
            self._known[key] = self._score(name, sorted(causes))
        return self._known[key]

    def _score(self, name: str, causes: list[str]) -> float:
        cell, cells = np.zeros(self.rows, dtype=np.int64), 1
        for cause in causes:
            cell, cells = cell * self.sizes[cause] + self.bins[cause], cells * self.sizes[cause]
        size = self.sizes[name]
        counts = np.bincount(cell * size + self.bins[name], minlength=cells * size).reshape(cells, size)
        free = cells * (size - 1)
        return _weighted_log(counts) - _weighted_log(counts.sum(axis=1)) - 0.5 * np.log(max(2, self.rows)) * free


def learn_graph(
    bins: Mapping[str, NDArray[np.int64]], tiers: Sequence[Sequence[str]], most_parents: int = MOST_PARENTS
) -> CausalGraph:
    """The graph that hill climbing ends in, from no edge at all; the same for the same rows.

    Args:
        bins: every column, in the order of the table, to (n,) small numbers (`number_bins`, `level_bins`, `code_bins`).
        tiers: columns that come before others; every column is in one.
        most_parents: direct causes that a column has at most.
    """
    score, columns = Bic(bins), list(bins)
    tier = {name: i for i, names in enumerate(tiers) for name in names}
    parents: dict[str, frozenset[str]] = {name: frozenset() for name in columns}
    # Every round raises the score by at least GAIN, and there are finitely many graphs.
    while True:
        best, found = GAIN, None
        below = _ancestors(parents)
        for effect in columns:
            now = score(effect, parents[effect])
            for cause in columns:
                if cause == effect or tier[cause] > tier[effect]:
                    continue
                if cause in parents[effect]:
                    less = score(effect, parents[effect] - {cause}) - now
                    moves: list[tuple[float, Move]] = [(less, ("less", cause, effect))]
                    if tier[cause] == tier[effect] and len(parents[cause]) < most_parents:
                        more = score(cause, parents[cause] | {effect}) - score(cause, parents[cause])
                        if less + more > best and not _another_way(parents, cause, effect):
                            moves.append((less + more, ("turn", cause, effect)))
                elif len(parents[effect]) < most_parents and effect not in below[cause]:
                    moves = [(score(effect, parents[effect] | {cause}) - now, ("more", cause, effect))]
                else:
                    continue
                for gain, move in moves:
                    if gain > best:
                        best, found = gain, move
        if found is None:
            return CausalGraph.of({k: sorted(v) for k, v in parents.items()}, columns)
        what, cause, effect = found
        parents[effect] = parents[effect] | {cause} if what == "more" else parents[effect] - {cause}
        if what == "turn":
            parents[cause] = parents[cause] | {effect}


def complete_tiers(tiers: Sequence[Sequence[str]], columns: Sequence[str]) -> list[list[str]]:
    """The tiers with the columns that none names in one of their own, before the last.

    Raises:
        ConfigError: a tier names a column that there is not.
    """
    for name in (n for names in tiers for n in names):
        if name not in columns:
            raise ConfigError(f"There is no column '{name}'.", where="causal: tiers", todo=nearest(name, list(columns)))
    named = {n for names in tiers for n in names}
    rest = [c for c in columns if c not in named]
    given = [list(names) for names in tiers]
    return [*given[:-1], rest, *given[-1:]] if rest else given


# ---- few bins


def level_bins(states: NDArray[np.integer], sizes: int, *, ordered: bool, missing: int | None) -> NDArray[np.int64]:
    """(n,) at most MOST_BINS bins of a column's states: neighbours together, or the rarer ones.

    Args:
        states: (n,) states.
        sizes: how many states there are.
        ordered: do neighbouring states belong together?
        missing: the state of missing cells, kept apart; None if there is none.
    """
    given: NDArray[np.int64] = np.asarray(states, dtype=np.int64)
    if sizes <= MOST_BINS:
        return given
    count = np.bincount(given, minlength=sizes).astype(np.float64)
    gone = 0 if missing is None else count[missing]
    most = MOST_BINS - int(gone > 0)
    if missing is not None:
        count[missing] = 0
    if ordered:
        middle = (np.cumsum(count) - count / 2) / max(1.0, count.sum())
        of = np.minimum((middle * most).astype(np.int64), most - 1)
    else:
        of = np.full(sizes, most - 1)
        of[np.argsort(-count, kind="stable")[: most - 1]] = np.arange(most - 1)
    if missing is not None:
        of[missing] = MOST_BINS - 1
    return np.asarray(of[given], dtype=np.int64)


def value_bins(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """(n,) at most MOST_BINS bins of (n,) numbers, as full as can be; a number that is common is one alone; NaN is one."""
    gone = np.isnan(values)
    out = np.full(len(values), MOST_BINS - 1, dtype=np.int64)
    seen = values[~gone]
    if not len(seen):
        return out
    most = MOST_BINS - int(gone.any())
    distinct, inverse, counts = np.unique(seen, return_inverse=True, return_counts=True)
    wanted = len(seen) / most
    cuts = {0, len(distinct)}
    for i in np.flatnonzero(counts >= wanted):
        cuts |= {int(i), int(i) + 1}
    while len(cuts) - 1 < most:
        # The fullest piece that can be halved is.
        pieces = sorted(pairwise(sorted(cuts)), key=lambda p: -counts[p[0] : p[1]].sum())
        piece = next((p for p in pieces if p[1] - p[0] > 1), None)
        if piece is None:
            break
        inside = np.cumsum(counts[piece[0] : piece[1]])
        half = int(np.argmin(np.abs(inside[:-1] - inside[-1] / 2))) + 1
        cuts.add(piece[0] + half)
    while len(cuts) - 1 > most:
        borders = sorted(cuts)
        thin = min(range(1, len(borders) - 1), key=lambda i: counts[borders[i - 1] : borders[i + 1]].sum())
        cuts.remove(borders[thin])
    out[~gone] = np.searchsorted(np.array(sorted(cuts))[1:-1], inverse.ravel(), side="right")
    return out


def code_bins(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """(n,) bins of (n, codes) counts: of their first principal component, by the commonest 500 codes."""
    if not counts.shape[1]:
        return np.zeros(len(counts), dtype=np.int64)
    common = np.sort(np.argsort(-(counts > 0).mean(axis=0), kind="stable")[:MOST_PARTS])
    shown = np.log1p(counts[:, common].astype(np.float64))
    shown = shown - shown.mean(axis=0)
    _, directions = np.linalg.eigh(shown.T @ shown)
    first = directions[:, -1]
    return value_bins(np.round(shown @ (first * np.sign(first[np.abs(first).argmax()])), 9))


def _weighted_log(counts: NDArray[np.integer]) -> float:
    held = counts[counts > 0].astype(np.float64)
    return float((held * np.log(held)).sum())


def _ancestors(parents: Mapping[str, frozenset[str]]) -> dict[str, set[str]]:
    """Column to itself and all its causes."""
    graph = CausalGraph({k: tuple(v) for k, v in parents.items()})
    return {name: graph.ancestors([name]) for name in parents}


def _another_way(parents: Mapping[str, frozenset[str]], cause: str, effect: str) -> bool:
    """Does a path lead from cause to effect beside the edge between them?"""
    graph = CausalGraph({k: tuple(v - {cause}) if k == effect else tuple(v) for k, v in parents.items()})
    return cause in graph.ancestors([effect])
