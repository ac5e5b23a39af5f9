"""Real parts of the toy population, and cohorts with known faults made from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from toy_people import TASK, coded, edited, joined, people

from pipeline.evaluation.context import Parts, RealSides
from pipeline.evaluation.plan import EvaluationPlan
from pipeline.evaluation.references import reference_cohort

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.features.cohort import Cohort


@pytest.fixture(scope="session")
def parts() -> Parts:
    return Parts(people(2400, 1), people(1200, 2), people(700, 3), people(700, 4))


@pytest.fixture(scope="session")
def sides(parts: Parts) -> RealSides:
    return RealSides(parts, EvaluationPlan((TASK,), profile="quick"))


@pytest.fixture(scope="session")
def coded_sides() -> RealSides:
    return RealSides(
        Parts(coded(1600, 1), coded(1100, 2), coded(800, 3), coded(500, 4)), EvaluationPlan(profile="quick")
    )


@pytest.fixture(scope="session")
def variant(sides: RealSides) -> Callable[[str], Cohort]:
    """A cohort with a known fault, by name."""
    train = sides.parts.train
    made: dict[str, Cohort] = {}

    def numeric(x: pa.ChunkedArray, change: Callable[[np.ndarray], np.ndarray]) -> pa.Array:
        if x.type != pa.float64():
            return x
        values = np.array(x.to_numpy(), dtype=float)
        return pa.array(np.round(change(values), 4), mask=np.isnan(values))

    def make(name: str) -> Cohort:
        rng = np.random.default_rng(7)
        if name == "fresh":
            return people(2400, 55, prefix="fresh")
        if name == "train_copy":
            return train.take(rng.permutation(train.n_rows))
        if name == "memorise_k":
            return train.take(np.tile(np.arange(60), 40))
        if name.startswith("copy_"):
            share = int(name[5:].removesuffix("pct")) / 100
            n = int(share * train.n_rows)
            return joined(people(train.n_rows - n, 56, prefix="c"), train.take(np.arange(n)))
        if name in ("marginal", "mode"):
            cohort = reference_cohort(sides, f"ref_{name}")
            assert cohort is not None
            return cohort
        if name == "train_jitter":
            return edited(train, lambda _, x: numeric(x, lambda v: v + 0.05 * np.nanstd(v) * rng.normal(size=len(v))))
        if name == "half_sd":
            return edited(make("fresh"), lambda _, x: numeric(x, lambda v: np.nanmean(v) + 0.45 * (v - np.nanmean(v))))
        if name == "shifted":
            return edited(make("fresh"), lambda _, x: numeric(x, lambda v: v + np.nanstd(v)))
        if name in ("drop_minority", "halve_minority"):
            # Ward d (5 %) is gone, or every second row of ward c (15 %).
            drawn = people(3000, 55, prefix="fresh")
            ward = np.array(drawn.table.column("ward").to_pylist(), dtype=object)
            left_out = ward == "d" if name == "drop_minority" else (ward == "c") & (np.arange(3000) % 2 == 0)
            return drawn.take(np.flatnonzero(~left_out)[:2400])
        if name == "women_flipped":
            fresh = make("fresh")
            woman = np.array(fresh.table.column("sex").to_pylist()) == "female"
            died = np.array(fresh.table.column("died").to_pylist(), dtype=bool)
            return edited(fresh, lambda n, x: pa.array(died ^ woman) if n == "died" else x)
        assert name == "label_shuffled"
        fresh = make("fresh")
        order = pa.array(rng.permutation(fresh.n_rows))
        return edited(fresh, lambda n, x: x.take(order) if n in ("died", "discharge") else x)

    def cached(name: str) -> Cohort:
        if name not in made:
            made[name] = make(name)
        return made[name]

    return cached
