"""Metrics of disclosure on cases small enough to be worked out by hand, and against other implementations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score
from toy_people import people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.literal.disclosure import attributions
from pipeline.evaluation.literal.sensitive import INDEPENDENT, MEDIAN, squared_distance
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.privacy import anonymeter
from pipeline.evaluation.privacy.attackers import score
from pipeline.evaluation.privacy.identity import correct_match, is_age
from pipeline.evaluation.privacy.learnt import nominal_learnt, number_learnt
from pipeline.evaluation.protocol import compute, headline, pooled
from pipeline.features.cohort import assemble
from pipeline.features.schema import CodeBlock, Column, TableSchema

if TYPE_CHECKING:
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

SCHEMA = TableSchema(
    columns=[
        Column(name="group", kind="categorical", dtype="string", levels=["p", "q", "r"], role="quasi_identifier"),
        Column(name="secret", kind="categorical", dtype="string", levels=["m", "n", "o"]),
    ]
)


def rows(*counted: tuple[str, str, int], prefix: str) -> Cohort:
    """A table from (group, secret, how many)."""
    pairs = [(g, s) for g, s, n in counted for _ in range(n)]
    values = {
        "group": np.array(["pqr".index(g) for g, _ in pairs]),
        "secret": np.array(["mno".index(s) for _, s in pairs]),
    }
    return assemble(SCHEMA, values, subject=np.array([f"{prefix}{i:04d}" for i in range(len(pairs))]))


def judge(train: Cohort, holdout: Cohort, made: Cohort, *metrics: str, **plan: object) -> list[MetricResult]:
    sides = RealSides(Parts.of_two(train, holdout), EvaluationPlan(profile="quick", **plan))
    return pooled(compute(EvaluationContext(sides, synthetic_side(sides, made)), metrics))


def value(found: list[MetricResult], metric: str, key1: str = "") -> float:
    row = headline(found, metric, key1=key1)
    assert row is not None
    assert row.value is not None, row.note
    return row.value


def test_tcap() -> None:
    """S is sure of m in group p (19 of 20) and of nothing in q (half and half); nobody of S is in r.

    Of 60 training people 24 are in p with m, of 60 others 12: 24/60 - 12/60.
    """
    train = rows(("p", "m", 24), ("p", "n", 6), ("q", "n", 20), ("r", "o", 10), prefix="t")
    holdout = rows(("p", "m", 12), ("p", "n", 18), ("q", "n", 20), ("r", "m", 10), prefix="h")
    made = rows(("p", "m", 19), ("p", "n", 1), ("q", "n", 5), ("q", "o", 5), prefix="s")
    found = judge(train, holdout, made, "priv.tcap", "priv.delta_presence", "priv.k_map", "priv.l_div")
    assert value(found, "priv.tcap") == pytest.approx(0.2)
    assert value(found, "priv.tcap", "worst") == pytest.approx(0.2)
    # 50 of 60 training people fall into p or q, and 50 of 60 others.
    assert value(found, "priv.delta_presence") == pytest.approx(0.0)
    assert value(found, "priv.k_map") == 20
    assert value(found, "priv.l_div") == 2
    less_sure = rows(("p", "m", 18), ("p", "n", 2), prefix="s")
    assert value(judge(train, holdout, less_sure, "priv.tcap"), "priv.tcap") == 0


def test_k_map_and_l_diversity() -> None:
    """S meets groups of 5 (p) and 30 (q) training people: 4 of its 10 rows stand for fewer than 11 people."""
    train = rows(("p", "m", 5), ("q", "n", 30), ("r", "o", 25), prefix="t")
    made = rows(("p", "m", 4), ("q", "n", 3), ("q", "o", 3), prefix="s")
    found = judge(train, train, made, "priv.k_map", "priv.l_div")
    assert value(found, "priv.k_map") == 5
    assert value(found, "priv.k_map", "share with 1 to 10 people") == pytest.approx(0.4)
    assert value(found, "priv.l_div") == 1


def test_identity_disclosure() -> None:
    """Groups p and q of ten, r of twenty. S has p with m alone and q with o alone.

    Shares of the secret: m 0.3, n 0.3, o 0.4, so a right value is always learnt. Matched by group: 4 of the 10 people of
    p carry m and 5 of q carry o: lambda' (4/10 + 5/10) / 40. Knowing nothing is worse: everybody in one group of 40.
    """
    train = rows(
        ("p", "m", 4),
        ("p", "n", 6),
        ("q", "o", 5),
        ("q", "m", 5),
        ("r", "m", 3),
        ("r", "n", 6),
        ("r", "o", 11),
        prefix="t",
    )
    made = rows(("p", "m", 7), ("q", "o", 3), prefix="s")
    found = judge(train, train, made, "priv.identity_disclosure")
    right = correct_match(1, printed=False)
    assert value(found, "priv.identity_disclosure") == pytest.approx(right * 0.9 / 40)
    assert value(found, "priv.identity_disclosure", "beyond strangers") == pytest.approx(0.0, abs=1e-3)
    larger = judge(train, train, made, "priv.identity_disclosure", population=400)
    assert value(larger, "priv.identity_disclosure") == pytest.approx(right * 0.9 / 400)


def test_correction_for_wrong_matches() -> None:
    """lambda' = (1 + v (1 - e)^q) / 2: near its value at the means; the printed form has 1 - (1 - e)^q and is lower."""
    for attributes in (1, 3, 8):
        free = (1 - 0.0426) ** attributes
        assert correct_match(attributes, printed=False) == pytest.approx((1 + 0.23 * free) / 2, abs=0.004)
        assert correct_match(attributes, printed=True) == pytest.approx((1 + 0.23 * (1 - free)) / 2, abs=0.004)
    assert correct_match(3, printed=True) < 0.9 * correct_match(3, printed=False)


def test_what_counts_as_learnt() -> None:
    shares, same = np.array([0.2, 0.49, 0.51, 0.2]), np.array([True, True, True, False])
    assert nominal_learnt(shares, same).tolist() == [True, True, False, False]
    assert number_learnt(np.array([0.5, 0.5]), np.array([5.9, 6.0]), 2.0).tolist() == [True, False]


def test_ages_are_told_from_other_numbers() -> None:
    def number(name: str) -> Column:
        return Column(name=name, kind="continuous", dtype="float64", unit="a")

    assert [is_age(number(n)) for n in ("age", "Age_at_entry", "age.years", "edu", "dosage", "stage")] == [True, True, True, False, False, False]  # fmt: skip


def test_scores_agree_with_scikit_learn_and_scipy() -> None:
    rng = np.random.default_rng(0)
    guess = np.round(rng.normal(size=400), 1)
    level, number = (rng.random(400) < 0.3).astype(float), guess + rng.normal(size=400)
    number[:17] = np.nan
    assert score(guess, level).value == pytest.approx(2 * roc_auc_score(level, guess) - 1)
    assert score(guess, number).value == pytest.approx(pearsonr(guess[17:], number[17:]).statistic)
    assert score(np.ones(400), level).value == 0
    assert score(np.ones(400), number).value == 0
    assert np.isnan(score(guess, np.r_[np.ones(3), np.zeros(397)]).value)


def test_standard_errors_agree_with_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    guess = rng.normal(size=300)
    for real in ((guess + rng.normal(size=300) > 0.8).astype(float), 0.6 * guess + rng.normal(size=300)):
        influence = score(guess, real).influence
        drawn = [score(guess[i], real[i]).value for i in (rng.integers(0, 300, 300) for _ in range(400))]
        assert influence.sum() == pytest.approx(0, abs=1e-9)
        assert np.sqrt((influence**2).sum()) == pytest.approx(np.std(drawn), rel=0.15)


def test_a_constant_guess_of_the_median_scores_a_twelfth() -> None:
    """The flaw of SDV's numerical privacy: published figures of 0.074 to 0.108 say that nothing was learnt."""
    rng = np.random.default_rng(2)
    real = rng.gamma(2.0, 10.0, size=20_000)
    assert squared_distance(np.full(20_000, np.median(real)), real, real).mean() == pytest.approx(MEDIAN, abs=1e-4)
    assert squared_distance(rng.permutation(real), real, real).mean() == pytest.approx(INDEPENDENT, abs=2e-3)
    assert squared_distance(real, real, real).max() == 0


def test_correct_attribution_by_hand() -> None:
    """Keys (a, b). S: (0,0) twice with secret 0 and once with 1, (1,1) with 2. People: (0,0)/0, (1,1)/2, (1,0)/1.

    The third has no match; nearest to (1,0) by Hamming are (0,0) and (1,1), at 1 each: one of four rows carries 1.
    """
    keys, secret = np.array([[0, 0], [1, 1], [1, 0]]), np.array([0, 2, 1])
    made, told = np.array([[0, 0], [0, 0], [0, 0], [1, 1]]), np.array([0, 0, 1, 2])
    found = attributions(keys, {"x": secret}, made, {"x": told}, {"x": 3})["x"]
    assert found.share[:2].tolist() == pytest.approx([2 / 3, 1.0])
    assert np.isnan(found.share[2])
    assert found.nearest.tolist() == pytest.approx([2 / 3, 1.0, 1 / 4])


def test_the_literal_family_on_levels() -> None:
    """S is sure of m in p; training people of p carry m in 30 of 40 cases: CAP protection 1/4, over 2/3 for guessing."""
    train = rows(("p", "m", 30), ("p", "n", 10), ("q", "o", 20), prefix="t")
    made = rows(("p", "m", 25), prefix="s")
    names = [f"lit.sdv.{n}" for n in ("cap", "zero_cap", "gcap", "disclosure")]
    found = judge(train, train, made, *names)
    assert [value(found, n) for n in names] == pytest.approx([1 / 4, (10 + 20) / 60, (10 + 20) / 60, (1 / 4) / (2 / 3)])


def test_yan_attribute_inference() -> None:
    """Numbers within a tenth, codes by F1, weighted by entropy: a copy is right about everything, a stranger is not."""
    schema = TableSchema(
        columns=[
            Column(name="sex", kind="binary", dtype="string", levels=["f", "m"], role="protected"),
            Column(name="lab", kind="continuous", dtype="float64"),
        ],
        blocks=[CodeBlock(name="codes", kind="binary", vocabulary=["A", "B"])],
    )

    def table(lab: list[float], codes: list[list[int]], prefix: str) -> Cohort:
        n = len(lab)
        return assemble(
            schema, {"sex": np.arange(n) % 2, "lab": np.array(lab)},
            blocks={"codes": csr_matrix(np.array(codes, dtype=float))}, subject=np.array([f"{prefix}{i}" for i in range(n)]),
        )  # fmt: skip

    # All codes are known (2 of 256), so the number alone is guessed: within 10 % for the first and the last.
    train = table([100, 50, 20, 10], [[1, 0], [1, 0], [0, 1], [0, 1]], "t")
    made = table([109, 60, 30, 10], [[1, 0], [1, 0], [0, 1], [0, 1]], "s")
    assert value(judge(train, train, made, "lit.yan.attr"), "lit.yan.attr") == pytest.approx(0.5)


def test_anonymeter_is_an_opt_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without its environment, or with one that is broken, the reason stands in the place of the value."""
    train, made = (rows(("p", "m", 30), ("q", "n", 30), prefix=p) for p in "ts")
    names = [f"priv.giomi.{n}" for n in ("so_uni", "so_multi", "link", "inf")]
    monkeypatch.delenv(anonymeter.PYTHON, raising=False)
    assert all(r.value is None and r.note == anonymeter.NOT_CONFIGURED for r in judge(train, train, made, *names))
    monkeypatch.setenv(anonymeter.PYTHON, str(tmp_path / "nowhere"))
    assert all("names no file" in r.note for r in judge(train, train, made, *names))
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'level 3 of patient 7' >&2\nexit 3\n")
    broken.chmod(0o700)
    monkeypatch.setenv(anonymeter.PYTHON, str(broken))
    assert {r.note for r in judge(train, train, made, *names)} == {"anonymeter's environment failed (exit status 3)"}


@pytest.mark.slow
def test_anonymeter_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get(anonymeter.PYTHON):
        pytest.skip(f"{anonymeter.PYTHON} is not set: anonymeter's environment is optional")
    monkeypatch.setattr(anonymeter, "ATTACKS", 100)
    parts = Parts(people(600, 1), people(300, 2), people(20, 3), people(20, 4))
    sides = RealSides(parts, EvaluationPlan(known=("age", "sex", "ward"), secrets=("lab_a", "stage"), profile="full"))
    names = [f"priv.giomi.{n}" for n in ("so_uni", "so_multi", "link", "inf")]
    copied, fresh = (
        pooled(compute(EvaluationContext(sides, synthetic_side(sides, made)), names))
        for made in (parts.train, people(600, 55))
    )
    for name in names:
        found, strangers = headline(copied, name), headline(fresh, name)
        assert found is not None
        assert strangers is not None
        assert found.ci_lo > 0.1
        assert strangers.ci_lo == 0
