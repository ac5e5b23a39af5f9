"""Faults that hit one group of people only: each must be caught, and named, and a fresh real cohort must not be."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from toy_people import TASK, edited, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.fairness.representation import STRONG, log_disparity, widening
from pipeline.evaluation.intervals import Z95
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort

    Rows = dict[tuple[str, str], MetricResult]


@pytest.fixture(scope="module")
def fair_sides(parts: Parts) -> RealSides:
    return RealSides(parts, EvaluationPlan((TASK,), protected=("sex", "ward"), profile="quick"))


@pytest.fixture(scope="module")
def judge(fair_sides: RealSides, variant: Callable[[str], Cohort]) -> Callable[[str, str], Rows]:
    """All rows of a metric on a variant by their keys."""
    made: dict[str, Callable[[], Cohort]] = {
        "copied_ward": lambda: _copied_ward(fair_sides, variant("fresh")),
        "collapsed_women": lambda: _collapsed_women(variant("fresh")),
        "wrong_ward": lambda: _wrong_ward(variant("fresh")),
        "sex_decides": lambda: _sex_decides(variant("fresh")),
    }

    @cache
    def context(name: str) -> EvaluationContext:
        cohort = made[name]() if name in made else variant(name)
        return EvaluationContext(fair_sides, synthetic_side(fair_sides, cohort))

    @cache
    def rows(name: str, metric: str) -> Rows:
        return {(r.key1, r.key2): r for r in compute(context(name), [metric])}

    return rows


def _column(cohort: Cohort, name: str) -> np.ndarray:
    return np.array(cohort.table.column(name).to_pylist(), dtype=object)


def _copied_ward(sides: RealSides, fresh: Cohort) -> Cohort:
    """The synthetic people of ward c are training people."""
    from toy_people import joined

    train = sides.parts.train
    copied = train.take(np.flatnonzero(_column(train, "ward") == "c"))
    return joined(fresh.take(np.flatnonzero(_column(fresh, "ward") != "c")), copied)


def _collapsed_women(fresh: Cohort) -> Cohort:
    """All women are one and the same."""
    woman = np.flatnonzero(_column(fresh, "sex") == "female")
    rows = np.arange(fresh.n_rows)
    rows[woman] = woman[0]
    return fresh.take(rows)


def _wrong_ward(fresh: Cohort) -> Cohort:
    """The people of ward c are drawn from everybody: right in number, wrong in everything else."""
    ward = _column(fresh, "ward")
    there = ward == "c"
    rows = np.arange(fresh.n_rows)
    rows[there] = np.random.default_rng(3).permutation(fresh.n_rows)[: there.sum()]
    return edited(fresh.take(rows), lambda n, x: pa.array(ward, type=x.type) if n == "ward" else x)


def _sex_decides(fresh: Cohort) -> Cohort:
    """Nine in ten synthetic women die, and one in ten men."""
    woman = _column(fresh, "sex") == "female"
    died = np.random.default_rng(4).random(fresh.n_rows) < np.where(woman, 0.9, 0.1)
    return edited(fresh, lambda n, x: pa.array(died) if n == "died" else x)


def test_a_dropped_minority_is_absent(judge: Callable[[str, str], Rows]) -> None:
    absent, ldss = judge("drop_minority", "fair.absent"), judge("drop_minority", "fair.ldss")
    assert absent["", ""].value >= 1
    assert absent["", ""].ci_lo >= 1
    assert "ward = d" in absent["", ""].note
    assert ldss["ward = d", ""].note == "absent"
    assert ldss["", ""].ci_lo > STRONG
    assert "ward = d" in ldss["", ""].note
    assert ldss["ward = c", ""].note != "absent"


def test_a_halved_minority_is_strongly_under(judge: Callable[[str, str], Rows]) -> None:
    found = judge("halve_minority", "fair.ldss")
    assert found["ward = c", ""].note == "strongly_under"
    assert found["ward = c", ""].value == pytest.approx(np.log(0.5), abs=0.3)
    assert found["", ""].value > STRONG
    assert "ward = c" in found["", ""].note
    assert judge("halve_minority", "fair.absent")["", ""].value == 0


def test_fresh_people_are_not_accused(judge: Callable[[str, str], Rows]) -> None:
    assert judge("fresh", "fair.absent")["", ""].value == 0
    assert judge("fresh", "fair.absent")["", ""].ci_hi == 0
    groups = judge("fresh", "fair.ldss")
    assert groups["", ""].value == 0
    assert not [r for r in groups.values() if r.note in ("absent", "strongly_under", "strongly_over")]
    for metric in ("fair.delta_auroc_gap", "fair.delta_parity_gap", "fair.leak.delta", "fair.leak.adjusted"):
        for (_, key2), row in judge("fresh", metric).items():
            if key2 and row.se and not key2.endswith("/signed"):
                null = row.null_value or 0.0
                assert abs(row.value - null) < 4 * row.se + 0.01, (metric, key2)
    assert all(r.value > 0.75 for r in judge("fresh", "fair.worst_group").values() if r.value is not None)
    attack = judge("fresh", "fair.group.mia")["", ""]
    assert attack.ci_lo < 0.5 < attack.ci_hi
    assert judge("fresh", "fair.group.jsd")["", ""].ci_lo < 0.01
    assert judge("fresh", "fair.group.coverage")["", ""].value > 0.8


def test_flipped_labels_of_one_group_widen_the_gap(judge: Callable[[str, str], Rows]) -> None:
    """Boosting follows them; a logistic model has one slope for both sexes and loses its skill in both."""
    delta, fresh = judge("women_flipped", "fair.delta_auroc_gap"), judge("fresh", "fair.delta_auroc_gap")
    assert delta["outcome", "sex/hgb"].ci_lo > 0.3
    assert delta["outcome", "sex/hgb"].ci_lo > fresh["outcome", "sex/hgb"].ci_hi
    assert judge("women_flipped", "fair.gap.auroc")["outcome", "sex/hgb/tstr"].ci_lo > 0.3
    assert judge("women_flipped", "fair.worst_group")["", ""].ci_hi < 0.7


def test_an_outcome_that_follows_the_group_leaks(judge: Callable[[str, str], Rows]) -> None:
    for metric in ("fair.leak.data", "fair.leak.model", "fair.leak.delta", "fair.leak.adjusted"):
        tied, fresh = judge("sex_decides", metric)["outcome", "sex"], judge("fresh", metric)["outcome", "sex"]
        assert tied.ci_lo > fresh.ci_hi, metric
    assert judge("sex_decides", "fair.leak.data")["outcome", "sex"].value == pytest.approx(0.9, abs=0.03)
    assert judge("sex_decides", "fair.delta_parity_gap")["outcome", "sex"].ci_lo > 0.1
    weight = judge("sex_decides", "xai.shap_subgroup")["outcome", "sex"]
    assert weight.ci_lo > 3 * weight.null_value
    assert judge("sex_decides", "xai.shap_subgroup")["outcome", "sex/rank"].value == 1


def test_shuffled_labels_change_what_models_go_by(judge: Callable[[str, str], Rows]) -> None:
    shuffled, fresh = judge("label_shuffled", "xai.shap_rank")["", ""], judge("fresh", "xai.shap_rank")["", ""]
    assert fresh.value > 0.7
    assert shuffled.value < fresh.value - 0.2


def test_copies_of_one_group_are_found_in_that_group(judge: Callable[[str, str], Rows]) -> None:
    found = judge("copied_ward", "fair.group.mia")
    assert found["ward = c", ""].ci_lo > 0.9
    assert "ward = c" in found["", ""].note
    assert found["ward = a", ""].ci_lo < 0.53


def test_a_collapsed_group_is_not_covered(judge: Callable[[str, str], Rows]) -> None:
    found = judge("collapsed_women", "fair.group.coverage")
    assert found["sex = female", ""].ci_hi < 0.7
    assert found["sex = male", ""].ci_lo > 0.9
    assert "female" in found["", ""].note


def test_a_group_drawn_from_everybody_diverges(judge: Callable[[str, str], Rows]) -> None:
    found = judge("wrong_ward", "fair.group.jsd")
    assert found["ward = c", ""].ci_lo > 0.01
    assert "ward = c" in found["", ""].note
    assert abs(found["sex = male", ""].value) < found["ward = c", ""].value / 4


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_the_interval_of_the_disparity_covers_nothing_wrong(share: float) -> None:
    """Of 200 pairs of samples of one population at least nine tenths have an interval that covers 0 (spec: 90 %)."""
    rng = np.random.default_rng(int(1000 * share))
    covered = 0
    for inside, real in rng.binomial([2000, 1000], share, size=(200, 2)):
        lds, variance = log_disparity(int(inside), 2000, int(real), 1000)
        covered += abs(lds) <= Z95 * variance**0.5
    assert covered >= 180


def test_the_interval_allows_for_several_rows_a_subject() -> None:
    rng = np.random.default_rng(6)
    covered = {True: 0, False: 0}
    for _ in range(200):
        sides = []
        for subjects in (200, 120):
            number = np.repeat((rng.random(subjects) < 0.3).astype(np.int64), 6)
            wide = widening(number, np.repeat(np.arange(subjects), 6), 2)[1]
            sides.append((int(number.sum()), len(number), float(wide)))
        (inside, rows, wide), (real, rows_real, wide_real) = sides
        for honest in covered:
            factors = (wide, wide_real) if honest else ()
            lds, variance = log_disparity(inside, rows, real, rows_real, *factors)
            covered[honest] += abs(lds) <= Z95 * variance**0.5
    assert covered[True] >= 180
    assert covered[False] < 160


def test_other_real_samples_are_not_accused_either(fair_sides: RealSides) -> None:
    """Of eight fresh cohorts none lacks a group, and none has a group that is out of proportion for certain."""
    for seed in range(8):
        context = EvaluationContext(fair_sides, synthetic_side(fair_sides, people(2400, 900 + seed)))
        assert [r.value for r in compute(context, ["fair.ldss", "fair.absent"]) if not r.key1] == [0, 0]
