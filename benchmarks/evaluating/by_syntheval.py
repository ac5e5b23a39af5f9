"""A figure by syntheval, in its own environment: `python by_syntheval.py FOLDER FIGURE` prints JSON.

syntheval is called through its public API only. Nothing of CohortLoom is imported here. The folder holds the rows as CSV
and asked.json: columns of levels ("levels"), the label, and the group.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from own_process import PARTS, tell
from syntheval import AnalysisConfig, SynthEval

warnings.filterwarnings("ignore")


class Judge:
    """The rows, and what is asked of them.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.train, self.holdout, self.made = (pd.read_csv(folder / f"{part}.csv") for part in PARTS)
        asked = json.loads((folder / "asked.json").read_text())
        self.levels, self.label, self.group = asked["levels"], asked["label"], asked["group"]
        self.numbers = [c for c in self.train if c not in self.levels]

    def against(
        self, real: pd.DataFrame, other: pd.DataFrame | None, name: str, distance: str = "gower", target: Any = None, **options: Any
    ) -> dict[str, Any]:  # fmt: skip
        """The raw result of one metric of the synthetic rows against `real`, with `other` as its holdout."""
        judge = SynthEval(
            real,
            holdout_dataframe=other,
            cat_cols=[c for c in self.levels if c in real],
            nn_distance=distance,
            verbose=False,
            enable_plots=False,
            console="off",
            show_warnings=False,
        )
        judge.evaluate(self.made[list(real)], target or (self.label if self.label in real else None), **{name: options})
        return judge._raw_results[name]

    def fidelity(self, name: str, **options: Any) -> dict[str, Any]:
        """Against the holdout."""
        return self.against(self.holdout, None, name, **options)

    def privacy(self, name: str, **options: Any) -> dict[str, Any]:
        """Against the training rows, with the holdout."""
        return self.against(self.train, self.holdout, name, **options)

    def per_pair(self, norm: float, columns: int) -> float:
        """A Frobenius norm over a matrix of columns as the root mean square of its off-diagonal cells."""
        return norm / (columns * (columns - 1)) ** 0.5

    def figure(self, name: str) -> float:
        """The figure called `name`."""
        wide = len(self.train.columns)
        numbers = self.holdout[self.numbers]
        group = AnalysisConfig(dataset=self.train, target_vars=self.label, sensitive_vars=[self.group])
        calls = {
            "ks": lambda: 1 - self.fidelity("ks_test")["avg ks"],
            "tv": lambda: 1 - self.fidelity("ks_test")["avg tvd"],
            "pearson": lambda: self.per_pair(
                self.against(numbers, None, "corr_diff", mixed_corr=False)["corr_mat_diff"], len(self.numbers)
            ),
            "association": lambda: self.per_pair(self.fidelity("corr_diff")["corr_mat_diff"], wide),
            "mutual information": lambda: self.per_pair(self.fidelity("mi_diff")["mutual_inf_diff"], wide),
            "divergence": lambda: self.fidelity("h_dist")["avg"],
            "interval overlap": lambda: self.fidelity("cio", ci="sem")["avg overlap"],
            "propensity": lambda: self.fidelity("p_mse")["avg pMSE"],
            "mmd": lambda: self.fidelity("mmd")["u_mmd"],
            "nnaa": lambda: self.privacy("nnaa")["priv_loss"],
            "nnaa of training": lambda: self.privacy("nnaa")["avg"],
            "nndr": lambda: self.privacy("nndr")["priv_loss"],
            "closest record": lambda: self.privacy("dcr")["mDCR"],
            "hitting rate": lambda: self.privacy("hit_rate")["hit rate"],
            "identifiability": lambda: self.privacy("eps_risk")["priv_loss"],
            "membership": lambda: self.privacy("mia")["MIA macro F1"],
            "attribute": lambda: self.privacy("att_discl", target=group)["Attr Dis accuracy"],
            "utility gap": lambda: self.privacy("auroc_diff")["auroc_diff"],
            "top features": lambda: self.privacy("fio")["fio_top_50%"],
        }
        return calls[name]()


if __name__ == "__main__":
    judge = Judge(Path(sys.argv[1]))
    tell(lambda: judge.figure(sys.argv[2]))
