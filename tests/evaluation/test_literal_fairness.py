"""The papers' fairness formulas: by hand, and what is wrong with each as behaviour."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from toy_people import TASK, edited, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.fairness.leakage import guessed
from pipeline.evaluation.literal.fairness import disparity, leaked, level
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort


def test_literal_formulas_by_hand() -> None:
    # Four people, three columns: group, outcome, guess. Half of the real and three quarters of the synthetic are in.
    assert disparity(0.75, 0.5) == pytest.approx(math.log(3))
    assert disparity(0.0, 0.5) == -math.inf
    assert [level(math.log(x)) for x in (0.8, 0.85, 1.0, 1.2, 1.3)] == [
        "missing",
        "underrepresented",
        "adequately represented",
        "over-represented",
        "no level defined",
    ]
    yes, group = np.array([True, True, False, False]), np.array([1, 1, 0, 1])
    assert leaked(yes, group, np.array([True, False, True, False]), np.array([1, 0, 0, 1])).tolist() == [1, 1, 0, 0]


def test_the_literal_leakage_is_base_rate() -> None:
    """Its flaw: nothing leaks, and it reads 71 %."""
    rng = np.random.default_rng(1)
    group = (rng.random(5000) < 0.29).astype(np.int64)
    yes = rng.random(5000) < 0.1
    assert leaked(yes, group, yes, group).mean() == pytest.approx(0.71, abs=0.02)
    assert guessed(yes.astype(float), group, np.arange(5000), 2, rng) == pytest.approx(0.5, abs=0.03)


def test_the_literal_parity_gap_is_empty_for_a_rare_outcome(parts: Parts) -> None:
    """Its flaw: at 1/2 nobody is called positive, so a real gap reads 0; the sound one sees it."""

    def rarer(cohort: Cohort, seed: int) -> Cohort:
        rng = np.random.default_rng(seed)
        woman = np.array(cohort.table.column("sex").to_pylist()) == "female"
        died = rng.random(cohort.n_rows) < np.where(woman, 0.2, 0.06)
        return edited(cohort, lambda n, x: pa.array(died) if n == "died" else x)

    rare = Parts(rarer(parts.train, 1), rarer(people(2400, 2), 2), parts.reference0, parts.reference1)
    plan = EvaluationPlan((TASK,), protected=("sex",), profile="quick")
    sides = RealSides(rare, plan)
    context = EvaluationContext(sides, synthetic_side(sides, rarer(people(2400, 60), 3)))
    literal, sound = (compute(context, [m])[0] for m in ("lit.btgan.parity_gap", "fair.gap.parity_max"))
    assert abs(literal.value) < 0.01
    assert sound.ci_lo > 0.2
