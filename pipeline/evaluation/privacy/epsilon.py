"""What the membership attacks prove about differential privacy: a lower bound of epsilon.

A mechanism with (epsilon, delta) keeps every attack to TPR <= e^epsilon FPR + delta, so an attack that does better
proves that epsilon is larger. A bound of 0 proves nothing: attacks show leaks, they never show that there is none.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.intervals import clopper_pearson
from pipeline.evaluation.privacy.attacks import attack
from pipeline.evaluation.privacy.membership import halves
from pipeline.evaluation.registry import metric
from pipeline.evaluation.results import MetricSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.evaluation.context import EvaluationContext
    from pipeline.evaluation.results import MetricResult

ALARMS = 24
"""Thresholds that are tried, from no false alarm up to half of the people, evenly on a logarithmic scale."""
FEWEST = 50
EPSILON = MetricSpec(
    id="priv.mia.epsilon_lower",
    family="privacy",
    direction=-1,
    range=(0.0, np.inf),
    needs=frozenset({"T", "H", "S", "R1"}),
    version="1",
    title="Epsilon that the attacks prove",
    caption="The least epsilon that is compatible with the attacks, with 95 % confidence: it is itself the lower end of an "
    "interval. Lower is better; the null is 0, which proves nothing. A claimed epsilon below it is refuted.",
    source="ln((TPR_lo - delta) / FPR_hi), Clopper-Pearson 95 % ends, attack and threshold chosen on the other half "
    "(Jagielski et al. 2020); delta = 1 / (10 people in training)",
    cost="B",
)


@metric(EPSILON, floor="ref_train")
def epsilon_lower(ctx: EvaluationContext) -> list[MetricResult]:
    """Attack, direction and threshold are chosen on one half of the people; the bound is that of the other half."""
    attacks = attack(ctx)
    half = halves(ctx, attacks.members)
    sizes = [int((~half & group).sum()) for group in (attacks.members, ~attacks.members)]
    if min(sizes) < FEWEST:
        return [EPSILON.underpowered(attacks.people[1], 2 * FEWEST, "people outside training", null=0.0)]
    delta = 1.0 / (10 * len(np.unique(ctx.sides.train.clusters)))
    best, chosen = -np.inf, None
    for name, scores in attacks.scores.items():
        for threshold in _thresholds(scores[half & ~attacks.members], scores[half & attacks.members]):
            for members_above in (True, False):
                found = _bound(scores[half], attacks.members[half], threshold, delta, members_above=members_above)
                if found > best:
                    best, chosen = found, (name, threshold, members_above)
    if chosen is None:
        return [EPSILON.result(None, n=attacks.people[1], null=0.0, note="no attack gives a score")]
    name, threshold, members_above = chosen
    rest = ~half
    value = _bound(attacks.scores[name][rest], attacks.members[rest], threshold, delta, members_above=members_above)
    most = epsilon_bound(sizes[0], sizes[0], 0, sizes[1], delta=delta)
    note = f"attack: {name}; with {min(sizes):,} people at most {most:.1f} can be proved"
    return [EPSILON.result(max(value, 0.0), n=sizes[1], null=0.0, note=note)]


def epsilon_bound(hits: float, members: int, alarms: float, others: int, *, delta: float = 0.0) -> float:
    """ln((TPR_lo - delta) / FPR_hi) with 95 % Clopper-Pearson ends; minus infinity where TPR_lo <= delta.

    Args:
        hits: Members flagged.
        members: Members.
        alarms: Non-members flagged.
        others: Non-members.
        delta: Of the (epsilon, delta) that is tested.
    """
    low = clopper_pearson(hits, members)[0] - delta
    high = clopper_pearson(alarms, others)[1]
    return log(low / high) if low > 0 else -np.inf


def _bound(
    scores: NDArray[np.float64],
    members: NDArray[np.bool_],
    threshold: float,
    delta: float,
    *,
    members_above: bool,
) -> float:
    """The bound for "above the threshold means member", or for "not above it means no member"."""
    above = scores > threshold
    n, others = int(members.sum()), int((~members).sum())
    if members_above:
        return epsilon_bound(int(above[members].sum()), n, int(above[~members].sum()), others, delta=delta)
    return epsilon_bound(int((~above[~members]).sum()), others, int((~above[members]).sum()), n, delta=delta)


def _thresholds(others: NDArray[np.float64], members: NDArray[np.float64]) -> list[float]:
    """Scores with 0, 1, 2, ... up to half of the non-members above them, and with as few members not above them."""
    n = len(others)
    counts = np.unique(np.r_[0, np.logspace(0, np.log10(max(n / 2, 1)), ALARMS - 1).astype(int)])
    high, low = np.sort(others)[::-1], np.sort(members)
    below = low[np.minimum(counts, len(low) - 1)]
    return np.unique(np.r_[high[np.minimum(counts, n - 1)], np.nextafter(below, -np.inf)]).tolist()
