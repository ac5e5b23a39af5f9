"""What a private training writes down of every look at the data, and what several looks cost together.

Who draws the noise is in `run.py`; the arithmetic of single conversions in `accounting.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipeline.privacy.accounting import zcdp_epsilon

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["gaussian", "laplace", "exponential", "stability", "dp_sgd", "votes"]
SLACK = 1e-6
"""Relative slack for sums of shares in floating point."""


@dataclass(frozen=True)
class Mechanism:
    """One look at the data.

    Attributes:
        type: Which mechanism.
        what: What was asked of the data, in words.
        part: The part of the run that paid, e.g. "training".
        scale: Standard deviation (gaussian), b (laplace, stability), the noise multiplier times clip (dp_sgd), or either
            of the first two (votes; `details` says which noise).
        sensitivity: What one subject changes at most (L2 for gaussian and dp_sgd, L1 for laplace, the score's change
            for exponential, the number of votes).
        rho: Cost in zero-concentrated privacy; None where it has none.
        epsilon: Cost as pure epsilon, or of dp_sgd and votes at `delta`; None for gaussian.
        delta: Its own chance of failure (stability, dp_sgd, votes); 0 for the others.
        details: Of dp_sgd: noise multiplier, sample rate, steps, accountant, epsilon by PRV and RDP; of votes: noise,
            teachers, labels, accountant.
    """

    type: Kind
    what: str
    part: str
    scale: float
    sensitivity: float
    rho: float | None = None
    epsilon: float | None = None
    delta: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it stands in a report; what it does not have is left out."""
        fields = {
            "type": self.type,
            "what": self.what,
            "part": self.part,
            "scale": self.scale,
            "sensitivity": self.sensitivity,
            "rho": self.rho,
            "epsilon": self.epsilon,
            "delta": self.delta or None,
            **self.details,
        }
        return {key: value for key, value in fields.items() if value is not None}


def spent_on(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """Epsilon of mechanisms that are run together, at delta in all.

    Pure mechanisms are added up by epsilon or, where that is less, by rho with the Gaussian ones; what has a delta of its
    own (thresholds, DP-SGD, votes) is added by epsilon and takes its delta away from the conversion of rho.
    """
    if not mechanisms:
        return 0.0
    fixed = [m for m in mechanisms if m.delta > 0]
    rest = [m for m in mechanisms if m.delta == 0]
    left = delta - sum(m.delta for m in fixed)
    if left < -SLACK * delta:
        return math.inf
    base = sum(m.epsilon or 0.0 for m in fixed)

    def with_rho(concentrated: list[Mechanism]) -> float:
        rho = sum(m.rho or 0.0 for m in concentrated)
        if not concentrated:
            return 0.0
        return zcdp_epsilon(rho, left) if left > 0 else math.inf

    pure = [m for m in rest if m.epsilon is not None]
    gaussian = [m for m in rest if m.epsilon is None]
    return base + min(sum(m.epsilon or 0.0 for m in pure) + with_rho(gaussian), with_rho(rest))
