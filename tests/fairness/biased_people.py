"""People among whom an outcome depends on the group, directly and by way of what goes with the group."""

from __future__ import annotations

import numpy as np

from pipeline.features.cohort import Cohort, assemble
from pipeline.features.schema import Column, Resolution, TableSchema


def biased_people(n: int = 3000, seed: int = 0, *, levels: tuple[str, ...] = ("a", "b", "c")) -> Cohort:
    """Group "a" is favoured; `score` and `town` go with the group; the label is missing now and then."""
    rng = np.random.default_rng(seed)
    group = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    score = np.round(rng.normal(50, 10, n) + 4 * (group == 0), 0)
    town = np.where(rng.random(n) < 0.8, group % 2, rng.integers(0, 2, n))
    risk = 1 / (1 + np.exp(-((score - 55) / 5 + 1.2 * (group == 0))))
    label = (rng.random(n) < risk).astype(int)
    label[rng.random(n) < 0.03] = -1
    schema = TableSchema(
        columns=[
            Column(name="person", kind="identifier", dtype="string", role="id"),
            Column(name="group", kind="categorical", dtype="string", levels=list(levels), role="protected"),
            Column(name="town", kind="binary", dtype="string", levels=["north", "south"]),
            Column(name="score", kind="count", dtype="int64", bounds=(0, 120), resolution=Resolution(kind="step")),
            Column(name="hired", kind="binary", dtype="bool", levels=[False, True], nullable=True, role="label"),
        ]
    )
    cells = {"group": group, "town": town, "score": np.clip(score, 0, 120).astype(float), "hired": label}
    return assemble(schema, cells)
