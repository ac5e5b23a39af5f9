"""halo_small: the head is a distribution, drawing follows it, memory and odd visits, what it learns, resuming."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations, count
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import DAY_2020, assemble, with_visits

from pipeline.errors import ConfigError, TrainingError, UnsupportedError
from pipeline.features.schema import Column, EventCodes, TableSchema
from pipeline.features.visits import Visits
from pipeline.generators.base import PrivacySpec, load_generator
from pipeline.generators.halo_small import HaloSmall
from pipeline.generators.sequences import network as network_module
from pipeline.generators.sequences.drawing import draw_codes, draw_visits
from pipeline.generators.sequences.gaps import FIRST, GAPS, STARTS, GapScale
from pipeline.generators.sequences.network import Shape, VisitNetwork
from pipeline.generators.sequences.rows import VisitRows

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.features.cohort import Cohort

SMALL = {"preset": "quick", "columns": "independent", "columns_preset": "default", "epochs": 2}
SHAPE = Shape(layers=2, width=16, heads=2, hidden=8, dropout=0.0, places=6)


def people(n: int = 300) -> Cohort:
    """A level and visits beside it."""
    column = Column(name="sex", kind="binary", dtype="string", levels=["f", "m"])
    return with_visits(assemble(TableSchema(columns=[column], unit="patient"), {"sex": np.arange(n) % 2}), codes=12)


def holding(visits: Visits) -> Cohort:
    """A table of one column with the given visits."""
    column = Column(name="sex", kind="binary", dtype="string", levels=["f", "m"])
    schema = TableSchema(columns=[column], unit="patient", events=EventCodes(vocabulary=list(visits.vocabulary)))
    return replace(assemble(schema, {"sex": np.arange(visits.n) % 2}), events=visits.events())


def visits_of_sizes(counts: list[int], codes_of: int, vocabulary: int) -> Visits:
    """Rows with so many visits, each of the same number of codes, 30 days apart."""
    total, rng = sum(counts), np.random.default_rng(0)
    start = np.r_[0, np.cumsum(counts)].astype(np.int64)
    place = np.arange(total) - np.repeat(start[:-1], counts)
    codes = [np.sort(rng.choice(vocabulary, codes_of, replace=False)) for _ in range(total)]
    offsets = np.arange(total + 1) * codes_of
    names = [f"c{i:05d}" for i in range(vocabulary)]
    return Visits(names, start, DAY_2020 + 30 * place, offsets, np.array(codes).ravel().astype(np.int32))


def random_network(codes: int) -> VisitNetwork:
    torch.manual_seed(0)
    made = VisitNetwork(SHAPE, 3, codes, 3)
    for layer in (made.out, made.next, made.size):
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    return made.eval()


def every_set(codes: int) -> torch.Tensor:
    """Every set of one to three codes, padded by the size of the vocabulary."""
    sets = chain.from_iterable(combinations(range(codes), k) for k in range(1, 4))
    return torch.tensor([[*s, *[codes] * (3 - len(s))] for s in sets])


def test_the_head_is_a_distribution_over_sets_and_codes_are_drawn_from_it() -> None:
    net = random_network(4)
    sets = every_set(4)
    told = torch.randn(8)
    with torch.inference_mode():
        by_size = net.size_chances(told.unsqueeze(0))[0, (sets < 4).sum(dim=1) - 1]
        chance = torch.exp(by_size - net._set_lost(told.expand(len(sets), -1), sets)).numpy()
        assert chance.sum() == pytest.approx(1.0, abs=1e-5)
        n = 40_000
        owner, code = draw_codes(net, told.expand(n, -1), torch.Generator().manual_seed(1))
    key = np.bincount(owner.numpy(), weights=2.0 ** code.numpy(), minlength=n).astype(int)
    of_set = [sum(2**c for c in s if c < 4) for s in sets.tolist()]
    found = np.bincount(key, minlength=16)[of_set] / n
    assert (key > 0).all(), "every visit has a code"
    assert np.abs(found - chance).max() < 4 * np.sqrt(0.25 / n)


def test_drawn_token_by_token_as_learned_all_at_once() -> None:
    net = random_network(5)
    tokens = torch.randn(3 * 4, 16)
    row, place = torch.arange(3).repeat_interleave(4), torch.arange(4).repeat(3)
    whole = tokens
    kept: list[tuple[torch.Tensor | None, torch.Tensor | None]] = [(None, None)] * 2
    with torch.inference_mode():
        for layer in net.layers:
            whole = layer(whole, row, place, 3, 4)
        for at in range(4):
            one = tokens[place == at]
            for i, layer in enumerate(net.layers):
                one, key, value = layer.step(one, *kept[i])
                kept[i] = key, value
            torch.testing.assert_close(one, whole[place == at])


def test_in_parts_the_loss_and_its_gradient_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    visits = Visits.of(people(40))
    gaps = GapScale.fit(visits.gaps(), visits.row_of_visit, 5)
    data = VisitRows.of(
        np.ones((40, 3), np.float32), visits, gaps.classes(visits.gaps()), np.zeros(40, bool), torch.device("cpu")
    )
    net = VisitNetwork(replace(SHAPE, places=8), 3, 12, 12)
    torch.nn.init.normal_(net.out.weight)

    def whole() -> tuple[torch.Tensor, torch.Tensor]:
        net.zero_grad()
        loss = net.loss(data, data.batch(torch.arange(40)))
        loss.sum().backward()
        assert net.code_head.weight.grad is not None
        return loss.detach(), net.code_head.weight.grad.clone()

    once = whole()
    monkeypatch.setattr(network_module, "LOOKS", 200)
    for a, b in zip(once, whole(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    alone = torch.cat([net.loss(data, data.batch(torch.tensor([i]))) for i in range(40)])
    torch.testing.assert_close(alone.detach(), once[0], rtol=1e-4, atol=1e-4)


def test_many_rows_are_drawn_in_parts() -> None:
    net = random_network(5)
    drawn = draw_visits(net, torch.randn(700, 3), torch.Generator().manual_seed(0))
    assert len(drawn.counts) == 700
    assert drawn.counts.sum() == len(drawn.gap) == len(drawn.size)
    assert drawn.size.sum() == len(drawn.code)
    assert drawn.counts.max() <= SHAPE.places
    first = np.r_[0, np.cumsum(drawn.counts)][:-1][drawn.counts > 0]
    assert (drawn.gap[first] == FIRST).all()
    assert (drawn.gap == FIRST).sum() == len(first)


def test_gaps_stay_in_their_class_and_below_the_longest() -> None:
    gaps, rows = (
        np.array([-1, 0, 5, 9, 40, 3_000, -1, 2_000, -1, 1_900, -1, 1_800, -1, 1_700]),
        np.repeat(range(5), [6, 2, 2, 2, 2]),
    )
    scale = GapScale.fit(gaps, rows, 5)
    assert scale.last == (3_000 + 2_000 + 1_900 + 1_800 + 1_700) // 5
    classes = scale.classes(gaps)
    assert (classes == FIRST).sum() == 5
    rng = np.random.default_rng(0)
    for k in range(GAPS):
        days = scale.days(np.full(200, k), rng)
        assert days.min() >= STARTS[k]
        assert days.max() <= (STARTS[k + 1] - 1 if k + 1 < GAPS else scale.last)
    assert scale.days(classes, rng)[classes == FIRST].max() == 0


def test_people_who_are_more_ill_stay_so_and_the_prompt_matters() -> None:
    """Men are made to have code 0 at every visit, and some people, whom no column tells, code 11."""
    real = people(900)
    visits = Visits.of(real)
    men = (np.arange(visits.n) % 2 == 1)[visits.row_of_visit]
    has = np.zeros((len(visits.day), 12), dtype=bool)
    has[visits.visit_of_code, visits.code] = True
    has[:, 0], has[:, 11] = men, (visits.row_of_visit // 2) % 3 == 0
    has[~has.any(axis=1), 1] = True
    start = np.r_[0, np.cumsum(has.sum(axis=1))].astype(np.int64)
    changed = replace(visits, code_start=start, code=np.nonzero(has)[1].astype(np.int32))
    model = HaloSmall({**SMALL, "epochs": 12})
    model.fit(replace(real, events=changed.events()), seed=1, device="cpu")
    drawn = model.sample(1_500, seed=2, conditions={"sex": "m"})
    assert set(drawn.table.column("sex").to_pylist()) == {"m"}
    made = Visits.of(drawn)
    with_first = np.isin(np.arange(len(made.day)), made.visit_of_code[made.code == 0])
    assert with_first.mean() > 0.7
    women = Visits.of(model.sample(1_500, seed=2, conditions={"sex": "f"}))
    assert np.isin(np.arange(len(women.day)), women.visit_of_code[women.code == 0]).mean() < 0.25

    there = np.isin(np.arange(len(made.day)), made.visit_of_code[made.code == 11])
    later = np.flatnonzero(made.place_of_visit > 0)
    assert 0.15 < there.mean() < 0.5
    assert (there[later] == there[later - 1]).mean() > 0.85


@pytest.mark.parametrize("counts", [[0] * 40, [1] * 40, [0, 1, 12] * 14])
def test_odd_numbers_of_visits(counts: list[int]) -> None:
    table = holding(visits_of_sizes(counts, 3, 6))
    model = HaloSmall({**SMALL, "max_visits": 5, "max_codes": 2})
    report = model.fit(table, seed=0, device="cpu")
    made = Visits.of(model.sample(200, seed=0))
    said = " ".join(report.warnings)
    assert ("visits beyond the first 5 of 14 people" in said) == (max(counts) > 5)
    assert ("codes beyond the first 2" in said) == (max(counts) > 0)
    assert made.counts.max() <= 5
    assert made.sizes.max(initial=0) <= 2
    if max(counts) < 2:
        assert abs(made.counts.mean() - np.mean(counts)) < 0.15
    if max(counts) == 0:
        assert "nobody is drawn with a visit" in said


def test_six_thousand_codes_most_of_them_rare() -> None:
    visits = visits_of_sizes([2] * 60, 30, 6_000)
    model = HaloSmall({**SMALL, "epochs": 1, "rare_level_rows": 1})
    model.fit(holding(visits), seed=0, device="cpu")
    drawn = Visits.of(model.sample(50, seed=0))
    assert len(drawn.vocabulary) == 6_000
    rare = HaloSmall({**SMALL, "epochs": 1})
    report = rare.fit(holding(visits), seed=0, device="cpu")
    assert "drawn independently" in " ".join(report.warnings)
    rare.sample(50, seed=0)


def test_lone_codes_come_as_often_as_in_training() -> None:
    visits = Visits.of(people(400))
    names = [*visits.vocabulary, "lone"]
    events = Visits(names, visits.visit_start, visits.day, visits.code_start, visits.code)
    has = np.zeros((len(visits.day), 13), dtype=bool)
    has[visits.visit_of_code, visits.code] = True
    first = visits.visit_start[:-1][visits.counts > 0][:8]
    has[first, 12] = True
    start = np.r_[0, np.cumsum(has.sum(axis=1))].astype(np.int64)
    events = replace(events, code_start=start, code=np.nonzero(has)[1].astype(np.int32))
    model = HaloSmall(SMALL)
    model.fit(holding(events), seed=0, device="cpu")
    made = Visits.of(model.sample(20_000, seed=0))
    rate = 8 / len(visits.day)
    assert (made.code == 12).sum() / len(made.day) == pytest.approx(rate, rel=0.3)


def test_visits_alone_without_a_column() -> None:
    bare = with_visits(assemble(TableSchema(columns=[], unit="patient"), {"": np.zeros(80)}), codes=6)
    model = HaloSmall(SMALL)
    model.fit(bare, seed=0, device="cpu")
    assert Visits.of(model.sample(30, seed=0)).n == 30
    with pytest.raises(ConfigError, match="no column"):
        model.sample(5, seed=0, conditions={"sex": "f"})


def test_what_is_refused_says_why() -> None:
    with pytest.raises(UnsupportedError, match="not built yet"):
        HaloSmall(SMALL).fit(people(60), seed=0, privacy=PrivacySpec(epsilon=1.0, delta=1e-6))
    with pytest.raises(ConfigError, match="'bootstrap' cannot draw the columns"):
        HaloSmall({**SMALL, "columns": "bootstrap"}).fit(people(60), seed=0)
    with pytest.raises(ConfigError, match="heads do not divide"):
        HaloSmall({"width": 66, "heads": 4})
    table = people(60)
    with pytest.raises(UnsupportedError, match="share a subject"):
        HaloSmall(SMALL).fit(replace(table, subject=np.repeat(table.subject[:30], 2)), seed=0)


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An hour passes between two looks at the clock: every epoch is kept.
    monkeypatch.setattr("pipeline.generators.training.monotonic", count(0, 3600).__next__)
    table, settings = people(120), {**SMALL, "epochs": 4, "columns": "argn", "columns_preset": "quick"}

    def trained(folder: Path, **more: object) -> bytes:
        model = HaloSmall(settings)
        model.fit(table, seed=3, device="cpu", checkpoint=tmp_path / "state", **more)  # type: ignore[arg-type]
        folder.mkdir()
        model.save(folder)
        return (folder / "model.safetensors").read_bytes()

    def killed(done: int, total: int, losses: object) -> None:
        if total == 4 and done == 3:
            raise TrainingError("killed")

    with pytest.raises(TrainingError, match="killed"):
        trained(tmp_path / "no", progress=killed)
    assert (tmp_path / "state" / "visits.safetensors").is_file()
    seen: list[tuple[int, int]] = []
    resumed = trained(tmp_path / "resumed", progress=lambda done, total, losses: seen.append((done, total)))
    assert (1, 4) not in seen, "it went on where it was"
    for file in (tmp_path / "state").rglob("*.safetensors"):
        file.unlink()
    assert trained(tmp_path / "whole") == resumed
    loaded = load_generator(tmp_path / "resumed")
    assert loaded.sample(40, seed=1).events.equals(load_generator(tmp_path / "whole").sample(40, seed=1).events)
