"""A private tree of pair tables: MST (McKenna, Miklau and Sheldon 2021), the generator to start with under small epsilon.

Select, measure, generate: noisy histograms of all columns, a spanning tree of pairs chosen by the exponential
mechanism, noisy tables of these pairs, and rows drawn down the tree (spec 8.7). Counting and noise are in
`privacy/marginals.py`, the fitted tree in `marginal_tree.py`, bins and states in `column_states.py`.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.encoding.encoder import Encoded
from pipeline.errors import UnsupportedError
from pipeline.generators.column_states import (
    StateColumn,
    encoded_from,
    likelihood_of,
    state_columns,
    states_of,
)
from pipeline.generators.lone_codes import commonest_codes, count_frequencies, draw_counts
from pipeline.generators.marginal_tree import CHUNK, MarginalTree, fit_belief_propagation, fit_sinkhorn, pick_by_row
from pipeline.generators.tabular import Learned, TabularConfig, TabularGenerator
from pipeline.privacy.marginals import (
    MOST_GROUPS,
    NOISE_SHARE,
    Exact,
    Groups,
    Histograms,
    Measurer,
    choose_tree,
    gaussian_sd,
    measure_histograms,
    measure_tables,
    merge_ordered,
    merge_rare,
    most_groups,
    pair_score,
    pair_table,
    to_simplex,
    too_noisy,
    tree_size,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.encoding.encoder import TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.base import Progress
    from pipeline.generators.conditions import Fixed
    from pipeline.privacy.run import PrivateRun

FINE_FROM_EPSILON = 3.0
FINE_BINS, COARSE_BINS = 32, 16
MANY_COLUMNS = 100
"""More columns than this: only pairs that are close by what is publicly known are candidates (spec 8.7)."""


class MSTConfig(TabularConfig):
    """Settings of MST."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {"fit": "bp", "cut": "none", "score": "distance", "noise_share": 1e12},
        "quick": {},
    }
    fit: Literal["sinkhorn", "bp"] = Field(
        default="sinkhorn",
        description="How the tree is fitted to noisy tables: scaled to the margins (fast), or the tree nearest to all "
        "measurements by belief propagation and mirror descent (as private-pgm; preset 'paper').",
    )
    bins: int | None = Field(
        default=None,
        ge=2,
        le=100,
        description="Bins of a numeric column, along its atoms; default 32 from epsilon 3 on, else 16.",
    )
    cut: Literal["affordable", "none"] = Field(
        default="affordable",
        description="Bins are merged for pair tables until the expected noise of a table is bearable, or not "
        "(preset 'paper'); histograms keep all bins.",
    )
    score: Literal["corrected", "distance"] = Field(
        default="corrected",
        description="Score of a pair: its L1 distance to independence, less what chance and noise alone would give, or "
        "the distance as it is (preset 'paper').",
    )
    noise_share: float = Field(
        default=NOISE_SHARE,
        gt=0,
        description="Expected noise of the median pair table, as a share of the rows, above which all columns are drawn "
        "independently with the whole budget on histograms (preset 'paper': never).",
    )
    max_codes: int = Field(
        default=64,
        ge=0,
        le=1000,
        description="Commonest codes of all blocks together that take part in the tree; the others are drawn "
        "independently of everything.",
    )


class MST(TabularGenerator):
    """Tree of noisy pair tables.

    Attributes:
        tree: The fitted tree over groups of states, after `fit` or `load`.
        columns: The columns of states.
        groups: How the states of each are merged.
    """

    name = "mst"
    title = "MST: differentially private tree of pair tables"
    Config = MSTConfig
    config: MSTConfig
    kinds = ("numpy",)
    private = True
    tree: MarginalTree
    columns: list[StateColumn]
    groups: list[Groups]
    _counts: dict[str, NDArray[np.float64]]

    def _learn(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        progress: Progress | None,
    ) -> Learned:
        learned = self._measure(encoder, rows, Exact(), rho=np.inf, epsilon=np.inf, rows_per_subject=1)
        self._counts = _code_counts(encoder, rows, self.columns)
        learned.warnings.append(
            "Trained without noise: no promise of privacy is made. MST is meant to be asked for an epsilon."
        )
        if progress is not None:
            progress(1, 1, {})
        return learned

    def _learn_private(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        cohort: Cohort,
        *,
        seed: int,
        device: str,
        run: PrivateRun,
        progress: Progress | None,
    ) -> Learned:
        learned = self._measure(
            encoder, rows, run, rho=run.zcdp_rho(), epsilon=run.epsilon, rows_per_subject=run.rows_per_subject
        )
        self._counts = _noisy_code_counts(encoder, self.columns)
        if progress is not None:
            progress(1, 1, {})
        return learned

    def _measure(
        self,
        encoder: TableEncoder,
        rows: Encoded,
        measurer: Measurer,
        *,
        rho: float,
        epsilon: float,
        rows_per_subject: int,
    ) -> Learned:
        """Spec 8.7 items 1 to 5; `rho` is spent in thirds on histograms, tree and pair tables."""
        bins = self.config.bins or (FINE_BINS if epsilon >= FINE_FROM_EPSILON else COARSE_BINS)
        codes = commonest_codes(encoder, self.config.max_codes)
        self.columns = state_columns(encoder, bins=bins, codes=codes)
        states = [states_of(column, rows) for column in self.columns]
        sizes = [column.size for column in self.columns]
        reach = float(rows_per_subject)
        seen = measure_histograms(measurer, states, sizes, rho=rho / 3, rows_per_subject=rows_per_subject)
        self.groups = self._merge(seen, gaussian_sd(reach, rho / 3 / max(1, len(states) - 1)))
        sizes_of_groups = [group.size for group in self.groups]
        pairs = [(a, b) for a, b in self._candidates(encoder) if sizes_of_groups[a] > 1 and sizes_of_groups[b] > 1]
        rho_a_pair = rho / 3 / max(1, tree_size(pairs, len(states)))
        noise = gaussian_sd(reach, rho_a_pair)
        cells = np.array([sizes_of_groups[a] * sizes_of_groups[b] for a, b in pairs], dtype=np.int64)
        warnings = _said_of_codes(encoder, codes)
        facts = {"columns_of_states": float(len(states)), "tree_edges": 0.0}
        if not pairs or too_noisy(cells, seen.total, noise, noise_share=self.config.noise_share):
            more = measure_histograms(measurer, states, sizes, rho=2 * rho / 3, rows_per_subject=rows_per_subject)
            self._independent(seen, more)
            if len(states) > 1:
                warnings.append(
                    "The budget is too small for pair tables on so few rows: all columns are drawn independently, with "
                    "the whole budget on their histograms."
                )
            return Learned(parameters=sum(sizes), warnings=warnings, facts=facts)
        margins = [to_simplex(g.totals(c) / seen.total) for g, c in zip(self.groups, seen.counts, strict=True)]
        grouped = [g.of[s] for g, s in zip(self.groups, states, strict=True)]
        tables = {(a, b): pair_table(grouped[a], grouped[b], sizes_of_groups[a], sizes_of_groups[b]) for a, b in pairs}
        scores = np.array([self._score(tables[a, b], margins[a], margins[b], seen.total, noise) for a, b in pairs])
        edges = choose_tree(measurer, pairs, scores, len(states), rho=rho / 3)
        noisy = measure_tables(measurer, [tables[e] for e in edges], rho=rho / 3, what="pair tables")
        self.tree = self._fit_tree(edges, noisy, margins, seen, noise)
        facts["tree_edges"] = float(len(edges))
        return Learned(
            parameters=sum(sizes) + sum(int(t.size) for t in self.tree.tables), warnings=warnings, facts=facts
        )

    def _merge(self, seen: Histograms, noise: float) -> list[Groups]:
        """Domain compression (spec 8.7 item 2), and ordered columns cut no finer than pair tables can bear."""
        most = MOST_GROUPS
        if self.config.cut == "affordable" and noise > 0:
            most = most_groups(seen.total, noise, noise_share=self.config.noise_share)
        return [
            merge_ordered(counts, seen.sd, most, missing=column.missing)
            if column.ordered
            else merge_rare(counts, seen.sd, MOST_GROUPS)
            for column, counts in zip(self.columns, seen.counts, strict=True)
        ]

    def _candidates(self, encoder: TableEncoder) -> list[tuple[int, int]]:
        """Pairs that may become edges: all, or in a wide table those that are close by public knowledge.

        Then a pair must be of one block or one source table, or one of it a hub: a label, a protected attribute or a
        quasi-identifier (any column of the table where there is none).
        """
        pairs = list(combinations(range(len(self.columns)), 2))
        if len(self.columns) <= MANY_COLUMNS:
            return pairs
        domain = [_domain(encoder, c) for c in self.columns]
        hub = [c.kind != "code" and encoder.schema.column(c.name).role != "feature" for c in self.columns]
        if not any(hub):
            hub = [c.kind != "code" for c in self.columns]
        if not any(hub):
            return pairs
        return [(a, b) for a, b in pairs if domain[a] == domain[b] or hub[a] or hub[b]]

    def _score(
        self,
        table: NDArray[np.float64],
        share_a: NDArray[np.float64],
        share_b: NDArray[np.float64],
        total: float,
        noise: float,
    ) -> float:
        if self.config.score == "distance":
            return float(np.abs(table - total * np.outer(share_a, share_b)).sum())
        return pair_score(table, share_a, share_b, total, noise)

    def _fit_tree(
        self,
        edges: list[tuple[int, int]],
        noisy: list[NDArray[np.float64]],
        margins: list[NDArray[np.float64]],
        seen: Histograms,
        noise: float,
    ) -> MarginalTree:
        tables = [t / seen.total for t in noisy]
        if self.config.fit == "bp":
            weight = (noise / seen.sd) ** 2 if seen.sd > 0 else 1.0
            return fit_belief_propagation(edges, tables, margins, margin_weight=weight)
        return fit_sinkhorn(edges, [to_simplex(t) for t in tables], margins)

    def _independent(self, first: Histograms, second: Histograms) -> None:
        """A tree without edges from two measurements, the second with twice the budget of the first."""
        total = (first.total + 2 * second.total) / 3
        counts = [(a + 2 * b) / 3 for a, b in zip(first.counts, second.counts, strict=True)]
        margins = [to_simplex(c / total) for c in counts]
        self.groups = [Groups(np.arange(len(m)), np.ones(len(m))) for m in margins]
        self.tree = MarginalTree.from_joints([], [], margins)

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`."""
        return True

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        if not fixed:
            return self._draw_part(encoder, n, rng, fixed)
        # What is fixed of a row is spelt out as a likelihood of every state: not of all rows at once.
        parts = [np.arange(start, min(n, start + CHUNK)) for start in range(0, n, CHUNK)]
        return Encoded.concatenate([self._draw_part(encoder, len(part), rng, fixed.take(part)) for part in parts])

    def _draw_part(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        evidence: dict[int, NDArray[np.float64]] = {}
        for i, column in enumerate(self.columns):
            likelihood = likelihood_of(encoder, column, fixed) if fixed else None
            if likelihood is not None:
                evidence[i] = _grouped_likelihood(self.groups[i], likelihood)
        drawn = self.tree.draw(n, rng, evidence)
        states = np.zeros((n, len(self.columns)), dtype=np.int64)
        for i, group in enumerate(self.groups):
            inside = np.zeros((group.size, len(group.of)))
            inside[group.of, np.arange(len(group.of))] = group.within
            states[:, i] = pick_by_row(inside, drawn[:, i], rng.random(n))
        out = encoded_from(encoder, self.columns, states, rng)
        for name, shares in self._counts.items():
            alone = np.flatnonzero(shares.sum(axis=1) > 0)
            if len(alone):
                out.blocks[name][:, alone] = draw_counts(shares[alone], n, rng)
        return out

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        tensors: dict[str, NDArray[Any]] = {"parent": self.tree.parent, "order": self.tree.order}
        for i, (table, group, column) in enumerate(zip(self.tree.tables, self.groups, self.columns, strict=True)):
            tensors[f"table-{i:05d}"] = table
            tensors[f"of-{i:05d}"], tensors[f"within-{i:05d}"] = group.of, group.within
            tensors[f"edges-{i:05d}"] = column.edges
        tensors.update({f"counts-{i:05d}": v for i, v in enumerate(self._counts.values())})
        plain = [
            {k: getattr(c, k) for k in ("kind", "name", "code", "size", "ordered", "missing")} for c in self.columns
        ]
        return tensors, {"columns": plain, "blocks": list(self._counts)}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        count = len(extra["columns"])
        self.columns = [
            StateColumn(**x, edges=np.asarray(tensors[f"edges-{i:05d}"], dtype=np.float64))
            for i, x in enumerate(extra["columns"])
        ]
        self.groups = [
            Groups(np.asarray(tensors[f"of-{i:05d}"], dtype=np.int64), tensors[f"within-{i:05d}"]) for i in range(count)
        ]
        self.tree = MarginalTree(
            np.asarray(tensors["parent"], dtype=np.int64),
            np.asarray(tensors["order"], dtype=np.int64),
            [tensors[f"table-{i:05d}"] for i in range(count)],
        )
        self._counts = {k: tensors[f"counts-{i:05d}"] for i, k in enumerate(extra["blocks"])}


def _domain(encoder: TableEncoder, column: StateColumn) -> str:
    """What a column belongs to, as publicly known: its block, or the first table it comes from."""
    if column.kind == "code":
        return f"block {column.name}"
    source = encoder.schema.column(column.name).source
    return source[0].rpartition(".")[0] if source else ""


def _grouped_likelihood(group: Groups, likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, groups) likelihoods for (n, states): means over the states of a group, weighted as they are drawn."""
    onto = np.zeros((len(group.of), group.size))
    onto[np.arange(len(group.of)), group.of] = 1.0
    out = (likelihood * group.within) @ onto
    # What is asked for was never drawn by itself: its group is all that is known of it.
    never = out.sum(axis=1) <= 0
    out[never] = (likelihood[never] > 0) @ onto > 0
    return out


def _said_of_codes(encoder: TableEncoder, codes: Mapping[str, NDArray[np.int64]]) -> list[str]:
    left_out = sum(len(block.used) - len(codes[name]) for name, block in encoder.blocks.items())
    if not left_out:
        return []
    return [
        f"{left_out} codes are drawn independently of everything: only the commonest take part in the tree "
        "(setting max_codes)."
    ]


def _without(shares: NDArray[np.float64], name: str, columns: list[StateColumn]) -> NDArray[np.float64]:
    """The shares with zeros for the codes that are columns of the tree."""
    out = shares.copy()
    out[[c.code for c in columns if c.kind == "code" and c.name == name]] = 0.0
    return out


def _code_counts(encoder: TableEncoder, rows: Encoded, columns: list[StateColumn]) -> dict[str, NDArray[np.float64]]:
    """(codes, counts) distribution of each code that is drawn by itself."""
    return {name: _without(count_frequencies(rows.blocks[name]), name, columns) for name in encoder.blocks}


def _noisy_code_counts(encoder: TableEncoder, columns: list[StateColumn]) -> dict[str, NDArray[np.float64]]:
    """The same under privacy: present or not, by the encoder's noisy prevalence.

    Raises:
        UnsupportedError: a block of counts has more codes than the tree takes: how often a code occurs is not known.
    """
    out: dict[str, NDArray[np.float64]] = {}
    for name, block in encoder.blocks.items():
        shares = _without(np.stack([1 - block.prevalence, block.prevalence], axis=1), name, columns)
        if not block.binary and (shares[:, 1] > 0).any():
            raise UnsupportedError(
                f"Under privacy, block '{name}' has more counted codes than the tree takes.",
                todo="Raise max_codes, keep fewer codes, or make the block one of presence only.",
            )
        out[name] = shares
    return out
