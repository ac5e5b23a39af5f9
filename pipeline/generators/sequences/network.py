"""The network: a causal transformer over a row's visits, and inside a visit a masked autoregressive head over codes.

After HALO (Theodorou et al. 2023). The first token of a row is what its columns say (the prompt), each visit is one more:
the sum of its codes' vectors, of its gap and of its place. From each token the network says what comes next (a gap and
another visit, or the end), how many codes that visit has, and which: each code given the history, the codes before it in
the vocabulary and how many are still to come. Where HALO masks two square layers, a code adds a vector here, so that the
work grows with the number of codes and not with its square; and since that sum only changes at a code that is there, a
visit of m codes takes m looks at the vocabulary, in training as in drawing. Attention is made of linear layers. How rows are drawn is in
`drawing.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.generators.sequences.gaps import CLASSES, END, FIRST, GAPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.generators.sequences.rows import VisitBatch, VisitRows

LOOKS = 8_000_000
"""Outputs of the head that are held at once; more are computed in parts, and again for the gradient."""
IMPOSSIBLE = -1e9
SHARE_CLIP = 1e-5
SMALLEST = 1e-20


@dataclass(frozen=True)
class Shape:
    """Sizes of the network.

    Attributes:
        layers: layers of the transformer.
        width: length of a token's vector.
        heads: of attention; they divide the width.
        hidden: units of the head over codes.
        dropout: share of the units dropped while training.
        places: largest number of visits of a row.
    """

    layers: int
    width: int
    heads: int
    hidden: int
    dropout: float
    places: int


class Layer(nn.Module):
    """One layer: attention to the tokens before and to itself, then two linear layers, each beside what comes in."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.before_attention, self.before_units = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.joined = nn.Linear(width, width)
        self.units, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, row: Tensor, place: Tensor, rows: int, longest: int) -> Tensor:
        """(tokens, width) for (tokens, width) of several rows, put together: only attention is padded."""
        normal = self.before_attention(x)
        padded = [
            normal.new_zeros(rows, longest, x.shape[1]).index_put((row, place), part(normal)) for part in self._parts()
        ]
        query, key, value = (p.view(rows, longest, self.heads, -1).transpose(1, 2) for p in padded)
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        later = torch.ones(longest, longest, dtype=torch.bool, device=x.device).triu(1)
        seen = torch.softmax(scores.masked_fill(later, IMPOSSIBLE), dim=3) @ value
        return self._rest(x, seen.transpose(1, 2).reshape(rows, longest, -1)[row, place])

    def step(self, x: Tensor, key: Tensor | None, value: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(n, width) for one more token of n rows, and keys and values (n, heads, tokens, width / heads) with its own."""
        normal = self.before_attention(x)
        query, mine, told = (part(normal).view(len(x), self.heads, 1, -1) for part in self._parts())
        key = mine if key is None else torch.cat([key, mine], dim=2)
        value = told if value is None else torch.cat([value, told], dim=2)
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        seen = torch.softmax(scores, dim=3) @ value
        return self._rest(x, seen.reshape(len(x), -1)), key, value

    def _parts(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.query, self.key, self.value

    def _rest(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.dropout(self.joined(seen))
        return x + self.dropout(self.back(functional.gelu(self.units(self.before_units(x)))))


class VisitNetwork(nn.Module):
    """See the module's docstring.

    Args:
        shape: sizes.
        prompt: length of a row's prompt.
        codes: size of the vocabulary.
        sizes: largest number of codes of a visit.
    """

    def __init__(self, shape: Shape, prompt: int, codes: int, sizes: int) -> None:
        super().__init__()
        self.shape, self.codes = shape, codes
        width, hidden = shape.width, shape.hidden
        self.start = nn.Linear(prompt, width) if prompt else nn.Embedding(1, width)
        self.code_in = nn.Embedding(codes, width)
        self.gap_in = nn.Embedding(CLASSES, width)
        self.place_in = nn.Embedding(shape.places + 1, width)
        for table in (self.code_in, self.gap_in, self.place_in):
            nn.init.normal_(table.weight, std=0.1)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.after = nn.LayerNorm(width)
        self.next = nn.Linear(width, CLASSES)
        self.history = nn.Linear(width, hidden)
        self.gap_head = nn.Embedding(CLASSES, hidden)
        self.code_head = nn.Embedding(codes, hidden)
        self.left = nn.Embedding(sizes + 1, hidden)
        for table in (self.gap_head, self.code_head, self.left):
            nn.init.normal_(table.weight, std=0.1)
        self.middle = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, codes)
        self.size = nn.Linear(hidden, sizes)
        for last in (self.next, self.out, self.size):
            nn.init.zeros_(last.weight)
        self.dropout = nn.Dropout(shape.dropout)

    def start_at(self, classes: NDArray[np.float64], sizes: NDArray[np.float64], share: NDArray[np.float64]) -> None:
        """Start as the margins: shares of (classes,) what comes next, of (sizes,) visits by size, of visits with each code."""
        with torch.no_grad():
            self.next.bias.copy_(torch.as_tensor(np.log(np.maximum(classes, SHARE_CLIP))))
            self.size.bias.copy_(torch.as_tensor(np.log(np.maximum(sizes, SHARE_CLIP))))
            known = np.clip(share, SHARE_CLIP, 1 - SHARE_CLIP)
            self.out.bias.copy_(torch.as_tensor(np.log(known / (1 - known))))

    # ---- tokens

    def first_token(self, prompt: Tensor) -> Tensor:
        """(n, width) of (n, d) prompts."""
        if isinstance(self.start, nn.Linear):
            found = self.start(prompt)
        else:
            found = self.start.weight.expand(len(prompt), -1)
        return found + self.place_in.weight[0]

    def visit_tokens(self, added: Tensor, gap: Tensor, place: Tensor) -> Tensor:
        """(visits, width) of the sums of the codes' vectors, the gaps, and the places from 0."""
        return added + self.gap_in(gap) + self.place_in(place + 1)

    def next_chances(self, token: Tensor, first: Tensor) -> Tensor:
        """(n, classes) log chances of what comes next after (n, width) outputs; `first`: is it a row's prompt?"""
        logits = self.next(token)
        possible = torch.zeros_like(logits, dtype=torch.bool)
        possible[:, END] = True
        possible[:, FIRST] = first
        possible[:, :GAPS] = ~first.unsqueeze(1)
        return torch.log_softmax(logits.masked_fill(~possible, IMPOSSIBLE), dim=1)

    def told(self, token: Tensor, gap: Tensor) -> Tensor:
        """(visits, hidden) what the history and the gap tell the head of a visit's codes."""
        return self.history(token) + self.gap_head(gap)

    def size_chances(self, told: Tensor) -> Tensor:
        """(visits, sizes) log chances of 1, 2, .. codes, of what is told of the history and the gap."""
        return torch.log_softmax(self.size(functional.relu(told)), dim=1)

    def logits(self, told: Tensor) -> Tensor:
        """(n, codes) of what is told, the vectors of the codes before included."""
        return self.out(functional.relu(self.middle(functional.relu(told))))

    # ---- what is lost

    def loss(self, data: VisitRows, batch: VisitBatch) -> Tensor:
        """(rows,) negative log-likelihood of the rows' visits."""
        rows, device = len(batch.counts), batch.counts.device
        place = torch.cat([torch.zeros(rows, dtype=torch.long, device=device), batch.place + 1])
        row = torch.cat([torch.arange(rows, device=device), batch.row])
        position = torch.arange(int(batch.size.sum()), device=device)
        visit = torch.repeat_interleave(torch.arange(len(batch.size), device=device), batch.size)
        code = data.code[batch.start[visit] + position - (batch.size.cumsum(0) - batch.size)[visit]]
        added = self.code_in.weight.new_zeros(len(batch.size), self.shape.width)
        added = added.index_add(0, visit, self.code_in(code))
        token = torch.cat([self.first_token(batch.prompt), self.visit_tokens(added, batch.gap, batch.place)])
        token = self.dropout(token)
        longest = int(batch.counts.max()) + 1
        for layer in self.layers:
            token = layer(token, row, place, rows, longest)
        token = self.dropout(self.after(token))
        # The token before each visit: the one whose place is one less.
        where = torch.zeros(rows, longest, dtype=torch.long, device=device)
        where[row, place] = torch.arange(len(row), device=device)
        before = where[batch.row, batch.place]
        target = torch.full((len(row),), END, dtype=torch.long, device=device)
        target[before] = batch.gap
        known = torch.ones(len(row), device=device)
        known[where[torch.arange(rows, device=device), batch.counts]] = (~batch.cut).to(known.dtype)
        chance = self.next_chances(token, place == 0).gather(1, target.unsqueeze(1)).squeeze(1)
        total = token.new_zeros(rows).index_add(0, row, -chance * known)
        told = self.told(token[before], batch.gap)
        by_size = self.size_chances(told).gather(1, batch.size.unsqueeze(1) - 1).squeeze(1)
        total = total.index_add(0, batch.row, -by_size)
        for part, lost in self._codes_lost(told, code, batch.size):
            total = total.index_add(0, batch.row[part], lost)
        return total

    def _codes_lost(self, told: Tensor, code: Tensor, size: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Visits and the negative log-likelihood of their codes, visits of like size together."""
        start = size.cumsum(0) - size
        order = torch.argsort(size, stable=True)
        sizes = size[order].tolist()
        low = 0
        while low < len(sizes):
            high = low + 1
            while high < len(sizes) and (high + 1 - low) * sizes[high] * self.codes <= LOOKS:
                high += 1
            part = order[low:high]
            column = torch.arange(max(sizes[high - 1], 1), device=code.device)
            there = column < size[part].unsqueeze(1)
            padded = torch.where(there, code[(start[part].unsqueeze(1) + column).clamp_max(len(code) - 1)], self.codes)
            if (low == 0 and high == len(sizes)) or not torch.is_grad_enabled():
                yield part, self._set_lost(told[part], padded)
            else:
                lost = checkpoint(self._set_lost, told[part], padded, use_reentrant=False)
                assert isinstance(lost, Tensor)
                yield part, lost
            low = high

    def _set_lost(self, told: Tensor, padded: Tensor) -> Tensor:
        """(visits,) negative log-likelihood of (visits, most) codes, rising, padded by the size of the vocabulary."""
        visits, most = padded.shape
        there = padded < self.codes
        vectors = self.code_head(padded.clamp_max(self.codes - 1)) * there.unsqueeze(2)
        so_far = vectors.cumsum(dim=1) - vectors
        left = there.sum(dim=1, keepdim=True) - torch.arange(most, device=padded.device)
        edge = torch.full((visits, 1), -1, dtype=padded.dtype, device=padded.device)
        low = torch.cat([edge, padded[:, :-1]], dim=1)[there].unsqueeze(1)
        high, left = padded[there].unsqueeze(1), left[there].unsqueeze(1)
        z = self.logits((told.unsqueeze(1) + so_far)[there] + self.left(left.squeeze(1)))
        column = torch.arange(self.codes, device=z.device)
        absent = torch.where(column > low, functional.softplus(z), 0.0)
        lost = torch.where(column <= high, absent, 0.0).sum(dim=1) - z.gather(1, high).squeeze(1)
        # A code must follow, and leave room for those after it: the chance that none does is taken out.
        some = torch.where(column <= self.codes - left, absent, 0.0).sum(dim=1)
        lost = lost + torch.log(-torch.expm1(-some.clamp_min(SMALLEST)))
        visit = torch.arange(visits, device=z.device).unsqueeze(1).expand(-1, most)[there]
        return lost.new_zeros(visits).index_add(0, visit, lost)
