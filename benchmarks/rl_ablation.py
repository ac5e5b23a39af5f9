"""What each part of `rlsyn` is worth: `python benchmarks/rl_ablation.py [--iterations 300] [--only NAME ...]`.

2,000 rows of the conformance suite's mixed table (ten columns with spikes, missing cells and a hidden cause), a small
network, one seed; 6,000 drawn rows against 6,000 fresh ones. C2ST: AUC of boosted trees, three folds, 0.5 is the null.
Correlation: RMSE between the rank correlations. The last weights are taken, so that every line had the same training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

ROOT = Path(__file__).resolve().parents[1]
ROWS, FRESH = 2_000, 6_000
SMALL = {"hidden": (128,), "critic_hidden": (128, 128), "noise": 16, "batch_size": 256, "select": "last"}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "warm start alone": {"iterations": 1, "critic_warmup": 0},
    "R1 gamma 5": {"r1": 5.0},
    "sigmoid reward": {"reward": "sigmoid"},
    "REINFORCE": {"objective": "reinforce"},
    "GAN": {"objective": "gan"},
    "no value head": {"value_head": False},
    "no entropy": {"entropy_weight": 0.0, "entropy_weight_end": 0.0},
    "from margins": {"warm": "margins"},
    "states of N(0, I)": {"states": "standard"},
    "the same, KL weight 1": {"states": "standard", "warm_beta": 1.0},
    "dependence: ar2": {"dependence": "ar2"},
    "dependence: noise": {"dependence": "noise"},
    "paper_aireadi": {"preset": "paper_aireadi"},
}


def main() -> None:
    """One line a variant, as soon as it is done."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "generators")]
    from generator_tables import mixed_cohort

    from pipeline.generators.rlsyn import RLSyn

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--only", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS))
    given = parser.parse_args()
    train, fresh = mixed_cohort(ROWS), mixed_cohort(FRESH, seed=5)
    print(f"| variant | C2ST | correlation RMSE | invalid rows | CPU s |\n|{' --- |' * 5}")
    for name in given.only:
        began = process_time()
        model = RLSyn({**SMALL, "iterations": given.iterations, **VARIANTS[name]})
        report = model.fit(train, seed=1, device="cpu")
        took, drawn = process_time() - began, model.sample(FRESH, seed=3)
        gap = _ranks(_cells(drawn)) - _ranks(_cells(fresh))
        figures = f"{_told_apart(drawn, fresh):.3f} | {np.sqrt(np.mean(gap**2)):.3f}"
        print(f"| {name} | {figures} | {report.health['invalid_rows']:.1%} | {took:.0f} |", flush=True)


def _cells(cohort: Cohort) -> NDArray[np.float64]:
    columns = cohort.schema.modelled()
    return np.stack([cohort.codes(c.name) if c.discrete else cohort.values(c.name) for c in columns], axis=1).astype(
        float
    )


def _told_apart(drawn: Cohort, fresh: Cohort) -> float:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import cross_val_score

    rows, labels = np.vstack([_cells(drawn), _cells(fresh)]), np.r_[np.ones(FRESH), np.zeros(FRESH)]
    model = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    return float(cross_val_score(model, rows, labels, cv=3, scoring="roc_auc").mean())


def _ranks(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank correlations, missing numbers at their column's mean; constant columns left out."""
    filled = np.where(np.isnan(cells), np.nanmean(cells, axis=0), cells)
    varied = filled[:, filled.std(axis=0) > 0]
    return np.corrcoef(varied.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable").T)


if __name__ == "__main__":
    main()
