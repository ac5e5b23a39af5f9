"""A private training's randomness is secret, its noise has the size that is written down, and its budget is kept."""

from __future__ import annotations

import json

import numpy as np
import private_lab as lab
import pyarrow as pa
import pytest
import torch

from pipeline.errors import ConfigError, TrainingError
from pipeline.features.cohort import Cohort, assemble
from pipeline.features.split import PUBLISHED_KEY
from pipeline.privacy.accounting import zcdp_epsilon, zcdp_rho
from pipeline.privacy.bounding import bounded
from pipeline.privacy.run import PrivateRun
from pipeline.privacy.secrets import Secret, content_digest, training_key
from pipeline.privacy.spec import PrivacySpec, TrainingPrivacy

# ---- randomness


def drawn(**settings: object) -> tuple[float, ...]:
    run = lab.begin(**settings)  # type: ignore[arg-type]
    torch_part = torch.randn(2, generator=run.torch("noise")).tolist()
    return (*run.rng("noise").normal(size=3), *torch_part, *run.gaussian(np.zeros(2), l2=1, rho=0.01, what="zeros"))


def test_the_same_key_gives_the_same_noise_and_nothing_else_does() -> None:
    first = drawn()
    assert drawn() == first
    others = [
        drawn(key=b"another key"),
        drawn(seed=1),
        drawn(epsilon=2.0),
        drawn(n=601),
        drawn(preprocessing_share=0.2),
        drawn(key=None),
        drawn(key=None),
    ]
    for other in others:
        assert not set(first) & set(other)
    assert others[-1] != others[-2]


def test_noise_is_never_that_of_the_public_seed() -> None:
    from pipeline.generators.seeds import derive_seed, stream

    told = {stream(0, *purpose).normal() for purpose in (("noise",), ("", "noise"))}
    told |= {np.random.default_rng(s).normal() for s in (0, derive_seed(0, "noise"))}
    assert not told & set(drawn())


def test_asked_again_for_a_purpose_other_numbers_come() -> None:
    run = lab.begin()
    again = [run.rng("p").random() for _ in range(3)] + [run.part(0.5, "a").rng("p").random()]
    assert len(set(again)) == 4
    assert len({float(torch.rand(1, generator=run.torch("p"))) for _ in range(3)}) == 3


def test_torch_takes_more_than_32_bits_of_the_secret() -> None:
    """`manual_seed` on the CPU does not: two seeds that share their lower half give the same numbers."""
    low, high = (torch.rand(3, generator=torch.Generator().manual_seed(5 + (k << 32))) for k in (0, 1))
    assert torch.equal(low, high)
    generator = Secret(b"s" * 32).torch("p")
    plain = torch.Generator().manual_seed(generator.initial_seed())
    words = generator.get_state()[24 : 24 + 8 * 624].view(torch.int64)
    assert not torch.equal(words, plain.get_state()[24 : 24 + 8 * 624].view(torch.int64))
    assert 0 <= int(words.min()) <= int(words.max()) < 2**32
    numbers = torch.randn(200_000, generator=generator)
    assert abs(float(numbers.mean())) < 0.01
    assert float(numbers.std()) == pytest.approx(1, abs=0.01)
    assert torch.equal(torch.randn(200_000, generator=Secret(b"s" * 32).torch("p")), numbers)


def test_the_digest_sees_every_cell_and_no_chunk() -> None:
    cohort = lab.plain_cohort(20)
    values = cohort.values("x").copy()
    chunked = Cohort(pa.concat_tables([cohort.table.slice(0, 7), cohort.table.slice(7)]), cohort.schema, cohort.subject)
    assert content_digest(chunked) == content_digest(cohort)
    values[3] += 1e-12
    assert content_digest(assemble(lab.PLAIN, {"x": values})) != content_digest(cohort)
    assert training_key(b"house", "a") != training_key(b"house", "b") != training_key(b"other", "b")
    assert training_key(PUBLISHED_KEY, "a") is None  # everybody knows it


# ---- mechanisms


def test_noise_has_the_size_that_is_written_down() -> None:
    run = lab.begin(epsilon=50.0)
    gaussian = run.gaussian(np.zeros(40_000), l2=3.0, rho=0.5, what="g")
    laplace = run.laplace(np.zeros(40_000), l1=2.0, epsilon=4.0, what="l")
    assert gaussian.std() == pytest.approx(3.0, rel=0.02) == run.ledger[0].scale
    assert np.abs(laplace).mean() == pytest.approx(0.5, rel=0.02) == run.ledger[1].scale
    picks = np.bincount(
        [run.exponential(np.array([0.0, 1.0]), sensitivity=1.0, epsilon=2.0, what="e") for _ in range(4000)]
    )
    assert picks[1] / picks[0] == pytest.approx(np.e, rel=0.12)
    assert run.ledger[-1].rho == pytest.approx(0.5)


def test_several_rows_of_a_subject_take_more_noise() -> None:
    once, twice = lab.begin(), lab.begin(rows_per_subject=2)
    for run in (once, twice):
        run.gaussian(np.zeros(3), l2=1.0, rho=0.1, what="g")
        run.laplace(np.zeros(3), l1=1.0, epsilon=0.1, what="l")
        run.exponential(np.zeros(3), sensitivity=1.0, epsilon=0.1, what="e")
        run.stable(np.array([3]), epsilon=0.1, delta=1e-7, what="s")
    for a, b in zip(once.ledger, twice.ledger, strict=True):
        assert (b.scale, b.sensitivity) == (pytest.approx(2 * a.scale), 2 * a.sensitivity)
        assert (b.rho, b.epsilon) == (a.rho, a.epsilon)
    assert twice.ledger[-1].details["threshold"] > 2 * once.ledger[-1].details["threshold"] - 1


def test_a_value_of_one_subject_is_named_no_more_often_than_delta_says() -> None:
    run = lab.begin(epsilon=1e6)
    delta, trials = 0.05, 8_000
    kept, _ = run.stable(np.ones(trials, dtype=int), epsilon=0.7, delta=delta, what="lone values")
    assert 0.8 * delta < kept.mean() < 1.15 * delta
    common, noisy = run.stable(np.array([0, 500]), epsilon=0.7, delta=delta, what="known", known=1)
    assert common.all()
    assert abs(noisy[1] - 500) < 50


def test_what_costs_nothing_is_refused() -> None:
    run = lab.begin()
    for l2, rho in ((0.0, 1.0), (1.0, 0.0), (float("inf"), 1.0), (1.0, -1.0)):
        with pytest.raises(ConfigError, match="none"):
            run.gaussian(np.zeros(2), l2=l2, rho=rho, what="nothing")
    assert run.ledger == []


# ---- the budget


def test_parts_share_a_budget_and_cannot_be_taken_twice() -> None:
    run = lab.begin(epsilon=2.0, delta=1e-6)
    small, large = run.part(0.1, "encoding"), run.part(0.9, "learning")
    assert (small.epsilon, large.delta) == (pytest.approx(0.2), pytest.approx(0.9e-6))
    with pytest.raises(ConfigError, match="handed out"):
        run.part(0.05)
    small.laplace(np.zeros(2), l1=1, epsilon=0.2, what="counts")
    large.gaussian(np.zeros(2), l2=1, rho=large.zcdp_rho(), what="tables")
    assert run.spent().epsilon == pytest.approx(2.0)
    assert run.spent().epsilon <= 2.0
    report = run.report()
    assert report["parts"]["learning"]["epsilon"] == pytest.approx(1.8)
    assert [m["part"] for m in report["mechanisms"]] == ["encoding", "learning"]


def test_what_is_overspent_is_not_reported_but_refused() -> None:
    run = lab.begin(epsilon=1.0)
    run.part(0.5, "half").laplace(np.zeros(1), l1=1, epsilon=0.6, what="too much")
    with pytest.raises(TrainingError, match="overspent"):
        run.report()
    empty = lab.begin()
    with pytest.raises(TrainingError, match="no mechanism"):
        empty.report()


def test_looks_add_up_by_the_smaller_of_two_accounts() -> None:
    many = lab.begin(epsilon=3.0, delta=1e-6)
    for _ in range(100):
        many.exponential(np.zeros(2), sensitivity=1, epsilon=0.1, what="pick")
    assert many.spent().epsilon == pytest.approx(zcdp_epsilon(100 * 0.1**2 / 8, 1e-6))
    few = lab.begin(epsilon=3.0, delta=1e-6)
    few.laplace(np.zeros(2), l1=1, epsilon=1.0, what="one")
    assert few.spent().epsilon == pytest.approx(1.0)
    mixed = lab.begin(epsilon=3.0, delta=1e-6)
    mixed.stable(np.array([5]), epsilon=1.0, delta=5e-7, what="levels")
    mixed.gaussian(np.zeros(2), l2=1, rho=zcdp_rho(1.5, 5e-7), what="counts")
    assert mixed.spent().epsilon == pytest.approx(2.5)
    mixed.stable(np.array([5]), epsilon=0.1, delta=6e-7, what="more")
    with pytest.raises(TrainingError, match="overspent"):
        mixed.spent()


def test_the_report_says_what_the_number_means() -> None:
    run = PrivateRun.begin(PrivacySpec(epsilon=1.5, delta=1e-6), lab.plain_cohort(700), seed=0, key=lab.KEY)
    run.gaussian(np.zeros(2), l2=1, rho=run.zcdp_rho(), what="counts")
    report = run.report()
    json.dumps(report, allow_nan=False)
    assert (report["unit"], report["n"], report["n_public"]) == ("subject", 700, True)
    assert report["adjacency"] == "add or remove all rows of one subject"
    assert report["headline"].startswith("(1.5, 1e-06)-differentially private for each of 700 subjects")
    assert "never from the seed" in report["seed_policy"]
    assert report["secure_noise"] is False
    assert any("not from a cryptographically secure one" in note for note in report["notes"])
    assert report["versions"]["opacus"] == "1.6.0"
    assert "gdp" not in json.dumps(report).lower()
    assert lab.KEY.decode() not in json.dumps(report)


def test_the_delta_is_held_against_subjects_and_not_rows() -> None:
    cohort = lab.plain_cohort(1000)
    cohort = Cohort(cohort.table, cohort.schema, np.repeat(np.array([f"s{i}" for i in range(100)]), 10))
    weak = TrainingPrivacy(epsilon=1, delta=0.01)  # below 1 / rows would be 0.001
    with pytest.raises(ConfigError, match="100 subjects"):
        PrivateRun.begin(weak, cohort, seed=0)
    assert PrivateRun.begin(TrainingPrivacy(epsilon=1), cohort, seed=0).subjects == 100


# ---- bounding


def test_at_most_so_many_rows_of_each_subject_are_used() -> None:
    rng = np.random.default_rng(0)
    cohort = lab.plain_cohort(400)
    cohort = Cohort(cohort.table, cohort.schema, np.array([f"s{i}" for i in rng.integers(0, 60, 400)]))
    _, before = np.unique(cohort.subject, return_counts=True)
    for most in (1, 3):
        kept = bounded(cohort, most, np.random.default_rng(1))
        names, counts = np.unique(kept.subject, return_counts=True)
        assert len(names) == len(before)
        assert np.array_equal(counts, np.minimum(before, most))
        place = np.searchsorted(np.sort(cohort.values("x")), np.sort(kept.values("x")))
        assert len(np.unique(place)) == kept.n_rows
    chosen = [set(bounded(cohort, 1, np.random.default_rng(k)).values("x")) for k in range(30)]
    assert len(set.union(*chosen)) > 0.9 * 400
    assert bounded(cohort, 99, rng) is cohort
