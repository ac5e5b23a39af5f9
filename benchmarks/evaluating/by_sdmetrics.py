"""A figure by SDMetrics, in its own environment: `python by_sdmetrics.py FOLDER FIGURE` prints JSON.

SDMetrics is called through its public API only. Nothing of CohortLoom is imported here. The folder holds the rows as CSV
and asked.json: columns of levels ("levels"), the label, what an attacker knows, and the secret.
"""

from __future__ import annotations

import json
import sys
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from own_process import PARTS, tell
from sdmetrics import column_pairs, single_column, single_table
from sdmetrics.reports.single_table import QualityReport

warnings.filterwarnings("ignore")


class Judge:
    """The rows, and what is asked of them.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.train, self.holdout, self.made = (pd.read_csv(folder / f"{part}.csv") for part in PARTS)
        asked = json.loads((folder / "asked.json").read_text())
        self.levels, self.label = asked["levels"], asked["label"]
        self.known, self.secret = asked["known"], asked["secret"]
        self.numbers = [c for c in self.train if c not in self.levels]
        kinds = {c: {"sdtype": "categorical" if c in self.levels else "numerical"} for c in self.train}
        self.metadata = {"columns": kinds}

    def by_column(self, metric: Any, columns: list[str], real: pd.DataFrame) -> float:
        """Mean over columns."""
        return float(np.mean([metric.compute(real[c], self.made[c]) for c in columns]))

    def by_pair(self, metric: Any, columns: list[str], **options: Any) -> np.ndarray:
        """The figure of each pair of columns, against the holdout."""
        pairs = [list(pair) for pair in combinations(columns, 2)]
        return np.array([metric.compute(self.holdout[p], self.made[p], **options) for p in pairs])

    def contingency_of_numbers(self) -> float:
        """Mean over pairs of numbers, in SDMetrics' bins."""
        metric = column_pairs.ContingencySimilarity
        pairs = [list(pair) for pair in combinations(self.numbers, 2)]
        return float(np.mean([metric.compute(self.holdout[p], self.made[p], continuous_column_names=p) for p in pairs]))

    def of_pairs(self, metric: Any, columns: list[str]) -> float:
        """Mean over pairs, against the training rows."""
        pairs = [list(pair) for pair in combinations(columns, 2)]
        return float(np.mean([metric.compute(self.train[p], self.made[p]) for p in pairs]))

    def quality(self) -> float:
        """The Quality Report's score."""
        report = QualityReport()
        report.generate(self.train, self.made, self.metadata, verbose=False)
        return report.get_score()

    def rmse(self, **options: Any) -> float:
        """1 - |difference| / 2 of each pair of numbers, as the root mean square of the differences."""
        found = self.by_pair(column_pairs.CorrelationSimilarity, self.numbers, **options)
        return float(np.sqrt(np.mean((2 * (1 - found)) ** 2)))

    def whole(self, metric: Any, **options: Any) -> float:
        """A metric of training and synthetic rows."""
        return metric.compute(self.train, self.made, metadata=self.metadata, **options)

    def protection(self, metric: Any, **options: Any) -> float:
        """A CAP figure: all columns are levels to it."""
        columns = [*self.known, self.secret]
        described = {"columns": {c: self.metadata["columns"][c] for c in columns}}
        return metric.compute(
            self.train[columns], self.made[columns], metadata=described, key_fields=self.known,
            sensitive_fields=[self.secret],
        )  # fmt: skip

    def distances(self, metric: Any, **options: Any) -> float:
        """A distance figure's score."""
        metadata = {"tables": {"rows": self.metadata}}
        return metric.compute_breakdown(synthetic_data=self.made, metadata=metadata, table_name="rows", **options)[
            "score"
        ]

    def figure(self, name: str) -> float:
        """The figure called `name`."""
        numbers = {"columns": {c: self.metadata["columns"][c] for c in self.numbers}}
        calls = {
            "ks": lambda: self.by_column(single_column.KSComplement, self.numbers, self.holdout),
            "tv": lambda: self.by_column(single_column.TVComplement, self.levels, self.holdout),
            "chi-squared": lambda: self.by_column(single_column.CSTest, self.levels, self.train),
            "pearson": lambda: self.rmse(coefficient="Pearson"),
            "spearman": lambda: self.rmse(coefficient="Spearman"),
            "contingency": lambda: float(self.by_pair(column_pairs.ContingencySimilarity, self.levels).mean()),
            "contingency of numbers": self.contingency_of_numbers,
            "continuous kl": lambda: self.of_pairs(column_pairs.ContinuousKLDivergence, self.numbers),
            "discrete kl": lambda: self.of_pairs(column_pairs.DiscreteKLDivergence, self.levels),
            "quality": self.quality,
            "logistic detection": lambda: self.whole(single_table.LogisticDetection),
            "svc detection": lambda: self.whole(single_table.SVCDetection),
            "mixture": lambda: single_table.GMLogLikelihood.compute(
                self.train[self.numbers], self.made[self.numbers], metadata=numbers
            ),
            "copies": lambda: 1 - self.whole(single_table.NewRowSynthesis, numerical_match_tolerance=0.0),
            "dcr overfitting": lambda: self.distances(
                single_table.DCROverfittingProtection,
                real_training_data=self.train,
                real_validation_data=self.holdout,
            ),
            "dcr baseline": lambda: self.distances(single_table.DCRBaselineProtection, real_data=self.train),
            "cap": lambda: self.protection(single_table.CategoricalCAP),
            "zero cap": lambda: self.protection(single_table.CategoricalZeroCAP),
            "generalised cap": lambda: self.protection(single_table.CategoricalGeneralizedCAP),
            "disclosure": lambda: single_table.DisclosureProtection.compute(
                self.train, self.made, known_column_names=self.known, sensitive_column_names=[self.secret]
            ),
            "f1": lambda: single_table.BinaryLogisticRegression.compute(
                self.holdout, self.made, metadata=self.metadata, target=self.label
            ),
        }
        return calls[name]()


if __name__ == "__main__":
    judge = Judge(Path(sys.argv[1]))
    tell(lambda: judge.figure(sys.argv[2]))
