"""The analyses that SUPPORT's cohort file prespecifies, on its real rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support_cohort import load_support

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, headline, pooled
from pipeline.evaluation.references import reference_cohort
from pipeline.evaluation.utility.analyses import Analysis
from pipeline.features.spec import load_book

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.realdata
FROZEN: dict[str, tuple[float, float]] = {
    "cancer": (0.366479, 0.014234),
    "age": (0.012759, 0.000922),
    "sex": (-0.072154, 0.025730),
    "num_comorbidities": (0.024173, 0.010632),
    "diabetes": (-0.000635, 0.034742),
    "mean_bp": (-0.003086, 0.000518),
    "creatinine": (0.041392, 0.007585),
}


@pytest.fixture(scope="module")
def sides(real_data: Path) -> RealSides:
    plan = replace(EvaluationPlan.of(load_book().cohort("support")), profile="quick")
    return RealSides(Parts.of(load_support(real_data)), plan)


def test_hazards_of_support_against_lifelines(sides: RealSides) -> None:
    """Frozen from lifelines 0.30.3 on all 8,873 rows of support.csv.gz: CoxPHFitter().fit(df, "duration", "event",
    robust=True), df with cancer as 0, 1, 2, sex as 1 for female, and the numbers as they are.
    """
    spec = next(a for a in sides.plan.analyses if a.kind == "cox")
    analysis = Analysis(sides, spec)
    parts = (sides.train, sides.holdout, sides.reference0, sides.reference1)
    found = analysis.fit([analysis.data(s, np.arange(len(s))) for s in parts])
    scales = np.array([t.std for t in analysis.terms])
    names = [t.column for t in analysis.terms]
    coef, se = dict(zip(names, found.coef / scales, strict=True)), dict(zip(names, found.se / scales, strict=True))
    assert found.n == 8873
    for name, (value, error) in FROZEN.items():
        assert coef[name] == pytest.approx(value, abs=2e-5)
        assert se[name] == pytest.approx(error, rel=2e-2)


def test_fresh_people_keep_effects_and_shuffled_columns_lose_them(sides: RealSides) -> None:
    ids = ["util.inference.sign_agreement", "util.inference.ci_overlap", "util.inference.variance_ratio", "util.km"]
    found = {}
    for name in ("ref_fresh", "ref_marginal"):
        cohort = reference_cohort(sides, name)
        assert cohort is not None
        rows = pooled(compute(EvaluationContext(sides, synthetic_side(sides, cohort)), ids))
        found[name] = {m: headline(rows, m) for m in ids}
    fresh, shuffled = found["ref_fresh"], found["ref_marginal"]
    for metric in ids[:2]:
        assert fresh[metric].value - 2 * fresh[metric].se < fresh[metric].null_value
        assert fresh[metric].value + 2 * fresh[metric].se > fresh[metric].null_value
        assert fresh[metric].ci_lo > shuffled[metric].ci_hi
    assert fresh["util.inference.variance_ratio"].ci_lo < 1 < fresh["util.inference.variance_ratio"].ci_hi
    assert shuffled["util.inference.variance_ratio"].ci_lo > 2
    assert shuffled["util.km"].ci_lo > 3 * fresh["util.km"].null_value
