"""EHRDiff: margins after calibration, the published preset, its schedule, tables of one kind only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import mixed_cohort
from test_scoehr import coded

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.generators.base import load_generator
from pipeline.generators.denoising.margins import Margins
from pipeline.generators.denoising.preconditioned import Denoiser
from pipeline.generators.denoising.real_vector import RealVector
from pipeline.generators.ehrdiff import EHRDiff, EHRDiffConfig
from pipeline.generators.seeds import stream

if TYPE_CHECKING:
    from pathlib import Path

BRIEF = {"steps": 40, "width": 32, "blocks": 1, "sampling_steps": 3}


def test_margins_are_brought_back() -> None:
    """Vectors that are off everywhere: too high bits, too low counts, numbers on another scale."""
    cohort = coded(800, 10, columns=True)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, stream(0))
    vector = RealVector(encoder, numbers="score", counts="log1p")
    clean = vector.take(vector.rows(rows, "cpu"), torch.arange(rows.n)).double().numpy()
    off = 0.6 * clean + 0.1 + 0.05 * stream(1).standard_normal(clean.shape)
    means = {"dx": rows.blocks["dx"][:, vector.common["dx"]].mean(axis=0)}
    margins = Margins.fit(vector, off, means)
    back = vector.drawn(margins.apply(vector, off), stream(2))
    shares = [np.bincount(r.states["sex"], minlength=2) / r.n for r in (rows, back)]
    np.testing.assert_allclose(*shares, atol=0.04)
    assert abs(np.isnan(back.uniforms["age"]).mean() - np.isnan(rows.uniforms["age"]).mean()) < 0.03
    assert np.nanmean(back.uniforms["age"]) == pytest.approx(0.5, abs=0.03)
    assert np.nanstd(back.uniforms["age"]) == pytest.approx(12**-0.5, abs=0.03)
    np.testing.assert_allclose(back.blocks["dx"].mean(axis=0), rows.blocks["dx"].mean(axis=0), atol=0.08)
    plain = vector.drawn(off, stream(2))
    assert abs(plain.blocks["dx"].mean() - rows.blocks["dx"].mean()) > 0.03, "there was nothing to bring back"


def test_the_loss_is_the_weighted_error_of_the_denoised_row() -> None:
    """weight(s) |D(x) - row|^2 of Karras et al., computed as the error of the network's own target."""
    model = Denoiser(7, EHRDiffConfig(**{"width": 16, "blocks": 1}).shape())
    torch.nn.init.normal_(model.backbone.last.weight)  # type: ignore[union-attr, arg-type]
    model.data.fill_(0.5)
    rows = 0.5 * torch.randn(400, 7, generator=torch.Generator().manual_seed(0))
    found = model.loss(rows, torch.Generator().manual_seed(1))
    noise, schedule = torch.Generator().manual_seed(1), model.schedule
    s = schedule.drawn(400, noise, "cpu")
    x = rows + s[:, None] * torch.randn(rows.shape, generator=noise)
    said = model.backbone(schedule.into(s)[:, None] * x, schedule.shown(s))
    clean = schedule.skip(s)[:, None] * x + schedule.out(s)[:, None] * said
    torch.testing.assert_close(found, schedule.weight(s) * ((clean - rows) ** 2).mean(dim=1), rtol=1e-3, atol=1e-4)


def test_the_published_preset(tmp_path: Path) -> None:
    cohort = coded(120, columns=True)
    model = EHRDiff({"preset": "paper", "epochs": 2, "hidden": (16, 8, 16), "time_width": 8, "sampling_steps": 3})
    report = model.fit(cohort, seed=0, device="cpu")
    assert any("Published decoding" in w for w in report.warnings)
    assert 0.1 < float(model._model.data) < 2, "the data's own spread, not 0.14"
    drawn = model.sample(40, seed=1)
    model.save(tmp_path)
    assert load_generator(tmp_path).sample(40, seed=1).table.equals(drawn.table)


def test_the_learning_rate_rises_and_falls() -> None:
    settings = EHRDiffConfig.build({"preset": "paper", "epochs": 5000}).training(32_000)
    assert settings.total_steps(32_000) == 160_000
    assert [round(settings.rate_factor(d), 3) for d in (0.0625, 0.125, 1.0)] == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("kept", [["age"], ["sex"], []])
def test_tables_of_one_kind(kept: list[str]) -> None:
    """No level, no number, nothing but codes; more rows than the training had."""
    from pipeline.features.cohort import assemble
    from pipeline.features.schema import TableSchema

    cohort = coded(40, 5, columns=True)
    columns = [c for c in cohort.schema.columns if c.name in kept]
    cells = {c.name: cohort.codes(c.name) if c.discrete else cohort.values(c.name) for c in columns}
    blocks = [] if kept else cohort.schema.blocks
    table = assemble(TableSchema(columns=columns, blocks=blocks), cells, blocks={} if kept else cohort.blocks)
    model = EHRDiff(BRIEF)
    model.fit(table, seed=0, device="cpu")
    assert model.sample(100, seed=0).n_rows == 100


def test_dependence_is_learned() -> None:
    """Independent columns would be at 0; so short a training comes half of the way."""
    cohort = mixed_cohort(1500)
    model = EHRDiff({"steps": 700, "width": 96, "blocks": 2, "batch_size": 128, "learning_rate": 3e-3})
    model.fit(cohort, seed=0, device="cpu")
    names = [c.name for c in cohort.schema.modelled() if c.numeric][:2]
    real, drawn = (
        float(np.ma.corrcoef(np.ma.masked_invalid([t.values(k) for k in names]))[0, 1])
        for t in (cohort, model.sample(1500, seed=1))
    )
    assert real > 0.7
    assert drawn > 0.45
