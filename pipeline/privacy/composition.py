"""Privacy losses and how they add up: basic sequential composition (Dwork and Roth 2014, theorem 3.16).

If the k-th of several releases on the same people is (epsilon_k, delta_k)-private, all of them together are
(sum of epsilon_k, sum of delta_k)-private, also where each was chosen after the earlier ones had been seen. What was
spent on what is in `ledger.py`; tighter accounts of one training (Renyi, PRV) belong to the training.
"""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.privacy.spec import PrivacySpec

INFINITE = "inf"
"""How an infinite epsilon is written where only JSON is taken, which has no word for it."""


class Loss(NamedTuple):
    """A privacy loss (epsilon, delta); epsilon is infinite where there is no guarantee.

    Attributes:
        epsilon: At least 0; `math.inf` for a release without differential privacy.
        delta: At least 0. A sum of deltas may pass 1, and then says nothing any more.
    """

    epsilon: float
    delta: float

    @classmethod
    def asked(cls, privacy: PrivacySpec | None) -> Loss:
        """The loss that one training is allowed; infinite for one that is not private."""
        return NOT_PRIVATE if privacy is None else cls(privacy.epsilon, privacy.delta)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Loss:
        """The loss that `to_json` gave; raises `ValueError` or `KeyError` if it is none."""
        epsilon, delta = content["epsilon"], content["delta"]
        if epsilon == INFINITE:
            epsilon = math.inf
        for number in (epsilon, delta):
            if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
                raise ValueError("not a privacy loss")
        return cls(float(epsilon), float(delta))

    def to_json(self) -> dict[str, float | str]:
        """As it is written down: an infinite epsilon is the text "inf"."""
        return {"epsilon": self.epsilon if self.finite else INFINITE, "delta": self.delta}

    @property
    def finite(self) -> bool:
        """Is there a guarantee at all?"""
        return math.isfinite(self.epsilon)

    def within(self, budget: PrivacySpec | None) -> bool:
        """Does it keep to the budget? No budget is kept by every loss."""
        return budget is None or (self.epsilon <= budget.epsilon and self.delta <= budget.delta)

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:g}, delta {self.delta:g}" if self.finite else "epsilon infinite"


NOT_PRIVATE = Loss(math.inf, 0.0)
NOTHING = Loss(0.0, 0.0)


def running(losses: Iterable[Loss]) -> Iterator[Loss]:
    """The loss of the first of them, of the first two together, and so on.

    Numbers are added as they are written (0.1 is one tenth), so three times 0.1 is exactly 0.3 and a budget of 0.3
    takes three such trainings.
    """
    epsilon = delta = Fraction(0)
    finite = True
    for loss in losses:
        finite = finite and loss.finite
        epsilon += Fraction(repr(loss.epsilon)) if loss.finite else 0
        delta += Fraction(repr(loss.delta))
        yield Loss(float(epsilon) if finite else math.inf, float(delta))


def compose(losses: Iterable[Loss]) -> Loss:
    """The loss of all of them together, whatever their order."""
    return next(iter(deque(running(losses), maxlen=1)), NOTHING)
