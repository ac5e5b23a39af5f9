"""The any-order autoregressive network: exact likelihoods, any order, digits, conditions, privacy and odd tables."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import code_cohort, mixed_cohort
from scipy.sparse import csr_matrix

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import ConfigError, InputError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, Column, TableSchema
from pipeline.generators.argn.drawing import draw_codes, draw_parts
from pipeline.generators.argn.generator import ARGN
from pipeline.generators.argn.grouped import GroupedLinear, teach_opacus
from pipeline.generators.argn.network import Network, Shape
from pipeline.generators.argn.units import CodeGroup, UnitRows, unit_columns
from pipeline.generators.base import PrivacySpec

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {"epochs": 10, "width": 48, "hidden": 24, "dropout": 0.1, "learning_rate": 4e-3, "patience": 0}


def levels(n: int, seed: int = 0) -> Cohort:
    """Three columns of levels, each following the one before it."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 3, n)
    b = np.where(rng.random(n) < 0.8, a % 2, 1 - a % 2)
    c = np.where(rng.random(n) < 0.7, (a + b) % 4, rng.integers(0, 4, n))
    columns = [
        Column(name="a", kind="categorical", dtype="string", levels=["p", "q", "r"]),
        Column(name="b", kind="binary", dtype="bool", levels=[False, True], role="label"),
        Column(name="c", kind="categorical", dtype="string", levels=["w", "x", "y", "z"]),
    ]
    return assemble(TableSchema(columns=columns), {"a": a, "b": b, "c": c})


def random_network(groups: list[CodeGroup], counts: np.ndarray) -> Network:
    """A network over the three columns whose weights are all random."""
    encoder = TableEncoder.fit(levels(400), EncodingSettings())
    torch.manual_seed(0)
    network = Network(unit_columns(encoder, 8, 2), groups, counts, Shape(12, 8, 0.0))
    network.start_at()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, GroupedLinear):
                module.weight.normal_(std=0.5)
    return network.eval()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_likelihood_is_one_over_all_rows_in_any_order(order: tuple[int, ...]) -> None:
    network = random_network([], np.zeros((0, 16, 1)))
    every = torch.tensor(list(product(range(3), range(2), range(4))))
    keys = torch.zeros(3)
    keys[list(order)] = torch.arange(3.0)
    with torch.inference_mode():
        rows = UnitRows(every, torch.zeros(len(every), 0, 16))
        chance = (-network.loss(rows, keys.expand(len(every), -1))).exp()
    assert float(chance.sum()) == pytest.approx(1.0, abs=1e-5)
    drawn, _ = draw_parts(network, 100_000, order, {}, torch.Generator().manual_seed(0))
    share = np.bincount(np.ravel_multi_index(tuple(drawn.T), (3, 2, 4)), minlength=24) / len(drawn)
    index = np.ravel_multi_index(tuple(every.numpy().T), (3, 2, 4))
    assert np.abs(share[index] - chance.numpy()).max() < 0.01


def test_a_column_sees_those_before_it_only() -> None:
    network = random_network([], np.zeros((0, 16, 1)))
    parts = torch.tensor([[0, 1, 2]]).repeat(4, 1)
    parts[1, 2], parts[2, 0], parts[3, 1] = 3, 2, 0
    added, _ = network.added(parts)
    keys = torch.tensor([[1.0, 0.0, 2.0]]).expand(4, -1)
    before = (keys.unsqueeze(1) < keys.unsqueeze(2)).float()
    context = torch.bmm(before, added)
    assert torch.equal(context[0, 1], torch.zeros_like(context[0, 1])), "the first sees nothing"
    assert torch.equal(context[0, :2], context[1, :2]), "the last is seen by none"
    assert not torch.equal(context[0, 0], context[3, 0])
    assert not torch.equal(context[0, 2], context[2, 2])


def test_groups_of_codes_have_exact_likelihoods_too() -> None:
    shares = np.full((1, 16, 3), -1e9)
    shares[0, :2] = np.log([0.6, 0.3, 0.1])
    groups = [
        CodeGroup("present", True, np.arange(3), np.array([0.5, 0.3, 0.2])),
        CodeGroup("counts", False, np.arange(2), np.array([0.4, 0.4])),
    ]
    network = random_network(groups, shares)
    every = list(product((0, 1), (0, 1), (0, 1), range(4), range(4)))
    codes = torch.zeros(len(every), 2, 16)
    codes[:, 0, :3] = torch.tensor([e[:3] for e in every], dtype=torch.float32)
    codes[:, 1, :2] = torch.tensor([e[3:] for e in every], dtype=torch.float32)
    fixed = torch.tensor([[1, 0, 2]]).expand(len(every), -1)
    keys = torch.arange(3.0).expand(len(every), -1)
    with torch.inference_mode():
        joint = (-network.loss(UnitRows(fixed, codes), keys)).exp()
        known = {i: np.full(60_000, int(fixed[0, i])) for i in range(3)}
        _, total = draw_parts(network, 60_000, (0, 1, 2), known, torch.Generator().manual_seed(0))
        drawn = draw_codes(network, total, torch.Generator().manual_seed(1))
    chance = (joint / joint.sum()).numpy()
    flat = np.concatenate([drawn[:, 0, :3], drawn[:, 1, :2]], axis=1)
    share = np.bincount(np.ravel_multi_index(tuple(flat.T), (2, 2, 2, 4, 4)), minlength=len(every)) / len(flat)
    assert np.abs(share - chance).max() < 0.01
    assert (drawn[:, 0, 3:] == 0).all()


def test_digits_tell_every_number() -> None:
    cohort = mixed_cohort(1500)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    rows = encoder.encode(cohort, np.random.default_rng(0))
    for column in unit_columns(encoder, 16, 8):
        part = column.of(rows)
        assert (column.parts()[column.first[part], column.second[part]] == part).all()
        inside = np.exp(column.log_inside())
        np.testing.assert_allclose(inside.sum(axis=1), 1.0, atol=1e-6)
        if column.numeric:
            uniform = rows.uniforms[column.name]
            again = column.uniform(part, np.random.default_rng(1))
            assert (np.isnan(again) == np.isnan(uniform)).all()
            seen = ~np.isnan(uniform)
            assert np.abs(again - uniform)[seen].max() <= column.width.max() + 1e-9
            assert (column.of(type(rows)(n=rows.n, uniforms={column.name: again})) == part).all()


def test_an_untrained_network_draws_the_margins() -> None:
    cohort = mixed_cohort(800)
    model = ARGN({**SMALL, "epochs": 1, "learning_rate": 1e-9})
    model.fit(cohort, seed=0, device="cpu")
    drawn = model.sample(6000, seed=0)
    assert abs((drawn.values("cost") == 0).mean() - (cohort.values("cost") == 0).mean()) < 0.02
    assert abs((drawn.codes("group") == 1).mean() - (cohort.codes("group") == 1).mean()) < 0.02


def test_what_is_learned_is_likelier_than_shuffled_rows() -> None:
    cohort = levels(1500)
    model = ARGN(SMALL)
    model.fit(cohort, seed=0, device="cpu")
    fresh = levels(1500, seed=5)
    mean = model.log_likelihood(fresh).mean()
    assert mean > model.log_likelihood(fresh, orders=1).mean() - 0.1
    rng = np.random.default_rng(0)
    shuffled = assemble(fresh.schema, {k: rng.permutation(fresh.codes(k)) for k in ("a", "b", "c")})
    assert mean > model.log_likelihood(shuffled).mean() + 0.3
    counts = np.bincount(np.ravel_multi_index(tuple(fresh.codes(k) for k in ("a", "b", "c")), (3, 2, 4)), minlength=24)
    share = counts[counts > 0] / 1500
    assert mean < (share * np.log(share)).sum() + 0.1, "no model is likelier than the truth"
    with pytest.raises(ConfigError, match="orders"):
        model.log_likelihood(fresh, orders=0)


def test_any_column_conditions_the_others_in_every_row() -> None:
    cohort = mixed_cohort(1500)
    model = ARGN({**SMALL, "epochs": 12})
    model.fit(cohort, seed=0, device="cpu")
    alive = model.sample(800, seed=1, conditions={"died": False})
    dead = model.sample(800, seed=1, conditions={"died": True, "group": "a"})
    assert (dead.codes("died") == 1).all()
    assert (dead.codes("group") == 0).all()
    assert dead.values("age").mean() > alive.values("age").mean() + 5
    old = model.sample(800, seed=1, conditions={"age": 85.0, "glucose": None})
    assert (old.values("age") == 85).all()
    assert np.isnan(old.values("glucose")).all()
    assert (old.codes("died") == 1).mean() > (alive.codes("died") == 1).mean() + 0.2


def test_orders_and_labels() -> None:
    cohort = levels(600)
    for settings, expected in (({"label": "first"}, 0), ({"label": "last"}, 2), ({"order": "table"}, 1)):
        model = ARGN({**SMALL, "epochs": 1, **settings})
        model.fit(cohort, seed=0, device="cpu")
        assert model._order.index(1) == expected
    wild = ARGN({**SMALL, "epochs": 1, "order": "random"})
    wild.fit(cohort, seed=0, device="cpu")
    assert wild.sample(50, seed=0).n_rows == 50


def test_codes_follow_the_columns() -> None:
    cohort = code_cohort(1200)
    model = ARGN({**SMALL, "epochs": 12, "width": 32, "hidden": 16})
    model.fit(cohort, seed=0, device="cpu")
    drawn = model.sample(3000, seed=1)
    counts = [np.asarray(c.blocks["diagnoses"].sum(axis=1)).ravel() for c in (cohort, drawn)]
    real, synthetic = (np.corrcoef(c.values("age"), k)[0, 1] for c, k in zip((cohort, drawn), counts, strict=True))
    assert synthetic > 0.4 * real > 0.1
    drugs = [np.asarray(c.blocks["drugs"].mean(axis=0)).ravel() for c in (cohort, drawn)]
    np.testing.assert_allclose(drugs[1], drugs[0], rtol=0.25, atol=0.1)


def test_gradients_of_single_rows() -> None:
    pytest.importorskip("opacus")
    from opacus.grad_sample import GradSampleModule

    teach_opacus()
    torch.manual_seed(0)
    mask = torch.ones(4, 4).triu(1)
    layer = GroupedLinear(3, 4, 4, mask=mask)
    x = torch.randn(5, 3, 4)
    wrapped = GradSampleModule(layer, loss_reduction="sum")
    wrapped(x).square().sum().backward()
    found = layer.weight.grad_sample
    for row in range(5):
        layer.zero_grad()
        plain = (
            torch.baddbmm(layer.bias.unsqueeze(1), x[row : row + 1].transpose(0, 1), layer.weight * mask).square().sum()
        )
        (truth,) = torch.autograd.grad(plain, [layer.weight])
        torch.testing.assert_close(found[row], truth)


def test_private_training_spends_what_was_asked(tmp_path: Path) -> None:
    plain = levels(700)
    present = codes_only(700, 20)
    schema = TableSchema(columns=plain.schema.columns, blocks=present.schema.blocks)
    cohort = assemble(schema, {k: plain.codes(k) for k in ("a", "b", "c")}, blocks=present.blocks)
    model = ARGN({"private_epochs": 2, "private_width": 16, "private_hidden": 8})
    report = model.fit(cohort, seed=0, device="cpu", privacy=PrivacySpec(epsilon=4.0, delta=1e-4))
    assert report.privacy is not None
    assert report.privacy["epsilon"] <= 4.0
    assert report.privacy["mechanisms"][-1]["type"] == "dp_sgd"
    model.save(tmp_path)
    assert ARGN.load(tmp_path).sample(30, seed=1).table.equals(model.sample(30, seed=1).table)


def numbers_only(n: int) -> Cohort:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(n)
    schema = TableSchema(columns=[Column(name=k, kind="continuous", dtype="float64") for k in ("x", "y")])
    return assemble(schema, {"x": x, "y": x + 0.3 * rng.standard_normal(n)})


def codes_only(n: int, codes: int = 1) -> Cohort:
    rng = np.random.default_rng(0)
    vocabulary = [f"C{i}" for i in range(codes)]
    schema = TableSchema(columns=[], blocks=[CodeBlock(name="codes", kind="binary", vocabulary=vocabulary)])
    return assemble(schema, {}, blocks={"codes": csr_matrix((rng.random((n, codes)) < 0.2).astype(float))})


@pytest.mark.parametrize("make", [numbers_only, levels, codes_only])
@pytest.mark.parametrize("n", [20, 300])
def test_tables_of_one_kind_and_tables_of_few_rows(make: object, n: int) -> None:
    cohort = make(n)  # type: ignore[operator]
    model = ARGN({**SMALL, "epochs": 20, "batch_size": 64})
    model.fit(cohort, seed=0, device="cpu")
    drawn = model.sample(800, seed=1)
    assert drawn.n_rows == 800
    if make is numbers_only and n == 300:
        assert np.corrcoef(drawn.values("x"), drawn.values("y"))[0, 1] > 0.6
    if make is codes_only and n == 300:
        assert drawn.blocks["codes"].mean() == pytest.approx(cohort.blocks["codes"].mean(), abs=0.06)


def test_six_thousand_codes() -> None:
    cohort = codes_only(300, 6000)
    model = ARGN({**SMALL, "epochs": 1, "width": 16, "hidden": 8})
    report = model.fit(cohort, seed=0, device="cpu")
    assert report.parameters < 1_000_000, "the network grows with the codes, not with their square"
    assert model.sample(100, seed=1).blocks["codes"].mean() == pytest.approx(0.2, abs=0.02)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        ARGN(SMALL).fit(numbers_only(5), seed=0, device="cpu")
