"""How much privacy mechanisms cost: noise to epsilon and back, for DP-SGD and for zero-concentrated mechanisms.

DP-SGD steps are added up by Opacus' accountants: PRV (Gopi et al. 2021) is tight, RDP (Mironov 2017) a safe upper bound
where PRV fails. The accountant by Gaussian differential privacy is a central-limit approximation that can understate
epsilon and is never used. What was drawn and spent is in `run.py`; how whole trainings add up in `composition.py`.
"""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Accountant = Literal["prv", "rdp"]
LEAST_PRV_NOISE = 0.5
MOST_PRV_STEPS = 100_000
"""Below this noise and beyond these steps PRV's numerical error is not trusted (spec 8.3)."""
MOST_NOISE = 1e6
_PRV_ERROR = 0.01
_HIGH_ORDERS = (80, 100, 128, 160, 200, 256, 320, 400, 512, 640, 800, 1024)
"""Beyond Opacus' own orders, which end at 63: without them RDP cannot tell an epsilon below ln(1 / delta) / 62."""
_ROUNDS = 200
_LOOKS = 12
_EXACT, _ROUGH = 1e-3, 0.05
_KEPT = 512
_CLOSE = 0.998
"""Epsilon is met from below to 0.2 %."""


# ---- zero-concentrated differential privacy


def zcdp_delta(rho: float, epsilon: float) -> float:
    """Smallest known delta for which rho-zCDP gives (epsilon, delta)-DP.

    min over a > 1 of exp((a - 1)(a rho - epsilon) + a ln(1 - 1/a)) / (a - 1) (Canonne, Kamath and Steinke 2020,
    proposition 12; spec 8.7.1). The derivative of its logarithm, (2a - 1) rho - epsilon + ln(1 - 1/a), grows with a.
    """
    if rho <= 0:
        return 0.0
    low, high = 1.0 + 1e-12, (epsilon + 1) / (2 * rho) + 2
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if (2 * middle - 1) * rho - epsilon + math.log1p(-1 / middle) < 0:
            low = middle
        else:
            high = middle
    a = (low + high) / 2
    exponent = (a - 1) * (a * rho - epsilon) + a * math.log1p(-1 / a) - math.log(a - 1)
    return min(1.0, math.exp(min(0.0, exponent)))


def zcdp_rho(epsilon: float, delta: float) -> float:
    """Largest rho whose conversion (`zcdp_delta`) keeps to (epsilon, delta)."""
    low, high = 0.0, epsilon + 1.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if zcdp_delta(middle, epsilon) <= delta else (low, middle)
    return low


def zcdp_epsilon(rho: float, delta: float) -> float:
    """Smallest epsilon that rho-zCDP gives at delta (`zcdp_delta`)."""
    if rho <= 0:
        return 0.0
    low, high = 0.0, rho + 2 * math.sqrt(rho * math.log(1 / delta)) + 1e-12
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if zcdp_delta(rho, middle) <= delta else (middle, high)
    return high


# ---- DP-SGD: the Gaussian mechanism on a Poisson sample, step by step


@dataclass(frozen=True)
class Accounted:
    """What DP-SGD costs.

    Attributes:
        epsilon: By the accountant that counts.
        accountant: Which one that is.
        prv: By PRV; None where it was not trusted or failed.
        rdp: By RDP.
    """

    epsilon: float
    accountant: Accountant
    prv: float | None
    rdp: float


def dpsgd_epsilon(
    *, noise_multiplier: float, sample_rate: float, steps: int, delta: float, accountant: Accountant = "prv"
) -> Accounted:
    """Epsilon of `steps` noisy steps at `delta`; infinite without noise.

    Args:
        noise_multiplier: Standard deviation of the noise over the sensitivity of the sum of gradients.
        sample_rate: Chance of each subject to be in a step's batch, independent of all others (Poisson).
        steps: Number of steps.
        delta: Chance that the bound does not hold.
        accountant: "prv" falls back to RDP where it is not to be trusted; "rdp" is taken as asked.

    Raises:
        ConfigError: the sample rate is no probability, or there is no step.
    """
    if not 0 < sample_rate <= 1 or steps < 1:
        raise ConfigError(f"A sample rate of {sample_rate:g} over {steps} steps is no training.")
    if noise_multiplier <= 0:
        return Accounted(math.inf, "rdp", None, math.inf)
    rdp = _rdp(noise_multiplier, sample_rate, steps, delta)
    # Too little noise, too many steps: the numerical error of PRV is not to be trusted (spec 8.3).
    trusted = accountant == "prv" and noise_multiplier >= LEAST_PRV_NOISE and steps <= MOST_PRV_STEPS
    prv = _prv(noise_multiplier, sample_rate, steps, delta, rdp) if trusted else None
    return Accounted(rdp, "rdp", None, rdp) if prv is None else Accounted(prv, "prv", prv, rdp)


def dpsgd_noise(
    *, epsilon: float, delta: float, sample_rate: float, steps: int, accountant: Accountant = "prv"
) -> tuple[float, Accounted]:
    """The smallest noise multiplier (to 0.1 %) that keeps `steps` steps within (epsilon, delta), and what they cost.

    Raises:
        ConfigError: no noise is enough for so small an epsilon.
    """

    def cost(noise: float, by: Accountant) -> Accounted:
        return dpsgd_epsilon(noise_multiplier=noise, sample_rate=sample_rate, steps=steps, delta=delta, accountant=by)

    def by_rdp(close: float) -> tuple[float, Accounted]:
        noise = _least(lambda noise: cost(noise, "rdp").epsilon, epsilon, close)
        return noise, cost(noise, "rdp")

    if accountant == "rdp":
        return by_rdp(_EXACT)
    high, found = by_rdp(_ROUGH)
    if (tight := cost(high, "prv")).epsilon <= epsilon:
        found = tight
    low = 0.5 * high
    below = cost(low, "prv").epsilon
    # Epsilon over noise is nearly a power law: a few looks, each of some tenths of a second, are enough.
    for _ in range(_LOOKS):
        if found.epsilon > _CLOSE * epsilon or below <= found.epsilon or high - low < 1e-3 * high:
            break
        share = math.log(below / (epsilon * (1 + _CLOSE) / 2)) / math.log(below / found.epsilon)
        middle = low * (high / low) ** min(0.98, max(0.02, share))
        tried = cost(middle, "prv")
        if tried.epsilon <= epsilon:
            high, found = middle, tried
        else:
            low, below = middle, tried.epsilon
    return (high, found) if found.accountant == "prv" else by_rdp(_EXACT)


def _least(cost: Callable[[float], float], epsilon: float, close: float) -> float:
    """The least noise, as closely as asked, that costs at most epsilon; more noise never costs more."""
    low, high = 1e-2, 1.0
    while cost(high) > epsilon:
        low, high = high, 2 * high
        if high > MOST_NOISE:
            raise ConfigError("No noise is enough for so small an epsilon.", todo="Ask for a larger epsilon.")
    while high - low > close * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= epsilon else (middle, high)
    return high


@lru_cache(maxsize=_KEPT)
def _rdp(noise: float, rate: float, steps: int, delta: float) -> float:
    with quiet_opacus():
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history = [(noise, rate, steps)]
        epsilon, order = accountant.get_privacy_spent(delta=delta)
        if order < max(RDPAccountant.DEFAULT_ALPHAS):
            return float(epsilon)
        return float(accountant.get_epsilon(delta=delta, alphas=[*RDPAccountant.DEFAULT_ALPHAS, *_HIGH_ORDERS]))


@lru_cache(maxsize=_KEPT)
def _prv(noise: float, rate: float, steps: int, delta: float, rdp: float) -> float | None:
    """Epsilon by PRV; None where it gives no number."""
    with quiet_opacus():
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [(noise, rate, steps)]
        try:
            # A fixed error of 0.01 would be most of a small epsilon.
            epsilon = float(accountant.get_epsilon(delta=delta, eps_error=min(_PRV_ERROR, max(1e-3, rdp / 50))))
        except (ArithmeticError, MemoryError, RuntimeError, ValueError):
            return None
    return epsilon if math.isfinite(epsilon) and epsilon > 0 else None


@contextmanager
def quiet_opacus() -> Iterator[None]:
    """Imports of Opacus inside leave the process's logging as it was (it sets up the root logger), and warn of nothing."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)


# ---- a published training, accounted again


@dataclass(frozen=True)
class Reaccounted:
    """One published epsilon and what the same noise costs by each accountant.

    Attributes:
        reported: Epsilon as published.
        noise_multiplier: The noise that gives it by the publication's own account.
        prv: PRV at the publication's delta, also where there is too little noise to trust it.
        rdp_at: RDP at the delta that is asked here.
        prv_at: PRV at that delta, in the same way.
    """

    reported: float
    noise_multiplier: float
    prv: float | None
    rdp_at: float
    prv_at: float | None


def reaccount(
    reported: Sequence[float], *, sample_rate: float, steps: int, published_delta: float, delta: float
) -> list[Reaccounted]:
    """The noise behind epsilons that were published at `published_delta` by RDP, and what it costs at `delta`."""
    rows = []
    for epsilon in reported:
        noise, there = dpsgd_noise(
            epsilon=epsilon, delta=published_delta, sample_rate=sample_rate, steps=steps, accountant="rdp"
        )
        here = _rdp(noise, sample_rate, steps, delta)
        prv = _prv(noise, sample_rate, steps, published_delta, there.rdp)
        rows.append(Reaccounted(epsilon, noise, prv, here, _prv(noise, sample_rate, steps, delta, here)))
    return rows
