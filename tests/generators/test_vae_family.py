"""The variational autoencoders: the published collapse and its cure, conditions, schedules, portraits, private training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pipeline.encoding.links import ColumnLinks
from pipeline.encoding.standardised import StandardisedTable, moments
from pipeline.errors import ConfigError, TrainingError, UnsupportedError
from pipeline.features.cohort import assemble
from pipeline.features.schema import Column, Resolution, TableSchema
from pipeline.generators.base import load_generator
from pipeline.generators.cvae import CVAE
from pipeline.generators.synthvae import SynthVAE
from pipeline.generators.vae import VAE
from pipeline.generators.variational.prior import MixturePrior
from pipeline.generators.variational.schedules import BetaSchedule
from pipeline.privacy.spec import TrainingPrivacy
from pipeline.workflow.portraits import stored_portraits, write_portraits

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.cohort import Cohort

FAST = {"epochs": 30, "batch_size": 128, "learning_rate": 3e-3}


def toy(n: int = 2000, seed: int = 7) -> Cohort:
    """Seven columns of the shape of the framework paper's table: an age in 0..1, flags, a sex (spec 2.2)."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    schema = TableSchema(
        columns=[
            Column(name="age", kind="continuous", dtype="float64", resolution=Resolution(kind="decimals", digits=3)),
            Column(name="dose", kind="continuous", dtype="float64"),
            Column(name="flag", kind="binary", dtype="bool", levels=[False, True]),
            Column(name="sex", kind="categorical", dtype="string", levels=["f", "m"], role="protected"),
            Column(name="stage", kind="ordinal", dtype="int64", levels=[0, 1, 2]),
        ]
    )
    columns = {
        "age": np.round(np.clip(0.43 + 0.2 * z + 0.1 * rng.standard_normal(n), 0, 1), 3),
        "dose": np.exp(0.5 * z + 0.3 * rng.standard_normal(n)),
        "flag": (rng.random(n) < 0.02).astype(int),
        "sex": (z + rng.standard_normal(n) > 0.3).astype(int),
        "stage": np.clip(np.rint(z + 1 + 0.5 * rng.standard_normal(n)), 0, 2).astype(int),
    }
    return assemble(schema, columns)


@pytest.fixture(scope="module")
def rows() -> Cohort:
    return toy()


@pytest.fixture(scope="module")
def fitted(rows: Cohort) -> VAE:
    model = VAE(FAST)
    model.fit(rows, seed=1)
    return model


def spread(cohort: Cohort, name: str) -> float:
    return float(np.std(cohort.values(name) if name in ("age", "dose") else cohort.codes(name)))


def test_the_published_configuration_still_collapses(rows: Cohort) -> None:
    model = VAE({"preset": "paper", "epochs": 12})
    report = model.fit(rows, seed=1)
    assert spread(model.sample(2000, seed=2), "age") / spread(rows, "age") < 0.2
    assert any("Known to collapse" in w for w in report.warnings)


def test_the_default_keeps_spread_and_dependence(rows: Cohort, fitted: VAE) -> None:
    drawn = fitted.sample(3000, seed=2)
    for name in ("age", "dose", "sex", "stage"):
        assert 0.8 < spread(drawn, name) / spread(rows, name) < 1.25, name
    real, made = (np.corrcoef(c.values("age"), c.codes("stage"))[0, 1] for c in (rows, drawn))
    assert abs(real - made) < 0.08
    assert abs(np.mean(drawn.codes("flag")) - 0.02) < 0.015


def test_a_sharp_change_inside_a_piece_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who died has 340 days or more; in four even pieces that is blurred."""
    rng = np.random.default_rng(5)
    died = rng.random(2000) < 0.6
    days = np.where(died, rng.integers(1, 340, 2000), rng.integers(340, 900, 2000))
    columns = [
        Column(name="days", kind="count", dtype="int64"),
        Column(name="died", kind="binary", dtype="bool", levels=[False, True]),
    ]
    real = assemble(TableSchema(columns=columns), {"days": days.astype(float), "died": died.astype(int)})
    wrong = []
    for cut in (True, False):
        if not cut:
            monkeypatch.setattr("pipeline.generators.vae.level_cuts", lambda *_: {})
        model = VAE({**FAST, "numeric_bins": 4})
        model.fit(real, seed=1)
        drawn = model.sample(4000, seed=2)
        wrong.append(np.mean((drawn.values("days") >= 340) & (drawn.codes("died") == 1)))
    assert wrong[0] < 0.5 * wrong[1]


def test_every_row_is_learned_from_where_none_stops_the_training(rows: Cohort) -> None:
    """The last weights are kept then; the published configurations keep the best of theirs."""
    report = VAE({**FAST, "epochs": 3, "patience": 0}).fit(rows, seed=1)
    assert report.health["best_epoch"] == 3
    assert all("tune" not in entry for entry in report.losses)
    assert not VAE({"patience": 0})._tuning(rows).any()
    assert VAE({"preset": "exp1"})._tuning(rows).any()


def test_links_carry_what_latents_do_not(rows: Cohort) -> None:
    """With a beta at which no latent is used, columns still depend on each other; without links they do not."""
    found = {}
    for linked in (True, False):
        model = VAE({**FAST, "epochs": 15, "beta": 50.0, "beta_schedule": "constant", "linked": linked})
        report = model.fit(rows, seed=1)
        assert report.health["active_units"] == 0
        assert any("latents are not used" in w for w in report.warnings)
        drawn = model.sample(2000, seed=2)
        found[linked] = np.corrcoef(drawn.values("age"), drawn.codes("stage"))[0, 1]
    assert found[True] > 0.3
    assert abs(found[False]) < 0.1


def test_a_column_sees_earlier_columns_only() -> None:
    links = ColumnLinks([[0], [1], [2]], [slice(0, 2), slice(2, 4), slice(4, 6)], [2, 0, 1], width=3, total=8)
    with torch.no_grad():
        links.weight.fill_(1.0)
    reached = (links.forward(torch.eye(3)) != 0).T  # (outputs, inputs)
    assert reached[4:6].sum() == 0, "the first in the order sees none"
    assert reached[0].tolist() == [False, False, True]
    assert reached[2].tolist() == [True, False, True]
    assert reached[6:].all(), "what belongs to no column sees all"


@pytest.mark.parametrize(("name", "value"), [("sex", "m"), ("stage", 2), ("age", 0.5)])
def test_conditions_of_cvae_hold_in_every_row(cvae: CVAE, name: str, value: Any) -> None:
    drawn = cvae.sample(400, seed=3, conditions={name: value})
    found = drawn.table.column(name).to_pylist()
    assert found == [value] * 400


@pytest.fixture(scope="module")
def cvae(rows: Cohort) -> CVAE:
    model = CVAE({**FAST, "conditions": ("sex", "age")})
    model.fit(rows, seed=1)
    return model


def test_conditions_of_cvae_need_no_rejection_and_are_followed(
    cvae: CVAE, rows: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("rejection was used")

    monkeypatch.setattr("pipeline.generators.cvae.draw_matching", refuse)
    import pandas as pd

    asked = pd.DataFrame({"sex": ["f", "m"] * 500, "age": np.repeat([0.15, 0.75], 500)})
    drawn = cvae.sample(1000, seed=4, conditions=asked)
    assert drawn.table.column("sex").to_pylist() == asked["sex"].tolist()
    np.testing.assert_allclose(drawn.values("age"), asked["age"])
    young, old = drawn.codes("stage")[:500].mean(), drawn.codes("stage")[500:].mean()
    real = [rows.codes("stage")[np.abs(rows.values("age") - a) < 0.05].mean() for a in (0.15, 0.75)]
    assert abs(young - real[0]) < 0.25
    assert abs(old - real[1]) < 0.25
    with pytest.raises(AssertionError, match="rejection"):
        cvae.sample(10, seed=4, conditions={"stage": 1})


def test_cvae_without_conditions_draws_the_joint(cvae: CVAE, rows: Cohort) -> None:
    drawn = cvae.sample(3000, seed=5)
    assert abs(drawn.codes("sex").mean() - rows.codes("sex").mean()) < 0.04
    assert 0.8 < spread(drawn, "age") / spread(rows, "age") < 1.25


def test_cvae_takes_protected_columns_and_labels_by_default(rows: Cohort) -> None:
    assert CVAE()._columns(rows.schema) == ["sex"]
    with pytest.raises(ConfigError, match="agee"):
        CVAE({**FAST, "conditions": ("agee",)}).fit(rows, seed=0)


def test_schedules_rise_to_beta_and_say_when_they_have_settled() -> None:
    linear = BetaSchedule(2.0, "linear", warmup=0.2)
    assert [linear.at(x) for x in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([0, 1, 2, 2])
    cyclical = BetaSchedule(1.0, "cyclical", cycles=4)
    assert [cyclical.at(x) for x in (0.0, 0.0625, 0.125, 0.24, 0.25, 1.0)] == pytest.approx([0, 0.5, 1, 1, 0, 1])
    assert all(cyclical.at(x) == 1 for x in np.linspace(cyclical.settled, 1, 9))
    assert BetaSchedule(0.5, "constant").at(0.0) == 0.5


@pytest.mark.parametrize("schedule", ["cyclical", "constant"])
def test_other_schedules_dropout_and_depth_train(rows: Cohort, schedule: str) -> None:
    settings = {"preset": "deep", "epochs": 12, "beta_schedule": schedule, "dropout": 0.2, "weight_decay": 0.01}
    model = VAE({**settings, "learning_rate": 3e-3, "batch_size": 128})
    model.fit(rows, seed=1)
    assert 0.8 < spread(model.sample(2000, seed=2), "age") / spread(rows, "age") < 1.25


def test_mixture_weights_follow_groups() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1], 2000)
    points = rng.standard_normal((4000, 2)) + 6 * group[:, None]
    prior = MixturePrior.fit(points, components=2, rows=4000, seed=0, groups=group, known=2)
    drawn = prior.draw(1000, rng, np.repeat([0, 1], 500))
    np.testing.assert_allclose(drawn[:500].mean(axis=0), 0, atol=0.3)
    np.testing.assert_allclose(drawn[500:].mean(axis=0), 6, atol=0.3)
    assert abs(prior.draw(2000, rng).mean() - 3) < 0.4, "rows of no known group take the overall weights"


def test_portraits_are_aggregates_and_repeat_themselves(fitted: VAE, rows: Cohort, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    fitted.save(tmp_path / "model")
    texts = []
    for k in range(2):
        folder = tmp_path / f"version{k}" / "portraits"
        folder.mkdir(parents=True)
        write_portraits(tmp_path / "model", folder)
        texts.append({p.name: p.read_text() for p in sorted(folder.iterdir())})
    assert texts[0] == texts[1]
    shown = stored_portraits(tmp_path / "version0")
    assert "reconstruction" in shown
    assert all(svg.startswith("<svg") for svg in shown.values())
    values = {f"{x!r}" for x in rows.values("dose")}
    for name, text in texts[0].items():
        if name.endswith(".json"):
            numbers = [x for part in json.loads(text)["numbers"].values() for x in part]
            assert not {repr(x) for x in numbers} & values
            assert len(numbers) < 500
    agreed = json.loads(texts[0]["reconstruction.json"])["bars"]
    assert set(agreed) == {"age", "dose", "flag", "sex", "stage"}
    assert agreed["age"] > 0.5
    assert load_generator(tmp_path / "model").portraits().keys() == fitted.portraits().keys()


def test_traversals_move_what_the_latents_carry(fitted: VAE) -> None:
    portraits = [p for name, p in fitted.portraits().items() if name.startswith("latent")]
    assert max(np.ptp(p.numbers["age"]) for p in portraits) > 0.3


def test_standardised_numbers_go_there_and_back(rows: Cohort) -> None:
    model = SynthVAE({"preset": "nhsx_report", "epochs": 4})
    model.fit(rows, seed=1)
    table, encoder = model._net.table, model.encoder
    assert isinstance(table, StandardisedTable)
    assert encoder is not None
    scaler = encoder.numbers["dose"].scaler
    mean, sd = moments(scaler)
    assert mean == pytest.approx(rows.values("dose").mean(), rel=0.02)
    assert sd == pytest.approx(rows.values("dose").std(), rel=0.05)
    numbers = scaler.snap(np.quantile(rows.values("dose"), [0.05, 0.5, 0.9]))
    start, end = scaler.interval(numbers)
    there = table._scaled("dose", (start + end) / 2)
    back = scaler.from_uniform(table._unscaled("dose", there, np.full(3, 0.5)))
    np.testing.assert_allclose(back, numbers, rtol=0.02)


def test_the_report_learns_from_every_row_by_chance(rows: Cohort) -> None:
    config = SynthVAE({"preset": "nhsx_report"}).config
    assert (config.hidden, config.latent_dim, config.activation, config.epochs) == ((32, 32), 2, "tanh", 60)
    settings = config.training(8873)
    assert settings.poisson
    assert settings.batch_size == 32
    assert not SynthVAE({"preset": "nhsx_report"})._tuning(rows).any()
    assert SynthVAE()._tuning(rows).any()


def test_synthvae_default_keeps_spread(rows: Cohort) -> None:
    model = SynthVAE(FAST)
    model.fit(rows, seed=1)
    drawn = model.sample(3000, seed=2)
    for name in ("age", "dose", "sex"):
        assert 0.8 < spread(drawn, name) / spread(rows, name) < 1.25, name


def test_a_loss_that_is_never_finite_is_refused(rows: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VAE, "_charged", lambda self, mean, log_var: mean.sum(dim=1) * np.nan)
    with pytest.raises(TrainingError, match="not finite"):
        VAE(FAST).fit(rows, seed=1)


@pytest.mark.parametrize("kind", [VAE, CVAE, SynthVAE])
def test_private_training_keeps_its_budget_and_its_margins(rows: Cohort, kind: type[VAE], tmp_path: Path) -> None:
    model = kind({"private_epochs": 6, "private_batch_size": 256})
    report = model.fit(rows, seed=1, privacy=TrainingPrivacy(epsilon=6.0))
    assert report.privacy is not None
    assert report.privacy["epsilon"] == pytest.approx(6.0, abs=0.05)
    assert report.losses == [], "a loss curve would look at the data"
    assert model.portraits() == {}
    assert not model._cuts, "they are told from rows, for which nobody has paid"
    drawn = model.sample(1500, seed=2)
    assert abs(drawn.codes("sex").mean() - rows.codes("sex").mean()) < 0.1
    assert 0.6 < spread(drawn, "age") / spread(rows, "age") < 1.5
    model.save(tmp_path)
    assert load_generator(tmp_path).sample(50, seed=3).table == model.sample(50, seed=3).table


def test_the_published_likelihood_is_not_trained_privately(rows: Cohort) -> None:
    with pytest.raises(UnsupportedError, match="published likelihood"):
        VAE({"preset": "exp2"}).fit(rows, seed=1, privacy=TrainingPrivacy(epsilon=6.0))
