"""The training loop: guards, early stopping, randomness, devices; and seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generator_tables import stay_cohort
from torch import nn

from pipeline.errors import ConfigError, TrainingError
from pipeline.generators.seeds import derive_seed, stream
from pipeline.generators.training import TrainSettings, choose_device, repeatable, train, tuning_rows

CPU = torch.device("cpu")


def regression(seed: int = 0) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(1))
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 3
    with repeatable(seed):
        return nn.Linear(3, 1), x, y


def fit(network: nn.Module, loss: object, **settings: object) -> object:
    return train(
        network,
        loss,
        fit_rows=np.arange(300),
        tune_rows=np.arange(300, 400),
        settings=TrainSettings(**{"batch_size": 50, "learning_rate": 0.05, **settings}),
        seed=0,
        device=CPU,
    )


def test_it_learns_and_logs() -> None:
    network, x, y = regression()
    log = fit(network, lambda rows, noise, done: (network(x[rows])[:, 0] - y[rows]) ** 2, epochs=60)
    assert log.losses[-1]["tune"] < 0.01
    assert log.losses[0]["step"] == 6
    assert not network.training


def test_best_weights_are_restored_and_patience_ends_it() -> None:
    network, x, y = regression()

    def worse_after_a_while(rows: torch.Tensor, noise: torch.Generator, done: float) -> torch.Tensor:
        target = y[rows] if network.training is False or done < 0.3 else -y[rows]
        return (network(x[rows])[:, 0] - target) ** 2

    log = fit(network, worse_after_a_while, epochs=100, patience=5)
    assert len(log.losses) < 60
    best = min(e["tune"] for e in log.losses)
    assert log.losses[log.best_epoch - 1]["tune"] == best
    with torch.no_grad():
        assert float(((network(x[300:])[:, 0] - y[300:]) ** 2).mean()) == pytest.approx(best, rel=1e-5)


def test_epochs_of_annealing_are_not_judged() -> None:
    network, x, y = regression()
    log = fit(
        network,
        lambda rows, noise, done: (network(x[rows])[:, 0] - y[rows]) ** 2 + 100 * (1 - network.training),
        epochs=10,
        settled=0.5,
    )
    assert log.best_epoch > 5


def test_a_few_bad_steps_halve_the_rate_and_many_abort() -> None:
    network, x, y = regression()
    calls = {"n": 0}

    def sometimes_nan(rows: torch.Tensor, noise: torch.Generator, done: float) -> torch.Tensor:
        calls["n"] += network.training
        value = (network(x[rows])[:, 0] - y[rows]) ** 2
        return value * float("nan") if calls["n"] in (3, 9) and network.training else value

    log = fit(network, sometimes_nan, epochs=30)
    assert "2 steps" in log.warnings[0]
    assert log.losses[-1]["tune"] < 1
    with pytest.raises(TrainingError, match="not finite"):
        fit(network, lambda rows, noise, done: network(x[rows])[:, 0] * float("nan"), epochs=3)


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    network, x, y = regression(3)
    fit(network, lambda rows, noise, done: (network(x[rows])[:, 0] - y[rows]) ** 2, epochs=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.are_deterministic_algorithms_enabled()


def test_tuning_rows_keep_a_patient_together() -> None:
    cohort = stay_cohort(900)
    tune = tuning_rows(cohort)
    assert 0.03 < tune.mean() < 0.2
    assert not set(cohort.subject[tune]) & set(cohort.subject[~tune])
    np.testing.assert_array_equal(tune, tuning_rows(cohort))


def test_devices_in_words() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ConfigError, match="no device 'gpu'"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="0 GPUs"):
            choose_device("cuda:0")


def test_seeds_are_stable_and_apart() -> None:
    assert derive_seed(0, "sample") == derive_seed(0, "sample")
    assert len({derive_seed(0, "a"), derive_seed(0, "b"), derive_seed(1, "a"), derive_seed("1", "a")}) == 4
    assert 0 <= derive_seed("x") < 2**63
    assert derive_seed("pinned", 1) == 8344152990436292519, "seeds must never change: models would"
    assert stream(1, "a").random() == stream(1, "a").random()


def test_a_budget_of_steps_is_kept_exactly_however_few_rows_there_are() -> None:
    for rows, steps in ((300, 1), (300, 500), (20, 730)):
        network, x, y = regression()
        calls = {"n": 0}

        def counted(
            at: torch.Tensor, noise: torch.Generator, done: float, calls: dict[str, int] = calls
        ) -> torch.Tensor:
            calls["n"] += network.training  # noqa: B023
            return (network(x[at])[:, 0] - y[at]) ** 2  # noqa: B023

        log = train(
            network,
            counted,
            fit_rows=np.arange(rows),
            tune_rows=np.arange(300, 400),
            settings=TrainSettings(batch_size=50, steps=steps, patience=0),
            seed=0,
            device=CPU,
        )
        assert calls["n"] == steps
        assert log.losses[-1]["step"] == steps
        assert len(log.losses) <= 150, "the tuning rows are looked at about a hundred times, not after every step"


def test_the_running_mean_of_the_weights_is_what_is_judged_and_kept() -> None:
    network, x, y = regression()
    track = []

    def tracked(rows: torch.Tensor, noise: torch.Generator, done: float) -> torch.Tensor:
        if network.training:
            track.append(network.weight.detach().clone())
        return (network(x[rows])[:, 0] - y[rows]) ** 2

    log = fit(network, tracked, epochs=4, ema=0.9, patience=0)
    mean = track[0]
    for k, weight in enumerate(track[1:]):
        decay = min(0.9, (1 + k) / (10 + k))
        mean = decay * mean + (1 - decay) * weight
    assert log.best_epoch == 4
    # The weights after the last step were not tracked: they follow from the mean, one small step from those before.
    decay = min(0.9, len(track) / (len(track) + 9))
    last = (network.weight.detach() - decay * mean) / (1 - decay)
    assert float((last - track[-1]).abs().max()) < 0.06
    with torch.no_grad():
        kept = float(((network(x[300:])[:, 0] - y[300:]) ** 2).mean())
    assert kept == pytest.approx(log.losses[-1]["tune"], rel=1e-5)


def test_the_learning_rate_falls_as_asked() -> None:
    for schedule, middle in (("constant", 1.0), ("cosine", 0.5), ("linear", 0.5)):
        settings = TrainSettings(schedule=schedule)
        assert settings.rate_factor(0.0) == 1
        assert settings.rate_factor(0.5) == pytest.approx(middle)
    assert TrainSettings(schedule="linear").rate_factor(1.0) == 0
