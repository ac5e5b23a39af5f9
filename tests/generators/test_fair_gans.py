"""Triple-GAN, Bt-GAN and FairGAN: their parts against direct computation, and what they promise on people of a biased world."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import stay_cohort
from torch.nn import functional

from pipeline.errors import ConfigError, UnsupportedError
from pipeline.features.cohort import assemble
from pipeline.features.schema import Column, TableSchema
from pipeline.generators.adversarial.information import Estimator, Statistic, bound, table_information
from pipeline.generators.adversarial.named_columns import CERTAIN, TellingNet
from pipeline.generators.adversarial.networks import LeakyCritic
from pipeline.generators.adversarial.rejection_filter import RejectionFilter, odds
from pipeline.generators.adversarial.subgroups import (
    MOST_RATIO,
    Groups,
    adapted,
    category,
    disparities,
    independent,
    information,
    weights,
)
from pipeline.generators.base import PrivacySpec, load_generator
from pipeline.generators.bt_gan import BtGAN, BtGANMinus
from pipeline.generators.fairgan import FairGAN
from pipeline.generators.triple_gan import Classifier, TripleGAN

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

QUICK = {"preset": "quick", "steps": 500, "batch_size": 200, "learning_rate": 2e-3}
TINY = {"preset": "quick", "steps": 12}


def biased(n: int = 2000, *, unlabelled: float = 0.0, roles: bool = True, seed: int = 0) -> Cohort:
    """A fifth are of the group, which has the outcome more than twice as often; a proxy agrees with it in 95 %."""
    rng = np.random.default_rng(seed)
    group = (rng.random(n) < 0.2).astype(int)
    proxy = np.where(rng.random(n) < 0.95, group, 1 - group)
    x = rng.standard_normal(n)
    label = (rng.random(n) < 1 / (1 + np.exp(-(1.5 * x + np.where(group == 1, -0.5, -2.4))))).astype(int)
    label[rng.random(n) < unlabelled] = -1
    columns = [
        Column(name="x", kind="continuous", dtype="float64"),
        Column(name="proxy", kind="binary", dtype="bool", levels=[False, True]),
        Column(
            name="group",
            kind="categorical",
            dtype="string",
            levels=["many", "few"],
            role="protected" if roles else "feature",
        ),
        Column(
            name="ill",
            kind="binary",
            dtype="bool",
            levels=[False, True],
            nullable=unlabelled > 0,
            role="label" if roles else "feature",
        ),
    ]
    cells = {"x": np.round(x, 2), "proxy": proxy, "group": group, "ill": label}
    return assemble(TableSchema(columns=columns), cells)


def table(rows: Cohort, a: str, b: str) -> NDArray[np.int64]:
    return np.histogram2d(rows.codes(a), rows.codes(b), bins=[[-0.5, 0.5, 1.5]] * 2)[0].astype(np.int64)


# ---- information


def test_information_of_a_table_is_that_of_its_counts() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 3, 400), rng.integers(0, 4, 400)
    b = np.where(a == 1, b, 0)
    counts = np.zeros((3, 4))
    np.add.at(counts, (a, b), 1)
    joint = counts / 400
    direct = sum(
        joint[i, j] * log(joint[i, j] / (joint[i].sum() * joint[:, j].sum()))
        for i in range(3)
        for j in range(4)
        if joint[i, j]
    )
    ones = [functional.one_hot(torch.as_tensor(v), k).double() for v, k in ((a, 3), (b, 4))]
    assert float(table_information(*ones)) == pytest.approx(direct, abs=1e-9)
    assert information(counts) == pytest.approx(direct, abs=1e-12)
    assert float(table_information(ones[0], ones[1].mean(dim=0).expand(400, 4))) == pytest.approx(0, abs=1e-9)


def test_information_has_a_finite_gradient_that_lowers_it() -> None:
    a = functional.one_hot(torch.tensor([0, 0, 1, 1]), 2).double()
    b = a.clone().requires_grad_(True)
    before = table_information(a, b)
    (gradient,) = torch.autograd.grad(before, b)
    assert bool(torch.isfinite(gradient).all())
    mixed = 0.9 * a + 0.1 * a.flip(0)
    assert float(table_information(a, mixed)) < float(before.detach())


def test_mine_rises_to_what_is_there_and_not_above() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    a = functional.one_hot(torch.randint(2, (2000,), generator=generator), 2).float()
    flip = torch.rand(2000, 1, generator=generator) < 0.1
    b = torch.where(flip, 1 - a, a)
    estimator = Estimator(Statistic(4, (16, 16)))
    torn = lambda: b[torch.randperm(len(b), generator=generator)]  # noqa: E731
    step = torch.optim.Adam(estimator.statistic.parameters(), lr=5e-3)
    first = float(estimator.loss(a, b, torn()))
    for _ in range(150):
        loss = estimator.loss(a, b, torn())
        step.zero_grad()
        loss.backward()
        step.step()
    truth = float(table_information(a, b))
    assert first > float(loss), "T learns by raising the bound, which is minus its loss"
    assert truth * 0.7 < -float(loss) < truth + 0.03
    assert float(estimator.information(a, b, torn())) == pytest.approx(-float(loss), abs=0.05)
    assert float(bound(torch.zeros(5), torch.zeros(7))) == pytest.approx(0, abs=1e-6)


# ---- groups out of proportion


def test_disparities_and_weights_of_the_example() -> None:
    """Four groups, real (.5, .3, .15, .05), drawn (.58, .28, .12, .02)."""
    real = np.array([[500_000], [300_000], [150_000], [50_000]])
    drawn = np.array([[580_000], [280_000], [120_000], [20_000]])
    np.testing.assert_allclose(disparities(drawn, real)[:, 0], [0.32, -0.10, -0.26, -0.95], atol=5e-3)
    mass = (weights(drawn, real) * real)[:, 0]
    np.testing.assert_allclose(mass / mass.sum(), [0.356, 0.325, 0.191, 0.127], atol=1.5e-3)
    named = [category(x, 1) for x in (-0.95, -0.15, 0.0, 0.15, 0.32)]
    assert named == ["missing", "under", "adequate", "over", "over+"]
    assert category(0.5, 0) == "missing"


def test_weights_are_bounded_and_empty_cells_finite() -> None:
    real = np.array([[900, 60], [38, 2]])
    drawn = np.array([[100_000, 0], [1, 0]])
    found = weights(drawn, real)
    assert np.isfinite(found).all()
    assert found.max() / found.min() <= MOST_RATIO * (1 + 1e-9)
    assert np.average(found, weights=real) == pytest.approx(1)
    assert found[1, 0] > found[0, 0]


def test_adapted_weights_leave_alone_what_may_be_chance() -> None:
    real = np.array([[500, 300], [150, 50]])
    np.testing.assert_allclose(adapted(np.ones((2, 2)), real, real), 1)
    off = adapted(np.ones((2, 2)), np.array([[5800, 2800], [1200, 200]]), 10 * real)
    assert off[1, 1] > off[0, 0]
    np.testing.assert_array_equal(independent(np.array([[60, 20], [15, 5]])), [[60, 20], [15, 5]])


def test_told_columns_come_out_as_told_whatever_the_noise() -> None:
    torch.manual_seed(0)
    net = TellingNet(5, (8,), 6, torch.tensor([3, 4])).eval()
    told = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    out = net(torch.cat([torch.randn(2, 3), told], dim=1))
    np.testing.assert_array_equal(out[:, 3:5].detach(), [[0, -CERTAIN], [-CERTAIN, 0]])


def test_classifier_does_not_see_the_label_and_never_says_missing() -> None:
    torch.manual_seed(0)
    net = Classifier(5, (8,), slice(2, 5), torch.tensor([True, True, False]))
    rows = torch.randn(4, 5)
    other = rows.clone()
    other[:, 2:5] = 1.0
    assert torch.equal(net(rows), net(other))
    assert float(torch.softmax(net(rows), dim=1)[:, 2].max()) == 0


def test_rows_are_accepted_by_their_odds_half_of_each_stratum() -> None:
    """sigmoid(F) of p = exp(l - M) is p / (1 - p) over 1 + that, which is p itself, before gamma."""
    p = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(1 / (1 + np.exp(-odds(np.log(p) + 3.0, 3.0))), p, atol=1e-5)
    assert np.isfinite(odds(np.array([3.0, 5.0]), 3.0)).all()
    critic = LeakyCritic(2, ())
    with torch.no_grad():
        critic.last.weight.copy_(torch.tensor([[1.0, 4.0]]))
        critic.last.bias.zero_()
    rng = np.random.default_rng(0)
    stratum = (np.arange(4000) % 10 == 0).astype(int)
    rows = torch.as_tensor(np.stack([rng.standard_normal(4000), stratum], axis=1), dtype=torch.float32)
    scores = critic(rows).detach().numpy()
    found = odds(scores, scores.max())
    kept = RejectionFilter(critic, float(scores.max()), np.array([np.median(found[stratum == i]) for i in (0, 1)]))
    accepted = kept.accepted(rows, stratum, rng)
    for i in (0, 1):
        assert abs(accepted[stratum == i].mean() - 0.5) < 0.08
        assert rows[accepted & (stratum == i), 0].mean() > 0.2, "what real rows have more of is kept"


# ---- the toy of the specification, shortened


@pytest.fixture(scope="module")
def fair() -> tuple[BtGAN, Cohort, Cohort]:
    real = biased()
    model = BtGAN(QUICK)
    report = model.fit(real, seed=0, device="cpu")
    assert report.health["lds_max_final"] < 0.05
    assert report.health["label_information_final"] < 1e-4 < report.health["label_information_real"]
    return model, real, model.sample(2000, seed=1)


def test_label_is_fair_groups_keep_their_share_and_proxies_stay(fair: tuple[BtGAN, Cohort, Cohort]) -> None:
    _, real, drawn = fair
    counts = table(drawn, "group", "ill")
    rate = counts[:, 1] / counts.sum(axis=1)
    assert abs(rate[0] - rate[1]) < 1 / counts.sum(axis=1).min(), "exact to a row"
    assert abs(drawn.codes("group").mean() - real.codes("group").mean()) < 1e-3
    kept = information(table(drawn, "proxy", "group")) / information(table(real, "proxy", "group"))
    assert 0.65 < kept < 1.15, "what tells the group goes on telling it: P(x | group) is kept"
    assert drawn.values("x")[drawn.codes("ill") == 1].mean() - drawn.values("x").mean() > 0.3


def test_penalty_alone_lowers_what_the_label_tells() -> None:
    real = biased()
    told = {}
    for alpha in (0.0, 5.0):
        report = BtGANMinus({**QUICK, "steps": 500, "alpha": alpha}).fit(real, seed=0, device="cpu")
        told[alpha] = report.health["label_information_final"]
    assert told[5.0] < 0.5 * told[0.0]


def test_tables_of_disparities_are_kept_with_the_model(fair: tuple[BtGAN, Cohort, Cohort], tmp_path: Path) -> None:
    model, _, drawn = fair
    model.save(tmp_path)
    loaded = load_generator(tmp_path)
    assert isinstance(loaded, BtGAN)
    assert loaded.lds == model.lds
    assert set(model.lds) == {"stage 1", "stage 2", "final"}
    assert {line["cell"] for line in model.lds["final"]} == {
        f"group = {g}, ill = {i}" for g in ("many", "few") for i in ("no", "yes")
    }
    assert loaded.sample(2000, seed=1).table.equals(drawn.table)


def test_condition_on_the_label_is_native(fair: tuple[BtGAN, Cohort, Cohort]) -> None:
    model, _, _ = fair
    assert model.draws_given(["ill"])
    assert not model.draws_given(["group"])
    assert model.sample(50, seed=0, conditions={"ill": True}).codes("ill").tolist() == [1] * 50
    both = model.sample(40, seed=0, conditions={"ill": True, "group": "few"})
    assert both.codes("group").tolist() == both.codes("ill").tolist() == [1] * 40


# ---- partly labelled rows


def test_labels_missing_in_nine_of_ten_rows() -> None:
    model = TripleGAN({**QUICK, "steps": 300})
    real = biased(unlabelled=0.9)
    report = model.fit(real, seed=0, device="cpu")
    assert any("missing in 90%" in w for w in report.warnings)
    assert "classifier" in report.losses[-1]
    drawn = model.sample(1000, seed=1)
    known = real.codes("ill")[real.codes("ill") >= 0]
    assert abs(drawn.codes("ill").mean() - known.mean()) < 2e-3
    assert model.sample(20, seed=1, conditions={"ill": None}).missing("ill").all()


def test_labels_may_stay_missing_and_without_missing_ones_there_is_no_classifier() -> None:
    kept = TripleGAN({**TINY, "unlabelled": "keep"})
    kept.fit(biased(400, unlabelled=0.4), seed=0, device="cpu")
    assert abs(kept.sample(500, seed=0).missing("ill").mean() - 0.4) < 0.08
    report = TripleGAN(TINY).fit(biased(400), seed=0, device="cpu")
    assert "classifier" not in report.losses[-1]


def test_too_few_labels_are_refused() -> None:
    cohort = biased(300, unlabelled=0.98)
    with pytest.raises(ConfigError, match="is known of"):
        TripleGAN(TINY).fit(cohort, seed=0, device="cpu")


# ---- bad input


def test_a_group_of_two_is_told_of_and_drawn_as_it_comes() -> None:
    cohort = biased(400)
    codes = np.zeros(400, dtype=int)
    codes[:2] = 1
    columns = [c.model_copy(update={"kind": "binary"}) if c.name == "group" else c for c in cohort.schema.columns]
    cells = {"x": cohort.values("x")} | {k: cohort.codes(k) for k in ("proxy", "ill")} | {"group": codes}
    rows = assemble(TableSchema(columns=columns), cells)
    model = BtGAN(TINY)
    report = model.fit(rows, seed=0, device="cpu")
    assert any("too small to be balanced" in w and "group = few" in w for w in report.warnings)
    assert not any("few" in str(line["cell"]) for lines in model.lds.values() for line in lines)
    assert model.sample(300, seed=0).n_rows == 300


@pytest.mark.parametrize("kind", [TripleGAN, BtGAN, FairGAN])
def test_what_has_to_be_said(kind: type[TripleGAN] | type[BtGAN] | type[FairGAN]) -> None:
    plain = biased(200, roles=False)
    asked = {"protected": ("group",)} if kind is not TripleGAN else {}
    labelled = {"label": "ill"} if kind is not FairGAN else {}
    with pytest.raises(ConfigError, match="has to be told which column"):
        kind(TINY).fit(plain, seed=0, device="cpu")
    for wrong, words in (("x", "needs levels"), ("gruop", "no column"), ("ill", "cannot be the label")):
        what = {"label": wrong} if kind is TripleGAN else {"protected": (wrong,)}
        if wrong == "ill" and kind is not BtGAN:
            continue
        with pytest.raises(ConfigError, match=words):
            kind({**TINY, **asked, **labelled, **what}).fit(plain, seed=0, device="cpu")
    assert kind({**TINY, **asked, **labelled}).fit(plain, seed=0, device="cpu").rows == 200
    if kind is not FairGAN:
        with pytest.raises(UnsupportedError, match="real rows"):
            kind({**TINY, **asked, **labelled}).fit(plain, seed=0, privacy=PrivacySpec(epsilon=1.0, delta=1e-6))


def test_a_guess_is_said() -> None:
    report = BtGAN({**TINY, "undeclared": "guess"}).fit(stay_cohort(300), seed=0, device="cpu")
    assert any("'readmitted' was taken" in w for w in report.warnings)
    assert any("'ward' was taken" in w for w in report.warnings)


def test_without_a_protected_column_what_remains_is_named() -> None:
    with pytest.raises(ConfigError, match="which column is protected") as refused:
        BtGAN({**TINY, "label": "ill"}).fit(biased(200, roles=False), seed=0, device="cpu")
    assert "triple_gan" in str(refused.value)


def test_the_paper_s_choices_run_and_a_table_of_whole_rows_is_refused(tmp_path: Path) -> None:
    settings = {"preset": "paper", "steps": 40, "batch_size": 100, "hidden": (16,), "critic_hidden": (16,)}
    model = BtGAN(settings)
    report = model.fit(biased(300), seed=0, device="cpu")
    assert "information" in report.losses[-1]
    model.save(tmp_path)
    assert load_generator(tmp_path).sample(100, seed=1).table.equals(model.sample(100, seed=1).table)
    adaptive = {**TINY, "representation": "adaptive", "information": "mine"}
    assert BtGAN(adaptive).fit(biased(300), seed=0, device="cpu").rows == 300
    with pytest.raises(ConfigError, match="needs `information: mine`"):
        BtGAN({"about": "row"})


# ---- FairGAN


def test_fairgan_keeps_groups_exactly_and_hides_them() -> None:
    real = biased()
    told = {}
    for weight in (0.0, 3.0):
        model = FairGAN({**QUICK, "steps": 300, "fairness": weight})
        model.fit(real, seed=0, device="cpu")
        drawn = model.sample(2000, seed=1)
        assert abs(drawn.codes("group").mean() - real.codes("group").mean()) < 1e-3
        told[weight] = information(table(drawn, "proxy", "group"))
    assert told[3.0] < 0.5 * told[0.0]
    assert model.draws_given(["group"])
    assert model.sample(30, seed=0, conditions={"group": "few"}).codes("group").tolist() == [1] * 30


def test_groups_are_crossed() -> None:
    model = FairGAN({**TINY, "protected": ("group", "proxy")})
    model.fit(biased(300), seed=0, device="cpu")
    assert isinstance(model._groups, Groups)
    assert model._groups.names[1] == "group = many, proxy = yes"
    rows = model.sample(200, seed=0, conditions={"group": "few", "proxy": False})
    assert rows.codes("proxy").sum() == 0
