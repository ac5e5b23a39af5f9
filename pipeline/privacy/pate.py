"""Labels by the noisy majority of teachers: the mechanism of PATE, and what it costs (Papernot et al. 2017 and 2018).

Subjects are dealt out to teachers once, so that one subject can change the vote of one teacher. A label is
1[votes + noise > teachers / 2], the noise with one scale, here and in the account. What labels cost is told from their number, the
noise and the number of teachers alone: the account that looks at the votes too is smaller, but is itself private. How a
generator learns from labels is in `pipeline/generators/pate_gan.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.privacy.run import PrivateRun

NoiseKind = Literal["gaussian", "laplace"]
AGREEMENT = 0.8
"""Share of the teachers that agree where the accuracy of labels is told."""
ORDERS: tuple[float, ...] = (
    *(1 + x / 10 for x in range(1, 100)),
    *range(11, 65),
    *(72, 80, 100, 128, 160, 200, 256, 320, 400, 512, 640, 800, 1024, 2048),
)
"""Renyi orders that the account is the least over."""
_ROUNDS = 60
_WIDEST = 1e9


@dataclass(frozen=True)
class VoteNoise:
    """Noise on the number of teachers that vote 1.

    Attributes:
        kind: Its distribution, symmetric about 0.
        scale: b of Laplace noise, which is 1 / gamma of the papers; the standard deviation of Gaussian noise. In votes.
    """

    kind: NoiseKind
    scale: float

    def log_chance(self, margin: NDArray[np.floating]) -> NDArray[np.float64]:
        """Log of the chance that noise does not turn a majority round, for its size in votes (negative: of a minority)."""
        x = np.asarray(margin, dtype=np.float64) / self.scale
        if self.kind == "gaussian":
            from scipy.special import log_ndtr

            return np.asarray(log_ndtr(x))
        far = np.abs(x)
        return np.where(x < 0, -far - math.log(2), np.log1p(-0.5 * np.exp(-far)))

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """(n,) noise."""
        return rng.normal(0, self.scale, n) if self.kind == "gaussian" else rng.laplace(0, self.scale, n)

    def accuracy(self, teachers: int, agreement: float = AGREEMENT) -> float:
        """Chance that a label is what the majority says, where that share of the teachers agree."""
        return float(np.exp(self.log_chance(np.array((agreement - 0.5) * teachers))))

    def for_accuracy(self, teachers: int, accuracy: float, agreement: float = AGREEMENT) -> VoteNoise:
        """Noise of the same kind under which a label is right with the given chance, above one half."""
        margin = (agreement - 0.5) * teachers
        if self.kind == "gaussian":
            from scipy.special import ndtri

            return VoteNoise(self.kind, margin / float(ndtri(accuracy)))
        return VoteNoise(self.kind, -margin / math.log(2 * (1 - accuracy)))


@lru_cache(maxsize=256)
def label_divergences(noise: VoteNoise, teachers: int) -> NDArray[np.float64]:
    """(ORDERS,) Renyi divergence of one label under tables that differ in one subject, whatever the votes are.

    The largest, over all numbers of votes v and v + 1, in either direction, of

        log(p^a q^(1 - a) + (1 - p)^a (1 - q)^(1 - a)) / (a - 1),

    p and q the chances of the label 1 (Mironov 2017, definition 3, of the label itself and not of the noisy count). The log
    moment of order l of the moments accountant is l times that of Renyi order l + 1.
    """
    votes = np.arange(teachers + 1) - teachers / 2
    one, zero = noise.log_chance(votes), noise.log_chance(-votes)
    order = np.asarray(ORDERS)[:, None]

    def between(p: slice, q: slice) -> NDArray[np.float64]:
        ones = order * one[p] + (1 - order) * one[q]
        zeros = order * zero[p] + (1 - order) * zero[q]
        return np.asarray(np.logaddexp(ones, zeros).max(axis=1) / (order[:, 0] - 1))

    less, more = slice(0, teachers), slice(1, teachers + 1)
    found = np.maximum(0.0, np.maximum(between(less, more), between(more, less)))
    # One array is handed to everybody who asks again.
    found.setflags(write=False)
    return found


def labels_epsilon(noise: VoteNoise, teachers: int, labels: int, delta: float) -> float:
    """Epsilon of so many labels at `delta`, whatever rows were labelled and in whatever order.

    Divergences add up over labels, each of which may be asked for after the earlier ones were seen, and become epsilon by
    the conversion of Canonne, Kamath and Steinke (2020, proposition 12). Laplace noise of scale b is also 1 / b-private a
    label, without any delta.
    """
    if not labels:
        return 0.0
    found = float((labels * label_divergences(noise, teachers) + _conversion(delta)).min())
    pure = labels / noise.scale if noise.kind == "laplace" else math.inf
    return max(0.0, min(found, pure))


def affordable_labels(noise: VoteNoise, teachers: int, epsilon: float, delta: float) -> int:
    """The most labels whose epsilon at `delta` is at most `epsilon`."""
    low, high = 0, 1
    while labels_epsilon(noise, teachers, high, delta) <= epsilon and high < _WIDEST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if labels_epsilon(noise, teachers, middle, delta) <= epsilon else (low, middle)
    return low


def _conversion(delta: float) -> NDArray[np.float64]:
    """(ORDERS,) what is added to a Renyi divergence to have epsilon at delta."""
    order = np.asarray(ORDERS)
    return np.log1p(-1 / order) - (math.log(delta) + np.log(order)) / (order - 1)


@dataclass(frozen=True)
class VotePlan:
    """How many labels there will be, and how noisy.

    Attributes:
        teachers: Number of teachers.
        noise: On their votes; None for a training that is not private.
        labels: At most so many; 0 if epsilon buys none.
        epsilon: What all of them cost.
        delta: At this delta.
    """

    teachers: int
    noise: VoteNoise | None
    labels: int
    epsilon: float = 0.0
    delta: float = 0.0

    @classmethod
    def of(
        cls,
        kind: NoiseKind,
        teachers: int,
        *,
        epsilon: float,
        delta: float,
        most: int,
        accuracy: float,
        scale: float | None,
    ) -> VotePlan:
        """The plan for a budget.

        Args:
            kind: Of the noise.
            teachers: Number of teachers.
            epsilon: What may be spent.
            delta: At this delta.
            most: Labels that are wanted at most; where more could be bought, these get less noise instead.
            accuracy: That a label should have where 80 % of the teachers agree; how many there are follows from it.
            scale: Of the noise, in place of the accuracy; it is then taken as it is.
        """
        unit = VoteNoise(kind, 1.0)
        noise = unit.for_accuracy(teachers, accuracy) if scale is None else VoteNoise(kind, scale)
        labels = affordable_labels(noise, teachers, epsilon, delta)
        if labels > most and scale is None:
            noise = _least_noise(noise, teachers, most, epsilon, delta)
        labels = min(labels, most)
        return cls(teachers, noise, labels, labels_epsilon(noise, teachers, labels, delta), delta)


def _least_noise(enough: VoteNoise, teachers: int, labels: int, epsilon: float, delta: float) -> VoteNoise:
    """The least noise that keeps so many labels within epsilon; `enough` is some that does."""
    low, high = 1e-6 * enough.scale, enough.scale
    for _ in range(_ROUNDS):
        middle = math.sqrt(low * high)
        fits = labels_epsilon(VoteNoise(enough.kind, middle), teachers, labels, delta) <= epsilon
        low, high = (low, middle) if fits else (middle, high)
    return VoteNoise(enough.kind, high)


def dealt(subject: NDArray[np.integer], teachers: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(rows,) teacher of each row, for (rows,) numbers of subjects from 0 on: every row of a subject has the same.

    Each subject's teacher is drawn by itself and not so that all have equally many: who the others are then decides
    nothing about a subject, and adding or removing one changes one teacher's rows and no other's.
    """
    return rng.integers(0, teachers, int(subject.max(initial=-1)) + 1)[subject]


class Ballot:
    """Gives out labels as long as the plan has any; what all of them cost is entered before the first.

    Args:
        plan: How many, and how noisy.
        run: The budget that pays; None for a training that is not private.

    Attributes:
        left: Labels that there still are.
    """

    def __init__(self, plan: VotePlan, run: PrivateRun | None) -> None:
        if (run is None) != (plan.noise is None):
            raise ConfigError("Votes are counted with noise and a budget, or without both.")
        self.plan, self.left = plan, plan.labels
        self._rng = None if run is None else run.rng("votes of teachers", repr(plan.noise), plan.teachers)
        if run is not None and plan.noise is not None and plan.labels:
            run.enter_votes(
                f"{plan.labels} labels by the votes of {plan.teachers} teachers",
                scale=plan.noise.scale,
                epsilon=plan.epsilon,
                delta=plan.delta,
                details={
                    "noise": plan.noise.kind,
                    "teachers": plan.teachers,
                    "labels": plan.labels,
                    "accountant": "renyi, of labels, whatever the votes",
                },
            )

    def labels(self, votes: NDArray[np.integer]) -> NDArray[np.bool_]:
        """(n,) labels for (n,) numbers of teachers that vote 1.

        Raises:
            TrainingError: there are not so many labels left (a fault of the generator).
        """
        if len(votes) > self.left:
            raise TrainingError(f"{len(votes)} labels were asked for, and {self.left} are paid for.")
        self.left -= len(votes)
        noisy = np.asarray(votes, dtype=np.float64)
        if self._rng is not None and self.plan.noise is not None:
            noisy = noisy + self.plan.noise.draw(len(votes), self._rng)
        return noisy > self.plan.teachers / 2
