"""Likelihood heads: what a neural model's outputs mean, how likely they make a row, and how a row is drawn from them.

One class a likelihood (spec 0.3), all on torch tensors with a batch dimension first; `loss` gives the negative
log-likelihood summed over the head's columns, one number a row, and `draw` a sample, never a mean. Which columns go
to which head is the model's business.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.encoding.free_parameter import FreeParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

CARDINALITY_GROUPS = (8, 32, 256, 1_000_000)
"""Columns are padded to the widest of their group (spec 0.3): a loop over columns costs more than the matmuls."""
SHARE_CLIP = 1e-4
SMALLEST_SUM = 1e-30
FEWEST_EXTRA_ZEROS = 0.01
MOST_EVEN = 50.0
"""Dispersion at which a negative binomial is a Poisson distribution for the counts of a clinical code."""


class CategoricalHead(nn.Module):
    """Columns of K states each, one softmax a column.

    Args:
        sizes: number of states of each column (at least 1).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.width = sum(self.sizes)
        self._groups: list[tuple[list[int], str, str]] = []
        start = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        self.starts = start
        self.start: Tensor
        self.member: Tensor
        self.register_buffer("start", torch.tensor(start, dtype=torch.long), persistent=False)
        member = torch.zeros(self.width, len(self.sizes))
        for i, (first, size) in enumerate(zip(start, self.sizes, strict=True)):
            member[first : first + size, i] = 1
        self.register_buffer("member", member, persistent=False)
        below = 0
        for limit in CARDINALITY_GROUPS:
            members = [i for i, k in enumerate(self.sizes) if below < k <= limit]
            below = limit
            if not members:
                continue
            widest = max(self.sizes[i] for i in members)
            place = torch.zeros(len(members), widest, dtype=torch.long)
            pad = torch.zeros(len(members), widest)
            for row, i in enumerate(members):
                place[row, : self.sizes[i]] = torch.arange(start[i], start[i] + self.sizes[i])
                pad[row, self.sizes[i] :] = -torch.inf
            names = (f"place{len(self._groups)}", f"pad{len(self._groups)}")
            self.register_buffer(names[0], place, persistent=False)
            self.register_buffer(names[1], pad, persistent=False)
            self._groups.append((members, *names))

    def start_bias(self, frequencies: Sequence[NDArray[np.float64]]) -> Tensor:
        """(width,) log frequencies, the bias that makes an untrained net draw the right margins."""
        parts = [torch.as_tensor(f, dtype=torch.float32).clamp_min(SHARE_CLIP).log() for f in frequencies]
        return torch.cat(parts) if parts else torch.empty(0)

    def log_probabilities(self, logits: Tensor) -> list[tuple[list[int], Tensor]]:
        """For each group: its columns, and (batch, columns, states) log probabilities, -inf where padded."""
        out = []
        for members, place, pad in self._groups:
            part = logits[:, getattr(self, place)] + getattr(self, pad)
            out.append((members, functional.log_softmax(part, dim=-1)))
        return out

    def loss(self, logits: Tensor, states: Tensor) -> Tensor:
        """(batch,) negative log-likelihood of (batch, columns) states."""
        if not self.sizes:
            return logits.new_zeros(len(logits))
        loss: Tensor = _SoftmaxColumns.apply(logits.float(), states.to(torch.long) + self.start, self.member)[0]
        return loss

    def draw(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """(batch, columns) states, drawn from the softmax."""
        out = torch.zeros(len(logits), len(self.sizes), dtype=torch.long, device=logits.device)
        for members, logp in self.log_probabilities(logits):
            edges = logp.exp().cumsum(-1)
            uniform = torch.rand(*edges.shape[:2], 1, generator=generator, device=logits.device)
            drawn = (uniform * edges[..., -1:] >= edges).sum(-1)
            limit = torch.tensor([self.sizes[i] - 1 for i in members], device=logits.device)
            out[:, members] = torch.minimum(drawn, limit)
        return out


class _SoftmaxColumns(torch.autograd.Function):
    """Cross-entropy of many softmaxes side by side, of unequal widths, without padding or a loop.

    The sums over each column's states are one product with the (width, columns) membership matrix, and the gradient,
    probability minus one-hot, is written down instead of recorded: a third of the time of padded groups on a CPU.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, places: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return column_losses(logits, places, member)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _, places, member = inputs
        _, weight, total = output
        ctx.mark_non_differentiable(weight, total)
        ctx.save_for_backward(weight, total, places, member)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        weight, total, places, member = ctx.saved_tensors
        return column_gradients(gradients[0], weight, total, places, member), None, None


def column_losses(
    logits: Tensor, places: Tensor, member: Tensor, into: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(batch,) cross-entropies summed over columns, and what their gradient is made of: weights and their sums.

    Args:
        logits: (batch, width).
        places: (batch, columns) places of the states among the logits.
        member: (width, columns) 1 where a logit belongs to a column.
        into: where the weights are written; may be `logits`.
    """
    most, reached = logits.amax(dim=1, keepdim=True), logits.gather(1, places).sum(dim=1)
    weight = torch.sub(logits, most, out=into).exp_()
    # Below this a column's logits are all 69 less than another's; its gradient then still pulls them up.
    total = (weight @ member).clamp_min_(SMALLEST_SUM)
    return total.log().sum(dim=1) + member.shape[1] * most.squeeze(1) - reached, weight, total


def column_gradients(given: Tensor, weight: Tensor, total: Tensor, places: Tensor, member: Tensor) -> Tensor:
    """(batch, width) gradient of `column_losses` by the logits, for the (batch,) gradient by the losses."""
    given = given.unsqueeze(1)
    # Scaled while it is narrow, then changed in place: each pass over all states costs as much as a product.
    gradient = ((given / total) @ member.T).mul_(weight)
    # No two columns share a place, so nothing is added up in an order of chance.
    return gradient.scatter_add_(1, places, -given.expand_as(total))


class BernoulliHead(nn.Module):
    """A dense block of binary columns, one logit each."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.width = columns

    def start_bias(self, prevalence: NDArray[np.float64]) -> Tensor:
        """(width,) logits of the prevalences, clipped to [1e-4, 1 - 1e-4]."""
        share = torch.as_tensor(prevalence, dtype=torch.float32).clamp(SHARE_CLIP, 1 - SHARE_CLIP)
        return torch.logit(share)

    def loss(self, logits: Tensor, present: Tensor) -> Tensor:
        """(batch,) negative log-likelihood of (batch, columns) zeros and ones."""
        return functional.binary_cross_entropy_with_logits(logits, present, reduction="none").sum(dim=1)

    def draw(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """(batch, columns) zeros and ones."""
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
        return (uniform < torch.sigmoid(logits)).to(torch.int64)


class NumericHead(nn.Module):
    """Scaled numbers: Gaussian or Student-t around an output of the net, with one free scale a column.

    The scale starts at 1 and stays within [0.01, 2] (an unbounded one makes the likelihood infinite when a column is
    a function of others). Missing cells have weight 0 in the loss.

    Args:
        columns: number of columns.
        student: heavy tails, with `nu = 2 + softplus` degrees of freedom learned a column.
    """

    def __init__(self, columns: int, *, student: bool) -> None:
        super().__init__()
        self.width = columns
        self.student = student
        self.log_scale = FreeParameter(torch.zeros(columns))
        self.raw_nu = FreeParameter(torch.full((columns,), 5.0)) if student else None

    def _scale(self, rows: Tensor) -> Tensor:
        return self.log_scale(rows.detach()).clamp(math.log(0.01), math.log(2.0))

    def loss(self, centre: Tensor, numbers: Tensor, weight: Tensor) -> Tensor:
        """(batch,) negative log-likelihood of (batch, columns) scaled numbers, `weight` 0 where missing."""
        log_scale = self._scale(centre)
        gap = (numbers - centre) / log_scale.exp()
        if self.raw_nu is None:
            each = 0.5 * gap**2 + log_scale + 0.5 * math.log(2 * math.pi)
        else:
            nu = 2 + functional.softplus(self.raw_nu(centre.detach()))
            each = (
                torch.lgamma(nu / 2)
                - torch.lgamma((nu + 1) / 2)
                + 0.5 * torch.log(nu * math.pi)
                + log_scale
                + (nu + 1) / 2 * torch.log1p(gap**2 / nu)
            )
        return (each * weight).sum(dim=1)

    def draw(self, centre: Tensor, generator: torch.Generator) -> Tensor:
        """(batch, columns) scaled numbers."""
        noise = torch.randn(centre.shape, generator=generator, device=centre.device)
        if self.raw_nu is not None:
            # t = normal / sqrt(chi2 / nu); the chi2 through its normal approximation's cube (Wilson and Hilferty 1931).
            nu = 2 + functional.softplus(self.raw_nu(centre.detach()))
            cube = (
                1
                - 2 / (9 * nu)
                + torch.sqrt(2 / (9 * nu)) * torch.randn(centre.shape, generator=generator, device=centre.device)
            )
            noise = noise / cube.clamp_min(0.05) ** 1.5
        return centre + self._scale(centre).exp() * noise


class CountHead(nn.Module):
    """Counts of codes: zero-inflated negative binomial, two outputs a column and one free dispersion.

    The first half of the outputs are logits of an extra zero, the second half raw means (softplus makes them
    positive). NB(k) = Gamma(k + r) / (Gamma(r) k!) (r / (r + m))^r (m / (r + m))^k.
    """

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.width = 2 * columns
        self.log_r = FreeParameter(torch.zeros(columns))

    def start_bias(self, counts: NDArray[np.integer]) -> Tensor:
        """(width,) bias with the right mean and share of zeros; also sets the dispersions, by moments.

        Args:
            counts: (n, columns) counts of the training rows.
        """
        table = torch.as_tensor(counts.astype("float32"))
        m = table.mean(dim=0).clamp_min(SHARE_CLIP)
        excess = table.var(dim=0, correction=0) - m
        r = torch.where(excess > 0, m**2 / excess.clamp_min(1e-6), m.new_tensor(MOST_EVEN)).clamp(0.05, MOST_EVEN)
        zero = (table == 0).float().mean(dim=0)
        nb_zero = (r / (r + m)) ** r
        extra = ((zero - nb_zero) / (1 - nb_zero).clamp_min(1e-6)).clamp(FEWEST_EXTRA_ZEROS, 1 - SHARE_CLIP)
        with torch.no_grad():
            self.log_r.value.copy_(r.log())
        return torch.cat([torch.logit(extra), torch.log(torch.expm1(m / (1 - extra)))])

    def prevalent_bias(self, prevalence: NDArray[np.float64]) -> Tensor:
        """(width,) bias with the right share of zeros and counts of about one, where no more is known."""
        share = torch.as_tensor(prevalence, dtype=torch.float32).clamp(SHARE_CLIP, 1 - SHARE_CLIP)
        # With m = r = 1 half of the counts are zero.
        extra = (1 - 2 * share).clamp(FEWEST_EXTRA_ZEROS, 1 - SHARE_CLIP)
        return torch.cat([torch.logit(extra), torch.full_like(share, math.log(math.e - 1))])

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        extra, raw = outputs.split(self.columns, dim=1)
        return extra, functional.softplus(raw) + 1e-6, self.log_r(outputs.detach()).clamp(-5, 7).exp()

    def log_absent(self, outputs: Tensor) -> Tensor:
        """(batch, columns) log-probabilities of a count of zero."""
        extra, m, r = self._parts(outputs)
        log_zero = r * (torch.log(r) - torch.log(r + m))
        return torch.logaddexp(functional.logsigmoid(extra), functional.logsigmoid(-extra) + log_zero)

    def loss(self, outputs: Tensor, counts: Tensor) -> Tensor:
        """(batch,) negative log-likelihood of (batch, columns) counts."""
        extra, m, r = self._parts(outputs)
        log_zero = r * (torch.log(r) - torch.log(r + m))
        nb = (
            torch.lgamma(counts + r)
            - torch.lgamma(r)
            - torch.lgamma(counts + 1)
            + log_zero
            + counts * (torch.log(m) - torch.log(r + m))
        )
        log_rest = functional.logsigmoid(-extra)
        zero = torch.logaddexp(functional.logsigmoid(extra), log_rest + log_zero)
        return -torch.where(counts == 0, zero, log_rest + nb).sum(dim=1)

    def draw(self, outputs: Tensor, generator: torch.Generator, largest: int) -> Tensor:
        """(batch, columns) counts up to `largest`, by inversion of the distribution function."""
        extra, m, r = self._parts(outputs)
        log_ratio = torch.log(m) - torch.log(r + m)
        log_p = r * (torch.log(r) - torch.log(r + m))
        rest = torch.sigmoid(-extra)
        uniform = torch.rand(m.shape, generator=generator, device=m.device)
        below = torch.sigmoid(extra) + rest * log_p.exp()
        counts = torch.zeros_like(m, dtype=torch.int64)
        for k in range(1, largest + 1):
            open_ = uniform >= below
            if not bool(open_.any()):
                break
            counts += open_
            log_p = log_p + log_ratio + torch.log((r + k - 1) / k)
            below = below + rest * log_p.exp()
        return counts
