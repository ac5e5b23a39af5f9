"""Tables 1 and 2 of the VAE framework paper (Kondapally) on Synthea patients, and the same with our default.

    .venv/bin/python benchmarks/vae_framework.py [--seeds 3] [--rows 10000]

The rows are the cohort `synthea` from the R4 bundles in COHORTLOOM_DATA (made-up patients), all of them, delivered and
built as in a run; as in the paper a model is judged against the rows that it learned from. Table 1: error of
reconstruction (squared, of numbers scaled to 0..1 and one-hot levels, mean over columns), KL (nats a row), Jensen-Shannon
divergence (base 2, 20 bins, mean over columns). Table 2: mean and standard deviation of each feature, levels as 0 and 1;
"protection alone" is the ratio that replacing the five most extreme patients of a column leaves, whatever is learned.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline.features.cohort import Cohort

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PUBLISHED = {
    "exp1": (0.048, 0.015, 0.120), "exp2": (0.032, 0.018, 0.098), "exp3": (0.030, 0.022, 0.095),
    "exp4": (0.029, 0.031, 0.090),
}  # fmt: skip
MONTH = "2026-10-01"
FEWEST = 0.05
"""Levels that fewer rows have are left out of Table 2: their spread is that of a handful of people."""


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000, help="synthetic rows a model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cohort = load_synthea(Path(folder))
    print(f"synthea: {cohort.n_rows} patients, {len(cohort.schema.modelled())} columns; {given.seeds} seeds")
    print("\n| configuration | reconstruction | KL | JSD | published (reconstruction, KL, JSD) |")
    print("| --- | --- | --- | --- | --- |")
    drawn: dict[str, Cohort] = {}
    for preset in (*PUBLISHED, "default"):
        found = []
        for seed in range(given.seeds):
            figures, synthetic = judged(cohort, preset, seed, given.rows)
            found.append(figures)
            drawn.setdefault(preset, synthetic)
        mean = np.mean(found, axis=0)
        printed = ", ".join(f"{x:.3f}" for x in PUBLISHED[preset]) if preset in PUBLISHED else ""
        print(f"| `{preset}` | {mean[0]:.3f} | {mean[1]:.3f} | {mean[2]:.3f} | {printed} |", flush=True)
    real, published, ours = (features(c) for c in (cohort, drawn["exp2"], drawn["default"]))
    print("\n| feature | real mean, sd | `exp2` mean, sd (ratio) | `default` mean, sd (ratio) | protection alone |")
    print("| --- | --- | --- | --- | --- |")
    alone = protection(cohort)
    ratios: dict[str, list[float]] = {"exp2": [], "default": []}
    for name, (mean_, sd) in real.items():
        if not sd or ("=" in name and not FEWEST <= mean_ <= 1 - FEWEST):
            continue
        cells = []
        for key, table in (("exp2", published), ("default", ours)):
            ratios[key].append(table[name][1] / sd)
            cells.append(f"{table[name][0]:.3f}, {table[name][1]:.3f} ({ratios[key][-1]:.2f})")
        print(f"| {name} | {mean_:.3f}, {sd:.3f} | {' | '.join(cells)} | {alone.get(name, '')} |")
    for key, values in ratios.items():
        print(f"sd ratio of `{key}`: {min(values):.3f} to {max(values):.3f}, median {np.median(values):.3f}")


def load_synthea(folder: Path) -> Cohort:
    """The cohort `synthea` as `cohortloom deliver` and `run` make it, in a home of its own."""
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
    data = Path(os.environ.get("COHORTLOOM_DATA") or ROOT.parent / "shared" / "data")
    home, compute = Home(folder).ensure(), Compute()
    lake, cell = Lake(home), Cell.of(load_book([BUILT_IN_COHORTS]), "synthea", MONTH)
    handed = hand_over(home, cell.source.name, data / "synthea-r4-smart" / "bundles", as_of=date(2026, 10, 5))
    take_in(lake, handed, cell.source, cell.source.format, compute)
    gather_step(lake, cell)
    version, _ = features_step(lake, cell, compute)
    return read_features(lake.tables, version)


def judged(cohort: Cohort, preset: str, seed: int, rows: int) -> tuple[tuple[float, float, float], Cohort]:
    """Reconstruction, KL and JSD of one training, and what it drew."""
    from pipeline.evaluation.context import Parts
    from pipeline.evaluation.plan import EvaluationPlan
    from pipeline.evaluation.protocol import headline, run_evaluation
    from pipeline.generators.vae import VAE

    model = VAE({"preset": preset})
    report = model.fit(cohort, seed=seed, device="cpu")
    real, again = scaled(cohort, cohort), scaled(model.reconstruct(cohort, seed=seed), cohort)
    error = np.mean([np.mean((real[k] - again[k]) ** 2) for k in real])
    synthetic = model.sample(rows, seed=seed)
    results = run_evaluation(
        Parts.of_two(cohort, cohort), [synthetic], EvaluationPlan(profile="full"), metrics=["lit.vae.jsd"]
    ).results
    jsd = headline(results, "lit.vae.jsd")
    assert jsd is not None
    assert jsd.value is not None
    return (float(error), report.health["kl"], jsd.value), synthetic


def scaled(cohort: Cohort, real: Cohort) -> dict[str, Any]:
    """Columns as the published model sees them: numbers in 0..1 (missing as 0), levels one-hot."""
    out: dict[str, Any] = {}
    for column in cohort.schema.modelled():
        if column.discrete:
            for k in range(len(column.levels or [])):
                out[f"{column.name}={k}"] = (cohort.codes(column.name) == k).astype(float)
        else:
            values = real.values(column.name)
            low, high = np.nanmin(values), np.nanmax(values)
            out[column.name] = np.nan_to_num((cohort.values(column.name) - low) / max(high - low, 1e-9))
    return out


def protection(cohort: Cohort) -> dict[str, str]:
    """Ratio of standard deviations that is left of each number when its extremes are replaced, and nothing else is done."""
    from pipeline.encoding.encoder import EncodingSettings, TableEncoder

    encoder = TableEncoder.fit(cohort, EncodingSettings())
    places = (np.arange(20_000) + 0.5) / 20_000
    return {
        name: f"{np.std(number.scaler.from_uniform(places)) / np.nanstd(cohort.values(name)):.2f}"
        for name, number in encoder.numbers.items()
    }


def features(cohort: Cohort) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of every number, and of every level that a twentieth of the rows have as 0 and 1."""
    out: dict[str, tuple[float, float]] = {}
    for column in cohort.schema.modelled():
        if not column.discrete:
            values = cohort.values(column.name)
            out[column.name] = (float(np.nanmean(values)), float(np.nanstd(values)))
            continue
        for k, level in enumerate(column.levels or []):
            flag = (cohort.codes(column.name) == k).astype(float)
            out[f"{column.name} = {level}"] = (float(flag.mean()), float(flag.std()))
    return out


if __name__ == "__main__":
    main()
