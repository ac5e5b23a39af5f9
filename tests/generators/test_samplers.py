"""Schedules against their formulas, and samplers against a mixture of normals, whose denoiser is known exactly."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pipeline.generators.denoising.noise import EDMSchedule, VPSchedule, stratified_times
from pipeline.generators.denoising.samplers import ddim, dpmpp_2m, em, heun

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, ROWS = 16, 20_000
VP, EDM = VPSchedule(), EDMSchedule(smallest=0.002)


class Mixture:
    """Three narrow normals in 16 dimensions (standard deviations 0.02 to 0.1), as in spec 5.3."""

    def __init__(self) -> None:
        noise = torch.Generator().manual_seed(0)
        self.centres = torch.randn(3, WIDTH, generator=noise)
        self.spreads = torch.tensor([0.02, 0.05, 0.1])
        self.weights = torch.tensor([0.5, 0.3, 0.2])

    def draw(self, n: int, seed: int) -> torch.Tensor:
        """(n, WIDTH) rows of the mixture."""
        noise = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, n, replacement=True, generator=noise)
        return self.centres[which] + self.spreads[which, None] * torch.randn(n, WIDTH, generator=noise)

    def clean(self, x: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        """E[x_0 | alpha x_0 + sigma e = x], in closed form."""
        x = x.double()
        total = alpha**2 * self.spreads.double() ** 2 + sigma**2
        gaps = x[:, None, :] - alpha * self.centres.double()
        logs = self.weights.double().log() - 0.5 * (gaps**2).sum(-1) / total - WIDTH / 2 * total.log()
        gain = alpha * self.spreads.double() ** 2 / total
        return (torch.softmax(logs, 1)[..., None] * (self.centres.double() + gain[:, None] * gaps)).sum(1).float()

    def at_time(self, x: torch.Tensor, t: float) -> torch.Tensor:
        """The denoiser under the variance-preserving process."""
        time = torch.tensor(t, dtype=torch.float64)
        return self.clean(x, float(VP.alpha(time)), float(VP.sigma(time)))

    def at_level(self, x: torch.Tensor, s: float) -> torch.Tensor:
        """The denoiser under added noise."""
        return self.clean(x, 1.0, s)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Wasserstein-1 distance, mean over dimensions."""
    return float((a.sort(dim=0).values - b.sort(dim=0).values).abs().mean())


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return Mixture()


@pytest.fixture(scope="module")
def real(mixture: Mixture) -> torch.Tensor:
    return mixture.draw(ROWS, 1)


def normal(seed: int) -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_alpha_and_sigma() -> None:
    t = torch.linspace(1e-3, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(VP.alpha(t) ** 2 + VP.sigma(t) ** 2, torch.ones_like(t))
    torch.testing.assert_close(VP.alpha(t), torch.exp(-(t**2) * 19.9 / 4 - t * 0.1 / 2))
    assert VP.beta(0.5) == pytest.approx(10.05)
    slope = -(VP.log_alpha(t + 1e-6) - VP.log_alpha(t - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, torch.tensor([VP.beta(float(x)) / 2 for x in t], dtype=torch.float64))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_time_of_lambda_is_its_inverse(kind: torch.dtype) -> None:
    t = torch.linspace(1e-3, 1, 200, dtype=kind)
    torch.testing.assert_close(VP.time_of(VP.log_ratio(t)), t, atol=1e-5, rtol=1e-5)


def test_grids() -> None:
    assert VP.even_times(4, 0.0) == [1.0, 0.75, 0.5, 0.25, 0.0]
    times = VP.even_ratios(9, 1e-3)
    assert (times[0], times[-1], len(times)) == (1.0, 1e-3, 9)
    steps = np.diff(VP.log_ratio(torch.tensor(times, dtype=torch.float64)).numpy())
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    assert VP.even_ratios(1, 1e-3) == [1.0]
    levels = EDM.levels(10)
    assert levels[0] == pytest.approx(80)
    assert levels[-2:] == [pytest.approx(0.002), 0.0]
    assert all(a > b for a, b in pairwise(levels))
    assert EDM.levels(1) == [pytest.approx(80), 0.0]


def test_preconditioning_gives_unit_variance() -> None:
    schedule = EDMSchedule(data=0.5)
    noise = torch.Generator().manual_seed(0)
    for level in (0.05, 0.5, 5.0):
        s = torch.tensor(level)
        row = 0.5 * torch.randn(200_000, generator=noise)
        noisy = row + s * torch.randn(200_000, generator=noise)
        assert float((schedule.into(s) * noisy).std()) == pytest.approx(1, abs=0.01)
        target = (row - schedule.skip(s) * noisy) / schedule.out(s)
        assert float(target.std()) == pytest.approx(1, abs=0.01)
        assert float(schedule.weight(s) * schedule.out(s) ** 2) == pytest.approx(1)
    drawn = schedule.drawn(100_000, noise, "cpu").log()
    assert (float(drawn.mean()), float(drawn.std())) == (pytest.approx(-1.2, abs=0.02), pytest.approx(1.2, abs=0.02))


@pytest.mark.parametrize("n", [1, 2, 64])
def test_stratified_times(n: int) -> None:
    t = stratified_times(n, torch.Generator().manual_seed(0), "cpu")
    assert t.shape == (n,)
    assert float(t.min()) >= 1e-3
    assert float(t.max()) <= 1
    if n == 64:
        assert np.bincount((t * 16).long().numpy(), minlength=16).min() >= 2, "a stretch of time is left out"


def test_dpm_solver_in_20_evaluations(mixture: Mixture, real: torch.Tensor) -> None:
    """Spec 10: W1 < 0.01 (two true samples differ by about 0.003); the same count of first-order steps is far worse."""
    asked: list[float] = []

    def counted(x: torch.Tensor, t: float) -> torch.Tensor:
        asked.append(t)
        return mixture.at_time(x, t)

    found = distance(dpmpp_2m(counted, VP, normal(2), 20), real)
    assert len(asked) == 20
    assert found < 0.01
    assert distance(ddim(mixture.at_time, VP, normal(2), 20), real) > 2 * found
    assert distance(dpmpp_2m(mixture.at_time, VP, normal(2), 10), real) < 0.04


def test_each_sampler_comes_closer_with_more_steps(mixture: Mixture, real: torch.Tensor) -> None:
    ways: dict[str, Callable[[int], torch.Tensor]] = {
        "em": lambda k: em(mixture.at_time, VP, normal(3), k, torch.Generator().manual_seed(4)),
        "ddim": lambda k: ddim(mixture.at_time, VP, normal(3), k),
        "heun": lambda k: heun(mixture.at_level, EDM, normal(3), k // 2),
    }
    for name, way in ways.items():
        few, many = (distance(way(k), real) for k in (10, 100))
        assert many < 0.02, name
        assert many < few / 2, name


def test_euler_maruyama_to_zero_leaves_the_last_noise_in(mixture: Mixture) -> None:
    """As published: the spread within the narrowest component is too large; leaving at 1e-3 mends it."""
    start = normal(5)[:1500]
    spread = {}
    for end in (0.0, 1e-3):
        rows = em(mixture.at_time, VP, start, 250, torch.Generator().manual_seed(6), end=end)
        near = torch.cdist(rows, mixture.centres).argmin(1) == 0
        spread[end] = float((rows[near] - mixture.centres[0]).std())
    assert abs(spread[1e-3] - 0.02) < 0.01
    assert spread[0.0] > spread[1e-3] + 0.002


@pytest.mark.parametrize("steps", [1, 2])
def test_very_few_steps_give_rows(mixture: Mixture, steps: int) -> None:
    x = normal(7)[:50]
    found = [
        em(mixture.at_time, VP, x, steps, torch.Generator().manual_seed(0)),
        ddim(mixture.at_time, VP, x, steps),
        dpmpp_2m(mixture.at_time, VP, x, steps),
        heun(mixture.at_level, EDM, x, steps),
    ]
    assert all(bool(torch.isfinite(rows).all()) for rows in found)
