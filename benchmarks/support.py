"""Generators on the SUPPORT table: detection, correlations, utility and membership inference, mean of several seeds.

Run: `.venv/bin/python benchmarks/support.py [--seeds 5] [--generators gaussian_copula,vae] [--set vae.beta=0.7]`.
The split is the published one (train 50 %, holdout 25 %, reference 12.5 % + 12.5 %); generators see train only, every
figure is taken against the holdout. Settings were chosen on inner splits of train, never on the holdout.
The evaluation proper is `pipeline/evaluation/`; this script is the short way to the acceptance figures.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.features.cohort import Cohort

LABEL = "event"
# The acceptance figures' reading of the columns; everything else is inferred from the training rows.
CATEGORICAL = ("race", "cancer")


def load_support() -> Cohort:
    """The SUPPORT table with the published split."""
    from pipeline.features.cohort import Cohort
    from pipeline.features.infer import conform, infer_schema
    from pipeline.features.spec import ColumnSpec
    from pipeline.features.split import PUBLISHED_KEY, assign, row_subjects
    from pipeline.features.tables import read_table

    root = Path(__file__).resolve().parents[1]
    data = Path(os.environ.get("COHORTLOOM_DATA") or root.parent / "shared" / "data")
    table = read_table(data / "support" / "support.csv.gz")
    subject = row_subjects(table)
    split, tune = assign(subject, PUBLISHED_KEY)
    schema = infer_schema(table, split == "train", {c: ColumnSpec(kind="categorical") for c in CATEGORICAL})
    return Cohort(table=conform(table, schema), schema=schema, subject=subject, split=split, tune=tune)


def matrix(cohort: Cohort) -> NDArray[np.float64]:
    """(n, columns) numbers; level positions for discrete columns, NaN where missing."""
    columns = [
        np.where(cohort.missing(c.name), np.nan, cohort.codes(c.name)) if c.discrete else cohort.values(c.name)
        for c in cohort.schema.modelled()
    ]
    return np.column_stack(columns)


def detection_auc(synthetic: Cohort, holdout: Cohort, seed: int) -> float:
    """Boosted trees that tell synthetic rows from holdout rows: pooled out-of-fold AUC, equal sizes, 5 folds."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    n = min(synthetic.n_rows, holdout.n_rows)
    rows = np.vstack([matrix(synthetic)[:n], matrix(holdout)[:n]])
    label = np.r_[np.ones(n), np.zeros(n)]
    model = HistGradientBoostingClassifier(
        max_iter=200,
        early_stopping=True,
        random_state=seed,
        categorical_features=[c.kind == "categorical" for c in holdout.schema.modelled()],
    )
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    chance = cross_val_predict(model, rows, label, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(label, chance))


def correlation_rmse(synthetic: Cohort, holdout: Cohort) -> float:
    """Root mean squared difference of Pearson correlations over pairs of numeric and binary columns."""
    at = [i for i, c in enumerate(holdout.schema.modelled()) if c.numeric or c.kind == "binary"]
    a, b = (np.corrcoef(matrix(x)[:, at].T) for x in (synthetic, holdout))
    upper = np.triu_indices(len(at), 1)
    return float(np.sqrt(np.mean((a[upper] - b[upper]) ** 2)))


def tstr_auc(synthetic: Cohort, holdout: Cohort, leak: tuple[str, ...] = ()) -> float:
    """AUC on the holdout of boosted trees trained on synthetic rows to predict death."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    names = [c.name for c in holdout.schema.modelled()]
    features = [i for i, name in enumerate(names) if name != LABEL and name not in leak]
    s, h, y = matrix(synthetic), matrix(holdout), names.index(LABEL)
    model = HistGradientBoostingClassifier(random_state=0).fit(s[:, features], s[:, y])
    return float(roc_auc_score(h[:, y], model.predict_proba(h[:, features])[:, 1]))


def membership(synthetic: Cohort, train: Cohort, holdout: Cohort, reference: Cohort) -> tuple[float, float]:
    """Nearest-neighbour membership inference: AUC, and true positives at 1 % false positives; null .5 and .01.

    Score of a record: log distance to the nearest reference row less log distance to the nearest synthetic row.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import NearestNeighbors

    t = matrix(train)
    centre, spread = t.mean(axis=0), t.std(axis=0)

    def near(query: Cohort, pool: Cohort) -> NDArray[np.float64]:
        scaled = [(matrix(x) - centre) / spread for x in (query, pool)]
        return np.log(NearestNeighbors(n_neighbors=1).fit(scaled[1]).kneighbors(scaled[0])[0][:, 0] + 1e-9)

    n = min(train.n_rows, holdout.n_rows)
    asked = [x.take(np.arange(n)) for x in (train, holdout)]
    score = np.concatenate([near(x, reference) - near(x, synthetic) for x in asked])
    member = np.r_[np.ones(n), np.zeros(n)]
    threshold = np.quantile(score[n:], 0.99)
    return float(roc_auc_score(member, score)), float((score[:n] > threshold).mean())


def interval(values: list[float]) -> str:
    """Mean and 95 % t-interval."""
    from scipy.stats import t

    x = np.array(values)
    if len(x) < 2:
        return f"{x.mean():.4f}"
    half = t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5
    return f"{x.mean():.4f} [{x.mean() - half:.4f}, {x.mean() + half:.4f}]"


def measure(name: str, settings: dict[str, Any], cohort: Cohort, seeds: int, device: str) -> dict[str, list[float]]:
    """All figures of one generator, one entry a seed."""
    from pipeline.generators.registry import generator_class

    train, holdout = cohort.part("train"), cohort.part("holdout")
    reference = cohort.part("reference0", "reference1")
    out: dict[str, list[float]] = {}
    for seed in range(seeds):
        model = generator_class(name)(settings)
        began = perf_counter()
        report = model.fit(train, seed=seed, device=device)
        fitted = perf_counter()
        synthetic = model.sample(train.n_rows, seed=seed)
        sampled = perf_counter()
        auc, at_one_percent = membership(synthetic, train, holdout, reference)
        figures = {
            "detection AUC": detection_auc(synthetic, holdout, seed),
            "correlation RMSE": correlation_rmse(synthetic, holdout),
            "TSTR AUC": tstr_auc(synthetic, holdout),
            "TSTR AUC, duration left out": tstr_auc(synthetic, holdout, ("duration",)),
            "membership AUC": auc,
            "membership TPR at 1 % FPR": at_one_percent,
            "exact copies": report.health["duplicate_share"],
            "fit seconds": fitted - began,
            "sample seconds": sampled - fitted,
        }
        for key, value in figures.items():
            out.setdefault(key, []).append(value)
    return out


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--generators", default="independent,gaussian_copula,vae")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="GENERATOR.FIELD=JSON")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cohort = load_support()
    train, holdout = cohort.part("train"), cohort.part("holdout")
    print(f"SUPPORT: train {train.n_rows}, holdout {holdout.n_rows}, columns {len(cohort.schema.columns)}")
    grids = {c.name: c.resolution.kind for c in cohort.schema.columns if c.resolution is not None}
    print("grids:", ", ".join(f"{k} {v}" for k, v in grids.items()))
    print(
        f"{'real train rows':>16}: detection AUC {detection_auc(train, holdout, 0):.4f}, correlation RMSE "
        f"{correlation_rmse(train, holdout):.4f}, TRTR AUC {tstr_auc(train, holdout):.4f} "
        f"(duration left out {tstr_auc(train, holdout, ('duration',)):.4f})"
    )
    for name in given.generators.split(","):
        settings: dict[str, Any] = {}
        for item in given.set:
            field, _, value = item.partition("=")
            owner, _, key = field.partition(".")
            if owner == name:
                settings[key] = json.loads(value)
        print(f"{name} {settings or ''}, {given.seeds} seeds: mean [95 % t-interval]")
        for key, values in measure(name, settings, cohort, given.seeds, given.device).items():
            print(f"  {key:28s} {interval(values)}", flush=True)


if __name__ == "__main__":
    main()
