"""Tables too small or too sparse for a classifier are left unjudged in words, not given a chance's 0.5 or a crash."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, diags
from toy_people import coded

from pipeline.evaluation.boosting import fit_boosting
from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.encoding import TreeFeatures
from pipeline.evaluation.fidelity.detection import FEWEST
from pipeline.evaluation.protocol import compute, headline, pooled

if TYPE_CHECKING:
    from pipeline.evaluation.results import MetricResult
    from pipeline.features.cohort import Cohort


def test_a_column_with_a_handful_of_values_is_not_offered_to_boosting() -> None:
    """All of them may fall into the tenth set aside for early stopping, and a column without a value cannot be binned."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(120, 3))
    matrix[1:, 1] = np.nan
    matrix[20:, 2] = np.nan
    features = TreeFeatures(matrix=matrix, nominal=[False] * 3, names=["a", "b", "c"], groups=["a", "b", "c"])
    kept, nominal = features.usable(matrix)
    assert (kept.tolist(), nominal) == ([0, 2], None)
    for seed in range(20):
        fit_boosting(matrix[:, kept], rng.random(120) < 0.5, None, rounds=5, early_stopping=True, seed=seed)


def test_fewest_rows_are_those_that_boosting_can_split() -> None:
    """Rows that are told apart at a glance: with the fewest rows a side, a fold's classifier does so."""
    matrix = np.r_[np.zeros(FEWEST), np.ones(FEWEST)][:, None]
    labels = np.repeat([False, True], FEWEST)
    train = np.arange(2 * FEWEST) % 5 != 0
    model = fit_boosting(matrix[train], labels[train], None, rounds=20, early_stopping=True, seed=0)
    assert np.ptp(model.predict_proba(matrix)[:, 1]) > 0.2


def test_codes_that_vanish_set_off_the_alarm_also_where_there_is_no_column(coded_sides: RealSides) -> None:
    """A decoder that rounds loses rare codes: the columns beside the block must not outvote them."""

    def collapse(cohort: Cohort, sides: RealSides) -> MetricResult:
        context = EvaluationContext(sides, synthetic_side(sides, cohort))
        row = headline(pooled(compute(context, ["fid.marg.variance_collapse"])), "fid.marg.variance_collapse")
        assert row is not None
        return row

    def without_every_third(cohort: Cohort) -> Cohort:
        kept = diags((np.arange(300) % 3 > 0).astype(float))
        return replace(cohort, blocks={"diagnoses": csr_matrix(cohort.blocks["diagnoses"] @ kept)})

    def codes_alone(cohort: Cohort) -> Cohort:
        schema = cohort.schema.model_copy(update={"columns": []})
        return replace(cohort, table=cohort.table.select([]), schema=schema)

    fresh = coded(1600, 77)
    assert collapse(fresh, coded_sides).value == 0
    vanished = collapse(without_every_third(fresh), coded_sides)
    assert 0.2 < vanished.value < 0.45
    assert "codes of diagnoses: C" in vanished.note
    assert vanished.note.startswith("alarm")
    parts = coded_sides.parts
    alone = RealSides(Parts(*map(codes_alone, (parts.train, parts.holdout, parts.reference0, parts.reference1))))
    assert collapse(codes_alone(fresh), alone).value == 0
    assert collapse(codes_alone(without_every_third(fresh)), alone).value == vanished.value
