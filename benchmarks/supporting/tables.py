"""Other clinical tables through their shipped cohorts, split by subject, and the membership attack on them.

For figures that must hold beyond SUPPORT: how a table is made is the pipeline's own way (delivery, SQL, columns), then
70/30 at random by subject; the schema is told from the 70 %.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from supporting.rows import TRAIN_SHARE, data_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort
    from pipeline.features.schema import TableSchema
    from pipeline.features.spec import ColumnSpec

FILES = {
    "support": "support",
    "support2": "support2",
    "diabetes130": "diabetes-130",
    "adult": "uci-adult",
    "compas": "compas",
    "heart": "uci-heart",
    "mimic3_icu": "mimic-iii-demo-1.4",
}
"""Cohorts and the folders of their files."""
STUDIES = {
    "gbsg": ("gbsg_cancer_train_test.h5", 7),
    "whas": ("whas_train_test.h5", 6),
}
"""Survival studies without a cohort of their own: file in `survival-deepsurv`, number of covariates."""
EDGES = (0.005, 0.995)
TINY = 1e-9


@dataclass(frozen=True)
class Table:
    """A cohort's rows as its SQL gives them, with what is needed to tell a schema from some of them.

    Attributes:
        cohort: All rows.
        columns: What is declared of columns, by name.
        unit: What a row is.
        label: The column that models of these rows predict; None if the table has none.
    """

    cohort: Cohort
    columns: Mapping[str, ColumnSpec]
    unit: str
    label: str | None = None

    def split(self, seed: int, most_rows: int) -> tuple[Cohort, Cohort]:
        """Training part and holdout: the subjects at random, no more than about `most_rows` rows together."""
        from pipeline.features.cohort import Cohort
        from pipeline.features.infer import conform, infer_schema

        rng = np.random.default_rng(seed)
        people, whose = np.unique(self.cohort.subject, return_inverse=True)
        place = rng.permutation(len(people)) / len(people)
        share = min(1.0, most_rows / self.cohort.n_rows)
        kept = np.flatnonzero(place[whose] < share)
        rows, subject = self.cohort.table.take(kept), self.cohort.subject[kept]
        train = place[whose][kept] < TRAIN_SHARE * share
        schema = infer_schema(rows, train, self.columns, self.unit)
        table = conform(rows, schema)
        first, second = (Cohort(table=table.filter(m), schema=schema, subject=subject[m]) for m in (train, ~train))
        return first, second


def read_table(name: str) -> Table:
    """The shipped cohort `name`, made from the real data in a home of its own, or one of the `STUDIES`."""
    if name in STUDIES:
        return _study(name)
    from pipeline.features.spec import BUILT_IN_COHORTS, load_book
    from pipeline.features.split import ENVIRONMENT, PUBLISHED_KEY
    from pipeline.features.stored import read_features
    from pipeline.ingest.delivery import hand_over
    from pipeline.store.home import Home
    from pipeline.store.lake import Lake
    from pipeline.workflow.cell import Cell
    from pipeline.workflow.compute import Compute
    from pipeline.workflow.deliveries import take_in
    from pipeline.workflow.features import features_step, gather_step

    os.environ[ENVIRONMENT] = PUBLISHED_KEY.decode()
    with tempfile.TemporaryDirectory() as folder:
        book, home, compute = load_book([BUILT_IN_COHORTS]), Home(Path(folder)).ensure(), Compute()
        lake, cell = Lake(home), Cell.of(book, name, "2026-10-01")
        handed = hand_over(home, cell.source.name, data_folder() / FILES[name], as_of=date(2026, 10, 31))
        take_in(lake, handed, cell.source, cell.source.format, compute)
        gather_step(lake, cell)
        version, _ = features_step(lake, cell, compute)
        spec = cell.spec
        return Table(
            read_features(lake.tables, version), spec.columns, spec.unit, spec.tasks[0].label if spec.tasks else None
        )


def _study(name: str) -> Table:
    """A survival study of DeepSurv: its covariates, the time and the event; its own two parts together."""
    import h5py
    import pyarrow as pa

    from pipeline.features.cohort import Cohort
    from pipeline.features.infer import conform, infer_schema

    file, width = STUDIES[name]
    with h5py.File(data_folder() / "survival-deepsurv" / file) as stored:
        parts = [stored[part] for part in ("train", "test")]
        covariates = np.concatenate([np.asarray(part["x"]) for part in parts]).astype(np.float64)
        time = np.concatenate([np.asarray(part["t"]) for part in parts]).astype(np.float64)
        event = np.concatenate([np.asarray(part["e"]) for part in parts]).astype(np.int64)
    columns = {f"x{k}": np.round(covariates[:, k], 6) for k in range(width)}
    table = pa.table({**columns, "time": np.round(time, 6), "event": event})
    # The parts are two studies one after the other; figures take the first rows of a table for any.
    table = table.take(np.random.default_rng(0).permutation(table.num_rows))
    schema = infer_schema(table)
    subject = np.array([str(k) for k in range(table.num_rows)])
    return Table(Cohort(table=conform(table, schema), schema=schema, subject=subject), {}, "row", "event")


def membership(train: Cohort, holdout: Cohort, synthetic: Cohort) -> float:
    """AUC of the distance attack of `quality.py` (k=1, with reference rows) on a table of any columns; null 0.5.

    Half of the holdout are the others, half the reference, then the other way round; the mean of both.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import NearestNeighbors

    encode = _Encoder(train)
    drawn = NearestNeighbors(n_neighbors=1).fit(encode(synthetic))
    rng = np.random.default_rng(1)
    # By subject: a patient's second encounter among the reference rows would be near the first one.
    people, whose = np.unique(holdout.subject, return_inverse=True)
    first = rng.permutation(len(people))[whose] < len(people) / 2
    members = encode(train.take(rng.permutation(train.n_rows)[: holdout.n_rows // 2]))
    halves = [encode(holdout.take(part)) for part in (first, ~first)]

    def score(people: NDArray[np.float32], reference: NearestNeighbors) -> NDArray[np.float64]:
        near, far = (x.kneighbors(people)[0][:, 0].astype(float) for x in (drawn, reference))
        return np.log(far + TINY) - np.log(near + TINY)

    found = []
    for others, beside in (halves, halves[::-1]):
        reference = NearestNeighbors(n_neighbors=1).fit(beside)
        scores = np.r_[score(members, reference), score(others, reference)]
        found.append(float(roc_auc_score(np.r_[np.ones(len(members)), np.zeros(len(others))], scores)))
    return float(np.mean(found))


class _Encoder:
    """Numbers by their range without the outermost half per cent, missing in the middle; levels as indicators."""

    def __init__(self, train: Cohort) -> None:
        self.schema: TableSchema = train.schema
        self.ends: dict[str, tuple[float, float]] = {}
        for column in self.schema.modelled():
            if not column.discrete:
                values = train.values(column.name)
                seen = values[~np.isnan(values)]
                low, high = np.quantile(seen, EDGES) if len(seen) else (0.0, 1.0)
                self.ends[column.name] = (float(low), float(max(high - low, TINY)))

    def __call__(self, rows: Cohort) -> NDArray[np.float32]:
        parts: list[NDArray[np.float32]] = []
        for column in self.schema.modelled():
            if column.discrete:
                hot = rows.codes(column.name)[:, None] == np.arange(-1, len(column.levels or []))
                parts.append((hot / np.sqrt(2)).astype(np.float32))
                continue
            low, width = self.ends[column.name]
            place = np.nan_to_num(np.clip((rows.values(column.name) - low) / width, 0, 1), nan=0.5)
            parts.append(place[:, None].astype(np.float32))
        return np.hstack(parts)


def frame_of(cohort: Cohort) -> pd.DataFrame:
    """Levels as positions and numbers as they are, for models that tell rows apart."""
    import pandas as pd

    return pd.DataFrame(
        {c.name: cohort.codes(c.name) if c.discrete else cohort.values(c.name) for c in cohort.schema.modelled()}
    )


def detection(holdout: Cohort, synthetic: Cohort) -> float:
    """AUC of boosted trees telling synthetic from holdout rows, three folds; a missing number is a missing number."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    n = min(holdout.n_rows, synthetic.n_rows)
    rows = np.vstack([frame_of(x).to_numpy(dtype=float)[:n] for x in (synthetic, holdout)])
    labels = np.r_[np.ones(n), np.zeros(n)]
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    model = HistGradientBoostingClassifier(random_state=0)
    return float(cross_val_score(model, rows, labels, cv=folds, scoring="roc_auc").mean())
