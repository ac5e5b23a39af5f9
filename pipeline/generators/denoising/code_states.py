"""Code blocks of a noise process: how much of a code a vector says, and the likelihood of its states.

A code's states are its counts 0, 1, 2, ... up to its cap (grouped where there are more than a few); a binary code has
two. Their distribution given a network's outputs is the code's own distribution in training, tilted: two outputs a code
(one for a binary block) say how much likelier presence and larger counts have become. Columns are in `row_vector.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_STATES = 6
"""States of a count: 0, 1, 2, 3 and two groups of larger ones tell a patient's burden of care."""
SMALLEST_SHARE = 1e-6
MOST_TILT = 30.0


class CodeStates(nn.Module):
    """Tilted distributions of the states of many codes, side by side.

    log p(s | outputs) = log share_s + presence * 1[s > 0] + burden * place_s + const, where place_s is the standardised
    log count among the states with the code: an exponential family through the training distribution.

    Args:
        caps: (codes,) largest count of each code.
        binary: presence only.

    Attributes:
        width: outputs: one a code, and one more for counts.
        values: (codes, states) what the vector says of each state: -1 for none, about 1 for the usual count.
    """

    def __init__(self, caps: NDArray[np.integer], *, binary: bool) -> None:
        super().__init__()
        self.codes, self.binary = len(caps), binary
        self.width = self.codes if binary else 2 * self.codes
        groups = [_groups(1 if binary else int(cap)) for cap in caps]
        states = max((len(g) for g in groups), default=2)
        first = np.full((self.codes, states), np.iinfo(np.int32).max, dtype=np.int64)
        for j, group in enumerate(groups):
            first[j, : len(group)] = group
        self.first: Tensor
        self.log_share: Tensor
        self.place: Tensor
        self.values: Tensor
        self.shares_within: Tensor
        self.register_buffer("first", torch.as_tensor(first), persistent=False)
        self.caps = np.asarray(caps, dtype=np.int64)
        self.register_buffer("log_share", torch.zeros(self.codes, states))
        self.register_buffer("place", torch.zeros(self.codes, states))
        self.register_buffer("values", torch.full((self.codes, states), -1.0))

    def learn(self, counts: NDArray[np.integer]) -> None:
        """Take the shares of states and their mean counts from (n, codes) training rows."""
        table = torch.as_tensor(counts)
        shares = torch.zeros(self.log_share.shape, dtype=torch.float64)
        middle = torch.zeros(self.log_share.shape, dtype=torch.float64)
        for part in table.split(8192):
            states = self.states(part)
            for s in range(shares.shape[1]):
                at = states == s
                shares[:, s] += at.sum(dim=0)
                middle[:, s] += (part.double().log1p() * at).sum(dim=0)
        middle /= shares.clamp_min(1)
        self._take(shares / max(1, len(table)), middle)

    def know(self, prevalence: NDArray[np.float64]) -> None:
        """The same from shares of rows with each code alone: larger counts get half as likely with every state."""
        share = torch.as_tensor(prevalence, dtype=torch.float64).clamp(SMALLEST_SHARE, 1 - SMALLEST_SHARE)
        open_ = (self.first <= torch.as_tensor(self.caps)[:, None]).double()
        fall = open_ * 0.5 ** torch.arange(open_.shape[1], dtype=torch.float64)
        fall[:, 0] = 0
        shares = fall / fall.sum(dim=1, keepdim=True).clamp_min(1e-12) * share[:, None]
        shares[:, 0] = 1 - share
        self._take(shares, self.first.double().log1p() * open_)

    def _take(self, shares: Tensor, middle: Tensor) -> None:
        open_ = self.first.cpu() <= torch.as_tensor(self.caps)[:, None]
        self.log_share.copy_(shares.clamp_min(SMALLEST_SHARE).log().masked_fill(~open_, -torch.inf))
        held = shares.clone()
        held[:, 0] = 0
        total = held.sum(dim=1, keepdim=True).clamp_min(1e-12)
        usual = (held * middle).sum(dim=1, keepdim=True) / total
        spread = ((held * (middle - usual) ** 2).sum(dim=1, keepdim=True) / total).sqrt().clamp_min(0.1)
        place = (middle - usual) / spread
        place[:, 0] = 0
        self.place.copy_(torch.where(open_, place, 0.0))
        values = 2 * middle / usual.clamp_min(0.1) - 1
        values[:, 0] = -1
        self.values.copy_(torch.where(open_, values, 0.0))

    def states(self, counts: Tensor) -> Tensor:
        """(batch, codes) states of (batch, codes) counts."""
        out = torch.zeros(counts.shape, dtype=torch.long, device=counts.device)
        for s in range(1, self.first.shape[1]):
            out += counts >= self.first[:, s]
        return out

    def clean(self, counts: Tensor) -> Tensor:
        """(batch, codes) what the vector says of (batch, codes) counts."""
        if self.binary:
            return 2.0 * (counts > 0) - 1
        states = self.states(counts)
        return self.values.expand(len(counts), -1, -1).gather(2, states.unsqueeze(2)).squeeze(2)

    def log_odds(self, outputs: Tensor, x: Tensor | None, signal: Tensor | None, noise: Tensor | None) -> Tensor:
        """(batch, codes, states) unnormalised log probabilities, a noisy vector's own word about each code included.

        With x = signal * value + noise * e the word for a state of value v is x v signal / noise^2 - (v signal / noise)^2 / 2
        (the Gaussian log-likelihood less what all states have in common).
        """
        out: Tensor = self.log_share + outputs[:, : self.codes, None].clamp(-MOST_TILT, MOST_TILT) * (
            torch.arange(self.log_share.shape[1], device=outputs.device) > 0
        )
        if not self.binary:
            out = out + outputs[:, self.codes :, None].clamp(-MOST_TILT, MOST_TILT) * self.place
        if x is not None and signal is not None and noise is not None:
            scaled = (signal / noise)[:, :, None] * self.values
            out = out + (x / noise)[:, :, None] * scaled - 0.5 * scaled**2
        return out

    def loss(self, log_odds: Tensor, counts: Tensor) -> Tensor:
        """(batch,) negative log-likelihood of (batch, codes) counts."""
        at = self.states(counts).unsqueeze(2)
        return (log_odds.logsumexp(dim=2) - log_odds.gather(2, at).squeeze(2)).sum(dim=1)

    def mean(self, log_odds: Tensor) -> Tensor:
        """(batch, codes) expected value on the vector's scale."""
        return (log_odds.softmax(dim=2) * self.values).sum(dim=2)

    def draw(self, log_odds: Tensor, generator: torch.Generator, rng: np.random.Generator) -> NDArray[np.int64]:
        """(batch, codes) counts drawn from (batch, codes, states) log probabilities."""
        edges = log_odds.softmax(dim=2).cumsum(dim=2)
        chance = torch.rand(*edges.shape[:2], 1, generator=generator, device=edges.device)
        state = (chance * edges[:, :, -1:] >= edges).sum(dim=2).clamp_max(edges.shape[2] - 1).cpu().numpy()
        return self.counts(state, rng)

    def open_states(self) -> NDArray[np.int64]:
        """(codes,) how many states each code has."""
        counts: NDArray[np.int64] = (self.first.cpu().numpy() <= self.caps[:, None]).sum(axis=1)
        return counts

    def counts(self, state: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
        """(batch, codes) counts of (batch, codes) states; larger ones of a group in inverse proportion to the count."""
        first = self.first.cpu().numpy()
        codes = np.arange(self.codes)
        low = first[codes, state]
        after = np.where(state + 1 < first.shape[1], first[codes, np.minimum(state + 1, first.shape[1] - 1)], np.inf)
        high = np.minimum(after - 1, self.caps)
        # Inside a group chances fall as 1 / count, as those of long tails do.
        drawn = np.where(
            high > low, np.floor(np.maximum(low, 1) * ((high + 1) / np.maximum(low, 1)) ** rng.random(state.shape)), low
        )
        return np.minimum(drawn, self.caps).astype(np.int64)


def _groups(cap: int) -> list[int]:
    """The first count of each state: single counts, then groups that double."""
    if cap < MOST_STATES:
        return list(range(cap + 1))
    out = list(range(4))
    while len(out) < MOST_STATES:
        out.append(max(out[-1] + 1, round(out[-1] * (cap / out[-1]) ** (1 / (MOST_STATES + 1 - len(out))))))
    return [g for g in out if g <= cap]
