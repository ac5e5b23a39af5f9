"""DECAF (van Breugel et al. 2021, "DECAF: generating fair synthetic data using causally-aware generative networks"): rows drawn along
a causal graph, from which edges into the label are cut where rows are drawn.

The graph is given and reviewed, or learned within tiers (`pipeline/causal/`). The network is `adversarial/structural.py`, the game
that of `adversarial/`. Training knows nothing of fairness: which notion holds is a matter of drawing, and the same model draws
under any (`under`). Conditions on columns with all their causes are native, others by rejection.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.causal.cuts import cut_edges
from pipeline.causal.graph import CausalGraph
from pipeline.encoding.encoder import Encoded
from pipeline.generators.adversarial.causal_settings import DECAFConfig
from pipeline.generators.adversarial.conditions import ConditionVector
from pipeline.generators.adversarial.fidelity import Fidelity
from pipeline.generators.adversarial.generator import LOOK_ROUNDS, LOOKED_AT, MARGIN_ROWS, AdversarialGenerator
from pipeline.generators.adversarial.health import collapsed
from pipeline.generators.adversarial.loop import Look
from pipeline.generators.adversarial.margins import ROUNDS, Margins
from pipeline.generators.adversarial.match import Match
from pipeline.generators.adversarial.named_columns import label_of, protected_of
from pipeline.generators.adversarial.structural import StructuralNet, slots_of
from pipeline.generators.adversarial.structural_rows import Fitting, Held, exchanges
from pipeline.generators.adversarial.structure import (
    columns_of,
    group_notes,
    label_information,
    learned_graph,
)
from pipeline.generators.conditions import Fixed
from pipeline.generators.rejection import draw_matching
from pipeline.generators.seeds import stream
from pipeline.generators.training import repeatable, torch_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray

    from pipeline.causal.cuts import CausalNotion
    from pipeline.encoding.encoder import TableEncoder
    from pipeline.features.cohort import Cohort
    from pipeline.generators.adversarial.vector import RowBlocks, RowTensors
    from pipeline.generators.base import Progress
    from pipeline.generators.tabular import Learned

FEWEST_DRAWN = 1_024
"""Rows that are drawn at least: what is shown instead of a cut cause has to come from somebody else."""
MOST_AT_ONCE = 131_072
CELLS_AT_ONCE = 16_000_000
"""Rows, and coordinates, among which causes are exchanged; more rows are drawn in equal parts."""
COUNTED = 4_000


class StructuralMatch(Match):
    """Critic and structural generator, whose outputs are whole rows."""

    def outputs(self, condition: Tensor) -> Tensor:
        """(batch, width) vectors; nothing is told."""
        assert isinstance(self.generator, StructuralNet)
        found: Tensor = self.generator(self.generator.noise(len(condition), self.streams.noise, self.device))
        return found

    def shown(self, outputs: Tensor) -> Tensor:
        """The vectors as they are."""
        return outputs


class DECAF(AdversarialGenerator):
    """Rows along a causal graph, edges into the label cut where they are drawn."""

    name = "decaf"
    title = "DECAF: rows along a causal graph, unfair edges cut"
    Config = DECAFConfig
    config: DECAFConfig
    private: ClassVar[bool] = False
    not_private = "Critic and learned graph both come from real rows without noise."
    graph: CausalGraph
    """The graph that rows are drawn along, over all columns and code blocks."""
    label: str | None
    protected: list[str]
    _network: StructuralNet

    def under(self, notion: CausalNotion, given: Collection[str] = (), **more: Any) -> DECAF:
        """The same model, drawing under another notion.

        Args:
            notion: see the setting.
            given: of `conditional`.
            more: other settings of the cut: `strict`, `children`, `exchange`.

        Raises:
            ConfigError: the notion needs a label and protected columns, and none are known; or the graph does not allow it.
        """
        self._fitted()
        other = copy(self)
        for cached in ("cuts", "_fair_margins"):
            other.__dict__.pop(cached, None)
        other.config = self.Config.build({**self.config.model_dump(), "notion": notion, "given": tuple(given), **more})
        other._name_columns(self._fitted())
        _ = other.cuts  # refused now, not at the first draw
        return other

    @cached_property
    def cuts(self) -> dict[str, tuple[str, ...]]:
        """Column to those of its direct causes from which it is cut where rows are drawn."""
        config = self.config
        if self.label is None or not self.protected:
            return {}
        return cut_edges(
            self.graph,
            self.label,
            self.protected,
            config.notion,
            config.given,
            children=config.children == "cut",
            strict=config.strict,
        )

    # ---- learning

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
        for cached in ("cuts", "_fair_margins"):
            self.__dict__.pop(cached, None)
        self._name_columns(encoder)
        self.graph = self._graph_of(encoder, rows)
        cuts = self.cuts  # what cannot be cut is refused before anything is learned
        learned = super()._learn(encoder, rows, cohort, seed=seed, device=device, progress=progress)
        learned.facts |= {"graph_edges": float(len(self.graph.edges)), "graph_levels": float(len(self.graph.levels()))}
        learned.facts["graph_edges_cut"] = float(sum(map(len, cuts.values())))
        learned.warnings += self._notes(encoder, rows)
        if self.label is not None and self.protected:
            drawn = self._drawn(COUNTED, stream(seed, "information"), Fixed())
            for column in self.protected:
                for what, found in (("real", rows), ("drawn", drawn)):
                    key = f"label_information_{what}/{column}"
                    learned.facts[key] = label_information(encoder, found, self.label, column)
        return learned

    def _name_columns(self, encoder: TableEncoder) -> None:
        """Say which column is the label and which are protected, where the notion needs to know or the cohort says it."""
        config = self.config
        needed = config.undeclared if config.notion != "none" else "guess"
        instead = "`notion: none` needs none."
        label = label_of(encoder, config.label, needed, self.name, instead=instead)
        names = protected_of(encoder, config.protected, needed, self.name, instead=instead, but=(label,))
        if config.notion == "none":
            # A guess would only decide which column comes last.
            declared = encoder.schema.column
            label = label if config.label or (label and declared(label).role == "label") else None
            names = [n for n in names if config.protected or declared(n).role == "protected"]
        self.label, self.protected = label, names

    def _graph_of(self, encoder: TableEncoder, rows: Encoded) -> CausalGraph:
        """The graph of the settings, or the one that is learned within tiers."""
        config = self.config
        if config.causal.graph:
            return CausalGraph.of(config.causal.graph, columns_of(encoder), where="causal: graph")
        return learned_graph(encoder, rows, config.causal.tiers, self.label, self.protected, config.most_parents)

    def _notes(self, encoder: TableEncoder, rows: Encoded) -> list[str]:
        """What people have to know of graph, label and groups: names of columns and counts."""
        config = self.config
        out: list[str] = []
        if config.causal.graph:
            named = set(config.causal.columns)
            alone = [c for c in self.graph.columns if c not in named]
            if alone:
                out.append(f"The graph does not name {', '.join(alone)}: drawn independently of all others.")
        else:
            out.append(
                "The causal graph was learned from the rows within tiers, a proposal that somebody has to review: "
                + (self.graph.words() or "no edge")
                + "."
            )
        if config.notion != "none" and (self.label is None or not self.protected):
            out.append("There is no label or no protected column: no edge is cut.")
        elif config.notion != "none" and not self.cuts:
            out.append(f"The graph has no edge that '{config.notion}' would cut: rows are drawn as they were learned.")
        elif self.label is not None and self.cuts.get(self.label) == self.graph.parents[self.label]:
            out.append(
                f"Every cause of '{self.label}' is cut by '{config.notion}': nothing is left that it follows from, and models will "
                "learn nothing of it. Review the graph, or name what may rightly decide (`notion: conditional`, `given`)."
            )
        if config.undeclared == "guess" and config.notion != "none":
            role = encoder.schema.column
            if self.label is not None and config.label is None and role(self.label).role != "label":
                out.append(f"No label is declared: '{self.label}' was taken for it.")
            guessed = [n for n in self.protected if not config.protected and role(n).role != "protected"]
            out += [f"Nothing is declared protected: '{n}' was taken for it." for n in guessed]
        return out + group_notes(encoder, rows, self.label, self.protected)

    # ---- what the foundation asks

    def _conditions(self, encoder: TableEncoder) -> ConditionVector:
        return ConditionVector(encoder, [])

    def _generator(self, blocks: RowBlocks, conditions: int) -> StructuralNet:
        config = self.config
        return StructuralNet(blocks, self.graph, config.hidden, config.noise, config.tau)

    def _match(self, match: Match) -> Match:
        return StructuralMatch(**vars(match))

    def _settle(self, seed: int, place: torch.device) -> Callable[[nn.Module], None]:
        return lambda network: None  # no layer keeps statistics

    def _look(
        self, blocks: RowBlocks, data: RowTensors, tune: NDArray[np.bool_], seed: int, place: torch.device
    ) -> Callable[[nn.Module], Look]:
        real = blocks.real(data.take(torch.as_tensor(np.flatnonzero(tune)[:LOOKED_AT], device=place)))
        fidelity = Fidelity(real)

        def look(network: nn.Module) -> Look:
            assert isinstance(network, StructuralNet)
            with torch.no_grad():
                inputs = network.noise(LOOKED_AT, torch_stream(seed, "look", device=place), place)
                if self.config.margins:
                    # Margins are brought back in the end: what is judged is what is left.
                    drawn = network.walk(inputs, change=Fitting(blocks, LOOK_ROUNDS))
                else:
                    drawn = network(inputs)
            return Look(fidelity(drawn), collapsed(real, drawn))

        return look

    def _bring_back(self, counts: Mapping[str, NDArray[np.float64]], seed: int) -> None:
        noise, rng = torch_stream(seed, "margins"), stream(seed, "margins")
        with repeatable(0), torch.no_grad():
            inputs = self._network.noise(self._margin_rows(), noise, torch.device("cpu"))
            fitting = Fitting(self._blocks, ROUNDS)
            vectors = self._network.walk(inputs, change=fitting, chunk=self._chunk())
            self._network.head.bias.add_(fitting.total)
        self._margins = Margins.fit(self._blocks, vectors, self._blocks.read(vectors, rng), counts)

    def _margin_rows(self) -> int:
        return max(256, min(MARGIN_ROWS, 2 * self._chunk()))

    @cached_property
    def _fair_margins(self) -> tuple[Tensor, Margins]:
        """(head_width,) what is added to outputs where edges are cut, and the margins then: those of what comes after a cut.

        Nothing else changes by it. It follows from the model alone, and so do the bytes of drawn rows.
        """
        blocks, kept = self._blocks, self._margins
        if not self.cuts or not self.config.margins or not blocks.width:
            return torch.zeros(blocks.head_width), kept
        after = self.graph.descendants(self.cuts)
        noise, order, rng = torch_stream(0, "cut"), torch_stream(0, "cut order"), stream(0, "cut")
        with repeatable(0), torch.no_grad():
            rows = self._margin_rows()
            inputs = self._network.noise(rows, noise, torch.device("cpu"))
            at = [i for name, slot in slots_of(blocks).items() if name in after for i in slot.outputs]
            fitting = Fitting(blocks, ROUNDS, only=torch.tensor(at, dtype=torch.long))
            swaps = exchanges(blocks, self.cuts, self.config.exchange, rows, order)
            vectors = self._network.walk(inputs, change=fitting, swaps=swaps, chunk=self._chunk())
        counts = {k: a.wanted.astype(np.float64) for k, a in kept.amounts.items()}
        found = Margins.fit(blocks, vectors, blocks.read(vectors, rng), counts)
        # A number that has no map in training, since too few are drawn, keeps none.
        knots = {k: found.knots.get(k, v) if k in after else v for k, v in kept.knots.items()}
        amounts = {k: found.amounts[k] if k in after else v for k, v in kept.amounts.items()}
        return fitting.total, Margins(knots, amounts)

    # ---- drawing

    def draws_given(self, columns: Collection[str]) -> bool:
        """See `Generator.draws_given`: columns with all their causes."""
        return bool(columns) and set(columns) <= {*self.graph.columns} and self.graph.ancestors(columns) == set(columns)

    def _draw(self, encoder: TableEncoder, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        names = {*fixed.codes, *fixed.values}
        inside = {k for k in names if self.graph.ancestors([k]) <= names}
        native = Fixed(
            {k: v for k, v in fixed.codes.items() if k in inside},
            {k: v for k, v in fixed.values.items() if k in inside},
        )
        if inside == names:
            return self._drawn(n, rng, native)
        return draw_matching(lambda size: self._drawn(size, rng, native.take(np.arange(size) % n)), encoder, n, fixed)

    def _drawn(self, n: int, rng: np.random.Generator, fixed: Fixed) -> Encoded:
        """`n` rows in which these columns are fixed and the others follow from them."""
        noise, order, other = (torch.Generator().manual_seed(int(s)) for s in rng.integers(2**62, size=3))
        drawn = max(n, FEWEST_DRAWN)
        most = max(FEWEST_DRAWN, min(MOST_AT_ONCE, CELLS_AT_ONCE // max(1, self._blocks.width)))
        change, margins = self._fair_margins
        parts = []
        # One thread, so that the bytes do not depend on how many cores there are.
        with repeatable(0), torch.inference_mode():
            for part in np.array_split(np.arange(drawn), -(-drawn // most)):
                held = Held.of(self._blocks, fixed.take(part % n), len(part)) if fixed else None
                vectors = self._vectors(len(part), change, noise, order, other, held)
                wanted = min(len(part), n)
                rows = self._blocks.read(vectors[:wanted], rng, margins.amounts)
                margins.apply(self._blocks, rows)
                if held is not None:
                    held.into(rows)
                parts.append(rows)
        return Encoded.concatenate(parts)

    def _vectors(
        self,
        n: int,
        change: Tensor,
        noise: torch.Generator,
        order: torch.Generator,
        other: torch.Generator,
        held: Held | None,
    ) -> Tensor:
        """(n, width) vectors under the cuts, with what is held as it is."""
        place, network, exchange = torch.device("cpu"), self._network, self.config.exchange
        inputs = network.noise(n, noise, place)
        add = (lambda step, _: change[step.outputs]) if self.cuts else None
        swaps = exchanges(self._blocks, self.cuts, exchange, n, order)
        if held is None:
            return network.walk(inputs, change=add, swaps=swaps, chunk=self._chunk())
        if swaps:
            # Whoever is fixed would be shown its own kind: cut causes come from rows in which nothing is.
            free = network.walk(network.noise(n, other, place), change=add, swaps=swaps, chunk=self._chunk())
            swaps = exchanges(self._blocks, self.cuts, exchange, n, order, free)
        return network.walk(inputs, change=add, swaps=swaps, clamp=held.clamp(self._blocks), chunk=self._chunk())

    # ---- what is saved

    def _state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays, extra = super()._state()
        return arrays, {**extra, "graph": self.graph.to_json(), "label": self.label, "protected": self.protected}

    def _restore(self, encoder: TableEncoder, tensors: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> None:
        # JSON keeps no order of keys, and the order of the columns decides the layout.
        self.graph = CausalGraph.of(extra["graph"], columns_of(encoder))
        self.label, self.protected = extra["label"], list(extra["protected"])
        super()._restore(encoder, tensors, extra)
