"""The policy: a network from noise (and conditions) to the distribution of a whole row, and its draws.

Three ways in which columns can depend on each other (spec 7.3): through the noise alone, as published; in two stages,
levels and codes first and numbers given them ("ar2"); or each column on all before it through one linear map ("linked",
`encoding/links.py`). All are one step: log pi is the sum over columns. Which rows are good is the critic's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from pipeline.encoding.links import MOST_LINKS, ColumnLinks
from pipeline.generators.reinforcement.heads import Heads
from pipeline.generators.reinforcement.space import Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.generators.reinforcement.space import ActionSpace

Dependence = Literal["noise", "ar2", "linked"]
FREE = -1
FEWEST_ROWS = 64
MOST_OUTPUTS = 8_000_000
"""Outputs that are held at once while rows are drawn: some hundred megabytes with all that comes of them."""


@dataclass(frozen=True)
class PolicyShape:
    """Sizes of a policy.

    Attributes:
        noise: Number of noise inputs.
        hidden: Widths of the hidden layers.
        dependence: How columns depend on each other.
        scales: Scales of Gaussians: one a "column", or outputs ("state").
        conditions: Width of the condition vector.
        first: Columns that come first in the order of links.
    """

    noise: int
    hidden: tuple[int, ...]
    dependence: Dependence
    scales: str = "column"
    conditions: int = 0
    first: tuple[str, ...] = ()


@dataclass
class Told:
    """What a policy is told of the rows to be drawn.

    Attributes:
        vector: (n, conditions) the condition vector.
        states: (n, columns) states that are not the policy's to choose, -1 where they are.
        inside: (n, numbers) places inside a piece that are given, NaN where they are drawn.
    """

    vector: Tensor
    states: Tensor
    inside: Tensor

    def take(self, rows: Tensor) -> Told:
        """The given rows."""
        return Told(self.vector[rows], self.states[rows], self.inside[rows])


class Policy(nn.Module):
    """A stochastic policy over rows, with a value head for the reward that noise leads to.

    Args:
        space: the layout of actions.
        shape: sizes.
    """

    def __init__(self, space: ActionSpace, shape: PolicyShape) -> None:
        super().__init__()
        self.space, self.shape = space, shape
        self.heads = Heads(space, shape.scales)
        widths = [shape.noise + shape.conditions, *shape.hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(shape.hidden[-1], self.heads.width)
        self.value = nn.Linear(shape.hidden[-1], 1)
        self.links = self._links() if shape.dependence == "linked" else None
        self.second = self._second() if shape.dependence == "ar2" else None
        self.state_edges: Tensor | None
        self.state_means: Tensor
        self.state_factors: Tensor
        self.register_buffer("state_edges", None)

    def _links(self) -> ColumnLinks | None:
        space, cats = self.space, self.heads.categoricals
        few = space.columns < 2 and not space.bits + space.codes
        # Numbers that are not cut to pieces have no place in the order.
        loose = bool(space.numeric) and not space.edges
        if few or loose or space.context * self.heads.width > MOST_LINKS:
            return None
        outputs = [slice(a, a + k) for a, k in zip(cats.starts, cats.sizes, strict=True)][: space.columns]
        schema = [c.name for c in space.encoder.schema.modelled()]
        # A number's many pieces can follow a level exactly, a level only a number's few shown ones: levels come first.
        order = sorted(
            range(space.columns),
            key=lambda i: (
                space.names[i] not in self.shape.first,
                space.names[i] in space.edges,
                schema.index(space.names[i]),
            ),
        )
        return ColumnLinks(space.inputs, outputs, order, space.context, self.heads.width)

    def _second(self) -> nn.Sequential | None:
        space = self.space
        self.number_outputs = (
            slice(0, sum(space.sizes[: len(space.edges)]))
            if space.edges
            else slice(self.heads.widths[0] + self.heads.widths[1], self.heads.width)
        )
        shown = torch.ones(space.width)
        shown[: len(space.numeric)] = 0
        for k in range(len(space.edges)):
            shown[space.inputs[k]] = 0
        self.stage_one: Tensor
        self.register_buffer("stage_one", shown, persistent=False)
        wide = self.number_outputs.stop - self.number_outputs.start
        if not wide or not bool(shown.any()):
            return None
        h = self.shape.hidden[-1]
        last = nn.Linear(h, wide)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(h + space.width, h), nn.ReLU(), last)

    def hidden(self, noise: Tensor, told: Told | None) -> Tensor:
        """(n, hidden) features of the state."""
        return self.body(noise if told is None else torch.cat([noise, told.vector], dim=1))

    def outputs(self, hidden: Tensor, view: Tensor) -> Tensor:
        """(n, width) outputs for the heads, given the row that is or was drawn: no column looks at later ones."""
        outputs = self.head(hidden)
        if self.links is not None:
            return outputs + self.links(view[:, : self.space.context])
        if self.second is not None:
            return self._with_second(outputs, hidden, view)
        return outputs

    def _with_second(self, outputs: Tensor, hidden: Tensor, view: Tensor) -> Tensor:
        assert self.second is not None
        more = self.second(torch.cat([hidden, view * self.stage_one], dim=1))
        at = self.number_outputs
        return torch.cat([outputs[:, : at.start], outputs[:, at] + more, outputs[:, at.stop :]], dim=1)

    def act(self, noise: Tensor, told: Told | None, generator: torch.Generator) -> Action:
        """A row for each noise; no gradients. Very wide rows are drawn some at a time, for the sake of memory."""
        step = max(FEWEST_ROWS, MOST_OUTPUTS // max(1, self.heads.width))
        if len(noise) > step:
            parts = torch.arange(len(noise), device=noise.device).split(step)
            return Action.concatenate(
                [self.act(noise[at], None if told is None else told.take(at), generator) for at in parts]
            )
        with torch.no_grad():
            hidden = self.hidden(noise, told)
            outputs = self.head(hidden)
            space = self.space
            inside = torch.rand(len(noise), len(space.numeric), generator=generator, device=noise.device)
            if told is not None:
                inside = torch.where(told.inside.isnan(), inside, told.inside)
            if self.links is not None:
                return self._act_linked(self.links, outputs, inside, told, generator)
            drawn = self._drawn(outputs, inside, told, generator)
            if self.second is None:
                return drawn
            outputs = self._with_second(outputs, hidden, space.view(drawn))
            again = self._drawn(outputs, inside, told, generator)
            states, k = drawn.states.clone(), len(space.edges)
            states[:, :k] = again.states[:, :k]
            return Action(states, drawn.bits, again.numbers)

    def _drawn(self, outputs: Tensor, inside: Tensor, told: Told | None, generator: torch.Generator) -> Action:
        states, bits, numbers = self.heads.draw(outputs, generator)
        if told is not None:
            own = states[:, : self.space.columns]
            states[:, : self.space.columns] = torch.where(told.states == FREE, own, told.states)
        return Action(states, bits, inside if self.space.edges else numbers)

    def _act_linked(
        self, links: ColumnLinks, outputs: Tensor, inside: Tensor, told: Told | None, generator: torch.Generator
    ) -> Action:
        space, cats, n = self.space, self.heads.categoricals, len(outputs)
        context = outputs.new_zeros(n, space.context)
        chance = torch.rand(n, space.columns, generator=generator, device=outputs.device)
        chosen = torch.zeros(n, space.columns, dtype=torch.long, device=outputs.device)
        weight = links.weight * links.mask
        for i in links.order:
            first, size = cats.starts[i], cats.sizes[i]
            logits = outputs[:, first : first + size] + context @ weight[first : first + size].T
            edges = torch.softmax(logits, dim=1).cumsum(dim=1)
            state = (chance[:, i : i + 1] * edges[:, -1:] >= edges).sum(dim=1).clamp_max(size - 1)
            if told is not None:
                state = torch.where(told.states[:, i] == FREE, state, told.states[:, i])
            chosen[:, i] = state
            if i < len(space.edges):
                context[:, i] = space.scores(state.unsqueeze(1), inside[:, i : i + 1], i)[:, 0]
            context.scatter_(1, space.place[i][state].unsqueeze(1), 1.0)
        if not space.codes and not space.bits:
            return Action(chosen, outputs.new_zeros(n, 0), inside)
        states, bits, _ = self.heads.draw(outputs + context @ weight.T, generator)
        states[:, : space.columns] = chosen
        return Action(states, bits, inside)

    def chosen(self, told: Told | None, like: Tensor) -> Tensor:
        """(n, parts) 1 where a part of a row is the policy's to choose, 0 where it was told."""
        own = torch.ones_like(like)
        if told is not None:
            own[:, : self.space.columns] = (told.states == FREE).to(like.dtype)
        return own

    def start(self, rows: Action, shrink: float) -> None:
        """Begin with the margins of the given rows, and little of what noise does (spec 7.3)."""
        with torch.no_grad():
            self.head.bias.copy_(self.heads.margins(rows))
            self.head.weight.mul_(shrink)

    def noise(self, n: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        """(n, noise) states of an episode: of N(0, I), or of the mixture that `draw_states_from` took."""
        normal = torch.randn(n, self.shape.noise, generator=generator, device=device)
        if self.state_edges is None:
            return normal
        chance = torch.rand(n, 1, generator=generator, device=device)
        component = (chance * self.state_edges[-1] >= self.state_edges).sum(dim=1).clamp_max(len(self.state_edges) - 1)
        states = self.state_means[component]
        for k in range(len(self.state_edges)):
            at = component == k
            states[at] += normal[at] @ self.state_factors[k].T
        return states

    def draw_states_from(self, edges: Tensor, means: Tensor, factors: Tensor) -> None:
        """Draw states from a Gaussian mixture from now on.

        Args:
            edges: (components,) cumulated weights.
            means: (components, noise).
            factors: (components, noise, noise) lower Cholesky factors of the covariances.
        """
        like = self.head.weight
        self.state_edges = edges.to(like)
        for name, value in (("state_means", means), ("state_factors", factors)):
            self.register_buffer(name, value.to(like))


def parameters_of(modules: Sequence[nn.Module]) -> int:
    """Number of learned numbers."""
    return sum(p.numel() for module in modules for p in module.parameters())
