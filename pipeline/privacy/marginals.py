"""Counting tables under zero-concentrated privacy: noisy histograms, merging of small states, choice of a tree of pairs.

The select-measure half of MST (McKenna, Miklau and Sheldon 2021, "Winning the NIST contest"; spec 8.7 items 1 to 4) on
plain integer arrays. All noise is drawn by the measurer that is handed in, which also keeps the account; nothing here
adds noise of its own. What the tables are good for (a tree that is fitted and drawn from) is in
`generators/marginal_tree.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SMALL_IN_SD = 3.0
"""A state whose noisy count is below this many standard deviations is merged with others (spec 8.7 item 2)."""
NOISE_SHARE = 0.3
"""Largest expected noise of a pair table as a share of the rows: beyond it the table says nothing (spec 8.7 item 5)."""
MOST_GROUPS = 100
"""Groups a column may have in pair tables: any two columns then share at most 10,000 cells (spec 8.7)."""
FEWEST_GROUPS = 4
"""Groups below which an ordered column is not cut to make pair tables affordable."""


class Measurer(Protocol):
    """What answers questions about rows, with noise and an account of it (`PrivateRun`), or without (`Exact`).

    Sensitivities are given for one row; the measurer knows how many rows a subject may have.
    """

    def gaussian(self, values: NDArray[Any], *, l2: float, rho: float, what: str) -> NDArray[np.float64]:
        """`values` plus Gaussian noise of standard deviation l2 / sqrt(2 rho)."""

    def exponential(self, scores: NDArray[Any], *, sensitivity: float, epsilon: float, what: str) -> int:
        """The place of a score, drawn with probability proportional to exp(epsilon score / (2 sensitivity))."""


class Exact:
    """Answers without noise: the limit of an unlimited budget, for models that make no promise of privacy."""

    def gaussian(self, values: NDArray[Any], *, l2: float, rho: float, what: str) -> NDArray[np.float64]:
        """The values as they are."""
        return np.asarray(values, dtype=np.float64)

    def exponential(self, scores: NDArray[Any], *, sensitivity: float, epsilon: float, what: str) -> int:
        """The place of the largest score."""
        return int(np.argmax(scores))


@dataclass(frozen=True)
class Histograms:
    """Noisy counts of every state of every column.

    Attributes:
        counts: (states,) noisy counts a column; may be negative.
        sd: standard deviation of the noise in every count.
        total: estimated number of rows: the mean of the noisy totals, those of short columns counting more.
    """

    counts: list[NDArray[np.float64]]
    sd: float
    total: float

    def shares(self) -> list[NDArray[np.float64]]:
        """(states,) probabilities a column, without negative ones."""
        return [to_simplex(c / self.total) for c in self.counts]


@dataclass(frozen=True)
class Groups:
    """The states of one column merged into fewer groups, which pair tables are made of.

    Attributes:
        of: (states,) the group of each state.
        within: (states,) probability of each state inside its group.
    """

    of: NDArray[np.int64]
    within: NDArray[np.float64]

    @property
    def size(self) -> int:
        """Number of groups."""
        return int(self.of.max(initial=-1)) + 1

    def totals(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(groups,) sums of (states,) values."""
        return np.asarray(np.bincount(self.of, weights=values, minlength=self.size), dtype=np.float64)


def gaussian_sd(l2: float, rho: float) -> float:
    """Noise that makes a query of sensitivity `l2` rho-zCDP: l2 / sqrt(2 rho) (Bun and Steinke 2016, prop. 1.6)."""
    return 0.0 if np.isinf(rho) else l2 / float(np.sqrt(2 * rho))


def exponential_epsilon(rho: float) -> float:
    """Epsilon at which the exponential mechanism is rho-zCDP: sqrt(8 rho) (Cesar and Rogers 2021, bounded range)."""
    return float(np.sqrt(8 * rho))


def to_simplex(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest probabilities to an array of any shape (Euclidean projection; Duchi et al. 2008, figure 1)."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    down = np.sort(flat)[::-1]
    above = (np.cumsum(down) - 1) / np.arange(1, len(flat) + 1)
    cut = above[np.flatnonzero(down > above)[-1]]
    return np.maximum(flat - cut, 0.0).reshape(np.shape(values))


def measure_histograms(
    measurer: Measurer,
    columns: Sequence[NDArray[np.integer]],
    sizes: list[int],
    *,
    rho: float,
    rows_per_subject: int = 1,
    what: str = "histograms",
) -> Histograms:
    """Noisy counts of every column, `rho` in equal parts (spec 8.7 item 2: standard deviation sqrt(d / (2 rho))).

    Args:
        measurer: draws the noise.
        columns: (n,) states each.
        sizes: number of states each.
        rho: zCDP of all histograms together.
        rows_per_subject: rows that one subject may have; all of them can lie in one cell.
        what: the name in the account.
    """
    exact = [np.bincount(states, minlength=size) for states, size in zip(columns, sizes, strict=True)]
    counts = measure_tables(measurer, exact, rho=rho, what=what)
    weight = 1.0 / np.array(sizes, dtype=np.float64)
    total = float(np.average([c.sum() for c in counts], weights=weight)) if counts else 0.0
    return Histograms(counts, gaussian_sd(rows_per_subject, rho / max(1, len(columns))), max(1.0, total))


def measure_tables(
    measurer: Measurer, tables: list[NDArray[Any]], *, rho: float, what: str
) -> list[NDArray[np.float64]]:
    """Noisy counts of tables in each of which a row is counted once; standard deviation sqrt(tables / (2 rho)).

    Measured as one vector, which a row changes by sqrt(tables) at most: the same noise as `rho` in equal parts.
    """
    if not tables:
        return []
    flat = np.concatenate([np.ravel(t) for t in tables]).astype(np.float64)
    noisy = measurer.gaussian(flat, l2=float(np.sqrt(len(tables))), rho=rho, what=f"{len(tables)} {what}")
    ends = np.cumsum([np.size(t) for t in tables])
    return [part.reshape(np.shape(t)) for part, t in zip(np.split(noisy, ends[:-1]), tables, strict=True)]


def most_groups(total: float, noise: float, *, noise_share: float = NOISE_SHARE) -> int:
    """Groups an ordered column may be cut into so that the expected noise of a pair table stays bearable.

    The largest G with noise G^2 <= 0.3 of the rows (`noise_share`): the rule by which spec 8.7 item 5 gives the pairs
    up, used to choose the cut before. At least 4, below which the cut hides the dependence; then the rule itself
    decides (`too_noisy`).

    Args:
        total: estimated number of rows.
        noise: standard deviation of the noise in a cell of a pair table.
        noise_share: the limit.
    """
    if noise == 0:
        return MOST_GROUPS
    return int(np.clip(np.sqrt(noise_share * total / noise), FEWEST_GROUPS, MOST_GROUPS))


def too_noisy(cells: NDArray[np.integer], total: float, noise: float, *, noise_share: float = NOISE_SHARE) -> bool:
    """The switch rule (spec 8.7 item 5): would the median pair table hold more noise than 0.3 of the rows?

    Args:
        cells: cells of the candidate pair tables.
        total: estimated number of rows.
        noise: standard deviation of the noise in a cell.
        noise_share: the limit.
    """
    return bool(noise * float(np.median(cells)) > noise_share * total)


def merge_ordered(counts: NDArray[np.float64], sd: float, most: int, *, missing: bool = False) -> Groups:
    """Neighbouring states merged until each group has at least 3 sd and an equal share of the rows (domain compression).

    A state that alone has as much is a group by itself, so that spikes stay spikes.

    Args:
        counts: (states,) noisy counts, in order.
        sd: standard deviation of the noise in them.
        most: about how many groups.
        missing: the last state is a missing cell: it is nobody's neighbour, and joins the state before it only where
            it is too rare to stand alone.
    """
    mass = np.maximum(counts, 0.0)
    inner = mass[:-1] if missing and len(mass) > 1 else mass
    enough = SMALL_IN_SD * sd
    target = max(enough, inner.sum() / most)
    of = np.zeros(len(inner), dtype=np.int64)
    group, filled = 0, 0.0
    for state, weight in enumerate(inner):
        # A heavy state closes the group before it, if that one can stand by itself.
        if weight >= target and filled > 0 and filled >= enough:
            group, filled = group + 1, 0.0
        of[state] = group
        filled += float(weight)
        if filled >= target:
            group, filled = group + 1, 0.0
    if filled < max(enough, 0.5 * target):
        # What is left over is too little for a group: it joins the last one.
        of = np.minimum(of, max(0, group - 1))
    if len(inner) < len(mass):
        alone = mass[-1] >= enough and mass[-1] > 0
        of = np.r_[of, of[-1] + int(alone)]
    return _groups(of, mass)


def merge_rare(counts: NDArray[np.float64], sd: float, most: int) -> Groups:
    """States below 3 sd, and those beyond the `most` - 1 commonest, become one group (spec 8.7 item 2)."""
    mass = np.maximum(counts, 0.0)
    rank = np.argsort(np.argsort(-counts, kind="stable"), kind="stable")
    kept = (counts >= SMALL_IN_SD * sd) & (counts > 0) & (rank < most - 1)
    of = np.full(len(counts), int(kept.sum()), dtype=np.int64)
    of[kept] = np.arange(int(kept.sum()))
    return _groups(of, mass)


def _groups(of: NDArray[np.int64], mass: NDArray[np.float64]) -> Groups:
    total = np.bincount(of, weights=mass)
    number = np.bincount(of)
    empty = total[of] <= 0
    within = np.where(empty, 1.0 / number[of], mass / np.where(empty, 1.0, total[of]))
    return Groups(of, within)


def pair_table(a: NDArray[np.integer], b: NDArray[np.integer], size_a: int, size_b: int) -> NDArray[np.float64]:
    """(size_a, size_b) counts of two columns of states."""
    flat = np.bincount(a.astype(np.int64) * size_b + b, minlength=size_a * size_b)
    return flat.reshape(size_a, size_b).astype(np.float64)


def pair_score(
    table: NDArray[np.float64],
    share_a: NDArray[np.float64],
    share_b: NDArray[np.float64],
    total: float,
    noise_sd: float,
) -> float:
    """How much a pair table would teach: its L1 distance to independence, less what chance and noise alone would give.

    Score of spec 8.7 item 3. One row more or less changes one cell by 1, so it changes the score by at most 1: the
    noisy total and margins are published numbers here, and so is what is subtracted: the distance
    sqrt(2 / pi) sum(sqrt(total p q)) that independent columns show by chance (else large tables would always win), and
    sqrt(2 / pi) sd cells, the noise that measuring adds (McKenna et al. 2022, AIM, section 4.2).
    """
    expected = total * np.outer(share_a, share_b)
    chance = np.sqrt(expected).sum() + noise_sd * table.size
    return float(np.abs(table - expected).sum() - np.sqrt(2 / np.pi) * chance)


def tree_size(pairs: list[tuple[int, int]], d: int) -> int:
    """Edges of a spanning tree (a forest, where the pairs do not connect all of the d columns)."""
    part = np.arange(d)
    edges = 0
    for a, b in pairs:
        if part[a] != part[b]:
            part[part == part[b]] = part[a]
            edges += 1
    return edges


def choose_tree(
    measurer: Measurer, pairs: list[tuple[int, int]], scores: NDArray[np.float64], d: int, *, rho: float
) -> list[tuple[int, int]]:
    """The pairs of a spanning tree, each drawn by the exponential mechanism among those that join two parts.

    Args:
        measurer: draws, and keeps the account.
        pairs: candidate pairs of columns.
        scores: (pairs,) their scores, which one row changes by at most 1.
        d: number of columns.
        rho: zCDP of all picks together; each of m is made at epsilon sqrt(8 rho / m) (spec 8.7 item 3).

    Returns:
        Pairs of a tree over all columns that the candidates connect (`tree_size` of them).
    """
    part = np.arange(d)
    first, second = (np.array([p[i] for p in pairs], dtype=np.int64) for i in (0, 1))
    epsilon = exponential_epsilon(rho / max(1, tree_size(pairs, d)))
    chosen: list[tuple[int, int]] = []
    while True:
        joining = np.flatnonzero(part[first] != part[second])
        if len(joining) == 0:
            return chosen
        place = joining[measurer.exponential(scores[joining], sensitivity=1.0, epsilon=epsilon, what="tree edge")]
        chosen.append(pairs[place])
        part[part == part[second[place]]] = part[first[place]]
