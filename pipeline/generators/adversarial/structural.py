"""A generator network that draws columns along a causal graph, level by level (van Breugel et al. 2021, "DECAF", section 4.1).

A column is drawn from its direct causes, as they were drawn, and from noise of its own: a first layer of its own, hidden layers
that all columns share, and a head of its own. All columns of a level are computed at once, in groups of like width. Nothing
but drawn causes is ever an input: the vector that is filled begins as zeros. All noise is an input, so that the same noise
gives the same columns wherever an edge is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.generators.adversarial.networks import GeneratorNet
from pipeline.generators.adversarial.softmaxes import SoftmaxColumns, gumbel
from pipeline.generators.adversarial.vector import logistic, presence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.causal.graph import CausalGraph
    from pipeline.generators.adversarial.vector import RowBlocks

    Change = Callable[["Step", Tensor], Tensor]
    Swap = Callable[[Tensor], Tensor]

WIDTHS = (16, 64, 256, 1_000_000)
"""Columns are padded to the widest of their group: a block of codes does not pad twenty flags."""


@dataclass(frozen=True)
class Slots:
    """Where a column is.

    Attributes:
        place: Coordinate of its place, in vectors and outputs alike; None if it has none.
        states: Coordinates of its one-hot, in vectors and outputs alike.
        codes: Coordinates of its common codes in vectors.
        present: Of their presence in outputs.
        amounts: Of their counts in outputs; empty where codes are not counted.
    """

    place: int | None
    states: range
    codes: range
    present: range
    amounts: range

    @property
    def vector(self) -> list[int]:
        """All coordinates in a vector."""
        return [*([] if self.place is None else [self.place]), *self.states, *self.codes]

    @property
    def outputs(self) -> list[int]:
        """All coordinates in outputs: place, states, presence, counts."""
        return [*([] if self.place is None else [self.place]), *self.states, *self.present, *self.amounts]


def slots_of(blocks: RowBlocks) -> dict[str, Slots]:
    """Every column and code block that says anything, in the order of the table, to where it is."""
    out: dict[str, Slots] = {}
    none = range(0)
    for column in blocks.encoder.schema.modelled():
        name = column.name
        place = blocks.placed.index(name) if name in blocks.placed else None
        states = none
        if name in blocks.columns:
            start = blocks.start(name)
            states = range(start, start + blocks.softmaxes.sizes[blocks.columns.index(name)])
        if place is not None or states:
            out[name] = Slots(place, states, none, none, none)
    at = head = sum(blocks.widths[:2])
    for (name, common), counted in zip(blocks.common.items(), blocks.counted, strict=True):
        wide = len(common)
        amounts = range(head + wide, head + wide * (1 + counted))
        if wide:
            out[name] = Slots(None, none, range(at, at + wide), range(head, head + wide), amounts)
        at, head = at + wide, head + wide * (1 + counted)
    return out


class Step(nn.Module):
    """Some columns of one level, computed at once.

    Args:
        names: the columns.
        slots: where every column is.
        parents: the direct causes of each that have any coordinate.
        noise: the noise inputs of each.
        hidden: width of the first layer.
        sizes: (width of a vector, noise inputs in all, width of outputs, coordinate of the first state, of the first code).

    Attributes:
        names: The columns.
        softmaxes: Their one-hots.
        outputs: Coordinates of their outputs.
        vector: Coordinates of their values.
    """

    def __init__(
        self,
        names: Sequence[str],
        slots: Mapping[str, Slots],
        parents: Mapping[str, Sequence[str]],
        noise: Mapping[str, range],
        hidden: int,
        sizes: tuple[int, int, int, int, int],
    ) -> None:
        super().__init__()
        self.names = list(names)
        width, inputs, head, first, code = sizes
        seen = [[i for p in parents[n] for i in slots[p].vector] for n in names]
        own = [list(noise[n]) for n in names]
        made = [slots[n].outputs for n in names]
        self.seen: Tensor = self._fixed("seen", _padded(seen, width))
        self.own: Tensor = self._fixed("own", _padded(own, inputs))
        heads = _padded(made, head)
        self.heads: Tensor = self._fixed("heads", heads)
        self.kept: Tensor = self._fixed("kept", torch.nonzero(heads.flatten() < head)[:, 0])
        self.outputs: Tensor = self._fixed("outputs", heads.flatten()[self.kept])
        weight = torch.empty(len(names), self.seen.shape[1] + self.own.shape[1], hidden)
        bias = torch.empty(len(names), 1, hidden)
        for i in range(len(names)):
            # As a linear layer of so many inputs begins: padding is no input.
            bound = 1 / max(1, len(seen[i]) + len(own[i])) ** 0.5
            nn.init.uniform_(weight[i], -bound, bound)
            nn.init.uniform_(bias[i], -bound, bound)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        # Where in the step's outputs each part is, and where its values are in a vector.
        local: dict[str, list[int]] = {"places": [], "states": [], "present": [], "amounts": []}
        vector: dict[str, list[int]] = {"places": [], "states": [], "codes": []}
        at = 0
        for slot in (slots[n] for n in names):
            place = [] if slot.place is None else [slot.place]
            for part, wide in (("places", place), ("states", slot.states), ("present", slot.present)):
                local[part] += range(at, at + len(wide))
                at += len(wide)
            local["amounts"] += range(at, at + len(slot.amounts)) if slot.amounts else [-1] * len(slot.codes)
            at += len(slot.amounts)
            for part, members in (("places", place), ("states", slot.states), ("codes", slot.codes)):
                vector[part] += members
        index = {k: torch.tensor(v, dtype=torch.long) for k, v in {**local, "codes": vector["codes"]}.items()}
        self.places: Tensor = self._fixed("places", index["places"])
        self.states: Tensor = self._fixed("states", index["states"])
        self.present: Tensor = self._fixed("present", index["present"])
        self.amounts: Tensor = self._fixed("amounts", index["amounts"].clamp_min(0))
        self.counted: Tensor = self._fixed("counted", index["amounts"] >= 0)
        whole = [*vector["places"], *vector["states"], *vector["codes"]]
        self.vector: Tensor = self._fixed("vector", torch.tensor(whole, dtype=torch.long))
        self.state_noise: Tensor = self._fixed("state_noise", torch.tensor(vector["states"], dtype=torch.long) - first)
        self.code_noise: Tensor = self._fixed("code_noise", index["codes"] - code)
        self.softmaxes = SoftmaxColumns([len(slots[n].states) for n in names if slots[n].states])

    def _fixed(self, name: str, value: Tensor) -> Tensor:
        self.register_buffer(name, value, persistent=False)
        return value

    def first(self, vector: Tensor, noise: Tensor, swapped: Mapping[str, Tensor]) -> Tensor:
        """(columns, batch, hidden) first layers.

        Args:
            vector: (batch, width) what is drawn so far.
            noise: (batch, noise inputs).
            swapped: column to what it is shown instead, (batch, width).
        """
        count = len(self.names)
        seen = functional.pad(vector, (0, 1)).index_select(1, self.seen.flatten()).view(len(vector), count, -1)
        for name, shown in swapped.items():
            i = self.names.index(name)
            at = functional.pad(shown, (0, 1)).index_select(1, self.seen[i])
            seen = torch.cat([seen[:, :i], at[:, None], seen[:, i + 1 :]], dim=1)
        own = functional.pad(noise, (0, 1)).index_select(1, self.own.flatten()).view(len(noise), count, -1)
        inputs = torch.cat([seen, own], dim=2).transpose(0, 1)
        return functional.relu(torch.baddbmm(self.bias, inputs, self.weight))

    def last(self, hidden: Tensor, head: nn.Linear) -> Tensor:
        """(batch, outputs) of (columns, batch, hidden) last layers."""
        at = self.heads.flatten()
        weight = functional.pad(head.weight, (0, 0, 0, 1)).index_select(0, at).view(*self.heads.shape, -1)
        bias = functional.pad(head.bias, (0, 1)).index_select(0, at).view(len(self.names), 1, -1)
        out = torch.baddbmm(bias, hidden, weight.transpose(1, 2)).transpose(0, 1)
        return out.reshape(out.shape[0], -1).index_select(1, self.kept)

    def values(self, outputs: Tensor, states: Tensor, codes: Tensor, tau: float) -> Tensor:
        """(batch, coordinates) values for (batch, outputs), whole states and codes with the gradient of soft ones.

        Args:
            outputs: of the step.
            states: (batch, states) Gumbel noise of the whole table.
            codes: (batch, codes) logistic noise of the whole table.
            tau: temperature.
        """
        parts = [torch.tanh(outputs[:, self.places])]
        noisy = outputs[:, self.states] + states[:, self.state_noise]
        parts.append(self.softmaxes(noisy, None, tau=tau, hard=True))
        shown = presence(outputs[:, self.present] + codes[:, self.code_noise], tau, hard=True)
        amount = 1 + functional.softplus(outputs[:, self.amounts])
        parts.append(torch.where(self.counted, shown * amount, shown) if len(self.present) else shown)
        return torch.cat(parts, dim=1)


class StructuralNet(GeneratorNet):
    """Noise to rows along a graph.

    Args:
        blocks: the layout of vectors.
        graph: over all columns; those without a coordinate say nothing and are passed over.
        hidden: widths of the first layers of all columns, then of the layers that they share.
        noise: noise inputs of a column, at most; it has as many as coordinates.
        tau: temperature of states and codes.

    Attributes:
        steps: What is computed at once, in order.
        inputs: Width of the inputs: noise of the columns, of the states, of the codes.
    """

    def __init__(self, blocks: RowBlocks, graph: CausalGraph, hidden: Sequence[int], noise: int, tau: float) -> None:
        super().__init__(hidden[0], hidden[1:], blocks.head_width, build="plain", norm="none")
        slots = slots_of(blocks)
        parents = {n: [p for p in graph.parents[n] if p in slots] for n in slots}
        own: dict[str, range] = {}
        at = 0
        for name, slot in slots.items():
            own[name] = range(at, at + min(noise, max(1, len(slot.vector))))
            at = own[name].stop
        first, code = len(blocks.placed), sum(blocks.widths[:2])
        sizes = (blocks.width, at, blocks.head_width, first, code)
        self.steps = nn.ModuleList()
        for level in graph.levels():
            groups: dict[tuple[int, int], list[str]] = {}
            for name in (n for n in level if n in slots):
                wide = (len(slots[name].outputs), sum(len(slots[p].vector) for p in parents[name]))
                key = (_group(wide[0]), _group(wide[1]))
                groups.setdefault(key, []).append(name)
            self.steps.extend(Step(groups[k], slots, parents, own, hidden[0], sizes) for k in sorted(groups))
        self.width, self.tau = blocks.width, tau
        self.parts = [at, blocks.softmaxes.width, blocks.width - code]
        self.inputs = sum(self.parts)

    def noise(self, n: int, generator: torch.Generator, device: torch.device) -> Tensor:
        """(n, inputs) normal noise of the columns, Gumbel noise of the states, logistic noise of the codes."""
        z = torch.randn(n, self.parts[0], generator=generator, device=device)
        states = gumbel(z.new_empty(n, self.parts[1]), generator)
        return torch.cat([z, states, logistic((n, self.parts[2]), generator, device)], dim=1)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, width) vectors of whole rows for (batch, inputs) noise."""
        return self.walk(inputs)

    def walk(
        self,
        inputs: Tensor,
        *,
        change: Change | None = None,
        swaps: Mapping[str, Swap] | None = None,
        clamp: tuple[Tensor, Tensor] | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """(batch, width) vectors.

        Args:
            inputs: (batch, inputs) noise.
            change: what is added to the outputs of a step, as seen on all rows.
            swaps: column to what makes of the rows so far those that it is shown instead: where an edge is cut.
            clamp: (width,) which coordinates are fixed, and (batch, width) at what.
            chunk: rows that are computed at once; all by default.
        """
        noise, states, codes = inputs.split(self.parts, dim=1)
        vector = inputs.new_zeros(len(inputs), self.width)
        size = chunk or max(1, len(inputs))
        for step in self.steps:
            assert isinstance(step, Step)
            shown = {n: swaps[n](vector) for n in step.names if n in swaps} if swaps else {}
            found = [
                self._outputs(step, vector[at], noise[at], {k: v[at] for k, v in shown.items()})
                for at in (slice(i, i + size) for i in range(0, len(inputs), size))
            ]
            outputs = found[0] if len(found) == 1 else torch.cat(found)
            if change is not None:
                outputs = outputs + change(step, outputs)
            values = step.values(outputs, states, codes, self.tau)
            if clamp is not None:
                values = torch.where(clamp[0][step.vector], clamp[1][:, step.vector], values)
            vector = vector.index_copy(1, step.vector, values)
        return vector

    def _outputs(self, step: Step, vector: Tensor, noise: Tensor, swapped: Mapping[str, Tensor]) -> Tensor:
        assert isinstance(self.head, nn.Linear)
        x = step.first(vector, noise, swapped)
        for layer in self.layers:
            x = functional.relu(layer(x))
        return step.last(x, self.head)


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """(rows, longest) with `filler` where a row is shorter."""
    longest = max((len(r) for r in rows), default=0)
    return torch.tensor([[*r, *[filler] * (longest - len(r))] for r in rows], dtype=torch.long).view(len(rows), longest)


def _group(width: int) -> int:
    return next(i for i, limit in enumerate(WIDTHS) if width <= limit)
