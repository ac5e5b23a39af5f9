"""Mode-specific normalisation there and back, its table and heads, TVAE as published and as mended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import mixed_cohort, stay_cohort

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.encoding.mode_table import LikeliestHead, ModeTable, ScalarHead
from pipeline.encoding.modes import ModeCodec, NumberAxis, fit_modes
from pipeline.encoding.scalers import QuantileScaler
from pipeline.features.schema import Resolution
from pipeline.generators.tvae import TVAE, TVAEConfig

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort

PIECES = 32


def scaler(values: np.ndarray, resolution: Resolution | None = None) -> QuantileScaler:
    return QuantileScaler.fit(values, subject=np.arange(len(values)), resolution=resolution)


def two_peaks(n: int = 4000) -> np.ndarray:
    """A third around 0, the rest around 10, and a tenth exactly 5."""
    rng = np.random.default_rng(0)
    values = np.where(rng.random(n) < 1 / 3, rng.normal(0, 1, n), rng.normal(10, 2, n))
    values[: n // 10] = 5.0
    return values


def codec(values: np.ndarray, resolution: Resolution | None = None) -> tuple[ModeCodec, QuantileScaler, np.ndarray]:
    known = scaler(values, resolution)
    uniform = known.to_uniform(values, np.random.default_rng(1))
    return ModeCodec.fit(known, uniform, pieces=PIECES, has_missing=False, seed=0), known, uniform


def test_the_axis_goes_there_and_back_and_keeps_its_order() -> None:
    for values, grid in (
        (two_peaks(), None),
        (np.round(two_peaks(), 1), Resolution(kind="decimals", digits=1)),
        (np.random.default_rng(0).choice([36.1, 36.2, 36.4, 36.9, 37.0, 40.0], 500), Resolution(kind="atoms")),
    ):
        known = scaler(values, grid)
        axis = NumberAxis.of(known, PIECES)
        uniform = known.to_uniform(values, np.random.default_rng(1))
        free = uniform[axis.spike_of(uniform) < 0]
        np.testing.assert_allclose(axis.uniform(axis.place(free)), free, atol=1e-6)
        assert (np.diff(axis.places.ravel()) > 0).all()
        width = np.diff(axis.spikes, axis=1).sum() + np.diff(axis.shares, axis=1).sum()
        assert width == pytest.approx(1), "every uniform lies in a spike or between two knots"


def test_a_spike_is_a_state_and_never_a_number_of_a_mode() -> None:
    values = two_peaks()
    found, known, uniform = codec(values)
    assert len(found.axis.spikes) == 1
    states, _ = found.encode(uniform, np.random.default_rng(2))
    assert ((states == found.modes) == (values == 5.0)).all()
    draws = np.random.default_rng(3)
    mode = np.zeros(5000, dtype=int)
    out = found.decode(mode, draws.normal(0, 0.25, 5000), draws.random(5000))
    assert not (known.from_uniform(out) == 5.0).any()


def test_modes_are_those_of_the_column() -> None:
    found, _, uniform = codec(two_peaks())
    assert 2 <= found.modes <= 10
    assert found.weight.sum() == pytest.approx(1)
    low = found.weight[found.mean < 4].sum()
    assert low == pytest.approx(1 / 3, abs=0.03)
    states, scalars = found.encode(uniform, np.random.default_rng(2))
    inside = states < found.modes
    assert np.abs(scalars).max() <= 0.99
    # The scalar is a normal deviate over 4 where the mode is a Gaussian.
    assert scalars[inside].std() == pytest.approx(0.25, abs=0.05)


def test_numbers_come_back_as_they_were() -> None:
    cohort = mixed_cohort(1200)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    for name, mode in fit_modes(encoder, rows, pieces=PIECES, seed=0).items():
        states, scalars = mode.encode(rows.uniforms[name], rng)
        back = encoder.numbers[name].scaler.from_uniform(mode.decode(states, scalars, rng.random(len(states))))
        real = encoder.numbers[name].scaler.from_uniform(rows.uniforms[name])
        same = (back == real) | (np.isnan(back) & np.isnan(real))
        assert same.mean() > 0.99, name  # what lies beyond four standard deviations of its mode is clipped
        assert (states[np.isnan(real)] == mode.states - 1).all()


def test_few_values_are_states_and_few_rows_one_mode() -> None:
    rng = np.random.default_rng(0)
    found, _, _ = codec(rng.integers(0, 20, 2000).astype(float), Resolution(kind="decimals", digits=0))
    assert found.modes == 0
    assert len(found.axis.spikes) == 20
    found, _, _ = codec(rng.normal(size=30))
    assert found.modes == 1


def test_the_published_loss_of_a_scalar() -> None:
    head = ScalarHead(2)
    outputs = torch.tensor([[0.3, -0.2]])
    scalars, weight = torch.tensor([[0.5, 0.1]]), torch.tensor([[1.0, 0.0]])
    expected = (0.5 - np.tanh(0.3)) ** 2 / (2 * 0.1**2) + np.log(0.1)
    assert head.loss(outputs, scalars, weight).item() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        head.sigma.copy_(torch.tensor([3.0, -1.0]))
    head.loss(outputs, scalars, weight)
    np.testing.assert_allclose(head.sigma.detach(), [1.0, 0.01], rtol=1e-6)
    head.eval()
    drawn = head.draw(torch.zeros(20_000, 2), torch.Generator().manual_seed(0))
    np.testing.assert_allclose(drawn.std(dim=0).detach(), [1.0, 0.01], rtol=0.05)


def test_the_likeliest_level_is_not_drawn() -> None:
    logits = torch.log(torch.tensor([[0.6, 0.4, 0.1, 0.2, 0.7]])).repeat(50, 1)
    drawn = LikeliestHead([2, 3]).draw(logits, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [[0, 2]] * 50


def test_inputs_are_scalars_then_ones() -> None:
    cohort = stay_cohort(300)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, np.random.default_rng(0))
    modes = fit_modes(encoder, rows, pieces=PIECES, seed=0)
    table = ModeTable(encoder, modes, seed=5)
    data = table.tensors(rows, "cpu")
    batch = table.batch(data.take(torch.arange(40)))
    assert batch.inputs().shape == (40, table.inputs)
    assert (batch.inputs()[:, len(modes) :].sum(dim=1) == len(encoder.numbers) + len(encoder.levels)).all()
    assert (data.scores[data.seen == 0] == 0).all()
    missing = list(modes).index("bilirubin")
    assert (data.seen[torch.as_tensor(cohort.missing("bilirubin")), missing] == 0).all()
    again = table.tensors(rows, "cpu")
    assert torch.equal(data.states, again.states), "the mode of a number is drawn once"


@pytest.fixture(scope="module")
def rare() -> Cohort:
    return mixed_cohort(1500)


def test_taking_the_likeliest_loses_levels_and_drawing_keeps_them(rare: Cohort) -> None:
    quick = {"epochs": 20, "batch_size": 100, "hidden": (64,), "latent_dim": 8, "learning_rate": 4e-3}
    share = {}
    for how in ("sample", "argmax"):
        model = TVAE({"preset": "paper", **quick, "cat_decode": how})
        model.fit(rare, seed=0, device="cpu")
        share[how] = (model.sample(2000, seed=1).codes("died") == 1).mean()
    real = (rare.codes("died") == 1).mean()
    assert abs(share["sample"] - real) < 0.06
    assert share["argmax"] < share["sample"]


def test_published_training_takes_all_rows_and_all_epochs(rare: Cohort) -> None:
    model = TVAE({"preset": "paper", "epochs": 4, "batch_size": 300})
    report = model.fit(rare.take(np.arange(600)), seed=0, device="cpu")
    assert [e["step"] for e in report.losses] == [8.0, 16.0, 24.0, 32.0]  # 75 rows a step: an eighth of the rows
    assert "tune" not in report.losses[0]
    assert report.health["best_epoch"] == 4


def test_the_paper_preset_is_the_publication() -> None:
    paper = TVAEConfig.build({"preset": "paper"})
    assert (paper.hidden, paper.latent_dim, paper.epochs, paper.batch_size) == ((128, 128), 128, 300, 500)
    assert (paper.learning_rate, paper.weight_decay, paper.beta, paper.patience) == (1e-3, 1e-5, 0.5, 0)
    assert (paper.cat_decode, paper.prior) == ("argmax", "standard")


def test_under_privacy_numbers_are_pieces_and_no_mixture_is_fitted() -> None:
    """A mixture fitted to the rows would be outside the budget."""
    from pipeline.privacy.spec import TrainingPrivacy

    model = TVAE({"private_epochs": 1.0})
    report = model.fit(mixed_cohort(800), seed=0, device="cpu", privacy=TrainingPrivacy(epsilon=5.0))
    assert report.privacy is not None
    assert model._modes is None
    drawn = model.sample(100, seed=1)
    assert drawn.n_rows == 100
