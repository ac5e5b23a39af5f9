"""TabDDPM: its multinomial diffusion by brute force, its sampler on exact denoisers, and the generator around them."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from generator_tables import code_cohort, mixed_cohort, stay_cohort
from scipy.sparse import csr_matrix
from scipy.stats import entropy, kstest

from pipeline.encoding.encoder import Encoded, EncodingSettings, TableEncoder
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import CodeBlock, TableSchema
from pipeline.generators import training
from pipeline.generators.conditions import Fixed
from pipeline.generators.denoising import split_diffusion
from pipeline.generators.denoising.known_states import KnownStates
from pipeline.generators.denoising.mixed_reverse import ancestral_step, ddim_step, draw_back
from pipeline.generators.denoising.multinomial import CosineSchedule, blurred, divergence, posterior
from pipeline.generators.denoising.split_rows import SplitRows
from pipeline.generators.denoising.state_groups import StateGroups, drawn_states, one_hot
from pipeline.generators.tabddpm import TabDDPM

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.generators.denoising.mixed_reverse import NumberStep

FAST = {"preset": "quick", "steps": 300, "batch_size": 256, "sampling_steps": 15, "repeats": 2}
TINY = {"preset": "quick", "steps": 1, "hidden": (16,), "sampling_steps": 2}
JOINT = torch.tensor([[0.5, 0.1], [0.05, 0.35]])
"""Of two binary columns."""
_fits: dict[str, TabDDPM] = {}


def transition(kept: float, states: int) -> np.ndarray:
    """(from, to) of a step of noise."""
    return kept * np.eye(states) + (1 - kept) / states


def group_of(*sizes: int) -> StateGroups:
    groups = StateGroups(sizes)
    assert len(groups.groups()) == 1
    return groups


def test_posterior_is_bayes_rule_for_every_pair_of_states() -> None:
    valid = group_of(3, 4).groups()[0].valid
    for before, after in ((1.0, 0.9), (0.8, 0.3), (0.4, 1e-3)):
        step = after / before
        for x0 in range(3):
            for xt in range(3):
                found = posterior(
                    one_hot(torch.tensor([[x0, x0]]), 4),
                    torch.tensor([[xt, xt]]),
                    valid,
                    torch.tensor([[step]]),
                    torch.tensor([[before]]),
                )
                for column, states in enumerate((3, 4)):
                    wanted = transition(before, states)[x0] * transition(step, states)[:, xt]
                    wanted = np.pad(wanted / wanted.sum(), (0, 4 - states))
                    np.testing.assert_allclose(found[:, 0, column], wanted, atol=1e-6)


def test_posterior_of_probabilities_is_the_mixture_over_clean_states() -> None:
    """With p(x_0 | other columns) in the place of x_0; the column's own x_t comes in by itself."""
    valid = group_of(4).groups()[0].valid
    given_others = np.array([0.4, 0.3, 0.2, 0.1])
    before, step = 0.7, 0.5
    for xt in range(4):
        seen = given_others * transition(before * step, 4)[:, xt]
        mixture = np.zeros(4)
        for x0, share in enumerate(seen / seen.sum()):
            single = transition(before, 4)[x0] * transition(step, 4)[:, xt]
            mixture += share * single / single.sum()
        told = torch.as_tensor(given_others, dtype=torch.float32)[:, None, None]
        found = posterior(told, torch.tensor([[xt]]), valid, torch.tensor([[step]]), torch.tensor([[before]]))
        np.testing.assert_allclose(found[:, 0, 0], mixture, atol=1e-6)


def test_divergence_is_that_of_the_posteriors_summed_over_columns() -> None:
    rng = np.random.default_rng(0)
    true, told = (rng.dirichlet(np.ones(3), size=(5, 2)) for _ in range(2))
    true[0, 0] = [1, 0, 0]
    found = divergence(*(torch.as_tensor(p).permute(2, 0, 1) for p in (true, told)))
    np.testing.assert_allclose(found, entropy(true, told, axis=2).sum(axis=1))


def test_first_step_costs_the_likelihood_of_the_clean_state() -> None:
    """At t = 1 the divergence is -log q(x_0 | x_1): the decoder's term of the bound."""
    valid = group_of(4).groups()[0].valid
    told = torch.tensor([0.2, 0.4, 0.3, 0.1])[:, None, None]
    clean, noisy = torch.tensor([[1]]), torch.tensor([[2]])
    one, step = torch.ones(1, 1), torch.tensor([[0.9]])
    reverse = posterior(told, noisy, valid, step, one)
    bound = divergence(posterior(one_hot(clean, 4), noisy, valid, step, one), reverse)
    np.testing.assert_allclose(bound, -reverse[1, 0, 0].log(), rtol=1e-6)


def test_noise_on_states_is_even_and_the_schedule_leaves_nothing() -> None:
    noise = torch.Generator().manual_seed(0)
    states = torch.zeros(20_000, 2, dtype=torch.long)
    out = blurred(states, torch.tensor([2.0, 5.0]), torch.tensor([[0.6]]), noise)
    for column, k in ((0, 2), (1, 5)):
        shares = np.bincount(out[:, column], minlength=k) / 20_000
        np.testing.assert_allclose(shares, transition(0.6, k)[0], atol=0.02)
    schedule = CosineSchedule.of(1000)
    assert schedule.kept[0] == 1
    assert schedule.kept[-1] < 1e-6
    assert (schedule.kept.diff() < 0).all()
    assert schedule.strided(50)[-1] == 0
    assert len(schedule.strided(50)) == 51
    assert CosineSchedule.of(1).strided(50) == [1, 0]


def test_groups_put_columns_back_and_never_draw_what_is_padded() -> None:
    groups = StateGroups([2, 7, 2, 3, 5])
    states = torch.tensor([[1, 6, 0, 2, 4], [0, 0, 1, 1, 2]])
    assert groups.join(groups.split(states), states).equal(states)
    shown = groups.shown(states)
    assert shown.shape == (2, groups.width)
    assert shown[:, :2].tolist() == [[1, -1], [-1, 1]]
    assert (groups.shown(states, torch.ones(2, 5, dtype=torch.bool)) == 0).all()
    shares = [np.full(k, 1 / k) for k in (2, 7, 2, 3, 5)]
    chances = groups.chances(groups.start_bias(shares).expand(4000, -1))
    drawn = groups.join([drawn_states(c, torch.Generator().manual_seed(1)) for c in chances], states)
    for column, k in enumerate((2, 7, 2, 3, 5)):
        np.testing.assert_allclose(np.bincount(drawn[:, column], minlength=8) / 4000, np.r_[shares[column], [0] * (8 - k)], atol=0.04)  # fmt: skip


def nothing_known(n: int, numbers: int, columns: int) -> KnownStates:
    none = torch.empty(0)
    unknown = [torch.zeros(k, dtype=torch.bool) for k in (numbers, columns)]
    return KnownStates(Encoded(n=n), none, none, *unknown)


@pytest.mark.parametrize("step", [ddim_step, ancestral_step])
def test_exact_denoisers_give_back_the_joint_distribution(step: NumberStep) -> None:
    """Two correlated normal numbers and two dependent binary columns; each half is told exactly what can be known."""
    schedule, groups, n = CosineSchedule.of(1000), group_of(2, 2), 8000
    covariance = torch.tensor([[1.0, 0.7], [0.7, 1.0]])

    def denoiser(x: torch.Tensor, states: torch.Tensor, t: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        kept = float(schedule.kept[t])
        noisy = kept * covariance + (1 - kept) * torch.eye(2)
        clean = x @ torch.linalg.solve(noisy, kept**0.5 * covariance)
        seen = torch.as_tensor(transition(kept, 2), dtype=torch.float32)
        first = JOINT @ seen[:, states[:, 1]]
        second = JOINT.T @ seen[:, states[:, 0]]
        both = torch.stack([first, second], dim=2)
        return clean, [both / both.sum(dim=0, keepdim=True)]

    x, states = draw_back(
        denoiser,
        schedule,
        groups,
        schedule.strided(100),
        nothing_known(n, 2, 2),
        torch.Generator().manual_seed(3),
        numbers=2,
        number_step=step,
    )
    np.testing.assert_allclose(np.cov(x.numpy().T), covariance, atol=0.06)
    for k in range(2):
        assert kstest(x[:, k].numpy(), "norm").statistic < 0.03
    table = np.histogram2d(*states.numpy().T, bins=2)[0] / n
    np.testing.assert_allclose(table, JOINT, atol=0.03)


def split_of(cohort: Cohort, spike_share: float = 0.1) -> tuple[SplitRows, Encoded]:
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    return SplitRows(encoder, spike_share=spike_share), encoder.encode(cohort, np.random.default_rng(0))


def test_numbers_split_into_kinds_and_scores_and_back() -> None:
    split, rows = split_of(mixed_cohort(1500))
    assert len(split.kinds["cost"].mass) == 1, "a cost of 0 is a state of its own"
    assert split.kinds["glucose"].missing
    for name, kinds in split.kinds.items():
        state, rest = kinds.split(rows.uniforms[name])
        again = kinds.join(state, np.nan_to_num(rest, nan=0.5), np.full(rows.n, 0.5))
        scaler = split.encoder.numbers[name].scaler
        np.testing.assert_array_equal(scaler.from_uniform(again), scaler.from_uniform(rows.uniforms[name]))
        np.testing.assert_allclose(kinds.shares().sum(), 1)
        np.testing.assert_allclose(np.bincount(state, minlength=kinds.size) / rows.n, kinds.shares(), atol=0.02)
    scores = split.tensors(rows, "cpu").scores.numpy()
    for k in range(scores.shape[1]):
        seen = scores[:, k][~np.isnan(scores[:, k])]
        assert kstest(seen, "norm").pvalue > 0.001


def stays() -> TabDDPM:
    """One model of the stays, trained once for all tests."""
    if "stays" not in _fits:
        _fits["stays"] = TabDDPM(FAST)
        _fits["stays"].fit(stay_cohort(), seed=1, device="cpu")
    return _fits["stays"]


def ranks(cohort: Cohort) -> float:
    a, b = cohort.values("length"), cohort.values("bilirubin")
    seen = ~np.isnan(b)
    return float(np.corrcoef(a[seen].argsort().argsort(), b[seen].argsort().argsort())[0, 1])


def test_columns_depend_on_each_other_as_in_training() -> None:
    real, drawn = stay_cohort(), stays().sample(3000, seed=2)
    assert abs(ranks(drawn) - ranks(real)) < 0.12
    for cohort in (real, drawn):
        long = cohort.values("length") > np.median(cohort.values("length"))
        assert (cohort.codes("ward")[long] == 2).mean() > 1.5 * (cohort.codes("ward")[~long] == 2).mean()


def test_other_columns_follow_fixed_ones() -> None:
    long = stays().sample(300, seed=3, conditions={"length": 8.0, "ward": "surgical"})
    short = stays().sample(300, seed=3, conditions={"length": 1.0, "ward": "icu"})
    assert set(long.values("length")) == {8.0}
    assert set(short.table.column("ward").to_pylist()) == {"icu"}
    assert np.nanmedian(long.values("bilirubin")) > 1.5 * np.nanmedian(short.values("bilirubin"))
    gone = stays().sample(50, seed=3, conditions={"bilirubin": None})
    assert np.isnan(gone.values("bilirubin")).all()


def test_known_cells_look_as_noise_leaves_them_and_end_as_they_are() -> None:
    split, _ = split_of(mixed_cohort(400))
    fixed = Fixed({"group": np.full(3000, 1)}, {"age": np.full(3000, 60.0), "cost": np.zeros(3000)})
    known = KnownStates.of(split, 3000, fixed, np.random.default_rng(0))
    sizes = torch.tensor(split.sizes, dtype=torch.float32)
    noise = torch.Generator().manual_seed(0)
    known.begin(sizes, noise)
    x, states = torch.full((3000, len(split.numbers)), 9.0), torch.zeros(3000, len(split.sizes), dtype=torch.long)
    known.put_noisy(x, states, 0.5)
    age, group = split.numbers.index("age"), split.names.index("group")
    np.testing.assert_allclose(x[:, age].std(), 0.5**0.5, rtol=0.05)
    shares = np.bincount(states[:, group], minlength=split.sizes[group]) / 3000
    np.testing.assert_allclose(shares, transition(0.5, split.sizes[group])[1], atol=0.04)
    assert (x[:, split.numbers.index("visits")] == 9).all(), "what is not fixed stays"
    known.put_clean(x, states)
    assert (states[:, group] == 1).all()
    assert (states[:, split.names.index("cost")] == 1).all(), "a cost of 0 is a spike"


def test_the_label_is_given_and_drawn_with_its_own_share() -> None:
    cohort = mixed_cohort(600)
    model = TabDDPM({**FAST, "steps": 150})
    model.fit(cohort, seed=0, device="cpu")
    assert model._split.without == "died"
    assert abs(model.sample(3000, seed=1).codes("died").mean() - cohort.codes("died").mean()) < 0.03
    dead, alive = (model.sample(600, seed=1, conditions={"died": v}) for v in (True, False))
    assert (dead.codes("died") == 1).all()
    assert dead.values("age").mean() > alive.values("age").mean() + 5
    inside = TabDDPM({**TINY, "label_given": False})
    inside.fit(cohort, seed=0, device="cpu")
    assert "died" in inside._split.names


def test_numbers_that_pile_up_at_the_ends_are_told() -> None:
    model = TabDDPM({**TINY, "number_target": "noise"})
    report = model.fit(stay_cohort(300), seed=0, device="cpu")
    assert report.health["mass_at_edges"] > 0.5
    assert any("pile up" in w for w in report.warnings)
    good = TabDDPM({**TINY, "steps": 20})
    assert not any("pile up" in w for w in good.fit(stay_cohort(300), seed=0, device="cpu").warnings)


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "paper", "hidden": (32, 32), "steps": 20, "diffusion_steps": 20, "sampling_steps": 20},
        {"sampler": "ancestral", "steps": 5, "sampling_steps": 3, "hidden": (16,)},
        TINY,
    ],
)
def test_presets_draw_rows_of_the_schema(settings: dict[str, object]) -> None:
    cohort = stay_cohort(20)
    model = TabDDPM(settings)
    model.fit(cohort, seed=0, device="cpu")
    drawn = model.sample(100, seed=0)
    assert drawn.table.schema == cohort.schema.arrow()
    assert np.isfinite(drawn.values("length")).all()


def test_odd_tables_work() -> None:
    mixed = mixed_cohort(200)
    for columns in (["age", "glucose"], ["died", "group"], ["died"], ["site"], ["age", "site"]):
        schema = mixed.schema.model_copy(update={"columns": [c for c in mixed.schema.columns if c.name in columns]})
        part = Cohort(table=mixed.table.select(schema.names), schema=schema, subject=mixed.subject)
        model = TabDDPM(TINY)
        model.fit(part, seed=0, device="cpu")
        assert model.sample(50, seed=0).n_rows == 50


def test_six_thousand_codes_and_rows_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    block = CodeBlock(name="dx", kind="binary", vocabulary=[f"c{i}" for i in range(6000)])
    counts = csr_matrix((rng.random((60, 6000)) < 0.5).astype(float))
    cohort = assemble(TableSchema(columns=[], blocks=[block], unit="patient"), {}, blocks={"dx": counts})
    model = TabDDPM(TINY)
    model.fit(cohort, seed=0, device="cpu")
    seen: list[int] = []
    inner = model._chunk
    monkeypatch.setattr(model, "_chunk", lambda known, noise: (seen.append(known.n), inner(known, noise))[1])
    assert abs(model.sample(700, seed=0).blocks["dx"].mean() - 0.5) < 0.05
    assert sum(seen) == 700
    assert max(seen) <= split_diffusion.CHUNK_CELLS // 6000


def test_two_hundred_flags_never_make_the_loss_infinite() -> None:
    cohort = code_cohort(300)
    model = TabDDPM({**TINY, "steps": 60, "learning_rate": 1e-2})
    report = model.fit(cohort, seed=0, device="cpu")
    assert all(np.isfinite(entry["train"]) for entry in report.losses)
    assert not any("not finite" in w for w in report.warnings)


def test_a_training_that_stops_half_way_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "monotonic", count(0, 3600).__next__)
    cohort, settings = stay_cohort(300), {**TINY, "steps": 40, "batch_size": 128}

    def stop(done: int, total: int, entry: object) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TabDDPM(settings).fit(cohort, seed=3, device="cpu", progress=stop, checkpoint=tmp_path)
    rounds: list[int] = []
    resumed, whole = TabDDPM(settings), TabDDPM(settings)
    resumed.fit(cohort, seed=3, device="cpu", checkpoint=tmp_path, progress=lambda done, *_: rounds.append(done))
    whole.fit(cohort, seed=3, device="cpu")
    assert rounds[0] > 1, "it began anew"
    assert resumed.sample(100, seed=1).table.equals(whole.sample(100, seed=1).table)
