"""The published formulas of copies, distances and membership to the letter, and the flaws that they are shown with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from toy_people import coded, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.literal.closest_records import overfitting_protection
from pipeline.evaluation.literal.membership import f1_of, hits, index_mixed_authenticity
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, headline, pooled

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort


def judge(sides: RealSides, cohort: Cohort, metric: str, key1: str = "") -> MetricResult:
    row = headline(
        pooled(compute(EvaluationContext(sides, synthetic_side(sides, cohort)), [metric])), metric, key1=key1
    )
    assert row is not None
    return row


def test_overfitting_protection_by_hand() -> None:
    """Four rows: nearer to training, a tie, farther, nearer."""
    to_train, to_holdout = np.array([0.1, 0.2, 0.3, 0.0]), np.array([0.2, 0.2, 0.1, 0.4])
    assert overfitting_protection(to_train, to_holdout) == 1.0
    assert overfitting_protection(np.array([0.1, 0.1, 0.1, 0.2]), to_holdout) == 2 * (1 - 3 / 4)
    assert overfitting_protection(np.zeros(4), np.zeros(4)) == 1.0


def test_unequal_parts_look_like_overfitting() -> None:
    """Nothing leaks, but the training part is larger than the holdout: fresh rows are called overfitted."""
    sides = RealSides(Parts.of_two(people(1400, 1), people(600, 2)), EvaluationPlan(profile="quick"))
    fresh = people(1400, 3)
    assert judge(sides, fresh, "lit.sdv.dcr_overfitting").ci_hi < 0.85
    share = judge(sides, fresh, "priv.dcr_share")
    assert share.ci_lo < 0.5 < share.ci_hi


def test_authenticity_mixes_up_indices() -> None:
    """By hand: training rows 0, 1, 2 with neighbours at .1, .2, .9; nearest synthetic rows 2, 0, 0."""
    spacing, distance = np.array([0.1, 0.2, 0.9]), np.array([0.5, 0.3, 0.05])
    assert index_mixed_authenticity(spacing, distance, np.array([2, 0, 0])) == pytest.approx(1 / 3)


def test_memorised_rows_pass_for_authentic(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    """60 training rows repeated 40 times: nine in ten are called authentic, the formula of the paper gives none."""
    memorised = variant("memorise_k")
    assert judge(sides, memorised, "lit.alaa.authenticity").value > 0.85
    assert judge(sides, memorised, "priv.authenticity").value == 0
    assert "2,400" in judge(sides, people(100, 3), "lit.alaa.authenticity").note


def test_f1_rests_on_the_base_rate() -> None:
    assert f1_of(1.0, 1.0) == pytest.approx(14 / 17)
    assert f1_of(0.5, 0.0) == pytest.approx(2 / 3)
    assert f1_of(0.0, 0.0) == 0.0


def test_a_radius_calls_everybody_a_member(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    for name in ("fresh", "train_copy"):
        assert judge(sides, variant(name), "lit.yan.mia_f1").value == pytest.approx(14 / 17)


def test_the_median_sees_no_fiftieth_of_copies(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    assert judge(sides, variant("train_copy"), "lit.pyhealth.mia").value == pytest.approx(1, abs=0.01)
    few = judge(sides, variant("copy_2pct"), "lit.pyhealth.mia")
    assert few.ci_lo < 0.5 < few.ci_hi


def test_noise_as_the_yardstick_blames_fresh_people(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    assert judge(sides, variant("fresh"), "lit.sdv.dcr_baseline").ci_hi < 0.7
    assert judge(sides, variant("train_copy"), "lit.sdv.dcr_baseline").value == 0


def test_cosine_above_a_half(coded_sides: RealSides) -> None:
    """Fresh real people are alike too; the reproduction's pairs are strangers."""
    fresh = coded(1600, 77)
    near = judge(coded_sides, fresh, "lit.scoehr.cosine")
    assert near.ci_lo > 0.1
    assert judge(coded_sides, fresh, "lit.scoehr_repro.cosine").value < 0.2 * near.value
    # Copies of all training people are all met, and the reproduction, which pairs strangers of the holdout, sees nothing.
    copied = judge(coded_sides, coded_sides.parts.train, "lit.scoehr_repro.cosine")
    assert copied.value < 0.2


def test_paired_cosine_by_hand(coded_sides: RealSides) -> None:
    side = coded_sides.holdout
    counts = np.concatenate([m.toarray() for m in side.counts.values()], axis=1)[:4].astype(float)
    made = coded(1600, 77)
    synthetic = coded_sides.encoder.side(made.take(np.arange(4)))
    other = np.concatenate([m.toarray() for m in synthetic.counts.values()], axis=1).astype(float)
    norms = np.linalg.norm(counts, axis=1) * np.linalg.norm(other, axis=1)
    expected = np.mean((counts * other).sum(axis=1) > 0.5 * np.where(norms > 0, norms, np.inf))
    assert judge(coded_sides, made.take(np.arange(4)), "lit.scoehr_repro.cosine").value == expected


def test_hitting_by_hand(sides: RealSides, variant: Callable[[str], Cohort]) -> None:
    real, rows = sides.train, np.arange(40)
    same = sides.encoder.side(variant("train_jitter"))
    found = hits(real, rows, same, np.arange(len(same)))
    columns = sides.encoder.columns
    for i in rows:
        alike = np.ones(len(same), dtype=bool)
        for c in columns:
            if c.discrete:
                alike &= same.codes[c.name] == real.codes[c.name][i]
            else:
                reach = (np.nanmax(real.values[c.name]) - np.nanmin(real.values[c.name])) / 30
                with np.errstate(invalid="ignore"):
                    close = np.abs(same.values[c.name] - real.values[c.name][i]) <= reach
                alike &= close | (np.isnan(same.values[c.name]) & np.isnan(real.values[c.name][i]))
        assert found[i] == alike.any()
    assert judge(sides, variant("train_copy"), "lit.syntheval.hitting_rate").value == 1
