"""A figure by CohortLoom: `python by_us.py ROWS FIGURE` prints JSON. The rows are drawn again from their seeds."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evaluating.own_process import tell
from evaluating.shared import SHARED, Shared
from evaluating.shared_rows import only, plan, shared_rows

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort

HEAVY = ("scipy.stats", "sklearn.ensemble", "sklearn.linear_model", "sklearn.neural_network", "sklearn.svm", "torch")
"""What we import when it is needed and the peers at once: no part of a figure."""


def figure(shared: Shared, rows: dict[str, Cohort]) -> float:
    """Our value, with everything that it needs made from the rows up, and with its interval."""
    from pipeline.evaluation.protocol import Parts, run_evaluation

    train, holdout, made = (only(rows[name], shared.columns) for name in ("train", "holdout", "synthetic"))
    asked = plan()
    if shared.columns != "all":
        asked = replace(asked, tasks=(), protected=(), known=(), secrets=())
    found = run_evaluation(Parts.of_two(train, holdout), [made], asked, metrics=[shared.metric]).results
    pooled = [r for r in found if r.replicate == -1 and r.key2 == shared.key2 and r.value is not None]
    if shared.key1 == "mean of columns":
        numbers = {c.name for c in train.schema.columns if not c.discrete}
        return float(np.mean([r.value for r in pooled if r.key1 in numbers]))
    return float(next(r.value for r in pooled if r.key1 == shared.key1))


if __name__ == "__main__":
    asked_for = next(s for s in SHARED if s.name == sys.argv[2])
    drawn = shared_rows(int(sys.argv[1]))
    for module in ("pipeline.evaluation.protocol", *HEAVY):
        import_module(module)
    tell(lambda: figure(asked_for, drawn))
