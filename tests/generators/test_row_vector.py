"""Rows as vectors for noise processes: layout, likelihoods with a noisy vector's own word, and rows drawn back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generator_tables import code_cohort, mixed_cohort

from pipeline.encoding.encoder import Encoded, EncodingSettings, TableEncoder
from pipeline.generators.denoising.network import ResMLP, time_features
from pipeline.generators.denoising.row_vector import Noisy, RowVector
from pipeline.generators.seeds import stream
from pipeline.generators.training import repeatable, torch_stream

CPU = torch.device("cpu")


def encoded(cohort: object) -> tuple[TableEncoder, Encoded]:
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    return encoder, encoder.encode(cohort, stream(0, "encode"))


def noisy(x: torch.Tensor, time: float, seed: int = 0) -> Noisy:
    e = torch.randn(x.shape, generator=torch_stream(seed, "noise"))
    shape = (len(x), 1)
    return Noisy(time * x + (1 - time) * e, torch.full(shape, time), torch.full(shape, 1 - time))


@pytest.mark.parametrize("numeric", ["binned", "gaussian"])
def test_a_vector_holds_the_row_and_the_mean_is_on_its_scale(numeric: str) -> None:
    encoder, rows = encoded(mixed_cohort(1500))
    vector = RowVector(encoder, numeric=numeric)
    bias, data = vector.start_bias(rows), vector.tensors(rows, CPU)
    x = vector.clean(data)
    assert x.shape == (1500, vector.width)
    assert bias.shape == (vector.head_width,)
    stops = [s.stop for s in (vector.groups.numbers, vector.groups.bits, vector.groups.levels, vector.groups.codes)]
    assert stops == [6, 7, stops[2], vector.width]
    assert set(x[:, vector.groups.bits.start : vector.groups.levels.stop].unique().tolist()) == {-1.0, 1.0}
    glucose = list(vector.table.edges).index("glucose")
    assert torch.equal(x[:, glucose] == 0, x[:, vector.groups.bits][:, 0] == 1)
    # Untrained, the mean is that of the training rows; told a row almost without noise, it is that row.
    outputs = bias.expand(1500, -1)
    free = vector.mean(outputs)
    assert float((free[0] - x.mean(dim=0)).abs().max()) < 0.03
    told = vector.mean(outputs, noisy(x, 0.995))
    assert float((told - x)[:, vector.groups.bits.start :].abs().max()) < 1e-3
    assert float((told - x)[:, vector.groups.numbers].abs().median()) < (0.004 if numeric == "binned" else 0.008)


def test_its_own_word_is_bayes_rule() -> None:
    """For one number alone the posterior mean and the likelihood must be those of numerical integration."""
    encoder, rows = encoded(mixed_cohort(1500))
    vector = RowVector(encoder, bins=16)
    bias, data = vector.start_bias(rows), vector.tensors(rows, CPU)
    x = vector.clean(data)
    place = list(vector.table.edges).index("glucose")
    bit = vector.coordinates["glucose"][1]
    for time in (0.1, 0.5, 0.9):
        seen = noisy(x[:40], time)
        found = vector.mean(bias.expand(40, -1), seen)
        # Every training row is an endpoint as likely as any other; what is left is its own piece's spread.
        ends, own = x.double(), seen.x.double()
        both = [place, bit]
        fit = -((own[:, None, both] - time * ends[None, :, both]) ** 2).sum(dim=2) / (2 * (1 - time) ** 2)
        chance = torch.softmax(fit, dim=1)
        assert float((found[:, bit] - chance @ ends[:, bit]).abs().max()) < 0.02
        assert float((found[:, place] - chance @ ends[:, place]).abs().mean()) < (0.05 if time < 0.9 else 0.08)


def test_likelihoods_are_finite_and_fall_with_the_noise_however_little_there_is() -> None:
    encoder, rows = encoded(mixed_cohort(1500))
    vector = RowVector(encoder)
    outputs, data = vector.start_bias(rows).expand(1500, -1), vector.tensors(rows, CPU)
    x = vector.clean(data)
    losses = [float(vector.loss(outputs, data, noisy(x, t)).mean()) for t in (0.0, 0.3, 0.7, 0.95, 0.999)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == pytest.approx(float(vector.loss(outputs, data).mean()), rel=1e-3)
    assert 0 <= losses[-1] < 0.3


def test_rows_drawn_from_an_untrained_network_have_the_margins() -> None:
    for cohort in (mixed_cohort(1500), code_cohort(1500)):
        encoder, rows = encoded(cohort)
        vector = RowVector(encoder)
        outputs = vector.start_bias(rows).expand(3000, -1)
        drawn = vector.draw(outputs, torch_stream(0, "draw"), stream(0, "draw"))
        for name in encoder.levels:
            real = np.bincount(rows.states[name], minlength=8) / rows.n
            assert np.abs(np.bincount(drawn.states[name], minlength=8) / 3000 - real).max() < 0.04
        for name in encoder.numbers:
            assert abs(np.nanmean(drawn.uniforms[name]) - np.nanmean(rows.uniforms[name])) < 0.03
        for name, block in encoder.blocks.items():
            assert np.abs((drawn.blocks[name] > 0).mean(0) - block.prevalence).max() < 0.04
            assert np.abs(drawn.blocks[name].mean(0) - rows.blocks[name].mean(0)).max() < 0.2
            assert (drawn.blocks[name] <= block.cap).all()


def test_codes_come_back_from_a_vector_with_little_noise() -> None:
    encoder, rows = encoded(code_cohort(400))
    vector = RowVector(encoder)
    outputs, data = vector.start_bias(rows).expand(400, -1), vector.tensors(rows, CPU)
    drawn = vector.draw(outputs, torch_stream(0, "draw"), stream(0, "draw"), noisy(vector.clean(data), 0.97))
    for name, places in vector.common.items():
        same = (drawn.blocks[name] > 0)[:, places] == (rows.blocks[name] > 0)[:, places]
        assert same.mean() > 0.999
    few = rows.blocks["drugs"] < 4
    assert (drawn.blocks["drugs"] == rows.blocks["drugs"])[few].mean() > 0.95


def test_tables_without_one_kind_of_column() -> None:
    whole = mixed_cohort(300)
    for kinds in (("continuous", "count", "datetime"), ("binary", "categorical", "ordinal")):
        schema = whole.schema.model_copy(update={"columns": [c for c in whole.schema.columns if c.kind in kinds]})
        part = type(whole)(table=whole.table.select(schema.names), schema=schema, subject=whole.subject)
        encoder, rows = encoded(part)
        vector = RowVector(encoder)
        outputs, data = vector.start_bias(rows).expand(300, -1), vector.tensors(rows, CPU)
        seen = noisy(vector.clean(data), 0.5)
        assert torch.isfinite(vector.loss(outputs, data, seen)).all()
        assert vector.mean(outputs, seen).shape == seen.x.shape
        assert vector.draw(outputs, torch_stream(0, "d"), stream(0, "d"), seen).n == 300


def test_the_network_starts_at_its_bias_and_hears_time_and_condition() -> None:
    for film in ("additive", "full"):
        with repeatable(0):
            network = ResMLP(5, 3, 16, 2, film, condition=2)
        x, time = torch.randn(4, 5), torch.linspace(0, 1000, 4)
        assert torch.equal(network(x, time, torch.ones(4, 2)), torch.zeros(4, 3))
        torch.nn.init.normal_(network.last.weight)
        assert not torch.allclose(network(x, time, torch.ones(4, 2)), network(x, time, torch.zeros(4, 2)))
        assert not torch.allclose(network(x, time), network(x, time + 1))
    features = time_features(torch.tensor([0.0, 3.0]))
    assert features.shape == (2, 128)
    assert torch.equal(features[0], torch.cat([torch.zeros(64), torch.ones(64)]))
