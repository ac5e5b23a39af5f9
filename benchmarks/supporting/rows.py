"""SUPPORT split 70/30 at random with seed 0: the rows that every generator of the benchmark learns and is judged by.

Repeated and random splits exist in benchmarks only; the pipeline's own split is by hash of the subject.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.spec import CohortSpec

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
TRAIN_SHARE = 0.7
SPLIT_SEED = 0
CATEGORICAL = ("sex", "race", "diabetes", "dementia", "cancer")
NUMERIC = (
    "age", "num_comorbidities", "mean_bp", "heart_rate", "resp_rate", "temperature", "sodium", "wbc", "creatinine",
    "duration", "event",
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """The two parts: `train` is what a generator gets, `holdout` what its rows are judged by; plain frames beside."""

    train: Cohort
    holdout: Cohort

    @property
    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Both parts as plain frames (`plain`)."""
        return plain(self.train), plain(self.holdout)


def data_folder() -> Path:
    """Where the real data lie: COHORTLOOM_DATA, or beside the checkout."""
    return Path(os.environ.get("COHORTLOOM_DATA") or ROOT.parent / "shared" / "data")


def support_spec() -> CohortSpec:
    """The shipped cohort `support`."""
    from pipeline.features.spec import load_book

    return load_book().cohort("support")


def split_support() -> Split:
    """SUPPORT through the cohort's own SQL, 70/30; the schema is told from the training rows as in a run."""
    spec = support_spec()
    rows = _query(spec)
    order = np.random.default_rng(SPLIT_SEED).permutation(rows.num_rows)
    train = np.zeros(rows.num_rows, dtype=bool)
    train[order[: round(TRAIN_SHARE * rows.num_rows)]] = True
    return Split(*_cohorts(spec, rows, train))


def _query(spec: CohortSpec) -> pa.Table:
    import duckdb

    source = data_folder() / "support" / "support.csv.gz"
    connection = duckdb.connect()
    try:
        connection.execute(f"CREATE VIEW support AS SELECT * FROM read_csv('{source}')")
        return connection.sql(spec.sql_file.read_text(encoding="utf-8")).to_arrow_table()
    finally:
        connection.close()


def _cohorts(spec: CohortSpec, rows: pa.Table, train: NDArray[np.bool_]) -> tuple[Cohort, Cohort]:
    from pipeline.features.cohort import Cohort
    from pipeline.features.infer import conform, infer_schema

    schema = infer_schema(rows, train, spec.columns, spec.unit)
    table = conform(rows, schema)
    subject = np.array([str(i) for i in range(rows.num_rows)])
    learned, held = (Cohort(table=table.filter(mask), schema=schema, subject=subject[mask]) for mask in (train, ~train))
    return learned, held


def plain(cohort: Cohort) -> pd.DataFrame:
    """Rows as every peer takes them: text for categorical columns, numbers for the others, `event` as 0 and 1."""
    frame = cohort.table.to_pandas()
    for name in CATEGORICAL:
        frame[name] = frame[name].astype(str)
    for name in NUMERIC:
        frame[name] = frame[name].astype(float)
    frame["event"] = frame["event"].astype(int)
    return frame[[*NUMERIC[:1], *CATEGORICAL, *NUMERIC[1:]]]
