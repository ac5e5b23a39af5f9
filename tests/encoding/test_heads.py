"""Likelihood heads against their formulas and their own draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.encoding.heads import BernoulliHead, CategoricalHead, CountHead, NumericHead


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_categorical_loss_is_cross_entropy_over_all_groups() -> None:
    sizes = [3, 2, 40, 1, 9]
    head = CategoricalHead(sizes)
    logits = torch.randn(7, sum(sizes), generator=noise())
    states = torch.stack([torch.randint(k, (7,), generator=noise(k)) for k in sizes], dim=1)
    parts = logits.split(sizes, dim=1)
    wanted = sum(torch.nn.functional.cross_entropy(p, states[:, i], reduction="none") for i, p in enumerate(parts))
    torch.testing.assert_close(head.loss(logits, states), wanted)


def test_categorical_bias_draws_the_margins() -> None:
    shares = [np.array([0.7, 0.2, 0.1]), np.array([0.5, 0.5])]
    head = CategoricalHead([3, 2])
    drawn = head.draw(head.start_bias(shares).expand(20_000, -1), noise()).numpy()
    for i, share in enumerate(shares):
        np.testing.assert_allclose(np.bincount(drawn[:, i]) / 20_000, share, atol=0.015)


def test_bernoulli_bias_draws_the_margins() -> None:
    head = BernoulliHead(2)
    drawn = head.draw(head.start_bias(np.array([0.02, 0.6])).expand(20_000, -1), noise()).float()
    np.testing.assert_allclose(drawn.mean(dim=0).numpy(), [0.02, 0.6], atol=0.015)


@pytest.mark.parametrize("student", [False, True])
def test_numeric_loss_and_draws(student: bool) -> None:
    head = NumericHead(1, student=student)
    with torch.no_grad():
        head.log_scale.value.fill_(np.log(0.5))
    x = torch.linspace(-3, 3, 11).unsqueeze(1)
    loss = head.loss(torch.zeros_like(x), x, torch.ones_like(x)).detach().numpy()
    nu = 2 + np.log1p(np.exp(5.0))
    law = stats.t(nu, scale=0.5) if student else stats.norm(scale=0.5)
    np.testing.assert_allclose(loss, -law.logpdf(x.numpy().ravel()), rtol=1e-4)
    assert head.loss(torch.zeros(1, 1), torch.full((1, 1), 9.0), torch.zeros(1, 1)).item() == 0, "missing is free"
    drawn = head.draw(torch.full((40_000, 1), 2.0), noise()).detach().numpy().ravel() - 2
    assert stats.kstest(drawn, law.cdf).statistic < 0.015


def test_count_loss_is_the_zero_inflated_negative_binomial() -> None:
    head = CountHead(1)
    with torch.no_grad():
        head.log_r.value.fill_(np.log(3.0))
    extra, raw = 0.3, 0.8
    m, pi = np.log1p(np.exp(raw)) + 1e-6, 1 / (1 + np.exp(-extra))
    counts = torch.arange(6.0).unsqueeze(1)
    outputs = torch.tensor([[extra, raw]]).expand(6, 2)
    nb = stats.nbinom(3.0, 3.0 / (3.0 + m)).pmf(np.arange(6))
    wanted = -np.log(np.where(np.arange(6) == 0, pi + (1 - pi) * nb, (1 - pi) * nb))
    np.testing.assert_allclose(head.loss(outputs, counts).detach().numpy(), wanted, rtol=1e-4)
    drawn = head.draw(outputs[:1].expand(40_000, 2), noise(), 50).numpy().ravel()
    shares = np.bincount(drawn, minlength=6)[:6] / 40_000
    np.testing.assert_allclose(shares, np.exp(-wanted), atol=0.01)


def test_count_bias_draws_mean_and_zeros() -> None:
    rng = np.random.default_rng(0)
    counts = np.stack([rng.poisson(2, 5000), np.where(rng.random(5000) < 0.6, 0, rng.poisson(4, 5000))], axis=1)
    head = CountHead(2)
    drawn = head.draw(head.start_bias(counts).expand(20_000, -1), noise(), 60).numpy()
    np.testing.assert_allclose(drawn.mean(axis=0), counts.mean(axis=0), rtol=0.05)
    # A start by moments, not a fit: the network learns the rest.
    np.testing.assert_allclose((drawn == 0).mean(axis=0), (counts == 0).mean(axis=0), atol=0.08)
