"""ScoEHR: published presets run whole, thresholds lose rare codes and draws do not, schedules, bad input, two stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pipeline.encoding.encoder import Encoded, EncodingSettings, TableEncoder
from pipeline.errors import ConfigError
from pipeline.features.cohort import assemble
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.generators.base import load_generator
from pipeline.generators.denoising.real_vector import RealVector
from pipeline.generators.denoising.unet import UNet, UNetShape, side_of
from pipeline.generators.latent_diffusion.coded_table import CodedTable
from pipeline.generators.scoehr import ScoEHR, ScoEHRConfig
from pipeline.generators.seeds import stream

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.cohort import Cohort

SMALL = {"unet_channels": 8, "epochs": 2, "autoencoder_epochs": 3, "sampling_steps": 3, "batch_size": 64}
BRIEF = {"steps": 60, "autoencoder_epochs": 4, "width": 32, "blocks": 1, "hidden": (32,), "sampling_steps": 4}


def coded(n: int = 200, codes: int = 12, *, binary: bool = False, columns: bool = False) -> Cohort:
    """People who have many codes or few; codes from common to rare."""
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    ill = rng.random(n)
    share = np.geomspace(0.4, 0.06, codes)
    counts = (rng.random((n, codes)) < np.minimum(2 * ill[:, None] * share, 0.95)).astype(float)
    if not binary:
        counts *= rng.integers(1, 4, (n, codes))
    extra = [
        Column(name="age", kind="continuous", dtype="float64", nullable=True),
        Column(name="sex", kind="categorical", dtype="string", levels=["f", "m"]),
    ]
    block = CodeBlock(name="dx", kind="binary" if binary else "count", vocabulary=[f"c{i}" for i in range(codes)])
    schema = TableSchema(columns=extra if columns else [], blocks=[block], unit="patient")
    age = np.where(rng.random(n) < 0.1, np.nan, np.round(20 + 60 * ill))
    cells = {"age": age, "sex": (ill > 0.5).astype(int)}
    return assemble(schema, cells if columns else {}, blocks={"dx": csr_matrix(counts)})


@pytest.mark.parametrize("preset", ["paper", "paper_ae64", "paper_no_ae", "reproduction"])
def test_published_presets_run_from_end_to_end(preset: str, tmp_path: Path) -> None:
    cohort = coded(100, columns=True, binary=preset == "paper")
    model = ScoEHR({"preset": preset, **SMALL})
    report = model.fit(cohort, seed=1, device="cpu")
    assert any("Published decoding" in w for w in report.warnings)
    drawn = model.sample(30, seed=2)
    assert drawn.n_rows == 30
    assert drawn.table.schema == cohort.schema.arrow()
    model.save(tmp_path)
    assert load_generator(tmp_path).sample(30, seed=2).table.equals(drawn.table)


def test_a_published_model_is_looked_at_in_few_steps_and_drawn_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand steps of the UNet for the rows of the health checks alone were hours of a CPU."""
    from pipeline.generators.latent_diffusion import noise_model

    real, drawn = noise_model.em, []

    def counted(*given: object) -> torch.Tensor:
        drawn.append(len(given[2]))  # type: ignore[arg-type]
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(noise_model, "em", counted)
    model = ScoEHR({"preset": "paper", **SMALL})
    report = model.fit(coded(100), seed=1, device="cpu")
    assert not drawn
    assert report.health, "it was looked at"
    model.sample(30, seed=2)
    assert drawn == [30], "people get the published sampler"


def test_the_published_network_has_the_published_size() -> None:
    assert sum(p.numel() for p in UNet(144, UNetShape()).parameters()) == pytest.approx(24.5e6, rel=0.002)
    assert [side_of(w) for w in (1, 16, 17, 64, 144, 256, 1071)] == [4, 4, 8, 8, 12, 16, 36]


def test_unet_takes_vectors_that_are_no_square() -> None:
    net = UNet(30, UNetShape(channels=8))
    x, t = torch.randn(5, 30), torch.rand(5)
    assert net(x, t).shape == (5, 30)
    torch.nn.init.normal_(net.out.weight)
    assert not torch.equal(net(x, t), net(x, 0 * t)), "the time is not heard"
    alone = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(net(x, t), alone, atol=1e-4, rtol=1e-4)


def test_published_learning_rates() -> None:
    original = ScoEHRConfig.build({"preset": "paper", "epochs": 50}).of_diffusion(1000)
    factors = [original.rate_factor(epoch / 50) for epoch in (0, 20, 21, 49)]
    np.testing.assert_allclose(factors, [1, 1, 1 - 1 / 40, 1 - 29 / 40])
    again = ScoEHRConfig.build({"preset": "reproduction", "epochs": 100}).of_diffusion(1000)
    np.testing.assert_allclose(
        [1e-3 * again.rate_factor(e / 100) for e in (0, 25, 50)], [5e-4, 4.1e-5, 3.4e-6], rtol=0.02
    )


def test_rounding_loses_what_drawing_keeps() -> None:
    """A code of which every latent says 4 %: rounded, nobody has it; drawn, 4 % have (spec 5.2)."""
    cohort = coded(400, 6, binary=True)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    vector = RealVector(encoder, numbers="minmax", counts="plain")
    said = np.full((5000, vector.width), 0.04)
    assert vector.nearest(said, stream(0)).blocks["dx"].sum() == 0
    assert vector.drawn(said, stream(0)).blocks["dx"].mean() == pytest.approx(0.04, abs=0.005)


def test_calibration_finds_the_prevalences() -> None:
    cohort = coded(1000, 20)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, stream(0))
    table = CodedTable(encoder, bins=8, linked=False)
    table.start_bias(rows)
    noise = torch.Generator().manual_seed(0)
    outputs = 1.5 * torch.randn(4000, table.width, generator=noise) - 1
    before = table.draw(outputs, noise, stream(1))
    after = table.draw(outputs + table.code_shift(outputs), noise, stream(1))
    gap = [np.abs((r.blocks["dx"] > 0).mean(axis=0) - encoder.blocks["dx"].prevalence).max() for r in (before, after)]
    assert gap[1] < 0.025 < gap[0]
    sizes = [r.blocks["dx"][r.blocks["dx"] > 0].mean() for r in (rows, before, after)]
    assert abs(sizes[2] - sizes[0]) < 0.08 < abs(sizes[1] - sizes[0])


def test_vectors_go_there_and_back() -> None:
    cohort = coded(150, 5, columns=True)
    encoder = TableEncoder.fit(cohort, EncodingSettings(rare_rows=1, atom_rows=1))
    rows = encoder.encode(cohort, stream(0))
    for numbers, counts in (("minmax", "plain"), ("score", "log1p")):
        vector = RealVector(encoder, numbers=numbers, counts=counts)  # type: ignore[arg-type]
        data = vector.rows(rows, "cpu")
        values = vector.take(data, torch.arange(rows.n)).double().numpy()
        back = vector.nearest(values, stream(1))
        assert_same(encoder, rows, back)
        mean, spread = vector.moments(data)
        np.testing.assert_allclose(mean, values.mean(axis=0), atol=1e-6)
        moved = values.std(axis=0) > 1e-6
        np.testing.assert_allclose(spread[moved], values.std(axis=0)[moved], atol=1e-5)


def assert_same(encoder: TableEncoder, a: Encoded, b: Encoded) -> None:
    """Same levels, counts and numbers."""
    np.testing.assert_array_equal(a.states["sex"], b.states["sex"])
    np.testing.assert_array_equal(a.blocks["dx"], b.blocks["dx"])
    scaler = encoder.numbers["age"].scaler
    np.testing.assert_allclose(
        scaler.from_uniform(a.uniforms["age"]), scaler.from_uniform(b.uniforms["age"]), atol=1.01
    )


def test_a_killed_training_goes_on_in_its_stage(tmp_path: Path) -> None:
    """Killed in the diffusion, the autoencoder is taken from its own file; the bytes are those of an unbroken training."""
    cohort = coded(120, 8)
    whole = ScoEHR(BRIEF)
    whole.fit(cohort, seed=3, device="cpu")
    calls: list[int] = []

    def killed(done: int, total: int, entry: object) -> None:
        calls.append(done)
        if len(calls) == 10:
            raise KeyboardInterrupt

    model = ScoEHR(BRIEF)
    with pytest.raises(KeyboardInterrupt):
        model.fit(cohort, seed=3, device="cpu", progress=killed, checkpoint=tmp_path)
    assert calls == list(range(1, 11)), "progress counts on over both stages"
    assert (tmp_path / "autoencoder.safetensors").is_file()
    calls.clear()
    model.fit(cohort, seed=3, device="cpu", progress=lambda done, *_: calls.append(done), checkpoint=tmp_path)
    assert calls[0] > 4, "the autoencoder was trained again"
    for name, weights in whole._model.state_dict().items():
        torch.testing.assert_close(weights, model._model.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "asked",
    [{"preset": "paper", "latent_dim": 100}, {"sampling_end": 0}, {"unet_channels": 10}],
)
def test_settings_that_make_no_sense(asked: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ScoEHR(asked)


@pytest.mark.parametrize("codes", [1, 6000])
def test_a_single_code_and_six_thousand(codes: int) -> None:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(1)
    counts = csr_matrix((rng.random((40, codes)) < 0.4).astype(float))
    block = CodeBlock(name="dx", kind="count", vocabulary=[f"c{i}" for i in range(codes)])
    cohort = assemble(TableSchema(columns=[], blocks=[block]), {}, blocks={"dx": counts})
    model = ScoEHR({**BRIEF, "steps": 4, "autoencoder_epochs": 1, "sampling_steps": 1})
    model.fit(cohort, seed=0, device="cpu")
    assert model.sample(50, seed=0).blocks["dx"].shape == (50, codes)
