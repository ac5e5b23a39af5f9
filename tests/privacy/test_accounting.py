"""Noise to epsilon and back, against published numbers and fresh accountants."""

from __future__ import annotations

import logging
import math

import pytest
from opacus.accountants import PRVAccountant, RDPAccountant

from pipeline.errors import ConfigError
from pipeline.privacy.accounting import (
    dpsgd_epsilon,
    dpsgd_noise,
    quiet_opacus,
    reaccount,
    zcdp_delta,
    zcdp_epsilon,
    zcdp_rho,
)


@pytest.mark.parametrize(("epsilon", "rho"), [(1, 0.0306), (3, 0.224), (10, 1.78)])
def test_rho_of_the_specification(epsilon: float, rho: float) -> None:
    found = zcdp_rho(epsilon, 1e-5)
    assert found == pytest.approx(rho, rel=5e-3)
    assert zcdp_delta(found, epsilon) <= 1e-5
    assert zcdp_delta(found * 1.001, epsilon) > 1e-5
    assert zcdp_epsilon(found, 1e-5) == pytest.approx(epsilon, rel=1e-9)


def test_conversion_is_the_smallest_over_all_orders() -> None:
    rho, epsilon = 0.1, 2.0
    tried = [
        math.exp((a - 1) * (a * rho - epsilon) + a * math.log1p(-1 / a)) / (a - 1)
        for a in [1 + 10 ** (k / 50) for k in range(-100, 80)]
    ]
    assert zcdp_delta(rho, epsilon) <= min(tried)
    assert zcdp_delta(rho, epsilon) == pytest.approx(min(tried), rel=1e-3)
    assert zcdp_delta(0.0, 1.0) == 0.0
    # The textbook bound rho + 2 sqrt(rho ln(1 / delta)) is never beaten by it.
    assert zcdp_epsilon(rho, 1e-6) < rho + 2 * math.sqrt(rho * math.log(1e6))


def test_epsilon_is_that_of_a_fresh_accountant() -> None:
    found = dpsgd_epsilon(noise_multiplier=1.1, sample_rate=0.05, steps=300, delta=1e-5)
    for accountant, epsilon in ((PRVAccountant(), found.prv), (RDPAccountant(), found.rdp)):
        for _ in range(300):
            accountant.step(noise_multiplier=1.1, sample_rate=0.05)
        assert epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=2e-3)
    assert (found.accountant, found.epsilon) == ("prv", found.prv)
    assert found.prv is not None
    assert found.prv < found.rdp


@pytest.mark.parametrize(("epsilon", "noise"), [(1, 5.78), (3, 2.32)])
def test_noise_of_the_specification(epsilon: float, noise: float) -> None:
    found, cost = dpsgd_noise(epsilon=epsilon, delta=1e-4, sample_rate=1 / 16, steps=800)
    assert found == pytest.approx(noise, rel=0.01)
    assert 0.99 * epsilon < cost.epsilon <= epsilon


def test_small_epsilons_and_whole_batches() -> None:
    noise, cost = dpsgd_noise(epsilon=0.05, delta=1e-6, sample_rate=0.1, steps=100)
    assert cost.epsilon <= 0.05
    assert noise > 20
    # Without sampling one step is the Gaussian mechanism: sigma 2 is (2.6, 1e-5)-DP (Balle and Wang 2018, equation 6).
    assert dpsgd_epsilon(noise_multiplier=2, sample_rate=1.0, steps=1, delta=1e-5).epsilon == pytest.approx(
        2.0, abs=0.2
    )


def test_prv_gives_way_where_it_is_not_to_be_trusted() -> None:
    for settings in ({"noise_multiplier": 0.45, "steps": 50}, {"noise_multiplier": 5.0, "steps": 100_001}):
        found = dpsgd_epsilon(sample_rate=0.01, delta=1e-5, **settings)  # type: ignore[arg-type]
        assert (found.accountant, found.prv, found.epsilon) == ("rdp", None, found.rdp)
    asked = dpsgd_epsilon(noise_multiplier=1, sample_rate=0.1, steps=10, delta=1e-5, accountant="rdp")
    assert (asked.accountant, asked.prv) == ("rdp", None)


def test_no_noise_is_no_privacy() -> None:
    assert dpsgd_epsilon(noise_multiplier=0, sample_rate=0.1, steps=1, delta=1e-5).epsilon == math.inf
    with pytest.raises(ConfigError, match="no training"):
        dpsgd_epsilon(noise_multiplier=1, sample_rate=0, steps=1, delta=1e-5)
    with pytest.raises(ConfigError, match="No noise is enough"):
        dpsgd_noise(epsilon=1e-9, delta=1e-9, sample_rate=1.0, steps=1000)


def test_a_published_epsilon_accounted_again() -> None:
    """Spec 3.2: N = 8873, 60 epochs of batch 32, so 278 batches an epoch and 16,680 steps."""
    (row,) = reaccount([0.9994], sample_rate=1 / 278, steps=16_680, published_delta=1e-3, delta=1e-5)
    found = (row.noise_multiplier, row.prv, row.rdp_at, row.prv_at)
    assert found == pytest.approx((1.52, 0.87, 1.44, 1.33), rel=0.01)


def test_opacus_leaves_the_logging_alone() -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    with quiet_opacus():
        logging.basicConfig(level=logging.DEBUG)
        root.addHandler(logging.NullHandler())
    assert (root.handlers, root.level) == before
