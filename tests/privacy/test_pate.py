"""PATE: who is whose teacher, noisy labels and what they cost, a student that sees no real row, the ledger of a training."""

from __future__ import annotations

import math

import numpy as np
import private_lab as lab
import pytest
import torch
from torch import Tensor

from pipeline.encoding.encoder import EncodingSettings, TableEncoder
from pipeline.errors import ConfigError, TrainingError
from pipeline.generators.adversarial.numbers import fit_numbers
from pipeline.generators.adversarial.teachers import Teachers
from pipeline.generators.adversarial.vector import RowBlocks
from pipeline.generators.pate_gan import PateGAN, PateMatch
from pipeline.privacy.accounting import zcdp_epsilon
from pipeline.privacy.pate import (
    ORDERS,
    Ballot,
    VoteNoise,
    VotePlan,
    affordable_labels,
    dealt,
    label_divergences,
    labels_epsilon,
)
from pipeline.privacy.spec import TrainingPrivacy

KINDS = ("gaussian", "laplace")
SHORT = {"preset": "quick", "steps": 20, "rounds": 3, "teacher_steps": 5, "teacher_features": 16, "batch_size": 64}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- who is whose teacher


def test_all_rows_of_a_subject_have_one_teacher_and_teachers_share_nobody() -> None:
    subject = rng().integers(0, 300, 1_000)
    teacher = dealt(subject, 20, rng(1))
    assert all(len(set(teacher[subject == one])) == 1 for one in set(subject))
    assert set(teacher) == set(range(20))


def test_another_subject_changes_nobodys_teacher() -> None:
    """A subject's teacher is drawn by itself: one more at the end leaves all others where they were."""
    assert (dealt(np.arange(201), 20, rng(1))[:200] == dealt(np.arange(200), 20, rng(1))).all()


# ---- labels


@pytest.mark.parametrize(
    ("teachers", "gamma", "accuracy"), [(10, 1e-3, 0.500), (36, 1e-3, 0.505), (100, 0.1, 0.975), (100, 0.3, 1.000)]
)
def test_label_accuracy_is_that_of_the_table_and_of_a_simulation(teachers: int, gamma: float, accuracy: float) -> None:
    """The published defaults (gamma 1e-3, 10 teachers) give coins (spec 3.9)."""
    noise = VoteNoise("laplace", 1 / gamma)
    assert noise.accuracy(teachers) == pytest.approx(accuracy, abs=2e-3)
    for kind in KINDS:
        noise = VoteNoise(kind, 1 / gamma)  # type: ignore[arg-type]
        ballot = Ballot(VotePlan(teachers, noise, 40_000), lab.begin())
        labels = ballot.labels(np.full(40_000, round(0.8 * teachers)))
        assert labels.mean() == pytest.approx(noise.accuracy(teachers), abs=0.01), kind


@pytest.mark.parametrize("kind", KINDS)
def test_noise_for_an_accuracy_has_it(kind: str) -> None:
    for wanted in (0.55, 0.7, 0.99):
        noise = VoteNoise(kind, 1.0).for_accuracy(50, wanted)  # type: ignore[arg-type]
        assert noise.accuracy(50) == pytest.approx(wanted)


@pytest.mark.parametrize(("kind", "spread"), [("gaussian", 3.0), ("laplace", 3.0 * math.sqrt(2))])
def test_noise_has_the_size_that_is_written_down(kind: str, spread: float) -> None:
    drawn = VoteNoise(kind, 3.0).draw(40_000, rng())  # type: ignore[arg-type]
    assert drawn.std() == pytest.approx(spread, rel=0.02)
    assert abs(drawn.mean()) < 0.1


# ---- what labels cost


def slow_divergence(noise: VoteNoise, teachers: int, order: float) -> float:
    """The same by plain chances, vote by vote."""
    worst = 0.0
    for votes in range(teachers):
        margin = votes - teachers / 2, votes + 1 - teachers / 2
        if noise.kind == "gaussian":
            p, q = (0.5 * math.erfc(-m / noise.scale / math.sqrt(2)) for m in margin)
        else:
            p, q = (0.5 * math.exp(m / noise.scale) if m < 0 else 1 - 0.5 * math.exp(-m / noise.scale) for m in margin)
        for a, b in ((p, q), (q, p)):
            total = a**order * b ** (1 - order) + (1 - a) ** order * (1 - b) ** (1 - order)
            worst = max(worst, math.log(total) / (order - 1))
    return worst


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("teachers", "scale"), [(7, 2.0), (20, 5.0), (50, 12.0)])
def test_divergences_are_those_of_a_slow_computation(kind: str, teachers: int, scale: float) -> None:
    noise = VoteNoise(kind, scale)  # type: ignore[arg-type]
    found = label_divergences(noise, teachers)
    for order in (1.5, 2, 8, 32):
        assert found[ORDERS.index(order)] == pytest.approx(slow_divergence(noise, teachers, order), rel=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_costs_no_more_than_the_noisy_count_that_it_is_made_of(kind: str) -> None:
    """The moments of the noise itself (2 g^2 l (l + 1) of the papers is for noise on both counts) are an upper bound."""
    for scale in (1.0, 20.0):
        noise = VoteNoise(kind, scale)  # type: ignore[arg-type]
        bound = np.asarray(ORDERS) / (2 * scale**2)
        assert (label_divergences(noise, 100) <= bound * (1 + 1e-9)).all()
        rho = 500 / (2 * scale**2)
        assert labels_epsilon(noise, 100, 500, 1e-5) <= zcdp_epsilon(rho, 1e-5) * 1.02


def test_epsilon_holds_for_the_labels_themselves() -> None:
    """Of ten labels the chances of all outcomes are added up: delta at that epsilon is within what was promised."""
    noise, teachers, labels, delta = VoteNoise("gaussian", 4.0), 11, 10, 1e-3
    epsilon = labels_epsilon(noise, teachers, labels, delta)
    for votes in range(teachers):
        p, q = (float(np.exp(noise.log_chance(np.array(v - teachers / 2)))) for v in (votes, votes + 1))
        ones = np.arange(labels + 1)
        ways = np.array([math.comb(labels, k) for k in ones])
        first, second = (ways * c**ones * (1 - c) ** (labels - ones) for c in (p, q))
        for a, b in ((first, second), (second, first)):
            assert np.maximum(0, a - math.exp(epsilon) * b).sum() <= delta


@pytest.mark.parametrize("kind", KINDS)
def test_the_account_is_monotone(kind: str) -> None:
    noises = [VoteNoise(kind, s) for s in (5.0, 10.0, 20.0)]  # type: ignore[arg-type]
    costs = [labels_epsilon(n, 40, 100, 1e-6) for n in noises]
    assert costs == sorted(costs, reverse=True)
    costs = [labels_epsilon(noises[0], 40, k, 1e-6) for k in (0, 1, 10, 100, 1_000)]
    assert costs == sorted(costs)
    assert costs[0] == 0
    assert labels_epsilon(noises[0], 40, 10, 1e-9) > labels_epsilon(noises[0], 40, 10, 1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_labels_are_bought_as_epsilon_pays_for(kind: str) -> None:
    noise = VoteNoise(kind, 10.0)  # type: ignore[arg-type]
    labels = affordable_labels(noise, 30, 2.0, 1e-6)
    assert labels > 0
    assert labels_epsilon(noise, 30, labels, 1e-6) <= 2.0 < labels_epsilon(noise, 30, labels + 1, 1e-6)
    rich = VotePlan.of(kind, 30, epsilon=20.0, delta=1e-6, most=50, accuracy=0.6, scale=None)  # type: ignore[arg-type]
    assert rich.labels == 50
    assert rich.epsilon <= 20.0
    assert rich.epsilon == pytest.approx(20.0, rel=0.01), "what is left over makes the labels better"
    poor = VotePlan.of(kind, 30, epsilon=0.01, delta=1e-6, most=50, accuracy=0.99, scale=None)  # type: ignore[arg-type]
    assert (poor.labels, poor.epsilon) == (0, 0.0)


def test_gaussian_noise_buys_more_labels_of_the_same_accuracy() -> None:
    plans = [
        VotePlan.of(k, 100, epsilon=1.0, delta=1e-5, most=10**6, accuracy=0.9, scale=None)  # type: ignore[arg-type]
        for k in KINDS
    ]
    assert plans[0].labels > 1.5 * plans[1].labels > 0


def test_epsilon_does_not_hang_on_the_order_of_batches_and_labels_end() -> None:
    plan = VotePlan.of("gaussian", 40, epsilon=2.0, delta=1e-6, most=100, accuracy=0.6, scale=None)
    entries = []
    for parts in ([100], [1, 60, 39], [39, 60, 1]):
        run = lab.begin(epsilon=2.0, delta=1e-6)
        ballot = Ballot(plan, run)
        assert run.ledger[0].epsilon == plan.epsilon, "paid before the first label"
        for part in parts:
            ballot.labels(np.full(part, 20))
        entries.append([m.to_json() for m in run.ledger])
        with pytest.raises(TrainingError, match="paid for"):
            ballot.labels(np.array([20]))
    assert entries[0] == entries[1] == entries[2]
    (entry,) = entries[0]
    assert (entry["type"], entry["labels"], entry["teachers"], entry["sensitivity"]) == ("votes", 100, 40, 1.0)
    assert (entry["epsilon"], entry["delta"]) == (plan.epsilon, 1e-6)


def test_noise_and_a_budget_belong_together() -> None:
    with pytest.raises(ConfigError, match="noise and a budget"):
        Ballot(VotePlan(10, VoteNoise("gaussian", 1.0), 5), None)
    with pytest.raises(ConfigError, match="noise and a budget"):
        Ballot(VotePlan(10, None, 5), lab.begin())


# ---- teachers and student


def teachers_of(teacher: np.ndarray, count: int, n: int = 200, **settings: object) -> tuple[Teachers, RowBlocks]:
    cohort = lab.ward_cohort(n)
    encoder = TableEncoder.fit(cohort, EncodingSettings())
    blocks = RowBlocks(encoder, fit_numbers(encoder, "even", 64))
    data = blocks.tensors(encoder.encode(cohort, rng()), "cpu", rng(1))
    made = Teachers(
        blocks,
        data,
        teacher,
        count,
        middle=torch.zeros(blocks.width),
        spread=torch.ones(blocks.width),
        **{  # type: ignore[arg-type]
            "features": 8,
            "rows": 16,
            "rate": 0.05,
            "decay": 0.01,
            "halves": False,
            "public": torch.Generator().manual_seed(1),
            "random": torch.Generator().manual_seed(2),
            **settings,
        },
    )
    return made, blocks


def test_teachers_tell_their_rows_from_others_and_one_without_rows_votes_no() -> None:
    teachers, blocks = teachers_of(np.arange(200) % 4, 5, features=0)
    real = blocks.real(teachers.data)
    drawn = 1 - real
    teachers.train(drawn, 60)
    assert (teachers.votes(real) == 4).float().mean() > 0.9
    assert (teachers.votes(drawn) == 0).float().mean() > 0.9


def test_a_subject_reaches_one_teacher_alone_in_every_round() -> None:
    teacher = np.arange(200) % 4
    plain, blocks = teachers_of(teacher, 4)
    changed, _ = teachers_of(teacher, 4)
    mine = np.flatnonzero(teacher == 2)
    changed.data.places[mine] = 0.9
    changed.data.states[mine] = 0
    drawn = blocks.real(plain.data)[torch.randperm(200, generator=torch.Generator().manual_seed(3))]
    for _ in range(3):
        plain.train(drawn, 5)
        changed.train(drawn, 5)
        same = [torch.equal(a, b) for a, b in zip(plain.weights, changed.weights, strict=True)]
        assert same == [True, True, False, True]
    assert ((plain.votes(drawn) - changed.votes(drawn)).abs() <= 1).all()


def test_half_of_the_drawn_rows_get_a_vote_where_that_is_asked() -> None:
    teachers, blocks = teachers_of(np.arange(200) % 4, 4, features=0, halves=True)
    drawn = 1 - blocks.real(teachers.data)
    teachers.train(drawn, 40)
    assert 0.3 < float(teachers.votes(drawn).float().mean()) / 4 < 0.7


def matches(monkeypatch: pytest.MonkeyPatch) -> list[PateMatch]:
    """Every match whose student moves from now on, once a move."""
    seen: list[PateMatch] = []
    move = PateMatch.student_move

    def watched(match: PateMatch, done: float) -> object:
        seen.append(match)
        return move(match, done)

    monkeypatch.setattr(PateMatch, "student_move", watched)
    return seen


def test_the_students_gradient_has_no_path_to_real_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once rows are labelled all real tensors may be poisoned: student and generator do not notice."""
    seen = matches(monkeypatch)
    PateGAN(SHORT).fit(lab.ward_cohort(300), seed=0, device="cpu")
    match = seen[-1]
    assert len(match.data) == 0, "the match itself holds no row"
    match.teachers.data.places.fill_(math.nan)
    match.teachers.data.states.fill_(-1)
    match.teachers.weights.fill_(math.nan)
    for network, move in ((match.critic, match.student_move), (match.generator, match.generator_move)):
        network.requires_grad_(True)
        network.zero_grad()
        move(1.0).loss.backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert gradients
        assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_partitions_stay_over_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[Tensor, Tensor]] = []
    train = Teachers.train

    def watched(teachers: Teachers, drawn: Tensor, steps: int) -> None:
        found.append((teachers.order.clone(), teachers.first.clone()))
        train(teachers, drawn, steps)

    monkeypatch.setattr(Teachers, "train", watched)
    PateGAN(SHORT).fit(lab.ward_cohort(300), seed=0, device="cpu")
    assert len(found) == 3
    for order, first in found[1:]:
        assert torch.equal(order, found[0][0])
        assert torch.equal(first, found[0][1])
    assert sorted(found[0][0].tolist()) == list(range(300))


# ---- a training


def test_what_a_training_says_and_enters() -> None:
    cohort = lab.ward_cohort(600)
    model = PateGAN(SHORT)
    report = model.fit(cohort, seed=0, device="cpu", privacy=TrainingPrivacy(epsilon=8.0), noise_key=lab.KEY)
    said = report.privacy
    assert said is not None
    (votes,) = [m for m in said["mechanisms"] if m["type"] == "votes"]
    assert votes["part"] == "learning"
    assert votes["labels"] == report.health["labels"] > 0
    assert votes["teachers"] == report.health["teachers"] == 20
    assert votes["epsilon"] <= 0.9 * 8.0
    assert 0 < said["epsilon"] <= 8.0
    assert said["accountant"].startswith("renyi")
    noise = VoteNoise(votes["noise"], votes["scale"])
    assert votes["epsilon"] == pytest.approx(labels_epsilon(noise, 20, votes["labels"], votes["delta"]))
    assert report.health["label_accuracy"] == pytest.approx(noise.accuracy(20))
    again = PateGAN(SHORT)
    again.fit(cohort, seed=0, device="cpu", privacy=TrainingPrivacy(epsilon=8.0), noise_key=lab.KEY)
    assert again.sample(50, seed=1).table.equals(model.sample(50, seed=1).table)


def test_a_budget_that_buys_no_label_still_gives_rows_and_says_so() -> None:
    """The published noise, gamma 1, costs an epsilon of about 1 a label."""
    cohort = lab.ward_cohort(3_000)
    model = PateGAN({**SHORT, "votes": "laplace", "gamma": 1.0})
    report = model.fit(cohort, seed=0, device="cpu", privacy=TrainingPrivacy(epsilon=1.0), noise_key=lab.KEY)
    assert report.privacy is not None
    assert not [m for m in report.privacy["mechanisms"] if m["type"] == "votes"]
    assert report.health["labels"] == 0
    assert any("too few" in w and "mst" in w for w in report.warnings)
    drawn = model.sample(2_000, seed=0)
    real = cohort.codes("died").mean()
    assert abs(drawn.codes("died").mean() - real) < 0.15


def test_without_an_epsilon_it_says_that_nothing_is_promised() -> None:
    report = PateGAN(SHORT).fit(lab.ward_cohort(200), seed=0, device="cpu")
    assert report.privacy is None
    assert any("asked for an epsilon" in w for w in report.warnings)


def test_a_student_that_knows_nothing_does_not_teach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where labels are coins the generator stays as it began; where the first column is the label, it is told."""
    seen = matches(monkeypatch)
    PateGAN(SHORT).fit(lab.ward_cohort(300), seed=0, device="cpu")
    match = seen[-1]
    rows = torch.rand(2_000, match.blocks.width, generator=torch.Generator().manual_seed(0))
    coins = torch.randint(2, (2_000,), generator=torch.Generator().manual_seed(1)).float()
    steps = torch.optim.Adam(match.critic.parameters(), lr=0.01)
    for labels, knows in ((coins, False), ((rows[:, 0] > 0.5).float(), True)):
        match.seen = [(rows, labels)]
        match.critic.requires_grad_(True)
        for _ in range(150):
            steps.zero_grad()
            match.student_move(1.0).loss.backward()
            steps.step()
        assert match.knows() is knows
        move = match.generator_move(1.0)
        assert (float(move.loss.detach()) != 0) is knows


def test_the_generator_begins_with_independent_columns_and_the_margins() -> None:
    cohort = lab.ward_cohort(2_000)
    model = PateGAN({**SHORT, "steps": 1, "learning_rate": 1e-12, "most_labels": 64})
    model.fit(cohort, seed=0, device="cpu")
    drawn = model.sample(4_000, seed=0)
    assert abs(drawn.codes("died").mean() - cohort.codes("died").mean()) < 0.05
    ages = [np.corrcoef(c.values("age"), c.codes("died"))[0, 1] for c in (cohort, drawn)]
    assert ages[0] > 0.3
    assert abs(ages[1]) < 0.08
