"""Several rows of one person: fresh real people are neither detected by themselves nor taken for members."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from toy_people import edited, people

from pipeline.evaluation.context import EvaluationContext, Parts, RealSides, synthetic_side
from pipeline.evaluation.fidelity.detection import kept_together
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.protocol import compute, headline, pooled

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort

STAYS = 4


def stays(n: int, seed: int) -> Cohort:
    """n people with four stays each, alike but for a little noise in one laboratory value."""
    import pyarrow as pa

    some = people(n, seed)
    many = some.take(np.repeat(np.arange(n), STAYS))
    noise = np.random.default_rng(seed).normal(0, 0.05, many.n_rows)

    def noisy(name: str, x: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        return pa.array(np.round(np.array(x.to_numpy(), dtype=float) + noise, 4)) if name == "lab_c" else x

    return replace(edited(many, noisy), subject=np.repeat(some.subject, STAYS))


@pytest.fixture(scope="module")
def sides() -> RealSides:
    parts = Parts(stays(500, 1), stays(250, 2), stays(150, 3), stays(150, 4))
    return RealSides(parts, EvaluationPlan(profile="quick"))


def test_fresh_people_are_not_accused(sides: RealSides) -> None:
    context = EvaluationContext(sides, synthetic_side(sides, people(1000, 9)))
    wanted = ["fid.joint.detect_auc", "fid.joint.detect_copy_alarm", "priv.mia.max_auc", "priv.exact_unique"]
    rows = pooled(compute(context, wanted))
    for metric in wanted[:3]:
        row = headline(rows, metric)
        assert abs(row.value - 0.5) < max(3.5 * row.se, 0.06), row
    assert headline(rows, "priv.exact_unique").value <= 0


def test_members_and_others_are_equally_many_people_with_all_their_rows(sides: RealSides) -> None:
    context = EvaluationContext(sides, synthetic_side(sides, people(1000, 9)))
    members, others = context.rows("T"), context.rows("H")
    assert len(members) == len(others)
    for side, rows in ((sides.train, members), (sides.holdout, others)):
        assert set(np.bincount(np.unique(side.clusters[rows], return_inverse=True)[1])) == {STAYS}


def test_copied_people_are_caught(sides: RealSides) -> None:
    context = EvaluationContext(sides, synthetic_side(sides, sides.parts.train))
    rows = pooled(compute(context, ["fid.joint.detect_copy_alarm", "priv.mia.max_auc"]))
    assert headline(rows, "priv.mia.max_auc").value > 0.95
    assert headline(rows, "fid.joint.detect_copy_alarm").note.startswith("alarm")


def test_rows_of_one_person_and_identical_rows_stay_together() -> None:
    people_of = np.array([0, 0, 1, 2, 3])
    hashes = np.array([5, 6, 6, 7, 8], dtype=np.uint64)
    groups = kept_together(people_of, hashes)
    assert groups[0] == groups[1] == groups[2], "a person's rows, and the row that equals one of them"
    assert len({groups[0], groups[3], groups[4]}) == 3
    assert kept_together(np.arange(5), None) is None
    assert (kept_together(np.arange(5), hashes) == hashes).all()
    assert len(np.unique(kept_together(people_of, None))) == 4
