"""A tree of discrete columns: fitted to (noisy) margins and pair tables, and drawn from, exactly under evidence too.

Because every pair table lies on an edge of a tree, the joint distribution is the product of margins and row-conditional
tables, and no general graphical-model inference is needed (spec 8.7 items 5 and 6). Which tables are measured, and
with what noise, is in `privacy/marginals.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Edge = tuple[int, int]

FLOOR = 1e-9
"""Least probability of a cell, so that every evidence can be drawn (spec 8.7 item 5)."""
ROUNDS = 50
STEPS = 300
CHUNK = 8_192


@dataclass(frozen=True)
class MarginalTree:
    """A forest of columns with a table on each edge.

    Attributes:
        parent: (d,) the parent of each column, -1 for a root.
        order: (d,) all columns, parents before their children.
        tables: a column each: (parent's states, own states) probabilities of its states given the parent's, rows
            summing to 1; for a root one row, its margin.
    """

    parent: NDArray[np.int64]
    order: NDArray[np.int64]
    tables: list[NDArray[np.float64]]

    @classmethod
    def from_joints(
        cls, edges: list[Edge], joints: list[NDArray[np.float64]], margins: list[NDArray[np.float64]]
    ) -> MarginalTree:
        """The forest with these pair probabilities ((first, second) as in `edges`); roots follow `margins`."""
        joint = dict(zip(edges, joints, strict=True))
        parent, order = _rooted(edges, len(margins))
        tables: list[NDArray[np.float64]] = []
        for column, above in enumerate(parent):
            if above < 0:
                table = margins[column][None, :]
            elif (int(above), column) in joint:
                table = joint[int(above), column]
            else:
                table = joint[column, int(above)].T
            table = np.maximum(table, FLOOR)
            tables.append(table / table.sum(axis=1, keepdims=True))
        return cls(parent, order, tables)

    @property
    def margins(self) -> list[NDArray[np.float64]]:
        """(states,) probabilities of each column."""
        out: dict[int, NDArray[np.float64]] = {}
        for column in self.order:
            above = int(self.parent[column])
            out[int(column)] = self.tables[column][0] if above < 0 else out[above] @ self.tables[column]
        return [out[i] for i in range(len(self.tables))]

    def draw(
        self, n: int, rng: np.random.Generator, evidence: Mapping[int, NDArray[np.float64]] | None = None
    ) -> NDArray[np.int64]:
        """(n, d) states; under evidence exactly from the conditional distribution (upward-downward messages).

        Args:
            n: rows.
            rng: randomness.
            evidence: column to (n, states) likelihoods of what is known of it in each row: 1 at a known state and 0
                elsewhere, or the share of each state that agrees with it; all ones say nothing.
        """
        out = np.zeros((n, len(self.tables)), dtype=np.int64)
        for start in range(0, n, CHUNK):
            stop = min(n, start + CHUNK)
            known = {k: v[start:stop] for k, v in (evidence or {}).items()}
            likelihood = self._upward(known)
            for column in self.order:
                above = int(self.parent[column])
                state = np.zeros(stop - start, dtype=np.int64) if above < 0 else out[start:stop, above]
                uniform = rng.random(stop - start)
                if int(column) in likelihood:
                    weight = self.tables[column][state] * likelihood[int(column)]
                    out[start:stop, column] = _pick_by_weight(weight, uniform)
                else:
                    out[start:stop, column] = pick_by_row(self.tables[column], state, uniform)
        return out

    def _upward(self, known: Mapping[int, NDArray[np.float64]]) -> dict[int, NDArray[np.float64]]:
        """(n, states) likelihood of all evidence at or below a column, for the columns that have any."""
        likelihood = {k: np.asarray(v, dtype=np.float64) for k, v in known.items()}
        for column in self.order[::-1]:
            above = int(self.parent[column])
            if int(column) in likelihood and above >= 0:
                message = likelihood[int(column)] @ self.tables[column].T
                message /= np.maximum(message.max(axis=1, keepdims=True), 1e-300)
                likelihood[above] = likelihood[above] * message if above in likelihood else message
        return likelihood


def _rooted(edges: list[Edge], d: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Parents (-1 for roots) and an order with parents first, of the forest that `edges` make of d columns."""
    near: list[list[int]] = [[] for _ in range(d)]
    for a, b in edges:
        near[a].append(b)
        near[b].append(a)
    parent = np.full(d, -1, dtype=np.int64)
    order: list[int] = []
    seen = np.zeros(d, dtype=bool)
    # The best connected column first: short ways from the root keep the loops few and the messages short.
    for root in sorted(range(d), key=lambda i: (-len(near[i]), i)):
        if seen[root]:
            continue
        queue = [root]
        seen[root] = True
        for column in queue:
            for other in near[column]:
                if not seen[other]:
                    seen[other] = True
                    parent[other] = column
                    queue.append(other)
        order.extend(queue)
    return parent, np.array(order, dtype=np.int64)


def pick_by_row(
    table: NDArray[np.float64], row: NDArray[np.integer], uniform: NDArray[np.float64]
) -> NDArray[np.int64]:
    """(n,) columns drawn from the given rows of a table of probabilities, by inverse distribution function.

    One search for all rows at once: the cumulative rows are laid one after the other on the line.
    """
    cumulative = np.cumsum(table, axis=1)
    cumulative /= cumulative[:, -1:]
    line = (cumulative + np.arange(len(table))[:, None]).ravel()
    place = np.searchsorted(line, row + uniform, side="right") - row * table.shape[1]
    return np.clip(place, 0, table.shape[1] - 1).astype(np.int64)


def _pick_by_weight(weight: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) columns drawn from (n, states) weights, a row each; a row without any weight gives all states alike."""
    weight = np.where(weight.sum(axis=1, keepdims=True) > 0, weight, 1.0)
    cumulative = np.cumsum(weight, axis=1)
    place = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(axis=1)
    return np.minimum(place, weight.shape[1] - 1).astype(np.int64)


def fit_sinkhorn(
    edges: list[Edge], tables: list[NDArray[np.float64]], margins: list[NDArray[np.float64]], *, rounds: int = ROUNDS
) -> MarginalTree:
    """Each table scaled to the margins by iterative proportional fitting (Deming and Stephan 1940; Sinkhorn 1967).

    Args:
        edges: pairs of columns.
        tables: pair probabilities of each edge; their own margins are noisier than `margins` and are not used.
        margins: probabilities of each column.
        rounds: of fitting rows and columns.
    """
    fitted: list[NDArray[np.float64]] = []
    sure = [np.maximum(m, FLOOR) / np.maximum(m, FLOOR).sum() for m in margins]
    for (a, b), table in zip(edges, tables, strict=True):
        joint = np.maximum(table, FLOOR)
        for _ in range(rounds):
            joint *= (sure[a] / joint.sum(axis=1))[:, None]
            joint *= sure[b] / joint.sum(axis=0)
        fitted.append(joint)
    return MarginalTree.from_joints(edges, fitted, sure)


def fit_belief_propagation(
    edges: list[Edge],
    tables: list[NDArray[np.float64]],
    margins: list[NDArray[np.float64]],
    *,
    margin_weight: float = 1.0,
    steps: int = STEPS,
) -> MarginalTree:
    """The tree that is nearest to all measurements at once, by weighted squared error.

    Entropic mirror descent on the log potentials (McKenna, Sheldon and Miklau 2019, algorithm 1): the gradient with
    respect to the tree's own tables, which belief propagation gives exactly, is taken off the potentials, with a
    backtracking step.

    Args:
        edges: pairs of columns.
        tables: measured pair probabilities; negative cells are allowed.
        margins: measured probabilities of each column.
        margin_weight: weight of a margin's cell, in those of a table's: the ratio of the noise variances.
        steps: at most.
    """
    d = len(margins)
    parent, order = _rooted(edges, d)
    measured = dict(zip(edges, tables, strict=True))
    targets = {
        int(c): measured[int(parent[c]), int(c)]
        if (int(parent[c]), int(c)) in measured
        else measured[int(c), int(parent[c])].T
        for c in order
        if parent[c] >= 0
    }
    node = [np.log(np.maximum(m, FLOOR)) for m in margins]
    edge = {c: np.zeros_like(t) for c, t in targets.items()}

    def misfit(singles: list[NDArray[np.float64]], pairs: dict[int, NDArray[np.float64]]) -> float:
        return 0.5 * margin_weight * sum(float(((s - m) ** 2).sum()) for s, m in zip(singles, margins, strict=True)) + (
            0.5 * sum(float(((pairs[c] - t) ** 2).sum()) for c, t in targets.items())
        )

    singles, pairs = _beliefs(parent, order, node, edge)
    loss = misfit(singles, pairs)
    step = 1.0
    for _ in range(steps):
        slope_node = [margin_weight * (s - m) for s, m in zip(singles, margins, strict=True)]
        slope_edge = {c: pairs[c] - t for c, t in targets.items()}
        step *= 2.0
        for _ in range(40):
            try_node = [a - step * b for a, b in zip(node, slope_node, strict=True)]
            try_edge = {c: edge[c] - step * slope_edge[c] for c in edge}
            new_singles, new_pairs = _beliefs(parent, order, try_node, try_edge)
            new_loss = misfit(new_singles, new_pairs)
            gain = sum(float((b * (s - t)).sum()) for b, s, t in zip(slope_node, singles, new_singles, strict=True))
            gain += sum(float((slope_edge[c] * (pairs[c] - new_pairs[c])).sum()) for c in edge)
            if loss - new_loss >= 0.5 * gain and new_loss <= loss:
                break
            step *= 0.5
        else:
            break
        improved = loss - new_loss
        node, edge, singles, pairs, loss = try_node, try_edge, new_singles, new_pairs, new_loss
        if improved <= 1e-9 * max(loss, 1e-12):
            break
    order_edges = [(int(parent[c]), c) for c in edge]
    return MarginalTree.from_joints(order_edges, [pairs[c] for c in edge], singles)


def _beliefs(
    parent: NDArray[np.int64],
    order: NDArray[np.int64],
    node: list[NDArray[np.float64]],
    edge: dict[int, NDArray[np.float64]],
) -> tuple[list[NDArray[np.float64]], dict[int, NDArray[np.float64]]]:
    """Exact margins and pair probabilities of a tree of log potentials (belief propagation; Pearl 1988)."""
    up = [a.copy() for a in node]
    message: dict[int, NDArray[np.float64]] = {}
    for column in order[::-1]:
        c = int(column)
        if parent[c] >= 0:
            message[c] = _log_sum(edge[c] + up[c][None, :])
            up[int(parent[c])] = up[int(parent[c])] + message[c]
    singles: dict[int, NDArray[np.float64]] = {}
    pairs: dict[int, NDArray[np.float64]] = {}
    for column in order:
        c, above = int(column), int(parent[column])
        if above < 0:
            singles[c] = np.exp(up[c] - _log_sum(up[c][None, :]))
            continue
        given = np.exp(edge[c] + up[c][None, :] - message[c][:, None])
        pairs[c] = singles[above][:, None] * given
        singles[c] = pairs[c].sum(axis=0)
    return [singles[i] for i in range(len(node))], pairs


def _log_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows,) logarithm of the sum of exponentials of each row."""
    peak = values.max(axis=1)
    return np.asarray(peak + np.log(np.exp(values - peak[:, None]).sum(axis=1)))
