"""The autoregressive network: what is known of a row is a sum over its known columns, from which every column is predicted.

Each column adds a vector (of its first digit, plus a linear function of where its number lies); the sum over the columns
that come before it in an order is all that a column's own two layers see, so any set of columns can be known and any order
drawn. Groups of codes come after all columns, in a fixed order. What digits and groups are is in `units.py`; how rows are
drawn in `drawing.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.encoding.free_parameter import FreeParameter
from pipeline.generators.argn.grouped import GroupedLinear
from pipeline.generators.argn.units import GROUP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.generators.argn.units import CodeGroup, UnitColumn, UnitRows

SIZE_CLASSES = (4, 16, 64, 256, 1024)
"""Columns with up to so many first digits have their outputs side by side: padding to the largest would waste most work."""
ABSENT = -1e9
SHARE_CLIP = 1e-4


@dataclass(frozen=True)
class Shape:
    """Sizes of the network.

    Attributes:
        width: length of the vectors that columns add.
        hidden: units between the sum and the digits of a column.
        dropout: share of these dropped while training.
    """

    width: int = 256
    hidden: int = 64
    dropout: float = 0.1


class Network(nn.Module):
    """See the module's docstring.

    Args:
        columns: columns in the order of `UnitRows.parts`.
        groups: groups of codes in the order in which they are drawn.
        counts: (groups, 16, most) log share of each count of a code that is present (1, 2, ..); only of counted blocks.
        shape: sizes.

    Attributes:
        columns: the columns.
        groups: the groups of codes.
    """

    first: Tensor
    features: Tensor
    log_inside: Tensor
    second: Tensor
    start: Tensor
    log_width: Tensor
    log_counts: Tensor
    present_codes: Tensor

    def __init__(
        self, columns: Sequence[UnitColumn], groups: Sequence[CodeGroup], counts: NDArray[np.float64], shape: Shape
    ) -> None:
        super().__init__()
        self.columns, self.groups, self.shape = list(columns), list(groups), shape
        d, width, hidden = len(columns), shape.width, shape.hidden
        most = max([len(c.first) for c in columns], default=1)
        sizes = [c.size for c in columns]
        self.finer = [i for i, c in enumerate(columns) if c.seconds > 1]
        tables: dict[str, Tensor] = {
            "first": torch.zeros(d, most, dtype=torch.long),
            "second": torch.zeros(d, most, dtype=torch.long),
            "features": torch.zeros(d, most, 2),
            "log_width": torch.zeros(d, most),
            "start": torch.tensor([0, *sizes[:-1]] if sizes else [], dtype=torch.long).cumsum(0),
        }
        for i, c in enumerate(columns):
            k = len(c.first)
            tables["first"][i, :k] = torch.as_tensor(c.first)
            tables["second"][i, :k] = torch.as_tensor(c.second)
            tables["features"][i, :k] = torch.as_tensor(c.features)
            tables["log_width"][i, :k] = torch.as_tensor(np.log(c.width))
        seconds = max([columns[i].seconds for i in self.finer], default=1)
        inside = torch.full((max(1, sum(columns[i].size for i in self.finer)), seconds), ABSENT)
        at = 0
        for i in self.finer:
            chances = np.maximum(columns[i].log_inside(), ABSENT)
            inside[at : at + columns[i].size, : columns[i].seconds] = torch.as_tensor(chances, dtype=torch.float32)
            at += columns[i].size
        tables["log_inside"] = inside
        tables["log_counts"] = torch.as_tensor(counts, dtype=torch.float32)
        used = [[k < len(g.places) for k in range(GROUP)] for g in groups]
        tables["present_codes"] = torch.tensor(used, dtype=torch.float32).reshape(len(groups), GROUP)
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        finer_sizes = [columns[i].size for i in self.finer]
        self.inside_start = [0, *np.cumsum(finer_sizes)[:-1].tolist()] if finer_sizes else []
        self._layers(d, width, hidden, sizes, seconds)

    def _layers(self, d: int, width: int, hidden: int, sizes: list[int], seconds: int) -> None:
        """All layers with weights, drawn in a fixed order."""
        self.base = FreeParameter(0.1 * torch.randn(width))
        self.embedding = nn.Embedding(max(1, sum(sizes)), width)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.place = GroupedLinear(d, 2, width, bias=False)
        self.middle = GroupedLinear(d, width, hidden)
        self.classes = [[i for i, k in enumerate(sizes) if low < k <= high] for low, high in _ranges(sizes)]
        self.out = nn.ModuleList(
            [GroupedLinear(len(part), hidden, max(sizes[i] for i in part), zero=True) for part in self.classes]
        )
        self.finer_middle = GroupedLinear(len(self.finer), width, hidden)
        self.finer_out = GroupedLinear(len(self.finer), hidden, seconds, zero=True)
        self.dropout = nn.Dropout(self.shape.dropout)
        g = len(self.groups)
        counted = [i for i, group in enumerate(self.groups) if not group.binary]
        self.counted = counted
        self.code_in = GroupedLinear(g, GROUP, width, bias=False)
        self.code_middle = GroupedLinear(g, width, hidden)
        self.code_out = GroupedLinear(g, hidden, GROUP, zero=True)
        earlier = torch.ones(GROUP, GROUP).triu(1)
        self.code_links = GroupedLinear(g, GROUP, GROUP, zero=True, mask=earlier, bias=False)
        self.code_tilt = GroupedLinear(len(counted), hidden, GROUP, zero=True)

    def start_at(self) -> None:
        """Set the outputs' biases so that the untrained network draws the margins that the encoder knows."""
        with torch.no_grad():
            for layer, part in zip(self.out, self.classes, strict=True):
                assert isinstance(layer, GroupedLinear)
                assert layer.bias is not None
                layer.bias.fill_(ABSENT)
                for row, i in enumerate(part):
                    c = self.columns[i]
                    share = np.bincount(c.first, weights=c.frequency, minlength=c.size)
                    layer.bias[row, : c.size] = torch.as_tensor(np.log(np.maximum(share, SHARE_CLIP)))
            assert self.code_out.bias is not None
            for i, group in enumerate(self.groups):
                share = np.clip(group.prevalence, SHARE_CLIP, 1 - SHARE_CLIP)
                self.code_out.bias[i, : len(share)] = torch.as_tensor(np.log(share / (1 - share)))

    # ---- what columns add

    def added(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, columns, width) what each column adds for (batch, columns) parts, and that of its first digit alone.

        A part of -1 is unknown and adds nothing.
        """
        known = (parts >= 0).unsqueeze(-1)
        part = parts.clamp_min(0)
        column = torch.arange(len(self.columns), device=parts.device)
        digit = self.embedding(self.first[column, part] + self.start) * known
        return digit + self.place(self.features[column, part] * known), digit

    def codes_added(self, codes: Tensor) -> Tensor:
        """(batch, groups, width) what each group of (batch, groups, 16) counts adds."""
        return self.code_in(torch.log1p(codes) / math.log(2))

    # ---- what is lost

    def loss(self, rows: UnitRows, keys: Tensor, *, density: bool = False) -> Tensor:
        """(batch,) negative log-likelihood of rows, each column given those with a smaller key.

        Args:
            rows: the rows.
            keys: (batch, columns) places in the order of each row, no two the same.
            density: of numbers in the column's order (0 to 1) instead of their parts' chances.
        """
        parts = rows.parts
        added, digit = self.added(parts)
        before = (keys.unsqueeze(1) < keys.unsqueeze(2)).to(added.dtype)
        base = self.base(keys if keys.shape[1] else rows.codes.flatten(1))
        context = torch.bmm(before, added) + base.unsqueeze(1)
        total = added.new_zeros(len(parts))
        if self.columns:
            total = total + self._first_digits(context, parts) + self._second_digits(context, digit, parts)
        if density:
            column = torch.arange(len(self.columns), device=parts.device)
            total = total + (self.log_width[column, parts.clamp_min(0)] * (parts >= 0)).sum(dim=1)
        if self.groups:
            total = total + self._codes(added.sum(dim=1) + base, rows.codes.to(torch.float32))
        return total

    def _first_digits(self, context: Tensor, parts: Tensor) -> Tensor:
        hidden = self.dropout(functional.relu(self.middle(functional.relu(context))))
        column = torch.arange(len(self.columns), device=parts.device)
        target, known = self.first[column, parts.clamp_min(0)], parts >= 0
        total = context.new_zeros(len(parts))
        for layer, part in zip(self.out, self.classes, strict=True):
            logits = layer(hidden[:, part])
            chance = logits.gather(2, target[:, part].unsqueeze(2)).squeeze(2) - logits.logsumexp(dim=2)
            total = total - (chance * known[:, part]).sum(dim=1)
        return total

    def _second_digits(self, context: Tensor, digit: Tensor, parts: Tensor) -> Tensor:
        if not self.finer:
            return context.new_zeros(len(parts))
        at = torch.tensor(self.finer, device=parts.device)
        mine = parts[:, at]
        first, second = self.first[at, mine.clamp_min(0)], self.second[at, mine.clamp_min(0)]
        hidden = functional.relu(self.finer_middle(functional.relu(context[:, at] + digit[:, at])))
        logits = self.finer_out(self.dropout(hidden))
        logits = logits + self.log_inside[first + torch.tensor(self.inside_start, device=parts.device)]
        chance = logits.gather(2, second.unsqueeze(2)).squeeze(2) - logits.logsumexp(dim=2)
        return -(chance * (mine >= 0)).sum(dim=1)

    def _codes(self, columns: Tensor, codes: Tensor) -> Tensor:
        added = self.codes_added(codes)
        context = columns.unsqueeze(1) + added.cumsum(dim=1) - added
        hidden = self.dropout(functional.relu(self.code_middle(functional.relu(context))))
        present = (codes > 0).to(codes.dtype)
        logits = self.code_out(hidden) + self.code_links(present)
        each = functional.binary_cross_entropy_with_logits(logits, present, reduction="none") * self.present_codes
        total = each.sum(dim=(1, 2))
        if not self.counted:
            return total
        tilt = self.code_tilt(hidden[:, self.counted])
        chance = self.count_chances(tilt).gather(3, (codes[:, self.counted].long() - 1).clamp_min(0).unsqueeze(3))
        return total - (chance.squeeze(3) * present[:, self.counted]).sum(dim=(1, 2))

    def count_chances(self, tilt: Tensor) -> Tensor:
        """(batch, counted groups, 16, most) log chance of each count of a code that is present.

        The code's own distribution, tilted towards larger or smaller counts: log p(k) + tilt log k, normalised.
        """
        k = torch.arange(1, self.log_counts.shape[2] + 1, device=tilt.device, dtype=tilt.dtype)
        return torch.log_softmax(self.log_counts + tilt.unsqueeze(3) * k.log(), dim=3)


def _ranges(sizes: list[int]) -> list[tuple[int, int]]:
    """Lower (excluded) and upper sizes of the classes that have a column."""
    bounds = [0, *SIZE_CLASSES, max([*sizes, SIZE_CLASSES[-1] + 1])]
    return [(low, high) for low, high in pairwise(bounds) if any(low < k <= high for k in sizes)]
