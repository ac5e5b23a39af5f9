"""Probabilities of actions: log-likelihood, entropy and divergence in closed form, column by column, and draws.

Given a policy's outputs the columns of a row are independent categoricals, bits and Gaussians (spec 7.3); how outputs
depend on noise and on columns drawn before is in `policy.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.generators.reinforcement.space import Action, ActionSpace

CARDINALITY_GROUPS = (8, 32, 256, 1_000_000)
SMALLEST_LOG = -60.0
LOG_SIGMA = (-4.0, 1.0)
"""Admissible logarithms of a Gaussian's scale (spec 7.3)."""
SHARE_CLIP = 1e-4
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Categoricals(nn.Module):
    """Many softmaxes side by side, padded in groups of similar size; memory grows with the states alone.

    Args:
        sizes: states of each categorical.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.width = sum(self.sizes)
        self.starts = np.cumsum([0, *self.sizes])[: len(self.sizes)].tolist()
        below, count = 0, 0
        for limit in CARDINALITY_GROUPS:
            members = [i for i, k in enumerate(self.sizes) if below < k <= limit]
            below = limit
            if not members:
                continue
            widest = max(self.sizes[i] for i in members)
            place, pad = torch.zeros(len(members), widest, dtype=torch.long), torch.zeros(len(members), widest)
            for row, i in enumerate(members):
                place[row, : self.sizes[i]] = torch.arange(self.starts[i], self.starts[i] + self.sizes[i])
                pad[row, self.sizes[i] :] = -torch.inf
            largest = torch.tensor([self.sizes[i] - 1 for i in members])
            for name, table in (("at", torch.tensor(members)), ("place", place), ("pad", pad), ("largest", largest)):
                self.register_buffer(f"{name}{count}", table, persistent=False)
            count += 1
        self.count = count

    def log_probabilities(self, logits: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each group: (columns,) which, (batch, columns, states) log probabilities, (columns, states) their places."""
        out = []
        for k in range(self.count):
            place = getattr(self, f"place{k}")
            logp = functional.log_softmax(logits[:, place] + getattr(self, f"pad{k}"), dim=-1)
            out.append((getattr(self, f"at{k}"), logp.clamp_min(SMALLEST_LOG), place))
        return out

    def draw(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """(batch, columns) states."""
        out = torch.zeros(len(logits), len(self.sizes), dtype=torch.long, device=logits.device)
        for k, (at, logp, _) in enumerate(self.log_probabilities(logits)):
            edges = logp.exp().cumsum(-1)
            chance = torch.rand(*edges.shape[:2], 1, generator=generator, device=logits.device)
            drawn = (chance * edges[..., -1:] >= edges).sum(-1)
            out[:, at] = torch.minimum(drawn, getattr(self, f"largest{k}"))
        return out


class Heads(nn.Module):
    """Distributions of a row's columns given (batch, width) outputs: logits, logits of bits, means, log scales.

    Args:
        space: the layout of actions.
        scales: are a Gaussian's scales outputs ("state") or one free parameter a column ("column")?

    Attributes:
        width: outputs.
        columns: parts of a log-likelihood: categoricals, then bits, then Gaussians.
    """

    def __init__(self, space: ActionSpace, scales: str) -> None:
        super().__init__()
        self.space = space
        self.categoricals = Categoricals(space.sizes)
        self.gaussians = 0 if space.edges else len(space.numeric)
        self.free = scales == "column"
        self.widths = [self.categoricals.width, space.bits, self.gaussians, 0 if self.free else self.gaussians]
        self.width = sum(self.widths)
        self.columns = len(space.sizes) + space.bits + self.gaussians
        self.log_scale = nn.Parameter(torch.zeros(self.gaussians)) if self.free and self.gaussians else None

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits, bits, mean, scale = outputs.split(self.widths, dim=1)
        log_scale = scale if self.log_scale is None else self.log_scale.expand_as(mean)
        return logits, bits, mean, log_scale.clamp(*LOG_SIGMA)

    def of(self, outputs: Tensor) -> RowDistribution:
        """The distributions of the rows that have these outputs."""
        logits, bits, mean, log_scale = self._parts(outputs)
        known = self.categoricals.log_probabilities(logits)
        return RowDistribution(self, [(at, logp) for at, logp, _ in known], bits, mean, log_scale)

    def draw(self, outputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, categoricals) states, (batch, bits) bits, (batch, Gaussians) numbers."""
        logits, bits, mean, log_scale = self._parts(outputs)
        states = self.categoricals.draw(logits, generator)
        chance = torch.rand(bits.shape, generator=generator, device=outputs.device)
        noise = torch.randn(mean.shape, generator=generator, device=outputs.device)
        return states, (chance < torch.sigmoid(bits)).float(), mean + log_scale.exp() * noise

    def margins(self, action: Action) -> Tensor:
        """(width,) outputs that draw the margins of the given rows; free scales are set to theirs."""
        parts: list[Tensor] = []
        n = len(action)
        for i, size in enumerate(self.categoricals.sizes):
            share = torch.bincount(action.states[:, i], minlength=size).float() / n
            parts.append(share.clamp_min(SHARE_CLIP).log())
        parts.append(torch.logit(action.bits.mean(dim=0).clamp(SHARE_CLIP, 1 - SHARE_CLIP)))
        if self.gaussians:
            seen = self.space.seen(action)
            count = seen.sum(dim=0).clamp_min(1)
            mean = (action.numbers * seen).sum(dim=0) / count
            spread = (((action.numbers - mean) * seen) ** 2).sum(dim=0) / count
            scale = (0.5 * spread.clamp_min(1e-12).log()).clamp(*LOG_SIGMA)
            parts.append(mean)
            if self.log_scale is None:
                parts.append(scale)
            else:
                with torch.no_grad():
                    self.log_scale.copy_(scale)
        return torch.cat(parts)

    def correction(self, known: Tensor, drawn: Action, floor: float) -> Tensor:
        """(width,) what to add to the outputs so that categoricals and bits are drawn as often as `known` says.

        One step of iterative proportional fitting on the logits. What the draw's own noise could have done is left
        alone (positive-part James-Stein), or rare states would be shifted by chance.

        Args:
            known: (categoricals' states + bits,) shares.
            drawn: rows as they are drawn now.
            floor: added to all shares, so that states that are never drawn are not raised without limit.
        """
        found = self.shares(drawn)
        states = self.categoricals.width
        gap = torch.zeros_like(known)
        gap[:states] = (known[:states] + floor).log() - (found[:states] + floor).log()
        want, have = known[states:].clamp(floor, 1 - floor), found[states:].clamp(floor, 1 - floor)
        gap[states:] = torch.logit(want) - torch.logit(have)
        share = found.clamp(floor, 1 - floor)
        noise = 1 / (len(drawn) * share * (1 - share))
        noise[:states] *= (1 - share[:states]) ** 2
        out = known.new_zeros(self.width)
        out[: len(gap)] = gap * (1 - noise / gap.square().clamp_min(1e-12)).clamp_min(0)
        return out.clamp(-0.5, 0.5)

    def shares(self, action: Action) -> Tensor:
        """(categoricals' states + bits,) how often each state and bit occurs."""
        parts = [
            torch.bincount(action.states[:, i], minlength=k).float() for i, k in enumerate(self.categoricals.sizes)
        ]
        return torch.cat([*parts, action.bits.sum(dim=0)]) / len(action)

    def followed(self, view: Tensor, outputs: Tensor, action: Action) -> Tensor:
        """The given views, with gradients to the outputs: straight-through for what is discrete (Bengio et al. 2013),
        by reparameterisation for Gaussians. For the GAN ablation."""
        logits, bits, mean, log_scale = self._parts(outputs)
        space = self.space
        change = torch.zeros_like(view)
        for at, logp, _ in self.categoricals.log_probabilities(logits):
            p = logp.exp()
            moved = p - p.detach()
            for row, column in enumerate(at.tolist()):
                size = self.categoricals.sizes[column]
                if column >= space.columns:
                    value = space.count_shown[column - space.columns, :size]
                    change[:, space.context + column - space.columns] += moved[:, row, :size] @ value
                    continue
                change = change.index_add(1, space.place[column, :size], moved[:, row, :size])
                if column < len(space.edges):
                    middle = torch.arange(size, device=view.device).unsqueeze(1)
                    score = space.scores(middle, torch.full_like(middle, 0.5, dtype=torch.float32), column)
                    change[:, column] = change[:, column] + moved[:, row, :size] @ score[:, 0]
        chance = torch.sigmoid(bits)
        if space.bits:
            first = space.width - space.bits
            change[:, first:] = change[:, first:] + chance - chance.detach()
        if self.gaussians:
            noise = ((action.numbers - mean) / log_scale.exp()).detach()
            drawn = mean + log_scale.exp() * noise
            shown = drawn if space.numbers == "scores" else (torch.tanh(drawn) + 1) / 2
            change[:, : self.gaussians] = (shown - shown.detach()) * space.seen(action)
        return view + change


@dataclass
class RowDistribution:
    """Distributions of the columns of some rows, looked up once for all that is asked of them.

    Attributes:
        heads: What they belong to.
        groups: For each group of categoricals: which, and (batch, columns, states) log probabilities.
        bits: (batch, bits) logits.
        mean: (batch, Gaussians) means.
        log_scale: (batch, Gaussians) logarithms of scales.
    """

    heads: Heads
    groups: list[tuple[Tensor, Tensor]]
    bits: Tensor
    mean: Tensor
    log_scale: Tensor

    def _columns(self, each: list[Tensor]) -> Tensor:
        """(batch, categoricals) from (batch, columns) of each group."""
        out = self.bits.new_zeros(len(self.bits), len(self.heads.categoricals.sizes))
        for (at, _), part in zip(self.groups, each, strict=True):
            out[:, at] = part
        return out

    def log_prob(self, action: Action) -> Tensor:
        """(batch, columns) log-likelihood of rows; that of a missing number is 0."""
        chosen = [logp.gather(2, action.states[:, at].unsqueeze(2)).squeeze(2) for at, logp in self.groups]
        parts = [self._columns(chosen)]
        if self.bits.shape[1]:
            parts.append(-functional.binary_cross_entropy_with_logits(self.bits, action.bits, reduction="none"))
        if self.mean.shape[1]:
            gap = (action.numbers - self.mean) / self.log_scale.exp()
            parts.append((-0.5 * gap**2 - self.log_scale - HALF_LOG_2PI) * self.heads.space.seen(action))
        return torch.cat(parts, dim=1)

    def entropy(self) -> Tensor:
        """(batch, columns) entropies in closed form, nats."""
        states = self._columns([-(logp.exp() * logp).sum(-1) for _, logp in self.groups])
        chance = torch.sigmoid(self.bits)
        flags = -chance * functional.logsigmoid(self.bits) - (1 - chance) * functional.logsigmoid(-self.bits)
        return torch.cat([states, flags, self.log_scale + HALF_LOG_2PI + 0.5], dim=1)

    def divergence_from(self, old: RowDistribution) -> Tensor:
        """(batch, columns) Kullback-Leibler divergence of these from the old ones, KL(old || these), nats."""
        pairs = zip(old.groups, self.groups, strict=True)
        states = self._columns([(p.exp() * (p - q)).sum(-1) for (_, p), (_, q) in pairs])
        chance = torch.sigmoid(old.bits)
        flags = chance * (functional.logsigmoid(old.bits) - functional.logsigmoid(self.bits))
        flags = flags + (1 - chance) * (functional.logsigmoid(-old.bits) - functional.logsigmoid(-self.bits))
        ratio = (2 * (old.log_scale - self.log_scale)).exp()
        moved = ((old.mean - self.mean) / self.log_scale.exp()) ** 2
        return torch.cat([states, flags, self.log_scale - old.log_scale + 0.5 * (ratio + moved) - 0.5], dim=1)
